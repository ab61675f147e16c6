/*
 * fs/ops_rename.c: one inode takes the place of another: rename in all its forms, publish.
 *
 * Invariant  a directory's P key says where its D key is; a directory's link count is two and
 *            one for each directory in it.
 * Locks      both directories and both inodes, exclusive. What the names mean is peeked at
 *            without locks and checked again under them. Before them rename_mutex, if there
 *            are two directories.
 */
#include "fs/expiry.h"
#include "fs/policy_lookup.h"
#include "fs/reaper.h"

#define DEPTH_MAX (1u << 18) /* of directories; more is a circle */

/* One side of a rename: a name in a directory, and what it means. */
struct side {
    uint64_t directory;
    const char *name;
    size_t name_len;
    uint64_t ino; /* 0: nothing there */
    struct fs_key entry;
    struct fs_item item; /* set if ino is */
    struct fs_inode_move move;
};

struct rename {
    struct side from, to;
    struct fs_item parents[2]; /* of from and to; [1] is unused when they are one */
    bool one_parent;
    int64_t now;
};

/* -EAGAIN: it is not as it was peeked at, or has expired since: then a new look clears it away. */
static int find_side(struct fs_volume *volume, struct side *side)
{
    fs_key_entry(&side->entry, side->directory, side->name, side->name_len);
    const int err =
        fs_item_find_any(volume, side->directory, side->name, side->name_len, &side->item);
    if (err == -ENOENT)
        return side->ino ? -EAGAIN : 0;
    if (err)
        return err;
    if (side->item.record.file.ino != side->ino)
        return -EAGAIN;
    if (!fs_is_expired(volume, &side->item.record))
        return 0;
    /* What has not its record under its name does not expire: nobody would clear it away. */
    return side->item.key.bytes[0] == FS_KEY_ENTRY ? -EAGAIN : -EUCLEAN;
}

static bool is_directory(const struct side *side)
{
    return side->ino && S_ISDIR(side->item.record.mode);
}

static struct fs_record *parent_of(struct rename *rename, bool of_target)
{
    return &rename->parents[of_target && !rename->one_parent].record;
}

/* Put the item of `what` under the name of `at`, and say so in its P key. */
static int put_under(struct fs_volume *volume, struct rename *rename, struct fs_data_change *change,
                     struct side *what, const struct side *at)
{
    struct fs_item *item = &what->item;
    item->record.ctime_ns = rename->now;
    if (item->key.bytes[0] == FS_KEY_INODE) {
        const int err = fs_change_put(change, item);
        return err ? err : fs_change_put_link(change, &at->entry, &item->record);
    }
    item->key = at->entry;
    int err = fs_expiry_of_new_name(volume, item);
    if (!err)
        err = fs_change_put(change, item);
    if (!err && !KV_PLANT(expiry_left_behind))
        err = fs_change_put_expiry(volume, change, item);
    if (!err && S_ISDIR(item->record.mode) && !KV_PLANT(rename_leaves_parent))
        err = fs_change_put_parent(change, what->ino, at->directory, at->name, at->name_len);
    return err ? err : fs_inode_table_reserve(what->ino, &item->key, &what->move);
}

static int exchange(struct fs_volume *volume, struct rename *rename, struct fs_data_change *change)
{
    const int from_directories = is_directory(&rename->from);
    const int to_directories = is_directory(&rename->to);
    if (!rename->one_parent && from_directories != to_directories) {
        const uint32_t gain = from_directories ? 1u : UINT32_MAX; /* one more, or one less */
        parent_of(rename, true)->nlink += gain;
        parent_of(rename, false)->nlink -= gain;
    }
    int err = put_under(volume, rename, change, &rename->from, &rename->to);
    return err ? err : put_under(volume, rename, change, &rename->to, &rename->from);
}

static int check_replaced(struct fs_volume *volume, const struct rename *rename)
{
    if (!rename->to.ino)
        return 0;
    if (!is_directory(&rename->from))
        return is_directory(&rename->to) ? -EISDIR : 0;
    if (!is_directory(&rename->to))
        return -ENOTDIR;
    return fs_directory_is_empty(volume, rename->to.ino);
}

static int replace(struct fs_volume *volume, struct rename *rename, struct fs_data_change *change)
{
    int err = 0;
    if (is_directory(&rename->from))
        parent_of(rename, false)->nlink--;
    if (is_directory(&rename->to))
        parent_of(rename, true)->nlink--;
    if (is_directory(&rename->from))
        parent_of(rename, true)->nlink++;

    if (rename->to.ino)
        err = fs_change_drop_name(change, &rename->to.item, rename->now, &rename->to.move);
    if (!err)
        err = fs_change_del(change, &rename->from.entry);
    return err ? err : put_under(volume, rename, change, &rename->from, &rename->to);
}

static int load_parents(struct fs_volume *volume, struct rename *rename)
{
    rename->one_parent = rename->from.directory == rename->to.directory;
    int err = fs_directory_load(volume, rename->from.directory, &rename->parents[0]);
    if (!err && !rename->one_parent)
        err = fs_directory_load(volume, rename->to.directory, &rename->parents[1]);
    return err;
}

