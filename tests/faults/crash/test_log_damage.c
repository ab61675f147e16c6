/*
 * tests/faults/crash/test_log_damage.c: a log that is damaged where it was promised says so.
 *
 * The log of a store at work gets one bad block, in each of its places and in many ways. Where
 * a later block proves that the bad one was durable, opening must fail with EBADMSG and words
 * that name the log and the remedy; opening for repair must end the log there, say so, and
 * leave an image that opens by itself. Where nothing proves it, the block may as well be the
 * torn end of the log, and what lies before it must be there.
 *
 *   test_log_damage [ROUNDS]   or KVFS_LOG_ROUNDS: how many logs (2)
 *   KVFS_SEED                  where the random numbers start (printed)
 */
#include "../../kv/support_devices.h"
#include "../../kv/support_history.h"
#include "../../kv/support_store.h"

#include "kv/format.h"
#include "kv/store.h"

#define IMAGE_BLOCKS (KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)
#define VERSIONS     24u

static void expect(bool good, const char *what)
{
    if (good)
        return;
    printf("VIOLATION: %s\n", what);
    (void)fflush(stdout); /* the last thing this process does */
    abort();
}

/* ---- a log ------------------------------------------------------------------------ */

struct log_case {
    struct recorder *recorder;
    struct history *history;
    uint64_t ends[VERSIONS + 1]; /* the position behind the record of each version */
    uint64_t first_block, block_count;
    uint64_t tail, end; /* positions */
};

static struct kv_device *state_of(const struct log_case *log)
{
    struct crash_walk walk;
    crash_walk_init(&walk, log->recorder);
    crash_walk_advance(&walk, recorder_event_count(log->recorder));
    struct kv_device *device = crash_walk_state(&walk, &(struct crash_choice){0});
    crash_walk_release(&walk);
    return device;
}

static void apply_version(struct kv_store *store, struct log_case *log, size_t version,
                          struct test_random *random)
{
    struct kv_batch *batch = kv_batch_new();
    uint8_t value[900];
    char key[24];
    KV_ASSERT(batch != NULL);
    history_begin(log->history);
    /* From a part of a block to several blocks. */
    const size_t puts = 1 + test_random_below(random, test_random_below(random, 3) ? 3 : 20);
    for (size_t i = 0; i < puts; i++) {
        const size_t key_len = test_number_key(key, version * 100 + i);
        const size_t length = test_random_below(random, sizeof value);
        test_fill(value, length, test_random_next(random));
        history_put(log->history, key, key_len, value, length);
        expect(!kv_batch_put(batch, key, key_len, value, length), "a put");
    }
    expect(history_commit(log->history) == version, "the history");
    expect(!kv_apply(store, batch, 0, &log->ends[version]), "a batch");
    kv_batch_free(batch);
}

static void read_geometry(struct log_case *log)
{
    struct kv_disk_superblock *superblock = kv_device_alloc(sizeof *superblock);
    KV_ASSERT(superblock != NULL);
    expect(!kv_device_read(recorder_device(log->recorder), KV_SUPERBLOCK_A_BLOCK, 1, superblock),
           "the superblock");
    log->first_block = kv_le64_get(superblock->log_first_block);
    log->block_count = kv_le64_get(superblock->log_block_count);
    log->tail = kv_le64_get(superblock->log_tail);
    free(superblock);
}

static void make_log(struct log_case *log, struct test_random *random)
{
    log->recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
    log->history = history_new();
    struct kv_device *device = recorder_device(log->recorder);
    test_create_on(device, 4096, KV_CODEC_NONE, KV_LOG_BYTES_MIN);
    struct kv_store *store = test_open_on(device);
    for (size_t version = 1; version <= VERSIONS; version++) {
        apply_version(store, log, version, random);
        if (version == VERSIONS || test_random_below(random, 2))
            expect(!kv_sync(store), "a sync");
    }
    kv_abandon(store);
    read_geometry(log);
    log->end = log->ends[VERSIONS];
}

