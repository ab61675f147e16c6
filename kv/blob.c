/*
 * kv/blob.c: large values in checksummed runs of whole blocks.
 *
 * Owns       nothing: blocks belong to whoever holds the reference.
 * Invariant  a reference is filled in after its blob was written whole.
 * Locks      none.
 * On disk    the stored bytes, zero-padded to a block; digest seeded with the first block.
 */
#include "kv/blob.h"

#include "kv/codec.h"

_Static_assert(sizeof(struct kv_blob_ref) == sizeof(struct kv_disk_blob_ref), "one reference");

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

int kv_blobs_extent(const struct kv_blobs *blobs, const struct kv_blob_ref *ref, uint64_t *block,
                    uint32_t *block_count)
{
    const struct kv_disk_blob_ref disk = disk_ref(ref);
    const uint32_t length = kv_le32_get(disk.ptr.length_bytes);
    const uint32_t raw = kv_le32_get(disk.raw_bytes);
    if (!raw || raw > KV_BLOB_MAX || !length || length > raw)
        return -EUCLEAN;
    if (disk.ptr.codec == KV_CODEC_NONE && length != raw)
        return -EUCLEAN;
    *block = kv_le64_get(disk.ptr.block);
    *block_count = (uint32_t)kv_blocks_for(length);
    return kv_space_contains(blobs->space, *block, *block_count) ? 0 : -EUCLEAN;
}

static int write_packed(struct kv_blobs *blobs, uint64_t block, uint32_t block_count,
                        uint8_t *packed, size_t length)
{
    const size_t padded = block_count * (size_t)KV_BLOCK_BYTES;
    memset(packed + length, 0, padded - length);
    /* One word for all that a device may say: -ENOSPC is for space of our own. */
    return kv_device_write(blobs->device, block, block_count, packed) ? -EIO : 0;
}

int kv_blobs_write(struct kv_blobs *blobs, const void *bytes, size_t length,
                   const struct kv_codec_spec *codec, uint64_t epoch, struct kv_blob_ref *ref,
                   size_t *written)
{
    if (!length || length > KV_BLOB_MAX)
        return -EINVAL;
    const size_t room = kv_blocks_for(length) * KV_BLOCK_BYTES;
    uint8_t *packed = kv_buffers_take(blobs->buffers, room);
    if (!packed)
        return -ENOMEM;
    enum kv_codec used;
    size_t stored =
        kv_codec_pack(codec ? *codec : blobs->codec, bytes, length, packed, room, &used);
    uint32_t count = (uint32_t)kv_blocks_for(stored);
    uint64_t block;
    int err = kv_space_alloc(blobs->space, KV_SPACE_DATA, count, count, &block, &count);
    if (err == -ENOSPC) {
        /* No run is long enough: as much as fits into a shorter one, not packed. */
        count = (uint32_t)kv_blocks_for(length);
        err = kv_space_alloc(blobs->space, KV_SPACE_DATA, count, 1, &block, &count);
        if (!err) {
            length = kv_min_u64(length, count * (size_t)KV_BLOCK_BYTES);
            memcpy(packed, bytes, length);
            stored = length;
            used = KV_CODEC_NONE;
        }
    }
    if (err)
        goto out;
    err = write_packed(blobs, block, count, packed, stored);
    if (err) {
        kv_space_unalloc(blobs->space, block, count);
        goto out;
    }
    const uint64_t digest = kv_digest(packed, stored, kv_digest_seed(block, epoch));
    const struct kv_disk_blob_ref disk = {.ptr = {.block = kv_le64_of(block),
                                                  .length_bytes = kv_le32_of((uint32_t)stored),
                                                  .codec = (uint8_t)used,
                                                  .birth_epoch = kv_le64_of(epoch),
                                                  .digest = kv_le64_of(digest)},
                                          .raw_bytes = kv_le32_of((uint32_t)length)};
    memcpy(ref->bytes, &disk, sizeof disk);
    *written = length;
    (void)atomic_fetch_add_explicit(&blobs->writes, 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&blobs->write_bytes, stored, memory_order_relaxed);
out:
    kv_buffers_give(blobs->buffers, packed, room);
    return err;
}

/* Read the stored bytes into a buffer of *room bytes that the caller gives back. */
static int read_stored(struct kv_blobs *blobs, const struct kv_blob_ref *ref, uint8_t **stored,
                       size_t *room)
{
    const struct kv_disk_blob_ref disk = disk_ref(ref);
    uint64_t block;
    uint32_t count;
    int err = kv_blobs_extent(blobs, ref, &block, &count);
    if (err)
        return err;
    *room = count * (size_t)KV_BLOCK_BYTES;
    *stored = kv_buffers_take(blobs->buffers, *room);
    if (!*stored)
        return -ENOMEM;
    err = kv_device_read(blobs->device, block, count, *stored);
    const uint64_t seed = kv_digest_seed(block, kv_le64_get(disk.ptr.birth_epoch));
    if (!err && kv_digest(*stored, kv_le32_get(disk.ptr.length_bytes), seed) !=
                    kv_le64_get(disk.ptr.digest))
        err = -EBADMSG;
    if (err)
        kv_buffers_give(blobs->buffers, *stored, *room);
    (void)atomic_fetch_add_explicit(&blobs->reads, 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&blobs->read_bytes, *room, memory_order_relaxed);
    return err;
}

int kv_blobs_read(struct kv_blobs *blobs, const struct kv_blob_ref *ref, size_t offset, void *buf,
                  size_t length)
{
    const struct kv_disk_blob_ref disk = disk_ref(ref);
    const size_t raw = kv_le32_get(disk.raw_bytes);
    if (offset > raw || length > raw - offset)
        return -ERANGE;
    uint8_t *stored;
    size_t room;
    int err = read_stored(blobs, ref, &stored, &room);
    if (err)
        return err;
    const size_t stored_len = kv_le32_get(disk.ptr.length_bytes);
    if (disk.ptr.codec == KV_CODEC_NONE) {
        memcpy(buf, stored + offset, length);
    } else if (offset == 0 && length == raw) {
        err = kv_codec_unpack(disk.ptr.codec, stored, stored_len, buf, raw);
    } else {
        uint8_t *whole = kv_buffers_take(blobs->buffers, raw);
        err = whole ? kv_codec_unpack(disk.ptr.codec, stored, stored_len, whole, raw) : -ENOMEM;
        if (!err)
            memcpy(buf, whole + offset, length);
        kv_buffers_give(blobs->buffers, whole, raw);
    }
    kv_buffers_give(blobs->buffers, stored, room);
    return err;
}

int kv_blobs_verify(struct kv_blobs *blobs, const struct kv_blob_ref *ref)
{
    uint8_t *stored;
    size_t room;
    const int err = read_stored(blobs, ref, &stored, &room);
    if (!err)
        kv_buffers_give(blobs->buffers, stored, room);
    return err;
}
