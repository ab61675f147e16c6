/*
 * tests/kv/support_log.c: see support_log.h.
 */
#include "support_log.h"

#include <check.h>

/* ---- a disk with a volatile cache ---------------------------------------------- */

static int submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct volatile_disk *disk = (struct volatile_disk *)device;
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

static int discard(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    (void)device;
    (void)block;
    (void)block_count;
    return 0;
}

static void leave(struct kv_device *device)
{
    (void)device; /* the test's */
}

static const struct kv_device_ops ops = {.submit = submit, .discard = discard, .close = leave};

void volatile_disk_init(struct volatile_disk *disk, uint64_t block_count)
{
    *disk = (struct volatile_disk){.writes_left = UINT64_MAX, .flushes_left = UINT64_MAX};
    disk->base.ops = &ops;
    disk->base.block_count = block_count;
    disk->bytes = calloc(block_count, KV_BLOCK_BYTES);
    disk->stable = calloc(block_count, KV_BLOCK_BYTES);
    disk->dirty = calloc(block_count, 1);
    ck_assert(disk->bytes && disk->stable && disk->dirty);
    ck_assert_int_eq(pthread_mutex_init(&disk->mutex, NULL), 0);
}

void volatile_disk_release(struct volatile_disk *disk)
{
    pthread_mutex_destroy(&disk->mutex);
    free(disk->bytes);
    free(disk->stable);
    free(disk->dirty);
}

void volatile_disk_cut_power(struct volatile_disk *disk, struct test_random *random)
{
    for (uint64_t block = 0; block < disk->base.block_count; block++) {
        if (!disk->dirty[block])
            continue;
        const uint64_t fate = test_random_below(random, 4);
        for (size_t sector = 0; sector < KV_BLOCK_BYTES; sector += 512) {
            const size_t at = block * KV_BLOCK_BYTES + sector;
            if (fate < 2 || (fate == 2 && test_random_below(random, 2)))
                memcpy(disk->stable + at, disk->bytes + at, 512);
        }
        disk->dirty[block] = 0;
    }
    memcpy(disk->bytes, disk->stable, disk->base.block_count * KV_BLOCK_BYTES);
}

/* ---- a log on it ------------------------------------------------------------------ */

void log_open(struct log_fixture *f)
{
    kv_wal_close(f->wal);
    f->wal = NULL;
    ck_assert_int_eq(kv_wal_open(&f->disk.base, &f->config, &f->wal), 0);
}

void log_fixture_init(struct log_fixture *f, uint64_t ring_blocks, uint32_t buffer_blocks)
{
    *f = (struct log_fixture){.epoch = 1};
    volatile_disk_init(&f->disk, LOG_FIRST_BLOCK + ring_blocks + 1);
    f->config = (struct kv_wal_config){.first_block = LOG_FIRST_BLOCK,
                                       .block_count = ring_blocks,
                                       .log_id = 4711,
                                       .buffer_bytes = buffer_blocks * KV_BLOCK_BYTES};
    log_open(f);
}

void log_fixture_release(struct log_fixture *f)
{
    kv_wal_close(f->wal);
    volatile_disk_release(&f->disk);
}

void log_fill_body(const struct log_record *record, uint8_t *body)
{
    struct test_random random = {record->number * 77 + 1};
    for (size_t i = 0; i < record->length; i++)
        body[i] = (uint8_t)test_random_next(&random);
}

uint64_t log_append(struct log_fixture *f, const struct log_record *record)
{
    static uint8_t body[LOG_BODY_MAX];
    uint64_t position;
    log_fill_body(record, body);
    ck_assert_int_eq(kv_wal_room(f->wal, record->length), 0);
    ck_assert_int_eq(kv_wal_append(f->wal, body, record->length, record->epoch, &position), 0);
    return position;
}

uint64_t log_append_synced(struct log_fixture *f, const struct log_record *record)
{
    const uint64_t position = log_append(f, record);
    ck_assert_int_eq(kv_wal_sync(f->wal, position), 0);
    return position;
}

void log_checkpoint(struct log_fixture *f)
{
    uint64_t position, link;
    ck_assert_int_eq(kv_wal_seal(f->wal, true, &position, &link), 0);
    kv_wal_trim(f->wal, position);
    f->config.tail = position;
    f->config.tail_link = link;
}

int log_visit(void *context, const void *body, size_t length, uint64_t epoch, bool known_durable)
{
    static uint8_t expected_body[LOG_BODY_MAX];
    struct log_expectation *expected = context;
    if (expected->seen == expected->refuse_at)
        return -ECANCELED;
    ck_assert_uint_lt(expected->seen, expected->count);
    const struct log_record *record = &expected->records[expected->seen++];
    ck_assert_uint_eq(length, record->length);
    ck_assert_uint_eq(epoch, record->epoch);
    log_fill_body(record, expected_body);
    if (length)
        ck_assert_int_eq(memcmp(body, expected_body, length), 0);
    if (known_durable)
        ck_assert_uint_eq(expected->known_durable++, expected->seen - 1);
    return 0;
}

int log_replay(struct log_fixture *f, const struct log_record *records, size_t count,
               struct kv_wal_end *end)
{
    struct log_expectation expected = {.records = records, .count = count, .refuse_at = SIZE_MAX};
    const int err = kv_wal_replay(f->wal, log_visit, &expected, end);
    ck_assert_uint_eq(end->records, expected.seen);
    if (!err)
        f->epoch = (end->epoch_max > f->epoch ? end->epoch_max : f->epoch) + 1;
    return err;
}

void log_expect(struct log_fixture *f, const struct log_record *records, size_t count)
{
    struct kv_wal_end end;
    log_open(f);
    ck_assert_int_eq(log_replay(f, records, count, &end), 0);
    ck_assert_uint_eq(end.records, count);
}
