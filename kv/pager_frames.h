/*
 * kv/pager_frames.h: the pager's frames and lists, what every part of it works on. For
 * kv/pager*.c only, hence the short names.
 *
 * Invariant  a frame's version is odd while its bytes change, while it loads, and while it
 *            is free. A page that is dirty in the closing epoch is either claimed (copied and
 *            being written), or unchanged since the gate: whoever wants to change it first
 *            copies it to a shadow. The versions of one page reach the device in the order
 *            of their epochs, so `stored_block` is always the one before.
 * Locks      pager->mutex guards frames, queues, lists and counts; never held over a device
 *            call. Versions and the hash are atomic and read without it. The functions here are
 *            called, and return, with the mutex, unless they say otherwise.
 *
 * Waiting    A thread waits for a frame or a page while others load or write; these never wait
 *            for a frame with a frame in hand, and need no memory. After a failed write nobody
 *            waits any more: dirty frames stay as they are, the rest can be read on.
 */
#ifndef KV_PAGER_FRAMES_H
#define KV_PAGER_FRAMES_H

#include "kv/counter.h"
#include "kv/pager.h"

#include <pthread.h>

#define WRITE_BATCH_MAX 256u /* pages */
#define CLEAN_PERCENT   75u  /* of the frames: when more are dirty, some are written out */
#define DIRTY_PERCENT   85u  /* when more are, the writer helps who was asked to do that */
#define CLEAN_MIN       16u  /* frames, of few more than a quarter */

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
    uint8_t *raw;          /* the bytes: of the shadow, or copied */
    uint8_t *stored;       /* the page as it is written */
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
    uint8_t *bare;   /* node_bytes, for packing */
    struct kv_io ios[WRITE_BATCH_MAX];
    size_t io_count;
    int err;                         /* of packing and placing it */
    struct kv_device_flight *flight; /* under way; or NULL */
};

/* Of kv_pager_pack_some. */
struct packer {
    unsigned saved_permille; /* by packing frozen pages closer, of late */
    unsigned skipped;        /* frozen pages since one was tried, while that saves little */
};

/* What tells whether packed pages pay. */
struct adapt_counts {
    uint64_t misses, writes, packed_hits;
    uint64_t back; /* pages that came and had left lately */
};

/* pager_adapt.c */
struct kv_pager_adapt {
    bool on;                  /* nobody gave cold and frozen a share */
    bool packed;              /* they have one for now */
    bool trial;               /* frames alone do well enough, perhaps */
    bool paid;                /* at the last look packed pages would have paid */
    struct kv_tiers given;    /* the defaults written out */
    struct adapt_counts seen; /* at the last look that told something */
    unsigned easy_windows, trial_every;
};

struct kv_pager {
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* a load or a write ended, or a frame can leave */
    struct kv_pager_config config;
    struct kv_cache cache;
    uint64_t epoch;              /* mutex; the open one */
    struct dirty_list dirty[2];  /* mutex; by the low bit of the epoch */
    uint64_t closing_count;      /* mutex; pages of epoch - 1 that it had to write, at the gate */
    struct shadow *shadows;      /* mutex; all of epoch - 1 */
    size_t shadow_count;         /* mutex */
    struct shadow *shadows_free; /* mutex; that were written, for the next ones of the epoch */
    size_t shadows_max;          /* mutex */
    uint64_t credit;             /* mutex; clusters reserved, not yet used by a dirty page */
    struct write_batch *checkpoint[2];     /* whoever runs kv_pager_write_epoch */
    struct write_batch *early;             /* whoever set early_busy: to make room, or to help */
    bool early_busy;                       /* mutex */
    unsigned frame_waiters;                /* mutex */
    bool cleaning_asked;                   /* mutex; kv_pager_clean will come */
    bool passed_many;                      /* mutex; it is wanted where pages leave */
    int failure;                           /* mutex; sticky: a write failed */
    uint64_t order;                        /* mutex; pages claimed so far */
    uint64_t changes;                      /* the writer's */
    uint64_t misses, writes, write_bytes;  /* mutex */
    uint64_t packed, repacked, unpackable; /* mutex */
    struct kv_pager_adapt adapt;           /* mutex */
    struct packer packer;                  /* whoever runs kv_pager_pack_some */
    struct kv_counter hits[2];             /* of KV_TIER_HOT and KV_TIER_WARM */
};

static inline struct kv_frame *frame_at(struct kv_pager *pager, uint32_t index)
{
    return &pager->cache.frames[index];
}

static inline uint64_t page_id_of(const struct kv_frame *frame)
{
    return atomic_load_explicit(&frame->page_id, memory_order_relaxed);
}

/*
 * One thread at a time advances a frame's version. Odd: what is written afterwards is not seen
 * before it; even: what was written before is seen with it.
 */
