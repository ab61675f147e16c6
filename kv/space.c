/*
 * kv/space.c: who owns each block, as two views of each allocation group.
 *
 * Owns       the groups: which blocks are busy, which are committed, and the counts of both.
 * Invariant  committed is a subset of busy. Only clusters of backed pieces count as whole ones.
 *            The counts of a group, and the sums over all, are what its bits say.
 * Locks      see kv/space_groups.h.
 *
 * What else there is to the space: allocation (space_alloc.c), what open epochs change
 * (space_epochs.c), what is kept for later (space_reserve.c), room on the host (space_room.c) and
 * the bitmaps on disk (space_copies.c).
 */
#include "kv/space_groups.h"

/* ---- the views ---------------------------------------------------------------------- */

/* Free blocks outside whole clusters just below `at`, and from `at` on. */
static uint32_t hole_before(const struct kv_space *space, const struct group *group, uint32_t at)
{
    uint32_t length = 0;
    while (at > 0) {
        const uint32_t have = (at - 1) % 64 + 1; /* bits of the word that are below `at` */
        const uint64_t word = group->busy[(at - 1) / 64];
        const uint64_t taken = ~(holes_of(word, space->config.cluster_blocks) << (64 - have));
        const uint32_t free = taken ? (uint32_t)__builtin_clzll(taken) : have;
        length += free;
        at -= free;
        if (free < have)
            break;
    }
    return length;
}

static uint32_t hole_from(const struct kv_space *space, const struct group *group, uint32_t at)
{
    uint32_t length = 0;
    while (at < KV_GROUP_BLOCKS) {
        const uint32_t have = 64 - at % 64;
        const uint64_t word = group->busy[at / 64];
        const uint64_t taken = ~(holes_of(word, space->config.cluster_blocks) >> (at % 64));
        const uint32_t free = taken ? (uint32_t)__builtin_ctzll(taken) : have;
        length += free;
        at += free;
        if (free < have)
            break;
    }
    return length;
}

void kv_space_mark_busy(struct kv_space *space, struct group *group, uint32_t first, uint32_t count)
{
    const uint32_t cluster = space->config.cluster_blocks;
    uint32_t broken = 0, unbacked = 0;
    struct run_part part = run_parts(first, count);
    while (run_part_next(&part)) {
        uint64_t *word = &group->busy[part.word];
        KV_ASSERT((*word & part.mask) == 0);
        if (!word_is_backed(space, group, part.word)) {
            unbacked += popcount(part.mask);
            *word |= part.mask;
            continue;
        }
        broken += popcount(whole_clusters_of(*word, cluster));
        *word |= part.mask;
        broken -= popcount(whole_clusters_of(*word, cluster));
    }
    group->free_count -= count;
    group->unbacked_count -= unbacked;
    space->unbacked_blocks -= unbacked;
    group->whole_clusters -= broken;
    if (broken) { /* what is left of the clusters at both ends has become part of a hole */
        const uint32_t below = hole_before(space, group, first);
        const uint32_t above = hole_from(space, group, first + count);
        group->hole_bound = (uint32_t)kv_max_u64(group->hole_bound, kv_max_u64(below, above));
    }
    space->free_blocks -= count;
    space->whole_clusters -= broken;
}

void kv_space_mark_free(struct kv_space *space, struct group *group, uint32_t first, uint32_t count)
{
    const uint32_t cluster = space->config.cluster_blocks;
    uint32_t mended = 0, unbacked = 0;
    struct run_part part = run_parts(first, count);
    while (run_part_next(&part)) {
        uint64_t *word = &group->busy[part.word];
        KV_ASSERT((*word & part.mask) == part.mask);
        if (!word_is_backed(space, group, part.word)) {
            unbacked += popcount(part.mask);
            *word &= ~part.mask;
            continue;
        }
        mended -= popcount(whole_clusters_of(*word, cluster));
        *word &= ~part.mask;
        mended += popcount(whole_clusters_of(*word, cluster));
    }
    group->free_count += count;
    group->unbacked_count += unbacked;
    space->unbacked_blocks += unbacked;
    group->whole_clusters += mended;
    group->run_bound = group->block_count;
    group->hole_bound = group->block_count;
    space->free_blocks += count;
    space->whole_clusters += mended;
}

