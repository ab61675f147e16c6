/*
 * tests/faults/damage/harm.h: the ways in which a medium damages blocks silently.
 *
 * One thread.
 */
#ifndef DAMAGE_HARM_H
#define DAMAGE_HARM_H

#include "sample.h"

enum harm_kind {
    HARM_FIRST_BIT, /* of the first byte that means something */
    HARM_LAST_BIT,  /* of the last one */
    HARM_SOME_BIT,  /* at a place that chance picks */
    HARM_PADDING,   /* a bit behind what means something */
    HARM_ZERO,
    HARM_GARBAGE,
    HARM_SWAP,          /* with another block of the same role */
    HARM_OLD_CONTENT,   /* what the block held before: a write that was lost */
    HARM_OLDER_CONTENT, /* before that */
    HARM_OLD_VERSION,   /* an older version of the same page lies here */
    HARM_COUNT,
};
extern const char *const harm_names[HARM_COUNT];

#define HARM_BLOCKS_MAX 16u

/* What is written over a sound image. */
struct harm {
    size_t count;
    uint64_t blocks[HARM_BLOCKS_MAX];
    uint8_t *bytes; /* count blocks, aligned */
    uint8_t *was;   /* what they replace, likewise */
    bool changes;   /* bytes that mean something differ */
};

/*
 * Make up the damage of a kind to a block of the state that `device` is in. false: this kind
 * can not befall this block (there is no older version, nothing to swap with, no padding).
 */
bool harm_make(struct harm *harm, const struct sample *sample, struct kv_device *device,
               uint64_t block, enum harm_kind kind, struct test_random *random);
void harm_release(struct harm *harm);
/* Do it to a device, or undo it. */
void harm_apply(const struct harm *harm, struct kv_device *device);
void harm_undo(const struct harm *harm, struct kv_device *device);

#endif
