/*
 * kv/btree_change.c: changes of a tree: the one writer's way down, splits, merges, and what is put,
 * deleted and overwritten.
 *
 * Owns       the writer's path.
 * Invariant  that of the tree (kv/btree.c) holds again whenever no latch is held.
 * Locks      none of its own. A change latches every page it touches, parent before child
 *            and left before right, so that a reader sees it whole or starts again. Nothing
 *            waits and no memory is taken while a latch is held.
 */
#include "kv/btree_hint.h"

#define MERGE_BELOW_PERCENT 30u
#define MERGE_UP_TO_PERCENT 80u

struct kv_btree_path {
    struct kv_page pages[KV_TREE_DEPTH_MAX];
    unsigned slots[KV_TREE_DEPTH_MAX]; /* which child was taken, or the leaf's slot */
    unsigned depth;                    /* pages pinned */
    bool leaf_only;                    /* pages[0] is the leaf: a hint has led to it */
};

struct kv_btree_path *kv_btree_path_new(void)
{
    return calloc(1, sizeof(struct kv_btree_path));
}

/* ---- the writer's path -------------------------------------------------------- */

static void path_release(struct kv_btree *btree, struct kv_btree_path *path)
{
    while (path->depth)
        kv_pager_unpin(btree->pager, &path->pages[--path->depth]);
}

/* Is each page of the path, from depth `first` on, what it must be for its place? */
static bool path_in_place(const struct kv_btree *btree, const struct kv_btree_path *path,
                          unsigned first)
{
    if (!first && !kv_node_is_root(path->pages[0].bytes, btree->node_bytes, btree->tree))
        return false;
    for (unsigned depth = first ? first : 1; depth < path->depth; depth++)
        if (!kv_node_is_child(path->pages[depth - 1].bytes, btree->node_bytes,
                              path->slots[depth - 1], path->pages[depth].bytes))
            return false;
    return true;
}

/* How many pages of the path lead to `key`, too: the last of them is the deepest that covers it. */
static unsigned path_shared(const struct kv_btree *btree, const struct kv_btree_path *path,
                            struct kv_bytes key)
{
    unsigned shared = path->depth;
    while (shared && !kv_node_covers_racy(path->pages[shared - 1].bytes, btree->node_bytes,
                                          key.data, key.length))
        shared--;
    return shared;
}

/*
 * Pin the pages down to the leaf that covers `key`, if all are in memory, from behind the `shared`
 * ones that the path has already; unpin what else it held: one step of the pager for them all.
 * false: one is not there, or not in its place; then the path holds nothing.
 */
static bool path_move(struct kv_btree *btree, struct kv_bytes key, struct kv_btree_path *path,
                      unsigned shared)
{
    struct kv_page_view views[KV_TREE_DEPTH_MAX];
    struct kv_page old[KV_TREE_DEPTH_MAX];
    const unsigned old_count = path->depth - shared;
    memcpy(old, path->pages + shared, old_count * sizeof *old);
    uint64_t page_id = btree->root;
    unsigned depth = shared;
    bool found = false;
    if (shared)
        page_id = kv_node_child_racy(path->pages[shared - 1].bytes, btree->node_bytes, key.data,
                                     key.length, &path->slots[shared - 1]);
    while (depth < KV_TREE_DEPTH_MAX && !found && page_id != UINT64_MAX) {
        struct kv_page_view *view = &views[depth];
        if (!kv_pager_view_resident(btree->pager, page_id, view))
            break;
        depth++;
        found = kv_node_level_racy(view->bytes) == 0;
        if (found) {
            kv_node_fetch_leaf(view->bytes, btree->node_bytes);
        } else {
            page_id = kv_node_child_racy(view->bytes, btree->node_bytes, key.data, key.length,
                                         &path->slots[depth - 1]);
        }
    }
    const unsigned fresh = found ? depth - shared : 0;
    path->depth = shared;
    path->leaf_only = false;
    found = kv_pager_pin_views(btree->pager, views + shared, fresh, path->pages + shared, old,
                               old_count) &&
            found;
    if (found)
        path->depth = depth;
    if (found && path_in_place(btree, path, shared)) {
        kv_btree_hint_note(btree, key.data, key.length, page_id, &views[depth - 1]);
        return true;
    }
    path_release(btree, path);
    return false;
}

