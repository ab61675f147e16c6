/*
 * kv/cache.c: the frames, and which page leaves its own.
 *
 * Owns       the arena, the frame table, the hash from page id to frame, the queues of frames,
 *            the ghosts: ids of pages that left warm, as many as there are buckets at most.
 * Invariant  a frame with a page id is in the hash once and in warm or hot once; a frame
 *            without one is in the free queue, or a slab (cache_packed.c), or its taker's. The
 * arena is never unmapped while the store is open, so a stale read of a frame is a retry, never a
 * fault. Locks      the pager's mutex, but for what is atomic.
 */
#include "kv/cache.h"

#define FIND_STEPS_MAX 256u
#define WARM_MIN       (KV_FRAMES_MIN / 4) /* frames */

static uint32_t bucket_of(const struct kv_cache *cache, uint64_t page_id)
{
    return (uint32_t)((page_id * 0x9e3779b97f4a7c15ull) >> 32) & cache->bucket_mask;
}

/* By bench-tiers and bench-policy: see bench/README.md. */
static const struct kv_tiers tiers_default = {.ratio = {12, 3, 0, 0}};

static uint64_t ratio_sum(const struct kv_tiers *tiers)
{
    uint64_t sum = 0;
    for (unsigned tier = 0; tier < KV_TIER_COUNT; tier++)
        sum += tiers->ratio[tier];
    return sum;
}

bool kv_tiers_valid(const struct kv_tiers *tiers)
{
    for (unsigned tier = 0; tier < KV_TIER_COUNT; tier++)
        if (tiers->ratio[tier] > KV_TIER_RATIO_MAX)
            return false;
    return !ratio_sum(tiers) || tiers->ratio[KV_TIER_HOT] || tiers->ratio[KV_TIER_WARM];
}

void kv_cache_set_tiers(struct kv_cache *cache, const struct kv_tiers *tiers)
{
    cache->tiers = ratio_sum(tiers) ? *tiers : tiers_default;
    const uint32_t *const ratio = cache->tiers.ratio;
    const uint64_t sum = ratio_sum(&cache->tiers);
    const uint64_t packed = (uint64_t)ratio[KV_TIER_COLD] + ratio[KV_TIER_FROZEN];
    cache->hot_percent = ratio[KV_TIER_HOT] * 100 / (ratio[KV_TIER_HOT] + ratio[KV_TIER_WARM]);
    cache->slabs_max =
        (uint32_t)kv_min_u64(cache->frame_count * packed / sum, cache->frame_count - KV_FRAMES_MIN);
    const uint64_t chunks_max = (uint64_t)cache->slabs_max * cache->chunks_per_slab;
    cache->cold_chunks_max = packed ? (uint32_t)(chunks_max * ratio[KV_TIER_COLD] / packed) : 0;
}

int kv_cache_init(struct kv_cache *cache, uint64_t budget_bytes, size_t frame_bytes,
                  const struct kv_tiers *tiers)
{
    memset(cache, 0, sizeof *cache);
    const uint64_t count = budget_bytes / (frame_bytes + KV_CACHE_FRAME_COST);
    if (count < KV_FRAMES_MIN || count >= KV_FRAME_NONE / (frame_bytes / KV_CHUNK_BYTES + 1))
        return -EINVAL;
    cache->frame_count = (uint32_t)count;
    cache->frame_bytes = frame_bytes;
    cache->chunks_per_slab = (uint32_t)(frame_bytes / KV_CHUNK_BYTES);
    cache->free_chain = KV_FRAME_NONE;
    kv_cache_set_tiers(cache, tiers);
    uint32_t buckets = 64;
    while (buckets < cache->frame_count)
        buckets *= 2;
    cache->bucket_mask = buckets - 1;
    cache->packed_mask = 2 * buckets - 1;
    for (unsigned queue = 0; queue < KV_QUEUE_COUNT; queue++)
        cache->queues[queue].head = cache->queues[queue].tail = KV_FRAME_NONE;

    const int err = kv_arena_map(&cache->arena, (size_t)count * frame_bytes);
    cache->frames = calloc(cache->frame_count, sizeof *cache->frames);
    cache->buckets = malloc(buckets * sizeof *cache->buckets);
    cache->ghosts = calloc(buckets, sizeof *cache->ghosts);
    cache->packed_buckets = malloc(2 * (size_t)buckets * sizeof *cache->packed_buckets);
    cache->packed_ghosts = calloc(2 * (size_t)buckets, sizeof *cache->packed_ghosts);
    if (err || !cache->frames || !cache->buckets || !cache->ghosts || !cache->packed_buckets ||
        !cache->packed_ghosts) {
        kv_cache_release(cache);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < buckets; i++)
        atomic_init(&cache->buckets[i], KV_FRAME_NONE);
    for (uint32_t i = 0; i <= cache->packed_mask; i++)
        cache->packed_buckets[i] = KV_FRAME_NONE;
    struct kv_cache_queue *idle = &cache->queues[KV_QUEUE_FREE];
    for (uint32_t i = 0; i < cache->frame_count; i++) {
        cache->frames[i].queue_prev = i ? i - 1 : KV_FRAME_NONE;
        cache->frames[i].queue_next = i + 1 < cache->frame_count ? i + 1 : KV_FRAME_NONE;
        atomic_init(&cache->frames[i].hash_next, KV_FRAME_NONE);
        atomic_init(&cache->frames[i].tier, KV_QUEUE_FREE);
    }
    idle->head = 0;
    idle->tail = cache->frame_count - 1;
    idle->count = cache->frame_count;
    return 0;
}

