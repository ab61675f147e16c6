/*
 * fs/inode_table.c: inode number -> present key and reference count.
 *
 * Owns       the entries, in FS_SHARD_COUNT hash tables with chains.
 * Invariant  an entry is in the table while it has references, or is an orphan that is being
 *            deleted; the root is never in it.
 * Locks      each shard's mutex guards its table, the entries in it and the list of listings.
 *            Nothing else is taken under it, but the mutex of a cookie dictionary, to measure it or
 *            to let it forget.
 */
#include "fs/inode_table.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>

#include "fs/cookie.h"

#define FS_SHARD_COUNT 64u
#define FS_BUCKETS_MIN 16u
#define FS_GROUP_BITS  3u /* eight pointers are a line of the processor's cache */
#define FS_TRIM_BYTES  (16u << 20)
#define FS_SHARD_SHIFT 58u /* the shard is the top 6 bits of the hash */
static_assert(FS_SHARD_COUNT == 1u << (64u - FS_SHARD_SHIFT), "shard bits");

/* What a directory has that was listed. */
struct listing {
    struct listing *next, **link; /* among those of its shard */
    struct fs_cookies *cookies;   /* owned */
};

struct fs_inode {
    struct fs_inode *next;   /* in its bucket */
    struct listing *listing; /* of a directory that was listed; owned */
    uint64_t ino;
    uint64_t references;
    uint64_t parent; /* of a D key; of an O key: fs_inode_table_hint */
    uint8_t type;    /* enum fs_key_type: D, I or O */
    uint8_t name_len;
    uint16_t choice;            /* what was decided in ... */
    uint32_t choice_generation; /* ... this one; 0: nothing */
    char name[];                /* of a D key, not terminated */
};

struct shard {
    pthread_mutex_t mutex;
    struct fs_inode **buckets;
    struct listing *listings;
    size_t bucket_count; /* a power of two, or 0 */
    size_t inode_count;
    size_t known_count; /* of these, with references */
    uint64_t memory_bytes;
};

struct fs_inode_table {
    struct shard shards[FS_SHARD_COUNT];
    struct fs_cookies *root_cookies; /* the root is always known; immutable after new */
    _Atomic size_t freed_bytes;      /* of entries, since memory was last given back */
};

/*
 * Numbers come in sequence, and files of a directory mostly have numbers that follow one another.
 * Those of a group stay side by side, so that who lists it waits for a line of buckets once for all
 * of them; a multiplication spreads the groups (Knuth, TAOCP 3, 6.4).
 */
static uint64_t hash_ino(uint64_t ino)
{
    return (ino >> FS_GROUP_BITS) * 0x9e3779b97f4a7c15u;
}

static struct shard *shard_of(struct fs_inode_table *table, uint64_t ino)
{
    return &table->shards[hash_ino(ino) >> FS_SHARD_SHIFT];
}

static struct fs_inode **bucket_of(struct shard *shard, uint64_t ino)
{
    const uint64_t group = hash_ino(ino) >> 20;
    const uint64_t bucket = group << FS_GROUP_BITS | (ino & ((1u << FS_GROUP_BITS) - 1));
    return &shard->buckets[bucket & (shard->bucket_count - 1)];
}

/* The link that points to the entry; NULL when it is not there. */
static struct fs_inode **find_link(struct shard *shard, uint64_t ino)
{
    if (!shard->bucket_count)
        return NULL;
    for (struct fs_inode **link = bucket_of(shard, ino); *link; link = &(*link)->next) {
        if ((*link)->ino == ino)
            return link;
    }
    return NULL;
}

static size_t entry_bytes(const struct fs_inode *entry)
{
    return sizeof *entry + entry->name_len;
}

static struct fs_inode *entry_new(uint64_t ino, const struct fs_key *key)
{
    const size_t name_len = key->bytes[0] == FS_KEY_ENTRY ? key->length - 9u : 0;
    struct fs_inode *entry = malloc(sizeof *entry + name_len);
    if (!entry)
        return NULL;
    *entry = (struct fs_inode){
        .ino = ino,
        .parent = name_len ? kv_be64_take(key->bytes + 1) : 0,
        .type = key->bytes[0],
        .name_len = (uint8_t)name_len,
    };
    memcpy(entry->name, key->bytes + 9, name_len);
    return entry;
}

