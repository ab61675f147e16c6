/*
 * tests/faults/fuzz/image_bytes.c: an image in memory that is changed, used, and put back.
 *
 * Owns       two copies of the image: as it is, and as it was kept.
 * Invariant  a block that differs from the kept copy is in `changed`, once.
 */
#include "tests/faults/fuzz/image_bytes.h"

struct image_bytes {
    struct kv_device device;
    uint8_t *bytes, *kept;
    bool *is_changed; /* by block */
    uint64_t *changed;
    size_t changed_count;
};

static void note_change(struct image_bytes *image, uint64_t block)
{
    if (image->is_changed[block])
        return;
    image->is_changed[block] = true;
    image->changed[image->changed_count++] = block;
}

static uint8_t *block_at(struct image_bytes *image, uint64_t block)
{
    return image->bytes + block * KV_BLOCK_BYTES;
}

static int submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct image_bytes *const image = (struct image_bytes *)device;
    (void)flush; /* always durable */
    for (size_t i = 0; i < io_count; i++) {
        const size_t length = (size_t)ios[i].block_count * KV_BLOCK_BYTES;
        uint8_t *const at = block_at(image, ios[i].block);
        if (ios[i].kind == KV_IO_READ) {
            memcpy(ios[i].buf, at, length);
        } else {
            for (uint32_t k = 0; k < ios[i].block_count; k++)
                note_change(image, ios[i].block + k);
            memcpy(at, ios[i].buf, length);
        }
        ios[i].result = 0;
    }
    return 0;
}

static int discard(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct image_bytes *const image = (struct image_bytes *)device;
    for (uint64_t i = 0; i < block_count; i++) {
        note_change(image, block + i);
        memset(block_at(image, block + i), 0, KV_BLOCK_BYTES);
    }
    return 0;
}

static void leave_open(struct kv_device *device)
{
    (void)device; /* the image outlives the stores on it */
}

static const struct kv_device_ops ops = {.submit = submit, .discard = discard, .close = leave_open};

struct image_bytes *image_bytes_new(uint64_t block_count)
{
    struct image_bytes *const image = calloc(1, sizeof *image);
    KV_ASSERT(image);
    image->device = (struct kv_device){.ops = &ops, .block_count = block_count};
    image->bytes = calloc(block_count, KV_BLOCK_BYTES);
    image->kept = calloc(block_count, KV_BLOCK_BYTES);
    image->is_changed = calloc(block_count, sizeof *image->is_changed);
    image->changed = calloc(block_count, sizeof *image->changed);
    KV_ASSERT(image->bytes && image->kept && image->is_changed && image->changed);
    return image;
}

void image_bytes_free(struct image_bytes *image)
{
    free(image->bytes);
    free(image->kept);
    free(image->is_changed);
    free(image->changed);
    free(image);
}

struct kv_device *image_bytes_device(struct image_bytes *image)
{
    return &image->device;
}

uint64_t image_bytes_count(const struct image_bytes *image)
{
    return image->device.block_count;
}

static void forget_changes(struct image_bytes *image)
{
    for (size_t i = 0; i < image->changed_count; i++)
        image->is_changed[image->changed[i]] = false;
    image->changed_count = 0;
}

void image_bytes_keep(struct image_bytes *image)
{
    memcpy(image->kept, image->bytes, image->device.block_count * KV_BLOCK_BYTES);
    forget_changes(image);
}

void image_bytes_restore(struct image_bytes *image)
{
    for (size_t i = 0; i < image->changed_count; i++)
        memcpy(block_at(image, image->changed[i]), image->kept + image->changed[i] * KV_BLOCK_BYTES,
               KV_BLOCK_BYTES);
    forget_changes(image);
}

const uint8_t *image_bytes_at(const struct image_bytes *image, uint64_t block, uint64_t count)
{
    uint64_t end;
    if (kv_add_u64(block, count, &end) || end > image->device.block_count)
        return NULL;
    return image->bytes + block * KV_BLOCK_BYTES;
}

uint8_t *image_bytes_change(struct image_bytes *image, uint64_t block)
{
    if (block >= image->device.block_count)
        return NULL;
    note_change(image, block);
    return block_at(image, block);
}

bool image_bytes_write(struct image_bytes *image, uint64_t block, const void *bytes, size_t length)
{
    const uint64_t count = kv_blocks_for(length);
    if (!count || !image_bytes_at(image, block, count))
        return false;
    for (uint64_t i = 0; i < count; i++)
        note_change(image, block + i);
    memcpy(block_at(image, block), bytes, length);
    memset(block_at(image, block) + length, 0, count * KV_BLOCK_BYTES - length);
    return true;
}
