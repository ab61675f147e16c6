/*
 * tests/kv/support_crash.c: every state that a crash can leave, each opened once.
 *
 * Owns       the set of the states that were opened, and the counts.
 * Invariant  the digest of a state is the sum, over its blocks, of a digest of the block's place
 *            and bytes; a block of zeros counts nothing. So it follows from the digest of what
 *            was durable by what each write that is kept takes away and adds.
 * Locks      the set and the counts are shared by processes and atomic: a key is claimed by
 *            compare-and-swap, its value is stored after the state was looked at.
 */
#include "support_crash.h"

#include "kv/codec.h"

#include <malloc.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS_MAX     16u
#define STORY_BYTES     2048u
#define PROGRESS_STATES 100000u

/* ---- the set ------------------------------------------------------------------ */

/* What was found in a state of this digest; 0: it is being looked at. */
struct state_slot {
    _Atomic uint64_t key, found;
};

struct shared_counts {
    _Atomic uint64_t states, again, torn, recovering, intervals, whole_intervals;
    _Atomic uint64_t torn_kinds[KIND_COUNT];
    char story[WORKERS_MAX][STORY_BYTES]; /* what each process is at */
};

struct crash_engine {
    struct state_slot *slots; /* shared */
    size_t slot_count, states_max;
    struct shared_counts *counts; /* shared */
    size_t worker;
};

static void *must(void *memory)
{
    KV_ASSERT(memory != NULL);
    return memory;
}

static void *map_shared(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    KV_ASSERT(memory != MAP_FAILED);
    return memory;
}

struct crash_engine *crash_engine_new(size_t states_max)
{
    /* A store is opened thousands of times a second: keep its memory from the kernel. */
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 30); /* no more than slower without, as the next */
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
    struct crash_engine *engine = must(calloc(1, sizeof *engine));
    engine->states_max = states_max;
    engine->slot_count = 1024;
    while (engine->slot_count < 2 * states_max)
        engine->slot_count *= 2;
    engine->slots = map_shared(engine->slot_count * sizeof *engine->slots);
    engine->counts = map_shared(sizeof *engine->counts);
    return engine;
}

void crash_engine_free(struct crash_engine *engine)
{
    (void)munmap(engine->slots, engine->slot_count * sizeof *engine->slots);
    (void)munmap(engine->counts, sizeof *engine->counts);
    free(engine);
}

static uint64_t count(_Atomic uint64_t *counter)
{
    return atomic_fetch_add_explicit(counter, 1, memory_order_relaxed) + 1;
}

