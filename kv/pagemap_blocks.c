/*
 * kv/pagemap_blocks.c: map blocks, from the device into memory and out of it.
 *
 * Owns       the cached blocks, their hash and the ring that the clock goes round.
 * Invariant  a cached block is what the device holds, unless it is `changed`, and then it stays.
 * Locks      the caller's map->mutex, also while the device reads.
 */
#include "kv/pagemap_blocks.h"

static size_t bucket_of(uint32_t level, uint64_t index)
{
    return hash_id(index * 8 + level) % HASH_BUCKETS;
}

struct map_block *kv_map_find_cached(struct kv_pagemap *map, uint32_t level, uint64_t index)
{
    struct map_block *block = map->buckets[bucket_of(level, index)];
    while (block && (block->level != level || block->index != index))
        block = block->hash_next;
    if (block)
        block->referenced = true;
    return block;
}

void kv_map_drop_cached(struct kv_pagemap *map, struct map_block *block)
{
    struct map_block **link = &map->buckets[bucket_of(block->level, block->index)];
    while (*link != block)
        link = &(*link)->hash_next;
    *link = block->hash_next;
    if (block->ring_next == block) {
        map->hand = NULL;
    } else {
        block->ring_next->ring_prev = block->ring_prev;
        block->ring_prev->ring_next = block->ring_next;
        if (map->hand == block)
            map->hand = block->ring_next;
    }
    map->cached_count--;
    free(block);
}

/* Clock: evict unreferenced blocks while there are more than cached_max. */
void kv_map_shrink_cache(struct kv_pagemap *map, const struct map_block *keep)
{
    for (size_t steps = 2 * map->cached_count; map->cached_count > map->cached_max && steps;
         steps--) {
        struct map_block *block = map->hand;
        KV_ASSERT(block);
        map->hand = block->ring_next;
        if (block->changed || block == keep)
            continue;
        if (block->referenced)
            block->referenced = false;
        else
            kv_map_drop_cached(map, block);
    }
}

struct map_block *kv_map_add_cached(struct kv_pagemap *map, uint32_t level, uint64_t index)
{
    struct map_block *block = calloc(1, sizeof *block);
    if (!block)
        return NULL;
    block->level = level;
    block->index = index;
    block->referenced = true;
    struct map_block **bucket = &map->buckets[bucket_of(level, index)];
    block->hash_next = *bucket;
    *bucket = block;
    if (map->hand) {
        block->ring_next = map->hand;
        block->ring_prev = map->hand->ring_prev;
        block->ring_prev->ring_next = block;
        map->hand->ring_prev = block;
    } else {
        map->hand = block->ring_next = block->ring_prev = block;
    }
    map->cached_count++;
    return block;
}

/* Read and verify the map block that `ptr` (from disk) names. */
int kv_map_read_block(struct kv_pagemap *map, uint32_t level, uint64_t index,
                      const struct kv_disk_ptr *ptr, struct kv_disk_ptr *out)
{
    const uint64_t block = kv_le64_get(ptr->block);
    if (kv_le32_get(ptr->length_bytes) != KV_BLOCK_BYTES || ptr->codec != KV_CODEC_NONE ||
        !kv_space_contains(map->space, block, 1))
        return -EUCLEAN;
    const int err = kv_device_read(map->device, block, 1, map->io);
    if (err)
        return err;
    const uint64_t seed = kv_digest_seed(KV_MAP_ID(level, index), kv_le64_get(ptr->birth_epoch));
    if (kv_digest(map->io, KV_BLOCK_BYTES, seed) != kv_le64_get(ptr->digest))
        return -EBADMSG;
    memcpy(out, map->io, KV_BLOCK_BYTES);
    /* Whatever is written anew is written with all that leads to it: nothing is younger than
     * its parent. So no place from disk passes for one that an open epoch has taken. */
    for (unsigned i = 0; i < KV_MAP_FANOUT; i++)
        if (kv_le64_get(out[i].block) &&
            kv_le64_get(out[i].birth_epoch) > kv_le64_get(ptr->birth_epoch))
            return -EUCLEAN;
    if (level == 0 && index == 0)
        memset(&out[0], 0, sizeof out[0]); /* id 0 is never a page, whatever lies there */
    return 0;
}

/*
 * The block of (level, index), from the cache or through its parents. *out is NULL when the
 * tree has no such block. Depth is at most KV_MAP_DEPTH_MAX, so the recursion ends.
 */
int kv_map_load_block(struct kv_pagemap *map, uint32_t level, uint64_t index,
                      struct map_block **out)
{
    *out = NULL;
    if (level >= map->root.depth || (level == map->root.depth - 1 && index > 0))
        return 0;
    struct map_block *block = kv_map_find_cached(map, level, index);
    if (block) {
        *out = block;
        return 0;
    }
    struct kv_disk_ptr ptr = map->root.ptr;
    if (level + 1 < map->root.depth) {
        struct map_block *parent;
        const int err = kv_map_load_block(map, level + 1, index / KV_MAP_FANOUT, &parent);
        if (err || !parent)
            return err;
        ptr = parent->ptrs[index % KV_MAP_FANOUT];
    }
    if (!kv_le64_get(ptr.block))
        return 0;
    block = kv_map_add_cached(map, level, index);
    if (!block)
        return -ENOMEM;
    const int err = kv_map_read_block(map, level, index, &ptr, block->ptrs);
    if (err) {
        kv_map_drop_cached(map, block);
        return err;
    }
    kv_map_shrink_cache(map, block);
    *out = block;
    return 0;
}

/* Where the block lies in the base tree now (block 0: it is new). */
int kv_map_present_place(struct kv_pagemap *map, uint32_t level, uint64_t index,
                         struct kv_disk_ptr *ptr)
{
    memset(ptr, 0, sizeof *ptr);
    if (level + 1 == map->root.depth) {
        *ptr = map->root.ptr;
        return 0;
    }
    struct map_block *parent;
    const int err = kv_map_load_block(map, level + 1, index / KV_MAP_FANOUT, &parent);
    if (!err && parent)
        *ptr = parent->ptrs[index % KV_MAP_FANOUT];
    return err;
}
