/*
 * tests/kv/test_wal_damage.c: a log that is torn or damaged, and records that recovery refuses.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/wal.h"

#include "kv/codec.h"
#include "support_log.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

static uint64_t seed_start;

/* ---- tears and damage -------------------------------------------------------------------- */

/* Two records, each flushed on its own, then a third of several blocks, flushed. */
static void write_three(struct log_fixture *f, struct log_record records[4], uint64_t positions[3])
{
    log_fixture_init(f, 64, 16);
    const size_t lengths[4] = {500, 9000, 20000, 300};
    for (unsigned i = 0; i < 4; i++)
        records[i] = (struct log_record){i + 1, lengths[i], 1};
    for (unsigned i = 0; i < 3; i++)
        positions[i] = log_append_synced(f, &records[i]);
}

static uint8_t *ring_byte(struct log_fixture *f, uint64_t position, size_t at)
{
    return f->disk.bytes + (LOG_FIRST_BLOCK + position % f->config.block_count) * KV_BLOCK_BYTES +
           at;
}

START_TEST(a_last_flush_torn_at_any_sector_leaves_what_came_before)
{
    struct log_fixture f;
    struct log_record records[4];
    uint64_t positions[3];
    write_three(&f, records, positions);
    const size_t all = (size_t)f.disk.base.block_count * KV_BLOCK_BYTES;
    uint8_t *whole = malloc(all);
    ck_assert_ptr_nonnull(whole);
    memcpy(whole, f.disk.bytes, all);

    const size_t length = (size_t)(positions[2] - positions[1]) * KV_BLOCK_BYTES;
    for (size_t cut = 0; cut < length; cut += 512) {
        memcpy(f.disk.bytes, whole, all);
        memset(ring_byte(&f, positions[1], cut), 0, length - cut);
        f.epoch = 1;
        struct kv_wal_end end;
        log_open(&f);
        ck_assert_int_eq(log_replay(&f, records, 3, &end), 0);
        /* The sectors that the last block fills up with zeroes do not matter. */
        ck_assert_uint_ge(end.records, 2);

        /* What is appended now follows, and the torn record is gone for good. */
        struct log_record now[4] = {records[0], records[1], records[2], records[2]};
        now[end.records] = (struct log_record){50, 100, f.epoch};
        (void)log_append_synced(&f, &now[end.records]);
        log_expect(&f, now, end.records + 1);
    }
    free(whole);
    log_fixture_release(&f);
}
END_TEST

START_TEST(a_flipped_bit_in_the_last_flush_ends_the_log_and_an_earlier_one_is_damage)
{
    struct log_fixture f;
    struct log_record records[4];
    uint64_t positions[3];
    write_three(&f, records, positions);
    for (uint64_t position = 0; position < positions[2]; position++) {
        for (size_t at = 0; at < KV_BLOCK_BYTES; at += 61) {
            *ring_byte(&f, position, at) ^= 4;
            struct kv_wal_end end;
            log_open(&f);
            const int err = log_replay(&f, records, 3, &end);
            if (position < positions[1]) {
                ck_assert_int_eq(err, -EBADMSG);
                ck_assert_uint_eq(end.position, position);
                ck_assert_uint_eq(end.records, position >= positions[0]);
            } else {
                ck_assert_int_eq(err, 0);
                ck_assert_uint_eq(end.records, 2);
            }
            *ring_byte(&f, position, at) ^= 4;
        }
    }
    log_expect(&f, records, 3);
    log_fixture_release(&f);
}
END_TEST

START_TEST(records_that_a_later_block_vouches_for_are_known_durable)
{
    struct log_fixture f;
    struct log_record records[4];
    uint64_t positions[3];
    write_three(&f, records, positions);
    log_open(&f);
    struct log_expectation expected = {.records = records, .count = 3, .refuse_at = SIZE_MAX};
    struct kv_wal_end end;
    ck_assert_int_eq(kv_wal_replay(f.wal, log_visit, &expected, &end), 0);
    ck_assert_uint_eq(expected.seen, 3);
    ck_assert_uint_eq(expected.known_durable, 2);
    log_fixture_release(&f);
}
END_TEST

