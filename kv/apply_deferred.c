/*
 * kv/apply_deferred.c: small batches whose leaves are not in memory: logged at once, applied later.
 *
 * Owns       nothing; kv/deferred.h has the changes until they are in their leaves.
 * Invariant  what is deferred puts or deletes single keys, and for each key the changes come to its
 *            leaf in the order of the log: a batch with a key that waits is deferred, too, or all
 *            that waits goes first. Put twice into its leaf a change does no harm. A checkpoint
 *            closes its gate on nothing that waits: so the log has all that would be lost.
 * Locks      `settling` over the reading of leaves, then the writer lock over the change.
 *
 * A leaf that can not be read fails nobody who has put something there: the change goes on waiting,
 * and who asks for that key finds it. Until it can be had there is no checkpoint, and the log keeps
 * the change: for whoever opens it after the repair, in the end.
 */
#include "kv/apply_record.h"

/* ---- deferring --------------------------------------------------------------------- */

#define DEFER_OPS_MAX   KV_BTREE_FEW
#define DEFER_BYTES_MAX (KV_DEFERRED_BYTES_MAX / 4)
#define SETTLE_OPS      16u /* are worth a submission; of more the device is busy for too long */

bool kv_may_defer(const struct kv_store *store, const struct kv_batch *batch,
                  const struct kv_record *record)
{
    return record->plain && batch->count <= DEFER_OPS_MAX && batch->length <= DEFER_BYTES_MAX &&
           !store->repair;
}

int kv_defer(struct kv_store *store, const struct kv_batch *batch, struct kv_deferring *deferring)
{
    struct kv_deferred_room room;
    for (;;) {
        int err = kv_deferred_room(store->deferred, batch, &room);
        if (err)
            return err;
        /* What they will need is theirs from now on, as if they were applied. */
        const uint64_t needed = kv_store_pages_needed(store, room.count, room.bytes, 0);
        const uint64_t more = needed > room.clusters ? needed - room.clusters : 0;
        err = kv_space_reserve(store->space, more, KV_SPACE_NORMAL);
        if (err)
            return err;
        if (kv_deferred_add(store->deferred, batch, &room, more))
            break;
        kv_space_unreserve(store->space, more);
    }
    (void)atomic_fetch_add_explicit(&store->batches_deferred, 1, memory_order_relaxed);
    deferring->first = room.count == batch->count;
    deferring->many = room.count >= SETTLE_OPS && room.count - batch->count < SETTLE_OPS;
    return 0;
}

/* ---- settling ----------------------------------------------------------------------- */

static struct kv_record record_of(const struct kv_batch *batch)
{
    return (struct kv_record){
        .bytes = batch->bytes, .length = batch->length, .plain = true, .single = true};
}

/* The record of one operation. */
static struct kv_record record_of_op(const struct kv_batch *batch, size_t index)
{
    const size_t at = kv_batch_op_at(batch, index);
    const size_t end = batch->ops[index].value_at + batch->ops[index].value_len;
    return (struct kv_record){
        .bytes = batch->bytes + at, .length = end - at, .plain = true, .single = true};
}

/* Some of the round are not in their leaves: they go on waiting. */
static int keep(struct kv_store *store, const struct kv_batch *kept)
{
    uint64_t clusters = kv_store_pages_needed(store, kept->count, kept->length, 0);
    if (kv_space_reserve(store->space, clusters, KV_SPACE_LAST))
        clusters = 0;
    const int err = kv_deferred_settled_but(store->deferred, kept, clusters);
    if (err)
        kv_space_unreserve(store->space, clusters);
    return err;
}

/*
 * One after the other, when something stands in the way of all together. Returns the error of the
 * first that could not be applied. Under the writer lock.
 */
