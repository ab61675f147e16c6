/*
 * kv/check_walk.c: walk all that the last checkpoint made durable, and note what owns each block.
 *
 * Owns       what it notes.
 * Invariant  every page is visited once, every map block is entered once, and a tree is followed
 *            KV_TREE_DEPTH_MAX levels down at most: so the walk ends whatever the image says.
 * Locks      none; nothing may be changed meanwhile.
 */
#include "kv/check_walk.h"

#include "kv/error.h"

#include <stdarg.h>

/* ---- findings ------------------------------------------------------------------ */

void kv_walk_report(struct kv_walk *walk, enum kv_check_severity severity, const char *what,
                    const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    walk->repairable += severity == KV_CHECK_REPAIRABLE;
    walk->damaged += severity == KV_CHECK_DAMAGE;
    if (walk->report)
        walk->report(walk->context, severity, what, text);
}

/* ---- growing arrays --------------------------------------------------------------- */

static int make_room(void **items, size_t count, size_t *capacity, size_t item_bytes)
{
    if (count < *capacity)
        return 0;
    const size_t more = *capacity ? 2 * *capacity : 16;
    void *moved = realloc(*items, more * item_bytes);
    if (!moved)
        return -ENOMEM;
    *items = moved;
    *capacity = more;
    return 0;
}

static int note_gap(struct kv_walk *walk, uint32_t level, uint64_t index)
{
    void *items = walk->gaps;
    const int err = make_room(&items, walk->gap_count, &walk->gap_capacity, sizeof *walk->gaps);
    if (err)
        return err;
    walk->gaps = items;
    walk->gaps[walk->gap_count++] = (struct kv_walk_gap){.level = level, .index = index};
    return 0;
}

/* ---- page ids ---------------------------------------------------------------------- */

/* The map is walked in the order of page ids, so notes are appended in order. */
static int note_mapped(struct kv_walk *walk, uint64_t page_id)
{
    const uint64_t index = page_id / KV_MAP_FANOUT;
    if (!walk->pages_count || walk->pages[walk->pages_count - 1].index != index) {
        void *items = walk->pages;
        const int err =
            make_room(&items, walk->pages_count, &walk->pages_capacity, sizeof *walk->pages);
        if (err)
            return err;
        walk->pages = items;
        walk->pages[walk->pages_count++] = (struct kv_walk_pages){.index = index};
    }
    const unsigned bit = page_id % KV_MAP_FANOUT;
    walk->pages[walk->pages_count - 1].mapped[bit / 64] |= 1ull << bit % 64;
    return 0;
}

