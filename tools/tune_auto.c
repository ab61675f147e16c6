/*
 * tools/tune_auto.c: where the border between frames and packed pages is to lie.
 *
 * Owns       nothing.
 * Invariant  percent is what it was at first, or between TUNE_AUTO_LEAST and TUNE_AUTO_MOST.
 */
#include "tools/tune_auto.h"

#include <stdio.h>
#include <string.h>

#include "kv/base.h"

#define PACKING_MOST 0.75 /* pages that keep more of their length are not kept packed */
#define RATIO_SUM    1000u
#define COLD_PARTS   9u
#define FROZEN_PARTS 8u

void tune_auto_init(struct tune_auto *state, const struct kv_tiers *tiers)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < KV_TIER_COUNT; i++)
        sum += tiers->ratio[i];
    const uint64_t packed = (uint64_t)tiers->ratio[KV_TIER_COLD] + tiers->ratio[KV_TIER_FROZEN];
    *state = (struct tune_auto){.percent = sum ? (unsigned)(packed * 100 / sum) : 0,
                                .rest = TUNE_AUTO_REST};
}

struct kv_tiers tune_auto_tiers(unsigned percent, const struct kv_tiers *now)
{
    struct kv_tiers tiers;
    const uint32_t hot = now->ratio[KV_TIER_HOT], warm = now->ratio[KV_TIER_WARM];
    const uint32_t packed = RATIO_SUM / 100 * percent, frames = RATIO_SUM - packed;
    /* All of them 0 are the defaults, 12 to 3. */
    tiers.ratio[KV_TIER_HOT] =
        hot + warm ? (uint32_t)((uint64_t)frames * hot / (hot + warm)) : frames * 12 / 15;
    tiers.ratio[KV_TIER_WARM] = frames - tiers.ratio[KV_TIER_HOT];
    tiers.ratio[KV_TIER_COLD] = packed * COLD_PARTS / (COLD_PARTS + FROZEN_PARTS);
    tiers.ratio[KV_TIER_FROZEN] = packed - tiers.ratio[KV_TIER_COLD];
    return tiers;
}

static double cost_of(const struct tune_memory *memory)
{
    return (memory->misses * TUNE_AUTO_READ_COST + memory->packed_hits) / memory->uses;
}

/* What more room would save on either side, by what had left lately. */
static void gains(const struct tune_memory *memory, double *packed, double *frames)
{
    const bool packs = memory->packing > 0 && memory->packing <= PACKING_MOST;
    *packed = packs ? memory->back * (TUNE_AUTO_READ_COST - 1) : 0;
    *frames = memory->unpacked_back + (packs ? 0 : memory->back * TUNE_AUTO_READ_COST);
}

static enum tune_auto_act move(struct tune_auto *state, const struct tune_memory *memory,
                               char reason[TUNE_AUTO_REASON])
{
    double packed, frames;
    gains(memory, &packed, &frames);
    const double worth = memory->uses * TUNE_AUTO_READ_COST * TUNE_AUTO_WORTH;
    unsigned to = state->percent;
    if (packed >= worth && packed >= frames * TUNE_AUTO_HYSTERESIS && to < TUNE_AUTO_MOST)
        to = (unsigned)kv_min_u64(to + TUNE_AUTO_STEP, TUNE_AUTO_MOST);
    else if (frames >= worth && frames >= packed * TUNE_AUTO_HYSTERESIS && to > TUNE_AUTO_LEAST)
        to -= (unsigned)kv_min_u64(TUNE_AUTO_STEP, to - TUNE_AUTO_LEAST);
    if (to == state->percent)
        return TUNE_AUTO_KEEP;
    (void)snprintf(reason, TUNE_AUTO_REASON,
                   "%.0f of %.0f pages read had left lately, %.0f of %.0f found packed had",
                   memory->back, memory->misses, memory->unpacked_back, memory->packed_hits);
    state->before = state->percent;
    state->percent = to;
    state->cost = cost_of(memory);
    state->phase = TUNE_AUTO_SETTLING;
    return TUNE_AUTO_MOVE;
}

/* Did the last move help? */
static enum tune_auto_act judge(struct tune_auto *state, const struct tune_memory *memory,
                                char reason[TUNE_AUTO_REASON])
{
    const double cost = cost_of(memory);
    if (cost <= state->cost * (1 - TUNE_AUTO_GAIN)) {
        state->phase = TUNE_AUTO_READY;
        state->rest = TUNE_AUTO_REST;
        return TUNE_AUTO_KEEP;
    }
    (void)snprintf(reason, TUNE_AUTO_REASON,
                   "a use of a page costs %.3f, %.3f before: it did not help; nothing is tried for "
                   "%u intervals",
                   cost, state->cost, state->rest);
    state->percent = state->before;
    state->resting = state->rest;
    state->rest = (unsigned)kv_min_u64(2 * state->rest, TUNE_AUTO_REST_MAX);
    state->phase = TUNE_AUTO_RESTING;
    return TUNE_AUTO_UNDO;
}

enum tune_auto_act tune_auto_step(struct tune_auto *state, const struct tune_memory *memory,
                                  char reason[TUNE_AUTO_REASON])
{
    enum tune_auto_act act = TUNE_AUTO_KEEP;
    reason[0] = '\0';
    if (memory->uses < TUNE_AUTO_USES)
        return act;
    if (state->phase == TUNE_AUTO_SETTLING) {
        state->phase = TUNE_AUTO_JUDGING;
        return act;
    }
    if (state->phase == TUNE_AUTO_RESTING && --state->resting > 0)
        return act;
    if (state->phase == TUNE_AUTO_JUDGING)
        act = judge(state, memory, reason);
    else
        state->phase = TUNE_AUTO_READY;
    return act == TUNE_AUTO_KEEP ? move(state, memory, reason) : act;
}
