/*
 * kv/buffer.c: aligned I/O buffers that are kept and used again.
 *
 * Owns       free buffers by size class (powers of two from one block to 8 MiB).
 * Invariant  a buffer is either in one class list or with a caller.
 * Locks      buffers->mutex guards the lists.
 */
#include "kv/buffer.h"

#include <pthread.h>

#define CLASS_COUNT 12u /* 4 KiB << 0 .. 4 KiB << 11 */
#define CLASS_LARGE 6u  /* more than 128 KiB */
#define KEEP_LARGE  4u

struct kv_buffers {
    pthread_mutex_t mutex;
    void *kept[CLASS_COUNT][KV_BUFFER_KEEP]; /* mutex */
    unsigned kept_count[CLASS_COUNT];        /* mutex */
};

/* Smallest class that holds `bytes`; CLASS_COUNT when none does. */
static unsigned class_of(size_t bytes)
{
    unsigned class = 0;
    while (class < CLASS_COUNT && ((size_t)KV_BLOCK_BYTES << class) < bytes)
        class ++;
    return class;
}

struct kv_buffers *kv_buffers_new(void)
{
    struct kv_buffers *buffers = calloc(1, sizeof *buffers);
    if (!buffers)
        return NULL;
    pthread_mutex_init(&buffers->mutex, NULL);
    return buffers;
}

void kv_buffers_free(struct kv_buffers *buffers)
{
    if (!buffers)
        return;
    for (unsigned class = 0; class < CLASS_COUNT; class ++)
        for (unsigned i = 0; i < buffers->kept_count[class]; i++)
            free(buffers->kept[class][i]);
    pthread_mutex_destroy(&buffers->mutex);
    free(buffers);
}

void *kv_buffers_take(struct kv_buffers *buffers, size_t bytes)
{
    const unsigned class = class_of(bytes);
    void *memory = NULL;
    if (class < CLASS_COUNT) {
        pthread_mutex_lock(&buffers->mutex);
        if (buffers->kept_count[class] > 0)
            memory = buffers->kept[class][--buffers->kept_count[class]];
        pthread_mutex_unlock(&buffers->mutex);
        bytes = (size_t)KV_BLOCK_BYTES << class;
    }
    if (!memory && posix_memalign(&memory, KV_BLOCK_BYTES, bytes))
        return NULL;
    return memory;
}

void kv_buffers_give(struct kv_buffers *buffers, void *memory, size_t bytes)
{
    if (!memory)
        return;
    const unsigned class = class_of(bytes);
    if (class < CLASS_COUNT) {
        pthread_mutex_lock(&buffers->mutex);
        if (buffers->kept_count[class] < (class < CLASS_LARGE ? KV_BUFFER_KEEP : KEEP_LARGE)) {
            buffers->kept[class][buffers->kept_count[class]++] = memory;
            memory = NULL;
        }
        pthread_mutex_unlock(&buffers->mutex);
    }
    free(memory);
}
