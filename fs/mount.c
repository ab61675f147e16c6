/*
 * fs/mount.c: a mounted image from open to close.
 *
 * Owns       the store, the volume, the session with libfuse, the transport.
 * Lifetime   store, volume, session, kernel mount, transport; released in reverse. The mount
 *            goes away before the volume closes, so no request meets a closing volume.
 * Signals    blocked in all threads of a mount and read from a descriptor while serving, so
 *            that none interrupts I/O and nothing runs in a handler.
 */
#define FUSE_USE_VERSION 314

#include "fs/mount.h"

#include <fcntl.h>
#include <fuse_log.h>
#include <fuse_lowlevel.h>
#include <fuse_opt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/auto_unmount.h"
#include "fs/confine.h"
#include "fs/control.h"
#include "fs/expirer.h"
#include "fs/fuse_ops.h"
#include "fs/mount_point.h"
#include "fs/read_ahead.h"
#include "fs/streams.h"
#include "fs/transport.h"

struct fs_mount {
    struct kv_store *store;
    struct fs_fuse fuse;
    struct fuse_session *session;
    struct fs_transport *transport;
    struct fs_auto_unmount *helper;   /* NULL: not wanted */
    struct fs_read_ahead *read_ahead; /* NULL: the kernel's default */
    char dir[PATH_MAX];
    bool mounted;                      /* ... on `dir`, and nobody is known to have unmounted it */
    struct fs_mount_identity identity; /* of the mount */
    bool count_requests;
    bool confine, seccomp;
    struct fs_health *health;
    struct fs_prefetch *prefetch;
    struct fs_streams *streams;
    struct fs_notifier *notifier;
    struct fs_control_apply *apply;
    struct fs_settings *settings;
    _Atomic unsigned log_level; /* enum fs_log_level */
    kv_log_fn *log;             /* where filter_log sends on to */
    void *log_context;
    void (*ready)(void *context);
    void (*stopping)(void *context);
    void *state_context;
    bool masked; /* old_mask is to be restored */
    unsigned threads;
    int stop_fd; /* written by fs_mount_stop */
    sigset_t old_mask;
};

/*
 * libfuse reports why it refuses options or a mount only through a log function without
 * context. While one thread opens a mount, what it is told goes to that thread's error text.
 */
static __thread struct kv_error *captured_error;

static void capture_log(enum fuse_log_level level, const char *format, va_list args)
{
    (void)level;
    if (!captured_error) {
        (void)vfprintf(stderr, format, args);
        return;
    }
    /* One message may come in several pieces. */
    const size_t used = strcspn(captured_error->text, "\n");
    (void)vsnprintf(captured_error->text + used, sizeof captured_error->text - used, format, args);
}

static int fail(struct kv_error *error, int err, const char *format, ...) KV_PRINTF(3, 4);

static int fail(struct kv_error *error, int err, const char *format, ...)
{
    if (error) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(error->text, sizeof error->text, format, args);
        va_end(args);
    }
    return err;
}

/* The log of everything in a mount: what is important enough goes on to where it was asked for. */
static void filter_log(void *context, enum kv_log_level level, const char *line)
{
    static const enum kv_log_level least[] = {[FS_LOG_DEBUG] = KV_LOG_DEBUG,
                                              [FS_LOG_INFO] = KV_LOG_INFO,
                                              [FS_LOG_WARNING] = KV_LOG_WARNING,
                                              [FS_LOG_ERROR] = KV_LOG_ERROR};
    struct fs_mount *mount = context;
    const unsigned wanted = atomic_load_explicit(&mount->log_level, memory_order_relaxed);
    if (level > least[wanted <= FS_LOG_ERROR ? wanted : FS_LOG_DEBUG])
        return;
    if (mount->log)
        mount->log(mount->log_context, level, line);
    else if (level <= KV_LOG_WARNING)
        fprintf(stderr, "kvfs: %s\n", line);
}

