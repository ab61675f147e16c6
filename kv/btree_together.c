/*
 * kv/btree_together.c: several keys go down a tree side by side.
 *
 * A descent waits for memory at each page: for the hash, the frame, the page's slots, its cell.
 * Here all keys take the same step before any takes the next, and each step first asks for what
 * the next one reads, so that the waits of all overlap.
 *
 * Locks      none: as kv_btree_get. A descent that meets a change, or anything else that is out
 *            of the ordinary, is left to kv_btree_get_resident, which begins anew.
 */
#include "kv/btree.h"

/* One key on its way. */
struct descent {
    struct kv_btree_lookup *lookup;
    struct kv_page_view view;
    uint64_t child;
};

static void look_up_alone(struct kv_btree *btree, struct kv_btree_lookup *lookup)
{
    lookup->result =
        kv_btree_get_resident(btree, lookup->key, lookup->key_len, lookup->buf, lookup->buf_cap,
                              &lookup->value_len, &lookup->kind, &lookup->missing);
}

/* Choose the child of the page in view. false: the bytes can not be used. */
static bool choose_child(struct kv_btree *btree, struct descent *descent)
{
    unsigned slot;
    descent->child = kv_node_child_racy(descent->view.bytes, btree->node_bytes,
                                        descent->lookup->key, descent->lookup->key_len, &slot);
    if (descent->child == UINT64_MAX || !kv_pager_view_valid(&descent->view))
        return false;
    kv_pager_fetch_bucket(btree->pager, descent->child);
    return true;
}

/* View the child, of `level`, that was chosen. false: it is not there, or not what it should be. */
static bool view_child(struct kv_btree *btree, struct descent *descent, uint8_t level)
{
    struct kv_page_view below;
    if (!kv_pager_view_resident(btree->pager, descent->child, &below) ||
        !kv_pager_view_valid(&descent->view))
        return false;
    if (level == 0)
        kv_node_fetch_leaf(below.bytes);
    descent->view = below;
    return true;
}

/* All of them one level down. Those that can not are looked up alone, and left out. */
static size_t step_down(struct kv_btree *btree, struct descent *descents, size_t count,
                        uint8_t level)
{
    size_t left = 0;
    for (size_t i = 0; i < count; i++) {
        struct descent *descent = &descents[i];
        if (choose_child(btree, descent))
            descents[left++] = *descent;
        else
            look_up_alone(btree, descent->lookup);
    }
    for (size_t i = 0; i < left; i++)
        kv_pager_fetch_frame(btree->pager, descents[i].child);
    count = left;
    left = 0;
    for (size_t i = 0; i < count; i++) {
        struct descent *descent = &descents[i];
        if (view_child(btree, descent, level))
            descents[left++] = *descent;
        else
            look_up_alone(btree, descent->lookup);
    }
    return left;
}

/* The leaf is in view. */
static void take_value(struct kv_btree *btree, const struct descent *descent)
{
    struct kv_btree_lookup *lookup = descent->lookup;
    const uint8_t *leaf = descent->view.bytes;
    lookup->result =
        kv_node_value_racy(leaf, btree->node_bytes, lookup->key, lookup->key_len, lookup->buf,
                           lookup->buf_cap, &lookup->value_len, &lookup->kind);
    /* Only the leaf that covers a key can say that there is none. */
    if (lookup->result == -ENOENT &&
        !kv_node_covers_racy(leaf, btree->node_bytes, lookup->key, lookup->key_len))
        lookup->result = -EAGAIN;
    if (lookup->result == -EAGAIN || !kv_pager_view_valid(&descent->view))
        look_up_alone(btree, lookup);
}

void kv_btree_get_together(struct kv_btree *btree, struct kv_btree_lookup *lookups, size_t count)
{
    KV_ASSERT(count <= KV_BTREE_TOGETHER);
    struct kv_page_view root;
    uint8_t level = 0;
    bool usable = kv_pager_view_resident(btree->pager, btree->root, &root);
    if (usable) {
        level = kv_node_level_racy(root.bytes);
        usable = kv_pager_view_valid(&root) && level > 0 && level < KV_TREE_DEPTH_MAX;
    }
    if (!usable) {
        for (size_t i = 0; i < count; i++)
            look_up_alone(btree, &lookups[i]);
        return;
    }
    struct descent descents[KV_BTREE_TOGETHER];
    for (size_t i = 0; i < count; i++)
        descents[i] = (struct descent){.lookup = &lookups[i], .view = root};
    while (level > 0)
        count = step_down(btree, descents, count, --level);
    for (size_t i = 0; i < count; i++)
        kv_node_fetch_cell_racy(descents[i].view.bytes, btree->node_bytes, descents[i].lookup->key,
                                descents[i].lookup->key_len);
    for (size_t i = 0; i < count; i++)
        take_value(btree, &descents[i]);
}
