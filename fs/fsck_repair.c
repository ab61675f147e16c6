/*
 * fs/fsck_repair.c: mending what the passes of fs/fsck.c have found.
 *
 * Owns       lost+found, and the keys whose inodes wait to go there or for another number.
 * Invariant  called only for a finding that is to be mended. A mend is a batch of its own,
 *            applied at once, so a run that breaks off leaves what it has mended.
 * Locks      none: nothing else may use the store.
 */
#include <stdio.h>

#include "fs/fsck_run.h"

#define LOST_FOUND_MODE 0700u
#define NAME_TRIES      1000 /* names tried in lost+found before giving up */

/* ---- batches, lost+found ------------------------------------------------------------ */

int fs_fsck_commit(struct fs_fsck *c)
{
    return fs_data_change_apply(&c->change, KV_APPLY_URGENT, NULL);
}

int fs_fsck_put_record(struct fs_fsck *c, const void *key, size_t key_len,
                       const struct fs_record *record)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    return kv_batch_put(c->change.batch, key, key_len, value, fs_record_encode(record, value));
}

int fs_fsck_delete_now(struct fs_fsck *c, const void *key, size_t key_len)
{
    const int err = kv_batch_del(c->change.batch, key, key_len);
    return err ? err : fs_fsck_commit(c);
}

int fs_fsck_put_table(struct fs_fsck *c, const struct fs_fsck_item *item,
                      const struct fs_data_record *record, const uint8_t *table)
{
    uint8_t head[KV_BLOB_HEAD_MAX + KV_BLOB_TABLE_MAX];
    const size_t head_len = item->value_len - sizeof record->blob;
    const size_t at = (size_t)(record->table - (const uint8_t *)item->value);
    KV_ASSERT(at <= head_len);
    memcpy(head, item->value, at);
    memcpy(head + at, table, head_len - at);
    const int err = kv_batch_put_blob(c->change.batch, item->key, item->key_len, head, head_len,
                                      &record->blob, KV_BLOB_SHARED);
    return err ? err : fs_fsck_commit(c);
}

int fs_fsck_put_parent(struct fs_fsck *c, uint64_t ino, uint64_t parent, const char *name,
                       size_t name_len)
{
    struct fs_key key;
    uint8_t value[8 + FS_NAME_MAX];
    fs_key_ino(&key, FS_KEY_PARENT, ino);
    return kv_batch_put(c->change.batch, key.bytes, key.length, value,
                        fs_parent_encode(parent, name, name_len, value));
}

int fs_fsck_put_volume(struct fs_fsck *c)
{
    struct fs_key key;
    struct fs_disk_volume disk;
    fs_key_volume(&key);
    fs_volume_record_encode(&c->volume, &disk);
    return kv_batch_put(c->change.batch, key.bytes, key.length, &disk, sizeof disk);
}

struct fs_record fs_fsck_new_record(uint64_t ino, uint32_t mode)
{
    const int64_t now = fs_time_now();
    return (struct fs_record){
        .file = {.ino = ino, .is_inline = true},
        .atime_ns = now,
        .mtime_ns = now,
        .ctime_ns = now,
        .btime_ns = now,
        .mode = mode,
        .nlink = S_ISDIR(mode) ? 2 : 1,
        .codec = FS_CODEC_INHERIT,
    };
}

/* What stands under a D key: 0, -ENOENT, or -EUCLEAN. */
static int get_entry(struct fs_fsck *c, const struct fs_key *key, struct fs_entry *entry)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    const int err = kv_get(c->store, key->bytes, key->length, value, sizeof value, &length);
    if (err)
        return err == -ERANGE ? -EUCLEAN : err;
    return fs_entry_decode(value, length, entry);
}

/* Does anything stand under a number that no record has? */
static int is_ownerless(struct fs_fsck *c, uint64_t ino, bool *found)
{
    static const enum fs_key_type types[] = {FS_KEY_DATA, FS_KEY_XATTR, FS_KEY_ENTRY};
    int err = 0;
    *found = false;
    for (size_t i = 0; !err && !*found && i < sizeof types / sizeof *types; i++) {
        struct fs_key prefix;
        fs_key_ino(&prefix, types[i], ino);
        err = fs_fsck_has_prefix(c, &prefix, found);
    }
    return err;
}

