/*
 * tests/faults/fuzz/fuzz_codec.c: unpacking what was not packed by us (kv/codec.h), and blobs
 * whose references or tables of frames lie about it (kv/blob.h).
 *
 * Input      codec(1) mode(1) raw length(4) stored length(4) block(4), then stored bytes. With
 *            mode's low bit set the stored bytes are packed first, so that they are good ones
 *            with a wrong length. With 4 in mode the reference is to a blob in frames, whose table
 *            is what the stored bytes begin with; with 8 the digests in it are made right.
 * Bombs      the target refuses to give more memory than the length that a page or a blob may
 *            claim; the libraries may not write a byte more.
 */
#include "tests/faults/fuzz/fuzz.h"

#include "kv/blob.h"
#include "kv/codec.h"
#include "kv/store.h"
#include "tests/kv/support_devices.h"

#define DEVICE_BLOCKS 1024u
#define GROUP_FIRST   16u

static struct kv_blobs blobs;

static void open_blobs(void)
{
    const struct kv_space_config config = {.group_first_block = GROUP_FIRST,
                                           .group_count = 1,
                                           .end_block = DEVICE_BLOCKS,
                                           .cluster_blocks = 1};
    blobs.in_frames = true;
    blobs.device = memory_device_new(DEVICE_BLOCKS);
    blobs.buffers = kv_buffers_new();
    KV_ASSERT(blobs.device && blobs.buffers);
    KV_ASSERT(kv_space_open_empty(blobs.device, &config, &blobs.space) == 0);
}

static void unpack(uint8_t codec, const struct fuzz_input *stored, size_t raw_bytes)
{
    uint8_t *const src = fuzz_copy(stored);
    uint8_t *const dst = malloc(raw_bytes ? raw_bytes : 1);
    KV_ASSERT(dst);
    const int err = kv_codec_unpack(codec, src, stored->left, dst, raw_bytes);
    KV_ASSERT(err == 0 || err == -EUCLEAN);
    KV_ASSERT(codec <= KV_CODEC_ZSTD || err);
    free(dst);
    free(src);
}

static void write_stored(uint64_t block, const struct fuzz_input *stored)
{
    const uint32_t count = (uint32_t)kv_blocks_for(stored->left);
    uint8_t *const io = kv_device_alloc(stored->left + 1);
    KV_ASSERT(io);
    if (stored->left)
        memcpy(io, stored->at, stored->left);
    if (count && block + count <= DEVICE_BLOCKS)
        KV_ASSERT(kv_device_write(blobs.device, block, count, io) == 0);
    free(io);
}

/* A reference whose digest is right, and nothing else need be. */
static void read_blob(uint8_t codec, uint64_t block, const struct fuzz_input *stored,
                      uint32_t stored_bytes, uint32_t raw_bytes)
{
    const uint64_t digest =
        kv_digest(stored->at, kv_min_u64(stored->left, stored_bytes), kv_digest_seed(block, 7));
    const struct kv_disk_blob_ref disk = {.ptr = {.block = kv_le64_of(block),
                                                  .length_bytes = kv_le32_of(stored_bytes),
                                                  .codec = codec,
                                                  .birth_epoch = kv_le64_of(7),
                                                  .digest = kv_le64_of(digest)},
                                          .raw_bytes = kv_le32_of(raw_bytes)};
    struct kv_blob_ref ref;
    memcpy(&ref, &disk, sizeof ref);
    uint64_t first;
    uint32_t count;
    if (kv_blobs_extent(&blobs, &ref, &first, &count))
        return; /* what a reader asks first */
    KV_ASSERT(raw_bytes <= KV_BLOB_MAX);
    KV_ASSERT(first >= GROUP_FIRST);
    KV_ASSERT(first + count <= DEVICE_BLOCKS);
    uint8_t *const out = kv_device_alloc(raw_bytes); /* the device may write here by itself */
    KV_ASSERT(out);
    const size_t half = raw_bytes / 2;
    const struct kv_blob_part parts[] = {
        {.ref = ref, .buf = out, .length = raw_bytes},
        {.ref = ref, .buf = out, .offset = half, .length = raw_bytes - half}};
    kv_ignore(kv_blobs_read(&blobs, &parts[0], 1));
    kv_ignore(kv_blobs_read(&blobs, &parts[1], 1));
    kv_ignore(kv_blobs_verify(&blobs, &ref));
    free(out);
}

