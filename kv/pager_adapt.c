/*
 * kv/pager_adapt.c: whether packed pages have a share of the memory, where nobody said so.
 *
 * Owns       pager->adapt: the ratios as they were given, and what was counted at the last look.
 * Invariant  between hot and warm nothing changes; ratios that give cold or frozen something are
 *            left as they are.
 * Locks      pager->mutex.
 *
 * Cold and frozen spare reads of pages that left a short while ago, if pages pack; each use of one
 * costs microseconds, and what they take is missing to gather changes in, so that more is written
 * (bench/README.md, "bench-tiers"). So they get their share while pages come back from the device
 * that had left lately, and few are written in between; and lose it when more is written. When they
 * hold all that is used, frames alone might do as well: that is tried, more and more seldom as long
 * as it turns out that they would not.
 */
#include "kv/pager_frames.h"

/* Beside hot and warm together; measured by bench-tiers. */
#define COLD_TIMES     6u
#define FROZEN_PERCENT 534u

#define WINDOW_PART     4u /* of the frames: so many pages must come and go before anything is told */
#define BACK_PART       8u  /* one page in so many that are read must have left lately */
#define FEW_MISSES      10u /* less than one use in so many of what is packed is read instead */
#define TRIAL_EVERY     32u /* windows with few misses, before frames alone are tried */
#define TRIAL_EVERY_MAX 1024u

static struct adapt_counts counts_now(const struct kv_pager *pager)
{
    const struct kv_tier_stats *const counts = pager->cache.counts;
    return (struct adapt_counts){.misses = pager->misses,
                                 .writes = pager->writes,
                                 .packed_hits =
                                     counts[KV_TIER_COLD].hits + counts[KV_TIER_FROZEN].hits,
                                 .back = counts[KV_TIER_WARM].ghost_hits};
}

struct kv_tiers kv_tiers_with_packed(const struct kv_tiers *tiers)
{
    struct kv_tiers with = *tiers;
    const uint32_t frames = with.ratio[KV_TIER_HOT] + with.ratio[KV_TIER_WARM];
    with.ratio[KV_TIER_COLD] = frames * COLD_TIMES;
    with.ratio[KV_TIER_FROZEN] = frames * FROZEN_PERCENT / 100;
    return with;
}

static void set_packed(struct kv_pager *pager, bool packed)
{
    const struct kv_tiers *const given = &pager->adapt.given;
    const struct kv_tiers tiers = packed ? kv_tiers_with_packed(given) : *given;
    pager->adapt.packed = packed;
    kv_pager_apply_tiers(pager, &tiers);
}

/* Frames alone: do pages come back that packed ones would spare? */
static void look_without(struct kv_pager *pager, const struct adapt_counts *since)
{
    struct kv_pager_adapt *const adapt = &pager->adapt;
    const bool pays = since->writes <= since->misses / 2 &&
                      since->back >= since->misses / BACK_PART &&
                      pager->cache.kept >= pager->cache.passed;
    if (adapt->trial) /* did frames do? */
        adapt->trial_every =
            pays ? (unsigned)kv_min_u64(2 * adapt->trial_every, TRIAL_EVERY_MAX) : TRIAL_EVERY;
    adapt->trial = false;
    if (pays && adapt->paid) /* not just what is read in anew */
        set_packed(pager, true);
    adapt->paid = pays;
}

/* Packed pages have a share: is it still of use? */
static void look_with(struct kv_pager *pager, const struct adapt_counts *since)
{
    struct kv_pager_adapt *const adapt = &pager->adapt;
    const uint64_t wanted = since->misses + since->packed_hits;
    const bool few_misses = since->misses < since->packed_hits / FEW_MISSES;
    adapt->easy_windows = few_misses ? adapt->easy_windows + 1 : 0;
    adapt->trial = adapt->easy_windows >= adapt->trial_every;
    if (since->writes <= wanted / 4 * 3 && !adapt->trial)
        return;
    adapt->easy_windows = 0;
    adapt->paid = false;
    set_packed(pager, false);
}

void kv_pager_adapt(struct kv_pager *pager)
{
    pthread_mutex_lock(&pager->mutex);
    struct kv_pager_adapt *const adapt = &pager->adapt;
    const struct adapt_counts now = counts_now(pager);
    const struct adapt_counts since = {.misses = now.misses - adapt->seen.misses,
                                       .writes = now.writes - adapt->seen.writes,
                                       .packed_hits = now.packed_hits - adapt->seen.packed_hits,
                                       .back = now.back - adapt->seen.back};
    if (adapt->on &&
        since.misses + since.packed_hits + since.writes >= pager->cache.frame_count / WINDOW_PART) {
        adapt->seen = now;
        if (adapt->packed)
            look_with(pager, &since);
        else
            look_without(pager, &since);
    }
    pthread_mutex_unlock(&pager->mutex);
}

void kv_pager_adapt_start(struct kv_pager *pager, const struct kv_tiers *given)
{
    const bool packed = given->ratio[KV_TIER_COLD] || given->ratio[KV_TIER_FROZEN];
    pager->adapt = (struct kv_pager_adapt){.on = pager->config.adapt_tiers && !packed,
                                           .given = *given,
                                           .seen = counts_now(pager),
                                           .trial_every = TRIAL_EVERY};
}
