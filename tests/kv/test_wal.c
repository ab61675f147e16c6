/*
 * tests/kv/test_wal.c: what the log promises: after power cuts and failures, to threads, and of
 * room. What it makes of tears and damage is tests/kv/test_wal_damage.c.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/wal_ring.h"

#include "support_log.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>
#include <semaphore.h>
#include <unistd.h>

static uint64_t seed_start;

/* ---- round trips and power cuts --------------------------------------------------------- */

#define HISTORY_MAX 4096u

static void run_history(uint64_t ring_blocks, uint32_t buffer_blocks, int rounds)
{
    struct test_random random = {seed_start ^ ring_blocks};
    struct log_fixture f;
    log_fixture_init(&f, ring_blocks, buffer_blocks);
    static struct log_record records[HISTORY_MAX];
    size_t count = 0, synced = 0; /* since the tail */
    uint64_t number = 1;

    for (int round = 0; round < rounds; round++) {
        const uint64_t steps = test_random_below(&random, 60),
                       sync_one_in = 1 + test_random_below(&random, 60);
        for (uint64_t step = 0; step < steps; step++) {
            const uint64_t kind = test_random_below(&random, 8);
            const size_t length = test_random_below(&random, kind ? 600 : 30000);
            const int room = kv_wal_room(f.wal, length);
            if (room == -EAGAIN || count == HISTORY_MAX || test_random_below(&random, 40) == 0) {
                log_checkpoint(&f);
                count = synced = 0;
                f.epoch++;
                continue;
            }
            ck_assert_int_eq(room, 0);
            records[count] = (struct log_record){number++, length, f.epoch};
            const uint64_t position = log_append(&f, &records[count++]);
            if (kv_wal_is_behind(f.wal) && test_random_below(&random, 2))
                ck_assert_int_eq(kv_wal_write_behind(f.wal), 0);
            if (test_random_below(&random, sync_one_in) == 0) {
                ck_assert_int_eq(kv_wal_sync(f.wal, position), 0);
                synced = count;
            }
        }
        if (test_random_below(&random, 3) == 0) {
            ck_assert_int_eq(kv_wal_sync(f.wal, kv_wal_position(f.wal)), 0);
            synced = count;
        }
        /* Else only the process dies: what is in the disk's cache may be lost later. */
        const bool power_cut = test_random_below(&random, 2);
        if (power_cut)
            volatile_disk_cut_power(&f.disk, &random);
        struct kv_wal_end end, again;
        log_open(&f);
        ck_assert_int_eq(log_replay(&f, records, count, &end), 0);
        ck_assert_uint_ge(end.records, synced);
        ck_assert_int_eq(log_replay(&f, records, count, &again), 0);
        ck_assert_uint_eq(end.position, again.position);
        ck_assert_uint_eq(kv_wal_position(f.wal), end.position);
        count = end.records;
        if (power_cut)
            synced = count;
    }
    log_fixture_release(&f);
}

START_TEST(what_was_synced_survives_power_cuts_and_what_survives_is_a_prefix)
{
    run_history(64, 8, 300);
    run_history(61, 64, 300);
    run_history(256, 5, 200);
}
END_TEST

/* Append until the log says that it is behind. Returns how many records there are. */
static size_t append_until_behind(struct log_fixture *f, struct log_record *records, size_t count)
{
    bool behind = false;
    while (!behind && count < HISTORY_MAX) {
        records[count] = (struct log_record){count + 1, 9000, f->epoch};
        (void)log_append(f, &records[count++]);
        behind = kv_wal_is_behind(f->wal);
    }
    ck_assert(behind);
    return count;
}

