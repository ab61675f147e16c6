/*
 * tests/kv/test_wal_room.c: room for the log on a sparse image's host is made before it is needed,
 * where flushes are frequent, and used again from its start, where nobody waits long for that.
 */
#include "kv/wal.h"

#include "support_devices.h"
#include "tests/run.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>

#define FIRST_BLOCK  3u
#define RING_BLOCKS  4096u
#define BACKED       KV_WAL_BACKED_BLOCKS_MIN
#define GROWTH       512u /* blocks that it grows by then */
#define CALLED_LEFT  128u /* of BACKED */
#define RECORD_BYTES 1000u

struct fixture {
    struct faulty *faulty;
    struct kv_device *device;
    const struct kv_device_ops *ops; /* the faulty device's own */
    struct kv_device_ops thin_ops;
    struct kv_wal *wal;
};

static _Atomic uint64_t reserved_end; /* of the ring, in blocks */
static bool host_is_full;

static int reserve(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    (void)device;
    if (host_is_full)
        return -ENOSPC;
    reserved_end = kv_max_u64(reserved_end, block + block_count - FIRST_BLOCK);
    return 0;
}

static int room_of_host(struct kv_device *device, uint64_t *block_count)
{
    (void)device;
    *block_count = host_is_full ? 0 : UINT64_MAX;
    return 0;
}

static struct kv_wal_config config_of_ring(void)
{
    return (struct kv_wal_config){
        .first_block = FIRST_BLOCK, .block_count = RING_BLOCKS, .log_id = 4711};
}

static void fixture_init(struct fixture *f)
{
    reserved_end = 0;
    host_is_full = false;
    f->faulty = faulty_new(memory_device_new(FIRST_BLOCK + RING_BLOCKS + 1));
    f->device = faulty_device(f->faulty);
    f->ops = f->device->ops;
    f->thin_ops = *f->ops;
    f->thin_ops.reserve = reserve;
    f->thin_ops.room = room_of_host;
    f->device->ops = &f->thin_ops;
    f->device->thin = true;
    const struct kv_wal_config config = config_of_ring();
    ck_assert_int_eq(kv_wal_open(f->device, &config, &f->wal), 0);
    ck_assert_uint_eq(reserved_end, BACKED);
}

static void fixture_release(struct fixture *f)
{
    kv_wal_close(f->wal);
    f->device->ops = f->ops;
    faulty_free(f->faulty);
}

static int append(struct fixture *f, uint64_t number, uint64_t *position)
{
    uint8_t body[RECORD_BYTES] = {0};
    memcpy(body, &number, sizeof number);
    const int err = kv_wal_room(f->wal, sizeof body);
    return err ? err : kv_wal_append(f->wal, body, sizeof body, 1, position);
}

/* A record takes a block when it is synced by itself. */
static void append_synced(struct fixture *f, uint64_t number)
{
    uint64_t position;
    ck_assert_int_eq(append(f, number, &position), 0);
    ck_assert_int_eq(kv_wal_sync(f->wal, position), 0);
}

static uint64_t used_blocks(struct fixture *f)
{
    struct kv_wal_stats stats;
    kv_wal_stats(f->wal, &stats);
    return stats.used_blocks;
}

/* Until somebody is called, or `blocks` are used. */
static bool append_until_called(struct fixture *f, uint64_t blocks)
{
    while (used_blocks(f) < blocks) {
        append_synced(f, used_blocks(f));
        if (kv_wal_is_behind(f->wal))
            return true;
    }
    return false;
}

static int accept(void *context, const void *body, size_t length, uint64_t epoch,
                  bool known_durable)
{
    uint64_t number, *const count = context;
    (void)epoch;
    (void)known_durable;
    ck_assert_uint_eq(length, RECORD_BYTES);
    memcpy(&number, body, sizeof number);
    ck_assert_uint_eq(number, (*count)++);
    return 0;
}

static void expect_records(struct fixture *f, uint64_t expected)
{
    struct kv_wal_end end;
    uint64_t count = 0;
    const struct kv_wal_config config = config_of_ring();
    host_is_full = false;
    kv_wal_close(f->wal);
    ck_assert_int_eq(kv_wal_open(f->device, &config, &f->wal), 0);
    ck_assert_int_eq(kv_wal_replay(f->wal, accept, &count, &end), 0);
    ck_assert_uint_eq(count, expected);
}

START_TEST(where_flushes_are_frequent_there_is_room_before_it_is_needed)
{
    struct fixture f;
    fixture_init(&f);
    ck_assert(append_until_called(&f, BACKED));
    ck_assert_uint_eq(used_blocks(&f), BACKED - CALLED_LEFT);
    ck_assert_uint_eq(reserved_end, BACKED);
    const uint64_t bytes = f.device->counts.write_bytes;
    ck_assert_int_eq(kv_wal_write_behind(f.wal), 0);
    ck_assert_uint_eq(reserved_end, BACKED + GROWTH);
    ck_assert_uint_eq(f.device->counts.write_bytes - bytes, GROWTH * (uint64_t)KV_BLOCK_BYTES);
    /* Nobody is called, and who appends asks for nothing, until the rest of that is small. */
    ck_assert(append_until_called(&f, BACKED + GROWTH));
    ck_assert_uint_gt(used_blocks(&f), BACKED);
    ck_assert_uint_eq(reserved_end, BACKED + GROWTH);
    expect_records(&f, used_blocks(&f));
    fixture_release(&f);
}
END_TEST

