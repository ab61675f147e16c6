/*
 * bench/policy.c: which pages should leave memory?
 *
 * Replays page accesses against LRU, 2Q, S3-FIFO and what kv/cache.c does, and prints the hit
 * ratios. Some traces are made from a seed: Zipf, Zipf with scans in between, a loop a little
 * larger than the memory, a working set that moves. The others are the leaves of a real store, in
 * the order in which the loads of bench-kv and bench-tiers ask for them: the store is filled, and
 * for each key its page is looked up.
 *
 * Method     LRU; 2Q: Johnson & Shasha 1994; S3-FIFO: Yang et al. 2023.
 * Invariant  all policies see the same accesses and have the same number of pages.
 */
#include <inttypes.h>
#include <unistd.h>

#include "bench/machine.h"
#include "bench/measure.h"
#include "bench/options.h"
#include "bench/zipf.h"
#include "kv/cache.h"
#include "kv/store.h"

#define NONE        UINT32_MAX
#define FRAME_BYTES 4096u /* of kv/cache.c; nothing is ever written there */
#define KEY_BYTES   16u

struct trace {
    const char *name;
    uint32_t *pages;
    size_t count;
    uint32_t page_count; /* pages are 0..page_count-1 */
};

/* ---- queues of pages ---------------------------------------------------------------- */

struct links {
    uint32_t prev, next;
};

struct queue {
    uint32_t head, tail; /* head: newest */
    uint32_t count;
};

static const struct queue empty = {NONE, NONE, 0};

static void push(struct links *links, struct queue *queue, uint32_t page)
{
    links[page] = (struct links){NONE, queue->head};
    if (queue->head != NONE)
        links[queue->head].prev = page;
    else
        queue->tail = page;
    queue->head = page;
    queue->count++;
}

static void take(struct links *links, struct queue *queue, uint32_t page)
{
    const struct links at = links[page];
    if (at.prev != NONE)
        links[at.prev].next = at.next;
    else
        queue->head = at.next;
    if (at.next != NONE)
        links[at.next].prev = at.prev;
    else
        queue->tail = at.prev;
    queue->count--;
}

static uint32_t pop(struct links *links, struct queue *queue)
{
    const uint32_t page = queue->tail;
    take(links, queue, page);
    return page;
}

/* ---- policies: each returns its hits; `capacity` in pages -------------------------------- */

/* What the policies here know of a page. */
enum place { OUT, FIRST, SECOND, GHOST };

struct replay {
    struct links *links;
    uint8_t *place, *uses; /* for each page */
    struct queue first, second, ghost;
    uint32_t capacity;
};

static int replay_init(struct replay *replay, const struct trace *trace, uint32_t capacity)
{
    *replay =
        (struct replay){.first = empty, .second = empty, .ghost = empty, .capacity = capacity};
    replay->links = calloc(trace->page_count, sizeof *replay->links);
    replay->place = calloc(trace->page_count, 1);
    replay->uses = calloc(trace->page_count, 1);
    return replay->links && replay->place && replay->uses ? 0 : -ENOMEM;
}

static void replay_release(struct replay *replay)
{
    free(replay->links);
    free(replay->place);
    free(replay->uses);
}

static void put_ghost(struct replay *replay, uint32_t page, uint32_t ghosts_max)
{
    replay->place[page] = GHOST;
    push(replay->links, &replay->ghost, page);
    if (replay->ghost.count > ghosts_max)
        replay->place[pop(replay->links, &replay->ghost)] = OUT;
}

static bool access_lru(struct replay *replay, uint32_t page)
{
    const bool hit = replay->place[page] == FIRST;
    if (hit)
        take(replay->links, &replay->first, page);
    else if (replay->first.count == replay->capacity)
        replay->place[pop(replay->links, &replay->first)] = OUT;
    push(replay->links, &replay->first, page);
    replay->place[page] = FIRST;
    return hit;
}

