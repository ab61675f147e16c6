/*
 * kv/backing.c: room on the host for blocks, asked for before the blocks are handed out.
 *
 * Owns       which pieces are backed, and the one request to the device that is under way.
 * Invariant  a bit is set only after the device has said yes to the whole piece; none is
 *            cleared. One thread asks at a time; the others wait for what it gets.
 * Locks      the owner's mutex guards everything; it is released while the device works.
 */
#include "kv/backing.h"

/* More is asked for at once as more is in use, so that little lies idle and calls are few. */
#define STEP_PART       16u /* of what is backed */
#define STEP_PIECES_MAX 16u

struct kv_backing {
    struct kv_backing_config config; /* immutable after open */
    uint64_t piece_count;            /* immutable after open */
    uint64_t *bits;                  /* NULL: all is backed, for good */
    uint64_t backed_count;
    uint64_t next; /* where the search for a wanted piece goes on */
    uint64_t done; /* requests that ended well */
    bool asking;
    bool refused;
    pthread_cond_t answered; /* asking ended */
};

int kv_backing_open(const struct kv_backing_config *config, struct kv_backing **out)
{
    struct kv_backing *backing = calloc(1, sizeof *backing);
    if (!backing)
        return -ENOMEM;
    backing->config = *config;
    backing->piece_count =
        (config->block_count + KV_BACKING_PIECE_BLOCKS - 1) / KV_BACKING_PIECE_BLOCKS;
    if (config->device->thin) {
        backing->bits = calloc((size_t)(backing->piece_count / 64 + 1), sizeof *backing->bits);
        if (!backing->bits) {
            free(backing);
            return -ENOMEM;
        }
    } else {
        backing->backed_count = backing->piece_count;
    }
    pthread_cond_init(&backing->answered, NULL); /* does not fail on Linux */
    *out = backing;
    return 0;
}

void kv_backing_close(struct kv_backing *backing)
{
    if (!backing)
        return;
    KV_ASSERT(!backing->asking);
    pthread_cond_destroy(&backing->answered);
    free(backing->bits);
    free(backing);
}

bool kv_backing_has(const struct kv_backing *backing, uint64_t piece)
{
    if (!backing->bits)
        return true;
    return piece < backing->piece_count && (backing->bits[piece / 64] >> (piece % 64) & 1);
}

bool kv_backing_refused(const struct kv_backing *backing)
{
    return backing->refused;
}

static bool is_candidate(const struct kv_backing *backing, uint64_t piece)
{
    return piece < backing->piece_count && !kv_backing_has(backing, piece) &&
           backing->config.wanted(backing->config.context, piece);
}

/* The next wanted pieces in a row, at most `most`. False: there is none. */
static bool find_candidates(struct kv_backing *backing, uint64_t most, uint64_t *first,
                            uint64_t *count)
{
    for (uint64_t i = 0; i < backing->piece_count; i++) {
        const uint64_t piece = (backing->next + i) % backing->piece_count;
        if (!is_candidate(backing, piece))
            continue;
        *first = piece;
        *count = 1;
        while (*count < most && is_candidate(backing, piece + *count))
            ++*count;
        return true;
    }
    return false;
}

/* Ask the device, without the mutex. */
static int ask(struct kv_backing *backing, uint64_t first, uint64_t count)
{
    const struct kv_backing_config *config = &backing->config;
    const uint64_t start = first * KV_BACKING_PIECE_BLOCKS;
    const uint64_t length =
        kv_min_u64(count * KV_BACKING_PIECE_BLOCKS, config->block_count - start);
    backing->asking = true;
    pthread_mutex_unlock(config->mutex);
    const int err = kv_device_reserve(config->device, config->first_block + start, length);
    pthread_mutex_lock(config->mutex);
    backing->asking = false;
    backing->refused = err == -ENOSPC;
    if (!err) {
        for (uint64_t piece = first; piece < first + count; piece++) {
            backing->bits[piece / 64] |= 1ull << (piece % 64);
            config->backed(config->context, piece);
        }
        backing->backed_count += count;
        backing->done++;
    }
    pthread_cond_broadcast(&backing->answered);
    return err;
}

int kv_backing_grow(struct kv_backing *backing, unsigned refusals_max)
{
    if (backing->backed_count == backing->piece_count)
        return -ENOSPC;
    if (backing->asking) {
        const uint64_t done = backing->done;
        while (backing->asking)
            pthread_cond_wait(&backing->answered, backing->config.mutex);
        if (backing->done != done)
            return 0;
    }
    const uint64_t step =
        kv_min_u64(kv_max_u64(backing->backed_count / STEP_PART, 1), STEP_PIECES_MAX);
    int err = -ENOSPC;
    for (unsigned refusals = 0; err == -ENOSPC && refusals <= refusals_max; refusals++) {
        uint64_t first, count;
        if (!find_candidates(backing, backing->refused ? 1 : step, &first, &count))
            return -ENOSPC;
        err = ask(backing, first, count);
        if (err == -ENOSPC && count > 1) /* perhaps there is room for one of them */
            err = ask(backing, first, 1);
        backing->next = err ? first + 1 : first;
    }
    return err;
}
