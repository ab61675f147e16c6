/*
 * kv/check_repair.h: mend what a walk found damaged.
 *
 * Everything is changed in memory, in the open epoch: until the next checkpoint the image is as
 * it was. After an error nothing may be checkpointed any more (kv_store_fail).
 *
 * Threads: one; nothing else may use the store meanwhile.
 */
#ifndef KV_CHECK_REPAIR_H
#define KV_CHECK_REPAIR_H

#include "kv/check_salvage.h"

struct kv_mended {
    uint64_t pages;              /* replaced by empty ones */
    struct kv_salvaged salvaged; /* keys found again for them */
    uint64_t removed;            /* keys whose value referred to what is not there */
};

/*
 * Take what is still in memory for what is damaged on the device: then *rescued is set, and
 * a checkpoint and another walk must follow before anything else is mended. Map blocks that
 * are damaged and not in memory become empty.
 */
KV_MUST_CHECK int kv_check_rescue(const struct kv_walk *walk, bool *rescued);

/*
 * Put empty pages in place of the damaged ones, put the keys that were below them back as far
 * as they are found, correct the reference counts, forget the pages that nothing reaches. No
 * block becomes free by this: see kv_space_compare.
 *
 * salvage  what kv_check_find_leaves found; without holes in the keys' tree it is not looked at.
 */
KV_MUST_CHECK int kv_check_mend(const struct kv_walk *walk, const struct kv_salvage *salvage,
                                struct kv_mended *mended);
/* Put a cell into a tree. Under the writer lock. What kv_btree_put returns. */
KV_MUST_CHECK int kv_check_put(struct kv_store *store, uint8_t tree, struct kv_bytes key,
                               uint8_t kind, struct kv_bytes value);

/* While an image is opened for repair: mark what the durable trees own in a space without
 * bitmaps. The page map and the pager are open. */
KV_MUST_CHECK int kv_check_mark_durable(struct kv_store *store,
                                        const struct kv_disk_superblock *superblock);
/* Likewise, before the log is replayed: mend what stands in its way, and log what it was. */
KV_MUST_CHECK int kv_check_mend_before_replay(struct kv_store *store);

#endif
