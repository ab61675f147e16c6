/*
 * fs/fuse_stats.c: the figures of a mount as JSON.
 *
 * Owns nothing; reads counters, the store's statistics and the inode table.
 */
#include <stdio.h>

#include "fs/fuse_ops.h"
#include "fs/text.h"

static void add_store(struct fs_text *text, const struct kv_stats *stats)
{
    const struct {
        const char *name;
        uint64_t value;
    } figures[] = {
        {"total_bytes", stats->total_bytes},
        {"free_bytes", stats->free_bytes},
        {"available_bytes", stats->available_bytes},
        {"page_count", stats->page_count},
        {"epoch", stats->epoch},
        {"memory_budget_bytes", stats->memory_budget_bytes},
        {"memory_used_bytes", stats->memory_used_bytes},
        {"frames_total", stats->frames_total},
        {"frames_hot", stats->frames_hot},
        {"frames_warm", stats->frames_warm},
        {"frames_dirty", stats->frames_dirty},
        {"page_hits", stats->page_hits},
        {"page_misses", stats->page_misses},
        {"page_evictions", stats->page_evictions},
        {"page_writes", stats->page_writes},
        {"page_write_bytes", stats->page_write_bytes},
        {"pages_packed", stats->pages_packed},
        {"pages_repacked", stats->pages_repacked},
        {"pages_unpackable", stats->pages_unpackable},
        {"blob_reads", stats->blob_reads},
        {"blob_hits", stats->blob_hits},
        {"blob_misses", stats->blob_misses},
        {"blob_cached_bytes", stats->blob_cached_bytes},
        {"blob_read_bytes", stats->blob_read_bytes},
        {"blob_writes", stats->blob_writes},
        {"blob_write_bytes", stats->blob_write_bytes},
        {"device_reads", stats->device_reads},
        {"device_read_bytes", stats->device_read_bytes},
        {"device_writes", stats->device_writes},
        {"device_write_bytes", stats->device_write_bytes},
        {"device_flushes", stats->device_flushes},
        {"log_records", stats->log_records},
        {"log_bytes", stats->log_bytes},
        {"log_flushes", stats->log_flushes},
        {"log_used_bytes", stats->log_used_bytes},
        {"log_total_bytes", stats->log_total_bytes},
        {"checkpoints", stats->checkpoints},
        {"batches", stats->batches},
        {"gets", stats->gets},
        {"scrubs", stats->scrubs},
        {"scrub_bytes", stats->scrub_bytes},
        {"scrub_findings", stats->scrub_findings},
        {"scrub_finished_ns", stats->scrub_finished_ns},
    };
    static const char *const tiers[KV_TIER_COUNT] = {"hot", "warm", "cold", "frozen"};
    fs_text_add(text, "{\"direct_io\": %s", stats->direct_io ? "true" : "false");
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++)
        fs_text_add(text, ", \"%s\": %llu", figures[i].name, (unsigned long long)figures[i].value);
    for (unsigned tier = 0; tier < KV_TIER_COUNT; tier++) {
        const struct kv_tier_stats *of = &stats->tiers[tier];
        fs_text_add(text, "%s\"%s\": {\"bytes\": %llu, \"bytes_max\": %llu, \"pages\": %llu",
                    tier ? ", " : ", \"tiers\": {", tiers[tier], (unsigned long long)of->bytes,
                    (unsigned long long)of->bytes_max, (unsigned long long)of->pages);
        fs_text_add(text,
                    ", \"hits\": %llu, \"promotions\": %llu, \"evictions\": %llu, "
                    "\"ghost_hits\": %llu}",
                    (unsigned long long)of->hits, (unsigned long long)of->promotions,
                    (unsigned long long)of->evictions, (unsigned long long)of->ghost_hits);
    }
    fs_text_add(text, "}}");
}

size_t fs_fuse_stats_json(struct fs_fuse *fuse, char *out, size_t cap)
{
    struct fs_text text = {.out = out, .cap = cap};
    struct kv_stats stats;
    uint64_t inode_count, inode_bytes;
    kv_store_stats(fs_volume_store(fuse->volume), &stats);
    fs_volume_usage(fuse->volume, &inode_count, &inode_bytes);

    fs_text_add(&text, "{\"read_only\": %s, \"requests\": ", fuse->read_only ? "true" : "false");
    const bool fits = text.length < cap;
    text.length += fs_counters_json(&fuse->counters, fits ? out + text.length : NULL,
                                    fits ? cap - text.length : 0);
    fs_text_add(&text, ", \"inodes\": {\"known\": %llu, \"memory_bytes\": %llu}, \"store\": ",
                (unsigned long long)inode_count, (unsigned long long)inode_bytes);
    add_store(&text, &stats);
    fs_text_add(&text, "}\n");
    return text.length;
}
