/*
 * tools/tree_gather.h: items of a tree as changes of one batch, for sinks that make many at once.
 *
 * Threads: one.
 */
#ifndef TOOLS_TREE_GATHER_H
#define TOOLS_TREE_GATHER_H

#include "tools/tree.h"

/* Content up to here is gathered; what is longer is written by itself. */
#define TREE_GATHER_CONTENT (1u << 20)

struct tree_gather;

/* below: a key that all paths are below of; "" the top. Copied. NULL: no memory. */
struct tree_gather *tree_gather_new(const char *below);
void tree_gather_free(struct tree_gather *gather); /* NULL is fine */

/* Is an item to be written by itself, since it is large (its attributes, too) or has holes? */
bool tree_gather_leaves(const struct tree_item *item);
/* The key of a path, to be freed. NULL: no memory. */
char *tree_gather_place(const struct tree_gather *gather, const char *path);

/* Add a copy of all that the item has; its content is read. */
KV_MUST_CHECK int tree_gather_add(struct tree_gather *gather, const struct tree_item *item);
/* Is it time to make the changes? */
bool tree_gather_is_full(const struct tree_gather *gather);
/* What was gathered; valid until it is emptied. Returns how many. */
size_t tree_gather_changes(const struct tree_gather *gather,
                           const struct fs_apply_change **changes);
void tree_gather_empty(struct tree_gather *gather);

#endif
