/*
 * tools/mount_kvfs.c: mount.kvfs mounts an image and stays behind as its daemon.
 *
 * The parent checks what can be checked, forks, and waits on a pipe. The child opens the image,
 * mounts it and begins to serve; then it writes one verdict into the pipe. The parent exits with
 * the verdict: so the mount is usable when mount.kvfs returns 0.
 *
 * Invariant  exactly one verdict goes through the pipe, in one write; none: the child died, or
 * could not serve.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/mount.h"
#include "kv/base.h"
#include "tools/config.h"
#include "tools/daemon_log.h"
#include "tools/mounts.h"
#include "tools/notify.h"
#include "tools/options.h"
#include "tools/settings_live.h"

static const char usage[] =
    "usage: mount.kvfs IMAGE DIR [-f] [-c FILE] [-o OPT[,OPT]...]\n"
    "\n"
    "Mount IMAGE, a file or block device made by mkfs.kvfs, on DIR. Returns when DIR is usable.\n"
    "\n"
    "  -f, --foreground   stay in the foreground and log to standard error\n"
    "  -c, --config FILE  read settings from FILE; mount.conf lists all with their defaults\n"
    "  -o OPT[,OPT]...    settings, which win over FILE and over a profile's:\n";

static const char usage_end[] =
    "                     nonempty: also when DIR is not empty\n"
    "                     auto_unmount: leave no dead mount when the daemon dies\n"
    "                     and those of mount(8): rw, noatime, nodev, noexec, nosuid, ...\n"
    "  -h, --help  -V, --version\n"
    "\n"
    "Exit status as of mount(8): 0 mounted, 1 usage or permission, 2 system, 4 internal,\n"
    "8 interrupted, 32 not mounted.\n"
    "\n"
    "Example: mount.kvfs data.img /mnt -o memory_budget=1G,noatime; kvfs umount /mnt\n";

/* What the command line asks for. */
struct request {
    const char *image, *dir, *config;
    char *extra; /* owned: generic options for the kernel, comma-separated */
    char *lists; /* owned: what all -o said, comma-separated; NULL: there was none */
    bool foreground, nonempty, sloppy;
    bool remount;
    bool has_settings;           /* -o named one */
    unsigned long remount_flags; /* of mount(2) */
    struct fs_mount_options options;
};

/* ---- options of mount(8) ---------------------------------------------------- */

/* What becomes of an option that is not in the table of settings. */
enum generic_action { GENERIC_PASS, GENERIC_IGNORE, GENERIC_READ_WRITE, GENERIC_SYNC };

struct generic_option {
    const char *name;
    enum generic_action action;
    unsigned long sets, clears; /* flags of mount(2), for a remount */
};

