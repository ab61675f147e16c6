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

/* Where one process is with its share of all scenarios; the last three are its own. */
struct plan_share {
    const struct plan *plan;
    struct crash_engine *engine;
    size_t worker, worker_count, scenario;
    enum plan_phase phase;
};

/* Says how far it is, for people who wait. */
void plan_begin_phase(struct plan_share *share, enum plan_phase phase, const char *name);
/* Every process makes its share of all scenarios, one after the other: is the next one ours? */
bool plan_is_mine(struct plan_share *share);
/* Random numbers that follow from the seed and where they are for. */
struct test_random plan_random(const struct plan *plan, size_t a, size_t b, size_t c);
/* Without any crash nothing may fail: end the process if something did, and say what. */
void plan_must(int err, const char *what);

/*
 * Print the counts, as the last lines. Returns whether the states that were wanted were tried,
 * and, unless they were few, writes of every kind of block were torn.
 */
bool plan_finish(const struct plan *plan, struct crash_engine *engine, const char *what);

#endif
