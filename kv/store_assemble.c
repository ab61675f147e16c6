/*
 * kv/store_assemble.c: the layers of a store, one over the other, as a superblock says.
 *
 * Owns       the layers, and whatever sizes them: budget, bounds of the log, room that is kept.
 * Invariant  nothing is allocated before it is known what the image and its log hold.
 * Locks      none: nobody else knows the store yet, or any more.
 */
#include "kv/store.h"

#include "kv/check_repair.h"
#include "kv/error.h"

#define BUDGET_DEFAULT (256ull << 20)
/* Of the records in a log, see KV_REPLAY_OP_BYTES. */
#define REPLAY_COST_LEAST (255ull << 20) /* a quarter of the memory, if that is more */

/* Records on their way to the log: a 32nd of the budget, but no more. */
#define LOG_BUFFER_MAX (4u << 20)
/* Blobs on their way to the device: a sixteenth of the budget, within these. */
#define PENDING_BYTES_MIN (512ull << 10)
#define PENDING_BYTES_MAX (16ull << 20)

struct kv_store *kv_store_new(void)
{
    struct kv_store *store = calloc(1, sizeof *store);
    if (!store)
        return NULL;
    store->deferred = kv_deferred_new();
    if (!store->deferred) {
        free(store);
        return NULL;
    }
    /* None of these fails on Linux: they need no memory. */
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&store->checkpoint.mutex, NULL);
    kv_mutex_init_brief(&store->writer);
    pthread_mutex_init(&store->work_mutex, NULL);
    pthread_cond_init(&store->for_committer, &monotonic);
    pthread_cond_init(&store->for_checkpointer, &monotonic);
    pthread_cond_init(&store->for_packer, &monotonic);
    pthread_cond_init(&store->for_toucher, &monotonic);
    pthread_cond_init(&store->for_settler, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return store;
}

static void on_pager_failure(void *context, int error, const char *what)
{
    (void)kv_store_fail(context, error, what); /* the pager returns the error itself */
}

static void on_page_damage(void *context, uint64_t page_id, int error)
{
    kv_store_log(context, KV_LOG_ERROR, "page %llu can not be read: %s; %s",
                 (unsigned long long)page_id, strerror(-error),
                 error == -EIO ? "check the device" : "run fsck.kvfs");
}

static void on_blob_failure(void *context, int error)
{
    (void)kv_store_fail(context, error, "writing a blob"); /* whoever waits for it hears of it */
}

static_assert(KV_WAL_GUESTS_MAX <= KV_BLOB_GIVEN_MAX, "as many as the log has room for");

static int give_blobs(void *context, struct kv_io *ios, size_t *count)
{
    struct kv_store *store = context;
    return kv_blobs_give(&store->blobs, ios, KV_WAL_GUESTS_MAX, count);
}

static void blobs_given(void *context, const struct kv_io *ios, size_t count)
{
    struct kv_store *store = context;
    kv_blobs_given(&store->blobs, ios, count);
}

static int open_space(struct kv_store *store, const struct kv_disk_superblock *sb)
{
    const uint64_t first = kv_le64_get(sb->group_first_block);
    const uint32_t groups = kv_le32_get(sb->group_count);
    const struct kv_space_config config = {
        .group_first_block = first,
        .group_count = groups,
        .end_block = kv_min_u64(kv_le64_get(sb->image_blocks) - 1,
                                first + (uint64_t)groups * KV_GROUP_BLOCKS),
        .cluster_blocks = (uint32_t)(store->node_bytes / KV_BLOCK_BYTES),
        .log_id = kv_superblock_log_id(sb)};
    if (store->superblocks_lost) { /* the backup's bitmaps may hide what was written since */
        store->bitmaps_rebuilt = true;
        return kv_space_open_empty(store->device, &config, &store->space);
    }
    int err = kv_space_open(store->device, &config, kv_le64_get(sb->epoch),
                            kv_le64_get(sb->bitmap_digest), &store->space);
    if (store->repair && kv_error_is_damage(err)) {
        kv_store_log(store, KV_LOG_WARNING,
                     "the allocation bitmaps are damaged (%s); they are made anew", strerror(-err));
        store->bitmaps_rebuilt = true;
        err = kv_space_open_empty(store->device, &config, &store->space);
    }
    return err;
}

/*
 * Where the image is sparse, have room on the host for what must be written whatever happens:
 * the superblocks, and what the space keeps for deletions and checkpoints. The log and the
 * bitmaps see to their own.
 */
