/*
 * fs/streams.c: the thread that reads files ahead of who reads them in order.
 *
 * Owns       the thread, and where the files that are read in order are read next.
 * Invariant  a stream's content is in memory, or was in vain, from `next` up to `done`; the thread
 *            brings `done` to `want`, a step at a time.
 * Locks      streams->mutex, not held while content is read: nothing else is taken under it.
 */
#include "fs/streams.h"

#include <pthread.h>

/* So many files, or places in files, may be read in order at the same time. */
#define STREAMS 8u
/* After so many pieces that follow one another the thread is at least so far ahead. */
#define PIECES_MIN  3u
#define AHEAD_BYTES (UINT64_C(2) << 20)
/* What is read at once: some extents, which the device reads together. */
#define STEP_BYTES (UINT64_C(1) << 19)

struct stream {
    uint64_t ino;        /* 0: none */
    uint64_t next;       /* where the next piece begins */
    uint64_t done, want; /* offsets */
    uint64_t turn;       /* of streams->turns, when it was read last */
    unsigned pieces;     /* in order, at most PIECES_MIN */
};

struct fs_streams {
    struct fs_volume *volume; /* immutable */
    pthread_mutex_t mutex;
    pthread_cond_t wanted; /* there is something to be read, or the end */
    pthread_cond_t read;   /* a step is done */
    pthread_t thread;
    bool running, stopping;
    struct stream streams[STREAMS];
    uint64_t turns;
    /* What the thread is at: bytes of a file. ino 0: nothing. */
    uint64_t busy_ino, busy_from, busy_to;
};

struct fs_streams *fs_streams_new(struct fs_volume *volume)
{
    struct fs_streams *const streams = calloc(1, sizeof *streams);
    if (!streams)
        return NULL;
    streams->volume = volume;
    pthread_mutex_init(&streams->mutex, NULL);
    pthread_cond_init(&streams->wanted, NULL);
    pthread_cond_init(&streams->read, NULL);
    return streams;
}

void fs_streams_free(struct fs_streams *streams)
{
    if (!streams)
        return;
    KV_ASSERT(!streams->running);
    pthread_cond_destroy(&streams->read);
    pthread_cond_destroy(&streams->wanted);
    pthread_mutex_destroy(&streams->mutex);
    free(streams);
}

static int64_t lead_of(const struct stream *stream)
{
    return (int64_t)(stream->done - stream->next);
}

/* The stream that is least ahead of its reader; NULL: all are as far as they should be. */
static struct stream *next_stream(struct fs_streams *streams)
{
    struct stream *found = NULL;
    for (unsigned i = 0; i < STREAMS; i++) {
        struct stream *const stream = &streams->streams[i];
        if (stream->done < stream->want && (!found || lead_of(stream) < lead_of(found)))
            found = stream;
    }
    return found;
}

/* Read one step of a stream. Called and returns with the mutex. */
static void read_step(struct fs_streams *streams, struct stream *stream)
{
    const uint64_t ino = stream->ino, from = stream->done;
    const uint64_t to = kv_min_u64(from + STEP_BYTES, stream->want);
    streams->busy_ino = ino;
    streams->busy_from = from;
    streams->busy_to = to;
    stream->done = to;
    pthread_mutex_unlock(&streams->mutex);
    fs_prefetch_range(streams->volume, ino, from, (size_t)(to - from));
    pthread_mutex_lock(&streams->mutex);
    streams->busy_ino = 0;
    pthread_cond_broadcast(&streams->read);
}

static void *serve(void *context)
{
    struct fs_streams *const streams = context;
    pthread_mutex_lock(&streams->mutex);
    while (!streams->stopping) {
        struct stream *const stream = next_stream(streams);
        if (stream)
            read_step(streams, stream);
        else
            pthread_cond_wait(&streams->wanted, &streams->mutex);
    }
    pthread_mutex_unlock(&streams->mutex);
    return NULL;
}

int fs_streams_start(struct fs_streams *streams)
{
    const int err = -pthread_create(&streams->thread, NULL, serve, streams);
    pthread_mutex_lock(&streams->mutex);
    streams->running = !err;
    pthread_mutex_unlock(&streams->mutex);
    return err;
}

void fs_streams_stop(struct fs_streams *streams)
{
    if (!streams || !streams->running)
        return;
    pthread_mutex_lock(&streams->mutex);
    streams->stopping = true;
    pthread_cond_signal(&streams->wanted);
    pthread_mutex_unlock(&streams->mutex);
    (void)pthread_join(streams->thread, NULL);
    pthread_mutex_lock(&streams->mutex);
    streams->running = streams->stopping = false;
    pthread_mutex_unlock(&streams->mutex);
}

/* The stream whose next piece begins here, or a new one in place of the one that rested longest. */
static struct stream *stream_at(struct fs_streams *streams, uint64_t ino, uint64_t offset)
{
    struct stream *oldest = &streams->streams[0];
    for (unsigned i = 0; i < STREAMS; i++) {
        struct stream *const stream = &streams->streams[i];
        if (stream->ino == ino && stream->next == offset)
            return stream;
        if (stream->turn < oldest->turn)
            oldest = stream;
    }
    *oldest = (struct stream){.ino = ino, .next = offset};
    return oldest;
}

static bool is_busy_with(const struct fs_streams *streams, uint64_t ino, uint64_t from, uint64_t to)
{
    return streams->busy_ino == ino && streams->busy_from < to && streams->busy_to > from;
}

void fs_streams_read(struct fs_streams *streams, uint64_t ino, uint64_t offset, size_t length)
{
    if (length < FS_STREAM_PIECE_MIN || offset > FS_SIZE_MAX - length - AHEAD_BYTES)
        return;
    const uint64_t end = offset + length;
    pthread_mutex_lock(&streams->mutex);
    if (!streams->running)
        goto out;
    struct stream *const stream = stream_at(streams, ino, offset);
    stream->turn = ++streams->turns;
    stream->next = end;
    if (stream->pieces < PIECES_MIN) {
        stream->pieces++;
        stream->done = stream->want = end;
    }
    if (stream->pieces < PIECES_MIN)
        goto out;
    stream->want = end + kv_max_u64(length, AHEAD_BYTES);
    /* In steps: a short piece is no reason to wake somebody. */
    if (stream->want < stream->done + STEP_BYTES)
        stream->want = stream->done;
    if (stream->done < end && !is_busy_with(streams, ino, offset, end))
        stream->done = end; /* the reader is faster */
    if (stream->done < stream->want)
        pthread_cond_signal(&streams->wanted);
    while (is_busy_with(streams, ino, offset, end))
        pthread_cond_wait(&streams->read, &streams->mutex);
    if (stream->ino == ino && stream->next == end) /* what is left he reads himself */
        stream->done = kv_max_u64(stream->done, end);
out:
    pthread_mutex_unlock(&streams->mutex);
}
