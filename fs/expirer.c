/*
 * fs/expirer.c: removes what expires while a volume is mounted, in the background.
 *
 * Owns       the thread.
 * Invariant  it sleeps until the first moment that it knows of, but wakes each second while there
 *            is one: the wall clock may be set, and expiry goes by that.
 * Locks      volume->expiry_mutex, a leaf, for `stop` and the moment; none while it works.
 */
#include "fs/expirer.h"

#include <stdlib.h>

#define NS_PER_SECOND INT64_C(1000000000)

struct fs_expirer {
    struct fs_volume *volume; /* immutable, as the next two */
    fs_expired_fn *expired;
    void *context;
    pthread_t thread;
    bool stop; /* volume->expiry_mutex */
};

/* Wait for a signal, or so long. Under the mutex. */
static void wait_ns(struct fs_volume *volume, int64_t ns)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    const int64_t moment = fs_time_ns(&until) + ns;
    until = fs_timespec(moment);
    (void)pthread_cond_timedwait(&volume->expiry_nearer, &volume->expiry_mutex, &until);
}

/* So long, and a second at most. */
static int64_t ns_until(const struct fs_volume *volume, int64_t moment_ns)
{
    const int64_t left = moment_ns - fs_expiry_now(volume);
    return left < NS_PER_SECOND ? left : NS_PER_SECOND;
}

/* Until something is over. False: it is all over. */
static bool wait_for_work(struct fs_expirer *expirer)
{
    struct fs_volume *const volume = expirer->volume;
    pthread_mutex_lock(&volume->expiry_mutex);
    while (!expirer->stop && fs_expiry_now(volume) < volume->expiry_next_ns) {
        if (volume->expiry_next_ns == INT64_MAX)
            pthread_cond_wait(&volume->expiry_nearer, &volume->expiry_mutex);
        else
            wait_ns(volume, ns_until(volume, volume->expiry_next_ns));
    }
    volume->expiry_next_ns = INT64_MAX; /* what comes meanwhile says so again */
    const bool stop = expirer->stop;
    pthread_mutex_unlock(&volume->expiry_mutex);
    return !stop;
}

static void pause_ns(struct fs_expirer *expirer, int64_t ns)
{
    pthread_mutex_lock(&expirer->volume->expiry_mutex);
    if (!expirer->stop)
        wait_ns(expirer->volume, ns);
    pthread_mutex_unlock(&expirer->volume->expiry_mutex);
}

static void *run(void *argument)
{
    struct fs_expirer *const expirer = argument;
    struct fs_volume *const volume = expirer->volume;
    bool failed = false;
    while (wait_for_work(expirer)) {
        uint64_t count;
        int64_t next_ns;
        const int err = fs_expire(volume, FS_EXPIRER_TICK_FILES, expirer->expired, expirer->context,
                                  &count, &next_ns);
        if (err && !failed)
            fs_volume_log(volume, KV_LOG_WARNING,
                          "what has expired could not be removed (%s); it is tried again, and "
                          "out of sight meanwhile",
                          strerror(-err));
        failed = err != 0;
        if (err == -EROFS)
            break; /* until the store is opened anew */
        if (err) {
            next_ns = fs_expiry_now(volume);
            pause_ns(expirer, NS_PER_SECOND);
        } else if (count == FS_EXPIRER_TICK_FILES) {
            pause_ns(expirer, FS_EXPIRER_TICK_MS * (NS_PER_SECOND / 1000));
        }
        fs_expiry_expect(volume, next_ns);
    }
    return NULL;
}

int fs_expirer_start(struct fs_volume *volume, fs_expired_fn *expired, void *context,
                     struct fs_expirer **out)
{
    struct fs_expirer *const expirer = calloc(1, sizeof *expirer);
    if (!expirer)
        return -ENOMEM;
    *expirer = (struct fs_expirer){.volume = volume, .expired = expired, .context = context};
    fs_expiry_expect(volume, 0); /* what has expired while nobody looked */
    const int err = pthread_create(&expirer->thread, NULL, run, expirer);
    if (err) {
        free(expirer);
        return -err;
    }
    *out = expirer;
    return 0;
}

void fs_expirer_stop(struct fs_expirer *expirer)
{
    if (!expirer)
        return;
    pthread_mutex_lock(&expirer->volume->expiry_mutex);
    expirer->stop = true;
    pthread_cond_signal(&expirer->volume->expiry_nearer);
    pthread_mutex_unlock(&expirer->volume->expiry_mutex);
    (void)pthread_join(expirer->thread, NULL);
    free(expirer);
}
