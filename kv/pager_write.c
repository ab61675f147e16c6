/*
 * kv/pager_write.c: dirty pages on their way to the device.
 *
 * Owns       the batches' memory; a page's place on the device, from when it is claimed.
 * Invariant  a claimed frame is WRITING until its page is on the device; a later version of the
 *            page waits for that. The batches are made at open: making room must not need memory.
 *            A checkpoint has two of them: one is packed while the other is on its way.
 * Locks      pager->mutex, released while a batch is packed, placed and written.
 *
 * A page written out early (to make room) goes to new space and into the page map's overlay
 * of its epoch: no superblock names it before the flip, so memory is bounded by the budget
 * and not by what an epoch changes. A page that is written twice in one epoch gives its first
 * place back at once: neither a superblock nor the log ever named it. So space is bounded by
 * the number of pages that an epoch changes and not by how often.
 */
#include "kv/pager_frames.h"

#include "kv/codec.h"
#include "kv/node.h"
#include "kv/stored_page.h"

/* Pages written with one submission: a part of the budget, within these. */
#define BATCH_BYTES_MAX (1u << 20)
#define BATCH_BYTES_MIN (256u << 10)
#define BATCH_PART      128u

struct write_batch *kv_pager_batch_new(size_t node_bytes, uint64_t budget_bytes)
{
    const size_t bytes =
        kv_max_u64(BATCH_BYTES_MIN, kv_min_u64(BATCH_BYTES_MAX, budget_bytes / BATCH_PART));
    struct write_batch *batch = malloc(sizeof *batch);
    if (!batch)
        return NULL;
    batch->count = 0;
    batch->flight = NULL;
    batch->max = kv_min_u64(WRITE_BATCH_MAX, bytes / node_bytes);
    batch->raw = malloc((batch->max + 1) * node_bytes);
    batch->packed = kv_device_alloc_unset(batch->max * node_bytes);
    if (batch->raw && batch->packed) {
        batch->bare = batch->raw + batch->max * node_bytes;
        return batch;
    }
    free(batch->raw);
    free(batch->packed);
    free(batch);
    return NULL;
}

void kv_pager_batch_free(struct write_batch *batch)
{
    if (!batch)
        return;
    free(batch->raw);
    free(batch->packed);
    free(batch);
}

void kv_pager_free_shadows(struct shadow *shadows)
{
    while (shadows) {
        struct shadow *shadow = shadows;
        shadows = shadow->next;
        free(shadow);
    }
}

/* `epoch` makes a stored version of a page unreachable. */
static int release_place(struct kv_pager *pager, uint64_t epoch, uint64_t block, uint32_t bytes,
                         uint64_t stored_epoch)
{
    const uint32_t block_count = (uint32_t)kv_blocks_for(bytes);
    if (stored_epoch != epoch && !KV_PLANT(freed_before_flip))
        return kv_space_free(pager->config.space, epoch, block, block_count);
    kv_space_unalloc(pager->config.space, block, block_count); /* nothing ever named it */
    return 0;
}

/* The freed page of a frame leaves memory, the map and the space, in the epoch that freed it. */
int kv_pager_forget_page(struct kv_pager *pager, uint32_t index, uint64_t epoch)
{
    struct kv_frame *frame = frame_at(pager, index);
    const struct kv_frame was = {.stored_bytes = frame->stored_bytes,
                                 .stored_block = frame->stored_block,
                                 .stored_epoch = frame->stored_epoch};
    const uint64_t page_id = page_id_of(frame);
    KV_ASSERT(atomic_load_explicit(&frame->version, memory_order_relaxed) & 1);
    KV_ASSERT(!kv_cache_has_packed(&pager->cache, page_id)); /* it was dirty */
    if (frame->flags & KV_FRAME_DIRTY) {
        dirty_unlink(pager, index);
        kv_space_unreserve(pager->config.space, 1);
    }
    frame->flags = 0;
    frame->stored_bytes = 0;
    kv_cache_remove(&pager->cache, index);
    pthread_cond_broadcast(&pager->changed);
    /* Last: from here on the id may be taken again. */
    const int err = kv_pagemap_drop(pager->config.map, epoch, page_id, was.stored_bytes);
    if (err || !was.stored_bytes)
        return err;
    return release_place(pager, epoch, was.stored_block, was.stored_bytes, was.stored_epoch);
}