/* Pin the pages from the root to the leaf that covers `key`. */
static int path_descend(struct kv_btree *btree, struct kv_bytes key, struct kv_btree_path *path)
{
    path->depth = 0;
    path->leaf_only = false;
    uint64_t page_id = btree->root;
    unsigned slot = 0;
    for (;;) {
        int err = path->depth < KV_TREE_DEPTH_MAX ? 0 : -EUCLEAN;
        struct kv_page *page = &path->pages[path->depth];
        if (!err)
            err = kv_pager_pin(btree->pager, page_id, page);
        if (!err) {
            path->depth++;
            const struct kv_page *parent = path->depth > 1 ? page - 1 : NULL;
            const bool in_place =
                parent ? kv_node_is_child(parent->bytes, btree->node_bytes, slot, page->bytes)
                       : kv_node_is_root(page->bytes, btree->node_bytes, btree->tree);
            if (!in_place)
                err = -EUCLEAN;
        }
        if (err) {
            path_release(btree, path);
            return err == -ESTALE ? -EUCLEAN : err;
        }
        if (!kv_node_level(page->bytes))
            return 0;
        slot = kv_node_child_slot(page->bytes, btree->node_bytes, key.data, key.length);
        path->slots[path->depth - 1] = slot;
        page_id = kv_node_child(page->bytes, slot);
    }
}

/* ---- splitting ------------------------------------------------------------------ */

/* The root's content moves into a new page below it: the tree is one level higher. */
static int grow_root(struct kv_btree *btree, struct kv_btree_path *path)
{
    struct kv_page *root = &path->pages[0];
    struct kv_page child;
    int err = kv_pager_dirty(btree->pager, root);
    if (!err && kv_node_level(root->bytes) + 2u >= KV_TREE_DEPTH_MAX)
        err = -EUCLEAN;
    if (!err)
        err = kv_pager_new(btree->pager, &child);
    if (err)
        return err;
    kv_pager_latch(btree->pager, root);
    memcpy(child.bytes, root->bytes, btree->node_bytes);
    ((struct kv_disk_node *)child.bytes)->page_id = kv_le64_of(child.id);
    const uint8_t level = kv_node_level(root->bytes);
    const struct kv_bytes low = {.data = "", .length = 0};
    kv_node_init(root->bytes, btree->node_bytes, root->id, btree->tree, (uint8_t)(level + 1), low,
                 (struct kv_bytes){0});
    const bool fits =
        kv_node_insert_child(root->bytes, btree->node_bytes, 0, "", 0, child.id, btree->scratch);
    KV_ASSERT(fits);
    kv_pager_unlatch(btree->pager, root);
    kv_pager_unlatch(btree->pager, &child);
    kv_pager_unpin(btree->pager, &child);
    return 0;
}

/*
 * Split the page at path->pages[at_depth], where a cell of cell_bytes wants in at `slot`
 * (key.data NULL: not a new key of a leaf). When the parent has no room for one more child,
 * the parent is split instead. Either way the caller descends anew.
 */
static int split_page(struct kv_btree *btree, struct kv_btree_path *path, unsigned at_depth,
                      struct kv_bytes key, unsigned slot, size_t cell_bytes)
{
    if (at_depth == 0)
        return grow_root(btree, path);
    struct kv_page *page = &path->pages[at_depth];
    struct kv_page *parent = &path->pages[at_depth - 1];
    struct kv_page right;
    int err = kv_pager_dirty(btree->pager, parent);
    if (!err)
        err = kv_pager_dirty(btree->pager, page);
    if (!err)
        err = kv_pager_new(btree->pager, &right);
    if (err)
        return err;

    const bool grows = !key.data && kv_node_level(page->bytes) == 0;
    const unsigned at =
        grows ? kv_node_split_point_grow(page->bytes, btree->node_bytes, slot, cell_bytes)
              : kv_node_split_point(page->bytes, btree->node_bytes, slot, cell_bytes);
    uint8_t separator[KV_KEY_MAX];
    const size_t separator_len =
        kv_node_separator(page->bytes, btree->node_bytes, at, key, slot, separator);
    const unsigned parent_slot = path->slots[at_depth - 1] + 1;

