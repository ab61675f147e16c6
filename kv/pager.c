/*
 * kv/pager.c: page ids to frames: faults, dirty sets, epochs, early write-out.
 *
 * Owns       the cache's frames, the dirty lists of the two epochs, the shadows.
 * Invariant  a frame's version is odd while its bytes change, while it loads, and while it
 *            is free. A page that is dirty in the closing epoch is either claimed (copied and
 *            being written), or unchanged since the gate: whoever wants to change it first
 *            copies it to a shadow. The versions of one page reach the device in the order
 *            of their epochs, so `stored_block` is always the one before.
 * Locks      pager->mutex guards frames, queues, lists and counts; never held over a device
 *            call. Versions and the hash are atomic and read without it.
 *
 * A page written out early (to make room) goes to new space and into the page map's overlay
 * of its epoch: no superblock names it before the flip, so memory is bounded by the budget
 * and not by what an epoch changes.
 */
#include "kv/pager.h"

#include "kv/codec.h"
#include "kv/node.h"

#include <pthread.h>
#include <sched.h>

#define WRITE_BATCH_BYTES (1u << 20) /* pages written with one submission */
#define WRITE_BATCH_MAX   256u
#define SHADOWS_BYTES_MAX (8u << 20)
#define SPINS_BEFORE_LOCK 64u

struct shadow {
    struct shadow *next;
    uint64_t page_id;
    uint32_t frame;
    uint8_t bytes[];
};

struct dirty_list {
    uint32_t head;
    uint64_t count;
    uint64_t writing; /* claimed pages of this epoch that are not on the device yet */
};

struct kv_pager {
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* a load or a write ended */
    struct kv_pager_config config;
    struct kv_cache cache;
    uint64_t epoch;             /* mutex; the open one */
    struct dirty_list dirty[2]; /* mutex; by the low bit of the epoch */
    struct shadow *shadows;     /* mutex; all of epoch - 1 */
    size_t shadow_count;        /* mutex */
    uint64_t credit;            /* mutex; clusters reserved and not yet used by a dirty page */
    int failure;                /* mutex; sticky: a write failed */
    uint64_t misses, writes, write_bytes; /* mutex */
    _Atomic uint64_t hits;
};

/* ---- open, close -------------------------------------------------------------- */

int kv_pager_open(const struct kv_pager_config *config, struct kv_pager **out)
{
    struct kv_pager *pager = calloc(1, sizeof *pager);
    if (!pager)
        return -ENOMEM;
    pager->config = *config;
    pager->epoch = config->epoch;
    const int err =
        kv_cache_init(&pager->cache, config->budget_bytes, config->node_bytes, config->hot_percent);
    if (err) {
        free(pager);
        return err;
    }
    for (uint32_t i = 0; i < pager->cache.frame_count; i++)
        atomic_init(&pager->cache.frames[i].version, 1);
    pager->dirty[0].head = pager->dirty[1].head = KV_FRAME_NONE;
    pthread_mutex_init(&pager->mutex, NULL);
    pthread_cond_init(&pager->changed, NULL);
    *out = pager;
    return 0;
}

void kv_pager_close(struct kv_pager *pager)
{
    if (!pager)
        return;
    while (pager->shadows) {
        struct shadow *shadow = pager->shadows;
        pager->shadows = shadow->next;
        free(shadow);
    }
    kv_cache_release(&pager->cache);
    pthread_cond_destroy(&pager->changed);
    pthread_mutex_destroy(&pager->mutex);
    free(pager);
}

static struct kv_frame *frame_at(struct kv_pager *pager, uint32_t index)
{
    return &pager->cache.frames[index];
}

static uint64_t page_id_of(const struct kv_frame *frame)
{
    return atomic_load_explicit(&frame->page_id, memory_order_relaxed);
}

static void version_advance(struct kv_frame *frame)
{
    /* Release pairs with the acquire loads of kv_pager_view and kv_pager_view_valid. */
    (void)atomic_fetch_add_explicit(&frame->version, 1, memory_order_acq_rel);
}

/* ---- dirty lists ----------------------------------------------------------- */

