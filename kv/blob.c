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
    struct kv_metrics *metrics = blobs->device->metrics;
    const uint64_t begin = kv_metrics_begin(metrics, KV_METRIC_CODEC);
    size_t stored =
        kv_codec_pack(codec ? *codec : blobs->codec, bytes, length, packed, room, &used);
    kv_metrics_packed(metrics, begin, used, length, stored);
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

/* A blob on its way into memory. */
struct load {
    struct kv_disk_blob_ref disk;
    uint8_t *stored; /* room bytes */
    size_t room;
    bool lent; /* `stored` is the caller's: what it wants is all of the blob as it is stored */
};

/* Check the reference, find memory (`target`, unless NULL), fill in the request. */
static int begin_load(struct kv_blobs *blobs, const struct kv_blob_ref *ref, void *target,
                      struct load *load, struct kv_io *io)
{
    uint64_t block;
    uint32_t count;
    const int err = kv_blobs_extent(blobs, ref, &block, &count);
    if (err)
        return err;
    load->disk = disk_ref(ref);
    load->room = count * (size_t)KV_BLOCK_BYTES;
    load->lent = target;
    load->stored = target ? target : kv_buffers_take(blobs->buffers, load->room);
    if (!load->stored)
        return -ENOMEM;
    *io = (struct kv_io){
        .kind = KV_IO_READ, .block = block, .block_count = count, .buf = load->stored};
    return 0;
}

/* Are these the bytes that the reference means? */
static int verify_load(struct kv_blobs *blobs, const struct load *load)
{
    const struct kv_disk_ptr *ptr = &load->disk.ptr;
    const uint64_t seed = kv_digest_seed(kv_le64_get(ptr->block), kv_le64_get(ptr->birth_epoch));
    (void)atomic_fetch_add_explicit(&blobs->reads, 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&blobs->read_bytes, load->room, memory_order_relaxed);
    const uint64_t digest = kv_digest(load->stored, kv_le32_get(ptr->length_bytes), seed);
    return digest == kv_le64_get(ptr->digest) || KV_PLANT(blob_checksum_ignored) ? 0 : -EBADMSG;
}

static void end_load(struct kv_blobs *blobs, struct load *load)
{
    if (!load->lent)
        kv_buffers_give(blobs->buffers, load->stored, load->room);
}

/* Blobs up to this length are kept when they were read whole, too: reading 32 KiB takes the device
 * hardly longer than reading one block. */
#define KEEP_WHOLE_BYTES 32768u

static void keep(struct kv_blobs *blobs, const struct load *load, const uint8_t *content,
                 size_t wanted)
{
    const size_t raw = kv_le32_get(load->disk.raw_bytes);
    if (blobs->cache && (wanted < raw || raw <= KEEP_WHOLE_BYTES))
        kv_blob_cache_keep(blobs->cache, &load->disk, content);
}

static int unpack(struct kv_blobs *blobs, const struct load *load, uint8_t *whole, size_t raw)
{
    const uint8_t codec = load->disk.ptr.codec;
    struct kv_metrics *metrics = blobs->device->metrics;
    const uint64_t begin = kv_metrics_begin(metrics, KV_METRIC_CODEC);
    const int err =
        kv_codec_unpack(codec, load->stored, kv_le32_get(load->disk.ptr.length_bytes), whole, raw);
    kv_metrics_unpacked(metrics, begin, codec, raw);
    return err;
}

/* Bytes of a blob that was read and verified. */
static int unpack_part(struct kv_blobs *blobs, const struct load *load, size_t offset, void *buf,
                       size_t length)
{
    const size_t raw = kv_le32_get(load->disk.raw_bytes);
    if (load->disk.ptr.codec == KV_CODEC_NONE) {
        memcpy(buf, load->stored + offset, length);
        keep(blobs, load, load->stored, length);
        return 0;
    }
    if (offset == 0 && length == raw) {
        const int err = unpack(blobs, load, buf, raw);
        if (!err)
            keep(blobs, load, buf, length);
        return err;
    }
    uint8_t *whole = kv_buffers_take(blobs->buffers, raw);
    if (!whole)
        return -ENOMEM;
    const int err = unpack(blobs, load, whole, raw);
    if (!err)
        memcpy(buf, whole + offset, length);
    if (!err)
        keep(blobs, load, whole, length);
    kv_buffers_give(blobs->buffers, whole, raw);
    return err;
}

