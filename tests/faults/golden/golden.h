/*
 * tests/faults/golden/golden.h: what a golden image holds, as text.
 */
#ifndef GOLDEN_H
#define GOLDEN_H

#include "kv/kv.h"

#include <stdio.h>

/*
 * Write a manifest of the filesystem in an open store: how many keys there are of each type, and
 * a line for each file: path, type and mode, owner, links, size, blocks, time of its last change,
 * digest of its content or target, attributes with the digests of their values. What an image was
 * made with stays so, whatever version reads it. Returns 0 or a negative errno.
 */
KV_MUST_CHECK int golden_manifest(struct kv_store *store, FILE *out);

#endif