static void dirty_link(struct kv_pager *pager, uint32_t index, uint64_t epoch)
{
    struct dirty_list *list = &pager->dirty[epoch & 1];
    struct kv_frame *frame = frame_at(pager, index);
    frame->flags |= KV_FRAME_DIRTY;
    frame->dirty_epoch = epoch;
    frame->dirty_prev = KV_FRAME_NONE;
    frame->dirty_next = list->head;
    if (list->head != KV_FRAME_NONE)
        frame_at(pager, list->head)->dirty_prev = index;
    list->head = index;
    list->count++;
}

static void dirty_unlink(struct kv_pager *pager, uint32_t index)
{
    struct kv_frame *frame = frame_at(pager, index);
    struct dirty_list *list = &pager->dirty[frame->dirty_epoch & 1];
    if (frame->dirty_prev != KV_FRAME_NONE)
        frame_at(pager, frame->dirty_prev)->dirty_next = frame->dirty_next;
    else
        list->head = frame->dirty_next;
    if (frame->dirty_next != KV_FRAME_NONE)
        frame_at(pager, frame->dirty_next)->dirty_prev = frame->dirty_prev;
    frame->flags &= (uint8_t)~KV_FRAME_DIRTY;
    list->count--;
}

/* ---- writing pages ---------------------------------------------------------- */

/* One page on its way to the device. */
struct claim {
    uint32_t frame;
    uint64_t page_id, epoch;
    struct shadow *shadow; /* its bytes, or NULL: the frame's */
    uint64_t block;        /* where it goes */
    uint32_t block_count;
    uint64_t old_block; /* where its version before lies */
    uint32_t old_bytes;
    struct kv_disk_ptr ptr;
};

struct write_batch {
    struct claim claims[WRITE_BATCH_MAX];
    size_t count, max;
    uint8_t *raw;    /* copies of the pages, count * node_bytes */
    uint8_t *packed; /* what is written, each page in whole blocks */
    struct kv_io ios[WRITE_BATCH_MAX];
};

static struct write_batch *batch_new(struct kv_pager *pager)
{
    struct write_batch *batch = malloc(sizeof *batch);
    if (!batch)
        return NULL;
    batch->count = 0;
    batch->max = kv_min_u64(WRITE_BATCH_MAX, WRITE_BATCH_BYTES / pager->config.node_bytes);
    batch->raw = kv_buffers_take(pager->config.buffers, WRITE_BATCH_BYTES);
    batch->packed = kv_buffers_take(pager->config.buffers, WRITE_BATCH_BYTES);
    if (batch->raw && batch->packed)
        return batch;
    kv_buffers_give(pager->config.buffers, batch->raw, WRITE_BATCH_BYTES);
    kv_buffers_give(pager->config.buffers, batch->packed, WRITE_BATCH_BYTES);
    free(batch);
    return NULL;
}

static void batch_free(struct kv_pager *pager, struct write_batch *batch)
{
    if (!batch)
        return;
    kv_buffers_give(pager->config.buffers, batch->raw, WRITE_BATCH_BYTES);
    kv_buffers_give(pager->config.buffers, batch->packed, WRITE_BATCH_BYTES);
    free(batch);
}

/* The freed page of a frame leaves the map and the space, in the epoch that freed it. */
static int forget_page(struct kv_pager *pager, uint32_t index, uint64_t epoch)
{
    struct kv_frame *frame = frame_at(pager, index);
    const uint64_t page_id = page_id_of(frame);
    if (frame->stored_bytes) {
        int err = kv_pagemap_set(pager->config.map, epoch, page_id, NULL);
        if (!err)
            err = kv_space_free(pager->config.space, epoch, frame->stored_block,
                                (uint32_t)kv_blocks_for(frame->stored_bytes));
        if (err)
            return err;
    }
    if (frame->flags & KV_FRAME_DIRTY) {
        dirty_unlink(pager, index);
        kv_space_unreserve(pager->config.space, 1);
    }
    frame->flags = 0;
    frame->stored_bytes = 0;
    KV_ASSERT(atomic_load_explicit(&frame->version, memory_order_relaxed) & 1);
    kv_cache_remove(&pager->cache, index);
    kv_pagemap_give_id(pager->config.map, page_id);
    pthread_cond_broadcast(&pager->changed);
    return 0;
}