static void mount_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGUSR1);
    sigaddset(set, SIGPIPE);
    sigaddset(set, SIGXFSZ); /* a write says EFBIG, which is no reason to end */
}

static int check_directory(const struct fs_mount_options *options, struct fs_mount *mount,
                           struct kv_error *error)
{
    struct stat stat_buf;
    if (!realpath(options->dir, mount->dir))
        return fail(error, -errno, "%s: %s; make the directory first", options->dir,
                    strerror(errno));
    if (stat(mount->dir, &stat_buf) < 0)
        return fail(error, -errno, "%s: %s", options->dir, strerror(errno));
    if (!S_ISDIR(stat_buf.st_mode))
        return fail(error, -ENOTDIR, "%s is not a directory; mount at a directory", options->dir);
    if (access("/dev/fuse", F_OK) < 0)
        return fail(error, -ENODEV, "/dev/fuse is not there; load the fuse module (modprobe fuse)");
    return 0;
}

/* What watches the mount, and the directory that shows it. */
static int open_control(const struct fs_mount_options *options, struct fs_mount *mount,
                        struct kv_error *reason)
{
    struct fs_fuse *fuse = &mount->fuse;
    int err = fs_counters_init(&fuse->counters, options->metrics);
    if (err)
        return err;
    mount->health =
        fs_health_new(fuse->volume, &fuse->counters, options->read_only, &options->alerts);
    mount->prefetch = fuse->prefetch = fs_prefetch_new(fuse->volume);
    mount->streams = fuse->streams = fs_streams_new(fuse->volume);
    if (!mount->health || !mount->prefetch || !mount->streams)
        return -ENOMEM;
    if (strcmp(options->control, FS_CONTROL_NONE) == 0)
        return 0;
    const struct fs_settings_parts settings_parts = {.volume = fuse->volume,
                                                     .counters = &fuse->counters,
                                                     .health = mount->health,
                                                     .log_level = &mount->log_level};
    mount->settings = fs_settings_new(options, &settings_parts);
    mount->notifier = fs_notifier_new(fuse->volume);
    mount->apply = mount->notifier ? fs_control_apply_new(fuse->volume, mount->notifier) : NULL;
    if (!mount->settings || !mount->apply)
        return -ENOMEM;
    const struct fs_control_parts parts = {.volume = fuse->volume,
                                           .counters = &fuse->counters,
                                           .health = mount->health,
                                           .prefetch = mount->prefetch,
                                           .settings = mount->settings,
                                           .apply = mount->apply,
                                           .name = options->control,
                                           .read_only = options->read_only,
                                           .owner = fuse->owner,
                                           .group = (uint32_t)getegid()};
    err = fs_control_new(&parts, &fuse->control, reason);
    fuse->protocol.control = fuse->control;
    return err;
}

