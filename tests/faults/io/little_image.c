/*
 * tests/faults/io/little_image.c: a small image in memory, with faults.
 *
 * Owns       its blocks, twice: as they are, and as they were when they were kept.
 * Invariant  a block that is not marked as changed is as it was kept.
 */
#include "little_image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct little_image {
    struct kv_device base;
    uint8_t *now, *kept;
    bool changed[LITTLE_BLOCKS];

    bool armed, lasting;
    enum little_target target;
    uint64_t after, seen, failures;
};

static bool fails(struct little_image *image, enum little_target target)
{
    if (!image->armed || image->target != target)
        return false;
    const uint64_t at = image->seen++;
    const bool struck = image->lasting ? at >= image->after : at == image->after;
    image->failures += struck;
    return struck;
}

static int transfer(struct little_image *image, struct kv_io *io)
{
    const size_t bytes = (size_t)io->block_count * KV_BLOCK_BYTES;
    uint8_t *const at = image->now + io->block * KV_BLOCK_BYTES;
    if (fails(image, io->kind == KV_IO_READ ? LITTLE_READS : LITTLE_WRITES))
        return -EIO;
    if (io->kind == KV_IO_READ) {
        memcpy(io->buf, at, bytes);
        return 0;
    }
    memcpy(at, io->buf, bytes);
    memset(image->changed + io->block, true, io->block_count);
    return 0;
}

static int submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct little_image *const image = (struct little_image *)device;
    int first = 0;
    for (size_t i = 0; i < io_count; i++) {
        ios[i].result = transfer(image, &ios[i]);
        first = first ? first : ios[i].result;
    }
    if (first || !flush)
        return first;
    return fails(image, LITTLE_FLUSHES) ? -EIO : 0;
}

static int discard(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct little_image *const image = (struct little_image *)device;
    memset(image->now + block * KV_BLOCK_BYTES, 0, block_count * KV_BLOCK_BYTES);
    memset(image->changed + block, true, block_count);
    return 0;
}

static int reserve(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    (void)block;
    (void)block_count;
    return fails((struct little_image *)device, LITTLE_ROOM) ? -ENOSPC : 0;
}

static void close_image(struct kv_device *device)
{
    (void)device; /* little_free does it */
}

static const struct kv_device_ops little_ops = {
    .submit = submit, .discard = discard, .reserve = reserve, .close = close_image};

struct little_image *little_new(void)
{
    struct little_image *const image = calloc(1, sizeof *image);
    KV_ASSERT(image != NULL);
    image->now = calloc(LITTLE_BLOCKS, KV_BLOCK_BYTES);
    image->kept = calloc(LITTLE_BLOCKS, KV_BLOCK_BYTES);
    KV_ASSERT(image->now != NULL && image->kept != NULL);
    image->base =
        (struct kv_device){.ops = &little_ops, .block_count = LITTLE_BLOCKS, .thin = true};
    return image;
}

void little_free(struct little_image *image)
{
    free(image->now);
    free(image->kept);
    free(image);
}

struct kv_device *little_device(struct little_image *image)
{
    return &image->base;
}

static void copy_changed(struct little_image *image, uint8_t *to, const uint8_t *from)
{
    for (size_t i = 0; i < LITTLE_BLOCKS; i++)
        if (image->changed[i])
            memcpy(to + i * KV_BLOCK_BYTES, from + i * KV_BLOCK_BYTES, KV_BLOCK_BYTES);
    memset(image->changed, false, sizeof image->changed);
}

void little_keep(struct little_image *image)
{
    copy_changed(image, image->kept, image->now);
}

void little_reset(struct little_image *image)
{
    copy_changed(image, image->now, image->kept);
}

void little_fail(struct little_image *image, enum little_target target, uint64_t after,
                 bool lasting)
{
    image->armed = true;
    image->target = target;
    image->after = after;
    image->lasting = lasting;
    image->seen = image->failures = 0;
}

uint64_t little_heal(struct little_image *image, uint64_t *seen)
{
    image->armed = false;
    *seen = image->seen;
    return image->failures;
}
