/*
 * kv/ahead.c: the thread that reads leaves ahead.
 *
 * Owns       the thread, the group that it was last asked for, the first pages of some groups, the
 *            last pages of some walks, and runs of leaves that were loaded in order.
 * Invariant  at most one group is waiting while one is being read.
 * Locks      ahead->mutex, not held while pages are read. A leaf. The first pages are atomic: they
 *            are set by the thread alone, and taken by whoever comes to one. So are the last ones,
 *            set by who walked: of two at the same time one may be lost.
 */
#include "kv/ahead.h"

#include "kv/codec.h"

#include <pthread.h>
#include <stdatomic.h>

/* So many walks may go on at the same time; of more, some read their leaves themselves. */
#define FIRSTS 4u
/* Of so many walks that ended it is known where. */
#define ENDS 8u
/* So many runs of leaves that were loaded in order are known. Behind one of four leaves as many are
 * read ahead as it has, within bounds. */
#define ORDERS      8u
#define ORDER_LEAST 4u
#define ORDER_MAX   32u
static_assert(ORDER_MAX <= KV_PAGES_AT_ONCE / 2, "a group");
#define ROOM_PART 8u /* at most such a part of what hot and warm can hold */

struct first {
    _Atomic uint64_t page_id; /* 0: none */
    _Atomic uint32_t count;   /* of its group */
};

struct order {
    uint64_t next;   /* digest of the key at which it would go on */
    unsigned leaves; /* 0: none */
};

struct group {
    uint8_t lower[KV_KEY_MAX], upper[KV_KEY_MAX];
    size_t lower_len, upper_len;
    unsigned passed, count;
    struct order *order; /* that it goes on with; NULL: it is a walk's */
};

struct kv_ahead {
    struct kv_btree *btree; /* immutable */
    pthread_mutex_t mutex;
    pthread_cond_t wanted;       /* a group is waiting, or the end */
    struct group waiting;        /* mutex; count 0: none */
    struct order orders[ORDERS]; /* mutex */
    unsigned next_order;         /* mutex; of orders, the next to be given up */
    bool stopping;               /* mutex */
    _Atomic bool runs;           /* there is a thread; changed by who starts and stops it */
    pthread_t thread;
    struct group group;  /* the thread's: the one that it reads */
    uint8_t *scratch;    /* the thread's; node_bytes */
    unsigned next_first; /* the thread's; of firsts, the next to be set */
    struct first firsts[FIRSTS];
    _Atomic uint64_t ends[ENDS]; /* page ids; 0: none */
    _Atomic unsigned next_end;   /* of ends, the next to be set when none is free */
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

unsigned kv_ahead_within_room(const struct kv_ahead *ahead, unsigned leaves)
{
    const uint64_t room = kv_pager_page_room(ahead->btree->pager) / ROOM_PART;
    return (unsigned)kv_min_u64(leaves, room);
}

static uint64_t digest_key(const void *key, size_t length)
{
    return kv_digest(key, length, 0);
}

/* The run goes on behind the leaves that were found. */
static void lengthen(struct kv_ahead *ahead, const struct group *group, unsigned found,
                     const struct kv_btree_ahead *last)
{
    pthread_mutex_lock(&ahead->mutex);
    struct order *const order = group->order;
    if (order->next == digest_key(group->lower, group->lower_len)) { /* nobody was faster */
        order->leaves = last->more ? order->leaves + found : 0;
        order->next = digest_key(last->next, last->next_len);
    }
    pthread_mutex_unlock(&ahead->mutex);
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
    if (group->order)
        lengthen(ahead, group, count, &found);
    return count;
}

static void read_group(struct kv_ahead *ahead)
{
    uint64_t page_ids[KV_PAGES_AT_ONCE];
    const unsigned passed = ahead->group.passed, found = find_leaves(ahead, page_ids);
    if (found <= passed)
        return;
    if (!ahead->group.order) {
        struct first *const first = &ahead->firsts[ahead->next_first++ % FIRSTS];
        atomic_store_explicit(&first->count, found - passed, memory_order_relaxed);
        atomic_store_explicit(&first->page_id, page_ids[passed], memory_order_release);
    }
    (void)kv_pager_prefetch(ahead->btree->pager, page_ids + passed, found - passed);
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
    if (!ahead || !kv_ahead_runs(ahead))
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

/* A group from `lower` on waits for the thread; its upper bound is set. With the mutex. */
static void want(struct kv_ahead *ahead, struct kv_bytes lower, unsigned passed, unsigned count,
                 struct order *order)
{
    struct group *const group = &ahead->waiting;
    group->passed = passed;
    group->count = count;
    group->order = order;
    group->lower_len = lower.length;
    if (lower.length)
        memcpy(group->lower, lower.data, lower.length);
    pthread_cond_signal(&ahead->wanted);
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
        group->upper_len = upper.length;
        if (upper.length)
            memcpy(group->upper, upper.data, upper.length);
        want(ahead, lower, passed, count, NULL);
    }
    pthread_mutex_unlock(&ahead->mutex);
}

/* The run that goes on at `next`; NULL: none. With the mutex. */
static struct order *order_at(struct kv_ahead *ahead, uint64_t next)
{
    for (unsigned i = 0; i < ORDERS; i++) {
        if (ahead->orders[i].leaves && ahead->orders[i].next == next)
            return &ahead->orders[i];
    }
    return NULL;
}

void kv_ahead_loaded(struct kv_ahead *ahead, struct kv_bytes low, struct kv_bytes high)
{
    if (!high.length || !kv_ahead_runs(ahead))
        return;
    const uint64_t begin = digest_key(low.data, low.length);
    const uint64_t next = digest_key(high.data, high.length);
    const unsigned most = kv_ahead_within_room(ahead, ORDER_MAX);
    pthread_mutex_lock(&ahead->mutex);
    struct order *order = order_at(ahead, begin);
    if (!order && order_at(ahead, next))
        goto out; /* the leaf was told of before */
    if (!order) { /* in the place of the oldest */
        order = &ahead->orders[ahead->next_order++ % ORDERS];
        order->leaves = 0;
    }
    order->next = next;
    order->leaves++;
    const unsigned count = (unsigned)kv_min_u64(order->leaves, most);
    if (order->leaves >= ORDER_LEAST && count && !ahead->waiting.count) {
        ahead->waiting.upper_len = 0;
        want(ahead, high, 0, count, order);
    }
out:
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

void kv_ahead_left(struct kv_ahead *ahead, uint64_t page_id)
{
    unsigned place = ENDS;
    for (unsigned i = 0; i < ENDS; i++) {
        const uint64_t end = atomic_load_explicit(&ahead->ends[i], memory_order_relaxed);
        if (end == page_id)
            return;
        if (!end)
            place = i;
    }
    if (place == ENDS)
        place = atomic_fetch_add_explicit(&ahead->next_end, 1, memory_order_relaxed) % ENDS;
    atomic_store_explicit(&ahead->ends[place], page_id, memory_order_relaxed);
}

bool kv_ahead_follows(struct kv_ahead *ahead, uint64_t page_id)
{
    for (unsigned i = 0; i < ENDS; i++) {
        uint64_t expected = page_id;
        if (atomic_load_explicit(&ahead->ends[i], memory_order_relaxed) == page_id)
            return atomic_compare_exchange_strong_explicit(
                &ahead->ends[i], &expected, 0, memory_order_relaxed, memory_order_relaxed);
    }
    return false;
}
