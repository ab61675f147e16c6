/*
 * kv/btree.h: one ordered tree of keys over the pager.
 *
 * The root's page id never changes. Readers descend without latches and start again when a
 * page changed under them (optimistic lock coupling); the one writer pins its path. Nodes
 * split upwards from a full leaf, and merge below 30 %.
 *
 * Threads: kv_btree_get, _get_floor, _get_resident, _fault, _leaf_at, _leaf_before, _leaves_ahead:
 * any. All others: the writer.
 */
#ifndef KV_BTREE_H
#define KV_BTREE_H

#include "kv/node.h"
#include "kv/pager.h"

struct kv_btree_path;
struct kv_btree_hints;
struct kv_btree_guides;

/*
 * Told of each leaf that a descent has loaded: its fences. high.length 0: it is the last one. By
 * any thread, which holds nothing; both are borrowed for the call.
 */
typedef void kv_btree_loaded_fn(void *context, struct kv_bytes low, struct kv_bytes high);

struct kv_btree {
    struct kv_pager *pager;
    size_t node_bytes;
    uint64_t root; /* page id */
    uint8_t tree;  /* which of the store's trees */
    struct kv_btree_hints *hints;
    struct kv_btree_guides *guides;
    void *scratch;              /* node_bytes, the writer's */
    struct kv_btree_path *path; /* the writer's; between begin_puts and end_puts it stays pinned */
    bool keeps_path;            /* the writer's */
    struct kv_page_view lead;   /* the writer's; where the leaf of the next key may be */
    kv_btree_loaded_fn *loaded; /* set before the tree is used; NULL: nobody is told */
    void *loaded_context;
};

struct kv_btree_path *kv_btree_path_new(void); /* NULL: no memory; free() it */
KV_MUST_CHECK int kv_btree_init(struct kv_btree *btree, struct kv_pager *pager, size_t node_bytes,
                                uint64_t root, uint8_t tree);
void kv_btree_release(struct kv_btree *btree);
/* Make the root, an empty leaf; btree->root is set. */
KV_MUST_CHECK int kv_btree_create(struct kv_btree *btree);

/* ---- reading ------------------------------------------------------------------ */

/* Copy a value's stored bytes (as kv_node_value_racy does). 0; -ENOENT; damage or I/O errors. */
KV_MUST_CHECK int kv_btree_get(struct kv_btree *btree, const void *key, size_t key_len, void *buf,
                               size_t buf_cap, size_t *value_len, uint8_t *kind);
/*
 * The same for the last key that is not above `key`, which goes to `found` (KV_KEY_MAX bytes).
 * -ENOENT: there is none in the leaf that covers `key`; one before it may have it.
 */
KV_MUST_CHECK int kv_btree_get_floor(struct kv_btree *btree, const void *key, size_t key_len,
                                     void *found, size_t *found_len, void *buf, size_t buf_cap,
                                     size_t *value_len, uint8_t *kind);
/*
 * The same with what is in memory. -EAGAIN: a page is not, *missing says which; give it to
 * kv_btree_load and come again.
 */
KV_MUST_CHECK int kv_btree_get_resident(struct kv_btree *btree, const void *key, size_t key_len,
                                        void *buf, size_t buf_cap, size_t *value_len, uint8_t *kind,
                                        uint64_t *missing);
/* Bring pages that were missing into memory, together; of a few, the tree's `loaded` is told. */
void kv_btree_load(struct kv_btree *btree, const uint64_t *page_ids, size_t count);
/* A key that is looked up together with others. */
struct kv_btree_lookup {
    const void *key;
    size_t key_len;
    void *buf;
    size_t buf_cap;
    size_t value_len; /* out, as the next three */
    uint64_t missing;
    uint8_t kind;
    int result; /* as kv_btree_get_resident returns */
};
#define KV_BTREE_TOGETHER 64u
/* kv_btree_get_resident for up to so many keys; their ways down wait for memory together. */
void kv_btree_get_together(struct kv_btree *btree, struct kv_btree_lookup *lookups, size_t count);
/*
 * Bring the leaf that covers `key` into memory, and the pages above it unless the leaf has room
 * for `room` bytes: then it will not split. Deletions do without what is above. lead, may be NULL:
 * out, a view of the leaf (kv_btree_lead).
 */
KV_MUST_CHECK int kv_btree_fault(struct kv_btree *btree, const void *key, size_t key_len,
                                 size_t room, struct kv_page_view *lead);
/* The same as far as memory reaches: the leaf, or false. */
bool kv_btree_fault_resident(struct kv_btree *btree, const void *key, size_t key_len, size_t room,
                             struct kv_page_view *leaf);
/* Is that leaf in memory now? If not, *missing says which page lacks. Damage counts as there: who
 * goes on will meet it. */
bool kv_btree_resident(struct kv_btree *btree, const void *key, size_t key_len, uint64_t *missing);
/* Where the leaves of keys were that will change one after the other. */
struct kv_btree_leads {
    struct kv_page_view *views; /* frame NULL: not known */
    size_t count;
};
/*
 * kv_btree_fault for up to KV_BTREE_TOGETHER keys: what they lack is read together; what inserting
 * them reads is asked for, too. leads, may be NULL: out, for each key the view of its leaf, if
 * there was one at hand (kv_btree_lead).
 */