static int back_what_is_kept(struct kv_store *store, const struct kv_disk_superblock *sb)
{
    const uint64_t blocks[] = {KV_SUPERBLOCK_A_BLOCK, KV_SUPERBLOCK_B_BLOCK,
                               kv_le64_get(sb->image_blocks) - 1};
    int err = 0;
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0] && !err; i++)
        err = kv_device_reserve(store->device, blocks[i], 1);
    return err ? err : kv_space_back_reserve(store->space);
}

static void say_host_is_full(struct kv_error *error)
{
    kv_error_set(error, "the file system that holds the image has no room for what opening it "
                        "writes; make room there, or open it read-only");
}

static void on_leaf_loaded(void *context, struct kv_bytes low, struct kv_bytes high)
{
    kv_ahead_loaded(context, low, high);
}

/* What is given out next is faulted in by then, by a thread that nobody waits for. */
static void go_ahead(struct kv_store *store, uint64_t bytes_min)
{
    struct kv_arena **const arenas = store->arenas;
    arenas[0] = kv_pager_arena(store->pager);
    arenas[1] = store->blobs.cache ? kv_blob_cache_arena(store->blobs.cache) : NULL;
    const uint64_t all = arenas[0]->bytes + (arenas[1] ? arenas[1]->bytes : 0);
    const double share = (double)kv_min_u64(bytes_min, all) / (double)all;
    for (unsigned i = 0; i < KV_STORE_ARENAS && arenas[i]; i++) {
        const struct kv_arena_ahead ahead = {.bytes_min =
                                                 (size_t)((double)arenas[i]->bytes * share),
                                             .call = kv_store_want_touch,
                                             .context = store};
        kv_arena_go_ahead(arenas[i], &ahead);
    }
}

static uint64_t budget_of(const struct kv_open_options *options)
{
    return options->memory_budget_bytes ? options->memory_budget_bytes : BUDGET_DEFAULT;
}

static int open_pages(struct kv_store *store, const struct kv_disk_superblock *sb,
                      const struct kv_open_options *options, uint64_t epoch)
{
    const uint64_t budget = budget_of(options);
    const uint64_t map_share = budget / 16;
    const uint64_t blob_share = budget * options->blob_percent / 100;
    store->budget_bytes = budget;
    static const struct kv_pagemap_root nothing;
    const struct kv_pagemap_root durable = {.ptr = sb->map_root,
                                            .depth = kv_le32_get(sb->map_depth),
                                            .page_id_next = kv_le64_get(sb->page_id_next)};
    const struct kv_pagemap_root root = store->trees_outdated ? nothing : durable;
    int err = kv_le64_get(root.ptr.birth_epoch) > kv_le64_get(sb->epoch) ? -EUCLEAN : 0;
    if (!err)
        err = kv_pagemap_open(store->device, store->space, &root, map_share / KV_BLOCK_BYTES,
                              &store->map);
    if (err == -EUCLEAN && store->repair) {
        kv_store_log(store, KV_LOG_WARNING, "the page map's root makes no sense; it is left out");
        err = kv_pagemap_open(store->device, store->space, &nothing, map_share / KV_BLOCK_BYTES,
                              &store->map);
    }
    if (err)
        return err;
    const struct kv_pager_config config = {
        .device = store->device,
        .space = store->space,
        .map = store->map,
        .buffers = store->buffers,
        .node_bytes = store->node_bytes,
        .budget_bytes = budget - map_share - blob_share,
        .tiers = options->tiers,
        .adapt_tiers = !options->fixed_tiers,
        .retain_percent = options->retain_percent,
        .form = {.codec = store->blobs.codec,
                 .dense = kv_le64_get(sb->feature_incompat) & KV_FEATURE_INCOMPAT_DENSE,
                 .bare = kv_le64_get(sb->feature_incompat) & KV_FEATURE_INCOMPAT_BARE},
        .image_id = kv_superblock_log_id(sb),
        .epoch = epoch,
        .on_failure = on_pager_failure,
        .on_damage = on_page_damage,
        .on_crowded = kv_store_want_cleaning,
        .context = store};
    err = kv_pager_open(&config, &store->pager);
    if (!err && blob_share) {
        store->blobs.cache = kv_blob_cache_new(blob_share, options->retain_percent);
        store->blobs.near = kv_blob_near_new(kv_store_find_near, store);
        err = store->blobs.cache && store->blobs.near ? 0 : -ENOMEM;
    }
    if (!err)
        go_ahead(store, options->touch_ahead_bytes);
    for (uint8_t i = 0; i < KV_TREE_COUNT && !err; i++)
        err = kv_btree_init(&store->trees[i], store->pager, store->node_bytes,
                            kv_le64_get(sb->tree_root[i]), i);
    if (!err) {
        struct kv_btree *const keys = &store->trees[KV_TREE_KEYS];
        store->ahead = kv_ahead_new(keys);
        err = store->ahead ? 0 : -ENOMEM;
        keys->loaded = on_leaf_loaded;
        keys->loaded_context = store->ahead;
    }
    return err;
}

