/*
 * tests/faults/io/ring_control.c: orders for ring_faults.c, also from another process.
 */
#include "ring_faults.h"

#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

struct ring_control *ring_control_map(const char *path)
{
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return NULL;
    void *map = MAP_FAILED;
    if (!ftruncate(fd, sizeof(struct ring_control)))
        map = mmap(NULL, sizeof(struct ring_control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return map == MAP_FAILED ? NULL : map;
}

void ring_control_unmap(struct ring_control *control)
{
    if (control)
        (void)munmap(control, sizeof *control); /* a whole mapping of ours */
}

void ring_fault_order(struct ring_control *control, struct ring_fault fault)
{
    /* Nobody reads the order before the generation grows, which releases it. */
    fault.targets &= ring_fault_targets(fault.kind);
    control->fault = fault;
    (void)atomic_fetch_add_explicit(&control->generation, 1, memory_order_release);
}

/* Figures of an order that nobody has looked at yet are those of the one before. */
static bool is_obeyed(const struct ring_control *control)
{
    return atomic_load_explicit(&control->obeyed, memory_order_acquire) ==
           atomic_load_explicit(&control->generation, memory_order_relaxed);
}

uint64_t ring_fault_seen(const struct ring_control *control)
{
    return is_obeyed(control) ? atomic_load_explicit(&control->seen, memory_order_relaxed) : 0;
}

uint64_t ring_fault_hits(const struct ring_control *control)
{
    return is_obeyed(control) ? atomic_load_explicit(&control->hits, memory_order_relaxed) : 0;
}

const char *ring_fault_name(enum ring_fault_kind kind)
{
    static const char *const names[RING_KIND_COUNT] = {
        [RING_EIO] = "EIO",     [RING_ENOSPC] = "ENOSPC", [RING_EAGAIN] = "EAGAIN",
        [RING_EINTR] = "EINTR", [RING_ENOMEM] = "ENOMEM", [RING_ZERO] = "zero",
        [RING_SHORT] = "short", [RING_TORN] = "torn",     [RING_LOST] = "lost",
    };
    return names[kind];
}

uint32_t ring_fault_targets(enum ring_fault_kind kind)
{
    const uint32_t requests = RING_READS | RING_WRITES | RING_FLUSHES;
    switch (kind) {
    case RING_EIO:
    case RING_ENOSPC:
        return requests;
    case RING_EAGAIN:
    case RING_EINTR:
        return requests | RING_SUBMITS;
    case RING_ENOMEM:
        return requests | RING_SUBMITS | RING_SETUPS;
    case RING_ZERO:
    case RING_SHORT:
    case RING_TORN:
        return RING_READS | RING_WRITES;
    case RING_LOST:
        return RING_FLUSHES;
    case RING_KIND_COUNT:
        break;
    }
    return 0;
}
