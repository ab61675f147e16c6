/*
 * kv/blob_write.c: blobs are packed, placed, and given to who brings them to the device.
 *
 * Owns       the packed bytes of blobs that are being written.
 * Invariant  a reference is filled in when the blob's bytes are on the device or wait in
 *            blob_pending.c; after an error its blocks are free again.
 * Locks      none.
 *
 * Of several blobs, those that look as if they shrink are packed at the same time, by whoever is
 * idle; they are placed in their order, so that neighbours in a file are neighbours on the device.
 */
#include "kv/blob.h"
#include "kv/codec.h"
#include "kv/metrics.h"

/* A blob to be written: its bytes as they will be stored, and where. */
struct store_plan {
    const uint8_t *bytes; /* the caller's, or in `packed` */
    size_t length;        /* of what the caller gave that is taken */
    size_t stored;        /* bytes */
    uint8_t codec;
    bool wants_frames; /* if it is long enough for them */
    uint64_t block;
    uint32_t count;
    uint8_t *packed; /* room bytes, or NULL */
    size_t room;
};

/* What is packed together. */
struct packing {
    struct kv_codec_spec codec;
    struct kv_metrics *metrics;
    struct store_plan *plans[KV_BLOB_SOURCES_MAX];
    size_t count;
};

/* Will it be, packed that way? */
static bool is_in_frames(const struct store_plan *plan, uint8_t codec)
{
    return plan->wants_frames && kv_blob_frame_bytes(codec, (uint32_t)plan->length);
}

static void pack_one(void *context, size_t item)
{
    struct packing *const packing = context;
    struct store_plan *const plan = packing->plans[item];
    const uint64_t begin = kv_metrics_begin(packing->metrics, KV_METRIC_CODEC);
    const size_t packed = is_in_frames(plan, (uint8_t)packing->codec.codec)
                              ? kv_blob_frames_pack(packing->codec, plan->bytes, plan->length,
                                                    plan->packed, plan->room)
                              : kv_codec_shrink(packing->codec, plan->bytes, plan->length,
                                                plan->packed, kv_codec_limit(plan->length));
    kv_metrics_packed(packing->metrics, begin, packed ? packing->codec.codec : KV_CODEC_NONE,
                      plan->length, packed ? packed : plan->length);
    if (!packed)
        return;
    plan->bytes = plan->packed;
    plan->stored = packed;
    plan->codec = (uint8_t)packing->codec.codec;
}

/* Pack what shrinks, several at the same time. */
static int pack_all(struct kv_blobs *blobs, const struct kv_blob_source *sources, size_t count,
                    struct kv_codec_spec codec, struct store_plan *plans)
{
    struct packing packing = {.codec = codec, .metrics = blobs->device->metrics};
    for (size_t i = 0; i < count; i++)
        plans[i] = (struct store_plan){.bytes = sources[i].bytes,
                                       .length = sources[i].length,
                                       .stored = sources[i].length,
                                       .codec = KV_CODEC_NONE,
                                       .wants_frames = blobs->in_frames && sources[i].table};
    for (size_t i = 0; i < count; i++) {
        struct store_plan *const plan = &plans[i];
        const uint64_t begin = kv_metrics_begin(packing.metrics, KV_METRIC_CODEC);
        if (!kv_codec_may_shrink(codec, plan->bytes, plan->length)) {
            /* A look at a sample was enough; what has a block or less, nobody looks at. */
            if (codec.codec != KV_CODEC_NONE && plan->length > KV_BLOCK_BYTES)
                kv_metrics_packed(packing.metrics, begin, KV_CODEC_NONE, plan->length,
                                  plan->length);
            continue;
        }
        plan->room = (kv_blocks_for(plan->length) + 1) * KV_BLOCK_BYTES; /* and lengths of frames */
        plan->packed = kv_buffers_take(blobs->buffers, plan->room);
        if (!plan->packed)
            return -ENOMEM;
        packing.plans[packing.count++] = plan;
    }
    kv_crew_do(blobs->crew, pack_one, &packing, packing.count);
    return 0;
}

/* Find a place for it. */
static int place(struct kv_blobs *blobs, const struct kv_blob_source *source,
                 struct store_plan *plan)
{
    plan->count = (uint32_t)kv_blocks_for(plan->stored);
    if (kv_blob_run_take(blobs->run, plan->count, &plan->block))
        return 0;
    int err;
    do
        err = kv_space_alloc(blobs->space, KV_SPACE_DATA, plan->count, plan->count, &plan->block,
                             &plan->count);
    while (err == -ENOSPC && kv_blob_run_release(blobs->run));
    if (err != -ENOSPC)
        return err;
    /* No run is long enough: as much as fits into a shorter one, not packed. */
    plan->count = (uint32_t)kv_blocks_for(source->length);
    err = kv_space_alloc(blobs->space, KV_SPACE_DATA, plan->count, 1, &plan->block, &plan->count);
    plan->length = plan->stored = kv_min_u64(source->length, plan->count * (size_t)KV_BLOCK_BYTES);
    plan->bytes = source->bytes;
    plan->codec = KV_CODEC_NONE;
    return err;
}

