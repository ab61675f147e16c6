/*
 * tools/kvfs_info.c: kvfs info: an image, or the one that is mounted on a directory.
 */
#include "tools/command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "kv/base.h"
#include "tools/json.h"
#include "tools/kvfs_key_info.h"
#include "tools/mounts.h"
#include "tools/options.h"

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
    char uuid[TOOL_UUID_TEXT], codec[TOOL_CODEC_TEXT], created[TOOL_TIME_TEXT],
        written[TOOL_TIME_TEXT];
    tool_format_uuid(info->uuid, uuid);
    tool_format_codec(&info->codec, codec);
    tool_format_time((int64_t)info->created_ns, false, created);
    tool_format_time((int64_t)info->written_ns, false, written);

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
    char uuid[TOOL_UUID_TEXT], codec[TOOL_CODEC_TEXT], created[TOOL_TIME_TEXT],
        written[TOOL_TIME_TEXT];
    tool_format_uuid(info->uuid, uuid);
    tool_format_codec(&info->codec, codec);
    tool_format_time((int64_t)info->created_ns, false, created);
    tool_format_time((int64_t)info->written_ns, false, written);

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

static int run_info(const struct tool_arguments *arguments)
{
    struct kv_error error = {""};
    if (arguments->operands[1])
        return tool_key_info(arguments->operands[0], arguments->operands[1],
                             tool_given(arguments, 'j'), tool_value(arguments, 'c'));
    if (tool_given(arguments, 'c')) {
        tool_complain("--config is about a KEY; give one");
        return TOOL_USAGE;
    }
    struct facts facts = {.image = arguments->operands[0]};
    struct tool_mount mount;
    struct stat status;
    int err = stat(arguments->operands[0], &status) ? -errno : 0;
    if (!err)
        err = S_ISDIR(status.st_mode) ? tool_mount_of_path(arguments->operands[0], &mount)
                                      : tool_mount_of_image(arguments->operands[0], &mount);
    if (!err) {
        facts.dir = mount.dir;
        facts.image = mount.source;
    } else if (err != -ENOENT || stat(arguments->operands[0], &status) || S_ISDIR(status.st_mode)) {
        tool_complain("%s: %s", arguments->operands[0],
                      err == -ENOENT && S_ISDIR(status.st_mode)
                          ? "not in a kvfs mount; mount an image there with mount.kvfs"
                          : tool_error_text(err));
        return TOOL_FAILED;
    }

    err = kv_image_info(facts.image, &facts.info, &error);
    if (err)
        return tool_failed(err == -EINVAL ? -EIO : err, &error);
    if (facts.dir)
        usage_of_mount(facts.dir, &facts);
    else if (usage_of_image(facts.image, &facts, &error))
        tool_complain("no usage: %s", error.text);
    if (tool_given(arguments, 'j'))
        print_facts_json(&facts);
    else
        print_facts(&facts);
    return tool_finish_output(TOOL_OK);
}

static const struct option info_options[] = {
    {"config", required_argument, NULL, 'c'}, {"json", no_argument, NULL, 'j'}, {0}};

const struct tool_command tool_command_info = {
    .name = "info",
    .synopsis = "[-c FILE] [--json] IMAGE|DIR [KEY]",
    .help = "Print UUID, label, sizes, usage and features of an image; or of one KEY its size, "
            "what it takes\n"
            "on the device, how it is stored, which policies hold for it, mode, owner and times.\n"
            "\n"
            "  -c, --config FILE  of an image: the policies are those of this mount.conf\n"
            "  -j, --json         one JSON object\n"
            "\n"
            "Example: kvfs info data.img users/42/name\n",
    .options = info_options,
    .operands_least = 1,
    .operands_most = 2,
    .run = run_info,
};