KV_MUST_CHECK int kv_btree_fault_together(struct kv_btree *btree, const struct kv_bytes *keys,
                                          size_t count, size_t room, struct kv_page_view *leads);
#define KV_BTREE_FEW 8u
/* The same for KV_BTREE_FEW keys at most, as far as memory reaches. false: some leaf, or what
 * inserting reads, is not there. */
bool kv_btree_fault_few(struct kv_btree *btree, const struct kv_bytes *keys, size_t count,
                        size_t room, struct kv_page_view *leads);
/* Copy the leaf that covers `key` (its fences include it) to `copy`, node_bytes. */
KV_MUST_CHECK int kv_btree_leaf_at(struct kv_btree *btree, const void *key, size_t key_len,
                                   void *copy);
/* The same with what is in memory. -EAGAIN: a page is not. */
KV_MUST_CHECK int kv_btree_leaf_at_resident(struct kv_btree *btree, const void *key, size_t key_len,
                                            void *copy);
/*
 * Bring the leaf that covers `key` into memory; next, next_len: out: the first key behind it
 * (KV_KEY_MAX bytes; may be `key`). *more false: it is the last leaf.
 */
KV_MUST_CHECK int kv_btree_fault_next(struct kv_btree *btree, const void *key, size_t key_len,
                                      void *next, size_t *next_len, bool *more);
/* Copy the leaf that covers the keys just below `key` (data NULL: the last leaf). `scratch`
 * is node_bytes more of the caller's. -ENOENT: nothing can be below. */
KV_MUST_CHECK int kv_btree_leaf_before(struct kv_btree *btree, struct kv_bytes key, void *copy,
                                       void *scratch);

/* Leaves that lie side by side. */
struct kv_btree_ahead {
    unsigned max; /* how many to tell of, at most KV_PAGES_AT_ONCE */
    /* out */
    unsigned count;
    uint64_t page_ids[KV_PAGES_AT_ONCE];
    unsigned above_count; /* pages on the way to them, the root first */
    uint64_t above[KV_TREE_DEPTH_MAX];
    uint8_t next[KV_KEY_MAX]; /* `more`: where to go on */
    size_t next_len;
    bool more;
};
/*
 * The leaves that cover [lower, upper) in order, as far as one page above them tells; upper.length
 * 0: no end. `scratch`: node_bytes of the caller's. A hint: they may be gone at once. None, when
 * the root is a leaf; that is `above` then.
 */
KV_MUST_CHECK int kv_btree_leaves_ahead(struct kv_btree *btree, struct kv_bytes lower,
                                        struct kv_bytes upper, void *scratch,
                                        struct kv_btree_ahead *ahead);
/* The same from where an earlier call, or the caller, says in `next` that it goes on. */
KV_MUST_CHECK int kv_btree_leaves_further(struct kv_btree *btree, struct kv_bytes upper,
                                          void *scratch, struct kv_btree_ahead *ahead);

/* ---- writing ------------------------------------------------------------------ */

/* Told of each stored value that is about to vanish; `value` is borrowed for the call. */
typedef int kv_btree_drop_fn(void *context, uint8_t kind, struct kv_bytes value);
struct kv_btree_drop {
    kv_btree_drop_fn *note; /* NULL: nobody is told */
    void *context;
};

/* An error of these means that nothing changed but for splits and merges. The cell must not be
 * larger than kv_node_cell_limit. */
/*
 * Between these two, kv_btree_put leaves its path pinned, so that keys which lie side by side need
 * not go down for each. Nothing may be reserved, and no epoch opened, in between.
 */
void kv_btree_begin_puts(struct kv_btree *btree);
void kv_btree_end_puts(struct kv_btree *btree);
/*
 * The next put or deletion may find its leaf where the lead of `index` shows one: it saves the way
 * down. It is a hint, as those of kv/btree_hint.h: one that shows something else by now costs a
 * look. What those behind it will look at is asked for.
 */
void kv_btree_lead(struct kv_btree *btree, const struct kv_btree_leads *leads, size_t index);
KV_MUST_CHECK int kv_btree_put(struct kv_btree *btree, struct kv_bytes key, uint8_t kind,
                               struct kv_bytes value, struct kv_btree_drop drop);
KV_MUST_CHECK int kv_btree_del(struct kv_btree *btree, struct kv_bytes key,
                               struct kv_btree_drop drop); /* absent: 0 */
/* Overwrite bytes of an inline value that has them all. */
KV_MUST_CHECK int kv_btree_overwrite(struct kv_btree *btree, struct kv_bytes key, size_t offset,
                                     struct kv_bytes bytes);
/*
 * Delete what [lower, upper) covers of the leaf that covers `lower`. *next (KV_KEY_MAX bytes,
 * *next_len) is where to go on; *more false: the range is done. upper.data NULL: no end.
 */
KV_MUST_CHECK int kv_btree_del_leaf(struct kv_btree *btree, struct kv_bytes lower,
                                    struct kv_bytes upper, struct kv_btree_drop drop, void *next,
                                    size_t *next_len, bool *more);

#endif
