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
#include <unistd.h>

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

void fs_device_serve(struct fs_worker *worker)
{
    struct fuse_session *session = fs_worker_session(worker);
    struct fuse_buf request = {.mem = NULL};
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
        fuse_session_process_buf(session, &request);
        fs_worker_served(worker);
    }
    free(request.mem);
}

int fs_device_send(struct fs_worker *worker, const struct iovec *pieces, int count)
{
    return writev(worker->fd, pieces, count) < 0 ? -errno : 0;
}