    kv_pager_latch(btree->pager, parent);
    kv_pager_latch(btree->pager, page);
    const bool fits = kv_node_insert_child(parent->bytes, btree->node_bytes, parent_slot, separator,
                                           separator_len, right.id, btree->scratch);
    if (fits)
        kv_node_split(page->bytes, btree->node_bytes, at,
                      (struct kv_bytes){separator, separator_len}, right.bytes, right.id,
                      btree->scratch);
    kv_pager_unlatch(btree->pager, page);
    kv_pager_unlatch(btree->pager, parent);
    kv_pager_unlatch(btree->pager, &right);
    if (fits) {
        kv_pager_unpin(btree->pager, &right);
        return 0;
    }
    err = kv_pager_free(btree->pager, &right);
    if (err)
        return err;
    const size_t child_cell =
        sizeof(struct kv_disk_slot) + sizeof(struct kv_disk_inner_cell) + separator_len;
    return split_page(btree, path, at_depth - 1, (struct kv_bytes){0}, parent_slot, child_cell);
}

/* ---- merging --------------------------------------------------------------------- */

/*
 * Make pages ready for being changed. *ready false: there is no space for that. Pages that do
 * not merge are no damage, so a deletion does not fail for it.
 */
static int ready_to_merge(struct kv_btree *btree, struct kv_page *const pages[], size_t count,
                          bool *ready)
{
    int err = 0;
    for (size_t i = 0; i < count && !err; i++)
        err = kv_pager_dirty(btree->pager, pages[i]);
    *ready = !err;
    return err == -ENOSPC ? 0 : err;
}

/* A root with one child takes over the child's content. */
static int shrink_root(struct kv_btree *btree, struct kv_btree_path *path)
{
    struct kv_page *root = &path->pages[0];
    while (kv_node_level(root->bytes) > 0 && kv_node_count(root->bytes) == 1) {
        struct kv_page child;
        if (!kv_pager_pin_resident(btree->pager, kv_node_child(root->bytes, 0), &child))
            return 0; /* the next merge will find it */
        if (!kv_node_is_child(root->bytes, btree->node_bytes, 0, child.bytes)) {
            kv_pager_unpin(btree->pager, &child);
            return -EUCLEAN;
        }
        for (unsigned depth = 1; depth < path->depth; depth++)
            if (path->pages[depth].bytes && path->pages[depth].id == child.id)
                kv_pager_unpin(btree->pager, &path->pages[depth]);
        struct kv_page *const both[] = {root, &child};
        bool ready;
        int err = ready_to_merge(btree, both, 2, &ready);
        if (err || !ready) {
            kv_pager_unpin(btree->pager, &child);
            return err;
        }
        kv_pager_latch(btree->pager, root);
        kv_pager_latch(btree->pager, &child);
        memcpy(root->bytes, child.bytes, btree->node_bytes);
        ((struct kv_disk_node *)root->bytes)->page_id = kv_le64_of(root->id);
        kv_pager_unlatch(btree->pager, &child);
        kv_pager_unlatch(btree->pager, root);
        err = kv_pager_free(btree->pager, &child);
        if (err)
            return err;
    }
    return 0;
}

/* Merge `right` (child right_slot of parent) into `left`. `right` is gone if *merged. */
static int merge_pages(struct kv_btree *btree, struct kv_page *parent, unsigned right_slot,
                       struct kv_page *left, struct kv_page *right, bool *merged)
{
    struct kv_page *const all[] = {parent, left, right};
    const int err = ready_to_merge(btree, all, 3, merged);
    if (err || !*merged)
        return err;
    kv_pager_latch(btree->pager, parent);
    kv_pager_latch(btree->pager, left);
    kv_pager_latch(btree->pager, right);
    kv_node_merge(left->bytes, right->bytes, btree->node_bytes, btree->scratch);
    kv_node_remove_child(parent->bytes, btree->node_bytes, right_slot);
    kv_pager_unlatch(btree->pager, right);
    kv_pager_unlatch(btree->pager, left);
    kv_pager_unlatch(btree->pager, parent);
    return kv_pager_free(btree->pager, right);
}

