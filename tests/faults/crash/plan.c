/*
 * tests/faults/crash/plan.c: how many states a program tries, and how it says what it tried.
 *
 * Owns       nothing.
 */
#include "plan.h"

#include <unistd.h>

/* From so many states on there is time for everything. */
#define STATES_LARGE 300000u
/* Inner pages are not often written. */
#define STATES_FOR_ALL_KINDS 15000u

struct plan plan_read(int argc, char **argv, size_t states)
{
    struct plan plan = {.states = argc > 1 ? strtoull(argv[1], NULL, 0)
                                           : test_env("KVFS_CRASH_STATES", states),
                        .workers = test_env("KVFS_CRASH_WORKERS", 1),
                        .seed = test_env("KVFS_SEED", 1)};
    plan.large = plan.states >= STATES_LARGE;
    static const struct crash_sizes small[PHASE_COUNT] = {
        {.subsets = 32, .random_subsets = 64, .torn = 40, .recoveries = 400, .peeks = 16},
        {.subsets = 16, .random_subsets = 16, .torn = 20, .recoveries = 800, .peeks = 16},
        {.subsets = 64, .random_subsets = 100, .torn = 300, .recoveries = 400, .peeks = 16}};
    static const struct crash_sizes large[PHASE_COUNT] = {
        {.random_subsets = 1000, .torn = 300, .recoveries = 400, .peeks = 16},
        {.random_subsets = 1000, .torn = 60, .recoveries = 2000, .peeks = 16},
        {.random_subsets = 1000, .torn = 2000, .recoveries = 400, .peeks = 16}};
    memcpy(plan.sizes, plan.large ? large : small, sizeof plan.sizes);
    printf("KVFS_SEED=%llu KVFS_CRASH_STATES=%zu\n", (unsigned long long)plan.seed, plan.states);
    return plan;
}

void plan_begin_phase(struct plan_share *share, enum plan_phase phase, const char *name)
{
    share->phase = phase;
    printf("%s after %llu states\n", name,
           (unsigned long long)crash_engine_counts(share->engine).states);
    (void)fflush(stdout); /* for people who wait */
}

bool plan_is_mine(struct plan_share *share)
{
    return share->scenario++ % share->worker_count == share->worker &&
           !crash_engine_full(share->engine);
}

struct test_random plan_random(const struct plan *plan, size_t a, size_t b, size_t c)
{
    struct test_random random = {plan->seed * 1000003 + a * 10007 + b * 101 + c};
    (void)test_random_next(&random);
    return random;
}

void plan_must(int err, const char *what)
{
    if (!err)
        return;
    printf("VIOLATION: without any crash: %s\n  %s\n", strerror(-err), what);
    (void)fflush(stdout); /* the last thing this process does */
    _exit(EXIT_FAILURE);
}

bool plan_finish(const struct plan *plan, struct crash_engine *engine, const char *what)
{
    const struct crash_counts counts = crash_engine_counts(engine);
    bool good = counts.states >= plan->states;
    printf("torn writes:");
    for (size_t kind = 0; kind < KIND_COUNT; kind++) {
        printf(" %s %llu%s", block_kind_names[kind], (unsigned long long)counts.torn_kinds[kind],
               kind + 1 < KIND_COUNT ? "," : "\n");
        good &= counts.torn_kinds[kind] || plan->states < STATES_FOR_ALL_KINDS;
    }
    printf("%s: seed %llu, %llu distinct states (%llu torn, %llu in recoveries), %llu met again, "
           "%llu intervals between flushes (all subsets of %llu), %s\n",
           what, (unsigned long long)plan->seed, (unsigned long long)counts.states,
           (unsigned long long)counts.torn, (unsigned long long)counts.recovering,
           (unsigned long long)counts.again, (unsigned long long)counts.intervals,
           (unsigned long long)counts.whole_intervals,
           good ? "0 violations" : "NOT ALL THAT WAS WANTED");
    return good;
}