static inline void version_advance(struct kv_frame *frame)
{
    /* Release pairs with the acquire loads of kv_pager_view and kv_pager_view_valid. */
#if defined(__SANITIZE_THREAD__)
    (void)atomic_fetch_add_explicit(&frame->version, 1, memory_order_acq_rel);
#else
    const uint64_t version = atomic_load_explicit(&frame->version, memory_order_relaxed);
    atomic_store_explicit(&frame->version, version + 1, memory_order_release);
    atomic_thread_fence(memory_order_release);
#endif
}

/* May the page be written out now, to make room? */
static inline bool can_clean(const struct kv_frame *frame)
{
    return frame->flags == KV_FRAME_DIRTY && !frame->pins;
}

static inline void fill_page(struct kv_pager *pager, uint64_t page_id, uint32_t index,
                             struct kv_page *page)
{
    *page = (struct kv_page){
        .id = page_id, .bytes = kv_cache_bytes(&pager->cache, index), .frame = index};
}

/* ---- dirty lists ----------------------------------------------------------------- */

static inline void dirty_link(struct kv_pager *pager, uint32_t index, uint64_t epoch)
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

static inline void dirty_unlink(struct kv_pager *pager, uint32_t index)
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

static inline uint64_t dirty_count(const struct kv_pager *pager)
{
    return pager->dirty[0].count + pager->dirty[1].count;
}

/* ---- loading (pager_load.c) ------------------------------------------------------- */

/*
 * The frame of a page, loaded if need be (*loaded): the mutex is released meanwhile. -ESTALE: there
 * is no such page; what else reading it says.
 */
KV_MUST_CHECK int kv_pager_fault(struct kv_pager *pager, uint64_t page_id, uint32_t *index,
                                 bool *loaded);

/* ---- packed pages (pager_pack.c) ---------------------------------------------------- */

/*
 * Keep a page as it was just read or written, if it is packed so and memory is short. Takes no page
 * out of its frame that is pinned. false: packing it gains too little.
 */
bool kv_pager_keep_stored(struct kv_pager *pager, uint64_t page_id, const struct kv_disk_ptr *ptr,
                          const void *stored);

/* ---- making room (pager_room.c) ---------------------------------------------------- */

/*
 * A frame that is free or can be freed at once, its version odd; or KV_FRAME_NONE, and then up to
 * dirty_max dirty frames that stand in the way.
 */
uint32_t kv_pager_take_frame(struct kv_pager *pager, uint32_t *dirty, uint32_t dirty_max,
                             uint32_t *dirty_count);
/*
 * A frame without a page, its version odd. May release the mutex meanwhile (*released). The caller
 * has no frame in hand.
 */
KV_MUST_CHECK int kv_pager_obtain_frame(struct kv_pager *pager, uint32_t *index, bool *released);
void kv_pager_give_back_frame(struct kv_pager *pager, uint32_t index);
/* Of so many frames, are more than `percent` dirty? */
static inline bool more_are_dirty(const struct kv_pager *pager, uint32_t frames, unsigned percent)
{
    return dirty_count(pager) > kv_min_u64((uint64_t)frames * percent / 100, frames - CLEAN_MIN);
}
/*
 * Keep some frames clean, so that readers seldom wait for writes, and that there is something
 * to read with when nothing can be written any more: ask for kv_pager_clean in time, and do it here
 * if that was not enough. May release the mutex meanwhile.
 */
KV_MUST_CHECK int kv_pager_limit_dirty(struct kv_pager *pager);

/* ---- writing (pager_write.c) ------------------------------------------------------- */

/* Heap only; no mutex. */
void kv_pager_free_shadows(struct shadow *shadows);
/* Heap only, a small part of the budget; no mutex. NULL: no memory. */
struct write_batch *kv_pager_batch_new(size_t node_bytes, uint64_t budget_bytes);
void kv_pager_batch_free(struct write_batch *batch);
/* Add a dirty frame's page to a batch; its bytes do not change while it is claimed. */
void kv_pager_claim_frame(struct kv_pager *pager, struct write_batch *batch, uint32_t index);
/* Write what a batch has claimed, and empty it; the mutex is released meanwhile. */
KV_MUST_CHECK int kv_pager_run_batch(struct kv_pager *pager, struct write_batch *batch);
/*
 * Write some pages of the closing epoch, of which some are left, beside the checkpoint; or wait
 * until others have. The mutex is released meanwhile. For who would else only wait.
 */
KV_MUST_CHECK int kv_pager_help_locked(struct kv_pager *pager);
/* The freed page of a frame leaves memory, the map and the space, in the epoch that freed it. */
KV_MUST_CHECK int kv_pager_forget_page(struct kv_pager *pager, uint32_t index, uint64_t epoch);

/* With the mutex: take effect, whoever wants it. */
void kv_pager_apply_tiers(struct kv_pager *pager, const struct kv_tiers *tiers);
/* With the mutex, or while nobody else knows the pager: these were given. */
void kv_pager_adapt_start(struct kv_pager *pager, const struct kv_tiers *given);

#endif
