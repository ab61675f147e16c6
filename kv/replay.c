/*
 * kv/replay.c: after a crash: from the superblock's trees and the log to the last promise.
 *
 * Owns       what was read from the log and is not applied yet.
 * Invariant  what is in the trees when it ends is what a prefix of the batches makes, applied in
 *            order. Until the checkpoint at the end nothing on the device refers to any of it.
 * Locks      the writer lock, which the code that is called expects; runs while a store is opened,
 *            by one thread.
 *
 * The second of two passes (recover.c is the first). A log is mostly changes of single keys, and
 * of those only the order for each key matters: as many as memory allows are gathered and applied
 * in the order of their keys, so that a leaf is read, changed and written once, however often and
 * at what times it was changed. A change that concerns several keys comes after all before it and
 * before all behind it. A repair gathers a few, just to read their pages together, and applies them
 * one by one: where it can not go on, it has a prefix.
 */
#include "kv/store.h"

#include "kv/error.h"

#define GATHER_BYTES_MAX (32u << 20)
#define GATHER_SHARE     8u /* of the budget; its operations and their order take as much again */
#define OP_BYTES_LEAST   96u
#define APPLIED_TOGETHER (4 * KV_BTREE_TOGETHER)
#define REPAIR_BYTES     (64u << 10)
#define REPAIR_RECORDS   32u

struct replay {
    struct kv_store *store;
    uint64_t left; /* records that the first pass accepted and this one has not applied yet */
    struct kv_batch gathered;
    uint64_t records;            /* of which that is */
    size_t ends[REPAIR_RECORDS]; /* in a repair: how many operations it was after each */
    size_t bytes_max, ops_max;
    bool failed;
};

/* ---- applying ----------------------------------------------------------------------- */

static size_t op_at(const struct kv_batch *batch, size_t index)
{
    return index < batch->count ? kv_batch_op_at(batch, index) : batch->length;
}

/* Part of what was gathered, as a record. */
static struct kv_record part_of(const struct kv_batch *batch, const struct kv_record_order *order,
                                size_t first, size_t count)
{
    struct kv_record part = {.bytes = batch->bytes, .length = batch->length, .plain = true};
    if (order->count) {
        part.order = (struct kv_record_order){order->places + first, count};
        return part;
    }
    const size_t start = op_at(batch, first);
    if (start) /* of records that are all empty there are no bytes */
        part.bytes += start;
    part.length = op_at(batch, first + count) - start;
    return part;
}

/* Ask for the leaves of a record's keys. What can not be had will be met again when the record is
 * applied. Returns how many operations there are; *bytes: of keys and values. */
static size_t fault_keys(struct kv_store *store, const struct kv_record *record, size_t *bytes)
{
    struct kv_btree *tree = &store->trees[KV_TREE_KEYS];
    struct kv_bytes keys[KV_BTREE_TOGETHER];
    struct kv_record_walk walk = {.record = record};
    struct kv_redo redo;
    size_t key_count = 0, ops = 0;
    *bytes = 0;
    for (; !kv_record_walk(&walk, &redo); ops++) {
        *bytes += redo.key.length + redo.value.length + sizeof(struct kv_disk_leaf_cell);
        if (redo.kind == KV_REDO_DEL_RANGE)
            continue;
        keys[key_count++] = (struct kv_bytes){redo.key.data, redo.key.length};
        if (key_count == KV_BTREE_TOGETHER) {
            kv_ignore(kv_btree_fault_together(tree, keys, key_count, SIZE_MAX, NULL));
            key_count = 0;
        }
    }
    if (key_count)
        kv_ignore(kv_btree_fault_together(tree, keys, key_count, SIZE_MAX, NULL));
    return ops;
}

static int apply_record(struct kv_store *store, const struct kv_record *record)
{
    size_t bytes;
    const size_t ops = fault_keys(store, record, &bytes);
    const uint64_t pages = kv_store_pages_needed(store, ops, bytes, 256);
    int err = kv_pager_reserve(store->pager, pages, true);
    if (err && err != -ENOSPC) /* without a reservation each page asks for itself */
        return err;
    err = kv_store_apply_record(store, record, NULL);
    kv_pager_unreserve(store->pager);
    return err;
}

static int apply_ordered(struct replay *replay)
{
    const struct kv_batch *batch = &replay->gathered;
    struct kv_record_order order = {.count = 0};
    int err = 0;
    kv_batch_order(batch, &order);
    for (size_t first = 0, count; first < batch->count && !err; first += count) {
        count = kv_min_u64(APPLIED_TOGETHER, batch->count - first);
        const struct kv_record part = part_of(batch, &order, first, count);
        err = apply_record(replay->store, &part);
    }
    free(order.places);
    if (!err)
        replay->left -= replay->records;
    return err;
}

static int apply_one_by_one(struct replay *replay)
{
    const struct kv_batch *batch = &replay->gathered;
    const struct kv_record_order as_they_lie = {.count = 0};
    const struct kv_record all = part_of(batch, &as_they_lie, 0, batch->count);
    size_t first = 0, bytes;
    int err = 0;
    (void)fault_keys(replay->store, &all, &bytes);
    for (uint64_t i = 0; i < replay->records && !err; first = replay->ends[i++]) {
        const struct kv_record part = part_of(batch, &as_they_lie, first, replay->ends[i] - first);
        err = apply_record(replay->store, &part);
        replay->left -= !err;
    }
    return err;
}