static int put_parents(struct rename *rename, struct fs_data_change *change)
{
    const size_t count = rename->one_parent ? 1 : 2;
    int err = 0;
    for (size_t i = 0; i < count && !err; i++) {
        struct fs_record *record = &rename->parents[i].record;
        record->mtime_ns = record->ctime_ns = rename->now;
        err = fs_change_put(change, &rename->parents[i]);
    }
    return err;
}

/*
 * Would the directory come to hang somewhere below itself, out of everybody's reach? Who sends
 * requests should see to it; but what a request says is not to be believed.
 */
static int check_above(struct fs_volume *volume, uint64_t moved, uint64_t directory)
{
    for (unsigned steps = 0; steps < DEPTH_MAX; steps++) {
        if (directory == moved)
            return -EINVAL;
        if (directory == FS_ROOT_INO)
            return 0;
        const int err = fs_directory_parent(volume, directory, &directory);
        if (err)
            return err;
    }
    return -EUCLEAN;
}

static int check_loops(struct fs_volume *volume, const struct rename *rename, unsigned flags)
{
    const struct side *from = &rename->from, *to = &rename->to;
    int err = 0;
    if (is_directory(from))
        err = check_above(volume, from->ino, to->directory);
    if (!err && is_directory(to) && (flags & FS_RENAME_EXCHANGE))
        err = check_above(volume, to->ino, from->directory);
    return err;
}

/* Under the locks. unused: out: what was replaced has neither name nor reference now. */
static int rename_locked(struct fs_volume *volume, struct rename *rename, unsigned flags,
                         bool *unused)
{
    struct fs_data_change change;
    int err = find_side(volume, &rename->from);
    if (!err)
        err = find_side(volume, &rename->to);
    if (err)
        return err;
    if (rename->to.ino && (flags & FS_RENAME_NOREPLACE))
        return -EEXIST;
    if (!rename->to.ino && (flags & FS_RENAME_EXCHANGE))
        return -ENOENT;
    if (rename->from.ino == rename->to.ino)
        return 0; /* two names of one file: POSIX wants both left alone */
    if (!(flags & FS_RENAME_EXCHANGE))
        err = check_replaced(volume, rename);
    if (!err)
        err = load_parents(volume, rename);
    if (!err && !rename->one_parent)
        err = check_loops(volume, rename, flags);
    if (!err)
        err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;

    rename->now = fs_time_now();
    err = flags & FS_RENAME_EXCHANGE ? exchange(volume, rename, &change)
                                     : replace(volume, rename, &change);
    if (!err)
        err = put_parents(rename, &change);
    if (!err)
        err = fs_change_apply(volume, &change, 0);
    if (err)
        goto out;
    (void)fs_inode_table_move(volume->table, &rename->from.move); /* it has a name */
    *unused = !fs_inode_table_move(volume->table, &rename->to.move) && rename->to.ino &&
              rename->to.item.record.nlink == 0;
    if (is_directory(&rename->from) || is_directory(&rename->to))
        fs_policy_directory_moved(volume);
out:
    fs_inode_table_cancel(&rename->from.move);
    fs_inode_table_cancel(&rename->to.move);
    fs_data_change_release(&change);
    return err;
}

/* What a name that is to be taken means; what has expired there goes first. */
static int peek_target(struct fs_volume *volume, struct side *to)
{
    int err = fs_entry_peek(volume, to->directory, to->name, to->name_len, &to->ino);
    if (err == -EKEYEXPIRED) {
        err = fs_expiry_clear_name(volume, to->directory, to->name, to->name_len);
        err = err ? err : -EAGAIN;
    }
    return err;
}

static int rename_once(struct fs_volume *volume, struct rename *rename, unsigned flags,
                       bool *unused)
{
    struct side *from = &rename->from, *to = &rename->to;
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    int err = fs_entry_peek(volume, from->directory, from->name, from->name_len, &from->ino);
    if (err)
        return err == -EKEYEXPIRED ? -ENOENT : err;
    err = peek_target(volume, to);
    if (err)
        return err;
    if (!from->ino)
        return -ENOENT;
    fs_lock_add(&locks, from->directory, FS_LOCK_EXCLUSIVE);
    fs_lock_add(&locks, to->directory, FS_LOCK_EXCLUSIVE);
    fs_lock_add(&locks, from->ino, FS_LOCK_EXCLUSIVE);
    fs_lock_add(&locks, to->ino, FS_LOCK_EXCLUSIVE);
    fs_lock_take(volume->locks, &locks);
    err = rename_locked(volume, rename, flags, unused);
    fs_lock_drop(volume->locks, &locks);
    if (err == -EKEYEXPIRED) { /* the directory to be replaced holds nothing else */
        err = fs_expiry_clear_directory(volume, to->ino);
        err = err ? err : -EAGAIN;
    }
    return err;
}

