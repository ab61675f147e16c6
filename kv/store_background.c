/*
 * kv/store_background.c: checkpoints of a store, and the threads that see to them, to the log,
 * to what leaves memory, to memory that will be used, to changes that wait for their leaves, and to
 * blobs in the background.
 *
 * Owns       the committer, the checkpointer, the packer, the toucher, the settler, the writer of
 *            blobs, and who helps to pack them.
 * Invariant  one checkpoint at a time; after a failure none is begun.
 * Locks      checkpoint.mutex over a checkpoint, the writer lock briefly under it. work_mutex is a
 *            leaf: nothing is taken under it.
 */
#include "kv/store.h"

#include <time.h>

/* The packer rests so often as long as it works, and at least so long; without work, longer. */
#define PACK_REST_TIMES     9u
#define PACK_EVERY_MS       2u
#define PACK_EVERY_MS_MAX   1024u
#define PACK_AT_ONCE        32u  /* pages, so some 2 ms of work */
#define PACK_AT_CHECKPOINT  128u /* when there is no packer */
#define ADAPT_EVERY_NS      500000000ull
#define TOUCH_PAUSE_MS      20u   /* without use: a pause */
#define CHECKPOINT_AGAIN_MS 1000u /* after one that could not begin */
#define SETTLE_AFTER_MS     20u   /* what few changes are deferred wait so long for more */

/* Under checkpoint.mutex. */
static int checkpoint_locked(struct kv_store *store, bool clean)
{
    if (kv_store_failure(store))
        return -EIO;
    if (store->trees_outdated) /* a superblock of ours would hide what can still be found */
        return -EUCLEAN;
    pthread_mutex_lock(&store->writer);
    store->changed = false;
    atomic_store_explicit(
        &store->log_closing,
        atomic_exchange_explicit(&store->log_since_checkpoint, 0, memory_order_relaxed),
        memory_order_relaxed);
    pthread_mutex_unlock(&store->writer);
    const int err = kv_checkpoint_run(&store->checkpoint, clean);
    const uint64_t closing = atomic_exchange_explicit(&store->log_closing, 0, memory_order_relaxed);
    if (err && !store->checkpoint.begun) { /* some change waits for a page: later, perhaps */
        pthread_mutex_lock(&store->writer);
        store->changed = true;
        (void)atomic_fetch_add_explicit(&store->log_since_checkpoint, closing,
                                        memory_order_relaxed);
        pthread_mutex_unlock(&store->writer);
        return err;
    }
    if (err)
        (void)kv_store_fail(store, err, "a checkpoint");
    if (!err && !store->threads_running && !clean)
        (void)kv_pager_pack_some(store->pager, PACK_AT_CHECKPOINT);
    return err ? -EIO : 0;
}

int kv_store_checkpoint(struct kv_store *store, bool clean, bool always)
{
    if (store->read_only)
        return -EROFS;
    pthread_mutex_lock(&store->checkpoint.mutex);
    pthread_mutex_lock(&store->writer);
    const bool needed = store->changed || always || clean;
    pthread_mutex_unlock(&store->writer);
    store->checkpoint.alone = always || clean; /* while it is being opened or closed */
    int err = needed ? checkpoint_locked(store, clean) : 0;
    store->checkpoint.alone = false;
    if (!err && kv_store_failure(store))
        err = -EIO;
    pthread_mutex_unlock(&store->checkpoint.mutex);
    return err;
}

int kv_store_checkpoint_of(struct kv_store *store, uint64_t epoch)
{
    pthread_mutex_lock(&store->checkpoint.mutex);
    /* Nobody else is at it now, so an epoch that is closed is also written. */
    const uint64_t open = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    int err = 0;
    if (open <= epoch)
        err = checkpoint_locked(store, false);
    else if (kv_store_failure(store))
        err = -EIO;
    pthread_mutex_unlock(&store->checkpoint.mutex);
    return err;
}

int kv_store_checkpoint_after(struct kv_store *store, uint64_t done)
{
    pthread_mutex_lock(&store->checkpoint.mutex);
    int err = 0;
    if (atomic_load_explicit(&store->checkpoint.done, memory_order_relaxed) == done)
        err = checkpoint_locked(store, false);
    else if (kv_store_failure(store))
        err = -EIO;
    pthread_mutex_unlock(&store->checkpoint.mutex);
    return err;
}

