/*
 * tests/kv/test_wal.c: what the log promises, after power cuts, tears, damage and failures.
 */
#include "kv/wal.h"

#include "kv/codec.h"
#include "kv/format.h"
#include "tests/run.h"

#include <check.h>
#include <pthread.h>
#include <semaphore.h>
#include <time.h>
#include <unistd.h>

/* ---- random numbers ---------------------------------------------------------- */

static uint64_t random_state = 88172645463325252ull;

static void seed_random(const char *test)
{
    const char *text = getenv("KVFS_SEED");
    const uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
    printf("%s: KVFS_SEED=%llu\n", test, (unsigned long long)seed);
    random_state = seed * 2862933555777941757ull + 1;
}

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t random_below(uint64_t bound)
{
    return random_next(&random_state) % bound;
}

/* ---- a disk with a volatile cache ---------------------------------------------- */

#define FIRST_BLOCK 3u

struct disk {
    struct kv_device base;
    pthread_mutex_t mutex;
    uint8_t *bytes;  /* what reads see */
    uint8_t *stable; /* what survives a power cut */
    uint8_t *dirty;  /* a byte per block: bytes and stable may differ */
    uint64_t writes_left, flushes_left;
};

static int disk_submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct disk *disk = (struct disk *)device;
    int err = 0;
    pthread_mutex_lock(&disk->mutex);
    for (size_t i = 0; i < io_count; i++) {
        struct kv_io *io = &ios[i];
        uint8_t *at = disk->bytes + io->block * KV_BLOCK_BYTES;
        const size_t length = (size_t)io->block_count * KV_BLOCK_BYTES;
        io->result = 0;
        if (io->kind == KV_IO_READ) {
            memcpy(io->buf, at, length);
        } else if (disk->writes_left == 0) {
            io->result = -EIO;
        } else {
            disk->writes_left--;
            memcpy(at, io->buf, length);
            memset(disk->dirty + io->block, 1, io->block_count);
        }
        if (!err)
            err = io->result;
    }
    if (flush && !err && disk->flushes_left == 0)
        err = -EIO;
    if (flush && !err) {
        disk->flushes_left--;
        for (uint64_t block = 0; block < device->block_count; block++) {
            if (disk->dirty[block])
                memcpy(disk->stable + block * KV_BLOCK_BYTES, disk->bytes + block * KV_BLOCK_BYTES,
                       KV_BLOCK_BYTES);
            disk->dirty[block] = 0;
        }
    }
    pthread_mutex_unlock(&disk->mutex);
    return err;
}

static int disk_discard(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    (void)device;
    (void)block;
    (void)block_count;
    return 0;
}

static void disk_close(struct kv_device *device)
{
    (void)device; /* the test's */
}

static const struct kv_device_ops disk_ops = {
    .submit = disk_submit, .discard = disk_discard, .close = disk_close};

/* Of what was not flushed, some blocks arrive, some do not, some are torn between sectors. */
static void disk_cut_power(struct disk *disk)
{
    for (uint64_t block = 0; block < disk->base.block_count; block++) {
        if (!disk->dirty[block])
            continue;
        const uint64_t fate = random_below(4);
        for (size_t sector = 0; sector < KV_BLOCK_BYTES; sector += 512) {
            const size_t at = block * KV_BLOCK_BYTES + sector;
            if (fate < 2 || (fate == 2 && random_below(2)))
                memcpy(disk->stable + at, disk->bytes + at, 512);
        }
        disk->dirty[block] = 0;
    }
    memcpy(disk->bytes, disk->stable, disk->base.block_count * KV_BLOCK_BYTES);
}

/* ---- a log on it ------------------------------------------------------------------ */

struct fixture {
    struct disk disk;
    struct kv_wal_config config;
    struct kv_wal *wal;
    uint64_t epoch;
};

static void open_log(struct fixture *f)
{
    kv_wal_close(f->wal);
    f->wal = NULL;
    ck_assert_int_eq(kv_wal_open(&f->disk.base, &f->config, &f->wal), 0);
}