static struct kv_walk_pages *find_pages(const struct kv_walk *walk, uint64_t index)
{
    size_t low = 0, high = walk->pages_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (walk->pages[middle].index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low < walk->pages_count && walk->pages[low].index == index ? &walk->pages[low] : NULL;
}

bool kv_walk_next_leaked(const struct kv_walk *walk, uint64_t *page_id)
{
    for (size_t i = 0; i < walk->pages_count; i++) {
        const struct kv_walk_pages *pages = &walk->pages[i];
        if ((pages->index + 1) * KV_MAP_FANOUT <= *page_id)
            continue;
        for (unsigned bit = 0; bit < KV_MAP_FANOUT; bit++) {
            const uint64_t id = pages->index * KV_MAP_FANOUT + bit;
            const uint64_t leaked = pages->mapped[bit / 64] & ~pages->visited[bit / 64];
            if (id >= *page_id && ((leaked >> bit % 64) & 1)) {
                *page_id = id;
                return true;
            }
        }
    }
    return false;
}

/* ---- blocks -------------------------------------------------------------------------- */

/* Note the owner of a run inside the groups. false: a block of it had one already. */
static bool mark_blocks(struct kv_walk *walk, uint64_t block, uint64_t count)
{
    bool ours = true;
    for (uint64_t at = block - walk->first_block; count; at++, count--) {
        KV_ASSERT(at < walk->block_count);
        const uint64_t bit = 1ull << at % 64;
        ours = ours && !(walk->seen[at / 64] & bit);
        walk->seen[at / 64] |= bit;
    }
    return ours;
}

/* ---- the page map --------------------------------------------------------------------- */

static int visit_page_ptr(struct kv_walk *walk, uint64_t page_id, const struct kv_disk_ptr *ptr)
{
    const uint64_t block = kv_le64_get(ptr->block);
    const uint64_t count = kv_blocks_for(kv_le32_get(ptr->length_bytes));
    walk->page_count++;
    /* A pointer to nowhere, or to more than a page, is seen, and said, when the page is read. */
    if (kv_le32_get(ptr->length_bytes) <= walk->store->node_bytes &&
        kv_space_contains(walk->store->space, block, count) && !mark_blocks(walk, block, count))
        kv_walk_report(walk, KV_CHECK_DAMAGE, "block-shared",
                       "page %llu lies at block %llu, which something else owns too",
                       (unsigned long long)page_id, (unsigned long long)block);
    return note_mapped(walk, page_id);
}

/* kv_pagemap_visit_fn. */
static int visit_map(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr,
                     int error)
{
    struct kv_walk *walk = context;
    if (level < 0)
        return visit_page_ptr(walk, index, ptr);
    if (error && !kv_error_is_damage(error))
        return error;
    const uint64_t block = kv_le64_get(ptr->block);
    const bool inside = kv_space_contains(walk->store->space, block, 1);
    const bool ours = !inside || mark_blocks(walk, block, 1);
    if (!ours)
        kv_walk_report(walk, KV_CHECK_DAMAGE, "block-shared",
                       "map block %llu of level %d lies at block %llu, which something else "
                       "owns too",
                       (unsigned long long)index, level, (unsigned long long)block);
    if (error)
        kv_walk_report(walk, KV_CHECK_DAMAGE, "map-block",
                       "map block %llu of level %d at block %llu can not be used: %s",
                       (unsigned long long)index, level, (unsigned long long)block,
                       strerror(-error));
    if (ours && !error)
        return 0;
    const int err = note_gap(walk, (uint32_t)level, index);
    return err ? err : KV_PAGEMAP_SKIP;
}

/* ---- blobs ------------------------------------------------------------------------------ */

bool kv_value_next_ref(uint8_t kind, struct kv_bytes value, size_t *at, struct kv_blob_ref *ref)
{
    const size_t size = sizeof *ref;
    if (kind == KV_VALUE_INLINE || value.length < size)
        return false;
    const size_t offset = kind == KV_VALUE_REF ? value.length - size : *at * size;
    if ((kind == KV_VALUE_REF && *at) || offset > value.length - size)
        return false;
    memcpy(ref, (const uint8_t *)value.data + offset, size);
    ++*at;
    return true;
}

/* Read the blobs that wait for it. */
static int verify_blobs(struct kv_walk *walk)
{
    int results[KV_BLOBS_AT_ONCE];
    const size_t count = walk->unverified_count;
    kv_blobs_verify_many(&walk->store->blobs, walk->unverified, count, results);
    walk->unverified_count = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t block;
        uint32_t block_count;
        if (!results[i])
            continue;
        if (!kv_error_is_damage(results[i]))
            return results[i];
        walk->bad_blobs++;
        const int err =
            kv_blobs_extent(&walk->store->blobs, &walk->unverified[i], &block, &block_count);
        KV_ASSERT(!err); /* else it would not wait here */
        kv_walk_report(walk, KV_CHECK_DAMAGE, "blob-checksum", "the blob at block %llu: %s",
                       (unsigned long long)block, strerror(-results[i]));
    }
    return 0;
}

static int verify_later(struct kv_walk *walk, const struct kv_blob_ref *ref)
{
    walk->unverified[walk->unverified_count++] = *ref;
    return walk->unverified_count == KV_BLOBS_AT_ONCE ? verify_blobs(walk) : 0;
}

bool kv_value_sane(uint8_t kind, struct kv_bytes value)
{
    struct kv_blob_ref ref;
    uint64_t length = 0;
    size_t count = 0;
    while (kind == KV_VALUE_LARGE && kv_value_next_ref(kind, value, &count, &ref))
        length += kv_blob_length(&ref);
    return kind != KV_VALUE_LARGE ||
           (count <= KV_LARGE_REFS_MAX && length && length <= KV_VALUE_MAX);
}

