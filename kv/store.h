/*
 * kv/store.h: one image, one owner: what ties the layers together. Internal to kv/.
 */
#ifndef KV_STORE_H
#define KV_STORE_H

#include "kv/ahead.h"
#include "kv/batch.h"
#include "kv/blob.h"
#include "kv/btree.h"
#include "kv/checkpoint.h"
#include "kv/counter.h"
#include "kv/deferred.h"

#define KV_TREE_KEYS  0u /* user keys */
#define KV_TREE_REFS  1u /* block of a blob -> count, when more than one value refers to it */
#define KV_TREE_COUNT 2u

/* A blob that a record shares: how many values refer to it. */
struct kv_share {
    uint64_t block;
    uint64_t stored; /* as the tree has it; 1 also if it has nothing */
    uint64_t count;  /* as the record leaves it */
};
#define KV_SHARES_MAX 16u

#define KV_STORE_ARENAS 2u

/*
 * Locks, in order: checkpoint.mutex, deferred->settling, writer, pager, page map, log, space. The
 * writer lock is held over the whole application of a batch; readers take none of the first three
 * unless changes are deferred.
 */
struct kv_store {
    struct kv_device *device;
    struct kv_space *space;
    struct kv_buffers *buffers;
    struct kv_pagemap *map;
    struct kv_pager *pager;
    struct kv_wal *wal;
    struct kv_metrics metrics; /* its own atomics; the device knows it, once it is open */
    struct kv_blobs blobs;
    struct kv_btree trees[KV_TREE_COUNT];
    struct kv_ahead *ahead; /* of user keys */
    struct kv_deferred *deferred;
    struct kv_checkpoint checkpoint;

    /* immutable after open */
    size_t node_bytes;
    bool read_only;
    enum kv_superblock_twin superblock_twin; /* as found at open */
    bool repair;                             /* as in kv_open_options; it finds the next three */
    bool superblocks_lost, bitmaps_rebuilt, log_damaged;
    bool trees_outdated; /* the backup superblock's are: left out, until kv_check has made new ones;
                            no checkpoint before that */
    uint64_t epoch_found; /* then: the greatest epoch of a leaf on the device */
    uint64_t epoch_first; /* that this session opened; 0 before */
    kv_check_report_fn *report;
    void *report_context;
    kv_show_key_fn *show_key;
    struct kv_image_info info; /* as it was opened */
    struct kv_wal_end log_end; /* as found at open */
    enum kv_sync_mode sync;
    uint32_t commit_interval_ms;     /* work_mutex, once it is open */
    uint32_t checkpoint_interval_ms; /* immutable after open */
    uint64_t budget_bytes;
    uint64_t log_checkpoint_bytes; /* so much (kv_store_log_weight) asks for a checkpoint */
    uint64_t log_bytes_max;        /* so much may wait for one: then writers wait, too */
    uint64_t log_cost_percent;     /* of what a replay costs, that counts like a byte of log */
    kv_log_fn *log;
    void *log_context;

    pthread_mutex_t writer;
    uint8_t *value;                        /* writer; node_bytes, a value being patched */
    struct kv_blob_ref *dropped;           /* writer; references that the operation gave up */
    size_t dropped_count;                  /* writer */
    struct kv_share shares[KV_SHARES_MAX]; /* writer; of the record that is being applied */
    size_t share_count;                    /* writer */
    size_t dropped_capacity;               /* as many as a leaf can hold */
    bool changed;                          /* writer; since the last checkpoint's gate */

    /* Weight of records, logged or not; changed by the writer, read without its lock. */
    _Atomic uint64_t log_since_checkpoint; /* since the gate of the last checkpoint */
    _Atomic uint64_t log_closing;          /* before it, while that checkpoint is under way */

    _Atomic int failure;        /* sticky; 0 or the negative errno that made the store read-only */
    _Atomic bool host_was_full; /* that was said in the log */
    _Atomic uint64_t batches, batch_bytes;
    _Atomic uint64_t checkpoints_wanted, checkpoints_asked;
    _Atomic uint64_t batches_deferred;
    _Atomic uint64_t log_waits,
        log_wait_ns; /* of batches, for a checkpoint to make the log shorter */
    struct kv_counter gets;
    _Atomic bool scrubbing;
    _Atomic uint64_t scrubs, scrub_bytes, scrub_findings, scrub_finished_ns;

    /* Of pages, and of blobs where they have one; immutable. */
    struct kv_arena *arenas[KV_STORE_ARENAS];

    /* the background threads; a condition each: one that is called for nothing takes a CPU from
     * a client */
    pthread_mutex_t work_mutex;
    pthread_cond_t for_committer;
    pthread_cond_t for_checkpointer;
    pthread_cond_t for_packer;
    pthread_cond_t for_toucher;
    pthread_cond_t for_settler;
    bool stopping;          /* work_mutex */
    bool committer_called;  /* work_mutex; one of the next two */
    bool interval_changed;  /* work_mutex */
    bool log_is_behind;     /* work_mutex */
    bool checkpoint_wanted; /* work_mutex */
    bool touch_wanted;      /* work_mutex */
    bool settler_called;    /* work_mutex; something is deferred, and ... */
    bool settle_wanted;     /* work_mutex; ... it is worth a submission */
    bool cleaning_wanted;   /* work_mutex */
    pthread_t committer, checkpointer, packer, toucher, settler, blob_writer;
    bool threads_running;
};

