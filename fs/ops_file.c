/*
 * fs/ops_file.c: the content of regular files.
 *
 * Locks      the inode: shared to read and seek, exclusive to change. Changes of many records
 *            take several batches under one hold of the lock. A read that does not wait for the
 *            device holds it only until it is known what is to be read.
 */
#include "fs/policy_lookup.h"

#include <fcntl.h>
#include <unistd.h>

/* A copy does at most so much at once, so that nobody waits long for the lock. */
#define COPY_BYTES_MAX (1ull << 30)

static int load_regular(struct fs_volume *volume, uint64_t ino, struct fs_item *item)
{
    int err = fs_item_load_first(volume, ino, item);
    if (err)
        return err;
    if (S_ISDIR(item->record.mode))
        return -EISDIR;
    return S_ISREG(item->record.mode) ? 0 : -EINVAL;
}

/* What a pinned file was read from stays in memory: its record, and those of the range. */
static void retain_records(struct fs_volume *volume, const struct fs_item *item, uint64_t offset,
                           size_t length)
{
    const uint64_t ino = item->record.file.ino;
    const struct fs_key *const key = &item->key;
    uint8_t lower[FS_DATA_KEY_BYTES], upper[FS_DATA_KEY_BYTES];
    int err = kv_retain(volume->store, key->bytes, key->length, key->bytes, key->length);
    if (!err && !item->record.file.is_inline) {
        /* An extent that covers the offset begins there or later, unless it was moved. */
        fs_data_key(lower, ino, offset & ~(uint64_t)(KV_BLOB_MAX - 1));
        fs_data_key(upper, ino, kv_min_u64(offset + length, FS_SIZE_MAX));
        err = kv_retain(volume->store, lower, sizeof lower, upper, sizeof upper);
    }
    kv_ignore(err); /* it was read; the next time it may be read again */
}

/* reading: as fs_read_begin; NULL: as fs_read. */
static int read_locked(struct fs_volume *volume, uint64_t ino, uint64_t offset, void *buf,
                       size_t length, size_t *got, struct kv_blob_reading **reading,
                       struct kv_blob_transfer *transfer)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_item item;
    struct fs_policy_effect effect;
    fs_lock_add(&locks, ino, FS_LOCK_SHARED);
    fs_lock_take(volume->locks, &locks);
    int err = load_regular(volume, ino, &item);
    if (!err) {
        const struct fs_file *const file = &item.record.file;
        fs_policy_apply(volume, &item, &effect);
        err = -EOPNOTSUPP;
        if (reading && !effect.data.retain)
            err =
                fs_data_read_begin(&effect.data, file, offset, buf, length, got, reading, transfer);
        if (err == -EOPNOTSUPP)
            err = fs_data_read(&effect.data, file, offset, buf, length, got);
    }
    if (!err && effect.data.retain)
        retain_records(volume, &item, offset, length);
    fs_lock_drop(volume->locks, &locks);
    return err;
}

int fs_read(struct fs_volume *volume, uint64_t ino, uint64_t offset, void *buf, size_t length,
            size_t *got)
{
    return read_locked(volume, ino, offset, buf, length, got, NULL, NULL);
}

void fs_prefetch_range(struct fs_volume *volume, uint64_t ino, uint64_t offset, size_t length)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_item item;
    fs_lock_add(&locks, ino, FS_LOCK_SHARED);
    fs_lock_take(volume->locks, &locks);
    if (!load_regular(volume, ino, &item))
        fs_data_prefetch(&volume->data, &item.record.file, offset, length);
    fs_lock_drop(volume->locks, &locks);
}

int fs_read_begin(struct fs_volume *volume, uint64_t ino, uint64_t offset, void *buf, size_t length,
                  size_t *got, struct kv_blob_reading **reading, struct kv_blob_transfer *transfer)
{
    *reading = NULL;
    return read_locked(volume, ino, offset, buf, length, got, reading, transfer);
}

/*
 * Nobody held the lock meanwhile, so the extent may be gone and its blocks may be another's; then
 * the digests said so. What was read is what the file held when the read began, as if it had been
 * answered then.
 */
int fs_read_end(struct fs_volume *volume, uint64_t ino, uint64_t offset, void *buf, size_t length,
                size_t *got, struct kv_blob_reading *reading, int result)
{
    return kv_blob_read_end(volume->store, reading, result)
               ? fs_read(volume, ino, offset, buf, length, got)
               : 0;
}

/* The end of every change of content: times, privileges, the record. */
static int finish_change(struct fs_volume *volume, struct fs_data_change *change,
                         struct fs_item *item, bool kill_privileges, unsigned flags)
{
    int err = fs_change_kill_privileges(volume, change, item, kill_privileges);
    if (err)
        return err;
    if (!KV_PLANT(write_keeps_mtime))
        item->record.mtime_ns = item->record.ctime_ns = fs_time_now();
    err = fs_change_put(change, item);
    return err ? err : fs_change_apply(volume, change, flags);
}

