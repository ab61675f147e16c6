/*
 * fs/auto_unmount.c: a process that outlives the daemon and clears its mount away.
 *
 * Owns       a pipe, of which only the daemon has the end to write to, and the child that reads.
 * Invariant  the child acts when the pipe ends, hence when no thread of the daemon is left; then
 *            what is mounted on the directory is unmounted if it is still the same mount.
 *            It asks nothing of that filesystem, for nobody would answer.
 * Threads    the child is forked before the daemon has others.
 *
 * libfuse's own auto_unmount runs fusermount3, which looks whether the mount is dead when its
 * socket ends. With io_uring the kernel lets go of /dev/fuse some time after that, so it may
 * find a mount that seems alive and leave it; and it makes root's mounts nosuid and nodev.
 */
#include "fs/auto_unmount.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/confine.h"
#include "kv/base.h"

struct fs_auto_unmount {
    int fd; /* the end to write to */
    pid_t child;
};

/* What the child is told; at most PIPE_BUF bytes, so it comes whole. */
struct order {
    struct fs_mount_identity mount;
    char dir[PIPE_BUF - sizeof(struct fs_mount_identity)]; /* "": nothing is to be unmounted */
};

static void unmount(const struct order *order)
{
    if (fs_mount_detach(order->dir, &order->mount) != -EPERM || geteuid() == 0)
        return;
    (void)execlp("fusermount3", "fusermount3", "-u", "-z", "-q", "--", order->dir, (char *)NULL);
}

/* The child: wait for the end of the daemon. Never returns. */
static void run_child(const char *dir, int fd)
{
    static const int ignored[] = {SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGPIPE};
    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
        (void)signal(ignored[i], SIG_IGN);
    /* All that was inherited: who waits for one of these to close must not wait for us. */
    if (dup2(fd, 0) != 0 || syscall(SYS_close_range, 1u, UINT_MAX, 0) || chdir("/"))
        _exit(1);
    fs_confine(dir, false, NULL, NULL);

    struct order order = {.dir = ""}, next;
    ssize_t got;
    while ((got = read(0, &next, sizeof next)) != 0) {
        if (got == (ssize_t)sizeof next)
            order = next;
        else if (got < 0 && errno != EINTR)
            _exit(1);
    }
    if (*order.dir)
        unmount(&order);
    _exit(0);
}

int fs_auto_unmount_open(const char *dir, struct fs_auto_unmount **out)
{
    int fds[2];
    struct fs_auto_unmount *helper = calloc(1, sizeof *helper);
    if (!helper)
        return -ENOMEM;
    if (pipe2(fds, O_CLOEXEC)) {
        const int err = -errno;
        free(helper);
        return err;
    }
    helper->fd = fds[1];
    helper->child = fork();
    if (helper->child == 0)
        run_child(dir, fds[0]);
    const int err = helper->child < 0 ? -errno : 0;
    close(fds[0]);
    if (err) {
        close(fds[1]);
        free(helper);
        return err;
    }
    *out = helper;
    return 0;
}

static int tell(const struct fs_auto_unmount *helper, const struct order *order)
{
    return write(helper->fd, order, sizeof *order) == (ssize_t)sizeof *order ? 0 : -EPIPE;
}

int fs_auto_unmount_tell(struct fs_auto_unmount *helper, const char *dir,
                         const struct fs_mount_identity *mount)
{
    struct order order = {.mount = *mount};
    const size_t length = strlen(dir);
    if (length >= sizeof order.dir)
        return -ENAMETOOLONG;
    memcpy(order.dir, dir, length + 1);
    return tell(helper, &order);
}

void fs_auto_unmount_forget(struct fs_auto_unmount *helper)
{
    const struct order nothing = {.dir = ""};
    if (helper)
        (void)tell(helper, &nothing); /* a child that is gone unmounts nothing either */
}

void fs_auto_unmount_close(struct fs_auto_unmount *helper)
{
    if (!helper)
        return;
    close(helper->fd);
    while (waitpid(helper->child, NULL, 0) < 0 && errno == EINTR)
        ;
    free(helper);
}
