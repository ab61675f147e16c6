/*
 * kv/blob.c: large values in checksummed runs of whole blocks.
 *
 * Owns       nothing: blocks belong to whoever holds the reference.
 * Invariant  a blob whose reference is known is on the device, or waits in blob_pending.c, whole.
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

void kv_blobs_discard(struct kv_blobs *blobs, const struct kv_blob_ref *ref)
{
    uint64_t block;
    uint32_t count;
    if (kv_blobs_extent(blobs, ref, &block, &count))
        return;
    const struct kv_disk_blob_ref disk = disk_ref(ref);
    if (blobs->pending)
        kv_blob_pending_cancel(blobs->pending, &disk);
    kv_space_unalloc(blobs->space, block, count);
}

int kv_blobs_give(struct kv_blobs *blobs, struct kv_io *ios, size_t ios_max, size_t *count)
{
    *count = 0;
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

/* A blob on its way into memory. */
struct load {
    struct kv_disk_blob_ref disk;
    const uint8_t *stored; /* room bytes */
    uint8_t *memory;       /* where the device puts them */
    size_t room;
    bool lent; /* `stored` is the caller's: what it wants is all of the blob as it is stored */
    const struct kv_blob_part *part; /* what is wanted of it, and the next two are for reading */
    bool ended;                      /* it was verified and given out, or `result` says why not */
    int result;
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
    load->memory = target ? target : kv_buffers_take(blobs->buffers, load->room);
    if (!load->memory)
        return -ENOMEM;
    load->stored = load->memory;
    *io = (struct kv_io){
        .kind = KV_IO_READ, .block = block, .block_count = count, .buf = load->memory};
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
        kv_buffers_give(blobs->buffers, load->memory, load->room);
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

/* The part of a blob that waits to be written, or did so lately. *found false: it is not there. */
static int read_pending(struct kv_blobs *blobs, const struct kv_blob_part *part, bool *found)
{
    struct load load = {.disk = disk_ref(&part->ref)};
    uint64_t number;
    const uint8_t *stored =
        blobs->pending ? kv_blob_pending_pin(blobs->pending, &load.disk, &number) : NULL;
    *found = stored != NULL;
    if (!stored)
        return 0;
    int err = 0;
    if (load.disk.ptr.codec == KV_CODEC_NONE) {
        memcpy(part->buf, stored + part->offset, part->length);
    } else {
        load.stored = stored;
        err = unpack_part(blobs, &load, part->offset, part->buf, part->length);
    }
    kv_blob_pending_unpin(blobs->pending, number);
    return err;
}

/* Blobs side by side go with one request up to here; longer ones are verified as they come. */
#define MERGED_BLOCKS_MAX 32u

/* Requests of one submission, and for each the loads that it serves: [first, next request's). */
struct reading {
    struct kv_blobs *blobs;
    struct load loads[KV_BLOB_PARTS_MAX];
    struct kv_io ios[KV_BLOB_PARTS_MAX];
    size_t first[KV_BLOB_PARTS_MAX + 1];
    size_t load_count, io_count;
};

/* The bytes are there: verify them, and give out what is wanted. */
static void end_part(struct kv_blobs *blobs, struct load *load)
{
    const struct kv_blob_part *const part = load->part;
    load->ended = true;
    load->result = verify_load(blobs, load);
    if (load->result)
        return;
    if (load->lent)
        keep(blobs, load, load->stored, part->length);
    else
        load->result = unpack_part(blobs, load, part->offset, part->buf, part->length);
}

/* A request is done, maybe while others are under way. */
static void end_request(struct kv_io *io)
{
    struct reading *const reading = io->context;
    const size_t at = (size_t)(io - reading->ios);
    KV_ASSERT(at < reading->io_count);
    for (size_t i = reading->first[at]; i < reading->first[at + 1] && !io->result; i++)
        end_part(reading->blobs, &reading->loads[i]);
}

/* One more blob to be read. */
static int add_load(struct reading *reading, const struct kv_blob_part *part)
{
    struct load *const load = &reading->loads[reading->load_count];
    struct kv_io *const io = &reading->ios[reading->io_count];
    *load = (struct load){.part = part};
    const int err = begin_load(reading->blobs, &part->ref, target_of(part), load, io);
    if (err)
        return err;
    struct kv_io *const last = reading->io_count ? io - 1 : NULL;
    if (last && last->block + last->block_count == io->block &&
        (uint8_t *)last->buf + kv_io_bytes(last) == load->memory &&
        last->block_count + io->block_count <= MERGED_BLOCKS_MAX) {
        last->block_count += io->block_count;
    } else {
        io->done = end_request;
        io->context = reading;
        reading->first[reading->io_count++] = reading->load_count;
    }
    reading->first[reading->io_count] = ++reading->load_count;
    return 0;
}

/* At most KV_BLOB_PARTS_MAX parts. What is not in memory is read with one submission. */
static int read_together(struct kv_blobs *blobs, const struct kv_blob_part *parts, size_t count)
{
    struct reading reading;
    reading.blobs = blobs;
    reading.load_count = reading.io_count = 0;
    int err = 0;
    for (size_t i = 0; i < count && !err; i++) {
        const struct kv_blob_part *part = &parts[i];
        const size_t raw = kv_blob_length(&part->ref);
        if (part->offset > raw || part->length > raw - part->offset) {
            err = -ERANGE;
            break;
        }
        bool found = is_cached(blobs, part);
        if (!found)
            err = read_pending(blobs, part, &found);
        if (!found)
            err = add_load(&reading, part);
    }
    if (!err && reading.io_count)
        err = kv_device_submit(blobs->device, reading.ios, reading.io_count, false);
    for (size_t i = 0; i < reading.load_count; i++) {
        struct load *const load = &reading.loads[i];
        if (!err && !load->ended)
            end_part(blobs, load);
        if (!err)
            err = load->result;
        end_load(blobs, load);
    }
    return err;
}

int kv_blobs_read(struct kv_blobs *blobs, const struct kv_blob_part *parts, size_t count)
{
    int err = 0;
    for (size_t at = 0; at < count && !err; at += KV_BLOB_PARTS_MAX)
        err = read_together(blobs, parts + at, kv_min_u64(count - at, KV_BLOB_PARTS_MAX));
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
    const int unwritten = kv_blobs_flush(blobs); /* damage is what was written and is not there */
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
        if (results[i] == -EBADMSG && unwritten)
            results[i] = unwritten;
        end_load(blobs, &loads[i]);
    }
}
