/*
 * kv/cache_packed.c: pages that left their frames and are kept packed: cold and frozen.
 *
 * Owns       the slabs, their chunks, the hash from page id to packed page, the queues of cold and
 *            frozen, the marks of what left them.
 * Invariant  a chunk of a slab is in the free chain or in one packed page; a packed page is in the
 *            hash once and in cold or frozen once. So the memory for packed pages, with all that
 *            is known of them, is the slabs and nothing else.
 * Locks      the pager's mutex.
 *
 * A packed page is a chain of chunks, the first of which says what it is:
 *
 *    | next prev state | hash, page id, version, queue | bytes |  ->  | next prev state | bytes |
 *
 * Which ones come: all as long as there is room; then those that are known to be used, or that had
 * left or been turned away lately. Most of what is read once is not read again soon, and to put it
 * in another's place costs as much as to unpack it (the doorkeeper of TinyLFU, Einziger et al.
 * 2017).
 *
 * Which ones stay: cold is a queue in order of arrival. At its end, a page that was used while it
 * was there, or that had left lately before it came, goes on to frozen; others go. Frozen is a
 * clock: what was used since goes round once more. What is hot has its frame and no need of a
 * packed copy. So a scan passes through cold and does not touch frozen.
 */
#include "kv/cache.h"

#define NONE           KV_FRAME_NONE
#define REST_BYTES     (KV_CHUNK_BYTES - offsetof(struct rest_chunk, bytes))
#define FIRST_BYTES    (KV_CHUNK_BYTES - offsetof(struct first_chunk, bytes))
#define MOVES_MAX      64u  /* for one page that wants room */
#define FRESH_LOOKS    256u /* for a page to pack closer */
#define ROUNDS_WORTH   2u   /* of frozen: who stays so long is worth being packed closer */
#define DECAY_AT_LEAST 1024u
#define GHOST_AWAY     2u /* of a mark */

enum chunk_state { CHUNK_FREE, CHUNK_FIRST, CHUNK_REST };

struct rest_chunk {
    uint32_t next, prev; /* of its page, or of the free chain */
    uint32_t state;
    uint8_t bytes[];
};

struct first_chunk {
    uint32_t next, prev, state; /* as above */
    uint32_t hash_next;
    uint64_t page_id;
    struct kv_packed packed;
    uint32_t queue_prev, queue_next;
    uint8_t tier;   /* KV_TIER_COLD or KV_TIER_FROZEN */
    bool used;      /* since it came, or since the clock passed */
    bool back;      /* it had left lately before it came */
    bool fresh;     /* frozen, worth packing closer, and nobody tried */
    uint8_t rounds; /* in frozen, that it was used in; enough are ROUNDS_WORTH */
    uint8_t bytes[];
};

static_assert(offsetof(struct first_chunk, state) == offsetof(struct rest_chunk, state),
              "both kinds of chunk begin alike");
static_assert(sizeof(struct first_chunk) <= KV_CHUNK_BYTES / 4, "most of a chunk is a page's");

static struct rest_chunk *chunk_at(const struct kv_cache *cache, uint32_t chunk)
{
    return (struct rest_chunk *)(void *)(cache->arena.memory + (size_t)chunk * KV_CHUNK_BYTES);
}

static struct first_chunk *page_at(const struct kv_cache *cache, uint32_t first)
{
    return (struct first_chunk *)(void *)(cache->arena.memory + (size_t)first * KV_CHUNK_BYTES);
}

static uint32_t chunks_for(size_t length)
{
    if (length <= FIRST_BYTES)
        return 1;
    return 1 + (uint32_t)((length - FIRST_BYTES + REST_BYTES - 1) / REST_BYTES);
}

/* ---- chunks -------------------------------------------------------------------- */

static void chunk_free(struct kv_cache *cache, uint32_t chunk)
{
    struct rest_chunk *const at = chunk_at(cache, chunk);
    at->state = CHUNK_FREE;
    at->prev = NONE;
    at->next = cache->free_chain;
    if (cache->free_chain != NONE)
        chunk_at(cache, cache->free_chain)->prev = chunk;
    cache->free_chain = chunk;
    cache->free_chunks++;
}