/* NULL: no memory. */
static struct listing *listing_new(struct shard *shard)
{
    struct listing *listing = malloc(sizeof *listing);
    if (!listing)
        return NULL;
    *listing = (struct listing){
        .next = shard->listings, .link = &shard->listings, .cookies = fs_cookies_new()};
    if (!listing->cookies) {
        free(listing);
        return NULL;
    }
    if (listing->next)
        listing->next->link = &listing->next;
    shard->listings = listing;
    return listing;
}

/* Take it out of its shard; who frees it does so after the mutex. */
static void listing_unlink(struct listing *listing)
{
    *listing->link = listing->next;
    if (listing->next)
        listing->next->link = listing->link;
}

/* An entry that has left the table, with what it owns. */
static void entry_free(struct fs_inode *entry)
{
    if (!entry)
        return;
    if (entry->listing)
        fs_cookies_free(entry->listing->cookies);
    free(entry->listing);
    free(entry);
}

/*
 * Free an entry that has left the table. malloc keeps what is freed in small pieces: now and
 * then it is told to give whole pages back, so that the daemon shrinks with the kernel's cache.
 */
static void entry_retire(struct fs_inode_table *table, struct fs_inode *entry)
{
    if (!entry)
        return;
    const size_t bytes = entry_bytes(entry);
    entry_free(entry);
    const size_t freed =
        atomic_fetch_add_explicit(&table->freed_bytes, bytes, memory_order_relaxed) + bytes;
    if (freed < FS_TRIM_BYTES || freed - bytes >= FS_TRIM_BYTES)
        return; /* not yet, or another thread is at it */
    (void)malloc_trim(0);
    atomic_store_explicit(&table->freed_bytes, 0, memory_order_relaxed);
}

struct fs_inode_table *fs_inode_table_new(void)
{
    struct fs_inode_table *table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    table->root_cookies = fs_cookies_new();
    if (!table->root_cookies) {
        free(table);
        return NULL;
    }
    for (size_t i = 0; i < FS_SHARD_COUNT; i++)
        pthread_mutex_init(&table->shards[i].mutex, NULL);
    return table;
}

void fs_inode_table_free(struct fs_inode_table *table)
{
    if (!table)
        return;
    for (size_t i = 0; i < FS_SHARD_COUNT; i++) {
        struct shard *shard = &table->shards[i];
        for (size_t b = 0; b < shard->bucket_count; b++) {
            struct fs_inode *entry = shard->buckets[b];
            while (entry) {
                struct fs_inode *next = entry->next;
                entry_free(entry);
                entry = next;
            }
        }
        free(shard->buckets);
        pthread_mutex_destroy(&shard->mutex);
    }
    fs_cookies_free(table->root_cookies);
    free(table);
}

static void entry_key(const struct fs_inode *entry, struct fs_key *key)
{
    if (entry->type == FS_KEY_ENTRY)
        fs_key_entry(key, entry->parent, entry->name, entry->name_len);
    else
        fs_key_ino(key, entry->type, entry->ino);
}

int fs_inode_table_key(struct fs_inode_table *table, uint64_t ino, struct fs_key *key)
{
    if (ino == FS_ROOT_INO) {
        fs_key_ino(key, FS_KEY_INODE, ino);
        return 0;
    }
    struct shard *shard = shard_of(table, ino);
    pthread_mutex_lock(&shard->mutex);
    struct fs_inode **link = find_link(shard, ino);
    const bool known = link && (*link)->references > 0; /* else it is about to be deleted */
    if (known)
        entry_key(*link, key);
    pthread_mutex_unlock(&shard->mutex);
    return known ? 0 : -ESTALE;
}

/* Double the buckets. Without memory the chains just grow longer. */
static void grow(struct shard *shard)
{
    const size_t old_count = shard->bucket_count;
    const size_t count = old_count ? old_count * 2 : FS_BUCKETS_MIN;
    struct fs_inode **old = shard->buckets;
    struct fs_inode **buckets = calloc(count, sizeof(struct fs_inode *));
    if (!buckets)
        return;
    shard->buckets = buckets;
    shard->bucket_count = count;
    for (size_t b = 0; b < old_count; b++) {
        struct fs_inode *entry = old[b];
        while (entry) {
            struct fs_inode *next = entry->next;
            struct fs_inode **bucket = bucket_of(shard, entry->ino);
            entry->next = *bucket;
            *bucket = entry;
            entry = next;
        }
    }
    free(old);
}