static void fixture_init(struct fixture *f, uint64_t ring_blocks, uint32_t buffer_blocks)
{
    *f = (struct fixture){.epoch = 1};
    const uint64_t block_count = FIRST_BLOCK + ring_blocks + 1;
    f->disk.base.ops = &disk_ops;
    f->disk.base.block_count = block_count;
    f->disk.bytes = calloc(block_count, KV_BLOCK_BYTES);
    f->disk.stable = calloc(block_count, KV_BLOCK_BYTES);
    f->disk.dirty = calloc(block_count, 1);
    ck_assert(f->disk.bytes && f->disk.stable && f->disk.dirty);
    f->disk.writes_left = f->disk.flushes_left = UINT64_MAX;
    ck_assert_int_eq(pthread_mutex_init(&f->disk.mutex, NULL), 0);
    f->config = (struct kv_wal_config){.first_block = FIRST_BLOCK,
                                       .block_count = ring_blocks,
                                       .log_id = 4711,
                                       .buffer_bytes = buffer_blocks * KV_BLOCK_BYTES};
    open_log(f);
}

static void fixture_release(struct fixture *f)
{
    kv_wal_close(f->wal);
    pthread_mutex_destroy(&f->disk.mutex);
    free(f->disk.bytes);
    free(f->disk.stable);
    free(f->disk.dirty);
}

/* ---- records: a number, and bytes that follow from it -------------------------------- */

#define BODY_MAX 70000u

struct record {
    uint64_t number;
    size_t length;
    uint64_t epoch;
};

static void fill_body(const struct record *record, uint8_t *body)
{
    uint64_t state = record->number * 77 + 1;
    for (size_t i = 0; i < record->length; i++)
        body[i] = (uint8_t)(random_next(&state) >> 32);
}

static uint64_t append(struct fixture *f, const struct record *record)
{
    static uint8_t body[BODY_MAX];
    uint64_t position;
    fill_body(record, body);
    ck_assert_int_eq(kv_wal_room(f->wal, record->length), 0);
    ck_assert_int_eq(kv_wal_append(f->wal, body, record->length, record->epoch, &position), 0);
    return position;
}

static uint64_t append_synced(struct fixture *f, const struct record *record)
{
    const uint64_t position = append(f, record);
    ck_assert_int_eq(kv_wal_sync(f->wal, position), 0);
    return position;
}

static void checkpoint(struct fixture *f)
{
    uint64_t position, link;
    ck_assert_int_eq(kv_wal_seal(f->wal, f->epoch, &position, &link), 0);
    kv_wal_trim(f->wal, position);
    f->config.tail = position;
    f->config.tail_link = link;
}

/* What a replay is expected to see, and where it refuses. */
struct expectation {
    const struct record *records;
    size_t count, seen, known_durable;
    size_t refuse_at; /* SIZE_MAX: nowhere */
};

static int visit(void *context, const void *body, size_t length, uint64_t epoch, bool known_durable)
{
    static uint8_t expected_body[BODY_MAX];
    struct expectation *expected = context;
    if (expected->seen == expected->refuse_at)
        return -ECANCELED;
    ck_assert_uint_lt(expected->seen, expected->count);
    const struct record *record = &expected->records[expected->seen++];
    ck_assert_uint_eq(length, record->length);
    ck_assert_uint_eq(epoch, record->epoch);
    fill_body(record, expected_body);
    if (length)
        ck_assert_int_eq(memcmp(body, expected_body, length), 0);
    if (known_durable)
        ck_assert_uint_eq(expected->known_durable++, expected->seen - 1);
    return 0;
}

/* Replay must see a prefix of the records; returns what kv_wal_replay does. */
static int replay(struct fixture *f, const struct record *records, size_t count,
                  struct kv_wal_end *end)
{
    struct expectation expected = {.records = records, .count = count, .refuse_at = SIZE_MAX};
    const int err = kv_wal_replay(f->wal, visit, &expected, end);
    ck_assert_uint_eq(end->records, expected.seen);
    if (!err)
        f->epoch = (end->epoch_max > f->epoch ? end->epoch_max : f->epoch) + 1;
    return err;
}