START_TEST(what_is_behind_is_written_and_flushed_before_appending_has_to)
{
    struct log_fixture f;
    static struct log_record records[HISTORY_MAX];
    struct kv_wal_stats stats;
    size_t count = 0;
    log_fixture_init(&f, 4096, 64);
    f.disk.writes_left = 0; /* appending needs none */
    count = append_until_behind(&f, records, count);
    ck_assert(!kv_wal_is_behind(f.wal)); /* said once */
    kv_wal_stats(f.wal, &stats);
    ck_assert_uint_lt(stats.used_blocks, 64);
    f.disk.writes_left = UINT64_MAX;
    ck_assert_int_eq(kv_wal_write_behind(f.wal), 0);
    ck_assert_uint_lt(f.disk.writes_left, UINT64_MAX);
    kv_wal_stats(f.wal, &stats);
    ck_assert_uint_eq(stats.flushes, 0);
    const uint64_t writes_left = f.disk.writes_left;
    ck_assert_int_eq(kv_wal_write_behind(f.wal), 0); /* nothing to do */
    ck_assert_uint_eq(f.disk.writes_left, writes_left);
    /* Before so much is not durable that appending would flush. */
    for (stats.flushes = 0; !stats.flushes; kv_wal_stats(f.wal, &stats)) {
        count = append_until_behind(&f, records, count);
        ck_assert_int_eq(kv_wal_write_behind(f.wal), 0);
    }
    ck_assert_uint_eq(stats.flushes, 1);
    ck_assert_uint_le(stats.used_blocks, 1024 + 64);
    const size_t durable = count - 1; /* but for what was in the block that is being filled */
    for (unsigned i = 0; i < 5; i++, count++) {
        records[count] = (struct log_record){count + 1, 9000, f.epoch};
        (void)log_append(&f, &records[count]);
    }
    struct test_random random = {seed_start};
    volatile_disk_cut_power(&f.disk, &random);
    struct kv_wal_end end;
    log_open(&f);
    ck_assert_int_eq(log_replay(&f, records, count, &end), 0);
    ck_assert_uint_ge(end.records, durable);
    log_fixture_release(&f);
}
END_TEST

START_TEST(records_of_every_size_around_a_block_come_back)
{
    struct log_fixture f;
    log_fixture_init(&f, 512, 7);
    struct log_record records[200];
    size_t count = 0;
    for (; count < 60; count++)
        records[count] = (struct log_record){count + 1, KV_LOG_PAYLOAD_BYTES - 40 + count, 1};
    for (; count < 80; count++)
        records[count] = (struct log_record){count + 1, count - 60, 1};
    records[count++] = (struct log_record){99, LOG_BODY_MAX, 1}; /* larger than the buffer */
    for (size_t i = 0; i < count; i++) {
        if (i % 7)
            (void)log_append(&f, &records[i]);
        else
            (void)log_append_synced(&f, &records[i]);
    }
    ck_assert_int_eq(kv_wal_sync(f.wal, kv_wal_position(f.wal)), 0);
    log_expect(&f, records, count);
    log_fixture_release(&f);
}
END_TEST

START_TEST(an_empty_log_has_no_records_and_syncing_it_does_nothing)
{
    struct log_fixture f;
    log_fixture_init(&f, 64, 8);
    ck_assert_int_eq(kv_wal_sync(f.wal, kv_wal_position(f.wal)), 0);
    log_checkpoint(&f);
    ck_assert_uint_eq(f.config.tail, 0);
    struct kv_wal_stats stats;
    kv_wal_stats(f.wal, &stats);
    ck_assert_uint_eq(stats.flushes, 0);
    ck_assert_uint_eq(stats.used_blocks, 0);
    struct kv_wal_end end;
    log_open(&f);
    ck_assert_int_eq(log_replay(&f, NULL, 0, &end), 0);
    ck_assert_uint_eq(end.position, 0);
    ck_assert_uint_eq(end.epoch_max, 0);
    log_fixture_release(&f);
}
END_TEST

/* ---- room ------------------------------------------------------------------------------------ */

