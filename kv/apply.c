/*
 * kv/apply.c: a batch goes into the trees and into the log.
 *
 * Owns       nothing; works on the store under its writer lock.
 * Invariant  everything that can fail for outside reasons (space, log room, damaged pages in
 *            the way) is tried before the first change. What fails after it leaves the trees
 *            ahead of the log, so the store turns read-only.
 * Locks      the writer lock from the reservation to the append to the log.
 *
 * How a batch becomes a record is in apply_record.c, how a record changes the trees in
 * apply_redo.c.
 */
#include "kv/apply_record.h"

/* ---- before the first change ------------------------------------------------------- */

static bool prefix_has(struct kv_span range_upper, const void *key, size_t key_len)
{
    return !range_upper.length ||
           kv_key_compare(key, key_len, range_upper.data, range_upper.length) < 0;
}

/* Read the leaves of a range, so that damage shows before anything was changed. */
static int fault_range(struct kv_store *store, const struct kv_redo *redo, uint64_t *pages)
{
    uint8_t at[KV_KEY_MAX];
    size_t at_len = redo->key.length;
    if (at_len)
        memcpy(at, redo->key.data, at_len);
    bool more = true;
    int err = 0;
    while (!err && more) {
        err = kv_btree_fault_next(&store->trees[KV_TREE_KEYS], at, at_len, at, &at_len, &more);
        (*pages)++;
        more = more && prefix_has(redo->value, at, at_len);
    }
    return err;
}

/* The leads of the last `count` of so many operations; NULL: there are none. */
static struct kv_page_view *leads_of_last(const struct kv_btree_leads *leads, size_t op_count,
                                          size_t count)
{
    return leads->count ? leads->views + op_count - count : NULL;
}

/* Bring every leaf that the record changes into memory, or say why that can not be. */
static int fault_record(struct kv_store *store, const struct kv_record *record, size_t *op_count,
                        uint64_t *range_pages, const struct kv_btree_leads *leads)
{
    /* All of it may come into one leaf. */
    const size_t cell_fixed = sizeof(struct kv_disk_slot) + sizeof(struct kv_disk_leaf_cell);
    size_t room = record->length;
    struct kv_bytes keys[KV_BTREE_TOGETHER];
    size_t key_count = 0;
    struct kv_record_walk walk = {.record = record};
    struct kv_redo redo;
    int err;
    *op_count = 0;
    *range_pages = 0;
    while (!(err = kv_record_walk(&walk, &redo))) {
        ++*op_count;
        if (redo.kind == KV_REDO_DEL_RANGE)
            err = fault_range(store, &redo, range_pages);
        else
            keys[key_count++] = (struct kv_bytes){redo.key.data, redo.key.length};
        if (redo.kind == KV_REDO_PATCH) /* may leave a gap */
            room += redo.argument;
        if (!err && key_count == KV_BTREE_TOGETHER) {
            err = kv_btree_fault_together(&store->trees[KV_TREE_KEYS], keys, key_count, SIZE_MAX,
                                          leads_of_last(leads, *op_count, key_count));
            key_count = 0;
        }
        if (err)
            return err;
    }
    if (err != -ENOENT)
        return err;
    return kv_btree_fault_together(&store->trees[KV_TREE_KEYS], keys, key_count,
                                   room + cell_fixed * *op_count,
                                   leads_of_last(leads, *op_count, key_count));
}

/*
 * Is what the record refers to there? A new blob must have been written, a shared one be held.
 * Whether by a value or only by whoever wrote it is not known. Under the writer lock.
 */
static int check_refs(struct kv_store *store, const struct kv_record *record)
{
    struct kv_redo redo;
    size_t at = 0;
    int err;
    if (record->plain)
        return 0;
    while (!(err = kv_record_next(record->bytes, record->length, &at, &redo))) {
        if (redo.kind != KV_REDO_PUT_REF)
            continue;
        struct kv_blob_ref ref;
        uint64_t block;
        uint32_t count;
        memcpy(&ref, redo.value.data + redo.value.length - sizeof ref, sizeof ref);
        err = kv_blobs_extent(&store->blobs, &ref, &block, &count);
        if (!err && !kv_space_owned(store->space, block, count))
            err = redo.use == KV_BLOB_SHARED ? -ENOENT : -EINVAL;
        if (err)
            return err;
    }
    return err == -ENOENT ? 0 : err;
}

