/*
 * fs/transport.c: workers that read, serve and answer requests over /dev/fuse.
 *
 * Owns       the workers, their clones of the device, their buffers.
 * Invariant  a request is answered on the descriptor it was read from: the kernel looks for
 *            it nowhere else.
 * Locks      none: a worker's data is its own; `running` is atomic.
 *
 * A worker finds itself by a thread-local pointer, because libfuse's callbacks pass nothing
 * that says which thread's device they are about.
 */
#define FUSE_USE_VERSION 314

#include "fs/transport.h"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_THREADS 10u
#define THREADS_MAX     256u
/* Interrupts a worker's blocking read, so that it sees that it is to stop. */
#define WAKE_SIGNAL SIGUSR2

struct worker {
    struct fs_transport *transport;
    pthread_t thread;
    int fd;
    bool owns_fd; /* the first uses the session's own */
    bool started;
    _Atomic bool reading; /* so that only a read is interrupted, never the serving */
    unsigned note;
    void *buffer; /* FS_REPLY_MAX bytes; made when first asked for */
};

struct fs_transport {
    struct fuse_session *session;
    struct fs_transport_hooks hooks;
    int done_fd;
    _Atomic unsigned running; /* workers that have not ended */
    unsigned worker_count;
    struct worker workers[];
};

static __thread struct worker *current;

/* Next request for libfuse. What the hook answers by itself never gets there. */
static ssize_t read_request(int fd, void *bytes, size_t cap, void *userdata)
{
    (void)userdata;
    if (!current)
        return read(fd, bytes, cap);
    for (;;) {
        atomic_store_explicit(&current->reading, true, memory_order_relaxed);
        const ssize_t length = read(current->fd, bytes, cap);
        atomic_store_explicit(&current->reading, false, memory_order_relaxed);
        if (length <= 0)
            return length;
        current->note = 0;
        const struct fs_transport_hooks *hooks = &current->transport->hooks;
        const size_t left = hooks->request(hooks->context, bytes, (size_t)length);
        if (left)
            return (ssize_t)left;
    }
}

static ssize_t write_reply(int fd, struct iovec *pieces, int count, void *userdata)
{
    (void)userdata;
    if (!current)
        return writev(fd, pieces, count); /* a notification */
    const struct fs_transport_hooks *hooks = &current->transport->hooks;
    hooks->reply(hooks->context, pieces, count);
    return writev(current->fd, pieces, count);
}

int fs_transport_reply(const struct iovec *pieces, int count)
{
    KV_ASSERT(current);
    return writev(current->fd, pieces, count) < 0 ? -errno : 0;
}

void *fs_transport_buffer(void)
{
    KV_ASSERT(current);
    if (!current->buffer)
        current->buffer = aligned_alloc(4096, FS_REPLY_MAX);
    return current->buffer;
}

void fs_transport_note(unsigned note)
{
    KV_ASSERT(current);
    current->note = note;
}

unsigned fs_transport_noted(void)
{
    return current ? current->note : 0;
}

static int clone_device(int session_fd)
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

int fs_transport_open(struct fuse_session *session, unsigned threads,
                      const struct fs_transport_hooks *hooks, struct fs_transport **out)
{
    const unsigned count = threads == 0             ? DEFAULT_THREADS
                           : threads <= THREADS_MAX ? threads
                                                    : THREADS_MAX;
    struct fs_transport *transport =
        calloc(1, sizeof *transport + count * sizeof transport->workers[0]);
    if (!transport)
        return -ENOMEM;
    transport->session = session;
    transport->hooks = *hooks;
    transport->done_fd = eventfd(0, EFD_CLOEXEC);
    int err = transport->done_fd < 0 ? -errno : 0;

    const int session_fd = fuse_session_fd(session);
    for (unsigned i = 0; i < count && !err; i++) {
        struct worker *worker = &transport->workers[i];
        worker->transport = transport;
        worker->owns_fd = i > 0;
        worker->fd = i > 0 ? clone_device(session_fd) : session_fd;
        if (worker->fd < 0)
            err = worker->fd;
        else
            transport->worker_count++;
    }
    const struct fuse_custom_io io = {.read = read_request, .writev = write_reply};
    if (!err)
        err = fuse_session_custom_io(session, &io, session_fd);
    if (err) {
        fs_transport_close(transport);
        return err;
    }
    *out = transport;
    return 0;
}

static void *run_worker(void *argument)
{
    struct worker *worker = argument;
    struct fs_transport *transport = worker->transport;
    struct fuse_buf request = {.mem = NULL};
    current = worker;
    while (!fuse_session_exited(transport->session)) {
        const int length = fuse_session_receive_buf(transport->session, &request);
        if (length == -EINTR || length == -EAGAIN)
            continue;
        if (length <= 0)
            break; /* unmounted, or the device is broken */
        fuse_session_process_buf(transport->session, &request);
    }
    fuse_session_exit(transport->session);
    free(request.mem);
    /* Pairs with nothing: whoever reads done_fd joins the threads before touching their data. */
    if (atomic_fetch_sub_explicit(&transport->running, 1, memory_order_relaxed) == 1) {
        const uint64_t one = 1;
        if (write(transport->done_fd, &one, sizeof one) < 0)
            KV_ASSERT(errno == EAGAIN);
    }
    return NULL;
}

static void ignore_signal(int number)
{
    (void)number; /* its arrival is all there is to it: a blocking read returns */
}

int fs_transport_start(struct fs_transport *transport)
{
    struct sigaction wake = {.sa_handler = ignore_signal};
    if (sigaction(WAKE_SIGNAL, &wake, NULL) < 0)
        return -errno;
    atomic_store_explicit(&transport->running, transport->worker_count, memory_order_relaxed);
    for (unsigned i = 0; i < transport->worker_count; i++) {
        struct worker *worker = &transport->workers[i];
        const int err = pthread_create(&worker->thread, NULL, run_worker, worker);
        if (err) {
            atomic_fetch_sub_explicit(&transport->running, transport->worker_count - i,
                                      memory_order_relaxed);
            fs_transport_stop(transport);
            return -err;
        }
        worker->started = true;
    }
    return 0;
}

int fs_transport_done_fd(struct fs_transport *transport)
{
    return transport->done_fd;
}

void fs_transport_stop(struct fs_transport *transport)
{
    fuse_session_exit(transport->session);
    for (unsigned i = 0; i < transport->worker_count; i++) {
        struct worker *worker = &transport->workers[i];
        if (!worker->started)
            continue;
        /* The signal may come just before the read begins: send it until the thread ends. */
        for (;;) {
            if (atomic_load_explicit(&worker->reading, memory_order_relaxed))
                pthread_kill(worker->thread, WAKE_SIGNAL);
            struct timespec until;
            (void)clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += 20 * 1000 * 1000;
            if (until.tv_nsec >= 1000000000) {
                until.tv_nsec -= 1000000000;
                until.tv_sec++;
            }
            if (pthread_timedjoin_np(worker->thread, NULL, &until) == 0)
                break;
        }
        worker->started = false;
    }
}

void fs_transport_close(struct fs_transport *transport)
{
    if (!transport)
        return;
    for (unsigned i = 0; i < transport->worker_count; i++) {
        if (transport->workers[i].owns_fd)
            close(transport->workers[i].fd);
        free(transport->workers[i].buffer);
    }
    if (transport->done_fd >= 0)
        close(transport->done_fd);
    free(transport);
}
