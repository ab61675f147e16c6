/*
 * kv/btree.c: one ordered tree of keys over the pager; reading it.
 *
 * Owns       nothing but a scratch page and the writer's path: the tree is its pages.
 * Invariant  every key lies in the one leaf whose fences cover it; all leaves are on level 0;
 *            a child's fences are the keys around its slot in the parent.
 * Locks      none.
 *
 * Readers: optimistic lock coupling (Leis et al. 2016, 2019). A page is trusted after its
 * version was checked; a child is trusted after its parent's version was checked once more
 * when the child was in hand.
 */
#include "kv/btree_guide.h"
#include "kv/btree_hint.h"

#include <sched.h>

int kv_btree_init(struct kv_btree *btree, struct kv_pager *pager, size_t node_bytes, uint64_t root,
                  uint8_t tree)
{
    *btree =
        (struct kv_btree){.pager = pager, .node_bytes = node_bytes, .root = root, .tree = tree};
    btree->scratch = malloc(node_bytes);
    btree->path = kv_btree_path_new();
    btree->hints = kv_btree_hints_new();
    btree->guides = kv_btree_guides_new(node_bytes, kv_pager_frame_count(pager));
    if (btree->scratch && btree->path && btree->hints && btree->guides)
        return 0;
    kv_btree_release(btree);
    return -ENOMEM;
}

void kv_btree_release(struct kv_btree *btree)
{
    free(btree->scratch);
    free(btree->path);
    kv_btree_hints_free(btree->hints);
    kv_btree_guides_free(btree->guides);
    btree->hints = NULL;
    btree->guides = NULL;
    btree->scratch = NULL;
    btree->path = NULL;
}

int kv_btree_create(struct kv_btree *btree)
{
    struct kv_page page;
    const int err = kv_pager_new(btree->pager, &page);
    if (err)
        return err;
    const struct kv_bytes low = {.data = "", .length = 0};
    kv_node_init(page.bytes, btree->node_bytes, page.id, btree->tree, 0, low, (struct kv_bytes){0});
    kv_pager_unlatch(btree->pager, &page);
    btree->root = page.id;
    kv_pager_unpin(btree->pager, &page);
    return 0;
}

/* ---- reading --------------------------------------------------------------- */

/* How a descent comes by its pages. */
enum view_how { VIEW_LOAD, VIEW_RESIDENT };

/* Say that a leaf was loaded. One that is changed already was not waited for alone. */
static void tell_loaded(struct kv_btree *btree, const struct kv_page_view *leaf)
{
    uint8_t low[KV_KEY_MAX], high[KV_KEY_MAX];
    size_t low_len, high_len;
    if (!kv_node_low_racy(leaf->bytes, btree->node_bytes, low, &low_len))
        return;
    (void)kv_node_high_racy(leaf->bytes, btree->node_bytes, high, &high_len);
    if (kv_pager_view_valid(leaf))
        btree->loaded(btree->loaded_context, (struct kv_bytes){low, low_len},
                      (struct kv_bytes){high, high_len});
}

/* View a page; VIEW_RESIDENT: -EAGAIN when it is not in memory. */
static int view_page(struct kv_btree *btree, uint64_t page_id, enum view_how how,
                     struct kv_page_view *view)
{
    if (how == VIEW_RESIDENT)
        return kv_pager_view_resident(btree->pager, page_id, view) ? 0 : -EAGAIN;
    bool loaded;
    const int err = kv_pager_view_or_load(btree->pager, page_id, view, &loaded);
    if (!err && loaded && btree->loaded && kv_node_level_racy(view->bytes) == 0)
        tell_loaded(btree, view);
    return err == -ESTALE ? -EUCLEAN : err;
}

#define FEW_PAGES 8u /* of more it is not worth the while, and they are seldom in order */

