/*
 * kv/recover.c: after a crash: where does the log end, and which blobs does it name?
 *
 * Owns       nothing; runs while a store is opened, by one thread.
 * Invariant  what it leaves to be applied is a prefix of the batches. A record whose blobs did
 *            not reach the device ends the log, unless a later block vouches that they had:
 *            then it is damage.
 * Locks      none needed; the writer lock is taken where the code that is called expects it.
 *
 * The first of two passes: it claims the blocks of all blobs that the log names, so that pages that
 * are written while the second one (replay.c) applies the records can not land on them.
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
    if (store->repair && kv_error_is_contradiction(err)) {
        store->log_damaged = true;
        kv_store_log(store, KV_LOG_WARNING,
                     "the log is damaged at position %llu, before its durable end; it ends there",
                     (unsigned long long)store->log_end.position);
        return 0;
    }
    if (kv_error_is_contradiction(err))
        kv_error_set(
            error, "the log is damaged at position %llu, before its durable end; run fsck.kvfs -y",
            (unsigned long long)store->log_end.position);
    return err;
}
