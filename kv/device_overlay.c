/*
 * kv/device_overlay.c: a device that keeps what is written to it in memory.
 *
 * Owns       copies of the blocks that were written, and the device below.
 * Invariant  the device below is never written, flushed or discarded; a block with a copy is
 *            read from the copy.
 * Locks      overlay->mutex guards the table and the copies; reading below happens without it,
 *            which is sound because nothing below changes.
 */
#include "kv/device.h"

#include <pthread.h>

#define TABLE_CAPACITY_MIN 256u

struct copy {
    uint64_t block;
    void *bytes; /* KV_BLOCK_BYTES; NULL: an empty place of the table */
};

struct overlay {
    struct kv_device base;
    struct kv_device *below; /* immutable after open */

    pthread_mutex_t mutex;
    struct copy *table; /* mutex; open addressing, at most half full */
    size_t capacity;    /* mutex; a power of two */
    size_t copy_count;  /* mutex */
};

/* The place of a block in the table, or the empty place where it would go. */
static struct copy *find_place(struct copy *table, size_t capacity, uint64_t block)
{
    size_t i = (size_t)((block * 0x9e3779b97f4a7c15u) >> 32) & (capacity - 1);
    while (table[i].bytes && table[i].block != block)
        i = (i + 1) & (capacity - 1);
    return &table[i];
}

static int grow_table(struct overlay *overlay)
{
    const size_t capacity = overlay->capacity ? overlay->capacity * 2 : TABLE_CAPACITY_MIN;
    struct copy *table = calloc(capacity, sizeof *table);
    if (!table)
        return -ENOMEM;
    for (size_t i = 0; i < overlay->capacity; i++) {
        if (overlay->table[i].bytes)
            *find_place(table, capacity, overlay->table[i].block) = overlay->table[i];
    }
    free(overlay->table);
    overlay->table = table;
    overlay->capacity = capacity;
    return 0;
}

/* The copy of a block for writing, or NULL without memory. Under the mutex. */
static void *take_copy(struct overlay *overlay, uint64_t block)
{
    if (overlay->copy_count * 2 >= overlay->capacity && grow_table(overlay))
        return NULL;
    struct copy *place = find_place(overlay->table, overlay->capacity, block);
    if (place->bytes)
        return place->bytes;
    void *bytes = malloc(KV_BLOCK_BYTES);
    if (!bytes)
        return NULL;
    *place = (struct copy){.block = block, .bytes = bytes};
    overlay->copy_count++;
    return bytes;
}

static int write_copies(struct overlay *overlay, const struct kv_io *io)
{
    int err = 0;
    pthread_mutex_lock(&overlay->mutex);
    for (uint32_t i = 0; i < io->block_count && !err; i++) {
        void *copy = take_copy(overlay, io->block + i);
        if (copy)
            memcpy(copy, (const char *)io->buf + (size_t)i * KV_BLOCK_BYTES, KV_BLOCK_BYTES);
        else
            err = -ENOMEM;
    }
    pthread_mutex_unlock(&overlay->mutex);
    return err;
}

/* Copy to the buffer the blocks that have a copy; returns how many these are. */
static uint32_t read_copies(struct overlay *overlay, const struct kv_io *io)
{
    uint32_t found = 0;
    pthread_mutex_lock(&overlay->mutex);
    for (uint32_t i = 0; i < io->block_count && overlay->copy_count > 0; i++) {
        const struct copy *place = find_place(overlay->table, overlay->capacity, io->block + i);
        if (!place->bytes)
            continue;
        memcpy((char *)io->buf + (size_t)i * KV_BLOCK_BYTES, place->bytes, KV_BLOCK_BYTES);
        found++;
    }
    pthread_mutex_unlock(&overlay->mutex);
    return found;
}

/*
 * Read what has no copy from below, all of it in flight together, and lay the copies over it.
 * Returns -ENOMEM when there is no room for the list; the results say the rest.
 */
static int read_merged(struct overlay *overlay, struct kv_io *ios, size_t io_count)
{
    struct kv_io *below = calloc(io_count, sizeof *below);
    if (!below)
        return -ENOMEM;

    size_t below_count = 0;
    for (size_t i = 0; i < io_count; i++) {
        if (ios[i].kind != KV_IO_READ)
            continue;
        ios[i].result = 0;
        if (read_copies(overlay, &ios[i]) < ios[i].block_count) {
            below[below_count] = ios[i];
            below[below_count++].done = NULL; /* it is not: copies are laid over it */
        }
    }
    /* Each result is taken below; the sum of them adds nothing. */
    if (below_count)
        (void)!kv_device_submit(overlay->below, below, below_count, false);

    size_t next = 0;
    for (size_t i = 0; i < io_count && next < below_count; i++) {
        if (ios[i].kind != KV_IO_READ || ios[i].buf != below[next].buf ||
            ios[i].block != below[next].block)
            continue;
        ios[i].result = below[next++].result;
        if (!ios[i].result)
            (void)read_copies(overlay, &ios[i]);
    }
    free(below);
    return 0;
}

static int submit_overlay(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    (void)flush; /* nothing here is meant to last */
    struct overlay *overlay = (struct overlay *)device;

    size_t read_count = 0;
    for (size_t i = 0; i < io_count; i++) {
        if (ios[i].kind == KV_IO_WRITE)
            ios[i].result = write_copies(overlay, &ios[i]);
        else
            read_count++;
    }
    if (read_count && read_merged(overlay, ios, io_count)) {
        for (size_t i = 0; i < io_count; i++) {
            if (ios[i].kind == KV_IO_READ)
                ios[i].result = -ENOMEM;
        }
    }

    int err = 0;
    for (size_t i = 0; i < io_count && !err; i++)
        err = ios[i].result;
    return err;
}

static int discard_overlay(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    (void)device;
    (void)block;
    (void)block_count;
    return 0; /* a hint; dropping copies would uncover older bytes below */
}

static void close_overlay(struct kv_device *device)
{
    struct overlay *overlay = (struct overlay *)device;
    for (size_t i = 0; i < overlay->capacity; i++)
        free(overlay->table[i].bytes);
    free(overlay->table);
    pthread_mutex_destroy(&overlay->mutex);
    kv_device_close(overlay->below);
    free(overlay);
}

static const struct kv_device_ops overlay_ops = {
    .submit = submit_overlay,
    .discard = discard_overlay,
    .close = close_overlay,
};

int kv_device_overlay(struct kv_device *below, struct kv_device **device)
{
    struct overlay *overlay = calloc(1, sizeof *overlay);
    if (!overlay)
        return -ENOMEM;
    overlay->base.ops = &overlay_ops;
    overlay->base.block_count = below->block_count;
    overlay->base.direct_io = below->direct_io;
    overlay->below = below;
    pthread_mutex_init(&overlay->mutex, NULL);
    *device = &overlay->base;
    return 0;
}
