/*
 * kv/blob_cache.c: the contents of blobs that were read or written lately.
 *
 * Owns       an arena of chunks, which is never given back while the store is open, and who
 *            uses them: a content is a chain of chunks and goes by the number of its first.
 * Invariant  a chunk is in the free chain or in one content. A content is in the hash and in a
 *            queue; or in neither, because somebody is filling it and nobody else knows of it, or
 *            because it was dropped while it had pins. One with pins stays as it is.
 * Locks      cache->mutex guards all but the bytes of chunks. These belong to who fills them
 *            until the content is in the hash, and do not change until nobody pins it.
 *
 * Eviction is a clock: the queue is in order of arrival, what was used since goes round once more
 * (second chance), so that one pass over much data leaves what is used again. What is retained goes
 * round as long as all that is takes no more than its share; at least half of the chunks is left to
 * the others.
 *
 * What was written and not yet read has a queue of its own, in order of arrival (the small queue of
 * S3-FIFO, Yang et al. 2023): it takes what is free, but pushes out what was read only up to a
 * tenth of all, and is the first to leave when it has more than that. Its first use makes it one
 * that was read.
 */
#include "kv/blob_cache.h"

#include <pthread.h>

#define CHUNK_BYTES 4096u
#define NONE        UINT32_MAX

/* One for each chunk; all but `next_chunk` only count for the first of a content. */
struct content {
    struct kv_disk_blob_ref ref;
    uint32_t piece, length_bytes;
    uint32_t next_chunk; /* of the content, or of the free chain */
    uint32_t hash_next;
    uint32_t newer, older; /* in its queue */
    uint32_t pins;
    bool ahead;    /* it was never used */
    bool used;     /* since the clock passed */
    bool retained; /* the clock passes it by */
    bool written;  /* it is in the queue of these */
    bool dropped;  /* in none; who unpins it last frees it */
};

struct queue {
    uint32_t newest, oldest, count;
    uint32_t chunk_count; /* of its contents */
};

struct kv_blob_cache {
    pthread_mutex_t mutex;
    struct kv_arena arena;
    struct content *contents; /* immutable, as are the next two: chunk_count of them */
    uint32_t *buckets;
    uint32_t chunk_count, bucket_mask;
    uint32_t free_chain, free_count;
    uint32_t retained_chunks, retained_max;
    struct queue read, written;
    uint32_t written_max;  /* immutable: chunks, for which what was read makes room */
    int ahead_credit;      /* for what comes before anybody wants it; within bounds */
    unsigned ahead_trials; /* looks without credit */
    struct kv_blob_cache_stats stats;
};

/*
 * To bring one content along costs a seventh or so of what it costs to read it by itself; so with
 * one of four used, it pays. So many may come before the first is used, and no more are in hand
 * later than the most: whoever then reads at random has wasted that, and not all of the memory.
 */
#define AHEAD_CREDIT_FIRST 512
#define AHEAD_CREDIT_MAX   2048
#define AHEAD_CREDIT_MIN   (-256)
#define AHEAD_CREDIT_USE   2   /* one that comes costs 1, its first use gives this back */
#define AHEAD_TRIAL        32u /* one look of so many goes on without credit */

#define WRITTEN_PART 10u /* of the chunks */

static uint32_t chunks_for(size_t length)
{
    return (uint32_t)((length + CHUNK_BYTES - 1) / CHUNK_BYTES);
}

static uint8_t *chunk_bytes(const struct kv_blob_cache *cache, uint32_t chunk)
{
    return cache->arena.memory + (size_t)chunk * CHUNK_BYTES;
}

struct kv_blob_cache *kv_blob_cache_new(uint64_t bytes_max, uint32_t retain_percent)
{
    const uint64_t per_chunk = CHUNK_BYTES + sizeof(struct content) + 2 * sizeof(uint32_t);
    struct kv_blob_cache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return NULL;
    pthread_mutex_init(&cache->mutex, NULL);
    cache->ahead_credit = AHEAD_CREDIT_FIRST;
    cache->chunk_count = (uint32_t)kv_min_u64(bytes_max / per_chunk, NONE / 2);
    cache->retained_max = (uint32_t)((uint64_t)cache->chunk_count * retain_percent / 100);
    cache->written_max = cache->chunk_count / WRITTEN_PART;
    uint32_t buckets = 16;
    while (buckets < cache->chunk_count)
        buckets *= 2;
    cache->bucket_mask = buckets - 1;
    const size_t arena_bytes = ((size_t)cache->chunk_count + 1) * CHUNK_BYTES;
    const int err = kv_arena_map(&cache->arena, arena_bytes);
    cache->contents = calloc((size_t)cache->chunk_count + 1, sizeof *cache->contents);
    cache->buckets = malloc(buckets * sizeof *cache->buckets);
    if (err || !cache->contents || !cache->buckets) {
        kv_blob_cache_free(cache);
        return NULL;
    }
    for (uint32_t i = 0; i < buckets; i++)
        cache->buckets[i] = NONE;
    cache->read.newest = cache->read.oldest = NONE;
    cache->written = cache->read;
    cache->free_chain = NONE;
    for (uint32_t i = cache->chunk_count; i-- > 0;) {
        cache->contents[i].next_chunk = cache->free_chain;
        cache->free_chain = i;
    }
    cache->free_count = cache->chunk_count;
    return cache;
}

