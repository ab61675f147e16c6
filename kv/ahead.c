/*
 * kv/ahead.c: the thread that reads leaves ahead.
 *
 * Owns       the thread, the group that it was last asked for, and the first pages of some groups.
 * Invariant  at most one group is waiting while one is being read.
 * Locks      ahead->mutex, not held while pages are read. A leaf. The first pages are atomic: they
 *            are set by the thread alone, and taken by whoever comes to one.
 */
#include "kv/ahead.h"

#include <pthread.h>
#include <stdatomic.h>

/* So many walks may go on at the same time; of more, some read their leaves themselves. */
#define FIRSTS 4u

struct first {
    _Atomic uint64_t page_id; /* 0: none */
    _Atomic uint32_t count;   /* of its group */
};

struct group {
    uint8_t lower[KV_KEY_MAX], upper[KV_KEY_MAX];
    size_t lower_len, upper_len;
    unsigned passed, count;
};

struct kv_ahead {
    struct kv_btree *btree; /* immutable */
    pthread_mutex_t mutex;
    pthread_cond_t wanted; /* a group is waiting, or the end */
    struct group waiting;  /* mutex; count 0: none */
    bool stopping;         /* mutex */
    _Atomic bool runs;     /* there is a thread; changed by who starts and stops it */
    pthread_t thread;
    struct group group;  /* the thread's: the one that it reads */
    uint8_t *scratch;    /* the thread's; node_bytes */
    unsigned next_first; /* the thread's; of firsts, the next to be set */
    struct first firsts[FIRSTS];
};

struct kv_ahead *kv_ahead_new(struct kv_btree *btree)
{
    struct kv_ahead *const ahead = calloc(1, sizeof *ahead);
    if (!ahead)
        return NULL;
    ahead->btree = btree;
    ahead->scratch = malloc(btree->node_bytes);
    if (!ahead->scratch) {
        free(ahead);
        return NULL;
    }
    pthread_mutex_init(&ahead->mutex, NULL);
    pthread_cond_init(&ahead->wanted, NULL);
    return ahead;
}

void kv_ahead_free(struct kv_ahead *ahead)
{
    if (!ahead)
        return;
    KV_ASSERT(!kv_ahead_runs(ahead));
    pthread_cond_destroy(&ahead->wanted);
    pthread_mutex_destroy(&ahead->mutex);
    free(ahead->scratch);
    free(ahead);
}

bool kv_ahead_runs(const struct kv_ahead *ahead)
{
    return atomic_load_explicit(&ahead->runs, memory_order_relaxed);
}

/* The group's leaves in order, those that were passed first. Returns how many there are. */
static unsigned find_leaves(struct kv_ahead *ahead, uint64_t *page_ids)
{
    const struct group *const group = &ahead->group;
    const unsigned most = group->passed + group->count;
    const struct kv_bytes upper = {.data = group->upper, .length = group->upper_len};
    struct kv_btree_ahead found = {.next_len = group->lower_len, .more = true};
    unsigned count = 0;
    memcpy(found.next, group->lower, group->lower_len);
    while (found.more && count < most) { /* from one page above the leaves to the next */
        found.max = most - count;
        if (kv_btree_leaves_further(ahead->btree, upper, ahead->scratch, &found))
            break;
        memcpy(page_ids + count, found.page_ids, found.count * sizeof *page_ids);
        count += found.count;
    }
    return count;
}

static void read_group(struct kv_ahead *ahead)
{
    uint64_t page_ids[KV_PAGES_AT_ONCE];
    const unsigned passed = ahead->group.passed, found = find_leaves(ahead, page_ids);
    if (found <= passed)
        return;
    struct first *const first = &ahead->firsts[ahead->next_first++ % FIRSTS];
    atomic_store_explicit(&first->count, found - passed, memory_order_relaxed);
    atomic_store_explicit(&first->page_id, page_ids[passed], memory_order_release);
    kv_pager_prefetch(ahead->btree->pager, page_ids + passed, found - passed);
}

static void *serve(void *context)
{
    struct kv_ahead *const ahead = context;
    pthread_mutex_lock(&ahead->mutex);
    while (!ahead->stopping) {
        if (!ahead->waiting.count) {
            pthread_cond_wait(&ahead->wanted, &ahead->mutex);
            continue;
        }
        ahead->group = ahead->waiting;
        ahead->waiting.count = 0;
        pthread_mutex_unlock(&ahead->mutex);
        read_group(ahead);
        pthread_mutex_lock(&ahead->mutex);
    }
    pthread_mutex_unlock(&ahead->mutex);
    return NULL;
}

int kv_ahead_start(struct kv_ahead *ahead)
{
    KV_ASSERT(!kv_ahead_runs(ahead));
    const int err = -pthread_create(&ahead->thread, NULL, serve, ahead);
    atomic_store_explicit(&ahead->runs, !err, memory_order_relaxed);
    return err;
}

void kv_ahead_stop(struct kv_ahead *ahead)
{
    if (!kv_ahead_runs(ahead))
        return;
    atomic_store_explicit(&ahead->runs, false, memory_order_relaxed);
    pthread_mutex_lock(&ahead->mutex);
    ahead->stopping = true;
    pthread_cond_signal(&ahead->wanted);
    pthread_mutex_unlock(&ahead->mutex);
    pthread_join(ahead->thread, NULL);
    ahead->stopping = false; /* it may be started again */
    ahead->waiting.count = 0;
}

void kv_ahead_read(struct kv_ahead *ahead, struct kv_bytes lower, struct kv_bytes upper,
                   unsigned passed, unsigned count)
{
    KV_ASSERT(passed <= KV_PAGES_AT_ONCE / 2 && count <= KV_PAGES_AT_ONCE / 2);
    if (!count || !kv_ahead_runs(ahead))
        return;
    pthread_mutex_lock(&ahead->mutex);
    struct group *const group = &ahead->waiting;
    if (!group->count) {
        group->passed = passed;
        group->count = count;
        group->lower_len = lower.length;
        group->upper_len = upper.length;
        if (lower.length)
            memcpy(group->lower, lower.data, lower.length);
        if (upper.length)
            memcpy(group->upper, upper.data, upper.length);
        pthread_cond_signal(&ahead->wanted);
    }
    pthread_mutex_unlock(&ahead->mutex);
}

unsigned kv_ahead_reached(struct kv_ahead *ahead, uint64_t page_id)
{
    for (unsigned i = 0; i < FIRSTS; i++) {
        struct first *const first = &ahead->firsts[i];
        /* Acquire: the count is that of the page, or of a later one, which does as well. */
        if (atomic_load_explicit(&first->page_id, memory_order_acquire) != page_id)
            continue;
        const unsigned count = atomic_load_explicit(&first->count, memory_order_relaxed);
        uint64_t expected = page_id;
        if (atomic_compare_exchange_strong_explicit(&first->page_id, &expected, 0,
                                                    memory_order_relaxed, memory_order_relaxed))
            return count;
    }
    return 0;
}
