/*
 * kv/store.c: open, close, sync, read: the store as its users see it.
 *
 * Owns       every layer below, the writer lock, the background threads.
 * Invariant  one store per image (the device's lock); after a failure (kv_store_fail) nothing
 *            is written any more and every waiter gets an error.
 * Locks      see kv/store.h. work_mutex is a leaf: nothing is taken under it.
 */
#include "kv/store.h"

#include "kv/check_repair.h"
#include "kv/error.h"

#include <stdarg.h>
#include <time.h>

#define BUDGET_DEFAULT     (256ull << 20)
#define BUDGET_MIN         (8ull << 20)
#define INTERVAL_DEFAULT   1000u
#define CHECKPOINT_EVERY_S 30u
#define LOG_CHECKPOINT_MAX (32ull << 20)
#define LOG_USED_MAX       (48ull << 20)

/* ---- log lines, failure ------------------------------------------------------------ */

static void log_to_stderr(void *context, enum kv_log_level level, const char *line)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    (void)context;
    if (level <= KV_LOG_WARNING)
        fprintf(stderr, "kvfs: %s: %s\n", names[level], line);
}

void kv_store_log(struct kv_store *store, enum kv_log_level level, const char *format, ...)
{
    if (!store->log)
        return;
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    store->log(store->log_context, level, line);
}

int kv_store_fail(struct kv_store *store, int error, const char *what)
{
    int none = 0;
    /* Release pairs with the acquire loads of everyone who is about to write. */
    if (atomic_compare_exchange_strong_explicit(&store->failure, &none, error, memory_order_acq_rel,
                                                memory_order_acquire))
        kv_store_log(store, KV_LOG_ERROR,
                     "%s failed: %s; the store is read-only until it is opened anew", what,
                     strerror(-error));
    return error;
}

int kv_store_failure(struct kv_store *store)
{
    return atomic_load_explicit(&store->failure, memory_order_acquire);
}

void kv_store_note_host(struct kv_store *store, bool refused)
{
    if (atomic_load_explicit(&store->host_was_full, memory_order_relaxed) == refused)
        return;
    struct kv_space_stats stats = {.host_is_full = false};
    if (refused)
        kv_space_stats(store->space, &stats);
    /* Only words depend on it: each change is said once, whoever is first. */
    if (stats.host_is_full != refused ||
        atomic_exchange_explicit(&store->host_was_full, refused, memory_order_relaxed) == refused)
        return;
    if (refused)
        kv_store_log(store, KV_LOG_WARNING,
                     "the file system that holds the image is full: no space left for writers "
                     "until it has room again");
    else
        kv_store_log(store, KV_LOG_INFO, "the file system that holds the image has room again");
}

static void on_pager_failure(void *context, int error, const char *what)
{
    (void)kv_store_fail(context, error, what); /* the pager returns the error itself */
}

static void on_page_damage(void *context, uint64_t page_id, int error)
{
    kv_store_log(context, KV_LOG_ERROR, "page %llu can not be read: %s; run fsck.kvfs",
                 (unsigned long long)page_id, strerror(-error));
}

/* ---- assembling the layers ----------------------------------------------------------- */

