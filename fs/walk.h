/*
 * fs/walk.h: the entries of a directory one after the other, from either end, for tools that work
 * on an image that is not mounted.
 */
#ifndef FS_WALK_H
#define FS_WALK_H

#include "fs/volume.h"

/* Something other than 0 ends the walk and is returned from it. */
typedef int fs_walk_fn(void *context, const char *name, size_t name_len,
                       const struct fs_record *record);

/*
 * Visit what is in a directory, in byte order of names, without "." and "..". What is visited may
 * be walked through in turn.
 *
 * from  the first name; reverse: the first that is not visited, from there backwards. Any bytes,
 *       at most FS_NAME_MAX of them count; from_len 0: from the end there is.
 */
KV_MUST_CHECK int fs_walk(struct fs_volume *volume, uint64_t directory, bool reverse,
                          const char *from, size_t from_len, fs_walk_fn *visit, void *context);

#endif
