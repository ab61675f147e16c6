/*
 * kv/device_ring.c: transfers and flushes of a file device, through io_uring.
 *
 * Owns       a pool of rings.
 * Invariant  a ring belongs to one caller from take_ring to give_ring_back and is idle outside:
 *            no request outlives the call that made it, or that ends what another began, so
 *            buffers are only borrowed. Who has a ring under way does not wait for another.
 *            A transfer is whole or an error. A failed flush is never tried again, nor is any
 *            other begun after it: the kernel tells of a lost write once, to one caller only, so
 *            a later flush that says 0 would say nothing.
 * Locks      file->mutex guards the pool; it is not held during I/O or while a ring is made.
 *            file->flush_mutex is held over a flush and the writes submitted with it: of two
 *            flushes at a time only one hears of a lost write, so the other may not be under
 *            way. Order: flush_mutex, mutex.
 * A transfer by itself goes without a ring: nothing is to be under way beside it, and the kernel
 * wakes the one who waits without a completion in between (2 to 4 us of some 30). So does a flush,
 * which a ring hands to a thread of the kernel's: a write of 8 KiB with one took 61 us and 30 of
 * CPU by a ring that had the two linked, 47 and 17 by two calls.
 *
 * Lifetime   the first ring is made at open; others when that many callers are inside, up to
 *            RING_COUNT_MAX; then callers wait.
 */
#include "kv/device_file.h"
#include "kv/error.h"

#include <liburing.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define RING_COUNT_MAX 16u
#define RING_ENTRIES   64u
/* Longest transfer handed to the kernel at once; it cuts longer ones at 2 GiB - 4 KiB. */
#define TRANSFER_BYTES_MAX (1u << 30)
/* How often one request, or one submission, may say EINTR or EAGAIN. */
#define RETRY_MAX 64u

struct ring {
    struct io_uring uring;
    struct ring *next_idle; /* file->mutex; only while idle */
};

/* ---- the pool of rings -------------------------------------------------- */

static int make_ring(struct ring **out)
{
    struct ring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return -ENOMEM;

    /* The caller always enters the kernel to wait, so it need not be interrupted (5.19). */
    int err = io_uring_queue_init(RING_ENTRIES, &ring->uring, IORING_SETUP_COOP_TASKRUN);
    if (err == -EINVAL)
        err = io_uring_queue_init(RING_ENTRIES, &ring->uring, 0);
    if (err) {
        free(ring);
        return err;
    }
    *out = ring;
    return 0;
}

static void free_ring(struct ring *ring)
{
    io_uring_queue_exit(&ring->uring);
    free(ring);
}

/* A ring without waiting for one; NULL: none is to be had. */
static struct ring *take_ring_now(struct file_device *file)
{
    pthread_mutex_lock(&file->mutex);
    struct ring *ring = file->idle;
    const bool more = !ring && file->ring_count < RING_COUNT_MAX;
    if (ring)
        file->idle = ring->next_idle;
    file->ring_count += more;
    pthread_mutex_unlock(&file->mutex);
    if (!more || !make_ring(&ring))
        return ring;
    pthread_mutex_lock(&file->mutex);
    file->ring_count--;
    pthread_cond_broadcast(&file->ring_idle); /* as in give_ring_back */
    pthread_mutex_unlock(&file->mutex);
    return NULL;
}

static int take_ring(struct file_device *file, struct ring **out)
{
    int err = 0;

    pthread_mutex_lock(&file->mutex);
    while (!file->idle) {
        if (file->ring_count < RING_COUNT_MAX && !err) {
            file->ring_count++;
            pthread_mutex_unlock(&file->mutex);
            err = make_ring(out);
            if (!err)
                return 0;
            pthread_mutex_lock(&file->mutex);
            file->ring_count--;
        } else if (file->ring_count > 0) {
            /* Making one more failed or is not allowed: another caller's will do. */
            pthread_cond_wait(&file->ring_idle, &file->mutex);
        } else {
            break;
        }
    }
    if (file->idle) {
        *out = file->idle;
        file->idle = file->idle->next_idle;
        err = 0;
    }
    pthread_mutex_unlock(&file->mutex);
    return err;
}

