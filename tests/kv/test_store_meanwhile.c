/*
 * tests/kv/test_store_meanwhile.c: what is done while a checkpoint is on its way, and a crash
 * in the midst of it.
 *
 * A device under the store calls back before each write of a checkpoint, and the test changes
 * and syncs keys from there: what another thread might do, at every point where it might, but in
 * an order that the seed decides. A power cut at each write must leave a prefix of the changes
 * that reaches to the last one that was synced, and the check must find nothing.
 *
 *   KVFS_SEED                where the random numbers start (printed)
 *   KVFS_MEANWHILE_ROUNDS    how many lives (1)
 *   KVFS_MEANWHILE_STATES    one of so many states is tried (3)
 */
#include "kv/store.h"
#include "support_devices.h"
#include "support_history.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

#define IMAGE_BLOCKS (2 * KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)
#define KEY_COUNT    400u
#define VALUE_MAX    40000u
#define MARKS_MAX    20000u
#define CHECKPOINTS  6u

/* From this position of the recording on. */
struct mark {
    size_t position, durable, started;
};

struct life {
    struct kv_device device; /* the one that calls back */
    struct recorder *recorder;
    struct history *history;
    struct kv_store *store;
    struct test_random random;
    struct mark marks[MARKS_MAX];
    size_t mark_count;
    bool armed, inside;
};

static uint64_t seed_start;
static uint64_t states;

static void note(struct life *life, size_t durable, size_t started)
{
    KV_ASSERT(life->mark_count < MARKS_MAX);
    life->marks[life->mark_count++] = (struct mark){
        .position = recorder_event_count(life->recorder), .durable = durable, .started = started};
}

static void change_one(struct life *life)
{
    static uint8_t value[VALUE_MAX];
    char key[24];
    const size_t key_len = test_number_key(key, test_random_below(&life->random, KEY_COUNT));
    const size_t version = history_last(life->history) + 1;
    note(life, life->marks[life->mark_count - 1].durable, version);
    if (!test_random_below(&life->random, 8)) /* then small changes wait for their leaves */
        kv_pager_drop_clean(life->store->pager);
    history_begin(life->history);
    int err;
    if (test_random_below(&life->random, 4)) {
        const size_t length =
            test_random_below(&life->random, test_random_below(&life->random, 12) ? 600 : 30000);
        test_fill(value, length, version);
        history_put(life->history, key, key_len, value, length);
        err = kv_put(life->store, key, key_len, value, length);
    } else {
        history_del(life->history, key, key_len);
        err = kv_del(life->store, key, key_len);
    }
    ck_assert_int_eq(err, 0);
    ck_assert_uint_eq(history_commit(life->history), version);
}

static void sync_all(struct life *life)
{
    const size_t version = history_last(life->history);
    ck_assert_int_eq(kv_sync(life->store), 0);
    note(life, version, version);
}

/*
 * Is that a blob? While blobs are written, who makes others durable waits for it, which a change
 * in this same thread can not. What is not a blob says what it is, or is a block of pointers.
 */
static bool is_blob(const struct kv_io *io)
{
    kv_le32 magic;
    kv_le64 first;
    memcpy(&magic, io->buf, sizeof magic);
    memcpy(&first, io->buf, sizeof first);
    const uint32_t word = kv_le32_get(magic);
    return word != KV_NODE_MAGIC && word != KV_BITMAP_MAGIC && word != KV_LOG_MAGIC &&
           memcmp(io->buf, KV_SUPERBLOCK_MAGIC, sizeof first) != 0 &&
           kv_le64_get(first) >= IMAGE_BLOCKS;
}

static int submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct life *const life = (struct life *)device;
    const bool writes = io_count ? ios[0].kind == KV_IO_WRITE && !is_blob(&ios[0]) : flush;
    if (life->armed && !life->inside && writes) {
        life->inside = true;
        for (size_t left = test_random_below(&life->random, 5); left; left--)
            change_one(life);
        if (test_random_below(&life->random, 2))
            sync_all(life);
        life->inside = false;
    }
    return kv_device_submit(recorder_device(life->recorder), ios, io_count, flush);
}

