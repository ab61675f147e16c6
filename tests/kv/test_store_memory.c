/*
 * tests/kv/test_store_memory.c: each allocation of the store fails in turn.
 *
 * A fixed piece of work runs again and again; each time one more allocation succeeds before one
 * fails, or all do from then on. Nothing crashes or leaks, a failed call has done nothing or
 * turned the store read-only, and what was promised is there afterwards.
 *
 * Linked with --wrap for the functions below. KVFS_STEPS: try only every nth allocation.
 */
#include "kv/store.h"
#include "support_devices.h"
#include "support_store.h"

#include <check.h>
#include <inttypes.h>

#define IMAGE_BLOCKS (KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)
#define NUMBERS      700u

static uint64_t stride;

/* ---- allocations that fail ---------------------------------------------------------------- */

static struct {
    bool armed, lasting;
    unsigned shield; /* the tests' own devices do not fail */
    uint64_t left;   /* that still succeed */
    uint64_t failed;
} memory;

static bool fails(void)
{
    if (!memory.armed || memory.shield)
        return false;
    if (memory.left) {
        memory.left--;
        return false;
    }
    memory.failed++;
    memory.armed = memory.lasting;
    return true;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
int __real_posix_memalign(void **out, size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __real_realloc(old, bytes);
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes)
{
    return fails() ? ENOMEM : __real_posix_memalign(out, alignment, bytes);
}

/* ---- a device that never lacks memory ---------------------------------------------------------
 */

struct shielded {
    struct kv_device base;
    struct kv_device *below;
};

static int shielded_submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    memory.shield++;
    const int err = kv_device_submit(((struct shielded *)device)->below, ios, io_count, flush);
    memory.shield--;
    return err;
}

static void shielded_close(struct kv_device *device)
{
    (void)device; /* the test closes the one below */
}

static void shielded_init(struct shielded *shielded, struct kv_device *below)
{
    static const struct kv_device_ops ops = {.submit = shielded_submit, .close = shielded_close};
    *shielded =
        (struct shielded){.base = {.ops = &ops, .block_count = below->block_count}, .below = below};
}

/* ---- the work -----------------------------------------------------------------------------------
 */

/* What a number holds, as far as calls have said. */
enum state { ABSENT, PRESENT, UNSURE };

struct work {
    struct kv_store *store;
    enum state states[NUMBERS], synced[NUMBERS];
    unsigned errors;
};

static size_t length_of(uint64_t number)
{
    return number % 10 == 0 ? 30000 : number % 10 == 1 ? 1500 : 10 + number % 200;
}

/* A call may fail for want of memory, or because one before it turned the store read-only. */
static bool note(struct work *work, int err)
{
    const bool read_only = kv_store_failure(work->store) != 0;
    KV_ASSERT(err == 0 || err == -ENOMEM || (read_only && (err == -EROFS || err == -EIO)));
    work->errors += err != 0;
    return err == 0;
}

static void put(struct work *work, uint64_t number)
{
    char key[24];
    static uint8_t value[30000];
    test_fill(value, length_of(number), number);
    if (note(work,
             kv_put(work->store, key, test_number_key(key, number), value, length_of(number))))
        work->states[number] = PRESENT;
    else if (kv_store_failure(work->store))
        work->states[number] = UNSURE; /* it may have come as far as the log */
}

static void remove_range(struct work *work, uint64_t first, uint64_t end)
{
    char lower[24], upper[24];
    struct kv_batch *const batch = kv_batch_new();
    if (!batch) {
        work->errors++;
        return;
    }
    int err = kv_batch_del_range(batch, lower, test_number_key(lower, first), upper,
                                 test_number_key(upper, end));
    if (!err)
        err = kv_apply(work->store, batch, KV_APPLY_URGENT, NULL);
    const bool done = note(work, err);
    kv_batch_free(batch);
    for (uint64_t number = first; number < end; number++)
        if (done)
            work->states[number] = ABSENT;
        else if (kv_store_failure(work->store))
            work->states[number] = UNSURE;
}

/* The middle of a value, with the bytes that are there. */
static void patch(struct work *work, uint64_t number)
{
    char key[24];
    static uint8_t value[30000];
    struct kv_batch *const batch = kv_batch_new();
    if (!batch || work->states[number] != PRESENT) {
        kv_batch_free(batch);
        return;
    }
    const size_t half = length_of(number) / 2;
    test_fill(value, length_of(number), number);
    int err = kv_batch_patch(batch, key, test_number_key(key, number), half, value + half,
                             length_of(number) - half);
    if (!err)
        err = kv_apply(work->store, batch, 0, NULL);
    (void)note(work, err);
    kv_batch_free(batch);
}

static void share_blob(struct work *work)
{
    static uint8_t bytes[20000];
    struct kv_blob_ref ref;
    size_t written;
    struct kv_batch *const batch = kv_batch_new();
    if (!batch) {
        work->errors++;
        return;
    }
    test_fill(bytes, sizeof bytes, 5);
    int err = kv_blob_write(work->store, bytes, sizeof bytes, NULL, &ref, &written);
    if (note(work, err)) {
        err = kv_batch_put_blob(batch, "blob-a", 6, "head", 4, &ref, KV_BLOB_NEW);
        if (!err)
            err = kv_apply(work->store, batch, 0, NULL);
        if (!note(work, err) && !kv_store_failure(work->store))
            kv_blob_discard(work->store, &ref);
        kv_batch_clear(batch);
    }
    if (!err) {
        err = kv_batch_put_blob(batch, "blob-b", 6, "head", 4, &ref, KV_BLOB_SHARED);
        if (!err)
            err = kv_batch_del(batch, "blob-a", 6);
        if (!err)
            err = kv_apply(work->store, batch, 0, NULL);
        (void)note(work, err);
    }
    kv_batch_free(batch);
}

