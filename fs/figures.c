/*
 * fs/figures.c: the tables of what a mount can be asked for.
 *
 * Owns       names, categories and words of all figures: the one place that knows them.
 * Locks      none of its own; each layer takes its own while it is asked.
 */
#include "fs/figures.h"

#include <stdio.h>
#include <time.h>

#define STORE(member) offsetof(struct fs_figures, store.member)
#define COUNTER(name, help, category)                                                              \
    {                                                                                              \
#name, help, category, FS_FIGURE_COUNTER, STORE(name), NULL                                \
    }
#define GAUGE(name, help, category)                                                                \
    {                                                                                              \
#name, help, category, FS_FIGURE_GAUGE, STORE(name), NULL                                  \
    }

#define TIER_ROW(name, help, kind, member)                                                         \
    {                                                                                              \
        name, help, KV_METRIC_CACHE, FS_FIGURE_##kind, STORE(member), NULL                         \
    }
/* The rows of a tier. */
#define TIER(name, tier)                                                                           \
    TIER_ROW(name "_bytes", "Memory that the tier " name " takes", GAUGE, tiers[tier].bytes),      \
        TIER_ROW(name "_pages", "Pages in the tier " name, GAUGE, tiers[tier].pages),              \
        TIER_ROW(name "_hits", "Uses of pages found in the tier " name, COUNTER,                   \
                 tiers[tier].hits),                                                                \
        TIER_ROW(name "_promotions", "Pages that came up into the tier " name, COUNTER,            \
                 tiers[tier].promotions),                                                          \
        TIER_ROW(name "_evictions", "Pages that left the tier " name " downwards", COUNTER,        \
                 tiers[tier].evictions),                                                           \
        TIER_ROW(name "_ghost_hits",                                                               \
                 "Pages back soon after they left: a larger tier " name " had kept them", COUNTER, \
                 tiers[tier].ghost_hits)

