/*
 * tests/faults/io/sweep.c: a workload again and again, each time with another of its requests
 * (or allocations) failing in another way, once or from then on.
 *
 *    test_fault_sweep kv|fs io|memory
 *
 * A point is a kind of fault, whether it lasts, and which request it strikes. Environment:
 * KVFS_POINTS how many of all points to try, evenly spread (0: all); KVFS_SHARE which part of
 * these, "2/6" being the second of six, for as many processes; KVFS_SKIP how many of that part were
 * tried before, by a run that was cut short ("1000 points tried"); KVFS_SCALE how much work;
 * KVFS_KINDS only these, by name ("EIO,short"); KVFS_POINT one point as a failure names it;
 * KVFS_SEED; KVFS_TMP where the image lies.
 */
#include "memory_faults.h"
#include "ring_faults.h"
#include "workload.h"

#include "../../kv/support_store.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#define HANG_SECONDS 300u

struct point {
    bool memory;
    uint32_t kind; /* of a ring fault, as the next */
    uint32_t only; /* enum ring_targets: what of the kind's targets is struck; 0: all */
    bool lasting;
    uint64_t after;
};

struct series { /* the points of one kind */
    struct point first;
    uint64_t count;
};

struct sweep {
    void (*workload)(const struct workload_config *config);
    struct workload_config config;
    struct point point;
    uint64_t seen, struck; /* of the point at hand */
    uint64_t tried, strikes, silent;
};

static char point_text[64];
static char directory[64], image[80]; /* of the scratch image; gone in the end, whatever happens */

/* ---- words for what goes wrong hard ------------------------------------------------ */

static void say(const char *text)
{
    (void)!write(STDERR_FILENO, text, strlen(text)); /* there is nothing else to do about it */
}

static void on_signal(int signal_number)
{
    say(signal_number == SIGALRM ? "HANG at point " : "ENDED at point ");
    say(point_text);
    say("\n");
    (void)unlink(image);
    (void)rmdir(directory);
    (void)signal(SIGABRT, SIG_DFL);
    abort();
}

/* ---- one point ------------------------------------------------------------------------ */

static struct tolerance tolerance_of(const struct point *point)
{
    if (point->memory)
        return (struct tolerance){.memory = true, .io = true};
    switch ((enum ring_fault_kind)point->kind) {
    case RING_ENOSPC:
        return (struct tolerance){.io = true, .space = true};
    case RING_ENOMEM:
        return (struct tolerance){.io = true, .memory = true};
    case RING_EAGAIN:
    case RING_EINTR:
        return (struct tolerance){.io = point->lasting};
    case RING_SHORT:
        return (struct tolerance){.io = false};
    case RING_LOST:
        return (struct tolerance){.io = true, .damage = true};
    default:
        return (struct tolerance){.io = true};
    }
}

/* What is struck and how: "EIO", "EIO@reads". */
static void name_kind(const struct point *point, char name[32])
{
    const char *const only = point->only == RING_READS     ? "@reads"
                             : point->only == RING_WRITES  ? "@writes"
                             : point->only == RING_FLUSHES ? "@flushes"
                                                           : "";
    snprintf(name, 32, "%s%s", point->memory ? "memory" : ring_fault_name(point->kind), only);
}

static void start_faults(void *context)
{
    struct sweep *const sweep = context;
    const struct point *const point = &sweep->point;
    if (point->memory) {
        ring_fault_order(ring_faults(), (struct ring_fault){.quick = true});
        memory_fault_order(point->after, point->lasting);
        return;
    }
    ring_fault_order(
        ring_faults(),
        (struct ring_fault){.targets = point->only ? point->only : ring_fault_targets(point->kind),
                            .kind = point->kind,
                            .lasting = point->lasting,
                            .quick = true,
                            .after = point->after,
                            .seed = sweep->config.seed + point->after});
}

