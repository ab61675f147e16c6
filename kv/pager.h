/*
 * kv/pager.h: page ids to frames: faults, dirty sets, epochs, early write-out.
 *
 * Readers look at pages through views and take nothing: they note the page's version, read
 * racily (kv/node.h), and ask whether the version still holds (optimistic lock coupling:
 * Leis, Haubenschild, Neumann 2019). The writer, one at a time, pins the pages it needs,
 * says which it will change (kv_pager_dirty, may wait), and latches them for the change
 * itself (never waits, never does I/O).
 *
 * Threads: views: any. Writer's functions: the thread that holds the store's writer lock.
 * kv_pager_write_epoch: one thread at a time.
 */
#ifndef KV_PAGER_H
#define KV_PAGER_H

#include "kv/buffer.h"
#include "kv/cache.h"
#include "kv/device.h"
#include "kv/pagemap.h"
#include "kv/space.h"
#include "kv/stored_page.h"

struct kv_pager;

struct kv_pager_config {
    struct kv_device *device;
    struct kv_space *space;
    struct kv_pagemap *map;
    struct kv_buffers *buffers;
    size_t node_bytes;
    uint64_t budget_bytes;
    struct kv_tiers tiers;
    bool adapt_tiers;           /* cold and frozen may get a share that tiers do not give them */
    uint32_t retain_percent;    /* of the frames for pages: 0..50 */
    struct kv_stored_form form; /* of the pages on the device */
    uint64_t image_id;          /* kv_superblock_log_id */
    uint64_t epoch;             /* the first open one */
    /* Called once when a page could not be written: the store must turn read-only. */
    void (*on_failure)(void *context, int error, const char *what);
    /* Called when a page that was read is damaged. */
    void (*on_damage)(void *context, uint64_t page_id, int error);
    /*
     * Called, under the pager's lock, when many pages are dirty: will a thread that nobody waits
     * for call kv_pager_clean soon? NULL: there is none.
     */
    bool (*on_crowded)(void *context);
    void *context;
};

KV_MUST_CHECK int kv_pager_open(const struct kv_pager_config *config, struct kv_pager **pager);
void kv_pager_close(struct kv_pager *pager); /* writes nothing */
/* Where the frames are: for who goes ahead of them. */
struct kv_arena *kv_pager_arena(struct kv_pager *pager);

/* Valid ratios (kv_tiers_valid). Takes effect as pages come and go. */
void kv_pager_set_tiers(struct kv_pager *pager, const struct kv_tiers *tiers);
/* Every second or so, with adapt_tiers: do packed pages pay? */
void kv_pager_adapt(struct kv_pager *pager);

/* ---- readers -------------------------------------------------------------- */

struct kv_page_view {
    const uint8_t *bytes;
    const struct kv_frame *frame;
    uint64_t version;
};

/* Bring the page into memory if need be. -ESTALE: there is no such page (any more). */
KV_MUST_CHECK int kv_pager_view(struct kv_pager *pager, uint64_t page_id,
                                struct kv_page_view *view);
/* The same; loaded: out: this call brought it. */
KV_MUST_CHECK int kv_pager_view_or_load(struct kv_pager *pager, uint64_t page_id,
                                        struct kv_page_view *view, bool *loaded);
/* The same without waiting for the device; false: the page is not in memory. */
bool kv_pager_view_resident(struct kv_pager *pager, uint64_t page_id, struct kv_page_view *view);
/* A use of the page, which loading it is not: it stays longer. */
void kv_pager_use(struct kv_pager *pager, const struct kv_page_view *view);
/* As kv_pager_view_resident without being a use of the page. */
bool kv_pager_peek(struct kv_pager *pager, uint64_t page_id, struct kv_page_view *view);
/* View a page in the frame where it was before. false: it is not there, or is being changed. */
bool kv_pager_view_frame(struct kv_pager *pager, const struct kv_frame *frame, uint64_t page_id,
                         struct kv_page_view *view);
/* The same by the frame's number, which may be any: kv_pager_frame_of told it. */
bool kv_pager_view_at(struct kv_pager *pager, uint32_t frame, uint64_t page_id,
                      struct kv_page_view *view);
uint32_t kv_pager_frame_of(const struct kv_pager *pager, const struct kv_page_view *view);
/* Ask the processor's cache for what it says of the frame. The frame's bytes, which the caller may
 * ask for but not look at; NULL: there is no such frame. */
const uint8_t *kv_pager_fetch_at(const struct kv_pager *pager, uint32_t frame);
/* The page that was viewed so is of use. */
void kv_pager_count_hit(struct kv_pager *pager, const struct kv_page_view *view);
/*
 * Ask the processor's cache for what kv_pager_view_resident will look at: first one, and when
 * that may have come the other. For who has several pages to look at.
 */
void kv_pager_fetch_bucket(const struct kv_pager *pager, uint64_t page_id);
void kv_pager_fetch_frame(const struct kv_pager *pager, uint64_t page_id);
/*
 * Bring pages into memory, those that are not there with one submission. Only a hint: what can
 * not be had is left out, and whoever asks for it will hear why. Returns how many this call read.
 */
size_t kv_pager_prefetch(struct kv_pager *pager, const uint64_t *page_ids, size_t count);
/* The same, and what is there now is retained (kv_cache_retain). */
void kv_pager_retain(struct kv_pager *pager, const uint64_t *page_ids, size_t count);
/* All frames, whatever they are used for. */
uint32_t kv_pager_frame_count(const struct kv_pager *pager);
/* How many pages there is room for in hot and warm, whatever else memory is used for. */
uint64_t kv_pager_page_room(struct kv_pager *pager);
/* Did nothing change since kv_pager_view? Only then is what was read true. */
bool kv_pager_view_valid(const struct kv_page_view *view);