/* Is as much logged as a replay should have to do? A single batch may be more. */
static bool log_is_long(struct kv_store *store)
{
    return atomic_load_explicit(&store->log_since_checkpoint, memory_order_relaxed) +
               atomic_load_explicit(&store->log_closing, memory_order_relaxed) >=
           store->log_bytes_max;
}

/* Log room (-EAGAIN) and space (-ENOSPC) for the record. Under the writer lock. */
static int reserve(struct kv_store *store, const struct kv_record *record, uint64_t pages,
                   bool urgent)
{
    if (store->sync != KV_SYNC_CHECKPOINT) {
        const int err = log_is_long(store) ? -EAGAIN : kv_wal_room(store->wal, record->length);
        if (err)
            return err;
    }
    return kv_pager_reserve(store->pager, pages, urgent);
}

/* ---- apply -------------------------------------------------------------------------- */

/* Under the writer lock: change the trees, then the log. */
static int change(struct kv_store *store, const struct kv_record *record, size_t op_count,
                  const struct kv_btree_leads *leads, uint64_t *position)
{
    const uint64_t changes = kv_pager_changes(store->pager);
    int err = kv_store_apply_record(store, record, leads);
    if (err && kv_pager_changes(store->pager) == changes)
        return err; /* a page in the way could not be had; nothing has happened yet */
    if (err)
        return kv_store_fail(store, err, "applying a batch");
    store->changed = true;
    (void)atomic_fetch_add_explicit(&store->log_since_checkpoint,
                                    kv_store_log_weight(store, record->length, op_count),
                                    memory_order_relaxed);
    *position = 0;
    if (store->sync == KV_SYNC_CHECKPOINT)
        return 0;
    const uint64_t epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    err = kv_wal_append(store->wal, record->bytes, record->length, epoch, position);
    return err ? kv_store_fail(store, err, "writing the log") : 0;
}

#define FEW_LEADS 8u

/* A batch on its way in. */
struct attempt {
    const struct kv_batch *batch;
    bool late; /* it has patches, which depend on what is stored: built under the lock */
    bool urgent;
    bool ready; /* the record is built */
    struct kv_record record;
    struct prepared prepared;
    size_t op_count;
    uint64_t range_pages;
    struct kv_btree_leads leads; /* of each operation, or none; own, or these: */
    struct kv_page_view few_leads[FEW_LEADS];
    uint64_t epoch; /* that was open when it was tried */
    uint64_t done;  /* checkpoints that had ended by then */
    bool want_checkpoint, want_log_write;
};

/* Memory for leads; without, it goes, too. */
static void make_leads(struct attempt *attempt, size_t count)
{
    if (attempt->leads.count)
        return;
    attempt->leads.views =
        count <= FEW_LEADS ? attempt->few_leads : malloc(count * sizeof *attempt->leads.views);
    attempt->leads.count = attempt->leads.views ? count : 0;
}

/* Build the record; its blobs are written. */
static int prepare(struct kv_store *store, struct attempt *attempt)
{
    const size_t count = attempt->batch->count;
    int err = kv_record_build(store, attempt->batch, &attempt->record, &attempt->prepared);
    if (!err && attempt->record.single)
        make_leads(attempt, count);
    if (!err)
        err = fault_record(store, &attempt->record, &attempt->op_count, &attempt->range_pages,
                           &attempt->leads);
    attempt->ready = !err;
    return err;
}

static void unprepare(struct kv_store *store, struct attempt *attempt)
{
    kv_prepared_discard(store, &attempt->prepared);
    attempt->ready = false;
}

/* With the writer lock. */
static int try_locked(struct kv_store *store, struct attempt *attempt, uint64_t *position)
{
    attempt->epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    attempt->done = atomic_load_explicit(&store->checkpoint.done, memory_order_relaxed);
    int err = atomic_load_explicit(&store->failure, memory_order_acquire) ? -EROFS : 0;
    if (!err && !attempt->ready)
        err = prepare(store, attempt);
    if (!err)
        err = check_refs(store, &attempt->record);
    if (err)
        return err;
    const uint64_t pages = kv_store_pages_needed(store, attempt->op_count, attempt->record.length,
                                                 attempt->range_pages);
    err = reserve(store, &attempt->record, pages, attempt->urgent);
    if (err)
        return err;
    /* Patches may have become fewer operations than the batch has. */
    const struct kv_btree_leads leads = {.views = attempt->leads.views,
                                         .count =
                                             kv_min_u64(attempt->leads.count, attempt->op_count)};
    err = change(store, &attempt->record, attempt->op_count, &leads, position);
    kv_pager_unreserve(store->pager);
    attempt->want_checkpoint =
        atomic_load_explicit(&store->log_since_checkpoint, memory_order_relaxed) >=
            store->log_checkpoint_bytes ||
        kv_wal_is_short(store->wal);
    attempt->want_log_write = kv_wal_is_behind(store->wal);
    return err;
}

