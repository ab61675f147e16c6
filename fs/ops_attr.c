/*
 * fs/ops_attr.c: attributes: read them, change them, truncate.
 *
 * Locks      the inode, shared to read, exclusive to change. A truncation that takes several
 *            batches keeps the lock over all of them, so nobody sees it half done (a crash
 *            may: the size then lies between the old and the new).
 */
#include "fs/inode.h"

int fs_getattr(struct fs_volume *volume, uint64_t ino, struct fs_record *record)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_item item;
    fs_lock_add(&locks, ino, FS_LOCK_SHARED);
    fs_lock_take(volume->locks, &locks);
    const int err = fs_item_load_first(volume, ino, &item);
    fs_lock_drop(volume->locks, &locks);
    if (!err)
        *record = item.record;
    return err;
}

void fs_record_stat(const struct fs_record *record, struct stat *stat)
{
    *stat = (struct stat){
        .st_ino = record->file.ino,
        .st_mode = record->mode,
        .st_nlink = record->nlink,
        .st_uid = record->uid,
        .st_gid = record->gid,
        .st_rdev = record->rdev,
        .st_size = (off_t)record->file.size,
        .st_blksize = KV_BLOCK_BYTES,
        .st_blocks = (blkcnt_t)record->file.blocks,
        .st_atim = fs_timespec(record->atime_ns),
        .st_mtim = fs_timespec(record->mtime_ns),
        .st_ctim = fs_timespec(record->ctime_ns),
    };
}

static int check_size(const struct fs_record *record, uint64_t size)
{
    if (S_ISDIR(record->mode))
        return -EISDIR;
    if (!S_ISREG(record->mode))
        return -EINVAL;
    return size > FS_SIZE_MAX ? -EFBIG : 0;
}

/* Truncate to the end, in as many batches as it takes; the last one is left to the caller. */
static int change_size(struct fs_volume *volume, struct fs_data_change *change,
                       struct fs_item *item, uint64_t size)
{
    const unsigned flags = size < item->record.file.size ? KV_APPLY_URGENT : 0;
    for (;;) {
        bool done;
        int err = fs_data_truncate(&volume->data, &item->record.file, size, FS_DATA_STEP_RECORDS,
                                   change, &done);
        if (err || done)
            return err;
        err = fs_change_put(change, item);
        if (!err)
            err = fs_change_apply(volume, change, flags);
        if (err)
            return err;
    }
}

static bool is_owner(const struct fs_volume *volume, const struct fs_record *record)
{
    return !volume->is_owner || volume->is_owner(record->uid);
}

static int edit(struct fs_volume *volume, struct fs_data_change *change, struct fs_item *item,
                const struct fs_attr_change *attr)
{
    struct fs_record *record = &item->record;
    const int64_t now = fs_time_now();
    const bool sized = attr->valid & FS_ATTR_SIZE;
    const bool owned = attr->valid & (FS_ATTR_UID | FS_ATTR_GID);
    int err = 0;
    if (sized) {
        err = check_size(record, attr->size);
        if (!err)
            err = change_size(volume, change, item, attr->size);
        record->mtime_ns = now;
    }
    const bool kills = owned || (attr->valid & FS_ATTR_KILL_PRIVILEGES) ||
                       ((attr->valid & FS_ATTR_KILL_IF_OWNER) && is_owner(volume, record));
    if (!err && (sized || kills))
        err = fs_change_kill_privileges(volume, change, item, kills);
    if (err)
        return err;
    if (attr->valid & FS_ATTR_UID)
        record->uid = attr->uid;
    if (attr->valid & FS_ATTR_GID)
        record->gid = attr->gid;
    if (attr->valid & FS_ATTR_MODE) {
        record->mode = (record->mode & S_IFMT) | (attr->mode & 07777u);
        err = fs_change_acl_mode(volume, change, record);
    }
    if (attr->valid & FS_ATTR_ATIME)
        record->atime_ns = attr->atime_ns;
    if (attr->valid & FS_ATTR_MTIME)
        record->mtime_ns = attr->mtime_ns;
    record->ctime_ns = attr->valid & FS_ATTR_CTIME ? attr->ctime_ns : now;
    return err;
}

static int setattr_once(struct fs_volume *volume, uint64_t ino, const struct fs_attr_change *attr,
                        struct fs_record *record)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_data_change change;
    struct fs_item item;
    int err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;
    fs_lock_add(&locks, ino, FS_LOCK_EXCLUSIVE);
    fs_lock_take(volume->locks, &locks);
    err = fs_item_load_first(volume, ino, &item);
    if (err)
        goto out;
    const bool shrinks = attr->valid & FS_ATTR_SIZE && attr->size < item.record.file.size;
    err = edit(volume, &change, &item, attr);
    if (!err)
        err = fs_change_put(&change, &item);
    if (!err)
        err = fs_change_apply(volume, &change, shrinks ? KV_APPLY_URGENT : 0);
    if (!err)
        fs_lock_leave(volume->locks, &locks, &item.record);
out:
    fs_lock_drop(volume->locks, &locks);
    fs_data_change_release(&change);
    if (!err)
        *record = item.record;
    return err;
}

int fs_setattr(struct fs_volume *volume, uint64_t ino, const struct fs_attr_change *attr,
               struct fs_record *record)
{
    int err;
    do
        err = setattr_once(volume, ino, attr, record);
    while (err == -ENOSPC && fs_reap(volume));
    return err;
}