/* Take a chunk out of the free chain. */
static void chunk_take(struct kv_cache *cache, uint32_t chunk)
{
    const struct rest_chunk *const at = chunk_at(cache, chunk);
    KV_ASSERT(at->state == CHUNK_FREE);
    if (at->prev != NONE)
        chunk_at(cache, at->prev)->next = at->next;
    else
        cache->free_chain = at->next;
    if (at->next != NONE)
        chunk_at(cache, at->next)->prev = at->prev;
    cache->free_chunks--;
}

/* Chunks from `chunk` to the end of its page are free. Returns how many. */
static uint32_t chunks_free(struct kv_cache *cache, uint32_t chunk)
{
    uint32_t count = 0;
    for (uint32_t next; chunk != NONE; chunk = next, count++) {
        next = chunk_at(cache, chunk)->next;
        chunk_free(cache, chunk);
    }
    return count;
}

/* ---- hash and queues -------------------------------------------------------------- */

static uint64_t mixed(uint64_t page_id)
{
    return page_id * 0x9e3779b97f4a7c15ull;
}

static uint32_t *bucket_of(const struct kv_cache *cache, uint64_t page_id)
{
    return &cache->packed_buckets[(uint32_t)(mixed(page_id) >> 32) & cache->packed_mask];
}

static uint32_t find(const struct kv_cache *cache, uint64_t page_id)
{
    uint32_t at = *bucket_of(cache, page_id);
    while (at != NONE && page_at(cache, at)->page_id != page_id)
        at = page_at(cache, at)->hash_next;
    return at;
}

/* The link of the hash that leads to a page. */
static uint32_t *hash_link(const struct kv_cache *cache, uint32_t first)
{
    uint32_t *link = bucket_of(cache, page_at(cache, first)->page_id);
    while (*link != first)
        link = &page_at(cache, *link)->hash_next;
    return link;
}

static void enqueue(struct kv_cache *cache, uint32_t first, enum kv_tier tier)
{
    struct kv_cache_queue *const queue = &cache->queues[tier];
    struct first_chunk *const page = page_at(cache, first);
    page->tier = (uint8_t)tier;
    page->queue_prev = NONE;
    page->queue_next = queue->head;
    if (queue->head != NONE)
        page_at(cache, queue->head)->queue_prev = first;
    else
        queue->tail = first;
    queue->head = first;
    queue->count++;
    cache->chunks[tier] += chunks_for(page->packed.length);
}

static void dequeue(struct kv_cache *cache, uint32_t first)
{
    const struct first_chunk *const page = page_at(cache, first);
    struct kv_cache_queue *const queue = &cache->queues[page->tier];
    if (page->queue_prev != NONE)
        page_at(cache, page->queue_prev)->queue_next = page->queue_next;
    else
        queue->head = page->queue_next;
    if (page->queue_next != NONE)
        page_at(cache, page->queue_next)->queue_prev = page->queue_prev;
    else
        queue->tail = page->queue_prev;
    queue->count--;
    cache->chunks[page->tier] -= chunks_for(page->packed.length);
    if (page->tier == KV_TIER_FROZEN && page->fresh)
        cache->fresh_frozen--;
}

static void forget(struct kv_cache *cache, uint32_t first)
{
    dequeue(cache, first);
    *hash_link(cache, first) = page_at(cache, first)->hash_next;
    (void)chunks_free(cache, first);
}

/* ---- what stays ------------------------------------------------------------------- */

/* The mark of a page that left, and where it is; GHOST_AWAY is on where it was turned away. */
static uint32_t *ghost_of(const struct kv_cache *cache, uint64_t page_id, uint32_t *mark)
{
    *mark = ((uint32_t)mixed(page_id) | 1) & ~GHOST_AWAY;
    return &cache->packed_ghosts[(uint32_t)(mixed(page_id) >> 32) & cache->packed_mask];
}

