/*
 * tests/kv/test_blob_pending.c: blobs that wait to be written: nothing is lost, nothing written
 * late, and neighbours go together.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/blob_pending.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#define DEVICE_BLOCKS 4096u
#define MEMORY_BLOCKS 64u

static uint64_t seed_start;

struct fixture {
    struct faulty *faulty;
    struct kv_device *device;
    struct kv_blob_pending *pending;
    int failure; /* as it was told */
    unsigned failures;
};

static void on_failure(void *context, int error)
{
    struct fixture *const f = context;
    f->failure = error;
    f->failures++;
}

static void fixture_init(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    f->faulty = faulty_new(memory_device_new(DEVICE_BLOCKS));
    f->device = faulty_device(f->faulty);
    const struct kv_blob_pending_config config = {
        .device = f->device, .block_count = MEMORY_BLOCKS, .on_failure = on_failure, .context = f};
    f->pending = kv_blob_pending_new(&config);
    ck_assert_ptr_nonnull(f->pending);
}

static void fixture_release(struct fixture *f)
{
    kv_blob_pending_free(f->pending);
    faulty_free(f->faulty);
}

/* The blob that `identity` has at a place. */
static struct kv_disk_blob_ref ref_of(uint64_t block, uint32_t block_count, uint64_t identity)
{
    const uint32_t bytes = block_count * KV_BLOCK_BYTES;
    return (struct kv_disk_blob_ref){.ptr = {.block = kv_le64_of(block),
                                             .length_bytes = kv_le32_of(bytes),
                                             .digest = kv_le64_of(identity)},
                                     .raw_bytes = kv_le32_of(bytes)};
}

static int try_write(struct fixture *f, uint64_t block, uint32_t block_count, uint64_t identity,
                     struct kv_disk_blob_ref *ref)
{
    struct kv_blob_slot slot;
    *ref = ref_of(block, block_count, identity);
    const int err = kv_blob_pending_begin(f->pending, block, block_count, &slot);
    if (err)
        return err;
    test_fill(slot.bytes, block_count * KV_BLOCK_BYTES, identity);
    kv_blob_pending_end(f->pending, &slot, ref);
    return 0;
}

static struct kv_disk_blob_ref write_one(struct fixture *f, uint64_t block, uint32_t block_count,
                                         uint64_t identity)
{
    struct kv_disk_blob_ref ref;
    ck_assert_int_eq(try_write(f, block, block_count, identity, &ref), 0);
    return ref;
}