/* ---- the writer ------------------------------------------------------------ */

struct kv_page {
    uint64_t id;
    uint8_t *bytes;
    uint32_t frame;
    bool
        dirty; /* kv_pager_dirty has been here; no epoch is opened while a changed page is pinned */
};

/* Hold the page in memory until kv_pager_unpin. -ESTALE as above. */
KV_MUST_CHECK int kv_pager_pin(struct kv_pager *pager, uint64_t page_id, struct kv_page *page);
/* The same if it is in memory now; false otherwise. */
bool kv_pager_pin_resident(struct kv_pager *pager, uint64_t page_id, struct kv_page *page);
void kv_pager_unpin(struct kv_pager *pager, struct kv_page *page);

/*
 * Pin `count` pages that are in view, and unpin old[0 .. old_count), in one step. false: some view
 * holds no more; then none of them is pinned.
 */
bool kv_pager_pin_views(struct kv_pager *pager, const struct kv_page_view *views, size_t count,
                        struct kv_page *pages, struct kv_page *old, size_t old_count);

/* The pinned page will be changed in the open epoch. -ENOSPC. May wait for a checkpoint. */
KV_MUST_CHECK int kv_pager_dirty(struct kv_pager *pager, struct kv_page *page);
void kv_pager_latch(struct kv_pager *pager, const struct kv_page *page);
void kv_pager_unlatch(struct kv_pager *pager, const struct kv_page *page);

/* A fresh page: pinned, dirty, latched, its bytes undefined. */
KV_MUST_CHECK int kv_pager_new(struct kv_pager *pager, struct kv_page *page);
/* Free a pinned, dirty, unlatched page; the pin is gone with it. */
KV_MUST_CHECK int kv_pager_free(struct kv_pager *pager, struct kv_page *page);

/*
 * Set space aside for the pages that the next operations will dirty; give back what is left.
 * Writes pages out while too many frames are dirty, so nothing may be pinned. Should the pages
 * be more than was thought, the last of the space is used before anything fails.
 */
KV_MUST_CHECK int kv_pager_reserve(struct kv_pager *pager, uint64_t page_count, bool urgent);
/* The same with so many clusters that the caller has reserved already (kv_space_reserve): they are
 * the pager's, unless this fails. */
KV_MUST_CHECK int kv_pager_take_reserved(struct kv_pager *pager, uint64_t page_count);
void kv_pager_unreserve(struct kv_pager *pager);
/* Grows with each page that the writer makes or is about to change. */
uint64_t kv_pager_changes(const struct kv_pager *pager);

/* ---- the checkpoint --------------------------------------------------------- */

/* The gate: from now on changes belong to `epoch`. Under the store's writer lock. */
void kv_pager_open_epoch(struct kv_pager *pager, uint64_t epoch);
/* Write every page as it was when `epoch` was closed. Not flushed. After an error nothing more
 * is written, and whoever waits for a page gets the error. `alone`: nobody else is at work, so many
 * pages are written by two threads, if another one is to be had. */
KV_MUST_CHECK int kv_pager_write_epoch(struct kv_pager *pager, uint64_t epoch, bool alone);
/*
 * Return when `percent` of the pages of the closing epoch are written, or all; write some of them
 * meanwhile. For who changes pages faster than the checkpoint writes them; any thread, nothing
 * pinned.
 */
KV_MUST_CHECK int kv_pager_help(struct kv_pager *pager, unsigned percent);

/*
 * What no request should wait for: pack pages that will leave warm soon, pack frozen ones closer.
 * About pages_max of each at most. Returns how many were worked on; 0: there is nothing to do. One
 * thread at a time.
 */
size_t kv_pager_pack_some(struct kv_pager *pager, size_t pages_max);
/* Likewise, after on_crowded: write pages out, so that whoever needs a frame finds clean ones. */
void kv_pager_clean(struct kv_pager *pager);

struct kv_pager_stats {
    uint64_t frames, dirty;
    uint64_t misses, evictions, writes, write_bytes;
    uint64_t packed, repacked, unpackable;
    uint64_t memory_bytes;
    uint64_t retained_bytes, retained_max_bytes;
    struct kv_tier_stats tiers[KV_TIER_COUNT];
};
void kv_pager_stats(struct kv_pager *pager, struct kv_pager_stats *stats);
uint64_t kv_pager_dirty_pages(struct kv_pager *pager); /* that are not on their way */

/*
 * For kv_check: read the stored version that `ptr` names into `out` (node_bytes), verified.
 */
KV_MUST_CHECK int kv_pager_read_stored(struct kv_pager *pager, uint64_t page_id,
                                       const struct kv_disk_ptr *ptr, void *out);
struct kv_page_read {
    uint64_t page_id;
    void *out; /* node_bytes, aligned */
    int err;   /* out: 0, or as kv_pager_read_stored; -ESTALE: the page map has no such page */
};
/* The same for up to KV_PAGES_AT_ONCE pages, with one submission; where they lie is looked up. */
#define KV_PAGES_AT_ONCE 64u
void kv_pager_read_many(struct kv_pager *pager, struct kv_page_read *reads, size_t count);
/* For repair: whatever is in memory and not changed leaves it. */
void kv_pager_drop_clean(struct kv_pager *pager);

#endif
