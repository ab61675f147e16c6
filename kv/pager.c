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
 * and not by what an epoch changes. A page that is written twice in one epoch gives its first
 * place back at once: neither a superblock nor the log ever named it. So space is bounded by
 * the number of pages that an epoch changes and not by how often.
 *
 * Waiting    A thread waits for a frame or a page while others load or write; these never wait
 *            for a frame with a frame in hand, and need no memory. After a failed write nobody
 *            waits any more: dirty frames stay as they are, the rest can be read on.
 */
#include "kv/pager.h"

#include "kv/codec.h"
#include "kv/node.h"
#include "kv/stored_page.h"

#include <pthread.h>
#include <sched.h>

#define WRITE_BATCH_BYTES (1u << 20) /* pages written with one submission */
#define WRITE_BATCH_MAX   256u
#define SHADOWS_BYTES_MAX (8u << 20)
#define DIRTY_PERCENT     75u /* of the frames; more are written out */
#define PREFETCH_MAX      KV_PAGES_AT_ONCE
#define SPINS_BEFORE_LOCK 64u

struct shadow {
    struct shadow *next;
    uint64_t page_id;
    uint32_t frame;
    uint8_t bytes[];
};

struct dirty_list {
    uint32_t head, tail; /* tail: dirty for the longest time */
    uint64_t count;
    uint64_t writing; /* claimed pages of this epoch that are not on the device yet */
};

/* One page on its way to the device. */
struct claim {
    uint32_t frame;
    uint64_t page_id, epoch, order;
    struct shadow *shadow; /* its bytes, or NULL: the frame's */
    uint64_t block;        /* where it goes */
    uint32_t block_count;
    uint64_t old_block, old_epoch; /* where and since when its version before lies */
    uint32_t old_bytes;            /* 0: there is none */
    struct kv_disk_ptr ptr;
};

/* Memory for writing pages, taken at open: making room must not need memory. */
struct write_batch {
    struct claim claims[WRITE_BATCH_MAX];
    size_t count, max;
    uint8_t *raw;    /* copies of the pages, count * node_bytes */
    uint8_t *packed; /* what is written, each page in whole blocks */
    struct kv_io ios[WRITE_BATCH_MAX];
};

struct kv_pager {
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* a load or a write ended, or a frame can leave */
    struct kv_pager_config config;
    struct kv_cache cache;
    uint64_t epoch;                 /* mutex; the open one */
    struct dirty_list dirty[2];     /* mutex; by the low bit of the epoch */
    struct shadow *shadows;         /* mutex; all of epoch - 1 */
    size_t shadow_count;            /* mutex */
    size_t shadows_max;             /* immutable */
    uint64_t credit;                /* mutex; clusters reserved, not yet used by a dirty page */
    struct write_batch *checkpoint; /* whoever runs kv_pager_write_epoch */
    struct write_batch *early;      /* whoever set early_busy */
    bool early_busy;                /* mutex */
    unsigned frame_waiters;         /* mutex */
    int failure;                    /* mutex; sticky: a write failed */
    uint64_t order;                 /* mutex; pages claimed so far */
    uint64_t changes;               /* the writer's */
    uint64_t misses, writes, write_bytes; /* mutex */
    _Atomic uint64_t hits;                /* not exact: some may be lost */
};

/* ---- open, close -------------------------------------------------------------- */

static struct write_batch *batch_new(size_t node_bytes)
{
    struct write_batch *batch = malloc(sizeof *batch);
    if (!batch)
        return NULL;
    batch->count = 0;
    batch->max = kv_min_u64(WRITE_BATCH_MAX, WRITE_BATCH_BYTES / node_bytes);
    batch->raw = malloc(WRITE_BATCH_BYTES);
    batch->packed = kv_device_alloc_unset(WRITE_BATCH_BYTES);
    if (batch->raw && batch->packed)
        return batch;
    free(batch->raw);
    free(batch->packed);
    free(batch);
    return NULL;
}

static void batch_free(struct write_batch *batch)
{
    if (!batch)
        return;
    free(batch->raw);
    free(batch->packed);
    free(batch);
}