/* A ring that still holds requests which the kernel did not take is thrown away. */
static void give_ring_back(struct file_device *file, struct ring *ring)
{
    const bool usable = io_uring_sq_ready(&ring->uring) == 0;
    if (!usable)
        free_ring(ring);

    pthread_mutex_lock(&file->mutex);
    if (usable) {
        ring->next_idle = file->idle;
        file->idle = ring;
        pthread_cond_signal(&file->ring_idle);
    } else {
        file->ring_count--;
        /* All waiters: each may have to find out that it can not make a ring itself. */
        pthread_cond_broadcast(&file->ring_idle);
    }
    pthread_mutex_unlock(&file->mutex);
}

int kv_device_make_first_ring(struct file_device *file, struct kv_error *error)
{
    struct ring *ring = NULL;
    int err = take_ring(file, &ring);
    if (err) {
        const bool absent = err == -ENOSYS || err == -EPERM || err == -EACCES;
        kv_error_set(error, "can not set up io_uring: %s; %s", strerror(-err),
                     absent ? "it needs Linux 5.10 or newer and sysctl kernel.io_uring_disabled=0 "
                              "(in a container: a seccomp profile that allows it)"
                            : "raise the limit on locked memory or open files (ulimit -l, -n)");
        return absent ? -ENOSYS : err;
    }
    give_ring_back(file, ring);
    return 0;
}

void kv_device_free_rings(struct file_device *file)
{
    unsigned idle_count = 0;
    while (file->idle) {
        struct ring *ring = file->idle;
        file->idle = ring->next_idle;
        free_ring(ring);
        idle_count++;
    }
    KV_ASSERT(idle_count == file->ring_count); /* nobody is inside */
}

/* ---- one submission ----------------------------------------------------- */

/* A request in flight. */
struct slot {
    struct kv_io *io; /* NULL: free */
    uint64_t done_bytes;
    unsigned retries;
};

struct submission {
    struct kv_device_flight flight; /* if it is one */
    struct file_device *file;
    struct ring *ring;
    struct kv_io *ios;
    size_t io_count;
    size_t started_count; /* ios before this one are finished or in a slot */
    bool tells;           /* some of the ios want to be told of */
    unsigned in_flight;   /* completions that are still to come */
    unsigned busy_slots;
    unsigned stalls; /* submissions in a row of which the kernel took nothing */
    struct slot slots[RING_ENTRIES];
};

/* Queue what is left of a slot's transfer. */
static void queue_slot(struct submission *submission, unsigned index)
{
    struct slot *slot = &submission->slots[index];
    const struct kv_io *io = slot->io;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&submission->ring->uring);
    KV_ASSERT(sqe != NULL); /* as many entries as slots */

    char *bytes = (char *)io->buf + slot->done_bytes;
    const uint64_t offset = io->block * KV_BLOCK_BYTES + slot->done_bytes;
    const unsigned length =
        (unsigned)kv_min_u64(kv_io_bytes(io) - slot->done_bytes, TRANSFER_BYTES_MAX);
    if (io->kind == KV_IO_READ)
        io_uring_prep_read(sqe, submission->file->fd, bytes, length, offset);
    else
        io_uring_prep_write(sqe, submission->file->fd, bytes, length, offset);
    io_uring_sqe_set_data64(sqe, index);
    submission->in_flight++;
}

static void start_waiting_ios(struct submission *submission)
{
    for (unsigned i = 0; i < RING_ENTRIES; i++) {
        if (submission->started_count == submission->io_count)
            return;
        if (submission->slots[i].io)
            continue;
        submission->slots[i] = (struct slot){.io = &submission->ios[submission->started_count++]};
        submission->busy_slots++;
        queue_slot(submission, i);
    }
}

/*
 * The errors that callers of a device may see. The host's other words mean something else higher
 * up: -EAGAIN that the log is full, -ENODATA (a disk's for a bad sector) that there is no such
 * attribute, -ENOENT no such key.
 */
static int as_device_error(enum kv_io_kind kind, int err)
{
    if (err == 0 || err == -ENOMEM)
        return err;
    if (kind == KV_IO_WRITE && (err == -ENOSPC || err == -EDQUOT || err == -EFBIG))
        return -ENOSPC; /* a sparse image on a full host, or at a limit of file sizes */
    return -EIO;
}

