/*
 * fs/record.c: keys and values of the filesystem, to bytes and back.
 *
 * Invariant  what encode writes, decode accepts and gives back equal; decode trusts nothing.
 * Threads    any: no state.
 */
#include "fs/record.h"

static void start_key(struct fs_key *key, enum fs_key_type type, uint64_t number)
{
    key->bytes[0] = (uint8_t)type;
    kv_be64_put(key->bytes + 1, number);
    key->length = 9;
}

void fs_key_volume(struct fs_key *key)
{
    key->bytes[0] = FS_KEY_VOLUME;
    key->length = 1;
}

void fs_key_entry(struct fs_key *key, uint64_t directory, const char *name, size_t name_len)
{
    KV_ASSERT(name_len <= FS_NAME_MAX);
    start_key(key, FS_KEY_ENTRY, directory);
    memcpy(key->bytes + 9, name, name_len);
    key->length = (uint16_t)(9 + name_len);
}

void fs_key_entries(struct fs_key *key, uint64_t directory)
{
    start_key(key, FS_KEY_ENTRY, directory);
}

void fs_key_ino(struct fs_key *key, enum fs_key_type type, uint64_t ino)
{
    start_key(key, type, ino);
}

int fs_key_entry_parse(const void *bytes, size_t length, uint64_t *directory, const char **name,
                       size_t *name_len)
{
    const uint8_t *key = bytes;
    if (length < 10 || key[0] != FS_KEY_ENTRY)
        return -EUCLEAN;
    if (fs_name_check((const char *)key + 9, length - 9))
        return -EUCLEAN;
    *directory = kv_be64_take(key + 1);
    *name = (const char *)key + 9;
    *name_len = length - 9;
    return 0;
}

int fs_key_ino_parse(const void *bytes, size_t length, enum fs_key_type type, uint64_t *ino)
{
    const uint8_t *key = bytes;
    if (length < 9 || key[0] != (uint8_t)type)
        return -EUCLEAN;
    *ino = kv_be64_take(key + 1);
    return 0;
}

int fs_name_check(const char *name, size_t name_len)
{
    if (name_len > FS_NAME_MAX)
        return -ENAMETOOLONG;
    if (name_len == 0 || memchr(name, '/', name_len) || memchr(name, '\0', name_len))
        return -EINVAL;
    if (name[0] == '.' && (name_len == 1 || (name_len == 2 && name[1] == '.')))
        return -EINVAL;
    return 0;
}

size_t fs_record_encode(const struct fs_record *record, uint8_t out[FS_RECORD_BYTES_MAX])
{
    KV_ASSERT(record->file.inline_len <= FS_INLINE_MAX);
    KV_ASSERT((record->flags & ~FS_RECORD_FLAGS_KNOWN) == 0);

    struct fs_disk_record disk = {
        .kind = FS_DISK_INODE,
        .flags = (uint8_t)(record->flags | (record->file.is_inline ? 0u : FS_DISK_HAS_DATA) |
                           (record->rdev ? FS_DISK_HAS_RDEV : 0u) |
                           (record->expiry_ns ? FS_DISK_HAS_EXPIRY : 0u)),
        .mode = kv_le16_of((uint16_t)record->mode),
        .uid = kv_le32_of(record->uid),
        .gid = kv_le32_of(record->gid),
        .nlink = kv_le32_of(record->nlink),
        .ino = kv_le64_of(record->file.ino),
        .size = kv_le64_of(record->file.size),
        .blocks = kv_le64_of(record->file.blocks),
        .atime_ns = kv_le64_of((uint64_t)record->atime_ns),
        .mtime_ns = kv_le64_of((uint64_t)record->mtime_ns),
        .ctime_ns = kv_le64_of((uint64_t)record->ctime_ns),
        .btime_ns = kv_le64_of((uint64_t)record->btime_ns),
        .generation = kv_le32_of(record->generation),
        .codec = record->codec,
        .codec_level = record->codec_level,
        .inline_bytes = kv_le16_of(record->file.inline_len),
    };
    memcpy(out, &disk, sizeof disk);
    size_t used = sizeof disk;

    const uint64_t optional[2] = {record->rdev, record->expiry_ns};
    for (size_t i = 0; i < 2; i++) {
        if (!optional[i])
            continue;
        const kv_le64 field = kv_le64_of(optional[i]);
        memcpy(out + used, &field, sizeof field);
        used += sizeof field;
    }
    memcpy(out + used, record->file.inline_data, record->file.inline_len);
    return used + record->file.inline_len;
}

