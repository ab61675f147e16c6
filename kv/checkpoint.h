/*
 * kv/checkpoint.h: epoch n goes to disk, then the superblock flips.
 *
 * Threads: one checkpoint at a time: whoever holds its mutex.
 */
#ifndef KV_CHECKPOINT_H
#define KV_CHECKPOINT_H

#include "kv/blob.h"
#include "kv/pager.h"
#include "kv/superblock.h"
#include "kv/wal.h"

#include <pthread.h>

struct kv_checkpoint {
    pthread_mutex_t mutex; /* one checkpoint at a time */
    /*
     * The store's writer lock, with every change that was logged in the tree; an error: one is not,
     * so there can be no checkpoint now. open_gate is called after both.
     */
    int (*close_gate)(void *context);
    void (*open_gate)(void *context);
    void *gate_context;
    struct kv_device *device;
    struct kv_space *space;
    struct kv_pagemap *map;
    struct kv_pager *pager;
    struct kv_blobs *blobs;
    struct kv_wal *wal;
    struct kv_disk_superblock superblock; /* mutex; as last written */
    _Atomic uint64_t epoch;               /* the open one; changes while the gate is closed */
    _Atomic uint64_t done;                /* checkpoints written */
    bool alone;                           /* mutex; nobody else is at work: be quick */
    _Atomic uint64_t bytes;               /* of pages and page map that they wrote */
    bool begun;                           /* mutex; the last run closed its epoch */
    bool failed;                          /* mutex; one did not end: there are no more */
};

/*
 * Close the open epoch, write it, flip the superblock, free what only older epochs reach.
 * `clean` marks the image as closed (nothing may be applied any more).
 * On an error nothing that was durable is lost. When it had `begun`, the store must turn read-only;
 * from then on every call gives -EIO. Else nothing has happened.
 * The caller holds checkpoint->mutex.
 */
KV_MUST_CHECK int kv_checkpoint_run(struct kv_checkpoint *checkpoint, bool clean);

#endif
