/*
 * kv/device.c: the image as a file or block device, driven by io_uring.
 *
 * Owns       the descriptor, the ownership of the image (kv/owner.h), and a pool of rings.
 * Invariant  a ring belongs to one caller from take_ring to give_ring_back and is idle outside:
 *            no request outlives the call that made it, so buffers are only borrowed.
 *            A transfer is whole or an error. A failed flush is never tried again, nor is any
 *            other begun after it: the kernel tells of a lost write once, to one caller only, so
 *            a later flush that says 0 would say nothing.
 * Locks      file->mutex guards the pool; it is not held during I/O or while a ring is made.
 *            file->flush_mutex is held over a flush and the writes submitted with it: of two
 *            flushes at a time only one hears of a lost write, so the other may not be under
 *            way. Order: flush_mutex, mutex.
 * Lifetime   the first ring is made at open, so that a host without io_uring is told at once;
 *            others when that many callers are inside, up to RING_COUNT_MAX; then callers wait.
 */
#include "kv/device.h"
#include "kv/error.h"
#include "kv/owner.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define RING_COUNT_MAX 16u
#define RING_ENTRIES   64u
/* Longest transfer handed to the kernel at once; it cuts longer ones at 2 GiB - 4 KiB. */
#define TRANSFER_BYTES_MAX (1u << 30)
/* How often one request, or one submission, may say EINTR or EAGAIN. */
#define RETRY_MAX 64u
/* The least that an offset under O_DIRECT is a multiple of. */
#define SECTOR_BYTES 512u

/* user_data of the flush that is linked behind a write; other requests carry their slot. */
#define FLUSH_DATA UINT64_MAX

struct ring {
    struct io_uring uring;
    struct ring *next_idle; /* file->mutex; only while idle */
};

struct file_device {
    struct kv_device base;
    int fd;                 /* immutable after open */
    struct kv_owner *owner; /* immutable after open; NULL: opened without the lock */
    bool read_only;         /* immutable after open */
    bool is_block_device;   /* immutable after open */

    pthread_mutex_t flush_mutex;
    int flush_failure; /* flush_mutex; sticky: what the first failed flush said, or 0 */

    pthread_mutex_t mutex;
    pthread_cond_t ring_idle;
    struct ring *idle;   /* mutex */
    unsigned ring_count; /* mutex; idle and taken */
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

/* ---- one submission ----------------------------------------------------- */

/* A request in flight. */
struct slot {
    struct kv_io *io; /* NULL: free */
    uint64_t done_bytes;
    unsigned retries;
};

struct submission {
    struct file_device *file;
    struct ring *ring;
    struct kv_io *ios;
    size_t io_count;
    size_t started_count; /* ios before this one are finished or in a slot */
    bool link_flush;      /* the next write started takes a flush along */
    int flush_result;     /* of the linked flush; 1: there was none */
    unsigned in_flight;   /* completions that are still to come */
    unsigned busy_slots;
    unsigned stalls; /* submissions in a row of which the kernel took nothing */
    struct slot slots[RING_ENTRIES];
};

static uint64_t io_bytes(const struct kv_io *io)
{
    return (uint64_t)io->block_count * KV_BLOCK_BYTES;
}

/* Queue what is left of a slot's transfer. */
static void queue_slot(struct submission *submission, unsigned index)
{
    struct slot *slot = &submission->slots[index];
    const struct kv_io *io = slot->io;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&submission->ring->uring);
    KV_ASSERT(sqe != NULL); /* as many entries as slots, and the linked flush comes alone */

    char *bytes = (char *)io->buf + slot->done_bytes;
    const uint64_t offset = io->block * KV_BLOCK_BYTES + slot->done_bytes;
    const unsigned length =
        (unsigned)kv_min_u64(io_bytes(io) - slot->done_bytes, TRANSFER_BYTES_MAX);
    if (io->kind == KV_IO_READ)
        io_uring_prep_read(sqe, submission->file->fd, bytes, length, offset);
    else
        io_uring_prep_write(sqe, submission->file->fd, bytes, length, offset);
    io_uring_sqe_set_data64(sqe, index);
    submission->in_flight++;

    if (submission->link_flush) {
        submission->link_flush = false;
        io_uring_sqe_set_flags(sqe, IOSQE_IO_LINK);
        sqe = io_uring_get_sqe(&submission->ring->uring);
        KV_ASSERT(sqe != NULL);
        io_uring_prep_fsync(sqe, submission->file->fd, IORING_FSYNC_DATASYNC);
        io_uring_sqe_set_data64(sqe, FLUSH_DATA);
        submission->in_flight++;
    }
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
    if (kind == KV_IO_WRITE && (err == -ENOSPC || err == -EDQUOT))
        return -ENOSPC; /* a sparse image on a full host */
    return -EIO;
}

