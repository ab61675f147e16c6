/*
 * kv/check_repair.c: mend what a walk found damaged.
 *
 * Owns       nothing.
 * Invariant  blocks are marked, never freed: a pointer that can not be trusted says nothing of
 *            who owns what. What became unreachable is found by the next walk.
 * Locks      the writer lock while trees change.
 */
#include "kv/check_repair.h"

static uint64_t open_epoch(const struct kv_store *store)
{
    return atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
}

/* ---- rescue -------------------------------------------------------------------------- */

/* Does the page in memory fill the hole? */
static bool fills(const struct kv_walk_hole *hole, const struct kv_page *page, size_t node_bytes)
{
    const struct kv_disk_node *header = (const struct kv_disk_node *)page->bytes;
    if (kv_node_validate(page->bytes, node_bytes, hole->page_id) || header->tree != hole->tree ||
        (hole->parent && header->level != hole->level))
        return false;
    const struct kv_bytes low = kv_node_low(page->bytes, node_bytes);
    const struct kv_bytes high = kv_node_high(page->bytes, node_bytes);
    const struct kv_bytes want_low = kv_walk_hole_low(hole), want_high = kv_walk_hole_high(hole);
    return !kv_key_compare(low.data, low.length, want_low.data, want_low.length) &&
           !high.data == !want_high.data &&
           !kv_key_compare(high.data, high.length, want_high.data, want_high.length);
}

static int rescue_page(struct kv_store *store, const struct kv_walk_hole *hole, bool *rescued)
{
    struct kv_page page;
    if (!hole->error || !kv_pager_pin_resident(store->pager, hole->page_id, &page))
        return 0;
    int err = 0;
    if (fills(hole, &page, store->node_bytes)) {
        err = kv_pager_dirty(store->pager, &page); /* the checkpoint writes it to a new place */
        *rescued = true;
    }
    kv_pager_unpin(store->pager, &page);
    return err;
}

int kv_check_rescue(const struct kv_walk *walk, bool *rescued)
{
    struct kv_store *store = walk->store;
    int err = 0;
    *rescued = walk->gap_count > 0;
    pthread_mutex_lock(&store->writer);
    kv_space_mark(store->space, walk->seen);
    for (size_t i = 0; i < walk->gap_count && !err; i++)
        err = kv_pagemap_mend(store->map, open_epoch(store), walk->gaps[i].level,
                              walk->gaps[i].index);
    for (size_t i = 0; i < walk->hole_count && !err; i++)
        err = rescue_page(store, &walk->holes[i], rescued);
    pthread_mutex_unlock(&store->writer);
    return err;
}

/* ---- holes ------------------------------------------------------------------------------ */

/* One new page for each level from the leaf up, each with the one below as its only child. */
static int make_empty_path(struct kv_store *store, const struct kv_walk_hole *hole, uint64_t *top)
{
    for (uint8_t level = 0; level <= hole->level; level++) {
        struct kv_page page;
        const int err = kv_pager_new(store->pager, &page);
        if (err)
            return err;
        kv_node_init(page.bytes, store->node_bytes, page.id, hole->tree, level,
                     kv_walk_hole_low(hole), kv_walk_hole_high(hole));
        if (level) {
            const bool fits = kv_node_insert_child(page.bytes, store->node_bytes, 0, "", 0, *top,
                                                   store->trees[hole->tree].scratch);
            KV_ASSERT(fits);
        }
        *top = page.id;
        kv_pager_unlatch(store->pager, &page);
        kv_pager_unpin(store->pager, &page);
    }
    return 0;
}

static int fill_hole(struct kv_store *store, const struct kv_walk_hole *hole)
{
    uint64_t top = 0;
    int err = make_empty_path(store, hole, &top);
    if (err)
        return err;
    if (!hole->parent) {
        store->trees[hole->tree].root = top;
        store->checkpoint.superblock.tree_root[hole->tree] = kv_le64_of(top);
        return 0;
    }
    struct kv_page parent;
    err = kv_pager_pin(store->pager, hole->parent, &parent);
    if (err)
        return err;
    const struct kv_bytes low = kv_walk_hole_low(hole);
    const unsigned slot = kv_node_child_slot(parent.bytes, store->node_bytes, low.data, low.length);
    err = kv_node_child(parent.bytes, slot) == hole->page_id ? kv_pager_dirty(store->pager, &parent)
                                                             : -EUCLEAN;
    if (!err) {
        kv_pager_latch(store->pager, &parent);
        kv_node_set_child(parent.bytes, slot, top);
        kv_pager_unlatch(store->pager, &parent);
    }
    kv_pager_unpin(store->pager, &parent);
    return err;
}

