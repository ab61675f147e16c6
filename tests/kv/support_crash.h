/*
 * tests/kv/support_crash.h: every state that a crash can leave of a recorded workload, each
 * opened and looked at once.
 *
 * Between two flushes the states are: of up to CRASH_ALL_MAX writes all subsets, of more all
 * prefixes and many random subsets; and each write torn at each 512 bytes, the rest old, zero or
 * random, with the others there, only those before it there, or any of them. Writes that change
 * nothing are not counted among them. Of some states the recovery is recorded, and a crash put
 * into it, too.
 *
 * Two states are the same when all bytes of the image are. A state that was opened before is
 * not opened again; what was found in it is remembered and held against what was promised here.
 * So the count of opened states is the count of distinct ones, also over several processes.
 *
 * What is found wrong is printed with how to have it again, and ends the process.
 */
#ifndef TESTS_KV_SUPPORT_CRASH_H
#define TESTS_KV_SUPPORT_CRASH_H

#include "support_devices.h"
#include "support_kinds.h"
#include "support_store.h"

#define CRASH_ALL_MAX 10u

/* What opening a state showed. */
struct crash_recovery {
    uint64_t found; /* digest of what was there, not 0 */
    uint64_t after; /* and after one more change, which was made durable */
    size_t started; /* positions of the recorder: the change began */
    size_t durable; /* it was acknowledged */
};

/* What is crashed: a store, or a filesystem in one. */
struct crash_subject {
    void *context;
    const char *story; /* how to have it again */
    /*
     * Open what is on the recorder's device, look whether it is sound, change something, make
     * that durable, leave it as a crash would, and see that it is there. False: it printed why
     * not.
     */
    bool (*recover)(void *context, struct recorder *recorder, struct crash_recovery *recovery);
    /* The same without writing: only `found`. Closes the device. */
    bool (*peek)(void *context, struct kv_device *device, uint64_t *found);
    /* May this be there, when the power may have gone anywhere in [earliest, latest]? */
    bool (*allows)(void *context, size_t earliest, size_t latest, uint64_t digest);
    /* Optional: print what is wrong with a state whose digest is not allowed. Closes it. */
    void (*explain)(void *context, struct kv_device *device, size_t earliest, size_t latest);
};

/* How much. 0 means all there are; random subsets need a number. */
struct crash_sizes {
    size_t subsets;        /* of all subsets and prefixes between two flushes, at most about */
    size_t random_subsets; /* where there are too many writes for all */
    size_t torn;           /* torn states of one exploration, spread over it, at most about */
    size_t recoveries;     /* one of so many states gets crashes in its recovery; 0: none */
    size_t peeks;          /* one of so many is opened read-only too; 0: none */
};

struct crash_counts {
    uint64_t states;                     /* distinct, each opened */
    uint64_t again;                      /* met again, not opened */
    uint64_t torn;                       /* of `states`: with a torn write */
    uint64_t recovering;                 /* of `states`: crashes in a recovery */
    uint64_t intervals, whole_intervals; /* between flushes; all of whose subsets were taken */
    uint64_t torn_kinds[KIND_COUNT];
};

/* Shared by all processes that are forked after it was made. */
struct crash_engine;

struct crash_engine *crash_engine_new(size_t states_max);
void crash_engine_free(struct crash_engine *engine);
/* Sums over all processes. */
struct crash_counts crash_engine_counts(struct crash_engine *engine);
/* Is there room for more states? Without, none are opened any more. */
bool crash_engine_full(struct crash_engine *engine);

/* All crashes from a position of the log on. */
void crash_explore(struct crash_engine *engine, const struct crash_subject *subject,
                   struct recorder *recorder, size_t first_position,
                   const struct crash_sizes *sizes, struct test_random *random);

/*
 * Let `work` run in `worker_count` processes (1: in this one). Returns whether all of them ended
 * well; one that did not has said why, or where it was.
 */
typedef void crash_work_fn(void *context, size_t worker, size_t worker_count);
bool crash_run_workers(struct crash_engine *engine, size_t worker_count, crash_work_fn *work,
                       void *context);

#endif