static bool bytes_are(const uint8_t *bytes, uint32_t block_count, uint64_t identity)
{
    uint8_t *const expected = malloc(block_count * (size_t)KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(expected);
    test_fill(expected, block_count * (size_t)KV_BLOCK_BYTES, identity);
    const bool same = memcmp(expected, bytes, block_count * (size_t)KV_BLOCK_BYTES) == 0;
    free(expected);
    return same;
}

static bool is_on_device(struct fixture *f, uint64_t block, uint32_t block_count, uint64_t identity)
{
    uint8_t *const bytes = kv_device_alloc(block_count * (size_t)KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(bytes);
    ck_assert_int_eq(kv_device_read(f->device, block, block_count, bytes), 0);
    const bool same = bytes_are(bytes, block_count, identity);
    free(bytes);
    return same;
}

static bool is_in_memory(struct fixture *f, const struct kv_disk_blob_ref *ref, uint64_t identity)
{
    uint64_t number;
    const uint8_t *const bytes = kv_blob_pending_pin(f->pending, ref, &number);
    if (!bytes)
        return false;
    ck_assert(bytes_are(bytes, kv_le32_get(ref->raw_bytes) / KV_BLOCK_BYTES, identity));
    kv_blob_pending_unpin(f->pending, number);
    return true;
}

START_TEST(a_blob_is_read_from_memory_until_a_flush_brings_it_to_the_device)
{
    struct fixture f;
    fixture_init(&f);
    const struct kv_disk_blob_ref ref = write_one(&f, 100, 3, 1);
    const struct kv_disk_blob_ref other = ref_of(100, 3, 2);
    ck_assert_uint_eq(f.device->counts.writes, 0);
    ck_assert(is_in_memory(&f, &ref, 1));
    ck_assert(!is_in_memory(&f, &other, 2));
    ck_assert_int_eq(kv_blob_pending_flush(f.pending), 0);
    ck_assert(is_on_device(&f, 100, 3, 1));
    ck_assert(is_in_memory(&f, &ref, 1));
    ck_assert_int_eq(kv_blob_pending_flush(f.pending), 0);
    ck_assert_uint_eq(f.device->counts.writes, 1);
    fixture_release(&f);
}
END_TEST

START_TEST(neighbours_go_with_one_request)
{
    struct fixture f;
    fixture_init(&f);
    for (uint32_t i = 0; i < 20; i++)
        (void)write_one(&f, 200 + i, 1, i);
    for (uint32_t i = 0; i < 20; i++)
        (void)write_one(&f, 300 + 2 * i, 1, 20 + i);
    ck_assert_int_eq(kv_blob_pending_flush(f.pending), 0);
    ck_assert_uint_eq(f.device->counts.writes, 21);
    for (uint32_t i = 0; i < 20; i++)
        ck_assert(is_on_device(&f, 200 + i, 1, i) && is_on_device(&f, 300 + 2 * i, 1, 20 + i));
    fixture_release(&f);
}
END_TEST

START_TEST(what_was_cancelled_is_never_written)
{
    struct fixture f;
    fixture_init(&f);
    (void)write_one(&f, 10, 1, 1);
    const struct kv_disk_blob_ref gone = write_one(&f, 11, 2, 2);
    (void)write_one(&f, 13, 1, 3);
    kv_blob_pending_cancel(f.pending, &gone);
    kv_blob_pending_cancel(f.pending, &gone);
    ck_assert(!is_in_memory(&f, &gone, 2));
    (void)write_one(&f, 11, 1, 4); /* the block is somebody else's by now */
    ck_assert_int_eq(kv_blob_pending_flush(f.pending), 0);
    ck_assert(is_on_device(&f, 10, 1, 1));
    ck_assert(is_on_device(&f, 11, 1, 4));
    ck_assert(!is_on_device(&f, 12, 1, 2));
    ck_assert(is_on_device(&f, 13, 1, 3));
    /* One that was written may be given back as well, and its memory is had again. */
    const struct kv_disk_blob_ref late = write_one(&f, 20, 1, 5);
    ck_assert_int_eq(kv_blob_pending_flush(f.pending), 0);
    kv_blob_pending_cancel(f.pending, &late);
    for (uint32_t i = 0; i < 3 * MEMORY_BLOCKS; i++)
        kv_blob_pending_cancel(
            f.pending, &(struct kv_disk_blob_ref){.ptr = write_one(&f, 500 + i, 1, 100 + i).ptr,
                                                  .raw_bytes = kv_le32_of(KV_BLOCK_BYTES)});
    ck_assert_int_eq(kv_blob_pending_flush(f.pending), 0);
    fixture_release(&f);
}
END_TEST

START_TEST(when_memory_is_short_the_oldest_go_first)
{
    struct fixture f;
    struct test_random random = {.state = seed_start};
    fixture_init(&f);
    struct {
        struct kv_disk_blob_ref ref;
        uint64_t block;
        uint32_t block_count;
        bool cancelled;
    } *blobs = calloc(600, sizeof *blobs);
    ck_assert_ptr_nonnull(blobs);
    uint64_t block = 0;
    for (size_t i = 0; i < 600; i++) {
        const uint32_t count =
            1 + (uint32_t)test_random_below(&random, test_random_below(&random, 4) ? 3 : 32);
        block += test_random_below(&random, 3) ? 0 : 1;
        if (block + count > DEVICE_BLOCKS)
            break;
        blobs[i].block = block;
        blobs[i].block_count = count;
        blobs[i].ref = write_one(&f, block, count, i + 1);
        block += count;
        if (!test_random_below(&random, 10)) {
            kv_blob_pending_cancel(f.pending, &blobs[i].ref);
            blobs[i].cancelled = true;
        }
        const size_t seen = test_random_below(&random, i + 1);
        if (!blobs[seen].cancelled && !is_in_memory(&f, &blobs[seen].ref, seen + 1))
            ck_assert(is_on_device(&f, blobs[seen].block, blobs[seen].block_count, seen + 1));
        if (!test_random_below(&random, 40))
            ck_assert_int_eq(kv_blob_pending_flush(f.pending), 0);
    }
    ck_assert_int_eq(kv_blob_pending_flush(f.pending), 0);
    for (size_t i = 0; i < 600 && blobs[i].block_count; i++)
        ck_assert(blobs[i].cancelled ||
                  is_on_device(&f, blobs[i].block, blobs[i].block_count, i + 1));
    free(blobs);
    fixture_release(&f);
}
END_TEST

/* What the log does: the last requests go with its own. */
static int flush_with_others(struct fixture *f, size_t *given)
{
    struct kv_io ios[KV_BLOB_GIVEN_MAX];
    const int err = kv_blob_pending_give(f->pending, ios, KV_BLOB_GIVEN_MAX, given);
    if (err || !*given)
        return err;
    const int submit_err = kv_device_submit(f->device, ios, *given, true);
    kv_blob_pending_given(f->pending, ios, *given);
    return submit_err;
}

START_TEST(the_last_requests_can_go_with_those_of_somebody_else)
{
    struct fixture f;
    size_t given;
    fixture_init(&f);
    ck_assert_int_eq(flush_with_others(&f, &given), 0);
    ck_assert_uint_eq(given, 0);
    for (uint32_t i = 0; i < 20; i++)
        (void)write_one(&f, 300 + 2 * i, 1, i);
    ck_assert_int_eq(flush_with_others(&f, &given), 0);
    ck_assert_uint_eq(given, 20 % KV_BLOB_GIVEN_MAX);
    ck_assert_uint_eq(f.device->counts.writes, 20);
    for (uint32_t i = 0; i < 20; i++)
        ck_assert(is_on_device(&f, 300 + 2 * i, 1, i));
    ck_assert_int_eq(flush_with_others(&f, &given), 0);
    ck_assert_uint_eq(given, 0);
    ck_assert_uint_eq(f.device->counts.flushes, 1);
    fixture_release(&f);
}
END_TEST

START_TEST(of_what_was_given_away_a_failed_write_is_a_failure_and_a_failed_flush_is_not)
{
    struct fixture f;
    size_t given;
    fixture_init(&f);
    (void)write_one(&f, 10, 1, 1);
    faulty_arm(f.faulty, (struct fault){.targets = FAULT_FLUSHES, .error = -EIO});
    ck_assert_int_eq(flush_with_others(&f, &given), -EIO);
    ck_assert_uint_eq(f.failures, 0);
    ck_assert_int_eq(kv_blob_pending_flush(f.pending), 0);
    (void)write_one(&f, 20, 1, 2);
    faulty_arm(f.faulty, (struct fault){.targets = FAULT_WRITES, .error = -ENOSPC});
    ck_assert_int_eq(flush_with_others(&f, &given), -ENOSPC);
    ck_assert_int_eq(f.failure, -EIO);
    ck_assert_uint_eq(f.failures, 1);
    ck_assert_int_eq(kv_blob_pending_flush(f.pending), -EIO);
    ck_assert_int_eq(flush_with_others(&f, &given), -EIO);
    ck_assert_uint_eq(given, 0);
    fixture_release(&f);
}
END_TEST

START_TEST(after_a_failed_write_nothing_is_written_and_everything_readable)
{
    struct fixture f;
    fixture_init(&f);
    struct kv_disk_blob_ref refs[3], refused;
    for (uint32_t i = 0; i < 3; i++)
        refs[i] = write_one(&f, 50 + 2 * i, 1, i);
    faulty_arm(f.faulty, (struct fault){.targets = FAULT_WRITES, .error = -ENOSPC});
    ck_assert_int_eq(kv_blob_pending_flush(f.pending), -EIO);
    ck_assert_int_eq(f.failure, -EIO);
    const uint64_t writes = f.device->counts.writes;
    ck_assert_int_eq(kv_blob_pending_flush(f.pending), -EIO);
    ck_assert_int_eq(try_write(&f, 70, 1, 9, &refused), -EIO);
    kv_blob_pending_cancel(f.pending, &refs[2]);
    ck_assert_uint_eq(f.device->counts.writes, writes);
    ck_assert_uint_eq(f.failures, 1);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert(is_in_memory(&f, &refs[i], i));
    fixture_release(&f);
}
END_TEST

/* ---- threads --------------------------------------------------------------------------- */

#define THREADS     3u
#define EACH_THREAD 300u

struct worker {
    struct fixture *f;
    unsigned number;
};

static void *write_many(void *context)
{
    const struct worker *const w = context;
    struct test_random random = {.state = seed_start * 10 + w->number};
    for (unsigned i = 0; i < EACH_THREAD; i++) {
        const uint64_t block = w->number * 1000 + 3 * i, identity = block + 1;
        const uint32_t count = 1 + (uint32_t)test_random_below(&random, 3);
        const struct kv_disk_blob_ref ref = write_one(w->f, block, count, identity);
        if (!is_in_memory(w->f, &ref, identity))
            ck_assert(is_on_device(w->f, block, count, identity));
        if (i % 3 == 2) {
            kv_blob_pending_cancel(w->f->pending, &ref);
            ck_assert(!is_in_memory(w->f, &ref, identity) ||
                      is_on_device(w->f, block, count, identity));
        } else if (!test_random_below(&random, 20)) {
            size_t given;
            ck_assert_int_eq(flush_with_others(w->f, &given), 0);
            ck_assert(is_on_device(w->f, block, count, identity));
        }
    }
    return NULL;
}

static void *serve(void *context)
{
    kv_blob_pending_serve(context);
    return NULL;
}

START_TEST(threads_write_read_and_flush_while_another_serves)
{
    struct fixture f;
    fixture_init(&f);
    pthread_t server, threads[THREADS];
    struct worker workers[THREADS];
    ck_assert_int_eq(pthread_create(&server, NULL, serve, f.pending), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.f = &f, .number = i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, write_many, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    kv_blob_pending_stop(f.pending);
    pthread_join(server, NULL);
    ck_assert_int_eq(kv_blob_pending_flush(f.pending), 0);
    ck_assert_uint_eq(f.failures, 0);
    fixture_release(&f);
}
END_TEST

/* ---- telling of what leaves ------------------------------------------------------------- */

#define LEAVING 400u

struct leaving {
    struct fixture f;
    _Atomic unsigned told[LEAVING]; /* how often, by identity */
};

static void on_leave(void *context, const struct kv_disk_blob_ref *ref, const uint8_t *stored)
{
    struct fixture *const f = context;
    struct leaving *const l = (struct leaving *)f; /* its first member */
    const uint64_t identity = kv_le64_get(ref->ptr.digest);
    ck_assert_uint_lt(identity, LEAVING);
    ck_assert(bytes_are(stored, kv_le32_get(ref->raw_bytes) / KV_BLOCK_BYTES, identity));
    ck_assert(is_on_device(f, kv_le64_get(ref->ptr.block), 1, identity));
    atomic_fetch_add(&l->told[identity], 1);
}

/* The loop index: is there somebody who serves? */
START_TEST(of_what_is_forgotten_each_is_told_once_while_somebody_wants_it)
{
    static struct leaving l;
    pthread_t server;
    memset(&l, 0, sizeof l);
    l.f.faulty = faulty_new(memory_device_new(DEVICE_BLOCKS));
    l.f.device = faulty_device(l.f.faulty);
    const struct kv_blob_pending_config config = {.device = l.f.device,
                                                  .block_count = MEMORY_BLOCKS,
                                                  .on_failure = on_failure,
                                                  .on_leave = on_leave,
                                                  .context = &l.f};
    l.f.pending = kv_blob_pending_new(&config);
    ck_assert_ptr_nonnull(l.f.pending);
    if (_i)
        ck_assert_int_eq(pthread_create(&server, NULL, serve, l.f.pending), 0);
    for (unsigned i = 0; i < LEAVING; i++) {
        const struct kv_disk_blob_ref ref = write_one(&l.f, 2 * i, 1, i);
        if (i % 5 == 1)
            kv_blob_pending_unwanted(l.f.pending, &ref);
        if (i % 5 == 2)
            kv_blob_pending_cancel(l.f.pending, &ref);
    }
    if (_i) {
        kv_blob_pending_stop(l.f.pending);
        ck_assert_int_eq(pthread_join(server, NULL), 0);
    }
    for (unsigned i = 0; i < LEAVING; i++) {
        ck_assert_uint_le(l.told[i], 1);
        if (i % 5 == 1 || i % 5 == 2)
            ck_assert_uint_eq(l.told[i], 0);
        else if (i < LEAVING - MEMORY_BLOCKS) /* its memory has been another's since */
            ck_assert_uint_eq(l.told[i], 1);
    }
    fixture_release(&l.f);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *const suite = suite_create("blob pending");
    TCase *const pending = tcase_create("pending");
    tcase_set_timeout(pending, 120);
    tcase_add_test(pending, a_blob_is_read_from_memory_until_a_flush_brings_it_to_the_device);
    tcase_add_test(pending, neighbours_go_with_one_request);
    tcase_add_test(pending, the_last_requests_can_go_with_those_of_somebody_else);
    tcase_add_test(pending,
                   of_what_was_given_away_a_failed_write_is_a_failure_and_a_failed_flush_is_not);
    tcase_add_test(pending, what_was_cancelled_is_never_written);
    tcase_add_test(pending, when_memory_is_short_the_oldest_go_first);
    tcase_add_test(pending, after_a_failed_write_nothing_is_written_and_everything_readable);
    tcase_add_test(pending, threads_write_read_and_flush_while_another_serves);
    tcase_add_loop_test(pending, of_what_is_forgotten_each_is_told_once_while_somebody_wants_it, 0,
                        2);
    suite_add_tcase(suite, pending);
    return test_run(suite);
}