void kv_blob_cache_free(struct kv_blob_cache *cache)
{
    if (!cache)
        return;
    kv_arena_unmap(&cache->arena);
    free(cache->contents);
    free(cache->buckets);
    pthread_mutex_destroy(&cache->mutex);
    free(cache);
}

struct kv_arena *kv_blob_cache_arena(struct kv_blob_cache *cache)
{
    return &cache->arena;
}

/* ---- hash and queue ------------------------------------------------------------- */

static uint32_t *bucket_of(const struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref,
                           uint32_t piece)
{
    const uint64_t mixed = (kv_le64_get(ref->ptr.digest) ^ kv_le64_get(ref->ptr.block)) + piece;
    return &cache->buckets[(uint32_t)((mixed * 0x9e3779b97f4a7c15ull) >> 32) & cache->bucket_mask];
}

static uint32_t find(const struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref,
                     uint32_t piece)
{
    uint32_t at = *bucket_of(cache, ref, piece);
    while (at != NONE && (cache->contents[at].piece != piece ||
                          memcmp(&cache->contents[at].ref, ref, sizeof *ref) != 0))
        at = cache->contents[at].hash_next;
    return at;
}

static struct queue *queue_of(struct kv_blob_cache *cache, const struct content *content)
{
    return content->written ? &cache->written : &cache->read;
}

static void queue_push(struct kv_blob_cache *cache, uint32_t at)
{
    struct content *const content = &cache->contents[at];
    struct queue *const queue = queue_of(cache, content);
    content->newer = NONE;
    content->older = queue->newest;
    if (queue->newest != NONE)
        cache->contents[queue->newest].newer = at;
    else
        queue->oldest = at;
    queue->newest = at;
    queue->count++;
    queue->chunk_count += chunks_for(content->length_bytes);
}

static void queue_remove(struct kv_blob_cache *cache, uint32_t at)
{
    const struct content *const content = &cache->contents[at];
    struct queue *const queue = queue_of(cache, content);
    if (content->older != NONE)
        cache->contents[content->older].newer = content->newer;
    else
        queue->oldest = content->newer;
    if (content->newer != NONE)
        cache->contents[content->newer].older = content->older;
    else
        queue->newest = content->older;
    queue->count--;
    queue->chunk_count -= chunks_for(content->length_bytes);
}

static uint32_t queue_pop(struct kv_blob_cache *cache, struct queue *queue)
{
    const uint32_t at = queue->oldest;
    queue_remove(cache, at);
    return at;
}

/* The chunks of a content that is in neither hash nor queue are free. */
static void free_chunks(struct kv_blob_cache *cache, uint32_t first)
{
    for (uint32_t at = first, next; at != NONE; at = next) {
        next = cache->contents[at].next_chunk;
        cache->contents[at].next_chunk = cache->free_chain;
        cache->free_chain = at;
        cache->free_count++;
    }
}

/* Nobody finds it any more. */
static void hash_remove(struct kv_blob_cache *cache, uint32_t at)
{
    uint32_t *link = bucket_of(cache, &cache->contents[at].ref, cache->contents[at].piece);
    while (*link != at)
        link = &cache->contents[*link].hash_next;
    *link = cache->contents[at].hash_next;
    cache->stats.bytes -= cache->contents[at].length_bytes;
}

static void evict(struct kv_blob_cache *cache, uint32_t at)
{
    hash_remove(cache, at);
    KV_ASSERT(!cache->contents[at].retained);
    free_chunks(cache, at);
}

static void end_retaining(struct kv_blob_cache *cache, uint32_t at)
{
    struct content *const content = &cache->contents[at];
    if (content->retained)
        cache->retained_chunks -= chunks_for(content->length_bytes);
    content->retained = false;
}

/* Let go of retained contents, the least used first, until so many chunks more may be. */
static void make_retained_room(struct kv_blob_cache *cache, uint32_t count)
{
    for (uint32_t steps = 2 * cache->read.count;
         cache->retained_chunks + count > cache->retained_max && steps; steps--) {
        const uint32_t at = queue_pop(cache, &cache->read);
        struct content *content = &cache->contents[at];
        if (content->retained && !content->used)
            end_retaining(cache, at);
        else if (content->retained)
            content->used = false;
        queue_push(cache, at);
    }
}

