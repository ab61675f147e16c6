/*
 * bench/floor/floor_dir.h: the entries of a directory that lives in memory only.
 *
 * Owns       entries, their order.
 * Invariant  an entry's position is its for life and grows from one entry to the next, so it
 *            can be the cookie of a listing.
 * Locks      the caller holds floor_dir_lock for all but new and free. It comes before a node's
 *            lock. Two are held only together, and then taken by floor_dir_lock_two.
 */
#ifndef BENCH_FLOOR_DIR_H
#define BENCH_FLOOR_DIR_H

#include <stddef.h>
#include <stdint.h>

#include "kv/base.h"

struct floor_dir;
struct floor_node;

struct floor_entry {
    struct floor_entry *next; /* with the same hash, or nearly */
    struct floor_node *node;
    uint64_t hash;
    uint64_t position;
    uint16_t name_len;
    char name[]; /* ends with a NUL */
};

/* Positions of "." and ".."; those of entries follow. */
#define FLOOR_POSITION_DOT     1u
#define FLOOR_POSITION_DOT_DOT 2u

/* parent: the number of the directory above. NULL: no memory. */
struct floor_dir *floor_dir_new(uint64_t parent);
/* Its nodes are not looked at. May be NULL. */
void floor_dir_free(struct floor_dir *dir);

void floor_dir_lock(struct floor_dir *dir);
void floor_dir_unlock(struct floor_dir *dir);
/* They may be the same. */
void floor_dir_lock_two(struct floor_dir *a, struct floor_dir *b);
void floor_dir_unlock_two(struct floor_dir *a, struct floor_dir *b);

/* NULL: there is none. */
struct floor_entry *floor_dir_find(struct floor_dir *dir, const char *name);
/* A name that is not there yet. 0; -ENOMEM. */
KV_MUST_CHECK int floor_dir_add(struct floor_dir *dir, const char *name, struct floor_node *node);
void floor_dir_remove(struct floor_dir *dir, struct floor_entry *entry);
/* The first entry behind a position; NULL: none. */
const struct floor_entry *floor_dir_after(struct floor_dir *dir, uint64_t position);

size_t floor_dir_count(const struct floor_dir *dir);
uint64_t floor_dir_parent(const struct floor_dir *dir);
void floor_dir_set_parent(struct floor_dir *dir, uint64_t parent);

#endif
