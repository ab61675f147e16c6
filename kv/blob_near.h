/*
 * kv/blob_near.h: which blobs are worth reading together with one that lies beside them.
 *
 * A transfer of 64 KiB takes the device hardly twice as long as one of 4 KiB. Small blobs that were
 * written one after the other lie side by side, and who reads one of them, of small files say,
 * mostly goes on to the others, in whatever order. So the image is divided into places: the second
 * blob that is read from a place within a while, and the first one next to a place that was read
 * whole, bring all small blobs of their place along, into kv/blob_cache.h.
 *
 * What a place holds, the tree says: references in the leaf that has the key of the blob that is
 * wanted. They are hints. Nothing is kept that does not verify, and what is kept goes by its whole
 * reference, so one that has been dropped meanwhile serves nobody.
 *
 * Threads: any.
 */
#ifndef KV_BLOB_NEAR_H
#define KV_BLOB_NEAR_H

#include "kv/base.h"
#include "kv/kv.h"

#define KV_BLOB_NEAR_BLOCKS      32u /* of a place */
#define KV_BLOB_NEAR_BLOB_BLOCKS 8u  /* longer blobs are not small */

struct kv_blobs;
struct kv_blob_near;

/*
 * References of blobs that begin in blocks [block, block + block_count), as values beside `key`
 * have them; `max` at most. Returns how many; what can not be read now has none.
 */
typedef size_t kv_blob_find_near_fn(void *context, const void *key, size_t key_len, uint64_t block,
                                    uint32_t block_count, struct kv_blob_ref *refs, size_t max);

struct kv_blob_near *kv_blob_near_new(kv_blob_find_near_fn *find, void *context); /* NULL: memory */
void kv_blob_near_free(struct kv_blob_near *near);                                /* NULL is fine */

/* What is read with one transfer, and who else is in it beside the one that is wanted. */
struct kv_blob_neighbours {
    uint64_t block;
    uint32_t block_count;
    uint32_t count;
    struct kv_blob_ref refs[KV_BLOB_NEAR_BLOCKS];
};

/*
 * A small blob in these blocks, whose value is under `key`, will be read from the device: note it.
 * Returns its neighbours that are worth it, to be freed; NULL: none, or no memory.
 */
struct kv_blob_neighbours *kv_blob_near_choose(struct kv_blobs *blobs, const void *key,
                                               size_t key_len, uint64_t block,
                                               uint32_t block_count);

#endif