static const struct generic_option generic_options[] = {
    {"rw", GENERIC_READ_WRITE, 0, 0},
    {"sync", GENERIC_SYNC, 0, 0}, /* alone; sync=MODE is a setting */
    {"dirsync", GENERIC_SYNC, 0, 0},
    {"atime", GENERIC_PASS, 0, MS_NOATIME},
    {"noatime", GENERIC_PASS, MS_NOATIME, 0},
    {"diratime", GENERIC_PASS, 0, MS_NODIRATIME},
    {"nodiratime", GENERIC_PASS, MS_NODIRATIME, 0},
    {"relatime", GENERIC_PASS, MS_RELATIME, 0},
    {"norelatime", GENERIC_PASS, 0, MS_RELATIME},
    {"strictatime", GENERIC_PASS, MS_STRICTATIME, 0},
    {"nostrictatime", GENERIC_PASS, 0, MS_STRICTATIME},
    {"suid", GENERIC_PASS, 0, MS_NOSUID},
    {"nosuid", GENERIC_PASS, MS_NOSUID, 0},
    {"dev", GENERIC_PASS, 0, MS_NODEV},
    {"nodev", GENERIC_PASS, MS_NODEV, 0},
    {"exec", GENERIC_PASS, 0, MS_NOEXEC},
    {"noexec", GENERIC_PASS, MS_NOEXEC, 0},
    {"fsname", GENERIC_PASS, 0, 0},
    {"subtype", GENERIC_PASS, 0, 0},
    /* What the mount table shows of a FUSE mount; mount(8) gives it back for a remount. */
    {"user_id", GENERIC_IGNORE, 0, 0},
    {"group_id", GENERIC_IGNORE, 0, 0},
    {"max_read", GENERIC_IGNORE, 0, 0},
    /* For mount(8), fstab and systemd; nothing is left to do. */
    {"defaults", GENERIC_IGNORE, 0, 0},
    {"default_permissions", GENERIC_IGNORE, 0, 0}, /* always so */
    {"async", GENERIC_IGNORE, 0, 0},
    {"auto", GENERIC_IGNORE, 0, 0},
    {"noauto", GENERIC_IGNORE, 0, 0},
    {"nofail", GENERIC_IGNORE, 0, 0},
    {"_netdev", GENERIC_IGNORE, 0, 0},
    {"user", GENERIC_IGNORE, 0, 0},
    {"nouser", GENERIC_IGNORE, 0, 0},
    {"users", GENERIC_IGNORE, 0, 0},
    {"owner", GENERIC_IGNORE, 0, 0},
    {"group", GENERIC_IGNORE, 0, 0},
    {"silent", GENERIC_IGNORE, 0, 0},
    {"loud", GENERIC_IGNORE, 0, 0},
    {"comment", GENERIC_IGNORE, 0, 0},
};

static const struct generic_option *find_generic(const char *name)
{
    static const struct generic_option ignored = {"x-", GENERIC_IGNORE, 0, 0};
    if (strncasecmp(name, "x-", 2) == 0)
        return &ignored;
    for (size_t i = 0; i < sizeof generic_options / sizeof generic_options[0]; i++)
        if (strcmp(generic_options[i].name, name) == 0)
            return &generic_options[i];
    return NULL;
}

/* Add "name" or "name=value" to what goes to the kernel. */
static int pass_on(const char *name, const char *value, struct request *request)
{
    char *longer;
    if (asprintf(&longer, "%s%s%s%s%s", request->extra ? request->extra : "",
                 request->extra ? "," : "", name, value ? "=" : "", value ? value : "") < 0)
        return -ENOMEM;
    free(request->extra);
    request->extra = longer;
    return 0;
}

/* Apply one option. Returns an exit status of mount(8). */
static int apply_option(const char *name, const char *value, struct request *request)
{
    struct fs_mount_options *options = &request->options;
    if (strcmp(name, "nonempty") == 0) {
        request->nonempty = true;
        return TOOL_MOUNT_OK;
    }
    if (strcmp(name, "auto_unmount") == 0) {
        options->auto_unmount = true;
        return TOOL_MOUNT_OK;
    }
    if (strcmp(name, "remount") == 0) {
        request->remount = true;
        return TOOL_MOUNT_OK;
    }

    const struct generic_option *generic = find_generic(name);
    const bool is_setting = !generic || (value && generic->action == GENERIC_SYNC);
    if (is_setting) {
        request->has_settings = true;
        struct kv_error error = {""};
        const int err = tool_config_set(name, value, options, &error);
        if (!err || (err == -ENOENT && request->sloppy))
            return TOOL_MOUNT_OK;
        if (err == -ENOENT)
            tool_complain("option %s is not known; mount.kvfs --help lists what is", name);
        else
            tool_complain("%s", error.text);
        return TOOL_MOUNT_USAGE;
    }
    request->remount_flags &= ~generic->clears;
    request->remount_flags |= generic->sets;
    switch (generic->action) {
    case GENERIC_READ_WRITE:
        options->read_only = false;
        break;
    case GENERIC_SYNC:
        options->sync = KV_SYNC_ALWAYS;
        break;
    case GENERIC_PASS:
        if (pass_on(name, value, request)) {
            tool_complain("%s", tool_error_text(ENOMEM));
            return TOOL_MOUNT_SYSTEM;
        }
        break;
    case GENERIC_IGNORE:
        break;
    }
    return TOOL_MOUNT_OK;
}