static void finish_slot(struct submission *submission, struct slot *slot, int result)
{
    struct kv_io *const io = slot->io;
    io->result = as_device_error(io->kind, result);
    slot->io = NULL;
    submission->busy_slots--;
    if (io->done)
        io->done(io);
}

/*
 * The kernel has answered. Is the slot's transfer over? Then *result is its result: 0 or an error
 * of the host. Otherwise the rest of it is to be tried.
 */
static bool is_over(const struct file_device *file, struct slot *slot, int *result)
{
    if (*result == -EINTR || *result == -EAGAIN)
        return ++slot->retries > RETRY_MAX;
    if (*result <= 0) {
        /* Nothing moved: for a read, the file is shorter than it was when it was opened. */
        *result = *result ? *result : -EIO;
        return true;
    }
    slot->done_bytes += (uint64_t)*result;
    const bool whole = slot->done_bytes >= kv_io_bytes(slot->io);
    /* Only the end of the file cuts a sector. */
    const bool cut = !whole && file->base.direct_io && slot->done_bytes % SECTOR_BYTES;
    *result = cut ? -EIO : 0;
    return whole || cut;
}

/* The kernel answered a slot's request: it is finished, or its rest is queued. */
static void complete_slot(struct submission *submission, unsigned index, int result)
{
    struct slot *slot = &submission->slots[index];
    KV_ASSERT(slot->io != NULL);
    if (is_over(submission->file, slot, &result))
        finish_slot(submission, slot, result);
    else
        queue_slot(submission, index);
}

/* Take in all completions that are there. */
static void reap(struct submission *submission)
{
    struct io_uring_cqe *cqe;
    while (submission->in_flight > 0 && io_uring_peek_cqe(&submission->ring->uring, &cqe) == 0) {
        const uint64_t data = io_uring_cqe_get_data64(cqe);
        const int result = cqe->res;
        io_uring_cqe_seen(&submission->ring->uring, cqe);
        submission->in_flight--;
        complete_slot(submission, (unsigned)data, result);
    }
}

/* The kernel takes no more requests, and has none: fail what is left. */
static void give_up(struct submission *submission, int error)
{
    for (unsigned i = 0; i < RING_ENTRIES; i++) {
        if (submission->slots[i].io)
            finish_slot(submission, &submission->slots[i], error);
    }
    while (submission->started_count < submission->io_count) {
        struct kv_io *io = &submission->ios[submission->started_count++];
        io->result = as_device_error(io->kind, error);
    }
}

/* Run all requests, as many at a time as there are slots, until each has its result. */
static void run(struct submission *submission)
{
    start_waiting_ios(submission);
    while (submission->in_flight > 0) {
        /* While requests wait for a slot, a few free ones are worth waking up for. */
        const bool more = submission->started_count < submission->io_count;
        const unsigned wait_count = submission->tells ? 1
                                    : more            ? 1 + submission->in_flight / 2
                                                      : submission->in_flight;
        const int taken = io_uring_submit_and_wait(&submission->ring->uring, wait_count);
        const unsigned untaken = io_uring_sq_ready(&submission->ring->uring);

        if (taken < 0) {
            /* The kernel says EAGAIN and EBUSY when it is short of memory. Any other word
             * would mean that we misuse the ring. */
            KV_ASSERT(taken == -EINTR || taken == -EAGAIN || taken == -EBUSY || taken == -ENOMEM);
            if (untaken == submission->in_flight && ++submission->stalls > RETRY_MAX) {
                give_up(submission, taken);
                return;
            }
            if (taken != -EINTR) {
                const struct timespec pause = {.tv_nsec = 1000000};
                (void)nanosleep(&pause, NULL); /* cut short is as good */
            }
        } else {
            submission->stalls = 0;
        }
        reap(submission);
        start_waiting_ios(submission);
    }
}

/*
 * With flush_mutex. Being interrupted, or not begun, says nothing of a lost write (no host file
 * system or driver notes one down by these words), so that may be tried again.
 */
static int flush_file(struct file_device *file)
{
    unsigned tries = 0;
    int err;
    do
        err = fdatasync(file->fd) ? -errno : 0;
    while ((err == -EINTR || err == -EAGAIN) && ++tries <= RETRY_MAX);
    return as_device_error(KV_IO_WRITE, err);
}

