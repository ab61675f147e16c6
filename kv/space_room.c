/*
 * kv/space_room.c: how the groups of a thin device get their room on the host.
 *
 * Owns       which groups have room for their bitmaps; what backing a piece means for the counts;
 *            what goes back to the host when the image is closed.
 * Invariant  a group's bitmaps have their room before any of it is used: its first piece brings
 *            it, and no other is wanted before that one.
 * Locks      space->mutex; kv/backing.c releases it while the host is asked.
 */
#include "kv/space_groups.h"

/* Is there anything to win by backing the piece? The group's first one brings the bitmaps. */
bool kv_space_piece_is_wanted(void *context, uint64_t piece)
{
    const struct kv_space *space = context;
    const struct group *group = &space->groups[piece / GROUP_PIECES];
    const uint32_t within = (uint32_t)(piece % GROUP_PIECES);
    if (!group->unbacked_count || (within && !group->meta_backed))
        return false;
    for (uint32_t i = within * PIECE_WORDS; i < (within + 1) * PIECE_WORDS; i++) {
        if (~group->busy[i])
            return true;
    }
    return false;
}

void kv_space_piece_is_backed(void *context, uint64_t piece)
{
    struct kv_space *space = context;
    struct group *group = &space->groups[piece / GROUP_PIECES];
    const uint32_t within = (uint32_t)(piece % GROUP_PIECES);
    uint32_t free_count = 0, whole_clusters = 0;
    for (uint32_t i = within * PIECE_WORDS; i < (within + 1) * PIECE_WORDS; i++) {
        free_count += popcount(~group->busy[i]);
        whole_clusters += popcount(whole_clusters_of(group->busy[i], space->config.cluster_blocks));
    }
    group->unbacked_count -= free_count;
    space->unbacked_blocks -= free_count;
    group->whole_clusters += whole_clusters;
    space->whole_clusters += whole_clusters;
    group->run_bound = group->block_count;
    group->hole_bound = group->block_count;
    if (!within)
        group->meta_backed = true;
}

/* Room for both copies of a group's bitmap. The checkpoint's or the opener's; no mutex. */
int kv_space_back_meta(struct kv_space *space, uint32_t index)
{
    pthread_mutex_lock(&space->mutex);
    const bool backed = space->groups[index].meta_backed;
    pthread_mutex_unlock(&space->mutex);
    if (backed)
        return 0;
    const int err = kv_device_reserve(space->device, copy_block(&space->config, index, 0),
                                      KV_GROUP_META_BLOCKS);
    if (err)
        return err;
    pthread_mutex_lock(&space->mutex);
    space->groups[index].meta_backed = true;
    pthread_mutex_unlock(&space->mutex);
    return 0;
}

/* ---- giving it back ---------------------------------------------------------------- */

/* Runs of free blocks are given back from 2^GIVE_ORDER_MIN blocks on, or from as many more as make
 * it no more calls than so many: each takes the host some 10 us. */
#define GIVE_ORDER_MIN 2u
#define GIVE_CALLS_MAX 65536u
/* What stays, beside a share of what is in use: the next opening writes, whatever the host has. */
#define GIVE_KEEP_BLOCKS 2048u
#define GIVE_KEEP_SHARE  32u
/* Only while the host has so many times the room: else what is ours may be all that we get. */
#define GIVE_HOST_SHARE 4u

struct giving {
    struct kv_space *space;
    uint64_t keep;        /* free blocks that still stay */
    unsigned least_order; /* only runs of 2^least_order blocks and more */
    uint64_t runs[32];    /* how many are of 2^i blocks and more, but not of twice that */
};

static unsigned order_of(uint32_t count)
{
    return 31 - (unsigned)__builtin_clz(count);
}

static void count_run(struct giving *giving, uint64_t first, uint32_t count)
{
    (void)first;
    giving->runs[order_of(count)]++;
}

static void give_run(struct giving *giving, uint64_t first, uint32_t count)
{
    if (order_of(count) < giving->least_order)
        return;
    const uint32_t kept = (uint32_t)kv_min_u64(giving->keep, count);
    giving->keep -= kept;
    /* A hint: what the host does not take back stays. */
    if (count > kept)
        (void)kv_device_discard(giving->space->device, first + kept, count - kept);
}

/* Each run of free blocks that have room, of one group. */
static void walk_group(struct giving *giving, uint32_t index,
                       void (*visit)(struct giving *giving, uint64_t first, uint32_t count))
{
    const struct kv_space *space = giving->space;
    const struct group *group = &space->groups[index];
    const uint64_t start = group_start(&space->config, index);
    uint32_t run = 0; /* free blocks just before `block` */
    for (uint32_t block = 0; block < group->block_count; block++) {
        const uint32_t word = block / 64;
        const bool passed =
            block % 64 == 0 && (group->busy[word] == ~0ull || !word_is_backed(space, group, word));
        if (!passed && !(group->busy[word] >> (block % 64) & 1)) {
            run++;
            continue;
        }
        if (run)
            visit(giving, start + block - run, run);
        run = 0;
        if (passed)
            block += 63;
    }
    if (run)
        visit(giving, start + group->block_count - run, run);
}

static void walk_groups(struct giving *giving,
                        void (*visit)(struct giving *giving, uint64_t first, uint32_t count))
{
    for (uint32_t i = 0; i < giving->space->config.group_count; i++)
        walk_group(giving, i, visit);
}

/* The order of the shortest runs that make it not too many calls. */
static unsigned least_order(struct giving *giving)
{
    walk_groups(giving, count_run);
    uint64_t calls = 0;
    for (unsigned order = 31;; order--) {
        calls += giving->runs[order];
        if (calls > GIVE_CALLS_MAX)
            return order + 1;
        if (order == GIVE_ORDER_MIN)
            return order;
    }
}

void kv_space_give_back(struct kv_space *space)
{
    const uint64_t backed = space->free_blocks - space->unbacked_blocks;
    const uint64_t used = space->total_blocks - space->free_blocks;
    if (!space->device->thin || backed < used / 4 + GIVE_KEEP_BLOCKS ||
        kv_device_room(space->device) / GIVE_HOST_SHARE < backed)
        return;
    struct giving giving = {.space = space, .keep = used / GIVE_KEEP_SHARE + GIVE_KEEP_BLOCKS};
    giving.least_order = least_order(&giving);
    walk_groups(&giving, give_run);
}

/*
 * While opening, what the replay needs has room of old on a full host, and is worth a long search
 * for. That ends with the first search in vain and with the first checkpoint.
 */
int kv_space_back_more(struct kv_space *space)
{
    const int err = kv_backing_grow(space->backing, space->refusals_max);
    if (err)
        space->refusals_max = REFUSALS_MAX;
    return err;
}
