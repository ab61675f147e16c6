/*
 * tests/faults/fuzz/image_hostile.h: small sound images with all that a filesystem holds, and
 * what an input makes of them.
 */
#ifndef TESTS_FAULTS_FUZZ_IMAGE_HOSTILE_H
#define TESTS_FAULTS_FUZZ_IMAGE_HOSTILE_H

#include "tests/faults/fuzz/fuzz.h"
#include "tests/faults/fuzz/image_bytes.h"

enum hostile_base {
    HOSTILE_CLOSED = 0, /* closed cleanly, pages of 4 KiB */
    HOSTILE_LOG = 1,    /* a log to be replayed, pages of 4 KiB */
    HOSTILE_PACKED = 2, /* pages of 16 KiB, packed */
    HOSTILE_LONG = 3,   /* long names: a tree of three levels */
    HOSTILE_DENSE = 4,  /* pages of 16 KiB, not packed, without their free bytes */
    HOSTILE_COUNT = 5
};

/* A fresh sound image of a kind; made once, and put back. */
struct image_bytes *hostile_image(enum hostile_base base);

/* Apply the patches of an input to an image: kind(1) and what it takes, until a kind of 0. */
void hostile_patch(struct image_bytes *image, struct fuzz_input *input);

#endif