START_TEST(after_damage_appending_goes_on_where_no_old_block_can_vouch)
{
    struct log_fixture f;
    struct log_record records[4];
    uint64_t positions[3];
    write_three(&f, records, positions);
    *ring_byte(&f, positions[0], 100) ^= 1;
    struct kv_wal_end end;
    log_open(&f);
    ck_assert_int_eq(log_replay(&f, records, 3, &end), -EBADMSG);
    ck_assert_uint_eq(end.records, 1);
    ck_assert_int_eq(kv_wal_room(f.wal, 10), -EAGAIN);

    /* Given that the first record is all there is, and a checkpoint holds it ... */
    log_checkpoint(&f);
    log_expect(&f, NULL, 0);
    const struct log_record next = {60, 5000, f.epoch};
    (void)log_append_synced(&f, &next);
    log_expect(&f, &next, 1);
    log_fixture_release(&f);
}
END_TEST

START_TEST(damage_is_seen_when_much_was_appended_without_a_sync)
{
    struct log_fixture f;
    log_fixture_init(&f, 8192, 64);
    struct log_record records[300];
    for (size_t i = 0; i < 300; i++) {
        records[i] = (struct log_record){i + 1, 60000, 1};
        (void)log_append(&f, &records[i]);
    }
    struct kv_wal_stats stats;
    kv_wal_stats(f.wal, &stats);
    ck_assert_uint_ge(stats.flushes, 1);
    ck_assert_int_eq(kv_wal_sync(f.wal, kv_wal_position(f.wal)), 0);
    log_expect(&f, records, 300);

    *ring_byte(&f, 5, 5) ^= 1;
    struct kv_wal_end end;
    log_open(&f);
    ck_assert_int_eq(log_replay(&f, records, 300, &end), -EBADMSG);
    ck_assert_uint_eq(end.position, 5);
    log_fixture_release(&f);
}
END_TEST

START_TEST(random_bytes_in_the_ring_never_make_a_record)
{
    struct test_random random = {seed_start};
    for (int round = 0; round < 300; round++) {
        struct log_fixture f;
        struct log_record records[4];
        uint64_t positions[3];
        write_three(&f, records, positions);
        for (int i = 0; i < 4; i++)
            *ring_byte(&f, test_random_below(&random, positions[2]),
                       test_random_below(&random, i < 2 ? 64 : KV_BLOCK_BYTES)) =
                (uint8_t)test_random_below(&random, 256);
        struct kv_wal_end end;
        log_open(&f);
        const int err = log_replay(&f, records, 3, &end);
        ck_assert(err == 0 || err == -EBADMSG);
        log_fixture_release(&f);
    }
}
END_TEST

START_TEST(blocks_of_another_lap_and_of_another_image_are_not_replayed)
{
    struct log_fixture f;
    log_fixture_init(&f, 8, 4);
    struct log_record records[30];
    for (size_t i = 0; i < 30; i++) {
        records[i] = (struct log_record){i + 1, 3000, 1};
        (void)log_append_synced(&f, &records[i]);
        if (i % 4 == 3)
            log_checkpoint(&f);
    }
    log_expect(&f, records + 28, 2);

    /* The slots after the end hold the last lap; from their positions they would be whole. */
    struct kv_wal_config config = f.config;
    f.config.tail += 2;
    log_expect(&f, NULL, 0);
    f.config = config;
    f.config.log_id++;
    log_expect(&f, NULL, 0);

    /* A tail that its block does not continue, though the next one vouches for it, is damage. */
    f.config = config;
    f.config.tail_link++;
    struct kv_wal_end end;
    log_open(&f);
    ck_assert_int_eq(log_replay(&f, NULL, 0, &end), -EBADMSG);
    log_fixture_release(&f);
}
END_TEST

