/*
 * tools/tree_ahead.c: reading ahead of a walk of directories.
 *
 * Owns       the threads, and hints in a ring; each hint has a descriptor and copies of its names.
 * Invariant  a hint that finds no room is dropped: nobody waits for a hint but to end.
 * Locks      mutex, for the ring.
 */
#include "tools/tree_ahead.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kv/base.h"

#define THREADS        6u
#define RING_HINTS     (2 * TREE_AHEAD_HINTS)
#define READ_BYTES     65536u /* of each file; the kernel reads ahead in what is longer */
#define DIRECTORY_MOST 4096u  /* names of a directory that are read, when it is meant as a whole */
#define QUIET_HINTS    (4 * RING_HINTS)

struct hint {
    int directory;
    size_t count; /* of names; 0: `names` is one, of a directory to be read as a whole */
    char names[]; /* one behind the other, with their zeros */
};

struct tree_ahead {
    pthread_t threads[THREADS];
    unsigned thread_count;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    /* mutex, all below */
    struct hint *ring[RING_HINTS];
    unsigned first, count;
    bool stopping;
    uint64_t done, done_cold; /* hints; the last one that read something from the device */
    /* the walk's */
    long inblock;
    bool is_active;
};

static void free_hint(struct hint *hint)
{
    close(hint->directory);
    free(hint);
}

/* Blocks that this thread has waited for. */
static long device_reads(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_inblock : 0;
}

/* ---- the threads ----------------------------------------------------------------------- */

/* Nothing but a regular file is opened: only looking at others has no effect. */
static void read_name(int directory, const char *name, char *buffer)
{
    const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    struct stat status;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) || !S_ISREG(status.st_mode))
        return;
    int fd = openat(directory, name, flags | O_NOATIME);
    if (fd < 0 && errno == EPERM)
        fd = openat(directory, name, flags);
    if (fd < 0)
        return;
    if (status.st_size > 0)
        kv_ignore(read(fd, buffer, READ_BYTES) < 0); /* the walk reads it again */
    close(fd);
}

static void read_directory(int parent, const char *name, char *buffer)
{
    const int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (!stream) {
        if (fd >= 0)
            close(fd);
        return;
    }
    const struct dirent *entry;
    for (unsigned i = 0; i < DIRECTORY_MOST && (entry = readdir(stream)); i++)
        if (entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN)
            read_name(fd, entry->d_name, buffer);
    (void)closedir(stream); /* only read */
}

static void follow(const struct hint *hint, char *buffer)
{
    const char *name = hint->names;
    if (hint->count == 0)
        read_directory(hint->directory, name, buffer);
    for (size_t i = 0; i < hint->count; i++, name += strlen(name) + 1)
        read_name(hint->directory, name, buffer);
}

static void *run(void *context)
{
    struct tree_ahead *ahead = context;
    char *buffer = malloc(READ_BYTES);
    pthread_mutex_lock(&ahead->mutex);
    while (buffer && !ahead->stopping) {
        if (ahead->count == 0) {
            pthread_cond_wait(&ahead->changed, &ahead->mutex);
            continue;
        }
        struct hint *hint = ahead->ring[ahead->first];
        ahead->first = (ahead->first + 1) % RING_HINTS;
        ahead->count--;
        pthread_mutex_unlock(&ahead->mutex);
        const long before = device_reads();
        follow(hint, buffer);
        const bool is_cold = device_reads() != before;
        free_hint(hint);
        pthread_mutex_lock(&ahead->mutex);
        ahead->done++;
        if (is_cold)
            ahead->done_cold = ahead->done;
    }
    pthread_mutex_unlock(&ahead->mutex);
    free(buffer);
    return NULL;
}

/* ---- the walk ---------------------------------------------------------------------------- */

/* The first time that it is worth it. */
static void start_threads(struct tree_ahead *ahead)
{
    while (ahead->thread_count < THREADS &&
           pthread_create(&ahead->threads[ahead->thread_count], NULL, run, ahead) == 0)
        ahead->thread_count++;
}

bool tree_ahead_is_worth(struct tree_ahead *ahead)
{
    if (!ahead)
        return false;
    const long inblock = device_reads();
    const bool has_waited = inblock != ahead->inblock;
    ahead->inblock = inblock;
    pthread_mutex_lock(&ahead->mutex);
    if (has_waited)
        ahead->done_cold = ahead->done;
    ahead->is_active =
        has_waited || (ahead->is_active && ahead->done - ahead->done_cold < QUIET_HINTS);
    pthread_mutex_unlock(&ahead->mutex);
    if (ahead->is_active && ahead->thread_count == 0)
        start_threads(ahead);
    return ahead->is_active && ahead->thread_count > 0;
}

/* A hint with room for names of so many bytes, or NULL. */
static struct hint *make_hint(int directory, size_t bytes)
{
    struct hint *hint = malloc(sizeof *hint + bytes);
    if (!hint)
        return NULL;
    *hint = (struct hint){.directory = fcntl(directory, F_DUPFD_CLOEXEC, 0)};
    if (hint->directory >= 0)
        return hint;
    free(hint);
    return NULL;
}

static void give(struct tree_ahead *ahead, struct hint *hint)
{
    pthread_mutex_lock(&ahead->mutex);
    const bool fits = ahead->count < RING_HINTS;
    if (fits) {
        ahead->ring[(ahead->first + ahead->count++) % RING_HINTS] = hint;
        pthread_cond_signal(&ahead->changed);
    }
    pthread_mutex_unlock(&ahead->mutex);
    if (!fits)
        free_hint(hint);
}

void tree_ahead_names(struct tree_ahead *ahead, int directory, char *const *names, size_t count)
{
    size_t bytes = 0;
    if (count > TREE_AHEAD_NAMES)
        count = TREE_AHEAD_NAMES;
    for (size_t i = 0; i < count; i++)
        bytes += strlen(names[i]) + 1;
    struct hint *hint = count ? make_hint(directory, bytes) : NULL;
    if (!hint)
        return;
    char *at = hint->names;
    for (size_t i = 0; i < count; i++)
        at = stpcpy(at, names[i]) + 1;
    hint->count = count;
    give(ahead, hint);
}

void tree_ahead_directory(struct tree_ahead *ahead, int directory, const char *name)
{
    struct hint *hint = make_hint(directory, strlen(name) + 1);
    if (!hint)
        return;
    strcpy(hint->names, name);
    give(ahead, hint);
}

struct tree_ahead *tree_ahead_new(void)
{
    struct tree_ahead *ahead = calloc(1, sizeof *ahead);
    if (!ahead)
        return NULL;
    ahead->inblock = device_reads();
    pthread_mutex_init(&ahead->mutex, NULL); /* does not fail on Linux, nor does the next */
    pthread_cond_init(&ahead->changed, NULL);
    return ahead;
}

void tree_ahead_free(struct tree_ahead *ahead)
{
    if (!ahead)
        return;
    pthread_mutex_lock(&ahead->mutex);
    ahead->stopping = true;
    pthread_cond_broadcast(&ahead->changed);
    pthread_mutex_unlock(&ahead->mutex);
    for (unsigned i = 0; i < ahead->thread_count; i++)
        (void)pthread_join(ahead->threads[i], NULL); /* ours, and joined once */
    for (; ahead->count > 0; ahead->count--) {
        free_hint(ahead->ring[ahead->first]);
        ahead->first = (ahead->first + 1) % RING_HINTS;
    }
    pthread_cond_destroy(&ahead->changed);
    pthread_mutex_destroy(&ahead->mutex);
    free(ahead);
}