static uint64_t block_at(const struct log_case *log, uint64_t position)
{
    return log->first_block + position % log->block_count;
}

/* Is there a block after `position` that was sealed when `position` was durable? */
static bool is_vouched_for(const struct log_case *log, struct kv_device *device, uint64_t position)
{
    uint8_t *bytes = kv_device_alloc(KV_BLOCK_BYTES);
    KV_ASSERT(bytes != NULL);
    bool vouched = false;
    for (uint64_t after = position + 1; after < log->end; after++) {
        struct kv_disk_log_header header;
        expect(!kv_device_read(device, block_at(log, after), 1, bytes), "a log block");
        memcpy(&header, bytes, sizeof header);
        vouched |= kv_le64_get(header.durable) > position;
    }
    free(bytes);
    return vouched;
}

/* ---- damage ------------------------------------------------------------------------- */

#define SECTORS     (KV_BLOCK_BYTES / 512u)
#define DAMAGE_BITS 12u
/* Each sector zeroed or made random; the whole block; another block in its place; bits. */
#define DAMAGE_COUNT (2 * SECTORS + 3 + DAMAGE_BITS)

static void fill_random(uint8_t *bytes, size_t length, struct test_random *random)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)test_random_next(random);
}

/* False: the block is as it was. */
static bool damage(const struct log_case *log, struct kv_device *device, uint64_t position,
                   size_t manner, struct test_random *random)
{
    uint8_t *bytes = kv_device_alloc(2 * KV_BLOCK_BYTES);
    KV_ASSERT(bytes != NULL);
    uint8_t *before = bytes + KV_BLOCK_BYTES;
    expect(!kv_device_read(device, block_at(log, position), 1, bytes), "a log block");
    memcpy(before, bytes, KV_BLOCK_BYTES);
    if (manner < SECTORS) {
        memset(bytes + manner * 512, 0, 512);
    } else if (manner < 2 * SECTORS) {
        fill_random(bytes + (manner - SECTORS) * 512, 512, random);
    } else if (manner == 2 * SECTORS) {
        memset(bytes, 0, KV_BLOCK_BYTES);
    } else if (manner == 2 * SECTORS + 1) {
        fill_random(bytes, KV_BLOCK_BYTES, random);
    } else if (manner == 2 * SECTORS + 2) {
        const uint64_t other = position > log->tail ? position - 1 : position + 1;
        expect(!kv_device_read(device, block_at(log, other), 1, bytes), "a log block");
    } else {
        const size_t bit = test_random_below(random, 8 * (size_t)KV_BLOCK_BYTES);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    const bool changed = memcmp(bytes, before, KV_BLOCK_BYTES) != 0;
    expect(!kv_device_write(device, block_at(log, position), 1, bytes), "a log block");
    free(bytes);
    return changed;
}

/* ---- opening ---------------------------------------------------------------------------- */

static int open_as(struct kv_device *device, bool read_only, bool repair, struct kv_store **store,
                   struct kv_error *error)
{
    const struct kv_open_options options = {.read_only = read_only,
                                            .repair = repair,
                                            .memory_budget_bytes = 8u << 20,
                                            .no_background = true,
                                            .log = test_log_nothing,
                                            .device = device};
    *error = (struct kv_error){""};
    return kv_open("image", &options, store, error);
}

static size_t version_in(const struct log_case *log, struct kv_store *store)
{
    size_t version;
    expect(!history_find(log->history, store, 0, VERSIONS, &version), "reading the store");
    expect(version != HISTORY_NONE, "what is there is no version");
    return version;
}

/* What lies before the bad block in whole records. */
static size_t versions_before(const struct log_case *log, uint64_t position)
{
    size_t version = 0;
    while (version < VERSIONS && log->ends[version + 1] <= position)
        version++;
    return version;
}

static void count_log_damage(void *context, enum kv_check_severity severity, const char *what,
                             const char *text)
{
    (void)text;
    *(size_t *)context += severity != KV_CHECK_NOTE && !strcmp(what, "log-damaged");
}

/* fsck.kvfs -y, and then nothing is left to find. */
static void expect_repair(const struct log_case *log, struct recorder *recorder, uint64_t position)
{
    struct kv_store *store;
    struct kv_error error;
    struct kv_check_result result;
    size_t said = 0;
    const struct kv_check_options options = {
        .repair = true, .read_blobs = true, .report = count_log_damage, .context = &said};
    expect(!open_as(recorder_device(recorder), false, true, &store, &error), "opening for repair");
    expect(version_in(log, store) >= versions_before(log, position), "a repair lost too much");
    expect(!kv_check(store, &options, &result), "the repair");
    expect(said == 1, "the repair says nothing of the log");
    expect(!kv_close(store), "closing after the repair");
    expect(!open_as(recorder_device(recorder), false, false, &store, &error), "opening again");
    expect(version_in(log, store) >= versions_before(log, position), "opening again lost some");
    expect(test_check(store, &result) == 0, "a check finds something after the repair");
    kv_abandon(store);
}

struct counts {
    size_t reported, ended, harmless;
};

static void try_damage(const struct log_case *log, uint64_t position, size_t manner,
                       struct test_random *random, struct counts *counts)
{
    struct kv_device *device = state_of(log);
    const bool vouched = is_vouched_for(log, device, position);
    const bool changed = damage(log, device, position, manner, random);
    struct recorder *recorder = recorder_new(device);
    for (int read_only = 1; read_only >= 0; read_only--) {
        struct kv_store *store;
        struct kv_error error;
        const int err = open_as(recorder_device(recorder), read_only, false, &store, &error);
        if (changed && vouched) {
            expect(err == -EBADMSG, "damage before the durable end is not reported");
            expect(strstr(error.text, "log is damaged") && strstr(error.text, "fsck.kvfs"),
                   "the error does not say what to do");
            continue;
        }
        expect(!err, "a torn end of the log does not open");
        const size_t version = version_in(log, store);
        expect(version >= (changed ? versions_before(log, position) : VERSIONS),
               "what lies before the bad block is lost");
        kv_abandon(store);
    }
    if (changed && vouched) {
        expect(recorder_event_count(recorder) == 0, "refusing the image wrote to it");
        expect_repair(log, recorder, position);
    }
    counts->reported += changed && vouched;
    counts->ended += changed && !vouched;
    counts->harmless += !changed;
    recorder_free(recorder);
}

int main(int argc, char **argv)
{
    const size_t rounds = argc > 1 ? strtoull(argv[1], NULL, 0) : test_env("KVFS_LOG_ROUNDS", 2);
    const uint64_t seed = test_env("KVFS_SEED", 1);
    struct counts counts = {0};
    printf("KVFS_SEED=%llu KVFS_LOG_ROUNDS=%zu\n", (unsigned long long)seed, rounds);
    (void)fflush(stdout); /* best effort: the test may abort next */
    for (size_t round = 0; round < rounds; round++) {
        struct test_random random = {seed * 1000003 + round};
        struct log_case log = {0};
        make_log(&log, &random);
        for (uint64_t position = log.tail; position < log.end; position++)
            for (size_t manner = 0; manner < DAMAGE_COUNT; manner++)
                try_damage(&log, position, manner, &random, &counts);
        recorder_free(log.recorder);
        history_free(log.history);
    }
    const bool good = counts.reported && counts.ended;
    printf("damage in the log: seed %llu, %zu cases before the durable end, all reported; %zu at "
           "the end, %zu that changed nothing, %s\n",
           (unsigned long long)seed, counts.reported, counts.ended, counts.harmless,
           good ? "0 violations" : "NOT ALL THAT WAS WANTED");
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
