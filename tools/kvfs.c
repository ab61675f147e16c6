/*
 * tools/kvfs.c: kvfs works with the keys of an image or of a mounted directory.
 *
 * Each subcommand is a row of one table: name, help, function. A function gets its own
 * arguments, complains for itself, and returns the exit status.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs/mount.h"
#include "kv/base.h"
#include "kv/kv.h"
#include "tools/json.h"
#include "tools/keys.h"
#include "tools/kvfs_live.h"
#include "tools/kvfs_scrub.h"
#include "tools/mounts.h"
#include "tools/options.h"

enum { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2 };

struct command {
    const char *name;
    const char *synopsis; /* after "kvfs NAME " */
    const char *help;
    const char *options; /* short ones, for getopt */
    int operands_least, operands_most;
    int (*run)(const char *options_given, char **operands);
    int (*run_at_rate)(const char *target, const char *rate); /* instead of run; takes --rate */
};

/* Complain about what failed; a key that is not well formed is a mistake of usage. */
static int failed(int err, const struct kv_error *error)
{
    tool_complain("%s", *error->text ? error->text : tool_error_text(err));
    return err == -EINVAL || err == -ENAMETOOLONG ? STATUS_USAGE : STATUS_FAILED;
}

/* The status of a command that printed: output that is lost is a failure too. */
static int finish_output(int status)
{
    if (fflush(stdout) || ferror(stdout)) {
        tool_complain("standard output: %s", tool_error_text(errno));
        return STATUS_FAILED;
    }
    return status;
}

static bool given(const char *options_given, char option)
{
    return strchr(options_given, option) != NULL;
}

/* ---- ls, get, put, rm --------------------------------------------------------- */

/* How ls prints. */
struct ls_output {
    bool as_json, is_long;
    struct tool_json json;
};

static const char *type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "value";
    case S_IFDIR:
        return "directory";
    case S_IFLNK:
        return "symlink";
    default:
        return "special";
    }
}

/* "2026-01-31T12:00:00Z". */
static void format_time(int64_t ns, char text[32])
{
    const time_t seconds = (time_t)(ns / 1000000000);
    struct tm tm;
    if (!gmtime_r(&seconds, &tm) || !strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &tm))
        strcpy(text, "?");
}

static void print_entry(void *context, const struct tool_entry *entry)
{
    struct ls_output *output = context;
    const bool is_directory = S_ISDIR(entry->mode);
    char when[32];
    format_time(entry->mtime_ns, when);
    if (output->as_json) {
        char mode[8];
        snprintf(mode, sizeof mode, "%04o", entry->mode & 07777);
        tool_json_open(&output->json, NULL, '{');
        tool_json_string(&output->json, "key", entry->key);
        tool_json_string(&output->json, "type", type_name(entry->mode));
        tool_json_number(&output->json, "size", entry->size);
        tool_json_string(&output->json, "mode", mode);
        tool_json_string(&output->json, "mtime", when);
        tool_json_close(&output->json, '}');
    } else if (output->is_long) {
        printf("%-9s %04o %12" PRIu64 " %s %s%s\n", type_name(entry->mode), entry->mode & 07777,
               entry->size, when, entry->key, is_directory ? "/" : "");
    } else {
        printf("%s%s\n", entry->key, is_directory ? "/" : "");
    }
}

static int run_ls(const char *options, char **operands)
{
    struct kv_error error = {""};
    struct tool_keys *keys;
    int err = tool_keys_open(operands[0], TOOL_KEYS_READ, &keys, &error);
    if (err)
        return failed(err, &error);

    struct ls_output output = {.as_json = given(options, 'j'), .is_long = given(options, 'l')};
    tool_json_init(&output.json, stdout);
    if (output.as_json)
        tool_json_open(&output.json, NULL, '[');
    err = tool_keys_list(keys, operands[1], given(options, 'R'), print_entry, &output, &error);
    if (output.as_json)
        tool_json_close(&output.json, ']');
    const int status = err ? failed(err, &error) : STATUS_OK;
    (void)!tool_keys_close(keys, &error); /* it was only read */
    return finish_output(status);
}