bool fs_mode_is_known(uint32_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFLNK:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK:
        return true;
    default:
        return false;
    }
}

/* What no sound record can say, whatever the rest of the image holds. */
static bool is_contradictory(const struct fs_record *record)
{
    const struct fs_file *file = &record->file;
    if (!fs_mode_is_known(record->mode) || file->ino == 0 || file->ino > FS_INO_MAX)
        return true;
    if (file->size > FS_SIZE_MAX || file->inline_len > file->size)
        return true;
    if (file->inline_len && !file->is_inline)
        return true;
    if (S_ISLNK(record->mode) && (file->size == 0 || file->size > FS_SYMLINK_MAX))
        return true;
    if (!S_ISREG(record->mode) && !S_ISLNK(record->mode) && (file->inline_len || !file->is_inline))
        return true;
    return record->codec > KV_CODEC_ZSTD && record->codec != FS_CODEC_INHERIT;
}

int fs_record_decode(const void *bytes, size_t length, struct fs_record *record)
{
    struct fs_disk_record disk;
    if (length < sizeof disk)
        return -EUCLEAN;
    memcpy(&disk, bytes, sizeof disk);
    if (disk.kind != FS_DISK_INODE || (disk.flags & ~(FS_RECORD_FLAGS_KNOWN | FS_DISK_HAS_DATA |
                                                      FS_DISK_HAS_RDEV | FS_DISK_HAS_EXPIRY)))
        return -EUCLEAN;

    uint64_t optional[2] = {0, 0};
    const bool present[2] = {disk.flags & FS_DISK_HAS_RDEV, disk.flags & FS_DISK_HAS_EXPIRY};
    size_t used = sizeof disk;
    for (size_t i = 0; i < 2; i++) {
        if (!present[i])
            continue;
        kv_le64 field;
        if (length - used < sizeof field)
            return -EUCLEAN;
        memcpy(&field, (const uint8_t *)bytes + used, sizeof field);
        optional[i] = kv_le64_get(field);
        used += sizeof field;
    }
    const uint16_t inline_bytes = kv_le16_get(disk.inline_bytes);
    if (inline_bytes > FS_INLINE_MAX || length - used != inline_bytes)
        return -EUCLEAN;

    record->file.ino = kv_le64_get(disk.ino);
    record->file.size = kv_le64_get(disk.size);
    record->file.blocks = kv_le64_get(disk.blocks);
    record->atime_ns = (int64_t)kv_le64_get(disk.atime_ns);
    record->mtime_ns = (int64_t)kv_le64_get(disk.mtime_ns);
    record->ctime_ns = (int64_t)kv_le64_get(disk.ctime_ns);
    record->btime_ns = (int64_t)kv_le64_get(disk.btime_ns);
    record->rdev = optional[0];
    record->expiry_ns = optional[1];
    record->mode = kv_le16_get(disk.mode);
    record->uid = kv_le32_get(disk.uid);
    record->gid = kv_le32_get(disk.gid);
    record->nlink = kv_le32_get(disk.nlink);
    record->generation = kv_le32_get(disk.generation);
    record->flags = disk.flags & FS_RECORD_FLAGS_KNOWN;
    record->codec = disk.codec;
    record->codec_level = disk.codec_level;
    record->file.is_inline = !(disk.flags & FS_DISK_HAS_DATA);
    record->file.inline_len = inline_bytes;
    memcpy(record->file.inline_data, (const uint8_t *)bytes + used, inline_bytes);
    return is_contradictory(record) ? -EUCLEAN : 0;
}

void fs_link_encode(uint64_t ino, uint32_t type, struct fs_disk_link *out)
{
    *out = (struct fs_disk_link){
        .kind = FS_DISK_LINK,
        .type = kv_le32_of(type & S_IFMT),
        .ino = kv_le64_of(ino),
    };
}

static int decode_link(const void *bytes, size_t length, struct fs_entry *entry)
{
    struct fs_disk_link disk;
    if (length != sizeof disk)
        return -EUCLEAN;
    memcpy(&disk, bytes, sizeof disk);
    *entry = (struct fs_entry){
        .is_link = true,
        .ino = kv_le64_get(disk.ino),
        .type = kv_le32_get(disk.type) & S_IFMT,
    };
    /* A directory has one name, so no link leads to one. */
    if (!fs_mode_is_known(entry->type) || S_ISDIR(entry->type))
        return -EUCLEAN;
    return entry->ino == 0 || entry->ino > FS_INO_MAX ? -EUCLEAN : 0;
}