static int apply_each(struct kv_store *store, struct kv_deferred_round *round)
{
    const struct kv_batch *batch = round->batch;
    struct kv_batch *kept = kv_batch_new();
    int first = 0, err = kept ? 0 : -ENOMEM;
    for (size_t i = 0; i < batch->count && !err; i++) {
        if (!kv_deferred_counts(round, i))
            continue;
        const uint64_t changes = kv_pager_changes(store->pager);
        const struct kv_record one = record_of_op(batch, i);
        const int failed = kv_store_apply_record(store, &one, NULL);
        const struct kv_redo redo = {.kind = batch->ops[i].kind,
                                     .key = kv_batch_key(batch, &batch->ops[i]),
                                     .value = kv_batch_value(batch, &batch->ops[i])};
        if (failed && kv_pager_changes(store->pager) != changes)
            err = kv_store_fail(store, failed, "applying a deferred batch");
        else if (failed)
            err = kv_batch_add_redo(kept, &redo);
        first = first ? first : failed;
    }
    if (!err && first)
        err = keep(store, kept);
    else if (!err)
        kv_deferred_settled(store->deferred);
    kv_batch_free(kept);
    return err ? err : first;
}

/* The round goes into its leaves, which `read_err` says are in memory. Under the writer lock. */
static int apply_round(struct kv_store *store, struct kv_deferred_round *round,
                       const struct kv_record *record, const struct kv_btree_leads *leads,
                       int read_err)
{
    if (atomic_load_explicit(&store->failure, memory_order_acquire))
        return -EROFS;
    int err = kv_pager_take_reserved(store->pager, round->clusters);
    if (err)
        return err;
    round->clusters = 0;
    err = read_err ? read_err : kv_store_apply_record(store, record, leads);
    if (!err)
        kv_deferred_settled(store->deferred);
    else
        err = apply_each(store, round);
    kv_pager_unreserve(store->pager);
    if (err && !kv_store_failure(store))
        kv_store_log(store, KV_LOG_WARNING,
                     "changes wait for pages that can not be had: %s; they are in the log",
                     strerror(-err));
    return err;
}

/* With `settling`; locked: with the writer lock, too. */
static int settle_round(struct kv_store *store, bool locked)
{
    struct kv_deferred_round *round = kv_deferred_turn(store->deferred);
    if (!round)
        return 0;
    struct kv_record record = record_of(round->batch);
    if (round->batch->count >= KV_ORDERED_MIN)
        kv_batch_order(round->batch, &record.order);
    struct kv_page_view views[2 * KV_DEFERRED_OPS_MAX + DEFER_OPS_MAX];
    const struct kv_btree_leads leads = {.views = views, .count = round->batch->count};
    KV_ASSERT(leads.count <= sizeof views / sizeof views[0]);
    const int read_err = kv_fault_record(store, &record, &leads);
    if (!locked)
        pthread_mutex_lock(&store->writer);
    const int err = apply_round(store, round, &record, &leads, read_err);
    if (!locked)
        pthread_mutex_unlock(&store->writer);
    kv_record_release(&record);
    return err;
}

/* What an earlier call left, and what has been gathered since. */
static int settle_rounds(struct kv_store *store)
{
    int err = 0;
    for (unsigned rounds = 0; !err && rounds < 2 && kv_deferred_due(store->deferred); rounds++)
        err = settle_round(store, false);
    return err;
}

int kv_settle(struct kv_store *store)
{
    if (!kv_deferred_due(store->deferred))
        return 0;
    pthread_mutex_lock(&store->deferred->settling);
    const int err = settle_rounds(store);
    pthread_mutex_unlock(&store->deferred->settling);
    return err;
}

int kv_settle_and_lock(void *context)
{
    struct kv_store *store = context;
    pthread_mutex_lock(&store->deferred->settling);
    kv_ignore(settle_rounds(store)); /* what is left is tried again */
    pthread_mutex_lock(&store->writer);
    int err = 0;
    while (!err && kv_deferred_any(store->deferred) && !KV_PLANT(gate_leaves_deferred))
        err = settle_round(store, true);
    return err;
}

void kv_settle_unlock(void *context)
{
    struct kv_store *store = context;
    pthread_mutex_unlock(&store->writer);
    pthread_mutex_unlock(&store->deferred->settling);
}
