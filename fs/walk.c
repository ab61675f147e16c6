/*
 * fs/walk.c: the entries of a directory one after the other, from either end.
 *
 * Invariant  a cursor of the store is all there is: nothing is collected.
 */
#include "fs/walk.h"

#include "fs/expiry.h"

/* The inode that an entry leads to. */
static int read_entry(struct fs_volume *volume, struct kv_cursor *cursor, struct fs_record *record)
{
    const void *value;
    size_t length;
    struct fs_entry entry;
    struct fs_key key;
    uint8_t linked[FS_RECORD_BYTES_MAX];
    int err = kv_cursor_value(cursor, &value, &length);
    if (!err)
        err = fs_entry_decode(value, length, &entry);
    if (err)
        return err;
    if (!entry.is_link)
        return fs_record_decode(value, length, record);
    fs_key_ino(&key, FS_KEY_INODE, entry.ino);
    err = kv_get(volume->store, key.bytes, key.length, linked, sizeof linked, &length);
    if (err)
        return err == -ENOENT || err == -ERANGE ? -EUCLEAN : err;
    return fs_record_decode(linked, length, record);
}

static int visit_entry(struct fs_volume *volume, struct kv_cursor *cursor, fs_walk_fn *visit,
                       void *context)
{
    size_t key_len, name_len;
    const void *key = kv_cursor_key(cursor, &key_len);
    const char *name;
    uint64_t directory;
    struct fs_record record;
    int err = fs_key_entry_parse(key, key_len, &directory, &name, &name_len);
    if (!err)
        err = read_entry(volume, cursor, &record);
    if (!err && fs_is_expired(volume, &record))
        return 0;
    return err ? err : visit(context, name, name_len, &record);
}

int fs_walk(struct fs_volume *volume, uint64_t directory, bool reverse, const char *from,
            size_t from_len, fs_walk_fn *visit, void *context)
{
    struct fs_key prefix, start;
    struct kv_cursor *cursor;
    from_len = kv_min_u64(from_len, FS_NAME_MAX);
    fs_key_entries(&prefix, directory);
    fs_key_entry(&start, directory, from, from_len);
    int err = kv_cursor_open_prefix(volume->store, prefix.bytes, prefix.length, &cursor);
    if (err)
        return err;
    kv_cursor_walk_on(cursor);
    if (from_len == 0)
        err = reverse ? kv_cursor_last(cursor) : kv_cursor_first(cursor);
    else
        err = reverse ? kv_cursor_seek_before(cursor, start.bytes, start.length)
                      : kv_cursor_seek(cursor, start.bytes, start.length);
    int ended = 0;
    while (!err && !(ended = visit_entry(volume, cursor, visit, context)))
        err = reverse ? kv_cursor_prev(cursor) : kv_cursor_next(cursor);
    kv_cursor_close(cursor);
    if (ended)
        return ended;
    return err == -ENOENT ? 0 : err;
}