static int open_volume(const struct fs_mount_options *options, struct fs_mount *mount,
                       struct kv_error *error)
{
    const struct kv_open_options open_options = {
        .read_only = options->read_only,
        .sync = options->sync,
        .memory_budget_bytes = options->memory_budget_bytes,
        .commit_interval_ms = options->commit_interval_ms,
        .checkpoint_interval_ms = options->checkpoint_interval_ms,
        .log_buffer_bytes = options->log_buffer_bytes,
        .touch_ahead_bytes = options->touch_ahead_bytes,
        .tiers = options->tiers,
        .fixed_tiers = !options->adapt_tiers,
        .blob_percent = options->extent_percent,
        .retain_percent = options->pin_percent,
        .buffered_io = options->buffered_io,
        .no_background = true, /* see fs_mount_serve */
        .metrics = options->metrics,
        .log = filter_log,
        .log_context = mount,
    };
    int err = kv_open(options->image, &open_options, &mount->store, error);
    if (err)
        return err;
    const struct fs_volume_options volume_options = {
        .read_only = options->read_only,
        .log = filter_log,
        .log_context = mount,
        .keeps_setgid = fs_fuse_keeps_setgid,
        .kills_privileges = fs_fuse_kills_privileges,
        .is_owner = fs_fuse_is_owner,
        .policies = options->policies,
    };
    struct kv_error reason = {.text = ""};
    err = fs_volume_open(mount->store, &volume_options, &mount->fuse.volume, &reason);
    if (err)
        return fail(error, err, "%s: %s", options->image, reason.text);
    mount->fuse.scrub = fs_scrub_new(mount->fuse.volume);
    if (!mount->fuse.scrub)
        return fail(error, -ENOMEM, "%s: not enough memory", options->image);
    mount->fuse.writeback = options->writeback;
    mount->fuse.without_acl = options->acl == FS_ACL_OFF;
    mount->fuse.read_ahead_bytes = options->read_ahead_bytes;
    mount->fuse.read_only = options->read_only;
    mount->fuse.owner = (uint32_t)geteuid();
    fs_protocol_init(&mount->fuse.protocol, mount->fuse.volume, &mount->fuse.counters);
    err = open_control(options, mount, &reason);
    if (err)
        return fail(error, err, "%s: %s", options->image,
                    reason.text[0] ? reason.text : strerror(-err));
    return 0;
}

/*
 * Generic options that mean nothing here, since the kernel keeps no access times of a FUSE
 * filesystem; libfuse does not know them, but fstab may well have them.
 */
static bool is_without_meaning(const char *option, size_t length)
{
    static const char *const names[] = {
        "relatime", "norelatime", "strictatime", "nostrictatime",
        "diratime", "nodiratime", "lazytime",    "nolazytime",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strlen(names[i]) == length && strncmp(names[i], option, length) == 0)
            return true;
    }
    return false;
}

/* Add the generic options to the session's, as far as libfuse knows them. */
static int add_generic(char **text, const char *options)
{
    for (const char *option = options; *option;) {
        const size_t length = strcspn(option, ",");
        char *copy = strndup(option, length);
        if (!copy)
            return -ENOMEM;
        int err = 0;
        if (length && !is_without_meaning(option, length))
            err = fuse_opt_add_opt(text, copy);
        free(copy);
        if (err)
            return -ENOMEM;
        option += length + (option[length] == ',');
    }
    return 0;
}

/* The option string of the session; *text is the caller's to free, also after an error. */
static int build_options(const struct fs_mount_options *options, char **text)
{
    char image[PATH_MAX];
    if (!realpath(options->image, image))
        return -errno;
    char *source = NULL;
    if (asprintf(&source, "fsname=%s", image) < 0)
        return -ENOMEM;
    /* In the name of an image a comma or backslash is no separator: it is escaped. */
    int err = fuse_opt_add_opt_escaped(text, source);
    free(source);
    if (!err)
        err = fuse_opt_add_opt(text, "subtype=kvfs,default_permissions");
    if (!err && geteuid() == 0) /* as for any filesystem root mounts; "extra" may say no */
        err = fuse_opt_add_opt(text, "dev,suid");
    if (!err && options->allow_other)
        err = fuse_opt_add_opt(text, "allow_other");
    if (!err && options->extra)
        err = add_generic(text, options->extra);
    if (!err && options->read_only)
        err = fuse_opt_add_opt(text, "ro");
    return err ? -ENOMEM : 0;
}

