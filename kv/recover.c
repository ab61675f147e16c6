/*
 * kv/recover.c: after a crash: from the superblock's trees and the log to the last promise.
 *
 * Owns       nothing; runs while a store is opened, by one thread.
 * Invariant  what is applied is a prefix of the batches, in order. A record whose blobs did
 *            not reach the device ends the log, unless a later block vouches that they had:
 *            then it is damage.
 * Locks      none needed; the writer lock is taken where the code that is called expects it.
 *
 * Two passes. The first claims the blocks of all blobs that the log names, so that pages that
 * are written while the second pass applies the records can not land on them.
 */
#include "kv/store.h"

#include "kv/error.h"

static int claim_blob(struct kv_store *store, const struct kv_blob_ref *ref, bool known_durable)
{
    uint64_t block;
    uint32_t count;
    int err = kv_blobs_extent(&store->blobs, ref, &block, &count);
    if (err)
        return err;
    if (!known_durable && !KV_PLANT(torn_blob_applied)) {
        err = kv_blobs_verify(&store->blobs, ref);
        if (err)
            return err == -EBADMSG ? -ECANCELED : err;
    }
    return KV_PLANT(blob_not_claimed) ? 0 : kv_space_claim(store->space, block, count);
}

/* Claim (or, to undo it, release) the first `limit` new blobs of a record. */
static int each_new_blob(struct kv_store *store, const uint8_t *body, size_t length,
                         bool known_durable, size_t *limit, bool undo)
{
    const size_t size = sizeof(struct kv_blob_ref);
    struct kv_redo redo;
    size_t at = 0, seen = 0;
    int err;
    while (!(err = kv_record_next(body, length, &at, &redo))) {
        const bool large = redo.kind == KV_REDO_PUT_LARGE;
        if (!large && !(redo.kind == KV_REDO_PUT_REF && redo.use == KV_BLOB_NEW))
            continue;
        const size_t count = large ? redo.value.length / size : 1;
        const uint8_t *refs = redo.value.data + redo.value.length - count * size;
        for (size_t i = 0; i < count; i++) {
            if (large && !((redo.argument >> i) & 1))
                continue;
            if (seen == *limit)
                return 0;
            struct kv_blob_ref ref;
            memcpy(&ref, refs + i * size, size);
            if (undo)
                kv_blob_discard(store, &ref);
            else
                err = claim_blob(store, &ref, known_durable);
            if (err) {
                *limit = seen;
                return err;
            }
            seen++;
        }
    }
    return err == -ENOENT ? 0 : err;
}

/* First pass. kv_wal_visit_fn. */
static int scan_record(void *context, const void *body, size_t length, uint64_t epoch,
                       bool known_durable)
{
    struct kv_store *store = context;
    (void)epoch;               /* kv_wal_end has the largest */
    if (store->trees_outdated) /* its trees will be newer than this */
        return -EBADMSG;
    size_t claimed = SIZE_MAX;
    const int err = each_new_blob(store, body, length, known_durable, &claimed, false);
    if (err) /* what could be claimed can be given back */
        kv_ignore(each_new_blob(store, body, length, true, &claimed, true));
    return err;
}

int kv_store_scan_log(struct kv_store *store, struct kv_error *error)
{
    const int err = kv_wal_replay(store->wal, scan_record, store, &store->log_end);
    if (store->repair && (err == -EBADMSG || err == -EUCLEAN)) {
        store->log_damaged = true;
        kv_store_log(store, KV_LOG_WARNING,
                     "the log is damaged at position %llu, before its durable end; it ends there",
                     (unsigned long long)store->log_end.position);
        return 0;
    }
    if (err == -EBADMSG || err == -EUCLEAN)
        kv_error_set(
            error, "the log is damaged at position %llu, before its durable end; run fsck.kvfs -y",
            (unsigned long long)store->log_end.position);
    return err;
}

static size_t count_ops(const uint8_t *body, size_t length)
{
    struct kv_redo redo;
    size_t at = 0, count = 0;
    while (!kv_record_next(body, length, &at, &redo))
        count++;
    return count;
}

/* Records on their way from the log into the trees. */
#define GROUP_RECORDS 32u
#define GROUP_BYTES   (64u << 10)

struct replay {
    struct kv_store *store;
    uint64_t left; /* records that the first pass accepted and this one has not applied yet */
    /* Some that were read: the pages that they change are brought into memory together. */
    uint8_t *bytes; /* GROUP_BYTES */
    size_t ends[GROUP_RECORDS], count;
    bool failed;
};

/* Ask for the leaves of a record's keys; *key_count of them are collected. What can not be had will
 * be met again when the record is applied. */
