/*
 * kv/check_salvage.h: fill the holes that a walk found in the keys' tree with what kv/salvage.h
 * finds, and tell what could not be had back.
 *
 * Told as notes whose words begin with "salvage": they say what becomes of findings that were
 * counted before.
 *
 * Threads: one; nothing else may use the store meanwhile.
 */
#ifndef KV_CHECK_SALVAGE_H
#define KV_CHECK_SALVAGE_H

#include "kv/check_walk.h"
#include "kv/salvage.h"

/* What came of the keys in the holes. */
struct kv_salvaged {
    uint64_t keys;        /* put back, the next two not counted */
    uint64_t stale_keys;  /* put back as an older state had them */
    uint64_t dropped;     /* not put back: their blobs are damaged or gone */
    uint64_t lost_ranges; /* of keys, without any leaf */
};

/* Has the keys' tree a hole? Otherwise there is nothing to look for. */
bool kv_check_wants_leaves(const struct kv_walk *walk);

/*
 * Find the leaves that fill the holes: those that the page map knows, if they are enough, or
 * else by a look at every block. `salvage` was initialised. -ENOMEM.
 */
KV_MUST_CHECK int kv_check_find_leaves(const struct kv_walk *walk, struct kv_salvage *salvage);

/* Keep what fills the holes from being overwritten, before anything is written. -ENOMEM. */
KV_MUST_CHECK int kv_check_protect_leaves(const struct kv_walk *walk,
                                          const struct kv_salvage *salvage);

/* Count and tell what a repair would put back; blobs are not read. -ENOMEM. */
KV_MUST_CHECK int kv_check_estimate(const struct kv_walk *walk, const struct kv_salvage *salvage,
                                    struct kv_salvaged *salvaged);

/* The holes are empty pages now: put the keys back. Under the writer lock. -ENOMEM, -ENOSPC,
 * -EIO; then nothing may be checkpointed any more. */
KV_MUST_CHECK int kv_check_put_back(const struct kv_walk *walk, const struct kv_salvage *salvage,
                                    struct kv_salvaged *salvaged);

#endif
