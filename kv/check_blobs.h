/*
 * kv/check_blobs.h: which blobs a walk has met, and how many values hold each.
 *
 * A hash table from a blob's first block to what is known of it: 32 bytes a blob.
 * Threads: one.
 */
#ifndef KV_CHECK_BLOBS_H
#define KV_CHECK_BLOBS_H

#include "kv/base.h"
#include "kv/kv.h"

enum kv_blob_note_flags {
    KV_BLOB_COUNTED = 1, /* the refs tree has an entry for it */
    KV_BLOB_CLASHES = 2, /* shares blocks with something else */
    KV_BLOB_ON_PAGE = 4, /* with a map block, or with a page that is in use */
};

struct kv_blob_note {
    uint64_t block;    /* first; 0: an empty slot */
    uint64_t identity; /* digest of the reference as it was first met */
    uint32_t block_count;
    uint32_t holders; /* references met, saturating */
    uint32_t flags;   /* of kv_blob_note_flags */
};

struct kv_blob_notes {
    struct kv_blob_note *slots;
    size_t capacity; /* power of two, or 0 */
    size_t count;
};

/* NULL: not met. Notes stay where they are until the next kv_blob_notes_add. */
struct kv_blob_note *kv_blob_notes_find(const struct kv_blob_notes *notes, uint64_t block);
/*
 * Count one more holder of the blob that begins at `block` (not 0). *fresh: it was met for the
 * first time; block_count and identity are filled in then only. -ENOMEM.
 */
KV_MUST_CHECK int kv_blob_notes_add(struct kv_blob_notes *notes, uint64_t block,
                                    uint32_t block_count, const struct kv_blob_ref *ref,
                                    struct kv_blob_note **note, bool *fresh);
/*
 * Of the notes, one that shares a block of the run with it, looked for from *at on, where 0 is the
 * beginning; *at is moved past it. NULL: no further one.
 */
struct kv_blob_note *kv_blob_notes_next_in(const struct kv_blob_notes *notes, uint64_t block,
                                           uint64_t block_count, uint64_t *at);
/* Flag all blobs that share blocks with another one as clashing. -ENOMEM. */
KV_MUST_CHECK int kv_blob_notes_find_overlaps(struct kv_blob_notes *notes);
void kv_blob_notes_release(struct kv_blob_notes *notes);

/* What kv_blob_note.identity is for this reference. */
uint64_t kv_blob_identity(const struct kv_blob_ref *ref);

#endif