/* Add a page to a batch: its frame's bytes, or those of a shadow. */
static void claim_page(struct kv_pager *pager, struct write_batch *batch, uint32_t index,
                       uint64_t epoch, struct shadow *shadow)
{
    struct kv_frame *frame = frame_at(pager, index);
    const size_t node_bytes = pager->config.node_bytes;
    KV_ASSERT(!(frame->flags & KV_FRAME_WRITING));
    batch->claims[batch->count] = (struct claim){.frame = index,
                                                 .page_id = page_id_of(frame),
                                                 .epoch = epoch,
                                                 .order = ++pager->order,
                                                 .shadow = shadow,
                                                 .old_block = frame->stored_block,
                                                 .old_bytes = frame->stored_bytes,
                                                 .old_epoch = frame->stored_epoch};
    struct claim *claim = &batch->claims[batch->count];
    claim->raw = shadow ? shadow->bytes : batch->raw + batch->count * node_bytes;
    if (!shadow)
        memcpy(claim->raw, kv_cache_bytes(&pager->cache, index), node_bytes);
    batch->count++;
    pager->dirty[epoch & 1].writing++;
    frame->flags |= KV_FRAME_WRITING;
}

/* The bytes of a dirty frame do not change while it is claimed: see the invariant. */
void kv_pager_claim_frame(struct kv_pager *pager, struct write_batch *batch, uint32_t index)
{
    claim_page(pager, batch, index, frame_at(pager, index)->dirty_epoch, NULL);
    dirty_unlink(pager, index);
}

/* Pack a claimed page to `dst` and find it a place. `bare` is node_bytes of scratch. */
static int place_page(struct kv_pager *pager, struct claim *claim, uint8_t *bare, uint8_t *dst)
{
    uint8_t *const raw = claim->raw;
    const size_t node_bytes = pager->config.node_bytes;
    struct kv_disk_node *node = (struct kv_disk_node *)raw;
    node->epoch = kv_le64_of(claim->epoch);
    KV_ASSERT_SLOW(kv_node_validate(raw, node_bytes, claim->page_id) == 0);
    enum kv_codec used;
    struct kv_metrics *metrics = pager->config.device->metrics;
    const uint64_t begin = kv_metrics_begin(metrics, KV_METRIC_CODEC);
    const size_t length =
        kv_stored_page_pack(raw, node_bytes, pager->config.form, claim->order, bare, dst, &used);
    kv_metrics_packed(metrics, begin, used, node_bytes, length);
    claim->stored = dst;
    claim->block_count = (uint32_t)kv_blocks_for(length);
    memset(dst + length, 0, claim->block_count * (size_t)KV_BLOCK_BYTES - length);
    uint32_t got;
    const int err = kv_space_alloc(pager->config.space, KV_SPACE_PAGE, claim->block_count,
                                   claim->block_count, &claim->block, &got);
    if (err) {
        claim->block_count = 0;
        return err;
    }
    kv_stored_page_seal(dst, length, pager->config.image_id, claim->block);
    const uint64_t seed = kv_digest_seed(claim->page_id, claim->epoch);
    claim->ptr = (struct kv_disk_ptr){.block = kv_le64_of(claim->block),
                                      .length_bytes = kv_le32_of((uint32_t)length),
                                      .codec = (uint8_t)used,
                                      .birth_epoch = kv_le64_of(claim->epoch),
                                      .digest = kv_le64_of(kv_digest(dst, length, seed))};
    return 0;
}

/* Pack and place all claimed pages; neighbours on the device go in one request. */
static int pack_claims(struct kv_pager *pager, struct write_batch *batch)
{
    uint8_t *dst = batch->packed;
    batch->io_count = 0;
    for (size_t i = 0; i < batch->count; i++) {
        struct claim *claim = &batch->claims[i];
        const int err = place_page(pager, claim, batch->bare, dst);
        if (err)
            return err;
        struct kv_io *last = batch->io_count ? &batch->ios[batch->io_count - 1] : NULL;
        if (last && last->block + last->block_count == claim->block)
            last->block_count += claim->block_count;
        else
            batch->ios[batch->io_count++] = (struct kv_io){.kind = KV_IO_WRITE,
                                                           .block = claim->block,
                                                           .block_count = claim->block_count,
                                                           .buf = dst};
        dst += claim->block_count * (size_t)KV_BLOCK_BYTES;
    }
    return 0;
}

