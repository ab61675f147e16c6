/*
 * kv/wal.h: the redo log, a ring of 4 KiB blocks. A record is durable once its position is.
 *
 * A position counts log blocks since mkfs; block p lies at ring slot p % block_count. Each
 * flush starts at a fresh block, so a durable block is never rewritten. Blocks are chained:
 * each holds the digest of the one before it. Layout: struct kv_disk_log_header, then
 * payload; the payloads of consecutive blocks are one stream of records
 * (struct kv_disk_record_header, body).
 *
 *    tail <= durable <= written <= sealed <= next;   next - tail <= block_count
 *
 * Threads: any for sync; append, seal and trim are called by one thread at a time (the
 * store's writer lock).
 */
#ifndef KV_WAL_H
#define KV_WAL_H

#include "kv/base.h"
#include "kv/device.h"

struct kv_wal;

/* So much of the ring, or all of it, has room on the host at least: mkfs writes it with zeroes. */
#define KV_WAL_BACKED_BLOCKS_MIN 1024u /* 4 MiB */

#define KV_WAL_GUESTS_MAX 8u

struct kv_wal_config {
    uint64_t first_block, block_count; /* the ring */
    uint64_t log_id;                   /* of the image; other images' blocks are not ours */
    uint64_t tail;                     /* position to replay from */
    uint64_t tail_link;                /* digest of the block before it; 0 in a new image */
    uint32_t buffer_bytes;             /* append buffer; 0 = 4 MiB */
    /*
     * Called before each flush, under no lock: what records refer to goes to the device, or is left
     * to be submitted with the log's own blocks, *count requests of KV_WAL_GUESTS_MAX; if there are
     * any, after_flush is told how they ended. NULL: records refer to nothing. An error is as one
     * of the flush.
     */
    int (*before_flush)(void *context, struct kv_io *ios, size_t *count);
    void (*after_flush)(void *context, const struct kv_io *ios, size_t count);
    void *context;
};

/* -ENOSPC: the host has no room for the least part of the ring. */
KV_MUST_CHECK int kv_wal_open(struct kv_device *device, const struct kv_wal_config *config,
                              struct kv_wal **wal);
void kv_wal_close(struct kv_wal *wal); /* writes nothing */

/*
 * Called for each whole record in order. `epoch` is that of the block in which it begins;
 * `known_durable` says that a later block vouches for it. Return 0 to go on, -ECANCELED to end
 * the log before this record (its data did not reach the disk), -EBADMSG or -EUCLEAN to end it
 * there as damaged, another error to fail.
 */
typedef int kv_wal_visit_fn(void *context, const void *body, size_t length, uint64_t epoch,
                            bool known_durable);

struct kv_wal_end {
    uint64_t position;  /* the first position that is not part of the log any more */
    uint64_t records;   /* visited and accepted */
    uint64_t epoch_max; /* largest epoch seen in a block; 0 when the log is empty */
};

/*
 * Read the log from the tail to its end: the first block that is not whole, not of this
 * image, out of place, or does not continue the chain. A block that fails although a later
 * one vouches for it (up to 8 MiB ahead) is damage: -EBADMSG, and `end` says where; what
 * came before was visited.
 * May be called several times before the first append. Afterwards appending goes on after
 * the last accepted block (a record that was cut or refused is dropped, with all after it).
 * After damage there is no room (-EAGAIN) until kv_wal_seal, a superblock, and kv_wal_trim.
 * An image whose log may hold anything must be replayed before the first append.
 */
KV_MUST_CHECK int kv_wal_replay(struct kv_wal *wal, kv_wal_visit_fn *visit, void *context,
                                struct kv_wal_end *end);

/*
 * Is there room in the ring for a record of `length` bytes? Returns 0; -EAGAIN after a
 * checkpoint there will be; -E2BIG never (more than half of the ring); -ENOSPC the host has no
 * room for so much log; what else the device says when it is asked for room.
 */
KV_MUST_CHECK int kv_wal_room(struct kv_wal *wal, size_t length);
/* The part of the ring that has room on the host can not grow, and most of it is used: time for a
 * checkpoint. For who appends. */
bool kv_wal_is_short(struct kv_wal *wal);

/*
 * Append a record (room was checked). When the buffer is full, blocks are written here, and
 * flushed when 8 MiB are not durable; kv_wal_write_behind may come before that. *position:
 * kv_wal_sync to it makes the record durable. Returns 0, or the error that turned the log unusable.
 */
KV_MUST_CHECK int kv_wal_append(struct kv_wal *wal, const void *body, size_t length, uint64_t epoch,
                                uint64_t *position);

/*
 * Is so much appended and not written, or not durable, or so little room left that the host has
 * promised, that somebody should see to it before who appends has to wait? Says so once, until
 * something was written, or there was more room.
 */
bool kv_wal_is_behind(struct kv_wal *wal);
/* See to all of that, unless somebody is at it. 0, or the log's failure. */
KV_MUST_CHECK int kv_wal_write_behind(struct kv_wal *wal);

/* Where appending is now: syncing to it makes everything appended so far durable. */
uint64_t kv_wal_position(struct kv_wal *wal);

/*
 * Make all blocks below `position` durable: one caller leads, writing all that is appended
 * with one submission that ends in a flush, others wait. 0, or the error of the log's
 * failed write or flush, now and ever after.
 */
KV_MUST_CHECK int kv_wal_sync(struct kv_wal *wal, uint64_t position);

/*
 * Begin a fresh block and say where and after which digest: what a superblock needs. On a thin
 * device this may be the start of the ring; what was appended is durable then, and there is no room
 * until kv_wal_trim. brief: that comes soon, so it may be so by choice.
 */
KV_MUST_CHECK int kv_wal_seal(struct kv_wal *wal, bool brief, uint64_t *position, uint64_t *link);
/* A checkpoint made everything before `position` superfluous (and so durable). */
void kv_wal_trim(struct kv_wal *wal, uint64_t position);

/*
 * For scrubbing: read durable blocks from *position on, `count` at most (1..), of which each
 * must be whole, in its place and continue the chain that came to *link. Both move past what is
 * as it should be. -ENOENT: nothing is durable there (yet); -EBADMSG: the block at *position is
 * not what was written. Begins where a superblock says; no kv_wal_trim may come in between.
 */
KV_MUST_CHECK int kv_wal_verify(struct kv_wal *wal, uint64_t *position, uint64_t *link,
                                uint32_t count);

/*
 * The image is closed cleanly, so nothing counts that the log holds: on a thin device give back to
 * the host what of the ring is not kept in any case.
 */
void kv_wal_give_back(struct kv_wal *wal);

struct kv_wal_stats {
    uint64_t records, record_bytes, flushes, used_blocks, total_blocks, buffer_blocks;
};
void kv_wal_stats(struct kv_wal *wal, struct kv_wal_stats *stats);

#endif