/* Buckets are given back when a quarter of them would do, so that memory follows the kernel. */
static void shrink(struct shard *shard)
{
    const size_t count = shard->bucket_count / 2;
    if (count < FS_BUCKETS_MIN || shard->inode_count > count / 4)
        return;
    /* Fold the upper half on the lower: bucket b and b + count hash alike under the new mask. */
    for (size_t b = 0; b < count; b++) {
        struct fs_inode **tail = &shard->buckets[b];
        while (*tail)
            tail = &(*tail)->next;
        *tail = shard->buckets[b + count];
    }
    shard->bucket_count = count;
    struct fs_inode **smaller = realloc(shard->buckets, count * sizeof(struct fs_inode *));
    if (smaller)
        shard->buckets = smaller;
}

int fs_inode_table_ref(struct fs_inode_table *table, uint64_t ino, const struct fs_key *key)
{
    if (ino == FS_ROOT_INO)
        return 0;
    struct shard *shard = shard_of(table, ino);
    int err = 0;
    pthread_mutex_lock(&shard->mutex);
    struct fs_inode **link = find_link(shard, ino);
    if (link) {
        shard->known_count += (*link)->references++ == 0;
        goto out;
    }
    if (shard->inode_count >= shard->bucket_count)
        grow(shard);
    struct fs_inode *entry = shard->bucket_count ? entry_new(ino, key) : NULL;
    if (!entry) {
        err = -ENOMEM;
        goto out;
    }
    entry->references = 1;
    struct fs_inode **bucket = bucket_of(shard, ino);
    entry->next = *bucket;
    *bucket = entry;
    shard->inode_count++;
    shard->known_count++;
    shard->memory_bytes += entry_bytes(entry);
out:
    pthread_mutex_unlock(&shard->mutex);
    return err;
}

/* Take the entry out; the caller frees it after the mutex. */
static struct fs_inode *detach(struct shard *shard, struct fs_inode **link)
{
    struct fs_inode *entry = *link;
    *link = entry->next;
    shard->inode_count--;
    shard->memory_bytes -= entry_bytes(entry);
    if (entry->listing)
        listing_unlink(entry->listing);
    shrink(shard);
    return entry;
}

bool fs_inode_table_unref(struct fs_inode_table *table, uint64_t ino, uint64_t count)
{
    uint64_t units;
    return fs_inode_table_forget(table, ino, count, &units);
}

bool fs_inode_table_forget(struct fs_inode_table *table, uint64_t ino, uint64_t count,
                           uint64_t *units)
{
    *units = 0;
    if (ino == FS_ROOT_INO)
        return false;
    struct shard *shard = shard_of(table, ino);
    struct fs_inode *gone = NULL;
    bool orphan = false;
    pthread_mutex_lock(&shard->mutex);
    struct fs_inode **link = find_link(shard, ino);
    if (link && (*link)->references > 0) {
        /* The count comes from the kernel: it is input, so it may be any number. */
        (*link)->references -= kv_min_u64(count + KV_PLANT(forget_miscounted), (*link)->references);
        if ((*link)->references == 0) {
            shard->known_count--;
            orphan = (*link)->type == FS_KEY_ORPHAN;
            if (orphan)
                *units = (*link)->parent;
            else
                gone = detach(shard, link);
        }
    }
    pthread_mutex_unlock(&shard->mutex);
    entry_retire(table, gone);
    return orphan;
}

bool fs_inode_table_drop(struct fs_inode_table *table, uint64_t ino)
{
    struct shard *shard = shard_of(table, ino);
    struct fs_inode *gone = NULL;
    pthread_mutex_lock(&shard->mutex);
    struct fs_inode **link = find_link(shard, ino);
    if (link && (*link)->references == 0 && (*link)->type == FS_KEY_ORPHAN)
        gone = detach(shard, link);
    pthread_mutex_unlock(&shard->mutex);
    const bool dropped = gone != NULL;
    entry_retire(table, gone);
    return dropped;
}

uint64_t fs_inode_table_references(struct fs_inode_table *table, uint64_t ino)
{
    struct shard *shard = shard_of(table, ino);
    pthread_mutex_lock(&shard->mutex);
    struct fs_inode **link = find_link(shard, ino);
    const uint64_t references = link ? (*link)->references : 0;
    pthread_mutex_unlock(&shard->mutex);
    return references;
}

int fs_inode_table_reserve(uint64_t ino, const struct fs_key *key, struct fs_inode_move *move)
{
    move->entry = entry_new(ino, key);
    return move->entry ? 0 : -ENOMEM;
}

