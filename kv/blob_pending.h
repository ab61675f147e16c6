/*
 * kv/blob_pending.h: blobs on their way to the device.
 *
 * A blob need not be on the device before a flush promises that it is. Until then its stored bytes
 * wait here, with those of others, so that neighbours are written with one request and nobody
 * waits for it; who reads such a blob gets it from here. What was written stays readable until its
 * memory is wanted again.
 *
 * Whoever promises durability (a flush of the log, a checkpoint) first calls
 * kv_blob_pending_flush, or takes the last of it along with kv_blob_pending_give. A blob's blocks
 * must not be given back before kv_blob_pending_cancel.
 *
 * Threads: any, except free.
 */
#ifndef KV_BLOB_PENDING_H
#define KV_BLOB_PENDING_H

#include "kv/device.h"
#include "kv/format.h"

struct kv_blob_pending;

struct kv_blob_pending_config {
    struct kv_device *device;
    uint32_t block_count; /* memory, in blocks; at least 2 */
    /* Once, when a write has failed: from then on nothing is written. Under no lock. */
    void (*on_failure)(void *context, int error);
    /* Before the stored bytes of a blob are forgotten that is on the device; NULL: nobody wants to
     * know. By who serves or needs the memory, under no lock; he does not wait. */
    void (*on_leave)(void *context, const struct kv_disk_blob_ref *ref, const uint8_t *stored);
    void *context;
};

struct kv_blob_pending *kv_blob_pending_new(const struct kv_blob_pending_config *config);
/* What was not written is forgotten. NULL is fine. */
void kv_blob_pending_free(struct kv_blob_pending *pending);

/* Longer blobs have no room here, however long one waits. */
uint32_t kv_blob_pending_blocks_max(const struct kv_blob_pending *pending);

/* Memory for one blob, from begin to end. */
struct kv_blob_slot {
    uint8_t *bytes; /* block_count blocks, to be filled */
    uint64_t number;
};

/*
 * Room for a blob that goes to `block_count` blocks from `block` on; may wait for the device.
 * 0: kv_blob_pending_end must follow soon, others wait for it. -EIO: a write has failed.
 */
KV_MUST_CHECK int kv_blob_pending_begin(struct kv_blob_pending *pending, uint64_t block,
                                        uint32_t block_count, struct kv_blob_slot *slot);
/* The slot is filled with what `ref` names, padded to a block. */
void kv_blob_pending_end(struct kv_blob_pending *pending, const struct kv_blob_slot *slot,
                         const struct kv_disk_blob_ref *ref);

/* The blob's stored bytes if they are here, until kv_blob_pending_unpin; else NULL. */
const uint8_t *kv_blob_pending_pin(struct kv_blob_pending *pending,
                                   const struct kv_disk_blob_ref *ref, uint64_t *number);
void kv_blob_pending_unpin(struct kv_blob_pending *pending, uint64_t number);

/* The blob has been dropped: once it is on the device it may be forgotten without a word. */
void kv_blob_pending_unwanted(struct kv_blob_pending *pending, const struct kv_disk_blob_ref *ref);

/* After it, nothing of the blob will be written any more: its blocks may be somebody else's. */
void kv_blob_pending_cancel(struct kv_blob_pending *pending, const struct kv_disk_blob_ref *ref);

/* Bring all blobs that were ended before the call to the device (not to the medium: no flush). */
KV_MUST_CHECK int kv_blob_pending_flush(struct kv_blob_pending *pending);

/*
 * The same, but the last requests may be left to the caller, who submits them with others and then
 * calls kv_blob_pending_given, in any case and soon: nothing else is written before.
 * *count: how many of `ios`, of which there are `ios_max` (1..KV_BLOB_GIVEN_MAX); 0: all is done.
 */
#define KV_BLOB_GIVEN_MAX 8u
KV_MUST_CHECK int kv_blob_pending_give(struct kv_blob_pending *pending, struct kv_io *ios,
                                       size_t ios_max, size_t *count);
/* They were submitted: each has its result. */
void kv_blob_pending_given(struct kv_blob_pending *pending, const struct kv_io *ios, size_t count);

/* Write what comes, in the calling thread, until kv_blob_pending_stop. Without, callers write. */
void kv_blob_pending_serve(struct kv_blob_pending *pending);
void kv_blob_pending_stop(struct kv_blob_pending *pending);

#endif
