/*
 * tests/faults/fuzz/fuzz_superblock.c: superblocks whose digests are right (kv/superblock.h),
 * and opening what they describe.
 *
 * Input      which copies(1), then patches offset(2) length(1) bytes of the superblock of an
 *            empty image, until a length of 0; then the same for the other copy. Whether it is
 *            opened, which takes a hundred times as long as reading it, is said in the first byte
 *            or drawn there, once in 16, by the digest of the input.
 */
#include "tests/faults/fuzz/fuzz.h"

#include "kv/codec.h"
#include "kv/format.h"
#include "kv/superblock.h"
#include "tests/faults/fuzz/image_bytes.h"
#include "tests/faults/fuzz/image_repair.h"
#include "tests/kv/support_devices.h"
#include "tests/kv/support_store.h"

#define IMAGE_BLOCKS (KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)

static struct image_bytes *image;

static void make_image(void)
{
    image = image_bytes_new(IMAGE_BLOCKS);
    test_create_on(image_bytes_device(image), KV_NODE_BYTES_MIN, KV_CODEC_ZSTD, KV_LOG_BYTES_MIN);
    image_bytes_keep(image);
}

static void patch(uint64_t block, struct fuzz_input *input)
{
    uint8_t *const bytes = image_bytes_change(image, block);
    for (;;) {
        const size_t at = fuzz_u16(input) % KV_BLOCK_BYTES;
        size_t length = fuzz_u8(input);
        if (!length)
            return;
        length = kv_min_u64(length, KV_BLOCK_BYTES - at);
        fuzz_take(input, bytes + at, length);
    }
}

static void read_one(bool with_backup)
{
    struct kv_disk_superblock superblock;
    enum kv_superblock_twin twin;
    struct kv_error error = {""};
    const int err = kv_superblock_read(image_bytes_device(image), "image", with_backup, &superblock,
                                       &twin, &error);
    if (err) {
        KV_ASSERT(error.text[0]);
        KV_ASSERT(memchr(error.text, '\0', sizeof error.text));
        return;
    }
    struct kv_image_info info;
    kv_superblock_info(&superblock, &info);
    KV_ASSERT(memchr(info.label, '\0', sizeof info.label));
    KV_ASSERT(info.image_bytes <= IMAGE_BLOCKS * KV_BLOCK_BYTES);
}

static void open_it(bool repair, bool read_only)
{
    const struct kv_open_options options = {.memory_budget_bytes = 8u << 20,
                                            .no_background = true,
                                            .repair = repair,
                                            .read_only = read_only,
                                            .log = test_log_nothing,
                                            .device = image_bytes_device(image)};
    struct kv_store *store;
    struct kv_error error = {""};
    if (kv_open("image", &options, &store, &error)) {
        KV_ASSERT(error.text[0]);
        return;
    }
    kv_ignore(kv_put(store, "key", 3, "value", 5));
    kv_ignore(kv_close(store));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (!image)
        make_image();
    image_bytes_restore(image);
    struct fuzz_input input = {bytes, length};
    const uint8_t mode = fuzz_u8(&input);
    patch(KV_SUPERBLOCK_A_BLOCK, &input);
    if (mode & 1)
        patch(KV_SUPERBLOCK_B_BLOCK, &input);
    if (mode & 2)
        patch(IMAGE_BLOCKS - 1, &input);
    if (!(mode & 4))
        image_repair_superblocks(image);
    read_one(mode & 8);
    const bool drawn = kv_digest(bytes, length, 0) % 16 == 0;
    if (mode & FUZZ_DRAWN ? drawn : mode & 16)
        open_it(mode & 8, mode & 32);
    return 0;
}
