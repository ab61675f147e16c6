/*
 * fs/transport.h: how requests come from the kernel and replies go back.
 *
 * A fixed number of workers: the one that receives a request serves it to the end. They receive
 * from /dev/fuse, each by its own clone of it, or from io_uring (Linux 6.14, module parameter
 * fuse.enable_uring), which takes one system call and no change of CPU for a request. libfuse
 * parses requests and lays out replies; all bytes pass through here, so that what libfuse does
 * not know can be seen before it and added after it (fs/protocol.h).
 */
#ifndef FS_TRANSPORT_H
#define FS_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "kv/base.h"
#include "kv/kv.h"

struct fuse_session;
struct fs_transport;

/* Bytes of the largest reply: what a worker's buffer holds. */
#define FS_REPLY_MAX ((1u << 20) + 4096u)

enum fs_transport_kind {
    FS_TRANSPORT_AUTO, /* the ring where the kernel offers it */
    FS_TRANSPORT_RING, /* the ring, or an error */
    FS_TRANSPORT_DEVICE,
};

struct fs_transport_hooks {
    void *context;
    /*
     * A request as it came. Returns the length libfuse is to see (the bytes may have been
     * changed), or 0 when the request has been answered already.
     */
    size_t (*request)(void *context, void *bytes, size_t length);
    /* A request of which fs_transport_begun was told has been served. */
    void (*served)(void *context, uint32_t opcode, uint64_t begun_ns);
    /* A request was found waiting by a worker that came free when all had been busy. NULL: nobody
     * wants to know. */
    void (*waited)(void *context);
    /*
     * A reply on its way out; pieces may be changed in place. With `ring` a reply to INIT is to
     * ask for the ring. True: it does.
     */
    bool (*reply)(void *context, struct iovec *pieces, int count, bool ring);
    kv_log_fn *log; /* NULL: standard error */
    void *log_context;
};

/*
 * Take over the bytes of a mounted session. threads: 0 = 10; on the ring each CPU has its part
 * of them, but four at least. hooks: copied. A soft limit on open files that is too low for so
 * many is raised. AUTO is the device, too, where the rings can not be had.
 *
 * 0; -ENOMEM; -EOPNOTSUPP no ring though it was asked for; or what opening and cloning the
 * device, and making the rings, say. `error` (may be NULL) gets the words.
 */
KV_MUST_CHECK int fs_transport_open(struct fuse_session *session, enum fs_transport_kind kind,
                                    unsigned threads, const struct fs_transport_hooks *hooks,
                                    struct fs_transport **transport, struct kv_error *error);

/* How many workers there are. */
unsigned fs_transport_threads(const struct fs_transport *transport);
/* Start the workers. They run until the kernel ends the session or fs_transport_stop. */
KV_MUST_CHECK int fs_transport_start(struct fs_transport *transport);
/* Readable (poll) when the last worker has ended, or one could not go on. */
int fs_transport_done_fd(struct fs_transport *transport);
/*
 * Why a worker could not go on, a negative errno; 0: none failed. What the kernel has given it is
 * not answered any more: the connection is to be aborted.
 */
int fs_transport_error(struct fs_transport *transport);
/* End the workers after the request each is serving, and wait for that. Once, after start. */
void fs_transport_stop(struct fs_transport *transport);
/* After stop. */
void fs_transport_close(struct fs_transport *transport);
/* Do requests come over the ring? Known once the kernel has taken the reply to INIT. */
bool fs_transport_on_ring(struct fs_transport *transport);

/*
 * For the thread that serves a request: memory of FS_REPLY_MAX bytes to build a reply in,
 * good until the request is answered; NULL: no memory. It is faulted in once and kept. The
 * request itself is not overwritten.
 */
void *fs_transport_buffer(void);

/* A word about the request being served, from the hook that saw it to its handler. */
void fs_transport_note(unsigned note);
unsigned fs_transport_noted(void);
/* From the hook: the request being served began then (not 0), and its end is to be told. */
void fs_transport_begun(uint32_t opcode, uint64_t begun_ns);

/*
 * A read of a file that the request being served waits for: its worker has the kernel make it and
 * serves others meanwhile. done: called once, by the same worker, as if the request were being
 * served: `result` is the bytes that were read, or a negative errno. It answers, or awaits again.
 */
struct fs_transport_read {
    int fd;
    uint64_t offset;
    void *buf; /* fs_transport_buffer's, or memory that stays until `done` */
    uint32_t length;
    void (*done)(void *context, int result);
    void *context;
};
/*
 * Should the request being served wait so? Those that come over the ring can, and should when
 * others are being served beside it. A read by itself is sooner done by the thread that wants it,
 * which the kernel wakes without a completion in between.
 */
bool fs_transport_should_await(void);
/* Only over the ring, last of all, and instead of an answer. */
void fs_transport_await(const struct fs_transport_read *read);

/* Answer the request being served without libfuse. 0 or a negative errno. */
int fs_transport_reply(const struct iovec *pieces, int count);

#endif