static bool access_2q(struct replay *replay, uint32_t page)
{
    struct links *const links = replay->links;
    const uint32_t first_max = replay->capacity / 4;
    const uint8_t was = replay->place[page];
    if (was == FIRST)
        return true;
    if (was == SECOND) {
        take(links, &replay->second, page);
        push(links, &replay->second, page);
        return true;
    }
    if (was == GHOST)
        take(links, &replay->ghost, page);
    if (replay->first.count + replay->second.count == replay->capacity) {
        if (replay->first.count > first_max || !replay->second.count)
            put_ghost(replay, pop(links, &replay->first), replay->capacity / 2);
        else
            replay->place[pop(links, &replay->second)] = OUT;
    }
    replay->place[page] = was == GHOST ? SECOND : FIRST;
    push(links, was == GHOST ? &replay->second : &replay->first, page);
    return false;
}

/* Make room for one page; small is `first`, main is `second`. */
static void s3_evict(struct replay *replay, uint32_t small_max)
{
    struct links *const links = replay->links;
    for (;;) {
        if (replay->first.count > small_max || !replay->second.count) {
            const uint32_t page = pop(links, &replay->first);
            if (replay->uses[page] <= 1) {
                put_ghost(replay, page, replay->capacity);
                return;
            }
            replay->uses[page] = 0;
            replay->place[page] = SECOND;
            push(links, &replay->second, page);
            continue;
        }
        const uint32_t page = pop(links, &replay->second);
        if (!replay->uses[page]) {
            replay->place[page] = OUT;
            return;
        }
        replay->uses[page]--;
        push(links, &replay->second, page);
    }
}

static bool access_s3fifo(struct replay *replay, uint32_t page)
{
    const uint8_t was = replay->place[page];
    if (was == FIRST || was == SECOND) {
        if (replay->uses[page] < 3)
            replay->uses[page]++;
        return true;
    }
    if (was == GHOST) { /* before room is made, which may drop ghosts */
        take(replay->links, &replay->ghost, page);
        replay->place[page] = OUT;
    }
    if (replay->first.count + replay->second.count == replay->capacity)
        s3_evict(replay, (uint32_t)kv_max_u64(replay->capacity / 10, 1));
    replay->uses[page] = 0;
    replay->place[page] = was == GHOST ? SECOND : FIRST;
    push(replay->links, was == GHOST ? &replay->second : &replay->first, page);
    return false;
}

typedef bool access_fn(struct replay *replay, uint32_t page);

static int replay_with(access_fn *access, const struct trace *trace, uint32_t capacity,
                       uint64_t *hits)
{
    struct replay replay;
    const int err = replay_init(&replay, trace, capacity);
    *hits = 0;
    for (size_t i = 0; i < trace->count && !err; i++)
        *hits += access(&replay, trace->pages[i]);
    replay_release(&replay);
    return err;
}

/* The store's own code, hot and warm alone. */
static int replay_ours(const struct trace *trace, uint32_t capacity, uint64_t *hits)
{
    const struct kv_tiers two = {.ratio = {4, 1, 0, 0}};
    struct kv_cache cache;
    const int err = kv_cache_init(&cache, (uint64_t)capacity * (FRAME_BYTES + KV_CACHE_FRAME_COST),
                                  FRAME_BYTES, &two);
    *hits = 0;
    if (err)
        return err;
    for (size_t i = 0; i < trace->count; i++) {
        const uint64_t page_id = trace->pages[i] + 1;
        uint32_t index = kv_cache_find_racy(&cache, page_id);
        if (index != KV_FRAME_NONE) {
            kv_cache_touch_racy(&cache.frames[index]);
            ++*hits;
            continue;
        }
        index = kv_cache_take_free(&cache);
        if (index == KV_FRAME_NONE) {
            uint32_t dirty_count;
            kv_cache_remove(&cache, kv_cache_victim(&cache, NULL, 0, &dirty_count));
            index = kv_cache_take_free(&cache);
        }
        kv_cache_insert(&cache, index, page_id);
    }
    kv_cache_release(&cache);
    return 0;
}

/* ---- traces from a seed --------------------------------------------------------------- */

static uint64_t random_at(uint64_t seed, uint64_t at)
{
    return measure_mix(seed ^ measure_mix(at));
}

