/*
 * kv/ahead.h: a thread that reads the leaves of a tree before those who walk through it arrive.
 *
 * Who walks reads a few leaves himself and asks for those behind them; the thread reads these
 * together, verifies and unpacks them, and remembers the first. Whoever comes to that one asks for
 * those that follow, and so on: while one group is looked at, the next is on its way. Who asks for
 * one key after the other in order is seen by what he has to load. All of it is
 * a hint: what is not read ahead, or in vain, is read by who wants it, and errors are his to meet.
 *
 * Walks of a few leaves each that follow one another, as through a tree of directories, are one
 * long walk: so where walks ended is remembered, and who goes on there may read beyond his end.
 *
 * Threads: any at any time; starting, stopping and freeing are for one.
 */
#ifndef KV_AHEAD_H
#define KV_AHEAD_H

#include "kv/btree.h"

struct kv_ahead;

/* Without a thread yet: nothing is read ahead. NULL: no memory. The tree outlives it. */
struct kv_ahead *kv_ahead_new(struct kv_btree *btree);
void kv_ahead_free(struct kv_ahead *ahead); /* it was stopped; NULL is fine */

/* A thread begins, and ends. Returns 0 or a negative errno. Stopping what does not run is fine,
 * and NULL. */
KV_MUST_CHECK int kv_ahead_start(struct kv_ahead *ahead);
void kv_ahead_stop(struct kv_ahead *ahead);
bool kv_ahead_runs(const struct kv_ahead *ahead);

/* So many leaves, but no more than there is room for beside what else is used. */
unsigned kv_ahead_within_room(const struct kv_ahead *ahead, unsigned leaves);

/*
 * Of the leaves that cover [lower, upper) in order, upper.length 0: no end, read `count` behind the
 * first `passed`; both at most KV_PAGES_AT_ONCE / 2. It returns at once, and does nothing while the
 * group of an earlier call is waiting.
 */
void kv_ahead_read(struct kv_ahead *ahead, struct kv_bytes lower, struct kv_bytes upper,
                   unsigned passed, unsigned count);

/* Of how many leaves that were read ahead together is this page the first? The answer is given
 * once; 0: none. */
unsigned kv_ahead_reached(struct kv_ahead *ahead, uint64_t page_id);

/*
 * Somebody had to load the leaf with these fences, high.length 0: the last one. Where leaf after
 * leaf is loaded in order, so many that follow are read: for those who ask for key after key.
 */
void kv_ahead_loaded(struct kv_ahead *ahead, struct kv_bytes low, struct kv_bytes high);

/* A walk has ended in the leaf `page_id`. */
void kv_ahead_left(struct kv_ahead *ahead, uint64_t page_id);
/* Has one that nobody has gone on from yet ended there? Who asks goes on from it. */
bool kv_ahead_follows(struct kv_ahead *ahead, uint64_t page_id);

#endif