static const struct fs_figure store_figures[] = {
    GAUGE(total_bytes, "Bytes that keys and values can take", KV_METRIC_SPACE),
    GAUGE(free_bytes, "Bytes that are free, now or after the next checkpoint", KV_METRIC_SPACE),
    GAUGE(available_bytes, "Bytes that can still be written", KV_METRIC_SPACE),
    GAUGE(free_whole_bytes, "Free bytes in places large enough for a page", KV_METRIC_SPACE),
    GAUGE(free_longest_bytes, "No free stretch is longer", KV_METRIC_SPACE),
    {"host_is_full", "1: the file system that holds the image has no room", KV_METRIC_SPACE,
     FS_FIGURE_FLAG, STORE(host_is_full), NULL},
    {"page_count", "Pages of the tree in use", KV_METRIC_TREE, FS_FIGURE_GAUGE, STORE(page_count),
     "pages"},
    COUNTER(epoch, "Epoch that is open", KV_METRIC_TREE),
    COUNTER(batches, "Batches applied", KV_METRIC_TREE),
    COUNTER(gets, "Keys looked up", KV_METRIC_TREE),
    GAUGE(memory_budget_bytes, "Memory that may be used for what is cached or changed",
          KV_METRIC_CACHE),
    GAUGE(memory_used_bytes, "Memory that is used for it", KV_METRIC_CACHE),
    {"frames_total", "Places for pages in memory", KV_METRIC_CACHE, FS_FIGURE_GAUGE,
     STORE(frames_total), "frames"},
    GAUGE(frames_hot, "Pages in memory that are used again and again", KV_METRIC_CACHE),
    GAUGE(frames_warm, "Pages in memory that came lately", KV_METRIC_CACHE),
    GAUGE(frames_dirty, "Pages in memory that are not written yet", KV_METRIC_CACHE),
    COUNTER(page_hits, "Pages found in memory", KV_METRIC_CACHE),
    COUNTER(page_misses, "Pages read from the device", KV_METRIC_CACHE),
    COUNTER(page_promotions, "Pages that went from warm to hot", KV_METRIC_CACHE),
    COUNTER(page_evictions, "Pages that left their frames", KV_METRIC_CACHE),
    COUNTER(pages_packed, "Pages packed for the tier cold", KV_METRIC_CACHE),
    COUNTER(pages_repacked, "Pages packed closer for the tier frozen", KV_METRIC_CACHE),
    COUNTER(pages_unpackable, "Pages that gain too little from it", KV_METRIC_CACHE),
    TIER("hot", KV_TIER_HOT),
    TIER("warm", KV_TIER_WARM),
    TIER("cold", KV_TIER_COLD),
    TIER("frozen", KV_TIER_FROZEN),
    COUNTER(blob_hits, "Extents found in memory", KV_METRIC_CACHE),
    COUNTER(blob_misses, "Extents not found in memory", KV_METRIC_CACHE),
    GAUGE(blob_cached_bytes, "Memory that extents take", KV_METRIC_CACHE),
    GAUGE(retained_bytes, "Memory of pages and extents of files that a policy pins",
          KV_METRIC_CACHE),
    GAUGE(retained_max_bytes, "What these may take", KV_METRIC_CACHE),
    COUNTER(page_writes, "Pages written", KV_METRIC_IO),
    COUNTER(page_write_bytes, "Bytes of pages written", KV_METRIC_IO),
    COUNTER(blob_reads, "Extents read", KV_METRIC_IO),
    COUNTER(blob_read_bytes, "Bytes of extents read", KV_METRIC_IO),
    COUNTER(blob_writes, "Extents written", KV_METRIC_IO),
    COUNTER(blob_write_bytes, "Bytes of extents written, packed", KV_METRIC_IO),
    COUNTER(device_reads, "Transfers from the device", KV_METRIC_IO),
    COUNTER(device_read_bytes, "Bytes read from the device", KV_METRIC_IO),
    COUNTER(device_writes, "Transfers to the device", KV_METRIC_IO),
    COUNTER(device_write_bytes, "Bytes written to the device", KV_METRIC_IO),
    COUNTER(device_flushes, "Flushes of the device", KV_METRIC_IO),
    {"direct_io", "1: the device is used with O_DIRECT", KV_METRIC_IO, FS_FIGURE_FLAG,
     STORE(direct_io), NULL},
    COUNTER(log_records, "Batches written to the log", KV_METRIC_WAL),
    COUNTER(log_bytes, "Bytes of batches written to the log", KV_METRIC_WAL),
    COUNTER(log_flushes, "Flushes of the log", KV_METRIC_WAL),
    GAUGE(log_used_bytes, "Bytes of the log that are in use", KV_METRIC_WAL),
    GAUGE(log_limit_bytes, "Bytes of the log that may be in use before writers wait",
          KV_METRIC_WAL),
    GAUGE(log_total_bytes, "Bytes of the log", KV_METRIC_WAL),
    COUNTER(log_waits, "Batches that waited for room in the log", KV_METRIC_WAL),
    {"log_wait_ns", "Time that they waited", KV_METRIC_WAL, FS_FIGURE_DURATION_NS,
     STORE(log_wait_ns), NULL},
    COUNTER(batches_deferred, "Batches that did not wait for their pages", KV_METRIC_TREE),
    COUNTER(checkpoints, "Checkpoints", KV_METRIC_WAL),
    COUNTER(checkpoints_wanted, "Checkpoints since the log or memory got full", KV_METRIC_WAL),
    COUNTER(checkpoints_asked, "Checkpoints that a program asked for", KV_METRIC_WAL),
    COUNTER(checkpoint_bytes, "Bytes of pages and page map that checkpoints wrote", KV_METRIC_WAL),
    COUNTER(scrubs, "Scrubs that ran to their end", KV_METRIC_SPACE),
    COUNTER(scrub_bytes, "Bytes that scrubs read", KV_METRIC_SPACE),
    COUNTER(scrub_findings, "Damage that scrubs found", KV_METRIC_SPACE),
    {"scrub_finished_ns", "End of the last whole scrub, 0: none", KV_METRIC_SPACE,
     FS_FIGURE_TIME_NS, STORE(scrub_finished_ns), NULL},
};

