/*
 * kv/apply_record.h: a batch as the record that goes into the log, and the blobs written for it.
 * For kv/apply*.c only.
 */
#ifndef KV_APPLY_RECORD_H
#define KV_APPLY_RECORD_H

#include "kv/store.h"

/* Blobs written for the batch at hand, to be discarded if it is not applied. */
struct prepared {
    struct kv_blob_ref *fresh;
    size_t count, capacity;
};

/* A plain record of so many operations is applied in order of its keys. */
#define KV_ORDERED_MIN 32u

/*
 * The record of a batch, which may borrow its bytes: values that are too long for a leaf are
 * written as blobs, which `prepared` notes, also after an error. Patches depend on what is stored:
 * a batch that has some is built under the writer lock.
 *
 * Returns 0; -EINVAL a patch or a reference that can not be; -ENOSPC a checkpoint may help, or the
 * value is too fragmented; -ENOMEM; -EROFS the store has failed; what reading or writing says.
 */
KV_MUST_CHECK int kv_record_build(struct kv_store *store, const struct kv_batch *batch,
                                  struct kv_record *record, struct prepared *prepared);
/*
 * Bring every leaf that a record without ranges changes into memory, or say why that can not be.
 * leads: out, of each operation; NULL: not wanted. kv/apply.c.
 */
KV_MUST_CHECK int kv_fault_record(struct kv_store *store, const struct kv_record *record,
                                  const struct kv_btree_leads *leads);

/* May the batch, of which the record was built, wait for its leaves? kv/apply_deferred.c. */
bool kv_may_defer(const struct kv_store *store, const struct kv_batch *batch,
                  const struct kv_record *record);
/*
 * It does, and is to be logged now. Under the writer lock. deferring: out: it is the first one of
 * those that wait; they are as many as are worth reading their leaves for. -ENOBUFS there are too
 * many; -ENOSPC; -ENOMEM: the batch must be applied now.
 */
struct kv_deferring {
    bool first, many;
};
KV_MUST_CHECK int kv_defer(struct kv_store *store, const struct kv_batch *batch,
                           struct kv_deferring *deferring);

/* The batch is not applied: its blobs are given back. */
void kv_prepared_discard(struct kv_store *store, struct prepared *prepared);

/* Is there space that the next checkpoint gives back? kv/apply.c. */
bool kv_checkpoint_may_help(struct kv_store *store);

/* -ENOSPC: a checkpoint may help, which is not made here: we may hold the writer lock. */
KV_MUST_CHECK int kv_apply_write_blobs(struct kv_store *store, struct kv_blob_source *sources,
                                       size_t count, const struct kv_codec_spec *codec);

#endif