/* Try to merge the page at `depth` with its neighbour on one side. *merged says whether. */
static int try_merge(struct kv_btree *btree, struct kv_btree_path *path, unsigned depth,
                     bool with_right, bool *merged)
{
    struct kv_page *page = &path->pages[depth];
    struct kv_page *parent = &path->pages[depth - 1];
    const unsigned slot = path->slots[depth - 1];
    if (with_right ? slot + 1 >= kv_node_count(parent->bytes) : slot == 0)
        return 0;
    const uint64_t neighbour_id = kv_node_child(parent->bytes, with_right ? slot + 1 : slot - 1);
    struct kv_page neighbour;
    const bool empty = kv_node_level(page->bytes) == 0 && !kv_node_count(page->bytes);
    if (!kv_pager_pin_resident(btree->pager, neighbour_id, &neighbour)) {
        /* Worth a read only to get rid of an empty page; a damaged neighbour stays alone. */
        if (!empty || kv_pager_pin(btree->pager, neighbour_id, &neighbour))
            return 0;
    }
    int err = 0;
    const unsigned percent = empty ? 100 : MERGE_UP_TO_PERCENT;
    struct kv_page *left = with_right ? page : &neighbour;
    struct kv_page *right = with_right ? &neighbour : page;
    if (kv_node_is_child(parent->bytes, btree->node_bytes, with_right ? slot + 1 : slot - 1,
                         neighbour.bytes) &&
        kv_node_can_merge(left->bytes, right->bytes, btree->node_bytes, percent))
        err = merge_pages(btree, parent, with_right ? slot + 1 : slot, left, right, merged);
    kv_pager_unpin(btree->pager, &neighbour);
    return err;
}

/* After deletions in the leaf of `path`: merge upwards as far as pages are nearly empty. */
static int merge_upwards(struct kv_btree *btree, struct kv_btree_path *path)
{
    for (unsigned depth = path->depth - 1; depth > 0; depth--) {
        const struct kv_page *page = &path->pages[depth];
        const size_t used = kv_node_used(page->bytes, btree->node_bytes);
        if (used * 100 >= btree->node_bytes * MERGE_BELOW_PERCENT)
            break;
        bool merged = false;
        int err = try_merge(btree, path, depth, true, &merged);
        if (!err && !merged)
            err = try_merge(btree, path, depth, false, &merged);
        if (err)
            return err;
        if (!merged)
            break;
    }
    return shrink_root(btree, path);
}

/* ---- changes -------------------------------------------------------------------- */

/* Pin the leaf in view, and unpin what the path held. false: the view holds no more. */
static bool pin_leaf(struct kv_btree *btree, const struct kv_page_view *view,
                     struct kv_btree_path *path)
{
    struct kv_page old[KV_TREE_DEPTH_MAX];
    const unsigned old_count = path->depth;
    if (old_count == 1) /* as it mostly is, from leaf to leaf */
        old[0] = path->pages[0];
    else
        memcpy(old, path->pages, old_count * sizeof *old);
    path->leaf_only = kv_pager_pin_views(btree->pager, view, 1, path->pages, old, old_count);
    path->depth = path->leaf_only ? 1 : 0;
    return path->leaf_only;
}

/* Pin the leaf that a hint leads to, and unpin what the path held. false: there is none. */
static bool path_hint(struct kv_btree *btree, struct kv_bytes key, struct kv_btree_path *path)
{
    struct kv_page_view view;
    return kv_btree_hint_view(btree, key.data, key.length, &view) && pin_leaf(btree, &view, path);
}

/* The same with the leaf that the lead shows. It is used once. */
static bool path_lead(struct kv_btree *btree, struct kv_bytes key, struct kv_btree_path *path)
{
    const struct kv_page_view view = btree->lead;
    btree->lead.frame = NULL;
    return view.frame && kv_node_is_leaf_of_racy(view.bytes, btree->tree) &&
           kv_node_covers_racy(view.bytes, btree->node_bytes, key.data, key.length) &&
           pin_leaf(btree, &view, path);
}

/* The path leads to the leaf that covers `key`, from the root: it holds nothing before. */
static int path_from_root(struct kv_btree *btree, struct kv_bytes key, struct kv_btree_path *path)
{
    KV_ASSERT(!path->depth);
    return path_move(btree, key, path, 0) ? 0 : path_descend(btree, key, path);
}