/* Copy a dirty frame's bytes into the batch. They do not change: see the invariant. */
static void claim_frame(struct kv_pager *pager, struct write_batch *batch, uint32_t index)
{
    struct kv_frame *frame = frame_at(pager, index);
    struct claim *claim = &batch->claims[batch->count];
    *claim = (struct claim){.frame = index,
                            .page_id = page_id_of(frame),
                            .epoch = frame->dirty_epoch,
                            .old_block = frame->stored_block,
                            .old_bytes = frame->stored_bytes};
    memcpy(batch->raw + batch->count * pager->config.node_bytes,
           kv_cache_bytes(&pager->cache, index), pager->config.node_bytes);
    batch->count++;
    pager->dirty[frame->dirty_epoch & 1].writing++;
    dirty_unlink(pager, index);
    frame->flags |= KV_FRAME_WRITING;
}

static void claim_shadow(struct kv_pager *pager, struct write_batch *batch, struct shadow *shadow)
{
    struct kv_frame *frame = frame_at(pager, shadow->frame);
    struct claim *claim = &batch->claims[batch->count];
    *claim = (struct claim){.frame = shadow->frame,
                            .page_id = shadow->page_id,
                            .epoch = pager->epoch - 1,
                            .shadow = shadow,
                            .old_block = frame->stored_block,
                            .old_bytes = frame->stored_bytes};
    memcpy(batch->raw + batch->count * pager->config.node_bytes, shadow->bytes,
           pager->config.node_bytes);
    batch->count++;
    pager->dirty[claim->epoch & 1].writing++;
    frame->flags |= KV_FRAME_WRITING;
}

/* Pack a claimed page to `dst` and find it a place. */
static int place_page(struct kv_pager *pager, struct claim *claim, uint8_t *raw, uint8_t *dst)
{
    const size_t node_bytes = pager->config.node_bytes;
    struct kv_disk_node *node = (struct kv_disk_node *)raw;
    node->epoch = kv_le64_of(claim->epoch);
    KV_ASSERT_SLOW(kv_node_validate(raw, node_bytes, claim->page_id) == 0);
    enum kv_codec used;
    const size_t length =
        kv_codec_pack(pager->config.codec, raw, node_bytes, dst, node_bytes, &used);
    claim->block_count = (uint32_t)kv_blocks_for(length);
    memset(dst + length, 0, claim->block_count * (size_t)KV_BLOCK_BYTES - length);
    uint32_t got;
    const int err = kv_space_alloc(pager->config.space, KV_SPACE_PAGE, claim->block_count,
                                   claim->block_count, &claim->block, &got);
    if (err) {
        claim->block_count = 0;
        return err;
    }
    const uint64_t seed = kv_digest_seed(claim->page_id, claim->epoch);
    claim->ptr = (struct kv_disk_ptr){.block = kv_le64_of(claim->block),
                                      .length_bytes = kv_le32_of((uint32_t)length),
                                      .codec = (uint8_t)used,
                                      .birth_epoch = kv_le64_of(claim->epoch),
                                      .digest = kv_le64_of(kv_digest(dst, length, seed))};
    return 0;
}

/* Pack, place and write all claimed pages; neighbours on the device go in one request. */
static int write_claims(struct kv_pager *pager, struct write_batch *batch)
{
    size_t io_count = 0;
    uint8_t *dst = batch->packed;
    int err = 0;
    for (size_t i = 0; i < batch->count && !err; i++) {
        struct claim *claim = &batch->claims[i];
        err = place_page(pager, claim, batch->raw + i * pager->config.node_bytes, dst);
        if (err)
            break;
        struct kv_io *last = io_count ? &batch->ios[io_count - 1] : NULL;
        if (last && last->block + last->block_count == claim->block)
            last->block_count += claim->block_count;
        else
            batch->ios[io_count++] = (struct kv_io){.kind = KV_IO_WRITE,
                                                    .block = claim->block,
                                                    .block_count = claim->block_count,
                                                    .buf = dst};
        dst += claim->block_count * (size_t)KV_BLOCK_BYTES;
    }
    if (!err)
        err = kv_device_submit(pager->config.device, batch->ios, io_count, false);
    for (size_t i = 0; i < batch->count && !err; i++) {
        const struct claim *claim = &batch->claims[i];
        err = kv_space_commit(pager->config.space, claim->epoch, claim->block, claim->block_count);
        if (!err && claim->old_bytes)
            err = kv_space_free(pager->config.space, claim->epoch, claim->old_block,
                                (uint32_t)kv_blocks_for(claim->old_bytes));
        if (!err)
            err = kv_pagemap_set(pager->config.map, claim->epoch, claim->page_id, &claim->ptr);
    }
    return err;
}

