/*
 * kv/space.h: who owns each block.
 *
 * Two views are kept in memory. `busy` is what must not be allocated now. `committed` is
 * what the next durable checkpoint reaches, and is what lies on disk. An allocation makes
 * a block busy at once; it joins `committed` when the checkpoint of the epoch in which it
 * was committed is written. A free leaves `committed` with that checkpoint and `busy` only
 * when that checkpoint is durable: until then an older superblock or the log may name it.
 *
 * A cluster is node_bytes worth of aligned blocks; a page needs one at most. Dirty pages
 * reserve a whole cluster each, and allocations for data never break a cluster that is
 * reserved, so that writing dirty pages can not run out of space.
 *
 * On a thin device only blocks whose room on the host is certain are handed out (kv/backing.h):
 * an allocation or reservation that finds too few of them asks for more room first, and says
 * -ENOSPC when the host has none. What is kept for deletions and checkpoints is counted in such
 * blocks, too.
 *
 * Threads: any; one mutex inside. At most two epochs are open at a time: e (closing), e + 1.
 */
#ifndef KV_SPACE_H
#define KV_SPACE_H

#include "kv/base.h"
#include "kv/device.h"

struct kv_space;

/* What data leaves to the pages that will refer to it: a batch that refers to one piece reserves 24
 * at most, and there are the pages of the batches before. */
#define KV_SPACE_BATCHES_CLUSTERS 32u

struct kv_space_config {
    uint64_t group_first_block;
    uint32_t group_count;
    uint64_t end_block;      /* first block after the last group */
    uint32_t cluster_blocks; /* node_bytes / KV_BLOCK_BYTES, a power of two */
    uint64_t log_id;         /* seeds the bitmaps' digests */
};

/* mkfs: write copy 0 of every group's bitmap for `epoch`, invalidate copy 1. */
KV_MUST_CHECK int kv_space_format(struct kv_device *device, const struct kv_space_config *config,
                                  uint64_t epoch, uint64_t *bitmap_digest, uint64_t *used_blocks);

/*
 * Load for each group the newest valid copy whose epoch is <= `epoch`; the whole must match
 * `bitmap_digest` (-EBADMSG otherwise: rebuild with kv_space_open_empty). A group whose other
 * copy is newer than `epoch` or torn (an unfinished checkpoint) is rewritten by the next one.
 */
KV_MUST_CHECK int kv_space_open(struct kv_device *device, const struct kv_space_config *config,
                                uint64_t epoch, uint64_t bitmap_digest, struct kv_space **space);
/* For repair: everything but the metadata counts as free; every group is dirty. */
KV_MUST_CHECK int kv_space_open_empty(struct kv_device *device,
                                      const struct kv_space_config *config,
                                      struct kv_space **space);
void kv_space_close(struct kv_space *space);

enum kv_space_purpose {
    KV_SPACE_PAGE, /* backed by a reservation: may break reserved clusters (the caller
                      unreserves after); also page map blocks, from the emergency reserve */
    KV_SPACE_DATA, /* leaves alone reservations, the emergency reserve, and the clusters of the
                      pages that will refer to it */
};

/*
 * Find `count` contiguous free blocks inside one group and make them busy. With `least` < count
 * a shorter run of at least `least` blocks may be taken; *got says how long.
 * First fit from a moving hint; prefers holes to breaking whole clusters when short.
 * Returns 0; -ENOSPC.
 */
KV_MUST_CHECK int kv_space_alloc(struct kv_space *space, enum kv_space_purpose purpose,
                                 uint32_t count, uint32_t least, uint64_t *block, uint32_t *got);

/* Replay and repair: make a given run busy. -EUCLEAN outside the groups or not free. */
KV_MUST_CHECK int kv_space_claim(struct kv_space *space, uint64_t block, uint32_t count);

/* Undo an alloc or claim that was never committed: free at once. */
void kv_space_unalloc(struct kv_space *space, uint64_t block, uint32_t count);

/* From `epoch` on the run is reachable. It is busy. -ENOMEM; -EUCLEAN: a damaged pointer has freed
 * it meanwhile. */
KV_MUST_CHECK int kv_space_commit(struct kv_space *space, uint64_t epoch, uint64_t block,
                                  uint32_t count);

