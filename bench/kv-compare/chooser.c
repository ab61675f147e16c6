/*
 * bench/kv-compare/chooser.c: which record comes next.
 *
 * Method     Zipf: Gray et al., Quickly Generating Billion-Record Synthetic Databases (1994).
 *            Shuffle: a bijection of the next power of two, followed until it is in range.
 */
#include "bench/kv-compare/chooser.h"

#include <math.h>

#include "bench/measure.h"

#define ZIPF_THETA 0.99

static double zeta(uint64_t count)
{
    double sum = 0;
    for (uint64_t i = 1; i <= count; i++)
        sum += pow((double)i, -ZIPF_THETA);
    return sum;
}

void chooser_init(struct chooser *chooser, const struct workload *work, unsigned thread)
{
    *chooser = (struct chooser){.pick = work->pick,
                                .record_count = work->record_count,
                                .seed = work->seed,
                                .at = thread,
                                .step = work->thread_count};
    while ((uint64_t)1 << chooser->bits < work->record_count)
        chooser->bits++;
    if (work->pick == WORKLOAD_ZIPF) {
        const double count = (double)work->record_count;
        chooser->zipf_zeta = zeta(work->record_count);
        chooser->zipf_alpha = 1 / (1 - ZIPF_THETA);
        chooser->zipf_half = pow(0.5, ZIPF_THETA);
        chooser->zipf_eta = (1 - pow(2 / count, 1 - ZIPF_THETA)) /
                            (1 - (1 + chooser->zipf_half) / chooser->zipf_zeta);
    }
}

static uint64_t zipf_rank(const struct chooser *chooser, uint64_t random)
{
    const double u = (double)(random >> 11) / 9007199254740992.0; /* 2^53 */
    const double uz = u * chooser->zipf_zeta;
    if (uz < 1)
        return 0;
    if (uz < 1 + chooser->zipf_half)
        return 1;
    const double rank = (double)chooser->record_count *
                        pow(chooser->zipf_eta * u - chooser->zipf_eta + 1, chooser->zipf_alpha);
    return kv_min_u64((uint64_t)rank, chooser->record_count - 1);
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
        return measure_mix(zipf_rank(chooser, random)) % chooser->record_count;
    case WORKLOAD_HOT: {
        const uint64_t hot = kv_min_u64(WORKLOAD_HOT_KEYS, chooser->record_count);
        return (chooser->record_count - hot) / 2 + random % hot;
    }
    case WORKLOAD_UNIFORM:
        break;
    }
    return random % chooser->record_count;
}
