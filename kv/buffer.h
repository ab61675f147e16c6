/*
 * kv/buffer.h: aligned I/O buffers that are kept and used again.
 *
 * First touch of fresh memory costs more than a small read, so buffers of a few sizes are
 * pooled. At most KV_BUFFER_KEEP of each size are kept, and of sizes above 128 KiB four.
 * Threads: any; one mutex inside.
 */
#ifndef KV_BUFFER_H
#define KV_BUFFER_H

#include "kv/base.h"

#define KV_BUFFER_KEEP 16u /* two threads with eight blobs each */

struct kv_buffers;

struct kv_buffers *kv_buffers_new(void); /* NULL: no memory */
void kv_buffers_free(struct kv_buffers *buffers);

/* Memory aligned to KV_BLOCK_BYTES of at least `bytes`, contents undefined. NULL: no memory. */
void *kv_buffers_take(struct kv_buffers *buffers, size_t bytes);
void kv_buffers_give(struct kv_buffers *buffers, void *memory, size_t bytes); /* same bytes */

#endif
