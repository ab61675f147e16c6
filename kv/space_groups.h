/*
 * kv/space_groups.h: the groups in memory, what every part of the space works on. For kv/space*.c
 * only, hence the short names.
 *
 * Locks      space->mutex guards everything that is not marked otherwise, and is held by the
 *            callers of what is here, unless that says otherwise. `committed`, `active` and the
 *            copies' epochs belong to the one thread that runs the checkpoint (or opens, or
 *            repairs).
 */
#ifndef KV_SPACE_GROUPS_H
#define KV_SPACE_GROUPS_H

#include "kv/backing.h"
#include "kv/format.h"
#include "kv/space.h"
#include "kv/space_bits.h"

#include <pthread.h>

#define GROUP_WORDS  (KV_GROUP_BLOCKS / 64u)
#define GROUP_PIECES (KV_GROUP_BLOCKS / KV_BACKING_PIECE_BLOCKS)
#define PIECE_WORDS  (KV_BACKING_PIECE_BLOCKS / 64u)

/* How often the host may refuse room in one call: by the way, and when it matters most. */
#define REFUSALS_MAX      8u
#define REFUSALS_MAX_OPEN 4096u

struct run {
    uint64_t block;
    uint32_t count;
};

struct run_list {
    struct run *runs;
    size_t count, cap;
};

/* What an open epoch will change. */
struct epoch_changes {
    uint64_t epoch; /* 0: unused */
    bool applied;   /* kv_space_write has taken it into `committed` */
    struct run_list commits, frees;
};

struct group {
    uint64_t *busy;      /* 1 = not allocatable; set beyond the group's last block */
    uint64_t *committed; /* the checkpoint's; zero beyond the group's last block */
    uint64_t *leaving;   /* freed, waiting for a checkpoint; NULL until first needed */
    uint32_t block_count;
    uint32_t free_count;     /* zero bits of busy */
    uint32_t unbacked_count; /* of these, in pieces that are not backed */
    uint32_t whole_clusters; /* clusters without any busy block, in backed pieces */
    uint32_t used_count;     /* bits of committed, metadata included; the checkpoint's */
    uint32_t run_bound;      /* no free run is longer than this */
    uint32_t hole_bound;     /* the same outside whole clusters */
    uint8_t active;          /* the copy that counts; the checkpoint's */
    bool dirty;              /* the next checkpoint writes this group; the checkpoint's */
    bool other_unknown;      /* ... and wipes the other copy (repair) */
    bool meta_backed;        /* the copies have their room */
    uint64_t active_epoch;   /* the checkpoint's, as is the digest */
    uint64_t active_digest;  /* of the header */
};

struct kv_space {
    struct kv_device *device;      /* immutable after open */
    struct kv_space_config config; /* immutable after open */
    struct group *groups;          /* the array is immutable after open */
    uint64_t total_blocks;         /* immutable after open: data blocks */
    uint64_t cluster_count;        /* immutable after open: whole ones when all is free */

    pthread_mutex_t mutex;
    struct kv_backing *backing;
    unsigned refusals_max;    /* that one call takes from the host: many while opening */
    uint64_t unbacked_blocks; /* not busy, in pieces that are not backed */
    struct epoch_changes changes[2];
    uint64_t free_blocks;
    uint64_t deferred_blocks;
    uint64_t whole_clusters;
    uint64_t reserved_clusters;
    uint32_t hint_group, hint_word; /* where the last allocation ended */
};

/* ---- geometry ----------------------------------------------------------------- */

static inline uint64_t group_start(const struct kv_space_config *config, uint32_t index)
{
    return config->group_first_block + (uint64_t)index * KV_GROUP_BLOCKS;
}

static inline uint32_t group_block_count(const struct kv_space_config *config, uint32_t index)
{
    return (uint32_t)kv_min_u64(KV_GROUP_BLOCKS, config->end_block - group_start(config, index));
}

static inline uint64_t copy_block(const struct kv_space_config *config, uint32_t index,
                                  unsigned copy)
{
    return group_start(config, index) + (uint64_t)copy * KV_GROUP_COPY_BLOCKS;
}

/* Take a run apart; false unless it lies in one group's data area. */
static inline bool locate(const struct kv_space *space, uint64_t block, uint64_t count,
                          uint32_t *index, uint32_t *first)
{
    uint64_t end;
    if (count == 0 || block < space->config.group_first_block || kv_add_u64(block, count, &end) ||
        end > space->config.end_block)
        return false;
    const uint64_t offset = block - space->config.group_first_block;
    const uint64_t within = offset % KV_GROUP_BLOCKS;
    if (within < KV_GROUP_META_BLOCKS || within + count > KV_GROUP_BLOCKS)
        return false;
    *index = (uint32_t)(offset / KV_GROUP_BLOCKS);
    *first = (uint32_t)within;
    return true;
}

static inline bool word_is_backed(const struct kv_space *space, const struct group *group,
                                  uint32_t word)
{
    const uint64_t index = (uint64_t)(group - space->groups);
    return kv_backing_has(space->backing, index * GROUP_PIECES + word / PIECE_WORDS);
}

/* Words that have blocks of the group; behind them all is busy, and nothing committed. */
static inline uint32_t word_count(uint32_t block_count)
{
    return (block_count + 63) / 64;
}

/* Does the geometry, which comes from a superblock, make sense on this device? */
bool kv_space_config_is_sane(const struct kv_device *device, const struct kv_space_config *config);

/* ---- the two views (space.c) --------------------------------------------------- */

/* A run that is all free becomes busy, and the other way round; the counts follow. */
void kv_space_mark_busy(struct kv_space *space, struct group *group, uint32_t first,
                        uint32_t count);
void kv_space_mark_free(struct kv_space *space, struct group *group, uint32_t first,
                        uint32_t count);
/* Make busy what is committed, and count. kv_space_sum_groups comes after that. */
void kv_space_reset_busy(const struct kv_space *space, struct group *group);
/* What the groups count, for all together. */
void kv_space_sum_groups(struct kv_space *space);

/* A space without groups yet: -EUCLEAN; -ENOMEM. They are added in order, then summed up. */
KV_MUST_CHECK int kv_space_new(struct kv_device *device, const struct kv_space_config *config,
                               struct kv_space **space);
/* A group with nothing but its metadata in use. -ENOMEM. */
KV_MUST_CHECK int kv_space_add_group(struct kv_space *space, uint32_t index);

/* ---- what an open epoch changes (space_epochs.c) -------------------------------- */

/* Take an epoch's changes into `committed`. A run may be both committed and freed in it. */
void kv_space_changes_apply(struct kv_space *space, struct epoch_changes *changes);
void kv_space_changes_empty(struct epoch_changes *changes);

/* ---- room on the host (space_room.c) -------------------------------------------- */

/* For the backing (kv/backing.h); the context is the space. */
bool kv_space_piece_is_wanted(void *context, uint64_t piece);
void kv_space_piece_is_backed(void *context, uint64_t piece);
/* Room for both copies of a group's bitmap. The checkpoint's or the opener's; no mutex. */
KV_MUST_CHECK int kv_space_back_meta(struct kv_space *space, uint32_t index);
/* Have more pieces backed; the mutex is released meanwhile. 0; -ENOSPC; what the device says. */
KV_MUST_CHECK int kv_space_back_more(struct kv_space *space);

/* ---- what is kept (space_reserve.c) ---------------------------------------------- */

/* Clusters that may be broken while there are holes. */
uint64_t kv_space_spare_clusters(const struct kv_space *space);

#endif