void fs_inode_table_hint(struct fs_inode_move *move, uint64_t units)
{
    KV_ASSERT(move->entry->type == FS_KEY_ORPHAN);
    move->entry->parent = units;
}

bool fs_inode_table_move(struct fs_inode_table *table, struct fs_inode_move *move)
{
    struct fs_inode *fresh = move->entry;
    struct fs_inode *old = fresh; /* what is not known needs no key: free the new one */
    if (!fresh)
        return false;
    struct shard *shard = shard_of(table, fresh->ino);
    pthread_mutex_lock(&shard->mutex);
    struct fs_inode **link = find_link(shard, fresh->ino);
    if (link) {
        old = *link;
        fresh->next = old->next;
        fresh->references = old->references;
        fresh->listing = old->listing;
        old->listing = NULL;
        shard->memory_bytes += entry_bytes(fresh);
        shard->memory_bytes -= entry_bytes(old);
        *link = fresh;
    }
    pthread_mutex_unlock(&shard->mutex);
    entry_free(old);
    move->entry = NULL;
    return link != NULL;
}

void fs_inode_table_cancel(struct fs_inode_move *move)
{
    entry_free(move->entry);
    move->entry = NULL;
}

bool fs_inode_table_choice(struct fs_inode_table *table, uint64_t ino, uint32_t generation,
                           uint16_t *choice)
{
    struct shard *shard = shard_of(table, ino);
    pthread_mutex_lock(&shard->mutex);
    struct fs_inode **link = find_link(shard, ino);
    const bool found = link && (*link)->choice_generation == generation;
    if (found)
        *choice = (*link)->choice;
    pthread_mutex_unlock(&shard->mutex);
    return found;
}

void fs_inode_table_choose(struct fs_inode_table *table, uint64_t ino, uint32_t generation,
                           uint16_t choice)
{
    struct shard *shard = shard_of(table, ino);
    pthread_mutex_lock(&shard->mutex);
    struct fs_inode **link = find_link(shard, ino);
    if (link) {
        (*link)->choice = choice;
        (*link)->choice_generation = generation;
    }
    pthread_mutex_unlock(&shard->mutex);
}

static int64_t monotonic_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return fs_time_ns(&now);
}

struct fs_cookies *fs_inode_table_cookies(struct fs_inode_table *table, uint64_t ino)
{
    if (ino == FS_ROOT_INO) {
        fs_cookies_age(table->root_cookies, monotonic_ns());
        return table->root_cookies;
    }
    struct shard *shard = shard_of(table, ino);
    struct fs_cookies *cookies = NULL;
    pthread_mutex_lock(&shard->mutex);
    struct fs_inode **link = find_link(shard, ino);
    if (link && !(*link)->listing)
        (*link)->listing = listing_new(shard);
    if (link && (*link)->listing) {
        cookies = (*link)->listing->cookies;
        fs_cookies_age(cookies, monotonic_ns());
    }
    pthread_mutex_unlock(&shard->mutex);
    return cookies;
}

void fs_inode_table_age(struct fs_inode_table *table, int64_t now_ns)
{
    fs_cookies_age(table->root_cookies, now_ns);
    for (size_t i = 0; i < FS_SHARD_COUNT; i++) {
        struct shard *shard = &table->shards[i];
        pthread_mutex_lock(&shard->mutex);
        for (const struct listing *at = shard->listings; at; at = at->next)
            fs_cookies_age(at->cookies, now_ns);
        pthread_mutex_unlock(&shard->mutex);
    }
}

void fs_inode_table_usage(struct fs_inode_table *table, uint64_t *inode_count,
                          uint64_t *memory_bytes)
{
    fs_inode_table_age(table, monotonic_ns());
    *inode_count = 0;
    *memory_bytes = sizeof *table + fs_cookies_memory(table->root_cookies);
    for (size_t i = 0; i < FS_SHARD_COUNT; i++) {
        struct shard *shard = &table->shards[i];
        pthread_mutex_lock(&shard->mutex);
        *inode_count += shard->known_count;
        *memory_bytes += shard->memory_bytes + shard->bucket_count * sizeof(struct fs_inode *);
        for (const struct listing *at = shard->listings; at; at = at->next)
            *memory_bytes += sizeof *at + fs_cookies_memory(at->cookies);
        pthread_mutex_unlock(&shard->mutex);
    }
}
