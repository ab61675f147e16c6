/*
 * kv/pagemap_check.c: the map for the check: walking all of it, verifying and mending blocks.
 *
 * Owns       nothing.
 * Invariant  a walk reads from the device, not from memory.
 * Locks      map->mutex, for each block by itself.
 */
#include "kv/pagemap_blocks.h"

static int walk_block(struct kv_pagemap *map, uint32_t level, uint64_t index,
                      const struct kv_disk_ptr *ptr, kv_pagemap_visit_fn *visit, void *context)
{
    struct kv_disk_ptr *ptrs = malloc(KV_BLOCK_BYTES);
    if (!ptrs)
        return -ENOMEM;
    pthread_mutex_lock(&map->mutex);
    const int read_err = kv_map_read_block(map, level, index, ptr, ptrs);
    pthread_mutex_unlock(&map->mutex);
    int err = visit(context, (int)level, index, ptr, read_err);
    for (unsigned i = 0; !err && !read_err && i < KV_MAP_FANOUT; i++) {
        if (!kv_le64_get(ptrs[i].block))
            continue;
        const uint64_t below = index * KV_MAP_FANOUT + i;
        err = level == 0 ? visit(context, -1, below, &ptrs[i], 0)
                         : walk_block(map, level - 1, below, &ptrs[i], visit, context);
    }
    free(ptrs);
    return err == KV_PAGEMAP_SKIP ? 0 : err;
}

int kv_pagemap_walk(struct kv_pagemap *map, kv_pagemap_visit_fn *visit, void *context)
{
    pthread_mutex_lock(&map->mutex);
    const struct kv_pagemap_root root = map->root;
    pthread_mutex_unlock(&map->mutex);
    if (!root.depth || !kv_le64_get(root.ptr.block))
        return 0;
    return walk_block(map, root.depth - 1, 0, &root.ptr, visit, context);
}

static int verify_locked(struct kv_pagemap *map, uint32_t level, uint64_t index, bool *present)
{
    struct kv_disk_ptr ptr, ptrs[KV_MAP_FANOUT];
    *present = false;
    if (level >= map->root.depth)
        return 0;
    const int err = kv_map_present_place(map, level, index, &ptr);
    if (err || !kv_le64_get(ptr.block))
        return err == -ENOMEM ? err : 0;
    *present = true;
    return kv_map_read_block(map, level, index, &ptr, ptrs);
}

int kv_pagemap_verify(struct kv_pagemap *map, uint32_t level, uint64_t index, bool *present)
{
    pthread_mutex_lock(&map->mutex);
    const int err = verify_locked(map, level, index, present);
    pthread_mutex_unlock(&map->mutex);
    return err;
}

/* Look for a pointer to a block of `level` (-1: to a page) below block (at, index). */
static int next_below(struct kv_pagemap *map, int level, uint32_t at, uint64_t index, uint64_t from,
                      uint64_t *found)
{
    struct map_block *block;
    int err = kv_map_load_block(map, at, index, &block);
    *found = UINT64_MAX;
    if (err || !block)
        return err == -ENOMEM ? err : 0;
    struct kv_disk_ptr ptrs[KV_MAP_FANOUT]; /* the block may leave memory meanwhile */
    memcpy(ptrs, block->ptrs, sizeof ptrs);
    for (unsigned i = 0; i < KV_MAP_FANOUT && !err && *found == UINT64_MAX; i++) {
        const uint64_t below = index * KV_MAP_FANOUT + i;
        const uint64_t first = below * ids_below(at);
        if (!kv_le64_get(ptrs[i].block) || from > first + (ids_below(at) - 1))
            continue;
        if ((int)at - 1 == level)
            *found = kv_max_u64(from, first);
        else
            err = next_below(map, level, at - 1, below, from, found);
    }
    return err;
}

