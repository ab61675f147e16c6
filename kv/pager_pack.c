/*
 * kv/pager_pack.c: pages that will leave their frames are kept packed.
 *
 * Owns       what is worth packing; the buffers it is done in.
 * Invariant  what is kept packed is the version that the page map names, and it is thrown away
 *            before the page changes (kv_pager_dirty). And even if it were not: it bears the
 *            pointer of its version, and who unpacks it compares that with the page map's.
 * Locks      pager->mutex, released while anything is packed.
 *
 * Pages that are packed on the device are kept as they were read or written, which costs a copy.
 * Packing is for the background: pages near the end of warm that were once hot, since these are
 * worth it, and frozen ones, which zstd makes smaller than lz4 did.
 */
#include "kv/pager_frames.h"

#include "kv/codec.h"
#include "kv/node.h"
#include "kv/stored_page.h"

#define LOOK_AHEAD        256u /* pages at the end of warm that may be packed */
#define GROUP_MAX         32u  /* that are chosen under one lock */
#define SAVING_PERMILLE   250u /* that packing closer must gain: it costs ten device reads */
#define TRY_ONE_OF        16u  /* while it does not */
#define SAVING_KEPT_PARTS 16u  /* how slowly the mean of what it gains changes */

/* Another frame becomes a slab, unless writers have need of it. */
static void add_slab(struct kv_pager *pager)
{
    const uint32_t frames = kv_cache_frames(&pager->cache);
    uint32_t dirty[8];
    uint32_t dirty_count;
    if (more_are_dirty(pager, frames - 1, CLEAN_PERCENT))
        return;
    const uint32_t index = kv_pager_take_frame(pager, dirty, 8, &dirty_count);
    if (index != KV_FRAME_NONE)
        kv_cache_add_slab(&pager->cache, index);
}

/* With the mutex. `bytes` are packed->length long. */
static void keep_packed(struct kv_pager *pager, uint64_t page_id, const struct kv_packed *packed,
                        const void *bytes)
{
    struct kv_cache *const cache = &pager->cache;
    if (!cache->slabs_max)
        return;
    if (kv_cache_wants_slab(cache, packed->length))
        add_slab(pager);
    (void)kv_cache_keep_packed(cache, page_id, packed, bytes); /* no room, no harm */
}

bool kv_pager_keep_stored(struct kv_pager *pager, uint64_t page_id, const struct kv_disk_ptr *ptr,
                          const void *stored)
{
    struct kv_cache *const cache = &pager->cache;
    const uint32_t length = kv_le32_get(ptr->length_bytes);
    if (pager->config.form.codec.codec == KV_CODEC_NONE)
        return true; /* nobody tried */
    const bool packable =
        ptr->codec != KV_CODEC_NONE && length <= kv_packed_length_max(pager->config.node_bytes);
    kv_cache_note_packable(cache, packable);
    /* As long as there are frames that nobody uses, nothing leaves. */
    if (!packable || cache->queues[KV_QUEUE_FREE].count || !cache->slabs_max)
        return packable;
    if (!kv_cache_wants_slab(cache, length) && kv_cache_turns_away(cache, page_id, length))
        return true;
    const struct kv_packed packed = {
        .ptr = *ptr, .digest = kv_le64_get(ptr->digest), .length = length, .codec = ptr->codec};
    keep_packed(pager, page_id, &packed, stored);
    return true;
}

/* Memory to pack in: three times node_bytes. */
struct room {
    void *node, *bare, *stored;
};

/* ---- packing what will leave warm ------------------------------------------------------ */

struct candidate {
    uint64_t page_id, version;
    uint32_t frame;
};

/* Its content is what the page map names, and worth keeping. */
static bool is_candidate(struct kv_pager *pager, const struct kv_frame *frame)
{
    return !frame->flags && frame->stored_bytes && frame->was_hot && !frame->unpackable &&
           !kv_cache_has_packed(&pager->cache, page_id_of(frame));
}

static size_t choose_candidates(struct kv_pager *pager, struct candidate *candidates, size_t max)
{
    size_t count = 0;
    uint32_t index = pager->cache.queues[KV_TIER_WARM].tail;
    for (unsigned looks = 0; index != KV_FRAME_NONE && looks < LOOK_AHEAD && count < max; looks++) {
        const struct kv_frame *frame = frame_at(pager, index);
        if (is_candidate(pager, frame))
            candidates[count++] = (struct candidate){
                .page_id = page_id_of(frame),
                .version = atomic_load_explicit(&frame->version, memory_order_relaxed),
                .frame = index};
        index = frame->queue_prev;
    }
    return count;
}

/* The page as it was chosen, packed by lz4, is in room->stored. Without the mutex. */
static bool pack_candidate(struct kv_pager *pager, const struct candidate *candidate,
                           const struct room *room, struct kv_packed *packed)
{
    const size_t node_bytes = pager->config.node_bytes;
    const struct kv_page_view view = {.frame = frame_at(pager, candidate->frame),
                                      .bytes = kv_cache_bytes(&pager->cache, candidate->frame),
                                      .version = candidate->version};
    if (kv_pagemap_get(pager->config.map, candidate->page_id, &packed->ptr))
        return false;
    kv_node_copy_racy(room->node, view.bytes, node_bytes);
    if (!kv_pager_view_valid(&view))
        return false;
    ((struct kv_disk_node *)room->node)->epoch = packed->ptr.birth_epoch;
    enum kv_codec used;
    const struct kv_stored_form lz4 = {.codec = {.codec = KV_CODEC_LZ4}, .bare = true};
    const size_t length =
        kv_stored_page_pack(room->node, node_bytes, lz4, 0, room->bare, room->stored, &used);
    const uint64_t seed = kv_digest_seed(candidate->page_id, kv_le64_get(packed->ptr.birth_epoch));
    packed->digest = kv_digest(room->stored, length, seed);
    packed->length = (uint32_t)length;
    packed->codec = (uint8_t)used;
    return true;
}

