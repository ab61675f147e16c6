/*
 * fs/transport.h: how requests come from the kernel and replies go back.
 *
 * A fixed number of workers, each with its own clone of /dev/fuse: the one that reads a
 * request serves it to the end. libfuse parses requests and lays out replies; all bytes pass
 * through here, so that what libfuse does not know can be seen before it and added after it
 * (fs/protocol.h).
 */
#ifndef FS_TRANSPORT_H
#define FS_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "kv/base.h"

struct fuse_session;
struct fs_transport;

/* Bytes of the largest reply: what a worker's buffer holds. */
#define FS_REPLY_MAX ((1u << 20) + 4096u)

struct fs_transport_hooks {
    void *context;
    /*
     * A request as it came. Returns the length libfuse is to see (the bytes may have been
     * changed), or 0 when the request has been answered already.
     */
    size_t (*request)(void *context, void *bytes, size_t length);
    /* A reply on its way out; pieces may be changed in place. */
    void (*reply)(void *context, struct iovec *pieces, int count);
};

/*
 * Take over the bytes of a mounted session. threads: 0 = 10. hooks: copied.
 * 0; -ENOMEM; or what opening and cloning the device say.
 */
KV_MUST_CHECK int fs_transport_open(struct fuse_session *session, unsigned threads,
                                    const struct fs_transport_hooks *hooks,
                                    struct fs_transport **transport);

/* Start the workers. They run until the kernel ends the session or fs_transport_stop. */
KV_MUST_CHECK int fs_transport_start(struct fs_transport *transport);
/* Readable (poll) when the last worker has ended. */
int fs_transport_done_fd(struct fs_transport *transport);
/* End the workers after the request each is serving, and wait for that. Once, after start. */
void fs_transport_stop(struct fs_transport *transport);
/* After stop. */
void fs_transport_close(struct fs_transport *transport);

/*
 * For the thread that serves a request: memory of FS_REPLY_MAX bytes to build a reply in,
 * good until the request is answered; NULL: no memory. It is faulted in once and kept.
 */
void *fs_transport_buffer(void);

/* A word about the request being served, from the hook that saw it to its handler. */
void fs_transport_note(unsigned note);
unsigned fs_transport_noted(void);

/* Answer the request being served without libfuse. 0 or a negative errno. */
int fs_transport_reply(const struct iovec *pieces, int count);

#endif
