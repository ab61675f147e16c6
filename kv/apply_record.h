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
/* The batch is not applied: its blobs are given back. */
void kv_prepared_discard(struct kv_store *store, struct prepared *prepared);

/* -ENOSPC: a checkpoint may help, which is not made here: we may hold the writer lock. */
KV_MUST_CHECK int kv_apply_write_blobs(struct kv_store *store, struct kv_blob_source *sources,
                                       size_t count, const struct kv_codec_spec *codec);

#endif