START_TEST(a_full_ring_has_room_again_after_a_trim)
{
    struct log_fixture f;
    log_fixture_init(&f, 16, 4);
    ck_assert_int_eq(kv_wal_room(f.wal, 9 * 4096), -E2BIG);
    ck_assert_int_eq(kv_wal_room(f.wal, SIZE_MAX), -E2BIG);
    struct log_record record = {1, 3000, 1};
    unsigned count = 0;
    for (; !kv_wal_room(f.wal, record.length); count++)
        (void)log_append_synced(&f, &record);
    ck_assert_uint_eq(count, 16);
    ck_assert_int_eq(kv_wal_room(f.wal, 0), -EAGAIN);
    struct kv_wal_stats stats;
    kv_wal_stats(f.wal, &stats);
    ck_assert_uint_eq(stats.used_blocks, 16);
    ck_assert_uint_eq(stats.records, 16);
    log_checkpoint(&f);
    ck_assert_int_eq(kv_wal_room(f.wal, 7 * 4096), 0);
    log_fixture_release(&f);
}
END_TEST

START_TEST(a_trim_makes_what_was_never_written_durable)
{
    struct log_fixture f;
    log_fixture_init(&f, 64, 8);
    struct log_record records[3] = {{1, 100, 1}, {2, 100, 2}, {3, 9000, 2}};
    const uint64_t position = log_append(&f, &records[0]);
    f.epoch = 2;
    log_checkpoint(&f);
    ck_assert_int_eq(kv_wal_sync(f.wal, position), 0);
    struct kv_wal_stats stats;
    kv_wal_stats(f.wal, &stats);
    ck_assert_uint_eq(stats.flushes, 0);
    (void)log_append(&f, &records[1]);
    (void)log_append_synced(&f, &records[2]);
    log_expect(&f, records + 1, 2);
    log_fixture_release(&f);
}
END_TEST

/* ---- threads and failures ---------------------------------------------------- */

#define THREADS        4
#define THREAD_RECORDS 200
#define SHARED_RECORDS (THREADS * THREAD_RECORDS)

struct shared {
    struct log_fixture f;
    pthread_mutex_t writer;
    struct log_record records[SHARED_RECORDS];
    size_t count;
    int failures;
};

static void *append_and_sync(void *context)
{
    struct shared *shared = context;
    for (int i = 0; i < THREAD_RECORDS; i++) {
        uint8_t body[3000];
        uint64_t position = 0;
        pthread_mutex_lock(&shared->writer);
        struct log_record *record = &shared->records[shared->count];
        *record = (struct log_record){shared->count + 1, (shared->count * 131) % sizeof body, 1};
        shared->count++;
        log_fill_body(record, body);
        int err = kv_wal_append(shared->f.wal, body, record->length, 1, &position);
        pthread_mutex_unlock(&shared->writer);
        if (!err)
            err = kv_wal_sync(shared->f.wal, position);
        if (err) {
            pthread_mutex_lock(&shared->writer);
            shared->failures++;
            pthread_mutex_unlock(&shared->writer);
        }
    }
    return NULL;
}

static void run_threads(struct shared *shared)
{
    pthread_t threads[THREADS];
    ck_assert_int_eq(pthread_mutex_init(&shared->writer, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, append_and_sync, shared), 0);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    pthread_mutex_destroy(&shared->writer);
}

START_TEST(threads_share_flushes_and_each_record_is_there)
{
    struct shared *shared = calloc(1, sizeof *shared);
    ck_assert_ptr_nonnull(shared);
    log_fixture_init(&shared->f, 2000, 8);
    run_threads(shared);
    ck_assert_int_eq(shared->failures, 0);
    struct kv_wal_stats stats;
    kv_wal_stats(shared->f.wal, &stats);
    ck_assert_uint_le(stats.flushes, SHARED_RECORDS);
    ck_assert_uint_eq(stats.records, SHARED_RECORDS);
    struct test_random random = {seed_start};
    volatile_disk_cut_power(&shared->f.disk, &random);
    log_expect(&shared->f, shared->records, SHARED_RECORDS);
    log_fixture_release(&shared->f);
    free(shared);
}
END_TEST

/* ---- who comes along with a flush ---------------------------------------------------------- */