/* Does this error say that the image is damaged? */
static bool is_damage(int error)
{
    return error == -EBADMSG || error == -EUCLEAN || error == -EIO;
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
    if (store->repair && is_damage(err)) {
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

static int open_pages(struct kv_store *store, const struct kv_disk_superblock *sb,
                      const struct kv_open_options *options, uint64_t epoch)
{
    const uint64_t budget =
        options->memory_budget_bytes ? options->memory_budget_bytes : BUDGET_DEFAULT;
    const uint64_t map_share = budget / 16;
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
    const struct kv_pager_config config = {.device = store->device,
                                           .space = store->space,
                                           .map = store->map,
                                           .buffers = store->buffers,
                                           .node_bytes = store->node_bytes,
                                           .budget_bytes = budget - map_share,
                                           .hot_percent =
                                               options->hot_percent ? options->hot_percent : 33,
                                           .codec = store->blobs.codec,
                                           .image_id = kv_superblock_log_id(sb),
                                           .epoch = epoch,
                                           .on_failure = on_pager_failure,
                                           .on_damage = on_page_damage,
                                           .context = store};
    err = kv_pager_open(&config, &store->pager);
    for (uint8_t i = 0; i < KV_TREE_COUNT && !err; i++)
        err = kv_btree_init(&store->trees[i], store->pager, store->node_bytes,
                            kv_le64_get(sb->tree_root[i]), i);
    return err;
}

static void close_pages(struct kv_store *store)
{
    for (unsigned i = 0; i < KV_TREE_COUNT; i++)
        kv_btree_release(&store->trees[i]);
    kv_pager_close(store->pager);
    kv_pagemap_close(store->map);
    store->pager = NULL;
    store->map = NULL;
}

/* The space is empty: before anything is allocated, mark what the superblock's trees own. */
static int rebuild_space(struct kv_store *store, const struct kv_disk_superblock *sb)
{
    const struct kv_open_options least = {.memory_budget_bytes = BUDGET_MIN};
    int err = open_pages(store, sb, &least, kv_le64_get(sb->epoch) + 1);
    if (!err)
        err = kv_check_mark_durable(store, sb);
    close_pages(store);
    return err;
}

/*
 * When the log asks for a checkpoint: often enough that it does not fill up, and that neither a
 * replay nor what is noted for each moved page grows out of proportion to the memory. While that
 * checkpoint is under way, writers may go on up to LOG_USED_MAX and then wait for it: however
 * long the ring and slow the device, a replay has no more to do than that, some 600,000 small
 * records under scattered keys, which is less than a second's work.
 */
static void choose_log_bounds(struct kv_store *store, const struct kv_disk_superblock *sb,
                              const struct kv_open_options *options)
{
    const uint64_t budget =
        options->memory_budget_bytes ? options->memory_budget_bytes : BUDGET_DEFAULT;
    const uint64_t log_bytes = kv_le64_get(sb->log_block_count) * KV_BLOCK_BYTES;
    store->log_checkpoint_bytes =
        kv_min_u64(log_bytes / 3, kv_min_u64(LOG_CHECKPOINT_MAX, budget / 2));
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
    if (!store->buffers || !store->value)
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
                     err == -ENOMEM ? "the allocation bitmaps can not be read (%s)"
                     : err == -EIO  ? "the allocation bitmaps can not be read (%s); check the "
                                      "device, or run fsck.kvfs -y"
                                    : "the allocation bitmaps are damaged (%s); run fsck.kvfs -y",
                     strerror(-err));
        return err;
    }
    store->blobs.device = store->device;
    store->blobs.space = store->space;
    store->blobs.buffers = store->buffers;
    store->blobs.codec = (struct kv_codec_spec){.codec = sb->codec, .level = sb->codec_level};
    if (store->bitmaps_rebuilt) {
        err = rebuild_space(store, sb);
        if (err)
            return err;
    }
    choose_log_bounds(store, sb, options);
    const struct kv_wal_config config = {.first_block = kv_le64_get(sb->log_first_block),
                                         .block_count = kv_le64_get(sb->log_block_count),
                                         .log_id = kv_superblock_log_id(sb),
                                         .tail = kv_le64_get(sb->log_tail),
                                         .tail_link = kv_le64_get(sb->log_tail_link),
                                         .used_blocks_max = LOG_USED_MAX / KV_BLOCK_BYTES};
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
        kv_error_set(error, "the page map's root is damaged (%s); run fsck.kvfs -y",
                     strerror(-err));
        return err;
    }
    store->checkpoint.gate = &store->writer;
    store->checkpoint.device = store->device;
    store->checkpoint.space = store->space;
    store->checkpoint.map = store->map;
    store->checkpoint.pager = store->pager;
    store->checkpoint.wal = store->wal;
    atomic_init(&store->checkpoint.epoch, epoch);
    return 0;
}

void kv_store_disassemble(struct kv_store *store)
{
    close_pages(store);
    kv_wal_close(store->wal);
    kv_space_close(store->space);
    kv_buffers_free(store->buffers);
    kv_device_close(store->device);
    free(store->value);
    free(store->dropped);
    pthread_mutex_destroy(&store->checkpoint.mutex);
    pthread_mutex_destroy(&store->writer);
    pthread_mutex_destroy(&store->work_mutex);
    pthread_cond_destroy(&store->work);
    free(store);
}

/* ---- checkpoints --------------------------------------------------------------------- */