void kv_cache_release(struct kv_cache *cache)
{
    kv_arena_unmap(&cache->arena);
    free(cache->frames);
    free((void *)cache->buckets);
    free(cache->ghosts);
    free(cache->packed_buckets);
    free(cache->packed_ghosts);
    memset(cache, 0, sizeof *cache);
}

/* ---- queues ------------------------------------------------------------------ */

static uint8_t tier_of(const struct kv_frame *frame)
{
    return atomic_load_explicit(&frame->tier, memory_order_relaxed);
}

void kv_cache_queue_push(struct kv_cache *cache, unsigned to, uint32_t index)
{
    struct kv_cache_queue *queue = &cache->queues[to];
    struct kv_frame *frame = &cache->frames[index];
    atomic_store_explicit(&frame->tier, (uint8_t)to, memory_order_relaxed);
    frame->queue_prev = KV_FRAME_NONE;
    frame->queue_next = queue->head;
    if (queue->head != KV_FRAME_NONE)
        cache->frames[queue->head].queue_prev = index;
    else
        queue->tail = index;
    queue->head = index;
    queue->count++;
}

void kv_cache_queue_unlink(struct kv_cache *cache, uint32_t index)
{
    struct kv_frame *frame = &cache->frames[index];
    struct kv_cache_queue *queue = &cache->queues[tier_of(frame)];
    if (frame->queue_prev != KV_FRAME_NONE)
        cache->frames[frame->queue_prev].queue_next = frame->queue_next;
    else
        queue->head = frame->queue_next;
    if (frame->queue_next != KV_FRAME_NONE)
        cache->frames[frame->queue_next].queue_prev = frame->queue_prev;
    else
        queue->tail = frame->queue_prev;
    queue->count--;
}

static void move_to(struct kv_cache *cache, uint32_t index, enum kv_tier tier)
{
    kv_cache_queue_unlink(cache, index);
    kv_cache_queue_push(cache, tier, index);
}

/* Hot's least used page goes back to the head of warm. */
static void demote_one(struct kv_cache *cache)
{
    for (uint32_t steps = 4 * cache->queues[KV_TIER_HOT].count; steps; steps--) {
        const uint32_t index = cache->queues[KV_TIER_HOT].tail;
        struct kv_frame *frame = &cache->frames[index];
        const uint8_t uses = kv_cache_uses(frame);
        if (!uses) {
            move_to(cache, index, KV_TIER_WARM);
            cache->counts[KV_TIER_HOT].evictions++;
            return;
        }
        atomic_store_explicit(&frame->referenced, (uint8_t)(uses - 1), memory_order_relaxed);
        move_to(cache, index, KV_TIER_HOT);
    }
}

/*
 * The share of hot shrinks with the frames, and when the ratios change: up to two leave for each
 * page that comes or goes. Warm always has some frames, so that who goes down a tree does not lose
 * the page above for the one below.
 */
static void limit_hot(struct kv_cache *cache)
{
    const uint32_t frames = kv_cache_frames(cache) - cache->queues[KV_QUEUE_RETAINED].count;
    const uint64_t share = (uint64_t)frames * cache->hot_percent / 100;
    const uint64_t hot_max = kv_min_u64(share, frames - WARM_MIN);
    for (unsigned i = 0; i < 2 && cache->queues[KV_TIER_HOT].count > hot_max; i++)
        demote_one(cache);
}

static void enter_hot(struct kv_cache *cache, uint32_t index)
{
    kv_cache_queue_push(cache, KV_TIER_HOT, index);
    cache->frames[index].was_hot = true;
    cache->counts[KV_TIER_HOT].promotions++;
    limit_hot(cache);
}

