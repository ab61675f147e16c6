/*
 * tools/kvfs_keys.c: kvfs ls, get, put, rm: one key, or the keys of a directory.
 */
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/expiry.h"
#include "tools/json.h"
#include "tools/keys.h"
#include "tools/keys_backend.h"
#include "tools/options.h"

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

static void print_entry(void *context, const struct tool_entry *entry)
{
    struct ls_output *output = context;
    const bool is_directory = S_ISDIR(entry->mode);
    char when[TOOL_TIME_TEXT];
    tool_format_time(entry->mtime_ns, false, when);
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

static int run_ls(const struct tool_arguments *arguments)
{
    struct kv_error error = {""};
    struct tool_keys *keys;
    int err = tool_keys_open(arguments->operands[0], TOOL_KEYS_READ, &keys, &error);
    if (err)
        return tool_failed(err, &error);

    struct ls_output output = {.as_json = tool_given(arguments, 'j'),
                               .is_long = tool_given(arguments, 'l')};
    tool_json_init(&output.json, stdout);
    if (output.as_json)
        tool_json_open(&output.json, NULL, '[');
    err = tool_keys_list(keys, arguments->operands[1], tool_given(arguments, 'R'), print_entry,
                         &output, &error);
    if (output.as_json)
        tool_json_close(&output.json, ']');
    const int status = err ? tool_failed(err, &error) : TOOL_OK;
    (void)!tool_keys_close(keys, &error); /* it was only read */
    return tool_finish_output(status);
}

static int write_out(void *context, const void *bytes, size_t length)
{
    (void)context;
    return keys_write_all(STDOUT_FILENO, bytes, length);
}

static int run_get(const struct tool_arguments *arguments)
{
    struct kv_error error = {""};
    struct tool_keys *keys;
    int err = tool_keys_open(arguments->operands[0], TOOL_KEYS_READ, &keys, &error);
    if (err)
        return tool_failed(err, &error);
    err = tool_keys_get(keys, arguments->operands[1], write_out, NULL, &error);
    const int status = err ? tool_failed(err, &error) : TOOL_OK;
    (void)!tool_keys_close(keys, &error); /* it was only read */
    return status;
}

/* What is to be done with a key: store from in_fd, or remove if that is negative. */
struct wish {
    int in_fd;
    uint64_t ttl_seconds;
    bool recursive;
};

static int change(const char *target, const char *key, const struct wish *wish)
{
    struct kv_error error = {""};
    struct tool_keys *keys;
    /* Before the target is opened for writing: a bad key changes nothing at all. */
    int err = tool_check_key(key, &error);
    if (!err)
        err = tool_keys_open(target, TOOL_KEYS_WRITE, &keys, &error);
    if (err)
        return tool_failed(err, &error);
    err = wish->in_fd >= 0 ? tool_keys_put(keys, key, wish->in_fd, wish->ttl_seconds, &error)
                           : tool_keys_remove(keys, key, wish->recursive, &error);
    struct kv_error close_error = {""};
    const int close_err = tool_keys_close(keys, &close_error);
    if (err)
        return tool_failed(err, &error);
    return close_err ? tool_failed(close_err, &close_error) : TOOL_OK;
}

static int run_put(const struct tool_arguments *arguments)
{
    const char *const path = arguments->operands[2], *const ttl = tool_value(arguments, 't');
    struct wish wish = {.in_fd = STDIN_FILENO};
    if (ttl && fs_ttl_parse(ttl, strlen(ttl), &wish.ttl_seconds)) {
        tool_complain("--ttl %.60s: not a time such as 90s, 30m, 12h, 7d or 2w", ttl);
        return TOOL_USAGE;
    }
    if (!path || strcmp(path, "-") == 0)
        return change(arguments->operands[0], arguments->operands[1], &wish);
    wish.in_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (wish.in_fd < 0) {
        tool_complain("%s: %s; give a FILE that can be read, or none for standard input", path,
                      tool_error_text(errno));
        return TOOL_FAILED;
    }
    const int status = change(arguments->operands[0], arguments->operands[1], &wish);
    close(wish.in_fd);
    return status;
}

static int run_rm(const struct tool_arguments *arguments)
{
    const struct wish wish = {.in_fd = -1, .recursive = tool_given(arguments, 'r')};
    return change(arguments->operands[0], arguments->operands[1], &wish);
}

static const struct option ls_options[] = {{"long", no_argument, NULL, 'l'},
                                           {"recursive", no_argument, NULL, 'R'},
                                           {"json", no_argument, NULL, 'j'},
                                           {0}};
static const struct option put_options[] = {{"ttl", required_argument, NULL, 't'}, {0}};
static const struct option rm_options[] = {{"recursive", no_argument, NULL, 'r'}, {0}};

const struct tool_command tool_command_ls = {
    .name = "ls",
    .synopsis = "[-l] [-R] [--json] IMAGE|DIR [KEY]",
    .help = "List keys in byte order: all at the top, or those below KEY.\n"
            "\n"
            "  -l, --long       with type, mode, size and time\n"
            "  -R, --recursive  with those in directories, and so on\n"
            "  -j, --json       a JSON array\n"
            "\n"
            "Example: kvfs ls -l data.img users/42\n",
    .options = ls_options,
    .operands_least = 1,
    .operands_most = 2,
    .run = run_ls,
};

const struct tool_command tool_command_get = {
    .name = "get",
    .synopsis = "IMAGE|DIR KEY",
    .help = "Write the value of KEY to standard output.\n"
            "\n"
            "Example: kvfs get data.img users/42/name\n",
    .options = NULL,
    .operands_least = 2,
    .operands_most = 2,
    .run = run_get,
};

const struct tool_command tool_command_put = {
    .name = "put",
    .synopsis = "[-t TIME] IMAGE|DIR KEY [FILE]",
    .help =
        "Store FILE, or standard input, as the value of KEY. Directories on the way are made. An\n"
        "old value is replaced as a whole; the new one is durable when kvfs returns.\n"
        "\n"
        "  -t, --ttl TIME  it expires so long from now: 90s, 30m, 12h, 7d, 2w; the same as "
        "setting\n"
        "                  its attribute user.kvfs.ttl\n"
        "\n"
        "Example: echo Ada | kvfs put data.img users/42/name\n",
    .options = put_options,
    .operands_least = 2,
    .operands_most = 3,
    .run = run_put,
};

const struct tool_command tool_command_rm = {
    .name = "rm",
    .synopsis = "[-r] IMAGE|DIR KEY",
    .help = "Remove KEY.\n"
            "\n"
            "  -r, --recursive  also a directory, with all keys in it\n"
            "\n"
            "Example: kvfs rm -r data.img users/42\n",
    .options = rm_options,
    .operands_least = 2,
    .operands_most = 2,
    .run = run_rm,
};