/* The pages are on the device: the map says where, and their versions before go. */
static int map_claims(struct kv_pager *pager, struct write_batch *batch)
{
    int err = 0;
    for (size_t i = 0; i < batch->count && !err; i++) {
        const struct claim *claim = &batch->claims[i];
        err = kv_pagemap_set(pager->config.map, claim->epoch, claim->page_id, &claim->ptr);
        if (!err && claim->old_bytes)
            err = release_place(pager, claim->epoch, claim->old_block, claim->old_bytes,
                                claim->old_epoch);
    }
    return err;
}

/* Under the mutex: the claim's page is on the device, or after an error it is not. */
static int end_claim(struct kv_pager *pager, struct claim *claim, int err)
{
    struct kv_frame *frame = frame_at(pager, claim->frame);
    frame->flags &= (uint8_t)~KV_FRAME_WRITING;
    pager->dirty[claim->epoch & 1].writing--;
    if (claim->shadow) {
        frame->flags &= (uint8_t)~KV_FRAME_SHADOWED;
        pager->shadow_count--;
        claim->shadow->next = pager->shadows_free;
        pager->shadows_free = claim->shadow;
    }
    if (err) {
        /* The store is read-only from here on; the frame keeps the only good copy. */
        if (!(frame->flags & KV_FRAME_DIRTY))
            dirty_link(pager, claim->frame, claim->epoch);
        return err;
    }
    kv_space_unreserve(pager->config.space, 1);
    frame->stored_block = claim->block;
    frame->stored_bytes = kv_le32_get(claim->ptr.length_bytes);
    frame->stored_epoch = claim->epoch;
    pager->writes++;
    pager->write_bytes += claim->block_count * (uint64_t)KV_BLOCK_BYTES;
    if (frame->flags == (KV_FRAME_DIRTY | KV_FRAME_FREED))
        return kv_pager_forget_page(pager, claim->frame, frame->dirty_epoch);
    /* What is used will not leave soon. */
    if (!frame->flags && !kv_cache_uses(frame) &&
        atomic_load_explicit(&frame->tier, memory_order_relaxed) == KV_TIER_WARM)
        frame->unpackable =
            !kv_pager_keep_stored(pager, claim->page_id, &claim->ptr, claim->stored);
    return 0;
}

/* Called and returns with the mutex; releases it over the report. Returns `err`. */
static int fail(struct kv_pager *pager, int err, const char *what)
{
    if (pager->failure)
        return err;
    pager->failure = err;
    pthread_cond_broadcast(&pager->changed);
    pthread_mutex_unlock(&pager->mutex);
    pager->config.on_failure(pager->config.context, err, what);
    pthread_mutex_lock(&pager->mutex);
    return err;
}

/*
 * Called and returns with the mutex; releases it while pages are packed. The write is under way
 * then, unless the device would have one wait for it (batch->flight is NULL).
 */
static void begin_batch(struct kv_pager *pager, struct write_batch *batch)
{
    pthread_mutex_unlock(&pager->mutex);
    batch->err = pack_claims(pager, batch);
    if (!batch->err)
        batch->flight = kv_device_begin(pager->config.device, batch->ios, batch->io_count);
    pthread_mutex_lock(&pager->mutex);
}

/* Called and returns with the mutex; releases it over the I/O. Empties the batch. */
static int end_batch(struct kv_pager *pager, struct write_batch *batch)
{
    pthread_mutex_unlock(&pager->mutex);
    int write_err = batch->err;
    if (batch->flight)
        write_err = kv_device_end(pager->config.device, batch->flight);
    else if (!write_err)
        write_err = kv_device_submit(pager->config.device, batch->ios, batch->io_count, false);
    if (!write_err)
        write_err = map_claims(pager, batch);
    batch->flight = NULL;
    pthread_mutex_lock(&pager->mutex);
    int err = write_err;
    for (size_t i = 0; i < batch->count; i++) {
        const int end_err = end_claim(pager, &batch->claims[i], write_err);
        if (!err)
            err = end_err;
    }
    batch->count = 0;
    pthread_cond_broadcast(&pager->changed);
    return err ? fail(pager, err, "writing pages") : 0;
}

int kv_pager_run_batch(struct kv_pager *pager, struct write_batch *batch)
{
    pthread_mutex_unlock(&pager->mutex);
    batch->err = pack_claims(pager, batch);
    pthread_mutex_lock(&pager->mutex);
    return end_batch(pager, batch);
}