/* Does a write go on where the file's last one ended? From now on this one is the last. */
static bool goes_on(struct fs_volume *volume, uint64_t ino, uint64_t offset, size_t length)
{
    const uint64_t mixed = ino * 0x9e3779b97f4a7c15ull;
    _Atomic uint64_t *const end = &volume->write_ends[(mixed >> 32) % FS_WRITE_ENDS];
    return atomic_exchange_explicit(end, mixed + offset + length, memory_order_relaxed) ==
           mixed + offset;
}

static int write_whole(struct fs_volume *volume, uint64_t ino, uint64_t offset, const void *buf,
                       size_t length, bool kill_privileges, bool tight)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_data_change change;
    struct fs_item item;
    struct fs_policy_effect effect;
    int err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;
    change.tight = tight;
    change.in_order = goes_on(volume, ino, offset, length);
    fs_lock_add(&locks, ino, FS_LOCK_EXCLUSIVE);
    fs_lock_take(volume->locks, &locks);
    err = load_regular(volume, ino, &item);
    if (!err) {
        fs_policy_apply(volume, &item, &effect);
        err = fs_data_write(&effect.data, &item.record.file, offset, buf, length, effect.codec,
                            &change);
    }
    if (!err)
        err = finish_change(volume, &change, &item, kill_privileges, 0);
    if (!err)
        fs_lock_leave(volume->locks, &locks, &item.record);
    fs_lock_drop(volume->locks, &locks);
    fs_data_change_release(&change);
    return err;
}

int fs_write(struct fs_volume *volume, uint64_t ino, uint64_t offset, const void *buf,
             size_t length, bool kill_privileges)
{
    int err;
    do
        err = write_whole(volume, ino, offset, buf, length, kill_privileges, false);
    while (err == -ENOSPC && fs_reap(volume));
    return err;
}

/* From this length on it is worth a look whether a write will fit before it is tried. */
#define LARGE_WRITE_BYTES 65536u

/* So many bytes from `offset` on as end with a whole block, at most `most`; 0: none. */
static size_t whole_blocks(uint64_t offset, uint64_t most)
{
    const uint64_t end = (offset + most) / KV_BLOCK_BYTES * KV_BLOCK_BYTES;
    return end > offset ? (size_t)(end - offset) : 0;
}

static uint64_t available_bytes(struct fs_volume *volume)
{
    struct kv_stats stats;
    kv_store_stats(volume->store, &stats);
    return stats.available_bytes;
}

int fs_write_most(struct fs_volume *volume, uint64_t ino, uint64_t offset, const void *buf,
                  size_t length, bool kill_privileges, size_t *written)
{
    const uint8_t *const bytes = buf;
    size_t step = kv_min_u64(length, FS_WRITE_MAX);
    bool tight = false;
    int err = 0;
    if (step >= LARGE_WRITE_BYTES) {
        uint64_t room = available_bytes(volume);
        if (room < step && fs_reap(volume))
            room = available_bytes(volume);
        tight = room < step;
        if (tight) /* what then does not fit was not there to be promised */
            step = whole_blocks(offset, kv_max_u64(room, KV_BLOCK_BYTES));
    }
    *written = 0;
    while (*written < length && !err) {
        step = kv_min_u64(step, length - *written);
        err = write_whole(volume, ino, offset + *written, bytes + *written, step, kill_privileges,
                          tight);
        if (!err) {
            *written += step;
        } else if (err == -ENOSPC && fs_reap(volume)) {
            err = 0;
        } else if (err == -ENOSPC) {
            const uint64_t most = kv_min_u64(step / 2, available_bytes(volume));
            step = whole_blocks(offset + *written, most);
            tight = true;
            err = step ? 0 : err;
        }
    }
    return err;
}

/* Looked up only for the few files that have any. */
static bool kills_privileges(const struct fs_volume *volume, const struct fs_item *item)
{
    return item->record.mode & (S_ISUID | S_ISGID) &&
           (!volume->kills_privileges || volume->kills_privileges());
}

enum range_action { RANGE_ALLOCATE, RANGE_PUNCH, RANGE_ZERO, RANGE_COLLAPSE, RANGE_INSERT };

static int choose_action(int mode, enum range_action *action)
{
    switch (mode & ~FALLOC_FL_KEEP_SIZE) {
    case 0:
        *action = RANGE_ALLOCATE;
        return 0;
    case FALLOC_FL_ZERO_RANGE:
        *action = RANGE_ZERO;
        return 0;
    case FALLOC_FL_PUNCH_HOLE:
        *action = RANGE_PUNCH;
        return mode & FALLOC_FL_KEEP_SIZE ? 0 : -EOPNOTSUPP;
    case FALLOC_FL_COLLAPSE_RANGE:
        *action = RANGE_COLLAPSE;
        return mode & FALLOC_FL_KEEP_SIZE ? -EINVAL : 0;
    case FALLOC_FL_INSERT_RANGE:
        *action = RANGE_INSERT;
        return mode & FALLOC_FL_KEEP_SIZE ? -EINVAL : 0;
    default:
        return -EOPNOTSUPP;
    }
}