/* Under checkpoint.mutex. */
static int checkpoint_locked(struct kv_store *store, bool clean)
{
    if (kv_store_failure(store))
        return -EIO;
    if (store->trees_outdated) /* a superblock of ours would hide what can still be found */
        return -EUCLEAN;
    pthread_mutex_lock(&store->writer);
    store->changed = false;
    store->log_since_checkpoint = 0;
    pthread_mutex_unlock(&store->writer);
    const int err = kv_checkpoint_run(&store->checkpoint, clean);
    if (err)
        (void)kv_store_fail(store, err, "a checkpoint");
    return err ? -EIO : 0;
}

int kv_store_checkpoint(struct kv_store *store, bool clean, bool always)
{
    if (store->read_only)
        return -EROFS;
    pthread_mutex_lock(&store->checkpoint.mutex);
    pthread_mutex_lock(&store->writer);
    const bool needed = store->changed || always || clean;
    pthread_mutex_unlock(&store->writer);
    int err = needed ? checkpoint_locked(store, clean) : 0;
    if (!err && kv_store_failure(store))
        err = -EIO;
    pthread_mutex_unlock(&store->checkpoint.mutex);
    return err;
}

int kv_store_checkpoint_of(struct kv_store *store, uint64_t epoch)
{
    pthread_mutex_lock(&store->checkpoint.mutex);
    /* Nobody else is at it now, so an epoch that is closed is also written. */
    const uint64_t open = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    int err = 0;
    if (open <= epoch)
        err = checkpoint_locked(store, false);
    else if (kv_store_failure(store))
        err = -EIO;
    pthread_mutex_unlock(&store->checkpoint.mutex);
    return err;
}

int kv_checkpoint(struct kv_store *store)
{
    return kv_store_checkpoint(store, false, false);
}

void kv_store_want_checkpoint(struct kv_store *store)
{
    if (!store->threads_running)
        return;
    pthread_mutex_lock(&store->work_mutex);
    store->checkpoint_wanted = true;
    pthread_cond_broadcast(&store->work);
    pthread_mutex_unlock(&store->work_mutex);
}

/* ---- background -------------------------------------------------------------------------- */

/* Wait for work or the time; false: the store is closing. Under work_mutex. */
static bool wait_for_work(struct kv_store *store, uint64_t milliseconds, const bool *flag)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    const uint64_t ns = (uint64_t)until.tv_nsec + milliseconds % 1000 * 1000000ull;
    until.tv_sec += (time_t)(milliseconds / 1000 + ns / 1000000000ull);
    until.tv_nsec = (long)(ns % 1000000000ull);
    int timed_out = 0;
    while (!store->stopping && !(flag && *flag) && !timed_out)
        timed_out = pthread_cond_timedwait(&store->work, &store->work_mutex, &until);
    return !store->stopping;
}

/* Every commit_interval what was applied becomes durable. */
static void *run_committer(void *context)
{
    struct kv_store *store = context;
    pthread_mutex_lock(&store->work_mutex);
    while (wait_for_work(store, store->commit_interval_ms, NULL)) {
        pthread_mutex_unlock(&store->work_mutex);
        if (!kv_store_failure(store) && store->sync != KV_SYNC_CHECKPOINT)
            kv_ignore(kv_sync(store)); /* a failure is said and kept by kv_store_fail */
        pthread_mutex_lock(&store->work_mutex);
    }
    pthread_mutex_unlock(&store->work_mutex);
    return NULL;
}

static void *run_checkpointer(void *context)
{
    struct kv_store *store = context;
    pthread_mutex_lock(&store->work_mutex);
    while (wait_for_work(store, CHECKPOINT_EVERY_S * 1000ull, &store->checkpoint_wanted)) {
        store->checkpoint_wanted = false;
        pthread_mutex_unlock(&store->work_mutex);
        if (!kv_store_failure(store))
            kv_ignore(kv_checkpoint(store)); /* likewise */
        pthread_mutex_lock(&store->work_mutex);
    }
    pthread_mutex_unlock(&store->work_mutex);
    return NULL;
}

static int start_threads(struct kv_store *store)
{
    int err = pthread_create(&store->committer, NULL, run_committer, store);
    if (err)
        return -err;
    err = pthread_create(&store->checkpointer, NULL, run_checkpointer, store);
    store->threads_running = !err;
    if (!err)
        return 0;
    pthread_mutex_lock(&store->work_mutex);
    store->stopping = true;
    pthread_cond_broadcast(&store->work);
    pthread_mutex_unlock(&store->work_mutex);
    pthread_join(store->committer, NULL);
    return -err;
}

