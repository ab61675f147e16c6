/*
 * tools/kvfs_key_info.c: kvfs info of one key: what it is and what it is made of.
 */
#include "tools/kvfs_key_info.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "fs/describe.h"
#include "fs/figures.h"
#include "fs/namespace.h"
#include "tools/config.h"
#include "tools/json.h"
#include "tools/json_read.h"
#include "tools/keys.h"
#include "tools/keys_backend.h"
#include "tools/options.h"

#define TEXT_BYTES 16384u

/* What stat tells, and what the filesystem does: FS_XATTR_INFO's text, "" if it does not. */
struct key_facts {
    const char *key;
    struct stat status;
    char text[TEXT_BYTES];
    struct tool_json_document *document; /* of the text; NULL: none */
};

static const struct {
    const char *name;
    mode_t type;
} types[] = {
    {"value", S_IFREG},   {"directory", S_IFDIR}, {"symlink", S_IFLNK},   {"fifo", S_IFIFO},
    {"socket", S_IFSOCK}, {"block", S_IFBLK},     {"character", S_IFCHR},
};

static const char *type_of(mode_t mode)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].type == (mode & S_IFMT))
            return types[i].name;
    return "unknown";
}

static int look_in_image(struct tool_keys *keys, struct key_facts *facts)
{
    struct fs_volume *volume = keys_image_volume(keys);
    struct fs_record record;
    int err = fs_path_stat(volume, facts->key, &record);
    if (err)
        return err;
    fs_record_stat(&record, &facts->status);
    err = fs_path_describe_json(volume, facts->key, facts->text, sizeof facts->text);
    return err < 0 ? err : 0;
}

static int look_in_mount(const char *dir, struct key_facts *facts)
{
    char *path = keys_join(dir, facts->key);
    if (!path)
        return -ENOMEM;
    int err = lstat(path, &facts->status) ? -errno : 0;
    if (!err) {
        const ssize_t length = lgetxattr(path, FS_XATTR_INFO, facts->text, sizeof facts->text - 1);
        facts->text[length > 0 ? length : 0] = '\0'; /* a daemon that does not tell is older */
    }
    free(path);
    return err;
}

static int64_t figure(const struct key_facts *facts, const char *name)
{
    int64_t number = 0;
    const struct tool_json_value *value =
        facts->document ? tool_json_member(tool_json_root(facts->document), name, TOOL_JSON_NUMBER)
                        : NULL;
    return tool_json_integer(value, &number) ? 0 : number;
}

/* The value that a policy decides on, and its pattern. False: none does. */
static bool policy_of(const struct key_facts *facts, enum fs_policy_key key, const char **value,
                      const char **pattern)
{
    const struct tool_json_value *const policy =
        facts->document
            ? tool_json_member(tool_json_root(facts->document), "policy", TOOL_JSON_OBJECT)
            : NULL;
    const struct tool_json_value *const one =
        policy ? tool_json_member(policy, fs_policy_key_name(key), TOOL_JSON_OBJECT) : NULL;
    const struct tool_json_value *const from =
        one ? tool_json_member(one, "pattern", TOOL_JSON_STRING) : NULL;
    const struct tool_json_value *const what =
        one ? tool_json_member(one, "value", TOOL_JSON_STRING) : NULL;
    *value = what ? what->text : NULL;
    *pattern = from ? from->text : NULL;
    return what && from;
}

static void print_json(const struct key_facts *facts)
{
    static const char *const names[] = {
        "inode",        "allocated_bytes", "inline_bytes", "packed_count",    "packed_bytes",
        "extent_count", "extent_bytes",    "stored_bytes", "unwritten_bytes", "extents_none",
        "extents_lz4",  "extents_zstd",    "xattr_count",
    };
    const struct stat *status = &facts->status;
    struct tool_json json;
    char text[TOOL_TIME_TEXT];
    tool_json_init(&json, stdout);
    tool_json_open(&json, NULL, '{');
    tool_json_string(&json, "key", facts->key);
    tool_json_string(&json, "type", type_of(status->st_mode));
    tool_json_number(&json, "size", (uint64_t)status->st_size);
    snprintf(text, sizeof text, "%04o", status->st_mode & 07777);
    tool_json_string(&json, "mode", text);
    tool_json_number(&json, "uid", status->st_uid);
    tool_json_number(&json, "gid", status->st_gid);
    tool_json_number(&json, "links", status->st_nlink);
    tool_format_time(fs_time_ns(&status->st_mtim), true, text);
    tool_json_string(&json, "mtime", text);
    tool_format_time(fs_time_ns(&status->st_atim), true, text);
    tool_json_string(&json, "atime", text);
    tool_format_time(fs_time_ns(&status->st_ctim), true, text);
    tool_json_string(&json, "ctime", text);
    for (size_t i = 0; facts->document && i < sizeof names / sizeof names[0]; i++)
        tool_json_number(&json, names[i], (uint64_t)figure(facts, names[i]));
    tool_json_open(&json, "policy", '{');
    for (enum fs_policy_key key = 0; key < FS_POLICY_KEY_COUNT; key++) {
        const char *value, *pattern;
        if (!policy_of(facts, key, &value, &pattern))
            continue;
        tool_json_open(&json, fs_policy_key_name(key), '{');
        tool_json_string(&json, "value", value);
        tool_json_string(&json, "pattern", pattern);
        tool_json_close(&json, '}');
    }
    tool_json_close(&json, '}');
    tool_json_close(&json, '}');
}