/* ---- retained pages --------------------------------------------------------- */

uint32_t kv_cache_retained_max(const struct kv_cache *cache)
{
    return (uint32_t)((uint64_t)(kv_cache_frames_min(cache) - KV_FRAMES_MIN) *
                      cache->retain_percent / 100);
}

/* The least used of them goes to hot. */
static void release_one(struct kv_cache *cache)
{
    const struct kv_cache_queue *const queue = &cache->queues[KV_QUEUE_RETAINED];
    for (uint32_t steps = 4 * queue->count; steps; steps--) {
        struct kv_frame *frame = &cache->frames[queue->tail];
        const uint8_t uses = kv_cache_uses(frame);
        const uint32_t index = queue->tail;
        kv_cache_queue_unlink(cache, index);
        if (!uses || steps == 1) {
            kv_cache_queue_push(cache, KV_TIER_HOT, index);
            limit_hot(cache);
            return;
        }
        atomic_store_explicit(&frame->referenced, (uint8_t)(uses - 1), memory_order_relaxed);
        kv_cache_queue_push(cache, KV_QUEUE_RETAINED, index);
    }
}

void kv_cache_retain(struct kv_cache *cache, uint32_t index)
{
    struct kv_frame *const frame = &cache->frames[index];
    const uint32_t most = kv_cache_retained_max(cache);
    kv_cache_touch_racy(frame);
    if (tier_of(frame) == KV_QUEUE_RETAINED || !most || KV_PLANT(page_not_retained))
        return;
    while (cache->queues[KV_QUEUE_RETAINED].count >= most)
        release_one(cache);
    kv_cache_queue_unlink(cache, index);
    kv_cache_queue_push(cache, KV_QUEUE_RETAINED, index);
    frame->was_hot = true;
}

/* ---- hash ---------------------------------------------------------------------- */

uint32_t kv_cache_find_racy(const struct kv_cache *cache, uint64_t page_id)
{
    /* Acquire pairs with the release stores of kv_cache_insert. The chain may change under
     * us, even into another chain: the steps are bounded and the caller verifies. */
    uint32_t index =
        atomic_load_explicit(&cache->buckets[bucket_of(cache, page_id)], memory_order_acquire);
    for (uint32_t steps = 0; index < cache->frame_count && steps < FIND_STEPS_MAX; steps++) {
        const struct kv_frame *frame = &cache->frames[index];
        if (atomic_load_explicit(&frame->page_id, memory_order_relaxed) == page_id)
            return index;
        index = atomic_load_explicit(&frame->hash_next, memory_order_acquire);
    }
    return KV_FRAME_NONE;
}

void kv_cache_fetch_bucket(const struct kv_cache *cache, uint64_t page_id)
{
    __builtin_prefetch((const void *)&cache->buckets[bucket_of(cache, page_id)]);
}

void kv_cache_fetch_frame(const struct kv_cache *cache, uint64_t page_id)
{
    /* Acquire as in kv_cache_find_racy. */
    const uint32_t index =
        atomic_load_explicit(&cache->buckets[bucket_of(cache, page_id)], memory_order_acquire);
    if (index < cache->frame_count)
        __builtin_prefetch(&cache->frames[index]);
}

uint32_t kv_cache_find(const struct kv_cache *cache, uint64_t page_id)
{
    uint32_t index =
        atomic_load_explicit(&cache->buckets[bucket_of(cache, page_id)], memory_order_relaxed);
    while (index != KV_FRAME_NONE &&
           atomic_load_explicit(&cache->frames[index].page_id, memory_order_relaxed) != page_id)
        index = atomic_load_explicit(&cache->frames[index].hash_next, memory_order_relaxed);
    return index;
}

void kv_cache_insert(struct kv_cache *cache, uint32_t index, uint64_t page_id)
{
    struct kv_frame *frame = &cache->frames[index];
    _Atomic uint32_t *bucket = &cache->buckets[bucket_of(cache, page_id)];
    atomic_store_explicit(&frame->page_id, page_id, memory_order_relaxed);
    atomic_store_explicit(&frame->referenced, 0, memory_order_relaxed);
    atomic_store_explicit(&frame->hash_next, atomic_load_explicit(bucket, memory_order_relaxed),
                          memory_order_release);
    atomic_store_explicit(bucket, index, memory_order_release);
    frame->was_hot = frame->unpackable = false;
    uint64_t *ghost = &cache->ghosts[bucket_of(cache, page_id)];
    if (*ghost != page_id) {
        kv_cache_queue_push(cache, KV_TIER_WARM, index);
        return;
    }
    *ghost = 0;
    cache->counts[KV_TIER_WARM].ghost_hits++;
    if (kv_cache_has_packed(cache, page_id))
        kv_cache_queue_push(cache, KV_TIER_WARM, index);
    else
        enter_hot(cache, index);
}