static void stop_threads(struct kv_store *store)
{
    if (!store->threads_running)
        return;
    pthread_mutex_lock(&store->work_mutex);
    store->stopping = true;
    pthread_cond_broadcast(&store->work);
    pthread_mutex_unlock(&store->work_mutex);
    pthread_join(store->committer, NULL);
    pthread_join(store->checkpointer, NULL);
    store->threads_running = false;
}

/* ---- open, close ---------------------------------------------------------------------------- */

struct kv_store *kv_store_new(void)
{
    struct kv_store *store = calloc(1, sizeof *store);
    if (!store)
        return NULL;
    /* None of these fails on Linux: they need no memory. */
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&store->checkpoint.mutex, NULL);
    pthread_mutex_init(&store->writer, NULL);
    pthread_mutex_init(&store->work_mutex, NULL);
    pthread_cond_init(&store->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return store;
}

static struct kv_store *store_for(const struct kv_open_options *options)
{
    struct kv_store *store = kv_store_new();
    if (!store)
        return NULL;
    store->device = options->device;
    store->read_only = options->read_only;
    store->repair = options->repair;
    store->sync = options->sync;
    store->commit_interval_ms =
        options->commit_interval_ms ? options->commit_interval_ms : INTERVAL_DEFAULT;
    store->log = options->log ? options->log : log_to_stderr;
    store->log_context = options->log_context;
    store->report = options->report;
    store->report_context = options->report_context;
    store->show_key = options->show_key;
    return store;
}

/* The device to work on: the tests' or the path's, under an overlay when nothing is written. */
static int open_device(struct kv_store *store, const char *path,
                       const struct kv_open_options *options, struct kv_error *error)
{
    int err = 0;
    if (!store->device) {
        const unsigned flags = (options->read_only ? KV_DEVICE_READ_ONLY : 0u) |
                               (options->buffered_io ? KV_DEVICE_BUFFERED : 0u);
        err = kv_device_open(path, flags, &store->device, error);
        if (!err && !store->device->direct_io && !options->buffered_io)
            kv_store_log(store, KV_LOG_WARNING,
                         "%s: the host refuses O_DIRECT; using buffered io_uring", path);
    }
    if (!err && options->read_only) {
        struct kv_device *overlay;
        err = kv_device_overlay(store->device, &overlay);
        if (!err)
            store->device = overlay;
    }
    return err;
}

static int read_superblock(struct kv_store *store, const char *name,
                           struct kv_disk_superblock *superblock, struct kv_error *error)
{
    int err =
        kv_superblock_read(store->device, name, false, superblock, &store->superblock_twin, error);
    if (!store->repair || (!is_damage(err) && err != -EMEDIUMTYPE))
        return err;
    enum kv_superblock_twin neither;
    err = kv_superblock_read(store->device, name, true, superblock, &neither, error);
    if (err)
        return err;
    kv_store_log(store, KV_LOG_WARNING,
                 "%s: both superblocks are damaged; the backup at the end of the image is used",
                 name);
    store->superblocks_lost = true;
    return 0;
}