static int trace_new(struct trace *trace, const char *name, size_t count, uint32_t page_count)
{
    *trace = (struct trace){.name = name, .count = count, .page_count = page_count};
    trace->pages = malloc(count * sizeof *trace->pages);
    return trace->pages ? 0 : -ENOMEM;
}

static uint32_t zipf_page(const struct zipf *zipf, uint64_t seed, uint64_t at)
{
    return (uint32_t)(measure_mix(zipf_rank(zipf, random_at(seed, at))) % zipf->count);
}

static int make_zipf(struct trace *trace, size_t count, uint32_t pages, uint64_t seed)
{
    const int err = trace_new(trace, "zipf", count, pages);
    struct zipf zipf;
    zipf_init(&zipf, pages, 0.8);
    for (size_t i = 0; i < count && !err; i++)
        trace->pages[i] = zipf_page(&zipf, seed, i);
    return err;
}

/* A fifth of the accesses are stretches of a scan through everything. */
static int make_scan_zipf(struct trace *trace, size_t count, uint32_t pages, uint64_t seed)
{
    const int err = trace_new(trace, "zipf+scan", count, pages);
    struct zipf zipf;
    uint32_t scanned = 0;
    zipf_init(&zipf, pages, 0.8);
    for (size_t i = 0; i < count && !err; i++)
        trace->pages[i] = i / 200 % 5 == 4 ? scanned++ % pages : zipf_page(&zipf, seed, i);
    return err;
}

/* Round and round over two fifths of the pages. */
static int make_loop(struct trace *trace, size_t count, uint32_t pages, uint64_t seed)
{
    const int err = trace_new(trace, "loop", count, pages);
    (void)seed;
    for (size_t i = 0; i < count && !err; i++)
        trace->pages[i] = (uint32_t)(i % (pages / 5 * 2));
    return err;
}

/* Uniform over a twentieth of the pages, which moves on. */
static int make_moving(struct trace *trace, size_t count, uint32_t pages, uint64_t seed)
{
    const int err = trace_new(trace, "moving-set", count, pages);
    const uint32_t set = pages / 20;
    for (size_t i = 0; i < count && !err; i++)
        trace->pages[i] = (uint32_t)((i * 2 * pages / count + random_at(seed, i) % set) % pages);
    return err;
}

/* ---- traces of a store ------------------------------------------------------------------ */

struct recording {
    struct kv_store *store;
    uint64_t key_count;
    uint8_t *scratch;
    char image[4096];
};

static void make_key(uint64_t id, uint8_t key[KEY_BYTES])
{
    memcpy(key, "benchkey", KEY_BYTES - 8);
    kv_be64_put(key + KEY_BYTES - 8, id);
}

/* As bench-kv fills at random: pages are as full as pages get that way. */
static int fill_store(struct recording *recording, uint64_t seed)
{
    uint64_t *order = measure_shuffled(recording->key_count, seed);
    struct kv_batch *batch = kv_batch_new();
    int err = order && batch ? 0 : -ENOMEM;
    for (uint64_t i = 0; i < recording->key_count && !err; i++) {
        uint8_t key[KEY_BYTES], value[100];
        make_key(order[i], key);
        measure_fill(value, sizeof value, order[i], 50);
        err = kv_batch_put(batch, key, sizeof key, value, sizeof value);
        if (err || (kv_batch_count(batch) < 1000 && i + 1 < recording->key_count))
            continue;
        err = kv_apply(recording->store, batch, 0, NULL);
        kv_batch_clear(batch);
    }
    if (batch)
        kv_batch_free(batch);
    free(order);
    return err;
}

static int open_recording(struct recording *recording, const char *directory, uint64_t seed)
{
    const int length = snprintf(recording->image, sizeof recording->image,
                                "%s/bench-policy-%ld.img", directory, (long)getpid());
    if (length < 0 || (size_t)length >= sizeof recording->image)
        return -ENAMETOOLONG;
    struct kv_error error = {{0}};
    const struct kv_create_options create = {.size_bytes = 1ull << 30, .force = true};
    int err = kv_create(recording->image, &create, &error);
    if (!err)
        err = kv_open(recording->image, NULL, &recording->store, &error);
    if (err)
        fprintf(stderr, "bench-policy: %s: %s\n", recording->image, error.text);
    recording->scratch = err ? NULL : malloc(recording->store->node_bytes);
    if (!err && !recording->scratch)
        err = -ENOMEM;
    return err ? err : fill_store(recording, seed);
}