void kv_btree_load(struct kv_btree *btree, const uint64_t *page_ids, size_t count)
{
    if (!kv_pager_prefetch(btree->pager, page_ids, count) || !btree->loaded || count > FEW_PAGES)
        return;
    for (size_t i = 0; i < count; i++) {
        struct kv_page_view view;
        if (kv_pager_peek(btree->pager, page_ids[i], &view) && kv_node_level_racy(view.bytes) == 0)
            tell_loaded(btree, &view);
    }
}

/* Find the child that covers `key`. The inner page in view may be stale by then: child UINT64_MAX.
 */
static void find_way(struct kv_btree *btree, uint64_t page_id, const struct kv_page_view *inner,
                     uint8_t level, const void *key, size_t key_len, struct kv_btree_way *way)
{
    if (kv_btree_guide_find(btree, page_id, inner, key, key_len, way)) {
        const uint8_t *bytes = kv_pager_fetch_at(btree->pager, way->frame);
        if (bytes && way->level == 0)
            kv_node_fetch_leaf(bytes, btree->node_bytes);
        return;
    }
    unsigned slot;
    way->child = kv_node_child_racy(inner->bytes, btree->node_bytes, key, key_len, &slot);
    way->frame = KV_FRAME_NONE;
    way->noted = NULL;
    way->level = (uint8_t)(level - 1);
    kv_btree_guide_missed(btree, page_id, inner);
}

/* View the child that the way leads to. */
static int view_child(struct kv_btree *btree, const struct kv_btree_way *way, enum view_how how,
                      struct kv_page_view *child)
{
    if (kv_btree_way_view(btree, way, child))
        return 0;
    const int err = view_page(btree, way->child, how, child);
    if (err)
        return err;
    kv_btree_way_note(btree, way, child);
    if (way->level == 0) /* while the parent is looked at once more */
        kv_node_fetch_leaf(child->bytes, btree->node_bytes);
    return 0;
}

#define RESTARTS_FEW 4u

/*
 * View the leaf that covers `key`, and all that is above it on the way. The view may be stale by
 * the time it is read. Where hardly a frame can be had, a page may leave for the one below it, and
 * that for the first when it is loaded again: after some restarts each counts as used.
 * VIEW_RESIDENT: -EAGAIN when a page on the way is not in memory, *missing says which.
 */
static int descend(struct kv_btree *btree, const void *key, size_t key_len, enum view_how how,
                   struct kv_page_view *leaf, uint64_t *missing)
{
    for (unsigned restarts = 0;; restarts++) {
        struct kv_page_view view;
        *missing = btree->root;
        int err = view_page(btree, btree->root, how, &view);
        if (err)
            return err;
        bool restart = false;
        for (unsigned depth = 0; !restart; depth++) {
            const uint8_t level = kv_node_level_racy(view.bytes);
            struct kv_btree_way way = {.child = 0};
            if (restarts > RESTARTS_FEW)
                kv_pager_use(btree->pager, &view);
            if (level)
                find_way(btree, *missing, &view, level, key, key_len, &way);
            if (!kv_pager_view_valid(&view))
                break;
            if (level == 0) {
                *leaf = view;
                kv_btree_hint_note(btree, key, key_len, *missing, leaf);
                return 0;
            }
            if (way.child == UINT64_MAX || way.level + 1 != level || depth >= KV_TREE_DEPTH_MAX)
                return -EUCLEAN;
            struct kv_page_view below;
            *missing = way.child;
            err = view_child(btree, &way, how, &below);
            restart = !kv_pager_view_valid(&view);
            if (err && !restart)
                return err;
            if (!restart && kv_node_level_racy(below.bytes) + 1 != level &&
                kv_pager_view_valid(&below))
                return -EUCLEAN;
            view = below;
        }
        sched_yield(); /* someone changed the path: let them end */
    }
}

/* The same, by a hint if there is one. */
static int view_leaf(struct kv_btree *btree, const void *key, size_t key_len, enum view_how how,
                     struct kv_page_view *leaf, uint64_t *missing)
{
    if (kv_btree_hint_view(btree, key, key_len, leaf))
        return 0;
    return descend(btree, key, key_len, how, leaf, missing);
}

