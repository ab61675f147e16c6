/*
 * bench/floor/floor_dir.c: a hash table of names, and beside it their order.
 *
 * Owns       entries. The order is an array by position; a removed entry leaves a gap, and gaps
 *            are closed when they are more than the entries.
 * Locks      see floor_dir.h.
 */
#include "bench/floor/floor_dir.h"

#include <pthread.h>
#include <xxhash.h>

#define BUCKETS_LEAST 16u
#define GAPS_LEAST    64u

struct place {
    uint64_t position;
    struct floor_entry *entry; /* NULL: a gap */
};

struct floor_dir {
    pthread_mutex_t lock;
    struct floor_entry **buckets; /* a power of two of them */
    size_t bucket_count;
    struct place *order;
    size_t order_count, order_cap;
    size_t count;
    uint64_t last_position;
    uint64_t parent;
};

struct floor_dir *floor_dir_new(uint64_t parent)
{
    struct floor_dir *dir = calloc(1, sizeof *dir);
    if (!dir)
        return NULL;
    dir->buckets = calloc(BUCKETS_LEAST, sizeof(struct floor_entry *));
    if (!dir->buckets) {
        free(dir);
        return NULL;
    }
    dir->bucket_count = BUCKETS_LEAST;
    dir->last_position = FLOOR_POSITION_DOT_DOT;
    dir->parent = parent;
    (void)pthread_mutex_init(&dir->lock, NULL); /* without attributes it can not fail */
    return dir;
}

void floor_dir_free(struct floor_dir *dir)
{
    if (!dir)
        return;
    for (size_t i = 0; i < dir->order_count; i++)
        free(dir->order[i].entry);
    free(dir->order);
    free(dir->buckets);
    (void)pthread_mutex_destroy(&dir->lock);
    free(dir);
}

void floor_dir_lock(struct floor_dir *dir)
{
    pthread_mutex_lock(&dir->lock);
}

void floor_dir_unlock(struct floor_dir *dir)
{
    pthread_mutex_unlock(&dir->lock);
}

void floor_dir_lock_two(struct floor_dir *a, struct floor_dir *b)
{
    pthread_mutex_lock(a < b ? &a->lock : &b->lock);
    if (a != b)
        pthread_mutex_lock(a < b ? &b->lock : &a->lock);
}

void floor_dir_unlock_two(struct floor_dir *a, struct floor_dir *b)
{
    pthread_mutex_unlock(&a->lock);
    if (a != b)
        pthread_mutex_unlock(&b->lock);
}

/* ---- by name --------------------------------------------------------------------- */

static struct floor_entry **bucket_of(const struct floor_dir *dir, uint64_t hash)
{
    return &dir->buckets[hash & (dir->bucket_count - 1)];
}

struct floor_entry *floor_dir_find(struct floor_dir *dir, const char *name)
{
    const size_t name_len = strlen(name);
    const uint64_t hash = XXH3_64bits(name, name_len);
    struct floor_entry *entry = *bucket_of(dir, hash);
    while (entry && !(entry->hash == hash && entry->name_len == name_len &&
                      memcmp(entry->name, name, name_len) == 0))
        entry = entry->next;
    return entry;
}

static int double_buckets(struct floor_dir *dir)
{
    struct floor_entry **buckets = calloc(dir->bucket_count * 2, sizeof(struct floor_entry *));
    if (!buckets)
        return -ENOMEM;
    free(dir->buckets);
    dir->buckets = buckets;
    dir->bucket_count *= 2;
    for (size_t i = 0; i < dir->order_count; i++) {
        struct floor_entry *entry = dir->order[i].entry;
        if (!entry)
            continue;
        struct floor_entry **bucket = bucket_of(dir, entry->hash);
        entry->next = *bucket;
        *bucket = entry;
    }
    return 0;
}

/* ---- by position ----------------------------------------------------------------- */

/* The index of the first place behind a position. */
static size_t index_after(const struct floor_dir *dir, uint64_t position)
{
    size_t low = 0, high = dir->order_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (dir->order[middle].position <= position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void close_gaps(struct floor_dir *dir)
{
    size_t kept = 0;
    for (size_t i = 0; i < dir->order_count; i++)
        if (dir->order[i].entry)
            dir->order[kept++] = dir->order[i];
    dir->order_count = kept;
}

static int reserve_place(struct floor_dir *dir)
{
    if (dir->order_count < dir->order_cap)
        return 0;
    const size_t cap = dir->order_cap ? dir->order_cap * 2 : BUCKETS_LEAST;
    struct place *order = reallocarray(dir->order, cap, sizeof *order);
    if (!order)
        return -ENOMEM;
    dir->order = order;
    dir->order_cap = cap;
    return 0;
}

const struct floor_entry *floor_dir_after(struct floor_dir *dir, uint64_t position)
{
    for (size_t i = index_after(dir, position); i < dir->order_count; i++)
        if (dir->order[i].entry)
            return dir->order[i].entry;
    return NULL;
}

/* ---- changes --------------------------------------------------------------------- */

int floor_dir_add(struct floor_dir *dir, const char *name, struct floor_node *node)
{
    if (dir->order_count > 2 * dir->count + GAPS_LEAST)
        close_gaps(dir);
    int err = reserve_place(dir);
    if (!err && dir->count >= dir->bucket_count)
        err = double_buckets(dir);
    if (err)
        return err;
    const size_t name_len = strlen(name);
    struct floor_entry *entry = malloc(sizeof *entry + name_len + 1);
    if (!entry)
        return -ENOMEM;
    const uint64_t hash = XXH3_64bits(name, name_len);
    struct floor_entry **bucket = bucket_of(dir, hash);
    *entry = (struct floor_entry){
        .next = *bucket,
        .node = node,
        .hash = hash,
        .position = ++dir->last_position,
        .name_len = (uint16_t)name_len,
    };
    memcpy(entry->name, name, name_len + 1);
    *bucket = entry;
    dir->order[dir->order_count++] = (struct place){entry->position, entry};
    dir->count++;
    return 0;
}

void floor_dir_remove(struct floor_dir *dir, struct floor_entry *entry)
{
    struct floor_entry **link = bucket_of(dir, entry->hash);
    while (*link != entry)
        link = &(*link)->next;
    *link = entry->next;
    dir->order[index_after(dir, entry->position - 1)].entry = NULL;
    dir->count--;
    free(entry);
}

size_t floor_dir_count(const struct floor_dir *dir)
{
    return dir->count;
}

uint64_t floor_dir_parent(const struct floor_dir *dir)
{
    return dir->parent;
}

void floor_dir_set_parent(struct floor_dir *dir, uint64_t parent)
{
    dir->parent = parent;
}
