/*
 * kv/pager.c: page ids to frames: pages that are in memory are viewed, pinned and latched here.
 *
 * Owns       the cache's frames, and the other parts' state: see kv/pager_frames.h.
 * Invariant  who views a page takes nothing, and learns from its version whether what was read is
 *            true; a page that is pinned stays in its frame.
 * Locks      pager->mutex; views of what is in memory take none.
 *
 * What else there is to the pager: loading pages (pager_load.c), making room for them
 * (pager_room.c), writing them (pager_write.c), and what the writer does to them
 * (pager_change.c).
 */
#include "kv/pager_frames.h"

#include <sched.h>

#define SHADOWS_BYTES_MAX (8u << 20)
#define SPINS_BEFORE_LOCK 64u

/* ---- open, close ---------------------------------------------------------------- */

/* Shadowed frames can not leave, so they may not be most of the frames. */
static void limit_shadows(struct kv_pager *pager)
{
    pager->shadows_max = kv_min_u64(SHADOWS_BYTES_MAX / pager->config.node_bytes,
                                    kv_cache_frames_min(&pager->cache) / 4);
}

void kv_pager_apply_tiers(struct kv_pager *pager, const struct kv_tiers *tiers)
{
    kv_cache_set_tiers(&pager->cache, tiers);
    limit_shadows(pager);
    pthread_cond_broadcast(&pager->changed); /* who waits for a shadow may have it now */
}

void kv_pager_set_tiers(struct kv_pager *pager, const struct kv_tiers *tiers)
{
    pthread_mutex_lock(&pager->mutex);
    kv_pager_apply_tiers(pager, tiers);
    kv_pager_adapt_start(pager, &pager->cache.tiers);
    pthread_mutex_unlock(&pager->mutex);
}

static void free_batches(struct kv_pager *pager)
{
    kv_pager_batch_free(pager->early);
    for (unsigned i = 0; i < 2; i++)
        kv_pager_batch_free(pager->checkpoint[i]);
}

int kv_pager_open(const struct kv_pager_config *config, struct kv_pager **out)
{
    struct kv_pager *pager = calloc(1, sizeof *pager);
    if (!pager)
        return -ENOMEM;
    pager->config = *config;
    pager->epoch = config->epoch;
    int err =
        kv_cache_init(&pager->cache, config->budget_bytes, config->node_bytes, &config->tiers);
    if (err)
        goto out_pager;
    pager->cache.retain_percent = config->retain_percent;
    for (unsigned i = 0; i < 2; i++)
        pager->checkpoint[i] = kv_pager_batch_new(config->node_bytes, config->budget_bytes);
    pager->early = kv_pager_batch_new(config->node_bytes, config->budget_bytes);
    err = pager->checkpoint[0] && pager->checkpoint[1] && pager->early ? 0 : -ENOMEM;
    if (err)
        goto out_batches;
    err = -pthread_mutex_init(&pager->mutex, NULL);
    if (err)
        goto out_batches;
    err = -pthread_cond_init(&pager->changed, NULL);
    if (err)
        goto out_mutex;
    for (uint32_t i = 0; i < pager->cache.frame_count; i++)
        atomic_init(&pager->cache.frames[i].version, 1);
    for (unsigned i = 0; i < 2; i++)
        pager->dirty[i].head = pager->dirty[i].tail = KV_FRAME_NONE;
    limit_shadows(pager);
    kv_pager_adapt_start(pager, &pager->cache.tiers);
    *out = pager;
    return 0;

out_mutex:
    pthread_mutex_destroy(&pager->mutex);
out_batches:
    free_batches(pager);
    kv_cache_release(&pager->cache);
out_pager:
    free(pager);
    return err;
}

struct kv_arena *kv_pager_arena(struct kv_pager *pager)
{
    return &pager->cache.arena;
}

void kv_pager_close(struct kv_pager *pager)
{
    if (!pager)
        return;
    kv_pager_free_shadows(pager->shadows);
    kv_pager_free_shadows(pager->shadows_free);
    free_batches(pager);
    kv_cache_release(&pager->cache);
    pthread_cond_destroy(&pager->changed);
    pthread_mutex_destroy(&pager->mutex);
    free(pager);
}

