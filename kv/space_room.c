/*
 * kv/space_room.c: how the groups of a thin device get their room on the host.
 *
 * Owns       which groups have room for their bitmaps; what backing a piece means for the counts.
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