static void expect_records(struct fixture *f, const struct record *records, size_t count)
{
    struct kv_wal_end end;
    open_log(f);
    ck_assert_int_eq(replay(f, records, count, &end), 0);
    ck_assert_uint_eq(end.records, count);
}

/* ---- round trips and power cuts --------------------------------------------------------- */

#define HISTORY_MAX 4096u

static void run_history(uint64_t ring_blocks, uint32_t buffer_blocks, int rounds)
{
    struct fixture f;
    fixture_init(&f, ring_blocks, buffer_blocks);
    static struct record records[HISTORY_MAX];
    size_t count = 0, synced = 0; /* since the tail */
    uint64_t number = 1;

    for (int round = 0; round < rounds; round++) {
        const uint64_t steps = random_below(60), sync_one_in = 1 + random_below(60);
        for (uint64_t step = 0; step < steps; step++) {
            const uint64_t kind = random_below(8);
            const size_t length = random_below(kind ? 600 : 30000);
            const int room = kv_wal_room(f.wal, length);
            if (room == -EAGAIN || count == HISTORY_MAX || random_below(40) == 0) {
                checkpoint(&f);
                count = synced = 0;
                f.epoch++;
                continue;
            }
            ck_assert_int_eq(room, 0);
            records[count] = (struct record){number++, length, f.epoch};
            const uint64_t position = append(&f, &records[count++]);
            if (kv_wal_is_behind(f.wal) && random_below(2))
                ck_assert_int_eq(kv_wal_write_behind(f.wal), 0);
            if (random_below(sync_one_in) == 0) {
                ck_assert_int_eq(kv_wal_sync(f.wal, position), 0);
                synced = count;
            }
        }
        if (random_below(3) == 0) {
            ck_assert_int_eq(kv_wal_sync(f.wal, kv_wal_position(f.wal)), 0);
            synced = count;
        }
        /* Else only the process dies: what is in the disk's cache may be lost later. */
        const bool power_cut = random_below(2);
        if (power_cut)
            disk_cut_power(&f.disk);
        struct kv_wal_end end, again;
        open_log(&f);
        ck_assert_int_eq(replay(&f, records, count, &end), 0);
        ck_assert_uint_ge(end.records, synced);
        ck_assert_int_eq(replay(&f, records, count, &again), 0);
        ck_assert_uint_eq(end.position, again.position);
        ck_assert_uint_eq(kv_wal_position(f.wal), end.position);
        count = end.records;
        if (power_cut)
            synced = count;
    }
    fixture_release(&f);
}

START_TEST(what_was_synced_survives_power_cuts_and_what_survives_is_a_prefix)
{
    seed_random("what_was_synced_survives_power_cuts_and_what_survives_is_a_prefix");
    run_history(64, 8, 300);
    run_history(61, 64, 300);
    run_history(256, 5, 200);
}
END_TEST

/* Append until the log says that it is behind. Returns how many records there are. */
static size_t append_until_behind(struct fixture *f, struct record *records, size_t count)
{
    bool behind = false;
    while (!behind && count < HISTORY_MAX) {
        records[count] = (struct record){count + 1, 9000, f->epoch};
        (void)append(f, &records[count++]);
        behind = kv_wal_is_behind(f->wal);
    }
    ck_assert(behind);
    return count;
}

START_TEST(what_is_behind_is_written_and_flushed_before_appending_has_to)
{
    struct fixture f;
    static struct record records[HISTORY_MAX];
    struct kv_wal_stats stats;
    size_t count = 0;
    fixture_init(&f, 4096, 64);
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
        records[count] = (struct record){count + 1, 9000, f.epoch};
        (void)append(&f, &records[count]);
    }
    disk_cut_power(&f.disk);
    struct kv_wal_end end;
    open_log(&f);
    ck_assert_int_eq(replay(&f, records, count, &end), 0);
    ck_assert_uint_ge(end.records, durable);
    fixture_release(&f);
}
END_TEST

