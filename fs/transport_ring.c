/*
 * fs/transport_ring.c: requests over io_uring.
 *
 * The kernel has one queue for each CPU that there may be, and puts a request into that of the
 * CPU it was made on. A worker here is one thread on its queue's CPU, with a ring and entries
 * of its own: a header and a payload that the kernel fills with a request and takes the reply
 * from. One system call gives a reply back and waits for the next request, mostly without
 * leaving the CPU. A worker that serves a request has no entry to offer meanwhile, and the kernel
 * takes another's of the same queue.
 *
 * A request that waits for one read of a file (fs_transport_await) keeps its entry but not its
 * worker: the read goes out by the same ring, with the replies, and until it has ended the worker
 * offers another entry. So one thread has as many reads under way as somebody asks for, and neither
 * sleeps nor wakes up for each. It makes entries as they are needed, ENTRIES_MAX at most; then the
 * kernel takes another worker's. An entry can not be taken back: who once had several reads under
 * way goes on offering as many entries, and what comes by them while it serves something long has
 * to wait for that.
 *
 * Owns       the entries, the ring.
 * Invariant  a received request is answered exactly once, also one that makes no sense: the
 *            kernel offers no other way to get rid of it.
 *            An entry has exactly one command or one read under way, or its request is being
 *            served. The worker does not end while a read is under way.
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
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

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
    uint8_t *memory; /* FRONT_BYTES + FS_REPLY_MAX */
    struct fs_uring_header *header;
    uint8_t *payload;
    struct iovec registered[2]; /* header, payload: read by the kernel when registering */
    uint64_t commit_id;         /* of the request being served */
    uint64_t unique;            /* its own name */
    bool payload_in_use;        /* part of it came as payload */
    bool answered;
    bool awaits;                   /* a read, and it is `read` */
    struct fs_transport_read read; /* and of its request, meanwhile: */
    uint32_t opcode;
    uint64_t begun_ns;
};

/* Reads that one worker has under way, and one more to receive the next request with. */
#define ENTRIES_MAX 17u
/* Each entry has one command under way, or one read. */
#define RING_ENTRIES 32u
static_assert(RING_ENTRIES >= ENTRIES_MAX, "there is room for what all entries may have to say");

struct fs_ring {
    struct io_uring uring;       /* disabled until the worker runs */
    struct fs_ring_entry *first; /* what it begins with; NULL: it has begun */
    struct fs_ring_entry *entries[ENTRIES_MAX];
    unsigned entry_count;
    unsigned offered; /* entries that a request may come by */
    unsigned reading; /* entries whose requests wait for a read */
    cpu_set_t all;    /* where it may run */
    bool away;        /* it is not held on its queue's CPU */
    unsigned turns;   /* times that it was to wait for a completion */
    unsigned crowded; /* looks in a row that found a request for which no entry had been free */
    unsigned shallow; /* completions since there was reason to leave */
};

/* With so many reads under way a worker leaves the CPU of its queue ... */
#define AWAY_READS 3u
/* ... and with so many looks, one in so many turns, it goes wherever one is free ... */
#define AWAY_CROWDED 4u
#define LOOK_TURNS   16u
/* ... and it comes back after so many completions with no reason to leave. */
#define BACK_COMPLETIONS 256u

/* What a completion is about: an entry's command, by its number, or its read. */
#define READ_ENDED 0u
#define WHAT_MASK  3u
static_assert(FS_URING_REGISTER <= WHAT_MASK && FS_URING_COMMIT_AND_FETCH <= WHAT_MASK,
              "commands fit beside the address of an entry");

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
    /* The thread that enables it is the only one to use it, and gets completions as it waits. */
    struct io_uring_params params = {.flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER |
                                              IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED};
    return io_uring_queue_init_params(RING_ENTRIES, ring, &params);
}