int kv_open(const char *path, const struct kv_open_options *given, struct kv_store **out,
            struct kv_error *error)
{
    static const struct kv_open_options defaults;
    const struct kv_open_options *options = given ? given : &defaults;
    const char *name = path ? path : "the image";
    if (options->memory_budget_bytes && options->memory_budget_bytes < BUDGET_MIN) {
        kv_error_set(error, "memory budget of %llu bytes is too small; the least is %llu",
                     (unsigned long long)options->memory_budget_bytes,
                     (unsigned long long)BUDGET_MIN);
        kv_device_close(options->device);
        return -EINVAL;
    }
    struct kv_store *store = store_for(options);
    if (!store) {
        kv_device_close(options->device);
        return -ENOMEM;
    }
    struct kv_disk_superblock superblock;
    struct kv_error inner = {""};
    int err = open_device(store, path, options, error);
    if (err)
        goto fail;
    err = read_superblock(store, name, &superblock, error);
    if (err)
        goto fail;
    if (store->superblock_twin != KV_TWIN_GOOD)
        kv_store_log(store, KV_LOG_WARNING, "%s: one superblock is %s, the other one is used%s",
                     name, store->superblock_twin == KV_TWIN_TORN ? "torn" : "damaged",
                     options->read_only ? "" : " and both are written anew");
    if (!options->read_only &&
        (kv_le64_get(superblock.feature_rocompat) & ~KV_FEATURE_ROCOMPAT_KNOWN)) {
        kv_error_set(error, "%s: uses features that this version can only read; open it read-only",
                     name);
        err = -EPROTONOSUPPORT;
        goto fail;
    }
    err = kv_store_assemble(store, &superblock, options, &inner);
    if (!err && options->repair && store->log_end.records)
        err = kv_check_mend_before_replay(store);
    if (!err)
        err = kv_store_replay(store, &inner);
    if (err) {
        kv_error_set(error, "%s: %s", name, inner.text[0] ? inner.text : strerror(-err));
        goto fail;
    }
    if (store->log_end.records)
        kv_store_log(store, KV_LOG_INFO, "%s: replayed %llu batches from the log", name,
                     (unsigned long long)store->log_end.records);
    if (!options->no_background)
        err = kv_start_background(store);
    if (err)
        goto fail;
    *out = store;
    return 0;
fail:
    kv_store_disassemble(store);
    return err;
}

int kv_start_background(struct kv_store *store)
{
    return store->read_only || store->threads_running ? 0 : start_threads(store);
}

int kv_close(struct kv_store *store)
{
    stop_threads(store);
    int err = 0;
    if (!store->read_only && !store->trees_outdated) {
        err = kv_store_checkpoint(store, true, true);
        if (!err)
            err = kv_superblock_write_backup(store->device, &store->checkpoint.superblock);
    }
    kv_store_disassemble(store);
    return err;
}

void kv_abandon(struct kv_store *store)
{
    stop_threads(store);
    kv_store_disassemble(store);
}

/* ---- durability ---------------------------------------------------------------------------------
 */

int kv_sync_to(struct kv_store *store, uint64_t position)
{
    if (store->read_only)
        return 0;
    if (kv_store_failure(store))
        return -EIO;
    if (store->sync == KV_SYNC_CHECKPOINT)
        return kv_checkpoint(store);
    const int err = kv_wal_sync(store->wal, position);
    if (!err)
        return 0;
    (void)kv_store_fail(store, err, "flushing the log");
    return -EIO;
}

int kv_sync(struct kv_store *store)
{
    return kv_sync_to(store, kv_wal_position(store->wal));
}

/* ---- reading
 * --------------------------------------------------------------------------------------- */

size_t kv_large_length(const struct kv_blob_ref *refs, size_t count)
{
    size_t length = 0;
    for (size_t i = 0; i < count; i++)
        length += kv_blob_length(&refs[i]);
    return length;
}

int kv_store_read_large(struct kv_store *store, const struct kv_blob_ref *refs, size_t count,
                        uint8_t *buf)
{
    int err = 0;
    for (size_t at = 0; at < count && !err; at += KV_BLOBS_AT_ONCE) {
        const size_t now = kv_min_u64(count - at, KV_BLOBS_AT_ONCE);
        err = kv_blobs_read_whole(&store->blobs, refs + at, now, buf);
        buf += kv_large_length(refs + at, now);
    }
    return err;
}

/* References of the large value under `key`, or -EAGAIN when it is not large any more. */
static int get_refs(struct kv_store *store, const void *key, size_t key_len,
                    struct kv_blob_ref *refs, size_t *count)
{
    size_t length;
    uint8_t kind;
    const int err = kv_btree_get(&store->trees[KV_TREE_KEYS], key, key_len, refs,
                                 KV_LARGE_REFS_MAX * sizeof *refs, &length, &kind);
    if (err)
        return err;
    *count = length / sizeof *refs;
    if (kind != KV_VALUE_LARGE)
        return -EAGAIN;
    const bool sane = *count <= KV_LARGE_REFS_MAX && kv_large_length(refs, *count) <= KV_VALUE_MAX;
    return sane ? 0 : -EUCLEAN;
}

/*
 * Read a large value. Its blobs may be freed and their blocks written anew while we read:
 * then the digests fail, and the key refers to something else by now.
 */
