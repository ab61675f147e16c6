/*
 * fs/ino_map.c: sets of inode numbers, and maps from them to small structs.
 *
 * Owns       an array of elements, and a table of open addressing that finds them.
 * Invariant  at most half of the slots are taken, so every search ends.
 */
#include "fs/ino_map.h"

#define FIRST_SLOTS   64u
#define ELEMENTS_MAX  (UINT32_MAX / 2)
#define RUN_INOS      4096u
#define RUN_WORD_BITS 64u

void fs_ino_map_init(struct fs_ino_map *map, size_t element_bytes)
{
    KV_ASSERT(element_bytes >= sizeof(uint64_t));
    *map = (struct fs_ino_map){.element_bytes = element_bytes};
}

void fs_ino_map_release(struct fs_ino_map *map)
{
    free(map->elements);
    free(map->slots);
    fs_ino_map_init(map, map->element_bytes);
}

static uint64_t ino_at(const struct fs_ino_map *map, size_t index)
{
    uint64_t ino;
    memcpy(&ino, fs_ino_map_at(map, index), sizeof ino);
    return ino;
}

/* The slot that holds `ino`, or the free one where it belongs. Fibonacci hashing (Knuth). */
static size_t find_slot(const struct fs_ino_map *map, uint64_t ino)
{
    size_t slot = (size_t)((ino * 0x9e3779b97f4a7c15u) >> 32) & (map->slot_count - 1);
    while (map->slots[slot] && ino_at(map, map->slots[slot] - 1) != ino)
        slot = (slot + 1) & (map->slot_count - 1);
    return slot;
}

void *fs_ino_map_find(const struct fs_ino_map *map, uint64_t ino)
{
    if (map->count == 0)
        return NULL;
    const uint32_t found = map->slots[find_slot(map, ino)];
    return found ? fs_ino_map_at(map, found - 1) : NULL;
}

static bool grow_slots(struct fs_ino_map *map)
{
    const size_t slot_count = map->slot_count ? map->slot_count * 2 : FIRST_SLOTS;
    uint32_t *const slots = calloc(slot_count, sizeof *slots);
    if (!slots)
        return false;
    free(map->slots);
    map->slots = slots;
    map->slot_count = slot_count;
    for (size_t i = 0; i < map->count; i++)
        map->slots[find_slot(map, ino_at(map, i))] = (uint32_t)(i + 1);
    return true;
}

static bool grow_elements(struct fs_ino_map *map)
{
    const size_t cap = map->cap ? map->cap * 2 : 16;
    uint8_t *const elements = reallocarray(map->elements, cap, map->element_bytes);
    if (!elements)
        return false;
    map->elements = elements;
    map->cap = cap;
    return true;
}

void *fs_ino_map_add(struct fs_ino_map *map, uint64_t ino)
{
    void *const found = fs_ino_map_find(map, ino);
    if (found)
        return found;
    if (map->count >= ELEMENTS_MAX || (map->count == map->cap && !grow_elements(map)))
        return NULL;
    if (map->count * 2 >= map->slot_count && !grow_slots(map))
        return NULL;
    map->slots[find_slot(map, ino)] = (uint32_t)(map->count + 1);
    void *const element = fs_ino_map_at(map, map->count++);
    memset(element, 0, map->element_bytes);
    memcpy(element, &ino, sizeof ino);
    return element;
}

/* ---- sets ----------------------------------------------------------------- */

struct run {
    uint64_t number; /* inode number / RUN_INOS */
    uint64_t words[RUN_INOS / RUN_WORD_BITS];
};

void fs_ino_set_init(struct fs_ino_set *set)
{
    fs_ino_map_init(&set->runs, sizeof(struct run));
}

void fs_ino_set_release(struct fs_ino_set *set)
{
    fs_ino_map_release(&set->runs);
}

int fs_ino_set_add(struct fs_ino_set *set, uint64_t ino)
{
    struct run *const run = fs_ino_map_add(&set->runs, ino / RUN_INOS);
    if (!run)
        return -ENOMEM;
    run->words[ino % RUN_INOS / RUN_WORD_BITS] |= UINT64_C(1) << ino % RUN_WORD_BITS;
    return 0;
}

bool fs_ino_set_has(const struct fs_ino_set *set, uint64_t ino)
{
    const struct run *const run = fs_ino_map_find(&set->runs, ino / RUN_INOS);
    return run && (run->words[ino % RUN_INOS / RUN_WORD_BITS] >> ino % RUN_WORD_BITS & 1);
}
