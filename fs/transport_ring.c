/*
 * fs/transport_ring.c: requests over io_uring.
 *
 * The kernel has one queue for each CPU that there may be, and puts a request into that of the
 * CPU it was made on. A worker here is one thread on its queue's CPU, with a ring and one entry
 * of its own: a header and a payload that the kernel fills with a request and takes the reply
 * from. One system call gives a reply back and waits for the next request, mostly without
 * leaving the CPU. A worker whose request waits for the disk just has no entry to offer
 * meanwhile, and the kernel takes another's of the same queue.
 *
 * Owns       the entry, the ring.
 * Invariant  a received request is answered exactly once, also one that makes no sense: the
 *            kernel offers no other way to get rid of it.
 *
 * Source: Documentation/filesystems/fuse-io-uring.rst and include/uapi/linux/fuse.h of Linux 6.14.
 */
#define FUSE_USE_VERSION 314

#include "fs/transport_worker.h"

#include <assert.h>
#include <fuse_lowlevel.h>
#include <liburing.h>
#include <linux/fuse.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

/* ---- newer than the header of Debian 12 (Linux 6.1); ours in front -------- */

#define FS_URING_REGISTER         1u
#define FS_URING_COMMIT_AND_FETCH 2u
#define FS_URING_HEADER_BYTES     128u

struct fs_uring_header {
    uint8_t in_out[FS_URING_HEADER_BYTES]; /* fuse_in_header, fuse_out_header of the reply */
    uint8_t operation[FS_URING_HEADER_BYTES];
    uint64_t flags;
    uint64_t commit_id; /* names the request in the reply */
    uint32_t payload_bytes;
    uint32_t padding;
    uint64_t reserved;
};
static_assert(sizeof(struct fs_uring_header) == 288, "as the kernel has it");

struct fs_uring_command {
    uint64_t flags;
    uint64_t commit_id;
    uint16_t queue;
    uint8_t padding[6];
};
static_assert(sizeof(struct fs_uring_command) == 24, "as the kernel has it");

/* ---- entries --------------------------------------------------------------- */

/*
 * Memory of an entry: a page with the header at its start, then the payload. The end of that
 * page is where the headers of a request are laid, so that it stands in one piece.
 */
#define FRONT_BYTES 4096u
static_assert(sizeof(struct fs_uring_header) + sizeof(struct fuse_in_header) +
                      FS_URING_HEADER_BYTES <=
                  FRONT_BYTES,
              "header and a request's own headers do not meet");

struct fs_ring_entry {
    struct io_uring ring;
    uint8_t *memory; /* FRONT_BYTES + FS_REPLY_MAX */
    struct fs_uring_header *header;
    uint8_t *payload;
    struct iovec registered[2]; /* header, payload: read by the kernel when registering */
    uint64_t commit_id;         /* of the request being served */
    uint64_t unique;            /* its own name */
    bool payload_in_use;        /* part of it came as payload */
    bool answered;
};

unsigned fs_ring_cpu_count(void)
{
    FILE *file = fopen("/sys/devices/system/cpu/possible", "re");
    if (!file)
        return 0;
    /* "0-3,8": the kernel has as many queues as there are numbers. */
    unsigned count = 0, first, last;
    int got;
    while ((got = fscanf(file, "%u-%u", &first, &last)) > 0) {
        count += got == 2 && last >= first ? last - first + 1 : 1;
        if (fgetc(file) != ',')
            break;
    }
    fclose(file);
    return count;
}

static int open_ring(struct io_uring *ring)
{
    /* The thread that opens it is the only one to use it, and gets completions as it waits. */
    struct io_uring_params params = {.flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER |
                                              IORING_SETUP_DEFER_TASKRUN};
    return io_uring_queue_init_params(4, ring, &params);
}

const char *fs_ring_refusal(void)
{
    FILE *file = fopen("/sys/module/fuse/parameters/enable_uring", "re");
    if (!file)
        return "the kernel has no FUSE over io_uring; it takes Linux 6.14 or newer";
    const int enabled = fgetc(file);
    fclose(file);
    if (enabled != 'Y' && enabled != '1')
        return "FUSE over io_uring is switched off; as root: "
               "echo Y > /sys/module/fuse/parameters/enable_uring (at boot: fuse.enable_uring=1)";
    if (!fs_ring_cpu_count())
        return "/sys/devices/system/cpu/possible does not tell the number of CPUs";
    struct io_uring ring;
    if (open_ring(&ring) < 0)
        return "io_uring is not to be had; look at kernel.io_uring_disabled";
    io_uring_queue_exit(&ring);
    return NULL;
}