/* ---- readers -------------------------------------------------------------------- */

/* View a frame if it holds the page and nobody is changing it. */
static bool view_frame(struct kv_pager *pager, uint32_t index, uint64_t page_id,
                       struct kv_page_view *view)
{
    const struct kv_frame *frame = frame_at(pager, index);
    const uint64_t version = atomic_load_explicit(&frame->version, memory_order_acquire);
    if ((version & 1) || page_id_of(frame) != page_id)
        return false;
    *view = (struct kv_page_view){
        .bytes = kv_cache_bytes(&pager->cache, index), .frame = frame, .version = version};
    return true;
}

static void count_hit(struct kv_pager *pager, uint32_t index)
{
    struct kv_frame *frame = frame_at(pager, index);
    const bool warm = atomic_load_explicit(&frame->tier, memory_order_relaxed) == KV_TIER_WARM;
    kv_cache_touch_racy(frame);
    kv_counter_add(&pager->hits[warm ? KV_TIER_WARM : KV_TIER_HOT], 1);
}

/* *index: where the page was, or KV_FRAME_NONE. */
static bool view_racy(struct kv_pager *pager, uint64_t page_id, struct kv_page_view *view,
                      uint32_t *index)
{
    *index = kv_cache_find_racy(&pager->cache, page_id);
    if (*index == KV_FRAME_NONE || !view_frame(pager, *index, page_id, view))
        return false;
    count_hit(pager, *index);
    return true;
}

int kv_pager_view(struct kv_pager *pager, uint64_t page_id, struct kv_page_view *view)
{
    bool loaded;
    return kv_pager_view_or_load(pager, page_id, view, &loaded);
}

int kv_pager_view_or_load(struct kv_pager *pager, uint64_t page_id, struct kv_page_view *view,
                          bool *loaded)
{
    *loaded = false;
    for (unsigned spins = 0;; spins++) {
        uint32_t index;
        if (view_racy(pager, page_id, view, &index))
            return 0;
        if (index != KV_FRAME_NONE && spins < SPINS_BEFORE_LOCK)
            continue;
        bool now = false;
        pthread_mutex_lock(&pager->mutex);
        const int err = kv_pager_fault(pager, page_id, &index, &now);
        /* Loading a page is not a use of it: else each page of a scan would look used twice. */
        const bool viewed = !err && view_frame(pager, index, page_id, view);
        pthread_mutex_unlock(&pager->mutex);
        if (viewed && !now)
            count_hit(pager, index);
        *loaded |= now;
        if (err || viewed)
            return err;
        sched_yield(); /* latched by the writer: let it end */
    }
}

bool kv_pager_view_resident(struct kv_pager *pager, uint64_t page_id, struct kv_page_view *view)
{
    uint32_t index;
    for (unsigned spins = 0; spins < SPINS_BEFORE_LOCK; spins++) {
        if (view_racy(pager, page_id, view, &index))
            return true;
        if (index == KV_FRAME_NONE)
            return false;
    }
    return false;
}

void kv_pager_use(struct kv_pager *pager, const struct kv_page_view *view)
{
    kv_cache_touch_racy(frame_at(pager, (uint32_t)(view->frame - pager->cache.frames)));
}

bool kv_pager_peek(struct kv_pager *pager, uint64_t page_id, struct kv_page_view *view)
{
    const uint32_t index = kv_cache_find_racy(&pager->cache, page_id);
    return index != KV_FRAME_NONE && view_frame(pager, index, page_id, view);
}

bool kv_pager_view_frame(struct kv_pager *pager, const struct kv_frame *frame, uint64_t page_id,
                         struct kv_page_view *view)
{
    return view_frame(pager, (uint32_t)(frame - pager->cache.frames), page_id, view);
}

bool kv_pager_view_at(struct kv_pager *pager, uint32_t frame, uint64_t page_id,
                      struct kv_page_view *view)
{
    return frame < pager->cache.frame_count && view_frame(pager, frame, page_id, view);
}

uint32_t kv_pager_frame_of(const struct kv_pager *pager, const struct kv_page_view *view)
{
    return (uint32_t)(view->frame - pager->cache.frames);
}

