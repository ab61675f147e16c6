/*
 * tests/faults/crash/plan.h: how many states a program tries, and how it says what it tried.
 */
#ifndef TESTS_FAULTS_CRASH_PLAN_H
#define TESTS_FAULTS_CRASH_PLAN_H

#include "../../kv/support_crash.h"

enum plan_phase { PHASE_SINGLES, PHASE_PAIRS, PHASE_RANDOM, PHASE_COUNT };

struct plan {
    size_t states;  /* KVFS_CRASH_STATES or the first argument */
    size_t workers; /* KVFS_CRASH_WORKERS (1) */
    uint64_t seed;  /* KVFS_SEED (1) */
    bool large;     /* every scenario, and nothing is left out between two flushes */
    struct crash_sizes sizes[PHASE_COUNT];
};

/* Prints the seed. `states`: when nobody says how many. */
struct plan plan_read(int argc, char **argv, size_t states);

/*
 * Print the counts, as the last lines. Returns whether the states that were wanted were tried,
 * and, unless they were few, writes of every kind of block were torn.
 */
bool plan_finish(const struct plan *plan, struct crash_engine *engine, const char *what);

#endif
