/*
 * kv/blob.h: large values in checksummed runs of whole blocks.
 *
 * A blob is written once and never changed. A reference (struct kv_disk_blob_ref, seen from
 * outside as the opaque struct kv_blob_ref) says where it lies, how it is packed and what
 * its digest is. Who refers to it is not known here.
 *
 * Threads: any.
 */
#ifndef KV_BLOB_H
#define KV_BLOB_H

#include "kv/blob_cache.h"
#include "kv/blob_frames.h"
#include "kv/blob_near.h"
#include "kv/blob_pending.h"
#include "kv/blob_run.h"
#include "kv/buffer.h"
#include "kv/crew.h"
#include "kv/device.h"
#include "kv/format.h"
#include "kv/space.h"

#include <stdatomic.h>

struct kv_blobs {
    struct kv_device *device;
    struct kv_space *space;
    struct kv_buffers *buffers;
    struct kv_blob_cache *cache;     /* NULL: none */
    struct kv_blob_near *near;       /* NULL: nobody comes along; not without a cache */
    struct kv_blob_pending *pending; /* NULL: each blob is on the device when it was written */
    struct kv_blob_run *run;         /* NULL: every blob finds its own place */
    struct kv_crew *crew;            /* NULL: nobody helps */
    struct kv_codec_spec codec;      /* default */
    bool in_frames;                  /* immutable after open: the image may have such blobs */
    _Atomic uint64_t reads, read_bytes, writes, write_bytes;
};

/* Where a reference's blocks lie. -EUCLEAN when it names none that exist or makes no sense. */
KV_MUST_CHECK int kv_blobs_extent(const struct kv_blobs *blobs, const struct kv_blob_ref *ref,
                                  uint64_t *block, uint32_t *block_count);

/* As kv_blob_write of kv.h; the blocks are allocated but not committed. */
KV_MUST_CHECK int kv_blobs_write(struct kv_blobs *blobs, const void *bytes, size_t length,
                                 const struct kv_codec_spec *codec, uint64_t epoch,
                                 struct kv_blob_ref *ref, size_t *written);
/* As kv_blob_write_many of kv.h, KV_BLOB_SOURCES_MAX at most. */
KV_MUST_CHECK int kv_blobs_write_many(struct kv_blobs *blobs, struct kv_blob_source *sources,
                                      size_t count, const struct kv_codec_spec *codec,
                                      uint64_t epoch);
/* As kv_blob_discard of kv.h. */
void kv_blobs_discard(struct kv_blobs *blobs, const struct kv_blob_ref *ref);
/* The last reference is gone: memory need not hold it any more. Its blocks are the caller's affair.
 */
void kv_blobs_unwanted(struct kv_blobs *blobs, const struct kv_blob_ref *ref);
/* The stored bytes of what was written; they stay in the cache, if there is room. */
void kv_blobs_keep_written(struct kv_blobs *blobs, const struct kv_disk_blob_ref *ref,
                           const uint8_t *stored);
/* What is written in blobs longer than this goes by. */
#define KV_BLOB_WRITTEN_MAX 65536u
/*
 * Bring all that was written before to the device. A flush of the device then makes it durable:
 * whoever makes durable what refers to blobs calls this first.
 */
KV_MUST_CHECK int kv_blobs_flush(struct kv_blobs *blobs);
/* As kv_blob_pending_give and _given (kv/blob_pending.h): who flushes anyway writes the last. */
KV_MUST_CHECK int kv_blobs_give(struct kv_blobs *blobs, struct kv_io *ios, size_t ios_max,
                                size_t *count);
void kv_blobs_given(struct kv_blobs *blobs, const struct kv_io *ios, size_t count);
#define KV_BLOBS_AT_ONCE  8u  /* that are verified with one submission */
#define KV_BLOB_PARTS_MAX 32u /* that are read with one */
/* As kv_blob_read of kv.h. */
KV_MUST_CHECK int kv_blobs_read(struct kv_blobs *blobs, const struct kv_blob_part *parts,
                                size_t count);
/* As kv_blob_prefetch of kv.h. */
void kv_blobs_prefetch(struct kv_blobs *blobs, const struct kv_blob_ref *refs, size_t count);
/* As kv_blob_read_begin and _end of kv.h. */
KV_MUST_CHECK int kv_blobs_read_begin(struct kv_blobs *blobs, const struct kv_blob_part *part,
                                      struct kv_blob_reading **reading,
                                      struct kv_blob_transfer *transfer);
KV_MUST_CHECK int kv_blobs_read_end(struct kv_blobs *blobs, struct kv_blob_reading *reading,
                                    int result);
/* As kv_blob_table of kv.h. */
KV_MUST_CHECK int kv_blobs_table(struct kv_blobs *blobs, const struct kv_blob_ref *ref,
                                 uint8_t table[KV_BLOB_TABLE_MAX], size_t *length);
/* Is the whole blob on the device as the reference says? -EBADMSG ... */
KV_MUST_CHECK int kv_blobs_verify(struct kv_blobs *blobs, const struct kv_blob_ref *ref);
/* The same for up to KV_BLOBS_AT_ONCE blobs, read with one submission; a result for each. */
void kv_blobs_verify_many(struct kv_blobs *blobs, const struct kv_blob_ref *refs, size_t count,
                          int *results);

#endif