/*
 * While a checkpoint is under way the log may grow no faster than its pages get written, so that
 * nobody has to wait for all of it at the end: who is ahead writes some himself. A first part of
 * the room is free, a last one is for what follows the pages.
 */
static void keep_pace(struct kv_store *store)
{
    const uint64_t closing = atomic_load_explicit(&store->log_closing, memory_order_relaxed);
    if (!closing)
        return;
    const uint64_t since = atomic_load_explicit(&store->log_since_checkpoint, memory_order_relaxed);
    const uint64_t room = store->log_bytes_max > closing ? store->log_bytes_max - closing : 0;
    const uint64_t part = room / 8;
    if (since <= part)
        return;
    const uint64_t percent = part ? (since - part) * 100 / (6 * part) : 100;
    /* An error is the store's failure, which the batch will meet. */
    kv_ignore(kv_pager_help(store->pager, (unsigned)kv_min_u64(percent, 100)));
}

static int try_apply(struct kv_store *store, struct attempt *attempt, uint64_t *position)
{
    int err = 0;
    keep_pace(store);
    attempt->epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    attempt->done = atomic_load_explicit(&store->checkpoint.done, memory_order_relaxed);
    /* Pages are read in before the lock is taken, so that others need not wait for it. */
    if (!attempt->late && !attempt->ready)
        err = prepare(store, attempt);
    if (err)
        return err;
    pthread_mutex_lock(&store->writer);
    err = try_locked(store, attempt, position);
    pthread_mutex_unlock(&store->writer);
    return err;
}

/* There is space that the next checkpoint gives back. */
static bool checkpoint_may_help(struct kv_store *store)
{
    struct kv_space_stats stats;
    kv_space_stats(store->space, &stats);
    return stats.deferred_blocks || stats.reserved_blocks;
}

#define CHECKPOINTS_FOR_SPACE 3u

/* The log is full: wait for the checkpoint that is under way, or make one. */
static int wait_for_log(struct kv_store *store, const struct attempt *attempt)
{
    const uint64_t begun_ns = kv_clock_ns();
    const int err = kv_store_checkpoint_after(store, attempt->done);
    (void)atomic_fetch_add_explicit(&store->log_waits, 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&store->log_wait_ns, kv_clock_ns() - begun_ns,
                                    memory_order_relaxed);
    return err;
}

/* Try until it is done, fails, or no checkpoint helps any more. */
static int apply_attempt(struct kv_store *store, struct attempt *attempt, uint64_t *position)
{
    for (unsigned short_of_space = 0;;) {
        int err = try_apply(store, attempt, position);
        const bool no_space = err == -ENOSPC && short_of_space++ < CHECKPOINTS_FOR_SPACE &&
                              checkpoint_may_help(store);
        if (err != -EAGAIN && !no_space)
            return err;
        if (attempt->late || !attempt->ready)
            unprepare(store, attempt);
        /* Each makes the log shorter: this ends as soon as others let us in. What is under way
         * may be enough for that; space only comes from what we have changed since. */
        err =
            no_space ? kv_store_checkpoint_of(store, attempt->epoch) : wait_for_log(store, attempt);
        if (err)
            return err;
    }
}

static bool has_patch(const struct kv_batch *batch)
{
    for (size_t i = 0; i < batch->count; i++)
        if (batch->ops[i].kind == KV_REDO_PATCH)
            return true;
    return false;
}