/* Did the page leave, or was it turned away? */
static bool is_marked(uint32_t ghost, uint32_t mark)
{
    return (ghost & ~GHOST_AWAY) == mark;
}

static bool is_hot(const struct kv_cache *cache, uint64_t page_id)
{
    const uint32_t frame = kv_cache_find(cache, page_id);
    return frame != NONE &&
           atomic_load_explicit(&cache->frames[frame].tier, memory_order_relaxed) == KV_TIER_HOT;
}

/* The page goes for lack of room. */
static void evict(struct kv_cache *cache, uint32_t first)
{
    const struct first_chunk *const page = page_at(cache, first);
    if (!is_hot(cache, page->page_id)) {
        uint32_t mark;
        uint32_t *const ghost = ghost_of(cache, page->page_id, &mark);
        *ghost = mark;
    }
    cache->counts[page->tier].evictions++;
    forget(cache, first);
}

/* The last of cold: on to frozen, or away. */
static void pass_cold(struct kv_cache *cache, uint32_t first)
{
    struct first_chunk *const page = page_at(cache, first);
    const bool frozen_has_room = cache->tiers.ratio[KV_TIER_FROZEN] > 0;
    if ((!page->used && !(page->back && frozen_has_room)) || is_hot(cache, page->page_id)) {
        evict(cache, first);
        return;
    }
    dequeue(cache, first);
    page->used = page->back = false;
    if (frozen_has_room) {
        page->rounds = 0;
        cache->counts[KV_TIER_COLD].evictions++;
    }
    enqueue(cache, first, frozen_has_room ? KV_TIER_FROZEN : KV_TIER_COLD);
}

/* The last of frozen: round once more, or away. */
static void pass_frozen(struct kv_cache *cache, uint32_t first)
{
    struct first_chunk *const page = page_at(cache, first);
    if (!page->used || is_hot(cache, page->page_id)) {
        evict(cache, first);
        return;
    }
    dequeue(cache, first);
    page->used = false;
    if (page->rounds <= ROUNDS_WORTH)
        page->rounds++;
    if (page->rounds == ROUNDS_WORTH)
        page->fresh = page->packed.codec != KV_CODEC_ZSTD;
    cache->fresh_frozen += page->fresh;
    enqueue(cache, first, KV_TIER_FROZEN);
}

/* Make `count` chunks free. false: there are not so many. */
static bool make_room(struct kv_cache *cache, uint32_t count)
{
    for (uint32_t moves = 0; cache->free_chunks < count; moves++) {
        const struct kv_cache_queue *const cold = &cache->queues[KV_TIER_COLD];
        const struct kv_cache_queue *const frozen = &cache->queues[KV_TIER_FROZEN];
        if (!cold->count && !frozen->count)
            return false;
        const bool from_cold =
            cold->count && (!frozen->count || cache->chunks[KV_TIER_COLD] > cache->cold_chunks_max);
        if (moves >= MOVES_MAX)
            evict(cache, from_cold ? cold->tail : frozen->tail);
        else if (from_cold)
            pass_cold(cache, cold->tail);
        else
            pass_frozen(cache, frozen->tail);
    }
    return true;
}

/* ---- slabs ------------------------------------------------------------------------ */

void kv_cache_note_packable(struct kv_cache *cache, bool packable)
{
    cache->kept += packable;
    cache->passed += !packable;
    if (cache->kept + cache->passed >= kv_max_u64(cache->frame_count, DECAY_AT_LEAST)) {
        cache->kept /= 2;
        cache->passed /= 2;
    }
}

/* As many as the tiers allow, but for the part of pages that pass by because they do not pack. */
static uint32_t slabs_wanted(const struct kv_cache *cache)
{
    const uint64_t all = (uint64_t)cache->kept + cache->passed;
    return all ? (uint32_t)(cache->slabs_max * (uint64_t)cache->kept / all) : cache->slabs_max;
}

