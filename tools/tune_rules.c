/*
 * tools/tune_rules.c: what holds a mount back: one function for each thing that may.
 *
 * Owns       the limits, and the words.
 * Invariant  a rule looks at its view only, so the same view gives the same findings.
 *
 * A rule says nothing where there is too little to judge by, and nothing where the remedy would be
 * another rule's: memory that is too small is told only when its division is right.
 */
#include "tools/tune.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kv/base.h"
#include "tools/config.h"
#include "tools/options.h"

#define MIB             1048576.0
#define THREADS_DEFAULT 10.0
#define THREADS_MOST    256.0

enum {
    PAGE_USES_LEAST,
    PAGE_MISS_SHARE,
    PAGE_BACK_SHARE,
    PAGE_PACKING,
    HOT_SHARE,
    UNPACK_SHARE,
    LOG_WAITS,
    CHECKPOINTS_LEAST,
    CHECKPOINT_SECONDS,
    PACKED_BYTES_LEAST,
    PACKED_IN_VAIN,
    REQUESTS_LEAST,
    THREAD_WAITS,
    THREADS_FOR_EACH,
    THREAD_CPU_SHARE,
    AGAIN_LEAST,
    AGAIN_SHARE,
    LONG_READS_LEAST,
    PIECE_BYTES,
    LIMIT_COUNT
};

static const struct tune_limit limits[LIMIT_COUNT] = {
    [PAGE_USES_LEAST] = {"page_uses_least", 10000,
                         "fewer uses of pages are no workload, but its beginning"},
    [PAGE_MISS_SHARE] = {"page_miss_share", 0.01,
                         "a read takes some hundred times as long as a page in memory: below that "
                         "memory is not what requests wait for"},
    [PAGE_BACK_SHARE] = {"page_back_share", 0.2,
                         "of the pages that were read, those that had left lately: what is "
                         "remembered of them covers about twice the memory, so fewer would gain "
                         "little by more memory"},
    [PAGE_PACKING] = {"page_packing", 0.75,
                      "pages that keep more than that of their length are not kept packed"},
    [HOT_SHARE] = {"hot_share", 0.5,
                   "of hot and warm together; traces were best at 12 to 3 (bench/policy)"},
    [UNPACK_SHARE] = {"unpack_share", 0.05,
                      "unpacking a page takes some twenty times as long as using it"},
    [LOG_WAITS] = {"log_waits", 16, "a single burst may well wait once or twice"},
    [CHECKPOINTS_LEAST] = {"checkpoints_least", 12, "fewer are a matter of chance"},
    [CHECKPOINT_SECONDS] = {"checkpoint_seconds", 10,
                            "left alone, there is one in 30 seconds: pages that change all the "
                            "time are written three times as often"},
    [PACKED_BYTES_LEAST] = {"packed_bytes_least", 16 * MIB, "less says nothing about the rest"},
    [PACKED_IN_VAIN] = {"packed_in_vain", 0.75,
                        "of the bytes that were to be packed: what the rest saves is less than a "
                        "tenth, as a rule"},
    [REQUESTS_LEAST] = {"requests_least", 500, "fewer requests are no workload"},
    [THREAD_WAITS] = {"thread_waits", 0.25,
                      "of the requests; some wait on every mount that is busy, for moments"},
    [THREADS_FOR_EACH] = {"threads_for_each", 4,
                          "of the processors: with fewer threads there may be idle processors "
                          "while all threads wait for the device; with as many they are worth "
                          "more only if they wait most of the time"},
    [THREAD_CPU_SHARE] = {"thread_cpu_share", 0.5,
                          "of the time in which requests are served: above, more threads would "
                          "wait for a processor instead"},
    [AGAIN_LEAST] = {"again_least", 256, "fewer may come from one program that starts"},
    [AGAIN_SHARE] = {"again_share", 0.25, "of the requests of that kind"},
    [LONG_READS_LEAST] = {"long_reads_least", 64, "8 MiB, as the kernel reads ahead"},
    [PIECE_BYTES] = {"piece_bytes", 16384,
                     "a device reads a piece of that length in twice the time of the smallest; an "
                     "extent that is written in order has eight times as much"},
};

