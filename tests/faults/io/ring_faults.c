/*
 * tests/faults/io/ring_faults.c: requests to the kernel's ring that fail on order.
 *
 * Owns       the names io_uring_submit_and_wait, io_uring_queue_init, preadv, pwritev and
 *            fdatasync, which are found here before liburing and libc: all that kv/device_ring.c
 *            asks the kernel by.
 * Invariant  a request that is to fail goes to the kernel as one that does nothing, which
 *            completes while it is submitted; its completion is rewritten in the ring before
 *            the caller can see it. What is torn is really transferred in part.
 * Locks      one mutex over everything of ours; not held while the kernel waits.
 */
#include "ring_faults.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATCHES_MAX 1024u
#define SECTOR      512u

/* A completion to rewrite. */
struct patch {
    const struct io_uring *ring;
    uint64_t user_data;
    int result;
};

/* What a write replaced. */
struct replaced {
    int fd;
    uint64_t offset;
    uint32_t length;
    uint8_t *bytes;
};

static struct ring_control own_control;
static struct ring_control *shared_control; /* set before main; NULL: the own one counts */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct ring_fault fault; /* mutex, as all that follows */
static struct patch patches[PATCHES_MAX];
static size_t patch_count;
static struct replaced *replaced;
static size_t replaced_count, replaced_cap;
static uint64_t random_state;

struct ring_control *ring_faults(void)
{
    return shared_control ? shared_control : &own_control;
}

static void die(const char *what)
{
    fprintf(stderr, "ring faults: %s: %s\n", what, strerror(errno));
    abort();
}

__attribute__((constructor)) static void find_control(void)
{
    const char *const path = getenv(RING_FAULTS_CONTROL);
    if (!path)
        return;
    shared_control = ring_control_map(path);
    if (!shared_control)
        die(path);
}

/* The next number, by splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t next_random(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void forget_replaced(size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(replaced[i].bytes);
    replaced_count -= count;
    if (replaced_count)
        memmove(replaced, replaced + count, replaced_count * sizeof *replaced);
}

/* Take note of a new order. */
static void obey(void)
{
    struct ring_control *const control = ring_faults();
    /* Acquire pairs with the release in ring_fault_order. */
    const uint64_t generation = atomic_load_explicit(&control->generation, memory_order_acquire);
    if (generation == atomic_load_explicit(&control->obeyed, memory_order_relaxed))
        return;
    fault = control->fault;
    random_state = fault.seed;
    forget_replaced(replaced_count);
    atomic_store_explicit(&control->seen, 0, memory_order_relaxed);
    atomic_store_explicit(&control->hits, 0, memory_order_relaxed);
    /* Release pairs with the acquire in is_obeyed: the figures are of this order. */
    atomic_store_explicit(&control->obeyed, generation, memory_order_release);
}

/* Does the next one of this target fail? */
static bool take(uint32_t target)
{
    if (!(fault.targets & target))
        return false;
    struct ring_control *const control = ring_faults();
    const uint64_t seen = atomic_fetch_add_explicit(&control->seen, 1, memory_order_relaxed);
    const bool fails = fault.lasting ? seen >= fault.after : seen == fault.after;
    if (fails)
        (void)atomic_fetch_add_explicit(&control->hits, 1, memory_order_relaxed);
    return fails;
}

static int error_of(uint32_t kind)
{
    switch (kind) {
    case RING_ENOSPC:
        return -ENOSPC;
    case RING_EAGAIN:
        return -EAGAIN;
    case RING_EINTR:
        return -EINTR;
    case RING_ENOMEM:
        return -ENOMEM;
    case RING_ZERO:
        return 0;
    default:
        return -EIO;
    }
}

/* ---- writes that get lost -------------------------------------------------------- */

static uint8_t *aligned(size_t length)
{
    void *bytes;
    if (posix_memalign(&bytes, 4096, length))
        die("memory");
    return bytes;
}

static void remember_replaced(int fd, uint64_t offset, uint32_t length)
{
    if (replaced_count == replaced_cap) {
        replaced_cap = replaced_cap ? 2 * replaced_cap : 64;
        replaced = realloc(replaced, replaced_cap * sizeof *replaced);
        if (!replaced)
            die("memory");
    }
    struct replaced *const old = &replaced[replaced_count++];
    *old = (struct replaced){.fd = fd, .offset = offset, .length = length};
    old->bytes = aligned(length);
    memset(old->bytes, 0, length);
    if (pread(fd, old->bytes, length, (off_t)offset) < 0)
        die("reading what is replaced");
}

