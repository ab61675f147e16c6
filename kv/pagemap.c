/*
 * kv/pagemap.c: page id -> where the page lies: opening, lookups, page ids.
 *
 * Owns       the free page ids.
 * Invariant  that of kv/pagemap_blocks.h.
 * Locks      map->mutex.
 *
 * Free ids   An id freed while the store is open goes on a stack when its map block was
 *            scanned already in this session, otherwise the scan will find it. So no id is
 *            found twice.
 */
#include "kv/pagemap_blocks.h"

/* ---- open, close ------------------------------------------------------------ */

/*
 * How many pages are below a pointer to a block of `level`. Only where so many are free that
 * the pointer can not say, one must look: so this reads a block for each 2 million pages. What
 * can not be read counts as full.
 */
static uint64_t count_below(struct kv_pagemap *map, uint32_t level, uint64_t index,
                            const struct kv_disk_ptr *ptr)
{
    const uint64_t slots = ids_below(level + 1);
    if (!kv_le64_get(ptr->block))
        return 0;
    if (kv_le16_get(ptr->free_slots) < UINT16_MAX)
        return slots - kv_min_u64(kv_le16_get(ptr->free_slots), slots);
    struct map_block *block;
    if (level == 0 || kv_map_load_block(map, level, index, &block) || !block)
        return slots;
    struct kv_disk_ptr ptrs[KV_MAP_FANOUT]; /* the block may leave memory meanwhile */
    memcpy(ptrs, block->ptrs, sizeof ptrs);
    uint64_t count = 0;
    for (unsigned i = 0; i < KV_MAP_FANOUT; i++)
        count += count_below(map, level - 1, index * KV_MAP_FANOUT + i, &ptrs[i]);
    return count;
}

int kv_pagemap_open(struct kv_device *device, struct kv_space *space,
                    const struct kv_pagemap_root *root, size_t cached_blocks,
                    struct kv_pagemap **out)
{
    if (root->depth > KV_MAP_DEPTH_MAX || root->page_id_next > KV_PAGE_ID_MAX ||
        root->page_id_next > ids_below(root->depth) + (root->depth == 0) ||
        (root->depth > 0) != (kv_le64_get(root->ptr.block) != 0))
        return -EUCLEAN;
    struct kv_pagemap *map = calloc(1, sizeof *map);
    if (!map)
        return -ENOMEM;
    map->io = kv_device_alloc(KV_BLOCK_BYTES);
    if (!map->io) {
        free(map);
        return -ENOMEM;
    }
    pthread_mutex_init(&map->mutex, NULL);
    map->device = device;
    map->space = space;
    map->root = *root;
    if (!map->root.page_id_next)
        map->root.page_id_next = 1; /* id 0 is never a page */
    map->cached_max = cached_blocks < 64 ? 64 : cached_blocks;
    map->scan_end = (map->root.page_id_next + KV_MAP_FANOUT - 1) / KV_MAP_FANOUT;
    /* The last leaf block's unused ids are found by the scan, so new ones begin after it. */
    if (map->root.depth > 0)
        map->root.page_id_next = map->scan_end * KV_MAP_FANOUT;
    else
        map->scan_end = 0;
    if (map->root.depth > 0)
        map->used_ids = kv_min_u64(count_below(map, map->root.depth - 1, 0, &map->root.ptr),
                                   map->root.page_id_next - 1);
    *out = map;
    return 0;
}

void kv_pagemap_close(struct kv_pagemap *map)
{
    if (!map)
        return;
    while (map->hand)
        kv_map_drop_cached(map, map->hand);
    kv_overlay_clear(&map->overlays[0]);
    kv_overlay_clear(&map->overlays[1]);
    free(map->free_ids);
    free(map->io);
    pthread_mutex_destroy(&map->mutex);
    free(map);
}

/* ---- lookups ----------------------------------------------------------------- */

int kv_map_get_locked(struct kv_pagemap *map, uint64_t page_id, struct kv_disk_ptr *ptr)
{
    for (uint64_t back = 0; back < 2; back++) {
        const struct overlay_slot *slot =
            kv_overlay_find(&map->overlays[(map->newest_epoch - back) & 1], page_id);
        if (slot) {
            *ptr = slot->ptr;
            return 0;
        }
    }
    struct map_block *block;
    const int err = kv_map_load_block(map, 0, page_id / KV_MAP_FANOUT, &block);
    if (err)
        return err;
    if (block)
        *ptr = block->ptrs[page_id % KV_MAP_FANOUT];
    else
        memset(ptr, 0, sizeof *ptr);
    return 0;
}

int kv_pagemap_get(struct kv_pagemap *map, uint64_t page_id, struct kv_disk_ptr *ptr)
{
    pthread_mutex_lock(&map->mutex);
    const int err = kv_map_get_locked(map, page_id, ptr);
    pthread_mutex_unlock(&map->mutex);
    return err;
}

static int set_locked(struct kv_pagemap *map, uint64_t epoch, uint64_t page_id,
                      const struct kv_disk_ptr *ptr)
{
    static const struct kv_disk_ptr nowhere;
    KV_ASSERT(page_id > 0);
    KV_ASSERT(page_id <= KV_PAGE_ID_MAX);
    KV_ASSERT(epoch + 1 >= map->newest_epoch);
    map->newest_epoch = kv_max_u64(map->newest_epoch, epoch);
    return kv_overlay_set(&map->overlays[epoch & 1], page_id, ptr ? ptr : &nowhere);
}

int kv_pagemap_set(struct kv_pagemap *map, uint64_t epoch, uint64_t page_id,
                   const struct kv_disk_ptr *ptr)
{
    pthread_mutex_lock(&map->mutex);
    const int err = set_locked(map, epoch, page_id, ptr);
    pthread_mutex_unlock(&map->mutex);
    return err;
}