/* With the mutex: keep it, if the page is still what it was when it was chosen. */
static void keep_candidate(struct kv_pager *pager, const struct candidate *candidate,
                           const struct kv_packed *packed, const void *stored)
{
    struct kv_frame *frame = frame_at(pager, candidate->frame);
    if (atomic_load_explicit(&frame->version, memory_order_relaxed) != candidate->version ||
        frame->flags || frame->stored_block != kv_le64_get(packed->ptr.block) ||
        frame->stored_epoch != kv_le64_get(packed->ptr.birth_epoch) ||
        frame->stored_bytes != kv_le32_get(packed->ptr.length_bytes))
        return;
    const bool packable = packed->codec != KV_CODEC_NONE &&
                          packed->length <= kv_packed_length_max(pager->config.node_bytes);
    kv_cache_note_packable(&pager->cache, packable);
    frame->unpackable = !packable;
    pager->packed += packable;
    pager->unpackable += !packable;
    if (packable)
        keep_packed(pager, candidate->page_id, packed, stored);
}

/* Called and returns with the mutex. */
static size_t pack_leaving(struct kv_pager *pager, size_t pages_max, const struct room *room)
{
    struct candidate candidates[GROUP_MAX];
    if (!pager->cache.slabs_max || pager->cache.queues[KV_QUEUE_FREE].count)
        return 0;
    const size_t count = choose_candidates(pager, candidates, kv_min_u64(pages_max, GROUP_MAX));
    for (size_t i = 0; i < count; i++) {
        struct kv_packed packed;
        memset(&packed, 0, sizeof packed);
        pthread_mutex_unlock(&pager->mutex);
        const bool done = pack_candidate(pager, &candidates[i], room, &packed);
        pthread_mutex_lock(&pager->mutex);
        if (done)
            keep_candidate(pager, &candidates[i], &packed, room->stored);
    }
    return count;
}

/* ---- packing frozen pages closer ---------------------------------------------------------- */

/* Pack room->stored by zstd, in place. false: no gain. */
static bool pack_closer(struct kv_pager *pager, uint64_t page_id, struct kv_packed *packed,
                        const struct room *room)
{
    const size_t node_bytes = pager->config.node_bytes;
    const uint64_t epoch = kv_le64_get(packed->ptr.birth_epoch);
    const struct kv_stored_form zstd = {.codec = {.codec = KV_CODEC_ZSTD, .level = 1},
                                        .bare = true};
    const uint64_t seed = kv_digest_seed(page_id, epoch);
    if (kv_digest(room->stored, packed->length, seed) != packed->digest ||
        kv_stored_page_unpack(room->stored, packed->length, packed->codec, page_id, epoch,
                              room->node, node_bytes))
        return false;
    enum kv_codec used;
    const size_t length =
        kv_stored_page_pack(room->node, node_bytes, zstd, 0, room->bare, room->stored, &used);
    const uint32_t before = packed->length;
    const unsigned saved = used != KV_CODEC_NONE && length < before
                               ? (unsigned)((before - length) * 1000 / before)
                               : 0;
    struct packer *const packer = &pager->packer;
    packer->saved_permille =
        (packer->saved_permille * (SAVING_KEPT_PARTS - 1) + saved) / SAVING_KEPT_PARTS;
    if (saved < SAVING_PERMILLE)
        return false;
    packed->length = (uint32_t)length;
    packed->codec = (uint8_t)used;
    packed->digest = kv_digest(room->stored, length, seed);
    return true;
}

/* Does packing closer gain so little of late that this one is left as it is? */
static bool is_skipped(struct packer *packer)
{
    if (packer->saved_permille >= SAVING_PERMILLE || ++packer->skipped >= TRY_ONE_OF) {
        packer->skipped = 0;
        return false;
    }
    return true;
}

/* Called and returns with the mutex. */
static size_t repack_frozen(struct kv_pager *pager, size_t pages_max, const struct room *room)
{
    size_t count = 0;
    uint64_t page_id;
    struct kv_packed packed;
    while (count < pages_max &&
           kv_cache_take_fresh_frozen(&pager->cache, &page_id, &packed, room->stored)) {
        count++;
        if (is_skipped(&pager->packer))
            continue;
        pthread_mutex_unlock(&pager->mutex);
        const bool closer = pack_closer(pager, page_id, &packed, room);
        pthread_mutex_lock(&pager->mutex);
        if (closer && kv_cache_shrink_packed(&pager->cache, page_id, &packed, room->stored))
            pager->repacked++;
    }
    return count;
}

size_t kv_pager_pack_some(struct kv_pager *pager, size_t pages_max)
{
    const size_t node_bytes = pager->config.node_bytes;
    struct kv_buffers *const buffers = pager->config.buffers;
    const struct room room = {.node = kv_buffers_take(buffers, node_bytes),
                              .bare = kv_buffers_take(buffers, node_bytes),
                              .stored = kv_buffers_take(buffers, node_bytes)};
    size_t count = 0;
    if (room.node && room.bare && room.stored) {
        pthread_mutex_lock(&pager->mutex);
        count = pack_leaving(pager, pages_max, &room);
        count += repack_frozen(pager, pages_max, &room);
        pthread_mutex_unlock(&pager->mutex);
    }
    void *const taken[] = {room.stored, room.bare, room.node};
    for (unsigned i = 0; i < 3; i++)
        if (taken[i])
            kv_buffers_give(buffers, taken[i], node_bytes);
    return count;
}