static void read_about(struct work *work)
{
    static uint8_t values[20][30000];
    char keys[20][24];
    struct kv_lookup lookups[20];
    struct kv_cursor *cursor;
    for (unsigned i = 0; i < 20; i++)
        lookups[i] = (struct kv_lookup){.key = keys[i],
                                        .key_len = test_number_key(keys[i], i * 30),
                                        .buf = values[i],
                                        .buf_cap = sizeof values[i]};
    int err = kv_get_many(work->store, lookups, 20);
    KV_ASSERT(err == 0);
    for (unsigned i = 0; i < 20; i++)
        if (lookups[i].result != -ENOENT)
            (void)note(work, lookups[i].result);
    err = kv_cursor_open(work->store, NULL, 0, NULL, 0, &cursor);
    if (!note(work, err))
        return;
    unsigned steps = 0;
    for (err = kv_cursor_last(cursor); !err && steps < 60; err = kv_cursor_prev(cursor), steps++) {
        const void *value;
        size_t length;
        (void)note(work, kv_cursor_value(cursor, &value, &length));
    }
    if (err != -ENOENT)
        (void)note(work, err);
    kv_cursor_close(cursor);
}

static void sync_all(struct work *work, bool by_checkpoint)
{
    if (note(work, by_checkpoint ? kv_checkpoint(work->store) : kv_sync(work->store)))
        memcpy(work->synced, work->states, sizeof work->synced);
}

static void do_work(struct work *work)
{
    for (uint64_t number = 0; number < NUMBERS; number += 2)
        put(work, number);
    sync_all(work, false);
    for (uint64_t number = 0; number < NUMBERS; number += 20)
        patch(work, number);
    share_blob(work);
    sync_all(work, true);
    read_about(work);
    remove_range(work, 100, 300);
    for (uint64_t number = 1; number < NUMBERS; number += 4)
        put(work, number);
    sync_all(work, false);
}

/* What was synced is there; what no call changed since is as it was. */
static void expect_promised(struct work *work)
{
    for (uint64_t number = 0; number < NUMBERS; number++) {
        const int err = test_get_number(work->store, number, length_of(number));
        KV_ASSERT(err == 0 || err == -ENOENT);
        if (work->states[number] == work->synced[number] && work->states[number] != UNSURE)
            KV_ASSERT(err == (work->states[number] == PRESENT ? 0 : -ENOENT));
    }
}

/* Returns whether an allocation failed. */
static bool run_once(uint64_t left, bool lasting)
{
    struct recorder *const recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
    struct shielded shielded;
    struct work work = {0};
    struct kv_check_result result;
    shielded_init(&shielded, recorder_device(recorder));
    test_create_on(&shielded.base, 4096, KV_CODEC_LZ4, 0);
    work.store = test_open_on(&shielded.base);

    memory.left = left;
    memory.failed = 0;
    memory.lasting = lasting;
    memory.armed = true;
    do_work(&work);
    const int close_err = left % 2 ? kv_close(work.store) : 0;
    memory.armed = false;
    const bool failed = memory.failed > 0;
    if (left % 2 == 0)
        kv_abandon(work.store);
    else
        KV_ASSERT(close_err == 0 || close_err == -EIO);
    if (close_err == 0 && left % 2 && !work.errors)
        memcpy(work.synced, work.states, sizeof work.synced);

    /* Opening replays, with allocations that fail as well. */
    uint64_t open_left = left % 97;
    struct kv_store *store = NULL;
    for (;; open_left += 7) {
        memory.left = open_left;
        memory.armed = true;
        memory.lasting = false;
        const int err = test_try_open_on(&shielded.base, &store);
        memory.armed = false;
        KV_ASSERT(err == 0 || err == -ENOMEM || err == -EIO);
        if (!err)
            break;
    }
    work.store = store;
    expect_promised(&work);
    ck_assert_uint_eq(test_check(store, &result), 0);
    ck_assert_int_eq(kv_close(store), 0);
    recorder_free(recorder);
    return failed;
}

START_TEST(one_allocation_fails)
{
    uint64_t left = 0;
    while (run_once(left, false))
        left += stride;
    printf("%" PRIu64 " allocations\n", left);
    ck_assert_uint_gt(left, 300);
}
END_TEST

START_TEST(all_allocations_fail_from_one_on)
{
    uint64_t left = 0;
    while (run_once(left, true))
        left += stride * 3;
    ck_assert_uint_gt(left, 300);
}
END_TEST

START_TEST(making_an_image_can_lack_memory)
{
    bool made = false;
    for (uint64_t left = 0; !made; left++) {
        struct kv_device *const below = memory_device_new(IMAGE_BLOCKS);
        struct shielded shielded;
        const struct kv_create_options options = {0};
        struct kv_error error = {""};
        shielded_init(&shielded, below);
        memory.left = left;
        memory.lasting = left % 2;
        memory.armed = true;
        const int err = kv_create_on_device(&shielded.base, &options, &error);
        memory.armed = false;
        ck_assert(err == 0 || err == -ENOMEM);
        made = err == 0;
        kv_device_close(below);
    }
}
END_TEST

int main(void)
{
    stride = test_env("KVFS_STEPS", 11);
    printf("stride: %" PRIu64 " (KVFS_STEPS)\n", stride);
    Suite *const suite = suite_create("store memory");
    TCase *const scarce = tcase_create("memory");
    tcase_set_timeout(scarce, 0);
    tcase_add_test(scarce, one_allocation_fails);
    tcase_add_test(scarce, all_allocations_fail_from_one_on);
    tcase_add_test(scarce, making_an_image_can_lack_memory);
    suite_add_tcase(suite, scarce);
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
