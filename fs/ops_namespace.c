/*
 * fs/ops_namespace.c: names come and go: lookup, create, link, unlink, rmdir.
 *
 * Invariant  a reference is counted while the directory's lock is held, so that no name can
 *            go between finding an inode and counting it; a number handed out by create is
 *            in the inode table before its batch is applied.
 * Locks      directory shared to look up; directory and inode exclusive to change. Which
 *            inode a name means is peeked at without locks and checked again under them.
 */
#include "fs/expiry.h"
#include "fs/reaper.h"

int fs_lookup(struct fs_volume *volume, uint64_t directory, const char *name, size_t name_len,
              struct fs_record *record)
{
    int err = fs_name_check(name, name_len);
    if (err)
        return err;
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_item item;
    fs_lock_add(&locks, directory, FS_LOCK_SHARED);
    fs_lock_take(volume->locks, &locks);
    err = fs_item_find(volume, directory, name, name_len, &item);
    if (!err)
        err = fs_inode_table_ref(volume->table, item.record.file.ino, &item.key);
    fs_lock_drop(volume->locks, &locks);
    if (!err)
        *record = item.record;
    return err;
}

void fs_forget(struct fs_volume *volume, uint64_t ino, uint64_t count)
{
    uint64_t units;
    if (fs_inode_table_forget(volume->table, ino, count, &units) && !volume->read_only)
        fs_reaper_add_known(volume, ino, units);
}

/* ---- creating ----------------------------------------------------------------- */

static int store_target(struct fs_volume *volume, struct fs_data_change *change,
                        const struct fs_new_node *node, struct fs_record *record)
{
    if (!S_ISLNK(record->mode))
        return 0;
    if (node->target_len == 0)
        return -ENOENT;
    if (node->target_len > FS_SYMLINK_MAX)
        return -ENAMETOOLONG;
    struct kv_codec_spec spec;
    return fs_data_write(&volume->data, &record->file, 0, node->target, node->target_len,
                         fs_record_codec(record, &spec), change);
}

static int put_new(struct fs_volume *volume, struct fs_data_change *change,
                   const struct fs_caller *caller, struct fs_item *parent,
                   const struct fs_new_node *node, const char *name, size_t name_len,
                   struct fs_item *item)
{
    struct fs_record *record = &item->record;
    int err = fs_change_inherit_acl(volume, change, &parent->record, caller->umask, record);
    if (!err)
        err = store_target(volume, change, node, record);
    if (!err)
        err = fs_change_inherit_expiry(volume, change, &parent->record, item);
    if (!err)
        err = fs_change_put(change, item);
    if (!err && S_ISDIR(record->mode)) {
        if (parent->record.nlink >= FS_LINK_MAX)
            return -EMLINK;
        parent->record.nlink++;
        err =
            fs_change_put_parent(change, record->file.ino, parent->record.file.ino, name, name_len);
    }
    if (err)
        return err;
    parent->record.mtime_ns = parent->record.ctime_ns = record->btime_ns;
    return fs_change_put(change, parent);
}

/*
 * A name is taken. Was it by what has expired, and is that gone now? Then it is to be tried again.
 * err: in, out: the answer otherwise.
 */
static bool expired_is_cleared(struct fs_volume *volume, uint64_t directory, const char *name,
                               size_t name_len, int *err)
{
    uint64_t ino;
    if (fs_name_check(name, name_len) ||
        fs_entry_peek(volume, directory, name, name_len, &ino) != -EKEYEXPIRED)
        return false;
    const int cleared = fs_expiry_clear_name(volume, directory, name, name_len);
    if (cleared)
        *err = cleared;
    return !cleared;
}