static int run_get(const char *options, char **operands)
{
    (void)options;
    struct kv_error error = {""};
    struct tool_keys *keys;
    int err = tool_keys_open(operands[0], TOOL_KEYS_READ, &keys, &error);
    if (err)
        return failed(err, &error);
    err = tool_keys_get(keys, operands[1], STDOUT_FILENO, &error);
    const int status = err ? failed(err, &error) : STATUS_OK;
    (void)!tool_keys_close(keys, &error); /* it was only read */
    return status;
}

/* Make one change: store from in_fd, or remove if that is negative. */
static int change(const char *target, const char *key, int in_fd, bool recursive)
{
    struct kv_error error = {""};
    struct tool_keys *keys;
    /* Before the target is opened for writing: a bad key changes nothing at all. */
    int err = tool_check_key(key, &error);
    if (!err)
        err = tool_keys_open(target, TOOL_KEYS_WRITE, &keys, &error);
    if (err)
        return failed(err, &error);
    err = in_fd >= 0 ? tool_keys_put(keys, key, in_fd, &error)
                     : tool_keys_remove(keys, key, recursive, &error);
    struct kv_error close_error = {""};
    const int close_err = tool_keys_close(keys, &close_error);
    if (err)
        return failed(err, &error);
    return close_err ? failed(close_err, &close_error) : STATUS_OK;
}

static int run_put(const char *options, char **operands)
{
    (void)options;
    const char *path = operands[2];
    if (!path || strcmp(path, "-") == 0)
        return change(operands[0], operands[1], STDIN_FILENO, false);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        tool_complain("%s: %s; give a FILE that can be read, or none for standard input", path,
                      tool_error_text(errno));
        return STATUS_FAILED;
    }
    const int status = change(operands[0], operands[1], fd, false);
    close(fd);
    return status;
}

static int run_rm(const char *options, char **operands)
{
    return change(operands[0], operands[1], -1, given(options, 'r'));
}

/* ---- info ---------------------------------------------------------------------- */

/* All that info tells. */
struct facts {
    const char *image;
    const char *dir; /* NULL: not mounted */
    struct kv_image_info info;
    bool has_usage;
    uint64_t total_bytes, free_bytes, available_bytes;
};

static void usage_of_mount(const char *dir, struct facts *facts)
{
    struct statvfs usage;
    if (statvfs(dir, &usage))
        return;
    facts->has_usage = true;
    facts->total_bytes = (uint64_t)usage.f_blocks * usage.f_frsize;
    facts->free_bytes = (uint64_t)usage.f_bfree * usage.f_frsize;
    facts->available_bytes = (uint64_t)usage.f_bavail * usage.f_frsize;
}