static int get_large(struct kv_store *store, const void *key, size_t key_len, void *buf,
                     size_t buf_cap, size_t *value_len)
{
    struct kv_blob_ref refs[KV_LARGE_REFS_MAX], again[KV_LARGE_REFS_MAX];
    size_t count, again_count;
    int err = get_refs(store, key, key_len, refs, &count);
    while (!err) {
        *value_len = kv_large_length(refs, count);
        if (*value_len > buf_cap)
            return -ERANGE;
        const int read_err = kv_store_read_large(store, refs, count, buf);
        if (!read_err)
            return 0;
        err = get_refs(store, key, key_len, again, &again_count);
        if (!err && again_count == count && !memcmp(refs, again, count * sizeof *refs))
            return read_err;
        memcpy(refs, again, sizeof refs);
        count = again_count;
    }
    return err;
}

static int get_one(struct kv_store *store, const void *key, size_t key_len, void *buf,
                   size_t buf_cap, size_t *value_len)
{
    if (key_len < 1 || key_len > KV_KEY_MAX)
        return -EINVAL;
    for (;;) {
        uint8_t kind;
        int err =
            kv_btree_get(&store->trees[KV_TREE_KEYS], key, key_len, buf, buf_cap, value_len, &kind);
        if (err)
            return err;
        if (kind != KV_VALUE_LARGE)
            return *value_len <= buf_cap ? 0 : -ERANGE;
        err = get_large(store, key, key_len, buf, buf_cap, value_len);
        if (err != -EAGAIN)
            return err;
    }
}

int kv_get(struct kv_store *store, const void *key, size_t key_len, void *buf, size_t buf_cap,
           size_t *value_len)
{
    (void)atomic_fetch_add_explicit(&store->gets, 1, memory_order_relaxed);
    return get_one(store, key, key_len, buf, buf_cap, value_len);
}

#define LOOKUPS_AT_ONCE 64u

/* Look with what is in memory. -EAGAIN: *missing is not. */
static int look_up(struct kv_store *store, struct kv_lookup *lookup, uint64_t *missing)
{
    uint8_t kind;
    if (lookup->key_len < 1 || lookup->key_len > KV_KEY_MAX)
        return -EINVAL;
    const int err =
        kv_btree_get_resident(&store->trees[KV_TREE_KEYS], lookup->key, lookup->key_len,
                              lookup->buf, lookup->buf_cap, &lookup->value_len, &kind, missing);
    if (err)
        return err;
    if (kind == KV_VALUE_LARGE)
        return get_one(store, lookup->key, lookup->key_len, lookup->buf, lookup->buf_cap,
                       &lookup->value_len);
    return lookup->value_len <= lookup->buf_cap ? 0 : -ERANGE;
}

/*
 * All lookups go down the tree together: each round takes them as far as memory reaches, then
 * all pages that are missing are read with one submission. What others keep pushing out of
 * memory meanwhile is left to get_one.
 */
static void look_up_together(struct kv_store *store, struct kv_lookup *lookups, size_t count)
{
    uint64_t missing[LOOKUPS_AT_ONCE];
    struct kv_lookup *pending[LOOKUPS_AT_ONCE];
    size_t pending_count = count;
    for (size_t i = 0; i < count; i++)
        pending[i] = &lookups[i];
    for (unsigned round = 0; pending_count && round < 2 * KV_TREE_DEPTH_MAX; round++) {
        size_t left = 0;
        for (size_t i = 0; i < pending_count; i++) {
            struct kv_lookup *lookup = pending[i];
            lookup->result = look_up(store, lookup, &missing[left]);
            if (lookup->result == -EAGAIN)
                pending[left++] = lookup;
        }
        pending_count = left;
        if (left)
            kv_pager_prefetch(store->pager, missing, left);
    }
    for (size_t i = 0; i < pending_count; i++)
        pending[i]->result = get_one(store, pending[i]->key, pending[i]->key_len, pending[i]->buf,
                                     pending[i]->buf_cap, &pending[i]->value_len);
}

int kv_get_many(struct kv_store *store, struct kv_lookup *lookups, size_t count)
{
    (void)atomic_fetch_add_explicit(&store->gets, count, memory_order_relaxed);
    for (size_t at = 0; at < count; at += LOOKUPS_AT_ONCE)
        look_up_together(store, lookups + at, kv_min_u64(count - at, LOOKUPS_AT_ONCE));
    return 0;
}

/* ---- one-operation batches
 * ---------------------------------------------------------------------------- */