static int create_once(struct fs_volume *volume, const struct fs_caller *caller, uint64_t directory,
                       const char *name, size_t name_len, const struct fs_new_node *node,
                       struct fs_record *record)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_data_change change;
    struct fs_item parent, item;
    uint64_t ino;
    int err = fs_name_check(name, name_len);
    if (err)
        return err == -EINVAL && name_len <= 2 && name_len > 0 ? -EEXIST : err;
    if (!fs_mode_is_known(node->mode))
        return -EINVAL;
    err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;
    err = fs_ino_allocate(volume, &ino);
    if (err)
        goto out_change;

    fs_lock_add(&locks, directory, FS_LOCK_EXCLUSIVE);
    fs_lock_add(&locks, ino,
                FS_LOCK_EXCLUSIVE); /* nobody wants it yet: to leave the record there */
    fs_lock_take(volume->locks, &locks);
    err = fs_directory_load(volume, directory, &parent);
    if (err)
        goto out;
    fs_key_entry(&item.key, directory, name, name_len);
    err = fs_key_exists(volume, &item.key);
    if (err != -ENOENT) {
        err = err ? err : -EEXIST;
        goto out;
    }
    item.record = fs_record_new(caller, ino, node->mode & (S_IFMT | 07777u), &parent.record);
    item.record.rdev = node->rdev;
    err = put_new(volume, &change, caller, &parent, node, name, name_len, &item);
    if (err)
        goto out;
    err = fs_inode_table_ref(volume->table, ino, &item.key);
    if (err)
        goto out;
    err = fs_change_apply(volume, &change, 0);
    if (err) {
        (void)fs_inode_table_unref(volume->table, ino, 1); /* a D key: never an orphan */
    } else {
        *record = item.record;
        fs_lock_leave(volume->locks, &locks, &item.record);
        fs_lock_leave(volume->locks, &locks, &parent.record);
    }
out:
    fs_lock_drop(volume->locks, &locks);
out_change:
    fs_data_change_release(&change);
    return err;
}

int fs_create(struct fs_volume *volume, const struct fs_caller *caller, uint64_t directory,
              const char *name, size_t name_len, const struct fs_new_node *node,
              struct fs_record *record)
{
    int err;
    do
        err = create_once(volume, caller, directory, name, name_len, node, record);
    while ((err == -ENOSPC && fs_reap(volume)) ||
           (err == -EEXIST && expired_is_cleared(volume, directory, name, name_len, &err)));
    return err;
}

static int create_unnamed_once(struct fs_volume *volume, const struct fs_caller *caller,
                               uint64_t directory, uint32_t mode, struct fs_record *record)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_data_change change;
    struct fs_item parent, item;
    uint64_t ino;
    int err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;
    err = fs_ino_allocate(volume, &ino);
    if (err)
        goto out_change;

    fs_lock_add(&locks, directory, FS_LOCK_SHARED);
    fs_lock_take(volume->locks, &locks);
    err = fs_directory_load(volume, directory, &parent);
    if (err)
        goto out;
    item.record = fs_record_new(caller, ino, S_IFREG | (mode & 07777u), &parent.record);
    item.record.nlink = 0;
    fs_key_ino(&item.key, FS_KEY_ORPHAN, ino);
    err = fs_change_inherit_acl(volume, &change, &parent.record, caller->umask, &item.record);
    if (!err)
        err = fs_change_put(&change, &item);
    if (!err)
        err = fs_inode_table_ref(volume->table, ino, &item.key);
    if (err)
        goto out;
    err = fs_change_apply(volume, &change, 0);
    if (!err) {
        *record = item.record;
    } else if (fs_inode_table_unref(volume->table, ino, 1)) {
        (void)fs_inode_table_drop(volume->table, ino); /* ours alone: nobody has its number */
    }
out:
    fs_lock_drop(volume->locks, &locks);
out_change:
    fs_data_change_release(&change);
    return err;
}

int fs_create_unnamed(struct fs_volume *volume, const struct fs_caller *caller, uint64_t directory,
                      uint32_t mode, struct fs_record *record)
{
    int err;
    do
        err = create_unnamed_once(volume, caller, directory, mode, record);
    while (err == -ENOSPC && fs_reap(volume));
    return err;
}

/* ---- removing ------------------------------------------------------------------ */

static int check_removable(struct fs_volume *volume, const struct fs_record *record,
                           bool as_directory)
{
    if (!as_directory)
        return S_ISDIR(record->mode) ? -EISDIR : 0;
    if (!S_ISDIR(record->mode))
        return -ENOTDIR;
    return fs_directory_is_empty(volume, record->file.ino);
}

