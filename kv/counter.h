/*
 * kv/counter.h: a number that every thread adds to and few ever read.
 *
 * Each processor has a part of it, in a cache line of its own: threads on different ones never
 * wait for each other's line, as they would for one number. Not exact: two threads that take
 * turns on one processor in the middle of an addition may lose one.
 *
 * Threads    any.
 */
#ifndef KV_COUNTER_H
#define KV_COUNTER_H

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

#define KV_COUNTER_PARTS 16u /* a power of two; processors beyond share */
#define KV_COUNTER_LINE  64u

struct kv_counter {
    struct {
        _Atomic uint64_t count;
        uint8_t rest_of_line[KV_COUNTER_LINE - sizeof(uint64_t)];
    } parts[KV_COUNTER_PARTS];
};

static inline void kv_counter_add(struct kv_counter *counter, uint64_t more)
{
    /* No processor number, no harm: any part will do. */
    _Atomic uint64_t *count = &counter->parts[(unsigned)sched_getcpu() % KV_COUNTER_PARTS].count;
    const uint64_t before = atomic_load_explicit(count, memory_order_relaxed);
    atomic_store_explicit(count, before + more, memory_order_relaxed);
}

static inline uint64_t kv_counter_sum(const struct kv_counter *counter)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < KV_COUNTER_PARTS; i++)
        sum += atomic_load_explicit(&counter->parts[i].count, memory_order_relaxed);
    return sum;
}

#endif
