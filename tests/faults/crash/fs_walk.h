/*
 * tests/faults/crash/fs_walk.h: all that a volume shows, as digests.
 */
#ifndef TESTS_FAULTS_CRASH_FS_WALK_H
#define TESTS_FAULTS_CRASH_FS_WALK_H

#include "fs/volume.h"

/*
 * Read the whole tree: names, attributes, content, extended attributes.
 *
 * like_model  out: what model_digest says of a model that is the same.
 * all         out: with what a model does not know: times, blocks, flags; never 0.
 * print       also print what there is.
 */
KV_MUST_CHECK int walk_volume(struct fs_volume *volume, bool print, uint64_t *like_model,
                              uint64_t *all);

#endif
