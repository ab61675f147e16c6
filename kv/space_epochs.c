/*
 * kv/space_epochs.c: the runs that open epochs commit and free, until a checkpoint has them.
 *
 * Owns       the lists of both open epochs, and in each group the blocks that are leaving.
 * Invariant  a run that is committed is busy; one that is freed stays busy, and is marked as
 *            leaving, until the checkpoint of its epoch is durable.
 * Locks      space->mutex.
 */
#include "kv/space_groups.h"

/* Run lists longer than this give their memory back when they are emptied. */
#define RUNS_KEPT 4096u

static int run_list_add(struct run_list *list, uint64_t block, uint32_t count)
{
    if (list->count) {
        struct run *last = &list->runs[list->count - 1];
        if (last->block + last->count == block && last->count <= KV_GROUP_BLOCKS - count) {
            last->count += count;
            return 0;
        }
    }
    if (list->count == list->cap) {
        const size_t cap = list->cap ? list->cap * 2 : 64;
        struct run *runs = realloc(list->runs, cap * sizeof *runs);
        if (!runs)
            return -ENOMEM;
        list->runs = runs;
        list->cap = cap;
    }
    list->runs[list->count++] = (struct run){.block = block, .count = count};
    return 0;
}

static void run_list_empty(struct run_list *list)
{
    list->count = 0;
    if (list->cap > RUNS_KEPT) {
        free(list->runs);
        *list = (struct run_list){0};
    }
}

void kv_space_changes_empty(struct epoch_changes *changes)
{
    run_list_empty(&changes->commits);
    run_list_empty(&changes->frees);
    changes->epoch = 0;
    changes->applied = false;
}

/* The changes of an open epoch; the caller keeps to two open ones. */
static struct epoch_changes *changes_of(struct kv_space *space, uint64_t epoch)
{
    struct epoch_changes *unused = NULL;
    for (unsigned i = 0; i < 2; i++) {
        struct epoch_changes *changes = &space->changes[i];
        if (changes->epoch == epoch) {
            KV_ASSERT(!changes->applied);
            return changes;
        }
        if (changes->epoch == 0)
            unused = changes;
    }
    KV_ASSERT(epoch != 0);
    KV_ASSERT(unused != NULL);
    unused->epoch = epoch;
    return unused;
}

int kv_space_commit(struct kv_space *space, uint64_t epoch, uint64_t block, uint32_t count)
{
    uint32_t index, first;
    const bool located = locate(space, block, count, &index, &first);
    KV_ASSERT(located);
    pthread_mutex_lock(&space->mutex);
    const int err = all_set(space->groups[index].busy, first, count)
                        ? run_list_add(&changes_of(space, epoch)->commits, block, count)
                        : -EUCLEAN;
    pthread_mutex_unlock(&space->mutex);
    return err;
}

int kv_space_free(struct kv_space *space, uint64_t epoch, uint64_t block, uint32_t count)
{
    uint32_t index, first;
    if (!locate(space, block, count, &index, &first))
        return -EUCLEAN;
    int err;
    pthread_mutex_lock(&space->mutex);
    struct group *group = &space->groups[index];
    if (!group->leaving) {
        group->leaving = calloc(1, KV_GROUP_BITMAP_BYTES);
        if (!group->leaving) {
            err = -ENOMEM;
            goto out;
        }
    }
    if (!all_set(group->busy, first, count) || !all_clear(group->leaving, first, count)) {
        err = -EUCLEAN;
        goto out;
    }
    err = run_list_add(&changes_of(space, epoch)->frees, block, count);
    if (err)
        goto out;
    set_bits(group->leaving, first, count);
    space->deferred_blocks += count;
out:
    pthread_mutex_unlock(&space->mutex);
    return err;
}

/* ---- checkpoints ------------------------------------------------------------------------ */

/* Take an epoch's changes into `committed`. A run may be both committed and freed in it. */
void kv_space_changes_apply(struct kv_space *space, struct epoch_changes *changes)
{
    uint32_t index, first;
    for (size_t i = 0; i < changes->commits.count; i++) {
        const struct run *run = &changes->commits.runs[i];
        const bool located = locate(space, run->block, run->count, &index, &first);
        KV_ASSERT(located);
        struct group *group = &space->groups[index];
        group->used_count += set_bits(group->committed, first, run->count);
        group->dirty = true;
    }
    for (size_t i = 0; i < changes->frees.count; i++) {
        const struct run *run = &changes->frees.runs[i];
        const bool located = locate(space, run->block, run->count, &index, &first);
        KV_ASSERT(located);
        struct group *group = &space->groups[index];
        group->used_count -= clear_bits(group->committed, first, run->count);
        group->dirty = true;
    }
    changes->applied = true;
}

/* A run that an epoch freed becomes free, but for blocks that were given back before. */
static void leave(struct kv_space *space, struct group *group, uint32_t first, uint32_t count)
{
    if (all_set(group->leaving, first, count)) {
        space->deferred_blocks -= clear_bits(group->leaving, first, count);
        kv_space_mark_free(space, group, first, count);
        return;
    }
    for (uint32_t i = first; i < first + count; i++)
        if (clear_bits(group->leaving, i, 1)) {
            space->deferred_blocks--;
            kv_space_mark_free(space, group, i, 1);
        }
}

void kv_space_written(struct kv_space *space, uint64_t epoch)
{
    pthread_mutex_lock(&space->mutex);
    for (unsigned i = 0; i < 2; i++) {
        struct epoch_changes *changes = &space->changes[i];
        if (!changes->applied || changes->epoch > epoch)
            continue;
        for (size_t k = 0; k < changes->frees.count; k++) {
            const struct run *run = &changes->frees.runs[k];
            uint32_t index, first;
            const bool located = locate(space, run->block, run->count, &index, &first);
            KV_ASSERT(located);
            if (!KV_PLANT(freed_space_lost))
                leave(space, &space->groups[index], first, run->count);
        }
        kv_space_changes_empty(changes);
    }
    space->refusals_max = REFUSALS_MAX;
    pthread_mutex_unlock(&space->mutex);
}