static void ignore_log(void *context, enum kv_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

/* Returns 0, or why the image can not be opened, with the words in `error`. */
static int usage_of_image(const char *image, struct facts *facts, struct kv_error *error)
{
    const struct kv_open_options options = {.read_only = true, .log = ignore_log};
    struct kv_store *store;
    const int err = kv_open(image, &options, &store, error);
    if (err)
        return err;
    struct kv_stats stats;
    kv_store_stats(store, &stats);
    facts->has_usage = true;
    facts->total_bytes = stats.total_bytes;
    facts->free_bytes = stats.free_bytes;
    facts->available_bytes = stats.available_bytes;
    (void)!kv_close(store); /* it was only read */
    return 0;
}

static void print_size(const char *label, uint64_t bytes)
{
    char text[TOOL_SIZE_TEXT];
    tool_format_size(bytes, text);
    printf("%-11s %s\n", label, text);
}

static void print_facts(const struct facts *facts)
{
    const struct kv_image_info *info = &facts->info;
    char uuid[TOOL_UUID_TEXT], codec[TOOL_CODEC_TEXT], created[32], written[32];
    tool_format_uuid(info->uuid, uuid);
    tool_format_codec(&info->codec, codec);
    format_time((int64_t)info->created_ns, created);
    format_time((int64_t)info->written_ns, written);

    printf("%-11s %s\n", "image", facts->image);
    printf("%-11s %s\n", "mounted on", facts->dir ? facts->dir : "-");
    printf("%-11s %s\n", "uuid", uuid);
    printf("%-11s %s\n", "label", *info->label ? info->label : "-");
    printf("%-11s %" PRIu32 "\n", "version", info->version);
    print_size("size", info->image_bytes);
    if (facts->has_usage) {
        print_size("used", facts->total_bytes - kv_min_u64(facts->free_bytes, facts->total_bytes));
        print_size("available", facts->available_bytes);
    }
    print_size("log", info->log_bytes);
    print_size("page", info->node_bytes);
    print_size("extent", info->extent_bytes);
    printf("%-11s %s\n", "codec", codec);
    printf("%-11s compatible %#" PRIx64 ", read-only %#" PRIx64 ", incompatible %#" PRIx64 "\n",
           "features", info->feature_compat, info->feature_rocompat, info->feature_incompat);
    printf("%-11s %" PRIu64 "\n", "epoch", info->epoch);
    printf("%-11s %s\n", "created", created);
    printf("%-11s %s\n", "written", written);
    printf("%-11s %s%s\n", "state",
           info->clean  ? "clean"
           : facts->dir ? "in use"
                        : "not closed; the log is replayed when it is opened",
           info->superblock_damaged ? "; one superblock is damaged, fsck.kvfs mends it" : "");
}

static void print_facts_json(const struct facts *facts)
{
    const struct kv_image_info *info = &facts->info;
    char uuid[TOOL_UUID_TEXT], codec[TOOL_CODEC_TEXT], created[32], written[32];
    tool_format_uuid(info->uuid, uuid);
    tool_format_codec(&info->codec, codec);
    format_time((int64_t)info->created_ns, created);
    format_time((int64_t)info->written_ns, written);

    struct tool_json json;
    tool_json_init(&json, stdout);
    tool_json_open(&json, NULL, '{');
    tool_json_string(&json, "image", facts->image);
    if (facts->dir)
        tool_json_string(&json, "mounted_on", facts->dir);
    tool_json_string(&json, "uuid", uuid);
    tool_json_string(&json, "label", info->label);
    tool_json_number(&json, "version", info->version);
    tool_json_number(&json, "image_bytes", info->image_bytes);
    if (facts->has_usage) {
        tool_json_number(&json, "total_bytes", facts->total_bytes);
        tool_json_number(&json, "free_bytes", facts->free_bytes);
        tool_json_number(&json, "available_bytes", facts->available_bytes);
    }
    tool_json_number(&json, "log_bytes", info->log_bytes);
    tool_json_number(&json, "node_bytes", info->node_bytes);
    tool_json_number(&json, "extent_bytes", info->extent_bytes);
    tool_json_string(&json, "codec", codec);
    tool_json_number(&json, "feature_compat", info->feature_compat);
    tool_json_number(&json, "feature_rocompat", info->feature_rocompat);
    tool_json_number(&json, "feature_incompat", info->feature_incompat);
    tool_json_number(&json, "epoch", info->epoch);
    tool_json_string(&json, "created", created);
    tool_json_string(&json, "written", written);
    tool_json_bool(&json, "clean", info->clean);
    tool_json_bool(&json, "superblock_damaged", info->superblock_damaged);
    tool_json_close(&json, '}');
}

static int run_info(const char *options, char **operands)
{
    struct kv_error error = {""};
    struct facts facts = {.image = operands[0]};
    struct tool_mount mount;
    struct stat status;
    int err = stat(operands[0], &status) ? -errno : 0;
    if (!err)
        err = S_ISDIR(status.st_mode) ? tool_mount_of_path(operands[0], &mount)
                                      : tool_mount_of_image(operands[0], &mount);
    if (!err) {
        facts.dir = mount.dir;
        facts.image = mount.source;
    } else if (err != -ENOENT || stat(operands[0], &status) || S_ISDIR(status.st_mode)) {
        tool_complain("%s: %s", operands[0],
                      err == -ENOENT && S_ISDIR(status.st_mode)
                          ? "not in a kvfs mount; mount an image there with mount.kvfs"
                          : tool_error_text(err));
        return STATUS_FAILED;
    }

    err = kv_image_info(facts.image, &facts.info, &error);
    if (err)
        return failed(err == -EINVAL ? -EIO : err, &error);
    if (facts.dir)
        usage_of_mount(facts.dir, &facts);
    else if (usage_of_image(facts.image, &facts, &error))
        tool_complain("no usage: %s", error.text);
    if (given(options, 'j'))
        print_facts_json(&facts);
    else
        print_facts(&facts);
    return finish_output(STATUS_OK);
}

/* ---- sync and umount -------------------------------------------------------------- */

/* Make everything under a mount durable. Returns 0 or a negative errno. */
static int sync_mount(const struct tool_mount *mount)
{
    return setxattr(mount->dir, FS_XATTR_SYNC, "1", 1, 0) ? -errno : 0;
}

static int run_sync(const char *options, char **operands)
{
    (void)options;
    struct tool_mount mount;
    int err = tool_mount_of_path(operands[0], &mount);
    if (err == -ENOENT) {
        tool_complain("%s: not in a kvfs mount; give the directory of one", operands[0]);
        return STATUS_FAILED;
    }
    if (!err && !mount.read_only)
        err = sync_mount(&mount);
    if (!err)
        return STATUS_OK;
    tool_complain("%s: %s%s", operands[0], tool_error_text(err),
                  err == -EPERM || err == -EACCES ? "; only root and who mounted it may ask"
                  : err == -EIO                   ? "; a write failed, see the log of mount.kvfs"
                                                  : "");
    return STATUS_FAILED;
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

/* Wait until `holder` has let go of the image. */
static void await_release(const char *image, int holder)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    enum { PAUSES_UNTIL_TOLD = 1000 };
    for (int pauses = 0; holder > 0 && kv_image_holder(image) == holder; pauses++) {
        if (pauses == PAUSES_UNTIL_TOLD)
            tool_complain("waiting for process %d to write the rest to %s", holder, image);
        (void)nanosleep(&pause, NULL); /* a shorter pause does no harm */
    }
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

static int run_umount(const char *options, char **operands)
{
    (void)options;
    struct tool_mount mount;
    if (find_mount(operands[0], &mount))
        return STATUS_FAILED;
    const int holder = kv_image_holder(mount.source);
    if (!mount.read_only)
        (void)!sync_mount(&mount); /* shortens what follows; its failure shows in the end */

    int err = unmount(mount.dir);
    if (err == -EBUSY) {
        tool_complain("%s: busy; end what uses it, fuser -vm %s shows that", mount.dir, mount.dir);
        return STATUS_FAILED;
    }
    if (err) {
        tool_complain("%s: could not be unmounted: %s", mount.dir, tool_error_text(err));
        return STATUS_FAILED;
    }

    await_release(mount.source, holder);
    struct kv_image_info info;
    struct kv_error error = {""};
    err = kv_image_info(mount.source, &info, &error);
    if (err)
        return failed(-EIO, &error);
    if (!info.clean && !mount.read_only && kv_image_holder(mount.source) == 0) {
        tool_complain("%s: unmounted, but the last checkpoint failed; the log is replayed at the "
                      "next mount, the log of mount.kvfs says why",
                      mount.source);
        return STATUS_FAILED;
    }
    return STATUS_OK;
}

/* ---- the table ------------------------------------------------------------------- */

static const struct command commands[] = {
    {"info", "[--json] IMAGE|DIR",
     "Print UUID, label, sizes, usage and features of an image.\n"
     "\n"
     "  -j, --json  one JSON object\n"
     "\n"
     "Example: kvfs info data.img\n",
     "j", 1, 1, run_info, NULL},
    {"ls", "[-l] [-R] [--json] IMAGE|DIR [KEY]",
     "List keys in byte order: all at the top, or those below KEY.\n"
     "\n"
     "  -l, --long       with type, mode, size and time\n"
     "  -R, --recursive  with those in directories, and so on\n"
     "  -j, --json       a JSON array\n"
     "\n"
     "Example: kvfs ls -l data.img users/42\n",
     "lRj", 1, 2, run_ls, NULL},
    {"get", "IMAGE|DIR KEY",
     "Write the value of KEY to standard output.\n"
     "\n"
     "Example: kvfs get data.img users/42/name\n",
     "", 2, 2, run_get, NULL},
    {"put", "IMAGE|DIR KEY [FILE]",
     "Store FILE, or standard input, as the value of KEY. Directories on the way are made. An\n"
     "old value is replaced as a whole; the new one is durable when kvfs returns.\n"
     "\n"
     "Example: echo Ada | kvfs put data.img users/42/name\n",
     "", 2, 3, run_put, NULL},
    {"rm", "[-r] IMAGE|DIR KEY",
     "Remove KEY.\n"
     "\n"
     "  -r, --recursive  also a directory, with all keys in it\n"
     "\n"
     "Example: kvfs rm -r data.img users/42\n",
     "r", 2, 2, run_rm, NULL},
    {"sync", "DIR",
     "Return when everything under the mount is durable.\n"
     "\n"
     "Example: kvfs sync /mnt\n",
     "", 1, 1, run_sync, NULL},
    {"scrub", "[--rate MiB/s] DIR|IMAGE",
     "Read everything that is in use and verify its checksums: of a mount, while it is used, or\n"
     "of an image. What is damaged is named, and left as it is: fsck.kvfs mends.\n"
     "\n"
     "  --rate MiB/s  read no faster\n"
     "\n"
     "Exit status: 0 nothing wrong, 1 did not run to its end, 2 usage, 4 damage was found.\n"
     "\n"
     "Example: kvfs scrub --rate 50 /mnt\n",
     "", 1, 1, NULL, tool_scrub},
    {"umount", "DIR|IMAGE",
     "Unmount, and return when everything is durable and the image is released.\n"
     "\n"
     "Example: kvfs umount /mnt\n",
     "", 1, 1, run_umount, NULL},
};
#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static void print_usage(FILE *out)
{
    fputs("usage: kvfs COMMAND [OPTION]... IMAGE|DIR [KEY]...\n"
          "\n"
          "Work with the keys of an image that is not mounted, or of a directory in a mount.\n"
          "A key is a path, users/42/name, relative to the image's root or to the directory.\n"
          "\n",
          out);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  kvfs %-6s %s\n", commands[i].name, commands[i].synopsis);
    tool_live_usage(out);
    fputs("\n"
          "kvfs COMMAND --help tells more. Exit status: 0 done, 1 failed, 2 usage.\n"
          "\n"
          "Example: kvfs put /mnt greeting <<<hello; kvfs get /mnt greeting\n",
          out);
}

/* Parse the options of one command and run it. argv[0] is its name. */
static int run_command(const struct command *command, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"json", no_argument, NULL, 'j'},      {"long", no_argument, NULL, 'l'},
        {"recursive", no_argument, NULL, 'R'}, {"rate", required_argument, NULL, 'm'},
        {"help", no_argument, NULL, 'h'},      {0},
    };
    char options_given[16] = "";
    char accepted[16];
    const char *rate = NULL;
    size_t count = 0;
    snprintf(accepted, sizeof accepted, "%sh", command->options);
    for (int option; (option = getopt_long(argc, argv, accepted, long_options, NULL)) != -1;) {
        if (option == 'h') {
            printf("usage: kvfs %s %s\n\n%s", command->name, command->synopsis, command->help);
            return finish_output(STATUS_OK);
        }
        if (option == 'R' && given(command->options, 'r')) /* --recursive of rm */
            option = 'r';
        if (option == '?')
            return STATUS_USAGE; /* getopt_long has complained */
        if (option == 'm' && command->run_at_rate) {
            rate = optarg;
            continue;
        }
        if (!given(command->options, (char)option)) {
            tool_complain("%s: %s: no such option; kvfs %s --help shows all", command->name,
                          argv[optind - 1], command->name);
            return STATUS_USAGE;
        }
        if (count + 1 < sizeof options_given)
            options_given[count++] = (char)option;
    }
    const int operand_count = argc - optind;
    if (operand_count < command->operands_least || operand_count > command->operands_most) {
        tool_complain("usage: kvfs %s %s", command->name, command->synopsis);
        return STATUS_USAGE;
    }
    if (command->run_at_rate)
        return command->run_at_rate(argv[optind], rate);
    return command->run(options_given, argv + optind);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_usage(stdout);
        return finish_output(STATUS_OK);
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        puts("kvfs " KVFS_VERSION);
        return finish_output(STATUS_OK);
    }
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0)
            return run_command(&commands[i], argc - 1, argv + 1);
    int status;
    if (argc > 1 && tool_live_command(argc - 1, argv + 1, &status))
        return status;
    if (!*name)
        print_usage(stderr);
    else
        tool_complain("%s: no such command; kvfs --help lists all", name);
    return STATUS_USAGE;
}