/* Undo half of the writes since the last flush, or now and then all. */
static void lose_writes(void)
{
    const bool all = next_random() % 4 == 0;
    for (size_t i = replaced_count; i-- > 0;) {
        const struct replaced *const old = &replaced[i];
        if ((all || next_random() % 2) &&
            pwrite(old->fd, old->bytes, old->length, (off_t)old->offset) < 0)
            die("losing a write");
    }
    forget_replaced(replaced_count);
}

/* ---- requests ---------------------------------------------------------------------- */

/* The kernel shall do nothing, and the completion say `result`. */
static void divert(const struct io_uring *ring, struct io_uring_sqe *sqe, int result)
{
    if (patch_count == PATCHES_MAX)
        die("too many completions to change");
    patches[patch_count++] =
        (struct patch){.ring = ring, .user_data = sqe->user_data, .result = result};
    const uint64_t user_data = sqe->user_data;
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_NOP;
    sqe->fd = -1;
    sqe->user_data = user_data;
}

/* How many bytes of a transfer happen when it is cut: whole sectors, some but not all. */
static uint32_t cut(uint32_t length)
{
    const uint32_t sectors = length / SECTOR;
    return sectors < 2 ? 0 : SECTOR * (1 + (uint32_t)(next_random() % (sectors - 1)));
}

/* Transfer the first bytes as the kernel would have. */
static void tear(const struct io_uring_sqe *sqe)
{
    void *const bytes = (void *)(uintptr_t)sqe->addr; /* the ABI has addresses as numbers */
    const uint32_t length = cut(sqe->len);
    const ssize_t moved = sqe->opcode == IORING_OP_WRITE
                              ? pwrite(sqe->fd, bytes, length, (off_t)sqe->off)
                              : pread(sqe->fd, bytes, length, (off_t)sqe->off);
    if (moved < 0)
        die("a torn transfer");
}

/* Change a request that is to fail. */
static void plan_transfer(const struct io_uring *ring, struct io_uring_sqe *sqe)
{
    const bool writes = sqe->opcode == IORING_OP_WRITE;
    if (writes && fault.kind == RING_LOST && fault.targets)
        remember_replaced(sqe->fd, sqe->off, sqe->len);
    if (!take(writes ? RING_WRITES : RING_READS))
        return;
    if (fault.kind == RING_SHORT) {
        const uint32_t length = cut(sqe->len);
        sqe->len = length ? length : sqe->len;
        return;
    }
    if (fault.kind == RING_TORN)
        tear(sqe);
    divert(ring, sqe, error_of(fault.kind));
}

static void plan(const struct io_uring *ring)
{
    const struct io_uring_sq *const sq = &ring->sq;
    for (unsigned i = sq->sqe_head; i != sq->sqe_tail; i++) {
        struct io_uring_sqe *const sqe = &sq->sqes[i & sq->ring_mask];
        if (sqe->opcode == IORING_OP_READ || sqe->opcode == IORING_OP_WRITE)
            plan_transfer(ring, sqe);
    }
}

/* Rewrite the completions that are there. */
static void patch_completions(const struct io_uring *ring)
{
    const struct io_uring_cq *const cq = &ring->cq;
    const unsigned tail = io_uring_smp_load_acquire(cq->ktail);
    for (unsigned i = *cq->khead; i != tail; i++) {
        struct io_uring_cqe *const cqe = &cq->cqes[i & cq->ring_mask];
        for (size_t j = 0; j < patch_count; j++) {
            if (patches[j].ring != ring || patches[j].user_data != cqe->user_data)
                continue;
            cqe->res = patches[j].result;
            patches[j] = patches[--patch_count];
            break;
        }
    }
}

/* ---- the names that we stand before ------------------------------------------------- */

static void *next_of(const char *name)
{
    void *const symbol = dlsym(RTLD_NEXT, name);
    if (!symbol)
        die(name);
    return symbol;
}

