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

/* A run of free blocks is given back from so many on, and never in more than so many pieces. */
#define GIVE_BLOCKS_MIN 16u
#define GIVE_CALLS_MAX  65536u
/* What stays, beside a share of what is in use: the next opening writes, whatever the host has. */
#define GIVE_KEEP_BLOCKS 2048u
#define GIVE_KEEP_SHARE  32u
/* Only while the host has so many times the room: else what is ours may be all that we get. */
#define GIVE_HOST_SHARE 4u

struct giving {
    struct kv_space *space;
    uint64_t keep; /* free blocks that still stay */
    uint32_t least;
};

static void give_run(struct giving *giving, uint32_t index, uint32_t first, uint32_t count)
{
    if (count < giving->least)
        return;
    const uint32_t kept = (uint32_t)kv_min_u64(giving->keep, count);
    giving->keep -= kept;
    /* A hint: what the host does not take back stays. */
    if (count > kept)
        (void)kv_device_discard(giving->space->device,
                                group_start(&giving->space->config, index) + first + kept,
                                count - kept);
}

static void give_group(struct giving *giving, uint32_t index)
{
    const struct kv_space *space = giving->space;
    const struct group *group = &space->groups[index];
    uint32_t run = 0; /* free blocks just before `block` */
    for (uint32_t block = 0; block < group->block_count; block++) {
        const uint32_t word = block / 64;
        if (block % 64 == 0 &&
            (group->busy[word] == ~0ull || !word_is_backed(space, group, word))) {
            give_run(giving, index, block - run, run);
            run = 0;
            block += 63;
        } else if (group->busy[word] >> (block % 64) & 1) {
            give_run(giving, index, block - run, run);
            run = 0;
        } else {
            run++;
        }
    }
    give_run(giving, index, group->block_count - run, run);
}

void kv_space_give_back(struct kv_space *space)
{
    const uint64_t backed = space->free_blocks - space->unbacked_blocks;
    const uint64_t used = space->total_blocks - space->free_blocks;
    struct giving giving = {.space = space,
                            .keep = used / GIVE_KEEP_SHARE + GIVE_KEEP_BLOCKS,
                            .least = GIVE_BLOCKS_MIN};
    if (!space->device->thin || backed < used / 4 + GIVE_KEEP_BLOCKS ||
        kv_device_room(space->device) / GIVE_HOST_SHARE < backed)
        return;
    giving.least = (uint32_t)kv_min_u64(
        kv_max_u64(GIVE_BLOCKS_MIN, (used + backed) / GIVE_CALLS_MAX), KV_GROUP_BLOCKS);
    for (uint32_t i = 0; i < space->config.group_count; i++)
        give_group(&giving, i);
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