/* io_uring_enable_rings, which liburing 2.3 declares and does not have. */
static int enable_ring(const struct io_uring *ring)
{
    return syscall(__NR_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0
               ? -errno
               : 0;
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
        return "io_uring is not to be had; look at kernel.io_uring_disabled and at the limit on "
               "open files (ulimit -n)";
    io_uring_queue_exit(&ring);
    return NULL;
}

static void free_entry(struct fs_ring_entry *entry)
{
    munmap(entry->memory, FRONT_BYTES + FS_REPLY_MAX);
    free(entry);
}

static struct fs_ring_entry *new_entry(void)
{
    struct fs_ring_entry *entry = calloc(1, sizeof *entry);
    if (!entry)
        return NULL;
    void *memory = mmap(NULL, FRONT_BYTES + FS_REPLY_MAX, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        free(entry);
        return NULL;
    }
    entry->memory = memory;
    entry->header = memory;
    entry->payload = entry->memory + FRONT_BYTES;
    entry->registered[0] =
        (struct iovec){.iov_base = entry->header, .iov_len = sizeof *entry->header};
    entry->registered[1] = (struct iovec){.iov_base = entry->payload, .iov_len = FS_REPLY_MAX};
    return entry;
}

/* ---- commands --------------------------------------------------------------- */

static struct io_uring_sqe *next_sqe(struct fs_ring *ring, struct fs_ring_entry *entry,
                                     unsigned what)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
    KV_ASSERT(sqe); /* there is room: RING_ENTRIES */
    memset(sqe, 0, 2 * sizeof *sqe);
    sqe->user_data = (uint64_t)(uintptr_t)entry | what;
    return sqe;
}