uint64_t kv_pagemap_memory(struct kv_pagemap *map)
{
    pthread_mutex_lock(&map->mutex);
    const uint64_t bytes = map->cached_count * sizeof(struct map_block) +
                           kv_overlay_memory(&map->overlays[0]) +
                           kv_overlay_memory(&map->overlays[1]);
    pthread_mutex_unlock(&map->mutex);
    return bytes;
}

uint64_t kv_pagemap_write_bytes(struct kv_pagemap *map)
{
    pthread_mutex_lock(&map->mutex);
    const uint64_t bytes = map->write_bytes;
    pthread_mutex_unlock(&map->mutex);
    return bytes;
}

/* ---- page ids ------------------------------------------------------------- */

static int push_free_id(struct kv_pagemap *map, uint64_t page_id)
{
    if (map->free_count == map->free_capacity) {
        const size_t capacity = map->free_capacity ? 2 * map->free_capacity : 128;
        uint64_t *ids = realloc(map->free_ids, capacity * sizeof *ids);
        if (!ids)
            return -ENOMEM;
        map->free_ids = ids;
        map->free_capacity = capacity;
    }
    map->free_ids[map->free_count++] = page_id;
    return 0;
}

/* How many null pointers leaf block `index` has at most, without reading it if its parent says. */
static int leaf_free_hint(struct kv_pagemap *map, uint64_t index, unsigned *free_slots)
{
    *free_slots = KV_MAP_FANOUT;
    if (map->root.depth < 2)
        return 0;
    struct map_block *parent;
    const int err = kv_map_load_block(map, 1, index / KV_MAP_FANOUT, &parent);
    if (err || !parent)
        return err;
    const struct kv_disk_ptr *ptr = &parent->ptrs[index % KV_MAP_FANOUT];
    if (kv_le64_get(ptr->block))
        *free_slots = kv_le16_get(ptr->free_slots);
    return 0;
}

/* Move the free ids of the next unscanned leaf block to the stack. */
static int scan_leaf(struct kv_pagemap *map)
{
    const uint64_t index = map->scan_next++; /* whatever comes of it: never twice */
    unsigned free_slots;
    int err = leaf_free_hint(map, index, &free_slots);
    if (err)
        return err;
    /* The hint is the base tree's; ids that an overlay freed meanwhile may be missed until
     * the next session: they are free, only not found. */
    for (uint64_t i = 0; free_slots && i < KV_MAP_FANOUT; i++) {
        const uint64_t page_id = index * KV_MAP_FANOUT + i;
        struct kv_disk_ptr ptr;
        err = kv_map_get_locked(map, page_id, &ptr);
        if (err)
            return err;
        if (page_id && !kv_le64_get(ptr.block)) {
            err = push_free_id(map, page_id);
            if (err)
                return err;
        }
    }
    return 0;
}

/*
 * An id behind all that there are. What the superblock says of that is not to be believed: ids that
 * hold a page are passed over, and those of a block that can not be read. That may be one further
 * up each time, so this ends soon.
 */
static int take_next_id(struct kv_pagemap *map, uint64_t *page_id)
{
    uint64_t next = map->root.page_id_next, hidden = KV_MAP_FANOUT;
    while (next <= KV_PAGE_ID_MAX) {
        struct kv_disk_ptr ptr;
        const int err = kv_map_get_locked(map, next, &ptr);
        if (err == -ENOMEM)
            return err;
        if (!err && !kv_le64_get(ptr.block)) {
            *page_id = next;
            map->root.page_id_next = next + 1;
            return 0;
        }
        if (err) {
            next = (next / hidden + 1) * hidden;
            hidden *= KV_MAP_FANOUT;
        } else {
            next++;
        }
    }
    return -ENOSPC;
}

int kv_pagemap_take_id(struct kv_pagemap *map, uint64_t *page_id)
{
    int err = 0;
    pthread_mutex_lock(&map->mutex);
    /* A damaged map block must not stop the allocation of ids: what it hides stays unused. */
    while (!map->free_count && map->scan_next < map->scan_end)
        if (scan_leaf(map))
            break;
    if (map->free_count)
        *page_id = map->free_ids[--map->free_count];
    else
        err = take_next_id(map, page_id);
    map->used_ids += !err;
    pthread_mutex_unlock(&map->mutex);
    return err;
}

/*
 * One step under the mutex: were the id's place dropped first and the id given back later, a
 * scan in between would find it too, and it would be taken twice.
 */
int kv_pagemap_drop(struct kv_pagemap *map, uint64_t epoch, uint64_t page_id, bool stored)
{
    pthread_mutex_lock(&map->mutex);
    const int err = stored ? set_locked(map, epoch, page_id, NULL) : 0;
    const uint64_t leaf = page_id / KV_MAP_FANOUT;
    if (!err && (leaf < map->scan_next || leaf >= map->scan_end))
        kv_ignore(push_free_id(map, page_id)); /* no memory: unused until the next open */
    if (map->used_ids)                         /* a count from disk may be anything */
        map->used_ids--;
    pthread_mutex_unlock(&map->mutex);
    return err;
}

uint64_t kv_pagemap_next_id(struct kv_pagemap *map)
{
    pthread_mutex_lock(&map->mutex);
    const uint64_t next = map->root.page_id_next;
    pthread_mutex_unlock(&map->mutex);
    return next;
}

uint64_t kv_pagemap_used_ids(struct kv_pagemap *map)
{
    pthread_mutex_lock(&map->mutex);
    const uint64_t used = map->used_ids;
    pthread_mutex_unlock(&map->mutex);
    return used;
}