/* ---- keys -------------------------------------------------------------------------------- */

/* Space is set aside as far as there is some; without it each page asks for itself. */
int kv_check_put(struct kv_store *store, uint8_t tree, struct kv_bytes key, uint8_t kind,
                 struct kv_bytes value)
{
    const struct kv_btree_drop nobody = {0};
    const uint64_t pages = kv_store_pages_needed(store, 1, key.length + value.length, 0);
    int err = kv_pager_reserve(store->pager, pages, true);
    if (err && err != -ENOSPC)
        return err;
    err = kv_btree_put(&store->trees[tree], key, kind, value, nobody);
    kv_pager_unreserve(store->pager);
    return err;
}

static int del(struct kv_store *store, uint8_t tree, struct kv_bytes key)
{
    const struct kv_btree_drop nobody = {0};
    return kv_btree_del(&store->trees[tree], key, nobody);
}

/* Pages that no tree reaches leave the map. */
static int forget_leaked(const struct kv_walk *walk)
{
    struct kv_store *store = walk->store;
    const uint64_t next_id = kv_pagemap_next_id(store->map);
    for (uint64_t id = 0; kv_walk_next_leaked(walk, &id); id++) {
        const int err = id < next_id ? kv_pagemap_drop(store->map, open_epoch(store), id, true)
                                     : kv_pagemap_set(store->map, open_epoch(store), id, NULL);
        if (err)
            return err;
    }
    return 0;
}

/* ---- values and counts ------------------------------------------------------------------------
 */

/* Visit each leaf of a tree, as a copy, in order; the tree may be changed by the visit. */
static int each_leaf(struct kv_btree *btree, int (*visit)(void *context, const uint8_t *leaf),
                     void *context)
{
    uint8_t key[KV_KEY_MAX];
    size_t key_len = 0;
    uint8_t *leaf = malloc(btree->node_bytes);
    int err = leaf ? 0 : -ENOMEM;
    while (!err) {
        err = kv_btree_leaf_at(btree, key, key_len, leaf);
        if (!err)
            err = visit(context, leaf);
        if (err)
            break;
        const struct kv_bytes high = kv_node_high(leaf, btree->node_bytes);
        if (!high.data)
            break;
        memcpy(key, high.data, high.length);
        key_len = high.length;
    }
    free(leaf);
    return err;
}

struct sweep {
    struct kv_store *store;
    const struct kv_blob_notes *found; /* by the walk, with what clashes */
    struct kv_blob_notes holders;      /* as they are now */
    struct kv_mended *mended;
};

/* Does a blob that was kept already share blocks with this one, and is another? */
static bool clashes_with_kept(const struct sweep *sweep, const struct kv_blob_ref *ref,
                              uint64_t block, uint32_t block_count)
{
    const struct kv_blob_note *kept;
    for (uint64_t at = 0; (kept = kv_blob_notes_next_in(&sweep->holders, block, block_count, &at));)
        if (kept->block != block || kept->identity != kv_blob_identity(ref))
            return true;
    return false;
}

/* Do two references of a value, the one at `until` and one before it, name the same blocks? */
static bool clashes_within(struct sweep *sweep, uint8_t kind, struct kv_bytes value, size_t until,
                           const struct kv_blob_ref *ref, uint64_t block, uint32_t block_count)
{
    struct kv_blob_ref other;
    for (size_t at = 0; kv_value_next_ref(kind, value, &at, &other) && at < until;) {
        uint64_t other_block;
        uint32_t other_count;
        if (kv_blobs_extent(&sweep->store->blobs, &other, &other_block, &other_count))
            return true;
        const bool apart = other_block + other_count <= block || block + block_count <= other_block;
        if (!apart && kv_blob_identity(&other) != kv_blob_identity(ref))
            return true;
    }
    return false;
}

/*
 * Is something else where this reference points to? Then the digest tells; and of two that both
 * verify the first to be met is kept.
 */