static void mark_retained(struct kv_blob_cache *cache, uint32_t at)
{
    struct content *content = &cache->contents[at];
    const uint32_t count = chunks_for(content->length_bytes);
    if (content->retained || count > cache->retained_max)
        return;
    make_retained_room(cache, count);
    if (cache->retained_chunks + count > cache->retained_max)
        return; /* all of them were used since */
    content->retained = true;
    cache->retained_chunks += count;
}

/* Who gives way to `count` chunks: of what was only written, what is more than its part comes
 * first, and more of it makes nothing else leave. */
static struct queue *leaving_queue(struct kv_blob_cache *cache, uint32_t count, bool written)
{
    const bool too_many = cache->written.chunk_count + (written ? count : 0) > cache->written_max;
    return cache->written.count && (too_many || !cache->read.count) ? &cache->written
                                                                    : &cache->read;
}

/* A chain of `count` chunks, or NONE when there are not so many, or what is pinned or being copied
 * leaves no room for it; for what was only written also where it would take more than its part. */
static uint32_t take_chunks(struct kv_blob_cache *cache, uint32_t count, enum kv_blob_kept kept)
{
    const bool written = kept == KV_BLOB_WRITTEN;
    if (count > cache->chunk_count)
        return NONE;
    if (cache->free_count < count &&
        (kept == KV_BLOB_SPARE || (written && count > cache->written_max)))
        return NONE;
    /* Twice round: the first turn may clear marks that the second then finds cleared. */
    for (uint32_t steps = 2 * (cache->read.count + cache->written.count);
         cache->free_count < count && steps && cache->read.count + cache->written.count; steps--) {
        struct queue *const queue = leaving_queue(cache, count, written);
        const uint32_t at = queue_pop(cache, queue);
        struct content *content = &cache->contents[at];
        if (content->pins || content->used || content->retained) {
            content->used = false;
            queue_push(cache, at);
        } else {
            evict(cache, at);
        }
    }
    if (!count || cache->free_count < count)
        return NONE;
    const uint32_t first = cache->free_chain;
    uint32_t last = first, highest = first;
    for (uint32_t i = 1; i < count; i++) {
        last = cache->contents[last].next_chunk;
        highest = last > highest ? last : highest;
    }
    kv_arena_use(&cache->arena, ((size_t)highest + 1) * CHUNK_BYTES);
    cache->free_chain = cache->contents[last].next_chunk;
    cache->contents[last].next_chunk = NONE;
    cache->free_count -= count;
    return first;
}

/* ---- bytes ------------------------------------------------------------------------ */

static void copy_out(const struct kv_blob_cache *cache, uint32_t chunk, size_t offset, uint8_t *buf,
                     size_t length)
{
    for (; offset >= CHUNK_BYTES; offset -= CHUNK_BYTES)
        chunk = cache->contents[chunk].next_chunk;
    while (length) {
        const size_t part = kv_min_u64(length, CHUNK_BYTES - offset);
        memcpy(buf, chunk_bytes(cache, chunk) + offset, part);
        chunk = cache->contents[chunk].next_chunk;
        buf += part;
        length -= part;
        offset = 0;
    }
}

static void copy_in(const struct kv_blob_cache *cache, uint32_t chunk, const uint8_t *content,
                    size_t length)
{
    while (length) {
        const size_t part = kv_min_u64(length, CHUNK_BYTES);
        memcpy(chunk_bytes(cache, chunk), content, part);
        chunk = cache->contents[chunk].next_chunk;
        content += part;
        length -= part;
    }
}

/* It makes room, now or when who copies it is done. */
static void take_out(struct kv_blob_cache *cache, uint32_t at)
{
    end_retaining(cache, at);
    queue_remove(cache, at);
    if (cache->contents[at].pins) {
        hash_remove(cache, at);
        cache->contents[at].dropped = true;
    } else {
        evict(cache, at);
    }
}

/* Somebody wants it: note that, and keep it from changing until unpin. arrives: it did not come
 * ahead of its use, from now on. */
static void pin(struct kv_blob_cache *cache, uint32_t at, bool retain, bool arrives)
{
    struct content *const content = &cache->contents[at];
    if (content->written) { /* now it is one that was read, once */
        queue_remove(cache, at);
        content->written = false;
        queue_push(cache, at);
    } else {
        content->used = true;
    }
    if (retain)
        mark_retained(cache, at);
    if (content->ahead && arrives) {
        content->ahead = false;
        if (cache->ahead_credit < AHEAD_CREDIT_MAX)
            cache->ahead_credit += AHEAD_CREDIT_USE;
    }
    content->pins++;
}

static void unpin(struct kv_blob_cache *cache, uint32_t at)
{
    struct content *const content = &cache->contents[at];
    content->pins--;
    if (content->dropped && !content->pins)
        free_chunks(cache, at);
}