static void finish_slot(struct submission *submission, struct slot *slot, int result)
{
    slot->io->result = as_device_error(slot->io->kind, result);
    slot->io = NULL;
    submission->busy_slots--;
}

/* The kernel answered a slot's request: it is finished, or its rest is queued. */
static void complete_slot(struct submission *submission, unsigned index, int result)
{
    struct slot *slot = &submission->slots[index];
    KV_ASSERT(slot->io != NULL);

    if (result == -EINTR || result == -EAGAIN) {
        if (++slot->retries > RETRY_MAX)
            finish_slot(submission, slot, result);
        else
            queue_slot(submission, index);
        return;
    }
    if (result <= 0) {
        /* Nothing moved: for a read, the file is shorter than it was when it was opened. */
        finish_slot(submission, slot, result ? result : -EIO);
        return;
    }

    slot->done_bytes += (uint64_t)result;
    if (slot->done_bytes >= io_bytes(slot->io))
        finish_slot(submission, slot, 0);
    else if (submission->file->base.direct_io && slot->done_bytes % SECTOR_BYTES)
        finish_slot(submission, slot, -EIO); /* only the end of the file cuts a sector */
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
        if (data == FLUSH_DATA)
            submission->flush_result = result;
        else
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
        const unsigned wait_count = more ? 1 + submission->in_flight / 2 : submission->in_flight;
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
    /* Straight from this thread: in the ring a flush goes to a worker thread and back. */
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

/* The transfers, and the linked flush when there is one: its result, or 1. */
static int transfer(struct file_device *file, struct kv_io *ios, size_t io_count, bool link_flush,
                    int *flush_result)
{
    struct submission submission = {
        .file = file,
        .ios = ios,
        .io_count = io_count,
        .link_flush = link_flush,
        .flush_result = 1,
    };
    const int ring_err = take_ring(file, &submission.ring);
    if (ring_err)
        return fail_all(ios, io_count, as_device_error(ios[0].kind, ring_err));
    run(&submission);
    KV_ASSERT(submission.busy_slots == 0);
    give_ring_back(file, submission.ring);

    *flush_result = submission.flush_result;
    for (size_t i = 0; i < io_count; i++)
        if (ios[i].result)
            return ios[i].result;
    return 0;
}

/* With flush_mutex. */
static int transfer_and_flush(struct file_device *file, struct kv_io *ios, size_t io_count)
{
    if (file->flush_failure)
        return fail_all(ios, io_count, -EIO);
    int result = 1, err = 0;
    if (io_count) {
        const bool one_write = io_count == 1 && ios[0].kind == KV_IO_WRITE;
        err = transfer(file, ios, io_count, one_write, &result);
    }
    /* A write that was cut short took its link with it; the flush did not begin then. */
    const bool flushed =
        result != 1 && result != -ECANCELED && result != -EINTR && result != -EAGAIN;
    if (err && !flushed)
        return err;
    if (!flushed)
        result = flush_file(file);
    file->flush_failure = as_device_error(KV_IO_WRITE, result);
    return err ? err : file->flush_failure;
}

static int submit_file(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct file_device *file = (struct file_device *)device;
    bool writes = false;
    for (size_t i = 0; i < io_count; i++)
        writes |= ios[i].kind == KV_IO_WRITE;
    if (writes && file->read_only)
        return refuse_writes(ios, io_count);
    if (!flush) {
        int no_flush;
        return io_count ? transfer(file, ios, io_count, false, &no_flush) : 0;
    }
    pthread_mutex_lock(&file->flush_mutex);
    const int err = transfer_and_flush(file, ios, io_count);
    pthread_mutex_unlock(&file->flush_mutex);
    return err;
}

/* ---- the other operations ------------------------------------------------- */

static int discard_file(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct file_device *file = (struct file_device *)device;
    if (file->read_only)
        return -EROFS;

    const uint64_t offset = block * KV_BLOCK_BYTES;
    const uint64_t length = block_count * KV_BLOCK_BYTES;
    if (file->is_block_device) {
        uint64_t range[2] = {offset, length};
        return ioctl(file->fd, BLKDISCARD, range) ? -errno : 0;
    }
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    return fallocate(file->fd, mode, (off_t)offset, (off_t)length) ? -errno : 0;
}

/* The host's words for "no room", whoever set the limit. */
static bool is_no_room(int err)
{
    return err == -ENOSPC || err == -EDQUOT || err == -EFBIG;
}

static int allocate_file(struct file_device *file, int mode, uint64_t block, uint64_t block_count)
{
    const off_t offset = (off_t)(block * KV_BLOCK_BYTES);
    const off_t length = (off_t)(block_count * KV_BLOCK_BYTES);
    int err;
    do
        err = fallocate(file->fd, mode, offset, length) ? -errno : 0;
    while (err == -EINTR);
    return is_no_room(err) ? -ENOSPC : err;
}

static int reserve_file(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct file_device *file = (struct file_device *)device;
    if (file->read_only)
        return -EROFS;
    const int err = allocate_file(file, FALLOC_FL_KEEP_SIZE, block, block_count);
    return err == -EOPNOTSUPP || err == -ENOSYS ? 0 : err;
}

static int room_of_file(struct kv_device *device, uint64_t *block_count)
{
    struct file_device *file = (struct file_device *)device;
    struct statvfs host;
    if (fstatvfs(file->fd, &host))
        return -errno;
    *block_count = (uint64_t)host.f_bavail * host.f_frsize / KV_BLOCK_BYTES;
    return 0;
}

static int zero_file(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct file_device *file = (struct file_device *)device;
    if (file->read_only)
        return -EROFS;
    /* Discarding on a disk promises nothing about what is read then; what has room keeps it. */
    if (!file->base.thin)
        return -EOPNOTSUPP;
    return allocate_file(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, block, block_count);
}

static void close_file(struct kv_device *device)
{
    struct file_device *file = (struct file_device *)device;
    unsigned idle_count = 0;
    while (file->idle) {
        struct ring *ring = file->idle;
        file->idle = ring->next_idle;
        free_ring(ring);
        idle_count++;
    }
    KV_ASSERT(idle_count == file->ring_count); /* nobody is inside */
    pthread_cond_destroy(&file->ring_idle);
    pthread_mutex_destroy(&file->mutex);
    kv_owner_end(file->owner);
    pthread_mutex_destroy(&file->flush_mutex);
    if (file->fd >= 0)
        close(file->fd); /* all that must last was flushed; the lock goes with it */
    free(file);
}

static const struct kv_device_ops file_ops = {
    .submit = submit_file,
    .discard = discard_file,
    .close = close_file,
    .reserve = reserve_file,
    .room = room_of_file,
    .zero = zero_file,
};

/* ---- opening ------------------------------------------------------------ */

static void say_open_failed(const char *path, bool read_only, int err, struct kv_error *error)
{
    const char *remedy = "check the path";
    if (err == -ENOENT)
        remedy = "check the path, or make an image with mkfs.kvfs";
    else if (err == -EACCES || err == -EPERM)
        remedy = "check its permissions, or run as a user who may use it";
    else if (err == -EROFS)
        remedy = read_only ? "check the path" : "open it read-only";
    kv_error_set(error, "can not open %s: %s; %s", path, strerror(-err), remedy);
}

/* Open the path, with O_DIRECT when `direct`. Sets file->fd. */
static int open_descriptor(struct file_device *file, const char *path, unsigned flags, bool direct,
                           struct kv_error *error)
{
    const int open_flags =
        (flags & KV_DEVICE_READ_ONLY ? O_RDONLY : O_RDWR) | (direct ? O_DIRECT : 0);
    if (file->owner)
        return kv_owner_open(file->owner, path, open_flags, &file->fd, error);
    file->fd = open(path, open_flags | O_CLOEXEC);
    return file->fd < 0 ? -errno : 0;
}

/* Some file systems accept O_DIRECT and then refuse to read, or want more than 4 KiB. */
static int probe_direct_read(int fd)
{
    void *block = kv_device_alloc(KV_BLOCK_BYTES);
    if (!block)
        return -ENOMEM;
    const int err = pread(fd, block, KV_BLOCK_BYTES, 0) < 0 ? -errno : 0;
    free(block);
    return err;
}

static int open_direct_or_buffered(struct file_device *file, const char *path, unsigned flags,
                                   struct kv_error *error)
{
    bool direct = !(flags & KV_DEVICE_BUFFERED);
    int err = open_descriptor(file, path, flags, direct, error);
    if (err == -EINVAL && direct) {
        direct = false;
        err = open_descriptor(file, path, flags, false, error);
    }
    if (err)
        return err;

    /* What else the probe says, reading will say again where it matters. */
    if (direct && probe_direct_read(file->fd) == -EINVAL) {
        const int status = fcntl(file->fd, F_GETFL);
        if (status < 0 || fcntl(file->fd, F_SETFL, status & ~O_DIRECT) < 0)
            return -errno;
        direct = false;
    }
    file->base.direct_io = direct;
    return 0;
}

static int measure(struct file_device *file, const char *path, const struct stat *image,
                   struct kv_error *error)
{
    uint64_t size_bytes = (uint64_t)image->st_size;
    if (file->is_block_device && ioctl(file->fd, BLKGETSIZE64, &size_bytes)) {
        const int err = -errno;
        kv_error_set(error, "can not learn the size of %s: %s; is it a whole disk or partition?",
                     path, strerror(-err));
        return err;
    }
    file->base.block_count = size_bytes / KV_BLOCK_BYTES;
    /* One that has room for every byte can not run out of it. */
    file->base.thin = !file->is_block_device && !file->read_only &&
                      (uint64_t)image->st_blocks * SECTOR_BYTES < size_bytes;
    return 0;
}

static int make_first_ring(struct file_device *file, struct kv_error *error)
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

/* Open what is at the path now, lock it, and see how it is then. -ESTALE: something else is
 * there by then. */
static int open_and_lock(struct file_device *file, const char *path, unsigned flags,
                         struct stat *image, struct kv_error *error)
{
    struct stat before;
    if (stat(path, &before)) {
        const int err = -errno;
        say_open_failed(path, file->read_only, err, error);
        return err;
    }
    if (!S_ISREG(before.st_mode) && !S_ISBLK(before.st_mode)) {
        kv_error_set(error, "%s is neither a file nor a block device; name an image", path);
        return -EINVAL;
    }
    file->is_block_device = S_ISBLK(before.st_mode);
    int err = flags & KV_DEVICE_NO_LOCK ? 0 : kv_owner_begin(path, &file->owner, error);
    if (err)
        return err;
    err = open_direct_or_buffered(file, path, flags, error);
    if (err) {
        if (err != -EBUSY)
            say_open_failed(path, file->read_only, err, error);
        return err;
    }
    if (fstat(file->fd, image))
        return -errno;
    if (image->st_dev != before.st_dev || image->st_ino != before.st_ino)
        return -ESTALE;
    if (!file->owner)
        return 0;
    err = kv_owner_lock(file->owner, path, file->fd, error);
    if (err && err != -EBUSY && err != -ESTALE)
        kv_error_set(error, "can not lock %s: %s; use a file system with flock", path,
                     strerror(-err));
    if (err)
        return err;
    /* Once more: the owner before, while we waited for the lock, may have given it its size. */
    return fstat(file->fd, image) ? -errno : 0;
}

static void let_go(struct file_device *file)
{
    kv_owner_end(file->owner);
    file->owner = NULL;
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}

int kv_device_open(const char *path, unsigned flags, struct kv_device **device,
                   struct kv_error *error)
{
    enum { TRIES = 16 };
    struct file_device *file = calloc(1, sizeof *file);
    if (!file) {
        kv_error_set(error, "no memory to open %s", path);
        return -ENOMEM;
    }
    file->base.ops = &file_ops;
    file->fd = -1;
    file->read_only = flags & KV_DEVICE_READ_ONLY;
    pthread_mutex_init(&file->flush_mutex, NULL);
    pthread_mutex_init(&file->mutex, NULL);
    pthread_cond_init(&file->ring_idle, NULL);

    struct stat image = {0};
    int err = -ESTALE;
    for (unsigned i = 0; i < TRIES && err == -ESTALE; i++) {
        let_go(file);
        err = open_and_lock(file, path, flags, &image, error);
    }
    if (err == -ESTALE) {
        kv_error_set(error, "%s was replaced again and again while it was opened; try again", path);
        err = -EAGAIN;
    }
    if (!err)
        err = measure(file, path, &image, error);
    if (!err)
        err = make_first_ring(file, error);
    if (err) {
        close_file(&file->base);
        return err;
    }
    *device = &file->base;
    return 0;
}

int kv_device_resize(struct kv_device *device, uint64_t bytes)
{
    if (device->ops != &file_ops)
        return -EINVAL;
    struct file_device *file = (struct file_device *)device;
    if (file->is_block_device || bytes > INT64_MAX)
        return -EINVAL;
    if (ftruncate(file->fd, (off_t)bytes))
        return -errno;
    device->block_count = bytes / KV_BLOCK_BYTES;
    device->thin = true; /* what was added is a hole */
    return 0;
}

/* ---- what all devices share ----------------------------------------------- */

void kv_device_close(struct kv_device *device)
{
    if (device)
        device->ops->close(device);
}

static bool in_range(const struct kv_device *device, uint64_t block, uint64_t block_count)
{
    uint64_t end;
    return block_count > 0 && !kv_add_u64(block, block_count, &end) && end <= device->block_count;
}

static int check_ranges(const struct kv_device *device, struct kv_io *ios, size_t io_count)
{
    int err = 0;
    for (size_t i = 0; i < io_count; i++) {
        KV_ASSERT((uintptr_t)ios[i].buf % KV_BLOCK_BYTES == 0);
        if (!in_range(device, ios[i].block, ios[i].block_count))
            err = -EINVAL;
    }
    for (size_t i = 0; err && i < io_count; i++)
        ios[i].result = in_range(device, ios[i].block, ios[i].block_count) ? -ECANCELED : -EINVAL;
    return err;
}

/* Figures only; nothing is ordered by them. */
static void count_up(uint64_t *counter, uint64_t amount)
{
    __atomic_fetch_add(counter, amount, __ATOMIC_RELAXED);
}

static void count_ios(struct kv_device_counts *counts, const struct kv_io *ios, size_t io_count)
{
    for (size_t i = 0; i < io_count; i++) {
        if (ios[i].kind == KV_IO_READ) {
            count_up(&counts->reads, 1);
            count_up(&counts->read_bytes, io_bytes(&ios[i]));
        } else {
            count_up(&counts->writes, 1);
            count_up(&counts->write_bytes, io_bytes(&ios[i]));
        }
    }
}

int kv_device_submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    const int err = check_ranges(device, ios, io_count);
    if (err)
        return err;
    count_ios(&device->counts, ios, io_count);
    if (flush)
        count_up(&device->counts.flushes, 1);
    return device->ops->submit(device, ios, io_count, flush);
}