int kv_pager_open(const struct kv_pager_config *config, struct kv_pager **out)
{
    struct kv_pager *pager = calloc(1, sizeof *pager);
    if (!pager)
        return -ENOMEM;
    pager->config = *config;
    pager->epoch = config->epoch;
    int err =
        kv_cache_init(&pager->cache, config->budget_bytes, config->node_bytes, config->hot_percent);
    if (err)
        goto out_pager;
    pager->checkpoint = batch_new(config->node_bytes);
    pager->early = batch_new(config->node_bytes);
    err = pager->checkpoint && pager->early ? 0 : -ENOMEM;
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
    /* Shadowed frames can not leave, so they may not be most of the frames. */
    pager->shadows_max =
        kv_min_u64(SHADOWS_BYTES_MAX / config->node_bytes, pager->cache.frame_count / 4);
    *out = pager;
    return 0;

out_mutex:
    pthread_mutex_destroy(&pager->mutex);
out_batches:
    batch_free(pager->early);
    batch_free(pager->checkpoint);
    kv_cache_release(&pager->cache);
out_pager:
    free(pager);
    return err;
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
    batch_free(pager->early);
    batch_free(pager->checkpoint);
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
    else
        list->tail = index;
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
    else
        list->tail = frame->dirty_prev;
    frame->flags &= (uint8_t)~KV_FRAME_DIRTY;
    list->count--;
}

/* ---- writing pages ---------------------------------------------------------- */

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
static int forget_page(struct kv_pager *pager, uint32_t index, uint64_t epoch)
{
    struct kv_frame *frame = frame_at(pager, index);
    const struct kv_frame was = {.stored_bytes = frame->stored_bytes,
                                 .stored_block = frame->stored_block,
                                 .stored_epoch = frame->stored_epoch};
    const uint64_t page_id = page_id_of(frame);
    KV_ASSERT(atomic_load_explicit(&frame->version, memory_order_relaxed) & 1);
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
    memcpy(batch->raw + batch->count * node_bytes,
           shadow ? shadow->bytes : kv_cache_bytes(&pager->cache, index), node_bytes);
    batch->count++;
    pager->dirty[epoch & 1].writing++;
    frame->flags |= KV_FRAME_WRITING;
}

