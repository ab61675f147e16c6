/*
 * kv/blob_run.h: blocks for small blobs that are flushed soon, written with zeroes before.
 *
 * A flush of blocks of a file that were allocated and never written makes the host's own notes
 * durable, too, which costs as much as all the rest. So where only little is written between two
 * flushes, small blobs get their blocks from a run that the host has seen written: 64 blocks next
 * to each other, most of them with one write of zeroes. Elsewhere nothing is written twice.
 *
 * Threads: any, except free.
 */
#ifndef KV_BLOB_RUN_H
#define KV_BLOB_RUN_H

#include "kv/device.h"
#include "kv/space.h"

struct kv_blob_run;

/* Blocks of a run. */
#define KV_BLOB_RUN_BLOCKS 64u

/* NULL: no memory. */
struct kv_blob_run *kv_blob_run_new(struct kv_device *device, struct kv_space *space);
/* The space is not told of what is left of the run. NULL is fine. */
void kv_blob_run_free(struct kv_blob_run *run);

/*
 * Blocks for a blob of `count` blocks: busy in the space from now on, as after kv_space_alloc.
 * False: find them there. May wait for the device. `run` NULL: false.
 */
bool kv_blob_run_take(struct kv_blob_run *run, uint32_t count, uint64_t *block);
/* A flush begins. */
void kv_blob_run_flushed(struct kv_blob_run *run);
/* Give what is left of the run back to the space. Returns whether there was any. */
bool kv_blob_run_release(struct kv_blob_run *run);
/* How many blocks are left: free, though the space says that they are busy. */
uint32_t kv_blob_run_left(struct kv_blob_run *run);

#endif
