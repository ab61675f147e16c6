/*
 * tests/kv/test_support_devices.c: tests the devices that other tests trust.
 */
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>

#define BLOCKS 64u

static uint8_t *buffer; /* of BLOCKS blocks */

static void make_buffer(void)
{
    buffer = kv_device_alloc((size_t)BLOCKS * KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(buffer);
}

static void free_buffer(void)
{
    free(buffer);
}

static void write_fill(struct kv_device *device, uint64_t block, uint32_t block_count,
                       uint8_t value)
{
    memset(buffer, value, (size_t)block_count * KV_BLOCK_BYTES);
    ck_assert_int_eq(kv_device_write(device, block, block_count, buffer), 0);
}

/* Are bytes [from, to) of a block all `value`? */
static void check_bytes(struct kv_device *device, uint64_t block, uint32_t from, uint32_t to,
                        uint8_t value)
{
    ck_assert_int_eq(kv_device_read(device, block, 1, buffer), 0);
    uint32_t i = from;
    while (i < to && buffer[i] == value)
        i++;
    ck_assert_msg(i >= to, "block %u byte %u is not %u", (unsigned)block, i, value);
}

static void check_block(struct kv_device *device, uint64_t block, uint8_t value)
{
    check_bytes(device, block, 0, KV_BLOCK_BYTES, value);
}

START_TEST(memory_starts_zeroed_and_keeps_what_is_written)
{
    struct kv_device *device = memory_device_new(BLOCKS);
    check_block(device, BLOCKS - 1, 0);
    write_fill(device, 3, 2, 7);
    write_fill(device, 4, 1, 8);
    check_block(device, 2, 0);
    check_block(device, 3, 7);
    check_block(device, 4, 8);
    ck_assert_int_eq(kv_device_discard(device, 3, 1), 0);
    check_block(device, 3, 0);
    check_block(device, 4, 8);
    ck_assert_int_eq(kv_device_read(device, BLOCKS, 1, buffer), -EINVAL);
    kv_device_close(device);
}
END_TEST

START_TEST(a_recorder_logs_blocks_and_flushes_in_order)
{
    struct kv_device *base = memory_device_new(BLOCKS);
    write_fill(base, 0, 1, 1);
    struct recorder *recorder = recorder_new(base);
    struct kv_device *device = recorder_device(recorder);
    check_block(device, 0, 1);
    ck_assert_uint_eq(recorder_event_count(recorder), 0);

    write_fill(device, 5, 2, 2);
    struct kv_io io = {.kind = KV_IO_WRITE, .block = 0, .block_count = 1, .buf = buffer};
    memset(buffer, 3, KV_BLOCK_BYTES);
    ck_assert_int_eq(kv_device_submit(device, &io, 1, true), 0);
    ck_assert_int_eq(kv_device_discard(device, 5, 3), 0);
    check_block(device, 0, 3);
    check_block(device, 5, 0);
    kv_device_close(device);

    static const struct {
        bool is_flush;
        uint64_t block;
        int value;
    } expected[] = {{false, 5, 2}, {false, 6, 2}, {false, 0, 3},
                    {true, 0, 0},  {false, 5, 0}, {false, 6, 0}};
    ck_assert_uint_eq(recorder_event_count(recorder), 6);
    for (size_t i = 0; i < 6; i++) {
        const struct recorded_event event = recorder_event(recorder, i);
        ck_assert_int_eq(event.is_flush, expected[i].is_flush);
        if (event.is_flush)
            continue;
        ck_assert_uint_eq(event.block, expected[i].block);
        ck_assert_int_eq(event.bytes ? event.bytes[100] : 0, expected[i].value);
    }
    recorder_free(recorder);
}
END_TEST

/* Writes 1 to block 1, 2 to 2, flush, 3 to 1, 4 to 3, 5 to 1. */
static struct recorder *record_something(void)
{
    struct recorder *recorder = recorder_new(memory_device_new(BLOCKS));
    struct kv_device *device = recorder_device(recorder);
    write_fill(device, 1, 1, 1);
    write_fill(device, 2, 1, 2);
    ck_assert_int_eq(kv_device_flush(device), 0);
    write_fill(device, 1, 1, 3);
    write_fill(device, 3, 1, 4);
    write_fill(device, 1, 1, 5);
    return recorder;
}

START_TEST(a_prefix_holds_the_first_writes_and_no_others)
{
    static const uint8_t expected[7][3] = {{0, 0, 0}, {1, 0, 0}, {1, 2, 0}, {1, 2, 0},
                                           {3, 2, 0}, {3, 2, 4}, {5, 2, 4}};
    static const size_t pending[7] = {0, 1, 2, 0, 1, 2, 3};
    struct recorder *recorder = record_something();
    struct crash_walk walk;
    crash_walk_init(&walk, recorder);
    for (size_t position = 0; position <= recorder_event_count(recorder); position++) {
        crash_walk_advance(&walk, position);
        ck_assert_uint_eq(crash_walk_pending(&walk), pending[position]);
        struct kv_device *state = crash_walk_state(&walk, &(struct crash_choice){0});
        for (uint64_t block = 1; block <= 3; block++)
            check_block(state, block, expected[position][block - 1]);
        kv_device_close(state);
    }
    crash_walk_release(&walk);
    recorder_free(recorder);
}
END_TEST

START_TEST(any_subset_of_the_pending_writes_can_be_had)
{
    struct recorder *recorder = record_something();
    struct crash_walk walk;
    crash_walk_init(&walk, recorder);
    crash_walk_advance(&walk, 6);
    for (unsigned set = 0; set < 8; set++) {
        const bool kept[3] = {set & 1, set & 2, set & 4};
        struct kv_device *state = crash_walk_state(&walk, &(struct crash_choice){.kept = kept});
        check_block(state, 1, kept[2] ? 5 : kept[0] ? 3 : 1);
        check_block(state, 2, 2);
        check_block(state, 3, kept[1] ? 4 : 0);
        kv_device_close(state);
    }
    crash_walk_release(&walk);
    recorder_free(recorder);
}
END_TEST

START_TEST(a_torn_write_is_new_up_to_the_cut_and_then_something_else)
{
    struct recorder *recorder = record_something();
    struct crash_walk walk;
    crash_walk_init(&walk, recorder);
    crash_walk_advance(&walk, 4);
    for (uint32_t cut = 0; cut <= KV_BLOCK_BYTES; cut += 512) {
        struct crash_choice choice = {.torn = true, .torn_bytes = cut, .rest = TORN_REST_OLD};
        struct kv_device *state = crash_walk_state(&walk, &choice);
        check_bytes(state, 1, 0, cut, 3);
        check_bytes(state, 1, cut, KV_BLOCK_BYTES, 1);
        kv_device_close(state);

        choice.rest = TORN_REST_ZERO;
        state = crash_walk_state(&walk, &choice);
        check_bytes(state, 1, 0, cut, 3);
        check_bytes(state, 1, cut, KV_BLOCK_BYTES, 0);
        kv_device_close(state);

        choice.rest = TORN_REST_RANDOM;
        choice.random_seed = cut;
        state = crash_walk_state(&walk, &choice);
        check_bytes(state, 1, 0, cut, 3);
        unsigned strange = 0;
        for (uint32_t i = cut; i < KV_BLOCK_BYTES; i++)
            strange += buffer[i] != 3 && buffer[i] != 1 && buffer[i] != 0;
        ck_assert_uint_ge(strange, (KV_BLOCK_BYTES - cut) * 9 / 10);
        kv_device_close(state);
    }
    crash_walk_release(&walk);
    recorder_free(recorder);
}
END_TEST

START_TEST(a_later_write_covers_an_earlier_torn_one)
{
    struct recorder *recorder = record_something();
    struct crash_walk walk;
    crash_walk_init(&walk, recorder);
    crash_walk_advance(&walk, 6);
    const struct crash_choice choice = {.torn = true, .torn_bytes = 1024};
    struct kv_device *state = crash_walk_state(&walk, &choice);
    check_block(state, 1, 5);
    kv_device_close(state);
    crash_walk_release(&walk);
    recorder_free(recorder);
}
END_TEST

START_TEST(a_state_can_be_written_and_recorded_without_touching_the_log)
{
    struct recorder *recorder = record_something();
    struct crash_walk walk;
    crash_walk_init(&walk, recorder);
    crash_walk_advance(&walk, 6);
    struct recorder *second = recorder_new(crash_walk_state(&walk, &(struct crash_choice){0}));
    struct kv_device *device = recorder_device(second);
    write_fill(device, 1, 1, 9);
    ck_assert_uint_eq(recorder_event_count(second), 1);
    ck_assert_uint_eq(recorder_event_count(recorder), 6);

    struct crash_walk second_walk;
    crash_walk_init(&second_walk, second);
    struct kv_device *state = crash_walk_state(&second_walk, &(struct crash_choice){0});
    check_block(state, 1, 5);
    write_fill(state, 1, 1, 10);
    check_block(state, 1, 10);
    kv_device_close(state);
    crash_walk_advance(&second_walk, 1);
    state = crash_walk_state(&second_walk, &(struct crash_choice){0});
    check_block(state, 1, 9);
    kv_device_close(state);
    crash_walk_release(&second_walk);
    recorder_free(second);

    state = crash_walk_state(&walk, &(struct crash_choice){0});
    check_block(state, 1, 5);
    kv_device_close(state);
    crash_walk_release(&walk);
    recorder_free(recorder);
}
END_TEST

/* Against a plain array: what is on the disk when everything after a flush is lost or kept. */
START_TEST(random_logs_replay_like_an_array)
{
    const uint64_t seed = test_env("KVFS_SEED", 1);
    printf("KVFS_SEED=%llu\n", (unsigned long long)seed);
    struct test_random random = {seed};
    for (unsigned round = 0; round < 20; round++) {
        uint8_t model[401][BLOCKS] = {{0}};
        size_t flushed[401] = {0};
        struct recorder *recorder = recorder_new(memory_device_new(BLOCKS));
        struct kv_device *device = recorder_device(recorder);
        for (size_t i = 0; i < 400; i++) {
            memcpy(model[i + 1], model[i], BLOCKS);
            flushed[i + 1] = flushed[i];
            if (test_random_below(&random, 10) == 0) {
                ck_assert_int_eq(kv_device_flush(device), 0);
                flushed[i + 1] = i + 1;
                continue;
            }
            const uint64_t block = test_random_below(&random, BLOCKS);
            model[i + 1][block] = (uint8_t)test_random_next(&random);
            write_fill(device, block, 1, model[i + 1][block]);
        }
        struct crash_walk walk;
        crash_walk_init(&walk, recorder);
        for (size_t position = 0; position <= 400; position += 1 + test_random_below(&random, 40)) {
            crash_walk_advance(&walk, position);
            const bool kept[400] = {false};
            struct kv_device *all = crash_walk_state(&walk, &(struct crash_choice){0});
            struct kv_device *none = crash_walk_state(&walk, &(struct crash_choice){.kept = kept});
            for (uint64_t block = 0; block < BLOCKS; block++) {
                check_block(all, block, model[position][block]);
                check_block(none, block, model[flushed[position]][block]);
            }
            kv_device_close(all);
            kv_device_close(none);
        }
        crash_walk_release(&walk);
        recorder_free(recorder);
    }
}
END_TEST

/* ---- faults ------------------------------------------------------------- */

START_TEST(a_fault_hits_the_chosen_request_once)
{
    struct faulty *faulty = faulty_new(memory_device_new(BLOCKS));
    struct kv_device *device = faulty_device(faulty);
    faulty_arm(faulty, (struct fault){.targets = FAULT_WRITES, .after = 2, .error = -ENOSPC});
    write_fill(device, 0, 1, 1);
    ck_assert_int_eq(kv_device_read(device, 0, 1, buffer), 0);
    ck_assert_int_eq(kv_device_flush(device), 0);
    write_fill(device, 1, 1, 1);
    memset(buffer, 2, KV_BLOCK_BYTES);
    ck_assert_int_eq(kv_device_write(device, 2, 1, buffer), -ENOSPC);
    ck_assert_uint_eq(faulty_failures(faulty), 1);
    check_block(device, 2, 0);
    write_fill(device, 2, 1, 3);
    check_block(device, 2, 3);
    kv_device_close(device);
    faulty_free(faulty);
}
END_TEST

START_TEST(a_lasting_fault_stays_until_it_is_disarmed)
{
    struct faulty *faulty = faulty_new(memory_device_new(BLOCKS));
    struct kv_device *device = faulty_device(faulty);
    faulty_arm(faulty, (struct fault){.targets = FAULT_READS | FAULT_FLUSHES,
                                      .after = 1,
                                      .lasting = true,
                                      .error = -EIO});
    ck_assert_int_eq(kv_device_read(device, 0, 1, buffer), 0);
    ck_assert_int_eq(kv_device_flush(device), -EIO);
    ck_assert_int_eq(kv_device_read(device, 0, 1, buffer), -EIO);
    write_fill(device, 0, 1, 1);
    ck_assert_uint_eq(faulty_failures(faulty), 2);
    faulty_arm(faulty, (struct fault){0});
    check_block(device, 0, 1);
    ck_assert_int_eq(kv_device_flush(device), 0);
    faulty_free(faulty);
}
END_TEST

START_TEST(a_failed_write_may_have_done_its_first_blocks_and_is_not_flushed)
{
    struct recorder *recorder = recorder_new(memory_device_new(BLOCKS));
    struct faulty *faulty = faulty_new(recorder_device(recorder));
    faulty_arm(faulty, (struct fault){.targets = FAULT_WRITES, .error = -EIO, .partial_blocks = 2});
    memset(buffer, 6, 5 * KV_BLOCK_BYTES);
    struct kv_io ios[2] = {{.kind = KV_IO_WRITE, .block = 10, .block_count = 4, .buf = buffer},
                           {.kind = KV_IO_WRITE, .block = 20, .block_count = 1, .buf = buffer}};
    ck_assert_int_eq(kv_device_submit(faulty_device(faulty), ios, 2, true), -EIO);
    ck_assert_int_eq(ios[0].result, -EIO);
    ck_assert_int_eq(ios[1].result, 0);
    ck_assert_uint_eq(recorder_event_count(recorder), 3);
    for (size_t i = 0; i < 3; i++)
        ck_assert(!recorder_event(recorder, i).is_flush);
    check_block(recorder_device(recorder), 11, 6);
    check_block(recorder_device(recorder), 12, 0);
    check_block(recorder_device(recorder), 20, 6);
    faulty_free(faulty);
    recorder_free(recorder);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("support_devices");
    TCase *tcase = tcase_create("support_devices");
    tcase_add_checked_fixture(tcase, make_buffer, free_buffer);
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, memory_starts_zeroed_and_keeps_what_is_written);
    tcase_add_test(tcase, a_recorder_logs_blocks_and_flushes_in_order);
    tcase_add_test(tcase, a_prefix_holds_the_first_writes_and_no_others);
    tcase_add_test(tcase, any_subset_of_the_pending_writes_can_be_had);
    tcase_add_test(tcase, a_torn_write_is_new_up_to_the_cut_and_then_something_else);
    tcase_add_test(tcase, a_later_write_covers_an_earlier_torn_one);
    tcase_add_test(tcase, a_state_can_be_written_and_recorded_without_touching_the_log);
    tcase_add_test(tcase, random_logs_replay_like_an_array);
    tcase_add_test(tcase, a_fault_hits_the_chosen_request_once);
    tcase_add_test(tcase, a_lasting_fault_stays_until_it_is_disarmed);
    tcase_add_test(tcase, a_failed_write_may_have_done_its_first_blocks_and_is_not_flushed);
    suite_add_tcase(suite, tcase);

    return test_run(suite);
}