bool kv_cache_wants_slab(const struct kv_cache *cache, size_t length)
{
    return cache->free_chunks < chunks_for(length) &&
           cache->queues[KV_QUEUE_SLAB].count < slabs_wanted(cache);
}

bool kv_cache_has_spare_slab(const struct kv_cache *cache)
{
    /* Some more than wanted, so that none goes to and fro. */
    const uint64_t most = (uint64_t)slabs_wanted(cache) + cache->slabs_max / 64;
    return cache->queues[KV_QUEUE_SLAB].count > kv_min_u64(most, cache->slabs_max);
}

void kv_cache_add_slab(struct kv_cache *cache, uint32_t index)
{
    kv_cache_queue_push(cache, KV_QUEUE_SLAB, index);
    for (uint32_t i = 0; i < cache->chunks_per_slab; i++)
        chunk_free(cache, index * cache->chunks_per_slab + i);
}

/* Move a chunk of a page to another, which is free; what refers to it follows. */
static void chunk_move(struct kv_cache *cache, uint32_t from, uint32_t to)
{
    const struct rest_chunk *const chunk = chunk_at(cache, from);
    if (chunk->state == CHUNK_FIRST) {
        const struct first_chunk *const page = page_at(cache, from);
        struct kv_cache_queue *const queue = &cache->queues[page->tier];
        *hash_link(cache, from) = to;
        if (page->queue_prev != NONE)
            page_at(cache, page->queue_prev)->queue_next = to;
        else
            queue->head = to;
        if (page->queue_next != NONE)
            page_at(cache, page->queue_next)->queue_prev = to;
        else
            queue->tail = to;
    } else {
        chunk_at(cache, chunk->prev)->next = to;
    }
    if (chunk->next != NONE)
        chunk_at(cache, chunk->next)->prev = to;
    memcpy(chunk_at(cache, to), chunk, KV_CHUNK_BYTES);
}

void kv_cache_free_slab(struct kv_cache *cache)
{
    const uint32_t index = cache->queues[KV_QUEUE_SLAB].tail;
    KV_ASSERT(index != NONE);
    const bool made = make_room(cache, cache->chunks_per_slab);
    KV_ASSERT(made); /* it has so many chunks itself */
    const uint32_t begin = index * cache->chunks_per_slab;
    const uint32_t end = begin + cache->chunks_per_slab;
    /* First its free chunks, so that nothing moves into it. */
    for (uint32_t chunk = begin; chunk < end; chunk++)
        if (chunk_at(cache, chunk)->state == CHUNK_FREE)
            chunk_take(cache, chunk);
    for (uint32_t chunk = begin; chunk < end; chunk++) {
        if (chunk_at(cache, chunk)->state == CHUNK_FREE)
            continue;
        const uint32_t to = cache->free_chain;
        chunk_take(cache, to);
        chunk_move(cache, chunk, to);
    }
    kv_cache_queue_unlink(cache, index);
    kv_cache_queue_push(cache, KV_QUEUE_FREE, index);
}

/* ---- packed pages ------------------------------------------------------------------- */

static void copy_in(const struct kv_cache *cache, uint32_t first, const uint8_t *bytes,
                    size_t length)
{
    size_t part = kv_min_u64(length, FIRST_BYTES);
    memcpy(page_at(cache, first)->bytes, bytes, part);
    uint32_t chunk = chunk_at(cache, first)->next;
    for (size_t done = part; done < length; done += part) {
        part = kv_min_u64(length - done, REST_BYTES);
        memcpy(chunk_at(cache, chunk)->bytes, bytes + done, part);
        chunk = chunk_at(cache, chunk)->next;
    }
}

/* Ask for a chunk's lines, and wait for none. */
static void fetch_chunk(const struct kv_cache *cache, uint32_t chunk)
{
    if (chunk == NONE)
        return;
    for (size_t at = 0; at < KV_CHUNK_BYTES; at += 64)
        __builtin_prefetch((const uint8_t *)chunk_at(cache, chunk) + at);
}

