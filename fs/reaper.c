/*
 * fs/reaper.c: deleting what has neither name nor reference.
 *
 * Owns       the inodes that wait.
 * Invariant  what waits stands under its O key and is in no other list. It can not come back:
 *            no name leads to it, and its number is stale for who has forgotten it.
 * Locks      reaper->running lets one run at a time pass and comes before inode locks;
 *            reaper->mutex guards the list, and nothing is taken under it.
 */
#include "fs/reaper.h"

#include <stdatomic.h>

#include "fs/xattr.h"

struct waiting {
    uint64_t inos[FS_REAP_FILES];
    size_t count;
    uint64_t units; /* of content */
};

struct fs_reaper {
    pthread_mutex_t running;
    _Atomic uint64_t runs; /* that deleted something */
    pthread_mutex_t mutex;
    struct waiting waiting; /* mutex */
};

struct fs_reaper *fs_reaper_new(void)
{
    struct fs_reaper *reaper = calloc(1, sizeof *reaper);
    if (!reaper)
        return NULL;
    pthread_mutex_init(&reaper->running, NULL);
    pthread_mutex_init(&reaper->mutex, NULL);
    return reaper;
}

void fs_reaper_free(struct fs_reaper *reaper)
{
    if (!reaper)
        return;
    pthread_mutex_destroy(&reaper->mutex);
    pthread_mutex_destroy(&reaper->running);
    free(reaper);
}

/* ---- one inode ------------------------------------------------------------------- */

static int load_orphan(struct fs_volume *volume, uint64_t ino, struct fs_record *record)
{
    struct fs_key key;
    fs_key_ino(&key, FS_KEY_ORPHAN, ino);
    const int err = fs_record_load(volume, &key, record);
    return !err && record->file.ino != ino ? -EUCLEAN : err;
}

/* What goes with the last step: attributes, and the record itself. */
static int delete_rest(struct fs_data_change *change, const struct fs_record *record)
{
    const uint64_t ino = record->file.ino;
    int err = 0;
    if (record->flags & FS_RECORD_XATTRS)
        err = fs_xattr_delete_all(ino, change->batch);
    return err ? err : fs_change_del_ino(change, FS_KEY_ORPHAN, ino);
}

/* One batch of a deletion. done: out: nothing is left of the inode, or it is in use again. */
static int delete_step(struct fs_volume *volume, struct fs_data_change *change, uint64_t ino,
                       bool *done)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_record record;
    int err;

    *done = true;
    fs_lock_add(&locks, ino, FS_LOCK_EXCLUSIVE);
    fs_lock_take(volume->locks, &locks);
    if (fs_inode_table_references(volume->table, ino) > 0) {
        err = 0;
        goto out;
    }
    err = load_orphan(volume, ino, &record);
    if (err == -ENOENT) {
        err = 0; /* another thread was faster */
        goto out;
    }
    if (!err && !record.file.is_inline)
        err = fs_data_delete_step(&volume->data, ino, FS_DATA_STEP_RECORDS, change, done);
    if (!err && *done)
        err = delete_rest(change, &record);
    if (!err)
        err = fs_change_apply(volume, change, KV_APPLY_URGENT);
    if (!err && *done)
        (void)fs_inode_table_drop(volume->table, ino); /* false: it never was in the table */
out:
    fs_lock_drop(volume->locks, &locks);
    return err;
}

int fs_orphan_delete(struct fs_volume *volume, uint64_t ino)
{
    struct fs_data_change change;
    int err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;
    bool done = false;
    while (!err && !done)
        err = delete_step(volume, &change, ino, &done);
    fs_data_change_release(&change);
    return err;
}

/* The name is gone whatever becomes of this: what is left is deleted at the next mount. */
static void delete_alone(struct fs_volume *volume, uint64_t ino)
{
    const int err = fs_orphan_delete(volume, ino);
    if (err)
        fs_volume_log(volume, KV_LOG_WARNING,
                      "inode %llu could not be deleted (%s); the next mount will try again",
                      (unsigned long long)ino, strerror(-err));
}

/* ---- many inodes ------------------------------------------------------------------ */

static int compare_inos(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/*
 * Whoever has found the number before it became stale has its lock, or is about to look at the
 * key again: when the lock has been free once, nobody is at the inode any more.
 */
static void wait_for_users(struct fs_volume *volume, uint64_t ino)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    fs_lock_add(&locks, ino, FS_LOCK_EXCLUSIVE);
    fs_lock_take(volume->locks, &locks);
    fs_lock_drop(volume->locks, &locks);
}

/* Consecutive numbers whose inodes go together. */
struct run {
    uint64_t first, last;
    bool has_data, has_xattrs;
    uint64_t units; /* of content, of this run and those before */
};

static int del_range(struct kv_batch *batch, enum fs_key_type type, const struct run *run)
{
    struct fs_key lower, upper;
    fs_key_ino(&lower, type, run->first);
    fs_key_ino(&upper, type, run->last + 1);
    return kv_batch_del_range(batch, lower.bytes, lower.length, upper.bytes, upper.length);
}