int fs_fsck_take_ino(struct fs_fsck *c, uint64_t *ino)
{
    bool found = true;
    *ino = kv_max_u64(c->volume.next_ino, c->greatest_ino + 1);
    while (found) { /* as often as there are keys, all in all: no number is tried again */
        if (*ino >= FS_INO_MAX)
            return -ENOSPC;
        const int err = is_ownerless(c, *ino, &found);
        if (err)
            return err;
        *ino += found;
    }
    c->volume.next_ino = *ino + 1;
    c->greatest_ino = *ino;
    return fs_fsck_put_volume(c);
}

/* Put an empty lost+found into the root, under the first name that is free. */
static int make_lost_found(struct fs_fsck *c, const char *name)
{
    uint64_t ino;
    struct fs_key key;
    int err = fs_fsck_take_ino(c, &ino);
    if (err)
        return err;
    const struct fs_record record = fs_fsck_new_record(ino, S_IFDIR | LOST_FOUND_MODE);
    fs_key_entry(&key, FS_ROOT_INO, name, strlen(name));
    err = fs_fsck_put_record(c, key.bytes, key.length, &record);
    if (!err)
        err = fs_fsck_put_parent(c, ino, FS_ROOT_INO, name, strlen(name));
    if (!err)
        err = fs_fsck_commit(c);
    if (!err)
        c->lost_found = ino;
    return err;
}

static int find_lost_found(struct fs_fsck *c)
{
    char name[sizeof FS_FSCK_LOST_FOUND + 16] = FS_FSCK_LOST_FOUND;
    for (int i = 1; !c->lost_found && i < NAME_TRIES; i++) {
        struct fs_key key;
        struct fs_entry entry;
        fs_key_entry(&key, FS_ROOT_INO, name, strlen(name));
        const int err = get_entry(c, &key, &entry);
        if (err == -ENOENT)
            return make_lost_found(c, name);
        if (err && err != -EUCLEAN)
            return err;
        if (!err && S_ISDIR(entry.type))
            c->lost_found = entry.ino;
        snprintf(name, sizeof name, "%s~%d", FS_FSCK_LOST_FOUND, i);
    }
    return c->lost_found ? 0 : -EEXIST;
}

/* A free name in lost+found for an inode. */
static int lost_name(struct fs_fsck *c, uint64_t ino, char name[48], struct fs_key *key)
{
    int err = find_lost_found(c);
    for (int i = 0; !err && i < NAME_TRIES; i++) {
        size_t length;
        snprintf(name, 48, i ? "#%llu~%d" : "#%llu", fs_fsck_ull(ino), i);
        fs_key_entry(key, c->lost_found, name, strlen(name));
        err = kv_get(c->store, key->bytes, key->length, NULL, 0, &length);
        if (err == -ENOENT)
            return 0;
        err = err == -ERANGE ? 0 : err;
    }
    return err ? err : -EEXIST;
}

int fs_fsck_put_lost(struct fs_fsck *c, uint64_t ino, bool is_directory, const void *value,
                     size_t value_len)
{
    char name[48];
    struct fs_key key;
    int err = lost_name(c, ino, name, &key);
    if (!err)
        err = kv_batch_put(c->change.batch, key.bytes, key.length, value, value_len);
    if (!err && is_directory)
        err = fs_fsck_put_parent(c, ino, c->lost_found, name, strlen(name));
    return err;
}

/* Move what stands under a key (an entry of either kind, an I or O record) to lost+found. */
static int rehome(struct fs_fsck *c, const void *key, size_t key_len)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    struct fs_entry entry;
    int err = kv_get(c->store, key, key_len, value, sizeof value, &length);
    if (err == -ENOENT) /* another mend took it */
        return 0;
    if (err && err != -ERANGE)
        return err;
    if (err || fs_entry_decode(value, length, &entry))
        return fs_fsck_delete_now(c, key, key_len);
    struct fs_record record;
    if (!entry.is_link && fs_record_decode(value, length, &record) == 0) {
        record.nlink = S_ISDIR(record.mode) ? record.nlink : 1;
        if (!S_ISDIR(record.mode))
            record.expiry_ns = 0; /* what was found again shall not go by itself */
        length = fs_record_encode(&record, value);
    }
    err = fs_fsck_put_lost(c, entry.ino, S_ISDIR(entry.type), value, length);
    return err ? err : fs_fsck_delete_now(c, key, key_len);
}

