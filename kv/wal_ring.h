/*
 * kv/wal_ring.h: the log's ring and its blocks, what every part of the log works on. For kv/wal*.c
 * only, hence the short names.
 *
 * Invariant  durable <= written <= sealed <= next, next - tail <= block_count; a trim may move
 *            tail and durable past written, what lies between is then never written. A block
 *            that was handed to the device is never changed. No block is sealed more than
 *            WINDOW_BLOCKS after `durable`.
 * Locks      wal->mutex guards everything that is not marked otherwise. The leader of a flush
 *            releases it while the device works; it reads sealed blocks of the buffer, which
 *            nobody changes before `written` has passed them.
 * On disk    struct kv_disk_log_header, payload, zeroes. The payloads are one stream of bytes:
 *            a record, and its header, may begin and end anywhere in a block.
 */
#ifndef KV_WAL_RING_H
#define KV_WAL_RING_H

#include "kv/format.h"
#include "kv/wal.h"

#include <pthread.h>

/* How far blocks may be sealed beyond what is durable: 8 MiB. */
#define WINDOW_BLOCKS 2048u

/* Blocks that replay reads at once. */
#define READ_BLOCKS 256u

/* wal_group.c; all by the mutex */
#define WAL_ASKERS          8u
#define KV_WAL_REST_FLUSHES 8u /* that nobody waits for, after it was in vain; then more */
struct wal_asker {
    pthread_t thread;
    bool known;
};
struct wal_group {
    struct wal_asker asked[WAL_ASKERS]; /* the last that asked for a flush, some of them twice */
    unsigned next;                      /* modulo their number */
    unsigned arrived;                   /* since a flush began, for the next one */
    unsigned rest, rest_next;           /* flushes for which nobody waits */
};

struct kv_wal {
    struct kv_device *device; /* immutable after open */
    uint64_t first_block;     /* immutable after open, as are the next four */
    uint64_t block_count;
    uint64_t log_id;
    uint64_t open_tail, open_link; /* where replay begins */
    int (*before_flush)(void *context, struct kv_io *ios, size_t *count);
    void (*after_flush)(void *context, const struct kv_io *ios, size_t count);
    void *context; /* of these two */

    pthread_mutex_t mutex;
    pthread_cond_t changed; /* durable, written, leading, backing or error changed */

    /* Block p lies at p % buffer_blocks of the buffer, for written <= p < next. */
    uint8_t *buffer;        /* immutable after open */
    uint32_t buffer_blocks; /* immutable after open */

    uint64_t backed_blocks;  /* slots that have room on the host */
    uint64_t backed_flushes; /* flushes when there came to be so many */
    uint64_t backed_called;  /* so many there were when more were last called for ahead of need */
    bool backing;            /* somebody asks the host for more */
    bool stuck;              /* whoever appends; there were no more when they were last needed */
    uint64_t tail, durable, written, sealed;
    uint32_t fill;       /* payload bytes in the block at `sealed`, which is being filled */
    uint64_t epoch;      /* of that block */
    uint64_t link;       /* what that block's `link` must be */
    uint64_t restart;    /* what its `restart` must be */
    bool called;         /* for who writes behind; until something is written */
    _Atomic bool behind; /* the same, until somebody has heard it */
    bool leading;        /* somebody is writing or flushing */
    uint64_t flushing;   /* the last flush was to make durable what is before this */
    int error;           /* the failure that ended the log's use, or 0 */
    uint64_t records, record_bytes, flushes;
    uint64_t flushed_records; /* of them, those that the last flush found */
    struct wal_group group;
};

static inline uint64_t next_position(const struct kv_wal *wal)
{
    return wal->sealed + (wal->fill > 0);
}

/* The digest of a block, which it also holds; its bytes change only meanwhile (wal_replay.c). */
uint64_t kv_wal_block_digest(uint8_t *block);

/* ---- groups (wal_group.c); all with the mutex --------------------------------------- */

/* This thread wants a flush, and not the one that is under way. */
void kv_wal_note_asker(struct kv_wal *wal);
/* Before a flush, nobody leading: let those come along who are about to ask. May release the mutex;
 * then nobody else leads. */
void kv_wal_gather(struct kv_wal *wal);

/* ---- room (wal_room.c) ------------------------------------------------------------- */

/* The first position from the next one on whose block has no certain room. With the mutex. */
uint64_t kv_wal_backed_end(const struct kv_wal *wal);
/* Is a checkpoint that begins now the time to go back to the start of what is backed? Likewise. */
bool kv_wal_should_jump(const struct kv_wal *wal, bool brief);
/* Is it time for somebody to have room made that will be needed soon? Likewise; says so once. */
bool kv_wal_calls_for_room(struct kv_wal *wal);
/* Make it, without the mutex. Should that fail, who appends will try, and hear of it. */
void kv_wal_make_room(struct kv_wal *wal);
/* Has the ring room for a record of `length` bytes? With the mutex. */
bool kv_wal_has_room(const struct kv_wal *wal, size_t length);

#endif