/* Apply a comma-separated list of options; `list` is cut up. */
static int apply_options(char *list, struct request *request)
{
    for (char *rest = list; rest;) {
        char *name = strsep(&rest, ",");
        if (!*name)
            continue;
        char *value = strchr(name, '=');
        if (value)
            *value++ = '\0';
        const int status = apply_option(name, value, request);
        if (status)
            return status;
    }
    return TOOL_MOUNT_OK;
}

/* The value of `profile` in a comma-separated list, to be freed; NULL: it is not there. */
static char *find_profile(const char *list, bool *twice)
{
    static const char name[] = "profile=";
    char *found = NULL;
    *twice = false;
    for (const char *option = list; *option;) {
        const size_t length = strcspn(option, ",");
        if (strncmp(option, name, strlen(name)) == 0) {
            *twice = found != NULL;
            free(found);
            found = strndup(option + strlen(name), length - strlen(name));
        }
        option += length + (option[length] == ',');
    }
    return found;
}

/* A setting's line of the help, which goes on in others where a terminal ends. */
static void print_setting(const struct tool_setting *setting)
{
    const int indent = 21, columns = 100;
    int column = printf("%*s%s=%s:", indent, "", setting->key, setting->default_value);
    for (const char *word = setting->form; *word; word += strspn(word, " ")) {
        const int length = (int)strcspn(word, " ");
        if (column + 1 + length > columns)
            column = printf("\n%*s ", indent, "") - 1;
        column += printf(" %.*s", length, word);
        word += length;
    }
    putchar('\n');
}

static void print_help(void)
{
    fputs(usage, stdout);
    for (size_t i = 0; tool_config_setting(i); i++)
        print_setting(tool_config_setting(i));
    fputs(usage_end, stdout);
}

/*
 * Read the command line, then the profile, the file, the options: later ones win.
 * Returns an exit status, or -1 to go on.
 */
