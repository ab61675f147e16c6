/*
 * fs/transport.c: the workers, and the bytes on their way to libfuse and back.
 *
 * Owns       the workers, their clones of the device, their buffers.
 * Locks      none: a worker's data is its own; `running` and `on_ring` are atomic.
 *
 * A worker finds itself by a thread-local pointer, because libfuse's callbacks pass nothing
 * that says which thread's request they are about.
 *
 * With the ring, the first workers go on reading the device: FORGET and INTERRUPT always come
 * that way, and everything does until all queues have registered. The others wait at `ring_fd`
 * until the kernel has agreed to the ring.
 */
#define FUSE_USE_VERSION 314

#include "fs/transport_worker.h"

#include <fuse_lowlevel.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_THREADS 10u
#define THREADS_MAX     256u
/* Readers of the device beside the ring, so that one long FORGET does not stop the others. */
#define DEVICE_THREADS_WITH_RING 2u
/* A request that waits for the disk keeps its worker: a CPU needs several. */
#define THREADS_PER_CPU_MIN 4u
/* For the log, what is read of /proc, and what else is opened while requests are served. */
#define DESCRIPTORS_BESIDE 32u
/* Interrupts a worker's wait, so that it sees that it is to stop. */
#define WAKE_SIGNAL SIGUSR2

struct fs_transport {
    struct fuse_session *session;
    struct fs_transport_hooks hooks;
    int done_fd;
    int ring_fd;              /* read by workers of the ring before they begin */
    bool wants_ring;          /* the reply to INIT is to ask for it */
    _Atomic bool on_ring;     /* the kernel has been told */
    _Atomic int error;        /* of the first worker that could not go on; 0: none */
    _Atomic unsigned running; /* workers that have not ended */
    unsigned device_workers;  /* of all; the others are on the ring */
    unsigned worker_count;
    /* By queue, the device's first, then those of the CPUs: its workers, and those that serve. */
    unsigned *queue_workers;   /* immutable once they run */
    _Atomic unsigned *serving; /* relaxed: what is made of it is a figure */
    struct fs_worker workers[];
};

__thread struct fs_worker *fs_worker_current;

struct fuse_session *fs_worker_session(struct fs_worker *worker)
{
    return worker->transport->session;
}

const struct fs_transport_hooks *fs_worker_hooks(struct fs_worker *worker)
{
    return &worker->transport->hooks;
}

static void log_line(const struct fs_transport *transport, enum kv_log_level level,
                     const char *line)
{
    if (transport->hooks.log)
        transport->hooks.log(transport->hooks.log_context, level, line);
    else
        fprintf(stderr, "kvfs: %s\n", line);
}

void fs_worker_log(struct fs_worker *worker, enum kv_log_level level, const char *format, ...)
{
    char line[256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof line, format, args);
    va_end(args);
    log_line(worker->transport, level, line);
}

static void signal_done(struct fs_transport *transport)
{
    const uint64_t one = 1;
    if (write(transport->done_fd, &one, sizeof one) < 0)
        KV_ASSERT(errno == EAGAIN);
}

void fs_worker_fail(struct fs_worker *worker, int err)
{
    int none = 0;
    /* Pairs with nothing: done_fd says when there is something to read. */
    (void)atomic_compare_exchange_strong_explicit(&worker->transport->error, &none, err,
                                                  memory_order_relaxed, memory_order_relaxed);
    fuse_session_exit(worker->transport->session);
    signal_done(worker->transport);
}

/* Let the workers of the ring go on: to begin, or to see that all is over. */
static void release_ring_workers(struct fs_transport *transport)
{
    const uint64_t count = transport->worker_count - transport->device_workers;
    if (count && write(transport->ring_fd, &count, sizeof count) < 0)
        KV_ASSERT(errno == EAGAIN);
}

/* ---- libfuse's two functions --------------------------------------------- */

/* A connection that was aborted has ended as one that was unmounted has, of which libfuse says
 * nothing: a worker may find either while the mount goes. */
