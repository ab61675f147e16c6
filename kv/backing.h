/*
 * kv/backing.h: room on the host for blocks, asked for before the blocks are handed out.
 *
 * A sparse file promises more blocks than its host file system may have. Writing one that the
 * host has no room for fails after a promise was made, so a thin device (kv/device.h) is used
 * piece by piece: a piece is backed once the device has set room aside for all of it, and only
 * blocks of backed pieces are given away. What is backed is known in memory only; asking for a
 * piece that has its room already costs a call and nothing else.
 *
 * Threads: every function but open and close is called with the owner's mutex held;
 * kv_backing_grow releases it while the device works.
 */
#ifndef KV_BACKING_H
#define KV_BACKING_H

#include "kv/base.h"
#include "kv/device.h"

#include <pthread.h>

#define KV_BACKING_PIECE_BLOCKS 1024u /* 4 MiB */

struct kv_backing;

struct kv_backing_config {
    struct kv_device *device;
    uint64_t first_block, block_count; /* what is cut into pieces; the last may be shorter */
    pthread_mutex_t *mutex;            /* the owner's */
    /* Under the mutex: would room for the piece be of use now? */
    bool (*wanted)(void *context, uint64_t piece);
    /* Under the mutex: the piece is backed from now on. Not called for what is so at open. */
    void (*backed)(void *context, uint64_t piece);
    void *context;
};

/* On a device that is not thin every piece is backed from the start. -ENOMEM. */
KV_MUST_CHECK int kv_backing_open(const struct kv_backing_config *config,
                                  struct kv_backing **backing);
void kv_backing_close(struct kv_backing *backing);

/* A piece beyond the last one is not backed on a thin device. */
bool kv_backing_has(const struct kv_backing *backing, uint64_t piece);

/*
 * Back more pieces that are wanted: a few, more when much is backed already. When the device
 * refuses one, others may still have room of old: up to `refusals_max` more are tried, and the
 * next call goes on from there.
 *
 * Returns 0 when more is backed than before the call, whoever did it; -ENOSPC; what else the
 * device says.
 */
KV_MUST_CHECK int kv_backing_grow(struct kv_backing *backing, unsigned refusals_max);

/* Was the last thing that the device said a refusal for want of room? */
bool kv_backing_refused(const struct kv_backing *backing);

#endif
