/*
 * kv/check.c: verify everything the store can know of itself, and mend what can be mended.
 *
 * Owns       nothing.
 * Invariant  what is judged is what the last checkpoint made durable: one is made first, and no
 *            other but the repair's own while the check runs. What is mended is on disk whole or
 *            not at all; only blocks may be left over in between.
 * Locks      checkpoint.mutex from beginning to end.
 *
 * A repair goes: look; take from memory what is damaged on disk, if anything is there, and look
 * again; mend the trees, checkpoint; look again, now that all is whole, and make the bitmaps say
 * what was seen; checkpoint.
 */
#include "kv/check_repair.h"

/* Make the state on disk (or on the overlay over it) whole. Under checkpoint.mutex. */
static int checkpoint_now(struct kv_store *store)
{
    pthread_mutex_lock(&store->writer);
    store->changed = false;
    atomic_store_explicit(&store->log_since_checkpoint, 0, memory_order_relaxed);
    pthread_mutex_unlock(&store->writer);
    const int err = kv_checkpoint_run(&store->checkpoint, false);
    return err ? kv_store_fail(store, err, "a checkpoint") : 0;
}

/* ---- what is not in the trees ------------------------------------------------------- */

/*
 * Before the first checkpoint, which writes both superblocks anew. What a power cut can have
 * torn is no finding. -ENOMEM: nothing was looked at.
 */
static int judge_superblocks(struct kv_walk *walk)
{
    struct kv_disk_superblock superblock;
    enum kv_superblock_twin twin = KV_TWIN_GOOD;
    if (walk->store->superblocks_lost)
        return 0;
    const int err =
        kv_superblock_read(walk->store->device, "the image", false, &superblock, &twin, NULL);
    if (err == -ENOMEM)
        return err;
    if (walk->store->superblock_twin == KV_TWIN_TORN)
        kv_walk_report(walk, KV_CHECK_NOTE, "superblock-copy",
                       "one of the two superblocks was torn by a power cut; %s",
                       walk->store->read_only ? "the next mount mends it" : "opening mended it");
    else if (err)
        kv_walk_report(walk, KV_CHECK_REPAIRABLE, "superblock-copy",
                       "neither superblock can be used: %s", strerror(-err));
    else if (twin != KV_TWIN_GOOD || walk->store->superblock_twin == KV_TWIN_DAMAGED)
        kv_walk_report(walk, KV_CHECK_REPAIRABLE, "superblock-copy",
                       "one of the two superblocks is damaged");
    return 0;
}

/* The copy at the end is written at the end of a close, where a power cut can tear it. */
static int judge_backup(struct kv_walk *walk)
{
    const struct kv_store *store = walk->store;
    const int err = kv_superblock_verify_backup(store->device, &store->checkpoint.superblock);
    if (!err || err == -ENOMEM)
        return err;
    const bool torn = store->info.clean && err == -EBADMSG;
    kv_walk_report(walk, torn ? KV_CHECK_NOTE : KV_CHECK_REPAIRABLE, "superblock-backup",
                   "the backup superblock is damaged%s: %s",
                   torn ? ", or was torn when the image was closed" : "", strerror(-err));
    return 0;
}