static int visit_ref(struct kv_walk *walk, uint64_t page_id, const struct kv_blob_ref *ref)
{
    uint64_t block;
    uint32_t block_count;
    if (kv_blobs_extent(&walk->store->blobs, ref, &block, &block_count)) {
        walk->bad_values++;
        kv_walk_report(walk, KV_CHECK_DAMAGE, "blob-reference",
                       "page %llu refers to a blob that can not be", (unsigned long long)page_id);
        return 0;
    }
    struct kv_blob_note *note;
    bool fresh;
    const int err = kv_blob_notes_add(&walk->blobs, block, block_count, ref, &note, &fresh);
    if (err)
        return err;
    const bool ours =
        fresh ? mark_blocks(walk, block, block_count) : note->identity == kv_blob_identity(ref);
    if (!ours) {
        walk->bad_values++;
        note->flags |= KV_BLOB_CLASHES;
        kv_walk_report(walk, KV_CHECK_DAMAGE, "block-shared",
                       "page %llu refers to a blob at block %llu, where something else lies too",
                       (unsigned long long)page_id, (unsigned long long)block);
    }
    return fresh && walk->read_blobs ? verify_later(walk, ref) : 0;
}

static bool in_use(const struct kv_walk *walk, uint64_t page_id)
{
    const struct kv_walk_pages *pages = find_pages(walk, page_id / KV_MAP_FANOUT);
    const unsigned bit = page_id % KV_MAP_FANOUT;
    return pages && ((pages->visited[bit / 64] >> bit % 64) & 1);
}

/* kv_pagemap_visit_fn: does one of the clashing blobs lie where this lies? */
static int flag_blobs_below(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr,
                            int error)
{
    struct kv_walk *walk = context;
    const uint64_t count = kv_blocks_for(kv_le32_get(ptr->length_bytes));
    if (level >= 0 && error)
        return kv_error_is_damage(error) ? KV_PAGEMAP_SKIP : error;
    if (level < 0 && !in_use(walk, index))
        return 0; /* leaves the map, and the blob may be right */
    const uint64_t block = kv_le64_get(ptr->block);
    struct kv_blob_note *note;
    if (!kv_space_contains(walk->store->space, block, count))
        return 0;
    for (uint64_t at = 0; (note = kv_blob_notes_next_in(&walk->blobs, block, count, &at));)
        note->flags |= note->flags & KV_BLOB_CLASHES ? KV_BLOB_ON_PAGE : 0;
    return 0;
}

/* Which of the blobs that share blocks can not stay whatever their digests say? */
static int judge_clashes(struct kv_walk *walk)
{
    const int err = kv_blob_notes_find_overlaps(&walk->blobs);
    return err ? err : kv_pagemap_walk(walk->store->map, flag_blobs_below, walk);
}

/* ---- leaves -------------------------------------------------------------------------------- */

static int visit_keys_leaf(struct kv_walk *walk, uint64_t page_id, const uint8_t *node)
{
    const unsigned count = kv_node_count(node);
    walk->key_count += count;
    for (unsigned slot = 0; slot < count; slot++) {
        uint8_t kind;
        const struct kv_bytes value = kv_node_value(node, slot, &kind);
        struct kv_blob_ref ref;
        if (!kv_value_sane(kind, value)) {
            walk->bad_values++;
            kv_walk_report(walk, KV_CHECK_DAMAGE, "blob-reference",
                           "page %llu has a value that is larger than any can be",
                           (unsigned long long)page_id);
        }
        for (size_t at = 0; kv_value_next_ref(kind, value, &at, &ref);) {
            const int err = visit_ref(walk, page_id, &ref);
            if (err)
                return err;
        }
    }
    return 0;
}

/* Did a hole hide a part of this tree? */
static bool tree_incomplete(const struct kv_walk *walk, uint8_t tree)
{
    for (size_t i = 0; i < walk->hole_count; i++)
        if (walk->holes[i].tree == tree)
            return true;
    return false;
}

