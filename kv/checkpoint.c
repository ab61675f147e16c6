/*
 * kv/checkpoint.c: epoch n goes to disk, then the superblock flips.
 *
 * Owns       the superblock in memory, the open epoch's number.
 * Invariant  a superblock is written only after everything that it reaches was flushed, and
 *            nothing that it reaches is overwritten until a newer one is durable.
 * Locks      checkpoint->mutex for the whole run; the gate (writer lock) only for the moment
 *            in which the epoch changes. Order: mutex before gate.
 *
 * The steps, in the order that the crash-safety argument needs:
 *   1. gate: seal the log at position L, open epoch n + 1
 *   2. pages of n, to new space
 *   3. page map blocks and bitmaps of n, to new space or to the copy that is not active
 *   4. blobs that wait to be written; flush; superblock n; flush
 *   5. what only older epochs reached becomes free; the log's tail moves to L
 */
#include "kv/checkpoint.h"

/* So few pages take some milliseconds, for which writers may be made to wait. */
#define BRIEF_PAGES 256u

struct gate_notes {
    uint64_t epoch, page_id_next, log_tail, log_link;
};

/* Step 1. The only moment at which writers wait for a checkpoint. */
static int pass_gate(struct kv_checkpoint *checkpoint, struct gate_notes *notes)
{
    int err = checkpoint->close_gate(checkpoint->gate_context);
    checkpoint->begun = !err;
    notes->epoch = atomic_load_explicit(&checkpoint->epoch, memory_order_relaxed);
    const bool brief = kv_pager_dirty_pages(checkpoint->pager) <= BRIEF_PAGES;
    if (!err)
        err = kv_wal_seal(checkpoint->wal, brief, &notes->log_tail, &notes->log_link);
    if (!err) {
        notes->page_id_next = kv_pagemap_next_id(checkpoint->map);
        kv_pager_open_epoch(checkpoint->pager, notes->epoch + 1);
        atomic_store_explicit(&checkpoint->epoch, notes->epoch + 1, memory_order_relaxed);
    }
    checkpoint->open_gate(checkpoint->gate_context);
    return err;
}

/* Steps 1 to 5. */
static int run(struct kv_checkpoint *checkpoint, bool clean)
{
    struct gate_notes notes;
    int err = pass_gate(checkpoint, &notes);
    if (err)
        return err;
    if (KV_PLANT(log_trimmed_early))
        kv_wal_trim(checkpoint->wal, notes.log_tail);
    err = kv_pager_write_epoch(checkpoint->pager, notes.epoch, checkpoint->alone);
    if (err)
        return err;
    struct kv_pagemap_root root;
    err = kv_pagemap_write(checkpoint->map, notes.epoch, notes.page_id_next, &root);
    if (err)
        return err;
    uint64_t bitmap_digest, used_blocks;
    err = kv_space_write(checkpoint->space, notes.epoch, &bitmap_digest, &used_blocks);
    if (!err && !KV_PLANT(checkpoint_without_blobs))
        err = kv_blobs_flush(checkpoint->blobs);
    if (!err && !KV_PLANT(flush_left_out))
        err = kv_device_flush(checkpoint->device);
    if (err)
        return err;

    struct kv_disk_superblock next = checkpoint->superblock;
    next.epoch = kv_le64_of(notes.epoch);
    next.map_root = root.ptr;
    next.map_depth = kv_le32_of(root.depth);
    next.page_id_next = kv_le64_of(root.page_id_next);
    next.log_tail = kv_le64_of(notes.log_tail);
    next.log_tail_link = kv_le64_of(notes.log_link);
    next.bitmap_digest = kv_le64_of(bitmap_digest);
    next.used_blocks = kv_le64_of(used_blocks);
    next.clean = clean;
    err = kv_superblock_write(checkpoint->device, &next);
    if (err)
        return err;
    checkpoint->superblock = next;
    (void)atomic_fetch_add_explicit(&checkpoint->done, 1, memory_order_relaxed);

    kv_pagemap_written(checkpoint->map, notes.epoch);
    kv_space_written(checkpoint->space, notes.epoch);
    kv_wal_trim(checkpoint->wal, notes.log_tail);
    return 0;
}

/* Of the tree so far; what writers write out early counts to the checkpoint that is under way. */
static uint64_t tree_write_bytes(struct kv_checkpoint *checkpoint)
{
    struct kv_pager_stats pager;
    kv_pager_stats(checkpoint->pager, &pager);
    return pager.write_bytes + kv_pagemap_write_bytes(checkpoint->map);
}

int kv_checkpoint_run(struct kv_checkpoint *checkpoint, bool clean)
{
    struct kv_metrics *metrics = checkpoint->device->metrics;
    const uint64_t begin = kv_metrics_begin(metrics, KV_METRIC_WAL);
    const uint64_t bytes_before = tree_write_bytes(checkpoint);
    /* Half a checkpoint can not be gone on with, nor may the next one begin. */
    checkpoint->begun = checkpoint->failed;
    const int err = checkpoint->failed ? -EIO : run(checkpoint, clean);
    checkpoint->failed = err && checkpoint->begun;
    const uint64_t bytes = tree_write_bytes(checkpoint) - bytes_before;
    (void)atomic_fetch_add_explicit(&checkpoint->bytes, bytes, memory_order_relaxed);
    if (begin && !err) {
        kv_metrics_end(metrics, KV_HISTOGRAM_CHECKPOINT, begin);
        kv_metrics_note(metrics, KV_HISTOGRAM_CHECKPOINT_BYTES, bytes);
    }
    return err;
}
