/*
 * tools/stress_history.c: what a file may hold after its daemon was killed.
 *
 * Owns       the changes of one file since the last one that is durable.
 * Invariant  at least one change; each was acknowledged after those before it. Only the last may
 *            not have been acknowledged.
 */
#include "tools/stress_history.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kv/base.h"

#define PAGE_BYTES 4096u

int stress_history_init(struct stress_history *history)
{
    enum { CAPACITY = 2 };
    *history = (struct stress_history){
        .changes = calloc(CAPACITY, sizeof *history->changes), .count = 1, .capacity = CAPACITY};
    return history->changes ? 0 : -ENOMEM;
}

void stress_history_release(struct stress_history *history)
{
    free(history->changes);
    *history = (struct stress_history){0};
}

/* The last change that is durable. */
static uint32_t find_durable(const struct stress_history *history, uint64_t durable_before)
{
    uint32_t durable = 0;
    for (uint32_t i = 1; i < history->count; i++)
        if (history->changes[i].acknowledged < durable_before)
            durable = i;
    return durable;
}

int stress_history_add(struct stress_history *history, const struct stress_change *change,
                       uint64_t durable_before)
{
    const uint32_t durable = find_durable(history, durable_before);
    history->count -= durable;
    memmove(history->changes, history->changes + durable,
            history->count * sizeof *history->changes);
    if (history->count == history->capacity) {
        struct stress_change *more =
            reallocarray(history->changes, history->capacity, 2 * sizeof *more);
        if (!more)
            return -ENOMEM;
        history->changes = more;
        history->capacity *= 2;
    }
    history->changes[history->count++] = *change;
    return 0;
}

const struct stress_change *stress_history_last(const struct stress_history *history)
{
    return &history->changes[history->count - 1];
}

/* ---- after a crash --------------------------------------------------------------------- */

enum likeness { UNLIKE, BEGUN, WHOLE };

/* Is the file found as this change leaves it, or as it is while the change is under way? */
static enum likeness compare(const struct stress_change *change, const struct stress_found *found)
{
    if (change->version == 0 || !found->is_there)
        return change->version == 0 && !found->is_there ? WHOLE : UNLIKE;
    if (found->length_bytes > change->length_bytes ||
        !found->holds(found->context, change->version))
        return UNLIKE;
    if (found->length_bytes == change->length_bytes)
        return WHOLE;
    const bool at_a_cut =
        found->length_bytes % found->piece_bytes == 0 || found->length_bytes % PAGE_BYTES == 0;
    return change->in_place && at_a_cut ? BEGUN : UNLIKE;
}

struct stress_verdict stress_history_judge(const struct stress_history *history,
                                           const struct stress_found *found,
                                           uint64_t durable_before)
{
    struct stress_verdict verdict = {.lost_acknowledged = STRESS_NEVER};
    const uint32_t durable = find_durable(history, durable_before);
    enum likeness likeness = UNLIKE;
    uint32_t at = durable;
    /*
     * Two changes may leave the same, nothing for instance: then the file shows no more than the
     * first of them, and has lost no more than what came after the last.
     */
    for (uint32_t i = durable; i < history->count; i++) {
        const struct stress_change *change = &history->changes[i];
        const enum likeness like = compare(change, found);
        if (like == UNLIKE || (like == BEGUN && i == durable))
            continue; /* what is durable is there as a whole */
        if (!verdict.is_right)
            verdict.shows_begun = i > durable ? change->begun : 0;
        verdict.is_right = true;
        likeness = like;
        at = i;
    }
    if (!verdict.is_right)
        return verdict;
    verdict.stands = history->changes[at];
    if (likeness == BEGUN)
        verdict.stands.length_bytes = found->length_bytes;
    const uint32_t lost = at + (likeness == WHOLE);
    for (uint32_t i = lost; i < history->count; i++)
        verdict.lost_count += history->changes[i].acknowledged != STRESS_NEVER;
    if (lost < history->count)
        verdict.lost_acknowledged = history->changes[lost].acknowledged;
    return verdict;
}

void stress_history_restart(struct stress_history *history, const struct stress_change *stands)
{
    history->changes[0] = *stands;
    history->changes[0].in_place = false;
    history->changes[0].begun = history->changes[0].acknowledged = 0;
    history->count = 1;
}
