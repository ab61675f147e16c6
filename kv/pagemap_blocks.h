/*
 * kv/pagemap_blocks.h: the map's blocks in memory and what is changed on top of them, which every
 * part of the map works on. For kv/pagemap*.c only, hence the short names.
 *
 * Invariant  base tree + overlay[closing epoch] + overlay[open epoch], later ones first, is
 *            the present place of every page. The base tree changes only in
 *            kv_pagemap_write, and only for pages that the overlay being written covers.
 * Locks      map->mutex guards everything; device reads of map blocks happen under it. All
 *            functions here are called with it. Only the overlay that kv_pagemap_write is given
 *            changes no more, and is read without.
 * On disk    blocks of 128 struct kv_disk_ptr. Block `index` of level l covers page ids
 *            [index * 128^(l+1), (index + 1) * 128^(l+1)). A pointer to a map block says in
 *            free_slots how many null pointers are below it, so that free ids are found
 *            without a list of their own.
 */
#ifndef KV_PAGEMAP_BLOCKS_H
#define KV_PAGEMAP_BLOCKS_H

#include "kv/codec.h"
#include "kv/pagemap.h"

#include <pthread.h>

/*
 * Open-addressed hashes from page id to pointer: what an epoch has changed. There are many, by the
 * page id, and each grows by itself, for whoever looks for a page waits while entries are moved.
 */
#define OVERLAY_PARTS 256u

struct overlay_slot {
    uint64_t page_id; /* 0: empty */
    struct kv_disk_ptr ptr;
};

struct overlay_part {
    struct overlay_slot *slots;
    uint32_t capacity; /* power of two, or 0 */
    uint32_t count;
};

struct overlay {
    struct overlay_part parts[OVERLAY_PARTS];
    size_t count;
};

/* Where a walk over an overlay is; zeroes: at its start. */
struct overlay_walk {
    uint32_t part, slot;
};

struct map_block {
    struct map_block *hash_next;
    struct map_block *ring_next, *ring_prev; /* all cached blocks, for the clock hand */
    uint64_t index;
    uint32_t level;
    bool referenced;
    bool changed; /* by the kv_pagemap_write that is under way: not to be evicted */
    struct kv_disk_ptr ptrs[KV_MAP_FANOUT];
};

#define HASH_BUCKETS 4096u

struct kv_pagemap {
    pthread_mutex_t mutex;
    struct kv_device *device;                /* immutable after open */
    struct kv_space *space;                  /* immutable after open */
    struct kv_pagemap_root root;             /* mutex; ptr and depth of the base tree */
    struct overlay overlays[2];              /* mutex; by the low bit of the epoch */
    uint64_t newest_epoch;                   /* mutex; the larger of the overlays' epochs */
    struct map_block *buckets[HASH_BUCKETS]; /* mutex */
    struct map_block *hand;                  /* mutex; the clock */
    size_t cached_count, cached_max;         /* mutex; immutable */
    void *io;                                /* mutex; one block, aligned */
    uint64_t *free_ids;                      /* mutex; a stack */
    size_t free_count, free_capacity;        /* mutex */
    uint64_t scan_next, scan_end;            /* mutex; leaf block indexes not scanned yet */
    uint64_t used_ids;                       /* mutex */
    uint64_t write_bytes;                    /* mutex */
};

static inline size_t hash_id(uint64_t id)
{
    return (size_t)((id * 0x9e3779b97f4a7c15ull) >> 20);
}

/* 128^levels, or UINT64_MAX when that is more. */
static inline uint64_t ids_below(uint32_t levels)
{
    return levels >= 9 ? UINT64_MAX : 1ull << (7 * levels);
}

/* NULL: the epoch has not changed it. The slot stays until the next kv_overlay_set. */
struct overlay_slot *kv_overlay_find(const struct overlay *overlay, uint64_t page_id);
/* `page_id` is not 0. -ENOMEM. */
KV_MUST_CHECK int kv_overlay_set(struct overlay *overlay, uint64_t page_id,
                                 const struct kv_disk_ptr *ptr);
void kv_overlay_clear(struct overlay *overlay);
/* The next entry, in no order; NULL: that was all. */
const struct overlay_slot *kv_overlay_next(const struct overlay *overlay,
                                           struct overlay_walk *walk);
size_t kv_overlay_memory(const struct overlay *overlay); /* bytes */

/* A block that is in memory, or NULL. It stays until blocks are loaded or dropped. */
struct map_block *kv_map_find_cached(struct kv_pagemap *map, uint32_t level, uint64_t index);
/* An empty block for (level, index), which is not in memory. NULL: no memory. */
struct map_block *kv_map_add_cached(struct kv_pagemap *map, uint32_t level, uint64_t index);
void kv_map_drop_cached(struct kv_pagemap *map, struct map_block *block);
/* Clock: evict unreferenced blocks, but not `keep`, while there are more than cached_max. */
void kv_map_shrink_cache(struct kv_pagemap *map, const struct map_block *keep);
/* Read and verify the map block that `ptr` (from disk) names. -EIO, -EBADMSG, -EUCLEAN. */
KV_MUST_CHECK int kv_map_read_block(struct kv_pagemap *map, uint32_t level, uint64_t index,
                                    const struct kv_disk_ptr *ptr, struct kv_disk_ptr *out);
/* The block of (level, index), from memory or read. *out is NULL when the tree has none. */
KV_MUST_CHECK int kv_map_load_block(struct kv_pagemap *map, uint32_t level, uint64_t index,
                                    struct map_block **out);
/* Where the block lies in the base tree now (block 0: nowhere). */
KV_MUST_CHECK int kv_map_present_place(struct kv_pagemap *map, uint32_t level, uint64_t index,
                                       struct kv_disk_ptr *ptr);
/* The present place of a page (block 0: nowhere). */
KV_MUST_CHECK int kv_map_get_locked(struct kv_pagemap *map, uint64_t page_id,
                                    struct kv_disk_ptr *ptr);

#endif