/* Apply what was gathered. */
static int apply_gathered(struct replay *replay)
{
    const int err = replay->store->repair ? apply_one_by_one(replay) : apply_ordered(replay);
    replay->records = 0;
    kv_batch_clear(&replay->gathered);
    replay->failed |= err != 0;
    return err;
}

static int apply_alone(struct replay *replay, const uint8_t *body, size_t length)
{
    const struct kv_record record = {.bytes = body, .length = length};
    const int err = apply_record(replay->store, &record);
    replay->left -= !err;
    replay->failed |= err != 0;
    return err;
}

/* ---- gathering ---------------------------------------------------------------------- */

/* Does what it does depend on no key but its own, now and when another's value goes? */
static bool is_of_one_key(const struct kv_redo *redo)
{
    switch (redo->kind) {
    case KV_REDO_PUT:
    case KV_REDO_DEL:
    case KV_REDO_PATCH:
        return true;
    case KV_REDO_PUT_REF:
        return redo->use == KV_BLOB_NEW;
    case KV_REDO_PUT_LARGE: {
        const size_t count = redo->value.length / sizeof(struct kv_blob_ref);
        return count < 64 && redo->argument + 1 == UINT64_C(1) << count; /* all are new */
    }
    case KV_REDO_DEL_RANGE:
        break;
    }
    return false;
}

static bool can_be_gathered(const struct replay *replay, const uint8_t *body, size_t length)
{
    struct kv_redo redo;
    size_t at = 0;
    int err;
    if (length > replay->bytes_max)
        return false;
    while (!(err = kv_record_next(body, length, &at, &redo)))
        if (!is_of_one_key(&redo))
            return false;
    return err == -ENOENT;
}

static int gather(struct replay *replay, const uint8_t *body, size_t length)
{
    struct kv_redo redo;
    size_t at = 0;
    int err;
    while (!(err = kv_record_next(body, length, &at, &redo)))
        if ((err = kv_batch_add_redo(&replay->gathered, &redo)))
            break;
    if (err != -ENOENT)
        return err;
    if (replay->store->repair)
        replay->ends[replay->records] = replay->gathered.count;
    replay->records++;
    return 0;
}

/* kv_wal_visit_fn. */
static int replay_record(void *context, const void *body, size_t length, uint64_t epoch,
                         bool known_durable)
{
    struct replay *replay = context;
    const struct kv_batch *gathered = &replay->gathered;
    (void)epoch;
    (void)known_durable;
    if (replay->left == replay->records) /* here, as there, it ends in damage or it does not */
        return replay->store->log_damaged ? -EBADMSG : -ECANCELED;
    const bool alone = !can_be_gathered(replay, body, length);
    const bool full = length > replay->bytes_max - gathered->length ||
                      gathered->count >= replay->ops_max ||
                      (replay->store->repair && replay->records == REPAIR_RECORDS);
    int err = replay->records && (alone || full) ? apply_gathered(replay) : 0;
    if (err)
        return err;
    if (alone)
        return apply_alone(replay, body, length);
    err = gather(replay, body, length);
    replay->failed |= err != 0;
    return err;
}

/* ---- the whole ---------------------------------------------------------------------- */

static size_t gather_bytes(const struct kv_store *store)
{
    return store->repair ? REPAIR_BYTES
                         : kv_min_u64(GATHER_BYTES_MAX, store->budget_bytes / GATHER_SHARE);
}

int kv_store_replay(struct kv_store *store, struct kv_error *error)
{
    int err = 0;
    if (store->log_end.records) {
        struct replay replay = {.store = store,
                                .left = store->log_end.records - KV_PLANT(last_record_lost),
                                .bytes_max = gather_bytes(store)};
        replay.ops_max = replay.bytes_max / OP_BYTES_LEAST;
        struct kv_wal_end end;
        pthread_mutex_lock(&store->writer);
        err = kv_wal_replay(store->wal, replay_record, &replay, &end);
        if (!replay.failed) { /* what was read before the log ended, or was damaged, counts */
            const int last_err = replay.records ? apply_gathered(&replay) : 0;
            err = err ? err : last_err;
        }
        pthread_mutex_unlock(&store->writer);
        free(replay.gathered.ops);
        free(replay.gathered.bytes);
        if (!err && replay.left)
            err = -EUCLEAN;
        if (store->repair && kv_error_is_contradiction(err)) {
            if (replay.left)
                kv_store_log(store, KV_LOG_WARNING,
                             "%llu batches of the log can not be replayed (%s)",
                             (unsigned long long)replay.left, strerror(-err));
            store->log_damaged = true;
            err = 0;
        }
    }
    if (err) {
        kv_error_set(error, "the log can not be replayed (%s)%s", strerror(-err),
                     kv_error_remedy(err));
        return err;
    }
    if (store->read_only)
        return 0;
    /* From the next superblock on; nothing that needs it is written before that one is durable. */
    kv_le64 *features = &store->checkpoint.superblock.feature_incompat;
    *features = kv_le64_of(kv_le64_get(*features) | KV_FEATURE_INCOMPAT_THIRDS);
    if (store->trees_outdated)
        return 0;
    /* Also with an empty log: the image on disk must say that it is in use. */
    if (store->checkpoint.superblock.clean == 1)
        err = kv_superblock_mark_used(store->device, &store->checkpoint.superblock);
    if (!err)
        err = kv_store_checkpoint(store, false, true);
    if (!err)
        return 0;
    if (kv_store_failure(store))
        err = kv_store_failure(store);
    kv_error_set(error, "the first checkpoint failed (%s)%s", strerror(-err), kv_error_remedy(err));
    return err;
}
