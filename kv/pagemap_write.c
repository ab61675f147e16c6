/*
 * kv/pagemap_write.c: a checkpoint of the map: what an epoch has changed becomes the base tree.
 *
 * Owns       nothing.
 * Invariant  a changed block gets a new place, and so does all that leads to it.
 * Locks      map->mutex, released while the device writes; changed blocks stay in memory
 *            meanwhile. What the epoch has changed is collected and sorted without it.
 */
#include "kv/pagemap_blocks.h"

/* A pointer that must be put into block (level, index / 128) of the tree. */
struct change {
    uint64_t index;                /* page id, or index of a map block of the level below */
    const struct kv_disk_ptr *ptr; /* the overlay's, or of the blocks that were placed below */
};

static int compare_changes(const void *a, const void *b)
{
    const uint64_t x = ((const struct change *)a)->index;
    const uint64_t y = ((const struct change *)b)->index;
    return (x > y) - (x < y);
}

static uint16_t count_free_slots(const struct map_block *block)
{
    uint64_t free_slots = 0;
    for (unsigned i = 0; i < KV_MAP_FANOUT; i++) {
        const struct kv_disk_ptr *ptr = &block->ptrs[i];
        if (!kv_le64_get(ptr->block))
            free_slots += kv_min_u64(ids_below(block->level), UINT16_MAX);
        else if (block->level > 0)
            free_slots += kv_le16_get(ptr->free_slots);
    }
    return (uint16_t)kv_min_u64(free_slots, UINT16_MAX);
}

/* Give the changed block a new place, free the old one, fill in its pointer. */
static int place_block(struct kv_pagemap *map, uint64_t epoch, struct map_block *block,
                       const struct kv_disk_ptr *old, struct kv_disk_ptr *ptr)
{
    uint64_t place;
    uint32_t got;
    int err = kv_space_alloc(map->space, KV_SPACE_PAGE, 1, 1, &place, &got);
    if (err)
        return err;
    err = kv_space_commit(map->space, epoch, place, 1);
    if (!err && kv_le64_get(old->block) && !KV_PLANT(map_block_leaked))
        err = kv_space_free(map->space, epoch, kv_le64_get(old->block), 1);
    if (err)
        return err;
    memset(ptr, 0, sizeof *ptr);
    ptr->block = kv_le64_of(place);
    ptr->length_bytes = kv_le32_of(KV_BLOCK_BYTES);
    ptr->codec = KV_CODEC_NONE;
    ptr->free_slots = kv_le16_of(count_free_slots(block));
    ptr->birth_epoch = kv_le64_of(epoch);
    const uint64_t seed = kv_digest_seed(KV_MAP_ID(block->level, block->index), epoch);
    ptr->digest = kv_le64_of(kv_digest(block->ptrs, KV_BLOCK_BYTES, seed));
    return 0;
}

#define WRITE_CHUNK 128u

/* Blocks on their way to the device: written WRITE_CHUNK at a time. */
struct write_queue {
    uint8_t *memory;
    struct kv_io ios[WRITE_CHUNK];
    size_t count;
};

/*
 * Called and returns with the mutex, which it releases over the writing. Readers may come in
 * meanwhile: changed blocks stay in memory until all is written, so nobody follows a pointer
 * that is not right yet.
 */
static int queue_flush(struct kv_pagemap *map, struct write_queue *queue)
{
    const size_t count = queue->count;
    queue->count = 0;
    if (!count)
        return 0;
    pthread_mutex_unlock(&map->mutex);
    const int err = kv_device_submit(map->device, queue->ios, count, false);
    pthread_mutex_lock(&map->mutex);
    map->write_bytes += count * KV_BLOCK_BYTES;
    return err;
}

static int queue_add(struct kv_pagemap *map, struct write_queue *queue, uint64_t place,
                     const void *bytes)
{
    uint8_t *copy = queue->memory + queue->count * KV_BLOCK_BYTES;
    memcpy(copy, bytes, KV_BLOCK_BYTES);
    queue->ios[queue->count++] =
        (struct kv_io){.kind = KV_IO_WRITE, .block = place, .block_count = 1, .buf = copy};
    return queue->count == WRITE_CHUNK ? queue_flush(map, queue) : 0;
}

/*
 * Put sorted `changes` into the blocks of `level`; on return `changes` names the pointers of
 * the changed blocks, *count of them, for the level above. They are in `placed`, where those of the
 * level below may be: a block comes after what is put into it.
 */
static int write_level(struct kv_pagemap *map, uint64_t epoch, uint32_t level,
                       struct change *changes, size_t *count, struct kv_disk_ptr *placed,
                       struct write_queue *queue)
{
    size_t out = 0;
    for (size_t i = 0; i < *count;) {
        const uint64_t index = changes[i].index / KV_MAP_FANOUT;
        struct map_block *block;
        int err = kv_map_load_block(map, level, index, &block);
        if (!err && !block) {
            block = kv_map_add_cached(map, level, index);
            err = block ? 0 : -ENOMEM;
        }
        if (err)
            return err;
        block->changed = true;
        for (; i < *count && changes[i].index / KV_MAP_FANOUT == index; i++)
            block->ptrs[changes[i].index % KV_MAP_FANOUT] = *changes[i].ptr;
        struct kv_disk_ptr old, ptr;
        err = kv_map_present_place(map, level, index, &old);
        if (!err)
            err = place_block(map, epoch, block, &old, &ptr);
        if (!err)
            err = queue_add(map, queue, kv_le64_get(ptr.block), block->ptrs);
        if (err)
            return err;
        placed[out] = ptr;
        changes[out] = (struct change){.index = index, .ptr = &placed[out]};
        out++;
    }
    *count = out;
    return 0;
}