static int parse(int argc, char **argv, struct request *request)
{
    static const struct option long_options[] = {
        {"foreground", no_argument, NULL, 'f'},
        {"config", required_argument, NULL, 'c'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {0},
    };
    char *lists = NULL;   /* what all -o said */
    char *profile = NULL; /* of it */
    int status = -1;
    for (int option; status < 0 && (option = getopt_long(argc, argv, "fc:o:hVsnvt:N:", long_options,
                                                         NULL)) != -1;) {
        char *longer;
        switch (option) {
        case 'f':
            request->foreground = true;
            break;
        case 'c':
            request->config = optarg;
            break;
        case 'o':
            if (asprintf(&longer, "%s,%s", lists ? lists : "", optarg) < 0) {
                tool_complain("%s", tool_error_text(ENOMEM));
                status = TOOL_MOUNT_SYSTEM;
                break;
            }
            free(lists);
            lists = longer;
            break;
        case 'h':
            print_help();
            status = TOOL_MOUNT_OK;
            break;
        case 'V':
            puts("mount.kvfs " KVFS_VERSION);
            status = TOOL_MOUNT_OK;
            break;
        case 's': /* mount(8) -s: tolerate options of other systems */
            request->sloppy = true;
            break;
        case 'n': /* mount(8) -n, -v, -t, -N: nothing to do for them here */
        case 'v':
        case 't':
        case 'N':
            break;
        default: /* getopt_long has complained */
            status = TOOL_MOUNT_USAGE;
        }
    }
    if (status < 0 && argc - optind != 2) {
        tool_complain("give IMAGE and DIR; mount.kvfs --help shows how");
        status = TOOL_MOUNT_USAGE;
    }
    bool twice = false;
    if (status < 0 && lists)
        profile = find_profile(lists, &twice);
    if (twice) {
        tool_complain("option profile is given twice; keep one");
        status = TOOL_MOUNT_USAGE;
    }
    if (status < 0) {
        request->image = argv[optind];
        request->dir = argv[optind + 1];
        struct kv_error error = {""};
        tool_config_start(profile, request->config, &request->options);
        if (request->config && tool_config_read(request->config, &request->options, &error)) {
            tool_complain("%s", error.text);
            status = TOOL_MOUNT_USAGE;
        }
    }
    if (status < 0) {
        struct kv_error error = {""};
        if (tool_config_environment(&request->options, &error)) {
            tool_complain("%s", error.text);
            status = TOOL_MOUNT_USAGE;
        }
    }
    if (status < 0 && lists) {
        request->lists = strdup(lists);
        status = request->lists ? apply_options(lists, request) : TOOL_MOUNT_SYSTEM;
        if (status == TOOL_MOUNT_OK)
            status = -1;
    }
    free(profile);
    free(lists);
    return status;
}

/* ---- checks before the fork --------------------------------------------------- */

static bool is_empty_directory(DIR *dir)
{
    for (const struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            return false;
    return true;
}

static int check_directory(const struct request *request)
{
    DIR *dir = opendir(request->dir);
    if (!dir) {
        const int err = errno;
        const char *remedy = err == ENOENT    ? "; make it with mkdir -p"
                             : err == ENOTDIR ? "; give an empty directory"
                                              : "";
        if (tool_mount_is_dead(err))
            tool_complain("%s: the dead mount of a daemon that is gone lies there; remove it with: "
                          "umount %s",
                          request->dir, request->dir);
        else
            tool_complain("%s: %s%s", request->dir, tool_error_text(err), remedy);
        return err == EACCES ? TOOL_MOUNT_USAGE : TOOL_MOUNT_FAILED;
    }
    const bool is_empty = is_empty_directory(dir);
    (void)closedir(dir); /* only read */
    if (is_empty || request->nonempty)
        return TOOL_MOUNT_OK;
    tool_complain("%s: not empty; choose an empty directory, or give -o nonempty to cover it",
                  request->dir);
    return TOOL_MOUNT_FAILED;
}

static int check_fuse(void)
{
    const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
        return TOOL_MOUNT_OK;
    }
    if (errno == EACCES || errno == EPERM) {
        tool_complain("/dev/fuse: %s; run as root, or have root allow it with chmod 666 /dev/fuse",
                      tool_error_text(errno));
        return TOOL_MOUNT_USAGE;
    }
    tool_complain("/dev/fuse: %s; load the module with: modprobe fuse", tool_error_text(errno));
    return TOOL_MOUNT_SYSTEM;
}

/* ---- remount ------------------------------------------------------------------- */

/* Did its daemon open the image read-only? Then no flag makes the mount writable. */
static bool daemon_is_read_only(const char *dir)
{
    char stats[65536];
    const ssize_t length = getxattr(dir, FS_XATTR_STATS, stats, sizeof stats - 1);
    if (length < 0)
        return false; /* the kernel will have its say */
    stats[length] = '\0';
    return strstr(stats, "\"read_only\": true") != NULL;
}

/*
 * Change the settings of a mount to what the command line has. mount(8) also hands on what fstab
 * has: settings that are as they were are no change.
 */
static int remount_settings(const struct request *request, const char *dir)
{
    struct request wanted = {.sloppy = request->sloppy};
    struct fs_mount_options now;
    struct kv_error error = {""};
    if (!request->has_settings && !request->config)
        return TOOL_MOUNT_OK;
    int err = tool_settings_read(dir, &now, &error);
    if (err == -ENODATA) { /* they may well be what fstab has had all the time */
        tool_complain("%s; only flags like ro and nosuid do", error.text);
        return TOOL_MOUNT_OK;
    }
    int status = TOOL_MOUNT_FAILED;
    char *lists = strdup(request->lists ? request->lists : "");
    if (!err && !lists)
        err = -ENOMEM;
    memcpy(&wanted.options, &now, sizeof now); /* as bytes: they are compared so */
    if (!err && request->config)
        err = tool_config_read(request->config, &wanted.options, &error);
    if (!err && request->config)
        err = tool_settings_compare_policies(dir, wanted.options.policies, &error);
    tool_config_release(&wanted.options); /* as they are: no change */
    if (!err)
        status = apply_options(lists, &wanted);
    if (!err && status == TOOL_MOUNT_OK) {
        /* These two are not the daemon's: the kernel keeps the one, a child waits for the other. */
        wanted.options.read_only = now.read_only;
        wanted.options.auto_unmount = now.auto_unmount;
        err = tool_settings_change(dir, &now, &wanted.options, &error);
        status = err ? TOOL_MOUNT_FAILED : TOOL_MOUNT_OK;
    }
    if (err)
        tool_complain("%s", *error.text ? error.text : tool_error_text(err));
    free(lists);
    free(wanted.extra);
    return status;
}

/* Change the flags of a mount that is there; its daemon goes on. */
static int remount(const struct request *request)
{
    struct tool_mount found;
    const unsigned long flags = MS_REMOUNT | request->remount_flags |
                                (request->options.read_only ? (unsigned long)MS_RDONLY : 0);
    if (tool_mount_of_path(request->dir, &found)) {
        tool_complain("%s: not mounted, so it can not be remounted; leave out -o remount",
                      request->dir);
        return TOOL_MOUNT_FAILED;
    }
    if (!(flags & MS_RDONLY) && daemon_is_read_only(found.dir)) {
        tool_complain("%s: was mounted read-only and can not become writable; unmount it and mount "
                      "it again",
                      found.dir);
        return TOOL_MOUNT_FAILED;
    }
    const int status = remount_settings(request, found.dir);
    if (status)
        return status;
    if (mount(NULL, found.dir, NULL, flags, NULL) == 0)
        return TOOL_MOUNT_OK;
    const int err = errno;
    tool_complain("%s: can not be remounted: %s", found.dir, tool_error_text(err));
    return err == EPERM || err == EACCES ? TOOL_MOUNT_USAGE : TOOL_MOUNT_FAILED;
}

/* ---- the daemon ----------------------------------------------------------------- */

struct verdict {
    int status; /* of mount(8) */
    struct kv_error error;
};

/* The exit status of mount(8) for what fs_mount_open returned. */
static int status_of(int err)
{
    switch (err) {
    case -EPERM:
    case -EACCES:
        return TOOL_MOUNT_USAGE;
    case -ENODEV:
    case -ENOMEM:
    case -EMFILE:
    case -ENFILE:
        return TOOL_MOUNT_SYSTEM;
    default:
        return TOOL_MOUNT_FAILED;
    }
}

/* Open the image and mount it; what went wrong is in the verdict. */
static struct fs_mount *open_mount(const struct fs_mount_options *options, struct verdict *verdict)
{
    struct fs_mount *mount = NULL;
    *verdict = (struct verdict){.status = TOOL_MOUNT_OK};
    const int err = fs_mount_open(options, &mount, &verdict->error);
    if (!err)
        return mount;
    verdict->status = status_of(err);
    if (err == -EBUSY)
        tool_describe_holder(options->image, &verdict->error);
    else if (!*verdict->error.text)
        snprintf(verdict->error.text, sizeof verdict->error.text, "%.200s: %s", options->image,
                 tool_error_text(err));
    return NULL;
}

/* Answer requests until the unmount, then close. Returns the daemon's exit status. */
static int serve(struct fs_mount *mount, struct tool_daemon_log *log)
{
    char line[128];
    const int err = fs_mount_serve(mount);
    if (err) {
        snprintf(line, sizeof line, "serving ended: %s", tool_error_text(err));
        tool_daemon_log_line(log, KV_LOG_ERROR, line);
    }
    const int close_err = fs_mount_close(mount);
    if (close_err) {
        snprintf(line, sizeof line,
                 "the last checkpoint failed: %s; the log is replayed at the next mount",
                 tool_error_text(close_err));
        tool_daemon_log_line(log, KV_LOG_ERROR, line);
    }
    return err || close_err ? EXIT_FAILURE : EXIT_SUCCESS;
}

/*
 * From here on those that ask a daemon to end are only ever read by fs_mount_serve: none may end
 * the process on its own, not even between the mount's end and the exit.
 */
static void block_end_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &set, NULL); /* the arguments are ours */
}