void kv_cache_remove(struct kv_cache *cache, uint32_t index)
{
    struct kv_frame *frame = &cache->frames[index];
    const uint64_t page_id = atomic_load_explicit(&frame->page_id, memory_order_relaxed);
    _Atomic uint32_t *link = &cache->buckets[bucket_of(cache, page_id)];
    for (;;) {
        const uint32_t at = atomic_load_explicit(link, memory_order_relaxed);
        KV_ASSERT(at != KV_FRAME_NONE);
        if (at == index)
            break;
        link = &cache->frames[at].hash_next;
    }
    atomic_store_explicit(link, atomic_load_explicit(&frame->hash_next, memory_order_relaxed),
                          memory_order_release);
    atomic_store_explicit(&frame->page_id, 0, memory_order_relaxed);
    kv_cache_queue_unlink(cache, index);
    kv_cache_queue_push(cache, KV_QUEUE_FREE, index);
}

uint32_t kv_cache_take_free(struct kv_cache *cache)
{
    const uint32_t index = cache->queues[KV_QUEUE_FREE].head;
    if (index != KV_FRAME_NONE) {
        kv_cache_queue_unlink(cache, index);
        kv_arena_use(&cache->arena, ((size_t)index + 1) * cache->frame_bytes);
    }
    return index;
}

/* ---- eviction ---------------------------------------------------------------- */

/* Only its being used or dirty can keep it. */
static bool can_leave(const struct kv_frame *frame)
{
    return !frame->pins && !(frame->flags & (uint8_t)~KV_FRAME_DIRTY);
}

/* Everything is used all the time: whatever can leave, coldest first. */
static uint32_t victim_by_force(struct kv_cache *cache, uint32_t *dirty, uint32_t dirty_max,
                                uint32_t *dirty_count)
{
    static const enum kv_tier order[] = {KV_TIER_WARM, KV_TIER_HOT};
    for (unsigned i = 0; i < 2; i++) {
        uint32_t index = cache->queues[order[i]].tail;
        for (; index != KV_FRAME_NONE; index = cache->frames[index].queue_prev) {
            const struct kv_frame *frame = &cache->frames[index];
            if (!can_leave(frame))
                continue;
            if (!(frame->flags & KV_FRAME_DIRTY))
                return index;
            if (*dirty_count < dirty_max)
                dirty[(*dirty_count)++] = index;
        }
    }
    return KV_FRAME_NONE;
}

uint32_t kv_cache_victim(struct kv_cache *cache, uint32_t *dirty, uint32_t dirty_max,
                         uint32_t *dirty_count)
{
    *dirty_count = 0;
    limit_hot(cache);
    struct kv_cache_queue *warm = &cache->queues[KV_TIER_WARM];
    /* Twice round: the first turn may clear marks that the second then finds cleared. */
    for (uint32_t steps = 2 * (warm->count + cache->queues[KV_TIER_HOT].count); steps; steps--) {
        if (!warm->count) {
            if (!cache->queues[KV_TIER_HOT].count)
                break;
            demote_one(cache);
            continue;
        }
        const uint32_t index = warm->tail;
        struct kv_frame *frame = &cache->frames[index];
        if (!can_leave(frame)) {
            move_to(cache, index, KV_TIER_WARM);
            continue;
        }
        if (kv_cache_uses(frame)) {
            atomic_store_explicit(&frame->referenced, 0, memory_order_relaxed);
            kv_cache_queue_unlink(cache, index);
            enter_hot(cache, index);
            continue;
        }
        if ((frame->flags & KV_FRAME_DIRTY) && !KV_PLANT(dirty_page_evicted)) {
            move_to(cache, index, KV_TIER_WARM);
            if (dirty_max)
                dirty[(*dirty_count)++] = index;
            if (dirty_max && *dirty_count == dirty_max)
                return KV_FRAME_NONE;
            continue;
        }
        cache->evictions++;
        cache->counts[KV_TIER_WARM].evictions++;
        const uint64_t page_id = atomic_load_explicit(&frame->page_id, memory_order_relaxed);
        cache->ghosts[bucket_of(cache, page_id)] = page_id;
        return index;
    }
    if (*dirty_count)
        return KV_FRAME_NONE;
    const uint32_t index = victim_by_force(cache, dirty, dirty_max, dirty_count);
    cache->evictions += index != KV_FRAME_NONE;
    return index;
}
