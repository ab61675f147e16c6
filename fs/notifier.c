/*
 * fs/notifier.c: the thread that tells the kernel what is out of date.
 *
 * Owns       the thread, the list of what is to be told.
 * Invariant  noted >= told; what is noted is told in that order.
 * Locks      notifier->mutex, a leaf; not held while the kernel is told.
 */
#define FUSE_USE_VERSION 314

#include "fs/notifier.h"

#include <fuse_lowlevel.h>
#include <pthread.h>
#include <time.h>

#define WAIT_SECONDS 2

struct notice {
    struct notice *next;
    uint64_t ino;    /* the inode, or the directory of the name */
    size_t name_len; /* 0: of the inode */
    char name[];     /* with a zero at its end */
};

struct fs_notifier {
    struct fs_volume *volume; /* immutable */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    /* mutex, all below */
    struct fuse_session *session; /* NULL: not started, or stopped */
    pthread_t thread;
    struct notice *first, **last;
    uint64_t noted, told;
    bool stopping, lost; /* lost: for want of memory, something is not told */
};

static void tell(struct fuse_session *session, const struct notice *notice)
{
    /* What the kernel does not know (-ENOENT) needs no telling, and a mount that is gone neither.
     */
    if (notice->name_len)
        (void)fuse_lowlevel_notify_inval_entry(session, notice->ino, notice->name,
                                               notice->name_len);
    else
        (void)fuse_lowlevel_notify_inval_inode(session, notice->ino, 0, 0);
}

static void *run(void *context)
{
    struct fs_notifier *notifier = context;
    pthread_mutex_lock(&notifier->mutex);
    while (!notifier->stopping) {
        struct notice *notice = notifier->first;
        if (!notice) {
            pthread_cond_wait(&notifier->changed, &notifier->mutex);
            continue;
        }
        notifier->first = notice->next;
        if (!notifier->first)
            notifier->last = &notifier->first;
        struct fuse_session *session = notifier->session;
        pthread_mutex_unlock(&notifier->mutex);
        tell(session, notice);
        free(notice);
        pthread_mutex_lock(&notifier->mutex);
        notifier->told++;
        if (!notifier->first)
            pthread_cond_broadcast(&notifier->changed);
    }
    pthread_mutex_unlock(&notifier->mutex);
    return NULL;
}

static void note(struct fs_notifier *notifier, uint64_t ino, const char *name, size_t name_len)
{
    struct notice *notice = malloc(sizeof *notice + name_len + 1);
    pthread_mutex_lock(&notifier->mutex);
    if (!notice || !notifier->session) {
        notifier->lost |= notifier->session != NULL;
        pthread_mutex_unlock(&notifier->mutex);
        free(notice);
        return;
    }
    notice->next = NULL;
    notice->ino = ino;
    notice->name_len = name_len;
    if (name_len)
        memcpy(notice->name, name, name_len);
    notice->name[name_len] = '\0';
    *notifier->last = notice;
    notifier->last = &notice->next;
    notifier->noted++;
    pthread_cond_broadcast(&notifier->changed);
    pthread_mutex_unlock(&notifier->mutex);
}

void fs_notifier_entry(struct fs_notifier *notifier, uint64_t directory, const char *name,
                       size_t name_len)
{
    note(notifier, directory, name, name_len);
}

void fs_notifier_inode(struct fs_notifier *notifier, uint64_t ino)
{
    note(notifier, ino, NULL, 0);
}

void fs_notifier_wait(struct fs_notifier *notifier)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += WAIT_SECONDS;
    int err = 0;
    pthread_mutex_lock(&notifier->mutex);
    const uint64_t wanted = notifier->noted;
    while (!err && !notifier->stopping && notifier->told < wanted)
        err = pthread_cond_timedwait(&notifier->changed, &notifier->mutex, &until);
    const bool lost = notifier->lost;
    notifier->lost = false;
    pthread_mutex_unlock(&notifier->mutex);
    if (err || lost)
        fs_volume_log(notifier->volume, KV_LOG_WARNING,
                      "the kernel could not be told in time what has changed; it may show "
                      "something old until it forgets it (echo 2 >/proc/sys/vm/drop_caches)");
}

int fs_notifier_start(struct fs_notifier *notifier, struct fuse_session *session)
{
    notifier->session = session;
    const int err = pthread_create(&notifier->thread, NULL, run, notifier);
    if (err)
        notifier->session = NULL;
    return -err;
}

void fs_notifier_stop(struct fs_notifier *notifier)
{
    if (!notifier->session)
        return;
    pthread_mutex_lock(&notifier->mutex);
    notifier->stopping = true;
    pthread_cond_broadcast(&notifier->changed);
    pthread_mutex_unlock(&notifier->mutex);
    (void)pthread_join(notifier->thread, NULL); /* ours, and joined once */
    notifier->session = NULL;
}

struct fs_notifier *fs_notifier_new(struct fs_volume *volume)
{
    struct fs_notifier *notifier = calloc(1, sizeof *notifier);
    if (!notifier)
        return NULL;
    notifier->volume = volume;
    notifier->last = &notifier->first;
    /* None of these fails on Linux: they need no memory. */
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&notifier->mutex, NULL);
    pthread_cond_init(&notifier->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return notifier;
}

void fs_notifier_free(struct fs_notifier *notifier)
{
    if (!notifier)
        return;
    for (struct notice *notice = notifier->first; notice;) {
        struct notice *next = notice->next;
        free(notice);
        notice = next;
    }
    pthread_cond_destroy(&notifier->changed);
    pthread_mutex_destroy(&notifier->mutex);
    free(notifier);
}