/* Keep a copy of a key. */
static int keep_key(struct fs_fsck_keys *keys, const void *key, size_t key_len)
{
    if (keys->count == keys->cap) {
        const size_t cap = keys->cap ? keys->cap * 2 : 16;
        struct fs_fsck_key **const grown =
            reallocarray(keys->keys, cap, sizeof(struct fs_fsck_key *));
        if (!grown)
            return -ENOMEM;
        keys->keys = grown;
        keys->cap = cap;
    }
    struct fs_fsck_key *const kept = malloc(sizeof *kept + key_len);
    if (!kept)
        return -ENOMEM;
    kept->length = key_len;
    memcpy(kept->bytes, key, key_len);
    keys->keys[keys->count++] = kept;
    return 0;
}

void fs_fsck_keys_clear(struct fs_fsck_keys *keys)
{
    for (size_t i = 0; i < keys->count; i++)
        free(keys->keys[i]);
    free(keys->keys);
    *keys = (struct fs_fsck_keys){0};
}

int fs_fsck_rehome_later(struct fs_fsck *c, const void *key, size_t key_len)
{
    return keep_key(&c->homeless, key, key_len);
}

int fs_fsck_rehome_all(struct fs_fsck *c)
{
    int err = 0;
    for (size_t i = 0; !err && i < c->homeless.count; i++)
        err = rehome(c, c->homeless.keys[i]->bytes, c->homeless.keys[i]->length);
    return err;
}

/* ---- another number ------------------------------------------------------------------ */

/* Each record in a batch of its own: whoever breaks off leaves it under one of the two numbers. */
static int move_content(struct fs_fsck *c, const struct fs_fsck_item *item, uint64_t to)
{
    struct fs_data_record r;
    uint8_t key[FS_DATA_KEY_BYTES];
    struct kv_batch *const batch = c->change.batch;
    if (fs_data_record_decode(&c->data, item->key, item->key_len, item->value, item->value_len, &r))
        return fs_fsck_delete_now(c, item->key, item->key_len);
    fs_data_key(key, to, r.offset);
    int err;
    if (r.kind == FS_DATA_EXTENT)
        err = kv_batch_put_blob(batch, key, sizeof key, item->value,
                                item->value_len - sizeof r.blob, &r.blob, KV_BLOB_SHARED);
    else
        err = kv_batch_put(batch, key, sizeof key, item->value, item->value_len);
    if (!err)
        err = kv_batch_del(batch, item->key, item->key_len);
    if (!err)
        err = fs_fsck_commit(c);
    if (err == -ENOENT) /* a value that looks like it, but holds no blob */
        err = fs_fsck_delete_now(c, item->key, item->key_len);
    return err;
}