int kv_apply(struct kv_store *store, const struct kv_batch *batch, unsigned flags,
             uint64_t *position)
{
    if (store->read_only)
        return -EROFS;
    struct attempt attempt = {
        .batch = batch, .late = has_patch(batch), .urgent = flags & KV_APPLY_URGENT};
    uint64_t end = 0;
    int err = 0;
    if (batch->count)
        err = apply_attempt(store, &attempt, &end);
    else if (store->sync != KV_SYNC_CHECKPOINT)
        end = kv_wal_position(store->wal);
    if (attempt.want_checkpoint)
        kv_store_want_checkpoint(store);
    if (attempt.want_log_write)
        kv_store_want_log_write(store);
    if (err == -ENOSPC || (!err && !attempt.urgent))
        kv_store_note_host(store, err == -ENOSPC);
    if (err && !atomic_load_explicit(&store->failure, memory_order_acquire))
        kv_prepared_discard(store, &attempt.prepared);
    free(attempt.prepared.fresh);
    if (attempt.leads.views != attempt.few_leads)
        free(attempt.leads.views);
    kv_record_release(&attempt.record);
    if (err)
        return err;
    (void)atomic_fetch_add_explicit(&store->batches, 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&store->batch_bytes, batch->length, memory_order_relaxed);
    if (position)
        *position = end;
    if (store->sync == KV_SYNC_ALWAYS || (flags & KV_APPLY_SYNC))
        return kv_sync_to(store, end);
    return 0;
}

/* ---- blobs of the public interface -------------------------------------------------- */

/* A checkpoint may help where there is no space. */
static int write_blob(struct kv_store *store, struct kv_blob_source *source,
                      const struct kv_codec_spec *codec)
{
    if (store->read_only)
        return -EROFS;
    for (unsigned tries = 0;; tries++) {
        const uint64_t epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
        int err = kv_apply_write_blobs(store, source, 1, codec);
        if (err != -ENOSPC || tries == 1 || !checkpoint_may_help(store)) {
            if (!err || err == -ENOSPC)
                kv_store_note_host(store, err == -ENOSPC);
            return err;
        }
        err = kv_store_checkpoint_of(store, epoch);
        if (err)
            return err;
    }
}

int kv_blob_write(struct kv_store *store, const void *bytes, size_t length,
                  const struct kv_codec_spec *codec, struct kv_blob_ref *ref, size_t *written)
{
    struct kv_blob_source source = {.bytes = bytes, .length = length};
    const int err = write_blob(store, &source, codec);
    if (err)
        return err;
    *ref = source.ref;
    *written = source.written;
    return 0;
}

int kv_blob_write_many(struct kv_store *store, struct kv_blob_source *sources, size_t count,
                       const struct kv_codec_spec *codec)
{
    for (size_t i = 0; i < count; i++)
        sources[i].written = 0;
    if (count > KV_BLOB_SOURCES_MAX)
        return -EINVAL;
    int err = store->read_only ? -EROFS : kv_apply_write_blobs(store, sources, count, codec);
    if (err != -ENOSPC) {
        if (!err)
            kv_store_note_host(store, false);
        return err;
    }
    err = 0;
    for (size_t i = 0; i < count && !err; i++) /* a checkpoint may help each of the others */
        if (!sources[i].written)
            err = write_blob(store, &sources[i], codec);
    return err;
}

void kv_blob_discard(struct kv_store *store, const struct kv_blob_ref *ref)
{
    kv_blobs_discard(&store->blobs, ref);
}

int kv_blob_table(struct kv_store *store, const struct kv_blob_ref *ref,
                  uint8_t table[KV_BLOB_TABLE_MAX], size_t *length)
{
    return kv_blobs_table(&store->blobs, ref, table, length);
}

int kv_blob_read(struct kv_store *store, const struct kv_blob_ref *ref, size_t offset, void *buf,
                 size_t length)
{
    const struct kv_blob_part part = {.ref = *ref, .buf = buf, .offset = offset, .length = length};
    return kv_blobs_read(&store->blobs, &part, 1);
}

int kv_blob_read_many(struct kv_store *store, const struct kv_blob_part *parts, size_t count)
{
    return kv_blobs_read(&store->blobs, parts, count);
}

void kv_blob_prefetch(struct kv_store *store, const struct kv_blob_ref *refs, size_t count)
{
    kv_blobs_prefetch(&store->blobs, refs, count);
}

int kv_blob_read_begin(struct kv_store *store, const struct kv_blob_part *part,
                       struct kv_blob_reading **reading, struct kv_blob_transfer *transfer)
{
    return kv_blobs_read_begin(&store->blobs, part, reading, transfer);
}

int kv_blob_read_end(struct kv_store *store, struct kv_blob_reading *reading, int result)
{
    return kv_blobs_read_end(&store->blobs, reading, result);
}
