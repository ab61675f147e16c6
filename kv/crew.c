/*
 * kv/crew.c: threads that help with work which divides into items.
 *
 * Owns       the helpers, the list of jobs that have items left or under way.
 * Invariant  a job lies on the stack of who wants it done, and in the list until its last item has
 *            been handed out; he does not return while a helper is busy with one of its items.
 * Locks      crew->mutex, not held while an item is worked on. A leaf.
 */
#include "kv/crew.h"

#include <pthread.h>

struct job {
    void (*work)(void *context, size_t item);
    void *context;
    size_t count, next, busy; /* items; the next to be handed out; helpers at work */
    struct job *link;
};

struct kv_crew {
    pthread_mutex_t mutex;
    pthread_cond_t wanted; /* there is a job, or the end */
    pthread_cond_t ended;  /* a job has no busy helper any more */
    struct job *jobs;
    bool stopping;
    unsigned count;
    pthread_t helpers[KV_CREW_MAX];
};

/* Take an item of a job; with the last one it leaves the list. With the mutex. */
static size_t take_item(struct kv_crew *crew, struct job *job)
{
    const size_t item = job->next++;
    if (job->next == job->count) {
        struct job **link = &crew->jobs;
        while (*link != job)
            link = &(*link)->link;
        *link = job->link;
    }
    return item;
}

static void *help(void *context)
{
    struct kv_crew *const crew = context;
    pthread_mutex_lock(&crew->mutex);
    while (!crew->stopping) {
        struct job *const job = crew->jobs;
        if (!job) {
            pthread_cond_wait(&crew->wanted, &crew->mutex);
            continue;
        }
        const size_t item = take_item(crew, job);
        job->busy++;
        pthread_mutex_unlock(&crew->mutex);
        job->work(job->context, item);
        pthread_mutex_lock(&crew->mutex);
        if (--job->busy == 0)
            pthread_cond_broadcast(&crew->ended);
    }
    pthread_mutex_unlock(&crew->mutex);
    return NULL;
}

int kv_crew_new(struct kv_crew **out)
{
    struct kv_crew *const crew = calloc(1, sizeof *crew);
    if (!crew)
        return -ENOMEM;
    pthread_mutex_init(&crew->mutex, NULL);
    pthread_cond_init(&crew->wanted, NULL);
    pthread_cond_init(&crew->ended, NULL);
    const unsigned cpus = kv_cpu_count();
    int err = 0;
    while (!err && crew->count < KV_CREW_MAX && crew->count + 1 < cpus) {
        err = pthread_create(&crew->helpers[crew->count], NULL, help, crew);
        crew->count += !err;
    }
    if (err) {
        kv_crew_free(crew);
        return -err;
    }
    *out = crew;
    return 0;
}

void kv_crew_free(struct kv_crew *crew)
{
    if (!crew)
        return;
    pthread_mutex_lock(&crew->mutex);
    KV_ASSERT(!crew->jobs);
    crew->stopping = true;
    pthread_cond_broadcast(&crew->wanted);
    pthread_mutex_unlock(&crew->mutex);
    for (unsigned i = 0; i < crew->count; i++)
        pthread_join(crew->helpers[i], NULL);
    pthread_cond_destroy(&crew->wanted);
    pthread_cond_destroy(&crew->ended);
    pthread_mutex_destroy(&crew->mutex);
    free(crew);
}

void kv_crew_do(struct kv_crew *crew, void (*work)(void *context, size_t item), void *context,
                size_t count)
{
    if (!crew || !crew->count || count < 2) {
        for (size_t i = 0; i < count; i++)
            work(context, i);
        return;
    }
    struct job job = {.work = work, .context = context, .count = count};
    pthread_mutex_lock(&crew->mutex);
    struct job **last = &crew->jobs; /* those who came first are helped first */
    while (*last)
        last = &(*last)->link;
    *last = &job;
    for (size_t i = 0; i < crew->count && i + 1 < count; i++)
        pthread_cond_signal(&crew->wanted);
    while (job.next < job.count) {
        const size_t item = take_item(crew, &job);
        pthread_mutex_unlock(&crew->mutex);
        work(context, item);
        pthread_mutex_lock(&crew->mutex);
    }
    while (job.busy)
        pthread_cond_wait(&crew->ended, &crew->mutex);
    pthread_mutex_unlock(&crew->mutex);
}