/* kv_store_checkpoint, and whether there was one counts: it need not make any. */
static int checkpoint_counted(struct kv_store *store, _Atomic uint64_t *counter)
{
    const uint64_t before = atomic_load_explicit(&store->checkpoint.done, memory_order_relaxed);
    const int err = kv_store_checkpoint(store, false, false);
    if (atomic_load_explicit(&store->checkpoint.done, memory_order_relaxed) != before)
        (void)atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
    return err;
}

int kv_checkpoint(struct kv_store *store)
{
    return checkpoint_counted(store, &store->checkpoints_asked);
}

/* Tell a thread that there is work for it. also: NULL, or what more is wanted. */
static void call_thread(struct kv_store *store, bool *wanted, bool *also, pthread_cond_t *work)
{
    pthread_mutex_lock(&store->work_mutex);
    *wanted = true;
    if (also)
        *also = true;
    pthread_cond_signal(work);
    pthread_mutex_unlock(&store->work_mutex);
}

void kv_store_want_checkpoint(struct kv_store *store)
{
    if (store->threads_running)
        call_thread(store, &store->checkpoint_wanted, NULL, &store->for_checkpointer);
}

void kv_store_want_log_write(struct kv_store *store)
{
    if (store->threads_running)
        call_thread(store, &store->committer_called, &store->log_is_behind, &store->for_committer);
}

void kv_store_want_touch(void *context)
{
    struct kv_store *store = context;
    call_thread(store, &store->touch_wanted, NULL, &store->for_toucher);
}

bool kv_store_want_cleaning(void *context)
{
    struct kv_store *store = context;
    if (store->threads_running)
        call_thread(store, &store->cleaning_wanted, NULL, &store->for_packer);
    return store->threads_running;
}

void kv_store_want_settle(struct kv_store *store, bool now)
{
    if (store->threads_running)
        call_thread(store, &store->settler_called, now ? &store->settle_wanted : NULL,
                    &store->for_settler);
}

/* ---- the threads ----------------------------------------------------------------- */

/* Wait for work or the time; false: the store is closing. Under work_mutex. */
static bool wait_for_work(struct kv_store *store, pthread_cond_t *work, uint64_t milliseconds,
                          const bool *flag)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    const uint64_t ns = (uint64_t)until.tv_nsec + milliseconds % 1000 * 1000000ull;
    until.tv_sec += (time_t)(milliseconds / 1000 + ns / 1000000000ull);
    until.tv_nsec = (long)(ns % 1000000000ull);
    int timed_out = 0;
    while (!store->stopping && !(flag && *flag) && !timed_out)
        timed_out = pthread_cond_timedwait(work, &store->work_mutex, &until);
    return !store->stopping;
}

/* Of kv_clock_ns, in milliseconds; 0: it is past. */
static uint64_t ms_until(uint64_t due_ms)
{
    const uint64_t now_ms = kv_clock_ns() / 1000000;
    return due_ms > now_ms ? due_ms - now_ms : 0;
}

/* A failed write of the log is said and kept by kv_store_fail. */
static void write_behind(struct kv_store *store)
{
    const int err = kv_store_failure(store) ? 0 : kv_wal_write_behind(store->wal);
    if (err)
        (void)kv_store_fail(store, err, "writing the log");
}

/*
 * Every commit_interval what was applied becomes durable; and what much was appended is written
 * when somebody says so.
 */
static void *run_committer(void *context)
{
    struct kv_store *store = context;
    pthread_mutex_lock(&store->work_mutex);
    uint64_t due_ms = kv_clock_ns() / 1000000 + store->commit_interval_ms;
    for (;;) {
        if (!wait_for_work(store, &store->for_committer, ms_until(due_ms),
                           &store->committer_called))
            break;
        const bool behind = store->log_is_behind;
        const bool due = store->interval_changed || !ms_until(due_ms);
        store->committer_called = store->log_is_behind = store->interval_changed = false;
        pthread_mutex_unlock(&store->work_mutex);
        if (behind)
            write_behind(store);
        if (due && !kv_store_failure(store) && store->sync != KV_SYNC_CHECKPOINT)
            kv_ignore(kv_sync(store)); /* a failure is said and kept by kv_store_fail */
        pthread_mutex_lock(&store->work_mutex);
        if (due)
            due_ms = kv_clock_ns() / 1000000 + store->commit_interval_ms;
    }
    pthread_mutex_unlock(&store->work_mutex);
    return NULL;
}

