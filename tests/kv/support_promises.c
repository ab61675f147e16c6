/*
 * tests/kv/support_promises.c: what was promised when.
 *
 * Owns       the marks.
 * Invariant  positions and versions of the marks only grow.
 */
#include "support_promises.h"

static void note(struct promises *promises, size_t durable, size_t started)
{
    if (promises->count == promises->capacity) {
        promises->capacity = promises->capacity ? promises->capacity * 2 : 64;
        promises->items = realloc(promises->items, promises->capacity * sizeof *promises->items);
        KV_ASSERT(promises->items != NULL);
    }
    promises->items[promises->count++] =
        (struct promise){.position = recorder_event_count(promises->recorder),
                         .durable = durable,
                         .started = started};
}

void promises_init(struct promises *promises, struct recorder *recorder, size_t durable,
                   size_t started)
{
    *promises = (struct promises){.recorder = recorder};
    note(promises, durable, started);
}

void promises_release(struct promises *promises)
{
    free(promises->items);
    *promises = (struct promises){.recorder = NULL};
}

void promise_durable(struct promises *promises, size_t version)
{
    const struct promise last = promises->items[promises->count - 1];
    note(promises, (size_t)kv_max_u64(last.durable, version), last.started);
}

void promise_started(struct promises *promises, size_t version)
{
    const struct promise last = promises->items[promises->count - 1];
    note(promises, last.durable, (size_t)kv_max_u64(last.started, version));
}

void promises_find(const struct promises *promises, size_t earliest, size_t latest, size_t newest,
                   size_t *first, size_t *last)
{
    *first = promises->items[0].durable;
    *last = promises->items[0].started;
    for (size_t i = 0; i < promises->count; i++) {
        if (promises->items[i].position <= latest)
            *first = promises->items[i].durable;
        if (promises->items[i].position < earliest)
            *last = promises->items[i].started;
    }
    /* A version that changes nothing may be acknowledged without a write. */
    *last = (size_t)kv_max_u64(*first, kv_min_u64(*last, newest));
}
