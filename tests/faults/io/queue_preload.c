/*
 * tests/faults/io/queue_preload.c: commands to the kernel's FUSE queues that fail on order:
 * queue-faults.so, to be preloaded into mount.kvfs.
 *
 * KVFS_QUEUE_FAULTS is OPERATION:AFTER:COUNT:ERRNO: of the commands with that number (1 registers
 * an entry, 2 gives an answer back and asks for the next request) COUNT fail after the first AFTER.
 * One that is to fail goes to the kernel as a request that does nothing but complete with -ERRNO,
 * so FUSE has not seen it.
 */
#include <dlfcn.h>
#include <liburing.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Newer than the header of Debian 12 (Linux 6.1). */
#define NOP_INJECT_RESULT 1u

static unsigned operation; /* 0: nothing fails */
static unsigned long long after, count;
static int error;
static _Atomic unsigned long long seen;

__attribute__((constructor)) static void begin(void)
{
    const char *const order = getenv("KVFS_QUEUE_FAULTS");
    if (order && sscanf(order, "%u:%llu:%llu:%d", &operation, &after, &count, &error) != 4)
        abort();
}

static void change_commands(struct io_uring *ring)
{
    const unsigned shift = ring->flags & IORING_SETUP_SQE128 ? 1 : 0;
    for (unsigned i = ring->sq.sqe_head; shift && operation && i != ring->sq.sqe_tail; i++) {
        struct io_uring_sqe *const sqe = &ring->sq.sqes[(i & *ring->sq.kring_mask) << shift];
        if (sqe->opcode != IORING_OP_URING_CMD || sqe->cmd_op != operation)
            continue;
        const unsigned long long at = atomic_fetch_add_explicit(&seen, 1, memory_order_relaxed);
        if (at < after || at - after >= count)
            continue;
        const uint64_t user_data = sqe->user_data;
        memset(sqe, 0, sizeof *sqe);
        sqe->opcode = IORING_OP_NOP;
        sqe->fd = -1;
        sqe->rw_flags = NOP_INJECT_RESULT;
        sqe->len = (unsigned)-error;
        sqe->user_data = user_data;
    }
}

int io_uring_submit(struct io_uring *ring)
{
    static int (*next)(struct io_uring *);
    if (!next) /* whoever comes first finds the same */
        *(void **)&next = dlsym(RTLD_NEXT, "io_uring_submit");
    change_commands(ring);
    return next(ring);
}

int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait_nr)
{
    static int (*next)(struct io_uring *, unsigned);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "io_uring_submit_and_wait");
    change_commands(ring);
    return next(ring, wait_nr);
}
