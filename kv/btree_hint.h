/*
 * kv/btree_hint.h: which leaf keys with the same beginning led to lately.
 *
 * Who works in one place, as in one directory, comes to the same few leaves again and again. A
 * hint names such a leaf and its frame. It may be wrong in every way: what is in the frame is
 * trusted as what a descent leads to is, after the page has said that it is a leaf of the tree
 * whose fences cover the key, and its version still holds. (Compare the finger search of Brown and
 * Tarjan 1980, and the hints of Lampson 1983.)
 *
 * Keys that share their first bytes share a place for hints; each place learns whether hints are
 * of use there, and is left alone where they are not, as with keys in random order.
 *
 * Threads: any; what is noted is atomic.
 */
#ifndef KV_BTREE_HINT_H
#define KV_BTREE_HINT_H

#include "kv/btree.h"

struct kv_btree_hints;

struct kv_btree_hints *kv_btree_hints_new(void); /* NULL: no memory */
void kv_btree_hints_free(struct kv_btree_hints *hints);

/* View the leaf that a hint of the key leads to. false: there is none that covers it. */
bool kv_btree_hint_view(struct kv_btree *btree, const void *key, size_t key_len,
                        struct kv_page_view *leaf);
/* A descent for the key has ended at the leaf, which is the page of this id. */
void kv_btree_hint_note(struct kv_btree *btree, const void *key, size_t key_len, uint64_t page_id,
                        const struct kv_page_view *leaf);

#endif