/* The path leads to that leaf: as it is, by a hint, or moved. */
static int path_find(struct kv_btree *btree, struct kv_bytes key, struct kv_btree_path *path)
{
    unsigned shared = path->depth;
    if (shared &&
        kv_node_covers_racy(path->pages[shared - 1].bytes, btree->node_bytes, key.data, key.length))
        return 0;
    if (path_lead(btree, key, path))
        return 0;
    shared = path_shared(btree, path, key);
    if (path_hint(btree, key, path))
        return 0;
    return path_move(btree, key, path, shared) ? 0 : path_descend(btree, key, path);
}

/*
 * A deletion has left little in the leaf, to which a hint may have led alone. Pages that do not
 * merge are no damage: a hint is not worth reading what is above. The path may be released.
 */
static int merge_leaf(struct kv_btree *btree, struct kv_bytes key, struct kv_btree_path *path)
{
    const struct kv_page *leaf = &path->pages[path->depth - 1];
    if (kv_node_used(leaf->bytes, btree->node_bytes) * 100 >=
        btree->node_bytes * MERGE_BELOW_PERCENT)
        return 0;
    if (path->leaf_only && !path_move(btree, key, path, 0))
        return 0;
    const int err = merge_upwards(btree, path);
    path_release(btree, path); /* it is not the way any more */
    return err;
}

void kv_btree_begin_puts(struct kv_btree *btree)
{
    btree->keeps_path = true;
}

void kv_btree_end_puts(struct kv_btree *btree)
{
    btree->keeps_path = false;
    btree->lead.frame = NULL;
    path_release(btree, btree->path);
}

int kv_btree_put(struct kv_btree *btree, struct kv_bytes key, uint8_t kind, struct kv_bytes value,
                 struct kv_btree_drop drop)
{
    const size_t cell_bytes =
        sizeof(struct kv_disk_slot) + sizeof(struct kv_disk_leaf_cell) + key.length + value.length;
    KV_ASSERT(cell_bytes <= kv_node_cell_limit(btree->node_bytes));
    struct kv_btree_path *path = btree->path;
    for (bool room = true;;) { /* else the way to the leaf is wanted, too */
        int err = room ? path_find(btree, key, path) : path_from_root(btree, key, path);
        if (err)
            return err;
        struct kv_page *leaf = &path->pages[path->depth - 1];
        bool exact;
        const unsigned slot =
            kv_node_search(leaf->bytes, btree->node_bytes, key.data, key.length, &exact);
        if (exact && drop.note) {
            uint8_t old_kind;
            const struct kv_bytes old = kv_node_value(leaf->bytes, slot, &old_kind);
            err = drop.note(drop.context, old_kind, old);
            drop.note = NULL; /* once, also when a split makes us come again */
        }
        if (!err)
            err = kv_pager_dirty(btree->pager, leaf);
        bool fits = false;
        if (!err) {
            kv_pager_latch(btree->pager, leaf);
            fits = exact ? kv_node_replace(leaf->bytes, btree->node_bytes, slot, kind, value,
                                           btree->scratch)
                         : kv_node_insert(leaf->bytes, btree->node_bytes, slot, key.data,
                                          key.length, kind, value, btree->scratch);
            kv_pager_unlatch(btree->pager, leaf);
        }
        room = fits;
        if (!err && !fits && !path->leaf_only)
            err = split_page(btree, path, path->depth - 1, exact ? (struct kv_bytes){0} : key, slot,
                             cell_bytes);
        if (err || !fits || !btree->keeps_path)
            path_release(btree, path);
        if (err || fits)
            return err;
    }
}

/* A path that is not kept does not stay pinned. */
static void path_done(struct kv_btree *btree, struct kv_btree_path *path, int err)
{
    if (err || !btree->keeps_path)
        path_release(btree, path);
}