#define MOUNT(member) offsetof(struct fs_figures, member)

static const struct fs_figure mount_figures[] = {
    {"inodes_known", "Inodes that the kernel knows", KV_METRIC_FUSE, FS_FIGURE_GAUGE,
     MOUNT(inode_count), NULL},
    {"inodes_memory_bytes", "Memory that they and listings take", KV_METRIC_FUSE, FS_FIGURE_GAUGE,
     MOUNT(inode_bytes), NULL},
    {"content_read_bytes", "Bytes of content that the kernel read", KV_METRIC_FUSE,
     FS_FIGURE_COUNTER, MOUNT(read_bytes), NULL},
    {"content_written_bytes", "Bytes of content that the kernel wrote", KV_METRIC_FUSE,
     FS_FIGURE_COUNTER, MOUNT(written_bytes), NULL},
    {"threads", "Threads that serve requests", KV_METRIC_FUSE, FS_FIGURE_GAUGE, MOUNT(threads),
     NULL},
    {"thread_waits", "Requests found waiting when all threads had been busy", KV_METRIC_FUSE,
     FS_FIGURE_COUNTER, MOUNT(thread_waits), NULL},
    {"names_again", "Names looked up again that the kernel had been told", KV_METRIC_FUSE,
     FS_FIGURE_COUNTER, MOUNT(names_again), NULL},
    {"reads_again", "Content read again that the kernel had been given", KV_METRIC_FUSE,
     FS_FIGURE_COUNTER, MOUNT(reads_again), NULL},
    {"long_reads", "Reads of 64 KiB of a file and more", KV_METRIC_FUSE, FS_FIGURE_COUNTER,
     MOUNT(long_reads), NULL},
    {"long_read_bytes", "Bytes of them", KV_METRIC_FUSE, FS_FIGURE_COUNTER, MOUNT(long_read_bytes),
     NULL},
    {"long_read_pieces", "Extents and pieces in leaves that they were made of", KV_METRIC_FUSE,
     FS_FIGURE_COUNTER, MOUNT(long_read_pieces), NULL},
    {"uptime_ns", "Time since it was mounted", 0, FS_FIGURE_DURATION_NS, MOUNT(uptime_ns), NULL},
    {"cpu_ns", "Time of processors that the daemon took", KV_METRIC_FUSE, FS_FIGURE_DURATION_NS,
     MOUNT(cpu_ns), NULL},
    {"read_only", "1: mounted read-only", 0, FS_FIGURE_FLAG, MOUNT(read_only), NULL},
    {"failed", "1: a write failed, and nothing can be written any more", 0, FS_FIGURE_FLAG,
     MOUNT(failed), NULL},
};

#define COUNT_OF(table) (sizeof(table) / sizeof(table)[0])

const struct fs_figure *fs_figure_of_store(size_t index)
{
    return index < COUNT_OF(store_figures) ? &store_figures[index] : NULL;
}

const struct fs_figure *fs_figure_of_mount(size_t index)
{
    return index < COUNT_OF(mount_figures) ? &mount_figures[index] : NULL;
}