/* Tell the service manager, if there is one; it gives up in time if it is not told. */
static void notify(struct tool_daemon_log *log, const char *state)
{
    char line[128];
    const int err = tool_notify(state);
    if (!err)
        return;
    snprintf(line, sizeof line, "NOTIFY_SOCKET: the service manager could not be told: %s",
             tool_error_text(err));
    tool_daemon_log_line(log, KV_LOG_WARNING, line);
}

static void notify_ready(void *context)
{
    notify(context, "READY=1\nSTATUS=mounted\n");
}

static void notify_stopping(void *context)
{
    notify(context, "STOPPING=1\nSTATUS=unmounting\n");
}

static int run_in_foreground(struct request *request)
{
    struct tool_daemon_log log;
    struct verdict verdict;
    char line[2 * PATH_MAX + 64];
    tool_daemon_log_open(&log, true);
    block_end_signals();
    request->options.log = tool_daemon_log_line;
    request->options.log_context = &log;
    request->options.ready = notify_ready;
    request->options.stopping = notify_stopping;
    request->options.state_context = &log;
    struct fs_mount *mount = open_mount(&request->options, &verdict);
    if (!mount) {
        tool_complain("%s", verdict.error.text);
        return verdict.status;
    }
    if (request->options.log_level <= FS_LOG_INFO) {
        snprintf(line, sizeof line, "%s is mounted on %s; %s unmounts it", request->options.image,
                 request->options.dir, isatty(STDERR_FILENO) ? "Ctrl-C" : "SIGTERM");
        tool_daemon_log_line(&log, KV_LOG_INFO, line);
    }
    return serve(mount, &log) ? TOOL_MOUNT_FAILED : TOOL_MOUNT_OK;
}

