/*
 * kv/pager_load.c: stored pages on their way into memory.
 *
 * Owns       frames that are LOADING.
 * Invariant  a frame is readable (its version even) only after the page's digest, and then its
 *            structure, was verified. A page is loaded by one thread; others wait for it.
 * Locks      pager->mutex, released while pages are read and verified.
 */
#include "kv/pager_frames.h"

#include "kv/codec.h"
#include "kv/error.h"
#include "kv/stored_page.h"

#define PREFETCH_MAX KV_PAGES_AT_ONCE

/* A stored page on its way into memory. */
struct load {
    uint64_t page_id;
    uint8_t *out;        /* node_bytes */
    uint32_t frame;      /* of fault and prefetch: `out` are its bytes */
    uint8_t *stored;     /* what is read: `out` itself, or a buffer; NULL: none yet */
    size_t buffer_bytes; /* of that buffer */
    struct kv_disk_ptr ptr;
    bool in_memory; /* `stored` holds the page, as the next says */
    struct kv_packed packed;
    int err;
};

static bool has_buffer(const struct load *load)
{
    return load->stored && load->stored != load->out;
}

static void release_buffer(struct kv_pager *pager, struct load *load)
{
    if (has_buffer(load))
        kv_buffers_give(pager->config.buffers, load->stored, load->buffer_bytes);
    load->stored = NULL;
}

/* A buffer of so many bytes at least, if there is memory. */
static void take_buffer(struct kv_pager *pager, struct load *load, size_t bytes)
{
    if (has_buffer(load) && load->buffer_bytes >= bytes)
        return;
    release_buffer(pager, load);
    load->stored = kv_buffers_take(pager->config.buffers, bytes);
    load->buffer_bytes = bytes;
}

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
    if (load->ptr.codec == KV_CODEC_NONE) {
        release_buffer(pager, load);
        load->stored = load->out;
    } else {
        take_buffer(pager, load, block_count * (size_t)KV_BLOCK_BYTES);
    }
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
    struct kv_metrics *metrics = pager->config.device->metrics;
    const uint64_t begin = err ? 0 : kv_metrics_begin(metrics, KV_METRIC_CODEC);
    if (!err)
        err = kv_stored_page_unpack(load->stored, length, load->ptr.codec, load->page_id,
                                    kv_le64_get(load->ptr.birth_epoch), load->out, node_bytes);
    kv_metrics_unpacked(metrics, begin, load->ptr.codec, node_bytes);
    return err;
}

/*
 * The page is in memory, packed: verify and unpack, as if it had been read. false: it is not the
 * version that the page map names, or memory went wrong; then it is read.
 */
static bool load_from_memory(struct kv_pager *pager, const struct load *load)
{
    const struct kv_packed *const packed = &load->packed;
    const uint64_t epoch = kv_le64_get(load->ptr.birth_epoch);
    const uint64_t seed = kv_digest_seed(load->page_id, epoch);
    return !memcmp(&load->ptr, &packed->ptr, sizeof load->ptr) &&
           kv_digest(load->stored, packed->length, seed) == packed->digest &&
           !kv_stored_page_unpack(load->stored, packed->length, packed->codec, load->page_id, epoch,
                                  load->out, pager->config.node_bytes);
}

int kv_pager_read_stored(struct kv_pager *pager, uint64_t page_id, const struct kv_disk_ptr *ptr,
                         void *out)
{
    struct load load = {.page_id = page_id, .out = out, .ptr = *ptr};
    struct kv_io io;
    int err = begin_load(pager, &load, &io);
    if (!err)
        err = end_load(pager, &load, kv_device_submit(pager->config.device, &io, 1, false));
    release_buffer(pager, &load);
    return err;
}

static int find_place(struct kv_pager *pager, struct load *load)
{
    const int err = kv_pagemap_get(pager->config.map, load->page_id, &load->ptr);
    if (err)
        return err;
    return kv_le64_get(load->ptr.block) ? 0 : -ESTALE;
}

/*
 * Verify pages that are in memory, read and verify the others with one submission. Buffers stay
 * with the loads. Without the mutex.
 */
static void read_loads(struct kv_pager *pager, struct load *loads, size_t count)
{
    struct kv_io ios[PREFETCH_MAX] = {{.result = 0}};
    size_t io_count = 0;
    KV_ASSERT(count <= PREFETCH_MAX);
    for (size_t i = 0; i < count; i++) {
        struct load *load = &loads[i];
        load->err = find_place(pager, load);
        if (!load->err && load->in_memory)
            load->in_memory = load_from_memory(pager, load);
        if (load->in_memory)
            continue;
        if (!load->err)
            load->err = begin_load(pager, load, &ios[io_count]);
        if (!load->err)
            io_count++;
    }
    if (io_count) /* each request has its own result */
        kv_ignore(kv_device_submit(pager->config.device, ios, io_count, false));
    for (size_t i = 0, at = 0; i < count; i++) {
        struct load *load = &loads[i];
        if (!load->err && !load->in_memory)
            load->err = end_load(pager, load, ios[at++].result);
    }
}

