/*
 * kv/node.h: the bytes of one B+tree page: search, insert, split, merge, validate.
 *
 * A node is node_bytes of memory laid out as kv/format.h says:
 *
 *    | header 64 | slots -> | free | <- cells | low fence | high fence |
 *
 * All keys k of a node satisfy low <= k < high. Keys are stored without the prefix that low
 * and high have in common (no prefix when there is no high fence). Slots are in key order.
 * Inner nodes: slot 0 stands for the low fence (empty stored key, never compared); slot i's
 * child covers [key i, key i+1).
 *
 * Functions named _racy may run while another thread changes the node: they bound every
 * offset that they take from it, and end; what they return means nothing until the caller
 * has seen that the page's version did not change. All others need the node to themselves
 * (or an unchanging copy).
 *
 * References: prefix truncation, suffix truncation and fences: Graefe, Modern B-Tree
 * Techniques (2011; More Modern B-Tree Techniques 2024); key heads as in Graefe & Larson,
 * B-Tree Indexes and CPU Caches (2001).
 */
#ifndef KV_NODE_H
#define KV_NODE_H

#include "kv/base.h"
#include "kv/format.h"
#include "kv/kv.h"

#include <limits.h>

struct kv_bytes {
    const void *data;
    size_t length;
};

/*
 * Largest cell (slot, header, whole key, value) that a leaf takes: three of them with the longest
 * fences, so that a value of a block, with something before it, stays inline in 16 KiB. It never
 * was less than a quarter of the node, which is more in the smallest one.
 */
static inline size_t kv_node_cell_max(size_t node_bytes)
{
    const size_t third = (node_bytes - sizeof(struct kv_disk_node) - 2 * (size_t)KV_KEY_MAX) / 3;
    return third > node_bytes / 4 ? third : node_bytes / 4;
}
/*
 * The most that any cell may take: the references of a value of KV_VALUE_MAX always fit, also
 * next to the longest key in the smallest node (see kv/node_split.c on why they do).
 */
#define KV_NODE_REFS_MIN (KV_VALUE_MAX / KV_BLOB_MAX)
static inline size_t kv_node_cell_limit(size_t node_bytes)
{
    const size_t refs = sizeof(struct kv_disk_slot) + sizeof(struct kv_disk_leaf_cell) +
                        KV_KEY_MAX + KV_NODE_REFS_MIN * sizeof(struct kv_disk_blob_ref);
    return refs > kv_node_cell_max(node_bytes) ? refs : kv_node_cell_max(node_bytes);
}
/* Longest value that stays inline next to a key of key_len bytes. */
static inline size_t kv_node_inline_max(size_t node_bytes, size_t key_len)
{
    const size_t fixed = sizeof(struct kv_disk_leaf_cell) + sizeof(struct kv_disk_slot) + key_len;
    return kv_node_cell_max(node_bytes) - fixed;
}

/* ---- making ------------------------------------------------------------- */

/* An empty node. high.data NULL: no upper fence. */
void kv_node_init(void *node, size_t node_bytes, uint64_t page_id, uint8_t tree, uint8_t level,
                  struct kv_bytes low, struct kv_bytes high);

/* Everything that must hold, checked byte by byte; for pages that came from disk. 0 or -EUCLEAN. */
KV_MUST_CHECK int kv_node_validate(const void *node, size_t node_bytes, uint64_t page_id);

/* Header and slots of a leaf of small values that is two thirds full. */
#define KV_NODE_FETCH_BYTES 896u

/* ---- without slots ------------------------------------------------------ */

/*
 * A bare node: the header, the length of each key, the cells in the order of their keys, the fences
 * (kv/node_bare.c). What it lacks, slots, free bytes and dead ones, follows from the rest. It is no
 * node, but packs to a tenth or a sixth less than one.
 */

/* Make a bare node of a valid one, in `bare` (node_bytes of memory elsewhere). Returns its bytes.
 */
size_t kv_node_strip(const void *node, size_t node_bytes, void *bare);
/* How long the bare node with this header is, which may be any bytes. 0: it is none. */
size_t kv_node_bare_bytes(const void *header, size_t node_bytes);
/*
 * Make a node where the header of a bare one stands at the beginning and all that follows it at the
 * end, up to node_bytes. Both may be any bytes: the node is still to be validated. 0 or -EUCLEAN.
 */
KV_MUST_CHECK int kv_node_restore(void *node, size_t node_bytes);

/* ---- reading, racy ------------------------------------------------------ */

uint8_t kv_node_level_racy(const void *node);
/* Does it seem to be a leaf of the tree? */
bool kv_node_is_leaf_of_racy(const void *node, uint8_t tree);
/* How many bytes more a leaf seems to take: cells with their slots. 0 when they make no sense. */
size_t kv_node_room_racy(const void *node, size_t node_bytes);