static void on_blob_leaves(void *context, const struct kv_disk_blob_ref *ref, const uint8_t *stored)
{
    struct kv_store *store = context;
    kv_blobs_keep_written(&store->blobs, ref, stored);
}

static int open_pending_blobs(struct kv_store *store)
{
    const uint64_t bytes =
        kv_max_u64(PENDING_BYTES_MIN, kv_min_u64(PENDING_BYTES_MAX, store->budget_bytes / 16));
    const struct kv_blob_pending_config config = {.device = store->device,
                                                  .block_count = (uint32_t)(bytes / KV_BLOCK_BYTES),
                                                  .on_failure = on_blob_failure,
                                                  .on_leave =
                                                      store->blobs.cache ? on_blob_leaves : NULL,
                                                  .context = store};
    store->blobs.pending = kv_blob_pending_new(&config);
    if (!store->blobs.pending)
        return -ENOMEM;
    if (store->repair) /* which makes up its own mind about what is busy */
        return 0;
    store->blobs.run = kv_blob_run_new(store->device, store->space);
    return store->blobs.run ? 0 : -ENOMEM;
}

static void close_pages(struct kv_store *store)
{
    store->trees[KV_TREE_KEYS].loaded = NULL;
    kv_ahead_free(store->ahead);
    for (unsigned i = 0; i < KV_TREE_COUNT; i++)
        kv_btree_release(&store->trees[i]);
    kv_blob_near_free(store->blobs.near);
    kv_blob_cache_free(store->blobs.cache);
    kv_pager_close(store->pager);
    kv_pagemap_close(store->map);
    store->ahead = NULL;
    store->blobs.near = NULL;
    store->blobs.cache = NULL;
    store->pager = NULL;
    store->map = NULL;
}

/* The space is empty: before anything is allocated, mark what the superblock's trees own. */
static int rebuild_space(struct kv_store *store, const struct kv_disk_superblock *sb)
{
    const struct kv_open_options least = {.memory_budget_bytes = KV_BUDGET_MIN};
    int err = open_pages(store, sb, &least, kv_le64_get(sb->epoch) + 1);
    if (!err)
        err = kv_check_mark_durable(store, sb);
    close_pages(store);
    return err;
}

/*
 * When the log asks for a checkpoint: often enough that it does not fill up, and that neither a
 * replay nor what is noted for each moved page grows out of proportion to the memory. While that
 * checkpoint is under way writers may go on, and wait for it in the end: however long the ring and
 * slow the device, a replay has no more to do than REPLAY_COST_LEAST, some 420,000 small records
 * under scattered keys, or most of a ring of large ones. What that takes is the leaves they are in,
 * each of which it reads and writes once (kv/replay.c). A store of more than 1 GiB of memory may
 * have more: each checkpoint writes the leaves that changed since the last, which with scattered
 * keys are all there are, and a replay that has room for them reads them once as well.
 */
static void choose_log_bounds(struct kv_store *store, const struct kv_disk_superblock *sb,
                              const struct kv_open_options *options)
{
    const uint64_t budget = budget_of(options);
    const uint64_t log_bytes = kv_le64_get(sb->log_block_count) * KV_BLOCK_BYTES;
    store->log_bytes_max = log_bytes / 8 * 7;
    store->log_checkpoint_bytes = kv_min_u64(store->log_bytes_max / 3 * 2, budget / 2);
    store->log_cost_percent =
        store->log_bytes_max * 100 / kv_max_u64(REPLAY_COST_LEAST, budget / 4);
}

