/*
 * tests/kv/support_crash_store.h: a life of a store, as something that can be crashed.
 */
#ifndef TESTS_KV_SUPPORT_CRASH_STORE_H
#define TESTS_KV_SUPPORT_CRASH_STORE_H

#include "support_crash.h"
#include "support_history.h"
#include "support_promises.h"

/* What was recorded, and what may be there after a crash. All is the test's. */
struct store_life {
    struct recorder *recorder;
    struct history *history;
    struct promises promises;
    enum kv_sync_mode sync;
    void (*before_open)(void); /* NULL: nothing is done before a state is opened */
    char story[256];
};

/* Opens each state, compares it with the history, checks it, and changes it. Borrows the life. */
struct crash_subject store_life_subject(struct store_life *life);

#endif
