/*
 * tools/tree_flusher.c: batches of a tree are made behind who gathers them.
 *
 * Owns       two batches, of which one is gathered and the other made, and the thread.
 * Invariant  batches are made in their order, and none after one that failed.
 * Locks      mutex, for which batch is whose and how the last one ended. A batch is used without
 *            it, by one of the two.
 */
#include "tools/tree_flusher.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct tree_flusher {
    struct tree_gather *gathered; /* the caller's */
    struct tree_gather *spare;    /* mutex; NULL while it is made */
    struct tree_gather *made;     /* mutex; handed over, or in the making */
    tree_flush_fn *flush;         /* immutable, as is the next */
    void *context;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    pthread_t thread;
    bool has_thread, stopping; /* mutex, all below */
    int err;
    struct kv_error error;
};

static int make(struct tree_flusher *flusher, struct tree_gather *batch, struct kv_error *error)
{
    const struct fs_apply_change *changes;
    const size_t count = tree_gather_changes(batch, &changes);
    const int err = count ? flusher->flush(flusher->context, changes, count, error) : 0;
    tree_gather_empty(batch);
    return err;
}

static void *run(void *context)
{
    struct tree_flusher *flusher = context;
    pthread_mutex_lock(&flusher->mutex);
    for (;;) {
        while (!flusher->made && !flusher->stopping)
            pthread_cond_wait(&flusher->changed, &flusher->mutex);
        if (flusher->stopping)
            break;
        struct tree_gather *batch = flusher->made;
        struct kv_error error = {""};
        pthread_mutex_unlock(&flusher->mutex);
        const int err = make(flusher, batch, &error);
        pthread_mutex_lock(&flusher->mutex);
        flusher->err = err;
        flusher->error = error;
        flusher->made = NULL;
        flusher->spare = batch;
        pthread_cond_signal(&flusher->changed);
        if (err)
            break; /* who gathers is told, and ends */
    }
    pthread_mutex_unlock(&flusher->mutex);
    return NULL;
}

/* Wait for the batch that is being made. Under the mutex. */
static int await(struct tree_flusher *flusher, struct kv_error *error)
{
    while (flusher->made)
        pthread_cond_wait(&flusher->changed, &flusher->mutex);
    if (flusher->err && !*error->text)
        *error = flusher->error;
    return flusher->err;
}

/* Let the gathered batch be made; the other one is empty then. */
static int hand_over(struct tree_flusher *flusher, struct kv_error *error)
{
    if (!flusher->has_thread)
        return make(flusher, flusher->gathered, error);
    pthread_mutex_lock(&flusher->mutex);
    const int err = await(flusher, error);
    if (!err) {
        flusher->made = flusher->gathered;
        flusher->gathered = flusher->spare;
        flusher->spare = NULL;
        pthread_cond_signal(&flusher->changed);
    }
    pthread_mutex_unlock(&flusher->mutex);
    return err;
}

int tree_flusher_add(struct tree_flusher *flusher, const struct tree_item *item,
                     struct kv_error *error)
{
    const int err = tree_gather_add(flusher->gathered, item);
    return !err && tree_gather_is_full(flusher->gathered) ? hand_over(flusher, error) : err;
}

int tree_flusher_drain(struct tree_flusher *flusher, struct kv_error *error)
{
    const struct fs_apply_change *changes;
    int err = tree_gather_changes(flusher->gathered, &changes) ? hand_over(flusher, error) : 0;
    if (!err && flusher->has_thread) {
        pthread_mutex_lock(&flusher->mutex);
        err = await(flusher, error);
        pthread_mutex_unlock(&flusher->mutex);
    }
    return err;
}

char *tree_flusher_place(const struct tree_flusher *flusher, const char *path)
{
    return tree_gather_place(flusher->gathered, path);
}

struct tree_flusher *tree_flusher_new(const char *below, tree_flush_fn *flush, void *context)
{
    struct tree_flusher *flusher = calloc(1, sizeof *flusher);
    if (!flusher)
        return NULL;
    flusher->flush = flush;
    flusher->context = context;
    pthread_mutex_init(&flusher->mutex, NULL); /* does not fail on Linux, nor does the next */
    pthread_cond_init(&flusher->changed, NULL);
    flusher->gathered = tree_gather_new(below);
    flusher->spare = tree_gather_new(below);
    if (!flusher->gathered || !flusher->spare) {
        tree_flusher_free(flusher);
        return NULL;
    }
    /* Without one, who gathers makes the batches. */
    flusher->has_thread = pthread_create(&flusher->thread, NULL, run, flusher) == 0;
    return flusher;
}

void tree_flusher_free(struct tree_flusher *flusher)
{
    if (!flusher)
        return;
    if (flusher->has_thread) {
        pthread_mutex_lock(&flusher->mutex);
        while (flusher->made)
            pthread_cond_wait(&flusher->changed, &flusher->mutex);
        flusher->stopping = true;
        pthread_cond_signal(&flusher->changed);
        pthread_mutex_unlock(&flusher->mutex);
        (void)pthread_join(flusher->thread, NULL); /* ours, and joined once */
    }
    tree_gather_free(flusher->gathered);
    tree_gather_free(flusher->spare);
    pthread_cond_destroy(&flusher->changed);
    pthread_mutex_destroy(&flusher->mutex);
    free(flusher);
}
