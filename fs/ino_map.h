/*
 * fs/ino_map.h: sets of inode numbers, and maps from them to small structs.
 *
 * Numbers are handed out in order, so a set keeps bits in runs of 4096 numbers: about a bit
 * for each inode of a filesystem, whatever the numbers are.
 *
 * Threads: one at a time.
 */
#ifndef FS_INO_MAP_H
#define FS_INO_MAP_H

#include "kv/base.h"

/* ---- maps ----------------------------------------------------------------- */

/* Elements are structs that begin with their uint64_t inode number, in order of adding. */
struct fs_ino_map {
    size_t element_bytes;
    uint8_t *elements;
    size_t count, cap;
    uint32_t *slots; /* index + 1 of an element, 0: none */
    size_t slot_count;
};

void fs_ino_map_init(struct fs_ino_map *map, size_t element_bytes);
void fs_ino_map_release(struct fs_ino_map *map);

/* The element of a number, or NULL. Holds until the next fs_ino_map_add. */
void *fs_ino_map_find(const struct fs_ino_map *map, uint64_t ino);

/*
 * The element of a number, made of zeros but for the number if there is none yet.
 * NULL: no memory. Holds until the next fs_ino_map_add.
 */
void *fs_ino_map_add(struct fs_ino_map *map, uint64_t ino);

static inline void *fs_ino_map_at(const struct fs_ino_map *map, size_t index)
{
    KV_ASSERT(index < map->count);
    return map->elements + index * map->element_bytes;
}

/* ---- sets ----------------------------------------------------------------- */

struct fs_ino_set {
    struct fs_ino_map runs;
};

void fs_ino_set_init(struct fs_ino_set *set);
void fs_ino_set_release(struct fs_ino_set *set);
/* 0; -ENOMEM. */
KV_MUST_CHECK int fs_ino_set_add(struct fs_ino_set *set, uint64_t ino);
bool fs_ino_set_has(const struct fs_ino_set *set, uint64_t ino);

#endif