static int open_session(const struct fs_mount_options *options, struct fs_mount *mount,
                        struct kv_error *error)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    struct kv_error reason = {.text = ""};
    char *text = NULL;
    int err = build_options(options, &text);
    if (!err && (fuse_opt_add_arg(&args, "kvfs") || fuse_opt_add_arg(&args, "-o") ||
                 fuse_opt_add_arg(&args, text)))
        err = -ENOMEM;
    if (err) {
        fail(error, err, "%s: %s", options->image, strerror(-err));
        goto out;
    }
    fuse_set_log_func(capture_log);
    captured_error = &reason;
    mount->session = fuse_session_new(&args, &fs_fuse_ops, sizeof fs_fuse_ops, &mount->fuse);
    if (!mount->session) {
        reason.text[strcspn(reason.text, "\n")] = '\0';
        err = fail(error, -EINVAL, "mount options \"%s\": %s", options->extra ? options->extra : "",
                   reason.text[0] ? reason.text : "not understood");
        goto out;
    }
    if (fuse_session_mount(mount->session, mount->dir) != 0) {
        reason.text[strcspn(reason.text, "\n")] = '\0';
        err = fail(error, errno == EPERM ? -EPERM : -EIO, "%s could not be mounted: %s", mount->dir,
                   reason.text[0] ? reason.text : "no reason was given");
        goto out;
    }
    err = fs_mount_identify(mount->dir, &mount->identity);
    if (err) { /* it can be told from no other later on: away with it now */
        fuse_session_unmount(mount->session);
        fail(error, err, "%s: %s", mount->dir, strerror(-err));
        goto out;
    }
    mount->mounted = true;
    mount->read_ahead = fs_read_ahead_new(mount->dir, options->read_ahead_bytes, filter_log, mount);
    if (mount->helper) {
        err = fs_auto_unmount_tell(mount->helper, mount->dir, &mount->identity);
        if (err) {
            fail(error, err, "no process to unmount %s after a crash: %s", mount->dir,
                 strerror(-err));
            goto out;
        }
    }
    const struct fs_transport_hooks hooks =
        fs_protocol_hooks(&mount->fuse.protocol, filter_log, mount);
    struct kv_error words = {.text = ""};
    err = fs_transport_open(mount->session, options->transport, mount->threads, &hooks,
                            &mount->transport, &words);
    if (err)
        fail(error, err, "%s: %s", mount->dir, words.text);
    else
        atomic_store_explicit(&mount->fuse.counters.threads, fs_transport_threads(mount->transport),
                              memory_order_relaxed);
out:
    captured_error = NULL;
    free(text);
    fuse_opt_free_args(&args);
    return err;
}

int fs_mount_open(const struct fs_mount_options *options, struct fs_mount **out,
                  struct kv_error *error)
{
    struct fs_mount *mount = calloc(1, sizeof *mount);
    if (!mount)
        return fail(error, -ENOMEM, "%s: not enough memory", options->image);
    mount->count_requests = options->count_requests;
    mount->confine = options->confine;
    mount->seccomp = options->seccomp;
    mount->log = options->log;
    atomic_init(&mount->log_level, options->log_level);
    mount->log_context = options->log_context;
    mount->ready = options->ready;
    mount->stopping = options->stopping;
    mount->state_context = options->state_context;
    mount->threads = options->threads;
    mount->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int err = mount->stop_fd < 0 ? fail(error, -errno, "eventfd: %s", strerror(errno)) : 0;
    if (!err)
        err = check_directory(options, mount, error);
    if (!err && options->auto_unmount) {
        err = fs_auto_unmount_open(mount->dir, &mount->helper);
        if (err)
            fail(error, err, "no process to unmount %s after a crash: %s", options->dir,
                 strerror(-err));
    }
    if (!err) {
        sigset_t set; /* before the store starts threads, which inherit it */
        mount_signals(&set);
        mount->masked = pthread_sigmask(SIG_BLOCK, &set, &mount->old_mask) == 0;
        err = open_volume(options, mount, error);
    }
    if (!err)
        err = open_session(options, mount, error);
    if (err) {
        const int close_err = fs_mount_close(mount);
        (void)close_err; /* the first error is the one to report */
        return err;
    }
    *out = mount;
    return 0;
}