static int get(struct kv_btree *btree, enum view_how how, const void *key, size_t key_len,
               void *buf, size_t buf_cap, size_t *value_len, uint8_t *kind, uint64_t *missing)
{
    for (;;) {
        struct kv_page_view leaf;
        int err = view_leaf(btree, key, key_len, how, &leaf, missing);
        if (err)
            return err;
        err = kv_node_value_racy(leaf.bytes, btree->node_bytes, key, key_len, buf, buf_cap,
                                 value_len, kind);
        /* Only the leaf that covers a key can say that there is none. */
        if (err == -ENOENT && !kv_node_covers_racy(leaf.bytes, btree->node_bytes, key, key_len))
            err = -EAGAIN;
        if (!kv_pager_view_valid(&leaf))
            continue;
        return err == -EAGAIN ? -EUCLEAN : err;
    }
}

int kv_btree_get(struct kv_btree *btree, const void *key, size_t key_len, void *buf, size_t buf_cap,
                 size_t *value_len, uint8_t *kind)
{
    uint64_t missing;
    return get(btree, VIEW_LOAD, key, key_len, buf, buf_cap, value_len, kind, &missing);
}

int kv_btree_get_resident(struct kv_btree *btree, const void *key, size_t key_len, void *buf,
                          size_t buf_cap, size_t *value_len, uint8_t *kind, uint64_t *missing)
{
    return get(btree, VIEW_RESIDENT, key, key_len, buf, buf_cap, value_len, kind, missing);
}

int kv_btree_get_floor(struct kv_btree *btree, const void *key, size_t key_len, void *found,
                       size_t *found_len, void *buf, size_t buf_cap, size_t *value_len,
                       uint8_t *kind)
{
    for (;;) {
        struct kv_page_view leaf;
        uint64_t missing;
        int err = view_leaf(btree, key, key_len, VIEW_LOAD, &leaf, &missing);
        if (err)
            return err;
        err = kv_node_floor_racy(leaf.bytes, btree->node_bytes, key, key_len, found, found_len, buf,
                                 buf_cap, value_len, kind);
        if (!kv_node_covers_racy(leaf.bytes, btree->node_bytes, key, key_len))
            err = -EAGAIN;
        if (!kv_pager_view_valid(&leaf))
            continue;
        return err == -EAGAIN ? -EUCLEAN : err;
    }
}

/* View the leaf, by a hint if that shows one with room. */
static int view_roomy_leaf(struct kv_btree *btree, const void *key, size_t key_len, size_t room,
                           enum view_how how, struct kv_page_view *leaf)
{
    uint64_t missing;
    if (kv_btree_hint_view(btree, key, key_len, leaf) &&
        kv_node_room_racy(leaf->bytes, btree->node_bytes) >= room && kv_pager_view_valid(leaf))
        return 0;
    return descend(btree, key, key_len, how, leaf, &missing);
}

int kv_btree_fault(struct kv_btree *btree, const void *key, size_t key_len, size_t room,
                   struct kv_page_view *lead)
{
    struct kv_page_view leaf;
    const int err = view_roomy_leaf(btree, key, key_len, room, VIEW_LOAD, &leaf);
    if (!err && lead) {
        kv_node_fetch_fences(leaf.bytes, btree->node_bytes);
        *lead = leaf;
    }
    return err;
}

bool kv_btree_fault_resident(struct kv_btree *btree, const void *key, size_t key_len, size_t room,
                             struct kv_page_view *leaf)
{
    return !view_roomy_leaf(btree, key, key_len, room, VIEW_RESIDENT, leaf);
}

bool kv_btree_resident(struct kv_btree *btree, const void *key, size_t key_len, uint64_t *missing)
{
    struct kv_page_view leaf;
    return view_leaf(btree, key, key_len, VIEW_RESIDENT, &leaf, missing) != -EAGAIN;
}

