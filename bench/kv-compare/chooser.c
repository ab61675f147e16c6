/*
 * bench/kv-compare/chooser.c: which record comes next.
 *
 * Method     Shuffle: a bijection of the next power of two, followed until it is in range.
 */
#include "bench/kv-compare/chooser.h"

#include "bench/measure.h"

void chooser_init(struct chooser *chooser, const struct workload *work, unsigned thread)
{
    *chooser = (struct chooser){.pick = work->pick,
                                .record_count = work->record_count,
                                .seed = work->seed,
                                .at = thread,
                                .step = work->thread_count};
    while ((uint64_t)1 << chooser->bits < work->record_count)
        chooser->bits++;
    if (work->pick == WORKLOAD_ZIPF)
        zipf_init(&chooser->zipf, work->record_count, ZIPF_THETA_USUAL);
}

/* One to one on the numbers below record_count. */
static uint64_t shuffle(const struct chooser *chooser, uint64_t number)
{
    const unsigned bits = chooser->bits;
    if (bits < 2)
        return number;
    const uint64_t mask = ((uint64_t)1 << bits) - 1;
    do {
        for (unsigned round = 0; round < 4; round++) {
            number = (number * 0x9e3779b97f4a7c15u + (chooser->seed >> round)) & mask;
            number ^= number >> (bits / 2);
        }
    } while (number >= chooser->record_count);
    return number;
}

uint64_t chooser_random(const struct chooser *chooser)
{
    return measure_mix(chooser->seed ^ measure_mix(chooser->at));
}

uint64_t chooser_next(struct chooser *chooser)
{
    const uint64_t random = chooser_random(chooser);
    const uint64_t at = chooser->at;
    chooser->at += chooser->step;
    switch (chooser->pick) {
    case WORKLOAD_IN_ORDER:
        return at;
    case WORKLOAD_SHUFFLED:
        return shuffle(chooser, at);
    case WORKLOAD_ZIPF:
        return measure_mix(zipf_rank(&chooser->zipf, random)) % chooser->record_count;
    case WORKLOAD_HOT: {
        const uint64_t hot = kv_min_u64(WORKLOAD_HOT_KEYS, chooser->record_count);
        return (chooser->record_count - hot) / 2 + random % hot;
    }
    case WORKLOAD_UNIFORM:
        break;
    }
    return random % chooser->record_count;
}