const struct tune_limit *tune_limit(size_t index)
{
    return index < LIMIT_COUNT ? &limits[index] : NULL;
}

static double limit(unsigned which)
{
    return limits[which].value;
}

uint64_t tune_piece_bytes(void)
{
    return (uint64_t)limit(PIECE_BYTES);
}

/* ---- figures ---------------------------------------------------------------------------- */

double tune_more(const struct tune_view *view, const char *path)
{
    const double more =
        tool_figure(view->now, path) - (view->before ? tool_figure(view->before, path) : 0);
    return more > 0 ? more : 0;
}

static double part_of(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

static double share_of(double part, double whole)
{
    const double share = part_of(part, whole);
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

static double least_of(double a, double b)
{
    return a < b ? a : b;
}

static double most_of(double a, double b)
{
    return a > b ? a : b;
}

/* The time of all requests. */
static double request_ns(const struct tune_view *view)
{
    return tune_more(view, "latency_ns.all.sum");
}

static double mean_ns(const struct tune_view *view, const char *group)
{
    char path[TOOL_FIGURE_PATH];
    (void)snprintf(path, sizeof path, "%s.sum", group);
    const double sum = tune_more(view, path);
    (void)snprintf(path, sizeof path, "%s.count", group);
    return part_of(sum, tune_more(view, path));
}

/* ---- words ------------------------------------------------------------------------------ */

static void add_evidence(struct tune_finding *finding, const char *name, double value)
{
    KV_ASSERT(finding->evidence_count < TUNE_EVIDENCE_MAX);
    finding->evidence[finding->evidence_count].name = name;
    finding->evidence[finding->evidence_count++].value = value;
}

static void say(struct tune_finding *finding, const char *format, ...) KV_PRINTF(2, 3);

static void say(struct tune_finding *finding, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(finding->text, sizeof finding->text, format, args);
    va_end(args);
}

#define SET(field, ...) (void)snprintf(field, sizeof(field), __VA_ARGS__)

/* The setting's value, as mount.conf has it. */
static void set_present(struct tune_finding *finding, const struct tune_view *view, const char *key)
{
    char line[160];
    const size_t length = strlen(key);
    SET(finding->setting, "%s", key);
    for (size_t i = 0;
         view->has_settings && tool_config_show(i, &view->settings, line, sizeof line); i++)
        if (strncmp(line, key, length) == 0 && line[length] == '=')
            SET(finding->present, "%.47s", line + length + 1);
}

static void set_how_anew(struct tune_finding *finding)
{
    SET(finding->how, "%.40s=%.79s in mount.conf or with -o; unmount and mount again",
        finding->setting, finding->proposed);
}

/* ---- memory ----------------------------------------------------------------------------- */

void tune_memory(const struct tune_view *view, struct tune_memory *memory)
{
    const double warm_back = tune_more(view, "store.warm_ghost_hits");
    const double frozen_back = tune_more(view, "store.frozen_ghost_hits");
    memory->misses = tune_more(view, "store.page_misses");
    memory->uses = tune_more(view, "store.page_hits") + memory->misses;
    memory->packed_hits = tune_more(view, "store.cold_hits") + tune_more(view, "store.frozen_hits");
    /* Pages that left their frame lately are found packed, or read from the device. */
    memory->unpacked_back = least_of(warm_back, memory->packed_hits);
    const double frames_back = warm_back - memory->unpacked_back;
    memory->back = least_of(most_of(frozen_back, frames_back), memory->misses);
    const double page_bytes = tune_more(view, "store.device_read_bytes") -
                              tune_more(view, "store.blob_read_bytes") -
                              tune_more(view, "store.scrub_bytes");
    memory->packing =
        page_bytes > 0 ? part_of(page_bytes, memory->misses * view->image.node_bytes) : 0;
}

static bool is_short_of_memory(const struct tune_memory *memory)
{
    return memory->uses >= limit(PAGE_USES_LEAST) &&
           memory->misses >= memory->uses * limit(PAGE_MISS_SHARE) &&
           memory->back >= memory->misses * limit(PAGE_BACK_SHARE);
}

/* What pages cost that had left lately. */
static double cost_of_reading(const struct tune_view *view, const struct tune_memory *memory)
{
    const double read_ns = mean_ns(view, "histograms.device_read_ns");
    return read_ns > 0 && request_ns(view) > 0 ? share_of(memory->back * read_ns, request_ns(view))
                                               : share_of(memory->back, memory->uses);
}

static void add_memory(struct tune_finding *finding, const struct tune_memory *memory)
{
    add_evidence(finding, "page_uses", memory->uses);
    add_evidence(finding, "page_misses", memory->misses);
    add_evidence(finding, "page_misses_back", memory->back);
    add_evidence(finding, "packed_hits", memory->packed_hits);
    add_evidence(finding, "page_packing", memory->packing);
}

static void propose_tiers(struct tune_finding *finding, const struct tune_view *view,
                          const struct kv_tiers *to)
{
    const uint32_t *const now = view->settings.tiers.ratio, *const r = to->ratio;
    SET(finding->setting, "hot_ratio,warm_ratio,cold_ratio,frozen_ratio");
    SET(finding->present, "%u,%u,%u,%u", now[0], now[1], now[2], now[3]);
    SET(finding->proposed, "%u,%u,%u,%u", r[0], r[1], r[2], r[3]);
    SET(finding->how,
        "printf 'hot_ratio=%u\\nwarm_ratio=%u\\ncold_ratio=%u\\nfrozen_ratio=%u\\n' > "
        "MOUNT/.kvfs/config, "
        "and the same in mount.conf; kvfs tune --auto finds them by itself",
        r[0], r[1], r[2], r[3]);
}

static uint32_t packed_ratio(const struct kv_tiers *tiers)
{
    return tiers->ratio[KV_TIER_COLD] + tiers->ratio[KV_TIER_FROZEN];
}

/* Pages are read that memory had and that pack well, and nothing is kept packed, nor will be. */
static bool lacks_packed_tiers(const struct tune_view *view, const struct tune_memory *memory)
{
    return view->has_settings && !view->settings.adapt_tiers &&
           packed_ratio(&view->settings.tiers) == 0 && memory->packing > 0 &&
           memory->packing <= limit(PAGE_PACKING);
}

/* Pages that are used again and again have less than others. */
static bool lacks_hot(const struct tune_view *view)
{
    const struct kv_tiers *const tiers = &view->settings.tiers;
    const double frames = (double)tiers->ratio[KV_TIER_HOT] + tiers->ratio[KV_TIER_WARM];
    return view->has_settings && frames > 0 &&
           tiers->ratio[KV_TIER_HOT] < frames * limit(HOT_SHARE);
}

/* Memory is enough, but pages are unpacked again and again that frames could hold. */
static bool lacks_frames(const struct tune_view *view, const struct tune_memory *memory)
{
    return view->has_settings && packed_ratio(&view->settings.tiers) > 0 &&
           memory->uses >= limit(PAGE_USES_LEAST) &&
           memory->packed_hits >= memory->uses * limit(UNPACK_SHARE) &&
           memory->unpacked_back >= memory->packed_hits / 2 &&
           memory->misses <= memory->packed_hits / 10;
}

static bool find_tiers(const struct tune_view *view, struct tune_finding *finding)
{
    struct tune_memory memory;
    struct kv_tiers to = view->settings.tiers;
    uint32_t *const ratio = to.ratio;
    tune_memory(view, &memory);
    const bool is_short = is_short_of_memory(&memory);
    if (lacks_frames(view, &memory)) {
        say(finding,
            "%.0f of %.0f uses of pages found them packed, half of them and more just after they "
            "had left their frame (%.0f), and %.0f were read: frames have too little of the memory",
            memory.packed_hits, memory.uses, memory.unpacked_back, memory.misses);
        ratio[KV_TIER_COLD] /= 2;
        ratio[KV_TIER_FROZEN] /= 2;
        finding->share = share_of(mean_ns(view, "histograms.unpack_lz4_ns") * memory.packed_hits,
                                  request_ns(view));
    } else if (is_short && lacks_hot(view)) {
        say(finding,
            "%.0f of %.0f pages that were read had left lately, and pages that are used again and "
            "again (hot) have less than half of the frames",
            memory.back, memory.misses);
        const uint32_t frames = ratio[KV_TIER_HOT] + ratio[KV_TIER_WARM];
        ratio[KV_TIER_HOT] = kv_max_u64(frames * 4 / 5, 1) & UINT32_MAX;
        ratio[KV_TIER_WARM] = frames - ratio[KV_TIER_HOT];
        finding->share = cost_of_reading(view, &memory);
    } else if (is_short && lacks_packed_tiers(view, &memory)) {
        say(finding,
            "%.0f of %.0f pages that were read had left lately; they take %.0f %% of their length "
            "when they are packed, and nothing is kept packed",
            memory.back, memory.misses, 100 * memory.packing);
        to = kv_tiers_with_packed(&(struct kv_tiers){.ratio = {12, 3}});
        finding->share = cost_of_reading(view, &memory);
    } else {
        return false;
    }
    add_memory(finding, &memory);
    propose_tiers(finding, view, &to);
    return true;
}

static bool find_budget(const struct tune_view *view, struct tune_finding *finding)
{
    struct tune_memory memory;
    tune_memory(view, &memory);
    if (!is_short_of_memory(&memory) || lacks_packed_tiers(view, &memory) || lacks_hot(view))
        return false;
    const double budget = tool_figure(view->now, "store.memory_budget_bytes");
    say(finding,
        "%.1f %% of uses of pages read them from the device, and %.0f of these %.0f pages had been "
        "in memory lately: with twice the memory they would still be there",
        100 * memory.misses / memory.uses, memory.back, memory.misses);
    add_memory(finding, &memory);
    add_evidence(finding, "memory_budget_bytes", budget);
    set_present(finding, view, "memory_budget");
    SET(finding->proposed, "%.0fM", 2 * budget / MIB);
    set_how_anew(finding);
    finding->share = cost_of_reading(view, &memory);
    return true;
}

/* ---- log, checkpoints ------------------------------------------------------------------- */

static bool find_log(const struct tune_view *view, struct tune_finding *finding)
{
    const double waits = tune_more(view, "store.log_waits");
    const double waited_ns = tune_more(view, "store.log_wait_ns");
    const double total = tool_figure(view->now, "store.log_total_bytes");
    if (waits < limit(LOG_WAITS))
        return false;
    char size[TOOL_SIZE_TEXT], wanted[TOOL_SIZE_TEXT];
    tool_format_size((uint64_t)total, size);
    tool_format_size((uint64_t)(4 * total), wanted);
    say(finding,
        "%.0f batches waited for room in the log, %.2f s in all: %s are full before a checkpoint "
        "ends",
        waits, waited_ns / 1e9, size);
    add_evidence(finding, "log_waits", waits);
    add_evidence(finding, "log_wait_seconds", waited_ns / 1e9);
    add_evidence(finding, "log_total_bytes", total);
    add_evidence(finding, "checkpoints", tune_more(view, "store.checkpoints"));
    SET(finding->setting, "log size");
    SET(finding->present, "%s", size);
    SET(finding->proposed, "%s", wanted);
    SET(finding->how,
        "a log has its size for ever: mkfs.kvfs -l %.0fM a new image, kvfs export the old one, "
        "kvfs "
        "import into the new one",
        4 * total / MIB > 1 ? 4 * total / MIB : 1);
    finding->share = share_of(waited_ns, request_ns(view));
    return true;
}

static bool find_checkpoints(const struct tune_view *view, struct tune_finding *finding)
{
    const double all = tune_more(view, "store.checkpoints");
    const double wanted = tune_more(view, "store.checkpoints_wanted");
    const double asked = tune_more(view, "store.checkpoints_asked");
    const double seconds = tune_more(view, "mount.uptime_ns") / 1e9;
    /* Those that a full log asks for are another matter. */
    const double count = all - least_of(wanted, all);
    if (count < limit(CHECKPOINTS_LEAST) || seconds / count >= limit(CHECKPOINT_SECONDS))
        return false;
    const double bytes = tune_more(view, "store.checkpoint_bytes");
    say(finding,
        "%.0f checkpoints in %.1f s, %.0f of them asked for by programs, wrote %.1f MiB for %.1f "
        "MiB that were changed",
        count, seconds, asked, bytes / MIB, tune_more(view, "store.batch_bytes") / MIB);
    add_evidence(finding, "checkpoints", count);
    add_evidence(finding, "checkpoints_asked", asked);
    add_evidence(finding, "seconds", seconds);
    add_evidence(finding, "checkpoint_bytes", bytes);
    if (view->has_settings && view->settings.sync == KV_SYNC_CHECKPOINT && asked >= count / 2) {
        set_present(finding, view, "sync");
        SET(finding->proposed, "fsync");
        set_how_anew(finding);
    } else if (asked >= count / 2) {
        SET(finding->setting, "who asks");
        SET(finding->how,
            "look for who calls kvfs sync on this mount or sets system.kvfs.sync; fsync of a file "
            "is enough to have it on the disk");
    } else {
        set_present(finding, view, "checkpoint_interval");
        SET(finding->proposed, "30s");
        set_how_anew(finding);
    }
    finding->share = share_of(mean_ns(view, "histograms.checkpoint_ns") * count, seconds * 1e9);
    return true;
}

/* ---- packing ---------------------------------------------------------------------------- */

static void propose_no_codec(struct tune_finding *finding, const struct tune_view *view)
{
    tool_format_codec(&view->image.codec, finding->present);
    SET(finding->setting, "codec");
    SET(finding->proposed, "none");
    SET(finding->how,
        "mount.conf, [policy \"PATTERN\"] codec = none for files that do not pack; if all are "
        "such, mkfs.kvfs -c none a new image, and kvfs export and kvfs import into it");
}

static bool find_codec(const struct tune_view *view, struct tune_finding *finding)
{
    const double in_vain = tune_more(view, "codecs.none.packed_raw_bytes");
    const double all = in_vain + tune_more(view, "codecs.lz4.packed_raw_bytes") +
                       tune_more(view, "codecs.zstd.packed_raw_bytes");
    if (view->image.codec.codec == KV_CODEC_NONE || all < limit(PACKED_BYTES_LEAST) ||
        in_vain < all * limit(PACKED_IN_VAIN))
        return false;
    const double time_ns = tune_more(view, "histograms.pack_none_ns.sum");
    say(finding,
        "of %.1f MiB that were to be packed %.1f MiB did not get smaller; trying took %.2f s",
        all / MIB, in_vain / MIB, time_ns / 1e9);
    add_evidence(finding, "packed_bytes", all);
    add_evidence(finding, "packed_in_vain_bytes", in_vain);
    add_evidence(finding, "packed_in_vain_seconds", time_ns / 1e9);
    propose_no_codec(finding, view);
    finding->share = share_of(time_ns, request_ns(view));
    return true;
}

static bool find_codec_of_files(const struct tune_view *view, struct tune_finding *finding)
{
    const double all = (double)view->files.raw_bytes;
    const double in_vain = (double)view->files.unpackable_bytes;
    if (view->image.codec.codec == KV_CODEC_NONE || all < limit(PACKED_BYTES_LEAST) ||
        in_vain < all * limit(PACKED_IN_VAIN))
        return false;
    say(finding,
        "of %.1f MiB in extents of large files %.1f MiB are stored as they are: no codec "
        "made them smaller",
        all / MIB, in_vain / MIB);
    add_evidence(finding, "extent_bytes", all);
    add_evidence(finding, "packed_in_vain_bytes", in_vain);
    propose_no_codec(finding, view);
    finding->share = share_of(in_vain, all) / 10;
    return true;
}

/* ---- requests --------------------------------------------------------------------------- */

static bool find_threads(const struct tune_view *view, struct tune_finding *finding)
{
    const double requests = tune_more(view, "latency_ns.all.count");
    const double waits = tune_more(view, "mount.thread_waits");
    const double threads = tool_figure(view->now, "mount.threads");
    const double cpu = share_of(tune_more(view, "mount.cpu_ns"), request_ns(view));
    if (requests < limit(REQUESTS_LEAST) || waits < requests * limit(THREAD_WAITS))
        return false;
    if (threads >= limit(THREADS_FOR_EACH) * view->processors && cpu > limit(THREAD_CPU_SHARE))
        return false;
    say(finding,
        "%.0f of %.0f requests waited while all of %.0f threads were busy; they are busy with the "
        "processor %.0f %% of that time",
        waits, requests, threads, 100 * cpu);
    add_evidence(finding, "thread_waits", waits);
    add_evidence(finding, "requests", requests);
    add_evidence(finding, "threads", threads);
    add_evidence(finding, "cpu_share", cpu);
    set_present(finding, view, "threads");
    const double for_each = limit(THREADS_FOR_EACH) * view->processors;
    const double wanted = most_of(most_of(2 * threads, for_each), THREADS_DEFAULT);
    SET(finding->proposed, "%.0f", least_of(wanted, THREADS_MOST));
    set_how_anew(finding);
    finding->share = share_of(waits, requests);
    return true;
}

/* Asked for again what the kernel was told. */
static bool is_asked_again(double again, double requests)
{
    return again >= limit(AGAIN_LEAST) && again >= requests * limit(AGAIN_SHARE);
}

static bool find_names(const struct tune_view *view, struct tune_finding *finding)
{
    const double again = tune_more(view, "mount.names_again");
    const double requests = tune_more(view, "requests.lookup");
    if (!is_asked_again(again, requests))
        return false;
    say(finding,
        "%.0f of %.0f lookups were of names that the kernel had been told lately: it does not keep "
        "them, for lack of memory or because something drops its caches",
        again, requests);
    add_evidence(finding, "names_again", again);
    add_evidence(finding, "lookups", requests);
    SET(finding->setting, "vm.vfs_cache_pressure");
    SET(finding->proposed, "50");
    SET(finding->how,
        "sysctl vm.vfs_cache_pressure=50; more memory for the control group of the programs "
        "(memory.high, memory.max); nothing that writes to /proc/sys/vm/drop_caches");
    finding->share = share_of(mean_ns(view, "latency_ns.lookup") * again, request_ns(view));
    return true;
}

static bool find_reads(const struct tune_view *view, struct tune_finding *finding)
{
    const double again = tune_more(view, "mount.reads_again");
    const double requests = tune_more(view, "requests.read");
    if (!is_asked_again(again, requests))
        return false;
    say(finding,
        "%.0f of %.0f reads were of content that the kernel had been given lately: programs read "
        "past its cache (O_DIRECT, POSIX_FADV_DONTNEED), or it has no memory for it",
        again, requests);
    add_evidence(finding, "reads_again", again);
    add_evidence(finding, "reads", requests);
    add_evidence(finding, "extent_hits", tune_more(view, "store.blob_hits"));
    set_present(finding, view, "extent_percent");
    SET(finding->proposed, "75");
    SET(finding->how,
        "let the programs read without O_DIRECT, or give their control group more memory; where "
        "that can not be, extent_percent=75 and a larger memory_budget keep content in the daemon");
    finding->share = share_of(mean_ns(view, "latency_ns.read") * again, request_ns(view));
    return true;
}

/* ---- fragments -------------------------------------------------------------------------- */

static void propose_copy(struct tune_finding *finding, const struct tune_view *view)
{
    const struct tune_files *const files = &view->files;
    SET(finding->setting, "files");
    if (files->worst_pieces)
        SET(finding->present, "pieces of %.1f KiB",
            (double)files->worst_bytes / (double)files->worst_pieces / 1024);
    SET(finding->proposed, "written anew, in order");
    SET(finding->how,
        "cp --reflink=never FILE NEW && mv NEW FILE (a plain cp shares the pieces)%s%.180s",
        *files->worst ? "; first of all " : "", files->worst);
}

static bool find_fragments(const struct tune_view *view, struct tune_finding *finding)
{
    const double reads = tune_more(view, "mount.long_reads");
    const double bytes = tune_more(view, "mount.long_read_bytes");
    const double pieces = tune_more(view, "mount.long_read_pieces");
    if (reads < limit(LONG_READS_LEAST) || pieces <= reads || bytes / pieces >= limit(PIECE_BYTES))
        return false;
    say(finding,
        "%.0f reads of 64 KiB and more were put together of %.0f pieces each, %.1f KiB long: large "
        "files lie in small pieces",
        reads, pieces / reads, bytes / pieces / 1024);
    add_evidence(finding, "long_reads", reads);
    add_evidence(finding, "long_read_pieces", pieces);
    add_evidence(finding, "piece_bytes", bytes / pieces);
    propose_copy(finding, view);
    finding->share = share_of(tune_more(view, "latency_ns.read.sum"), request_ns(view)) *
                     (1 - bytes / pieces / limit(PIECE_BYTES));
    return true;
}

static bool find_fragments_of_files(const struct tune_view *view, struct tune_finding *finding)
{
    const struct tune_files *const files = &view->files;
    if (!files->fragmented)
        return false;
    say(finding,
        "%.0f of %.0f files of 1 MiB and more lie in pieces of less than %.0f KiB, the worst in "
        "%.0f pieces",
        (double)files->fragmented, (double)files->looked_at, limit(PIECE_BYTES) / 1024,
        (double)files->worst_pieces);
    add_evidence(finding, "files", (double)files->looked_at);
    add_evidence(finding, "files_fragmented", (double)files->fragmented);
    add_evidence(finding, "pieces", (double)files->pieces);
    propose_copy(finding, view);
    finding->share = share_of((double)files->fragmented, (double)files->looked_at);
    return true;
}

/* ---- all -------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    bool (*of_mount)(const struct tune_view *view, struct tune_finding *finding);
    bool (*of_image)(const struct tune_view *view, struct tune_finding *finding); /* NULL: none */
} rules[] = {
    {"budget", find_budget, NULL},
    {"tiers", find_tiers, NULL},
    {"log", find_log, NULL},
    {"checkpoints", find_checkpoints, NULL},
    {"codec", find_codec, find_codec_of_files},
    {"threads", find_threads, NULL},
    {"names", find_names, NULL},
    {"reads", find_reads, NULL},
    {"fragments", find_fragments, find_fragments_of_files},
};
#define RULE_COUNT (sizeof rules / sizeof rules[0])

const char *tune_name(size_t index)
{
    return index < RULE_COUNT ? rules[index].name : NULL;
}

static int compare_shares(const void *a, const void *b)
{
    const struct tune_finding *x = a, *y = b;
    if (x->share != y->share)
        return x->share < y->share ? 1 : -1;
    return strcmp(x->name, y->name);
}

size_t tune_find(const struct tune_view *view, struct tune_finding findings[TUNE_FINDINGS_MAX])
{
    size_t count = 0;
    for (size_t i = 0; i < RULE_COUNT; i++) {
        bool (*const find)(const struct tune_view *, struct tune_finding *) =
            view->now ? rules[i].of_mount : rules[i].of_image;
        struct tune_finding *const finding = &findings[count];
        *finding = (struct tune_finding){.name = rules[i].name};
        count += find && find(view, finding);
    }
    qsort(findings, count, sizeof findings[0], compare_shares);
    return count;
}