const uint8_t *kv_pager_fetch_at(const struct kv_pager *pager, uint32_t frame)
{
    if (frame >= pager->cache.frame_count)
        return NULL;
    __builtin_prefetch(&pager->cache.frames[frame]);
    return kv_cache_bytes(&pager->cache, frame);
}

void kv_pager_count_hit(struct kv_pager *pager, const struct kv_page_view *view)
{
    count_hit(pager, (uint32_t)(view->frame - pager->cache.frames));
}

void kv_pager_fetch_bucket(const struct kv_pager *pager, uint64_t page_id)
{
    kv_cache_fetch_bucket(&pager->cache, page_id);
}

void kv_pager_fetch_frame(const struct kv_pager *pager, uint64_t page_id)
{
    kv_cache_fetch_frame(&pager->cache, page_id);
}

bool kv_pager_view_valid(const struct kv_page_view *view)
{
    if (KV_PLANT(version_not_rechecked))
        return true;
        /* A read-modify-write keeps the racy reads before it from passing it (a seqlock's second
         * read), also in the eyes of the thread sanitizer, which knows no fences. */
#if defined(__SANITIZE_THREAD__)
    _Atomic uint64_t *version = (_Atomic uint64_t *)&((struct kv_frame *)view->frame)->version;
    return atomic_fetch_add_explicit(version, 0, memory_order_acq_rel) == view->version;
#else
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&view->frame->version, memory_order_relaxed) == view->version;
#endif
}

/* ---- the writer ----------------------------------------------------------------- */

int kv_pager_pin(struct kv_pager *pager, uint64_t page_id, struct kv_page *page)
{
    uint32_t index;
    bool loaded;
    pthread_mutex_lock(&pager->mutex);
    const int err = kv_pager_fault(pager, page_id, &index, &loaded);
    if (!err) {
        frame_at(pager, index)->pins++;
        if (!loaded)
            kv_cache_touch_racy(frame_at(pager, index));
        fill_page(pager, page_id, index, page);
    }
    pthread_mutex_unlock(&pager->mutex);
    return err;
}

bool kv_pager_pin_resident(struct kv_pager *pager, uint64_t page_id, struct kv_page *page)
{
    pthread_mutex_lock(&pager->mutex);
    const uint32_t index = kv_cache_find(&pager->cache, page_id);
    const bool resident = index != KV_FRAME_NONE &&
                          !(frame_at(pager, index)->flags & (KV_FRAME_LOADING | KV_FRAME_FREED));
    if (resident) {
        frame_at(pager, index)->pins++;
        fill_page(pager, page_id, index, page);
    }
    pthread_mutex_unlock(&pager->mutex);
    return resident;
}

/* With the mutex. */
static void unpin(struct kv_pager *pager, struct kv_page *page)
{
    if (!page->bytes)
        return;
    struct kv_frame *frame = frame_at(pager, page->frame);
    KV_ASSERT(frame->pins > 0);
    frame->pins--;
    if (pager->frame_waiters && !frame->pins)
        pthread_cond_broadcast(&pager->changed);
    page->bytes = NULL;
}

void kv_pager_unpin(struct kv_pager *pager, struct kv_page *page)
{
    if (!page->bytes)
        return;
    pthread_mutex_lock(&pager->mutex);
    unpin(pager, page);
    pthread_mutex_unlock(&pager->mutex);
}

bool kv_pager_pin_views(struct kv_pager *pager, const struct kv_page_view *views, size_t count,
                        struct kv_page *pages, struct kv_page *old, size_t old_count)
{
    pthread_mutex_lock(&pager->mutex);
    bool valid = true;
    for (size_t i = 0; i < count && valid; i++)
        valid = kv_pager_view_valid(&views[i]);
    for (size_t i = 0; i < count && valid; i++) {
        struct kv_frame *frame = frame_at(pager, (uint32_t)(views[i].frame - pager->cache.frames));
        frame->pins++;
        fill_page(pager, page_id_of(frame), (uint32_t)(frame - pager->cache.frames), &pages[i]);
    }
    for (size_t i = 0; i < old_count; i++)
        unpin(pager, &old[i]);
    pthread_mutex_unlock(&pager->mutex);
    return valid;
}

