/*
 * kv/space_alloc.c: which blocks are handed out.
 *
 * Owns       the hint where the last allocation ended. A search that saw a whole group in vain
 *            lowers the bound on how long its free runs are.
 * Invariant  a block is allocated only from a backed piece. Data takes no whole cluster that is
 *            reserved or kept.
 * Locks      space->mutex, which is released while the host is asked for room.
 */
#include "kv/space_groups.h"

enum search_where {
    SEARCH_ANY,
    SEARCH_HOLES /* leave whole free clusters alone */
};

struct found {
    uint32_t first, count;
};

/* The blocks of a word that a search may take. */
static uint64_t available(const struct kv_space *space, uint64_t busy_word, enum search_where where)
{
    return where == SEARCH_ANY ? ~busy_word : holes_of(busy_word, space->config.cluster_blocks);
}

/*
 * Scan from a word to the group's end. Stops at the first run of `count` blocks; `longest`
 * is that run, or the longest that was seen.
 *
 * A run begins at a busy block's end or at a word's start, never inside a whole cluster. So
 * taking n blocks of it breaks at most n / cluster_blocks whole clusters, rounded up.
 */
static void scan_words(const struct kv_space *space, const struct group *group, uint32_t word,
                       enum search_where where, uint32_t count, struct found *longest)
{
    struct found run = {0};
    bool backed = word_is_backed(space, group, word);
    for (; word < GROUP_WORDS; word++) {
        if (word % PIECE_WORDS == 0)
            backed = word_is_backed(space, group, word);
        if (!backed) { /* on to the last word of the piece */
            run.count = 0;
            word |= PIECE_WORDS - 1;
            continue;
        }
        uint64_t bits = available(space, group->busy[word], where);
        uint32_t at = 0;
        while (at < 64) {
            if (!(bits & 1)) {
                run.count = 0;
                if (!bits)
                    break;
                const uint32_t gap = (uint32_t)__builtin_ctzll(bits);
                at += gap;
                bits >>= gap;
            }
            const uint32_t ones = ~bits ? (uint32_t)__builtin_ctzll(~bits) : 64;
            const uint32_t length = ones < 64 - at ? ones : 64 - at;
            if (run.count == 0)
                run.first = word * 64 + at;
            run.count += length;
            if (run.count > longest->count)
                *longest = run;
            if (longest->count >= count) {
                longest->count = count;
                return;
            }
            at += length;
            bits = length < 64 ? bits >> length : 0;
        }
    }
}

/* Look for `count` blocks in a group, else for the longest run of at least `least`. */
static bool search_group(struct kv_space *space, uint32_t index, enum search_where where,
                         uint32_t count, uint32_t least, struct found *found)
{
    struct group *group = &space->groups[index];
    uint32_t room = group->free_count;
    if (where == SEARCH_HOLES)
        room -= group->whole_clusters * space->config.cluster_blocks;
    uint32_t *bound = where == SEARCH_HOLES ? &group->hole_bound : &group->run_bound;
    if (room < least || *bound < least)
        return false;

    const uint32_t hint = index == space->hint_group ? space->hint_word : 0;
    *found = (struct found){0};
    scan_words(space, group, hint, where, count, found);
    if (found->count < count && hint) {
        *found = (struct found){0};
        scan_words(space, group, 0, where, count, found);
    }
    if (found->count < count)
        *bound = found->count; /* the whole group was seen */
    return found->count >= least;
}

static bool search(struct kv_space *space, enum search_where where, uint32_t count, uint32_t least,
                   uint32_t *index, struct found *found)
{
    const uint32_t group_count = space->config.group_count;
    for (uint32_t i = 0; i < group_count; i++) {
        *index = (uint32_t)(((uint64_t)space->hint_group + i) % group_count);
        if (search_group(space, *index, where, count, least, found))
            return true;
    }
    return false;
}