int kv_device_read(struct kv_device *device, uint64_t block, uint32_t block_count, void *buf)
{
    struct kv_io io = {.kind = KV_IO_READ, .block = block, .block_count = block_count, .buf = buf};
    return kv_device_submit(device, &io, 1, false);
}

int kv_device_write(struct kv_device *device, uint64_t block, uint32_t block_count, const void *buf)
{
    /* A write only reads the buffer; kv_io serves both directions. */
    struct kv_io io = {
        .kind = KV_IO_WRITE, .block = block, .block_count = block_count, .buf = (void *)buf};
    return kv_device_submit(device, &io, 1, false);
}

int kv_device_flush(struct kv_device *device)
{
    return kv_device_submit(device, NULL, 0, true);
}

int kv_device_discard(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    if (!in_range(device, block, block_count))
        return -EINVAL;
    return device->ops->discard(device, block, block_count);
}

int kv_device_reserve(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    if (!in_range(device, block, block_count))
        return -EINVAL;
    return device->thin && device->ops->reserve ? device->ops->reserve(device, block, block_count)
                                                : 0;
}

uint64_t kv_device_room(struct kv_device *device)
{
    uint64_t block_count;
    /* A host that does not know sets no limit either. */
    if (!device->thin || !device->ops->room || device->ops->room(device, &block_count))
        return UINT64_MAX;
    return block_count;
}

