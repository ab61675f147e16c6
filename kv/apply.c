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
 * apply_redo.c; what waits for its leaves in apply_deferred.c.
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

/*
 * Bring every leaf that the record changes into memory, or say why that can not be. absent: NULL,
 * or out: some are not there, and were not read; of KV_BTREE_FEW operations at most.
 */
static int fault_record(struct kv_store *store, const struct kv_record *record, size_t *op_count,
                        uint64_t *range_pages, const struct kv_btree_leads *leads, bool *absent)
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
    struct kv_btree *const tree = &store->trees[KV_TREE_KEYS];
    struct kv_page_view *const last_leads = leads_of_last(leads, *op_count, key_count);
    room += cell_fixed * *op_count;
    if (absent) {
        *absent = !kv_btree_fault_few(tree, keys, key_count, room, last_leads);
        return 0;
    }
    return kv_btree_fault_together(tree, keys, key_count, room, last_leads);
}

int kv_fault_record(struct kv_store *store, const struct kv_record *record,
                    const struct kv_btree_leads *leads)
{
    size_t op_count;
    uint64_t range_pages;
    return fault_record(store, record, &op_count, &range_pages, leads, NULL);
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

/* Is there room in the log for the record? -EAGAIN. Under the writer lock. */
static int log_room(struct kv_store *store, const struct kv_record *record)
{
    if (store->sync == KV_SYNC_CHECKPOINT)
        return 0;
    return log_is_long(store) ? -EAGAIN : kv_wal_room(store->wal, record->length);
}

/* Log room (-EAGAIN) and space (-ENOSPC) for the record. Under the writer lock. */
static int reserve(struct kv_store *store, const struct kv_record *record, uint64_t pages,
                   bool urgent)
{
    const int err = log_room(store, record);
    return err ? err : kv_pager_reserve(store->pager, pages, urgent);
}

/* ---- apply -------------------------------------------------------------------------- */

/* Under the writer lock: readers see the record's changes; put it into the log. */
static int log_change(struct kv_store *store, const struct kv_record *record, size_t op_count,
                      uint64_t *position)
{
    store->changed = true;
    (void)atomic_fetch_add_explicit(&store->log_since_checkpoint,
                                    kv_store_log_weight(store, record->length, op_count),
                                    memory_order_relaxed);
    *position = 0;
    if (store->sync == KV_SYNC_CHECKPOINT)
        return 0;
    const uint64_t epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    const int err = kv_wal_append(store->wal, record->bytes, record->length, epoch, position);
    return err ? kv_store_fail(store, err, "writing the log") : 0;
}

/* Under the writer lock: change the trees, then the log. */
static int change(struct kv_store *store, const struct kv_record *record, size_t op_count,
                  const struct kv_btree_leads *leads, uint64_t *position)
{
    const uint64_t changes = kv_pager_changes(store->pager);
    const int err = kv_store_apply_record(store, record, leads);
    if (err && kv_pager_changes(store->pager) == changes)
        return err; /* a page in the way could not be had; nothing has happened yet */
    if (err)
        return kv_store_fail(store, err, "applying a batch");
    return log_change(store, record, op_count, position);
}

#define FEW_LEADS 8u

/* A batch on its way in. */
struct attempt {
    const struct kv_batch *batch;
    bool late; /* it has patches, which depend on what is stored: built under the lock */
    bool urgent;
    bool ready;        /* the record is built */
    bool may_defer;    /* it need not wait for its leaves ... */
    bool absent;       /* ... which are not in memory */
    unsigned refusals; /* so often it could not be deferred */
    struct kv_record record;
    struct prepared prepared;
    size_t op_count;
    uint64_t range_pages;
    struct kv_btree_leads leads; /* of each operation, or none; own, or these: */
    struct kv_page_view few_leads[FEW_LEADS];
    uint64_t epoch; /* that was open when it was tried */
    uint64_t done;  /* checkpoints that had ended by then */
    bool want_checkpoint, want_log_write;
    struct kv_deferring want_settle;
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
    attempt->may_defer = !err && !attempt->late && !attempt->urgent && attempt->refusals < 2 &&
                         kv_may_defer(store, attempt->batch, &attempt->record);
    attempt->absent = false;
    if (!err)
        err = fault_record(store, &attempt->record, &attempt->op_count, &attempt->range_pages,
                           &attempt->leads, attempt->may_defer ? &attempt->absent : NULL);
    attempt->ready = !err;
    return err;
}

static void unprepare(struct kv_store *store, struct attempt *attempt)
{
    kv_prepared_discard(store, &attempt->prepared);
    attempt->ready = false;
}

/* After the record has gone into the log. */
static void note_wants(struct kv_store *store, struct attempt *attempt)
{
    attempt->want_checkpoint =
        atomic_load_explicit(&store->log_since_checkpoint, memory_order_relaxed) >=
            store->log_checkpoint_bytes ||
        kv_wal_is_short(store->wal);
    attempt->want_log_write = kv_wal_is_behind(store->wal);
}

/* Does it wait: for its leaves, or for an earlier change of the same key? Under the writer lock. */
static bool is_to_wait(struct kv_store *store, const struct attempt *attempt)
{
    return attempt->may_defer &&
           (attempt->absent || (kv_deferred_any(store->deferred) && !KV_PLANT(deferred_overtaken) &&
                                kv_deferred_touches(store->deferred, attempt->batch)));
}

/* -ENOBUFS: not now. Under the writer lock. */
static int defer(struct kv_store *store, struct attempt *attempt, uint64_t *position)
{
    int err = log_room(store, &attempt->record);
    if (err)
        return err;
    if (kv_defer(store, attempt->batch, &attempt->want_settle)) {
        attempt->refusals++;
        return -ENOBUFS;
    }
    err = log_change(store, &attempt->record, attempt->op_count, position);
    note_wants(store, attempt);
    return err;
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
    if (is_to_wait(store, attempt))
        return defer(store, attempt, position);
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
    note_wants(store, attempt);
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

/*
 * Take the writer lock. What can not wait comes after all that does: *settling, then, it is
 * kv_settle_unlock that gives it back.
 */
static int lock_writer(struct kv_store *store, const struct attempt *attempt, bool *settling)
{
    *settling = !attempt->may_defer && kv_deferred_any(store->deferred);
    if (!*settling) {
        pthread_mutex_lock(&store->writer);
        if (attempt->may_defer || !kv_deferred_any(store->deferred))
            return 0;
        pthread_mutex_unlock(&store->writer);
        *settling = true;
    }
    /* What is left waits for pages that can not be had: no matter, unless it is of the same keys.
     */
    const int err = kv_settle_and_lock(store);
    return err && kv_deferred_touches(store->deferred, attempt->batch) ? err : 0;
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
    bool settling;
    err = lock_writer(store, attempt, &settling);
    if (!err)
        err = try_locked(store, attempt, position);
    if (settling)
        kv_settle_unlock(store);
    else
        pthread_mutex_unlock(&store->writer);
    return err;
}

bool kv_checkpoint_may_help(struct kv_store *store)
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
        if (err == -ENOBUFS) {
            /* Others have gathered as much as there is room for, or space is short. */
            if (attempt->refusals == 1)
                kv_ignore(kv_settle(store));
            attempt->ready = false;
            continue;
        }
        const bool no_space = err == -ENOSPC && short_of_space++ < CHECKPOINTS_FOR_SPACE &&
                              kv_checkpoint_may_help(store);
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
    if (attempt.want_settle.first || attempt.want_settle.many)
        kv_store_want_settle(store, attempt.want_settle.many);
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
