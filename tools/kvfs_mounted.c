/*
 * tools/kvfs_mounted.c: kvfs sync, umount: of what is mounted.
 */
#include "tools/command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs/mount.h"
#include "tools/mounts.h"
#include "tools/options.h"

/* Make everything under a mount durable. Returns 0 or a negative errno. */
static int sync_mount(const struct tool_mount *mount)
{
    return setxattr(mount->dir, FS_XATTR_SYNC, "1", 1, 0) ? -errno : 0;
}

static int run_sync(const struct tool_arguments *arguments)
{
    struct tool_mount mount;
    int err = tool_mount_of_path(arguments->operands[0], &mount);
    if (err == -ENOENT) {
        tool_complain("%s: not in a kvfs mount; give the directory of one", arguments->operands[0]);
        return TOOL_FAILED;
    }
    if (!err && !mount.read_only)
        err = sync_mount(&mount);
    if (!err)
        return TOOL_OK;
    tool_complain("%s: %s%s", arguments->operands[0], tool_error_text(err),
                  err == -EPERM || err == -EACCES ? "; only root and who mounted it may ask"
                  : err == -EIO                   ? "; a write failed, see the log of mount.kvfs"
                                                  : "");
    return TOOL_FAILED;
}

/*
 * The mount that umount is to end, given as its directory or as its image.
 * Returns 0, or complains.
 */
static int find_mount(const char *path, struct tool_mount *mount)
{
    struct stat status;
    char resolved[PATH_MAX];
    const bool is_image = stat(path, &status) == 0 && !S_ISDIR(status.st_mode) &&
                          tool_mount_of_image(path, mount) == 0;
    if (is_image)
        return 0;
    if (tool_mount_of_path(path, mount)) {
        tool_complain("%s: not mounted; findmnt -t fuse.kvfs shows what is", path);
        return -ENOENT;
    }
    /* Of a dead mount even the name can not be resolved; then it matched as it is. */
    if (realpath(path, resolved) && strcmp(resolved, mount->dir) != 0) {
        tool_complain("%s: lies in the mount on %s; give that directory", path, mount->dir);
        return -EINVAL;
    }
    return 0;
}

/* Unmount by the setuid helper, as users who are not root must. Returns 0 or a negative errno. */
static int unmount_by_helper(const char *dir)
{
    const pid_t child = fork();
    if (child < 0)
        return -errno;
    if (child == 0) {
        execlp("fusermount3", "fusermount3", "-u", "--", dir, (char *)NULL);
        tool_complain("fusermount3: %s; install the package fuse3", tool_error_text(errno));
        _exit(127);
    }
    int how = 0;
    while (waitpid(child, &how, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(how) && WEXITSTATUS(how) == 0 ? 0 : -EPERM;
}

/*
 * Take the mount away. One that is busy may be so for a moment only, because somebody, a scrub that
 * asks how far it is, just looks at it: that is waited for.
 */
static int unmount(const char *dir)
{
    enum { TRIES = 50 };
    const struct timespec pause = {.tv_nsec = 20000000};
    for (int tries = 1;; tries++) {
        const int err = geteuid() != 0                       ? unmount_by_helper(dir)
                        : umount2(dir, UMOUNT_NOFOLLOW) == 0 ? 0
                                                             : -errno;
        if (err != -EBUSY || tries == TRIES)
            return err;
        (void)nanosleep(&pause, NULL); /* a shorter pause does no harm */
    }
}

static int run_umount(const struct tool_arguments *arguments)
{
    struct tool_mount mount;
    if (find_mount(arguments->operands[0], &mount))
        return TOOL_FAILED;
    const int holder = kv_image_holder(mount.source);
    if (!mount.read_only)
        (void)!sync_mount(&mount); /* shortens what follows; its failure shows in the end */

    int err = unmount(mount.dir);
    if (err == -EBUSY) {
        tool_complain("%s: busy; end what uses it, fuser -vm %s shows that", mount.dir, mount.dir);
        return TOOL_FAILED;
    }
    if (err) {
        tool_complain("%s: could not be unmounted: %s", mount.dir, tool_error_text(err));
        return TOOL_FAILED;
    }

    tool_await_release(mount.source, holder, 0);
    struct kv_image_info info;
    struct kv_error error = {""};
    err = kv_image_info(mount.source, &info, &error);
    if (err)
        return tool_failed(-EIO, &error);
    if (!info.clean && !mount.read_only && kv_image_holder(mount.source) == 0) {
        tool_complain("%s: unmounted, but %s; the log is replayed at the next mount, the log of "
                      "mount.kvfs says why",
                      mount.source,
                      holder == 0 ? "its daemon was not there any more"
                                  : "the last checkpoint failed");
        return TOOL_FAILED;
    }
    return TOOL_OK;
}

const struct tool_command tool_command_sync = {
    .name = "sync",
    .synopsis = "DIR",
    .help = "Return when everything under the mount is durable.\n"
            "\n"
            "Example: kvfs sync /mnt\n",
    .options = NULL,
    .operands_least = 1,
    .operands_most = 1,
    .run = run_sync,
};

const struct tool_command tool_command_umount = {
    .name = "umount",
    .synopsis = "DIR|IMAGE",
    .help = "Unmount, and return when everything is durable and the image is released.\n"
            "\n"
            "Example: kvfs umount /mnt\n",
    .options = NULL,
    .operands_least = 1,
    .operands_most = 1,
    .run = run_umount,
};
