/*
 * kv/btree_together.c: several keys go down a tree side by side.
 *
 * A descent waits for memory at each page: for the hash, the frame, the page's slots, its cell.
 * Here all keys take the same step before any takes the next, and each step first asks for what
 * the next one reads, so that the waits of all overlap.
 *
 * Locks      none: as kv_btree_get. A descent that meets a change, or anything else that is out
 *            of the ordinary, is left to who goes down with one key, and begins anew.
 */
#include "kv/btree_guide.h"

/* One key on its way. */
struct descent {
    const void *key;
    size_t key_len;
    size_t index; /* of the caller's keys */
    struct kv_page_view view;
    uint64_t page_id; /* in view */
    struct kv_btree_way way;
    unsigned slot; /* of the leaf, where the key may be */
    bool looks;    /* as its flock */
};

struct flock {
    struct descent descents[KV_BTREE_TOGETHER];
    size_t count; /* still together */
    bool looks;   /* into the leaves, soon */
    size_t strays[KV_BTREE_TOGETHER];
    size_t stray_count;
};

static void flock_add(struct flock *flock, const void *key, size_t key_len)
{
    const size_t index = flock->count++;
    KV_ASSERT(index < KV_BTREE_TOGETHER);
    flock->descents[index] =
        (struct descent){.key = key, .key_len = key_len, .index = index, .looks = flock->looks};
}

/* Take the step `go` with each; those that can not are strays from here on. */
static void flock_step(struct kv_btree *btree, struct flock *flock, uint8_t level,
                       bool (*go)(struct kv_btree *btree, struct descent *descent, uint8_t level))
{
    const size_t count = flock->count;
    flock->count = 0;
    for (size_t i = 0; i < count; i++) {
        struct descent *descent = &flock->descents[i];
        if (!go(btree, descent, level))
            flock->strays[flock->stray_count++] = descent->index;
        else if (flock->count++ != i)
            flock->descents[flock->count - 1] = *descent;
    }
}

/* Choose the child, which is of `level`. false: the bytes can not be used. */
static bool choose_child(struct kv_btree *btree, struct descent *descent, uint8_t level)
{
    struct kv_btree_way *way = &descent->way;
    if (kv_btree_guide_find(btree, descent->page_id, &descent->view, descent->key, descent->key_len,
                            way)) {
        const uint8_t *bytes = kv_pager_fetch_at(btree->pager, way->frame);
        if (bytes && level == 0 && descent->looks)
            kv_node_fetch_leaf(bytes, btree->node_bytes);
        if (!bytes)
            kv_pager_fetch_bucket(btree->pager, way->child);
        return way->level == level;
    }
    unsigned slot;
    way->child = kv_node_child_racy(descent->view.bytes, btree->node_bytes, descent->key,
                                    descent->key_len, &slot);
    way->frame = KV_FRAME_NONE;
    way->noted = NULL;
    if (way->child == UINT64_MAX || !kv_pager_view_valid(&descent->view))
        return false;
    kv_btree_guide_missed(btree, descent->page_id, &descent->view);
    kv_pager_fetch_bucket(btree->pager, way->child);
    return true;
}

/* View the child that was chosen. false: it is not in memory, or things changed. */
static bool view_child(struct kv_btree *btree, struct descent *descent, uint8_t level)
{
    struct kv_page_view below;
    if (!kv_btree_way_view(btree, &descent->way, &below)) {
        if (!kv_pager_view_resident(btree->pager, descent->way.child, &below))
            return false;
        kv_btree_way_note(btree, &descent->way, &below);
        if (level == 0 && descent->looks)
            kv_node_fetch_leaf(below.bytes, btree->node_bytes);
    }
    if (!kv_pager_view_valid(&descent->view))
        return false;
    descent->view = below;
    descent->page_id = descent->way.child;
    return true;
}

/*
 * All go to the leaves that cover their keys; their cells are asked for if it looks. A page of the
 * wrong level gives a stray, or is noticed by who reads the leaf.
 */