int fs_fsck_move_contents(struct fs_fsck *c, uint64_t from, uint64_t to)
{
    struct fs_key prefix;
    struct kv_cursor *cursor;
    fs_key_ino(&prefix, FS_KEY_DATA, from);
    int err = kv_cursor_open_prefix(c->store, prefix.bytes, prefix.length, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        struct fs_fsck_item item;
        err = fs_fsck_read_item(cursor, &item);
        if (!err)
            err = move_content(c, &item, to);
        if (err)
            break;
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

/* Copy the attributes of an inode to another number; keep: do not take them from the old one. */
static int copy_attributes(struct fs_fsck *c, uint64_t from, uint64_t to, bool keep)
{
    struct fs_key prefix;
    struct kv_cursor *cursor;
    fs_key_ino(&prefix, FS_KEY_XATTR, from);
    int err = kv_cursor_open_prefix(c->store, prefix.bytes, prefix.length, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        struct fs_fsck_item item;
        uint8_t key[KV_KEY_MAX];
        err = fs_fsck_read_item(cursor, &item);
        if (err)
            break;
        fs_key_ino(&prefix, FS_KEY_XATTR, to);
        memcpy(key, item.key, item.key_len);
        memcpy(key, prefix.bytes, prefix.length);
        err = kv_batch_put(c->change.batch, key, item.key_len, item.value, item.value_len);
        if (!err && !keep)
            err = kv_batch_del(c->change.batch, item.key, item.key_len);
        if (!err)
            err = fs_fsck_commit(c);
        if (err)
            break;
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

static int renumber(struct fs_fsck *c, const void *key, size_t key_len)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    struct fs_record record;
    uint64_t ino;
    int err = kv_get(c->store, key, key_len, value, sizeof value, &length);
    if (!err)
        err = fs_record_decode(value, length, &record);
    if (err) /* another mend took it */
        return err == -ENOENT || err == -ERANGE || err == -EUCLEAN ? 0 : err;
    const uint64_t old = record.file.ino;
    err = fs_fsck_take_ino(c, &ino);
    if (err)
        return err;
    record.file.ino = ino;
    record.nlink = 1;
    err = fs_fsck_put_record(c, key, key_len, &record);
    if (!err)
        err = fs_fsck_commit(c);
    if (!err && !record.file.is_inline)
        err = fs_fsck_move_contents(c, old, ino);
    if (!err && record.flags)
        err = copy_attributes(c, old, ino, !fs_ino_set_has(&c->handed, old));
    return err ? err : fs_fsck_learn(c, &record);
}

int fs_fsck_renumber_later(struct fs_fsck *c, const void *key, size_t key_len)
{
    return keep_key(&c->twins, key, key_len);
}

int fs_fsck_renumber_all(struct fs_fsck *c)
{
    int err = 0;
    for (size_t i = 0; !err && i < c->twins.count; i++)
        err = renumber(c, c->twins.keys[i]->bytes, c->twins.keys[i]->length);
    return err;
}

/* ---- entries, directories, link counts --------------------------------------------- */

int fs_fsck_put_link(struct fs_fsck *c, const struct fs_fsck_item *item, uint64_t ino,
                     uint32_t type)
{
    struct fs_disk_link link;
    fs_link_encode(ino, type, &link);
    const int err = kv_batch_put(c->change.batch, item->key, item->key_len, &link, sizeof link);
    return err ? err : fs_fsck_commit(c);
}

/* The entry key that a directory's parent record names. -ENOENT: it names none. */
static int parent_key(struct fs_fsck *c, uint64_t ino, struct fs_key *key)
{
    struct fs_key stored;
    uint8_t value[8 + FS_NAME_MAX];
    size_t length, name_len;
    uint64_t parent;
    const char *name;
    fs_key_ino(&stored, FS_KEY_PARENT, ino);
    const int err = kv_get(c->store, stored.bytes, stored.length, value, sizeof value, &length);
    if (err)
        return err == -ERANGE ? -ENOENT : err;
    if (fs_parent_decode(value, length, &parent, &name, &name_len))
        return -ENOENT;
    fs_key_entry(key, parent, name, name_len);
    return 0;
}

int fs_fsck_directory_key(struct fs_fsck *c, uint64_t ino, struct fs_key *key)
{
    if (ino == FS_ROOT_INO) {
        fs_key_ino(key, FS_KEY_INODE, ino);
        return 0;
    }
    struct fs_entry entry;
    int err = parent_key(c, ino, key);
    if (!err)
        err = get_entry(c, key, &entry);
    if (err == -EUCLEAN || (!err && (entry.is_link || entry.ino != ino)))
        return -ENOENT;
    return err;
}

int fs_fsck_restore_directory(struct fs_fsck *c, uint64_t ino)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    const struct fs_record record = fs_fsck_new_record(ino, S_IFDIR | LOST_FOUND_MODE);
    const size_t length = fs_record_encode(&record, value);
    struct fs_key key;
    struct fs_entry entry;
    int err = parent_key(c, ino, &key);
    const bool has_parent = err == 0;
    if (!err)
        err = get_entry(c, &key, &entry);
    if (has_parent && err == -ENOENT)
        err = kv_batch_put(c->change.batch, key.bytes, key.length, value, length);
    else if (!err || err == -ENOENT || err == -EUCLEAN)
        err = fs_fsck_put_lost(c, ino, true, value, length);
    return err ? err : fs_fsck_commit(c);
}

int fs_fsck_store_nlink(struct fs_fsck *c, const struct fs_key *key, uint32_t nlink)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    struct fs_record record;
    int err = kv_get(c->store, key->bytes, key->length, value, sizeof value, &length);
    if (!err)
        err = fs_record_decode(value, length, &record);
    if (err) /* another mend took it */
        return err == -ENOENT || err == -EUCLEAN ? 0 : err;
    record.nlink = nlink;
    err = fs_fsck_put_record(c, key->bytes, key->length, &record);
    return err ? err : fs_fsck_commit(c);
}