static ssize_t read_device(int fd, void *bytes, size_t cap)
{
    const ssize_t length = read(fd, bytes, cap);
    if (length < 0 && errno == ECONNABORTED)
        errno = ENODEV;
    return length;
}

/* Next request for libfuse, over the device. What the hook answers itself never gets there. */
static ssize_t read_request(int fd, void *bytes, size_t cap, void *userdata)
{
    (void)userdata;
    struct fs_worker *worker = fs_worker_current;
    if (!worker)
        return read_device(fd, bytes, cap);
    for (;;) {
        struct pollfd next = {.fd = worker->fd, .events = POLLIN};
        if (worker->was_last && poll(&next, 1, 0) == 1)
            fs_worker_found_waiting(worker);
        worker->was_last = false;
        atomic_store_explicit(&worker->waiting, true, memory_order_relaxed);
        const ssize_t length = read_device(worker->fd, bytes, cap);
        atomic_store_explicit(&worker->waiting, false, memory_order_relaxed);
        if (length <= 0)
            return length;
        fs_worker_begun(worker);
        worker->note = 0;
        const struct fs_transport_hooks *hooks = fs_worker_hooks(worker);
        const size_t left = hooks->request(hooks->context, bytes, (size_t)length);
        if (left)
            return (ssize_t)left;
        fs_worker_served(worker);
    }
}

/* A worker of the ring serves the queue of its CPU. */
static unsigned queue_of(const struct fs_worker *worker)
{
    const struct fs_transport *transport = worker->transport;
    const unsigned number = (unsigned)(worker - transport->workers);
    return number < transport->device_workers ? 0 : 1 + worker->cpu;
}

void fs_worker_begun(struct fs_worker *worker)
{
    _Atomic unsigned *const serving = &worker->transport->serving[queue_of(worker)];
    (void)atomic_fetch_add_explicit(serving, 1, memory_order_relaxed);
    worker->serving = true;
}

/*
 * The request is about to be answered: who waits for that may have the next one ready before this
 * worker asks for it. Does nothing for one that came free already.
 */
static void come_free(struct fs_worker *worker)
{
    const unsigned queue = queue_of(worker);
    _Atomic unsigned *const serving = &worker->transport->serving[queue];
    if (!worker->serving)
        return;
    worker->was_last = atomic_fetch_sub_explicit(serving, 1, memory_order_relaxed) >=
                       worker->transport->queue_workers[queue];
    worker->serving = false;
}

static int send_pieces(struct fs_worker *worker, const struct iovec *pieces, int count)
{
    come_free(worker);
    return worker->entry ? fs_ring_send(worker, pieces, count)
                         : fs_device_send(worker, pieces, count);
}

static ssize_t write_reply(int fd, struct iovec *pieces, int count, void *userdata)
{
    (void)userdata;
    struct fs_worker *worker = fs_worker_current;
    if (!worker)
        return writev(fd, pieces, count); /* a notification */
    struct fs_transport *transport = worker->transport;
    ssize_t length = 0;
    for (int i = 0; i < count; i++)
        length += (ssize_t)pieces[i].iov_len;
    const bool ring =
        transport->hooks.reply(transport->hooks.context, pieces, count, transport->wants_ring);
    const int err = send_pieces(worker, pieces, count);
    if (err) {
        errno = -err;
        return -1;
    }
    if (ring) {
        transport->wants_ring = false;
        atomic_store(&transport->on_ring, true);
        fs_worker_log(worker, KV_LOG_INFO, "requests come over io_uring");
        release_ring_workers(transport);
    }
    return length;
}

int fs_transport_reply(const struct iovec *pieces, int count)
{
    KV_ASSERT(fs_worker_current);
    return send_pieces(fs_worker_current, pieces, count);
}