/* Ask for the lines of a leaf's fences, unless they are long, and wait for none. */
static inline void kv_node_fetch_fences(const void *node, size_t node_bytes)
{
    __builtin_prefetch((const uint8_t *)node + node_bytes - 64);
}
/* The same for all that a search will want: header, slots, and the fences, where the prefix is. */
static inline void kv_node_fetch_leaf(const void *node, size_t node_bytes)
{
    for (size_t at = 0; at < KV_NODE_FETCH_BYTES; at += 64)
        __builtin_prefetch((const uint8_t *)node + at);
    kv_node_fetch_fences(node, node_bytes);
}
/* The same for where the heap of cells grows; the header is waited for. */
void kv_node_fetch_heap_racy(const void *node, size_t node_bytes);
/* The same for the cell that `key` may have, by its head alone; the slots are waited for. Its slot;
 * KV_SLOT_NONE: there is none. */
unsigned kv_node_fetch_cell_racy(const void *node, size_t node_bytes, const void *key,
                                 size_t key_len);
#define KV_SLOT_NONE UINT_MAX

/*
 * Inner node: child page id for `key`, and through *slot which it is. UINT64_MAX when the
 * bytes make no sense (a race, or damage).
 */
uint64_t kv_node_child_racy(const void *node, size_t node_bytes, const void *key, size_t key_len,
                            unsigned *slot);
/*
 * Leaf: copy the value of `key` to buf (as much as fits in buf_cap). *kind is
 * enum kv_value_kind. 0 found; -ENOENT; -EAGAIN the bytes make no sense.
 */
int kv_node_value_racy(const void *node, size_t node_bytes, const void *key, size_t key_len,
                       void *buf, size_t buf_cap, size_t *value_len, uint8_t *kind);
/* Leaf: the same if the key is that of `slot`, which may be any. false: look for it. */
bool kv_node_value_at_racy(const void *node, size_t node_bytes, unsigned slot, const void *key,
                           size_t key_len, void *buf, size_t buf_cap, size_t *value_len,
                           uint8_t *kind);
/*
 * Leaf: the same for the last key that is not above `key`; it goes to `found` (KV_KEY_MAX bytes).
 * -ENOENT: all keys are above.
 */
int kv_node_floor_racy(const void *node, size_t node_bytes, const void *key, size_t key_len,
                       void *found, size_t *found_len, void *buf, size_t buf_cap, size_t *value_len,
                       uint8_t *kind);
/* Does the node seem to cover `key`, low <= key < high? */
bool kv_node_covers_racy(const void *node, size_t node_bytes, const void *key, size_t key_len);
/*
 * The upper fence of a node: its length, and the bytes in `fence` (KV_KEY_MAX). false: nonsense, or
 * there is none (*length 0).
 */
bool kv_node_high_racy(const void *node, size_t node_bytes, void *fence, size_t *length);
/* The lower fence likewise; there always is one. */
bool kv_node_low_racy(const void *node, size_t node_bytes, void *fence, size_t *length);
/* Copy a whole node word by word, into memory that nobody else uses. */
void kv_node_copy_racy(void *dst, const void *node, size_t node_bytes);

/* ---- reading, node held ------------------------------------------------- */

static inline unsigned kv_node_count(const void *node)
{
    return kv_le16_get(((const struct kv_disk_node *)node)->slot_count);
}

static inline uint64_t kv_node_page_id(const void *node)
{
    return kv_le64_get(((const struct kv_disk_node *)node)->page_id);
}

static inline uint8_t kv_node_level(const void *node)
{
    return ((const struct kv_disk_node *)node)->level;
}

struct kv_bytes kv_node_low(const void *node, size_t node_bytes);
struct kv_bytes kv_node_high(const void *node, size_t node_bytes); /* data NULL: none */

/*
 * What a page must be for the place in which it was found; each page by itself may be valid and
 * yet stand in the wrong one. A root covers all keys. The child of a slot is one level below,
 * of the same tree, and its fences are the keys around the slot.
 */
bool kv_node_is_root(const void *node, size_t node_bytes, uint8_t tree);
bool kv_node_is_child(const void *parent, size_t node_bytes, unsigned slot, const void *child);
/* Does the node cover what lies just below `key`, low < key <= high (data NULL: the very end)? */
bool kv_node_covers_before(const void *node, size_t node_bytes, struct kv_bytes key);

/* Slot of the first key >= key (kv_node_count when none); *exact says whether it is equal. */
unsigned kv_node_search(const void *node, size_t node_bytes, const void *key, size_t key_len,
                        bool *exact);