static void stop_faults(void *context)
{
    struct sweep *const sweep = context;
    memory_fault_end();
    sweep->seen = sweep->point.memory ? memory_fault_seen() : ring_fault_seen(ring_faults());
    sweep->struck = sweep->point.memory ? memory_fault_hits() : ring_fault_hits(ring_faults());
    ring_fault_order(ring_faults(), (struct ring_fault){.quick = true});
}

static void try_point(struct sweep *sweep, struct point point)
{
    sweep->point = point;
    char name[32];
    name_kind(&point, name);
    snprintf(point_text, sizeof point_text, "%s:%s:%" PRIu64, name,
             point.lasting ? "lasting" : "once", point.after);
    sweep->config.tolerance = tolerance_of(&point);
    sweep->config.buffered_io = point.after % 4 == 3;
    (void)alarm(HANG_SECONDS);
    sweep->workload(&sweep->config);
    (void)alarm(0);
}

static void try_and_count(struct sweep *sweep, struct point point)
{
    try_point(sweep, point);
    sweep->tried++;
    sweep->strikes += sweep->struck > 0;
    sweep->silent += sweep->struck == 0;
}

/* How many points a kind has: what a run without faults asks for. */
static uint64_t measure(struct sweep *sweep, struct point point)
{
    point.after = UINT64_MAX - 7; /* with O_DIRECT, as most points */
    try_point(sweep, point);
    return sweep->seen;
}

/* ---- all of them ------------------------------------------------------------------------ */

static bool is_wanted(const char *name)
{
    const char *const wanted = getenv("KVFS_KINDS");
    if (!wanted)
        return true;
    const size_t length = strlen(name);
    for (const char *at = wanted; (at = strstr(at, name)); at += length)
        if ((at == wanted || at[-1] == ',') && (at[length] == '\0' || at[length] == ','))
            return true;
    return false;
}

/* A kind once and lasting, unless it is not wanted. Returns how many series that are. */
static size_t add_series(struct sweep *sweep, struct point once, struct series *list)
{
    char name[32];
    name_kind(&once, name);
    if (!is_wanted(name))
        return 0;
    struct point lasting = once;
    lasting.lasting = true;
    const uint64_t points = measure(sweep, once);
    printf("%s: %" PRIu64 " requests\n", name, points);
    list[0] = (struct series){once, points};
    list[1] = (struct series){lasting, points};
    return 2;
}

#define SERIES_MAX (2 * (RING_KIND_COUNT + 3))

static size_t list_series(struct sweep *sweep, bool memory, struct series list[SERIES_MAX])
{
    if (memory)
        return add_series(sweep, (struct point){.memory = true}, list);
    size_t count = 0;
    for (uint32_t kind = 0; kind < RING_KIND_COUNT; kind++)
        count += add_series(sweep, (struct point){.kind = kind}, list + count);
    /* Reading fails for good while writing goes on, and so forth. */
    for (uint32_t only = RING_READS; only <= RING_FLUSHES; only <<= 1)
        count += add_series(sweep, (struct point){.kind = RING_EIO, .only = only}, list + count);
    return count;
}

/* Every which point is ours, and which of them: all, unless KVFS_SHARE says otherwise. */
struct share {
    unsigned number, of; /* 1 is the first */
};

static struct share wanted_share(void)
{
    struct share share = {1, 1};
    const char *const text = getenv("KVFS_SHARE");
    if (text && (sscanf(text, "%u/%u", &share.number, &share.of) != 2 || share.number < 1 ||
                 share.number > share.of))
        violate("KVFS_SHARE is %s, not NUMBER/OF", text);
    return share;
}