/* Remove a name under the locks. ino: what the locks were chosen for; -EAGAIN: another now. */
static int remove_locked(struct fs_volume *volume, struct fs_lock_set *locks, uint64_t directory,
                         const char *name, size_t name_len, uint64_t ino, bool as_directory,
                         bool *unused)
{
    struct fs_data_change change;
    struct fs_inode_move move = {NULL};
    struct fs_item parent, item;
    struct fs_key entry_key;
    int err = fs_item_find(volume, directory, name, name_len, &item);
    if (err)
        return err;
    if (item.record.file.ino != ino)
        return -EAGAIN;
    err =
        KV_PLANT(full_directory_removed) ? 0 : check_removable(volume, &item.record, as_directory);
    if (!err)
        err = fs_directory_load(volume, directory, &parent);
    if (!err)
        err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;

    const int64_t now = fs_time_now();
    fs_key_entry(&entry_key, directory, name, name_len);
    err = fs_change_del(&change, &entry_key);
    if (!err)
        err = fs_change_drop_name(&change, &item, now, &move);
    if (err)
        goto out;
    parent.record.mtime_ns = parent.record.ctime_ns = now;
    if (as_directory && parent.record.nlink > 2)
        parent.record.nlink--;
    err = fs_change_put(&change, &parent);
    if (!err)
        err = fs_change_apply(volume, &change, KV_APPLY_URGENT);
    if (err)
        goto out;
    *unused = !fs_inode_table_move(volume->table, &move) && item.record.nlink == 0;
    fs_lock_leave(volume->locks, locks, &parent.record);
out:
    fs_inode_table_cancel(&move);
    fs_data_change_release(&change);
    return err;
}

static int remove_name(struct fs_volume *volume, uint64_t directory, const char *name,
                       size_t name_len, bool as_directory)
{
    int err = fs_name_check(name, name_len);
    if (err)
        return err;
    bool unused = false;
    uint64_t ino;
    do {
        struct fs_lock_set locks = FS_LOCK_SET_INIT;
        err = fs_entry_peek(volume, directory, name, name_len, &ino);
        if (err)
            return err == -EKEYEXPIRED ? -ENOENT : err;
        if (!ino)
            return -ENOENT;
        fs_lock_add(&locks, directory, FS_LOCK_EXCLUSIVE);
        fs_lock_add(&locks, ino, FS_LOCK_EXCLUSIVE);
        fs_lock_take(volume->locks, &locks);
        err = remove_locked(volume, &locks, directory, name, name_len, ino, as_directory, &unused);
        fs_lock_drop(volume->locks, &locks);
        if (err == -EKEYEXPIRED) { /* the directory holds nothing else */
            err = fs_expiry_clear_directory(volume, ino);
            err = err ? err : -EAGAIN;
        }
    } while (err == -EAGAIN);

    if (!err && unused)
        fs_reaper_add(volume, ino);
    return err;
}

int fs_unlink(struct fs_volume *volume, uint64_t directory, const char *name, size_t name_len)
{
    return remove_name(volume, directory, name, name_len, false);
}

int fs_rmdir(struct fs_volume *volume, uint64_t directory, const char *name, size_t name_len)
{
    return remove_name(volume, directory, name, name_len, true);
}

/* ---- hard links ------------------------------------------------------------------ */

/*
 * Add what gives the item one more name, `entry`. A file that has a name of its own moves
 * under its I key and its entry becomes a link; one without a name gets its record there.
 */
static int put_link(struct fs_volume *volume, struct fs_data_change *change,
                    const struct fs_record *parent, struct fs_item *item,
                    const struct fs_key *entry, struct fs_inode_move *move)
{
    const uint64_t ino = item->record.file.ino;
    const struct fs_key old = item->key;
    int err;
    switch (old.bytes[0]) {
    case FS_KEY_INODE:
        err = fs_change_put(change, item);
        return err ? err : fs_change_put_link(change, entry, &item->record);
    case FS_KEY_ENTRY:
        fs_key_ino(&item->key, FS_KEY_INODE, ino);
        err = fs_change_put(change, item);
        if (!err)
            err = fs_change_put_link(change, &old, &item->record);
        if (!err)
            err = fs_change_put_link(change, entry, &item->record);
        break;
    default:
        item->key = *entry;
        err = fs_change_del(change, &old);
        if (!err)
            err = fs_change_inherit_expiry(volume, change, parent, item);
        if (!err)
            err = fs_change_put(change, item);
        break;
    }
    return err ? err : fs_inode_table_reserve(ino, &item->key, move);
}