/* An entry of the refs tree: key and value of one slot. The keys' tree was walked before. */
static void visit_count(struct kv_walk *walk, const uint8_t *node, unsigned slot)
{
    uint8_t key[KV_KEY_MAX], kind;
    const size_t key_len = kv_node_key(node, walk->store->node_bytes, slot, key);
    const struct kv_bytes value = kv_node_value(node, slot, &kind);
    kv_le64 stored;
    if (key_len != 8 || kind != KV_VALUE_INLINE || value.length != sizeof stored) {
        walk->bad_counts++;
        kv_walk_report(walk, KV_CHECK_REPAIRABLE, "ref-count",
                       "a reference count has no sensible form");
        return;
    }
    memcpy(&stored, value.data, sizeof stored);
    const uint64_t block = kv_be64_take(key);
    const uint64_t count = kv_le64_get(stored);
    struct kv_blob_note *note = kv_blob_notes_find(&walk->blobs, block);
    const uint64_t found = note ? note->holders : 0;
    if (note)
        note->flags |= KV_BLOB_COUNTED;
    if (found == count && count >= 2)
        return;
    walk->bad_counts++;
    /* Values that were not seen may account for the rest. */
    if (tree_incomplete(walk, KV_TREE_KEYS) && count >= 2 && found < count)
        return;
    kv_walk_report(walk, KV_CHECK_REPAIRABLE, "ref-count",
                   "the blob at block %llu is counted %llu times, %llu references were found",
                   (unsigned long long)block, (unsigned long long)count, (unsigned long long)found);
}

/* Blobs with several holders of which the refs tree says nothing. */
static void find_uncounted(struct kv_walk *walk)
{
    for (size_t i = 0; i < walk->blobs.capacity; i++) {
        const struct kv_blob_note *note = &walk->blobs.slots[i];
        if (!note->block || note->holders < 2)
            continue;
        walk->shared_blobs++;
        if (note->flags & KV_BLOB_COUNTED)
            continue;
        walk->bad_counts++;
        if (!tree_incomplete(walk, KV_TREE_REFS))
            kv_walk_report(walk, KV_CHECK_REPAIRABLE, "ref-count",
                           "the blob at block %llu is not counted, %u references were found",
                           (unsigned long long)note->block, note->holders);
    }
}

/* ---- trees ------------------------------------------------------------------- */

/* What the parent says of a page. */
struct expected {
    uint64_t page_id, parent;
    uint8_t tree;
    int level;                 /* -1: a root's, any */
    struct kv_bytes low, high; /* high.data NULL: none */
};

static int note_hole(struct kv_walk *walk, const struct expected *expected, int error)
{
    void *items = walk->holes;
    const int err = make_room(&items, walk->hole_count, &walk->hole_capacity, sizeof *walk->holes);
    if (err)
        return err;
    walk->holes = items;
    uint8_t *fences = malloc(expected->low.length + expected->high.length + 1);
    if (!fences)
        return -ENOMEM;
    if (expected->low.length)
        memcpy(fences, expected->low.data, expected->low.length);
    if (expected->high.length)
        memcpy(fences + expected->low.length, expected->high.data, expected->high.length);
    walk->holes[walk->hole_count++] =
        (struct kv_walk_hole){.page_id = expected->page_id,
                              .parent = expected->parent,
                              .tree = expected->tree,
                              .level = expected->level < 0 ? 0 : (uint8_t)expected->level,
                              .error = error,
                              .unbounded = !expected->high.data,
                              .low_bytes = (uint16_t)expected->low.length,
                              .high_bytes = (uint16_t)expected->high.length,
                              .fences = fences};
    return 0;
}

static const char *word_for(int error)
{
    switch (error) {
    case -EBADMSG:
        return "page-checksum";
    case -EUCLEAN:
        return "page-structure";
    default:
        return "page-unreadable";
    }
}

static int unusable_page(struct kv_walk *walk, const struct expected *expected, const char *what,
                         const char *why, int error)
{
    kv_walk_report(walk, KV_CHECK_DAMAGE, what, "page %llu of tree %u, below page %llu: %s",
                   (unsigned long long)expected->page_id, expected->tree,
                   (unsigned long long)expected->parent, why);
    return note_hole(walk, expected, error);
}

static bool same_fence(struct kv_bytes a, struct kv_bytes b)
{
    return !a.data == !b.data && !kv_key_compare(a.data, a.length, b.data, b.length);
}

