/*
 * tests/faults/daemon/support_thin.h: a device like a sparse file on a host with little room.
 *
 * A block has room once it was reserved or written; the host has room for so many of them and no
 * more. A write that needs room and was not promised any is counted, for a store that keeps the
 * rules of kv_device_reserve never makes one; without room it fails with -ENOSPC.
 *
 * Closing its device does nothing; thin_free closes the one below. Threads: any.
 */
#ifndef TESTS_FAULTS_SUPPORT_THIN_H
#define TESTS_FAULTS_SUPPORT_THIN_H

#include "kv/device.h"

struct thin;

/* What a refused reservation leaves: nothing, or the room that was still there (as on ext4). */
enum thin_refusal { THIN_TAKES_NOTHING, THIN_TAKES_REST };

/* `below`: a device that reads zeroes; owned. */
struct thin *thin_new(struct kv_device *below, enum thin_refusal refusal);
void thin_free(struct thin *thin);
struct kv_device *thin_device(struct thin *thin);

/* How many blocks more the host has room for from now on. */
void thin_set_room(struct thin *thin, uint64_t block_count);
/* From now on each submission with a write takes so long: threads meet where they seldom do. */
void thin_set_delay(struct thin *thin, unsigned microseconds);
/* Blocks that have room. */
uint64_t thin_used(struct thin *thin);
/* Writes since the last call that had no promise. */
uint64_t thin_take_unpromised(struct thin *thin);
/* Reservations that were refused, ever. */
uint64_t thin_refusals(struct thin *thin);

#endif
