/*
 * kv/btree_ahead.c: which leaves come next, without reading them.
 *
 * A page above the leaves names some hundred of them in order, so that they can be read together
 * before anyone asks for them one after the other.
 *
 * Locks      none: as kv_btree_get. What is told may be out of date at once; it is a hint.
 */
#include "kv/btree.h"

#include <sched.h>

/* Copy the page above the leaves on the way to `key`, and note the way. -ENOENT: the root is a
 * leaf.
 */
static int copy_above(struct kv_btree *btree, struct kv_bytes key, void *copy,
                      struct kv_btree_ahead *ahead)
{
    for (;;) {
        struct kv_page_view view;
        uint64_t page_id = btree->root;
        ahead->above_count = 0;
        int err = kv_pager_view(btree->pager, page_id, &view);
        if (err)
            return err == -ESTALE ? -EUCLEAN : err;
        for (unsigned depth = 0;; depth++) {
            kv_node_copy_racy(copy, view.bytes, btree->node_bytes);
            if (!kv_pager_view_valid(&view))
                break;
            ahead->above[ahead->above_count++] = page_id;
            if (kv_node_level(copy) <= 1)
                return kv_node_level(copy) ? 0 : -ENOENT;
            if (depth + 1 >= KV_TREE_DEPTH_MAX)
                return -EUCLEAN;
            const unsigned slot = kv_node_child_slot(copy, btree->node_bytes, key.data, key.length);
            struct kv_page_view below;
            page_id = kv_node_child(copy, slot);
            err = kv_pager_view(btree->pager, page_id, &below);
            if (!kv_pager_view_valid(&view))
                break;
            if (err)
                return err == -ESTALE ? -EUCLEAN : err;
            view = below;
        }
        sched_yield(); /* someone changed the path: let them end */
    }
}

int kv_btree_leaves_ahead(struct kv_btree *btree, struct kv_bytes lower, struct kv_bytes upper,
                          void *scratch, struct kv_btree_ahead *ahead)
{
    ahead->count = 0;
    ahead->more = false;
    const int err = copy_above(btree, lower, scratch, ahead);
    if (err)
        return err == -ENOENT ? 0 : err;
    const unsigned count = kv_node_count(scratch);
    unsigned slot = kv_node_child_slot(scratch, btree->node_bytes, lower.data, lower.length);
    for (; slot < count; slot++) {
        ahead->next_len = kv_node_key(scratch, btree->node_bytes, slot, ahead->next);
        if (ahead->count && upper.length &&
            kv_key_compare(ahead->next, ahead->next_len, upper.data, upper.length) >= 0)
            return 0;
        if (ahead->count == ahead->max) {
            ahead->more = true;
            return 0;
        }
        ahead->page_ids[ahead->count++] = kv_node_child(scratch, slot);
    }
    const struct kv_bytes high = kv_node_high(scratch, btree->node_bytes);
    ahead->more = high.data && (!upper.length || kv_key_compare(high.data, high.length, upper.data,
                                                                upper.length) < 0);
    if (ahead->more) {
        memcpy(ahead->next, high.data, high.length);
        ahead->next_len = high.length;
    }
    return 0;
}

int kv_btree_leaves_further(struct kv_btree *btree, struct kv_bytes upper, void *scratch,
                            struct kv_btree_ahead *ahead)
{
    uint8_t from[KV_KEY_MAX];
    const struct kv_bytes lower = {.data = from, .length = ahead->next_len};
    memcpy(from, ahead->next, ahead->next_len);
    return kv_btree_leaves_ahead(btree, lower, upper, scratch, ahead);
}
