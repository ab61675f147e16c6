/*
 * tools/stress_history.h: what a file may hold after its daemon was killed.
 *
 * A file has a history of changes, each with the moment it was begun and the moment it was
 * acknowledged, by a clock that all threads share. A flush that was acknowledged makes all durable
 * that was acknowledged before it began. After a crash a file must be as it was at its last durable
 * change or at some later point of its history; and since a crash leaves a prefix of the history
 * of all operations, no file may show a change that was begun after another file's change, now
 * lost, was acknowledged.
 *
 * A change in place is several operations: the file is emptied, then written piece by piece, and
 * the kernel may cut a piece in two at a page. Until all are durable, the file may be at any of
 * them.
 *
 * Threads: a history belongs to one at a time.
 */
#ifndef TOOLS_STRESS_HISTORY_H
#define TOOLS_STRESS_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "kv/kv.h"

#define STRESS_NEVER UINT64_MAX /* a moment that did not come */

struct stress_change {
    uint32_t version;      /* of the content; 0: the file is not there */
    uint32_t length_bytes; /* of the content; 0 without one */
    bool in_place;         /* in several operations */
    uint64_t begun, acknowledged;
};

struct stress_history {
    struct stress_change *changes; /* [0] is what is durable, or older than all that is not */
    uint32_t count, capacity;
};

/* What was found of a file. */
struct stress_found {
    bool is_there;
    uint32_t length_bytes;
    uint32_t piece_bytes; /* what one write in place has */
    /* Are the bytes found the first of this version? Called with versions that are not 0. */
    bool (*holds)(void *context, uint32_t version);
    void *context;
};

struct stress_verdict {
    bool is_right; /* nothing durable is lost and nothing is torn */
    /* Of a file that is right: */
    uint64_t shows_begun;        /* it shows a change that was begun then; 0: none that is new */
    uint64_t lost_acknowledged;  /* when the first change was acknowledged that it does not show */
    uint32_t lost_count;         /* changes that were acknowledged, not durable, and are lost */
    struct stress_change stands; /* what it is at */
};

/* An empty history: the file is not there, and that is durable. -ENOMEM. */
KV_MUST_CHECK int stress_history_init(struct stress_history *history);
void stress_history_release(struct stress_history *history);

/*
 * Add a change. durable_before: what was acknowledged before that moment is durable; what came
 * before the last of these is forgotten.
 */
KV_MUST_CHECK int stress_history_add(struct stress_history *history,
                                     const struct stress_change *change, uint64_t durable_before);

/* The state that the file is in without a crash. */
const struct stress_change *stress_history_last(const struct stress_history *history);

/* Judge what was found after a crash. */
struct stress_verdict stress_history_judge(const struct stress_history *history,
                                           const struct stress_found *found,
                                           uint64_t durable_before);

/* The file stands there, durably; all else is forgotten. */
void stress_history_restart(struct stress_history *history, const struct stress_change *stands);

#endif