int kv_store_assemble(struct kv_store *store, const struct kv_disk_superblock *sb,
                      const struct kv_open_options *options, struct kv_error *error)
{
    store->node_bytes = kv_le32_get(sb->node_bytes);
    store->checkpoint.superblock = *sb;
    kv_superblock_info(sb, &store->info);
    store->info.superblock_damaged = store->superblock_twin != KV_TWIN_GOOD;
    store->buffers = kv_buffers_new();
    store->value = malloc(store->node_bytes);
    store->dropped_capacity = store->node_bytes / sizeof *store->dropped;
    store->dropped = malloc(store->dropped_capacity * sizeof *store->dropped);
    if (!store->buffers || !store->value || !store->dropped)
        return -ENOMEM;
    int err = open_space(store, sb);
    if (!err)
        err = back_what_is_kept(store, sb);
    if (err == -ENOSPC) {
        say_host_is_full(error);
        return err;
    }
    if (err) {
        kv_error_set(error,
                     kv_error_is_contradiction(err)
                         ? "the allocation bitmaps are damaged (%s)%s"
                         : "the allocation bitmaps can not be read (%s)%s",
                     strerror(-err), kv_error_remedy(err));
        return err;
    }
    store->blobs.device = store->device;
    store->blobs.space = store->space;
    store->blobs.buffers = store->buffers;
    store->blobs.in_frames = kv_le64_get(sb->feature_incompat) & KV_FEATURE_INCOMPAT_FRAMES;
    store->blobs.codec = (struct kv_codec_spec){.codec = sb->codec, .level = sb->codec_level};
    if (store->bitmaps_rebuilt) {
        err = rebuild_space(store, sb);
        if (err)
            return err;
    }
    choose_log_bounds(store, sb, options);
    const uint64_t log_buffer = kv_min_u64(LOG_BUFFER_MAX, budget_of(options) / 32);
    const struct kv_wal_config config = {.first_block = kv_le64_get(sb->log_first_block),
                                         .block_count = kv_le64_get(sb->log_block_count),
                                         .log_id = kv_superblock_log_id(sb),
                                         .tail = kv_le64_get(sb->log_tail),
                                         .tail_link = kv_le64_get(sb->log_tail_link),
                                         .buffer_bytes = options->log_buffer_bytes
                                                             ? options->log_buffer_bytes
                                                             : (uint32_t)log_buffer,
                                         .before_flush = give_blobs,
                                         .after_flush = blobs_given,
                                         .context = store};
    err = kv_wal_open(store->device, &config, &store->wal);
    if (err == -ENOSPC)
        say_host_is_full(error);
    if (!err)
        err = kv_store_scan_log(store, error);
    if (err)
        return err;
    /* Beyond every epoch that a block of an earlier history may bear: so no block of the log
     * that is written from now on equals one of that history, and none can be continued by
     * what it left in the ring. And beyond the two that were open when that history ended
     * without a word in the log: a page of theirs is never taken for one of ours. */
    const uint64_t epoch_seen = kv_max_u64(store->log_end.epoch_max, store->epoch_found);
    const uint64_t epoch = kv_max_u64(kv_le64_get(sb->epoch), epoch_seen) + 3;
    store->epoch_first = epoch;
    err = open_pages(store, sb, options, epoch);
    if (err) {
        kv_error_set(error,
                     kv_error_is_contradiction(err) ? "the page map's root is damaged (%s)%s"
                                                    : "the trees can not be opened (%s)%s",
                     strerror(-err), kv_error_remedy(err));
        return err;
    }
    if (!store->read_only)
        err = open_pending_blobs(store);
    if (err)
        return err;
    store->checkpoint.close_gate = kv_settle_and_lock;
    store->checkpoint.open_gate = kv_settle_unlock;
    store->checkpoint.gate_context = store;
    store->checkpoint.device = store->device;
    store->checkpoint.space = store->space;
    store->checkpoint.map = store->map;
    store->checkpoint.pager = store->pager;
    store->checkpoint.blobs = &store->blobs;
    store->checkpoint.wal = store->wal;
    atomic_init(&store->checkpoint.epoch, epoch);
    return 0;
}

void kv_store_disassemble(struct kv_store *store)
{
    close_pages(store);
    kv_blob_pending_free(store->blobs.pending);
    kv_blob_run_free(store->blobs.run);
    kv_wal_close(store->wal);
    kv_space_close(store->space);
    kv_buffers_free(store->buffers);
    kv_device_close(store->device);
    kv_metrics_release(&store->metrics);
    free(store->value);
    free(store->dropped);
    pthread_mutex_destroy(&store->checkpoint.mutex);
    pthread_mutex_destroy(&store->writer);
    pthread_mutex_destroy(&store->work_mutex);
    pthread_cond_destroy(&store->for_committer);
    pthread_cond_destroy(&store->for_checkpointer);
    pthread_cond_destroy(&store->for_packer);
    pthread_cond_destroy(&store->for_toucher);
    pthread_cond_destroy(&store->for_settler);
    kv_deferred_free(store->deferred);
    free(store);
}
