/*
 * kv/blob_run.c: blocks for small blobs that are flushed soon, written with zeroes before.
 *
 * Owns       the run: blocks that are busy in the space and nobody's yet.
 * Invariant  a block of the run belongs to nothing that is durable or will be: zeroes overwrite
 *            nobody, whenever they arrive. All of the run was written when the first of it is
 *            handed out.
 * Locks      run->mutex, while the space is asked and the zeroes are written, too: who wants a
 *            block meanwhile would else only find one that makes its flush long. Counts are atomic.
 *
 * A run is an opportunity, nothing is lost without it: what fails here is not told. A device that
 * can not write will say so again when it is asked to write something that counts.
 */
#include "kv/blob_run.h"

#include <pthread.h>
#include <stdatomic.h>

/* Longer blobs are worth a place of their own: of what is written with them, zeroes were half. */
#define BLOB_BLOCKS_MAX 16u
/* Between two flushes, so that what is new is written with zeroes ... */
#define FLUSHED_SELDOM_BLOCKS 64u
/* ... after so many of such flushes in a row. */
#define FLUSHES_MIN 4u

struct kv_blob_run {
    struct kv_device *device; /* immutable after new, as is the next */
    struct kv_space *space;

    _Atomic uint64_t wanted;  /* blocks that were asked for, since the last flush */
    _Atomic uint32_t flushes; /* in a row that came after few of them, FLUSHES_MIN at most */
    _Atomic uint32_t left;    /* changed with the mutex */
    pthread_mutex_t mutex;
    uint64_t block; /* mutex: the next one */
};

struct kv_blob_run *kv_blob_run_new(struct kv_device *device, struct kv_space *space)
{
    struct kv_blob_run *const run = calloc(1, sizeof *run);
    if (!run)
        return NULL;
    run->device = device;
    run->space = space;
    pthread_mutex_init(&run->mutex, NULL);
    return run;
}

void kv_blob_run_free(struct kv_blob_run *run)
{
    if (!run)
        return;
    pthread_mutex_destroy(&run->mutex);
    free(run);
}

/* ---- the run; run->mutex held ---------------------------------------------------------- */

static uint32_t left_of(const struct kv_blob_run *run)
{
    return atomic_load_explicit(&run->left, memory_order_relaxed);
}

static void set_left(struct kv_blob_run *run, uint32_t left)
{
    atomic_store_explicit(&run->left, left, memory_order_relaxed);
}

static bool give_back(struct kv_blob_run *run)
{
    const uint32_t left = left_of(run);
    if (left)
        kv_space_unalloc(run->space, run->block, left);
    set_left(run, 0);
    return left > 0;
}

/* Nothing of it is in use yet, so no time is bad for zeroes. */
static bool begin_run(struct kv_blob_run *run)
{
    uint64_t block;
    uint32_t count;
    if (kv_space_alloc(run->space, KV_SPACE_DATA, KV_BLOB_RUN_BLOCKS, KV_BLOB_RUN_BLOCKS, &block,
                       &count))
        return false;
    if (!kv_device_is_written(run->device, block, count) &&
        kv_device_write_zeroes(run->device, block, count)) {
        kv_space_unalloc(run->space, block, count);
        return false;
    }
    run->block = block;
    set_left(run, count);
    return true;
}

/* ---- the interface --------------------------------------------------------------------- */

bool kv_blob_run_take(struct kv_blob_run *run, uint32_t count, uint64_t *block)
{
    if (!run)
        return false;
    (void)atomic_fetch_add_explicit(&run->wanted, count, memory_order_relaxed);
    if (count > BLOB_BLOCKS_MAX ||
        atomic_load_explicit(&run->flushes, memory_order_relaxed) < FLUSHES_MIN)
        return false;
    pthread_mutex_lock(&run->mutex);
    bool taken = left_of(run) >= count;
    if (!taken) {
        (void)give_back(run);
        taken = begin_run(run);
        if (!taken) /* not tried again for a while */
            atomic_store_explicit(&run->flushes, 0, memory_order_relaxed);
    }
    if (taken) {
        *block = run->block;
        run->block += count;
        set_left(run, left_of(run) - count);
    }
    pthread_mutex_unlock(&run->mutex);
    return taken;
}

void kv_blob_run_flushed(struct kv_blob_run *run)
{
    if (!run)
        return;
    const uint64_t wanted = atomic_exchange_explicit(&run->wanted, 0, memory_order_relaxed);
    const uint32_t flushes = atomic_load_explicit(&run->flushes, memory_order_relaxed);
    if (wanted > FLUSHED_SELDOM_BLOCKS)
        atomic_store_explicit(&run->flushes, 0, memory_order_relaxed);
    else if (wanted && flushes < FLUSHES_MIN)
        atomic_store_explicit(&run->flushes, flushes + 1, memory_order_relaxed);
}

bool kv_blob_run_release(struct kv_blob_run *run)
{
    if (!run)
        return false;
    pthread_mutex_lock(&run->mutex);
    const bool had_any = give_back(run);
    pthread_mutex_unlock(&run->mutex);
    return had_any;
}

uint32_t kv_blob_run_left(struct kv_blob_run *run)
{
    return run ? left_of(run) : 0;
}