uint64_t fs_figure_value(const struct fs_figure *figure, const struct fs_figures *figures)
{
    const void *at = (const char *)figures + figure->offset;
    if (figure->kind == FS_FIGURE_FLAG)
        return *(const bool *)at;
    return *(const uint64_t *)at;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    (void)clock_gettime(clock, &now); /* the arguments are right */
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void fs_figures_read(struct fs_volume *volume, const struct fs_counters *counters, bool read_only,
                     struct fs_figures *figures)
{
    struct kv_store *store = fs_volume_store(volume);
    memset(figures, 0, sizeof *figures);
    figures->categories = atomic_load_explicit(&counters->categories, memory_order_relaxed);
    figures->read_only = read_only;
    figures->failed = kv_store_failure(store) != 0;
    kv_store_stats(store, &figures->store);
    fs_volume_usage(volume, &figures->inode_count, &figures->inode_bytes);
    figures->read_bytes = atomic_load_explicit(&counters->read_bytes, memory_order_relaxed);
    figures->written_bytes = atomic_load_explicit(&counters->written_bytes, memory_order_relaxed);
    figures->threads = atomic_load_explicit(&counters->threads, memory_order_relaxed);
    figures->thread_waits = atomic_load_explicit(&counters->thread_waits, memory_order_relaxed);
    figures->names_again = atomic_load_explicit(&counters->names_again, memory_order_relaxed);
    figures->reads_again = atomic_load_explicit(&counters->reads_again, memory_order_relaxed);
    struct fs_long_reads reads;
    fs_volume_long_reads(volume, &reads);
    figures->long_reads = reads.count;
    figures->long_read_bytes = reads.bytes;
    figures->long_read_pieces = reads.pieces;
    figures->cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    figures->uptime_ns = clock_ns(CLOCK_MONOTONIC) - counters->begun_ns;
}

/* ---- ratios --------------------------------------------------------------------------- */

static double ratio(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : -1;
}

static double page_hits(const struct fs_figures *figures)
{
    const struct kv_stats *store = &figures->store;
    return ratio(store->page_hits, store->page_hits + store->page_misses);
}

static double extent_hits(const struct fs_figures *figures)
{
    const struct kv_stats *store = &figures->store;
    return ratio(store->blob_hits, store->blob_hits + store->blob_misses);
}

static double write_amplification(const struct fs_figures *figures)
{
    return ratio(figures->store.device_write_bytes, figures->written_bytes);
}

static double scattered(const struct fs_figures *figures)
{
    const struct kv_stats *store = &figures->store;
    const uint64_t whole = kv_min_u64(store->free_whole_bytes, store->free_bytes);
    return ratio(store->free_bytes - whole, store->free_bytes);
}

static double available(const struct fs_figures *figures)
{
    return ratio(figures->store.available_bytes, figures->store.total_bytes);
}

static double log_use(const struct fs_figures *figures)
{
    return ratio(figures->store.log_used_bytes, figures->store.log_limit_bytes);
}

static double packed(const struct fs_figures *figures)
{
    uint64_t raw = 0, stored = 0;
    for (unsigned i = 0; i < KV_CODEC_COUNT; i++) {
        raw += figures->store.packed_raw_bytes[i];
        stored += figures->store.packed_stored_bytes[i];
    }
    return ratio(stored, raw);
}

static const struct fs_ratio ratios[] = {
    {"page_hit_ratio", "Share of pages that were found in memory", KV_METRIC_CACHE, page_hits},
    {"extent_hit_ratio", "Share of extents that were found in memory", KV_METRIC_CACHE,
     extent_hits},
    {"write_amplification_ratio", "Bytes written to the device for each byte of content",
     KV_METRIC_IO, write_amplification},
    {"scattered_free_ratio", "Share of the free space in places too small for a page",
     KV_METRIC_SPACE, scattered},
    {"available_ratio", "Share of all space that can still be written", KV_METRIC_SPACE, available},
    {"log_used_ratio", "Share of the log's bound that is in use", KV_METRIC_WAL, log_use},
    {"packed_ratio", "Bytes stored for each byte that was to be packed", KV_METRIC_CODEC, packed},
};

const struct fs_ratio *fs_ratio_at(size_t index)
{
    return index < COUNT_OF(ratios) ? &ratios[index] : NULL;
}

/* ---- distributions, codecs, categories ------------------------------------------------ */

static const struct fs_distribution distributions[KV_HISTOGRAM_COUNT] = {
    [KV_HISTOGRAM_DEVICE_READ] = {"device_read", "Reads from the device", KV_METRIC_IO, true},
    [KV_HISTOGRAM_DEVICE_WRITE] = {"device_write", "Writes to the device without a flush",
                                   KV_METRIC_IO, true},
    [KV_HISTOGRAM_DEVICE_FLUSH] = {"device_flush", "Flushes of the device, with their writes",
                                   KV_METRIC_IO, true},
    [KV_HISTOGRAM_LOG_FLUSH] = {"log_flush", "Flushes of the log", KV_METRIC_WAL, true},
    [KV_HISTOGRAM_LOG_GROUP] = {"log_group_batches", "Batches that one flush made durable",
                                KV_METRIC_WAL, false},
    [KV_HISTOGRAM_CHECKPOINT] = {"checkpoint", "Checkpoints", KV_METRIC_WAL, true},
    [KV_HISTOGRAM_CHECKPOINT_BYTES] = {"checkpoint_size_bytes", "Bytes that a checkpoint wrote",
                                       KV_METRIC_WAL, false},
    [KV_HISTOGRAM_PACK_NONE] = {"pack_none", "Packing that saved nothing", KV_METRIC_CODEC, true},
    [KV_HISTOGRAM_PACK_LZ4] = {"pack_lz4", "Packing with lz4", KV_METRIC_CODEC, true},
    [KV_HISTOGRAM_PACK_ZSTD] = {"pack_zstd", "Packing with zstd", KV_METRIC_CODEC, true},
    [KV_HISTOGRAM_UNPACK_NONE] = {"unpack_none", "Copying what was not packed", KV_METRIC_CODEC,
                                  true},
    [KV_HISTOGRAM_UNPACK_LZ4] = {"unpack_lz4", "Unpacking of lz4", KV_METRIC_CODEC, true},
    [KV_HISTOGRAM_UNPACK_ZSTD] = {"unpack_zstd", "Unpacking of zstd", KV_METRIC_CODEC, true},
};

const struct fs_distribution *fs_distribution_at(unsigned id)
{
    return id < KV_HISTOGRAM_COUNT && distributions[id].name ? &distributions[id] : NULL;
}

static const struct {
    const char *name;
    unsigned bits;
} categories_table[] = {
    {"cache", KV_METRIC_CACHE}, {"wal", KV_METRIC_WAL},   {"io", KV_METRIC_IO},
    {"fuse", KV_METRIC_FUSE},   {"tree", KV_METRIC_TREE}, {"codec", KV_METRIC_CODEC},
    {"space", KV_METRIC_SPACE}, {"all", KV_METRIC_ALL},   {"none", 0},
};
#define CATEGORY_COUNT (COUNT_OF(categories_table) - 2) /* but for the last two */

const char *fs_category_name(size_t index, unsigned *bit)
{
    if (index >= CATEGORY_COUNT)
        return NULL;
    *bit = categories_table[index].bits;
    return categories_table[index].name;
}

int fs_categories_parse(const char *text, unsigned *categories)
{
    unsigned found = 0;
    for (const char *word = text;;) {
        const size_t length = strcspn(word, ",+");
        size_t i = 0;
        while (i < COUNT_OF(categories_table) &&
               (strlen(categories_table[i].name) != length ||
                strncmp(categories_table[i].name, word, length) != 0))
            i++;
        if (i == COUNT_OF(categories_table))
            return -EINVAL;
        found |= categories_table[i].bits;
        if (!word[length])
            break;
        word += length + 1;
    }
    *categories = found;
    return 0;
}

void fs_categories_text(unsigned categories, char *text)
{
    size_t used = 0;
    text[0] = '\0';
    if ((categories & KV_METRIC_ALL) == 0 || (categories & KV_METRIC_ALL) == KV_METRIC_ALL) {
        strcpy(text, categories & KV_METRIC_ALL ? "all" : "none");
        return;
    }
    for (size_t i = 0; i < CATEGORY_COUNT; i++)
        if (categories & categories_table[i].bits)
            used += (size_t)snprintf(text + used, FS_CATEGORIES_TEXT - used, "%s%s",
                                     used ? "," : "", categories_table[i].name);
}