static uint64_t counted(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

struct crash_counts crash_engine_counts(struct crash_engine *engine)
{
    const struct shared_counts *from = engine->counts;
    struct crash_counts counts = {.states = counted(&from->states),
                                  .again = counted(&from->again),
                                  .torn = counted(&from->torn),
                                  .recovering = counted(&from->recovering),
                                  .intervals = counted(&from->intervals),
                                  .whole_intervals = counted(&from->whole_intervals)};
    for (size_t i = 0; i < KIND_COUNT; i++)
        counts.torn_kinds[i] = counted(&from->torn_kinds[i]);
    return counts;
}

bool crash_engine_full(struct crash_engine *engine)
{
    return counted(&engine->counts->states) >= engine->states_max;
}

/* The slot of a state, and whether it was this call that claimed it. */
static struct state_slot *claim_state(struct crash_engine *engine, uint64_t digest, bool *fresh)
{
    const uint64_t key = digest ? digest : 1;
    for (size_t at = (size_t)(key * 0x9e3779b97f4a7c15u);; at++) {
        struct state_slot *slot = &engine->slots[at & (engine->slot_count - 1)];
        uint64_t there = 0;
        *fresh = atomic_compare_exchange_strong(&slot->key, &there, key);
        if (*fresh || there == key)
            return slot;
    }
}

/* ---- digests ------------------------------------------------------------------- */

static const uint8_t zeros[KV_BLOCK_BYTES];

static uint64_t digest_block(uint64_t block, const uint8_t *bytes)
{
    if (!bytes || !memcmp(bytes, zeros, KV_BLOCK_BYTES))
        return 0;
    return kv_digest(bytes, KV_BLOCK_BYTES, block + 1);
}

/* ---- what lies between two flushes ------------------------------------------------ */

/* A pending write that changes something. */
struct change {
    size_t pending; /* its number among the pending writes */
    size_t slot;    /* of its block */
    uint64_t digest;
};

struct slot {
    uint64_t block;
    uint64_t durable; /* digest of what is there for sure */
    uint64_t now;     /* while a state is put together */
    const uint8_t *bytes;
    bool changes;
};

struct exploration {
    struct crash_engine *engine;
    const struct crash_subject *subject;
    const struct crash_sizes *sizes;
    struct test_random *random;
    struct image_layout layout;
    unsigned depth;   /* crashes before this one */
    size_t torn_each; /* torn states between two flushes, at most about; 0: all */

    struct crash_walk walk;
    uint64_t *durable; /* for each block, the digest of walk.durable */
    uint64_t total;    /* their sum */

    /* of the interval that the walk is at the end of */
    struct slot *slots;
    struct change *changes;
    size_t slot_count, change_count, capacity;
    bool *kept;         /* for each change */
    bool *kept_pending; /* for each pending write */
};

static const struct recorded_event *pending_event(const struct exploration *at, size_t pending,
                                                  struct recorded_event *event)
{
    *event = recorder_event(at->walk.recorder, at->walk.flushed_position + pending);
    return event;
}

static void reserve_interval(struct exploration *at, size_t pending)
{
    if (pending <= at->capacity)
        return;
    at->capacity = pending * 2;
    at->slots = must(realloc(at->slots, at->capacity * sizeof *at->slots));
    at->changes = must(realloc(at->changes, at->capacity * sizeof *at->changes));
    at->kept = must(realloc(at->kept, at->capacity * sizeof *at->kept));
    at->kept_pending = must(realloc(at->kept_pending, at->capacity * sizeof *at->kept_pending));
}

static size_t slot_of(struct exploration *at, uint64_t block)
{
    for (size_t i = at->slot_count; i > 0; i--)
        if (at->slots[i - 1].block == block)
            return i - 1;
    at->slots[at->slot_count] = (struct slot){.block = block, .durable = at->durable[block]};
    return at->slot_count++;
}

/* Find the writes that change something: those of blocks of which any write differs. */
static void look_at_interval(struct exploration *at)
{
    const size_t pending = crash_walk_pending(&at->walk);
    reserve_interval(at, pending);
    at->slot_count = at->change_count = 0;
    for (size_t i = 0; i < pending; i++) {
        struct recorded_event event;
        pending_event(at, i, &event);
        const size_t slot = slot_of(at, event.block);
        const uint64_t digest = digest_block(event.block, event.bytes);
        at->changes[i] = (struct change){.pending = i, .slot = slot, .digest = digest};
        at->slots[slot].changes |= digest != at->slots[slot].durable;
        at->kept_pending[i] = true;
    }
    for (size_t i = 0; i < pending; i++)
        if (at->slots[at->changes[i].slot].changes)
            at->changes[at->change_count++] = at->changes[i];
}

/* The digest of a state; what a torn block holds is made to know it. */
static uint64_t digest_state(struct exploration *at, const struct crash_choice *torn, size_t which)
{
    uint64_t total = at->total;
    for (size_t i = 0; i < at->slot_count; i++) {
        at->slots[i].now = at->slots[i].durable;
        at->slots[i].bytes = torn ? at->walk.durable[at->slots[i].block] : NULL;
    }
    for (size_t i = 0; i < at->change_count; i++) {
        struct slot *slot = &at->slots[at->changes[i].slot];
        if (!at->kept[i])
            continue;
        uint64_t digest = at->changes[i].digest;
        uint8_t block[KV_BLOCK_BYTES];
        if (torn) {
            struct recorded_event event;
            pending_event(at, at->changes[i].pending, &event);
            if (i == which) {
                crash_tear(slot->bytes, event.bytes, torn, block);
                digest = digest_block(slot->block, block);
            }
            slot->bytes = event.bytes; /* no second write is torn, so none needs `block` */
        }
        total += digest - slot->now;
        slot->now = digest;
    }
    return total;
}

/* ---- one state ----------------------------------------------------------------------- */

static void describe(const struct exploration *at, const struct crash_choice *choice, char *out,
                     size_t out_size)
{
    int used = snprintf(out, out_size, "%.900s: %scrash before event %zu of %zu, %zu pending",
                        at->subject->story, at->depth ? "in the recovery: " : "", at->walk.position,
                        recorder_event_count(at->walk.recorder), crash_walk_pending(&at->walk));
    if (choice->torn)
        used += snprintf(out + used, out_size - (size_t)used, ", torn: %zu at %u, rest %d",
                         choice->torn_index, choice->torn_bytes, (int)choice->rest);
    const size_t pending = crash_walk_pending(&at->walk);
    for (size_t i = 0; choice->kept && i < pending && (size_t)used + 12 < out_size; i++) {
        if (i == 0)
            used += snprintf(out + used, out_size - (size_t)used, ", kept ");
        out[used++] = choice->kept[i] ? '1' : '0';
        out[used] = '\0';
    }
}

/* KVFS_CRASH_SAVE names the file that the image on which something was wrong goes to. */
static void save_image(struct kv_device *device)
{
    const char *path = getenv("KVFS_CRASH_SAVE");
    FILE *file = path ? fopen(path, "we") : NULL;
    uint8_t *block = must(kv_device_alloc(KV_BLOCK_BYTES));
    for (uint64_t i = 0; file && i < device->block_count; i++) {
        if (kv_device_read(device, i, 1, block) || fwrite(block, KV_BLOCK_BYTES, 1, file) != 1)
            printf("block %llu could not be saved\n", (unsigned long long)i);
    }
    if (file && !fclose(file))
        printf("the image is in %s\n", path);
    free(block);
}

static _Noreturn void violation(const struct exploration *at, const struct crash_choice *choice,
                                const char *what)
{
    char story[STORY_BYTES];
    describe(at, choice, story, sizeof story);
    printf("VIOLATION: %s\n  %s\n", what, story);
    struct kv_device *device = crash_walk_state(&at->walk, choice);
    save_image(device);
    kv_device_close(device);
    (void)fflush(stdout); /* the last thing this process does */
    _exit(EXIT_FAILURE);
}

/* The positions at which the power may have gone for this choice: [*earliest, walk.position]. */
static size_t earliest_position(const struct exploration *at)
{
    size_t earliest = at->walk.flushed_position;
    for (size_t i = 0; i < at->change_count; i++)
        if (at->kept[i])
            earliest = at->walk.flushed_position + at->changes[i].pending + 1;
    return earliest;
}

static void judge(const struct exploration *at, const struct crash_choice *choice, uint64_t digest)
{
    const struct crash_subject *subject = at->subject;
    const size_t earliest = earliest_position(at), latest = at->walk.position;
    if (subject->allows(subject->context, earliest, latest, digest))
        return;
    if (subject->explain)
        subject->explain(subject->context, crash_walk_state(&at->walk, choice), earliest, latest);
    violation(at, choice, "what is there is no version that may be there");
}

static void explore(struct exploration *at, struct recorder *recorder, size_t first_position);

/* A recovery that was recorded, as something that can be crashed. */
struct second_life {
    const struct crash_subject *first;
    struct crash_recovery recovery;
};

static bool recover_again(void *context, struct recorder *recorder, struct crash_recovery *recovery)
{
    const struct second_life *life = context;
    return life->first->recover(life->first->context, recorder, recovery);
}

static bool peek_again(void *context, struct kv_device *device, uint64_t *found)
{
    const struct second_life *life = context;
    return life->first->peek(life->first->context, device, found);
}

/* What was found is durable from the start; what was added once it was acknowledged. */
static bool allows_again(void *context, size_t earliest, size_t latest, uint64_t digest)
{
    const struct crash_recovery *recovery = &((struct second_life *)context)->recovery;
    if (digest == recovery->after)
        return earliest > recovery->started;
    return digest == recovery->found && latest < recovery->durable;
}

static void crash_the_recovery(const struct exploration *at, struct recorder *recorder,
                               const struct crash_choice *choice,
                               const struct crash_recovery *recovery)
{
    char story[STORY_BYTES];
    describe(at, choice, story, sizeof story);
    struct second_life life = {.first = at->subject, .recovery = *recovery};
    const struct crash_subject subject = {.context = &life,
                                          .story = story,
                                          .recover = recover_again,
                                          .peek = peek_again,
                                          .allows = allows_again};
    struct crash_sizes sizes = *at->sizes;
    sizes.subsets = sizes.subsets ? sizes.subsets / 2 + 1 : 0;
    sizes.random_subsets = sizes.random_subsets / 10 + 1;
    sizes.torn = sizes.torn ? sizes.torn / 2 + 1 : 0;
    sizes.recoveries = at->depth < 1 ? sizes.recoveries * 4 : 0;
    struct exploration again = {.engine = at->engine,
                                .subject = &subject,
                                .sizes = &sizes,
                                .random = at->random,
                                .layout = at->layout,
                                .depth = at->depth + 1};
    explore(&again, recorder, 0);
}

static bool one_of(struct test_random *random, size_t many)
{
    return many && test_random_below(random, many) == 0;
}

static void open_state(struct exploration *at, const struct crash_choice *choice,
                       struct state_slot *slot)
{
    const struct crash_subject *subject = at->subject;
    describe(at, choice, at->engine->counts->story[at->engine->worker], STORY_BYTES);
    uint64_t peeked = 0;
    if (one_of(at->random, at->sizes->peeks)) {
        struct recorder *recorder = recorder_new(crash_walk_state(&at->walk, choice));
        if (!subject->peek(subject->context, recorder_device(recorder), &peeked))
            violation(at, choice, "it does not open read-only");
        if (recorder_event_count(recorder))
            violation(at, choice, "opening it read-only wrote");
        recorder_free(recorder);
    }

    struct recorder *recorder = recorder_new(crash_walk_state(&at->walk, choice));
    struct crash_recovery recovery = {0};
    if (!subject->recover(subject->context, recorder, &recovery))
        violation(at, choice, "it does not recover");
    atomic_store(&slot->found, recovery.found);
    judge(at, choice, recovery.found);
    if (peeked && peeked != recovery.found)
        violation(at, choice, "a read-only open sees something else");
    if (one_of(at->random, at->sizes->recoveries))
        crash_the_recovery(at, recorder, choice, &recovery);
    recorder_free(recorder);
}

/* at->kept says which changes are kept; torn: one of them, changes[which], is torn. */
static void try_state(struct exploration *at, const struct crash_choice *torn, size_t which)
{
    if (crash_engine_full(at->engine))
        return;
    struct crash_choice choice = torn ? *torn : (struct crash_choice){0};
    bool fresh;
    struct state_slot *slot = claim_state(at->engine, digest_state(at, torn, which), &fresh);
    choice.kept = at->kept_pending;
    for (size_t i = 0; i < at->change_count; i++)
        at->kept_pending[at->changes[i].pending] = at->kept[i];
    if (torn) {
        choice.torn_index = at->changes[which].pending;
        struct recorded_event event;
        pending_event(at, choice.torn_index, &event);
        if (fresh)
            count(&at->engine->counts
                       ->torn_kinds[block_kind_of(&at->layout, event.block, event.bytes)]);
    }
    if (fresh) {
        const uint64_t states = count(&at->engine->counts->states);
        if (states % PROGRESS_STATES == 0) {
            printf("%llu states\n", (unsigned long long)states);
            (void)fflush(stdout); /* for people who wait */
        }
        if (torn)
            count(&at->engine->counts->torn);
        if (at->depth)
            count(&at->engine->counts->recovering);
        open_state(at, &choice, slot);
    } else {
        const uint64_t found = atomic_load(&slot->found);
        count(&at->engine->counts->again);
        if (found) /* else another process is just looking at it */
            judge(at, &choice, found);
    }
}

/* ---- which states ---------------------------------------------------------------------- */

/* About `most` of `total`, chosen at random. */
static bool take(struct exploration *at, size_t most, size_t total)
{
    return !most || total <= most || test_random_below(at->random, total) < most;
}

static void keep_all(struct exploration *at, size_t end)
{
    for (size_t i = 0; i < at->change_count; i++)
        at->kept[i] = i < end;
}

static void all_subsets(struct exploration *at)
{
    const size_t total = (size_t)1 << at->change_count;
    for (size_t subset = 0; subset < total; subset++) {
        if (!take(at, at->sizes->subsets, total))
            continue;
        for (size_t i = 0; i < at->change_count; i++)
            at->kept[i] = (subset >> i) & 1;
        try_state(at, NULL, 0);
    }
    count(&at->engine->counts->intervals);
    if (!at->sizes->subsets || total <= at->sizes->subsets)
        count(&at->engine->counts->whole_intervals);
}

/* Half of them, all but one, only one, or most of them. */
static void keep_any(struct exploration *at)
{
    const size_t manner = test_random_below(at->random, 5);
    const size_t special = test_random_below(at->random, at->change_count);
    for (size_t i = 0; i < at->change_count; i++)
        at->kept[i] = manner == 0   ? i != special
                      : manner == 1 ? i == special
                      : manner == 2 ? test_random_below(at->random, 8) > 0
                                    : test_random_next(at->random) & 1;
}

static void prefixes_and_random_subsets(struct exploration *at)
{
    const size_t total = at->change_count + 1 + at->sizes->random_subsets;
    for (size_t end = 0; end <= at->change_count; end++) {
        if (!take(at, at->sizes->subsets, total))
            continue;
        keep_all(at, end);
        try_state(at, NULL, 0);
    }
    for (size_t i = 0; i < at->sizes->random_subsets; i++) {
        if (!take(at, at->sizes->subsets, total))
            continue;
        keep_any(at);
        try_state(at, NULL, 0);
    }
    count(&at->engine->counts->intervals);
}

enum torn_others { OTHERS_ALL, OTHERS_BEFORE, OTHERS_ANY, OTHERS_COUNT };

static void tear_one(struct exploration *at, size_t which, const struct crash_choice *torn,
                     enum torn_others others)
{
    if (others == OTHERS_ANY)
        keep_any(at);
    else
        keep_all(at, others == OTHERS_ALL ? at->change_count : which);
    at->kept[which] = true;
    /* No later write of the same block: it would go over the torn one. */
    for (size_t i = which + 1; i < at->change_count; i++)
        if (at->changes[i].slot == at->changes[which].slot)
            at->kept[i] = false;
    try_state(at, torn, which);
}

static void all_torn(struct exploration *at)
{
    const size_t cuts = KV_BLOCK_BYTES / 512;
    const size_t total = at->change_count * cuts * 3 * OTHERS_COUNT;
    for (size_t which = 0; which < at->change_count; which++)
        for (size_t cut = 0; cut < cuts; cut++)
            for (int rest = TORN_REST_OLD; rest <= TORN_REST_RANDOM; rest++)
                for (int others = 0; others < OTHERS_COUNT; others++) {
                    if (!take(at, at->torn_each, total))
                        continue;
                    const struct crash_choice torn = {.torn = true,
                                                      .torn_bytes = (uint32_t)cut * 512,
                                                      .rest = (enum torn_rest)rest,
                                                      .random_seed = which * cuts + cut + 1};
                    tear_one(at, which, &torn, (enum torn_others)others);
                }
}

static void explore_interval(struct exploration *at)
{
    look_at_interval(at);
    if (at->change_count <= CRASH_ALL_MAX)
        all_subsets(at);
    else
        prefixes_and_random_subsets(at);
    all_torn(at);
}

/* ---- all of a log ------------------------------------------------------------------------ */

static void begin(struct exploration *at, struct recorder *recorder)
{
    crash_walk_init(&at->walk, recorder);
    const uint64_t block_count = recorder_device(recorder)->block_count;
    at->durable = must(calloc((size_t)block_count, sizeof *at->durable));
    for (uint64_t block = 0; block < block_count; block++) {
        at->durable[block] = digest_block(block, at->walk.durable[block]);
        at->total += at->durable[block];
    }
    reserve_interval(at, 16);
}

/* Go to the next flush or the end; what was flushed before becomes durable here too. */
static void advance(struct exploration *at, size_t position)
{
    const size_t from = at->walk.flushed_position;
    crash_walk_advance(&at->walk, position);
    for (size_t i = from; i < at->walk.flushed_position; i++) {
        const struct recorded_event event = recorder_event(at->walk.recorder, i);
        if (event.is_flush)
            continue;
        const uint64_t digest = digest_block(event.block, event.bytes);
        at->total += digest - at->durable[event.block];
        at->durable[event.block] = digest;
    }
}

static void explore(struct exploration *at, struct recorder *recorder, size_t first_position)
{
    begin(at, recorder);
    const size_t end = recorder_event_count(recorder);
    size_t intervals = 1;
    for (size_t position = first_position; position < end; position++)
        intervals += recorder_event(recorder, position).is_flush;
    at->torn_each = at->sizes->torn ? at->sizes->torn / intervals + 1 : 0;
    for (size_t position = 0; position <= end; position++) {
        if (position < end && !recorder_event(recorder, position).is_flush)
            continue;
        if (position < first_position)
            continue;
        advance(at, position);
        explore_interval(at);
    }
    crash_walk_release(&at->walk);
    free(at->durable);
    free(at->slots);
    free(at->changes);
    free(at->kept);
    free(at->kept_pending);
}

void crash_explore(struct crash_engine *engine, const struct crash_subject *subject,
                   struct recorder *recorder, size_t first_position,
                   const struct crash_sizes *sizes, struct test_random *random)
{
    struct exploration at = {
        .engine = engine, .subject = subject, .sizes = sizes, .random = random};
    image_layout_read(&at.layout, recorder_device(recorder));
    explore(&at, recorder, first_position);
}

/* ---- processes ---------------------------------------------------------------------------- */

static void run_worker(struct crash_engine *engine, size_t worker, size_t worker_count,
                       crash_work_fn *work, void *context)
{
    engine->worker = worker;
    work(context, worker, worker_count);
    (void)fflush(stdout); /* what it said is for people only */
}

bool crash_run_workers(struct crash_engine *engine, size_t worker_count, crash_work_fn *work,
                       void *context)
{
    KV_ASSERT(worker_count <= WORKERS_MAX);
    if (worker_count <= 1) {
        run_worker(engine, 0, 1, work, context);
        return true;
    }
    pid_t pids[WORKERS_MAX];
    bool good = true;
    (void)fflush(stdout); /* else the children say it again */
    for (size_t i = 0; i < worker_count; i++) {
        pids[i] = fork();
        KV_ASSERT(pids[i] >= 0);
        if (pids[i] == 0) {
            run_worker(engine, i, worker_count, work, context);
            _exit(EXIT_SUCCESS);
        }
    }
    for (size_t i = 0; i < worker_count; i++) {
        int status = 0;
        if (waitpid(pids[i], &status, 0) == pids[i] && status == 0)
            continue;
        if (WIFSIGNALED(status))
            printf("VIOLATION: signal %d\n  %.*s\n", WTERMSIG(status), (int)STORY_BYTES,
                   engine->counts->story[i]);
        good = false;
    }
    return good;
}