static void close_nothing(struct kv_device *device)
{
    (void)device; /* part of the life */
}

static struct life *live(uint64_t seed)
{
    static const struct kv_device_ops ops = {.submit = submit, .close = close_nothing};
    struct life *const life = calloc(1, sizeof *life);
    ck_assert_ptr_nonnull(life);
    life->random.state = seed;
    life->recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
    life->history = history_new();
    life->device = (struct kv_device){.ops = &ops, .block_count = IMAGE_BLOCKS};
    test_create_on(recorder_device(life->recorder), 4096, KV_CODEC_LZ4, 0);
    life->store = test_open_on(&life->device);
    note(life, 0, 0);
    for (unsigned i = 0; i < CHECKPOINTS; i++) {
        for (size_t left = 10 + test_random_below(&life->random, 150); left; left--)
            change_one(life);
        life->armed = true;
        ck_assert_int_eq(kv_checkpoint(life->store), 0);
        life->armed = false;
        if (test_random_below(&life->random, 2))
            sync_all(life);
    }
    kv_abandon(life->store);
    return life;
}

static void life_free(struct life *life)
{
    recorder_free(life->recorder);
    history_free(life->history);
    free(life);
}

/* Open what a crash has left, and say which version it is. */
static void check_state(struct life *life, const struct crash_walk *walk,
                        const struct crash_choice *choice)
{
    size_t first = 0, last = 0;
    for (size_t i = 0; i < life->mark_count; i++) {
        if (life->marks[i].position <= walk->position)
            first = kv_max_u64(first, life->marks[i].durable);
        if (life->marks[i].position < walk->position)
            last = kv_max_u64(last, life->marks[i].started);
    }
    last = kv_max_u64(first, last);
    struct kv_store *store;
    struct kv_check_result result;
    size_t version;
    const int err = test_try_open_on(crash_walk_state(walk, choice), &store);
    ck_assert_msg(!err, "a crash at event %zu: %s", walk->position, strerror(-err));
    ck_assert_int_eq(history_find(life->history, store, first, last, &version), 0);
    ck_assert_msg(version != HISTORY_NONE, "a crash at event %zu: none of the versions %zu to %zu",
                  walk->position, first, last);
    ck_assert_uint_eq(test_check(store, &result), 0);
    kv_abandon(store);
    states++;
}

static void crash_at(struct life *life, const struct crash_walk *walk)
{
    const size_t pending = crash_walk_pending(walk);
    struct crash_choice choice = {.kept = NULL};
    check_state(life, walk, &choice);
    if (!pending)
        return;
    bool *kept = calloc(pending, sizeof *kept);
    ck_assert_ptr_nonnull(kept);
    choice.kept = kept;
    check_state(life, walk, &choice);
    for (size_t i = 0; i < pending; i++)
        kept[i] = test_random_below(&life->random, 2);
    check_state(life, walk, &choice);
    free(kept);
}

START_TEST(a_crash_in_a_checkpoint_keeps_what_was_synced_meanwhile)
{
    const uint64_t rounds = test_env("KVFS_MEANWHILE_ROUNDS", 1);
    const uint64_t one_in = test_env("KVFS_MEANWHILE_STATES", 3);
    for (uint64_t round = 0; round < rounds; round++) {
        struct life *const life = live(seed_start + round);
        struct crash_walk walk;
        crash_walk_init(&walk, life->recorder);
        const size_t end = recorder_event_count(life->recorder);
        for (size_t position = life->marks[0].position; position <= end; position++) {
            if (test_random_below(&life->random, one_in))
                continue;
            crash_walk_advance(&walk, position);
            crash_at(life, &walk);
        }
        crash_walk_release(&walk);
        life_free(life);
    }
    printf("%" PRIu64 " states\n", states);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *const suite = suite_create("store meanwhile");
    TCase *const meanwhile = tcase_create("meanwhile");
    tcase_set_timeout(meanwhile, 0);
    tcase_add_test(meanwhile, a_crash_in_a_checkpoint_keeps_what_was_synced_meanwhile);
    suite_add_tcase(suite, meanwhile);
    return test_run(suite);
}