/* Let go of the terminal and of the directory that mount.kvfs was called in. */
static void detach(void)
{
    (void)!chdir("/"); /* a daemon that keeps another directory busy still works */
    (void)umask(077);  /* it makes no files */
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        return;
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        (void)dup2(null, fd); /* the descriptors exist */
    if (null > STDERR_FILENO)
        close(null);
}

/* What the child has to say to the parent. */
struct report {
    struct verdict verdict;
    int fd; /* -1: it was said */
};

/* The mount is usable, its daemon as confined as it will be; or it can not be had. */
static void tell_parent(void *context)
{
    struct report *const report = context;
    /* A parent that was interrupted no longer reads; the mount stands all the same. */
    const ssize_t written = write(report->fd, &report->verdict, sizeof report->verdict);
    (void)written;
    close(report->fd);
    report->fd = -1;
}

/* The child: mount, serve, tell the parent. Returns the daemon's exit status. */
static int run_daemon(struct request *request, int verdict_fd)
{
    struct tool_daemon_log log;
    struct report report = {.fd = verdict_fd};
    tool_daemon_log_open(&log, false);
    block_end_signals();
    (void)setsid(); /* a fresh child leads no group, so it can not fail */
    request->options.log = tool_daemon_log_line;
    request->options.log_context = &log;
    request->options.ready = tell_parent;
    request->options.state_context = &report;

    struct fs_mount *mount = open_mount(&request->options, &report.verdict);
    if (!mount) {
        tell_parent(&report);
        return EXIT_FAILURE;
    }
    tool_daemon_log_detach(&log);
    detach();
    const int status = serve(mount, &log);
    if (report.fd >= 0) /* it was never usable: the parent hears nothing, and says so */
        close(report.fd);
    return status;
}