/* What opening for repair has found; the checkpoints since then have mended it. */
static void judge_opening(struct kv_walk *walk)
{
    if (walk->store->superblocks_lost)
        kv_walk_report(walk, KV_CHECK_REPAIRABLE, "superblock-copy",
                       "both superblocks were damaged; the backup was used, what was done since "
                       "it was written may be lost%s",
                       walk->store->trees_outdated
                           ? "; newer pages lie on the device, they are looked for"
                           : "");
    else if (walk->store->bitmaps_rebuilt)
        kv_walk_report(walk, KV_CHECK_REPAIRABLE, "bitmap",
                       "the allocation bitmaps were damaged; they were made anew from the trees");
    if (walk->store->log_damaged)
        kv_walk_report(walk, KV_CHECK_REPAIRABLE, "log-damaged",
                       "the log was damaged before its durable end; what came after is lost");
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

/* ---- repair ------------------------------------------------------------------------------ */

/*
 * Walk once more; findings are not told again, but what is done about them may be. `walk` is
 * fresh, and the caller's to release.
 */
static int look_again(struct kv_store *store, const struct kv_walk *first, struct kv_walk *walk)
{
    int err = kv_walk_init(walk, store, &store->checkpoint.superblock);
    walk->context = first->context;
    walk->progress = first->progress;
    if (!err)
        err = kv_walk_run(walk);
    walk->report = first->report;
    walk->show_key = first->show_key;
    walk->show_context = first->show_context;
    return err;
}

/* Everything is read that a repair needs before it writes anything. */
static int find_leaves(const struct kv_walk *walk, struct kv_salvage *salvage)
{
    if (!kv_check_wants_leaves(walk))
        return 0;
    int err = kv_salvage_init(salvage, walk->store);
    if (!err)
        err = kv_check_find_leaves(walk, salvage);
    if (!err)
        err = kv_check_protect_leaves(walk, salvage);
    return err;
}

/*
 * The trees, up to a checkpoint. What a rescue brings back may have damage of its own below it,
 * at least one level down.
 */
static int repair_trees(struct kv_store *store, const struct kv_walk *first,
                        struct kv_mended *mended)
{
    struct kv_walk later;
    struct kv_salvage salvage = {0};
    const struct kv_walk *walk = first;
    int err = find_leaves(first, &salvage);
    for (unsigned round = 0; !err; round++) {
        bool rescued = false;
        err = kv_check_rescue(walk, &rescued);
        if (err || !rescued || round > KV_TREE_DEPTH_MAX + KV_MAP_DEPTH_MAX)
            break;
        err = checkpoint_now(store);
        if (walk == &later)
            kv_walk_release(&later);
        walk = first;
        if (err)
            break;
        err = look_again(store, first, &later);
        walk = &later;
    }
    if (!err && salvage.store)
        err = kv_check_protect_leaves(walk, &salvage);
    if (!err)
        err = kv_check_mend(walk, &salvage, mended);
    if (!err)
        store->trees_outdated = false;
    if (walk == &later)
        kv_walk_release(&later);
    kv_salvage_release(&salvage);
    return err ? kv_store_fail(store, err, "a repair") : checkpoint_now(store);
}

/* The bitmaps and the superblocks. *left: findings that could not be mended. */
static int repair_space(struct kv_store *store, const struct kv_walk *first, uint64_t *left)
{
    struct kv_walk walk;
    int err = look_again(store, first, &walk);
    if (!err && kv_walk_incomplete(&walk)) {
        kv_space_mark(store->space, walk.seen);
    } else if (!err) {
        uint64_t leaked, unmarked;
        kv_space_compare(store->space, walk.seen, true, &leaked, &unmarked);
    }
    *left = walk.repairable + walk.damaged;
    kv_walk_release(&walk);
    if (err)
        return err;
    err = checkpoint_now(store);
    if (err)
        return err;
    err = kv_superblock_write_backup(store->device, &store->checkpoint.superblock);
    store->superblock_twin = KV_TWIN_GOOD;
    store->superblocks_lost = false;
    store->bitmaps_rebuilt = false;
    store->log_damaged = false;
    return err;
}

static void note_salvaged(const struct kv_salvaged *salvaged, struct kv_check_result *result)
{
    result->salvaged_keys = salvaged->keys;
    result->stale_keys = salvaged->stale_keys;
    result->dropped_keys = salvaged->dropped;
    result->lost_ranges = salvaged->lost_ranges;
}

/* Without a repair: what would be found for the damaged places. */
static int estimate(const struct kv_walk *walk, struct kv_check_result *result)
{
    struct kv_salvage salvage = {0};
    struct kv_salvaged salvaged = {0};
    if (!kv_check_wants_leaves(walk))
        return 0;
    int err = kv_salvage_init(&salvage, walk->store);
    if (!err)
        err = kv_check_find_leaves(walk, &salvage);
    if (!err)
        err = kv_check_estimate(walk, &salvage, &salvaged);
    kv_salvage_release(&salvage);
    note_salvaged(&salvaged, result);
    return err;
}

static int repair(struct kv_store *store, const struct kv_walk *first,
                  const struct kv_check_options *options, struct kv_check_result *result)
{
    struct kv_mended mended = {0};
    uint64_t left = 0;
    int err = repair_trees(store, first, &mended);
    if (!err)
        err = repair_space(store, first, &left);
    if (err)
        return err;
    note_salvaged(&mended.salvaged, result);
    left += first->bad_blobs;
    const uint64_t found = first->repairable + first->damaged;
    result->repaired = found > left ? found - left : 0;
    if ((mended.pages || mended.removed) && options->report) {
        char text[160];
        snprintf(text, sizeof text,
                 "%llu pages were replaced, %llu keys below them were found and put back, %llu "
                 "keys were removed",
                 (unsigned long long)mended.pages,
                 (unsigned long long)(mended.salvaged.keys + mended.salvaged.stale_keys),
                 (unsigned long long)mended.removed);
        options->report(options->context, KV_CHECK_NOTE, "mended", text);
    }
    return 0;
}

/* ---- the check ------------------------------------------------------------------------------- */

static int check(struct kv_store *store, const struct kv_check_options *options,
                 struct kv_check_result *result)
{
    struct kv_walk walk;
    int err = kv_walk_init(&walk, store, &store->checkpoint.superblock);
    if (err)
        return err;
    walk.report = options->report;
    walk.context = options->context;
    walk.progress = options->progress;
    walk.read_blobs = options->read_blobs;
    walk.show_key = options->show_key;
    walk.show_context = options->context;
    err = judge_superblocks(&walk);
    if (!err)
        err = judge_backup(&walk);
    judge_opening(&walk);
    if (!err && !store->trees_outdated) /* else there is nothing that may be made durable */
        err = checkpoint_now(store);
    if (!err)
        err = kv_walk_run(&walk);
    if (!err)
        judge_space(&walk);
    *result = (struct kv_check_result){.pages = walk.page_count,
                                       .blobs = walk.blobs.count,
                                       .keys = walk.key_count,
                                       .shared_blobs = walk.shared_blobs,
                                       .repairable = walk.repairable,
                                       .damaged = walk.damaged};
    if (!err && options->repair && walk.repairable + walk.damaged > 0)
        err = repair(store, &walk, options, result);
    else if (!err && options->estimate)
        err = estimate(&walk, result);
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
    if (options->repair) /* what is set aside for blobs is in no tree, so it would count as free */
        (void)kv_blob_run_release(store->blobs.run);
    const int err = check(store, options, result);
    pthread_mutex_unlock(&store->checkpoint.mutex);
    return err;
}