/*
 * What a record counts towards the bounds of the log: its bytes, or, when that is more, its share
 * of what a replay may cost. An operation costs as much as reading so many bytes.
 */
#define KV_REPLAY_OP_BYTES 512u
static inline uint64_t kv_store_log_weight(const struct kv_store *store, size_t length,
                                           size_t op_count)
{
    const uint64_t cost = length + (uint64_t)op_count * KV_REPLAY_OP_BYTES;
    return kv_max_u64(length, cost * store->log_cost_percent / 100);
}

#define KV_BUDGET_MIN         (8ull << 20) /* of memory_budget_bytes */
#define KV_BLOB_PERCENT_MAX   75u          /* of blob_percent */
#define KV_RETAIN_PERCENT_MAX 50u          /* of retain_percent */

void kv_store_log(struct kv_store *store, enum kv_log_level level, const char *format, ...)
    KV_PRINTF(3, 4);
/* Turn read-only, once, and say why. Returns `error`. */
int kv_store_fail(struct kv_store *store, int error, const char *what);

/* A writer got -ENOSPC, or did not: say it when the host's file system is full, or is no more. */
void kv_store_note_host(struct kv_store *store, bool refused);

/* A store without any layer; kv_store_disassemble frees it. NULL: no memory. */
struct kv_store *kv_store_new(void);

/* Make an empty image on a device, which stays open and the caller's. */
KV_MUST_CHECK int kv_create_on_device(struct kv_device *device,
                                      const struct kv_create_options *options,
                                      struct kv_error *error);

/* Open the layers over store->device as the superblock says. For open and create. */
KV_MUST_CHECK int kv_store_assemble(struct kv_store *store,
                                    const struct kv_disk_superblock *superblock,
                                    const struct kv_open_options *options, struct kv_error *error);
/* Release the layers and the device; writes nothing. */
void kv_store_disassemble(struct kv_store *store);

/* kv/apply_redo.c: redo operations, for batches and for replay. Under the writer lock. leads: of
 * each operation of a plain record, or NULL. */
KV_MUST_CHECK int kv_store_apply_record(struct kv_store *store, const struct kv_record *record,
                                        const struct kv_btree_leads *leads);

/*
 * kv/apply_deferred.c. Bring changes that wait for their leaves into these, as far as they came
 * before the call. An error: some could not be read; the others are there, and those can still be
 * found by their keys. For who is about to look at leaves, and errors are not his. No locks held.
 */
int kv_settle(struct kv_store *store);
/*
 * The same, and take the writer lock, with no change left that waits. After an error, too, but then
 * some are. context: a struct kv_store. kv_settle_unlock gives it back.
 */
KV_MUST_CHECK int kv_settle_and_lock(void *context);
void kv_settle_unlock(void *context);

/* About how many pages applying a record may dirty; del_pages: those that its ranges cover. */
uint64_t kv_store_pages_needed(const struct kv_store *store, size_t op_count, size_t bytes,
                               uint64_t del_pages);

/* kv/recover.c. Find the log's end, claim the blobs that it names; before pages are opened. */
KV_MUST_CHECK int kv_store_scan_log(struct kv_store *store, struct kv_error *error);
/* kv/replay.c. Apply what the log holds, then make it part of the tree. */
KV_MUST_CHECK int kv_store_replay(struct kv_store *store, struct kv_error *error);

/* A checkpoint if anything changed since the last. Not under the writer lock, as the next. */
KV_MUST_CHECK int kv_store_checkpoint(struct kv_store *store, bool clean, bool always);
/* A checkpoint of `epoch` or a later one, unless somebody made it meanwhile. */
KV_MUST_CHECK int kv_store_checkpoint_of(struct kv_store *store, uint64_t epoch);
/* Wait for the checkpoint that is under way; make one if none ends that is not among `done`. */
KV_MUST_CHECK int kv_store_checkpoint_after(struct kv_store *store, uint64_t done);
/* Ask the background for a checkpoint; without background, nothing. */
void kv_store_want_checkpoint(struct kv_store *store);
/* The same for a write of the log, before who appends has to wait for one. */
void kv_store_want_log_write(struct kv_store *store);
/* Changes are deferred; `now`: so many that it is worth reading their leaves. */
void kv_store_want_settle(struct kv_store *store, bool now);
void kv_store_want_touch(void *context);    /* a store: memory is due to be faulted in; any lock */
bool kv_store_want_cleaning(void *context); /* a store: many pages are dirty; any lock. false: no
                                               thread will see to it */

/* The background threads. Stopping waits for them; without any, nothing. */
KV_MUST_CHECK int kv_store_start_threads(struct kv_store *store);
void kv_store_stop_threads(struct kv_store *store);

/* Read a large value: the contents of `count` references. */
KV_MUST_CHECK int kv_store_read_large(struct kv_store *store, const struct kv_blob_ref *refs,
                                      size_t count, uint8_t *buf);
/* kv/store_near.c; a kv_blob_find_near_fn, `context` is the store. */
size_t kv_store_find_near(void *context, const void *key, size_t key_len, uint64_t block,
                          uint32_t block_count, struct kv_blob_ref *refs, size_t max);
size_t kv_large_length(const struct kv_blob_ref *refs, size_t count);

#endif