/* ---- the checkpoint -------------------------------------------------------------- */

/* Pages of the closing epoch that are not on the device; shadows count twice on their way. */
static uint64_t left_to_write(const struct kv_pager *pager)
{
    const struct dirty_list *closing = &pager->dirty[(pager->epoch - 1) & 1];
    return closing->count + closing->writing + pager->shadow_count;
}

/* Claim what can be claimed of the closing epoch. */
static void claim_epoch(struct kv_pager *pager, struct write_batch *batch, uint64_t epoch)
{
    for (struct shadow **link = &pager->shadows; *link && batch->count < batch->max;) {
        struct shadow *shadow = *link;
        if (frame_at(pager, shadow->frame)->flags & KV_FRAME_WRITING) {
            link = &shadow->next; /* its version before is still on its way */
            continue;
        }
        *link = shadow->next;
        claim_page(pager, batch, shadow->frame, epoch, shadow);
    }
    uint32_t index = pager->dirty[epoch & 1].head;
    while (index != KV_FRAME_NONE && batch->count < batch->max) {
        struct kv_frame *frame = frame_at(pager, index);
        const uint32_t next = frame->dirty_next;
        if (frame->flags == KV_FRAME_DIRTY) /* else its version before is on its way */
            kv_pager_claim_frame(pager, batch, index);
        index = next;
    }
}

int kv_pager_help_locked(struct kv_pager *pager)
{
    struct write_batch *batch = pager->early;
    if (pager->failure)
        return pager->failure;
    if (!pager->early_busy)
        claim_epoch(pager, batch, pager->epoch - 1);
    if (pager->early_busy || !batch->count) {
        pthread_cond_wait(&pager->changed, &pager->mutex);
        return pager->failure;
    }
    pager->early_busy = true;
    const int err = kv_pager_run_batch(pager, batch);
    pager->early_busy = false;
    return err;
}

int kv_pager_help(struct kv_pager *pager, unsigned percent)
{
    int err = 0;
    pthread_mutex_lock(&pager->mutex);
    const uint64_t epoch = pager->epoch;
    while (!err && epoch == pager->epoch &&
           left_to_write(pager) * 100 > pager->closing_count * (100 - percent))
        err = kv_pager_help_locked(pager);
    pthread_mutex_unlock(&pager->mutex);
    return err;
}

static void *help_to_the_end(void *context)
{
    kv_ignore(kv_pager_help(context, 100)); /* the pager's failure, which others meet, too */
    return NULL;
}

/*
 * Write what can be claimed of the closing epoch, until nothing can (the mutex has been held
 * since): a batch is packed while the one before is on its way.
 */
static int write_claimable(struct kv_pager *pager, uint64_t epoch)
{
    struct write_batch *batch = pager->checkpoint[0], *before = pager->checkpoint[1];
    for (;;) {
        if (!pager->failure)
            claim_epoch(pager, batch, epoch);
        if (!batch->count && !before->count)
            return pager->failure;
        if (batch->count)
            begin_batch(pager, batch);
        if (before->count)
            kv_ignore(end_batch(pager, before)); /* an error is the pager's failure */
        if (batch->count && !batch->flight)
            kv_ignore(end_batch(pager, batch));
        struct write_batch *const begun = batch;
        batch = before;
        before = begun;
    }
}

#define BATCHES_WORTH_A_THREAD 4u

int kv_pager_write_epoch(struct kv_pager *pager, uint64_t epoch, bool alone)
{
    pthread_t helper;
    pthread_mutex_lock(&pager->mutex);
    KV_ASSERT(epoch + 1 == pager->epoch);
    const bool helped = alone &&
                        left_to_write(pager) > BATCHES_WORTH_A_THREAD * pager->early->max &&
                        !pthread_create(&helper, NULL, help_to_the_end, pager);
    int err = 0;
    while (!err && left_to_write(pager)) {
        err = write_claimable(pager, epoch);
        if (!err && left_to_write(pager))
            pthread_cond_wait(&pager->changed, &pager->mutex);
    }
    struct shadow *unused = pager->shadows_free;
    pager->shadows_free = NULL;
    pthread_mutex_unlock(&pager->mutex);
    kv_pager_free_shadows(unused);
    if (helped)
        pthread_join(helper, NULL);
    return err;
}