START_TEST(records_of_every_size_around_a_block_come_back)
{
    struct fixture f;
    fixture_init(&f, 512, 7);
    struct record records[200];
    size_t count = 0;
    for (; count < 60; count++)
        records[count] = (struct record){count + 1, KV_LOG_PAYLOAD_BYTES - 40 + count, 1};
    for (; count < 80; count++)
        records[count] = (struct record){count + 1, count - 60, 1};
    records[count++] = (struct record){99, BODY_MAX, 1}; /* larger than the buffer */
    for (size_t i = 0; i < count; i++) {
        if (i % 7)
            (void)append(&f, &records[i]);
        else
            (void)append_synced(&f, &records[i]);
    }
    ck_assert_int_eq(kv_wal_sync(f.wal, kv_wal_position(f.wal)), 0);
    expect_records(&f, records, count);
    fixture_release(&f);
}
END_TEST

START_TEST(an_empty_log_has_no_records_and_syncing_it_does_nothing)
{
    struct fixture f;
    fixture_init(&f, 64, 8);
    ck_assert_int_eq(kv_wal_sync(f.wal, kv_wal_position(f.wal)), 0);
    checkpoint(&f);
    ck_assert_uint_eq(f.config.tail, 0);
    struct kv_wal_stats stats;
    kv_wal_stats(f.wal, &stats);
    ck_assert_uint_eq(stats.flushes, 0);
    ck_assert_uint_eq(stats.used_blocks, 0);
    struct kv_wal_end end;
    open_log(&f);
    ck_assert_int_eq(replay(&f, NULL, 0, &end), 0);
    ck_assert_uint_eq(end.position, 0);
    ck_assert_uint_eq(end.epoch_max, 0);
    fixture_release(&f);
}
END_TEST

/* ---- tears and damage -------------------------------------------------------------------- */

/* Two records, each flushed on its own, then a third of several blocks, flushed. */
static void write_three(struct fixture *f, struct record records[4], uint64_t positions[3])
{
    fixture_init(f, 64, 16);
    const size_t lengths[4] = {500, 9000, 20000, 300};
    for (unsigned i = 0; i < 4; i++)
        records[i] = (struct record){i + 1, lengths[i], 1};
    for (unsigned i = 0; i < 3; i++)
        positions[i] = append_synced(f, &records[i]);
}

static uint8_t *ring_byte(struct fixture *f, uint64_t position, size_t at)
{
    return f->disk.bytes + (FIRST_BLOCK + position % f->config.block_count) * KV_BLOCK_BYTES + at;
}

START_TEST(a_last_flush_torn_at_any_sector_leaves_what_came_before)
{
    struct fixture f;
    struct record records[4];
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
        open_log(&f);
        ck_assert_int_eq(replay(&f, records, 3, &end), 0);
        /* The sectors that the last block fills up with zeroes do not matter. */
        ck_assert_uint_ge(end.records, 2);

        /* What is appended now follows, and the torn record is gone for good. */
        struct record now[4] = {records[0], records[1], records[2], records[2]};
        now[end.records] = (struct record){50, 100, f.epoch};
        (void)append_synced(&f, &now[end.records]);
        expect_records(&f, now, end.records + 1);
    }
    free(whole);
    fixture_release(&f);
}
END_TEST