static void *run_checkpointer(void *context)
{
    struct kv_store *store = context;
    pthread_mutex_lock(&store->work_mutex);
    while (wait_for_work(store, &store->for_checkpointer, store->checkpoint_interval_ms,
                         &store->checkpoint_wanted)) {
        const bool wanted = store->checkpoint_wanted;
        store->checkpoint_wanted = false;
        pthread_mutex_unlock(&store->work_mutex);
        int err = 0;
        if (!kv_store_failure(store)) /* errors likewise */
            err = wanted ? checkpoint_counted(store, &store->checkpoints_wanted)
                         : kv_store_checkpoint(store, false, false);
        pthread_mutex_lock(&store->work_mutex);
        if (err) /* every writer may ask for another one */
            (void)wait_for_work(store, &store->for_checkpointer, CHECKPOINT_AGAIN_MS, NULL);
    }
    pthread_mutex_unlock(&store->work_mutex);
    return NULL;
}

/* Pack some pages. Returns for how long to rest then; it was `pause_ms`. */
static uint64_t pack_some(struct kv_store *store, uint64_t pause_ms)
{
    const uint64_t begun_ns = kv_clock_ns();
    if (!kv_pager_pack_some(store->pager, PACK_AT_ONCE))
        return kv_min_u64(2 * pause_ms, PACK_EVERY_MS_MAX);
    const uint64_t rest_ms = (kv_clock_ns() - begun_ns) * PACK_REST_TIMES / 1000000;
    return kv_max_u64(rest_ms, PACK_EVERY_MS);
}

/* Pages that will leave memory are packed, and written when many are dirty. */
static void *run_packer(void *context)
{
    struct kv_store *store = context;
    uint64_t pause_ms = PACK_EVERY_MS, adapt_ns = kv_clock_ns();
    uint64_t due_ms = adapt_ns / 1000000 + pause_ms;
    pthread_mutex_lock(&store->work_mutex);
    while (wait_for_work(store, &store->for_packer, ms_until(due_ms), &store->cleaning_wanted)) {
        const bool crowded = store->cleaning_wanted;
        store->cleaning_wanted = false;
        pthread_mutex_unlock(&store->work_mutex);
        if (crowded)
            kv_pager_clean(store->pager);
        const uint64_t now_ns = kv_clock_ns();
        if (now_ns - adapt_ns >= ADAPT_EVERY_NS) {
            adapt_ns = now_ns;
            kv_pager_adapt(store->pager);
        }
        if (!ms_until(due_ms)) {
            pause_ms = pack_some(store, pause_ms);
            due_ms = kv_clock_ns() / 1000000 + pause_ms;
        }
        pthread_mutex_lock(&store->work_mutex);
    }
    pthread_mutex_unlock(&store->work_mutex);
    return NULL;
}

/* One step of an arena, of which so much was used when it was looked at last; or what is due. */
static enum kv_arena_due touch_step(struct kv_arena *arena, size_t *used_before)
{
    const size_t used = atomic_load_explicit(&arena->used, memory_order_relaxed);
    const bool pause = used == *used_before;
    *used_before = used;
    const enum kv_arena_due due = kv_arena_due(arena);
    if (due == KV_ARENA_DUE_NOTHING || (due == KV_ARENA_DUE_LATER && !pause))
        return due;
    return kv_arena_touch(arena) ? KV_ARENA_DUE_NOW : KV_ARENA_DUE_NOTHING;
}