/* Offer an entry for a request, with the reply to the one before. */
static void offer(struct fs_worker *worker, struct fs_ring_entry *entry, uint32_t operation)
{
    struct io_uring_sqe *sqe = next_sqe(worker->ring, entry, operation);
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = worker->fd;
    sqe->cmd_op = operation;
    worker->ring->offered++;
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

static void begin_read(struct fs_ring *ring, struct fs_ring_entry *entry)
{
    struct io_uring_sqe *sqe = next_sqe(ring, entry, READ_ENDED);
    const struct fs_transport_read *const read = &entry->read;
    sqe->opcode = IORING_OP_READ;
    sqe->fd = read->fd;
    sqe->addr = (uint64_t)(uintptr_t)read->buf;
    sqe->len = read->length;
    sqe->off = read->offset;
    ring->reading++;
}

/*
 * As long as there is memory for it, a worker that waits has an entry on offer. It always has one,
 * or a read, to be woken by: each of its entries is the one or the other.
 */
static void offer_another(struct fs_worker *worker)
{
    struct fs_ring *ring = worker->ring;
    if (ring->offered || ring->entry_count == ENTRIES_MAX)
        return;
    struct fs_ring_entry *entry = ring->first ? ring->first : new_entry();
    ring->first = NULL;
    if (!entry) {
        KV_ASSERT(ring->reading);
        return;
    }
    ring->entries[ring->entry_count++] = entry;
    offer(worker, entry, FS_URING_REGISTER);
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

bool fs_ring_busy(const struct fs_worker *worker)
{
    return worker->ring->reading > 0 || worker->ring->away;
}

void fs_ring_await(struct fs_worker *worker, const struct fs_transport_read *read)
{
    struct fs_ring_entry *entry = worker->entry;
    KV_ASSERT(!entry->answered);
    entry->read = *read;
    entry->awaits = true;
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

/* The request of an entry has been served: its answer goes out, or the read that it waits for. */
static void after_request(struct fs_worker *worker, struct fs_ring_entry *entry)
{
    worker->entry = NULL;
    if (entry->awaits) {
        entry->opcode = worker->opcode;
        entry->begun_ns = worker->begun_ns;
        worker->begun_ns = 0; /* it is not over */
        fs_worker_served(worker);
        begin_read(worker->ring, entry);
        return;
    }
    if (!entry->answered)
        set_reply(entry, -EIO, 0);
    fs_worker_served(worker);
    offer(worker, entry, FS_URING_COMMIT_AND_FETCH);
}

/* Replies and reads go out together, but not only after something that may take long. */
static void send_before(struct fs_worker *worker, const uint8_t *request)
{
    struct fuse_in_header in;
    memcpy(&in, request, sizeof in);
    if (in.opcode != FUSE_READ && io_uring_sq_ready(&worker->ring->uring))
        (void)io_uring_submit(&worker->ring->uring); /* what is left goes with the next */
}

static void serve_request(struct fs_worker *worker, struct fs_ring_entry *entry)
{
    uint8_t *request;
    size_t length = assemble(entry, &request);
    if (length)
        send_before(worker, request);
    worker->entry = entry;
    worker->note = 0;
    fs_worker_begun(worker);
    const struct fs_transport_hooks *hooks = fs_worker_hooks(worker);
    if (length)
        length = hooks->request(hooks->context, request, length);
    if (length) {
        const struct fuse_buf buf = {.size = length, .mem = request};
        fuse_session_process_buf(fs_worker_session(worker), &buf);
    }
    after_request(worker, entry);
}

/* The read that a request waited for has ended: go on with it. */
static void resume_request(struct fs_worker *worker, struct fs_ring_entry *entry, int result)
{
    worker->ring->reading--;
    worker->entry = entry;
    worker->note = 0;
    worker->opcode = entry->opcode;
    worker->begun_ns = entry->begun_ns;
    entry->awaits = false;
    fs_worker_begun(worker);
    entry->read.done(entry->read.context, result);
    after_request(worker, entry);
}

/*
 * The worker can not go on. The kernel may have given it requests that nobody has seen yet, or give
 * it more by what it has on offer, and takes none of that back while the mount stands: who waits
 * for them would wait for ever. So the mount ends.
 */
static void give_up(struct fs_worker *worker, int err)
{
    fs_worker_log(worker, KV_LOG_ERROR, "the ring of CPU %u: %s; the mount ends", worker->cpu,
                  strerror(-err));
    fs_worker_fail(worker, err);
}

static void pause_a_little(void)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    (void)nanosleep(&pause, NULL);
}

/*
 * Does FUSE itself say so of one that registers? Then it lets go what it has held back for the
 * ring. Of what others refuse, say a security module, it does not know, and holds on.
 */
static bool is_refusal(int err)
{
    return err == -EINVAL || err == -EFAULT || err == -EOPNOTSUPP;
}

/*
 * A command has ended, and not by a request. Returns false when the worker is to end.
 *
 * The kernel has taken nothing that it says an error of at once. Of both commands that may be
 * -ENOMEM: io_uring allocates for each, FUSE for what registers (Linux 6.18, io_uring/uring_cmd.c,
 * fs/fuse/dev_uring.c). The answer in the entry is still due then, so it is tried until it is
 * taken.
 */
static bool see_error(struct fs_worker *worker, struct fs_ring_entry *entry, int result,
                      uint32_t operation)
{
    switch (result) {
    case -EAGAIN: /* the kernel has not finished with INIT */
    case -EINTR:
    case -ENOMEM:
        pause_a_little();
        offer(worker, entry, operation);
        return true;
    case -ENOTCONN: /* unmounted */
    case -ECONNABORTED:
        return false;
    default:
        break;
    }
    if (operation != FS_URING_REGISTER || worker->ring->entry_count > 1 || !is_refusal(result)) {
        give_up(worker, result);
        return false;
    }
    /* The worker has nothing of the kernel's. */
    fs_worker_log(worker, KV_LOG_WARNING,
                  "the ring of CPU %u: %s; requests go on over the others and /dev/fuse",
                  worker->cpu, strerror(-result));
    return false;
}

/* A command has ended. Returns false when the worker is to end. */
static bool see_command(struct fs_worker *worker, struct fs_ring_entry *entry, int result,
                        uint32_t operation)
{
    worker->ring->offered--;
    if (result)
        return see_error(worker, entry, result, operation);
    serve_request(worker, entry);
    return true;
}

/* Something has ended. Returns false when the worker is to end. */
static bool see_completion(struct fs_worker *worker, const struct io_uring_cqe *cqe)
{
    const unsigned what = (unsigned)cqe->user_data & WHAT_MASK;
    struct fs_ring_entry *const entry =
        (struct fs_ring_entry *)(uintptr_t)(cqe->user_data & ~(uint64_t)WHAT_MASK);
    if (what != READ_ENDED)
        return see_command(worker, entry, cqe->res, what);
    resume_request(worker, entry, cqe->res);
    return true;
}

static void pin(const struct fs_worker *worker)
{
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(worker->cpu, &cpus);
    /* A CPU that is not there yet, or not ours: the queue is served from where we are. */
    (void)sched_setaffinity(0, sizeof cpus, &cpus);
}

/* Learn where it may run, and go to the CPU of its queue. */
static void settle(struct fs_worker *worker)
{
    struct fs_ring *ring = worker->ring;
    CPU_ZERO(&ring->all);
    if (worker->cpu < CPU_SETSIZE && !sched_getaffinity(0, sizeof ring->all, &ring->all))
        pin(worker);
}

/*
 * Who has one request at a time waits for the answer: on one CPU the two take turns, and neither
 * has to be woken on another. Who has many does not wait, and can work at the same time.
 */
static void choose_cpu(struct fs_worker *worker)
{
    struct fs_ring *ring = worker->ring;
    const bool crowded = ring->crowded >= AWAY_CROWDED;
    if (ring->reading || crowded)
        ring->shallow = 0;
    else if (ring->away && ++ring->shallow == BACK_COMPLETIONS) {
        ring->away = false;
        pin(worker);
    }
    const bool reads = ring->reading >= AWAY_READS;
    if (ring->away || !(reads || crowded))
        return;
    cpu_set_t others = ring->all;
    CPU_CLR(worker->cpu, &others);
    if (CPU_COUNT(&others))
        ring->away = sched_setaffinity(0, sizeof others, reads ? &others : &ring->all) == 0;
}

/*
 * Send what was prepared, and wait for a completion. To find out whether a request is waiting for
 * an entry takes two calls instead of one: with a reply the kernel hands such a one over at once.
 */
static int submit_and_wait(struct fs_worker *worker)
{
    struct fs_ring *ring = worker->ring;
    const bool was_last = worker->was_last;
    worker->was_last = false;
    if (!was_last && ++ring->turns % LOOK_TURNS)
        return io_uring_submit_and_wait(&ring->uring, 1);
    const int err = io_uring_submit(&ring->uring);
    if (err < 0)
        return err;
    const bool found = io_uring_cq_ready(&ring->uring);
    ring->crowded = found ? ring->crowded + 1 : 0;
    if (found && was_last)
        fs_worker_found_waiting(worker);
    return found ? 0 : io_uring_submit_and_wait(&ring->uring, 1);
}

/* Take what has ended. Returns false when the worker is to end. */
static bool take_completions(struct fs_worker *worker)
{
    struct io_uring *uring = &worker->ring->uring;
    struct io_uring_cqe *cqe;
    bool go_on = true;
    while (go_on && io_uring_peek_cqe(uring, &cqe) == 0) {
        const struct io_uring_cqe seen = *cqe;
        io_uring_cqe_seen(uring, cqe);
        go_on = see_completion(worker, &seen);
    }
    return go_on;
}

/* What waits for the device is answered, or freed, whatever comes: its state is not only ours. */
static void end_reads(struct fs_worker *worker)
{
    while (worker->ring->reading) {
        const int err = io_uring_submit_and_wait(&worker->ring->uring, 1);
        if (err < 0 && err != -EINTR)
            pause_a_little();
        while (!take_completions(worker)) {
            /* one of the commands: there is nothing more to come by its entry */
        }
    }
}

static void serve_ring(struct fs_worker *worker)
{
    bool go_on = true;
    while (go_on && !fuse_session_exited(fs_worker_session(worker))) {
        offer_another(worker);
        choose_cpu(worker);
        atomic_store_explicit(&worker->waiting, true, memory_order_relaxed);
        const int err = submit_and_wait(worker);
        atomic_store_explicit(&worker->waiting, false, memory_order_relaxed);
        if (err == -EAGAIN || err == -ENOMEM) {
            pause_a_little(); /* the kernel is short of memory; nothing is lost */
        } else if (err < 0 && err != -EINTR && err != -EBUSY) {
            give_up(worker, err);
            break;
        }
        go_on = take_completions(worker);
    }
    end_reads(worker);
}

int fs_ring_prepare(struct fs_worker *worker)
{
    struct fs_ring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return -ENOMEM;
    const int err = open_ring(&ring->uring);
    if (err) {
        free(ring);
        return err;
    }
    worker->ring = ring;
    ring->first = new_entry();
    return ring->first ? 0 : -ENOMEM;
}

void fs_ring_unprepare(struct fs_worker *worker)
{
    struct fs_ring *ring = worker->ring;
    if (!ring)
        return;
    io_uring_queue_exit(&ring->uring);
    if (ring->first)
        free_entry(ring->first);
    for (unsigned i = 0; i < ring->entry_count; i++)
        free_entry(ring->entries[i]);
    free(ring);
    worker->ring = NULL;
}

void fs_ring_serve(struct fs_worker *worker)
{
    settle(worker);
    const int err = enable_ring(&worker->ring->uring);
    if (err)
        give_up(worker, err);
    else
        serve_ring(worker);
    /* Replies that have been prepared are still to go out. */
    (void)io_uring_submit(&worker->ring->uring);
    fs_ring_unprepare(worker);
}