void *fs_transport_buffer(void)
{
    struct fs_worker *worker = fs_worker_current;
    KV_ASSERT(worker);
    void *area = worker->entry ? fs_ring_reply_area(worker) : NULL;
    if (area)
        return area;
    if (!worker->buffer)
        worker->buffer = aligned_alloc(4096, FS_REPLY_MAX);
    return worker->buffer;
}

bool fs_transport_should_await(void)
{
    struct fs_worker *worker = fs_worker_current;
    /* In the end workers wait for the reads that they await: there must be no more of them. */
    if (worker && fuse_session_exited(worker->transport->session))
        return false;
    /* The reply is built in the entry: a buffer of the worker's would be in use by others. */
    if (!worker || !worker->entry || !fs_ring_reply_area(worker))
        return false;
    _Atomic unsigned *const serving = &worker->transport->serving[queue_of(worker)];
    return fs_ring_busy(worker) || atomic_load_explicit(serving, memory_order_relaxed) > 1;
}

void fs_transport_await(const struct fs_transport_read *read)
{
    KV_ASSERT(fs_worker_current && fs_worker_current->entry);
    fs_ring_await(fs_worker_current, read);
}

void fs_transport_note(unsigned note)
{
    KV_ASSERT(fs_worker_current);
    fs_worker_current->note = note;
}

void fs_transport_begun(uint32_t opcode, uint64_t begun_ns)
{
    KV_ASSERT(fs_worker_current);
    fs_worker_current->opcode = opcode;
    fs_worker_current->begun_ns = begun_ns;
}

void fs_worker_found_waiting(struct fs_worker *worker)
{
    const struct fs_transport_hooks *hooks = fs_worker_hooks(worker);
    if (hooks->waited)
        hooks->waited(hooks->context);
}

void fs_worker_served(struct fs_worker *worker)
{
    come_free(worker); /* of what needs no answer */
    const struct fs_transport_hooks *hooks = fs_worker_hooks(worker);
    if (worker->begun_ns)
        hooks->served(hooks->context, worker->opcode, worker->begun_ns);
    worker->begun_ns = 0;
}

unsigned fs_transport_noted(void)
{
    return fs_worker_current ? fs_worker_current->note : 0;
}

/* ---- a transport's life --------------------------------------------------- */

/* Which of the two it will be; false: the device. */
static int choose_ring(enum fs_transport_kind kind, bool *ring, const char **refusal)
{
    *refusal = kind == FS_TRANSPORT_DEVICE ? NULL : fs_ring_refusal();
    *ring = kind != FS_TRANSPORT_DEVICE && !*refusal;
    return kind == FS_TRANSPORT_RING && !*ring ? -EOPNOTSUPP : 0;
}

static int count_queues(struct fs_transport *transport, unsigned cpus)
{
    transport->queue_workers = calloc(1 + cpus, sizeof *transport->queue_workers);
    transport->serving = calloc(1 + cpus, sizeof *transport->serving);
    if (!transport->queue_workers || !transport->serving)
        return -ENOMEM;
    transport->queue_workers[0] = transport->device_workers;
    for (unsigned i = transport->device_workers; i < transport->worker_count; i++)
        transport->queue_workers[1 + transport->workers[i].cpu]++;
    return 0;
}

static int open_workers(struct fs_transport *transport)
{
    const int session_fd = fuse_session_fd(transport->session);
    for (unsigned i = 0; i < transport->worker_count; i++) {
        struct fs_worker *worker = &transport->workers[i];
        worker->transport = transport;
        const int err = i < transport->device_workers ? 0 : fs_ring_prepare(worker);
        if (err)
            return err;
        const bool clone = i > 0 && i < transport->device_workers;
        worker->fd = clone ? fs_device_clone(session_fd) : session_fd;
        if (worker->fd < 0)
            return worker->fd;
        worker->owns_fd = clone;
    }
    return 0;
}

/*
 * A worker takes a descriptor, and others are opened while it serves. Raises the soft limit, which
 * is there for programs that use select(2), towards the hard one. -EMFILE: that is not enough.
 */