/* How much is written at once where zeroes must be written. */
#define ZERO_BLOCKS 256u

int kv_device_zero(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    if (!in_range(device, block, block_count))
        return -EINVAL;
    const int err = device->ops->zero ? device->ops->zero(device, block, block_count) : -EOPNOTSUPP;
    return err == -EOPNOTSUPP || err == -ENOSYS ? kv_device_write_zeroes(device, block, block_count)
                                                : err;
}

int kv_device_write_zeroes(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    void *zeroes = kv_device_alloc(ZERO_BLOCKS * (size_t)KV_BLOCK_BYTES);
    int err = zeroes ? 0 : -ENOMEM;
    while (block_count && !err) {
        const uint32_t now = (uint32_t)kv_min_u64(block_count, ZERO_BLOCKS);
        err = kv_device_write(device, block, now, zeroes);
        block += now;
        block_count -= now;
    }
    free(zeroes);
    return err;
}

void *kv_device_alloc_unset(size_t bytes)
{
    if (bytes > SIZE_MAX - KV_BLOCK_BYTES)
        return NULL;
    const size_t size = (size_t)kv_blocks_for(bytes) * KV_BLOCK_BYTES;
    void *memory;
    return posix_memalign(&memory, KV_BLOCK_BYTES, size ? size : KV_BLOCK_BYTES) ? NULL : memory;
}

void *kv_device_alloc(size_t bytes)
{
    void *memory = kv_device_alloc_unset(bytes);
    if (memory)
        memset(memory, 0, (size_t)kv_blocks_for(bytes) * KV_BLOCK_BYTES);
    return memory;
}