/* Put what will be stored into `memory`, plan->count blocks; the reference to it, and its table. */
static struct kv_disk_blob_ref fill(const struct store_plan *plan, uint64_t epoch, uint8_t *memory,
                                    struct kv_blob_source *source)
{
    struct kv_disk_blob_ref disk = {.ptr = {.block = kv_le64_of(plan->block),
                                            .length_bytes = kv_le32_of((uint32_t)plan->stored),
                                            .codec = plan->codec,
                                            .birth_epoch = kv_le64_of(epoch)},
                                    .raw_bytes = kv_le32_of((uint32_t)plan->length)};
    uint64_t digest;
    const bool in_frames = is_in_frames(plan, plan->codec);
    const bool copies = in_frames && plan->codec == KV_CODEC_NONE;
    if (!copies)
        memcpy(memory, plan->bytes, plan->stored);
    memset(memory + plan->stored, 0, plan->count * (size_t)KV_BLOCK_BYTES - plan->stored);
    source->table_length = 0;
    if (in_frames) {
        disk.form = KV_BLOB_FORM_FRAMES;
        source->table_length = copies
                                   ? kv_blob_frames_copy(&disk, plan->bytes, memory, source->table)
                                   : kv_blob_frames_table(&disk, memory, source->table);
        KV_ASSERT(source->table_length);
        digest = kv_blob_frames_root(&disk, source->table, source->table_length);
    } else {
        digest = kv_digest(memory, plan->stored, kv_digest_seed(plan->block, epoch));
    }
    disk.ptr.digest = kv_le64_of(digest);
    return disk;
}

/* To the device before this returns. */
static int write_now(struct kv_blobs *blobs, const struct store_plan *plan, uint64_t epoch,
                     struct kv_blob_source *source, struct kv_disk_blob_ref *disk)
{
    const size_t room = plan->count * (size_t)KV_BLOCK_BYTES;
    uint8_t *memory = kv_buffers_take(blobs->buffers, room);
    if (!memory)
        return -ENOMEM;
    *disk = fill(plan, epoch, memory, source);
    /* One word for all that a device may say: -ENOSPC is for space of our own. */
    const int err = kv_device_write(blobs->device, plan->block, plan->count, memory) ? -EIO : 0;
    kv_buffers_give(blobs->buffers, memory, room);
    return err;
}

/* Into memory, from where it goes to the device before the next flush. */
static int write_later(struct kv_blobs *blobs, const struct store_plan *plan, uint64_t epoch,
                       struct kv_blob_source *source, struct kv_disk_blob_ref *disk)
{
    struct kv_blob_slot slot;
    const int err = kv_blob_pending_begin(blobs->pending, plan->block, plan->count, &slot);
    if (err)
        return err;
    *disk = fill(plan, epoch, slot.bytes, source);
    kv_blob_pending_end(blobs->pending, &slot, disk);
    return 0;
}

static int write_one(struct kv_blobs *blobs, struct kv_blob_source *source, struct store_plan *plan,
                     uint64_t epoch)
{
    struct kv_disk_blob_ref disk;
    int err = place(blobs, source, plan);
    if (err)
        return err;
    const bool waits = blobs->pending && plan->count <= kv_blob_pending_blocks_max(blobs->pending);
    err = waits ? write_later(blobs, plan, epoch, source, &disk)
                : write_now(blobs, plan, epoch, source, &disk);
    if (err) {
        kv_space_unalloc(blobs->space, plan->block, plan->count);
        return err;
    }
    memcpy(source->ref.bytes, &disk, sizeof disk);
    source->written = plan->length;
    (void)atomic_fetch_add_explicit(&blobs->writes, 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&blobs->write_bytes, plan->stored, memory_order_relaxed);
    return 0;
}

int kv_blobs_write_many(struct kv_blobs *blobs, struct kv_blob_source *sources, size_t count,
                        const struct kv_codec_spec *codec, uint64_t epoch)
{
    KV_ASSERT(count <= KV_BLOB_SOURCES_MAX);
    for (size_t i = 0; i < count; i++)
        sources[i].written = 0;
    for (size_t i = 0; i < count; i++)
        if (!sources[i].length || sources[i].length > KV_BLOB_MAX)
            return -EINVAL;
    struct store_plan plans[KV_BLOB_SOURCES_MAX];
    int err = pack_all(blobs, sources, count, codec ? *codec : blobs->codec, plans);
    for (size_t i = 0; i < count && !err; i++)
        err = write_one(blobs, &sources[i], &plans[i], epoch);
    for (size_t i = 0; i < count; i++)
        kv_buffers_give(blobs->buffers, plans[i].packed, plans[i].room);
    return err;
}

int kv_blobs_write(struct kv_blobs *blobs, const void *bytes, size_t length,
                   const struct kv_codec_spec *codec, uint64_t epoch, struct kv_blob_ref *ref,
                   size_t *written)
{
    struct kv_blob_source source = {.bytes = bytes, .length = length};
    const int err = kv_blobs_write_many(blobs, &source, 1, codec, epoch);
    if (err)
        return err;
    *ref = source.ref;
    *written = source.written;
    return 0;
}