/* Under the mutex: the claim's page is on the device (or is dirty again, after an error). */
static void end_claim(struct kv_pager *pager, struct claim *claim, int err)
{
    struct kv_frame *frame = frame_at(pager, claim->frame);
    frame->flags &= (uint8_t)~KV_FRAME_WRITING;
    pager->dirty[claim->epoch & 1].writing--;
    if (claim->shadow) {
        frame->flags &= (uint8_t)~KV_FRAME_SHADOWED;
        pager->shadow_count--;
        free(claim->shadow);
    }
    if (err) {
        /* The store is read-only from here on; the frame keeps the only good copy. */
        if (!(frame->flags & KV_FRAME_DIRTY))
            dirty_link(pager, claim->frame, claim->epoch);
        return;
    }
    kv_space_unreserve(pager->config.space, 1);
    frame->stored_block = claim->block;
    frame->stored_bytes = kv_le32_get(claim->ptr.length_bytes);
    pager->writes++;
    pager->write_bytes += claim->block_count * (uint64_t)KV_BLOCK_BYTES;
}

/* Called and returns with the mutex; releases it over the I/O. Empties the batch. */
static int run_batch(struct kv_pager *pager, struct write_batch *batch)
{
    pthread_mutex_unlock(&pager->mutex);
    const int err = write_claims(pager, batch);
    if (err)
        pager->config.on_failure(pager->config.context, err, "writing pages");
    pthread_mutex_lock(&pager->mutex);
    if (err && !pager->failure)
        pager->failure = err;
    for (size_t i = 0; i < batch->count; i++)
        end_claim(pager, &batch->claims[i], err);
    batch->count = 0;
    pthread_cond_broadcast(&pager->changed);
    return err;
}

/* ---- making room -------------------------------------------------------------- */

/* Write out some dirty pages that stand in the way. Releases the mutex meanwhile. */
static int clean_some(struct kv_pager *pager, const uint32_t *dirty, uint32_t dirty_count)
{
    if (pager->failure)
        return pager->failure;
    struct write_batch *batch = batch_new(pager);
    if (!batch)
        return -ENOMEM;
    for (uint32_t i = 0; i < dirty_count && batch->count < batch->max; i++)
        if (frame_at(pager, dirty[i])->flags == KV_FRAME_DIRTY && !frame_at(pager, dirty[i])->pins)
            claim_frame(pager, batch, dirty[i]);
    const int err = batch->count ? run_batch(pager, batch) : 0;
    batch_free(pager, batch);
    return err;
}

/*
 * A frame without a page, its version odd. Called and returns with the mutex; may release it
 * meanwhile (*released).
 */
static int obtain_frame(struct kv_pager *pager, uint32_t *index, bool *released)
{
    uint32_t dirty[64];
    uint32_t dirty_count;
    for (;;) {
        *index = kv_cache_take_free(&pager->cache);
        if (*index != KV_FRAME_NONE)
            return 0;
        const uint32_t victim = kv_cache_victim(&pager->cache, dirty, 64, &dirty_count);
        if (victim != KV_FRAME_NONE) {
            struct kv_frame *frame = frame_at(pager, victim);
            version_advance(frame); /* odd: whoever reads it now will see that it left */
            frame->stored_bytes = 0;
            kv_cache_remove(&pager->cache, victim);
            continue;
        }
        *released = true;
        if (dirty_count) {
            const int err = clean_some(pager, dirty, dirty_count);
            if (err)
                return err;
        } else {
            pthread_cond_wait(&pager->changed, &pager->mutex);
        }
    }
}

static void give_back_frame(struct kv_pager *pager, uint32_t index)
{
    /* Through insert and remove, so that the queues have one way in and out. */
    kv_cache_insert(&pager->cache, index, KV_PAGE_ID_MAX + 1);
    kv_cache_remove(&pager->cache, index);
    pthread_cond_broadcast(&pager->changed);
}

/* ---- faults ------------------------------------------------------------------- */

