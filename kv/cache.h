/*
 * kv/cache.h: what stays in memory: frames, and packed pages.
 *
 * One arena, never unmapped, is cut into frames. Pages that are used have a frame each and are
 * hot or warm. New pages enter warm, a queue in order of arrival; one that was used again while
 * it was there moves to hot instead of leaving, so a scan passes through warm without touching
 * hot. A page that comes back soon after it left warm enters hot at once: its set is larger than
 * warm, and what hot holds may be out of use (S3-FIFO, Yang et al. 2023; 2Q, Johnson & Shasha
 * 1994).
 *
 * A page that somebody asked to be retained is out of this: it is in a queue of its own, which only
 * others of its kind push it out of, to hot.
 *
 * Other frames are slabs: cut into chunks, in which packed pages lie, cold or frozen. A slab is
 * made of a frame when packed pages need room, and becomes one again when frames do.
 *
 * Threads: functions named _racy may be called by anyone at any time and only touch atomics;
 * everything else needs the pager's mutex.
 */
#ifndef KV_CACHE_H
#define KV_CACHE_H

#include "kv/arena.h"
#include "kv/format.h"
#include "kv/kv.h"

#include <stdatomic.h>

#define KV_FRAME_NONE UINT32_MAX

/* Where a frame is, besides hot and warm. */
enum { KV_QUEUE_FREE = KV_TIER_COUNT, KV_QUEUE_SLAB, KV_QUEUE_RETAINED, KV_QUEUE_COUNT };

enum kv_frame_flags {
    KV_FRAME_LOADING = 1,  /* being read from the device; version is odd */
    KV_FRAME_DIRTY = 2,    /* differs from what the page map names */
    KV_FRAME_WRITING = 4,  /* a copy of it is on its way to the device */
    KV_FRAME_SHADOWED = 8, /* its state at the last gate waits in a shadow to be written */
    KV_FRAME_FREED = 16,   /* the page was freed; the frame waits for its write or shadow */
};

/* Of `referenced`: loaded before anyone asked. The first use is what it was loaded for. */
#define KV_FRAME_AHEAD UINT8_MAX

/* A frame's guard is the pager's mutex but for the atomics. */
struct kv_frame {
    _Atomic uint64_t version; /* odd: being changed or loaded. Grows for ever */
    _Atomic uint64_t page_id; /* 0: none */
    _Atomic uint32_t hash_next;
    _Atomic uint8_t referenced; /* uses since the clock passed, at most 3; or KV_FRAME_AHEAD */
    _Atomic uint8_t tier;       /* KV_TIER_HOT, KV_TIER_WARM or a queue of the above */
    uint8_t flags;              /* enum kv_frame_flags */
    bool was_hot;               /* since it was loaded: it is worth being packed when it leaves */
    bool unpackable;            /* as it is stored; it gains too little */
    uint32_t pins;
    uint32_t queue_prev, queue_next; /* of its tier */
    uint32_t dirty_prev, dirty_next; /* of its dirty epoch */
    uint32_t stored_bytes;           /* length of the stored version; 0: none */
    uint64_t dirty_epoch;            /* while DIRTY */
    uint64_t stored_block;           /* where the page lies, while stored_bytes says it does */
    uint64_t stored_epoch;           /* likewise: in which it was written */
};

struct kv_cache_queue {
    uint32_t head, tail; /* head: newest. Frames, or in cold and frozen first chunks */
    uint32_t count;
};

