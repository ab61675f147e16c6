/*
 * kv/pager_room.c: frames for pages that are to come.
 *
 * Owns       which dirty pages are written out early, and when.
 * Invariant  a frame is taken from its page only when the page is clean, unpinned and not on its
 *            way; its version is odd from then on. One early write-out at a time.
 * Locks      pager->mutex, released while pages are written.
 */
#include "kv/pager_frames.h"

/* Of the warm pages, or so many: who passes over as many dirty ones asks for a clean-up. */
#define PASSED_PART 4u
#define PASSED_MAX  16u

/* Wait until something changes; a frame is wanted. */
static void wait_for_frame(struct kv_pager *pager)
{
    pager->frame_waiters++;
    pthread_cond_wait(&pager->changed, &pager->mutex);
    pager->frame_waiters--;
}

/* Write out some dirty pages that stand in the way. Releases the mutex meanwhile. */
static int clean_some(struct kv_pager *pager, const uint32_t *dirty, uint32_t dirty_count)
{
    if (pager->failure)
        return pager->failure;
    if (pager->early_busy) {
        wait_for_frame(pager);
        return 0;
    }
    struct write_batch *batch = pager->early;
    for (uint32_t i = 0; i < dirty_count && batch->count < batch->max; i++)
        if (can_clean(frame_at(pager, dirty[i])))
            kv_pager_claim_frame(pager, batch, dirty[i]);
    KV_ASSERT(batch->count > 0);
    pager->early_busy = true;
    const int err = kv_pager_run_batch(pager, batch);
    pager->early_busy = false;
    return err;
}

/* A frame that is free or can be freed at once, its version odd; or KV_FRAME_NONE. */
uint32_t kv_pager_take_frame(struct kv_pager *pager, uint32_t *dirty, uint32_t dirty_max,
                             uint32_t *dirty_count)
{
    *dirty_count = 0;
    if (!pager->cache.queues[KV_QUEUE_FREE].count && kv_cache_has_spare_slab(&pager->cache))
        kv_cache_free_slab(&pager->cache);
    const uint32_t index = kv_cache_take_free(&pager->cache);
    if (index != KV_FRAME_NONE)
        return index;
    const uint32_t victim = kv_cache_victim(&pager->cache, dirty, dirty_max, dirty_count);
    if (victim == KV_FRAME_NONE)
        return victim;
    struct kv_frame *frame = frame_at(pager, victim);
    version_advance(frame); /* odd: whoever reads it now will see that it left */
    frame->stored_bytes = 0;
    kv_cache_remove(&pager->cache, victim);
    return kv_cache_take_free(&pager->cache);
}

static void ask_for_cleaning(struct kv_pager *pager)
{
    if (!pager->cleaning_asked && pager->config.on_crowded)
        pager->cleaning_asked = pager->config.on_crowded(pager->config.context);
}

/*
 * Somebody looked for a frame and passed over so many dirty ones. Few frames are warm, and most are
 * hot: long before many of all are dirty there may be no clean one where pages leave, and whoever
 * reads must write.
 */
static void note_passed(struct kv_pager *pager, uint32_t dirty_count)
{
    const uint32_t warm = pager->cache.queues[KV_TIER_WARM].count;
    if (dirty_count < kv_min_u64(PASSED_MAX, warm / PASSED_PART + 1))
        return;
    pager->passed_many = true;
    ask_for_cleaning(pager);
}

/*
 * A frame without a page, its version odd. Called and returns with the mutex; may release it
 * meanwhile (*released). The caller has no frame in hand.
 */
int kv_pager_obtain_frame(struct kv_pager *pager, uint32_t *index, bool *released)
{
    uint32_t dirty[64];
    uint32_t dirty_count;
    for (;;) {
        *index = kv_pager_take_frame(pager, dirty, pager->failure ? 0 : 64, &dirty_count);
        note_passed(pager, dirty_count);
        if (*index != KV_FRAME_NONE)
            return 0;
        if (pager->failure)
            return pager->failure;
        *released = true;
        if (dirty_count) {
            const int err = clean_some(pager, dirty, dirty_count);
            if (err)
                return err;
        } else {
            wait_for_frame(pager);
        }
    }
}

void kv_pager_give_back_frame(struct kv_pager *pager, uint32_t index)
{
    /* Through insert and remove, so that the queues have one way in and out. */
    kv_cache_insert(&pager->cache, index, KV_PAGE_ID_MAX + 1);
    kv_cache_remove(&pager->cache, index);
    pthread_cond_broadcast(&pager->changed);
}

/*
 * Collect pages to write out, those that are dirty for the longest time first. Pages in hot will
 * likely be changed again soon: they come last.
 */
static uint32_t find_oldest(struct kv_pager *pager, uint32_t *dirty, uint32_t dirty_max)
{
    uint32_t found = 0;
    for (unsigned turn = 0; turn < 4 && !found; turn++) {
        const struct dirty_list *list = &pager->dirty[(pager->epoch + turn) & 1];
        for (uint32_t index = list->tail; index != KV_FRAME_NONE && found < dirty_max;
             index = frame_at(pager, index)->dirty_prev) {
            const struct kv_frame *frame = frame_at(pager, index);
            const bool hot =
                atomic_load_explicit(&frame->tier, memory_order_relaxed) == KV_TIER_HOT;
            if (can_clean(frame) && (turn >= 2 || !hot))
                dirty[found++] = index;
        }
    }
    return found;
}

/* Write out dirty pages until no more than `percent` of the frames are dirty. */
static int clean_down_to(struct kv_pager *pager, unsigned percent)
{
    uint32_t dirty[64];
    while (more_are_dirty(pager, kv_cache_frames(&pager->cache), percent)) {
        const uint32_t found = find_oldest(pager, dirty, 64);
        if (!found)
            return 0; /* all are on their way */
        const int err = clean_some(pager, dirty, found);
        if (err)
            return err;
    }
    return 0;
}

int kv_pager_limit_dirty(struct kv_pager *pager)
{
    if (more_are_dirty(pager, kv_cache_frames(&pager->cache), CLEAN_PERCENT))
        ask_for_cleaning(pager);
    return clean_down_to(pager, pager->cleaning_asked ? DIRTY_PERCENT : CLEAN_PERCENT);
}

void kv_pager_clean(struct kv_pager *pager)
{
    pthread_mutex_lock(&pager->mutex);
    /* An error is the pager's failure, which others meet, too. */
    if (pager->passed_many) {
        uint32_t dirty[64];
        const uint32_t found = find_oldest(pager, dirty, 64);
        if (found)
            kv_ignore(clean_some(pager, dirty, found));
    }
    pager->passed_many = false;
    kv_ignore(clean_down_to(pager, CLEAN_PERCENT));
    pager->cleaning_asked = false;
    pthread_mutex_unlock(&pager->mutex);
}

void kv_pager_drop_clean(struct kv_pager *pager)
{
    pthread_mutex_lock(&pager->mutex);
    for (uint32_t i = 0; i < pager->cache.frame_count; i++) {
        struct kv_frame *frame = frame_at(pager, i);
        if (!page_id_of(frame) || frame->flags || frame->pins)
            continue;
        version_advance(frame); /* odd: whoever reads it now will see that it left */
        frame->stored_bytes = 0;
        kv_cache_remove(&pager->cache, i);
    }
    kv_cache_drop_all_packed(&pager->cache);
    pthread_cond_broadcast(&pager->changed);
    pthread_mutex_unlock(&pager->mutex);
}