static int refuse_writes(struct kv_io *ios, size_t io_count)
{
    for (size_t i = 0; i < io_count; i++)
        ios[i].result = ios[i].kind == KV_IO_WRITE ? -EROFS : -ECANCELED;
    return -EROFS;
}

static int fail_all(struct kv_io *ios, size_t io_count, int err)
{
    for (size_t i = 0; i < io_count; i++)
        ios[i].result = err;
    return err;
}

/* One transfer, straight from this thread. */
static int transfer_one(struct file_device *file, struct kv_io *io)
{
    struct slot slot = {.io = io};
    int result;
    do {
        struct iovec rest = {.iov_base = (char *)io->buf + slot.done_bytes,
                             .iov_len =
                                 kv_min_u64(kv_io_bytes(io) - slot.done_bytes, TRANSFER_BYTES_MAX)};
        const off_t offset = (off_t)(io->block * KV_BLOCK_BYTES + slot.done_bytes);
        const ssize_t moved = io->kind == KV_IO_READ ? preadv(file->fd, &rest, 1, offset)
                                                     : pwritev(file->fd, &rest, 1, offset);
        result = moved < 0 ? -errno : (int)moved;
    } while (!is_over(file, &slot, &result));
    io->result = as_device_error(io->kind, result);
    return io->result;
}

/* Wait for all of them. Returns 0, or the first error. */
static int finish(struct submission *submission)
{
    run(submission);
    KV_ASSERT(submission->busy_slots == 0);
    give_ring_back(submission->file, submission->ring);
    for (size_t i = 0; i < submission->io_count; i++)
        if (submission->ios[i].result)
            return submission->ios[i].result;
    return 0;
}

static int transfer(struct file_device *file, struct kv_io *ios, size_t io_count)
{
    if (io_count == 1)
        return transfer_one(file, &ios[0]);
    struct submission submission = {.file = file, .ios = ios, .io_count = io_count};
    for (size_t i = 0; i < io_count; i++)
        submission.tells |= ios[i].done != NULL;
    const int ring_err = take_ring(file, &submission.ring);
    if (ring_err)
        return fail_all(ios, io_count, as_device_error(ios[0].kind, ring_err));
    return finish(&submission);
}

struct kv_device_flight *kv_device_begin_file(struct kv_device *device, struct kv_io *ios,
                                              size_t io_count)
{
    struct file_device *const file = (struct file_device *)device;
    struct submission *const submission = file->read_only ? NULL : malloc(sizeof *submission);
    struct ring *const ring = submission ? take_ring_now(file) : NULL;
    if (!ring) {
        free(submission);
        return NULL;
    }
    *submission = (struct submission){.file = file, .ring = ring, .ios = ios, .io_count = io_count};
    start_waiting_ios(submission);
    /* What the kernel does not take now, or says of it, is for who waits. */
    (void)io_uring_submit_and_wait(&ring->uring, 0);
    return &submission->flight;
}

int kv_device_end_file(struct kv_device *device, struct kv_device_flight *flight)
{
    (void)device;
    struct submission *const submission = (struct submission *)flight;
    const int result = finish(submission);
    free(submission);
    return result;
}

/* With flush_mutex. */
static int transfer_and_flush(struct file_device *file, struct kv_io *ios, size_t io_count)
{
    if (file->flush_failure)
        return fail_all(ios, io_count, -EIO);
    const int err = io_count ? transfer(file, ios, io_count) : 0;
    if (err)
        return err;
    file->flush_failure = flush_file(file);
    return file->flush_failure;
}

int kv_device_submit_file(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct file_device *file = (struct file_device *)device;
    bool writes = false;
    for (size_t i = 0; i < io_count; i++)
        writes |= ios[i].kind == KV_IO_WRITE;
    if (writes && file->read_only)
        return refuse_writes(ios, io_count);
    if (!flush)
        return io_count ? transfer(file, ios, io_count) : 0;
    pthread_mutex_lock(&file->flush_mutex);
    const int err = transfer_and_flush(file, ios, io_count);
    pthread_mutex_unlock(&file->flush_mutex);
    return err;
}
