/*
 * kv/btree_guide.h: what a descent wants to know of an inner page, close together.
 *
 * A descent that searches an inner page waits for memory several times: for the page's slots, for
 * the cell of the child, for the hash and the frame where the child is. A guide holds for each
 * child of one inner page the head of its key and the frame where it was found last, side by side,
 * and its id. It takes a hundredth of what the children take, so that the guides of all inner pages
 * stay in the processor's cache when the pages do not; and with the frame at hand, frame and child
 * are waited for together. (Compare the swizzled references of Graefe et al. 2014, and of Leis et
 * al. 2018: here they are hints beside the page, so nothing has to be undone before a page leaves.)
 *
 * A guide is of one version of a page, in one frame, and says nothing once that has changed. The
 * frame of a child may be wrong: what is in it is trusted after it has shown the child's id.
 *
 * Threads: any; what is noted is atomic. One at a time makes a guide, others go without.
 */
#ifndef KV_BTREE_GUIDE_H
#define KV_BTREE_GUIDE_H

#include "kv/btree.h"

#include <stdatomic.h>

struct kv_btree_guides;

/* The way to a child. */
struct kv_btree_way {
    uint64_t child;
    uint32_t frame;          /* where it was last; KV_FRAME_NONE: not known */
    _Atomic uint32_t *noted; /* where the frame is noted; NULL: nowhere */
    uint8_t level;           /* of the child */
};

struct kv_btree_guides *kv_btree_guides_new(size_t node_bytes, uint64_t frame_count); /* or NULL */
void kv_btree_guides_free(struct kv_btree_guides *guides);

/*
 * Find the child that covers `key`, of the inner page in view. true only if that view was valid
 * then. false: the page itself has to be searched.
 */
bool kv_btree_guide_find(struct kv_btree *btree, uint64_t page_id, const struct kv_page_view *inner,
                         const void *key, size_t key_len, struct kv_btree_way *way);
/* The inner page in view was searched for lack of a guide: now and then one is made. */
void kv_btree_guide_missed(struct kv_btree *btree, uint64_t page_id,
                           const struct kv_page_view *inner);

/* View the child where it was last, and count that. false: it is not there, or being changed. */
static inline bool kv_btree_way_view(struct kv_btree *btree, const struct kv_btree_way *way,
                                     struct kv_page_view *child)
{
    if (!kv_pager_view_at(btree->pager, way->frame, way->child, child))
        return false;
    kv_pager_count_hit(btree->pager, child);
    return true;
}

/* The child was found elsewhere. */
static inline void kv_btree_way_note(struct kv_btree *btree, const struct kv_btree_way *way,
                                     const struct kv_page_view *child)
{
    if (way->noted)
        atomic_store_explicit(way->noted, kv_pager_frame_of(btree->pager, child),
                              memory_order_relaxed);
}

#endif