/* Count what the two views say. */
static void count_group(const struct kv_space *space, struct group *group)
{
    group->used_count = 0;
    group->free_count = 0;
    group->unbacked_count = 0;
    group->whole_clusters = 0;
    for (uint32_t i = 0; i < word_count(group->block_count); i++) {
        group->used_count += popcount(group->committed[i]);
        group->free_count += popcount(~group->busy[i]);
        if (word_is_backed(space, group, i))
            group->whole_clusters +=
                popcount(whole_clusters_of(group->busy[i], space->config.cluster_blocks));
        else
            group->unbacked_count += popcount(~group->busy[i]);
    }
    group->run_bound = group->block_count;
    group->hole_bound = group->block_count;
}

/* Make busy what is committed, and count. */
void kv_space_reset_busy(const struct kv_space *space, struct group *group)
{
    memcpy(group->busy, group->committed, KV_GROUP_BITMAP_BYTES);
    set_bits(group->busy, group->block_count, KV_GROUP_BLOCKS - group->block_count);
    if (group->leaving)
        memset(group->leaving, 0, KV_GROUP_BITMAP_BYTES);
    count_group(space, group);
}

void kv_space_sum_groups(struct kv_space *space)
{
    space->free_blocks = 0;
    space->unbacked_blocks = 0;
    space->whole_clusters = 0;
    for (uint32_t i = 0; i < space->config.group_count; i++) {
        space->free_blocks += space->groups[i].free_count;
        space->unbacked_blocks += space->groups[i].unbacked_count;
        space->whole_clusters += space->groups[i].whole_clusters;
    }
}

/* ---- making --------------------------------------------------------------------------- */

/* Does the geometry, which comes from a superblock, make sense on this device? */
bool kv_space_config_is_sane(const struct kv_device *device, const struct kv_space_config *config)
{
    const uint32_t cluster = config->cluster_blocks;
    if (cluster == 0 || cluster > KV_NODE_BYTES_MAX / KV_BLOCK_BYTES || (cluster & (cluster - 1)))
        return false;
    if (config->group_count == 0 || config->end_block > device->block_count)
        return false;
    if (config->group_first_block % (KV_NODE_BYTES_MAX / KV_BLOCK_BYTES))
        return false;
    if (config->group_first_block >= config->end_block)
        return false;
    const uint64_t span = config->end_block - config->group_first_block;
    const uint64_t before_last = (uint64_t)(config->group_count - 1) * KV_GROUP_BLOCKS;
    return span > before_last + KV_GROUP_META_BLOCKS && span <= before_last + KV_GROUP_BLOCKS;
}

void kv_space_close(struct kv_space *space)
{
    if (!space)
        return;
    for (unsigned i = 0; i < 2; i++) {
        free(space->changes[i].commits.runs);
        free(space->changes[i].frees.runs);
    }
    for (uint32_t i = 0; i < space->config.group_count; i++) {
        free(space->groups[i].busy);
        free(space->groups[i].committed);
        free(space->groups[i].leaving);
    }
    free(space->groups);
    kv_backing_close(space->backing);
    pthread_mutex_destroy(&space->mutex);
    free(space);
}

int kv_space_new(struct kv_device *device, const struct kv_space_config *config,
                 struct kv_space **out)
{
    if (!kv_space_config_is_sane(device, config))
        return -EUCLEAN;
    struct kv_space *space = calloc(1, sizeof *space);
    if (!space)
        return -ENOMEM;
    space->groups = calloc(config->group_count, sizeof *space->groups);
    if (!space->groups) {
        free(space);
        return -ENOMEM;
    }
    const int lock_err = pthread_mutex_init(&space->mutex, NULL);
    if (lock_err) {
        free(space->groups);
        free(space);
        return -lock_err;
    }
    space->device = device;
    space->config = *config;
    space->refusals_max = REFUSALS_MAX_OPEN;
    const struct kv_backing_config backing = {.device = device,
                                              .first_block = config->group_first_block,
                                              .block_count =
                                                  config->end_block - config->group_first_block,
                                              .mutex = &space->mutex,
                                              .wanted = kv_space_piece_is_wanted,
                                              .backed = kv_space_piece_is_backed,
                                              .context = space};
    const int backing_err = kv_backing_open(&backing, &space->backing);
    if (backing_err) {
        kv_space_close(space);
        return backing_err;
    }
    *out = space;
    return 0;
}

