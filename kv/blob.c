/*
 * kv/blob.c: large values in checksummed runs of whole blocks.
 *
 * Owns       nothing: blocks belong to whoever holds the reference.
 * Invariant  a blob whose reference is known is on the device, or waits in blob_pending.c, whole.
 * Locks      none.
 * On disk    the stored bytes, zero-padded to a block; digests are seeded with the first block and
 *            the epoch. What they are of says kv/blob_frames.h.
 */
#include "kv/blob.h"

#include "kv/codec.h"

static_assert(sizeof(struct kv_blob_ref) == sizeof(struct kv_disk_blob_ref), "one reference");

static struct kv_disk_blob_ref disk_ref(const struct kv_blob_ref *ref)
{
    struct kv_disk_blob_ref disk;
    memcpy(&disk, ref->bytes, sizeof disk);
    return disk;
}

size_t kv_blob_length(const struct kv_blob_ref *ref)
{
    return kv_le32_get(disk_ref(ref).raw_bytes);
}

size_t kv_blob_stored_bytes(const struct kv_blob_ref *ref)
{
    return kv_blocks_for(kv_le32_get(disk_ref(ref).ptr.length_bytes)) * KV_BLOCK_BYTES;
}

enum kv_codec kv_blob_codec(const struct kv_blob_ref *ref)
{
    const uint8_t codec = disk_ref(ref).ptr.codec;
    return codec == KV_CODEC_LZ4 || codec == KV_CODEC_ZSTD ? (enum kv_codec)codec : KV_CODEC_NONE;
}

int kv_blobs_extent(const struct kv_blobs *blobs, const struct kv_blob_ref *ref, uint64_t *block,
                    uint32_t *block_count)
{
    const struct kv_disk_blob_ref disk = disk_ref(ref);
    const uint32_t length = kv_le32_get(disk.ptr.length_bytes);
    const uint32_t raw = kv_le32_get(disk.raw_bytes);
    if (!raw || raw > KV_BLOB_MAX || !length || length > raw)
        return -EUCLEAN;
    if (disk.ptr.codec > KV_CODEC_ZSTD || (disk.ptr.codec == KV_CODEC_NONE && length != raw))
        return -EUCLEAN;
    if (disk.form > (blobs->in_frames ? KV_BLOB_FORM_FRAMES : KV_BLOB_FORM_WHOLE) ||
        (disk.form == KV_BLOB_FORM_FRAMES && !kv_blob_frame_bytes(disk.ptr.codec, raw)))
        return -EUCLEAN;
    *block = kv_le64_get(disk.ptr.block);
    *block_count = (uint32_t)kv_blocks_for(length);
    return kv_space_contains(blobs->space, *block, *block_count) ? 0 : -EUCLEAN;
}

/* Content of a frame of what the reference names; 0: it is in none, or makes no sense. */
static uint32_t frame_bytes_of(const struct kv_disk_blob_ref *disk)
{
    const uint32_t raw = kv_le32_get(disk->raw_bytes);
    return disk->form == KV_BLOB_FORM_FRAMES && raw <= KV_BLOB_MAX
               ? kv_blob_frame_bytes(disk->ptr.codec, raw)
               : 0;
}

size_t kv_blob_table_range(const struct kv_blob_ref *ref, size_t offset, size_t length, size_t *at)
{
    const struct kv_disk_blob_ref disk = disk_ref(ref);
    const uint32_t frame_bytes = frame_bytes_of(&disk);
    const size_t raw = kv_le32_get(disk.raw_bytes);
    *at = 0;
    if (!frame_bytes || !length || offset > raw || length > raw - offset)
        return 0;
    const size_t entry_bytes = kv_blob_frame_entry_bytes(disk.ptr.codec);
    const size_t first = offset / frame_bytes;
    *at = first * entry_bytes;
    return ((offset + length - 1) / frame_bytes + 1 - first) * entry_bytes;
}

bool kv_blob_table_agrees(const struct kv_blob_ref *ref, size_t offset, size_t length,
                          const void *table)
{
    const struct kv_disk_blob_ref disk = disk_ref(ref);
    size_t at, whole_at;
    const size_t bytes = kv_blob_table_range(ref, offset, length, &at);
    if (bytes != kv_blob_table_range(ref, 0, kv_le32_get(disk.raw_bytes), &whole_at) || !bytes)
        return true;
    return kv_blob_frames_root(&disk, table, bytes) == kv_le64_get(disk.ptr.digest);
}

/* Nothing of it stays in the cache, in whatever form. */
static void forget(struct kv_blobs *blobs, const struct kv_disk_blob_ref *disk)
{
    if (!blobs->cache)
        return;
    const uint32_t frame_bytes = frame_bytes_of(disk);
    kv_blob_cache_drop(blobs->cache, disk,
                       frame_bytes ? kv_blob_frame_count(kv_le32_get(disk->raw_bytes), frame_bytes)
                                   : 1);
}

void kv_blobs_discard(struct kv_blobs *blobs, const struct kv_blob_ref *ref)
{
    uint64_t block;
    uint32_t count;
    if (kv_blobs_extent(blobs, ref, &block, &count))
        return;
    const struct kv_disk_blob_ref disk = disk_ref(ref);
    if (blobs->pending)
        kv_blob_pending_cancel(blobs->pending, &disk);
    forget(blobs, &disk);
    kv_space_unalloc(blobs->space, block, count);
}

void kv_blobs_unwanted(struct kv_blobs *blobs, const struct kv_blob_ref *ref)
{
    const struct kv_disk_blob_ref disk = disk_ref(ref);
    if (!blobs->cache)
        return;
    if (blobs->pending)
        kv_blob_pending_unwanted(blobs->pending, &disk);
    forget(blobs, &disk);
}

void kv_blobs_keep_written(struct kv_blobs *blobs, const struct kv_disk_blob_ref *ref,
                           const uint8_t *stored)
{
    const uint32_t raw = kv_le32_get(ref->raw_bytes);
    if (!blobs->cache || raw > KV_BLOB_WRITTEN_MAX)
        return;
    if (ref->ptr.codec != KV_CODEC_NONE) {
        kv_blob_cache_keep(blobs->cache, ref, KV_BLOB_PIECE_STORED, stored,
                           kv_le32_get(ref->ptr.length_bytes), KV_BLOB_WRITTEN);
        return;
    }
    const uint32_t frame_bytes = frame_bytes_of(ref), step = frame_bytes ? frame_bytes : raw;
    for (uint32_t at = 0; at < raw; at += step)
        kv_blob_cache_keep(blobs->cache, ref, at / step, stored + at, kv_min_u64(step, raw - at),
                           KV_BLOB_WRITTEN);
}

int kv_blobs_give(struct kv_blobs *blobs, struct kv_io *ios, size_t ios_max, size_t *count)
{
    *count = 0;
    kv_blob_run_flushed(blobs->run);
    return blobs->pending ? kv_blob_pending_give(blobs->pending, ios, ios_max, count) : 0;
}

void kv_blobs_given(struct kv_blobs *blobs, const struct kv_io *ios, size_t count)
{
    kv_blob_pending_given(blobs->pending, ios, count);
}

int kv_blobs_flush(struct kv_blobs *blobs)
{
    return blobs->pending ? kv_blob_pending_flush(blobs->pending) : 0;
}