static void close_recording(struct recording *recording)
{
    if (recording->store)
        kv_abandon(recording->store); /* the image goes away */
    free(recording->scratch);
    if (recording->image[0])
        (void)unlink(recording->image); /* there may be none */
}

static int leaf_of(struct recording *recording, uint64_t id, uint32_t *page)
{
    uint8_t key[KEY_BYTES];
    struct kv_btree_ahead ahead = {.max = 1};
    make_key(id, key);
    const int err = kv_btree_leaves_ahead(&recording->store->trees[KV_TREE_KEYS],
                                          (struct kv_bytes){key, sizeof key}, (struct kv_bytes){0},
                                          recording->scratch, &ahead);
    *page = ahead.count ? (uint32_t)ahead.page_ids[0] : 0;
    return err;
}

typedef uint64_t draw_fn(const struct recording *recording, const struct zipf *zipf, uint64_t seed,
                         uint64_t at);

static uint64_t draw_zipf(const struct recording *recording, const struct zipf *zipf, uint64_t seed,
                          uint64_t at)
{
    return measure_mix(zipf_rank(zipf, random_at(seed, at))) % recording->key_count;
}

static uint64_t draw_uniform(const struct recording *recording, const struct zipf *zipf,
                             uint64_t seed, uint64_t at)
{
    (void)zipf;
    return random_at(seed, at) % recording->key_count;
}

/* As somebody who lists directories, and looks at some of what is there. */
static uint64_t draw_walks(const struct recording *recording, const struct zipf *zipf,
                           uint64_t seed, uint64_t at)
{
    const uint64_t walk = at / 500;
    if (walk % 4 == 3)
        return (random_at(seed, walk) + at % 500 * 20) % recording->key_count;
    return draw_zipf(recording, zipf, seed, at);
}

static int record(struct recording *recording, struct trace *trace, const char *name, draw_fn *draw,
                  size_t count, uint64_t seed)
{
    struct zipf zipf;
    int err = trace_new(trace, name, count, 0);
    zipf_init(&zipf, recording->key_count, ZIPF_THETA_USUAL);
    for (size_t i = 0; i < count && !err; i++) {
        err = leaf_of(recording, draw(recording, &zipf, seed, i), &trace->pages[i]);
        trace->page_count = (uint32_t)kv_max_u64(trace->page_count, trace->pages[i] + 1ull);
    }
    return err;
}

/* ---- results ---------------------------------------------------------------------------- */

static const char *const policy_names[] = {"lru", "2q", "s3fifo", "kvfs"};
#define POLICY_COUNT (sizeof policy_names / sizeof policy_names[0])
static const unsigned percents[] = {5, 10, 20, 33, 50};
#define SIZE_COUNT (sizeof percents / sizeof percents[0])

/* Pages that occur in a trace. */
static uint32_t distinct(const struct trace *trace)
{
    uint8_t *seen = calloc(trace->page_count, 1);
    uint32_t count = 0;
    for (size_t i = 0; i < trace->count && seen; i++) {
        count += !seen[trace->pages[i]];
        seen[trace->pages[i]] = 1;
    }
    free(seen);
    return count;
}

static int replay_all(const struct trace *trace, uint32_t capacity, uint64_t hits[POLICY_COUNT])
{
    int err = replay_with(access_lru, trace, capacity, &hits[0]);
    if (!err)
        err = replay_with(access_2q, trace, capacity, &hits[1]);
    if (!err)
        err = replay_with(access_s3fifo, trace, capacity, &hits[2]);
    return err ? err : replay_ours(trace, capacity, &hits[3]);
}

