/*
 * kv/pagemap.c: page id -> where the page lies.
 *
 * Owns       the cached map blocks, the overlays, the free page ids.
 * Invariant  base tree + overlay[closing epoch] + overlay[open epoch], later ones first, is
 *            the present place of every page. The base tree changes only in
 *            kv_pagemap_write, and only for pages that the overlay being written covers.
 * Locks      map->mutex guards everything; device reads of map blocks happen under it.
 * On disk    blocks of 128 struct kv_disk_ptr. Block `index` of level l covers page ids
 *            [index * 128^(l+1), (index + 1) * 128^(l+1)). A pointer to a map block says in
 *            free_slots how many null pointers are below it, so that free ids are found
 *            without a list of their own.
 *
 * Free ids   An id freed while the store is open goes on a stack when its map block was
 *            scanned already in this session, otherwise the scan will find it. So no id is
 *            found twice.
 */
#include "kv/pagemap.h"

#include "kv/codec.h"

#include <pthread.h>

/* ---- overlay: open-addressed hash from page id to pointer -------------------- */

struct overlay_slot {
    uint64_t page_id; /* 0: empty */
    struct kv_disk_ptr ptr;
};

struct overlay {
    struct overlay_slot *slots;
    size_t capacity; /* power of two, or 0 */
    size_t count;
};

static size_t hash_id(uint64_t id)
{
    return (size_t)((id * 0x9e3779b97f4a7c15ull) >> 20);
}

static struct overlay_slot *overlay_find(const struct overlay *overlay, uint64_t page_id)
{
    if (!overlay->count)
        return NULL;
    for (size_t i = hash_id(page_id);; i++) {
        struct overlay_slot *slot = &overlay->slots[i & (overlay->capacity - 1)];
        if (slot->page_id == page_id)
            return slot;
        if (!slot->page_id)
            return NULL;
    }
}

static void overlay_place(struct overlay *overlay, const struct overlay_slot *entry)
{
    size_t i = hash_id(entry->page_id);
    while (overlay->slots[i & (overlay->capacity - 1)].page_id)
        i++;
    overlay->slots[i & (overlay->capacity - 1)] = *entry;
    overlay->count++;
}

static int overlay_set(struct overlay *overlay, uint64_t page_id, const struct kv_disk_ptr *ptr)
{
    struct overlay_slot *slot = overlay_find(overlay, page_id);
    if (slot) {
        slot->ptr = *ptr;
        return 0;
    }
    if (2 * (overlay->count + 1) > overlay->capacity) {
        struct overlay bigger = {.capacity = overlay->capacity ? 2 * overlay->capacity : 64};
        bigger.slots = calloc(bigger.capacity, sizeof *bigger.slots);
        if (!bigger.slots)
            return -ENOMEM;
        for (size_t i = 0; i < overlay->capacity; i++)
            if (overlay->slots[i].page_id)
                overlay_place(&bigger, &overlay->slots[i]);
        free(overlay->slots);
        *overlay = bigger;
    }
    const struct overlay_slot entry = {.page_id = page_id, .ptr = *ptr};
    overlay_place(overlay, &entry);
    return 0;
}

static void overlay_clear(struct overlay *overlay)
{
    free(overlay->slots);
    *overlay = (struct overlay){0};
}

/* ---- map blocks in memory ------------------------------------------------ */

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
};

static size_t bucket_of(uint32_t level, uint64_t index)
{
    return hash_id(index * 8 + level) % HASH_BUCKETS;
}

/* 128^levels, or UINT64_MAX when that is more. */
static uint64_t ids_below(uint32_t levels)
{
    return levels >= 9 ? UINT64_MAX : 1ull << (7 * levels);
}

static struct map_block *find_cached(struct kv_pagemap *map, uint32_t level, uint64_t index)
{
    struct map_block *block = map->buckets[bucket_of(level, index)];
    while (block && (block->level != level || block->index != index))
        block = block->hash_next;
    if (block)
        block->referenced = true;
    return block;
}

static void drop_cached(struct kv_pagemap *map, struct map_block *block)
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
static void shrink_cache(struct kv_pagemap *map, const struct map_block *keep)
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
            drop_cached(map, block);
    }
}