static int link_locked(struct fs_volume *volume, uint64_t ino, uint64_t home, uint64_t directory,
                       const struct fs_key *entry, struct fs_record *record)
{
    struct fs_data_change change;
    struct fs_inode_move move = {NULL};
    struct fs_item parent, item;
    int err = fs_item_load(volume, ino, &item);
    if (err)
        return err;
    if (item.key.bytes[0] == FS_KEY_ENTRY && kv_be64_take(item.key.bytes + 1) != home)
        return -EAGAIN;
    if (S_ISDIR(item.record.mode))
        return -EPERM;
    if (item.record.expiry_ns)
        return -EPERM; /* what expires has one name */
    if (item.record.nlink >= FS_LINK_MAX)
        return -EMLINK;
    err = fs_key_exists(volume, entry);
    if (err != -ENOENT)
        return err ? err : -EEXIST;
    err = fs_directory_load(volume, directory, &parent);
    if (!err)
        err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;

    const int64_t now = fs_time_now();
    item.record.nlink += !KV_PLANT(link_not_counted);
    item.record.ctime_ns = now;
    parent.record.mtime_ns = parent.record.ctime_ns = now;
    err = put_link(volume, &change, &parent.record, &item, entry, &move);
    if (!err)
        err = fs_change_put(&change, &parent);
    if (!err)
        err = fs_inode_table_ref(volume->table, ino, &item.key);
    if (err)
        goto out;
    err = fs_change_apply(volume, &change, 0);
    if (err) {
        (void)fs_inode_table_unref(volume->table, ino, 1); /* the caller's own reference stays */
        goto out;
    }
    (void)fs_inode_table_move(volume->table, &move); /* the caller holds a reference */
    *record = item.record;
out:
    fs_inode_table_cancel(&move);
    fs_data_change_release(&change);
    return err;
}

int fs_link(struct fs_volume *volume, uint64_t ino, uint64_t directory, const char *name,
            size_t name_len, struct fs_record *record)
{
    struct fs_key entry, key;
    int err = fs_name_check(name, name_len);
    if (err)
        return err;
    fs_key_entry(&entry, directory, name, name_len);
    do {
        struct fs_lock_set locks = FS_LOCK_SET_INIT;
        err = fs_inode_table_key(volume->table, ino, &key);
        if (err)
            return err;
        /* The directory it has its only name in: that entry turns into a link. */
        const uint64_t home = key.bytes[0] == FS_KEY_ENTRY ? kv_be64_take(key.bytes + 1) : 0;
        fs_lock_add(&locks, ino, FS_LOCK_EXCLUSIVE);
        fs_lock_add(&locks, directory, FS_LOCK_EXCLUSIVE);
        fs_lock_add(&locks, home, FS_LOCK_EXCLUSIVE);
        fs_lock_take(volume->locks, &locks);
        err = link_locked(volume, ino, home, directory, &entry, record);
        fs_lock_drop(volume->locks, &locks);
    } while (err == -EAGAIN || (err == -ENOSPC && fs_reap(volume)) ||
             (err == -EEXIST && expired_is_cleared(volume, directory, name, name_len, &err)));
    return err;
}

/* ---- symlinks --------------------------------------------------------------------- */

int fs_readlink(struct fs_volume *volume, uint64_t ino, char *target)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_item item;
    size_t got = 0;
    fs_lock_add(&locks, ino, FS_LOCK_SHARED);
    fs_lock_take(volume->locks, &locks);
    int err = fs_item_load(volume, ino, &item);
    if (!err && !S_ISLNK(item.record.mode))
        err = -EINVAL;
    if (!err)
        err = fs_data_read(&volume->data, &item.record.file, 0, target, FS_SYMLINK_MAX, &got);
    fs_lock_drop(volume->locks, &locks);
    if (!err)
        target[got] = '\0';
    return err;
}
