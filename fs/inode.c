/*
 * fs/inode.c: fetch an inode, change it.
 *
 * Invariant  an inode's record stands under exactly one key: the D key of its only name, the
 *            I key of a file with several names (it stays there when names go again), or the
 *            O key of what has none.
 * Locks      the callers hold them.
 */
#include "fs/inode.h"

#include "fs/expiry.h"
#include "fs/xattr.h"

int fs_record_load(struct fs_volume *volume, const struct fs_key *key, struct fs_record *record)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    int err = kv_get(volume->store, key->bytes, key->length, value, sizeof value, &length);
    if (err == -ERANGE)
        return -EUCLEAN;
    return err ? err : fs_record_decode(value, length, record);
}

int fs_item_load(struct fs_volume *volume, uint64_t ino, struct fs_item *item)
{
    int err = fs_inode_table_key(volume->table, ino, &item->key);
    if (err)
        return err;
    err = fs_record_load(volume, &item->key, &item->record);
    if (err)
        return err == -ENOENT ? -EUCLEAN : err;
    return item->record.file.ino == ino ? 0 : -EUCLEAN;
}

int fs_item_load_first(struct fs_volume *volume, uint64_t ino, struct fs_item *item)
{
    const struct fs_record *left = fs_lock_left(volume->locks, ino);
    if (!left)
        return fs_item_load(volume, ino, item);
    const int err = fs_inode_table_key(volume->table, ino, &item->key);
    if (!err)
        item->record = *left;
    return err;
}

int fs_item_find(struct fs_volume *volume, uint64_t directory, const char *name, size_t name_len,
                 struct fs_item *item)
{
    const int err = fs_item_find_any(volume, directory, name, name_len, item);
    return !err && fs_is_expired(volume, &item->record) ? -ENOENT : err;
}

int fs_item_find_any(struct fs_volume *volume, uint64_t directory, const char *name,
                     size_t name_len, struct fs_item *item)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    fs_key_entry(&item->key, directory, name, name_len);
    int err =
        kv_get(volume->store, item->key.bytes, item->key.length, value, sizeof value, &length);
    if (err)
        return err == -ERANGE ? -EUCLEAN : err;

    struct fs_entry entry;
    err = fs_entry_decode(value, length, &entry);
    if (err)
        return err;
    if (!entry.is_link)
        return fs_record_decode(value, length, &item->record);

    fs_key_ino(&item->key, FS_KEY_INODE, entry.ino);
    err = fs_record_load(volume, &item->key, &item->record);
    if (err)
        return err == -ENOENT ? -EUCLEAN : err;
    if (item->record.file.ino != entry.ino || (item->record.mode & S_IFMT) != entry.type)
        return -EUCLEAN;
    return 0;
}

int fs_entry_peek(struct fs_volume *volume, uint64_t directory, const char *name, size_t name_len,
                  uint64_t *ino)
{
    struct fs_key key;
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    fs_key_entry(&key, directory, name, name_len);
    *ino = 0;
    int err = kv_get(volume->store, key.bytes, key.length, value, sizeof value, &length);
    if (err)
        return err == -ENOENT ? 0 : err == -ERANGE ? -EUCLEAN : err;
    struct fs_entry entry;
    err = fs_entry_decode(value, length, &entry);
    if (err)
        return err;
    *ino = entry.ino;
    return fs_entry_is_expired(volume, &entry) ? -EKEYEXPIRED : 0;
}

int fs_key_exists(struct fs_volume *volume, const struct fs_key *key)
{
    size_t length;
    const int err = kv_get(volume->store, key->bytes, key->length, NULL, 0, &length);
    return err == -ERANGE ? 0 : err;
}

int fs_change_put(struct fs_data_change *change, const struct fs_item *item)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    const size_t length = fs_record_encode(&item->record, value);
    return kv_batch_put(change->batch, item->key.bytes, item->key.length, value, length);
}

int fs_change_put_link(struct fs_data_change *change, const struct fs_key *key,
                       const struct fs_record *record)
{
    struct fs_disk_link link;
    fs_link_encode(record->file.ino, record->mode, &link);
    return kv_batch_put(change->batch, key->bytes, key->length, &link, sizeof link);
}

int fs_change_put_parent(struct fs_data_change *change, uint64_t ino, uint64_t directory,
                         const char *name, size_t name_len)
{
    struct fs_key key;
    uint8_t value[8 + FS_NAME_MAX];
    fs_key_ino(&key, FS_KEY_PARENT, ino);
    const size_t length = fs_parent_encode(directory, name, name_len, value);
    return kv_batch_put(change->batch, key.bytes, key.length, value, length);
}

int fs_directory_parent(struct fs_volume *volume, uint64_t directory, uint64_t *parent)
{
    if (directory == FS_ROOT_INO) {
        *parent = FS_ROOT_INO;
        return 0;
    }
    struct fs_key key;
    uint8_t value[8 + FS_NAME_MAX];
    size_t length, name_len;
    const char *name;
    fs_key_ino(&key, FS_KEY_PARENT, directory);
    const int err = kv_get(volume->store, key.bytes, key.length, value, sizeof value, &length);
    if (err)
        return err == -ERANGE || err == -ENOENT ? -EUCLEAN : err;
    return fs_parent_decode(value, length, parent, &name, &name_len);
}