static int judge_value(struct sweep *sweep, uint8_t kind, struct kv_bytes value, bool *bad)
{
    struct kv_blob_ref ref;
    *bad = !kv_value_sane(kind, value);
    for (size_t at = 0; !*bad && kv_value_next_ref(kind, value, &at, &ref);) {
        uint64_t block;
        uint32_t block_count;
        if (kv_blobs_extent(&sweep->store->blobs, &ref, &block, &block_count)) {
            *bad = true;
            break;
        }
        const struct kv_blob_note *note = kv_blob_notes_find(sweep->found, block);
        if (!note || !(note->flags & KV_BLOB_CLASHES))
            continue;
        *bad = note->flags & KV_BLOB_ON_PAGE ||
               clashes_with_kept(sweep, &ref, block, block_count) ||
               clashes_within(sweep, kind, value, at, &ref, block, block_count);
        const int err = *bad ? 0 : kv_blobs_verify(&sweep->store->blobs, &ref);
        if (err == -ENOMEM)
            return err;
        *bad = *bad || err;
    }
    return 0;
}

static int count_holders(struct sweep *sweep, uint8_t kind, struct kv_bytes value)
{
    struct kv_blob_ref ref;
    int err = 0;
    for (size_t at = 0; !err && kv_value_next_ref(kind, value, &at, &ref);) {
        uint64_t block;
        uint32_t block_count;
        struct kv_blob_note *note;
        bool fresh;
        err = kv_blobs_extent(&sweep->store->blobs, &ref, &block, &block_count);
        if (!err)
            err = kv_blob_notes_add(&sweep->holders, block, block_count, &ref, &note, &fresh);
    }
    return err;
}

static int sweep_keys_leaf(void *context, const uint8_t *leaf)
{
    struct sweep *sweep = context;
    const unsigned count = kv_node_count(leaf);
    for (unsigned slot = 0; slot < count; slot++) {
        uint8_t key[KV_KEY_MAX], kind;
        const struct kv_bytes value = kv_node_value(leaf, slot, &kind);
        bool bad;
        int err = judge_value(sweep, kind, value, &bad);
        if (!err && bad) {
            const size_t key_len = kv_node_key(leaf, sweep->store->node_bytes, slot, key);
            err = del(sweep->store, KV_TREE_KEYS, (struct kv_bytes){key, key_len});
            sweep->mended->removed++;
        } else if (!err) {
            err = count_holders(sweep, kind, value);
        }
        if (err)
            return err;
    }
    return 0;
}

/* Drop the entries that say something else than was counted. */
static int sweep_refs_leaf(void *context, const uint8_t *leaf)
{
    struct sweep *sweep = context;
    const unsigned count = kv_node_count(leaf);
    for (unsigned slot = 0; slot < count; slot++) {
        uint8_t key[KV_KEY_MAX], kind;
        const size_t key_len = kv_node_key(leaf, sweep->store->node_bytes, slot, key);
        const struct kv_bytes value = kv_node_value(leaf, slot, &kind);
        struct kv_blob_note *note =
            key_len == 8 ? kv_blob_notes_find(&sweep->holders, kv_be64_take(key)) : NULL;
        const kv_le64 right = kv_le64_of(note ? note->holders : 0);
        if (note && note->holders >= 2 && kind == KV_VALUE_INLINE && value.length == sizeof right &&
            !memcmp(value.data, &right, sizeof right)) {
            note->flags |= KV_BLOB_COUNTED;
            continue;
        }
        const int err = del(sweep->store, KV_TREE_REFS, (struct kv_bytes){key, key_len});
        if (err)
            return err;
    }
    return 0;
}

static int add_missing_counts(struct sweep *sweep)
{
    for (size_t i = 0; i < sweep->holders.capacity; i++) {
        const struct kv_blob_note *note = &sweep->holders.slots[i];
        if (!note->block || note->holders < 2 || (note->flags & KV_BLOB_COUNTED))
            continue;
        uint8_t key[8];
        kv_be64_put(key, note->block);
        const kv_le64 holders = kv_le64_of(note->holders);
        const int err = kv_check_put(sweep->store, KV_TREE_REFS, (struct kv_bytes){key, sizeof key},
                                     KV_VALUE_INLINE, (struct kv_bytes){&holders, sizeof holders});
        if (err)
            return err;
    }
    return 0;
}

/* Remove the values that can not be right, and make the refs tree say what the others hold. */
static int sweep_values(const struct kv_walk *walk, struct kv_mended *mended)
{
    struct kv_store *store = walk->store;
    struct sweep sweep = {.store = store, .found = &walk->blobs, .mended = mended};
    int err = each_leaf(&store->trees[KV_TREE_KEYS], sweep_keys_leaf, &sweep);
    if (!err)
        err = each_leaf(&store->trees[KV_TREE_REFS], sweep_refs_leaf, &sweep);
    if (!err)
        err = add_missing_counts(&sweep);
    kv_blob_notes_release(&sweep.holders);
    return err;
}

