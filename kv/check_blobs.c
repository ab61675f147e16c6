/*
 * kv/check_blobs.c: which blobs a walk has met, and how many values hold each.
 *
 * Owns       the slots of a table.
 * Invariant  at least half of the slots are empty, so that a search ends.
 * Locks      none.
 */
#include "kv/check_blobs.h"

#include "kv/codec.h"

#define CAPACITY_MIN 256u

static size_t slot_of(const struct kv_blob_notes *notes, uint64_t block)
{
    return (size_t)((block * 0x9e3779b97f4a7c15ull) >> 17) & (notes->capacity - 1);
}

/* The slot that holds `block`, or the empty one where it belongs. */
static struct kv_blob_note *probe(const struct kv_blob_notes *notes, uint64_t block)
{
    for (size_t i = slot_of(notes, block);; i = (i + 1) & (notes->capacity - 1))
        if (!notes->slots[i].block || notes->slots[i].block == block)
            return &notes->slots[i];
}

static int grow(struct kv_blob_notes *notes)
{
    struct kv_blob_notes bigger = {.capacity =
                                       notes->capacity ? 2 * notes->capacity : CAPACITY_MIN};
    bigger.slots = calloc(bigger.capacity, sizeof *bigger.slots);
    if (!bigger.slots)
        return -ENOMEM;
    for (size_t i = 0; i < notes->capacity; i++)
        if (notes->slots[i].block)
            *probe(&bigger, notes->slots[i].block) = notes->slots[i];
    bigger.count = notes->count;
    free(notes->slots);
    *notes = bigger;
    return 0;
}

struct kv_blob_note *kv_blob_notes_find(const struct kv_blob_notes *notes, uint64_t block)
{
    if (!notes->count || !block)
        return NULL;
    struct kv_blob_note *note = probe(notes, block);
    return note->block ? note : NULL;
}

int kv_blob_notes_add(struct kv_blob_notes *notes, uint64_t block, uint32_t block_count,
                      const struct kv_blob_ref *ref, struct kv_blob_note **note, bool *fresh)
{
    KV_ASSERT(block != 0);
    if (2 * (notes->count + 1) > notes->capacity) {
        const int err = grow(notes);
        if (err)
            return err;
    }
    *note = probe(notes, block);
    *fresh = !(*note)->block;
    if (*fresh) {
        **note = (struct kv_blob_note){
            .block = block, .identity = kv_blob_identity(ref), .block_count = block_count};
        notes->count++;
    }
    if ((*note)->holders < UINT32_MAX)
        (*note)->holders++;
    return 0;
}

/* A blob is never longer than KV_BLOB_MAX, so those that reach into a run begin near it. */
struct kv_blob_note *kv_blob_notes_next_in(const struct kv_blob_notes *notes, uint64_t block,
                                           uint64_t block_count, uint64_t *at)
{
    const uint64_t longest = KV_BLOB_MAX / KV_BLOCK_BYTES;
    const uint64_t first = block > longest ? block - longest : 1;
    for (*at = kv_max_u64(*at, first); *at < block + block_count;) {
        struct kv_blob_note *note = kv_blob_notes_find(notes, (*at)++);
        if (note && note->block + note->block_count > block)
            return note;
    }
    return NULL;
}

static int compare_notes(const void *a, const void *b)
{
    const uint64_t x = (*(struct kv_blob_note *const *)a)->block;
    const uint64_t y = (*(struct kv_blob_note *const *)b)->block;
    return (x > y) - (x < y);
}

int kv_blob_notes_find_overlaps(struct kv_blob_notes *notes)
{
    struct kv_blob_note **sorted = malloc((notes->count + 1) * sizeof(struct kv_blob_note *));
    if (!sorted)
        return -ENOMEM;
    size_t count = 0;
    for (size_t i = 0; i < notes->capacity; i++)
        if (notes->slots[i].block)
            sorted[count++] = &notes->slots[i];
    qsort(sorted, count, sizeof *sorted, compare_notes);
    struct kv_blob_note *furthest = NULL; /* of those before, the one that ends last */
    for (size_t i = 0; i < count; i++) {
        struct kv_blob_note *note = sorted[i];
        if (furthest && furthest->block + furthest->block_count > note->block) {
            furthest->flags |= KV_BLOB_CLASHES;
            note->flags |= KV_BLOB_CLASHES;
        }
        if (!furthest || furthest->block + furthest->block_count < note->block + note->block_count)
            furthest = note;
    }
    free(sorted);
    return 0;
}

void kv_blob_notes_release(struct kv_blob_notes *notes)
{
    free(notes->slots);
    *notes = (struct kv_blob_notes){0};
}

uint64_t kv_blob_identity(const struct kv_blob_ref *ref)
{
    return kv_digest(ref->bytes, sizeof ref->bytes, 0);
}
