/*
 * kv/cache.h: the frames, and which page stays in memory.
 *
 * One memory budget is divided among four tiers. Hot and warm are frames of one arena that
 * is never unmapped; cold (lz4) and frozen (zstd) are the places for what leaves warm, and
 * have no share until they are switched on. New pages enter warm, a queue in order of
 * arrival; one that was used again while it was there moves to hot instead of leaving, so a
 * scan passes through warm without touching hot. A page that comes back soon after it left
 * warm enters hot at once: its set is larger than warm, and what hot holds may be out of use
 * (S3-FIFO, Yang et al. 2023; 2Q, Johnson & Shasha 1994).
 *
 * Threads: functions named _racy may be called by anyone at any time and only touch atomics;
 * everything else needs the pager's mutex.
 */
#ifndef KV_CACHE_H
#define KV_CACHE_H

#include "kv/base.h"

#include <stdatomic.h>

#define KV_FRAME_NONE UINT32_MAX

enum kv_cache_tier { KV_TIER_FREE, KV_TIER_WARM, KV_TIER_HOT, KV_TIER_COLD, KV_TIER_FROZEN };
#define KV_TIER_COUNT 5

enum kv_frame_flags {
    KV_FRAME_LOADING = 1,  /* being read from the device; version is odd */
    KV_FRAME_DIRTY = 2,    /* differs from what the page map names */
    KV_FRAME_WRITING = 4,  /* a copy of it is on its way to the device */
    KV_FRAME_SHADOWED = 8, /* its state at the last gate waits in a shadow to be written */
    KV_FRAME_FREED = 16,   /* the page was freed; the frame waits for its write or shadow */
};

/* A frame's guard is the pager's mutex but for the atomics. */
struct kv_frame {
    _Atomic uint64_t version; /* odd: being changed or loaded. Grows for ever */
    _Atomic uint64_t page_id; /* 0: none */
    _Atomic uint32_t hash_next;
    _Atomic uint8_t referenced; /* uses since the clock passed, at most 3 */
    uint8_t tier;               /* enum kv_cache_tier */
    uint8_t flags;              /* enum kv_frame_flags */
    uint32_t pins;
    uint32_t queue_prev, queue_next; /* of its tier */
    uint32_t dirty_prev, dirty_next; /* of its dirty epoch */
    uint32_t stored_bytes;           /* length of the stored version; 0: none */
    uint64_t dirty_epoch;            /* while DIRTY */
    uint64_t stored_block;           /* where the page lies, while stored_bytes says it does */
    uint64_t stored_epoch;           /* likewise: in which it was written */
};

struct kv_cache_queue {
    uint32_t head, tail; /* head: newest */
    uint32_t count;
};

struct kv_cache {
    uint8_t *arena; /* immutable */
    size_t arena_bytes, frame_bytes;
    struct kv_frame *frames;
    uint32_t frame_count;
    uint32_t hot_max; /* frames */
    _Atomic uint32_t *buckets;
    uint32_t bucket_mask;
    uint64_t *ghosts; /* mutex; pages that left warm lately, by bucket; 0: none */
    struct kv_cache_queue queues[KV_TIER_COUNT];
    uint64_t evictions, promotions; /* mutex */
};

/* budget_bytes pays for the arena and its tables. -ENOMEM; -EINVAL fewer than 64 frames. */
KV_MUST_CHECK int kv_cache_init(struct kv_cache *cache, uint64_t budget_bytes, size_t frame_bytes,
                                unsigned hot_percent);
void kv_cache_release(struct kv_cache *cache);

static inline uint8_t *kv_cache_bytes(const struct kv_cache *cache, uint32_t frame)
{
    return cache->arena + (size_t)frame * cache->frame_bytes;
}

/* The frame that seems to hold the page, or KV_FRAME_NONE; bounded steps. */
uint32_t kv_cache_find_racy(const struct kv_cache *cache, uint64_t page_id);
/* Ask for what finding the page will look at first; the second, when the first has come. */
void kv_cache_fetch_bucket(const struct kv_cache *cache, uint64_t page_id);
void kv_cache_fetch_frame(const struct kv_cache *cache, uint64_t page_id);
/* Note a use. */
static inline void kv_cache_touch_racy(struct kv_frame *frame)
{
    const uint8_t uses = atomic_load_explicit(&frame->referenced, memory_order_relaxed);
    if (uses < 3)
        atomic_store_explicit(&frame->referenced, (uint8_t)(uses + 1), memory_order_relaxed);
}

uint32_t kv_cache_find(const struct kv_cache *cache, uint64_t page_id);
/* Put a frame (from take_free) under a page id, at the head of warm, or of hot if it is back. */
void kv_cache_insert(struct kv_cache *cache, uint32_t index, uint64_t page_id);
/* Take the page out of a frame; the frame is free. Its version must be odd. */
void kv_cache_remove(struct kv_cache *cache, uint32_t index);

uint32_t kv_cache_take_free(struct kv_cache *cache);
/*
 * The next page to leave memory: clean, not pinned, not used lately if there is such a one.
 * KV_FRAME_NONE: none can leave now. Dirty frames that were passed over because only that
 * kept them are stored in dirty[0 .. *dirty_count), at most dirty_max of them; with none of
 * those either, all are pinned or on their way from or to the device. dirty_max 0: dirty ones
 * are of no interest, the search goes on until it finds a clean one or has seen all.
 */
uint32_t kv_cache_victim(struct kv_cache *cache, uint32_t *dirty, uint32_t dirty_max,
                         uint32_t *dirty_count);

#endif