int kv_pager_read_stored(struct kv_pager *pager, uint64_t page_id, const struct kv_disk_ptr *ptr,
                         void *out)
{
    const size_t node_bytes = pager->config.node_bytes;
    const uint64_t block = kv_le64_get(ptr->block);
    const size_t length = kv_le32_get(ptr->length_bytes);
    const uint32_t block_count = (uint32_t)kv_blocks_for(length);
    if (!length || length > node_bytes ||
        !kv_space_contains(pager->config.space, block, block_count))
        return -EUCLEAN;
    const bool in_place = length == node_bytes && ptr->codec == KV_CODEC_NONE;
    void *stored = in_place ? out : kv_buffers_take(pager->config.buffers, node_bytes);
    if (!stored)
        return -ENOMEM;
    int err = kv_device_read(pager->config.device, block, block_count, stored);
    const uint64_t seed = kv_digest_seed(page_id, kv_le64_get(ptr->birth_epoch));
    if (!err && kv_digest(stored, length, seed) != kv_le64_get(ptr->digest))
        err = -EBADMSG;
    if (!err && !in_place)
        err = kv_codec_unpack(ptr->codec, stored, length, out, node_bytes);
    if (!err)
        err = kv_node_validate(out, node_bytes, page_id);
    if (!in_place)
        kv_buffers_give(pager->config.buffers, stored, node_bytes);
    return err;
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
    pthread_cond_broadcast(&pager->changed);
    pthread_mutex_unlock(&pager->mutex);
}

/* Fill a frame that is LOADING. Without the mutex. */
static int load_page(struct kv_pager *pager, uint64_t page_id, uint32_t index)
{
    struct kv_disk_ptr ptr;
    int err = kv_pagemap_get(pager->config.map, page_id, &ptr);
    if (err)
        return err;
    if (!kv_le64_get(ptr.block))
        return -ESTALE;
    err = kv_pager_read_stored(pager, page_id, &ptr, kv_cache_bytes(&pager->cache, index));
    if (err)
        return err;
    struct kv_frame *frame = frame_at(pager, index);
    frame->stored_block = kv_le64_get(ptr.block); /* LOADING: ours alone */
    frame->stored_bytes = kv_le32_get(ptr.length_bytes);
    return 0;
}

/* The frame of a page, loaded if need be. Called and returns with the mutex. */
static int fault(struct kv_pager *pager, uint64_t page_id, uint32_t *index)
{
    for (;;) {
        *index = kv_cache_find(&pager->cache, page_id);
        if (*index != KV_FRAME_NONE) {
            const uint8_t flags = frame_at(pager, *index)->flags;
            if (flags & KV_FRAME_FREED)
                return -ESTALE;
            if (!(flags & KV_FRAME_LOADING))
                return 0;
            pthread_cond_wait(&pager->changed, &pager->mutex);
            continue;
        }
        bool released = false;
        int err = obtain_frame(pager, index, &released);
        if (err)
            return err;
        if (released && kv_cache_find(&pager->cache, page_id) != KV_FRAME_NONE) {
            give_back_frame(pager, *index);
            continue;
        }
        struct kv_frame *frame = frame_at(pager, *index);
        frame->flags = KV_FRAME_LOADING;
        kv_cache_insert(&pager->cache, *index, page_id);
        pager->misses++;
        pthread_mutex_unlock(&pager->mutex);
        err = load_page(pager, page_id, *index);
        if (err == -EBADMSG || err == -EUCLEAN || err == -EIO)
            pager->config.on_damage(pager->config.context, page_id, err);
        pthread_mutex_lock(&pager->mutex);
        frame->flags = 0;
        if (err)
            kv_cache_remove(&pager->cache, *index);
        else
            version_advance(frame); /* even: readable */
        pthread_cond_broadcast(&pager->changed);
        return err;
    }
}

/* ---- readers -------------------------------------------------------------------- */

int kv_pager_view(struct kv_pager *pager, uint64_t page_id, struct kv_page_view *view)
{
    for (unsigned spins = 0;; spins++) {
        const uint32_t index = kv_cache_find_racy(&pager->cache, page_id);
        if (index != KV_FRAME_NONE) {
            struct kv_frame *frame = frame_at(pager, index);
            const uint64_t version = atomic_load_explicit(&frame->version, memory_order_acquire);
            if (!(version & 1) && page_id_of(frame) == page_id) {
                kv_cache_touch_racy(frame);
                (void)atomic_fetch_add_explicit(&pager->hits, 1, memory_order_relaxed);
                *view = (struct kv_page_view){.bytes = kv_cache_bytes(&pager->cache, index),
                                              .frame = frame,
                                              .version = version};
                return 0;
            }
            if (spins < SPINS_BEFORE_LOCK)
                continue;
        }
        uint32_t loaded;
        pthread_mutex_lock(&pager->mutex);
        const int err = fault(pager, page_id, &loaded);
        pthread_mutex_unlock(&pager->mutex);
        if (err)
            return err;
        if (spins >= SPINS_BEFORE_LOCK)
            sched_yield(); /* latched by the writer: let it end */
    }
}