/* The digests of frames that lie inside the stored bytes become those of what is there. */
static void mend_digests(const struct kv_disk_blob_ref *disk, const struct fuzz_input *stored,
                         uint8_t *table, size_t table_bytes)
{
    const size_t entry_bytes = kv_blob_frame_entry_bytes(disk->ptr.codec);
    const uint64_t seed =
        kv_digest_seed(kv_le64_get(disk->ptr.block), kv_le64_get(disk->ptr.birth_epoch));
    for (size_t i = 0; i < table_bytes / entry_bytes; i++) {
        struct kv_blob_frame frame;
        if (kv_blob_frames_from_table(disk, table, 0, (uint32_t)i, 1, &frame) ||
            frame.at > stored->left || frame.length_bytes > stored->left - frame.at)
            continue;
        const kv_le64 digest =
            kv_le64_of(kv_digest(stored->at + frame.at, frame.length_bytes, seed));
        memcpy(table + i * entry_bytes, &digest, sizeof digest);
    }
}

/* A blob in frames, and parts of it by a table that may say anything. */
static void read_frames(uint8_t codec, uint64_t block, const struct fuzz_input *stored,
                        uint32_t stored_bytes, uint32_t raw_bytes, bool mended)
{
    const struct kv_disk_blob_ref disk = {.ptr = {.block = kv_le64_of(block),
                                                  .length_bytes = kv_le32_of(stored_bytes),
                                                  .codec = codec,
                                                  .birth_epoch = kv_le64_of(7)},
                                          .raw_bytes = kv_le32_of(raw_bytes),
                                          .form = KV_BLOB_FORM_FRAMES};
    struct kv_blob_ref ref;
    memcpy(&ref, &disk, sizeof ref);
    uint64_t first;
    uint32_t count;
    size_t at;
    if (kv_blobs_extent(&blobs, &ref, &first, &count))
        return;
    uint8_t whole[KV_BLOB_TABLE_MAX] = {0};
    const size_t table_bytes = kv_blob_table_range(&ref, 0, raw_bytes, &at);
    KV_ASSERT(table_bytes && table_bytes <= sizeof whole);
    if (stored->left)
        memcpy(whole, stored->at, kv_min_u64(stored->left, table_bytes));
    if (mended)
        mend_digests(&disk, stored, whole, table_bytes);
    uint8_t *const out = kv_device_alloc(raw_bytes);
    KV_ASSERT(out);
    kv_ignore(kv_blobs_verify(&blobs, &ref));
    for (uint32_t offset = 0; offset < raw_bytes; offset += raw_bytes / 7 + 1) {
        const uint32_t length = (uint32_t)kv_min_u64(raw_bytes - offset, 1 + raw_bytes / 5);
        const size_t slice = kv_blob_table_range(&ref, offset, length, &at);
        uint8_t *const table = malloc(slice); /* no more may be looked at */
        KV_ASSERT(table);
        memcpy(table, whole + at, slice);
        const struct kv_blob_part part = {.ref = ref,
                                          .buf = out + offset,
                                          .offset = offset,
                                          .length = length,
                                          .table = table,
                                          .table_from = offset,
                                          .table_to = offset + length};
        kv_ignore(kv_blobs_read(&blobs, &part, 1));
        free(table);
    }
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (!blobs.device)
        open_blobs();
    struct fuzz_input input = {bytes, length};
    const uint8_t codec = fuzz_u8(&input);
    const uint8_t mode = fuzz_u8(&input);
    const uint32_t raw_bytes = fuzz_u32(&input);
    const uint32_t stored_bytes = fuzz_u32(&input);
    const uint64_t block = fuzz_u32(&input) % (2 * DEVICE_BLOCKS);

    uint8_t *packed = NULL;
    if ((mode & 1) && input.left) {
        packed = malloc(input.left);
        KV_ASSERT(packed);
        enum kv_codec used;
        const struct kv_codec_spec spec = {.codec = codec % 3};
        const size_t used_bytes =
            kv_codec_pack(spec, input.at, input.left, packed, input.left, &used);
        input = (struct fuzz_input){packed, used_bytes};
    }
    unpack(codec, &input, raw_bytes % (KV_BLOB_MAX + 1));
    unpack(codec, &input, KV_NODE_BYTES_MIN);
    write_stored(block, &input);
    const uint32_t claimed_bytes = mode & 2 ? stored_bytes : (uint32_t)input.left;
    read_blob(codec, block, &input, claimed_bytes, raw_bytes);
    if (mode & 4)
        read_frames(codec, block, &input, claimed_bytes, raw_bytes, mode & 8);
    free(packed);
    return 0;
}
