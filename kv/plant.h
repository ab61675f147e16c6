/*
 * kv/plant.h: bugs that are planted on purpose, to see the tests fail.
 *
 * Owns       the macro KV_PLANT. Where a rule of the store or the filesystem is kept, it names
 *            what would go wrong if it were not:
 *
 *                if (!KV_PLANT(flush_left_out))
 *                    err = kv_device_flush(device);
 *
 * Invariant  without KV_PLANTS, which only the tests' own copies of the libraries are compiled
 *            with, KV_PLANT is `false` and the compiler drops the branch: no program that is
 *            installed has any of this.
 *
 * With KV_PLANTS the environment variable KVFS_PLANT chooses one bug. Each of them has a test
 * that fails then: tests/faults/plants/bugs lists both and a script runs them all.
 */
#ifndef KV_PLANT_H
#define KV_PLANT_H

#include <stdbool.h>

#ifdef KV_PLANTS
#include <stdlib.h>
#include <string.h>

static inline bool kv_plant_is(const char *bug)
{
    const char *chosen = getenv("KVFS_PLANT");
    return chosen && strcmp(chosen, bug) == 0;
}

#define KV_PLANT(bug) kv_plant_is(#bug)
#else
#define KV_PLANT(bug) false
#endif

#endif