int kv_space_add_group(struct kv_space *space, uint32_t index)
{
    struct group *group = &space->groups[index];
    group->block_count = group_block_count(&space->config, index);
    group->meta_backed = !space->device->thin;
    group->busy = malloc(KV_GROUP_BITMAP_BYTES);
    group->committed = calloc(1, KV_GROUP_BITMAP_BYTES);
    if (!group->busy || !group->committed)
        return -ENOMEM;
    set_bits(group->committed, 0, KV_GROUP_META_BLOCKS);
    kv_space_reset_busy(space, group);
    space->total_blocks += group->block_count - KV_GROUP_META_BLOCKS;
    for (uint32_t k = 0; k < word_count(group->block_count); k++)
        space->cluster_count +=
            popcount(whole_clusters_of(group->busy[k], space->config.cluster_blocks));
    return 0;
}

int kv_space_open_empty(struct kv_device *device, const struct kv_space_config *config,
                        struct kv_space **out)
{
    struct kv_space *space = NULL;
    const int err = kv_space_new(device, config, &space);
    if (err)
        return err;
    KV_ASSERT(space);
    for (uint32_t i = 0; i < config->group_count; i++) {
        const int group_err = kv_space_add_group(space, i);
        if (group_err) {
            kv_space_close(space);
            return group_err;
        }
        space->groups[i].active = 1; /* neither; the first checkpoint writes copy 0 */
        space->groups[i].dirty = true;
        space->groups[i].other_unknown = true;
    }
    kv_space_sum_groups(space);
    *out = space;
    return 0;
}

/* ---- looking --------------------------------------------------------------------------- */

bool kv_space_contains(struct kv_space *space, uint64_t block, uint64_t count)
{
    uint32_t index, first;
    return locate(space, block, count, &index, &first);
}

bool kv_space_owned(struct kv_space *space, uint64_t block, uint32_t count)
{
    uint32_t index, first;
    if (!locate(space, block, count, &index, &first))
        return false;
    pthread_mutex_lock(&space->mutex);
    const struct group *group = &space->groups[index];
    const bool owned = all_set(group->busy, first, count) &&
                       (!group->leaving || all_clear(group->leaving, first, count));
    pthread_mutex_unlock(&space->mutex);
    return owned;
}

/* ---- what a walk found ------------------------------------------------------------------ */

void kv_space_compare(struct kv_space *space, const uint64_t *seen, bool repair, uint64_t *leaked,
                      uint64_t *unmarked)
{
    *leaked = 0;
    *unmarked = 0;
    pthread_mutex_lock(&space->mutex);
    for (uint32_t i = 0; i < space->config.group_count; i++) {
        struct group *group = &space->groups[i];
        const uint64_t *seen_words = seen + (size_t)i * GROUP_WORDS;
        struct run_part part =
            run_parts(KV_GROUP_META_BLOCKS, group->block_count - KV_GROUP_META_BLOCKS);
        while (run_part_next(&part)) {
            const uint64_t owned = seen_words[part.word] & part.mask;
            uint64_t *word = &group->committed[part.word];
            *leaked += popcount(*word & part.mask & ~owned);
            *unmarked += popcount(owned & ~*word);
            if (repair)
                *word = (*word & ~part.mask) | owned;
        }
        if (repair) {
            kv_space_reset_busy(space, group);
            group->dirty = true;
        }
    }
    if (repair) {
        kv_space_changes_empty(&space->changes[0]);
        kv_space_changes_empty(&space->changes[1]);
        space->deferred_blocks = 0;
        kv_space_sum_groups(space);
    }
    pthread_mutex_unlock(&space->mutex);
}

void kv_space_mark(struct kv_space *space, const uint64_t *seen)
{
    pthread_mutex_lock(&space->mutex);
    for (uint32_t i = 0; i < space->config.group_count; i++) {
        struct group *group = &space->groups[i];
        const uint64_t *seen_words = seen + (size_t)i * GROUP_WORDS;
        struct run_part part =
            run_parts(KV_GROUP_META_BLOCKS, group->block_count - KV_GROUP_META_BLOCKS);
        uint64_t added = 0;
        while (run_part_next(&part)) {
            const uint64_t owned = seen_words[part.word] & part.mask;
            added |= owned & ~group->committed[part.word];
            group->committed[part.word] |= owned;
            group->busy[part.word] |= owned;
        }
        if (!added)
            continue;
        count_group(space, group);
        group->dirty = true;
    }
    kv_space_sum_groups(space);
    pthread_mutex_unlock(&space->mutex);
}
