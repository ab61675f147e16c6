/*
 * tests/faults/io/ring_faults.h: requests to the kernel's ring that fail on order.
 *
 * ring_faults.c puts itself between kv/device_ring.c and liburing: linked into a test program,
 * or preloaded into any program that is built with kvfs (ring-faults.so). What is under test runs
 * its real path through the real ring: a request that is to fail is changed before the kernel
 * takes it and its completion when it comes back.
 *
 * Threads: any. A control may be mapped by several processes.
 */
#ifndef TESTS_FAULTS_RING_FAULTS_H
#define TESTS_FAULTS_RING_FAULTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What is counted and may fail. */
enum ring_targets {
    RING_READS = 1,
    RING_WRITES = 2,
    RING_FLUSHES = 4,
    RING_SUBMITS = 8, /* the system call that hands requests over; takes none */
    RING_SETUPS = 16  /* making one more ring */
};

enum ring_fault_kind {
    RING_EIO,
    RING_ENOSPC,
    RING_EAGAIN,
    RING_EINTR,
    RING_ENOMEM,
    RING_ZERO,  /* nothing is transferred, and that is said */
    RING_SHORT, /* only some bytes are transferred, and it is said how many */
    RING_TORN,  /* only some bytes are transferred, and an error is said */
    RING_LOST,  /* a flush says EIO, and some of the writes since the last one are undone */
    RING_KIND_COUNT
};

struct ring_fault {
    uint32_t targets; /* enum ring_targets; those of them that the kind makes no sense for are left
                         alone */
    uint32_t kind;    /* enum ring_fault_kind */
    uint32_t lasting; /* fail from then on; else once */
    uint32_t quick;   /* flushes that succeed need not reach the disk */
    uint64_t after;   /* how many of the targets still succeed */
    uint64_t seed;    /* of what is torn, short and lost */
};

/* Shared by who orders and who fails: all zero at the start. */
struct ring_control {
    _Atomic uint64_t generation; /* of `fault`; grows with each order */
    struct ring_fault fault;     /* read after `generation` was seen to grow */
    _Atomic uint64_t obeyed;     /* the generation that counts now */
    _Atomic uint64_t seen;       /* targets since then */
    _Atomic uint64_t hits;       /* of these, how many failed */
};

/* The control of this process. */
struct ring_control *ring_faults(void);

/* Map a control file, made (zeroed) if it is not there. NULL: errno says why. */
struct ring_control *ring_control_map(const char *path);
void ring_control_unmap(struct ring_control *control);

/* Counting begins anew. targets 0: nothing fails. One thread at a time. */
void ring_fault_order(struct ring_control *control, struct ring_fault fault);
uint64_t ring_fault_seen(const struct ring_control *control);
uint64_t ring_fault_hits(const struct ring_control *control);

const char *ring_fault_name(enum ring_fault_kind kind);
/* What of the targets a kind makes sense for. */
uint32_t ring_fault_targets(enum ring_fault_kind kind);

/* The environment's name of the control file, for a program that ring-faults.so is loaded into. */
#define RING_FAULTS_CONTROL "KVFS_RING_FAULTS"

#endif