/* ---- the parent ------------------------------------------------------------------ */

static volatile sig_atomic_t interrupted;

static void note_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

/* Read the verdict of the child. Returns the exit status. */
static int await_verdict(pid_t child, int verdict_fd)
{
    struct verdict verdict;
    ssize_t got;
    do
        got = read(verdict_fd, &verdict, sizeof verdict);
    while (got < 0 && errno == EINTR && !interrupted);

    if (got == (ssize_t)sizeof verdict) {
        if (verdict.status != TOOL_MOUNT_OK)
            tool_complain("%s", verdict.error.text);
        return verdict.status;
    }
    if (interrupted) {
        (void)kill(child, SIGTERM); /* it may be gone already */
        (void)waitpid(child, NULL, 0);
        tool_complain("interrupted; nothing is mounted");
        return TOOL_MOUNT_INTERRUPTED;
    }
    int how = 0;
    (void)waitpid(child, &how, 0); /* our child, not waited for before */
    if (WIFSIGNALED(how))
        tool_complain("the daemon died of signal %d (%s) before the mount was usable; its log says "
                      "why",
                      WTERMSIG(how), strsignal(WTERMSIG(how)));
    else
        tool_complain("the daemon ended before the mount was usable; its log says why");
    return TOOL_MOUNT_INTERNAL;
}

static int run_in_background(struct request *request)
{
    int pipe_fds[2];
    if (pipe2(pipe_fds, O_CLOEXEC)) {
        tool_complain("pipe: %s", tool_error_text(errno));
        return TOOL_MOUNT_SYSTEM;
    }
    const pid_t child = fork();
    if (child < 0) {
        tool_complain("fork: %s", tool_error_text(errno));
        return TOOL_MOUNT_SYSTEM;
    }
    if (child == 0) {
        close(pipe_fds[0]);
        (void)signal(SIGPIPE, SIG_IGN); /* see run_daemon's write */
        return run_daemon(request, pipe_fds[1]);
    }
    close(pipe_fds[1]);
    const struct sigaction action = {.sa_handler = note_interrupt}; /* no SA_RESTART */
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    const int status = await_verdict(child, pipe_fds[0]);
    close(pipe_fds[0]);
    return status;
}

int main(int argc, char **argv)
{
    struct request request = {0};
    char *image = NULL, *dir = NULL;
    tool_open_streams();
    int status = parse(argc, argv, &request);
    if (status >= 0)
        goto out;
    if (request.remount) {
        status = remount(&request);
        goto out;
    }

    /* Absolute, for the daemon leaves this directory and others read the mount table. */
    image = realpath(request.image, NULL);
    if (!image) {
        tool_complain("%s: %s%s", request.image, tool_error_text(errno),
                      errno == ENOENT ? "; make it with mkfs.kvfs" : "");
        status = TOOL_MOUNT_FAILED;
        goto out;
    }
    if (tool_await_daemon(image)) { /* before DIR, which is then often its mount point */
        struct kv_error error;
        tool_describe_holder(image, &error);
        tool_complain("%s", error.text);
        status = TOOL_MOUNT_FAILED;
        goto out;
    }
    status = check_directory(&request);
    if (status)
        goto out;
    dir = realpath(request.dir, NULL);
    if (!dir) {
        tool_complain("%s: %s", request.dir, tool_error_text(errno));
        status = TOOL_MOUNT_FAILED;
        goto out;
    }
    status = check_fuse();
    if (status)
        goto out;
    request.options.image = image;
    request.options.dir = dir;
    request.options.extra = request.extra;
    request.options.confine = true;
    request.options.words = &tool_config_words;
    status = request.foreground ? run_in_foreground(&request) : run_in_background(&request);
out:
    tool_config_release(&request.options);
    free(dir);
    free(image);
    free(request.extra);
    free(request.lists);
    return status;
}
