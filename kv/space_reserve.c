/*
 * kv/space_reserve.c: what is kept: clusters for dirty pages, and some for deletions.
 *
 * Owns       the count of reserved clusters, and how much the emergency reserve is.
 * Invariant  what is reserved and what is kept is whole clusters in backed pieces, as long as
 *            there are any: a reservation leaves the emergency reserve to those who may use it.
 * Locks      space->mutex, which is released while the host is asked for room.
 */
#include "kv/space_groups.h"

#define EMERGENCY_CLUSTERS_MIN 64u
#define EMERGENCY_PART         50u /* of all clusters */

/* Data of extents of 32 blocks needs a page of 4 blocks for 100 of them, when it is half full. */
#define DATA_BLOCKS_PER_PAGE_BLOCK 512u
/* Data of single blocks in holes needs a page, so a cluster, for 100 of them, and its copies. */
#define HOLE_BLOCKS_PER_CLUSTER 64u

/* What is kept of so many blocks that are in use or may be used: for deletions ... */
static uint64_t emergency_clusters(const struct kv_space *space, uint64_t blocks)
{
    const uint64_t least = EMERGENCY_CLUSTERS_MIN;
    const uint64_t most = kv_min_u64(kv_max_u64(least, space->cluster_count / EMERGENCY_PART),
                                     space->cluster_count / 8);
    return kv_min_u64(most,
                      kv_max_u64(least, blocks / space->config.cluster_blocks / EMERGENCY_PART));
}

/* ... and of that for a page map of pages that are packed to a block each, written anew. */
static uint64_t map_clusters(const struct kv_space *space, uint64_t blocks)
{
    const uint64_t map_blocks = blocks / (KV_MAP_FANOUT - 1) + KV_MAP_DEPTH_MAX;
    const uint64_t wanted = map_blocks / space->config.cluster_blocks + 1;
    const uint64_t emergency = emergency_clusters(space, blocks);
    return kv_min_u64(kv_max_u64(wanted, emergency / 4), emergency / 2);
}

/* Whole clusters that data leaves to the pages that will refer to it: for batches ... */
static uint64_t batch_clusters(const struct kv_space *space)
{
    return kv_min_u64(KV_SPACE_BATCHES_CLUSTERS, space->cluster_count / 16);
}

/*
 * ... and for what goes into the holes that so many free blocks and whole clusters leave. So what
 * can be written ends with the holes, and not with holes that nothing can refer to any more.
 */
static uint64_t hole_clusters(const struct kv_space *space, uint64_t free_blocks,
                              uint64_t whole_clusters)
{
    const uint64_t whole_blocks = whole_clusters * space->config.cluster_blocks;
    return free_blocks > whole_blocks ? (free_blocks - whole_blocks) / HOLE_BLOCKS_PER_CLUSTER : 0;
}

/* Blocks that are in use or backed. */
static uint64_t blocks_in_reach(const struct kv_space *space)
{
    return space->total_blocks - space->unbacked_blocks;
}

/* Clusters that may be broken while there are holes. */
uint64_t kv_space_spare_clusters(const struct kv_space *space)
{
    const uint64_t backed_free = space->free_blocks - space->unbacked_blocks;
    const uint64_t kept = (KV_PLANT(reserve_given_away) ? 0 : space->reserved_clusters) +
                          emergency_clusters(space, blocks_in_reach(space)) +
                          batch_clusters(space) +
                          hole_clusters(space, backed_free, space->whole_clusters);
    return space->whole_clusters > kept ? space->whole_clusters - kept : 0;
}

/* Clusters that a reservation must leave alone. */
static uint64_t kept_from(const struct kv_space *space, enum kv_space_need need)
{
    switch (need) {
    case KV_SPACE_NORMAL:
        return emergency_clusters(space, blocks_in_reach(space));
    case KV_SPACE_URGENT:
        return map_clusters(space, blocks_in_reach(space));
    case KV_SPACE_LAST:
        break;
    }
    return 0;
}