void fs_mount_stop(struct fs_mount *mount)
{
    const uint64_t one = 1;
    const ssize_t written = write(mount->stop_fd, &one, sizeof one);
    (void)written; /* full means that it was told already */
}

static void log_requests(struct fs_mount *mount)
{
    char text[2048];
    (void)fs_counters_json(&mount->fuse.counters, text, sizeof text);
    fs_volume_log(mount->fuse.volume, KV_LOG_INFO, "requests: %s", text);
}

/* Has the kernel ended the session? Then libfuse has nothing to unmount, only to forget. */
static bool session_is_over(const struct fs_mount *mount)
{
    struct pollfd device = {.fd = mount->session ? fuse_session_fd(mount->session) : -1};
    return device.fd >= 0 && poll(&device, 1, 0) == 1 && (device.revents & POLLERR);
}

/* Is our mount still on its directory? 0; -ENODEV no; or why that can not be said. */
static int find_mount(const struct fs_mount *mount)
{
    /* One that is gone has left the number of its device to whoever mounts next. */
    if (!mount->mounted || (!mount->identity.mount_id && session_is_over(mount)))
        return -ENODEV;
    return fs_mount_find(mount->dir, &mount->identity);
}

/*
 * Take the mount out of the directory tree while requests are answered. What that fails for is
 * seen once more in fs_mount_close.
 */
static void detach(struct fs_mount *mount)
{
    if (find_mount(mount) == 0 && fs_mount_detach(mount->dir, &mount->identity) == 0)
        mount->mounted = false;
}

/* Wait for the end: the kernel unmounts, a signal, fs_mount_stop. True: we are to unmount. */
static bool wait_for_end(struct fs_mount *mount, int signal_fd)
{
    struct pollfd fds[] = {
        {.fd = fs_transport_done_fd(mount->transport), .events = POLLIN},
        {.fd = mount->stop_fd, .events = POLLIN},
        {.fd = signal_fd, .events = POLLIN},
    };
    for (;;) {
        if (poll(fds, 3, -1) < 0)
            continue; /* EINTR; what else it may say is about our own arguments */
        if (fds[0].revents)
            return false;
        if (fds[1].revents)
            return true;
        struct signalfd_siginfo info;
        if (!fds[2].revents || read(signal_fd, &info, sizeof info) != sizeof info)
            continue;
        if (info.ssi_signo == SIGUSR1)
            log_requests(mount);
        else if (info.ssi_signo != SIGPIPE && info.ssi_signo != SIGXFSZ)
            return true;
    }
}

/*
 * The kernel may hold a name that has expired: as an entry that it was given before the file had
 * its time, or in a listing.
 */
static void name_expired(void *context, uint64_t directory, const char *name, size_t name_len)
{
    const struct fs_mount *const mount = context;
    const int err = fuse_lowlevel_notify_inval_entry(mount->session, directory, name, name_len);
    if (err == -ENOENT) /* no such entry is held; a listing may be */
        (void)fuse_lowlevel_notify_inval_inode(mount->session, directory, 0, 0);
}