/* Inner: slot of the child that covers key. */
unsigned kv_node_child_slot(const void *node, size_t node_bytes, const void *key, size_t key_len);
uint64_t kv_node_child(const void *node, unsigned slot);
/* Whole key of a slot, prefix included, into out (KV_KEY_MAX bytes); returns its length. */
size_t kv_node_key(const void *node, size_t node_bytes, unsigned slot, void *out);
struct kv_bytes kv_node_value(const void *node, unsigned slot, uint8_t *kind);

/*
 * The free bytes between slots and cells. The header need not make sense: what does not gives an
 * empty gap at the node's end.
 */
struct kv_node_gap {
    size_t begin, end;
};
struct kv_node_gap kv_node_gap(const void *node, size_t node_bytes);

/* Bytes in use, header and fences included; as a sum of what a rebuilt node would take. */
size_t kv_node_used(const void *node, size_t node_bytes);

/* ---- changing, node held ------------------------------------------------ */

/*
 * Insert at the slot that kv_node_search gave (not exact). false: does not fit even when
 * compacted; nothing changed. `scratch` is node_bytes of the caller's memory, for compaction.
 */
KV_MUST_CHECK bool kv_node_insert(void *node, size_t node_bytes, unsigned slot, const void *key,
                                  size_t key_len, uint8_t kind, struct kv_bytes value,
                                  void *scratch);
/* Replace the value (and kind) of a slot. false: does not fit; nothing changed. */
KV_MUST_CHECK bool kv_node_replace(void *node, size_t node_bytes, unsigned slot, uint8_t kind,
                                   struct kv_bytes value, void *scratch);
/* Overwrite bytes inside a slot's value, which keeps its length. */
void kv_node_overwrite(void *node, unsigned slot, size_t offset, const void *bytes, size_t length);
void kv_node_remove(void *node, size_t node_bytes, unsigned slot);

/*
 * Inner: insert a child whose range begins at `key`. Slot 0 only into an empty node: the key
 * is not stored then, the low fence stands for it. false: does not fit.
 */
KV_MUST_CHECK bool kv_node_insert_child(void *node, size_t node_bytes, unsigned slot,
                                        const void *key, size_t key_len, uint64_t child,
                                        void *scratch);
/* Inner: remove slot (> 0) with its child; the child before it covers its range now. */
void kv_node_remove_child(void *node, size_t node_bytes, unsigned slot);
void kv_node_set_child(void *node, unsigned slot, uint64_t child);

/*
 * Where to split so that a new cell of cell_bytes can go in at `slot`: the count of slots
 * that stay left (1..count-1 for inner nodes, 0..count for leaves where slot lies at that
 * edge). When the new key continues a run of ascending insertions the split is at the new
 * key, so that the left page stays full; else in the middle by bytes. `cell_bytes` is header,
 * whole key and value. After the split the cell fits into the side that covers its key
 * (key < separator: left), whatever the fences, if it is a cell that a node takes.
 */
unsigned kv_node_split_point(const void *node, size_t node_bytes, unsigned slot, size_t cell_bytes);

/*
 * The same for the cell of `slot`, which wants to grow to cell_bytes: 1..count-1. A cell that
 * was the last to be inserted grows like a new one: what stands before it keeps its full page.
 * When growing needs more than one split, the caller comes again. The node has two slots.
 */
unsigned kv_node_split_point_grow(const void *node, size_t node_bytes, unsigned slot,
                                  size_t cell_bytes);

/*
 * The separator for a split before slot `at`, where `key` is about to be inserted at slot
 * `at_new` (data NULL: nothing). With at == at_new a leaf's new key belongs to the side where
 * less is, as kv_node_split_point has it, and an inner node's to the left.
 * Leaf: the shortest string s with last-left < s <= first-right; inner: the key of slot `at`.
 * Into out (KV_KEY_MAX bytes); returns the length.
 */
size_t kv_node_separator(const void *node, size_t node_bytes, unsigned at, struct kv_bytes key,
                         unsigned at_new, void *out);

/*
 * Move slots [at, count) into `right` (a fresh page id, same level and tree): node's high
 * fence and right's low fence become `separator`; both are rebuilt with their own prefix.
 */
void kv_node_split(void *node, size_t node_bytes, unsigned at, struct kv_bytes separator,
                   void *right, uint64_t right_id, void *scratch);

/* Would left and right, neighbours under one parent, fit into one node filled to `percent`? */
bool kv_node_can_merge(const void *left, const void *right, size_t node_bytes, unsigned percent);
/* Append all of right to left; left's high fence becomes right's. For inner nodes the first
 * child of right gets right's low fence as its key. */
void kv_node_merge(void *left, const void *right, size_t node_bytes, void *scratch);

#endif