/* While a chunk is copied the next one comes from memory. */
static void copy_out(const struct kv_cache *cache, uint32_t first, uint8_t *out)
{
    const size_t length = page_at(cache, first)->packed.length;
    size_t part = kv_min_u64(length, FIRST_BYTES);
    uint32_t chunk = chunk_at(cache, first)->next;
    fetch_chunk(cache, chunk);
    memcpy(out, page_at(cache, first)->bytes, part);
    for (size_t done = part; done < length; done += part) {
        const struct rest_chunk *const rest = chunk_at(cache, chunk);
        part = kv_min_u64(length - done, REST_BYTES);
        chunk = rest->next;
        fetch_chunk(cache, chunk);
        memcpy(out + done, rest->bytes, part);
    }
}

/* A chain of so many free chunks. */
static uint32_t take_chain(struct kv_cache *cache, uint32_t count)
{
    const uint32_t first = cache->free_chain;
    uint32_t before = NONE;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t chunk = cache->free_chain;
        chunk_take(cache, chunk);
        struct rest_chunk *const at = chunk_at(cache, chunk);
        at->state = i ? CHUNK_REST : CHUNK_FIRST;
        at->prev = before;
        at->next = NONE;
        if (before != NONE)
            chunk_at(cache, before)->next = chunk;
        before = chunk;
    }
    return first;
}

bool kv_cache_turns_away(struct kv_cache *cache, uint64_t page_id, size_t length)
{
    uint32_t mark;
    uint32_t *const ghost = ghost_of(cache, page_id, &mark);
    if (cache->free_chunks >= chunks_for(length) || is_marked(*ghost, mark) ||
        find(cache, page_id) != NONE)
        return false;
    *ghost = mark | GHOST_AWAY;
    return true;
}

bool kv_cache_keep_packed(struct kv_cache *cache, uint64_t page_id, const struct kv_packed *packed,
                          const void *bytes)
{
    KV_ASSERT(packed->length > 0);
    KV_ASSERT(packed->length <= cache->frame_bytes);
    const uint32_t before = find(cache, page_id);
    if (before != NONE) {
        if (!memcmp(&page_at(cache, before)->packed.ptr, &packed->ptr, sizeof packed->ptr))
            return true;
        forget(cache, before);
    }
    const uint32_t count = chunks_for(packed->length);
    if (!make_room(cache, count))
        return false;
    uint32_t mark;
    uint32_t *const ghost = ghost_of(cache, page_id, &mark);
    const bool back = *ghost == mark;
    cache->counts[KV_TIER_FROZEN].ghost_hits += back;
    if (is_marked(*ghost, mark))
        *ghost = 0;
    const uint32_t first = take_chain(cache, count);
    struct first_chunk *const page = page_at(cache, first);
    uint32_t *const bucket = bucket_of(cache, page_id);
    page->page_id = page_id;
    page->packed = *packed;
    page->used = page->fresh = false;
    page->back = back;
    page->hash_next = *bucket;
    *bucket = first;
    enqueue(cache, first, KV_TIER_COLD);
    copy_in(cache, first, bytes, packed->length);
    return true;
}

bool kv_cache_has_packed(const struct kv_cache *cache, uint64_t page_id)
{
    return find(cache, page_id) != NONE;
}

bool kv_cache_copy_packed(struct kv_cache *cache, uint64_t page_id, struct kv_packed *packed,
                          void *out)
{
    const uint32_t first = find(cache, page_id);
    if (first == NONE)
        return false;
    struct first_chunk *const page = page_at(cache, first);
    page->used = true;
    cache->counts[page->tier].hits++;
    cache->counts[KV_TIER_WARM].promotions++;
    *packed = page->packed;
    copy_out(cache, first, out);
    return true;
}