/*
 * `epoch` made a committed run unreachable. -ENOMEM; -EUCLEAN when the run is outside the
 * groups or not in use (a damaged pointer): nothing is changed.
 */
KV_MUST_CHECK int kv_space_free(struct kv_space *space, uint64_t epoch, uint64_t block,
                                uint32_t count);

/* Is every block of the run inside the groups' data area? For checking pointers from disk. */
bool kv_space_contains(struct kv_space *space, uint64_t block, uint64_t count);
/* Does something own the whole run now: allocated or committed, and not freed since? */
bool kv_space_owned(struct kv_space *space, uint64_t block, uint32_t count);

/*
 * How far a reservation may reach. What KV_SPACE_URGENT leaves is enough for the page map of
 * the next checkpoint, so that deleting works when everything is full.
 */
enum kv_space_need {
    KV_SPACE_NORMAL, /* leaves the emergency reserve alone */
    KV_SPACE_URGENT, /* frees space: may use most of the reserve */
    KV_SPACE_LAST,   /* a change is half done: whatever there is; the device is not asked */
};
/* Set clusters aside for pages that will be written. -ENOSPC, or what the device says. */
KV_MUST_CHECK int kv_space_reserve(struct kv_space *space, uint64_t cluster_count,
                                   enum kv_space_need need);
void kv_space_unreserve(struct kv_space *space, uint64_t cluster_count);
/*
 * After opening for writing: find room for what is kept for deletions and checkpoints. Until the
 * first checkpoint the host is asked longer than later, for on a full one it is room of old that
 * must be found again. Returns 0 also when there is less.
 */
KV_MUST_CHECK int kv_space_back_reserve(struct kv_space *space);
/*
 * The image is closed cleanly: give room of free blocks back to the host, on a thin device, where
 * that is much, and where the host has so much that the next opening will get it again. Nothing may
 * be allocated afterwards.
 */
void kv_space_give_back(struct kv_space *space);

/*
 * Write the bitmaps that the commits and frees up to `epoch` change (each into the copy that
 * is not active), without flushing. *bitmap_digest and *used_blocks (the bitmaps' own blocks
 * included) are for the superblock. After an error the space is of no more use for writing.
 */
KV_MUST_CHECK int kv_space_write(struct kv_space *space, uint64_t epoch, uint64_t *bitmap_digest,
                                 uint64_t *used_blocks);
/* The superblock of `epoch` is durable: what it freed may be used again. */
void kv_space_written(struct kv_space *space, uint64_t epoch);

struct kv_space_stats {
    uint64_t total_blocks;     /* data blocks of all groups */
    uint64_t busy_blocks;      /* not allocatable now */
    uint64_t deferred_blocks;  /* of these, freed but waiting for a checkpoint */
    uint64_t reserved_blocks;  /* clusters reserved * cluster_blocks */
    uint64_t emergency_blocks; /* kept for deletions and checkpoints */
    uint64_t unbacked_blocks;  /* not busy, but without certain room on the host */
    /* What can be written as data before -ENOSPC, when the host keeps what it has. */
    uint64_t available_blocks;
    bool host_is_full;       /* it refused when it was last asked for room */
    uint64_t whole_blocks;   /* free, and in clusters that are free as a whole */
    uint64_t longest_blocks; /* no free run is longer */
};
void kv_space_stats(struct kv_space *space, struct kv_space_stats *stats);

/*
 * For scrubbing: read the copy of a group's bitmap that counts from the device. -EBADMSG: it is
 * not what was written. *bytes: how many were read. No kv_space_write may be under way.
 */
KV_MUST_CHECK int kv_space_verify(struct kv_space *space, uint32_t group, uint64_t *bytes);

/*
 * For kv_check: compare `committed` with what a walk found. `seen` has a bit for each block
 * from group_first_block on, set for every owned data block (not for bitmaps).
 * Counts blocks marked used without an owner, and owned blocks marked free. With repair the
 * committed and busy views become `seen` and every group is rewritten by the next checkpoint.
 */
void kv_space_compare(struct kv_space *space, const uint64_t *seen, bool repair, uint64_t *leaked,
                      uint64_t *unmarked);
/* For repair: what is in `seen` is committed and busy from now on; nothing becomes free. */
void kv_space_mark(struct kv_space *space, const uint64_t *seen);

#endif
