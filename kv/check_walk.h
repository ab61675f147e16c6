/*
 * kv/check_walk.h: walk all that the last checkpoint made durable, and note what owns each block.
 *
 * The walk reads the page map and the stored version of each page, never a frame. It is used
 * by the check, and while an image is opened whose bitmaps are lost.
 *
 * A page that can not be used leaves a hole: its place in the tree. A map block that can not
 * be read leaves a gap: the pages that it placed are not to be found.
 *
 * Pages and blobs are read many at a time. Memory: 1 MiB for each level of a tree; a bit for each
 * block of the image; 40 bytes for each 128 page ids; 64 bytes for each blob, at most.
 *
 * Threads: one; nothing may be changed meanwhile.
 */
#ifndef KV_CHECK_WALK_H
#define KV_CHECK_WALK_H

#include "kv/check_blobs.h"
#include "kv/store.h"

#define KV_WALK_BATCH_BYTES (1u << 20)

/* Where a damaged page was expected. */
struct kv_walk_hole {
    uint64_t page_id, parent; /* parent 0: it is the root */
    uint8_t tree;
    uint8_t level;      /* of the page; of no meaning for a root */
    int error;          /* why it could not be read; 0: it does not belong here */
    bool unbounded;     /* it has no high fence */
    uint16_t low_bytes; /* fences that it should have had */
    uint16_t high_bytes;
    uint8_t *fences; /* low, then high */
};

/* A map block that was not read. */
struct kv_walk_gap {
    uint32_t level;
    uint64_t index;
};

/* What is known of 128 page ids. */
struct kv_walk_pages {
    uint64_t index; /* of their map block */
    uint64_t mapped[2], visited[2];
};

struct kv_walk {
    struct kv_store *store;
    kv_check_report_fn *report; /* NULL: nobody is told */
    void *context;
    void (*progress)(void *context, uint64_t done, uint64_t total); /* NULL: likewise */
    bool read_blobs;
    kv_show_key_fn *show_key; /* NULL: keys are shown as bytes */
    void *show_context;

    uint64_t *seen; /* a bit for each block from first_block on: it has an owner */
    uint64_t first_block, block_count;
    struct kv_walk_pages *pages; /* by index */
    size_t pages_count, pages_capacity;
    struct kv_walk_hole *holes;
    size_t hole_count, hole_capacity;
    struct kv_walk_gap *gaps;
    size_t gap_count, gap_capacity;
    struct kv_blob_notes blobs; /* those that tree 0 holds */

    uint64_t page_count, key_count, shared_blobs, leaked_pages;
    uint64_t pages_done;
    uint64_t bad_values;          /* values with references that can not be, or that clash */
    uint64_t bad_counts;          /* entries of the refs tree that are wrong or missing */
    uint64_t bad_blobs;           /* that could not be read whole */
    uint64_t repairable, damaged; /* findings */
    struct kv_blob_ref unverified[KV_BLOBS_AT_ONCE]; /* read together */
    size_t unverified_count;
    /* for a root, and for the pages of each depth that are read together */
    struct kv_walk_batch {
        uint8_t *nodes;
        unsigned capacity; /* in pages, KV_WALK_BATCH_BYTES at most; 0: none yet */
    } batches[KV_TREE_DEPTH_MAX + 1];
};

/* report, context, progress, read_blobs and show_key may be set between init and run. -ENOMEM. */
KV_MUST_CHECK int kv_walk_init(struct kv_walk *walk, struct kv_store *store,
                               const struct kv_disk_superblock *superblock);
void kv_walk_release(struct kv_walk *walk);

/* Walk everything. Damage is noted and reported; an error means that the walk did not end. */
KV_MUST_CHECK int kv_walk_run(struct kv_walk *walk);
/* Count a finding and report it. */
void kv_walk_report(struct kv_walk *walk, enum kv_check_severity severity, const char *what,
                    const char *format, ...) KV_PRINTF(4, 5);
/* Was something not seen because it could not be read? */
static inline bool kv_walk_incomplete(const struct kv_walk *walk)
{
    return walk->hole_count || walk->gap_count;
}

/* The fences that the page in a hole should have had; high: data NULL for none. */
struct kv_bytes kv_walk_hole_low(const struct kv_walk_hole *hole);
struct kv_bytes kv_walk_hole_high(const struct kv_walk_hole *hole);
/* The next page id >= *page_id that is in the map but that no tree reached; false: none. */
bool kv_walk_next_leaked(const struct kv_walk *walk, uint64_t *page_id);

/*
 * The references in a stored value. Each is copied to `ref` in turn, *at starts as 0; false:
 * there are no more.
 */
bool kv_value_next_ref(uint8_t kind, struct kv_bytes value, size_t *at, struct kv_blob_ref *ref);
/* Has a large value no more blobs, and is it no longer, than what can be put? */
bool kv_value_sane(uint8_t kind, struct kv_bytes value);

#endif