/* Fill frames that are LOADING. Likewise. */
static void run_loads(struct kv_pager *pager, struct load *loads, size_t count)
{
    read_loads(pager, loads, count);
    for (size_t i = 0; i < count; i++) {
        const int err = loads[i].err;
        if (kv_error_is_damage(err))
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
    for (size_t i = 0; i < count; i++) {
        reads[i].err = loads[i].err;
        release_buffer(pager, &loads[i]);
    }
}

/* Look for the page among the packed ones. */
static void find_packed(struct kv_pager *pager, struct load *load)
{
    if (!kv_cache_has_packed(&pager->cache, load->page_id))
        return;
    take_buffer(pager, load, pager->config.node_bytes);
    if (load->stored)
        load->in_memory =
            kv_cache_copy_packed(&pager->cache, load->page_id, &load->packed, load->stored);
}

/* Put the page that will be loaded into a frame. With the mutex, as finish_load. */
static void start_load(struct kv_pager *pager, uint64_t page_id, uint32_t index, struct load *load)
{
    *load = (struct load){
        .page_id = page_id, .out = kv_cache_bytes(&pager->cache, index), .frame = index};
    frame_at(pager, index)->flags = KV_FRAME_LOADING;
    kv_cache_insert(&pager->cache, index, page_id);
    find_packed(pager, load);
}

static void finish_load(struct kv_pager *pager, struct load *load)
{
    struct kv_frame *frame = frame_at(pager, load->frame);
    frame->flags = 0;
    pager->misses += !load->in_memory;
    if (!load->in_memory) /* what was packed of it, if anything, was of no use */
        kv_cache_drop_packed(&pager->cache, load->page_id);
    if (load->err) {
        kv_cache_remove(&pager->cache, load->frame);
    } else {
        frame->stored_block = kv_le64_get(load->ptr.block);
        frame->stored_bytes = kv_le32_get(load->ptr.length_bytes);
        frame->stored_epoch = kv_le64_get(load->ptr.birth_epoch);
        version_advance(frame); /* even: readable */
        frame->pins++;          /* or making room for the packed page could take this frame */
        if (!load->in_memory)
            frame->unpackable =
                !kv_pager_keep_stored(pager, load->page_id, &load->ptr, load->stored);
        frame->pins--;
    }
    release_buffer(pager, load);
    pthread_cond_broadcast(&pager->changed);
}

/*
 * The frame of a page, loaded if need be (*loaded). Called and returns with the mutex.
 */
int kv_pager_fault(struct kv_pager *pager, uint64_t page_id, uint32_t *index, bool *loaded)
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
        const int err = kv_pager_obtain_frame(pager, index, &released);
        if (err)
            return err;
        if (released && kv_cache_find(&pager->cache, page_id) != KV_FRAME_NONE) {
            kv_pager_give_back_frame(pager, *index);
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
        const uint32_t index = kv_pager_take_frame(pager, NULL, 0, &dirty_count);
        if (index == KV_FRAME_NONE)
            break;
        start_load(pager, page_ids[i], index, &loads[load_count++]);
        /* Who asked for it will come once more: only then it is used. */
        atomic_store_explicit(&frame_at(pager, index)->referenced, KV_FRAME_AHEAD,
                              memory_order_relaxed);
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

void kv_pager_retain(struct kv_pager *pager, const uint64_t *page_ids, size_t count)
{
    (void)kv_pager_prefetch(pager, page_ids, count);
    pthread_mutex_lock(&pager->mutex);
    for (size_t i = 0; i < count; i++) {
        const uint32_t index = kv_cache_find(&pager->cache, page_ids[i]);
        if (index != KV_FRAME_NONE &&
            !(frame_at(pager, index)->flags & (KV_FRAME_LOADING | KV_FRAME_FREED)))
            kv_cache_retain(&pager->cache, index);
    }
    pthread_mutex_unlock(&pager->mutex);
}

size_t kv_pager_prefetch(struct kv_pager *pager, const uint64_t *page_ids, size_t count)
{
    struct load loads[PREFETCH_MAX];
    size_t loaded = 0;
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
        loaded += load_count;
    }
    pthread_mutex_unlock(&pager->mutex);
    return loaded;
}
