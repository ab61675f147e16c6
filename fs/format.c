/*
 * fs/format.c: an empty filesystem.
 *
 * Owns nothing; writes the S key and the root's I key.
 */
#include "fs/format.h"

#include "fs/record.h"

static int put_root(struct kv_batch *batch, uint32_t uid, uint32_t gid, uint32_t mode)
{
    const int64_t now = fs_time_now();
    const struct fs_record root = {
        .file = {.ino = FS_ROOT_INO, .is_inline = true},
        .atime_ns = now,
        .mtime_ns = now,
        .ctime_ns = now,
        .btime_ns = now,
        .mode = S_IFDIR | (mode & 07777u),
        .uid = uid,
        .gid = gid,
        .nlink = 2,
        .codec = FS_CODEC_INHERIT,
    };
    uint8_t value[FS_RECORD_BYTES_MAX];
    struct fs_key key;
    fs_key_ino(&key, FS_KEY_INODE, FS_ROOT_INO);
    return kv_batch_put(batch, key.bytes, key.length, value, fs_record_encode(&root, value));
}

int fs_format(struct kv_store *store, uint32_t uid, uint32_t gid, uint32_t mode)
{
    struct fs_key key;
    struct fs_disk_volume disk;
    size_t length;
    fs_key_volume(&key);
    int err = kv_get(store, key.bytes, key.length, NULL, 0, &length);
    if (err == 0 || err == -ERANGE)
        return -EEXIST;
    if (err != -ENOENT)
        return err;

    struct kv_batch *batch = kv_batch_new();
    if (!batch)
        return -ENOMEM;
    const struct fs_volume_record record = {.next_ino = FS_ROOT_INO + 1};
    fs_volume_record_encode(&record, &disk);
    err = kv_batch_put(batch, key.bytes, key.length, &disk, sizeof disk);
    if (!err)
        err = put_root(batch, uid, gid, mode);
    if (!err)
        err = kv_apply(store, batch, 0, NULL);
    kv_batch_free(batch);
    return err;
}
