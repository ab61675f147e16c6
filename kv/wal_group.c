/*
 * kv/wal_group.c: who leads a flush lets those come along who are about to ask for one.
 *
 * Owns       wal->group: who asked lately, and what waiting for them was good for.
 * Invariant  nobody waits longer than GATHER_NS for others, nor for others than have just asked.
 * Locks      wal->mutex, which the leader releases while it lets others run.
 *
 * A flush ends, and all whom it served go on at once: the first of them to come back would lead the
 * next flush alone with whoever came meanwhile, and the others would wait for the one after that.
 * So half of the threads are served by each flush. To let the processor go for some microseconds
 * until as many have come as were there lately has all of them in one (Helland et al. 1987, "Group
 * commit timers and high volume transaction systems", for the idea; the bound is ours). Where
 * nobody comes, waiting is left alone for a while, longer each time.
 */
#include "kv/wal_ring.h"

#include <sched.h>

#define GATHER_NS        50000u /* 30 us: 0.95 of the syncs, 80: the same (four threads) */
#define REST_FLUSHES_MAX 1024u

/* How many threads asked lately, as far as wal->group remembers. */
static unsigned askers(const struct wal_group *group)
{
    unsigned count = 0;
    for (unsigned i = 0; i < WAL_ASKERS; i++) {
        bool seen = !group->asked[i].known;
        for (unsigned before = 0; before < i && !seen; before++)
            seen = group->asked[before].known &&
                   pthread_equal(group->asked[before].thread, group->asked[i].thread);
        count += !seen;
    }
    return count;
}

void kv_wal_note_asker(struct kv_wal *wal)
{
    struct wal_group *const group = &wal->group;
    group->asked[group->next++ % WAL_ASKERS] =
        (struct wal_asker){.thread = pthread_self(), .known = true};
    group->arrived++;
}

void kv_wal_gather(struct kv_wal *wal)
{
    struct wal_group *const group = &wal->group;
    const unsigned expected = askers(group);
    if (group->arrived >= expected)
        return;
    if (group->rest) {
        group->rest--;
        return;
    }
    const unsigned before = group->arrived;
    const uint64_t until_ns = kv_clock_ns() + GATHER_NS;
    wal->leading = true; /* who comes meanwhile waits */
    while (group->arrived < expected && !wal->error && kv_clock_ns() < until_ns) {
        pthread_mutex_unlock(&wal->mutex);
        sched_yield();
        pthread_mutex_lock(&wal->mutex);
    }
    wal->leading = false;
    if (group->arrived > before) {
        group->rest_next = KV_WAL_REST_FLUSHES;
    } else {
        group->rest = group->rest_next;
        group->rest_next = (unsigned)kv_min_u64(2 * group->rest_next, REST_FLUSHES_MAX);
    }
}