/* The bytes of a dirty frame do not change while it is claimed: see the invariant. */
static void claim_frame(struct kv_pager *pager, struct write_batch *batch, uint32_t index)
{
    claim_page(pager, batch, index, frame_at(pager, index)->dirty_epoch, NULL);
    dirty_unlink(pager, index);
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
        kv_stored_page_pack(raw, node_bytes, pager->config.codec, claim->order, dst, &used);
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
        free(claim->shadow);
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
        return forget_page(pager, claim->frame, frame->dirty_epoch);
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

/* Called and returns with the mutex; releases it over the I/O. Empties the batch. */
static int run_batch(struct kv_pager *pager, struct write_batch *batch)
{
    pthread_mutex_unlock(&pager->mutex);
    const int write_err = write_claims(pager, batch);
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

/* ---- making room -------------------------------------------------------------- */

/* Wait until something changes; a frame is wanted. */
static void wait_for_frame(struct kv_pager *pager)
{
    pager->frame_waiters++;
    pthread_cond_wait(&pager->changed, &pager->mutex);
    pager->frame_waiters--;
}

static bool can_clean(const struct kv_frame *frame)
{
    return frame->flags == KV_FRAME_DIRTY && !frame->pins;
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
            claim_frame(pager, batch, dirty[i]);
    KV_ASSERT(batch->count > 0);
    pager->early_busy = true;
    const int err = run_batch(pager, batch);
    pager->early_busy = false;
    return err;
}

/* A frame that is free or can be freed at once, its version odd; or KV_FRAME_NONE. */
static uint32_t take_frame(struct kv_pager *pager, uint32_t *dirty, uint32_t dirty_max,
                           uint32_t *dirty_count)
{
    *dirty_count = 0;
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

/*
 * A frame without a page, its version odd. Called and returns with the mutex; may release it
 * meanwhile (*released). The caller has no frame in hand.
 */
static int obtain_frame(struct kv_pager *pager, uint32_t *index, bool *released)
{
    uint32_t dirty[64];
    uint32_t dirty_count;
    for (;;) {
        *index = take_frame(pager, dirty, pager->failure ? 0 : 64, &dirty_count);
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

static void give_back_frame(struct kv_pager *pager, uint32_t index)
{
    /* Through insert and remove, so that the queues have one way in and out. */
    kv_cache_insert(&pager->cache, index, KV_PAGE_ID_MAX + 1);
    kv_cache_remove(&pager->cache, index);
    pthread_cond_broadcast(&pager->changed);
}

/* ---- faults ------------------------------------------------------------------- */

/* A stored page on its way into memory. */
struct load {
    uint64_t page_id;
    uint8_t *out;    /* node_bytes */
    uint32_t frame;  /* of fault and prefetch: `out` are its bytes */
    uint8_t *stored; /* what is read: `out` itself, or a buffer of node_bytes */
    struct kv_disk_ptr ptr;
    int err;
};

/* Check the pointer and fill in the request. After an error there is nothing to end. */
static int begin_load(struct kv_pager *pager, struct load *load, struct kv_io *io)
{
    const size_t node_bytes = pager->config.node_bytes;
    const uint64_t block = kv_le64_get(load->ptr.block);
    const size_t length = kv_le32_get(load->ptr.length_bytes);
    const uint32_t block_count = (uint32_t)kv_blocks_for(length);
    if (!length || length > node_bytes ||
        !kv_space_contains(pager->config.space, block, block_count))
        return -EUCLEAN;
    const bool in_place = length == node_bytes && load->ptr.codec == KV_CODEC_NONE;
    load->stored = in_place ? load->out : kv_buffers_take(pager->config.buffers, node_bytes);
    if (!load->stored)
        return -ENOMEM;
    *io = (struct kv_io){.kind = KV_IO_READ,
                         .block = block,
                         .block_count = block_count,
                         .buf = load->stored,
                         .result = -EIO};
    return 0;
}

/* The request has ended with io_err: verify and unpack. */
static int end_load(struct kv_pager *pager, struct load *load, int io_err)
{
    const size_t node_bytes = pager->config.node_bytes;
    const size_t length = kv_le32_get(load->ptr.length_bytes);
    const uint64_t seed = kv_digest_seed(load->page_id, kv_le64_get(load->ptr.birth_epoch));
    int err = io_err;
    if (!err && kv_digest(load->stored, length, seed) != kv_le64_get(load->ptr.digest) &&
        !KV_PLANT(page_checksum_ignored))
        err = -EBADMSG;
    if (!err)
        err = kv_stored_page_unpack(load->stored, length, load->ptr.codec, load->page_id,
                                    kv_le64_get(load->ptr.birth_epoch), load->out, node_bytes);
    if (load->stored != load->out)
        kv_buffers_give(pager->config.buffers, load->stored, node_bytes);
    return err;
}

int kv_pager_read_stored(struct kv_pager *pager, uint64_t page_id, const struct kv_disk_ptr *ptr,
                         void *out)
{
    struct load load = {.page_id = page_id, .out = out, .ptr = *ptr};
    struct kv_io io;
    const int err = begin_load(pager, &load, &io);
    if (err)
        return err;
    return end_load(pager, &load, kv_device_submit(pager->config.device, &io, 1, false));
}

static int find_place(struct kv_pager *pager, struct load *load)
{
    const int err = kv_pagemap_get(pager->config.map, load->page_id, &load->ptr);
    if (err)
        return err;
    return kv_le64_get(load->ptr.block) ? 0 : -ESTALE;
}

/* Read and verify pages, all with one submission. Without the mutex. */
static void read_loads(struct kv_pager *pager, struct load *loads, size_t count)
{
    struct kv_io ios[PREFETCH_MAX] = {{.result = 0}};
    size_t io_count = 0;
    KV_ASSERT(count <= PREFETCH_MAX);
    for (size_t i = 0; i < count; i++) {
        struct load *load = &loads[i];
        load->err = find_place(pager, load);
        if (!load->err)
            load->err = begin_load(pager, load, &ios[io_count]);
        if (!load->err)
            io_count++;
    }
    if (io_count) /* each request has its own result */
        kv_ignore(kv_device_submit(pager->config.device, ios, io_count, false));
    for (size_t i = 0, at = 0; i < count; i++) {
        struct load *load = &loads[i];
        if (!load->err)
            load->err = end_load(pager, load, ios[at++].result);
    }
}

/* Fill frames that are LOADING. Likewise. */
static void run_loads(struct kv_pager *pager, struct load *loads, size_t count)
{
    read_loads(pager, loads, count);
    for (size_t i = 0; i < count; i++) {
        const int err = loads[i].err;
        if (err == -EBADMSG || err == -EUCLEAN || err == -EIO)
            pager->config.on_damage(pager->config.context, loads[i].page_id, err);
    }
}

void kv_pager_read_many(struct kv_pager *pager, struct kv_page_read *reads, size_t count)
{
    struct load loads[KV_PAGES_AT_ONCE];
    KV_ASSERT(count <= KV_PAGES_AT_ONCE);
    for (size_t i = 0; i < count; i++)
        loads[i] = (struct load){.page_id = reads[i].page_id, .out = reads[i].out};
    read_loads(pager, loads, count);
    for (size_t i = 0; i < count; i++)
        reads[i].err = loads[i].err;
}

/* Put the page that will be loaded into a frame. With the mutex, as finish_load. */
static void start_load(struct kv_pager *pager, uint64_t page_id, uint32_t index, struct load *load)
{
    *load = (struct load){
        .page_id = page_id, .out = kv_cache_bytes(&pager->cache, index), .frame = index};
    frame_at(pager, index)->flags = KV_FRAME_LOADING;
    kv_cache_insert(&pager->cache, index, page_id);
    pager->misses++;
}

static void finish_load(struct kv_pager *pager, const struct load *load)
{
    struct kv_frame *frame = frame_at(pager, load->frame);
    frame->flags = 0;
    if (load->err) {
        kv_cache_remove(&pager->cache, load->frame);
    } else {
        frame->stored_block = kv_le64_get(load->ptr.block);
        frame->stored_bytes = kv_le32_get(load->ptr.length_bytes);
        frame->stored_epoch = kv_le64_get(load->ptr.birth_epoch);
        version_advance(frame); /* even: readable */
    }
    pthread_cond_broadcast(&pager->changed);
}

/*
 * The frame of a page, loaded if need be (*loaded). Called and returns with the mutex.
 */
static int fault(struct kv_pager *pager, uint64_t page_id, uint32_t *index, bool *loaded)
{
    *loaded = false;
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
        const int err = obtain_frame(pager, index, &released);
        if (err)
            return err;
        if (released && kv_cache_find(&pager->cache, page_id) != KV_FRAME_NONE) {
            give_back_frame(pager, *index);
            continue;
        }
        struct load load;
        start_load(pager, page_id, *index, &load);
        pthread_mutex_unlock(&pager->mutex);
        run_loads(pager, &load, 1);
        pthread_mutex_lock(&pager->mutex);
        finish_load(pager, &load);
        *loaded = true;
        return load.err;
    }
}

/* Begin to load those of the pages that are not in memory, as far as frames are at hand. */
static size_t start_loads(struct kv_pager *pager, const uint64_t *page_ids, size_t count,
                          struct load *loads)
{
    size_t load_count = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t dirty_count;
        if (kv_cache_find(&pager->cache, page_ids[i]) != KV_FRAME_NONE)
            continue;
        /* Not waiting: with frames in hand that would be a deadlock in the making. */
        const uint32_t index = take_frame(pager, NULL, 0, &dirty_count);
        if (index == KV_FRAME_NONE)
            break;
        start_load(pager, page_ids[i], index, &loads[load_count++]);
    }
    return load_count;
}

/* Others may be loading some of the pages: wait until they are there. */
static void wait_for_loads(struct kv_pager *pager, const uint64_t *page_ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        for (;;) {
            const uint32_t index = kv_cache_find(&pager->cache, page_ids[i]);
            if (index == KV_FRAME_NONE || !(frame_at(pager, index)->flags & KV_FRAME_LOADING))
                break;
            pthread_cond_wait(&pager->changed, &pager->mutex);
        }
}

void kv_pager_prefetch(struct kv_pager *pager, const uint64_t *page_ids, size_t count)
{
    struct load loads[PREFETCH_MAX];
    pthread_mutex_lock(&pager->mutex);
    for (size_t at = 0; at < count; at += PREFETCH_MAX) {
        const size_t now = kv_min_u64(count - at, PREFETCH_MAX);
        const size_t load_count = start_loads(pager, page_ids + at, now, loads);
        if (load_count) {
            pthread_mutex_unlock(&pager->mutex);
            run_loads(pager, loads, load_count);
            pthread_mutex_lock(&pager->mutex);
        }
        for (size_t i = 0; i < load_count; i++)
            finish_load(pager, &loads[i]);
        wait_for_loads(pager, page_ids + at, now);
    }
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
    pthread_cond_broadcast(&pager->changed);
    pthread_mutex_unlock(&pager->mutex);
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
    kv_cache_touch_racy(frame_at(pager, index));
    /* Not one atomic step: all readers would wait in line for this number. */
    const uint64_t hits = atomic_load_explicit(&pager->hits, memory_order_relaxed);
    atomic_store_explicit(&pager->hits, hits + 1, memory_order_relaxed);
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

int kv_pager_view(struct kv_pager *pager, uint64_t page_id, struct kv_page_view *view)
{
    for (unsigned spins = 0;; spins++) {
        uint32_t index;
        if (view_racy(pager, page_id, view, &index))
            return 0;
        if (index != KV_FRAME_NONE && spins < SPINS_BEFORE_LOCK)
            continue;
        bool loaded;
        pthread_mutex_lock(&pager->mutex);
        const int err = fault(pager, page_id, &index, &loaded);
        /* Loading a page is not a use of it: else each page of a scan would look used twice. */
        const bool viewed = !err && view_frame(pager, index, page_id, view);
        pthread_mutex_unlock(&pager->mutex);
        if (viewed && !loaded)
            count_hit(pager, index);
        if (err || viewed)
            return err;
        sched_yield(); /* latched by the writer: let it end */
    }
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
    bool loaded;
    pthread_mutex_lock(&pager->mutex);
    const int err = fault(pager, page_id, &index, &loaded);
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

void kv_pager_unpin(struct kv_pager *pager, struct kv_page *page)
{
    if (!page->bytes)
        return;
    pthread_mutex_lock(&pager->mutex);
    struct kv_frame *frame = frame_at(pager, page->frame);
    KV_ASSERT(frame->pins > 0);
    frame->pins--;
    if (pager->frame_waiters && !frame->pins)
        pthread_cond_broadcast(&pager->changed);
    pthread_mutex_unlock(&pager->mutex);
    page->bytes = NULL;
}

/* One cluster of the writer's credit for a page that becomes dirty. */
static int spend_credit(struct kv_pager *pager)
{
    if (!pager->credit)
        return kv_space_reserve(pager->config.space, 1, KV_SPACE_LAST);
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
    struct shadow *shadow = NULL;
    if (pager->shadow_count < pager->shadows_max)
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
    if ((frame->flags & KV_FRAME_DIRTY) && frame->dirty_epoch != pager->epoch &&
        !KV_PLANT(shadow_not_taken))
        err = shadow_page(pager, page->frame);
    if (!err && !(frame->flags & KV_FRAME_DIRTY)) {
        err = spend_credit(pager);
        if (!err)
            dirty_link(pager, page->frame, pager->epoch);
    }
    pthread_mutex_unlock(&pager->mutex);
    pager->changes += !err;
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
        err = forget_page(pager, page->frame, pager->epoch);
    pthread_mutex_unlock(&pager->mutex);
    return err;
}

static uint64_t dirty_count(const struct kv_pager *pager)
{
    return pager->dirty[0].count + pager->dirty[1].count;
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
            if (can_clean(frame) && (turn >= 2 || frame->tier != KV_TIER_HOT))
                dirty[found++] = index;
        }
    }
    return found;
}

/*
 * Keep some frames clean, so that readers seldom wait for writes, and that there is something
 * to read with when nothing can be written any more.
 */
static int limit_dirty(struct kv_pager *pager)
{
    const uint64_t limit = (uint64_t)pager->cache.frame_count * DIRTY_PERCENT / 100;
    uint32_t dirty[64];
    while (dirty_count(pager) > limit) {
        const uint32_t found = find_oldest(pager, dirty, 64);
        if (!found)
            return 0; /* all are on their way */
        const int err = clean_some(pager, dirty, found);
        if (err)
            return err;
    }
    return 0;
}

int kv_pager_reserve(struct kv_pager *pager, uint64_t page_count, bool urgent)
{
    int err = kv_space_reserve(pager->config.space, page_count,
                               urgent ? KV_SPACE_URGENT : KV_SPACE_NORMAL);
    if (err)
        return err;
    pthread_mutex_lock(&pager->mutex);
    err = limit_dirty(pager);
    if (!err)
        pager->credit += page_count;
    pthread_mutex_unlock(&pager->mutex);
    if (err)
        kv_space_unreserve(pager->config.space, page_count);
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
    pager->epoch = epoch;
    pthread_mutex_unlock(&pager->mutex);
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
            claim_frame(pager, batch, index);
        index = next;
    }
}

int kv_pager_write_epoch(struct kv_pager *pager, uint64_t epoch)
{
    struct write_batch *batch = pager->checkpoint;
    const struct dirty_list *list = &pager->dirty[epoch & 1];
    pthread_mutex_lock(&pager->mutex);
    KV_ASSERT(epoch + 1 == pager->epoch);
    int err = pager->failure;
    while (!err && (list->count || list->writing || pager->shadows)) {
        claim_epoch(pager, batch, epoch);
        if (batch->count)
            err = run_batch(pager, batch);
        else
            pthread_cond_wait(&pager->changed, &pager->mutex);
        if (!err)
            err = pager->failure;
    }
    pthread_mutex_unlock(&pager->mutex);
    return err;
}

void kv_pager_stats(struct kv_pager *pager, struct kv_pager_stats *stats)
{
    pthread_mutex_lock(&pager->mutex);
    *stats = (struct kv_pager_stats){
        .frames = pager->cache.frame_count,
        .hot = pager->cache.queues[KV_TIER_HOT].count,
        .warm = pager->cache.queues[KV_TIER_WARM].count,
        .dirty = dirty_count(pager),
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
