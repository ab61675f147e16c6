/*
 * kv/pager_change.c: the writer makes pages dirty, new and free.
 *
 * Owns       the shadows, the writer's credit of reserved clusters, the open epoch's number.
 * Invariant  each dirty page has a cluster reserved, and so has each shadow. A page that is dirty
 *            in the closing epoch keeps its bytes: it is copied to a shadow, or claimed, before
 *            it changes.
 * Locks      pager->mutex. One writer at a time: the thread with the store's writer lock.
 */
#include "kv/pager_frames.h"

/* One cluster of the writer's credit for a page that becomes dirty. */
static int spend_credit(struct kv_pager *pager)
{
    if (!pager->credit)
        return kv_space_reserve(pager->config.space, 1, KV_SPACE_LAST);
    pager->credit--;
    return 0;
}

/* NULL: no memory. */
static struct shadow *new_shadow(struct kv_pager *pager)
{
    struct shadow *shadow = pager->shadows_free;
    if (!shadow)
        return malloc(sizeof *shadow + pager->config.node_bytes);
    pager->shadows_free = shadow->next;
    return shadow;
}

/*
 * The page is dirty in the closing epoch and not yet claimed: keep its present bytes for the
 * checkpoint. When there are too many shadows, or no memory for one, help to write what is left of
 * the epoch, shadows first: so the writer goes on at the pace of the checkpoint, and the
 * checkpoint at twice its own.
 */
static int shadow_page(struct kv_pager *pager, uint32_t index)
{
    struct kv_frame *frame = frame_at(pager, index);
    struct shadow *shadow = NULL;
    while (!shadow) {
        if (!(frame->flags & KV_FRAME_DIRTY) || frame->dirty_epoch == pager->epoch)
            return 0; /* the checkpoint came to it meanwhile */
        if (pager->shadow_count < pager->shadows_max)
            shadow = new_shadow(pager);
        const int err = shadow ? 0 : kv_pager_help_locked(pager);
        if (err)
            return err;
    }
    shadow->page_id = page_id_of(frame);
    shadow->frame = index;
    memcpy(shadow->bytes, kv_cache_bytes(&pager->cache, index), pager->config.node_bytes);
    shadow->next = pager->shadows;
    pager->shadows = shadow;
    pager->shadow_count++;
    frame->flags |= KV_FRAME_SHADOWED;
    dirty_unlink(pager, index); /* its reservation goes with the shadow */
    return 0;
}

int kv_pager_dirty(struct kv_pager *pager, struct kv_page *page)
{
    int err = 0;
    if (page->dirty) /* and as it is pinned, nobody writes it meanwhile */
        return 0;
    pthread_mutex_lock(&pager->mutex);
    struct kv_frame *frame = frame_at(pager, page->frame);
    KV_ASSERT(frame->pins > 0);
    if ((frame->flags & KV_FRAME_DIRTY) && frame->dirty_epoch != pager->epoch &&
        !KV_PLANT(shadow_not_taken))
        err = shadow_page(pager, page->frame);
    if (!err && !(frame->flags & KV_FRAME_DIRTY)) {
        err = spend_credit(pager);
        if (!err) {
            dirty_link(pager, page->frame, pager->epoch);
            kv_cache_drop_packed(&pager->cache, page->id);
        }
    }
    pthread_mutex_unlock(&pager->mutex);
    page->dirty = !err;
    pager->changes += !err;
    return err;
}

int kv_pager_new(struct kv_pager *pager, struct kv_page *page)
{
    uint64_t page_id;
    int err = kv_pagemap_take_id(pager->config.map, &page_id);
    if (err)
        return err;
    uint32_t index;
    bool released;
    pthread_mutex_lock(&pager->mutex);
    err = kv_pager_obtain_frame(pager, &index, &released);
    if (!err) {
        err = spend_credit(pager);
        if (err)
            kv_pager_give_back_frame(pager, index);
    }
    if (err) {
        kv_ignore(kv_pagemap_drop(pager->config.map, pager->epoch, page_id, false));
    } else {
        struct kv_frame *frame = frame_at(pager, index);
        frame->flags = 0;
        frame->pins = 1;
        frame->stored_bytes = 0;
        kv_cache_insert(&pager->cache, index, page_id);
        dirty_link(pager, index, pager->epoch);
        fill_page(pager, page_id, index, page);
        page->dirty = true;
        pager->changes++;
    }
    pthread_mutex_unlock(&pager->mutex);
    return err;
}

int kv_pager_free(struct kv_pager *pager, struct kv_page *page)
{
    int err = 0;
    pthread_mutex_lock(&pager->mutex);
    struct kv_frame *frame = frame_at(pager, page->frame);
    KV_ASSERT(frame->pins == 1);
    KV_ASSERT(frame->flags & KV_FRAME_DIRTY);
    KV_ASSERT(frame->dirty_epoch == pager->epoch);
    if (!KV_PLANT(freed_page_readable))
        version_advance(frame); /* odd for good: no reader takes it any more */
    frame->pins = 0;
    page->bytes = NULL;
    if (frame->flags & (KV_FRAME_WRITING | KV_FRAME_SHADOWED))
        frame->flags |= KV_FRAME_FREED; /* an older version is on its way: end it after that */
    else
        err = kv_pager_forget_page(pager, page->frame, pager->epoch);
    pthread_mutex_unlock(&pager->mutex);
    return err;
}

int kv_pager_reserve(struct kv_pager *pager, uint64_t page_count, bool urgent)
{
    int err = kv_space_reserve(pager->config.space, page_count,
                               urgent ? KV_SPACE_URGENT : KV_SPACE_NORMAL);
    if (err)
        return err;
    err = kv_pager_take_reserved(pager, page_count);
    if (err)
        kv_space_unreserve(pager->config.space, page_count);
    return err;
}

int kv_pager_take_reserved(struct kv_pager *pager, uint64_t page_count)
{
    pthread_mutex_lock(&pager->mutex);
    const int err = kv_pager_limit_dirty(pager);
    if (!err)
        pager->credit += page_count;
    pthread_mutex_unlock(&pager->mutex);
    return err;
}

uint64_t kv_pager_changes(const struct kv_pager *pager)
{
    return pager->changes;
}

void kv_pager_unreserve(struct kv_pager *pager)
{
    pthread_mutex_lock(&pager->mutex);
    const uint64_t credit = pager->credit;
    pager->credit = 0;
    pthread_mutex_unlock(&pager->mutex);
    if (credit)
        kv_space_unreserve(pager->config.space, credit);
}

/* ---- the checkpoint -------------------------------------------------------------- */

void kv_pager_open_epoch(struct kv_pager *pager, uint64_t epoch)
{
    pthread_mutex_lock(&pager->mutex);
    KV_ASSERT(epoch == pager->epoch + 1);
    KV_ASSERT(!pager->dirty[epoch & 1].count && !pager->dirty[epoch & 1].writing);
    KV_ASSERT(!pager->shadows);
    pager->closing_count = pager->dirty[pager->epoch & 1].count;
    pager->closing_count += pager->dirty[pager->epoch & 1].writing;
    pager->epoch = epoch;
    pthread_mutex_unlock(&pager->mutex);
}