int kv_btree_del(struct kv_btree *btree, struct kv_bytes key, struct kv_btree_drop drop)
{
    struct kv_btree_path *path = btree->path;
    int err = path_find(btree, key, path);
    if (err)
        return err;
    struct kv_page *leaf = &path->pages[path->depth - 1];
    bool exact;
    const unsigned slot =
        kv_node_search(leaf->bytes, btree->node_bytes, key.data, key.length, &exact);
    if (!exact)
        goto out;
    if (drop.note) {
        uint8_t kind;
        const struct kv_bytes old = kv_node_value(leaf->bytes, slot, &kind);
        err = drop.note(drop.context, kind, old);
    }
    if (!err)
        err = kv_pager_dirty(btree->pager, leaf);
    if (err)
        goto out;
    kv_pager_latch(btree->pager, leaf);
    kv_node_remove(leaf->bytes, btree->node_bytes, slot);
    kv_pager_unlatch(btree->pager, leaf);
    err = merge_leaf(btree, key, path);
out:
    path_done(btree, path, err);
    return err;
}

int kv_btree_overwrite(struct kv_btree *btree, struct kv_bytes key, size_t offset,
                       struct kv_bytes bytes)
{
    struct kv_btree_path *path = btree->path;
    int err = path_find(btree, key, path);
    if (err)
        return err;
    struct kv_page *leaf = &path->pages[path->depth - 1];
    bool exact;
    uint8_t kind;
    const unsigned slot =
        kv_node_search(leaf->bytes, btree->node_bytes, key.data, key.length, &exact);
    /* In a damaged tree the key may have been found in another leaf that claims it, too. */
    const size_t length = exact ? kv_node_value(leaf->bytes, slot, &kind).length : 0;
    if (!exact || kind != KV_VALUE_INLINE || offset + bytes.length > length)
        err = -EUCLEAN;
    if (!err)
        err = kv_pager_dirty(btree->pager, leaf);
    if (!err) {
        kv_pager_latch(btree->pager, leaf);
        kv_node_overwrite(leaf->bytes, slot, offset, bytes.data, bytes.length);
        kv_pager_unlatch(btree->pager, leaf);
    }
    path_done(btree, path, err);
    return err;
}

/* Copy the leaf's upper fence as the key to go on from. */
static void note_next(const struct kv_btree *btree, const void *leaf, struct kv_bytes upper,
                      void *next, size_t *next_len, bool *more)
{
    const struct kv_bytes high = kv_node_high(leaf, btree->node_bytes);
    *more = high.data && !KV_PLANT(range_ends_at_fence) &&
            (!upper.data || kv_key_compare(high.data, high.length, upper.data, upper.length) < 0);
    if (*more) {
        memcpy(next, high.data, high.length);
        *next_len = high.length;
    }
}

int kv_btree_del_leaf(struct kv_btree *btree, struct kv_bytes lower, struct kv_bytes upper,
                      struct kv_btree_drop drop, void *next, size_t *next_len, bool *more)
{
    struct kv_btree_path path;
    path_release(btree, btree->path);
    int err = path_descend(btree, lower, &path);
    if (err)
        return err;
    struct kv_page *leaf = &path.pages[path.depth - 1];
    bool exact;
    const unsigned first =
        kv_node_search(leaf->bytes, btree->node_bytes, lower.data, lower.length, &exact);
    const unsigned end = upper.data ? kv_node_search(leaf->bytes, btree->node_bytes, upper.data,
                                                     upper.length, &exact)
                                    : kv_node_count(leaf->bytes);
    /* `next` may be the caller's `lower`: from here on lower is not read any more. */
    note_next(btree, leaf->bytes, upper, next, next_len, more);
    for (unsigned slot = first; !err && drop.note && slot < end; slot++) {
        uint8_t kind;
        const struct kv_bytes old = kv_node_value(leaf->bytes, slot, &kind);
        err = drop.note(drop.context, kind, old);
    }
    if (!err && first < end) {
        err = kv_pager_dirty(btree->pager, leaf);
        if (!err) {
            kv_pager_latch(btree->pager, leaf);
            for (unsigned slot = end; slot > first + KV_PLANT(range_keeps_first_key); slot--)
                kv_node_remove(leaf->bytes, btree->node_bytes, slot - 1);
            kv_pager_unlatch(btree->pager, leaf);
            err = merge_upwards(btree, &path);
        }
    }
    path_release(btree, &path);
    return err;
}