static void try_all(struct sweep *sweep, bool memory)
{
    const struct share share = wanted_share();
    struct series list[SERIES_MAX];
    const size_t count = list_series(sweep, memory, list);
    uint64_t total = 0, index = 0, chosen = 0;
    for (size_t i = 0; i < count; i++)
        total += list[i].count;
    const uint64_t wanted = test_env("KVFS_POINTS", 60);
    const uint64_t step = wanted && wanted < total ? total / wanted : 1;
    const uint64_t offset = sweep->config.seed % step;
    uint64_t skipped = test_env("KVFS_SKIP", 0);
    for (size_t i = 0; i < count; i++)
        for (uint64_t j = 0; j < list[i].count; j++, index++) {
            if (index % step != offset || ++chosen % share.of != share.number % share.of)
                continue;
            if (skipped) {
                skipped--;
                continue;
            }
            struct point point = list[i].first;
            point.after = j;
            try_and_count(sweep, point);
            if (sweep->tried % 1000 == 0) {
                printf("%" PRIu64 " points tried\n", sweep->tried);
                fflush(stdout);
            }
        }
    printf("seed %" PRIu64 ": %" PRIu64 " of %" PRIu64 " points tried, %" PRIu64 " struck, %" PRIu64
           " came too late; nothing was lost\n",
           sweep->config.seed, sweep->tried, total, sweep->strikes, sweep->silent);
}

static void try_named(struct sweep *sweep, const char *name)
{
    char kind[32], how[16], known[32];
    struct point point = {.memory = false};
    if (sscanf(name, "%31[^:]:%15[^:]:%" SCNu64, kind, how, &point.after) != 3)
        violate("KVFS_POINT is %s, not KIND:once:NUMBER", name);
    point.memory = strcmp(kind, "memory") == 0;
    point.lasting = strcmp(how, "lasting") == 0;
    point.only = strstr(kind, "@reads")     ? RING_READS
                 : strstr(kind, "@writes")  ? RING_WRITES
                 : strstr(kind, "@flushes") ? RING_FLUSHES
                                            : 0;
    for (name_kind(&point, known); strcmp(kind, known) != 0; name_kind(&point, known))
        if (++point.kind == RING_KIND_COUNT)
            violate("no kind of fault is called %s", kind);
    try_and_count(sweep, point);
    printf("seed %" PRIu64 ": %s, %" PRIu64 " of %" PRIu64 " requests struck; nothing was lost\n",
           sweep->config.seed, name, sweep->struck, sweep->seen);
}

int main(int argc, char **argv)
{
    static struct sweep sweep;
    const bool memory = argc == 3 && strcmp(argv[2], "memory") == 0;
    if (argc != 3 || (!memory && strcmp(argv[2], "io") != 0) ||
        (strcmp(argv[1], "kv") != 0 && strcmp(argv[1], "fs") != 0)) {
        fprintf(stderr, "usage: %s kv|fs io|memory\n", argv[0]);
        return 2;
    }
    sweep.workload = strcmp(argv[1], "fs") == 0 ? workload_fs_run : workload_kv_run;
    sweep.config = (struct workload_config){.seed = test_env("KVFS_SEED", 1),
                                            .scale = (unsigned)test_env("KVFS_SCALE", 4),
                                            .start = start_faults,
                                            .stop = stop_faults,
                                            .context = &sweep};
    printf("seed: %" PRIu64 " (KVFS_SEED), scale: %u (KVFS_SCALE)\n", sweep.config.seed,
           sweep.config.scale);

    const char *const tmp = getenv("KVFS_TMP");
    snprintf(directory, sizeof directory, "%s/kvfs-sweep-XXXXXX",
             tmp                        ? tmp
             : access("/dev/shm", W_OK) ? "/tmp"
                                        : "/dev/shm");
    if (!mkdtemp(directory))
        violate("%s: %s", directory, strerror(errno));
    snprintf(image, sizeof image, "%s/image", directory);
    sweep.config.image = image;

    violate_name_point(point_text);
    (void)signal(SIGALRM, on_signal);
    (void)signal(SIGABRT, on_signal);
    (void)signal(SIGTERM, on_signal);
    (void)signal(SIGINT, on_signal);
    if (getenv("KVFS_POINT"))
        try_named(&sweep, getenv("KVFS_POINT"));
    else
        try_all(&sweep, memory);
    (void)unlink(image);
    (void)rmdir(directory);
    return 0;
}
