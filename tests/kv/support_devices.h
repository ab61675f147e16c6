/*
 * tests/kv/support_devices.h: devices for tests: plain memory, one that records what is written
 * and can show what a crash may leave of it, one that fails on order.
 *
 * All of them take any number of threads, except where a function says otherwise. What can not
 * be had for want of memory ends the program: a test has nothing better to do.
 */
#ifndef TESTS_KV_SUPPORT_DEVICES_H
#define TESTS_KV_SUPPORT_DEVICES_H

#include "kv/device.h"

/* ---- memory ------------------------------------------------------------- */

/* A device of zeroed blocks in memory; kv_device_close frees it. */
struct kv_device *memory_device_new(uint64_t block_count);

/* ---- recorder ----------------------------------------------------------- */

/*
 * A device in memory that logs each block written and each flush, in order. A write of several
 * blocks is logged block by block, since a disk need not keep it together; a discard counts as
 * a write of zeros.
 *
 * Closing its device does nothing, so that the log outlives the store that wrote it; the
 * device may then be opened again.
 */
struct recorder;

struct recorded_event {
    bool is_flush;
    uint64_t block;       /* of a write */
    const uint8_t *bytes; /* of a write: KV_BLOCK_BYTES, the recorder's; NULL: zeros */
};

/* `base`: a memory device that holds what is there at the start; freed with the recorder. */
struct recorder *recorder_new(struct kv_device *base);
/* No crash_walk over it and no device made from one may be in use any more. */
void recorder_free(struct recorder *recorder);
struct kv_device *recorder_device(struct recorder *recorder);
/* How many events there are; positions in the log run from 0 to this. */
size_t recorder_event_count(struct recorder *recorder);
struct recorded_event recorder_event(struct recorder *recorder, size_t index);

/* ---- crashes ------------------------------------------------------------ */

/*
 * The states that a crash can leave at a position of a recorder's log. Writes before the last
 * flush before the position are there; of the later ones, the pending ones, each may or may
 * not be. Moving forward is incremental, and a state costs one pointer for each block.
 *
 * One thread; the recorder must not be written to meanwhile.
 */
struct crash_walk {
    struct recorder *recorder;
    const uint8_t **durable; /* block -> bytes, after the writes that were flushed */
    size_t flushed_position; /* events before it are durable */
    size_t position;         /* the crash came before this event */
};

void crash_walk_init(struct crash_walk *walk, struct recorder *recorder);
void crash_walk_release(struct crash_walk *walk);
/* Only forward. */
void crash_walk_advance(struct crash_walk *walk, size_t position);
/* How many writes are pending: those between the last flush and the position. */
size_t crash_walk_pending(const struct crash_walk *walk);

enum torn_rest { TORN_REST_OLD, TORN_REST_ZERO, TORN_REST_RANDOM };

/* What becomes of the pending writes. All zero: all of them reached the disk. */
struct crash_choice {
    const bool *kept; /* for each pending write, in order; NULL: all */

    /* One of the kept ones may be torn: its first bytes are new, the rest is not. */
    bool torn;
    size_t torn_index;    /* among the pending writes */
    uint32_t torn_bytes;  /* how many are new: a multiple of 512 */
    enum torn_rest rest;  /* what the others are; old: as if it had not been written */
    uint64_t random_seed; /* for TORN_REST_RANDOM */
};

/*
 * What a torn write leaves of a block: `old` is what was there, `new` what was to be written
 * (NULL: zeros). out: KV_BLOCK_BYTES.
 */
void crash_tear(const uint8_t *old, const uint8_t *new, const struct crash_choice *choice,
                uint8_t *out);

/*
 * A fresh memory device in the state that a choice leaves. It borrows from the recorder, which
 * must outlive it; what is written to it is its own.
 */
struct kv_device *crash_walk_state(const struct crash_walk *walk,
                                   const struct crash_choice *choice);

/* ---- faults ------------------------------------------------------------- */

enum fault_targets { FAULT_READS = 1, FAULT_WRITES = 2, FAULT_FLUSHES = 4 };

struct fault {
    unsigned targets; /* of fault_targets: what is counted and fails; 0: nothing */
    uint64_t after;   /* how many of them still succeed */
    bool lasting;     /* fail from then on; else once */
    int error;        /* negative errno */
    /* A request that fails has done that many of its first blocks: at most all but one. */
    uint32_t partial_blocks;
};

/*
 * A device over another that fails on order. Closing its device does nothing; faulty_free
 * closes the one below.
 */
struct faulty;

struct faulty *faulty_new(struct kv_device *below);
void faulty_free(struct faulty *faulty);
struct kv_device *faulty_device(struct faulty *faulty);
/* Counting begins anew. */
void faulty_arm(struct faulty *faulty, struct fault fault);
/* How many requests failed since it was armed. */
uint64_t faulty_failures(struct faulty *faulty);

#endif