/* Change a byte of a record and give its block a digest that fits. */
START_TEST(a_record_with_another_digest_is_no_record_even_in_a_whole_block)
{
    struct log_fixture f;
    log_fixture_init(&f, 64, 4);
    const struct log_record records[] = {{1, 100, 1}, {2, 100, 1}, {3, 100, 1}};
    for (size_t i = 0; i < 3; i++) /* a block each */
        (void)log_append_synced(&f, &records[i]);
    uint8_t *const block = f.disk.bytes + (LOG_FIRST_BLOCK + 2) * (size_t)KV_BLOCK_BYTES;
    struct kv_disk_log_header header;
    block[sizeof header + sizeof(struct kv_disk_record_header) + 50] ^= 1;
    memcpy(&header, block, sizeof header);
    header.digest = kv_le64_of(0);
    memcpy(block, &header, sizeof header);
    header.digest = kv_le64_of(kv_digest(block, KV_BLOCK_BYTES, 0));
    memcpy(block, &header, sizeof header);
    log_expect(&f, records, 2);
    log_fixture_release(&f);
}
END_TEST

START_TEST(a_ring_that_does_not_fit_is_refused)
{
    struct log_fixture f;
    log_fixture_init(&f, 64, 4);
    struct kv_wal_config config[5] = {f.config, f.config, f.config, f.config, f.config};
    config[0].block_count = 0;
    config[1].block_count = f.disk.base.block_count;
    config[2].first_block = UINT64_MAX;
    config[3].tail = UINT64_MAX - 1;
    config[4].block_count = UINT64_MAX;
    for (size_t i = 0; i < 5; i++) {
        struct kv_wal *wal;
        ck_assert_int_eq(kv_wal_open(&f.disk.base, &config[i], &wal), -EUCLEAN);
    }
    log_fixture_release(&f);
}
END_TEST

/* ---- refused records ------------------------------------------------------------------------ */

static void refuse(struct log_fixture *f, const struct log_record *records, size_t count, size_t at)
{
    struct log_expectation expected = {.records = records, .count = count, .refuse_at = at};
    struct kv_wal_end end;
    log_open(f);
    ck_assert_int_eq(kv_wal_replay(f->wal, log_visit, &expected, &end), 0);
    ck_assert_uint_eq(end.records, at);
    f->epoch = end.epoch_max + 1;
}

/* Two records, each flushed on its own, of which a recovery then refuses the second. */
static void write_two(struct log_fixture *f, struct log_record records[2])
{
    log_fixture_init(f, 64, 8);
    for (unsigned i = 0; i < 2; i++) {
        records[i] = (struct log_record){i + 1, 100, 1};
        (void)log_append_synced(f, &records[i]);
    }
}

START_TEST(a_refused_record_never_returns_when_more_is_appended)
{
    const size_t lengths[] = {100, 5000};
    for (unsigned first = 0; first < 2; first++) {
        for (unsigned second = 0; second < 2; second++) {
            for (size_t at = 0; at < 3; at++) {
                struct log_fixture f;
                log_fixture_init(&f, 64, 8);
                struct log_record records[4] = {
                    {1, lengths[first], 1}, {2, lengths[second], 1}, {3, 700, 1}};
                for (unsigned i = 0; i < 3; i++)
                    (void)log_append(&f, &records[i]);
                ck_assert_int_eq(kv_wal_sync(f.wal, kv_wal_position(f.wal)), 0);
                refuse(&f, records, 3, at);

                struct log_record now[5] = {records[0], records[1], records[2]};
                now[at] = (struct log_record){70, 4000, f.epoch};
                (void)log_append_synced(&f, &now[at]);
                log_expect(&f, now, at + 1);

                /* And once more after a second recovery. */
                now[at + 1] = (struct log_record){71, 4000, f.epoch};
                (void)log_append_synced(&f, &now[at + 1]);
                log_expect(&f, now, at + 2);
                log_fixture_release(&f);
            }
        }
    }
}
END_TEST

