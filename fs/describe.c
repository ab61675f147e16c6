/*
 * fs/describe.c: what one inode is made of.
 *
 * Locks      the inode, shared, while its records are walked through.
 */
#include "fs/describe.h"

#include <inttypes.h>
#include <stdio.h>

#include "fs/policy_lookup.h"
#include "fs/text.h"

static void count_record(struct fs_description *description, const struct fs_data_record *record)
{
    switch (record->kind) {
    case FS_DATA_PACKED:
        description->packed_count++;
        description->packed_bytes += record->length;
        break;
    case FS_DATA_EXTENT:
        description->extent_count++;
        description->extent_bytes += record->length;
        description->stored_bytes += kv_blob_stored_bytes(&record->blob);
        description->extents_by_codec[kv_blob_codec(&record->blob)]++;
        break;
    case FS_DATA_UNWRITTEN:
        description->unwritten_bytes += record->length;
        break;
    }
}

static int walk_keys(struct fs_volume *volume, enum fs_key_type type, uint64_t ino,
                     struct fs_description *description)
{
    struct fs_key prefix;
    struct kv_cursor *cursor;
    fs_key_ino(&prefix, type, ino);
    int err = kv_cursor_open_prefix(volume->store, prefix.bytes, prefix.length, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        size_t key_len, value_len;
        const void *value, *key = kv_cursor_key(cursor, &key_len);
        struct fs_data_record record;
        if (type == FS_KEY_XATTR) {
            description->xattr_count++;
            continue;
        }
        err = kv_cursor_value(cursor, &value, &value_len);
        if (!err)
            err = fs_data_record_decode(&volume->data, key, key_len, value, value_len, &record);
        if (err)
            break;
        count_record(description, &record);
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

int fs_describe(struct fs_volume *volume, uint64_t ino, struct fs_description *description)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_item item;
    *description = (struct fs_description){.inline_bytes = 0};
    fs_lock_add(&locks, ino, FS_LOCK_SHARED);
    fs_lock_take(volume->locks, &locks);
    int err = fs_item_load(volume, ino, &item);
    if (!err) {
        description->record = item.record;
        if (item.record.file.is_inline)
            description->inline_bytes = item.record.file.inline_len;
        else
            err = walk_keys(volume, FS_KEY_DATA, ino, description);
        if (!err && !S_ISDIR(item.record.mode))
            err = fs_policy_choice_of_key(volume, &item.key, &description->choice);
    }
    if (!err && (item.record.flags & FS_RECORD_XATTRS))
        err = walk_keys(volume, FS_KEY_XATTR, ino, description);
    fs_lock_drop(volume->locks, &locks);
    return err;
}

/* A string of JSON. Names are bytes: what is not ASCII is taken for UTF-8. */
static void add_string(struct fs_text *text, const char *string)
{
    fs_text_add(text, "\"");
    for (const char *at = string; *at; at++) {
        if (*at == '"' || *at == '\\')
            fs_text_add(text, "\\%c", *at);
        else if ((unsigned char)*at < ' ' || *at == '\177')
            fs_text_add(text, "\\u%04x", (unsigned)*at);
        else
            fs_text_add(text, "%c", *at);
    }
    fs_text_add(text, "\"");
}

/* {"codec": {"value": "zstd:9", "pattern": "*.log"}, ...}: what is decided, and by which policy. */
static void add_policies(struct fs_text *text, const struct fs_policies *policies,
                         const struct fs_policy_choice *choice)
{
    bool any = false;
    fs_text_add(text, ",\"policy\":{");
    for (enum fs_policy_key key = 0; policies && key < FS_POLICY_KEY_COUNT; key++) {
        const struct fs_policy *const policy = fs_policy_for(policies, choice, key);
        char value[FS_POLICY_VALUE_TEXT];
        if (!policy)
            continue;
        fs_policy_value_text(policy, key, value);
        fs_text_add(text, "%s\"%s\":{\"value\":\"%s\",\"pattern\":", any ? "," : "",
                    fs_policy_key_name(key), value);
        add_string(text, policy->pattern);
        fs_text_add(text, "}");
        any = true;
    }
    fs_text_add(text, "}");
}

int fs_describe_json(struct fs_volume *volume, uint64_t ino, char *out, size_t cap)
{
    struct fs_description d;
    struct fs_text text = {.out = out, .cap = cap};
    const int err = fs_describe(volume, ino, &d);
    if (err)
        return err;
    fs_text_add(
        &text,
        "{\"inode\":%" PRIu64 ",\"size\":%" PRIu64 ",\"allocated_bytes\":%" PRIu64
        ",\"inline_bytes\":%" PRIu64 ",\"packed_count\":%" PRIu64 ",\"packed_bytes\":%" PRIu64
        ",\"extent_count\":%" PRIu64 ",\"extent_bytes\":%" PRIu64 ",\"stored_bytes\":%" PRIu64
        ",\"unwritten_bytes\":%" PRIu64 ",\"extents_none\":%" PRIu64 ",\"extents_lz4\":%" PRIu64
        ",\"extents_zstd\":%" PRIu64 ",\"xattr_count\":%" PRIu64,
        ino, d.record.file.size, d.record.file.blocks * FS_SECTOR_BYTES, d.inline_bytes,
        d.packed_count, d.packed_bytes, d.extent_count, d.extent_bytes, d.stored_bytes,
        d.unwritten_bytes, d.extents_by_codec[KV_CODEC_NONE], d.extents_by_codec[KV_CODEC_LZ4],
        d.extents_by_codec[KV_CODEC_ZSTD], d.xattr_count);
    add_policies(&text, fs_volume_policies(volume), &d.choice);
    fs_text_add(&text, "}");
    return (int)text.length;
}