void kv_cache_drop_packed(struct kv_cache *cache, uint64_t page_id)
{
    const uint32_t first = find(cache, page_id);
    if (first == NONE)
        return;
    forget(cache, first);
    uint32_t mark;
    uint32_t *const ghost = ghost_of(cache, page_id, &mark);
    *ghost = mark | GHOST_AWAY; /* its next version is let in */
}

void kv_cache_drop_all_packed(struct kv_cache *cache)
{
    for (enum kv_tier tier = KV_TIER_COLD; tier <= KV_TIER_FROZEN; tier++)
        while (cache->queues[tier].count)
            forget(cache, cache->queues[tier].tail);
}

bool kv_cache_take_fresh_frozen(struct kv_cache *cache, uint64_t *page_id, struct kv_packed *packed,
                                void *out)
{
    if (!cache->fresh_frozen)
        return false;
    uint32_t first = cache->queues[KV_TIER_FROZEN].head;
    for (unsigned looks = 0; first != NONE && looks < FRESH_LOOKS; looks++) {
        struct first_chunk *const page = page_at(cache, first);
        if (page->fresh) {
            page->fresh = false;
            cache->fresh_frozen--;
            *page_id = page->page_id;
            *packed = page->packed;
            copy_out(cache, first, out);
            return true;
        }
        first = page->queue_next;
    }
    return false;
}

bool kv_cache_shrink_packed(struct kv_cache *cache, uint64_t page_id,
                            const struct kv_packed *packed, const void *bytes)
{
    const uint32_t first = find(cache, page_id);
    if (first == NONE)
        return false;
    struct first_chunk *const page = page_at(cache, first);
    if (memcmp(&page->packed.ptr, &packed->ptr, sizeof packed->ptr) != 0 ||
        packed->length > page->packed.length)
        return false;
    const uint32_t count = chunks_for(packed->length);
    cache->chunks[page->tier] -= chunks_for(page->packed.length) - count;
    page->packed = *packed;
    uint32_t last = first;
    for (uint32_t i = 1; i < count; i++)
        last = chunk_at(cache, last)->next;
    (void)chunks_free(cache, chunk_at(cache, last)->next);
    chunk_at(cache, last)->next = NONE;
    copy_in(cache, first, bytes, packed->length);
    return true;
}

/* ---- for tests ------------------------------------------------------------------------ */

/* The chunks of one packed page; 0: it is not sound. */
static uint32_t sound_chunks(const struct kv_cache *cache, uint32_t first, enum kv_tier tier)
{
    const struct first_chunk *const page = page_at(cache, first);
    if (page->state != CHUNK_FIRST || page->tier != tier || find(cache, page->page_id) != first)
        return 0;
    uint32_t count = 1;
    for (uint32_t chunk = page->next; chunk != NONE; chunk = chunk_at(cache, chunk)->next)
        count += chunk_at(cache, chunk)->state == CHUNK_REST;
    return count == chunks_for(page->packed.length) ? count : 0;
}

bool kv_cache_packed_sound(const struct kv_cache *cache)
{
    uint64_t total = 0;
    for (enum kv_tier tier = KV_TIER_COLD; tier <= KV_TIER_FROZEN; tier++) {
        uint32_t pages = 0, chunks = 0;
        for (uint32_t first = cache->queues[tier].head; first != NONE;
             first = page_at(cache, first)->queue_next, pages++) {
            const uint32_t count = sound_chunks(cache, first, tier);
            if (!count)
                return false;
            chunks += count;
        }
        if (pages != cache->queues[tier].count || chunks != cache->chunks[tier])
            return false;
        total += chunks;
    }
    for (uint32_t chunk = cache->free_chain; chunk != NONE; chunk = chunk_at(cache, chunk)->next)
        total += chunk_at(cache, chunk)->state == CHUNK_FREE;
    return total == (uint64_t)cache->queues[KV_QUEUE_SLAB].count * cache->chunks_per_slab &&
           cache->queues[KV_QUEUE_SLAB].count <= cache->frame_count - KV_FRAMES_MIN;
}
