/*
 * kv/blob_near.c: which blobs are worth reading together with one that lies beside them.
 *
 * Owns       the places that small blobs were read from lately.
 * Invariant  all of it is a hint: a place that was forgotten, or noted by mistake, costs a transfer
 *            or some bytes of one.
 * Locks      none; places are atomics without order.
 *
 * Who reads at random from many places meets the same one seldom while it is remembered. Where the
 * second look at a place finds nobody that could come along (a large file that was overwritten at
 * random has blobs beside each other whose keys are not), there is none for the next.
 */
#include "kv/blob.h"

#include <stdatomic.h>

#define PLACE_COUNT 128u
/* Blocks that nobody wants are read over, up to so many, if there is more behind them. */
#define GAP_MAX 3u

enum state { NOTED = 1, READ = 2, VAIN = 3 };

struct kv_blob_near {
    kv_blob_find_near_fn *find;
    void *context;
    _Atomic uint64_t places[PLACE_COUNT]; /* number * 4 + state, at number % PLACE_COUNT; or 0 */
};

struct kv_blob_near *kv_blob_near_new(kv_blob_find_near_fn *find, void *context)
{
    struct kv_blob_near *const near = calloc(1, sizeof *near);
    if (!near)
        return NULL;
    near->find = find;
    near->context = context;
    return near;
}

void kv_blob_near_free(struct kv_blob_near *near)
{
    free(near);
}

static void note(struct kv_blob_near *near, uint64_t place, enum state state)
{
    atomic_store_explicit(&near->places[place % PLACE_COUNT], place * 4 + state,
                          memory_order_relaxed);
}

static bool is_noted(struct kv_blob_near *near, uint64_t place, enum state state)
{
    return atomic_load_explicit(&near->places[place % PLACE_COUNT], memory_order_relaxed) ==
           place * 4 + state;
}

/* Is it likely that more of the place will be wanted? */
static bool is_visited(struct kv_blob_near *near, uint64_t place)
{
    if (is_noted(near, place, VAIN))
        return false;
    if (is_noted(near, place, NOTED) || is_noted(near, place, READ) ||
        is_noted(near, place + 1, READ) || (place && is_noted(near, place - 1, READ)))
        return true;
    note(near, place, NOTED);
    return false;
}

/* Blocks of a place and behind it, as far as a blob that begins there can reach. */
#define SPAN_BLOCKS (KV_BLOB_NEAR_BLOCKS + KV_BLOB_NEAR_BLOB_BLOCKS)
static_assert(SPAN_BLOCKS < 64, "a bit for each block");

struct span {
    uint32_t first, end;
};

static uint64_t bits_of(uint64_t first, uint64_t end)
{
    KV_ASSERT(first < end);
    KV_ASSERT(end <= SPAN_BLOCKS);
    return ((1ull << (end - first)) - 1) << first;
}

/* The bits of a blob that begins in the place and is worth reading; 0: it is not. */
static uint64_t worth_of(struct kv_blobs *blobs, const struct kv_blob_ref *ref, uint64_t from)
{
    struct kv_disk_blob_ref disk;
    uint64_t block;
    uint32_t count;
    if (kv_blobs_extent(blobs, ref, &block, &count) || count > KV_BLOB_NEAR_BLOB_BLOCKS ||
        block < from || block >= from + KV_BLOB_NEAR_BLOCKS)
        return 0;
    memcpy(&disk, ref, sizeof disk);
    const bool has = kv_blob_cache_has(blobs->cache, &disk, 0) ||
                     kv_blob_cache_has(blobs->cache, &disk, KV_BLOB_PIECE_STORED);
    return has ? 0 : bits_of(block - from, block - from + count);
}

/* Let the span reach as far as blocks that are worth it lie close enough. */
static void stretch(struct span *span, uint64_t worth)
{
    for (uint32_t at = span->first; at > 0 && span->first - at <= GAP_MAX; at--)
        if (worth >> (at - 1) & 1)
            span->first = at - 1;
    for (uint32_t at = span->end; at < SPAN_BLOCKS && at - span->end <= GAP_MAX; at++)
        if (worth >> at & 1)
            span->end = at + 1;
}

struct kv_blob_neighbours *kv_blob_near_choose(struct kv_blobs *blobs, const void *key,
                                               size_t key_len, uint64_t block, uint32_t block_count)
{
    struct kv_blob_near *const near = blobs->near;
    const uint64_t place = block / KV_BLOB_NEAR_BLOCKS, from = place * KV_BLOB_NEAR_BLOCKS;
    if (!is_visited(near, place) || !kv_blob_cache_ahead_pays(blobs->cache))
        return NULL;
    struct kv_blob_neighbours *const all = malloc(sizeof *all);
    if (!all)
        return NULL;
    const size_t found = near->find(near->context, key, key_len, from, KV_BLOB_NEAR_BLOCKS,
                                    all->refs, KV_BLOB_NEAR_BLOCKS);
    uint64_t bits[KV_BLOB_NEAR_BLOCKS], worth = 0;
    for (size_t i = 0; i < found; i++)
        worth |= bits[i] = worth_of(blobs, &all->refs[i], from);
    const uint32_t first = (uint32_t)(block - from);
    const uint64_t wanted = bits_of(first, first + block_count);
    struct span span = {.first = first, .end = first + block_count};
    stretch(&span, worth & ~wanted);
    const uint64_t reached = bits_of(span.first, span.end);
    all->count = 0;
    for (size_t i = 0; i < found; i++)
        if (bits[i] && !(bits[i] & wanted) && !(bits[i] & ~reached))
            all->refs[all->count++] = all->refs[i];
    note(near, place, all->count ? READ : VAIN);
    if (!all->count) {
        free(all);
        return NULL;
    }
    all->block = from + span.first;
    all->block_count = span.end - span.first;
    return all;
}