START_TEST(who_appends_makes_room_when_nobody_has_heard_the_call)
{
    struct fixture f;
    fixture_init(&f);
    ck_assert(append_until_called(&f, BACKED));
    ck_assert(!append_until_called(&f, BACKED)); /* it is said once */
    ck_assert_uint_eq(reserved_end, BACKED);
    append_synced(&f, BACKED);
    ck_assert_uint_eq(reserved_end, BACKED + GROWTH);
    /* The call was for what is there now. */
    ck_assert_int_eq(kv_wal_write_behind(f.wal), 0);
    ck_assert_uint_eq(reserved_end, BACKED + GROWTH);
    expect_records(&f, BACKED + 1);
    fixture_release(&f);
}
END_TEST

START_TEST(where_much_is_appended_between_flushes_nobody_is_called_for_room)
{
    struct fixture f;
    fixture_init(&f);
    uint64_t number = 0, position = 0;
    while (used_blocks(&f) < BACKED - 8)
        ck_assert_int_eq(append(&f, number++, &position), 0);
    ck_assert_int_eq(kv_wal_sync(f.wal, position), 0);
    ck_assert_int_eq(kv_wal_write_behind(f.wal), 0);
    ck_assert_uint_eq(reserved_end, BACKED);
    fixture_release(&f);
}
END_TEST

START_TEST(what_can_not_be_had_ahead_is_no_failure)
{
    const bool full = _i;
    struct fixture f;
    fixture_init(&f);
    ck_assert(append_until_called(&f, BACKED));
    host_is_full = full;
    if (!full)
        faulty_arm(f.faulty, (struct fault){.targets = FAULT_WRITES, .error = -EIO});
    ck_assert_int_eq(kv_wal_write_behind(f.wal), 0);
    ck_assert_uint_eq(faulty_failures(f.faulty), !full);
    /* What has room is used to its end; then it is asked for once more. */
    ck_assert(!append_until_called(&f, BACKED));
    uint64_t position;
    if (full) {
        ck_assert_int_eq(append(&f, BACKED, &position), -EAGAIN);
    } else {
        append_synced(&f, BACKED);
        ck_assert_uint_eq(reserved_end, BACKED + GROWTH);
    }
    expect_records(&f, BACKED + !full);
    fixture_release(&f);
}
END_TEST

/* A checkpoint begins when three quarters of what has room are used; where the log goes on. */
static uint64_t seal_near_the_end(struct fixture *f, bool brief)
{
    uint64_t position, link;
    for (uint64_t number = 0; number < BACKED * 3 / 4; number++)
        append_synced(f, number);
    ck_assert_int_eq(kv_wal_seal(f->wal, brief, &position, &link), 0);
    return position;
}

START_TEST(a_brief_checkpoint_near_the_end_of_what_has_room_goes_back_to_the_start)
{
    struct fixture f;
    fixture_init(&f);
    const uint64_t position = seal_near_the_end(&f, true);
    ck_assert_uint_eq(position % RING_BLOCKS, 0);
    ck_assert_uint_gt(position, RING_BLOCKS);
    uint64_t refused;
    ck_assert_int_eq(append(&f, 0, &refused), -EAGAIN); /* until the checkpoint has ended */
    kv_wal_trim(f.wal, position);
    append_synced(&f, 0);
    ck_assert_uint_eq(reserved_end, BACKED);
    fixture_release(&f);
}
END_TEST

START_TEST(nobody_waits_for_a_long_checkpoint_while_there_may_be_more_room)
{
    struct fixture f;
    fixture_init(&f);
    ck_assert_uint_eq(seal_near_the_end(&f, false), BACKED * 3 / 4);
    for (uint64_t number = BACKED * 3 / 4; number < BACKED + 8; number++)
        append_synced(&f, number);
    ck_assert_uint_eq(reserved_end, BACKED + GROWTH);
    expect_records(&f, BACKED + 8);
    fixture_release(&f);
}
END_TEST

#define RECORDS 3000u

struct writer {
    struct fixture *f;
    _Atomic bool done;
};

static void *write_behind(void *context)
{
    struct writer *const writer = context;
    while (!atomic_load(&writer->done))
        if (kv_wal_is_behind(writer->f->wal))
            ck_assert_int_eq(kv_wal_write_behind(writer->f->wal), 0);
    return NULL;
}

START_TEST(room_is_made_while_records_are_appended)
{
    struct fixture f;
    fixture_init(&f);
    struct writer writer = {.f = &f};
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, write_behind, &writer), 0);
    for (uint64_t number = 0; number < RECORDS; number++)
        append_synced(&f, number);
    atomic_store(&writer.done, true);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_uint_ge(reserved_end, RECORDS);
    expect_records(&f, RECORDS);
    fixture_release(&f);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("room for the log");
    TCase *const room = tcase_create("room");
    tcase_set_timeout(room, 60);
    tcase_add_test(room, where_flushes_are_frequent_there_is_room_before_it_is_needed);
    tcase_add_test(room, who_appends_makes_room_when_nobody_has_heard_the_call);
    tcase_add_test(room, where_much_is_appended_between_flushes_nobody_is_called_for_room);
    tcase_add_loop_test(room, what_can_not_be_had_ahead_is_no_failure, 0, 2);
    tcase_add_test(room, a_brief_checkpoint_near_the_end_of_what_has_room_goes_back_to_the_start);
    tcase_add_test(room, nobody_waits_for_a_long_checkpoint_while_there_may_be_more_room);
    tcase_add_test(room, room_is_made_while_records_are_appended);
    suite_add_tcase(suite, room);
    return test_run(suite);
}