int kv_pagemap_next_placed(struct kv_pagemap *map, int level, uint64_t *page_id)
{
    uint64_t next = UINT64_MAX;
    int err = 0;
    pthread_mutex_lock(&map->mutex);
    const int root = (int)map->root.depth - 1;
    if (level < root)
        err = next_below(map, level, (uint32_t)root, 0, *page_id, &next);
    else if (level == root && level >= 0 && !*page_id)
        next = 0; /* the root itself */
    for (unsigned i = 0; i < 2 && level < 0; i++) {
        struct overlay_walk walk = {0};
        const struct overlay_slot *slot;
        while ((slot = kv_overlay_next(&map->overlays[i], &walk)))
            if (slot->page_id >= *page_id && slot->page_id < next)
                next = slot->page_id;
    }
    pthread_mutex_unlock(&map->mutex);
    if (!err)
        *page_id = next;
    return err;
}

uint32_t kv_pagemap_depth(struct kv_pagemap *map)
{
    pthread_mutex_lock(&map->mutex);
    const uint32_t depth = map->root.depth;
    pthread_mutex_unlock(&map->mutex);
    return depth;
}

/* Have the checkpoint of `epoch` write a block's path: give an id below it the place it has. */
static int touch_below(struct kv_pagemap *map, uint64_t epoch, uint32_t level, uint64_t index)
{
    int err = -EUCLEAN;
    for (unsigned i = 0; i < KV_MAP_FANOUT && err; i++) {
        const uint64_t first = index * ids_below(level + 1) + i * ids_below(level);
        const uint64_t page_id = first ? first : 1; /* id 0 is never a page */
        struct kv_disk_ptr ptr;
        err = kv_map_get_locked(map, page_id, &ptr);
        if (err == -ENOMEM)
            break;
        if (!err) {
            map->newest_epoch = kv_max_u64(map->newest_epoch, epoch);
            err = kv_overlay_set(&map->overlays[epoch & 1], page_id, &ptr);
        }
    }
    return err;
}

/* The pointer to a map block becomes null, in memory. */
static int unhang(struct kv_pagemap *map, uint32_t level, uint64_t index)
{
    if (level + 1 == map->root.depth) {
        memset(&map->root.ptr, 0, sizeof map->root.ptr);
        return 0;
    }
    struct map_block *parent;
    const int err = kv_map_load_block(map, level + 1, index / KV_MAP_FANOUT, &parent);
    if (err || !parent)
        return err ? err : -EUCLEAN;
    parent->changed = true; /* stays in memory until it is written */
    memset(&parent->ptrs[index % KV_MAP_FANOUT], 0, sizeof parent->ptrs[0]);
    return 0;
}

/* Forget the cached blocks at and below (level, index). */
static void drop_below(struct kv_pagemap *map, uint32_t level, uint64_t index)
{
    for (size_t i = 0; i < HASH_BUCKETS; i++) {
        struct map_block *next;
        for (struct map_block *block = map->buckets[i]; block; block = next) {
            next = block->hash_next;
            if (block->level <= level && block->index / ids_below(level - block->level) == index)
                kv_map_drop_cached(map, block);
        }
    }
}

static int mend_locked(struct kv_pagemap *map, uint64_t epoch, uint32_t level, uint64_t index)
{
    if (level >= map->root.depth)
        return -EUCLEAN;
    if (kv_map_find_cached(map, level, index)) {
        const int err = touch_below(map, epoch, level, index);
        if (!err || err == -ENOMEM)
            return err;
    }
    const int err = unhang(map, level, index);
    if (err)
        return err;
    drop_below(map, level, index);
    return touch_below(map, epoch, level, index);
}

int kv_pagemap_mend(struct kv_pagemap *map, uint64_t epoch, uint32_t level, uint64_t index)
{
    pthread_mutex_lock(&map->mutex);
    const int err = mend_locked(map, epoch, level, index);
    pthread_mutex_unlock(&map->mutex);
    return err;
}