bool kv_pager_view_valid(const struct kv_page_view *view)
{
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

/* ---- the writer -------------------------------------------------------------- */

static void fill_page(struct kv_pager *pager, uint64_t page_id, uint32_t index,
                      struct kv_page *page)
{
    *page = (struct kv_page){
        .id = page_id, .bytes = kv_cache_bytes(&pager->cache, index), .frame = index};
}

int kv_pager_pin(struct kv_pager *pager, uint64_t page_id, struct kv_page *page)
{
    uint32_t index;
    pthread_mutex_lock(&pager->mutex);
    const int err = fault(pager, page_id, &index);
    if (!err) {
        frame_at(pager, index)->pins++;
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

void kv_pager_unpin(struct kv_pager *pager, struct kv_page *page)
{
    if (!page->bytes)
        return;
    pthread_mutex_lock(&pager->mutex);
    struct kv_frame *frame = frame_at(pager, page->frame);
    KV_ASSERT(frame->pins > 0);
    frame->pins--;
    pthread_mutex_unlock(&pager->mutex);
    page->bytes = NULL;
}

/* One cluster of the writer's credit for a page that becomes dirty. */
static int spend_credit(struct kv_pager *pager)
{
    if (!pager->credit)
        return kv_space_reserve(pager->config.space, 1, true);
    pager->credit--;
    return 0;
}

/*
 * The page is dirty in the closing epoch and not yet claimed: keep its present bytes for the
 * checkpoint. When there are too many shadows, wait until the checkpoint claims the page.
 */
static int shadow_page(struct kv_pager *pager, uint32_t index)
{
    struct kv_frame *frame = frame_at(pager, index);
    const size_t shadows_max = SHADOWS_BYTES_MAX / pager->config.node_bytes;
    struct shadow *shadow = NULL;
    if (pager->shadow_count < shadows_max)
        shadow = malloc(sizeof *shadow + pager->config.node_bytes);
    if (!shadow) {
        while ((frame->flags & KV_FRAME_DIRTY) && frame->dirty_epoch != pager->epoch &&
               !pager->failure)
            pthread_cond_wait(&pager->changed, &pager->mutex);
        return pager->failure;
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

int kv_pager_dirty(struct kv_pager *pager, const struct kv_page *page)
{
    int err = 0;
    pthread_mutex_lock(&pager->mutex);
    struct kv_frame *frame = frame_at(pager, page->frame);
    KV_ASSERT(frame->pins > 0);
    if ((frame->flags & KV_FRAME_DIRTY) && frame->dirty_epoch != pager->epoch)
        err = shadow_page(pager, page->frame);
    if (!err && !(frame->flags & KV_FRAME_DIRTY)) {
        err = spend_credit(pager);
        if (!err)
            dirty_link(pager, page->frame, pager->epoch);
    }
    pthread_mutex_unlock(&pager->mutex);
    return err;
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

int kv_pager_new(struct kv_pager *pager, struct kv_page *page)
{
    uint64_t page_id;
    int err = kv_pagemap_take_id(pager->config.map, &page_id);
    if (err)
        return err;
    uint32_t index;
    bool released;
    pthread_mutex_lock(&pager->mutex);
    err = obtain_frame(pager, &index, &released);
    if (!err) {
        err = spend_credit(pager);
        if (err)
            give_back_frame(pager, index);
    }
    if (!err) {
        struct kv_frame *frame = frame_at(pager, index);
        frame->flags = 0;
        frame->pins = 1;
        frame->stored_bytes = 0;
        kv_cache_insert(&pager->cache, index, page_id);
        dirty_link(pager, index, pager->epoch);
        fill_page(pager, page_id, index, page);
    }
    pthread_mutex_unlock(&pager->mutex);
    if (err)
        kv_pagemap_give_id(pager->config.map, page_id);
    return err;
}

int kv_pager_free(struct kv_pager *pager, struct kv_page *page)
{
    int err = 0;
    pthread_mutex_lock(&pager->mutex);
    struct kv_frame *frame = frame_at(pager, page->frame);
    KV_ASSERT(frame->pins == 1);
    KV_ASSERT((frame->flags & KV_FRAME_DIRTY) && frame->dirty_epoch == pager->epoch);
    version_advance(frame); /* odd for good: no reader takes it any more */
    frame->pins = 0;
    page->bytes = NULL;
    if (frame->flags & (KV_FRAME_WRITING | KV_FRAME_SHADOWED))
        frame->flags |= KV_FRAME_FREED; /* an older version is on its way: end it after that */
    else
        err = forget_page(pager, page->frame, pager->epoch);
    pthread_mutex_unlock(&pager->mutex);
    return err;
}

int kv_pager_reserve(struct kv_pager *pager, uint64_t page_count, bool urgent)
{
    const int err = kv_space_reserve(pager->config.space, page_count, urgent);
    if (err)
        return err;
    pthread_mutex_lock(&pager->mutex);
    pager->credit += page_count;
    pthread_mutex_unlock(&pager->mutex);
    return 0;
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
    pager->epoch = epoch;
    pthread_mutex_unlock(&pager->mutex);
}

/* Claim what can be claimed of the closing epoch; freed pages are ended on the way. */
static int claim_epoch(struct kv_pager *pager, struct write_batch *batch, uint64_t epoch)
{
    for (struct shadow **link = &pager->shadows; *link && batch->count < batch->max;) {
        struct shadow *shadow = *link;
        if (frame_at(pager, shadow->frame)->flags & KV_FRAME_WRITING) {
            link = &shadow->next; /* its version before is still on its way */
            continue;
        }
        *link = shadow->next;
        claim_shadow(pager, batch, shadow);
    }
    uint32_t index = pager->dirty[epoch & 1].head;
    while (index != KV_FRAME_NONE && batch->count < batch->max) {
        struct kv_frame *frame = frame_at(pager, index);
        const uint32_t next = frame->dirty_next;
        if (frame->flags == (KV_FRAME_DIRTY | KV_FRAME_FREED)) {
            const int err = forget_page(pager, index, epoch);
            if (err)
                return err;
        } else if (frame->flags == KV_FRAME_DIRTY) {
            claim_frame(pager, batch, index);
        }
        index = next;
    }
    return 0;
}

int kv_pager_write_epoch(struct kv_pager *pager, uint64_t epoch)
{
    struct write_batch *batch = batch_new(pager);
    if (!batch)
        return -ENOMEM;
    const struct dirty_list *list = &pager->dirty[epoch & 1];
    pthread_mutex_lock(&pager->mutex);
    int err = pager->failure;
    while (!err && (list->count || list->writing || pager->shadows)) {
        err = claim_epoch(pager, batch, epoch);
        if (err)
            break;
        if (batch->count)
            err = run_batch(pager, batch);
        else if (list->count || list->writing || pager->shadows)
            pthread_cond_wait(&pager->changed, &pager->mutex);
        if (!err)
            err = pager->failure;
    }
    pthread_cond_broadcast(&pager->changed);
    pthread_mutex_unlock(&pager->mutex);
    batch_free(pager, batch);
    return err;
}

void kv_pager_stats(struct kv_pager *pager, struct kv_pager_stats *stats)
{
    pthread_mutex_lock(&pager->mutex);
    *stats = (struct kv_pager_stats){
        .frames = pager->cache.frame_count,
        .hot = pager->cache.queues[KV_TIER_HOT].count,
        .warm = pager->cache.queues[KV_TIER_WARM].count,
        .dirty = pager->dirty[0].count + pager->dirty[1].count,
        .hits = atomic_load_explicit(&pager->hits, memory_order_relaxed),
        .misses = pager->misses,
        .evictions = pager->cache.evictions,
        .writes = pager->writes,
        .write_bytes = pager->write_bytes,
        .memory_bytes = (pager->cache.frame_count - pager->cache.queues[KV_TIER_FREE].count) *
                        (uint64_t)(pager->config.node_bytes + sizeof(struct kv_frame)),
    };
    pthread_mutex_unlock(&pager->mutex);
}
