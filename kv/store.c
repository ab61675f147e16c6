/*
 * kv/store.c: open, close, sync, and what a store says: the store as its users see it.
 *
 * Owns       the ownership of the image and all below, for as long as the store is open.
 * Invariant  one store per image (the device's lock); after a failure (kv_store_fail) nothing
 *            is written any more and every waiter gets an error.
 * Locks      see kv/store.h.
 *
 * The layers are put together in store_assemble.c; reading is in store_read.c, writing in
 * apply.c, the background in store_background.c.
 */
#include "kv/store.h"

#include "kv/check_repair.h"
#include "kv/error.h"

#include <stdarg.h>

#define INTERVAL_DEFAULT            1000u
#define CHECKPOINT_INTERVAL_DEFAULT 30000u /* milliseconds */

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

/* ---- open, close ------------------------------------------------------------------- */

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
    store->checkpoint_interval_ms = options->checkpoint_interval_ms
                                        ? options->checkpoint_interval_ms
                                        : CHECKPOINT_INTERVAL_DEFAULT;
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
        if (err)
            kv_error_set(error, "no memory to open %s", path ? path : "the device");
        else
            store->device = overlay;
    }
    return err;
}

static int read_superblock(struct kv_store *store, const char *name,
                           struct kv_disk_superblock *superblock, struct kv_error *error)
{
    int err =
        kv_superblock_read(store->device, name, false, superblock, &store->superblock_twin, error);
    if (!store->repair || (!kv_error_is_damage(err) && err != -EMEDIUMTYPE))
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
    if (options->memory_budget_bytes && options->memory_budget_bytes < KV_BUDGET_MIN) {
        kv_error_set(error, "memory budget of %llu bytes is too small; the least is %llu",
                     (unsigned long long)options->memory_budget_bytes,
                     (unsigned long long)KV_BUDGET_MIN);
        kv_device_close(options->device);
        return -EINVAL;
    }
    if (options->blob_percent > KV_BLOB_PERCENT_MAX) {
        kv_error_set(error, "%u percent of the memory budget for blobs is too much; the most is %u",
                     options->blob_percent, KV_BLOB_PERCENT_MAX);
        kv_device_close(options->device);
        return -EINVAL;
    }
    if (options->retain_percent > KV_RETAIN_PERCENT_MAX) {
        kv_error_set(error, "%u percent of the memory to be retained is too much; the most is %u",
                     options->retain_percent, KV_RETAIN_PERCENT_MAX);
        kv_device_close(options->device);
        return -EINVAL;
    }
    if (!kv_tiers_valid(&options->tiers)) {
        kv_error_set(error,
                     "the tiers' ratios make no sense: hot or warm must have some, and none may be "
                     "more than %u",
                     KV_TIER_RATIO_MAX);
        kv_device_close(options->device);
        return -EINVAL;
    }
    struct kv_store *store = store_for(options);
    if (!store) {
        kv_error_set(error, "no memory to open %s", name);
        kv_device_close(options->device);
        return -ENOMEM;
    }
    struct kv_disk_superblock superblock;
    struct kv_error inner = {""};
    int err = kv_metrics_init(&store->metrics, options->metrics);
    if (err) {
        kv_error_set(error, "no memory to open %s", name);
        goto fail;
    }
    err = open_device(store, path, options, error);
    if (err)
        goto fail;
    store->device->metrics = &store->metrics;
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
    if (err) {
        kv_error_set(error,
                     "%s: can not start its threads: %s; raise the limit on them (ulimit -u)", name,
                     strerror(-err));
        goto fail;
    }
    *out = store;
    return 0;
fail:
    kv_store_disassemble(store);
    return err;
}

int kv_set_tiers(struct kv_store *store, const struct kv_tiers *tiers)
{
    if (!kv_tiers_valid(tiers))
        return -EINVAL;
    kv_pager_set_tiers(store->pager, tiers);
    return 0;
}

int kv_start_background(struct kv_store *store)
{
    if (store->read_only) /* of what the others do nothing is to be done */
        return kv_ahead_runs(store->ahead) ? 0 : kv_ahead_start(store->ahead);
    return store->threads_running ? 0 : kv_store_start_threads(store);
}

int kv_close(struct kv_store *store)
{
    kv_store_stop_threads(store);
    int err = 0;
    if (!store->read_only && !store->trees_outdated) {
        (void)kv_blob_run_release(store->blobs.run);
        err = kv_store_checkpoint(store, true, true);
        if (!err)
            err = kv_superblock_write_backup(store->device, &store->checkpoint.superblock);
        if (!err) { /* nothing that is durable refers to any of it */
            kv_wal_give_back(store->wal);
            kv_space_give_back(store->space);
        }
    }
    kv_store_disassemble(store);
    return err;
}

void kv_abandon(struct kv_store *store)
{
    kv_store_stop_threads(store);
    kv_store_disassemble(store);
}

/* ---- settings ---------------------------------------------------------------------- */

void kv_set_metrics(struct kv_store *store, unsigned categories)
{
    atomic_store_explicit(&store->metrics.on, categories, memory_order_relaxed);
}

int kv_set_commit_interval(struct kv_store *store, uint32_t milliseconds)
{
    if (!milliseconds)
        return -EINVAL;
    pthread_mutex_lock(&store->work_mutex);
    store->commit_interval_ms = milliseconds;
    store->interval_changed = store->committer_called = true;
    pthread_cond_signal(&store->for_committer);
    pthread_mutex_unlock(&store->work_mutex);
    return 0;
}

/* ---- durability -------------------------------------------------------------------- */

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

/* ---- batches of one operation ------------------------------------------------------ */

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