/* Two threads that take turns, of which one is always done before the other begins. */
struct turns {
    struct log_fixture f;
    sem_t turn[2];
    int rounds;
};
struct player {
    struct turns *turns;
    int number;
};

static void *play(void *context)
{
    const struct player *const player = context;
    struct turns *const turns = player->turns;
    const struct log_record record = {1, 100, 1};
    for (int i = 0; i < turns->rounds; i++) {
        sem_wait(&turns->turn[player->number]);
        (void)log_append_synced(&turns->f, &record);
        sem_post(&turns->turn[!player->number]);
    }
    return NULL;
}

/* Flushes for which nobody waits after the last wait that was in vain. */
static unsigned rests(struct log_fixture *f)
{
    pthread_mutex_lock(&f->wal->mutex);
    const unsigned next = f->wal->group.rest_next;
    pthread_mutex_unlock(&f->wal->mutex);
    return next;
}

START_TEST(one_thread_waits_for_nobody)
{
    struct log_fixture f;
    struct kv_wal_stats stats;
    log_fixture_init(&f, 2000, 8);
    const struct log_record record = {1, 100, 1};
    for (int i = 0; i < 100; i++)
        (void)log_append_synced(&f, &record);
    kv_wal_stats(f.wal, &stats);
    ck_assert_uint_eq(stats.flushes, 100);
    ck_assert_uint_eq(rests(&f), KV_WAL_REST_FLUSHES); /* nothing was in vain */
    log_fixture_release(&f);
}
END_TEST

START_TEST(who_never_comes_along_is_waited_for_more_and_more_seldom)
{
    struct turns turns = {.rounds = 200};
    struct kv_wal_stats stats;
    log_fixture_init(&turns.f, 2000, 8);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(sem_init(&turns.turn[i], 0, i == 0), 0);
    struct player players[2] = {{&turns, 0}, {&turns, 1}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, play, &players[i]), 0);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    kv_wal_stats(turns.f.wal, &stats);
    ck_assert_uint_eq(stats.flushes, 400);
    /* 8 flushes without, 16, 32, 64, 128: five waits in vain at least, of 400 */
    ck_assert_uint_ge(rests(&turns.f), 16 * KV_WAL_REST_FLUSHES);
    for (int i = 0; i < 2; i++)
        sem_destroy(&turns.turn[i]);
    log_fixture_release(&turns.f);
}
END_TEST

/* The disk holds a flush up until it is told to go on. */
struct held_flush {
    struct kv_device base;
    struct volatile_disk *disk;
    struct kv_wal *wal;
    sem_t begun, go_on;
    bool done;  /* atomic */
    bool early; /* atomic */
};

static int held_submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct held_flush *held = (struct held_flush *)device;
    if (flush) {
        sem_post(&held->begun);
        sem_wait(&held->go_on);
    }
    const int err = held->disk->base.ops->submit(&held->disk->base, ios, io_count, flush);
    if (flush)
        __atomic_store_n(&held->done, true, __ATOMIC_RELEASE);
    return err;
}

static void *sync_held(void *argument)
{
    struct held_flush *held = argument;
    const int err = kv_wal_sync(held->wal, 1);
    KV_ASSERT(err == 0);
    if (!__atomic_load_n(&held->done, __ATOMIC_ACQUIRE))
        __atomic_store_n(&held->early, true, __ATOMIC_RELEASE);
    return NULL;
}

