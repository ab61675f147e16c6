/*
 * tests/faults/fuzz/fuzz_record.c: keys and values of the filesystem (fs/record.h).
 *
 * Input      length of the key(1), key, value. Each is given to every decoder; what one takes
 *            must survive being encoded again.
 */
#include "tests/faults/fuzz/fuzz.h"

#include "fs/record.h"
#include "fs/volume.h"

static void check_keys(const uint8_t *key, size_t length)
{
    static const enum fs_key_type types[] = {FS_KEY_INODE, FS_KEY_ORPHAN, FS_KEY_PARENT,
                                             FS_KEY_DATA, FS_KEY_XATTR};
    uint64_t ino;
    const char *name;
    size_t name_len;
    struct fs_key again;
    if (!fs_key_entry_parse(key, length, &ino, &name, &name_len)) {
        KV_ASSERT(name_len > 0);
        KV_ASSERT(name_len <= FS_NAME_MAX);
        KV_ASSERT(fs_name_check(name, name_len) == 0);
        fs_key_entry(&again, ino, name, name_len);
        KV_ASSERT(again.length == length);
        KV_ASSERT(memcmp(again.bytes, key, length) == 0);
    }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (fs_key_ino_parse(key, length, types[i], &ino))
            continue;
        fs_key_ino(&again, types[i], ino);
        KV_ASSERT(again.length <= length);
        KV_ASSERT(memcmp(again.bytes, key, again.length) == 0);
    }
    kv_ignore(fs_name_check((const char *)key, length));
}

static void check_inode(const uint8_t *value, size_t length)
{
    struct fs_record record, again;
    uint8_t bytes[FS_RECORD_BYTES_MAX];
    if (fs_record_decode(value, length, &record))
        return;
    KV_ASSERT(record.file.inline_len <= FS_INLINE_MAX);
    KV_ASSERT(record.file.size <= FS_SIZE_MAX);
    KV_ASSERT(record.file.ino > 0);
    KV_ASSERT(record.file.ino <= FS_INO_MAX);
    const size_t used = fs_record_encode(&record, bytes);
    KV_ASSERT(used <= sizeof bytes);
    KV_ASSERT(fs_record_decode(bytes, used, &again) == 0);
    KV_ASSERT(again.file.size == record.file.size);
    KV_ASSERT(again.file.blocks == record.file.blocks);
    KV_ASSERT(again.file.inline_len == record.file.inline_len);
    KV_ASSERT(!memcmp(again.file.inline_data, record.file.inline_data, record.file.inline_len));
    KV_ASSERT(again.mode == record.mode);
    KV_ASSERT(again.flags == record.flags);
    KV_ASSERT(again.rdev == record.rdev);
    KV_ASSERT(again.expiry_ns == record.expiry_ns);
    struct stat stat;
    fs_record_stat(&record, &stat);
    KV_ASSERT(stat.st_size >= 0);
    KV_ASSERT(stat.st_atim.tv_nsec >= 0);
    KV_ASSERT(stat.st_atim.tv_nsec < 1000000000);
}

static void check_value(const uint8_t *value, size_t length)
{
    struct fs_entry entry;
    struct fs_record record;
    struct fs_volume_record volume;
    uint64_t parent;
    const char *name;
    size_t name_len;
    check_inode(value, length);
    /* The short way to an entry never says more than the long one. */
    if (!fs_entry_decode(value, length, &entry) && !entry.is_link &&
        !fs_record_decode(value, length, &record)) {
        KV_ASSERT(entry.ino == record.file.ino);
        KV_ASSERT(entry.type == (record.mode & S_IFMT));
    }
    if (!fs_parent_decode(value, length, &parent, &name, &name_len)) {
        uint8_t bytes[8 + FS_NAME_MAX];
        KV_ASSERT(name_len <= FS_NAME_MAX);
        KV_ASSERT(fs_parent_encode(parent, name, name_len, bytes) == length);
        KV_ASSERT(memcmp(bytes, value, length) == 0);
    }
    if (!fs_volume_record_decode(value, length, &volume)) {
        struct fs_disk_volume disk;
        fs_volume_record_encode(&volume, &disk);
        KV_ASSERT(fs_volume_record_decode(&disk, sizeof disk, &volume) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct fuzz_input input = {bytes, length};
    const uint8_t key_len = fuzz_u8(&input);
    const struct fuzz_input key = fuzz_part(&input, key_len);
    uint8_t *const key_bytes = fuzz_copy(&key);
    uint8_t *const value = fuzz_copy(&input);
    check_keys(key_bytes, key.left);
    check_value(value, input.left);
    free(value);
    free(key_bytes);
    return 0;
}