static void flock_descend(struct kv_btree *btree, struct flock *flock)
{
    struct kv_page_view root;
    uint8_t level = 0;
    bool usable = kv_pager_view_resident(btree->pager, btree->root, &root);
    if (usable) {
        level = kv_node_level_racy(root.bytes);
        usable = kv_pager_view_valid(&root) && level < KV_TREE_DEPTH_MAX;
    }
    if (!usable) {
        while (flock->count)
            flock->strays[flock->stray_count++] = --flock->count;
        return;
    }
    for (size_t i = 0; i < flock->count; i++) {
        flock->descents[i].view = root;
        flock->descents[i].page_id = btree->root;
    }
    while (level > 0) {
        level--;
        flock_step(btree, flock, level, choose_child);
        for (size_t i = 0; i < flock->count; i++)
            if (flock->descents[i].way.frame == KV_FRAME_NONE)
                kv_pager_fetch_frame(btree->pager, flock->descents[i].way.child);
        flock_step(btree, flock, level, view_child);
    }
    for (size_t i = 0; i < flock->count && flock->looks; i++) {
        struct descent *descent = &flock->descents[i];
        descent->slot = kv_node_fetch_cell_racy(descent->view.bytes, btree->node_bytes,
                                                descent->key, descent->key_len);
    }
}

/* ---- reading ---------------------------------------------------------------------- */

static void look_up_alone(struct kv_btree *btree, struct kv_btree_lookup *lookup)
{
    lookup->result =
        kv_btree_get_resident(btree, lookup->key, lookup->key_len, lookup->buf, lookup->buf_cap,
                              &lookup->value_len, &lookup->kind, &lookup->missing);
}

/* The leaf is in view. */
static void take_value(struct kv_btree *btree, const struct descent *descent,
                       struct kv_btree_lookup *lookup)
{
    const uint8_t *leaf = descent->view.bytes;
    lookup->result = 0;
    if (kv_node_value_at_racy(leaf, btree->node_bytes, descent->slot, lookup->key, lookup->key_len,
                              lookup->buf, lookup->buf_cap, &lookup->value_len, &lookup->kind) &&
        kv_pager_view_valid(&descent->view))
        return;
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
    struct flock flock;
    flock.count = flock.stray_count = 0;
    flock.looks = true;
    for (size_t i = 0; i < count; i++)
        flock_add(&flock, lookups[i].key, lookups[i].key_len);
    flock_descend(btree, &flock);
    for (size_t i = 0; i < flock.count; i++)
        take_value(btree, &flock.descents[i], &lookups[flock.descents[i].index]);
    for (size_t i = 0; i < flock.stray_count; i++)
        look_up_alone(btree, &lookups[flock.strays[i]]);
}

/* ---- before a change ---------------------------------------------------------------- */

#define FAULT_ROUNDS 4u /* levels that are read together */

/* Do all keys lie in one leaf that is in memory? Its view goes to `leads`, then. */
static bool share_leaf(struct kv_btree *btree, const struct kv_bytes *keys, size_t count,
                       struct kv_page_view *leads)
{
    struct flock flock;
    flock.count = flock.stray_count = 0;
    flock.looks = true;
    flock_add(&flock, keys[count - 1].data, keys[count - 1].length);
    flock_descend(btree, &flock);
    if (!flock.count)
        return false;
    const struct kv_page_view *leaf = &flock.descents[0].view;
    for (size_t i = 0; i < count; i++)
        if (!kv_node_covers_racy(leaf->bytes, btree->node_bytes, keys[i].data, keys[i].length))
            return false;
    for (size_t i = 0; i < count && leads; i++)
        leads[i] = *leaf;
    return kv_pager_view_valid(leaf);
}

/* The operations of a small batch often lie side by side: then one leaf is looked for. */
bool kv_btree_fault_few(struct kv_btree *btree, const struct kv_bytes *keys, size_t count,
                        size_t room, struct kv_page_view *leads)
{
    struct kv_page_view leaf = {.frame = NULL};
    for (size_t i = 0; i < count; i++) {
        const void *const key = keys[i].data;
        const size_t length = keys[i].length;
        if (!(leaf.frame && kv_node_covers_racy(leaf.bytes, btree->node_bytes, key, length) &&
              kv_pager_view_valid(&leaf)) &&
            !kv_btree_fault_resident(btree, key, length, room, &leaf))
            return false;
        if (leads)
            leads[i] = leaf;
    }
    return true;
}