/* Add levels on top until the tree covers page ids below `page_id_next`. */
static int grow_depth(struct kv_pagemap *map, uint64_t page_id_next, bool *grew)
{
    *grew = false;
    if (!map->root.depth)
        map->root.depth = 1; /* an empty root: kv_map_present_place gives block 0 */
    while (ids_below(map->root.depth) < page_id_next) {
        if (map->root.depth == KV_MAP_DEPTH_MAX)
            return -ENOSPC;
        if (kv_le64_get(map->root.ptr.block)) {
            struct map_block *top = kv_map_add_cached(map, map->root.depth, 0);
            if (!top)
                return -ENOMEM;
            top->ptrs[0] = map->root.ptr;
            top->changed = true;
            *grew = true;
        }
        memset(&map->root.ptr, 0, sizeof map->root.ptr);
        map->root.depth++;
    }
    return 0;
}

/* From this epoch on the page's place is reachable. (Older places are, already.) */
static int commit_page(struct kv_pagemap *map, uint64_t epoch, const struct kv_disk_ptr *ptr)
{
    const uint64_t block = kv_le64_get(ptr->block);
    if (!block || kv_le64_get(ptr->birth_epoch) != epoch)
        return 0;
    const uint32_t block_count = (uint32_t)kv_blocks_for(kv_le32_get(ptr->length_bytes));
    return kv_space_commit(map->space, epoch, block, block_count);
}

/*
 * What the epoch has changed, in the order of the page ids, with room for one more; the caller
 * frees it. Its places are committed. Without the mutex: nobody changes that overlay any more.
 */
static int collect_changes(struct kv_pagemap *map, uint64_t epoch, struct change **out)
{
    const struct overlay *overlay = &map->overlays[epoch & 1];
    struct change *changes = malloc((overlay->count + 1) * sizeof *changes);
    *out = changes;
    if (!changes)
        return -ENOMEM;
    struct overlay_walk walk = {0};
    const struct overlay_slot *slot;
    size_t count = 0;
    int err = 0;
    while (!err && (slot = kv_overlay_next(overlay, &walk))) {
        changes[count++] = (struct change){slot->page_id, &slot->ptr};
        err = commit_page(map, epoch, &slot->ptr);
    }
    if (!err)
        qsort(changes, count, sizeof *changes, compare_changes);
    return err;
}

/* How many blocks of the lowest level sorted changes are in. */
static size_t leaves_of(const struct change *changes, size_t count)
{
    size_t leaves = 0;
    for (size_t i = 0; i < count; i++)
        leaves += !i || changes[i].index / KV_MAP_FANOUT != changes[i - 1].index / KV_MAP_FANOUT;
    return leaves;
}

/* Under the mutex. There are changes. */
static int write_changes(struct kv_pagemap *map, uint64_t epoch, uint64_t page_id_next,
                         struct change *changes, size_t count)
{
    static const struct kv_disk_ptr nowhere;
    struct write_queue queue = {.memory = kv_device_alloc_unset(WRITE_CHUNK * KV_BLOCK_BYTES)};
    struct kv_disk_ptr *placed = malloc((leaves_of(changes, count) + 1) * sizeof *placed);
    if (!queue.memory || !placed) {
        free(queue.memory);
        free(placed);
        return -ENOMEM;
    }
    bool grew;
    int err = grow_depth(map, kv_max_u64(page_id_next, changes[count - 1].index + 1), &grew);
    if (!err && grew) {
        /* The old tree hangs below the first slots of the new levels, which must be written
         * even if nothing there changed: touch page id 0, which is never a page. */
        memmove(changes + 1, changes, count++ * sizeof *changes);
        changes[0] = (struct change){.index = 0, .ptr = &nowhere};
    }
    for (uint32_t level = 0; !err && level < map->root.depth; level++)
        err = write_level(map, epoch, level, changes, &count, placed, &queue);
    if (!err)
        err = queue_flush(map, &queue);
    KV_ASSERT(err || count == 1);
    if (!err)
        map->root.ptr = placed[0];
    free(queue.memory);
    free(placed);
    if (err)
        return err;
    for (struct map_block *block = map->hand; block; block = block->ring_next) {
        block->changed = false;
        if (block->ring_next == map->hand)
            break;
    }
    kv_map_shrink_cache(map, NULL);
    return 0;
}

int kv_pagemap_write(struct kv_pagemap *map, uint64_t epoch, uint64_t page_id_next,
                     struct kv_pagemap_root *root)
{
    const size_t count = map->overlays[epoch & 1].count;
    struct change *changes = NULL;
    int err = count ? collect_changes(map, epoch, &changes) : 0;
    pthread_mutex_lock(&map->mutex);
    if (count && !err)
        err = write_changes(map, epoch, page_id_next, changes, count);
    root->ptr = map->root.ptr;
    root->depth = map->root.depth;
    /* Without changes the tree did not grow: ids beyond it were given, but hold no page. */
    root->page_id_next = kv_min_u64(page_id_next, ids_below(map->root.depth));
    pthread_mutex_unlock(&map->mutex);
    free(changes);
    return err;
}

void kv_pagemap_written(struct kv_pagemap *map, uint64_t epoch)
{
    pthread_mutex_lock(&map->mutex);
    kv_overlay_clear(&map->overlays[epoch & 1]);
    pthread_mutex_unlock(&map->mutex);
}
