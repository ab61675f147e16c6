/*
 * tools/tree_flusher.h: gathers items of a tree in batches, which a thread of its own makes while
 * the next one is gathered.
 *
 * Threads: one, besides its own.
 */
#ifndef TOOLS_TREE_FLUSHER_H
#define TOOLS_TREE_FLUSHER_H

#include "tools/tree_gather.h"

struct tree_flusher;

/* Make changes, one batch at a time; called in another thread. The words go to `error`. */
typedef int tree_flush_fn(void *context, const struct fs_apply_change *changes, size_t count,
                          struct kv_error *error);

/* below: as in tree_gather_new. NULL: no memory. */
struct tree_flusher *tree_flusher_new(const char *below, tree_flush_fn *flush, void *context);
/* What was not flushed is thrown away. NULL is fine. */
void tree_flusher_free(struct tree_flusher *flusher);

/* Both return also, with words, what went wrong with a batch before; then no more are made. */
KV_MUST_CHECK int tree_flusher_add(struct tree_flusher *flusher, const struct tree_item *item,
                                   struct kv_error *error);
/* Return when all that was added has been made. */
KV_MUST_CHECK int tree_flusher_drain(struct tree_flusher *flusher, struct kv_error *error);
/* As tree_gather_place. */
char *tree_flusher_place(const struct tree_flusher *flusher, const char *path);

#endif