static struct map_block *add_cached(struct kv_pagemap *map, uint32_t level, uint64_t index)
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
static int read_block(struct kv_pagemap *map, uint32_t level, uint64_t index,
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
static int load_block(struct kv_pagemap *map, uint32_t level, uint64_t index,
                      struct map_block **out)
{
    *out = NULL;
    if (level >= map->root.depth || (level == map->root.depth - 1 && index > 0))
        return 0;
    struct map_block *block = find_cached(map, level, index);
    if (block) {
        *out = block;
        return 0;
    }
    struct kv_disk_ptr ptr = map->root.ptr;
    if (level + 1 < map->root.depth) {
        struct map_block *parent;
        const int err = load_block(map, level + 1, index / KV_MAP_FANOUT, &parent);
        if (err || !parent)
            return err;
        ptr = parent->ptrs[index % KV_MAP_FANOUT];
    }
    if (!kv_le64_get(ptr.block))
        return 0;
    block = add_cached(map, level, index);
    if (!block)
        return -ENOMEM;
    const int err = read_block(map, level, index, &ptr, block->ptrs);
    if (err) {
        drop_cached(map, block);
        return err;
    }
    shrink_cache(map, block);
    *out = block;
    return 0;
}

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
    if (level == 0 || load_block(map, level, index, &block) || !block)
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
        drop_cached(map, map->hand);
    overlay_clear(&map->overlays[0]);
    overlay_clear(&map->overlays[1]);
    free(map->free_ids);
    free(map->io);
    pthread_mutex_destroy(&map->mutex);
    free(map);
}

/* ---- lookups ----------------------------------------------------------------- */