static ssize_t move(uint32_t target, int fd, const struct iovec *piece, size_t length, off_t offset)
{
    return target == RING_WRITES ? pwrite(fd, piece->iov_base, length, offset)
                                 : pread(fd, piece->iov_base, length, offset);
}

/* As divert and tear do it to a request of the ring. */
static ssize_t fail_move(uint32_t target, int fd, const struct iovec *piece, off_t offset)
{
    const uint32_t length =
        fault.kind == RING_SHORT || fault.kind == RING_TORN ? cut((uint32_t)piece->iov_len) : 0;
    if (fault.kind == RING_SHORT)
        return move(target, fd, piece, length ? length : piece->iov_len, offset);
    if (length && move(target, fd, piece, length, offset) < 0)
        die("a torn transfer");
    errno = -error_of(fault.kind);
    return errno ? -1 : 0;
}

static ssize_t move_or_fail(uint32_t target, int fd, const struct iovec *pieces, int count,
                            off_t offset)
{
    if (count != 1)
        die("a transfer of more than one piece");
    pthread_mutex_lock(&mutex);
    obey();
    if (target == RING_WRITES && fault.kind == RING_LOST && fault.targets)
        remember_replaced(fd, (uint64_t)offset, (uint32_t)pieces->iov_len);
    const bool fails = take(target);
    const int held = errno;
    const ssize_t moved = fails ? fail_move(target, fd, pieces, offset) : 0;
    pthread_mutex_unlock(&mutex);
    if (fails)
        return moved;
    errno = held;
    return move(target, fd, pieces, pieces->iov_len, offset);
}

/* Nobody else in a program of ours transfers by these names; the kernel is asked by calls that have
 * others. */
ssize_t preadv64(int fd, const struct iovec *pieces, int count, off_t offset)
{
    return move_or_fail(RING_READS, fd, pieces, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off_t offset)
{
    return move_or_fail(RING_WRITES, fd, pieces, count, offset);
}

int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait_nr)
{
    static _Atomic(void *) found;
    int (*real)(struct io_uring *, unsigned);
    void *symbol = atomic_load_explicit(&found, memory_order_relaxed);
    if (!symbol) {
        symbol = next_of("io_uring_submit_and_wait");
        atomic_store_explicit(&found, symbol, memory_order_relaxed);
    }
    memcpy(&real, &symbol, sizeof real);

    if (ring->flags & (IORING_SETUP_SQE128 | IORING_SETUP_CQE32))
        return real(ring, wait_nr); /* no device's: the kernel's file system requests */

    pthread_mutex_lock(&mutex);
    obey();
    const bool refused = take(RING_SUBMITS);
    const int error = error_of(fault.kind);
    if (!refused)
        plan(ring);
    pthread_mutex_unlock(&mutex);
    if (refused)
        return error;

    const int taken = real(ring, wait_nr);

    pthread_mutex_lock(&mutex);
    patch_completions(ring);
    pthread_mutex_unlock(&mutex);
    return taken;
}

int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    int (*real)(unsigned, struct io_uring *, unsigned);
    void *const symbol = next_of("io_uring_queue_init");
    memcpy(&real, &symbol, sizeof real);
    pthread_mutex_lock(&mutex);
    obey();
    const bool refused = take(RING_SETUPS);
    const int error = error_of(fault.kind);
    pthread_mutex_unlock(&mutex);
    return refused ? error : real(entries, ring, flags);
}

int fdatasync(int fd)
{
    int (*real)(int);
    void *const symbol = next_of("fdatasync");
    memcpy(&real, &symbol, sizeof real);
    pthread_mutex_lock(&mutex);
    obey();
    const size_t covered = replaced_count;
    const bool fails = take(RING_FLUSHES);
    const int error = error_of(fault.kind);
    const bool skip = fails || fault.quick;
    pthread_mutex_unlock(&mutex);

    const int err = skip ? 0 : real(fd);
    if (err)
        return err;
    pthread_mutex_lock(&mutex);
    if (fails && fault.kind == RING_LOST)
        lose_writes();
    else if (!fails) /* what a write since has replaced is not covered */
        forget_replaced(covered < replaced_count ? covered : replaced_count);
    pthread_mutex_unlock(&mutex);
    errno = fails ? -error : errno;
    return fails ? -1 : 0;
}