static int rename_or_fail(struct fs_volume *volume, uint64_t directory, const char *name,
                          size_t name_len, uint64_t new_directory, const char *new_name,
                          size_t new_name_len, unsigned flags)
{
    if (flags & ~(unsigned)(FS_RENAME_NOREPLACE | FS_RENAME_EXCHANGE) ||
        flags == (FS_RENAME_NOREPLACE | FS_RENAME_EXCHANGE))
        return -EINVAL;
    int err = fs_name_check(name, name_len);
    if (!err)
        err = fs_name_check(new_name, new_name_len);
    if (err)
        return err;

    struct rename rename = {
        .from = {.directory = directory, .name = name, .name_len = name_len},
        .to = {.directory = new_directory, .name = new_name, .name_len = new_name_len},
    };
    bool unused = false;
    const bool moves = directory != new_directory;
    if (moves) /* what is above a directory must not change while it is looked at */
        pthread_mutex_lock(&volume->rename_mutex);
    do {
        err = rename_once(volume, &rename, flags, &unused);
    } while (err == -EAGAIN);
    if (moves)
        pthread_mutex_unlock(&volume->rename_mutex);
    if (!err && unused)
        fs_reaper_add(volume, rename.to.ino);
    return err;
}

int fs_rename(struct fs_volume *volume, uint64_t directory, const char *name, size_t name_len,
              uint64_t new_directory, const char *new_name, size_t new_name_len, unsigned flags)
{
    int err;
    do
        err = rename_or_fail(volume, directory, name, name_len, new_directory, new_name,
                             new_name_len, flags);
    while (err == -ENOSPC && fs_reap(volume));
    return err;
}

/* ---- publish ------------------------------------------------------------------ */

/* Under the locks. replaced: what the name means; unused: out, as in rename_locked. */
static int publish_locked(struct fs_volume *volume, uint64_t ino, struct side *to,
                          uint64_t ttl_seconds, bool *unused)
{
    struct fs_data_change change;
    struct fs_inode_move move = {NULL};
    struct fs_item parent, item;
    int err = find_side(volume, to);
    if (!err)
        err = fs_item_load(volume, ino, &item);
    if (!err && (item.key.bytes[0] != FS_KEY_ORPHAN || !S_ISREG(item.record.mode)))
        err = -EINVAL;
    if (!err && is_directory(to))
        err = -EISDIR;
    if (!err)
        err = fs_directory_load(volume, to->directory, &parent);
    if (!err)
        err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;

    const int64_t now = fs_time_now();
    err = fs_change_del(&change, &item.key);
    if (!err && to->ino)
        err = fs_change_drop_name(&change, &to->item, now, &to->move);
    item.key = to->entry;
    item.record.nlink = 1;
    item.record.ctime_ns = parent.record.mtime_ns = parent.record.ctime_ns = now;
    if (!err)
        err = ttl_seconds
                  ? fs_change_begin_expiry(volume, &change, &item, ttl_seconds * FS_NS_PER_SECOND)
                  : fs_change_inherit_expiry(volume, &change, &parent.record, &item);
    if (!err)
        err = fs_change_put(&change, &item);
    if (!err)
        err = fs_change_put(&change, &parent);
    if (!err)
        err = fs_inode_table_reserve(ino, &item.key, &move);
    if (!err)
        err = fs_change_apply(volume, &change, 0);
    if (err)
        goto out;
    (void)fs_inode_table_move(volume->table, &move); /* it has a name now */
    *unused =
        !fs_inode_table_move(volume->table, &to->move) && to->ino && to->item.record.nlink == 0;
out:
    fs_inode_table_cancel(&move);
    fs_inode_table_cancel(&to->move);
    fs_data_change_release(&change);
    return err;
}

int fs_publish(struct fs_volume *volume, uint64_t ino, uint64_t directory, const char *name,
               size_t name_len)
{
    return fs_publish_for(volume, ino, directory, name, name_len, 0);
}

int fs_publish_for(struct fs_volume *volume, uint64_t ino, uint64_t directory, const char *name,
                   size_t name_len, uint64_t ttl_seconds)
{
    int err = fs_name_check(name, name_len);
    if (err)
        return err;
    struct side to = {.directory = directory, .name = name, .name_len = name_len};
    bool unused = false;
    do {
        struct fs_lock_set locks = FS_LOCK_SET_INIT;
        err = peek_target(volume, &to);
        if (err == -EAGAIN)
            continue;
        if (err)
            return err;
        fs_lock_add(&locks, directory, FS_LOCK_EXCLUSIVE);
        fs_lock_add(&locks, ino, FS_LOCK_EXCLUSIVE);
        fs_lock_add(&locks, to.ino, FS_LOCK_EXCLUSIVE);
        fs_lock_take(volume->locks, &locks);
        err = publish_locked(volume, ino, &to, ttl_seconds, &unused);
        fs_lock_drop(volume->locks, &locks);
    } while (err == -EAGAIN || (err == -ENOSPC && fs_reap(volume)));
    if (!err && unused)
        fs_reaper_add(volume, to.ino);
    return err;
}