/* NULL, or what is wrong with a page that was read, in its place. */
static const char *misfit(const struct kv_walk *walk, const struct expected *expected,
                          const uint8_t *node, const char **what)
{
    const size_t node_bytes = walk->store->node_bytes;
    const struct kv_disk_node *header = (const struct kv_disk_node *)node;
    const struct kv_bytes low = kv_node_low(node, node_bytes);
    *what = "page-structure";
    if (header->tree != expected->tree)
        return "it is of the other tree";
    if (expected->level >= 0 && kv_node_level(node) != expected->level)
        return "it is of another level than its place";
    *what = "page-fences";
    if (low.length != expected->low.length ||
        kv_key_compare(low.data, low.length, expected->low.data, expected->low.length) ||
        !same_fence(kv_node_high(node, node_bytes), expected->high))
        return "its fences are not those of its place";
    return NULL;
}

/* Judge an expected page, of which `read` was read. *usable false: it is a hole now. */
static int take_page(struct kv_walk *walk, const struct expected *expected,
                     const struct kv_page_read *read, bool *usable)
{
    *usable = false;
    struct kv_walk_pages *pages = find_pages(walk, expected->page_id / KV_MAP_FANOUT);
    const unsigned bit = expected->page_id % KV_MAP_FANOUT;
    const uint64_t mask = 1ull << bit % 64;
    if (!pages || !(pages->mapped[bit / 64] & mask))
        return unusable_page(walk, expected, "page-missing", "the page map does not know it",
                             -ENOENT);
    if (pages->visited[bit / 64] & mask)
        return unusable_page(walk, expected, "page-shared", "another page refers to it too", 0);
    if (expected->page_id >= kv_pagemap_next_id(walk->store->map))
        return unusable_page(walk, expected, "page-structure", "its number was never given", 0);
    const int err = read->err == -ESTALE ? -EUCLEAN : read->err; /* a place that is none */
    if (kv_error_is_damage(err))
        return unusable_page(walk, expected, word_for(err), strerror(-err), err);
    if (err)
        return err;
    const char *what;
    const char *why = misfit(walk, expected, read->out, &what);
    if (why)
        return unusable_page(walk, expected, what, why, 0);
    pages->visited[bit / 64] |= mask;
    *usable = true;
    return 0;
}

static void step_progress(struct kv_walk *walk)
{
    walk->pages_done++;
    if (walk->progress)
        walk->progress(walk->context, walk->pages_done,
                       kv_max_u64(walk->page_count, walk->pages_done));
}

static int visit_leaf(struct kv_walk *walk, const struct expected *expected, const uint8_t *node)
{
    if (expected->tree == KV_TREE_KEYS)
        return visit_keys_leaf(walk, expected->page_id, node);
    for (unsigned slot = 0; slot < kv_node_count(node); slot++)
        visit_count(walk, node, slot);
    return 0;
}

static int visit_children(struct kv_walk *walk, const struct expected *expected,
                          const uint8_t *node, unsigned depth);

/*
 * Visit a page that was read, and what is below it. Each level is one lower than the one above,
 * so the recursion ends.
 */
static int visit_page(struct kv_walk *walk, const struct expected *expected,
                      const struct kv_page_read *read, unsigned depth)
{
    bool usable;
    const int err = take_page(walk, expected, read, &usable);
    step_progress(walk);
    if (err || !usable)
        return err;
    return kv_node_level(read->out) ? visit_children(walk, expected, read->out, depth)
                                    : visit_leaf(walk, expected, read->out);
}

/* Memory for `count` pages of a depth that are read together, until more are asked for there. */
static uint8_t *batch_at(struct kv_walk *walk, unsigned depth, unsigned count)
{
    KV_ASSERT(depth <= KV_TREE_DEPTH_MAX);
    struct kv_walk_batch *const batch = &walk->batches[depth];
    if (batch->capacity < count) {
        free(batch->nodes);
        batch->nodes = kv_device_alloc(count * walk->store->node_bytes);
        batch->capacity = batch->nodes ? count : 0;
    }
    return batch->nodes;
}

