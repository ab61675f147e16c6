/*
 * tools/tune_auto.h: where the border between frames and packed pages is to lie, step by step.
 *
 * Hot and warm are frames, cold and frozen hold packed pages; what moves is the part that the
 * latter two have together. How hot and warm divide theirs stays as it was; cold has 9 and frozen 8
 * parts of theirs. Pure: what it decides depends on what it was told, in order, and on nothing
 * else.
 *
 * Each interval is told once. A move is as large as TUNE_AUTO_STEP; after it an interval is left
 * out, for memory to follow, and the next one is compared with the one before the move: if uses of
 * pages did not become cheaper by TUNE_AUTO_GAIN, the move is taken back and nothing is tried for a
 * while, which doubles each time up to TUNE_AUTO_REST_MAX intervals.
 *
 * Threads: a state belongs to one.
 */
#ifndef TOOLS_TUNE_AUTO_H
#define TOOLS_TUNE_AUTO_H

#include "tools/tune.h"

#define TUNE_AUTO_LEAST      0u  /* percent of the memory for pages that packed ones may have ... */
#define TUNE_AUTO_MOST       85u /* ... at most: frames need some for what is unpacked */
#define TUNE_AUTO_STEP       10u /* percent points */
#define TUNE_AUTO_GAIN       0.03   /* of the cost */
#define TUNE_AUTO_HYSTERESIS 1.5    /* one side gains so many times what the other does */
#define TUNE_AUTO_WORTH      0.01   /* of what all uses would cost if each were a read */
#define TUNE_AUTO_USES       2000.0 /* of pages in an interval: fewer, and it is left out */
#define TUNE_AUTO_REST       4u     /* intervals */
#define TUNE_AUTO_REST_MAX   64u
/* What it costs to read a page, in relation to unpacking it: 100 us and 8, by and large. */
#define TUNE_AUTO_READ_COST 12.0

enum tune_auto_phase { TUNE_AUTO_READY, TUNE_AUTO_SETTLING, TUNE_AUTO_JUDGING, TUNE_AUTO_RESTING };

struct tune_auto {
    enum tune_auto_phase phase;
    unsigned percent;       /* that packed pages may have now */
    unsigned before;        /* the last move */
    double cost;            /* of a use of a page, before the last move */
    unsigned rest, resting; /* intervals: the next rest; what is left of this one */
};

enum tune_auto_act { TUNE_AUTO_KEEP, TUNE_AUTO_MOVE, TUNE_AUTO_UNDO };

/* As the ratios are; they stay as they are until the first move. */
void tune_auto_init(struct tune_auto *state, const struct kv_tiers *tiers);

/*
 * What the memory did in an interval. MOVE, UNDO: state->percent is new and to be set. `reason`:
 * out, words for the log.
 */
#define TUNE_AUTO_REASON 160u
enum tune_auto_act tune_auto_step(struct tune_auto *state, const struct tune_memory *memory,
                                  char reason[TUNE_AUTO_REASON]);

/* The ratios that give packed pages so much; hot and warm divide the rest as they do in `now`. */
struct kv_tiers tune_auto_tiers(unsigned percent, const struct kv_tiers *now);

#endif
