/*
 * tools/remount.c: end the daemon of a mount as a crash would, and mount the image again.
 *
 * Invariant  a process gets a signal only through a descriptor of it that was taken before the
 *            last look at whether it holds the image: its number may be another's by now.
 */
#include "tools/remount.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs/mount.h"
#include "kv/base.h"
#include "tools/options.h"

#define COMMAND_LINE_MAX 65536u
#define ARGUMENTS_MAX    1024
#define DEATH_TIMEOUT_MS 60000

static int say(int err, struct kv_error *error, const char *what)
{
    snprintf(error->text, sizeof error->text, "%.300s: %s", what, tool_error_text(err));
    return err;
}

/* ---- how it was mounted ----------------------------------------------------------------- */

/* The arguments of a process, each ended by a zero byte, in `text`. Returns the bytes. */
static ssize_t read_command_line(pid_t pid, char text[COMMAND_LINE_MAX])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t length = 0;
    ssize_t got;
    do {
        got = read(fd, text + length, COMMAND_LINE_MAX - 1 - length);
        length += got > 0 ? (size_t)got : 0;
    } while (got > 0);
    const int err = got < 0 ? -errno : 0;
    close(fd);
    text[length] = '\0';
    return err ? err : (ssize_t)length;
}

static int add_options(struct tool_remount *remount, const char *more)
{
    char *longer;
    if (asprintf(&longer, "%s%s%s", remount->options ? remount->options : "",
                 remount->options ? "," : "", more) < 0)
        return -ENOMEM;
    free(remount->options);
    remount->options = longer;
    return 0;
}

/* What mount.kvfs was given; its image and directory are known better from the mount table. */
static int parse_command_line(char *text, size_t length, struct tool_remount *remount)
{
    static const struct option long_options[] = {
        {"foreground", no_argument, NULL, 'f'},
        {"config", required_argument, NULL, 'c'},
        {0},
    };
    char *argv[ARGUMENTS_MAX + 1];
    int argc = 0;
    for (char *word = text; word < text + length && argc < ARGUMENTS_MAX; word += strlen(word) + 1)
        argv[argc++] = word;
    argv[argc] = NULL;

    int err = 0;
    const int said = opterr;
    opterr = 0; /* mount.kvfs has complained when it was called */
    optind = 0; /* start anew, also the state that getopt keeps to itself */
    for (int letter;
         !err && (letter = getopt_long(argc, argv, "fc:o:hVsnvt:N:", long_options, NULL)) != -1;) {
        if (letter == 'o')
            err = add_options(remount, optarg);
        else if (letter == 'c' && (size_t)snprintf(remount->config, sizeof remount->config, "%s",
                                                   optarg) >= sizeof remount->config)
            err = -ENAMETOOLONG;
        else if (letter == '?')
            err = -EINVAL;
    }
    opterr = said;
    return err;
}

/*
 * Is a process ours through and through? Whoever mounts says himself which image it is that he
 * serves, so it may be any process that has that one locked; and its program is run with our
 * rights. All its users count: one that became root by its program was started by somebody else.
 */
static int check_user(pid_t pid, struct kv_error *error)
{
    char path[64], line[256];
    unsigned users[4];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return say(-errno, error, path);
    while (!found && fgets(line, sizeof line, file))
        found = sscanf(line, "Uid: %u %u %u %u", &users[0], &users[1], &users[2], &users[3]) == 4;
    (void)fclose(file); /* only read */
    for (unsigned i = 0; found && i < 4; i++)
        found = users[i] == geteuid();
    if (found)
        return 0;
    snprintf(error->text, sizeof error->text,
             "process %d, which has the image open, is not run by user %u; kill only what you have "
             "mounted yourself",
             (int)pid, (unsigned)geteuid());
    return -EPERM;
}

static int find_program(struct tool_remount *remount, struct kv_error *error)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/exe", (int)remount->daemon);
    const ssize_t length = readlink(path, remount->program, sizeof remount->program - 1);
    if (length < 0)
        return say(-errno, error, path);
    remount->program[length] = '\0';
    if (access(remount->program, X_OK) == 0)
        return 0;
    snprintf(error->text, sizeof error->text,
             "%.200s: the program of process %d is there no longer; unmount, and mount with the "
             "new one",
             remount->program, (int)remount->daemon);
    return -ENOENT;
}

int tool_remount_learn(const struct tool_mount *mount, struct tool_remount *remount,
                       struct kv_error *error)
{
    *remount = (struct tool_remount){.mount = *mount, .daemon = kv_image_holder(mount->source)};
    if (remount->daemon <= 0) {
        snprintf(error->text, sizeof error->text,
                 "%.200s: no process that can be seen from here serves it", mount->dir);
        return -ESRCH;
    }
    if (kill(remount->daemon, 0)) {
        snprintf(error->text, sizeof error->text, "%.200s: its daemon, process %d: %s", mount->dir,
                 (int)remount->daemon, tool_error_text(errno));
        return -errno;
    }
    int err = check_user(remount->daemon, error);
    if (!err)
        err = find_program(remount, error);
    if (err)
        return err;

