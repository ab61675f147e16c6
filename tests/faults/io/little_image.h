/*
 * tests/faults/io/little_image.h: an image of 16 MiB in memory that can be put back as it was, and
 * whose requests fail on order.
 *
 * Nothing is allocated while a store uses it, so that every allocation that is counted meanwhile
 * is the store's. What does not work though it should ends the program. One thread.
 */
#ifndef TESTS_FAULTS_LITTLE_IMAGE_H
#define TESTS_FAULTS_LITTLE_IMAGE_H

#include "kv/device.h"

#define LITTLE_BLOCKS 4096u

/* What is counted and fails. */
enum little_target { LITTLE_READS, LITTLE_WRITES, LITTLE_FLUSHES, LITTLE_ROOM };
#define LITTLE_TARGETS 4u

struct little_image;

struct little_image *little_new(void);
void little_free(struct little_image *image);
/* Thin: a block that was never written has room only once it was reserved. Closing does nothing. */
struct kv_device *little_device(struct little_image *image);

/* This is what little_reset goes back to. */
void little_keep(struct little_image *image);
void little_reset(struct little_image *image);

/* From now on count requests of a kind; the one after so many fails, or all from that one on. */
void little_fail(struct little_image *image, enum little_target target, uint64_t after,
                 bool lasting);
/* Nothing fails any more. Returns how many did; *seen: how many were counted. */
uint64_t little_heal(struct little_image *image, uint64_t *seen);

#endif