int fs_mount_serve(struct fs_mount *mount)
{
    sigset_t set;
    mount_signals(&set);
    const int signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signal_fd < 0)
        return -errno;
    /* Rights are a thread's own, and threads inherit them: first one, then the others. */
    if (mount->confine)
        fs_confine(mount->dir, mount->seccomp, filter_log, mount);
    struct fs_expirer *expirer = NULL;
    int err = kv_start_background(mount->store);
    if (!err)
        err = fs_health_start(mount->health);
    if (!err && mount->notifier)
        err = fs_notifier_start(mount->notifier, mount->session);
    if (!err)
        err = fs_streams_start(mount->streams);
    if (!err)
        err = fs_transport_start(mount->transport);
    if (err)
        goto out;
    fs_read_ahead_set(mount->read_ahead);
    if (!mount->fuse.read_only) {
        const int expirer_err = fs_expirer_start(mount->fuse.volume, name_expired, mount, &expirer);
        if (expirer_err)
            fs_volume_log(mount->fuse.volume, KV_LOG_WARNING,
                          "no thread to remove what expires (%s): it is out of sight, its space "
                          "is not given back before the next mount",
                          strerror(-expirer_err));
    }
    if (mount->ready)
        mount->ready(mount->state_context);
    const bool asked = wait_for_end(mount, signal_fd);
    if (mount->stopping)
        mount->stopping(mount->state_context);
    err = fs_transport_error(mount->transport);
    if (err) /* else what waits is told in fs_mount_close */
        mount->mounted = fs_mount_abort(mount->dir, &mount->identity) != 0;
    fs_scrub_stop(mount->fuse.scrub, true);
    fs_expirer_stop(expirer); /* while requests are served: it may wait for one in the kernel */
    if (mount->prefetch)
        fs_prefetch_stop(mount->prefetch);
    if (asked && !err) {
        /* With nothing open the kernel ends the session now, after its last forgets. */
        struct pollfd done = {.fd = fs_transport_done_fd(mount->transport), .events = POLLIN};
        detach(mount);
        (void)poll(&done, 1, 1000);
    }
    if (mount->notifier) /* before the workers: one may wait for it */
        fs_notifier_stop(mount->notifier);
    fs_transport_stop(mount->transport);
out:
    if (mount->notifier)
        fs_notifier_stop(mount->notifier);
    fs_streams_stop(mount->streams);
    fs_health_stop(mount->health);
    close(signal_fd);
    return err;
}

/* Those that came during the end asked for what is done now; they must not end the caller. */
static void drop_pending_signals(void)
{
    sigset_t set;
    const struct timespec now = {0};
    mount_signals(&set);
    while (sigtimedwait(&set, NULL, &now) > 0 || errno == EINTR)
        ;
}

/*
 * Unmount if that is still due, and let go of the device: first, since nobody answers any more
 * what the kernel may ask while it unmounts.
 */
static void end_session(struct fs_mount *mount)
{
    char line[2 * PATH_MAX + 128];
    int err = find_mount(mount);
    if (session_is_over(mount) || (!err && geteuid() != 0))
        fuse_session_unmount(mount->session); /* by fusermount3, where it has not ended */
    if (mount->session)
        fuse_session_destroy(mount->session);
    if (!err)
        err = fs_mount_detach(mount->dir, &mount->identity);
    if (!err || err == -ENODEV || err == -ENOENT) {
        fs_auto_unmount_forget(mount->helper);
        return;
    }
    snprintf(line, sizeof line,
             "%s: can not be unmounted: %s; remove the dead mount with: umount %s", mount->dir,
             strerror(-err), mount->dir);
    filter_log(mount, KV_LOG_ERROR, line);
}

int fs_mount_close(struct fs_mount *mount)
{
    int err = 0;
    if (mount->fuse.volume && mount->count_requests)
        log_requests(mount);
    fs_transport_close(mount->transport);
    end_session(mount);
    fs_auto_unmount_close(mount->helper);
    fs_read_ahead_free(mount->read_ahead);
    fs_scrub_free(mount->fuse.scrub);
    fs_control_free(mount->fuse.control);
    fs_control_apply_free(mount->apply);
    fs_notifier_free(mount->notifier);
    fs_settings_free(mount->settings);
    fs_prefetch_free(mount->prefetch);
    fs_streams_free(mount->streams);
    fs_health_free(mount->health);
    fs_counters_release(&mount->fuse.counters);
    fs_volume_close(mount->fuse.volume);
    if (mount->store)
        err = kv_close(mount->store);
    if (mount->stop_fd >= 0)
        close(mount->stop_fd);
    if (mount->masked) {
        drop_pending_signals();
        pthread_sigmask(SIG_SETMASK, &mount->old_mask, NULL);
    }
    free(mount);
    return err;
}