/* Can the device write where the caller wants the bytes? */
static void *target_of(const struct kv_blob_part *part)
{
    const struct kv_disk_blob_ref disk = disk_ref(&part->ref);
    const bool as_stored = disk.ptr.codec == KV_CODEC_NONE && part->offset == 0 &&
                           part->length == kv_le32_get(disk.raw_bytes) &&
                           part->length == kv_le32_get(disk.ptr.length_bytes);
    const bool aligned =
        (uintptr_t)part->buf % KV_BLOCK_BYTES == 0 && part->length % KV_BLOCK_BYTES == 0;
    return as_stored && aligned ? part->buf : NULL;
}

static bool is_cached(struct kv_blobs *blobs, const struct kv_blob_part *part)
{
    const struct kv_disk_blob_ref disk = disk_ref(&part->ref);
    return blobs->cache &&
           kv_blob_cache_copy(blobs->cache, &disk, part->offset, part->buf, part->length);
}

/* At most KV_BLOBS_AT_ONCE parts. What is not in memory is read with one submission. */
static int read_together(struct kv_blobs *blobs, const struct kv_blob_part *parts, size_t count)
{
    struct load loads[KV_BLOBS_AT_ONCE];
    struct kv_io ios[KV_BLOBS_AT_ONCE];
    const struct kv_blob_part *wanted[KV_BLOBS_AT_ONCE];
    size_t begun = 0;
    int err = 0;
    for (size_t i = 0; i < count && !err; i++) {
        const struct kv_blob_part *part = &parts[i];
        const size_t raw = kv_blob_length(&part->ref);
        if (part->offset > raw || part->length > raw - part->offset)
            err = -ERANGE;
        else if (!is_cached(blobs, part))
            err = begin_load(blobs, &part->ref, target_of(part), &loads[begun], &ios[begun]);
        else
            continue;
        wanted[begun] = part;
        begun += !err;
    }
    if (!err && begun)
        err = kv_device_submit(blobs->device, ios, begun, false);
    for (size_t i = 0; i < begun && !err; i++) {
        err = verify_load(blobs, &loads[i]);
        if (!err && !loads[i].lent)
            err =
                unpack_part(blobs, &loads[i], wanted[i]->offset, wanted[i]->buf, wanted[i]->length);
        else if (!err)
            keep(blobs, &loads[i], loads[i].stored, wanted[i]->length);
    }
    for (size_t i = 0; i < begun; i++)
        end_load(blobs, &loads[i]);
    return err;
}

int kv_blobs_read(struct kv_blobs *blobs, const struct kv_blob_part *parts, size_t count)
{
    int err = 0;
    for (size_t at = 0; at < count && !err; at += KV_BLOBS_AT_ONCE)
        err = read_together(blobs, parts + at, kv_min_u64(count - at, KV_BLOBS_AT_ONCE));
    return err;
}

int kv_blobs_verify(struct kv_blobs *blobs, const struct kv_blob_ref *ref)
{
    int result;
    kv_blobs_verify_many(blobs, ref, 1, &result);
    return result;
}

void kv_blobs_verify_many(struct kv_blobs *blobs, const struct kv_blob_ref *refs, size_t count,
                          int *results)
{
    struct load loads[KV_BLOBS_AT_ONCE];
    struct kv_io ios[KV_BLOBS_AT_ONCE];
    size_t io_count = 0;
    KV_ASSERT(count <= KV_BLOBS_AT_ONCE);
    for (size_t i = 0; i < count; i++) {
        results[i] = begin_load(blobs, &refs[i], NULL, &loads[i], &ios[io_count]);
        if (!results[i])
            ios[io_count++].result = -EIO;
    }
    if (io_count) /* each request has its own result */
        kv_ignore(kv_device_submit(blobs->device, ios, io_count, false));
    for (size_t i = 0, at = 0; i < count; i++) {
        if (results[i])
            continue;
        results[i] = ios[at++].result;
        if (!results[i])
            results[i] = verify_load(blobs, &loads[i]);
        end_load(blobs, &loads[i]);
    }
}