/* A full run where there is room to spare; before anything is broken up more is backed. */
static bool find_spare(struct kv_space *space, uint32_t count, uint32_t *index, struct found *found)
{
    return count <= kv_space_spare_clusters(space) * space->config.cluster_blocks &&
           search(space, SEARCH_ANY, count, count, index, found);
}

/*
 * With room to spare, anywhere. When short, holes first; then, for data, as much as may be
 * taken without touching what is kept, and for pages anywhere. A full run is preferred to a
 * shorter one at each step.
 */
static bool find_room(struct kv_space *space, enum kv_space_purpose purpose, uint32_t count,
                      uint32_t least, uint32_t *index, struct found *found)
{
    const uint32_t cluster = space->config.cluster_blocks;
    const uint64_t spare_blocks = kv_space_spare_clusters(space) * cluster;
    if (find_spare(space, count, index, found))
        return true;
    if (search(space, SEARCH_HOLES, count, count, index, found))
        return true;
    if (purpose == KV_SPACE_PAGE && search(space, SEARCH_ANY, count, least, index, found))
        return true;
    if (least <= spare_blocks &&
        search(space, SEARCH_ANY, (uint32_t)kv_min_u64(count, spare_blocks), least, index, found))
        return true;
    return least < count && search(space, SEARCH_HOLES, count, least, index, found);
}

int kv_space_alloc(struct kv_space *space, enum kv_space_purpose purpose, uint32_t count,
                   uint32_t least, uint64_t *block, uint32_t *got)
{
    KV_ASSERT(least > 0);
    KV_ASSERT(least <= count);
    if (least > KV_GROUP_BLOCKS - KV_GROUP_META_BLOCKS)
        return -ENOSPC;

    uint32_t index;
    struct found found;
    int err = purpose == KV_SPACE_DATA ? 0 : -ENOSPC;
    pthread_mutex_lock(&space->mutex);
    while (!err && !find_spare(space, count, &index, &found))
        err = kv_space_back_more(space);
    if (err && err != -ENOSPC)
        goto out;
    err = -ENOSPC;
    if (find_room(space, purpose, count, least, &index, &found)) {
        kv_space_mark_busy(space, &space->groups[index], found.first, found.count);
        space->hint_group = index;
        space->hint_word = (found.first + found.count) / 64 % GROUP_WORDS;
        *block = group_start(&space->config, index) + found.first;
        *got = found.count;
        err = 0;
    }
out:
    pthread_mutex_unlock(&space->mutex);
    return err;
}

/* ---- a given run ---------------------------------------------------------------------- */

int kv_space_claim(struct kv_space *space, uint64_t block, uint32_t count)
{
    uint32_t index, first;
    if (!locate(space, block, count, &index, &first))
        return -EUCLEAN;
    int err = kv_space_back_meta(space, index);
    if (err)
        return err;
    err = -EUCLEAN;
    pthread_mutex_lock(&space->mutex);
    struct group *group = &space->groups[index];
    if (all_clear(group->busy, first, count)) {
        kv_space_mark_busy(space, group, first, count);
        err = 0;
    }
    pthread_mutex_unlock(&space->mutex);
    return err;
}

void kv_space_unalloc(struct kv_space *space, uint64_t block, uint32_t count)
{
    uint32_t index, first;
    const bool located = locate(space, block, count, &index, &first);
    KV_ASSERT(located);
    pthread_mutex_lock(&space->mutex);
    struct group *group = &space->groups[index];
    /* What a damaged pointer shared, and freed, is freed once. */
    if (group->leaving)
        space->deferred_blocks -= clear_bits(group->leaving, first, count);
    if (all_set(group->busy, first, count)) {
        kv_space_mark_free(space, group, first, count);
    } else { /* and what it freed before they had an owner is free already */
        for (uint32_t i = first; i < first + count; i++)
            if (all_set(group->busy, i, 1))
                kv_space_mark_free(space, group, i, 1);
    }
    pthread_mutex_unlock(&space->mutex);
}
