/*
 * kv/store_stats.c: what a store is and does, in figures.
 *
 * Owns       nothing; the layers count.
 * Locks      each layer's own, one after the other: the figures are not of one moment.
 */
#include "kv/store.h"

void kv_store_info(struct kv_store *store, struct kv_image_info *info)
{
    *info = store->info;
    info->epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
}

static uint64_t relaxed(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void stats_of_space(struct kv_store *store, struct kv_stats *stats)
{
    struct kv_space_stats space;
    kv_space_stats(store->space, &space);
    const uint32_t run_blocks = kv_blob_run_left(store->blobs.run); /* as good as free */
    const uint64_t free_blocks =
        space.total_blocks - space.busy_blocks + space.deferred_blocks + run_blocks;
    stats->total_bytes = space.total_blocks * KV_BLOCK_BYTES;
    stats->free_bytes = free_blocks * KV_BLOCK_BYTES;
    stats->available_bytes = (space.available_blocks + run_blocks) * KV_BLOCK_BYTES;
    stats->free_whole_bytes = space.whole_blocks * KV_BLOCK_BYTES;
    stats->free_longest_bytes = space.longest_blocks * KV_BLOCK_BYTES;
    stats->host_is_full = space.host_is_full;
}

static void stats_of_codecs(const struct kv_metrics *metrics, struct kv_stats *stats)
{
    for (unsigned i = 0; i <= KV_CODEC_ZSTD; i++) {
        stats->packed_raw_bytes[i] = kv_counter_sum(&metrics->codecs[i].raw_bytes);
        stats->packed_stored_bytes[i] = kv_counter_sum(&metrics->codecs[i].stored_bytes);
        stats->unpacked_bytes[i] = kv_counter_sum(&metrics->codecs[i].unpacked_bytes);
    }
}

/*
 * Writers wait when records weigh too much (kv_store_log_weight): so many bytes of log, if what is
 * still to come is like what is there.
 */
static uint64_t log_limit(struct kv_store *store, uint64_t used_bytes)
{
    const uint64_t weight =
        atomic_load_explicit(&store->log_since_checkpoint, memory_order_relaxed) +
        atomic_load_explicit(&store->log_closing, memory_order_relaxed);
    if (!used_bytes || weight <= used_bytes)
        return store->log_bytes_max;
    return (uint64_t)((double)store->log_bytes_max * (double)used_bytes / (double)weight);
}

void kv_store_stats(struct kv_store *store, struct kv_stats *stats)
{
    memset(stats, 0, sizeof *stats);
    stats_of_space(store, stats);
    struct kv_pager_stats pager;
    kv_pager_stats(store->pager, &pager);
    stats->memory_used_bytes = pager.memory_bytes + kv_pagemap_memory(store->map);
    stats->memory_budget_bytes = store->budget_bytes;
    stats->frames_total = pager.frames;
    stats->frames_hot = pager.tiers[KV_TIER_HOT].pages;
    stats->frames_warm = pager.tiers[KV_TIER_WARM].pages;
    stats->frames_dirty = pager.dirty;
    memcpy(stats->tiers, pager.tiers, sizeof stats->tiers);
    for (enum kv_tier tier = 0; tier < KV_TIER_COUNT; tier++)
        stats->page_hits += pager.tiers[tier].hits;
    stats->pages_packed = pager.packed;
    stats->pages_repacked = pager.repacked;
    stats->pages_unpackable = pager.unpackable;
    stats->page_misses = pager.misses;
    stats->page_evictions = pager.evictions;
    stats->page_promotions = pager.tiers[KV_TIER_HOT].promotions;
    stats->page_writes = pager.writes;
    stats->page_write_bytes = pager.write_bytes;
    stats->page_count = kv_pagemap_used_ids(store->map);
    struct kv_wal_stats wal;
    kv_wal_stats(store->wal, &wal);
    stats->log_records = wal.records;
    stats->log_bytes = wal.record_bytes;
    stats->log_flushes = wal.flushes;
    stats->log_used_bytes = wal.used_blocks * KV_BLOCK_BYTES;
    stats->log_limit_bytes = log_limit(store, stats->log_used_bytes);
    stats->log_waits = atomic_load_explicit(&store->log_waits, memory_order_relaxed);
    stats->log_wait_ns = atomic_load_explicit(&store->log_wait_ns, memory_order_relaxed);
    stats->log_total_bytes = wal.total_blocks * KV_BLOCK_BYTES;
    stats->blob_reads = atomic_load_explicit(&store->blobs.reads, memory_order_relaxed);
    stats->blob_read_bytes = atomic_load_explicit(&store->blobs.read_bytes, memory_order_relaxed);
    struct kv_blob_cache_stats cached = {0};
    if (store->blobs.cache)
        kv_blob_cache_stats(store->blobs.cache, &cached);
    stats->memory_used_bytes += cached.bytes;
    stats->blob_hits = cached.hits;
    stats->blob_misses = cached.misses;
    stats->blob_cached_bytes = cached.bytes;
    stats->retained_bytes = pager.retained_bytes + cached.retained_bytes;
    stats->retained_max_bytes = pager.retained_max_bytes + cached.retained_max_bytes;
    stats->blob_writes = atomic_load_explicit(&store->blobs.writes, memory_order_relaxed);
    stats->blob_write_bytes = atomic_load_explicit(&store->blobs.write_bytes, memory_order_relaxed);
    const struct kv_device_counts *counts = &store->device->counts;
    stats->device_reads = relaxed(&counts->reads);
    stats->device_read_bytes = relaxed(&counts->read_bytes);
    stats->device_writes = relaxed(&counts->writes);
    stats->device_write_bytes = relaxed(&counts->write_bytes);
    stats->device_flushes = relaxed(&counts->flushes);
    stats->direct_io = store->device->direct_io;
    stats->epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    stats->scrubs = atomic_load_explicit(&store->scrubs, memory_order_relaxed);
    stats->scrub_bytes = atomic_load_explicit(&store->scrub_bytes, memory_order_relaxed);
    stats->scrub_findings = atomic_load_explicit(&store->scrub_findings, memory_order_relaxed);
    stats->scrub_finished_ns =
        atomic_load_explicit(&store->scrub_finished_ns, memory_order_relaxed);
    stats->batches = atomic_load_explicit(&store->batches, memory_order_relaxed);
    stats->batch_bytes = atomic_load_explicit(&store->batch_bytes, memory_order_relaxed);
    stats->batches_deferred = atomic_load_explicit(&store->batches_deferred, memory_order_relaxed);
    stats->gets = kv_counter_sum(&store->gets);
    stats->checkpoints = atomic_load_explicit(&store->checkpoint.done, memory_order_relaxed);
    stats->checkpoints_wanted =
        atomic_load_explicit(&store->checkpoints_wanted, memory_order_relaxed);
    stats->checkpoints_asked =
        atomic_load_explicit(&store->checkpoints_asked, memory_order_relaxed);
    stats->checkpoint_bytes = atomic_load_explicit(&store->checkpoint.bytes, memory_order_relaxed);
    stats_of_codecs(&store->metrics, stats);
}

void kv_store_histogram(struct kv_store *store, enum kv_histogram_id id, struct kv_histogram *out)
{
    kv_histogram_set_read(store->metrics.histograms, id, out);
}