struct kv_cache {
    struct kv_arena arena;
    size_t frame_bytes;
    struct kv_frame *frames;
    uint32_t frame_count;     /* slabs among them */
    struct kv_tiers tiers;    /* as asked for */
    uint32_t hot_percent;     /* of the frames that are no slabs */
    uint32_t slabs_max;       /* that the tiers allow */
    uint32_t retain_percent;  /* immutable once it is used; of the frames that are left for pages */
    uint32_t cold_chunks_max; /* while all slabs are in use */
    uint32_t kept, passed;    /* pages that lately could and could not be packed, decaying */
    _Atomic uint32_t *buckets;
    uint32_t bucket_mask;
    uint64_t *ghosts; /* mutex; pages that left warm lately, by bucket; 0: none */
    struct kv_cache_queue queues[KV_QUEUE_COUNT];
    uint64_t evictions;                         /* mutex; pages that left their frames */
    struct kv_tier_stats counts[KV_TIER_COUNT]; /* mutex; promotions, evictions, ghost_hits; hits of
                                                   cold and frozen */
    /* packed pages: cache_packed.c. Chunks are counted through the whole arena */
    uint32_t *packed_buckets;
    uint32_t *packed_ghosts; /* marks of pages that left the packed tiers lately, or were turned
                                away; 0: none */
    uint32_t packed_mask, chunks_per_slab;
    uint32_t free_chain, free_chunks;
    uint32_t chunks[KV_TIER_COUNT]; /* of cold and of frozen */
    uint32_t fresh_frozen;          /* frozen pages that nobody tried to pack closer */
};

/* What a frame costs beside its bytes: itself, and its part of the tables. */
#define KV_CACHE_FRAME_COST                                                                        \
    (sizeof(struct kv_frame) + 2 * (sizeof(uint32_t) + sizeof(uint64_t)) + 32)
#define KV_FRAMES_MIN  64u
#define KV_CHUNK_BYTES 512u /* of a slab */

/*
 * budget_bytes pays for the arena and its tables; tiers as for kv_cache_set_tiers. -ENOMEM; -EINVAL
 * fewer than KV_FRAMES_MIN frames.
 */
KV_MUST_CHECK int kv_cache_init(struct kv_cache *cache, uint64_t budget_bytes, size_t frame_bytes,
                                const struct kv_tiers *tiers);
void kv_cache_release(struct kv_cache *cache);
/* Do the ratios make sense? */
bool kv_tiers_valid(const struct kv_tiers *tiers);
/* Valid ratios, or all 0 for the defaults. Takes effect as pages come and go. */
void kv_cache_set_tiers(struct kv_cache *cache, const struct kv_tiers *tiers);

/* Frames for pages as they are: now, and the least that the tiers leave them. */
static inline uint32_t kv_cache_frames(const struct kv_cache *cache)
{
    return cache->frame_count - cache->queues[KV_QUEUE_SLAB].count;
}

static inline uint32_t kv_cache_frames_min(const struct kv_cache *cache)
{
    return cache->frame_count - cache->slabs_max;
}

static inline uint8_t *kv_cache_bytes(const struct kv_cache *cache, uint32_t frame)
{
    return cache->arena.memory + (size_t)frame * cache->frame_bytes;
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
    if (uses == KV_FRAME_AHEAD)
        atomic_store_explicit(&frame->referenced, 0, memory_order_relaxed);
    else if (uses < 3)
        atomic_store_explicit(&frame->referenced, (uint8_t)(uses + 1), memory_order_relaxed);
}

/* Uses since the clock passed. */
static inline uint8_t kv_cache_uses(const struct kv_frame *frame)
{
    const uint8_t uses = atomic_load_explicit(&frame->referenced, memory_order_relaxed);
    return uses == KV_FRAME_AHEAD ? 0 : uses;
}

uint32_t kv_cache_find(const struct kv_cache *cache, uint64_t page_id);
/*
 * Put a frame (from take_free) under a page id, at the head of warm; of hot, if it left warm lately
 * and is not among the packed pages either.
 */
void kv_cache_insert(struct kv_cache *cache, uint32_t index, uint64_t page_id);
/* Take the page out of a frame; the frame is free. Its version must be odd. */
void kv_cache_remove(struct kv_cache *cache, uint32_t index);

