/*
 * bench/floor/floor.c: what does FUSE cost when the engine costs nothing?
 *
 * bench-floor DIR mounts an empty file system that lives in memory, on the transport of kvfs and
 * telling the kernel what kvfs tells it; --contents has what is in files on the disk instead. It
 * stays in the foreground until it is unmounted or told to end; then all that was in it is gone.
 * Needs root.
 *
 * Lifetime   memory, session, kernel mount, transport; released in reverse.
 */
#define FUSE_USE_VERSION 314

#include <fuse_lowlevel.h>
#include <fuse_opt.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "bench/floor/floor_disk.h"
#include "bench/floor/floor_ops.h"
#include "bench/measure.h"

struct options {
    const char *dir;
    enum fs_transport_kind transport;
    uint64_t memory_bytes;
    const char *contents; /* NULL: in memory */
};

static void print_usage(FILE *out)
{
    fputs(
        "usage: bench-floor [-o transport=auto|ring|dev] [--memory BYTES] [--contents WHERE] DIR\n"
        "  --memory BYTES    taken from the system at the start, with K, M or G (512M)\n"
        "  --contents WHERE  what is written goes to nameless files below that directory, and\n"
        "                    not into memory\n",
        out);
}

static int set_transport(struct options *options, const char *text)
{
    static const struct {
        const char *text;
        enum fs_transport_kind kind;
    } kinds[] = {
        {"transport=auto", FS_TRANSPORT_AUTO},
        {"transport=ring", FS_TRANSPORT_RING},
        {"transport=dev", FS_TRANSPORT_DEVICE},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(text, kinds[i].text) == 0) {
            options->transport = kinds[i].kind;
            return 0;
        }
    }
    return -EINVAL;
}

/* Returns the status to exit with; -1: go on. */
static int parse_options(int argc, char **argv, struct options *options)
{
    static const struct option long_options[] = {
        {"memory", required_argument, NULL, 'm'},
        {"contents", required_argument, NULL, 'c'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int key;
    while ((key = getopt_long(argc, argv, "o:m:c:h", long_options, NULL)) != -1) {
        int err = -EINVAL;
        if (key == 'h') {
            print_usage(stdout);
            return EXIT_SUCCESS;
        }
        if (key == 'o')
            err = set_transport(options, optarg);
        else if (key == 'm')
            err = measure_parse_size(optarg, &options->memory_bytes);
        else if (key == 'c') {
            options->contents = optarg;
            err = 0;
        }
        if (err) {
            print_usage(stderr);
            return 2;
        }
    }
    if (optind != argc - 1) {
        print_usage(stderr);
        return 2;
    }
    options->dir = argv[optind];
    return -1;
}

static int complain(const char *what, int err)
{
    fprintf(stderr, "bench-floor: %s: %s\n", what, strerror(-err));
    return err;
}

/* The same options that kvfs gives when root mounts it. */
static int mount_session(const char *dir, struct floor *floor, struct fuse_session **session)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    int err = -ENOMEM;
    if (!fuse_opt_add_arg(&args, "bench-floor") && !fuse_opt_add_arg(&args, "-o") &&
        !fuse_opt_add_arg(&args, "fsname=floor,subtype=kvfs-floor,default_permissions,dev,suid")) {
        *session = fuse_session_new(&args, &floor_ops, sizeof floor_ops, floor);
        err = *session ? 0 : -EINVAL;
    }
    fuse_opt_free_args(&args);
    if (err)
        return complain("session", err);
    /* libfuse says itself what it does not like about the directory. */
    return fuse_session_mount(*session, dir) ? -EIO : 0;
}

/* Until the kernel ends the session or a signal says so. */
static int serve(const char *dir, struct fs_transport *transport, const sigset_t *signals)
{
    const int signal_fd = signalfd(-1, signals, SFD_CLOEXEC);
    if (signal_fd < 0)
        return complain("signalfd", -errno);
    const int err = fs_transport_start(transport);
    if (err) {
        close(signal_fd);
        return complain("threads", err);
    }
    struct pollfd fds[] = {
        {.fd = fs_transport_done_fd(transport), .events = POLLIN},
        {.fd = signal_fd, .events = POLLIN},
    };
    while (poll(fds, 2, -1) < 0)
        ; /* EINTR; what else it may say is about our own arguments */
    if (fds[1].revents)
        (void)umount2(dir, MNT_DETACH); /* whoever is in it gets errors from now on */
    fs_transport_stop(transport);
    close(signal_fd);
    return 0;
}

int main(int argc, char **argv)
{
    struct options options = {.memory_bytes = 512u << 20};
    const int status = parse_options(argc, argv, &options);
    if (status >= 0)
        return status;

    struct floor floor = {.root = NULL};
    struct fuse_session *session = NULL;
    struct fs_transport *transport = NULL;
    struct kv_error error = {.text = ""};
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* inherited by all threads */

    int err = floor_memory_prepare(options.memory_bytes);
    if (!err)
        err = floor_init(&floor);
    if (err) {
        (void)complain("memory", err);
        return EXIT_FAILURE;
    }
    if (options.contents && (err = floor_disk_prepare(options.contents))) {
        (void)complain(options.contents, err);
        return EXIT_FAILURE;
    }
    err = mount_session(options.dir, &floor, &session);
    if (err)
        goto out;
    const struct fs_transport_hooks hooks = floor_hooks(&floor);
    err = fs_transport_open(session, options.transport, 0, &hooks, &transport, &error);
    if (err) {
        fprintf(stderr, "bench-floor: %s\n", error.text);
        goto out;
    }
    err = serve(options.dir, transport, &signals);
out:
    if (session)
        fuse_session_unmount(session);
    fs_transport_close(transport);
    if (session)
        fuse_session_destroy(session);
    /* The nodes go with the process. */
    return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