static int allow_descriptors(struct fuse_session *session, unsigned workers)
{
    struct rlimit limit;
    /* That of the session is a late one: those in front of it are in use. */
    const rlim_t wanted = (rlim_t)fuse_session_fd(session) + workers + DESCRIPTORS_BESIDE;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return -errno;
    if (limit.rlim_cur >= wanted)
        return 0;
    limit.rlim_cur = kv_min_u64(wanted, limit.rlim_max);
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        return -errno;
    return limit.rlim_cur < wanted ? -EMFILE : 0;
}

static struct fs_transport *new_transport(struct fuse_session *session, bool ring, unsigned threads,
                                          unsigned cpus, const struct fs_transport_hooks *hooks)
{
    unsigned count = threads ? (unsigned)kv_min_u64(threads, THREADS_MAX) : DEFAULT_THREADS;
    const unsigned for_each =
        ring ? (unsigned)kv_max_u64((count + cpus - 1) / cpus, THREADS_PER_CPU_MIN) : 0;
    const unsigned device_workers = ring ? DEVICE_THREADS_WITH_RING : count;
    count = device_workers + cpus * for_each;

    struct fs_transport *transport =
        calloc(1, sizeof *transport + count * sizeof transport->workers[0]);
    if (!transport)
        return NULL;
    transport->session = session;
    transport->hooks = *hooks;
    transport->wants_ring = ring;
    transport->device_workers = device_workers;
    transport->worker_count = count;
    transport->done_fd = transport->ring_fd = -1;
    for (unsigned i = 0; i < count; i++) {
        transport->workers[i].fd = -1;
        /* Queues one after another: if threads can not be had, each queue still has some. */
        transport->workers[i].cpu = i < device_workers ? 0 : (i - device_workers) % cpus;
    }
    return transport;
}

/* Over the ring, or the device: all that it needs is there, or nothing. */
static int open_transport(struct fuse_session *session, bool ring, unsigned threads,
                          const struct fs_transport_hooks *hooks, struct fs_transport **out)
{
    const unsigned cpus = ring ? fs_ring_cpu_count() : 0;
    if (ring && !cpus) /* a moment ago it could be read; now memory or descriptors are short */
        return -ENOMEM;
    struct fs_transport *transport = new_transport(session, ring, threads, cpus, hooks);
    if (!transport)
        return -ENOMEM;
    int err = allow_descriptors(session, transport->worker_count);
    if (!ring)
        err = 0; /* there may be enough: it will show */
    if (!err) {
        transport->done_fd = eventfd(0, EFD_CLOEXEC);
        transport->ring_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
        err = transport->done_fd < 0 || transport->ring_fd < 0 ? -errno : 0;
    }
    if (!err)
        err = count_queues(transport, cpus);
    if (!err)
        err = open_workers(transport);
    if (err)
        fs_transport_close(transport);
    else
        *out = transport;
    return err;
}

/* Why the rings that the kernel offers can not be had. */
static void describe_shortage(int err, char *text, size_t cap)
{
    (void)snprintf(text, cap, "the threads get no rings: %s%s", strerror(-err),
                   err == -EMFILE ? "; raise the limit on open files (ulimit -n)" : "");
}

