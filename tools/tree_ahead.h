/*
 * tools/tree_ahead.h: threads that read what a walk of directories will read soon, so that the
 * walk finds it in the kernel's memory.
 *
 * A hint and nothing else: what they read is thrown away, and what they can not read the walk will
 * complain of. They work only while something really comes from the device.
 *
 * Threads: one, besides their own.
 */
#ifndef TOOLS_TREE_AHEAD_H
#define TOOLS_TREE_AHEAD_H

#include <stdbool.h>
#include <stddef.h>

struct tree_ahead;

/* NULL: no memory; all others take that for "no hints". */
struct tree_ahead *tree_ahead_new(void);
void tree_ahead_free(struct tree_ahead *ahead);

/* Does the walk wait for the device? To be asked now and then; hints are of no use if it does not.
 */
bool tree_ahead_is_worth(struct tree_ahead *ahead);

/*
 * The walk will read these names of a directory; or, `names` being NULL, all of the directory
 * `name` in it. All are borrowed for the call. At most TREE_AHEAD_NAMES are looked at.
 */
void tree_ahead_names(struct tree_ahead *ahead, int directory, char *const *names, size_t count);
void tree_ahead_directory(struct tree_ahead *ahead, int directory, const char *name);

#define TREE_AHEAD_NAMES 128u /* in one hint */
#define TREE_AHEAD_HINTS 16u  /* how far ahead of itself a walk should give them */

#endif
