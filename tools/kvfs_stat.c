/*
 * tools/kvfs_stat.c: kvfs stat: the figures of an image, or of the daemon of a mount.
 */
#include "tools/command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "fs/mount.h"
#include "tools/json.h"
#include "tools/json_read.h"
#include "tools/mounts.h"
#include "tools/options.h"

#define TEXT_BYTES 65536u /* the most that an attribute can have */

static void ignore_log(void *context, enum kv_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

/* ---- an image ---------------------------------------------------------------------- */

static int stat_image(const char *image, bool as_json)
{
    const struct kv_open_options options = {.read_only = true, .log = ignore_log};
    struct kv_error error = {""};
    struct kv_store *store;
    struct kv_stats stats;
    const int err = kv_open(image, &options, &store, &error);
    if (err == -EBUSY)
        tool_describe_holder(image, &error);
    if (err)
        return tool_failed(err == -EINVAL ? -EIO : err, &error);
    kv_store_stats(store, &stats);
    (void)!kv_close(store); /* it was only read */

    const uint64_t used = stats.total_bytes - stats.free_bytes;
    const struct {
        const char *name;
        uint64_t value;
        bool is_size;
    } rows[] = {
        {"total_bytes", stats.total_bytes, true},
        {"used_bytes", used, true},
        {"free_bytes", stats.free_bytes, true},
        {"available_bytes", stats.available_bytes, true},
        {"page_count", stats.page_count, false},
        {"epoch", stats.epoch, false},
        {"log_total_bytes", stats.log_total_bytes, true},
        {"log_used_bytes", stats.log_used_bytes, true},
    };
    struct tool_json json;
    tool_json_init(&json, stdout);
    if (as_json)
        tool_json_open(&json, NULL, '{');
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char size[TOOL_SIZE_TEXT] = "";
        if (rows[i].is_size)
            tool_format_size(rows[i].value, size);
        if (as_json)
            tool_json_number(&json, rows[i].name, rows[i].value);
        else if (rows[i].is_size)
            printf("%-16s %s\n", rows[i].name, size);
        else
            printf("%-16s %" PRIu64 "\n", rows[i].name, rows[i].value);
    }
    if (as_json)
        tool_json_close(&json, '}');
    return tool_finish_output(TOOL_OK);
}

/* ---- a mount ------------------------------------------------------------------------- */

/* A line for each figure, with the names of the objects that it is in. */
static void print_figures(const struct tool_json_value *value, const char *prefix)
{
    for (const struct tool_json_value *at = value->first; at; at = at->next) {
        char name[256];
        snprintf(name, sizeof name, "%.120s%s%.120s", prefix, *prefix ? "." : "",
                 at->name ? at->name : "");
        if (at->kind == TOOL_JSON_OBJECT || at->kind == TOOL_JSON_ARRAY)
            print_figures(at, name);
        else
            printf("%-40s %s\n", name, at->text);
    }
}

static int stat_mount(const char *dir, bool as_json)
{
    char *text = malloc(TEXT_BYTES + 1);
    struct kv_error error = {""};
    if (!text)
        return tool_failed(-ENOMEM, &error);
    const ssize_t length = getxattr(dir, FS_XATTR_STATS, text, TEXT_BYTES);
    int status = TOOL_OK;
    if (length < 0) {
        const int err = errno;
        tool_complain("%s: %s%s", dir, tool_error_text(err),
                      tool_mount_is_dead(err) ? "; its daemon is gone, unmount it and mount again"
                                              : "");
        free(text);
        return TOOL_FAILED;
    }
    text[length] = '\0';
    if (as_json) {
        fputs(text, stdout);
        if (length == 0 || text[length - 1] != '\n')
            putchar('\n');
    } else {
        struct tool_json_document *document = NULL;
        const char *complaint = "";
        if (tool_json_read(text, (size_t)length, &document, &complaint)) {
            tool_complain("%s: its figures are not understood: %s; try --json", dir, complaint);
            status = TOOL_FAILED;
        } else {
            print_figures(tool_json_root(document), "");
        }
        tool_json_document_free(document);
    }
    free(text);
    return tool_finish_output(status);
}

static int run_stat(const struct tool_arguments *arguments)
{
    const char *target = arguments->operands[0];
    const bool as_json = tool_given(arguments, 'j');
    struct stat status;
    struct tool_mount mount;
    if (stat(target, &status)) {
        tool_complain("%s: %s; give an image or a mounted directory", target,
                      tool_error_text(errno));
        return TOOL_FAILED;
    }
    const bool is_dir = S_ISDIR(status.st_mode);
    const int err =
        is_dir ? tool_mount_of_path(target, &mount) : tool_mount_of_image(target, &mount);
    if (!err)
        return stat_mount(mount.dir, as_json);
    if (is_dir) {
        tool_complain("%s: not in a kvfs mount; give an image or a mounted directory", target);
        return TOOL_FAILED;
    }
    return stat_image(target, as_json);
}

static const struct option stat_options[] = {{"json", no_argument, NULL, 'j'}, {0}};

const struct tool_command tool_command_stat = {
    .name = "stat",
    .synopsis = "[--json] IMAGE|DIR",
    .help = "Print the figures of an image, or what the daemon of a mount has counted: requests, "
            "cache,\n"
            "log, device.\n"
            "\n"
            "  -j, --json  one JSON object\n"
            "\n"
            "Example: kvfs stat --json /mnt | jq .log_flushes\n",
    .options = stat_options,
    .operands_least = 1,
    .operands_most = 1,
    .run = run_stat,
};