static void close_entry(struct fs_ring_entry *entry)
{
    if (entry->memory)
        munmap(entry->memory, FRONT_BYTES + FS_REPLY_MAX);
}

static int open_entry(struct fs_ring_entry *entry)
{
    void *memory = mmap(NULL, FRONT_BYTES + FS_REPLY_MAX, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    entry->memory = memory;
    entry->header = memory;
    entry->payload = entry->memory + FRONT_BYTES;
    entry->registered[0] =
        (struct iovec){.iov_base = entry->header, .iov_len = sizeof *entry->header};
    entry->registered[1] = (struct iovec){.iov_base = entry->payload, .iov_len = FS_REPLY_MAX};
    return 0;
}

/* ---- commands --------------------------------------------------------------- */

static void prepare(struct fs_worker *worker, uint32_t operation)
{
    struct fs_ring_entry *entry = worker->entry;
    /* There is room: each entry has one command under way, and the ring holds four. */
    struct io_uring_sqe *sqe = io_uring_get_sqe(&entry->ring);
    KV_ASSERT(sqe);
    memset(sqe, 0, 2 * sizeof *sqe);
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = worker->fd;
    sqe->cmd_op = operation;
    sqe->user_data = operation;
    if (operation == FS_URING_REGISTER) {
        sqe->addr = (uint64_t)(uintptr_t)entry->registered;
        sqe->len = 2;
    }
    const struct fs_uring_command command = {
        .commit_id = operation == FS_URING_REGISTER ? 0 : entry->commit_id,
        .queue = (uint16_t)worker->cpu,
    };
    memcpy(sqe->cmd, &command, sizeof command);
}

static void set_reply(struct fs_ring_entry *entry, int error, size_t payload_bytes)
{
    const struct fuse_out_header out = {
        .len = (uint32_t)(sizeof out + payload_bytes), .error = error, .unique = entry->unique};
    memcpy(entry->header->in_out, &out, sizeof out);
    entry->header->payload_bytes = (uint32_t)payload_bytes;
    entry->answered = true;
}

int fs_ring_send(struct fs_worker *worker, const struct iovec *pieces, int count)
{
    struct fs_ring_entry *entry = worker->entry;
    struct fuse_out_header out;
    if (entry->answered || count < 1 || pieces[0].iov_len < sizeof out)
        return -EINVAL;
    memcpy(&out, pieces[0].iov_base, sizeof out);
    if (out.unique != entry->unique)
        return -ENOENT; /* as the device says of a request that is not waited for */

    /* The first piece may hold more than the header, the others follow. */
    size_t at = pieces[0].iov_len - sizeof out;
    size_t length = at;
    for (int i = 1; i < count; i++)
        length += pieces[i].iov_len;
    if (length > FS_REPLY_MAX) {
        set_reply(entry, -EIO, 0);
        return -EINVAL;
    }
    /* Last piece first: what was built in the payload is not overwritten before it is moved. */
    size_t end = length;
    for (int i = count - 1; i > 0; i--) {
        end -= pieces[i].iov_len;
        if (pieces[i].iov_len && pieces[i].iov_base != entry->payload + end)
            memmove(entry->payload + end, pieces[i].iov_base, pieces[i].iov_len);
    }
    memmove(entry->payload, (const uint8_t *)pieces[0].iov_base + sizeof out, at);
    set_reply(entry, out.error, out.error ? 0 : length);
    return 0;
}

void *fs_ring_reply_area(struct fs_worker *worker)
{
    return worker->entry->payload_in_use ? NULL : worker->entry->payload;
}

/* ---- serving ------------------------------------------------------------------ */

/*
 * The request that the entry holds, in one piece: headers in front of the payload.
 * Returns its length; 0: it makes no sense.
 */
static size_t assemble(struct fs_ring_entry *entry, uint8_t **request)
{
    struct fuse_in_header in;
    memcpy(&in, entry->header->in_out, sizeof in);
    const size_t payload_bytes = entry->header->payload_bytes;
    entry->commit_id = entry->header->commit_id;
    entry->unique = in.unique;
    entry->payload_in_use = payload_bytes > 0;
    entry->answered = false;
    if (payload_bytes > FS_REPLY_MAX || in.len < sizeof in + payload_bytes ||
        in.len - sizeof in - payload_bytes > FS_URING_HEADER_BYTES)
        return 0;
    const size_t operation_bytes = in.len - sizeof in - payload_bytes;
    *request = entry->payload - operation_bytes - sizeof in;
    memcpy(*request, &in, sizeof in);
    memcpy(*request + sizeof in, entry->header->operation, operation_bytes);
    return in.len;
}

static void serve_request(struct fs_worker *worker)
{
    struct fs_ring_entry *entry = worker->entry;
    uint8_t *request;
    size_t length = assemble(entry, &request);
    worker->note = 0;
    fs_worker_begun(worker);
    const struct fs_transport_hooks *hooks = fs_worker_hooks(worker);
    if (length)
        length = hooks->request(hooks->context, request, length);
    if (length) {
        const struct fuse_buf buf = {.size = length, .mem = request};
        fuse_session_process_buf(fs_worker_session(worker), &buf);
    }
    if (!entry->answered)
        set_reply(entry, -EIO, 0);
    fs_worker_served(worker);
    prepare(worker, FS_URING_COMMIT_AND_FETCH);
}

/* A command has ended. Returns false when the worker is to end. */
static bool see_completion(struct fs_worker *worker, int result, uint32_t operation)
{
    if (result == 0) {
        serve_request(worker);
        return true;
    }
    if (result == -EAGAIN || result == -EINTR) {
        /* Not taken: the kernel has not finished with INIT, or a signal came. */
        const struct timespec pause = {.tv_nsec = 1000000};
        (void)nanosleep(&pause, NULL);
        prepare(worker, operation);
        return true;
    }
    if (result != -ENOTCONN) /* unmounted */
        fs_worker_log(worker, KV_LOG_WARNING,
                      "the ring of CPU %u: %s; requests go on over the others and /dev/fuse",
                      worker->cpu, strerror(-result));
    return false;
}

static void pin(struct fs_worker *worker)
{
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(worker->cpu, &cpus);
    /* A CPU that is not there yet, or not ours: the queue is served from where we are. */
    if (worker->cpu < CPU_SETSIZE)
        (void)sched_setaffinity(0, sizeof cpus, &cpus);
}

/*
 * Send what was prepared, and wait for a completion. Where all of the queue were busy it is two
 * calls instead of one: with the reply the kernel hands over a request that is waiting at once.
 */
static int submit_and_wait(struct fs_worker *worker)
{
    struct io_uring *ring = &worker->entry->ring;
    if (worker->was_last) {
        worker->was_last = false;
        const int err = io_uring_submit(ring);
        if (err < 0)
            return err;
        if (io_uring_cq_ready(ring)) {
            fs_worker_found_waiting(worker);
            return 0;
        }
    }
    return io_uring_submit_and_wait(ring, 1);
}

static void serve_entry(struct fs_worker *worker)
{
    struct io_uring *ring = &worker->entry->ring;
    prepare(worker, FS_URING_REGISTER);
    bool go_on = true;
    while (go_on && !fuse_session_exited(fs_worker_session(worker))) {
        atomic_store_explicit(&worker->waiting, true, memory_order_relaxed);
        const int err = submit_and_wait(worker);
        atomic_store_explicit(&worker->waiting, false, memory_order_relaxed);
        if (err < 0 && err != -EINTR && err != -EAGAIN && err != -EBUSY) {
            (void)see_completion(worker, err, 0);
            break;
        }
        struct io_uring_cqe *cqe;
        while (go_on && io_uring_peek_cqe(ring, &cqe) == 0) {
            const int result = cqe->res;
            const uint32_t operation = (uint32_t)cqe->user_data;
            io_uring_cqe_seen(ring, cqe);
            go_on = see_completion(worker, result, operation);
        }
    }
}

void fs_ring_serve(struct fs_worker *worker)
{
    struct fs_ring_entry entry = {.memory = NULL};
    pin(worker);
    int err = open_entry(&entry);
    if (!err)
        err = open_ring(&entry.ring);
    if (err) {
        fs_worker_log(worker, KV_LOG_WARNING, "the ring of CPU %u: %s", worker->cpu,
                      strerror(-err));
        close_entry(&entry);
        return;
    }
    worker->entry = &entry;
    serve_entry(worker);
    /* A reply that has been prepared is still to go out. */
    (void)io_uring_submit(&entry.ring);
    worker->entry = NULL;
    io_uring_queue_exit(&entry.ring);
    close_entry(&entry);
}