int kv_put(struct kv_store *store, const void *key, size_t key_len, const void *value,
           size_t value_len)
{
    struct kv_batch *batch = kv_batch_new();
    if (!batch)
        return -ENOMEM;
    int err = kv_batch_put(batch, key, key_len, value, value_len);
    if (!err)
        err = kv_apply(store, batch, 0, NULL);
    kv_batch_free(batch);
    return err;
}

int kv_del(struct kv_store *store, const void *key, size_t key_len)
{
    struct kv_batch *batch = kv_batch_new();
    if (!batch)
        return -ENOMEM;
    int err = kv_batch_del(batch, key, key_len);
    if (!err)
        err = kv_apply(store, batch, KV_APPLY_URGENT, NULL);
    kv_batch_free(batch);
    return err;
}

/* ---- figures
 * ------------------------------------------------------------------------------------------- */

void kv_store_info(struct kv_store *store, struct kv_image_info *info)
{
    *info = store->info;
    info->epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
}

static uint64_t relaxed(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void stats_of_space(struct kv_store *store, struct kv_stats *stats)
{
    struct kv_space_stats space;
    kv_space_stats(store->space, &space);
    const uint64_t free_blocks = space.total_blocks - space.busy_blocks + space.deferred_blocks;
    stats->total_bytes = space.total_blocks * KV_BLOCK_BYTES;
    stats->free_bytes = free_blocks * KV_BLOCK_BYTES;
    stats->available_bytes = space.available_blocks * KV_BLOCK_BYTES;
}

void kv_store_stats(struct kv_store *store, struct kv_stats *stats)
{
    memset(stats, 0, sizeof *stats);
    stats_of_space(store, stats);
    struct kv_pager_stats pager;
    kv_pager_stats(store->pager, &pager);
    stats->memory_used_bytes = pager.memory_bytes + kv_pagemap_memory(store->map);
    stats->memory_budget_bytes = store->budget_bytes;
    stats->frames_total = pager.frames;
    stats->frames_hot = pager.hot;
    stats->frames_warm = pager.warm;
    stats->frames_dirty = pager.dirty;
    stats->page_hits = pager.hits;
    stats->page_misses = pager.misses;
    stats->page_evictions = pager.evictions;
    stats->page_writes = pager.writes;
    stats->page_write_bytes = pager.write_bytes;
    stats->page_count = kv_pagemap_used_ids(store->map);
    struct kv_wal_stats wal;
    kv_wal_stats(store->wal, &wal);
    stats->log_records = wal.records;
    stats->log_bytes = wal.record_bytes;
    stats->log_flushes = wal.flushes;
    stats->log_used_bytes = wal.used_blocks * KV_BLOCK_BYTES;
    stats->log_total_bytes = wal.total_blocks * KV_BLOCK_BYTES;
    stats->blob_reads = atomic_load_explicit(&store->blobs.reads, memory_order_relaxed);
    stats->blob_read_bytes = atomic_load_explicit(&store->blobs.read_bytes, memory_order_relaxed);
    stats->blob_writes = atomic_load_explicit(&store->blobs.writes, memory_order_relaxed);
    stats->blob_write_bytes = atomic_load_explicit(&store->blobs.write_bytes, memory_order_relaxed);
    const struct kv_device_counts *counts = &store->device->counts;
    stats->device_reads = relaxed(&counts->reads);
    stats->device_read_bytes = relaxed(&counts->read_bytes);
    stats->device_writes = relaxed(&counts->writes);
    stats->device_write_bytes = relaxed(&counts->write_bytes);
    stats->device_flushes = relaxed(&counts->flushes);
    stats->direct_io = store->device->direct_io;
    stats->epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    stats->scrubs = atomic_load_explicit(&store->scrubs, memory_order_relaxed);
    stats->scrub_bytes = atomic_load_explicit(&store->scrub_bytes, memory_order_relaxed);
    stats->scrub_findings = atomic_load_explicit(&store->scrub_findings, memory_order_relaxed);
    stats->scrub_finished_ns =
        atomic_load_explicit(&store->scrub_finished_ns, memory_order_relaxed);
    stats->batches = atomic_load_explicit(&store->batches, memory_order_relaxed);
    stats->gets = atomic_load_explicit(&store->gets, memory_order_relaxed);
    stats->checkpoints = atomic_load_explicit(&store->checkpoint.done, memory_order_relaxed);
}