int fs_transport_open(struct fuse_session *session, enum fs_transport_kind kind, unsigned threads,
                      const struct fs_transport_hooks *hooks, struct fs_transport **out,
                      struct kv_error *error)
{
    bool ring;
    const char *refusal;
    char shortage[160], line[256];
    struct fs_transport *transport = NULL;
    int err = choose_ring(kind, &ring, &refusal);
    if (!err && ring) {
        err = open_transport(session, true, threads, hooks, &transport);
        if (err) {
            describe_shortage(err, shortage, sizeof shortage);
            refusal = shortage;
        }
    }
    if (err && kind == FS_TRANSPORT_RING) {
        if (error)
            snprintf(error->text, sizeof error->text, "transport=ring: %s", refusal);
        return err;
    }
    if (!transport)
        err = open_transport(session, false, threads, hooks, &transport);
    const struct fuse_custom_io io = {.read = read_request, .writev = write_reply};
    if (!err)
        err = fuse_session_custom_io(session, &io, fuse_session_fd(session));
    if (err) {
        fs_transport_close(transport);
        if (error)
            snprintf(error->text, sizeof error->text, "the FUSE device: %s", strerror(-err));
        return err;
    }
    if (refusal) {
        (void)snprintf(line, sizeof line, "requests come over /dev/fuse: %s", refusal);
        log_line(transport, ring ? KV_LOG_WARNING : KV_LOG_INFO, line);
    }
    *out = transport;
    return 0;
}

/* Wait until the kernel has agreed to the ring; false: that will not be. */
static bool await_ring(struct fs_worker *worker)
{
    struct fs_transport *transport = worker->transport;
    while (!fuse_session_exited(transport->session)) {
        uint64_t one;
        atomic_store_explicit(&worker->waiting, true, memory_order_relaxed);
        const ssize_t length = read(transport->ring_fd, &one, sizeof one);
        atomic_store_explicit(&worker->waiting, false, memory_order_relaxed);
        if (length == (ssize_t)sizeof one)
            return atomic_load(&transport->on_ring);
    }
    return false;
}

/* Whoever started the daemon may have it blocked. */
static void unblock_wake_signal(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, WAKE_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void *run_worker(void *argument)
{
    struct fs_worker *worker = argument;
    struct fs_transport *transport = worker->transport;
    const unsigned number = (unsigned)(worker - transport->workers);
    fs_worker_current = worker;
    unblock_wake_signal();
    if (number < transport->device_workers) {
        fs_device_serve(worker);
        fuse_session_exit(transport->session);
        release_ring_workers(transport);
    } else if (await_ring(worker)) {
        fs_ring_serve(worker);
    }
    /* Pairs with nothing: whoever reads done_fd joins the threads before touching their data. */
    if (atomic_fetch_sub_explicit(&transport->running, 1, memory_order_relaxed) == 1)
        signal_done(transport);
    return NULL;
}

static void ignore_signal(int number)
{
    (void)number; /* its arrival is all there is to it: a blocking call returns */
}

int fs_transport_start(struct fs_transport *transport)
{
    struct sigaction wake = {.sa_handler = ignore_signal};
    if (sigaction(WAKE_SIGNAL, &wake, NULL) < 0)
        return -errno;
    atomic_store_explicit(&transport->running, transport->worker_count, memory_order_relaxed);
    for (unsigned i = 0; i < transport->worker_count; i++) {
        struct fs_worker *worker = &transport->workers[i];
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

unsigned fs_transport_threads(const struct fs_transport *transport)
{
    return transport->worker_count;
}

bool fs_transport_on_ring(struct fs_transport *transport)
{
    return atomic_load(&transport->on_ring);
}

int fs_transport_error(struct fs_transport *transport)
{
    return atomic_load_explicit(&transport->error, memory_order_relaxed);
}

int fs_transport_done_fd(struct fs_transport *transport)
{
    return transport->done_fd;
}

void fs_transport_stop(struct fs_transport *transport)
{
    fuse_session_exit(transport->session);
    for (unsigned i = 0; i < transport->worker_count; i++) {
        struct fs_worker *worker = &transport->workers[i];
        if (!worker->started)
            continue;
        /* The signal may come just before the wait begins: send it until the thread ends. */
        for (;;) {
            if (atomic_load_explicit(&worker->waiting, memory_order_relaxed))
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
        fs_ring_unprepare(&transport->workers[i]);
    }
    free(transport->queue_workers);
    free((void *)transport->serving);
    if (transport->done_fd >= 0)
        close(transport->done_fd);
    if (transport->ring_fd >= 0)
        close(transport->ring_fd);
    free(transport);
}