START_TEST(nobody_is_told_of_a_flush_before_its_end)
{
    struct log_fixture f;
    log_fixture_init(&f, 64, 4);
    struct kv_device_ops ops = *f.disk.base.ops;
    ops.submit = held_submit;
    kv_wal_close(f.wal);
    f.wal = NULL;
    struct held_flush held = {.base = {.ops = &ops, .block_count = f.disk.base.block_count},
                              .disk = &f.disk};
    ck_assert_int_eq(sem_init(&held.begun, 0, 0), 0);
    ck_assert_int_eq(sem_init(&held.go_on, 0, 0), 0);
    ck_assert_int_eq(kv_wal_open(&held.base, &f.config, &f.wal), 0);
    held.wal = f.wal;
    const struct log_record record = {1, 100, 1};
    (void)log_append(&f, &record);

    pthread_t leader, follower;
    ck_assert_int_eq(pthread_create(&leader, NULL, sync_held, &held), 0);
    sem_wait(&held.begun);
    ck_assert_int_eq(pthread_create(&follower, NULL, sync_held, &held), 0);
    usleep(50 * 1000); /* time enough to return too early, should it be that bad */
    sem_post(&held.go_on);
    ck_assert_int_eq(pthread_join(follower, NULL), 0);
    ck_assert_int_eq(pthread_join(leader, NULL), 0);
    ck_assert(!held.early);
    sem_destroy(&held.begun);
    sem_destroy(&held.go_on);
    log_fixture_release(&f);
}
END_TEST

START_TEST(a_failed_flush_fails_everyone_who_waits_and_all_that_come_later)
{
    struct shared *shared = calloc(1, sizeof *shared);
    ck_assert_ptr_nonnull(shared);
    log_fixture_init(&shared->f, 2000, 8);
    shared->f.disk.flushes_left = 20;
    run_threads(shared);
    ck_assert_int_ge(shared->failures, SHARED_RECORDS - 20 * THREADS);
    shared->f.disk.flushes_left = UINT64_MAX; /* the disk is well again: too late */
    ck_assert_int_eq(kv_wal_sync(shared->f.wal, 0), -EIO);
    log_fixture_release(&shared->f);
    free(shared);
}
END_TEST

START_TEST(a_failed_write_fails_appends_and_seals_too)
{
    struct log_fixture f;
    log_fixture_init(&f, 64, 4);
    const struct log_record record = {1, 100, 1};
    (void)log_append_synced(&f, &record);
    f.disk.writes_left = 0;
    uint8_t body[30000] = {0};
    uint64_t position, link;
    ck_assert_int_eq(kv_wal_append(f.wal, body, sizeof body, 1, &position), -EIO);
    f.disk.writes_left = UINT64_MAX;
    ck_assert_int_eq(kv_wal_append(f.wal, body, 10, 1, &position), -EIO);
    ck_assert_int_eq(kv_wal_seal(f.wal, true, &position, &link), -EIO);
    ck_assert_int_eq(kv_wal_sync(f.wal, 1), -EIO);
    log_expect(&f, &record, 1);
    log_fixture_release(&f);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *suite = suite_create("wal");
    TCase *trips = tcase_create("round trips");
    tcase_set_timeout(trips, 300);
    tcase_add_test(trips, what_was_synced_survives_power_cuts_and_what_survives_is_a_prefix);
    tcase_add_test(trips, what_is_behind_is_written_and_flushed_before_appending_has_to);
    tcase_add_test(trips, records_of_every_size_around_a_block_come_back);
    tcase_add_test(trips, an_empty_log_has_no_records_and_syncing_it_does_nothing);
    suite_add_tcase(suite, trips);

    TCase *room = tcase_create("room");
    tcase_add_test(room, a_full_ring_has_room_again_after_a_trim);
    tcase_add_test(room, a_trim_makes_what_was_never_written_durable);
    suite_add_tcase(suite, room);

    TCase *threads = tcase_create("threads");
    tcase_set_timeout(threads, 120);
    tcase_add_test(threads, threads_share_flushes_and_each_record_is_there);
    tcase_add_test(threads, one_thread_waits_for_nobody);
    tcase_add_test(threads, who_never_comes_along_is_waited_for_more_and_more_seldom);
    tcase_add_test(threads, nobody_is_told_of_a_flush_before_its_end);
    tcase_add_test(threads, a_failed_flush_fails_everyone_who_waits_and_all_that_come_later);
    tcase_add_test(threads, a_failed_write_fails_appends_and_seals_too);
    suite_add_tcase(suite, threads);

    return test_run(suite);
}