static int change_range(const struct fs_data *data, struct fs_file *file, enum range_action action,
                        bool keep_size, uint64_t offset, uint64_t length,
                        struct fs_data_change *change, bool *done)
{
    *done = true;
    switch (action) {
    case RANGE_ALLOCATE:
        return fs_data_allocate(data, file, offset, length, keep_size, FS_DATA_STEP_RECORDS, change,
                                done);
    case RANGE_PUNCH:
        return fs_data_punch(data, file, offset, length, FS_DATA_STEP_RECORDS, change, done);
    case RANGE_ZERO:
        return fs_data_zero(data, file, offset, length, keep_size, FS_DATA_STEP_RECORDS, change,
                            done);
    case RANGE_COLLAPSE:
        return fs_data_collapse(data, file, offset, length, change);
    case RANGE_INSERT:
        return fs_data_insert(data, file, offset, length, change);
    }
    return -EOPNOTSUPP;
}

static int fallocate_once(struct fs_volume *volume, uint64_t ino, int mode, uint64_t offset,
                          uint64_t length)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_data_change change;
    struct fs_item item;
    enum range_action action;
    uint64_t end;
    int err = choose_action(mode, &action);
    if (err)
        return err;
    if (length == 0)
        return -EINVAL;
    if (kv_add_u64(offset, length, &end) || end > FS_SIZE_MAX)
        return -EFBIG;
    err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;

    const unsigned flags = action == RANGE_PUNCH ? KV_APPLY_URGENT : 0;
    bool done = false;
    fs_lock_add(&locks, ino, FS_LOCK_EXCLUSIVE);
    fs_lock_take(volume->locks, &locks);
    err = load_regular(volume, ino, &item);
    while (!err && !done) {
        err = change_range(&volume->data, &item.record.file, action, mode & FALLOC_FL_KEEP_SIZE,
                           offset, length, &change, &done);
        if (!err)
            err = finish_change(volume, &change, &item, kills_privileges(volume, &item), flags);
    }
    fs_lock_drop(volume->locks, &locks);
    fs_data_change_release(&change);
    return err;
}

int fs_fallocate(struct fs_volume *volume, uint64_t ino, int mode, uint64_t offset, uint64_t length)
{
    int err;
    do
        err = fallocate_once(volume, ino, mode, offset, length);
    while (err == -ENOSPC && fs_reap(volume));
    return err;
}

int fs_seek(struct fs_volume *volume, uint64_t ino, uint64_t offset, int whence, uint64_t *found)
{
    if (whence != SEEK_DATA && whence != SEEK_HOLE)
        return -EINVAL;
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_item item;
    fs_lock_add(&locks, ino, FS_LOCK_SHARED);
    fs_lock_take(volume->locks, &locks);
    int err = load_regular(volume, ino, &item);
    if (!err)
        err = fs_data_seek(&volume->data, &item.record.file, offset,
                           whence == SEEK_DATA ? FS_SEEK_DATA : FS_SEEK_HOLE, found);
    fs_lock_drop(volume->locks, &locks);
    return err;
}

static int copy_once(struct fs_volume *volume, uint64_t from_ino, uint64_t from, uint64_t to_ino,
                     uint64_t to, uint64_t length, uint64_t *copied)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_data_change change;
    struct fs_item source, target;
    const bool one_file = from_ino == to_ino;
    *copied = 0;
    length = kv_min_u64(length, COPY_BYTES_MAX);
    int err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;
    fs_lock_add(&locks, from_ino, FS_LOCK_SHARED);
    fs_lock_add(&locks, to_ino, FS_LOCK_EXCLUSIVE);
    fs_lock_take(volume->locks, &locks);
    err = load_regular(volume, to_ino, &target);
    if (!err && !one_file)
        err = load_regular(volume, from_ino, &source);
    const struct fs_file *source_file = one_file ? &target.record.file : &source.record.file;
    while (!err && *copied < length) {
        uint64_t step = 0;
        err = fs_data_clone(&volume->data, source_file, from + *copied, &target.record.file,
                            to + *copied, length - *copied, FS_DATA_STEP_RECORDS, &change, &step);
        if (err || step == 0)
            break;
        err = finish_change(volume, &change, &target, kills_privileges(volume, &target), 0);
        if (!err)
            *copied += step;
    }
    fs_lock_drop(volume->locks, &locks);
    fs_data_change_release(&change);
    return *copied ? 0 : err;
}

int fs_copy_range(struct fs_volume *volume, uint64_t from_ino, uint64_t from, uint64_t to_ino,
                  uint64_t to, uint64_t length, uint64_t *copied)
{
    int err;
    do
        err = copy_once(volume, from_ino, from, to_ino, to, length, copied);
    while (err == -ENOSPC && fs_reap(volume));
    return err;
}
