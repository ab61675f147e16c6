/*
 * tests/faults/daemon/support_thin.c: a device like a sparse file on a host with little room.
 *
 * Owns       the device below, and which of its blocks have room.
 * Invariant  used + room is what the host gave; zeroing (a hole) gives room back.
 * Locks      thin->mutex guards the bits and counts; the device below is called without it.
 */
#include "support_thin.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

struct thin {
    struct kv_device device;
    struct kv_device *below;
    enum thin_refusal refusal;
    _Atomic unsigned delay_us;
    pthread_mutex_t mutex;
    bool *has_room; /* mutex, as the rest */
    uint64_t room, used, unpromised, refusals;
};

/* Give a block room if it has none. Under the mutex. */
static bool take_room(struct thin *thin, uint64_t block)
{
    if (thin->has_room[block])
        return true;
    if (!thin->room)
        return false;
    thin->has_room[block] = true;
    thin->room--;
    thin->used++;
    return true;
}

/* 0, or -ENOSPC for a write that was promised nothing and finds nothing. */
static int admit_write(struct thin *thin, const struct kv_io *io)
{
    int err = 0;
    bool promised = true;
    pthread_mutex_lock(&thin->mutex);
    for (uint32_t i = 0; i < io->block_count && !err; i++) {
        promised &= thin->has_room[io->block + i];
        if (!take_room(thin, io->block + i))
            err = -ENOSPC;
    }
    thin->unpromised += !promised;
    pthread_mutex_unlock(&thin->mutex);
    return err;
}

static int submit_thin(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct thin *thin = (struct thin *)device;
    const struct timespec pause = {.tv_nsec = 1000 * (long)atomic_load(&thin->delay_us)};
    int err = 0;
    if (pause.tv_nsec && io_count && ios[0].kind == KV_IO_WRITE)
        (void)nanosleep(&pause, NULL); /* cut short is as good */
    for (size_t i = 0; i < io_count; i++) {
        ios[i].result = ios[i].kind == KV_IO_WRITE ? admit_write(thin, &ios[i]) : 0;
        if (!ios[i].result)
            ios[i].result = kv_device_submit(thin->below, &ios[i], 1, false);
        if (!err)
            err = ios[i].result;
    }
    return err || !flush ? err : kv_device_flush(thin->below);
}

static int reserve_thin(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct thin *thin = (struct thin *)device;
    uint64_t missing = 0;
    pthread_mutex_lock(&thin->mutex);
    for (uint64_t i = block; i < block + block_count; i++)
        missing += !thin->has_room[i];
    const int err = missing > thin->room ? -ENOSPC : 0;
    thin->refusals += err != 0;
    for (uint64_t i = block; i < block + block_count; i++) {
        if (!err || thin->refusal == THIN_TAKES_REST)
            (void)take_room(thin, i); /* as far as it goes */
    }
    pthread_mutex_unlock(&thin->mutex);
    return err;
}

static int room_of_thin(struct kv_device *device, uint64_t *block_count)
{
    struct thin *thin = (struct thin *)device;
    pthread_mutex_lock(&thin->mutex);
    *block_count = thin->room;
    pthread_mutex_unlock(&thin->mutex);
    return 0;
}

static int zero_thin(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct thin *thin = (struct thin *)device;
    pthread_mutex_lock(&thin->mutex);
    for (uint64_t i = block; i < block + block_count; i++) {
        thin->room += thin->has_room[i];
        thin->used -= thin->has_room[i];
        thin->has_room[i] = false;
    }
    pthread_mutex_unlock(&thin->mutex);
    return kv_device_discard(thin->below, block, block_count);
}

static int discard_thin(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    return zero_thin(device, block, block_count);
}

static void close_thin(struct kv_device *device)
{
    (void)device; /* thin_free does it */
}

static const struct kv_device_ops thin_ops = {
    .submit = submit_thin,
    .discard = discard_thin,
    .close = close_thin,
    .reserve = reserve_thin,
    .room = room_of_thin,
    .zero = zero_thin,
};

struct thin *thin_new(struct kv_device *below, enum thin_refusal refusal)
{
    struct thin *thin = calloc(1, sizeof *thin);
    KV_ASSERT(thin != NULL);
    thin->device.ops = &thin_ops;
    thin->device.block_count = below->block_count;
    thin->device.direct_io = below->direct_io;
    thin->device.thin = true;
    thin->below = below;
    thin->refusal = refusal;
    thin->room = UINT64_MAX / 2;
    thin->has_room = calloc((size_t)below->block_count, sizeof *thin->has_room);
    KV_ASSERT(thin->has_room != NULL);
    pthread_mutex_init(&thin->mutex, NULL);
    return thin;
}

void thin_free(struct thin *thin)
{
    kv_device_close(thin->below);
    pthread_mutex_destroy(&thin->mutex);
    free(thin->has_room);
    free(thin);
}

struct kv_device *thin_device(struct thin *thin)
{
    return &thin->device;
}

void thin_set_room(struct thin *thin, uint64_t block_count)
{
    pthread_mutex_lock(&thin->mutex);
    thin->room = block_count;
    pthread_mutex_unlock(&thin->mutex);
}

void thin_set_delay(struct thin *thin, unsigned microseconds)
{
    atomic_store(&thin->delay_us, microseconds);
}

uint64_t thin_used(struct thin *thin)
{
    pthread_mutex_lock(&thin->mutex);
    const uint64_t used = thin->used;
    pthread_mutex_unlock(&thin->mutex);
    return used;
}

uint64_t thin_take_unpromised(struct thin *thin)
{
    pthread_mutex_lock(&thin->mutex);
    const uint64_t unpromised = thin->unpromised;
    thin->unpromised = 0;
    pthread_mutex_unlock(&thin->mutex);
    return unpromised;
}

uint64_t thin_refusals(struct thin *thin)
{
    pthread_mutex_lock(&thin->mutex);
    const uint64_t refusals = thin->refusals;
    pthread_mutex_unlock(&thin->mutex);
    return refusals;
}