int fs_change_del(struct fs_data_change *change, const struct fs_key *key)
{
    return kv_batch_del(change->batch, key->bytes, key->length);
}

int fs_change_del_ino(struct fs_data_change *change, enum fs_key_type type, uint64_t ino)
{
    struct fs_key key;
    fs_key_ino(&key, type, ino);
    return fs_change_del(change, &key);
}

int fs_change_drop_name(struct fs_data_change *change, struct fs_item *item, int64_t now,
                        struct fs_inode_move *move)
{
    struct fs_record *record = &item->record;
    const bool is_directory = S_ISDIR(record->mode);
    if (record->nlink == 0)
        return -EUCLEAN;
    record->nlink = is_directory ? 0 : record->nlink - 1;
    record->ctime_ns = now;
    if (record->nlink > 0) /* so it stands under its I key, and stays there */
        return item->key.bytes[0] == FS_KEY_INODE ? fs_change_put(change, item) : -EUCLEAN;

    int err = 0;
    if (item->key.bytes[0] == FS_KEY_INODE)
        err = fs_change_del(change, &item->key);
    if (!err)
        err = fs_change_end_expiry(change, record);
    if (!err && is_directory)
        err = fs_change_del_ino(change, FS_KEY_PARENT, record->file.ino);
    fs_key_ino(&item->key, FS_KEY_ORPHAN, record->file.ino);
    if (!err)
        err = fs_change_put(change, item);
    if (!err)
        err = fs_inode_table_reserve(record->file.ino, &item->key, move);
    if (!err)
        fs_inode_table_hint(move, record->file.blocks);
    return err;
}

static bool keeps_setgid(const struct fs_volume *volume, const struct fs_record *record)
{
    return !(record->mode & S_IXGRP) &&
           (!volume->keeps_setgid || volume->keeps_setgid(record->gid));
}

int fs_change_kill_privileges(struct fs_volume *volume, struct fs_data_change *change,
                              struct fs_item *item, bool kill_mode_bits)
{
    struct fs_record *record = &item->record;
    if (kill_mode_bits && !S_ISDIR(record->mode)) {
        if (!KV_PLANT(setuid_kept))
            record->mode &= ~(uint32_t)S_ISUID;
        if ((record->mode & S_ISGID) && !keeps_setgid(volume, record))
            record->mode &= ~(uint32_t)S_ISGID;
    }
    if (!(record->flags & FS_RECORD_CAPABILITY))
        return 0;

    return fs_xattr_remove(change->store, record->file.ino, &record->flags, FS_XATTR_CAPABILITY,
                           change->batch);
}

int fs_change_apply(struct fs_volume *volume, struct fs_data_change *change, unsigned flags)
{
    if (volume->read_only) {
        fs_data_change_abort(change);
        return -EROFS;
    }
    return fs_data_change_apply(change, flags, NULL);
}

int fs_directory_load(struct fs_volume *volume, uint64_t directory, struct fs_item *item)
{
    int err = fs_item_load_first(volume, directory, item);
    if (err)
        return err;
    if (!S_ISDIR(item->record.mode))
        return -ENOTDIR;
    return item->record.nlink == 0 ? -ENOENT : 0;
}

int fs_directory_is_empty(struct fs_volume *volume, uint64_t directory)
{
    struct fs_key prefix;
    struct kv_cursor *cursor;
    fs_key_entries(&prefix, directory);
    int err = kv_cursor_open_prefix(volume->store, prefix.bytes, prefix.length, &cursor);
    if (err)
        return err;
    bool has_expired = false;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        size_t length;
        const void *value;
        struct fs_entry entry;
        err = kv_cursor_value(cursor, &value, &length);
        if (err || fs_entry_decode(value, length, &entry) || !fs_entry_is_expired(volume, &entry))
            break;
        has_expired = true;
    }
    kv_cursor_close(cursor);
    if (err == -ENOENT)
        return has_expired ? -EKEYEXPIRED : 0;
    return err ? err : -ENOTEMPTY;
}

struct fs_record fs_record_new(const struct fs_caller *caller, uint64_t ino, uint32_t mode,
                               const struct fs_record *parent)
{
    const int64_t now = fs_time_now();
    struct fs_record record = {
        .file = {.ino = ino, .is_inline = true},
        .atime_ns = now,
        .mtime_ns = now,
        .ctime_ns = now,
        .btime_ns = now,
        .mode = mode,
        .uid = caller->uid,
        .gid = caller->gid,
        .nlink = S_ISDIR(mode) ? 2 : 1,
        .codec = parent->codec,
        .codec_level = parent->codec_level,
    };
    if (parent->mode & S_ISGID) {
        record.gid = parent->gid;
        if (S_ISDIR(mode))
            record.mode |= S_ISGID;
    }
    return record;
}

const struct kv_codec_spec *fs_record_codec(const struct fs_record *record,
                                            struct kv_codec_spec *spec)
{
    if (record->codec == FS_CODEC_INHERIT)
        return NULL;
    *spec = (struct kv_codec_spec){.codec = record->codec, .level = record->codec_level};
    return spec;
}
