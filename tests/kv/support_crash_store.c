/*
 * tests/kv/support_crash_store.c: a life of a store, as something that can be crashed.
 *
 * Owns       the key "~", which no workload uses: what a state gets as its one more change.
 */
#include "support_crash_store.h"

#include "support_workload.h"

#include "kv/codec.h"

#define DIGEST_OF_EMPTY 0x6b766673u /* so that an empty store has a digest too */

static bool clean_check(struct kv_store *store)
{
    struct kv_check_result result;
    return test_check(store, &result) == 0;
}

static int digest_store(struct kv_store *store, uint64_t *digest)
{
    const int err = history_digest(store, digest);
    if (err)
        printf("reading the store: %s\n", strerror(-err));
    *digest += DIGEST_OF_EMPTY;
    return err;
}

/* A key of our own: its value says what was found before it was written. */
static const char own_key[] = "~";

static uint64_t digest_own(uint64_t value)
{
    return kv_digest(&value, sizeof value, kv_digest(own_key, 1, 0));
}

/* What the digest becomes when our key gets the value `found`. */
static int expect_after(struct kv_store *store, uint64_t found, uint64_t *after)
{
    uint64_t old;
    size_t length;
    const int err = kv_get(store, own_key, 1, &old, sizeof old, &length);
    if (err && err != -ENOENT)
        return err;
    *after = found - (err ? 0 : digest_own(old)) + digest_own(found);
    return 0;
}

/* Put our key; make it durable one way or another; let go of the store. */
static int change_and_leave(struct kv_store *store, uint64_t found)
{
    struct kv_batch *batch = kv_batch_new();
    KV_ASSERT(batch != NULL);
    const unsigned manner = (unsigned)(found >> 7) % 4;
    int err = kv_batch_put(batch, own_key, 1, &found, sizeof found);
    if (!err)
        err = kv_apply(store, batch, manner == 0 ? KV_APPLY_SYNC : 0, NULL);
    kv_batch_free(batch);
    if (!err && manner == 1)
        err = kv_sync(store);
    if (!err && manner == 2)
        err = kv_checkpoint(store);
    if (!err && manner == 3)
        return kv_close(store);
    kv_abandon(store);
    return err;
}

static void begin_opening(const struct store_life *life)
{
    if (life->before_open)
        life->before_open();
}

static bool recover_store(void *context, struct recorder *recorder, struct crash_recovery *recovery)
{
    const struct store_life *life = context;
    struct kv_device *device = recorder_device(recorder);
    struct kv_store *store;
    begin_opening(life);
    if (workload_open(device, life->sync, false, &store))
        return false;
    if (digest_store(store, &recovery->found) || !clean_check(store) ||
        expect_after(store, recovery->found, &recovery->after))
        return false;
    recovery->started = recorder_event_count(recorder);
    const int err = change_and_leave(store, recovery->found);
    recovery->durable = recorder_event_count(recorder);
    if (err) {
        printf("one more change: %s\n", strerror(-err));
        return false;
    }
    uint64_t again;
    if (workload_open(device, life->sync, false, &store) || digest_store(store, &again))
        return false;
    kv_abandon(store);
    if (again != recovery->after)
        printf("one more change is not there, or something else has changed\n");
    return again == recovery->after;
}

static bool peek_store(void *context, struct kv_device *device, uint64_t *found)
{
    const struct store_life *life = context;
    struct kv_store *store;
    begin_opening(life);
    if (workload_open(device, life->sync, true, &store))
        return false;
    const bool good = !digest_store(store, found) && clean_check(store);
    kv_abandon(store);
    return good;
}

static bool allows_version(void *context, size_t earliest, size_t latest, uint64_t digest)
{
    const struct store_life *life = context;
    size_t first, last;
    promises_find(&life->promises, earliest, latest, history_last(life->history), &first, &last);
    for (size_t i = last + 1; i > first; i--)
        if (history_version(life->history, i - 1)->digest + DIGEST_OF_EMPTY == digest)
            return true;
    return false;
}

static void explain_version(void *context, struct kv_device *device, size_t earliest, size_t latest)
{
    const struct store_life *life = context;
    struct kv_store *store;
    size_t first, last, index;
    promises_find(&life->promises, earliest, latest, history_last(life->history), &first, &last);
    printf("allowed: versions %zu to %zu\n", first, last);
    if (workload_open(device, life->sync, false, &store))
        return;
    const int err = history_find(life->history, store, first, last, &index);
    if (err)
        printf("reading the store: %s\n", strerror(-err));
    kv_abandon(store);
}

struct crash_subject store_life_subject(struct store_life *life)
{
    return (struct crash_subject){.context = life,
                                  .story = life->story,
                                  .recover = recover_store,
                                  .peek = peek_store,
                                  .allows = allows_version,
                                  .explain = explain_version};
}