void kv_pager_latch(struct kv_pager *pager, const struct kv_page *page)
{
    struct kv_frame *frame = frame_at(pager, page->frame);
    version_advance(frame);
    KV_ASSERT(atomic_load_explicit(&frame->version, memory_order_relaxed) & 1);
}

void kv_pager_unlatch(struct kv_pager *pager, const struct kv_page *page)
{
    struct kv_frame *frame = frame_at(pager, page->frame);
    version_advance(frame);
    KV_ASSERT(!(atomic_load_explicit(&frame->version, memory_order_relaxed) & 1));
}

uint32_t kv_pager_frame_count(const struct kv_pager *pager)
{
    return pager->cache.frame_count;
}

uint64_t kv_pager_page_room(struct kv_pager *pager)
{
    pthread_mutex_lock(&pager->mutex);
    const uint64_t room = kv_cache_frames_min(&pager->cache);
    pthread_mutex_unlock(&pager->mutex);
    return room;
}

/* ---- figures -------------------------------------------------------------------- */

/* What the tiers hold, and what happened in them. */
static void stats_of_tiers(const struct kv_pager *pager, struct kv_tier_stats *tiers)
{
    const struct kv_cache *const cache = &pager->cache;
    const uint64_t frame_cost = cache->frame_bytes + KV_CACHE_FRAME_COST;
    const uint64_t cold_max = cache->cold_chunks_max * (uint64_t)KV_CHUNK_BYTES;
    const uint64_t slabs_max = cache->slabs_max * (uint64_t)cache->frame_bytes;
    const uint64_t frames_max = kv_cache_frames_min(cache) * frame_cost;
    memcpy(tiers, cache->counts, sizeof cache->counts);
    for (enum kv_tier tier = 0; tier < KV_TIER_COUNT; tier++)
        tiers[tier].pages = cache->queues[tier].count;
    tiers[KV_TIER_HOT].pages += cache->queues[KV_QUEUE_RETAINED].count;
    for (enum kv_tier tier = KV_TIER_HOT; tier <= KV_TIER_WARM; tier++) {
        tiers[tier].bytes = tiers[tier].pages * frame_cost;
        tiers[tier].hits = kv_counter_sum(&pager->hits[tier]);
    }
    tiers[KV_TIER_HOT].bytes_max = frames_max * cache->hot_percent / 100;
    tiers[KV_TIER_WARM].bytes_max = frames_max - tiers[KV_TIER_HOT].bytes_max;
    for (enum kv_tier tier = KV_TIER_COLD; tier <= KV_TIER_FROZEN; tier++)
        tiers[tier].bytes = cache->chunks[tier] * (uint64_t)KV_CHUNK_BYTES;
    tiers[KV_TIER_COLD].bytes_max = cold_max;
    tiers[KV_TIER_FROZEN].bytes_max = slabs_max - cold_max;
}

uint64_t kv_pager_dirty_pages(struct kv_pager *pager)
{
    pthread_mutex_lock(&pager->mutex);
    const uint64_t count = dirty_count(pager);
    pthread_mutex_unlock(&pager->mutex);
    return count;
}

void kv_pager_stats(struct kv_pager *pager, struct kv_pager_stats *stats)
{
    pthread_mutex_lock(&pager->mutex);
    *stats = (struct kv_pager_stats){
        .frames = pager->cache.frame_count,
        .dirty = dirty_count(pager),
        .misses = pager->misses,
        .evictions = pager->cache.evictions,
        .writes = pager->writes,
        .write_bytes = pager->write_bytes,
        .packed = pager->packed,
        .repacked = pager->repacked,
        .unpackable = pager->unpackable,
        .memory_bytes = (pager->cache.frame_count - pager->cache.queues[KV_QUEUE_FREE].count) *
                        (uint64_t)(pager->config.node_bytes + KV_CACHE_FRAME_COST),
    };
    const uint64_t frame_cost = pager->config.node_bytes + KV_CACHE_FRAME_COST;
    stats->retained_bytes = pager->cache.queues[KV_QUEUE_RETAINED].count * frame_cost;
    stats->retained_max_bytes = kv_cache_retained_max(&pager->cache) * frame_cost;
    stats_of_tiers(pager, stats->tiers);
    pthread_mutex_unlock(&pager->mutex);
}