static int report_trace(const struct trace *trace, bool verbose, const char *separator)
{
    const uint32_t pages = distinct(trace);
    printf("%s\"%s\":{\"accesses\":%zu,\"pages\":%u,\"hit_ratios\":{", separator, trace->name,
           trace->count, pages);
    for (unsigned size = 0; size < SIZE_COUNT; size++) {
        const uint32_t capacity =
            (uint32_t)kv_max_u64((uint64_t)pages * percents[size] / 100, KV_FRAMES_MIN);
        uint64_t hits[POLICY_COUNT];
        const int err = replay_all(trace, capacity, hits);
        if (err)
            return err;
        printf("%s\"%u\":{", size ? "," : "", percents[size]);
        if (verbose)
            fprintf(stderr, "%-16s %3u %%", trace->name, percents[size]);
        for (unsigned policy = 0; policy < POLICY_COUNT; policy++) {
            const double ratio = (double)hits[policy] / (double)trace->count;
            printf("%s\"%s\":%.4f", policy ? "," : "", policy_names[policy], ratio);
            if (verbose)
                fprintf(stderr, " %8.4f", ratio);
        }
        printf("}");
        if (verbose)
            fputc('\n', stderr);
    }
    printf("}}");
    return 0;
}

static int run(const char *directory, size_t count, uint32_t pages, uint64_t seed, bool verbose)
{
    static int (*const makers[])(struct trace * trace, size_t count, uint32_t pages,
                                 uint64_t seed) = {make_zipf, make_scan_zipf, make_loop,
                                                   make_moving};
    static const struct {
        const char *name;
        draw_fn *draw;
    } loads[] = {
        {"store-zipf", draw_zipf}, {"store-uniform", draw_uniform}, {"store-walks", draw_walks}};
    struct recording recording = {.key_count = pages * 100ull};
    struct machine machine;
    machine_describe(&machine, directory);
    printf("{\"bench\":\"policy\",\"machine\":{");
    machine_print_json(stdout, &machine);
    printf("},\"options\":{\"accesses\":%zu,\"pages\":%u,\"seed\":%" PRIu64 "},\"traces\":{", count,
           pages, seed);
    if (verbose)
        fprintf(stderr, "%-16s %5s %8s %8s %8s %8s\n", "trace", "memory", "lru", "2q", "s3fifo",
                "kvfs");
    const char *separator = "";
    int err = 0;
    for (unsigned i = 0; i < sizeof makers / sizeof makers[0] && !err; i++) {
        struct trace trace;
        err = makers[i](&trace, count, pages, seed);
        if (!err)
            err = report_trace(&trace, verbose, separator);
        free(trace.pages);
        separator = ",";
    }
    if (!err)
        err = open_recording(&recording, directory, seed);
    for (unsigned i = 0; i < sizeof loads / sizeof loads[0] && !err; i++) {
        struct trace trace;
        err = record(&recording, &trace, loads[i].name, loads[i].draw, count, seed);
        if (!err)
            err = report_trace(&trace, verbose, separator);
        free(trace.pages);
    }
    close_recording(&recording);
    printf("}}\n");
    return err;
}

int main(int argc, char **argv)
{
    char *directory = ".";
    uint64_t accesses = 1000000, pages = 10000, seed = 1;
    bool verbose = false;
    const struct bench_option table[] = {
        BENCH_TEXT("dir", "DIR", "where the image of the recorded store is made and removed (.)",
                   &directory),
        BENCH_NUMBER("accesses", "N", "in each trace (1000000)", &accesses, 1000, 1u << 30),
        BENCH_NUMBER("pages", "N", "of the traces that are made (10000)", &pages, 500, 1u << 24),
        BENCH_NUMBER("seed", "N", "the traces depend on it (1)", &seed, 0, UINT64_MAX),
        BENCH_OPTION_END,
    };
    const int status = bench_options_parse("bench-policy", "", table, &verbose, argc, argv);
    if (status != BENCH_GO_ON)
        return status;
    const int err = run(directory, accesses, (uint32_t)pages, seed, verbose);
    if (err)
        fprintf(stderr, "bench-policy: %s\n", strerror(-err));
    return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
