/*
 * tools/kvfs_stat.c: kvfs stat: the figures of an image, or of the daemon of a mount.
 */
#include "tools/command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "tools/json.h"
#include "tools/live.h"
#include "tools/mounts.h"
#include "tools/options.h"

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
        return tool_live_stat(target, as_json, tool_value(arguments, 'i'));
    if (is_dir) {
        tool_complain("%s: not in a kvfs mount; give an image or a mounted directory", target);
        return TOOL_FAILED;
    }
    if (tool_given(arguments, 'i')) {
        tool_complain(
            "%s: nothing happens in an image that is not mounted; --interval is for mounts",
            target);
        return TOOL_FAILED;
    }
    return stat_image(target, as_json);
}

static const struct option stat_options[] = {
    {"json", no_argument, NULL, 'j'}, {"interval", required_argument, NULL, 'i'}, {0}};

const struct tool_command tool_command_stat = {
    .name = "stat",
    .synopsis = "[--json] [--interval S] IMAGE|DIR",
    .help = "Print what a mount has done: requests and their latencies, cache, log, device; or the "
            "figures\n"
            "of an image that nobody has mounted.\n"
            "\n"
            "  -j, --json        everything, as one JSON object\n"
            "  -i, --interval S  of a mount a line every S seconds of what happens, until it is\n"
            "                    interrupted\n"
            "\n"
            "Example: kvfs stat --interval 1 /mnt\n",
    .options = stat_options,
    .operands_least = 1,
    .operands_most = 1,
    .run = run_stat,
};
