/*
 * kv/btree_hint.c: remembering leaves by how keys begin.
 *
 * Owns       the places: some leaves each, and how well they did.
 * Invariant  a frame that is named here is one of the pager's, which live as long as the tree;
 *            what it holds is looked at anew each time.
 * Locks      none.
 */
#include "kv/btree_hint.h"

#include <stdatomic.h>

#define PLACE_BITS   7u
#define PLACE_COUNT  (1u << PLACE_BITS)
#define PLACE_LEAVES 4u
#define SCORE_MAX    16
#define SCORE_MIN    (-16)
#define SCORE_HIT    4   /* what a descent costs, in looks in vain */
#define SEEN_EVERY   16u /* of the versions of a leaf, at a place where hints did not serve */

struct place {
    struct {
        _Atomic(const struct kv_frame *) frame; /* NULL: none */
        _Atomic uint64_t page_id;               /* that was in it; read and written apart from it */
    } leaves[PLACE_LEAVES];
    _Atomic unsigned oldest; /* of the leaves, modulo their number: it gives way to the next */
    _Atomic int score; /* what hints saved here, less what they cost; below 0: they are left out */
};

struct kv_btree_hints {
    struct place places[PLACE_COUNT];
};

struct kv_btree_hints *kv_btree_hints_new(void)
{
    return calloc(1, sizeof(struct kv_btree_hints));
}

void kv_btree_hints_free(struct kv_btree_hints *hints)
{
    free(hints);
}

/* By the first eight bytes: what follows them tells the keys of one leaf apart. */
static struct place *place_of(struct kv_btree_hints *hints, const void *key, size_t key_len)
{
    uint64_t word = 0;
    memcpy(&word, key, key_len < sizeof word ? key_len : sizeof word);
    return &hints->places[(word * 0x9e3779b97f4a7c15u) >> (64 - PLACE_BITS)];
}

static const struct kv_frame *frame_in(const struct place *place, unsigned index)
{
    return atomic_load_explicit(&place->leaves[index].frame, memory_order_relaxed);
}

static uint64_t page_in(const struct place *place, unsigned index)
{
    return atomic_load_explicit(&place->leaves[index].page_id, memory_order_relaxed);
}

/* What changes seldom is written seldom: the place is everybody's. */
static void change_score(struct place *place, int score, int by)
{
    int next = score + by;
    next = next > SCORE_MAX ? SCORE_MAX : next < SCORE_MIN ? SCORE_MIN : next;
    if (next != score)
        atomic_store_explicit(&place->score, next, memory_order_relaxed);
}

bool kv_btree_hint_view(struct kv_btree *btree, const void *key, size_t key_len,
                        struct kv_page_view *leaf)
{
    struct place *place = place_of(btree->hints, key, key_len);
    const int score = atomic_load_explicit(&place->score, memory_order_relaxed);
    if (score < 0)
        return false;
    for (unsigned i = 0; i < PLACE_LEAVES; i++) {
        const struct kv_frame *frame = frame_in(place, i);
        const uint64_t page_id = page_in(place, i);
        if (!frame || !kv_pager_view_frame(btree->pager, frame, page_id, leaf) ||
            !kv_node_is_leaf_of_racy(leaf->bytes, btree->tree) ||
            !kv_node_covers_racy(leaf->bytes, btree->node_bytes, key, key_len) ||
            !kv_pager_view_valid(leaf))
            continue;
        kv_pager_count_hit(btree->pager, leaf);
        change_score(place, score, SCORE_HIT);
        return true;
    }
    return false;
}

void kv_btree_hint_note(struct kv_btree *btree, const void *key, size_t key_len, uint64_t page_id,
                        const struct kv_page_view *leaf)
{
    struct place *place = place_of(btree->hints, key, key_len);
    const int score = atomic_load_explicit(&place->score, memory_order_relaxed);
    bool known = false;
    for (unsigned i = 0; i < PLACE_LEAVES; i++)
        known = known || (page_in(place, i) == page_id && frame_in(place, i) == leaf->frame);
    /* Where hints serve, a descent is made because none did; elsewhere it says what one had done.
     */
    change_score(place, score, known && score < 0 ? SCORE_HIT : -1);
    if (known || (score < 0 && leaf->version / 2 % SEEN_EVERY != 0))
        return;
    const unsigned oldest = atomic_fetch_add_explicit(&place->oldest, 1, memory_order_relaxed);
    const unsigned index = oldest % PLACE_LEAVES;
    atomic_store_explicit(&place->leaves[index].frame, leaf->frame, memory_order_relaxed);
    atomic_store_explicit(&place->leaves[index].page_id, page_id, memory_order_relaxed);
}
