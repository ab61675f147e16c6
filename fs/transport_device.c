/*
 * fs/transport_device.c: requests read from /dev/fuse, replies written to it.
 *
 * Invariant  a request is answered on the descriptor it was read from: the kernel looks for it
 *            nowhere else.
 */
#define FUSE_USE_VERSION 314

#include "fs/transport_worker.h"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* See gather_forgets. */
#define FORGETS_PAUSE_NS 1000000

int fs_device_clone(int session_fd)
{
    const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    uint32_t master = (uint32_t)session_fd;
    if (ioctl(fd, FUSE_DEV_IOC_CLONE, &master) < 0) {
        const int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

static bool is_forget(const struct fuse_buf *request)
{
    struct fuse_in_header header;
    if (request->size < sizeof header)
        return false;
    memcpy(&header, request->mem, sizeof header);
    return header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET;
}

/*
 * Who removes files by the thousand would wake a reader for each, on another CPU mostly, and nobody
 * waits for a FORGET. While they come close after one another, let them gather: the kernel gives
 * out all that wait in one message. Only beside the ring, where no other request comes this way but
 * INTERRUPT.
 */
static void gather_forgets(struct fs_worker *worker, uint64_t *last_ns)
{
    const struct timespec pause = {.tv_nsec = FORGETS_PAUSE_NS};
    if (!fs_transport_on_ring(worker->transport))
        return;
    if (kv_clock_ns() - *last_ns < 2 * FORGETS_PAUSE_NS) {
        (void)nanosleep(&pause, NULL);
        worker->was_last = false; /* what waits now does so at its wish */
    }
    *last_ns = kv_clock_ns();
}

void fs_device_serve(struct fs_worker *worker)
{
    struct fuse_session *session = fs_worker_session(worker);
    struct fuse_buf request = {.mem = NULL};
    uint64_t last_forget_ns = 0;
    while (!fuse_session_exited(session)) {
        const int length = fuse_session_receive_buf(session, &request);
        if (length == -EINTR || length == -EAGAIN)
            continue;
        if (length < 0) { /* the others would wait on for what the kernel gives to this one */
            fs_worker_log(worker, KV_LOG_ERROR, "/dev/fuse: %s; the mount ends", strerror(-length));
            fs_worker_fail(worker, length);
        }
        if (length <= 0)
            break; /* unmounted, or that */
        const bool forget = is_forget(&request);
        fuse_session_process_buf(session, &request);
        fs_worker_served(worker);
        if (forget)
            gather_forgets(worker, &last_forget_ns);
    }
    free(request.mem);
}

int fs_device_send(struct fs_worker *worker, const struct iovec *pieces, int count)
{
    return writev(worker->fd, pieces, count) < 0 ? -errno : 0;
}
