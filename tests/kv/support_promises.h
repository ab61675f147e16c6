/*
 * tests/kv/support_promises.h: what was promised when: which versions a crash at a position of
 * a recorder's log may leave.
 *
 * Versions are numbers that only grow. One is `started` when anything of it may be on its way
 * to the device, and `durable` when somebody was told that it is.
 *
 * One thread. Aborts without memory.
 */
#ifndef TESTS_KV_SUPPORT_PROMISES_H
#define TESTS_KV_SUPPORT_PROMISES_H

#include "support_devices.h"

/* From this position of the log on. */
struct promise {
    size_t position;
    size_t durable; /* the newest version that was acknowledged as durable */
    size_t started; /* the newest version of which anything may be there */
};

struct promises {
    struct recorder *recorder; /* borrowed */
    struct promise *items;     /* in order; the first is for all positions before the second */
    size_t count, capacity;
};

/* Of a log that is empty so far, or whose beginning is not looked at. */
void promises_init(struct promises *promises, struct recorder *recorder, size_t durable,
                   size_t started);
void promises_release(struct promises *promises);

/* From now on. */
void promise_durable(struct promises *promises, size_t version);
void promise_started(struct promises *promises, size_t version);

/*
 * The versions that may be there when the power may have gone at any position in [earliest,
 * latest]: those that are right at all of them. `newest`: there is no later version.
 */
void promises_find(const struct promises *promises, size_t earliest, size_t latest, size_t newest,
                   size_t *first, size_t *last);

#endif