static bool has_clusters(const struct kv_space *space, uint64_t cluster_count,
                         enum kv_space_need need)
{
    const uint64_t taken = space->reserved_clusters + kept_from(space, need);
    return taken <= space->whole_clusters && cluster_count <= space->whole_clusters - taken;
}

int kv_space_reserve(struct kv_space *space, uint64_t cluster_count, enum kv_space_need need)
{
    int err = 0;
    pthread_mutex_lock(&space->mutex);
    while (!err && !has_clusters(space, cluster_count, need))
        err = need == KV_SPACE_LAST ? -ENOSPC : kv_space_back_more(space);
    if (!err)
        space->reserved_clusters += cluster_count;
    pthread_mutex_unlock(&space->mutex);
    return err;
}

int kv_space_back_reserve(struct kv_space *space)
{
    int err = 0;
    pthread_mutex_lock(&space->mutex);
    while (!err && !has_clusters(space, 0, KV_SPACE_NORMAL))
        err = kv_space_back_more(space);
    pthread_mutex_unlock(&space->mutex);
    return err == -ENOSPC ? 0 : err;
}

void kv_space_unreserve(struct kv_space *space, uint64_t cluster_count)
{
    pthread_mutex_lock(&space->mutex);
    KV_ASSERT(cluster_count <= space->reserved_clusters);
    space->reserved_clusters -= cluster_count;
    pthread_mutex_unlock(&space->mutex);
}

/* ---- figures ---------------------------------------------------------------------------- */

/*
 * What data can take, now or after the next checkpoint, when the host gives `room` blocks more:
 * without what is kept and the pages that will refer to it. When nothing is left for these,
 * nothing can be written, however many holes there are.
 */
static uint64_t available_blocks(const struct kv_space *space, uint64_t room)
{
    const uint64_t cluster = space->config.cluster_blocks;
    const uint64_t pieces = room / KV_BACKING_PIECE_BLOCKS; /* less than one is of no use */
    const uint64_t growth = kv_min_u64(pieces * KV_BACKING_PIECE_BLOCKS, space->unbacked_blocks);
    const uint64_t free_blocks =
        space->free_blocks + space->deferred_blocks - (space->unbacked_blocks - growth);
    const uint64_t whole = space->whole_clusters + (space->deferred_blocks + growth) / cluster;
    const uint64_t kept = space->reserved_clusters +
                          emergency_clusters(space, blocks_in_reach(space) + growth) +
                          batch_clusters(space);
    if (whole < kept)
        return 0;
    const uint64_t leave = (kept + hole_clusters(space, free_blocks, whole)) * cluster;
    const uint64_t left = free_blocks > leave ? free_blocks - leave : 0;
    return left - left / DATA_BLOCKS_PER_PAGE_BLOCK;
}

void kv_space_stats(struct kv_space *space, struct kv_space_stats *stats)
{
    const uint64_t cluster = space->config.cluster_blocks;
    const uint64_t room = kv_device_room(space->device);
    pthread_mutex_lock(&space->mutex);
    *stats = (struct kv_space_stats){
        .total_blocks = space->total_blocks,
        .busy_blocks = space->total_blocks - space->free_blocks,
        .deferred_blocks = space->deferred_blocks,
        .reserved_blocks = space->reserved_clusters * cluster,
        .emergency_blocks = emergency_clusters(space, blocks_in_reach(space)) * cluster,
        .unbacked_blocks = space->unbacked_blocks,
        .available_blocks = available_blocks(space, room),
        .host_is_full = kv_backing_refused(space->backing),
        .whole_blocks = kv_min_u64(space->whole_clusters * cluster + space->unbacked_blocks,
                                   space->free_blocks),
    };
    for (uint32_t i = 0; i < space->config.group_count; i++)
        stats->longest_blocks = kv_max_u64(stats->longest_blocks, space->groups[i].run_bound);
    stats->longest_blocks = kv_min_u64(stats->longest_blocks, space->free_blocks);
    pthread_mutex_unlock(&space->mutex);
}
