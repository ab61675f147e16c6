/*
 * kv/pagemap.h: page id -> where the page lies.
 *
 * On disk a radix tree of blocks of 128 pointers, copied on write; its root pointer stands
 * in the superblock. In memory the tree is as the last durable checkpoint left it, and what
 * changed since is in two overlays, one for each open epoch: so a page's place is kept per
 * epoch until the checkpoint of that epoch is durable.
 *
 * Threads: any, but one at a time for kv_pagemap_write; one mutex inside, held over the reading
 * of map blocks and not over their writing.
 */
#ifndef KV_PAGEMAP_H
#define KV_PAGEMAP_H

#include "kv/device.h"
#include "kv/format.h"
#include "kv/space.h"

struct kv_pagemap;

struct kv_pagemap_root {
    struct kv_disk_ptr ptr; /* block 0: an empty map */
    uint32_t depth;         /* levels; 0 when empty */
    uint64_t page_id_next;
};

/* cached_blocks: how many clean map blocks stay in memory. -EUCLEAN: the root makes no sense. */
KV_MUST_CHECK int kv_pagemap_open(struct kv_device *device, struct kv_space *space,
                                  const struct kv_pagemap_root *root, size_t cached_blocks,
                                  struct kv_pagemap **map);
void kv_pagemap_close(struct kv_pagemap *map);

/* Where a page lies now; ptr->block 0 when nowhere. -EBADMSG, -EUCLEAN, -EIO of map blocks. */
KV_MUST_CHECK int kv_pagemap_get(struct kv_pagemap *map, uint64_t page_id, struct kv_disk_ptr *ptr);
/*
 * From `epoch` (open or closing) on the page lies there; NULL: nowhere any more. -ENOMEM.
 * The blocks are allocated; kv_pagemap_write commits those that were written in its epoch. So
 * a place that the same epoch gives up again was never committed (kv_space_unalloc).
 */
KV_MUST_CHECK int kv_pagemap_set(struct kv_pagemap *map, uint64_t epoch, uint64_t page_id,
                                 const struct kv_disk_ptr *ptr);

/* A page id that is not in use. */
KV_MUST_CHECK int kv_pagemap_take_id(struct kv_pagemap *map, uint64_t *page_id);
/*
 * The id's page is gone from `epoch` on, and the id may be taken again; at once, so nobody may
 * find the page under it any more. stored: the page was set. -ENOMEM: the id is not free.
 */
KV_MUST_CHECK int kv_pagemap_drop(struct kv_pagemap *map, uint64_t epoch, uint64_t page_id,
                                  bool stored);
uint64_t kv_pagemap_next_id(struct kv_pagemap *map);
/* Ids in use. When a map block is damaged, those below it count. */
uint64_t kv_pagemap_used_ids(struct kv_pagemap *map);
uint64_t kv_pagemap_memory(struct kv_pagemap *map);      /* bytes of cached blocks and overlays */
uint64_t kv_pagemap_write_bytes(struct kv_pagemap *map); /* that kv_pagemap_write wrote */

/*
 * Write the map blocks that the overlay of `epoch` changes (not flushed) and give the root
 * for the superblock. page_id_next is that of the moment in which the epoch was closed.
 */
KV_MUST_CHECK int kv_pagemap_write(struct kv_pagemap *map, uint64_t epoch, uint64_t page_id_next,
                                   struct kv_pagemap_root *root);
/* The superblock of `epoch` is durable. */
void kv_pagemap_written(struct kv_pagemap *map, uint64_t epoch);

/*
 * For kv_check: visit every map block (level >= 0, its pointer) and every page pointer
 * (level -1) of the durable tree, pages in the order of their ids. The first error of `visit`
 * ends it; KV_PAGEMAP_SKIP for a map block leaves out what is below it. A map block that can
 * not be read is reported through visit with `error` set, and its subtree is skipped.
 */
#define KV_PAGEMAP_SKIP 1
typedef int kv_pagemap_visit_fn(void *context, int level, uint64_t index,
                                const struct kv_disk_ptr *ptr, int error);
KV_MUST_CHECK int kv_pagemap_walk(struct kv_pagemap *map, kv_pagemap_visit_fn *visit,
                                  void *context);
/*
 * For scrubbing: read the map block (level, index) of the durable tree from the device, though
 * it be in memory. *present false: there is none, or what stands above it can not be read (and
 * is found damaged itself). No kv_pagemap_write may be under way. -EBADMSG, -EUCLEAN, -EIO.
 */
KV_MUST_CHECK int kv_pagemap_verify(struct kv_pagemap *map, uint32_t level, uint64_t index,
                                    bool *present);
/*
 * The first page id >= *page_id that is below a pointer to a block of `level` (-1: that has a
 * place); UINT64_MAX: there is none. What is empty or stands below an unreadable block is passed
 * over at once, however much the image says it is. -ENOMEM.
 */
KV_MUST_CHECK int kv_pagemap_next_placed(struct kv_pagemap *map, int level, uint64_t *page_id);
uint32_t kv_pagemap_depth(struct kv_pagemap *map); /* levels of the durable tree */
/*
 * For repair: a map block can not be read, its parent can. The next checkpoint of `epoch`
 * writes it anew: as it is in memory if it is, else without pointers. No frame may hold a
 * page that it covers when a page id is taken next.
 */
KV_MUST_CHECK int kv_pagemap_mend(struct kv_pagemap *map, uint64_t epoch, uint32_t level,
                                  uint64_t index);

#endif