static void print_size(const char *label, int64_t bytes)
{
    char text[TOOL_SIZE_TEXT];
    tool_format_size((uint64_t)bytes, text);
    printf("%-11s %s\n", label, text);
}

static void print_content(const struct key_facts *facts)
{
    print_size("allocated", figure(facts, "allocated_bytes"));
    if (figure(facts, "inline_bytes"))
        print_size("inline", figure(facts, "inline_bytes"));
    if (figure(facts, "packed_count"))
        printf("%-11s %" PRId64 " pieces in the tree, %" PRId64 " bytes\n", "packed",
               figure(facts, "packed_count"), figure(facts, "packed_bytes"));
    const int64_t extents = figure(facts, "extent_count");
    if (extents) {
        char stored[TOOL_SIZE_TEXT];
        tool_format_size((uint64_t)figure(facts, "stored_bytes"), stored);
        printf("%-11s %s in %" PRId64 " extents", "stored", stored, extents);
        for (unsigned i = 0; i < KV_CODEC_COUNT; i++) {
            char name[32];
            snprintf(name, sizeof name, "extents_%s", kv_codec_name(i));
            if (figure(facts, name))
                printf(", %" PRId64 " %s", figure(facts, name), kv_codec_name(i));
        }
        putchar('\n');
    }
    if (figure(facts, "unwritten_bytes"))
        print_size("unwritten", figure(facts, "unwritten_bytes"));
    printf("%-11s %" PRId64 "\n", "attributes", figure(facts, "xattr_count"));
    for (enum fs_policy_key key = 0; key < FS_POLICY_KEY_COUNT; key++) {
        const char *value, *pattern;
        if (policy_of(facts, key, &value, &pattern))
            printf("%-11s %s %s, from [policy \"%s\"]\n", "policy", fs_policy_key_name(key), value,
                   pattern);
    }
}

static void print_text(const struct key_facts *facts)
{
    const struct stat *status = &facts->status;
    char text[TOOL_TIME_TEXT];
    printf("%-11s %s\n", "key", facts->key);
    printf("%-11s %s\n", "type", type_of(status->st_mode));
    print_size("size", status->st_size);
    if (facts->document)
        print_content(facts);
    printf("%-11s %04o, owner %u:%u, links %ju\n", "mode", status->st_mode & 07777, status->st_uid,
           status->st_gid, (uintmax_t)status->st_nlink);
    tool_format_time(fs_time_ns(&status->st_mtim), true, text);
    printf("%-11s %s\n", "modified", text);
    tool_format_time(fs_time_ns(&status->st_ctim), true, text);
    printf("%-11s %s\n", "changed", text);
    tool_format_time(fs_time_ns(&status->st_atim), true, text);
    printf("%-11s %s\n", "accessed", text);
}

int tool_key_info(const char *target, const char *key, bool as_json, const char *config)
{
    struct kv_error error = {""};
    struct tool_keys *keys;
    struct key_facts *facts = calloc(1, sizeof *facts);
    if (!facts)
        return tool_failed(-ENOMEM, &error);
    facts->key = key;
    struct fs_mount_options options;
    tool_config_defaults(&options);
    int err = tool_check_key(key, &error);
    if (!err && config)
        err = tool_config_read(config, &options, &error);
    if (!err)
        err = tool_keys_open_under(target, TOOL_KEYS_READ, options.policies, &keys, &error);
    if (err) {
        tool_config_release(&options);
        free(facts);
        return tool_failed(err, &error);
    }
    err = keys_image_volume(keys) ? look_in_image(keys, facts) : look_in_mount(target, facts);
    int status = err ? tool_failed(keys_describe(key, err, &error), &error) : TOOL_OK;
    if (!err) {
        const char *complaint;
        if (*facts->text &&
            tool_json_read(facts->text, strlen(facts->text), &facts->document, &complaint))
            facts->document = NULL; /* what is not understood is not told */
        if (as_json)
            print_json(facts);
        else
            print_text(facts);
        tool_json_document_free(facts->document);
        status = tool_finish_output(TOOL_OK);
    }
    (void)!tool_keys_close(keys, &error); /* it was only read */
    tool_config_release(&options);
    free(facts);
    return status;
}