static int delete_run(struct fs_data_change *change, const struct run *run)
{
    int err = 0;
    if (run->has_data)
        err = del_range(change->batch, FS_KEY_DATA, run);
    if (!err && run->has_xattrs)
        err = del_range(change->batch, FS_KEY_XATTR, run);
    if (err)
        return err;
    if (run->first == run->last)
        return fs_change_del_ino(change, FS_KEY_ORPHAN, run->first);
    return del_range(change->batch, FS_KEY_ORPHAN, run);
}

/*
 * Add the deletion of an inode to the run, or to the change if the run ends before it. *together
 * false: it is not one that goes with others.
 */
static int add_to_run(struct fs_volume *volume, struct fs_data_change *change, struct run *run,
                      uint64_t ino, bool *together)
{
    struct fs_record record;
    *together = false;
    if (ino > FS_INO_MAX || fs_inode_table_references(volume->table, ino) > 0 ||
        load_orphan(volume, ino, &record) || record.file.blocks > FS_REAP_UNITS_EACH)
        return 0;
    /* What was taken for less when it began to wait must not make the batch longer than that. */
    if (run->units + record.file.blocks > FS_REAP_UNITS + FS_REAP_UNITS_EACH)
        return 0;
    run->units += record.file.blocks;
    *together = true;
    int err = 0;
    if (run->first && run->last + 1 != ino) {
        err = delete_run(change, run);
        *run = (struct run){.units = run->units};
    }
    if (!run->first)
        run->first = ino;
    run->last = ino;
    run->has_data |= !record.file.is_inline;
    run->has_xattrs |= (record.flags & FS_RECORD_XATTRS) != 0;
    return err;
}

/* Delete in one batch what can go together. alone: out: the others. */
static int delete_together(struct fs_volume *volume, const struct waiting *dead,
                           struct waiting *alone)
{
    struct fs_data_change change;
    struct run run = {0};
    alone->count = 0;
    int err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;
    for (size_t i = 0; i < dead->count && !err; i++) {
        bool together;
        err = add_to_run(volume, &change, &run, dead->inos[i], &together);
        if (!together)
            alone->inos[alone->count++] = dead->inos[i];
    }
    if (!err && run.first)
        err = delete_run(&change, &run);
    if (!err)
        err = fs_change_apply(volume, &change, KV_APPLY_URGENT);
    fs_data_change_release(&change);
    if (err)
        return err;
    for (size_t i = 0, left = 0; i < dead->count; i++) {
        if (left < alone->count && alone->inos[left] == dead->inos[i])
            left++;
        else
            (void)fs_inode_table_drop(volume->table, dead->inos[i]); /* false: never in it */
    }
    return 0;
}

/* With `running`. */
static void delete_waiting(struct fs_volume *volume, struct waiting *dead)
{
    struct waiting alone;
    for (size_t i = 0; i < dead->count; i++)
        wait_for_users(volume, dead->inos[i]);
    qsort(dead->inos, dead->count, sizeof dead->inos[0], compare_inos);
    if (delete_together(volume, dead, &alone))
        alone = *dead; /* damage in one, or little space, must not keep the others */
    for (size_t i = 0; i < alone.count; i++)
        delete_alone(volume, alone.inos[i]);
}

bool fs_reap(struct fs_volume *volume)
{
    struct fs_reaper *reaper = volume->reaper;
    struct waiting dead;
    const uint64_t runs = atomic_load_explicit(&reaper->runs, memory_order_relaxed);
    pthread_mutex_lock(&reaper->running);
    pthread_mutex_lock(&reaper->mutex);
    dead = reaper->waiting;
    reaper->waiting.count = 0;
    reaper->waiting.units = 0;
    pthread_mutex_unlock(&reaper->mutex);
    if (dead.count) {
        delete_waiting(volume, &dead);
        atomic_fetch_add_explicit(&reaper->runs, 1, memory_order_relaxed);
    }
    /* One that was under way when we came counts, too: its room was not to be had before. */
    const bool reaped = atomic_load_explicit(&reaper->runs, memory_order_relaxed) != runs;
    pthread_mutex_unlock(&reaper->running);
    return reaped;
}

void fs_reaper_add(struct fs_volume *volume, uint64_t ino)
{
    struct fs_record record;
    const bool known = !load_orphan(volume, ino, &record);
    fs_reaper_add_known(volume, ino, known ? record.file.blocks : UINT64_MAX);
}

void fs_reaper_add_known(struct fs_volume *volume, uint64_t ino, uint64_t units)
{
    struct fs_reaper *reaper = volume->reaper;
    if (units > FS_REAP_UNITS_EACH) {
        delete_alone(volume, ino);
        return;
    }
    bool enough = false;
    for (bool added = false; !added;) {
        pthread_mutex_lock(&reaper->mutex);
        struct waiting *waiting = &reaper->waiting;
        added = waiting->count < FS_REAP_FILES;
        if (added) {
            waiting->inos[waiting->count++] = ino;
            waiting->units += units;
        }
        enough = waiting->count == FS_REAP_FILES || waiting->units >= FS_REAP_UNITS;
        pthread_mutex_unlock(&reaper->mutex);
        if (enough)
            (void)fs_reap(volume); /* what was reaped is of no interest here */
    }
}