START_TEST(a_refused_record_never_returns_after_a_checkpoint_that_begins_in_its_place)
{
    struct log_fixture f;
    struct log_record records[2];
    write_two(&f, records);
    refuse(&f, records, 2, 1);
    log_checkpoint(&f);
    ck_assert_uint_eq(f.config.tail, 1); /* where the refused one still lies, whole */
    log_expect(&f, NULL, 0);

    const struct log_record next = {3, 100, f.epoch};
    (void)log_append_synced(&f, &next);
    log_expect(&f, &next, 1);
    log_fixture_release(&f);
}
END_TEST

/*
 * Twice the same is done after a recovery. The first time, of two blocks only the second reaches
 * the disk; the second time, the first one is made again, byte for byte, and continues in it.
 */
START_TEST(a_block_that_lost_its_predecessor_does_not_continue_one_that_equals_it)
{
    struct log_fixture f;
    uint8_t old[KV_BLOCK_BYTES];
    struct log_record records[2];
    write_two(&f, records);
    memcpy(old, ring_byte(&f, 1, 0), sizeof old);

    refuse(&f, records, 2, 1);
    const uint64_t lost_epoch = f.epoch;
    const struct log_record lost[2] = {{3, 100, lost_epoch}, {4, 100, lost_epoch}};
    (void)log_append(&f, &lost[0]);
    ck_assert_int_eq(kv_wal_sync(f.wal, kv_wal_position(f.wal)), 0);
    (void)log_append_synced(&f, &lost[1]);
    memcpy(ring_byte(&f, 1, 0), old, sizeof old);

    refuse(&f, records, 2, 1);
    ck_assert_uint_gt(f.epoch, lost_epoch);
    const struct log_record now[2] = {records[0], {3, 100, f.epoch}};
    (void)log_append_synced(&f, &now[1]);
    log_expect(&f, now, 2);
    log_fixture_release(&f);
}
END_TEST

static int fail_visit(void *context, const void *body, size_t length, uint64_t epoch,
                      bool known_durable)
{
    (void)context;
    (void)body;
    (void)length;
    (void)epoch;
    (void)known_durable;
    return -ENOMEM;
}

START_TEST(an_error_of_the_visitor_fails_the_replay)
{
    struct log_fixture f;
    struct log_record records[4];
    uint64_t positions[3];
    write_three(&f, records, positions);
    struct kv_wal_end end;
    log_open(&f);
    ck_assert_int_eq(kv_wal_replay(f.wal, fail_visit, NULL, &end), -ENOMEM);
    log_expect(&f, records, 3);
    log_fixture_release(&f);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *suite = suite_create("wal damage");
    TCase *damage = tcase_create("damage");
    tcase_set_timeout(damage, 300);
    tcase_add_test(damage, a_last_flush_torn_at_any_sector_leaves_what_came_before);
    tcase_add_test(damage,
                   a_flipped_bit_in_the_last_flush_ends_the_log_and_an_earlier_one_is_damage);
    tcase_add_test(damage, records_that_a_later_block_vouches_for_are_known_durable);
    tcase_add_test(damage, after_damage_appending_goes_on_where_no_old_block_can_vouch);
    tcase_add_test(damage, damage_is_seen_when_much_was_appended_without_a_sync);
    tcase_add_test(damage, random_bytes_in_the_ring_never_make_a_record);
    tcase_add_test(damage, blocks_of_another_lap_and_of_another_image_are_not_replayed);
    tcase_add_test(damage, a_record_with_another_digest_is_no_record_even_in_a_whole_block);
    tcase_add_test(damage, a_ring_that_does_not_fit_is_refused);
    suite_add_tcase(suite, damage);

    TCase *refusal = tcase_create("refusal");
    tcase_add_test(refusal, a_refused_record_never_returns_when_more_is_appended);
    tcase_add_test(refusal,
                   a_refused_record_never_returns_after_a_checkpoint_that_begins_in_its_place);
    tcase_add_test(refusal, a_block_that_lost_its_predecessor_does_not_continue_one_that_equals_it);
    tcase_add_test(refusal, an_error_of_the_visitor_fails_the_replay);
    suite_add_tcase(suite, refusal);

    return test_run(suite);
}
