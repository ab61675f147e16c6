/*
 * fs/transport_worker.h: what the two ways of receiving requests share; for fs/transport*.c.
 *
 * Threads    a worker belongs to its thread, but for what is said to be atomic.
 */
#ifndef FS_TRANSPORT_WORKER_H
#define FS_TRANSPORT_WORKER_H

#include "fs/transport.h"

#include <pthread.h>
#include <stdatomic.h>

struct fuse_session;
struct fs_ring;
struct fs_ring_entry;

struct fs_worker {
    struct fs_transport *transport;
    pthread_t thread;
    bool started;
    _Atomic bool waiting; /* in a system call that may be interrupted: no request is served */
    unsigned note;
    bool serving;      /* counts among those of its queue that have not answered yet */
    bool was_last;     /* when it came free, all others of its queue were busy */
    uint32_t opcode;   /* of the request that is served ... */
    uint64_t begun_ns; /* ... and since when; 0: nobody wants to know */
    void *buffer;      /* FS_REPLY_MAX bytes; made when first asked for */

    int fd;                      /* the device, or a clone of it */
    bool owns_fd;                /* it is a clone */
    unsigned cpu;                /* of a worker on the ring: its queue */
    struct fs_ring *ring;        /* of a worker on the ring, from fs_ring_prepare to its end */
    struct fs_ring_entry *entry; /* ... and serves the request in it */
};

/* The worker that this thread is; NULL: none. */
extern __thread struct fs_worker *fs_worker_current;

struct fuse_session *fs_worker_session(struct fs_worker *worker);
const struct fs_transport_hooks *fs_worker_hooks(struct fs_worker *worker);
/* A request was received. */
void fs_worker_begun(struct fs_worker *worker);
/* was_last, and a request was waiting: those that are busy are too few. */
void fs_worker_found_waiting(struct fs_worker *worker);
/* The request was answered, or needs no answer. */
void fs_worker_served(struct fs_worker *worker);
void fs_worker_log(struct fs_worker *worker, enum kv_log_level level, const char *format, ...)
    KV_PRINTF(3, 4);

/* The worker can not go on, nor can the mount without it: all are to end. */
void fs_worker_fail(struct fs_worker *worker, int err);

/* ---- over the device (transport_device.c) -------------------------------- */

/* A clone of the device of a session. Returns it or a negative errno. */
KV_MUST_CHECK int fs_device_clone(int session_fd);
/* Serve until the session ends. */
void fs_device_serve(struct fs_worker *worker);
KV_MUST_CHECK int fs_device_send(struct fs_worker *worker, const struct iovec *pieces, int count);

/* ---- over the ring (transport_ring.c) ------------------------------------ */

/* How many CPUs there may be: each has a queue. 0: it could not be found out. */
unsigned fs_ring_cpu_count(void);
/* Can requests come over io_uring here? NULL, or the reason why not and the remedy. */
const char *fs_ring_refusal(void);
/*
 * Before the kernel agrees to the ring: the worker's ring, and memory for what it begins with. The
 * kernel then holds all requests back until each queue has offered to take one. -ENOMEM, -EMFILE,
 * -ENFILE, or what else io_uring_setup says.
 */
KV_MUST_CHECK int fs_ring_prepare(struct fs_worker *worker);
void fs_ring_unprepare(struct fs_worker *worker); /* it was not prepared, or has ended: fine */
/* Serve until the session ends. The kernel has agreed to the ring. */
void fs_ring_serve(struct fs_worker *worker);
KV_MUST_CHECK int fs_ring_send(struct fs_worker *worker, const struct iovec *pieces, int count);
/* Where the reply to the request being served may be built; NULL: not in the entry. */
void *fs_ring_reply_area(struct fs_worker *worker);
/* Does any of the worker's requests wait for a read, or did many come at a time lately? */
bool fs_ring_busy(const struct fs_worker *worker);
/* As fs_transport_await. */
void fs_ring_await(struct fs_worker *worker, const struct fs_transport_read *read);

#endif
