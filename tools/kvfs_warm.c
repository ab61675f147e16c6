/*
 * tools/kvfs_warm.c: kvfs warm: read files, so that the next reader finds them in memory.
 */
#include "tools/command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fs/pattern.h"
#include "tools/json.h"
#include "tools/keys.h"
#include "tools/keys_backend.h"
#include "tools/options.h"

struct warming {
    struct tool_keys *keys;
    char **globs; /* NULL behind the last; none: all files */
    uint64_t files, bytes;
    struct kv_error *error;
};

static int swallow(void *context, const void *bytes, size_t length)
{
    struct warming *warming = context;
    (void)bytes;
    warming->bytes += length;
    return 0;
}

static bool matches(const struct warming *warming, const char *key)
{
    if (!*warming->globs)
        return true;
    for (char **glob = warming->globs; *glob; glob++)
        if (fs_pattern_matches_path(*glob, key, FS_PATTERN_DOTS_PLAIN))
            return true;
    return false;
}

/* Is each glob one that can match? Complains. */
static bool check_globs(char **globs)
{
    for (; *globs; globs++) {
        const char *const path = *globs + (**globs == '/');
        const char *const fault = fs_pattern_fault(path, strlen(path));
        if (fault) {
            tool_complain("GLOB %s: %s", *globs, fault);
            return false;
        }
    }
    return true;
}

static int take(void *context, const struct tool_entry *entry)
{
    struct warming *warming = context;
    if (!matches(warming, entry->key))
        return 0;
    const int err = tool_keys_get(warming->keys, entry->key, swallow, warming, warming->error);
    if (err == -ENOENT) { /* removed meanwhile */
        *warming->error->text = '\0';
        return 0;
    }
    warming->files++;
    return err;
}

static int run_warm(const struct tool_arguments *arguments)
{
    const char *target = arguments->operands[0];
    struct kv_error error = {""};
    struct warming warming = {.globs = arguments->operands + 1, .error = &error};
    const struct tool_scan scan = {.limit = 0};
    if (!check_globs(warming.globs))
        return TOOL_USAGE;
    int err = tool_keys_open(target, TOOL_KEYS_READ, &warming.keys, &error);
    if (err)
        return tool_failed(err, &error);
    if (keys_image_volume(warming.keys)) {
        (void)!tool_keys_close(warming.keys, &error); /* nothing was done */
        tool_complain("%s: an image that nobody has mounted has no memory to warm; give a mounted "
                      "directory",
                      target);
        return TOOL_FAILED;
    }
    err = tool_keys_scan(warming.keys, &scan, take, &warming, &error);
    (void)!tool_keys_close(warming.keys, &error); /* it was only read */
    if (err)
        return tool_failed(err, &error);
    if (tool_given(arguments, 'j')) {
        struct tool_json json;
        tool_json_init(&json, stdout);
        tool_json_open(&json, NULL, '{');
        tool_json_number(&json, "files", warming.files);
        tool_json_number(&json, "bytes", warming.bytes);
        tool_json_close(&json, '}');
    } else {
        char size[TOOL_SIZE_TEXT];
        tool_format_size(warming.bytes, size);
        printf("%" PRIu64 " files, %s read\n", warming.files, size);
    }
    return tool_finish_output(TOOL_OK);
}

static const struct option warm_options[] = {{"json", no_argument, NULL, 'j'}, {0}};

const struct tool_command tool_command_warm = {
    .name = "warm",
    .synopsis = "[--json] DIR [GLOB]...",
    .help = "Read all files below DIR, or those that match a GLOB, so that they are in memory.\n"
            "A GLOB without a slash is for names, one with a slash for whole keys: a component **\n"
            "stands for any number of them, also none, and * is within one. As in policies.\n"
            "\n"
            "  -j, --json  how many files and bytes, as one JSON object\n"
            "\n"
            "Example: kvfs warm /mnt '*.idx' 'models/**'\n",
    .options = warm_options,
    .operands_least = 1,
    .operands_most = -1,
    .run = run_warm,
};