static int visit_children(struct kv_walk *walk, const struct expected *expected,
                          const uint8_t *node, unsigned depth)
{
    const size_t node_bytes = walk->store->node_bytes;
    const unsigned count = kv_node_count(node);
    const unsigned most = (unsigned)kv_min_u64(KV_PAGES_AT_ONCE, KV_WALK_BATCH_BYTES / node_bytes);
    uint8_t *batch = batch_at(walk, depth, count < most ? count : most);
    int err = batch ? 0 : -ENOMEM;
    for (unsigned first = 0; first < count && !err; first += most) {
        struct kv_page_read reads[KV_PAGES_AT_ONCE];
        const unsigned end = first + most < count ? first + most : count;
        for (unsigned slot = first; slot < end; slot++)
            reads[slot - first] = (struct kv_page_read){.page_id = kv_node_child(node, slot),
                                                        .out = batch + (slot - first) * node_bytes};
        kv_pager_read_many(walk->store->pager, reads, end - first);
        for (unsigned slot = first; slot < end && !err; slot++) {
            uint8_t low[KV_KEY_MAX], high[KV_KEY_MAX];
            struct expected child = {.page_id = kv_node_child(node, slot),
                                     .parent = expected->page_id,
                                     .tree = expected->tree,
                                     .level = (int)kv_node_level(node) - 1,
                                     .low = kv_node_low(node, node_bytes),
                                     .high = kv_node_high(node, node_bytes)};
            if (slot > 0)
                child.low = (struct kv_bytes){low, kv_node_key(node, node_bytes, slot, low)};
            if (slot + 1 < count)
                child.high = (struct kv_bytes){high, kv_node_key(node, node_bytes, slot + 1, high)};
            err = visit_page(walk, &child, &reads[slot - first], depth + 1);
        }
    }
    return err;
}

static int visit_root(struct kv_walk *walk, uint8_t tree)
{
    const struct expected root = {
        .page_id = walk->store->trees[tree].root, .tree = tree, .level = -1, .low = {"", 0}};
    struct kv_page_read read = {.page_id = root.page_id, .out = batch_at(walk, 0, 1)};
    if (!read.out)
        return -ENOMEM;
    kv_pager_read_many(walk->store->pager, &read, 1);
    return visit_page(walk, &root, &read, 1);
}

static void find_leaked(struct kv_walk *walk)
{
    for (uint64_t page_id = 0; kv_walk_next_leaked(walk, &page_id); page_id++)
        walk->leaked_pages++;
    if (!walk->leaked_pages)
        return;
    const bool incomplete = kv_walk_incomplete(walk);
    kv_walk_report(walk, incomplete ? KV_CHECK_NOTE : KV_CHECK_REPAIRABLE, "page-leaked",
                   "%llu pages are reached by no tree%s", (unsigned long long)walk->leaked_pages,
                   incomplete ? "; they may belong below the damaged ones" : "");
}

int kv_walk_run(struct kv_walk *walk)
{
    int err = kv_pagemap_walk(walk->store->map, visit_map, walk);
    for (uint8_t tree = 0; tree < KV_TREE_COUNT && !err; tree++)
        err = visit_root(walk, tree);
    if (!err)
        err = verify_blobs(walk);
    if (err)
        return err;
    find_uncounted(walk);
    find_leaked(walk);
    return walk->bad_values ? judge_clashes(walk) : 0;
}

struct kv_bytes kv_walk_hole_low(const struct kv_walk_hole *hole)
{
    return (struct kv_bytes){hole->fences, hole->low_bytes};
}

struct kv_bytes kv_walk_hole_high(const struct kv_walk_hole *hole)
{
    if (hole->unbounded)
        return (struct kv_bytes){0};
    return (struct kv_bytes){hole->fences + hole->low_bytes, hole->high_bytes};
}

/* ---- init, release --------------------------------------------------------------------------- */

int kv_walk_init(struct kv_walk *walk, struct kv_store *store,
                 const struct kv_disk_superblock *superblock)
{
    *walk = (struct kv_walk){.store = store,
                             .first_block = kv_le64_get(superblock->group_first_block),
                             .block_count =
                                 (uint64_t)kv_le32_get(superblock->group_count) * KV_GROUP_BLOCKS};
    walk->seen = calloc(walk->block_count / 64, sizeof *walk->seen);
    return walk->seen ? 0 : -ENOMEM;
}

void kv_walk_release(struct kv_walk *walk)
{
    for (size_t i = 0; i < walk->hole_count; i++)
        free(walk->holes[i].fences);
    for (unsigned i = 0; i < KV_TREE_DEPTH_MAX + 1; i++)
        free(walk->batches[i].nodes);
    kv_blob_notes_release(&walk->blobs);
    free(walk->holes);
    free(walk->gaps);
    free(walk->pages);
    free(walk->seen);
}
