/*
 * bench/kv-compare/memory_limit.h: a cgroup for one process, so that its memory and the page
 * cache that it fills are bounded together.
 *
 * Only groups of our own are made and removed; nothing is changed in those that are there. A
 * parent serves if it hands out the memory controller already (cgroup v2), or is a directory of
 * the memory hierarchy of cgroup v1.
 */
#ifndef BENCH_KV_COMPARE_MEMORY_LIMIT_H
#define BENCH_KV_COMPARE_MEMORY_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "kv/base.h"

struct memory_limit {
    char *parent; /* NULL: there is none */
    bool v1;
};

/*
 * Find a parent: `named` (NULL: the nearest of the groups above our own, in cgroup v2, under
 * which one can be made; in v1 our own). Returns 0 also when there is none and none was named;
 * -EINVAL `named` is no such directory; -ENOMEM.
 */
KV_MUST_CHECK int memory_limit_find(const char *named, struct memory_limit *limit);
void memory_limit_release(struct memory_limit *limit);

/* Make a group that may use `bytes`, without swap; *group: its path, caller frees. */
KV_MUST_CHECK int memory_limit_make(const struct memory_limit *limit, uint64_t bytes, char **group);
/* Move the calling process there. */
KV_MUST_CHECK int memory_limit_enter(const char *group);
/* Remove the group when its process has ended. */
KV_MUST_CHECK int memory_limit_remove(const char *group);

#endif