static int get_locked(struct kv_pagemap *map, uint64_t page_id, struct kv_disk_ptr *ptr)
{
    for (uint64_t back = 0; back < 2; back++) {
        const struct overlay_slot *slot =
            overlay_find(&map->overlays[(map->newest_epoch - back) & 1], page_id);
        if (slot) {
            *ptr = slot->ptr;
            return 0;
        }
    }
    struct map_block *block;
    const int err = load_block(map, 0, page_id / KV_MAP_FANOUT, &block);
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
    const int err = get_locked(map, page_id, ptr);
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
    return overlay_set(&map->overlays[epoch & 1], page_id, ptr ? ptr : &nowhere);
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
    const uint64_t bytes =
        map->cached_count * sizeof(struct map_block) +
        (map->overlays[0].capacity + map->overlays[1].capacity) * sizeof(struct overlay_slot);
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
    const int err = load_block(map, 1, index / KV_MAP_FANOUT, &parent);
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
        err = get_locked(map, page_id, &ptr);
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
    else if (map->root.page_id_next <= KV_PAGE_ID_MAX)
        *page_id = map->root.page_id_next++;
    else
        err = -ENOSPC;
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

/* ---- writing a checkpoint ------------------------------------------------- */

/* A pointer that must be put into block (level, index / 128) of the tree. */
struct change {
    uint64_t index; /* page id, or index of a map block of the level below */
    struct kv_disk_ptr ptr;
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

/* Where the block lies in the base tree now (block 0: it is new). */
static int present_place(struct kv_pagemap *map, uint32_t level, uint64_t index,
                         struct kv_disk_ptr *ptr)
{
    memset(ptr, 0, sizeof *ptr);
    if (level + 1 == map->root.depth) {
        *ptr = map->root.ptr;
        return 0;
    }
    struct map_block *parent;
    const int err = load_block(map, level + 1, index / KV_MAP_FANOUT, &parent);
    if (!err && parent)
        *ptr = parent->ptrs[index % KV_MAP_FANOUT];
    return err;
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
 * Put sorted `changes` into the blocks of `level`; on return `changes` holds the pointers of
 * the changed blocks, *count of them, for the level above.
 */
static int write_level(struct kv_pagemap *map, uint64_t epoch, uint32_t level,
                       struct change *changes, size_t *count, struct write_queue *queue)
{
    size_t out = 0;
    for (size_t i = 0; i < *count;) {
        const uint64_t index = changes[i].index / KV_MAP_FANOUT;
        struct map_block *block;
        int err = load_block(map, level, index, &block);
        if (!err && !block) {
            block = add_cached(map, level, index);
            err = block ? 0 : -ENOMEM;
        }
        if (err)
            return err;
        block->changed = true;
        for (; i < *count && changes[i].index / KV_MAP_FANOUT == index; i++)
            block->ptrs[changes[i].index % KV_MAP_FANOUT] = changes[i].ptr;
        struct kv_disk_ptr old, ptr;
        err = present_place(map, level, index, &old);
        if (!err)
            err = place_block(map, epoch, block, &old, &ptr);
        if (!err)
            err = queue_add(map, queue, kv_le64_get(ptr.block), block->ptrs);
        if (err)
            return err;
        changes[out++] = (struct change){.index = index, .ptr = ptr};
    }
    *count = out;
    return 0;
}

/* Add levels on top until the tree covers page ids below `page_id_next`. */
static int grow_depth(struct kv_pagemap *map, uint64_t page_id_next, bool *grew)
{
    *grew = false;
    if (!map->root.depth)
        map->root.depth = 1; /* an empty root: present_place gives block 0 */
    while (ids_below(map->root.depth) < page_id_next) {
        if (map->root.depth == KV_MAP_DEPTH_MAX)
            return -ENOSPC;
        if (kv_le64_get(map->root.ptr.block)) {
            struct map_block *top = add_cached(map, map->root.depth, 0);
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

static int write_locked(struct kv_pagemap *map, uint64_t epoch, uint64_t page_id_next,
                        struct kv_pagemap_root *root)
{
    const struct overlay *overlay = &map->overlays[epoch & 1];
    struct change *changes = NULL;
    struct write_queue queue = {0};
    int err = 0;
    size_t count = 0;
    if (!overlay->count)
        goto done;
    changes = malloc((overlay->count + 1) * sizeof *changes);
    queue.memory = kv_device_alloc_unset(WRITE_CHUNK * KV_BLOCK_BYTES);
    err = changes && queue.memory ? 0 : -ENOMEM;
    if (err)
        goto out;
    for (size_t i = 0; i < overlay->capacity && !err; i++) {
        const struct overlay_slot *slot = &overlay->slots[i];
        if (!slot->page_id)
            continue;
        changes[count++] = (struct change){slot->page_id, slot->ptr};
        err = commit_page(map, epoch, &slot->ptr);
    }
    if (err)
        goto out;
    qsort(changes, count, sizeof *changes, compare_changes);
    bool grew;
    err = grow_depth(map, kv_max_u64(page_id_next, changes[count - 1].index + 1), &grew);
    if (!err && grew) {
        /* The old tree hangs below the first slots of the new levels, which must be written
         * even if nothing there changed: touch page id 0, which is never a page. */
        memmove(changes + 1, changes, count++ * sizeof *changes);
        memset(changes, 0, sizeof *changes);
    }
    for (uint32_t level = 0; !err && level < map->root.depth; level++)
        err = write_level(map, epoch, level, changes, &count, &queue);
    if (!err)
        err = queue_flush(map, &queue);
    if (err)
        goto out;
    KV_ASSERT(count == 1);
    map->root.ptr = changes[0].ptr;
    for (struct map_block *block = map->hand; block; block = block->ring_next) {
        block->changed = false;
        if (block->ring_next == map->hand)
            break;
    }
    shrink_cache(map, NULL);
done:
    root->ptr = map->root.ptr;
    root->depth = map->root.depth;
    /* Without changes the tree did not grow: ids beyond it were given, but hold no page. */
    root->page_id_next = kv_min_u64(page_id_next, ids_below(map->root.depth));
out:
    free(queue.memory);
    free(changes);
    return err;
}

int kv_pagemap_write(struct kv_pagemap *map, uint64_t epoch, uint64_t page_id_next,
                     struct kv_pagemap_root *root)
{
    pthread_mutex_lock(&map->mutex);
    const int err = write_locked(map, epoch, page_id_next, root);
    pthread_mutex_unlock(&map->mutex);
    return err;
}

void kv_pagemap_written(struct kv_pagemap *map, uint64_t epoch)
{
    pthread_mutex_lock(&map->mutex);
    overlay_clear(&map->overlays[epoch & 1]);
    pthread_mutex_unlock(&map->mutex);
}

/* ---- walking and mending, for the check -------------------------------------- */

static int walk_block(struct kv_pagemap *map, uint32_t level, uint64_t index,
                      const struct kv_disk_ptr *ptr, kv_pagemap_visit_fn *visit, void *context)
{
    struct kv_disk_ptr *ptrs = malloc(KV_BLOCK_BYTES);
    if (!ptrs)
        return -ENOMEM;
    pthread_mutex_lock(&map->mutex);
    const int read_err = read_block(map, level, index, ptr, ptrs);
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
    const int err = present_place(map, level, index, &ptr);
    if (err || !kv_le64_get(ptr.block))
        return err == -ENOMEM ? err : 0;
    *present = true;
    return read_block(map, level, index, &ptr, ptrs);
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
    int err = load_block(map, at, index, &block);
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
    for (unsigned i = 0; i < 2 && level < 0; i++)
        for (size_t slot = 0; slot < map->overlays[i].capacity; slot++) {
            const uint64_t id = map->overlays[i].slots[slot].page_id;
            if (id && id >= *page_id && id < next)
                next = id;
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
        err = get_locked(map, page_id, &ptr);
        if (err == -ENOMEM)
            break;
        if (!err) {
            map->newest_epoch = kv_max_u64(map->newest_epoch, epoch);
            err = overlay_set(&map->overlays[epoch & 1], page_id, &ptr);
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
    const int err = load_block(map, level + 1, index / KV_MAP_FANOUT, &parent);
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
                drop_cached(map, block);
        }
    }
}

static int mend_locked(struct kv_pagemap *map, uint64_t epoch, uint32_t level, uint64_t index)
{
    if (level >= map->root.depth)
        return -EUCLEAN;
    if (find_cached(map, level, index)) {
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