int kv_btree_fault_together(struct kv_btree *btree, const struct kv_bytes *keys, size_t count,
                            size_t room, struct kv_page_view *leads)
{
    /* So few are looked for one after the other before they go down together. */
    if (count <= KV_BTREE_FEW && kv_btree_fault_few(btree, keys, count, room, leads))
        return 0;
    for (size_t i = 0; i < count && leads; i++)
        leads[i].frame = NULL;
    /* One by one there is nothing to overlap, and the writer goes down again soon. */
    int err = 0;
    if (count < 4) {
        for (size_t i = 0; i < count && !err; i++)
            err =
                kv_btree_fault(btree, keys[i].data, keys[i].length, room, leads ? &leads[i] : NULL);
        return err;
    }
    if (share_leaf(btree, keys, count, leads))
        return 0;
    struct flock flock;
    flock.looks = !leads;
    size_t left[KV_BTREE_TOGETHER]; /* the keys that are not down yet */
    size_t left_count = count;
    for (size_t i = 0; i < count; i++)
        left[i] = i;
    /* A round takes all as far as memory reaches, and reads what is missing with one submission. */
    for (unsigned round = 0; left_count; round++) {
        uint64_t missing[KV_BTREE_TOGETHER];
        size_t missing_count = 0;
        flock.count = flock.stray_count = 0;
        for (size_t i = 0; i < left_count; i++)
            flock_add(&flock, keys[left[i]].data, keys[left[i]].length);
        flock_descend(btree, &flock);
        for (size_t i = 0; i < flock.count && leads; i++)
            leads[left[flock.descents[i].index]] = flock.descents[i].view;
        for (size_t i = 0; i < flock.stray_count; i++) {
            const size_t stray = left[flock.strays[i]];
            if (!kv_btree_resident(btree, keys[stray].data, keys[stray].length,
                                   &missing[missing_count]))
                flock.strays[missing_count++] = stray;
        }
        memcpy(left, flock.strays, missing_count * sizeof *left);
        left_count = missing_count;
        if (round == FAULT_ROUNDS)
            break;
        kv_btree_load(btree, missing, missing_count);
    }
    /* Who arrived in the wrong place is told so where it is looked at closely: by the writer. */
    for (size_t i = 0; i < left_count && !err; i++)
        err = kv_btree_fault(btree, keys[left[i]].data, keys[left[i]].length, SIZE_MAX, NULL);
    return err;
}

/* ---- a change ----------------------------------------------------------------------- */

/*
 * How many leaves ahead of the one that changes they are asked for, and how many ahead it is known
 * where in them a cell goes. Frames begin at multiples of their length, so the first lines of all
 * leaves contend for the same few places of the nearest cache, some ten of them.
 */
#define LEADS_FAR  8u
#define LEADS_NEAR 4u

/* The view of a lead that is worth a look: of a leaf, and another than the one before it. */
static const struct kv_page_view *news_at(const struct kv_btree_leads *leads, size_t index)
{
    if (index >= leads->count)
        return NULL;
    const struct kv_page_view *view = &leads->views[index];
    return view->frame && view->frame != view[-1].frame ? view : NULL;
}

void kv_btree_lead(struct kv_btree *btree, const struct kv_btree_leads *leads, size_t index)
{
    const struct kv_page_view *far = news_at(leads, index + LEADS_FAR);
    const struct kv_page_view *near = index ? news_at(leads, index + LEADS_NEAR) : leads->views;
    btree->lead = leads->views[index];
    if (far)
        kv_node_fetch_leaf(far->bytes, btree->node_bytes);
    if (near && near->frame)
        kv_node_fetch_heap_racy(near->bytes, btree->node_bytes);
}