/* ---- all of it ------------------------------------------------------------------------------ */

int kv_check_mend(const struct kv_walk *walk, const struct kv_salvage *salvage,
                  struct kv_mended *mended)
{
    struct kv_store *store = walk->store;
    *mended = (struct kv_mended){.pages = walk->hole_count};
    int err = 0;
    pthread_mutex_lock(&store->writer);
    kv_space_mark(store->space, walk->seen);
    kv_pager_drop_clean(store->pager); /* also of pages whose ids will be given anew */
    for (size_t i = 0; i < walk->hole_count && !err; i++)
        err = fill_hole(store, &walk->holes[i]);
    if (!err && kv_check_wants_leaves(walk))
        err = kv_check_put_back(walk, salvage, &mended->salvaged);
    if (!err && (walk->hole_count || walk->bad_values || walk->bad_counts))
        err = sweep_values(walk, mended);
    if (!err)
        err = forget_leaked(walk);
    store->changed = true;
    pthread_mutex_unlock(&store->writer);
    return err;
}

/* ---- while an image is opened -----------------------------------------------------------------
 */

/*
 * With both superblocks lost, the backup may be older than what lies on the device: then its trees
 * say nothing, and all that can be found counts.
 */
static int judge_age(struct kv_store *store, const struct kv_salvage *salvage)
{
    if (!store->superblocks_lost || salvage->epoch_max <= store->info.epoch)
        return 0;
    store->trees_outdated = true;
    store->epoch_found = salvage->epoch_max;
    const struct kv_bytes low = {"", 0}, high = {0};
    return kv_salvage_protect(salvage, low, high);
}

int kv_check_mark_durable(struct kv_store *store, const struct kv_disk_superblock *superblock)
{
    struct kv_walk walk;
    struct kv_salvage salvage = {0};
    int err = kv_walk_init(&walk, store, superblock);
    if (err)
        return err;
    err = kv_walk_run(&walk);
    if (err)
        goto out;
    kv_space_mark(store->space, walk.seen);
    if (!store->superblocks_lost && !kv_check_wants_leaves(&walk))
        goto out;
    err = kv_salvage_init(&salvage, store);
    if (!err)
        err = kv_check_find_leaves(&walk, &salvage);
    if (!err)
        err = kv_check_protect_leaves(&walk, &salvage);
    if (!err)
        err = judge_age(store, &salvage);
out:
    kv_salvage_release(&salvage);
    kv_walk_release(&walk);
    return err;
}

/* kv_check_report_fn. */
static void log_finding(void *context, enum kv_check_severity severity, const char *what,
                        const char *text)
{
    struct kv_store *store = context;
    if (store->report)
        store->report(store->report_context, severity, what, text);
    else if (severity != KV_CHECK_NOTE)
        kv_store_log(store, KV_LOG_WARNING, "before replay: %s: %s", what, text);
}

int kv_check_mend_before_replay(struct kv_store *store)
{
    struct kv_walk walk;
    struct kv_salvage salvage = {0};
    struct kv_mended mended = {0};
    int err = kv_walk_init(&walk, store, &store->checkpoint.superblock);
    if (err)
        return err;
    walk.report = log_finding;
    walk.context = store;
    walk.show_key = store->show_key;
    walk.show_context = store->report_context;
    err = kv_walk_run(&walk);
    if (err)
        goto out;
    kv_space_mark(store->space, walk.seen);
    if (!walk.repairable && !walk.damaged)
        goto out;
    if (kv_check_wants_leaves(&walk)) {
        err = kv_salvage_init(&salvage, store);
        if (!err)
            err = kv_check_find_leaves(&walk, &salvage);
        if (!err)
            err = kv_check_protect_leaves(&walk, &salvage);
    }
    bool rescued; /* nothing is in memory yet, so nothing is */
    if (!err)
        err = kv_check_rescue(&walk, &rescued);
    if (!err)
        err = kv_check_mend(&walk, &salvage, &mended);
    if (!err)
        kv_store_log(store, KV_LOG_WARNING,
                     "before replay: %llu damaged pages were replaced, %llu keys below them "
                     "were found",
                     (unsigned long long)mended.pages,
                     (unsigned long long)(mended.salvaged.keys + mended.salvaged.stale_keys));
out:
    kv_salvage_release(&salvage);
    kv_walk_release(&walk);
    return err;
}