int fs_entry_decode(const void *bytes, size_t length, struct fs_entry *entry)
{
    if (length == 0)
        return -EUCLEAN;
    const uint8_t kind = *(const uint8_t *)bytes;
    if (kind == FS_DISK_LINK)
        return decode_link(bytes, length, entry);

    struct fs_disk_record disk;
    if (kind != FS_DISK_INODE || length < sizeof disk)
        return -EUCLEAN;
    memcpy(&disk, bytes, sizeof disk);
    *entry = (struct fs_entry){
        .is_link = false,
        .ino = kv_le64_get(disk.ino),
        .type = kv_le16_get(disk.mode) & S_IFMT,
    };
    if (!fs_mode_is_known(entry->type))
        return -EUCLEAN;
    if ((disk.flags & FS_DISK_HAS_EXPIRY) && !S_ISDIR(entry->type)) {
        const size_t at = sizeof disk + (disk.flags & FS_DISK_HAS_RDEV ? 8u : 0u);
        kv_le64 field;
        if (length < at + sizeof field)
            return -EUCLEAN;
        memcpy(&field, (const uint8_t *)bytes + at, sizeof field);
        entry->expiry_ns = kv_le64_get(field);
    }
    return entry->ino == 0 || entry->ino > FS_INO_MAX ? -EUCLEAN : 0;
}

size_t fs_parent_encode(uint64_t parent, const char *name, size_t name_len, uint8_t *out)
{
    KV_ASSERT(name_len <= FS_NAME_MAX);
    const kv_le64 number = kv_le64_of(parent);
    memcpy(out, &number, sizeof number);
    memcpy(out + sizeof number, name, name_len);
    return sizeof number + name_len;
}

int fs_parent_decode(const void *bytes, size_t length, uint64_t *parent, const char **name,
                     size_t *name_len)
{
    kv_le64 number;
    if (length <= sizeof number)
        return -EUCLEAN;
    memcpy(&number, bytes, sizeof number);
    *parent = kv_le64_get(number);
    *name = (const char *)bytes + sizeof number;
    *name_len = length - sizeof number;
    if (*parent == 0 || *parent > FS_INO_MAX || fs_name_check(*name, *name_len))
        return -EUCLEAN;
    return 0;
}

void fs_volume_record_encode(const struct fs_volume_record *record, struct fs_disk_volume *out)
{
    *out = (struct fs_disk_volume){
        .magic = FS_VOLUME_MAGIC,
        .version = kv_le32_of(FS_VERSION),
        .feature_compat = kv_le64_of(record->feature_compat),
        .feature_rocompat = kv_le64_of(record->feature_rocompat),
        .feature_incompat = kv_le64_of(record->feature_incompat),
        .next_ino = kv_le64_of(record->next_ino),
    };
}

int fs_volume_record_decode(const void *bytes, size_t length, struct fs_volume_record *record)
{
    struct fs_disk_volume disk;
    if (length != sizeof disk)
        return -EMEDIUMTYPE;
    memcpy(&disk, bytes, sizeof disk);
    if (memcmp(disk.magic, FS_VOLUME_MAGIC, sizeof disk.magic) != 0)
        return -EMEDIUMTYPE;
    record->feature_compat = kv_le64_get(disk.feature_compat);
    record->feature_rocompat = kv_le64_get(disk.feature_rocompat);
    record->feature_incompat = kv_le64_get(disk.feature_incompat);
    record->next_ino = kv_le64_get(disk.next_ino);
    if (kv_le32_get(disk.version) != FS_VERSION || record->feature_incompat)
        return -EPROTONOSUPPORT;
    if (record->next_ino <= FS_ROOT_INO || record->next_ino > FS_INO_MAX)
        return -EUCLEAN;
    return 0;
}

int64_t fs_time_ns(const struct timespec *time)
{
    const int64_t per_second = 1000000000;
    int64_t ns;
    if (__builtin_mul_overflow((int64_t)time->tv_sec, per_second, &ns) ||
        __builtin_add_overflow(ns, (int64_t)time->tv_nsec, &ns))
        return time->tv_sec < 0 ? INT64_MIN : INT64_MAX;
    return ns;
}

struct timespec fs_timespec(int64_t ns)
{
    const int64_t per_second = 1000000000;
    int64_t seconds = ns / per_second;
    int64_t rest = ns % per_second;
    if (rest < 0) { /* the fraction of a timespec counts upwards, also before 1970 */
        seconds--;
        rest += per_second;
    }
    return (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)rest};
}

int64_t fs_time_now(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME_COARSE, &now); /* can not fail for this clock */
    return fs_time_ns(&now);
}