uint32_t kv_cache_take_free(struct kv_cache *cache);
/* Frames that retained pages may take. */
uint32_t kv_cache_retained_max(const struct kv_cache *cache);
/* A page in hot, warm or retained is retained from now on. */
void kv_cache_retain(struct kv_cache *cache, uint32_t index);
/*
 * The next page to leave memory: clean, not pinned, not used lately if there is such a one.
 * KV_FRAME_NONE: none can leave now. Dirty frames that were passed over because only that
 * kept them are stored in dirty[0 .. *dirty_count), at most dirty_max of them; with none of
 * those either, all are pinned or on their way from or to the device. dirty_max 0: dirty ones
 * are of no interest, the search goes on until it finds a clean one or has seen all.
 */
uint32_t kv_cache_victim(struct kv_cache *cache, uint32_t *dirty, uint32_t dirty_max,
                         uint32_t *dirty_count);

/* ---- packed pages (cache_packed.c) --------------------------------------------- */

/* A packed page: the stored version that `ptr` names, packed as it lies there or otherwise. */
struct kv_packed {
    struct kv_disk_ptr ptr;
    uint64_t digest; /* kv_digest of the bytes, seeded as ptr.digest is */
    uint32_t length; /* bytes */
    uint8_t codec;
};

/* More than this is not worth keeping. */
static inline size_t kv_packed_length_max(size_t node_bytes)
{
    return node_bytes / 4 * 3;
}

/* A page was loaded or tried that can be packed, or can not: what decides whose the memory is. */
void kv_cache_note_packable(struct kv_cache *cache, bool packable);
/* May another frame be made a slab, for `length` packed bytes? */
bool kv_cache_wants_slab(const struct kv_cache *cache, size_t length);
/* A frame that is not in any queue, its version odd, becomes a slab. */
void kv_cache_add_slab(struct kv_cache *cache, uint32_t index);
/* Are there more slabs than there should be? */
bool kv_cache_has_spare_slab(const struct kv_cache *cache);
/* Make a slab a free frame; what lies in it moves, packed pages leave to make room for that. */
void kv_cache_free_slab(struct kv_cache *cache);

/*
 * Is the page better not kept, since another would leave for it and it is as good as any? If so, it
 * is not turned away when it comes again.
 */
bool kv_cache_turns_away(struct kv_cache *cache, uint64_t page_id, size_t length);
/*
 * Keep a packed page, at the head of cold. One that was kept before is replaced. false: there is no
 * room for it. Nothing is ever kept twice.
 */
bool kv_cache_keep_packed(struct kv_cache *cache, uint64_t page_id, const struct kv_packed *packed,
                          const void *bytes);
bool kv_cache_has_packed(const struct kv_cache *cache, uint64_t page_id);
/* A use: copy the bytes to `out` (frame_bytes). The page stays. false: it is not there. */
bool kv_cache_copy_packed(struct kv_cache *cache, uint64_t page_id, struct kv_packed *packed,
                          void *out);
void kv_cache_drop_packed(struct kv_cache *cache, uint64_t page_id); /* absent is fine */
void kv_cache_drop_all_packed(struct kv_cache *cache);

/*
 * A frozen page that nobody tried to pack closer, as for kv_cache_copy_packed but no use. From now
 * on it counts as tried. false: there is none near the head.
 */
bool kv_cache_take_fresh_frozen(struct kv_cache *cache, uint64_t *page_id, struct kv_packed *packed,
                                void *out);
/* Put a shorter form in its place, if the same version is still there. */
bool kv_cache_shrink_packed(struct kv_cache *cache, uint64_t page_id,
                            const struct kv_packed *packed, const void *bytes);
/* Walk everything: does it hold together? For tests. */
bool kv_cache_packed_sound(const struct kv_cache *cache);

/* For cache_packed.c: put a frame that is in no queue into one, or take it out. */
void kv_cache_queue_push(struct kv_cache *cache, unsigned to, uint32_t index);
void kv_cache_queue_unlink(struct kv_cache *cache, uint32_t index);

#endif