/* Memory is faulted in ahead of who will use it (kv/arena.h), in steps of some milliseconds. */
static void *run_toucher(void *context)
{
    static const uint64_t wait_ms[] = {[KV_ARENA_DUE_NOTHING] = UINT32_MAX,
                                       [KV_ARENA_DUE_LATER] = TOUCH_PAUSE_MS,
                                       [KV_ARENA_DUE_NOW] = 0};
    struct kv_store *store = context;
    size_t used[KV_STORE_ARENAS] = {0};
    enum kv_arena_due due = KV_ARENA_DUE_NOW; /* arenas may want some before they are used */
    pthread_mutex_lock(&store->work_mutex);
    while (wait_for_work(store, &store->for_toucher, wait_ms[due], &store->touch_wanted)) {
        store->touch_wanted = false;
        pthread_mutex_unlock(&store->work_mutex);
        due = KV_ARENA_DUE_NOTHING;
        for (unsigned i = 0; i < KV_STORE_ARENAS && store->arenas[i]; i++) {
            const enum kv_arena_due step = touch_step(store->arenas[i], &used[i]);
            due = step > due ? step : due;
        }
        pthread_mutex_lock(&store->work_mutex);
    }
    pthread_mutex_unlock(&store->work_mutex);
    return NULL;
}

/* What is deferred goes into its leaves, when it is much or has waited for long. */
static void *run_settler(void *context)
{
    struct kv_store *store = context;
    uint64_t wait_ms = UINT32_MAX;
    pthread_mutex_lock(&store->work_mutex);
    while (wait_for_work(store, &store->for_settler, wait_ms, &store->settler_called)) {
        const bool now = store->settle_wanted || !store->settler_called;
        store->settler_called = store->settle_wanted = false;
        wait_ms = SETTLE_AFTER_MS;
        if (!now)
            continue;
        pthread_mutex_unlock(&store->work_mutex);
        if (!kv_store_failure(store))
            kv_ignore(kv_settle(store)); /* what can not be had is for the checkpoint to say */
        pthread_mutex_lock(&store->work_mutex);
        if (!kv_deferred_due(store->deferred))
            wait_ms = UINT32_MAX; /* who defers the next will call */
    }
    pthread_mutex_unlock(&store->work_mutex);
    return NULL;
}

/* Blobs go to the device as they come. */
static void *run_blob_writer(void *context)
{
    struct kv_store *store = context;
    kv_blob_pending_serve(store->blobs.pending);
    return NULL;
}

/* Tell the threads to end, but for the one that writes blobs; the caller joins them. */
static void set_stopping(struct kv_store *store, bool stopping)
{
    pthread_mutex_lock(&store->work_mutex);
    store->stopping = stopping;
    pthread_cond_signal(&store->for_committer);
    pthread_cond_signal(&store->for_checkpointer);
    pthread_cond_signal(&store->for_packer);
    pthread_cond_signal(&store->for_toucher);
    pthread_cond_signal(&store->for_settler);
    pthread_mutex_unlock(&store->work_mutex);
}

int kv_store_start_threads(struct kv_store *store)
{
    const int crew_err = kv_crew_new(&store->blobs.crew);
    if (crew_err)
        return crew_err;
    int err = kv_ahead_start(store->ahead);
    static void *(*const runs[])(void *) = {run_committer, run_checkpointer, run_packer,
                                            run_toucher,   run_settler,      run_blob_writer};
    pthread_t *const threads[] = {&store->committer, &store->checkpointer, &store->packer,
                                  &store->toucher,   &store->settler,      &store->blob_writer};
    const size_t count = sizeof runs / sizeof runs[0];
    size_t started = 0;
    while (started < count && !err) {
        err = -pthread_create(threads[started], NULL, runs[started], store);
        started += !err;
    }
    store->threads_running = !err;
    if (!err)
        return 0;
    set_stopping(store, true); /* the one that writes blobs would be the last */
    for (size_t i = 0; i < started; i++)
        pthread_join(*threads[i], NULL);
    set_stopping(store, false); /* they may be started later */
    kv_ahead_stop(store->ahead);
    kv_crew_free(store->blobs.crew);
    store->blobs.crew = NULL;
    return err;
}

void kv_store_stop_threads(struct kv_store *store)
{
    kv_ahead_stop(store->ahead);
    if (!store->threads_running)
        return;
    set_stopping(store, true);
    kv_blob_pending_stop(store->blobs.pending);
    pthread_join(store->committer, NULL);
    pthread_join(store->checkpointer, NULL);
    pthread_join(store->packer, NULL);
    pthread_join(store->toucher, NULL);
    pthread_join(store->settler, NULL);
    pthread_join(store->blob_writer, NULL);
    kv_crew_free(store->blobs.crew);
    store->blobs.crew = NULL;
    store->threads_running = false;
}