static void fault_keys(struct kv_store *store, const uint8_t *body, size_t length,
                       struct kv_bytes keys[KV_BTREE_TOGETHER], size_t *key_count)
{
    struct kv_redo redo;
    size_t at = 0;
    while (!kv_record_next(body, length, &at, &redo)) {
        if (redo.kind == KV_REDO_DEL_RANGE)
            continue;
        keys[(*key_count)++] = (struct kv_bytes){redo.key.data, redo.key.length};
        if (*key_count == KV_BTREE_TOGETHER) {
            kv_ignore(kv_btree_fault_together(&store->trees[KV_TREE_KEYS], keys, *key_count,
                                              SIZE_MAX, NULL));
            *key_count = 0;
        }
    }
}

/* Apply records that lie one behind the other; ends: of each. */
static int apply_records(struct replay *replay, const uint8_t *bytes, const size_t *ends,
                         size_t count)
{
    struct kv_store *store = replay->store;
    struct kv_bytes keys[KV_BTREE_TOGETHER];
    size_t key_count = 0, op_count = 0, start = 0;
    for (size_t i = 0; i < count; start = ends[i++]) {
        fault_keys(store, bytes + start, ends[i] - start, keys, &key_count);
        op_count += count_ops(bytes + start, ends[i] - start);
    }
    if (key_count)
        kv_ignore(
            kv_btree_fault_together(&store->trees[KV_TREE_KEYS], keys, key_count, SIZE_MAX, NULL));
    const uint64_t pages = kv_store_pages_needed(store, op_count, start, 256);
    int err = kv_pager_reserve(store->pager, pages, true);
    if (err && err != -ENOSPC) /* without a reservation each page asks for itself */
        return err;
    err = 0;
    start = 0;
    for (size_t i = 0; i < count && !err; start = ends[i++]) {
        const struct kv_record record = {.bytes = bytes + start, .length = ends[i] - start};
        err = kv_store_apply_record(store, &record, NULL);
        replay->left -= !err;
    }
    kv_pager_unreserve(store->pager);
    return err;
}

static int apply_group(struct replay *replay)
{
    const size_t count = replay->count;
    replay->count = 0;
    const int err = count ? apply_records(replay, replay->bytes, replay->ends, count) : 0;
    replay->failed |= err != 0;
    return err;
}

/* Second pass. kv_wal_visit_fn. */
static int replay_record(void *context, const void *body, size_t length, uint64_t epoch,
                         bool known_durable)
{
    struct replay *replay = context;
    (void)epoch;
    (void)known_durable;
    if (replay->left == replay->count) /* here, as there, it ends in damage or it does not */
        return replay->store->log_damaged ? -EBADMSG : -ECANCELED;
    const size_t used = replay->count ? replay->ends[replay->count - 1] : 0;
    int err = 0;
    if (replay->count == GROUP_RECORDS || length > GROUP_BYTES - used)
        err = apply_group(replay);
    if (!err && length > GROUP_BYTES) {
        err = apply_records(replay, body, &length, 1);
        replay->failed |= err != 0;
    } else if (!err) {
        const size_t at = replay->count ? replay->ends[replay->count - 1] : 0;
        if (length)
            memcpy(replay->bytes + at, body, length);
        replay->ends[replay->count++] = at + length;
    }
    return err;
}

int kv_store_replay(struct kv_store *store, struct kv_error *error)
{
    int err = 0;
    if (store->log_end.records) {
        struct replay replay = {.store = store,
                                .left = store->log_end.records - KV_PLANT(last_record_lost)};
        struct kv_wal_end end;
        replay.bytes = malloc(GROUP_BYTES);
        if (!replay.bytes)
            return -ENOMEM;
        pthread_mutex_lock(&store->writer);
        err = kv_wal_replay(store->wal, replay_record, &replay, &end);
        if (!replay.failed) { /* what was read before the log ended, or was damaged, counts */
            const int last_err = apply_group(&replay);
            err = err ? err : last_err;
        }
        pthread_mutex_unlock(&store->writer);
        free(replay.bytes);
        if (!err && replay.left)
            err = -EUCLEAN;
        if (store->repair && (err == -EBADMSG || err == -EUCLEAN)) {
            if (replay.left)
                kv_store_log(store, KV_LOG_WARNING,
                             "%llu batches of the log can not be replayed (%s)",
                             (unsigned long long)replay.left, strerror(-err));
            store->log_damaged = true;
            err = 0;
        }
    }
    if (err) {
        kv_error_set(error, "the log can not be replayed (%s); run fsck.kvfs -y", strerror(-err));
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
    kv_error_set(error, "the first checkpoint failed (%s)%s", strerror(-err),
                 err == -ENOMEM ? "" : "; check the device");
    return err;
}