START_TEST(a_flipped_bit_in_the_last_flush_ends_the_log_and_an_earlier_one_is_damage)
{
    struct fixture f;
    struct record records[4];
    uint64_t positions[3];
    write_three(&f, records, positions);
    for (uint64_t position = 0; position < positions[2]; position++) {
        for (size_t at = 0; at < KV_BLOCK_BYTES; at += 61) {
            *ring_byte(&f, position, at) ^= 4;
            struct kv_wal_end end;
            open_log(&f);
            const int err = replay(&f, records, 3, &end);
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
    expect_records(&f, records, 3);
    fixture_release(&f);
}
END_TEST

START_TEST(records_that_a_later_block_vouches_for_are_known_durable)
{
    struct fixture f;
    struct record records[4];
    uint64_t positions[3];
    write_three(&f, records, positions);
    open_log(&f);
    struct expectation expected = {.records = records, .count = 3, .refuse_at = SIZE_MAX};
    struct kv_wal_end end;
    ck_assert_int_eq(kv_wal_replay(f.wal, visit, &expected, &end), 0);
    ck_assert_uint_eq(expected.seen, 3);
    ck_assert_uint_eq(expected.known_durable, 2);
    fixture_release(&f);
}
END_TEST

START_TEST(after_damage_appending_goes_on_where_no_old_block_can_vouch)
{
    struct fixture f;
    struct record records[4];
    uint64_t positions[3];
    write_three(&f, records, positions);
    *ring_byte(&f, positions[0], 100) ^= 1;
    struct kv_wal_end end;
    open_log(&f);
    ck_assert_int_eq(replay(&f, records, 3, &end), -EBADMSG);
    ck_assert_uint_eq(end.records, 1);
    ck_assert_int_eq(kv_wal_room(f.wal, 10), -EAGAIN);

    /* Given that the first record is all there is, and a checkpoint holds it ... */
    checkpoint(&f);
    expect_records(&f, NULL, 0);
    const struct record next = {60, 5000, f.epoch};
    (void)append_synced(&f, &next);
    expect_records(&f, &next, 1);
    fixture_release(&f);
}
END_TEST

START_TEST(damage_is_seen_when_much_was_appended_without_a_sync)
{
    struct fixture f;
    fixture_init(&f, 8192, 64);
    struct record records[300];
    for (size_t i = 0; i < 300; i++) {
        records[i] = (struct record){i + 1, 60000, 1};
        (void)append(&f, &records[i]);
    }
    struct kv_wal_stats stats;
    kv_wal_stats(f.wal, &stats);
    ck_assert_uint_ge(stats.flushes, 1);
    ck_assert_int_eq(kv_wal_sync(f.wal, kv_wal_position(f.wal)), 0);
    expect_records(&f, records, 300);

    *ring_byte(&f, 5, 5) ^= 1;
    struct kv_wal_end end;
    open_log(&f);
    ck_assert_int_eq(replay(&f, records, 300, &end), -EBADMSG);
    ck_assert_uint_eq(end.position, 5);
    fixture_release(&f);
}
END_TEST

START_TEST(random_bytes_in_the_ring_never_make_a_record)
{
    seed_random("random_bytes_in_the_ring_never_make_a_record");
    for (int round = 0; round < 300; round++) {
        struct fixture f;
        struct record records[4];
        uint64_t positions[3];
        write_three(&f, records, positions);
        for (int i = 0; i < 4; i++)
            *ring_byte(&f, random_below(positions[2]), random_below(i < 2 ? 64 : KV_BLOCK_BYTES)) =
                (uint8_t)random_below(256);
        struct kv_wal_end end;
        open_log(&f);
        const int err = replay(&f, records, 3, &end);
        ck_assert(err == 0 || err == -EBADMSG);
        fixture_release(&f);
    }
}
END_TEST

START_TEST(blocks_of_another_lap_and_of_another_image_are_not_replayed)
{
    struct fixture f;
    fixture_init(&f, 8, 4);
    struct record records[30];
    for (size_t i = 0; i < 30; i++) {
        records[i] = (struct record){i + 1, 3000, 1};
        (void)append_synced(&f, &records[i]);
        if (i % 4 == 3)
            checkpoint(&f);
    }
    expect_records(&f, records + 28, 2);

    /* The slots after the end hold the last lap; from their positions they would be whole. */
    struct kv_wal_config config = f.config;
    f.config.tail += 2;
    expect_records(&f, NULL, 0);
    f.config = config;
    f.config.log_id++;
    expect_records(&f, NULL, 0);

    /* A tail that its block does not continue, though the next one vouches for it, is damage. */
    f.config = config;
    f.config.tail_link++;
    struct kv_wal_end end;
    open_log(&f);
    ck_assert_int_eq(replay(&f, NULL, 0, &end), -EBADMSG);
    fixture_release(&f);
}
END_TEST

/* Change a byte of a record and give its block a digest that fits. */
START_TEST(a_record_with_another_digest_is_no_record_even_in_a_whole_block)
{
    struct fixture f;
    fixture_init(&f, 64, 4);
    const struct record records[] = {{1, 100, 1}, {2, 100, 1}, {3, 100, 1}};
    for (size_t i = 0; i < 3; i++) /* a block each */
        (void)append_synced(&f, &records[i]);
    uint8_t *const block = f.disk.bytes + (FIRST_BLOCK + 2) * (size_t)KV_BLOCK_BYTES;
    struct kv_disk_log_header header;
    block[sizeof header + sizeof(struct kv_disk_record_header) + 50] ^= 1;
    memcpy(&header, block, sizeof header);
    header.digest = kv_le64_of(0);
    memcpy(block, &header, sizeof header);
    header.digest = kv_le64_of(kv_digest(block, KV_BLOCK_BYTES, 0));
    memcpy(block, &header, sizeof header);
    expect_records(&f, records, 2);
    fixture_release(&f);
}
END_TEST

START_TEST(a_ring_that_does_not_fit_is_refused)
{
    struct fixture f;
    fixture_init(&f, 64, 4);
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
    fixture_release(&f);
}
END_TEST

/* ---- refused records ------------------------------------------------------------------------ */

static void refuse(struct fixture *f, const struct record *records, size_t count, size_t at)
{
    struct expectation expected = {.records = records, .count = count, .refuse_at = at};
    struct kv_wal_end end;
    open_log(f);
    ck_assert_int_eq(kv_wal_replay(f->wal, visit, &expected, &end), 0);
    ck_assert_uint_eq(end.records, at);
    f->epoch = end.epoch_max + 1;
}

START_TEST(a_refused_record_never_returns_when_more_is_appended)
{
    const size_t lengths[] = {100, 5000};
    for (unsigned first = 0; first < 2; first++) {
        for (unsigned second = 0; second < 2; second++) {
            for (size_t at = 0; at < 3; at++) {
                struct fixture f;
                fixture_init(&f, 64, 8);
                struct record records[4] = {
                    {1, lengths[first], 1}, {2, lengths[second], 1}, {3, 700, 1}};
                for (unsigned i = 0; i < 3; i++)
                    (void)append(&f, &records[i]);
                ck_assert_int_eq(kv_wal_sync(f.wal, kv_wal_position(f.wal)), 0);
                refuse(&f, records, 3, at);

                struct record now[5] = {records[0], records[1], records[2]};
                now[at] = (struct record){70, 4000, f.epoch};
                (void)append_synced(&f, &now[at]);
                expect_records(&f, now, at + 1);

                /* And once more after a second recovery. */
                now[at + 1] = (struct record){71, 4000, f.epoch};
                (void)append_synced(&f, &now[at + 1]);
                expect_records(&f, now, at + 2);
                fixture_release(&f);
            }
        }
    }
}
END_TEST

START_TEST(a_refused_record_never_returns_after_a_checkpoint_that_begins_in_its_place)
{
    struct fixture f;
    fixture_init(&f, 64, 8);
    const struct record records[2] = {{1, 100, 1}, {2, 100, 1}};
    (void)append_synced(&f, &records[0]);
    (void)append_synced(&f, &records[1]);
    refuse(&f, records, 2, 1);
    checkpoint(&f);
    ck_assert_uint_eq(f.config.tail, 1); /* where the refused one still lies, whole */
    expect_records(&f, NULL, 0);

    const struct record next = {3, 100, f.epoch};
    (void)append_synced(&f, &next);
    expect_records(&f, &next, 1);
    fixture_release(&f);
}
END_TEST

/*
 * Twice the same is done after a recovery. The first time, of two blocks only the second reaches
 * the disk; the second time, the first one is made again, byte for byte, and continues in it.
 */
START_TEST(a_block_that_lost_its_predecessor_does_not_continue_one_that_equals_it)
{
    struct fixture f;
    uint8_t old[KV_BLOCK_BYTES];
    fixture_init(&f, 64, 8);
    const struct record records[2] = {{1, 100, 1}, {2, 100, 1}};
    (void)append_synced(&f, &records[0]);
    (void)append_synced(&f, &records[1]);
    memcpy(old, ring_byte(&f, 1, 0), sizeof old);

    refuse(&f, records, 2, 1);
    const uint64_t lost_epoch = f.epoch;
    const struct record lost[2] = {{3, 100, lost_epoch}, {4, 100, lost_epoch}};
    (void)append(&f, &lost[0]);
    ck_assert_int_eq(kv_wal_sync(f.wal, kv_wal_position(f.wal)), 0);
    (void)append_synced(&f, &lost[1]);
    memcpy(ring_byte(&f, 1, 0), old, sizeof old);

    refuse(&f, records, 2, 1);
    ck_assert_uint_gt(f.epoch, lost_epoch);
    const struct record now[2] = {records[0], {3, 100, f.epoch}};
    (void)append_synced(&f, &now[1]);
    expect_records(&f, now, 2);
    fixture_release(&f);
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
    struct fixture f;
    struct record records[4];
    uint64_t positions[3];
    write_three(&f, records, positions);
    struct kv_wal_end end;
    open_log(&f);
    ck_assert_int_eq(kv_wal_replay(f.wal, fail_visit, NULL, &end), -ENOMEM);
    expect_records(&f, records, 3);
    fixture_release(&f);
}
END_TEST

/* ---- room ------------------------------------------------------------------------------------ */

START_TEST(a_full_ring_has_room_again_after_a_trim)
{
    struct fixture f;
    fixture_init(&f, 16, 4);
    ck_assert_int_eq(kv_wal_room(f.wal, 9 * 4096), -E2BIG);
    ck_assert_int_eq(kv_wal_room(f.wal, SIZE_MAX), -E2BIG);
    struct record record = {1, 3000, 1};
    unsigned count = 0;
    for (; !kv_wal_room(f.wal, record.length); count++)
        (void)append_synced(&f, &record);
    ck_assert_uint_eq(count, 16);
    ck_assert_int_eq(kv_wal_room(f.wal, 0), -EAGAIN);
    struct kv_wal_stats stats;
    kv_wal_stats(f.wal, &stats);
    ck_assert_uint_eq(stats.used_blocks, 16);
    ck_assert_uint_eq(stats.records, 16);
    checkpoint(&f);
    ck_assert_int_eq(kv_wal_room(f.wal, 7 * 4096), 0);
    fixture_release(&f);
}
END_TEST

START_TEST(a_trim_makes_what_was_never_written_durable)
{
    struct fixture f;
    fixture_init(&f, 64, 8);
    struct record records[3] = {{1, 100, 1}, {2, 100, 2}, {3, 9000, 2}};
    const uint64_t position = append(&f, &records[0]);
    f.epoch = 2;
    checkpoint(&f);
    ck_assert_int_eq(kv_wal_sync(f.wal, position), 0);
    struct kv_wal_stats stats;
    kv_wal_stats(f.wal, &stats);
    ck_assert_uint_eq(stats.flushes, 0);
    (void)append(&f, &records[1]);
    (void)append_synced(&f, &records[2]);
    expect_records(&f, records + 1, 2);
    fixture_release(&f);
}
END_TEST

/* ---- threads and failures ---------------------------------------------------- */

#define THREADS        4
#define THREAD_RECORDS 200
#define SHARED_RECORDS (THREADS * THREAD_RECORDS)

struct shared {
    struct fixture f;
    pthread_mutex_t writer;
    struct record records[SHARED_RECORDS];
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
        struct record *record = &shared->records[shared->count];
        *record = (struct record){shared->count + 1, (shared->count * 131) % sizeof body, 1};
        shared->count++;
        fill_body(record, body);
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
    fixture_init(&shared->f, 2000, 8);
    run_threads(shared);
    ck_assert_int_eq(shared->failures, 0);
    struct kv_wal_stats stats;
    kv_wal_stats(shared->f.wal, &stats);
    ck_assert_uint_le(stats.flushes, SHARED_RECORDS);
    ck_assert_uint_eq(stats.records, SHARED_RECORDS);
    disk_cut_power(&shared->f.disk);
    expect_records(&shared->f, shared->records, SHARED_RECORDS);
    fixture_release(&shared->f);
    free(shared);
}
END_TEST

/* The disk holds a flush up until it is told to go on. */
struct held_flush {
    struct kv_device base;
    struct disk *disk;
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
    const int err = disk_submit(&held->disk->base, ios, io_count, flush);
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
    static const struct kv_device_ops ops = {
        .submit = held_submit, .discard = disk_discard, .close = disk_close};
    struct fixture f;
    fixture_init(&f, 64, 4);
    kv_wal_close(f.wal);
    f.wal = NULL;
    struct held_flush held = {.base = {.ops = &ops, .block_count = f.disk.base.block_count},
                              .disk = &f.disk};
    ck_assert_int_eq(sem_init(&held.begun, 0, 0), 0);
    ck_assert_int_eq(sem_init(&held.go_on, 0, 0), 0);
    ck_assert_int_eq(kv_wal_open(&held.base, &f.config, &f.wal), 0);
    held.wal = f.wal;
    const struct record record = {1, 100, 1};
    (void)append(&f, &record);

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
    fixture_release(&f);
}
END_TEST

START_TEST(a_failed_flush_fails_everyone_who_waits_and_all_that_come_later)
{
    struct shared *shared = calloc(1, sizeof *shared);
    ck_assert_ptr_nonnull(shared);
    fixture_init(&shared->f, 2000, 8);
    shared->f.disk.flushes_left = 20;
    run_threads(shared);
    ck_assert_int_ge(shared->failures, SHARED_RECORDS - 20 * THREADS);
    shared->f.disk.flushes_left = UINT64_MAX; /* the disk is well again: too late */
    ck_assert_int_eq(kv_wal_sync(shared->f.wal, 0), -EIO);
    fixture_release(&shared->f);
    free(shared);
}
END_TEST

START_TEST(a_failed_write_fails_appends_and_seals_too)
{
    struct fixture f;
    fixture_init(&f, 64, 4);
    const struct record record = {1, 100, 1};
    (void)append_synced(&f, &record);
    f.disk.writes_left = 0;
    uint8_t body[30000] = {0};
    uint64_t position, link;
    ck_assert_int_eq(kv_wal_append(f.wal, body, sizeof body, 1, &position), -EIO);
    f.disk.writes_left = UINT64_MAX;
    ck_assert_int_eq(kv_wal_append(f.wal, body, 10, 1, &position), -EIO);
    ck_assert_int_eq(kv_wal_seal(f.wal, 1, &position, &link), -EIO);
    ck_assert_int_eq(kv_wal_sync(f.wal, 1), -EIO);
    expect_records(&f, &record, 1);
    fixture_release(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal");
    TCase *trips = tcase_create("round trips");
    tcase_set_timeout(trips, 300);
    tcase_add_test(trips, what_was_synced_survives_power_cuts_and_what_survives_is_a_prefix);
    tcase_add_test(trips, what_is_behind_is_written_and_flushed_before_appending_has_to);
    tcase_add_test(trips, records_of_every_size_around_a_block_come_back);
    tcase_add_test(trips, an_empty_log_has_no_records_and_syncing_it_does_nothing);
    suite_add_tcase(suite, trips);

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

    TCase *room = tcase_create("room");
    tcase_add_test(room, a_full_ring_has_room_again_after_a_trim);
    tcase_add_test(room, a_trim_makes_what_was_never_written_durable);
    suite_add_tcase(suite, room);

    TCase *threads = tcase_create("threads");
    tcase_set_timeout(threads, 120);
    tcase_add_test(threads, threads_share_flushes_and_each_record_is_there);
    tcase_add_test(threads, nobody_is_told_of_a_flush_before_its_end);
    tcase_add_test(threads, a_failed_flush_fails_everyone_who_waits_and_all_that_come_later);
    tcase_add_test(threads, a_failed_write_fails_appends_and_seals_too);
    suite_add_tcase(suite, threads);

    return test_run(suite);
}