    char *text = malloc(COMMAND_LINE_MAX);
    if (!text)
        return say(-ENOMEM, error, mount->dir);
    const ssize_t length = read_command_line(remount->daemon, text);
    err = length < 0 ? (int)length : parse_command_line(text, (size_t)length, remount);
    free(text);
    if (err == -EINVAL) {
        snprintf(
            error->text, sizeof error->text,
            "%.200s: the command line of process %d has options that are not known here; mount "
            "it with this mount.kvfs",
            mount->dir, (int)remount->daemon);
    } else if (err) {
        (void)say(err, error, mount->dir); /* the same error */
    } else if (*remount->config && *remount->config != '/') {
        snprintf(error->text, sizeof error->text,
                 "%.200s: was mounted with -c %.200s, which says not where that is; mount it with "
                 "the whole path",
                 mount->dir, remount->config);
        err = -EINVAL;
    }
    if (err)
        tool_remount_release(remount);
    return err;
}

void tool_remount_release(struct tool_remount *remount)
{
    free(remount->options);
    remount->options = NULL;
}

int tool_remount_settings(const struct tool_mount *mount, char settings[TOOL_REMOUNT_SETTINGS])
{
    char control[NAME_MAX + 1], path[PATH_MAX + NAME_MAX + 16];
    const ssize_t length = getxattr(mount->dir, FS_XATTR_CONTROL, control, sizeof control - 1);
    if (length <= 0)
        return length < 0 ? -errno : -ENOENT;
    control[length] = '\0';
    snprintf(path, sizeof path, "%s/%s/config", mount->dir, control);
    FILE *file = fopen(path, "re");
    if (!file)
        return -errno;
    settings[fread(settings, 1, TOOL_REMOUNT_SETTINGS - 1, file)] = '\0';
    const int err = ferror(file) ? -EIO : 0;
    (void)fclose(file); /* only read */
    return err;
}

bool tool_remount_has(const char *settings, const char *line)
{
    const size_t length = strlen(line);
    for (const char *at = settings; *at; at += strcspn(at, "\n"), at += *at == '\n')
        if (strcspn(at, "\n") == length && memcmp(at, line, length) == 0)
            return true;
    return false;
}

/* ---- its end ------------------------------------------------------------------------------ */

int tool_remount_kill(struct tool_remount *remount, struct kv_error *error)
{
    char what[64];
    snprintf(what, sizeof what, "process %d", (int)remount->daemon);
    const int fd = (int)syscall(SYS_pidfd_open, remount->daemon, 0);
    if (fd < 0)
        return say(-errno, error, what);
    int err = 0;
    struct pollfd death = {.fd = fd, .events = POLLIN};
    if (kv_image_holder(remount->mount.source) != remount->daemon)
        err = -ESRCH;
    else if (syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0))
        err = -errno;
    else {
        int ready;
        do
            ready = poll(&death, 1, DEATH_TIMEOUT_MS);
        while (ready < 0 && errno == EINTR);
        if (ready <= 0)
            err = ready < 0 ? -errno : -ETIMEDOUT;
    }
    close(fd);
    return err ? say(err, error, what) : 0;
}

/* ---- and once more --------------------------------------------------------------------------- */

/*
 * Run a program and wait for its end, in a process group of its own, since Ctrl-C at a terminal is
 * for us. Returns its exit status, or a negative errno.
 */
static int run(const char *const argv[])
{
    posix_spawnattr_t attributes;
    int err = posix_spawnattr_init(&attributes);
    if (err)
        return -err;
    pid_t child = 0;
    err = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    if (!err)
        err = posix_spawnp(&child, argv[0], NULL, &attributes, (char *const *)argv, environ);
    (void)posix_spawnattr_destroy(&attributes); /* it was made */
    if (err)
        return -err;
    int how = 0;
    while (waitpid(child, &how, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
}

/* Auto_unmount may do the same at the same time: what counts is that it is gone. */
static int detach_dead(const char *dir)
{
    if (!tool_is_mount_point(dir))
        return 0;
    int err = 0;
    if (geteuid() == 0) {
        err = umount2(dir, MNT_DETACH | UMOUNT_NOFOLLOW) ? -errno : 0;
    } else {
        const char *const argv[] = {"fusermount3", "-u", "-z", "--", dir, NULL};
        const int status = run(argv);
        err = status < 0 ? status : status ? -EPERM : 0;
    }
    return tool_is_mount_point(dir) ? (err ? err : -EBUSY) : 0;
}

/* Until a daemon that was killed has let go of the image: its last I/O may be under way. */
static void await_release(const char *image)
{
    enum { PAUSES_MAX = 6000 };
    const struct timespec pause = {.tv_nsec = 10000000};
    for (int pauses = 0; kv_image_holder(image) != 0 && pauses < PAUSES_MAX; pauses++)
        (void)nanosleep(&pause, NULL); /* a shorter pause does no harm */
}

int tool_remount_again(struct tool_remount *remount, struct kv_error *error)
{
    const struct tool_mount *mount = &remount->mount;
    int err = detach_dead(mount->dir);
    if (err)
        return say(err, error, mount->dir);
    await_release(mount->source);

    const char *argv[8] = {remount->program, mount->source, mount->dir};
    unsigned count = 3;
    if (*remount->config) {
        argv[count++] = "-c";
        argv[count++] = remount->config;
    }
    if (remount->options) {
        argv[count++] = "-o";
        argv[count++] = remount->options;
    }
    const int status = run(argv);
    if (status) {
        snprintf(error->text, sizeof error->text, "%.200s: could not be mounted again: %s",
                 mount->source, status < 0 ? tool_error_text(status) : "mount.kvfs says above why");
        return status < 0 ? status : -EIO;
    }
    remount->daemon = kv_image_holder(mount->source);
    if (remount->daemon <= 0) {
        snprintf(error->text, sizeof error->text, "%.200s: no process serves it", mount->dir);
        return -ESRCH;
    }
    return 0;
}