/* VIEW_RESIDENT: -EAGAIN as of view_leaf. */
static int copy_leaf(struct kv_btree *btree, const void *key, size_t key_len, enum view_how how,
                     void *copy)
{
    for (;;) {
        struct kv_page_view leaf;
        uint64_t missing;
        const int err = view_leaf(btree, key, key_len, how, &leaf, &missing);
        if (err)
            return err;
        kv_node_copy_racy(copy, leaf.bytes, btree->node_bytes);
        if (kv_pager_view_valid(&leaf))
            return kv_node_covers_racy(copy, btree->node_bytes, key, key_len) ? 0 : -EUCLEAN;
    }
}

int kv_btree_leaf_at(struct kv_btree *btree, const void *key, size_t key_len, void *copy)
{
    return copy_leaf(btree, key, key_len, VIEW_LOAD, copy);
}

int kv_btree_leaf_at_resident(struct kv_btree *btree, const void *key, size_t key_len, void *copy)
{
    return copy_leaf(btree, key, key_len, VIEW_RESIDENT, copy);
}

int kv_btree_fault_next(struct kv_btree *btree, const void *key, size_t key_len, void *next,
                        size_t *next_len, bool *more)
{
    for (;;) {
        struct kv_page_view leaf;
        uint64_t missing;
        uint8_t fence[KV_KEY_MAX];
        size_t length;
        const int err = view_leaf(btree, key, key_len, VIEW_LOAD, &leaf, &missing);
        if (err)
            return err;
        const bool covers = kv_node_covers_racy(leaf.bytes, btree->node_bytes, key, key_len);
        const bool high = kv_node_high_racy(leaf.bytes, btree->node_bytes, fence, &length);
        if (!kv_pager_view_valid(&leaf))
            continue;
        if (!covers)
            return -EUCLEAN;
        *more = high;
        if (high) {
            memcpy(next, fence, length);
            *next_len = length;
        }
        return 0;
    }
}

/* In a copy of an inner node: the slot of the child that covers what lies just below key. */
static unsigned slot_before(const void *node, size_t node_bytes, struct kv_bytes key)
{
    if (!key.data)
        return kv_node_count(node) - 1;
    const unsigned slot = kv_node_child_slot(node, node_bytes, key.data, key.length);
    if (!slot)
        return slot;
    uint8_t first[KV_KEY_MAX];
    const size_t first_len = kv_node_key(node, node_bytes, slot, first);
    const bool begins_here = !kv_key_compare(first, first_len, key.data, key.length);
    return begins_here ? slot - 1 : slot;
}

int kv_btree_leaf_before(struct kv_btree *btree, struct kv_bytes key, void *copy, void *scratch)
{
    if (key.data && !key.length)
        return -ENOENT;
    /* The leaf that covers the key covers what lies just below it, too, unless it begins there. */
    if (key.data) {
        const bool there = !kv_btree_leaf_at(btree, key.data, key.length, copy);
        const struct kv_bytes low = there ? kv_node_low(copy, btree->node_bytes) : key;
        if (kv_key_compare(low.data, low.length, key.data, key.length) < 0)
            return 0;
    }
    for (;;) {
        struct kv_page_view view;
        int err = kv_pager_view(btree->pager, btree->root, &view);
        if (err)
            return err == -ESTALE ? -EUCLEAN : err;
        for (unsigned depth = 0;; depth++) {
            kv_node_copy_racy(scratch, view.bytes, btree->node_bytes);
            if (!kv_pager_view_valid(&view))
                break;
            if (kv_node_level(scratch) == 0) {
                memcpy(copy, scratch, btree->node_bytes);
                return kv_node_covers_before(copy, btree->node_bytes, key) ? 0 : -EUCLEAN;
            }
            if (depth >= KV_TREE_DEPTH_MAX)
                return -EUCLEAN;
            const unsigned slot = slot_before(scratch, btree->node_bytes, key);
            struct kv_page_view below;
            err = kv_pager_view(btree->pager, kv_node_child(scratch, slot), &below);
            if (!kv_pager_view_valid(&view))
                break;
            if (err)
                return err == -ESTALE ? -EUCLEAN : err;
            view = below;
        }
        sched_yield();
    }
}