bool kv_blob_cache_copy(struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref,
                        uint32_t piece, size_t offset, void *buf, size_t length,
                        enum kv_blob_wanted use)
{
    pthread_mutex_lock(&cache->mutex);
    const uint32_t at = find(cache, ref, piece);
    const bool passes = at != NONE && cache->contents[at].ahead && use == KV_BLOB_WANTED_ONCE;
    const bool leaves = passes && offset + length == cache->contents[at].length_bytes;
    if (at != NONE)
        pin(cache, at, use == KV_BLOB_WANTED_RETAIN, !passes || leaves);
    if (piece != KV_BLOB_PIECE_STORED || passes) {
        cache->stats.hits += at != NONE;
        cache->stats.misses += at == NONE;
    }
    pthread_mutex_unlock(&cache->mutex);
    if (at == NONE)
        return false;
    copy_out(cache, at, offset, buf, length);
    pthread_mutex_lock(&cache->mutex);
    if (leaves && !cache->contents[at].dropped)
        take_out(cache, at);
    unpin(cache, at);
    pthread_mutex_unlock(&cache->mutex);
    return true;
}

void kv_blob_cache_was_hit(struct kv_blob_cache *cache)
{
    pthread_mutex_lock(&cache->mutex);
    cache->stats.hits++;
    cache->stats.misses--;
    pthread_mutex_unlock(&cache->mutex);
}

static void drop(struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref, uint32_t piece)
{
    const uint32_t at = find(cache, ref, piece);
    if (at != NONE)
        take_out(cache, at);
}

void kv_blob_cache_drop(struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref,
                        uint32_t piece_count)
{
    pthread_mutex_lock(&cache->mutex);
    for (uint32_t piece = 0; piece < piece_count; piece++)
        drop(cache, ref, piece);
    drop(cache, ref, KV_BLOB_PIECE_STORED);
    pthread_mutex_unlock(&cache->mutex);
}

uint32_t kv_blob_cache_run(struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref,
                           uint32_t piece, uint32_t most)
{
    uint32_t count = 0;
    pthread_mutex_lock(&cache->mutex);
    while (count < most && count < piece && find(cache, ref, piece - count - 1) != NONE)
        count++;
    pthread_mutex_unlock(&cache->mutex);
    return count;
}

bool kv_blob_cache_has(struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref,
                       uint32_t piece)
{
    pthread_mutex_lock(&cache->mutex);
    const bool has = find(cache, ref, piece) != NONE;
    pthread_mutex_unlock(&cache->mutex);
    return has;
}

void kv_blob_cache_keep(struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref,
                        uint32_t piece, const uint8_t *content, size_t length,
                        enum kv_blob_kept kept)
{
    pthread_mutex_lock(&cache->mutex);
    const uint32_t first =
        find(cache, ref, piece) == NONE ? take_chunks(cache, chunks_for(length), kept) : NONE;
    pthread_mutex_unlock(&cache->mutex);
    if (first == NONE)
        return;
    copy_in(cache, first, content, length);
    pthread_mutex_lock(&cache->mutex);
    if (find(cache, ref, piece) != NONE) { /* somebody else was faster */
        free_chunks(cache, first);
    } else {
        struct content *const entry = &cache->contents[first];
        uint32_t *const bucket = bucket_of(cache, ref, piece);
        entry->ref = *ref;
        entry->piece = piece;
        entry->length_bytes = (uint32_t)length;
        entry->hash_next = *bucket;
        entry->pins = 0;
        entry->used = entry->retained = entry->dropped = false;
        entry->written = kept == KV_BLOB_WRITTEN;
        entry->ahead = kept == KV_BLOB_AHEAD;
        if (entry->ahead && cache->ahead_credit > AHEAD_CREDIT_MIN)
            cache->ahead_credit--;
        *bucket = first;
        queue_push(cache, first);
        if (kept == KV_BLOB_RETAIN)
            mark_retained(cache, first);
        cache->stats.bytes += length;
    }
    pthread_mutex_unlock(&cache->mutex);
}

bool kv_blob_cache_ahead_pays(struct kv_blob_cache *cache)
{
    pthread_mutex_lock(&cache->mutex);
    const bool pays = cache->ahead_credit > 0 || ++cache->ahead_trials % AHEAD_TRIAL == 0;
    pthread_mutex_unlock(&cache->mutex);
    return pays;
}

void kv_blob_cache_stats(struct kv_blob_cache *cache, struct kv_blob_cache_stats *stats)
{
    pthread_mutex_lock(&cache->mutex);
    *stats = cache->stats;
    stats->retained_bytes = cache->retained_chunks * (uint64_t)CHUNK_BYTES;
    stats->retained_max_bytes = cache->retained_max * (uint64_t)CHUNK_BYTES;
    pthread_mutex_unlock(&cache->mutex);
}
