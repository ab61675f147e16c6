/*
 * kv/check.c: verify everything the store can know of itself, and mend what can be mended.
 *
 * Owns       nothing.
 * Invariant  what is judged is what the last checkpoint made durable: one is made first, and no
 *            other while the check runs.
 * Locks      checkpoint.mutex from beginning to end.
 */
#include "kv/check_walk.h"

/* Make the state on disk (or on the overlay over it) whole. Under checkpoint.mutex. */
static int checkpoint_now(struct kv_store *store)
{
    pthread_mutex_lock(&store->writer);
    store->changed = false;
    store->log_since_checkpoint = 0;
    pthread_mutex_unlock(&store->writer);
    const int err = kv_checkpoint_run(&store->checkpoint, false);
    return err ? kv_store_fail(store, err, "a checkpoint") : 0;
}

static void judge_superblocks(struct kv_walk *walk)
{
    struct kv_disk_superblock superblock;
    bool other_damaged = false;
    const int err = kv_superblock_read(walk->store->device, "the image", false, &superblock,
                                       &other_damaged, NULL);
    if (err)
        kv_walk_report(walk, KV_CHECK_REPAIRABLE, "superblock-copy",
                       "neither superblock can be used: %s", strerror(-err));
    else if (other_damaged)
        kv_walk_report(walk, KV_CHECK_REPAIRABLE, "superblock-copy",
                       "one of the two superblocks is damaged");
    else if (walk->store->superblock_damaged)
        /* No finding: a power cut leaves one torn, as it may, and each open for writing writes
         * both anew. */
        kv_walk_report(walk, KV_CHECK_NOTE, "superblock-copy",
                       "one of the two superblocks was damaged or torn; %s",
                       walk->store->read_only ? "the next mount mends it" : "opening mended it");
}

static void judge_space(struct kv_walk *walk)
{
    uint64_t leaked, unmarked;
    kv_space_compare(walk->store->space, walk->seen, false, &leaked, &unmarked);
    const bool incomplete = kv_walk_incomplete(walk);
    if (leaked)
        kv_walk_report(walk, incomplete ? KV_CHECK_NOTE : KV_CHECK_REPAIRABLE, "block-leaked",
                       "%llu blocks are marked as used but belong to nothing%s",
                       (unsigned long long)leaked,
                       incomplete ? "; they may belong to what is damaged" : "");
    if (unmarked)
        kv_walk_report(walk, KV_CHECK_REPAIRABLE, "block-unmarked",
                       "%llu blocks are in use but marked as free", (unsigned long long)unmarked);
}

static int check(struct kv_store *store, const struct kv_check_options *options,
                 struct kv_check_result *result)
{
    int err = checkpoint_now(store);
    if (err)
        return err;
    struct kv_walk walk;
    err = kv_walk_init(&walk, store, &store->checkpoint.superblock);
    if (err)
        return err;
    walk.report = options->report;
    walk.context = options->context;
    walk.progress = options->progress;
    walk.read_blobs = options->read_blobs;
    judge_superblocks(&walk);
    err = kv_walk_run(&walk);
    if (!err)
        judge_space(&walk);
    *result = (struct kv_check_result){.pages = walk.page_count,
                                       .blobs = walk.blobs.count,
                                       .keys = walk.key_count,
                                       .shared_blobs = walk.shared_blobs,
                                       .repairable = walk.repairable,
                                       .damaged = walk.damaged};
    kv_walk_release(&walk);
    return err;
}

int kv_check(struct kv_store *store, const struct kv_check_options *options,
             struct kv_check_result *result)
{
    if (options->repair && store->read_only)
        return -EROFS;
    if (kv_store_failure(store))
        return -EIO;
    pthread_mutex_lock(&store->checkpoint.mutex);
    const int err = check(store, options, result);
    pthread_mutex_unlock(&store->checkpoint.mutex);
    return err;
}
