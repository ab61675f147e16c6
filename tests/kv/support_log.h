/*
 * tests/kv/support_log.h: a log on a disk with a volatile cache, and records that can be told
 * again.
 *
 * What does not go as it must fails the test. One thread, except for the disk.
 */
#ifndef TESTS_KV_SUPPORT_LOG_H
#define TESTS_KV_SUPPORT_LOG_H

#include <pthread.h>

#include "kv/device.h"
#include "kv/format.h"
#include "kv/wal.h"
#include "support_store.h"

/* ---- a disk with a volatile cache ---------------------------------------------- */

/* From any thread, but for the cut of power. */
struct volatile_disk {
    struct kv_device base;
    pthread_mutex_t mutex;
    uint8_t *bytes;                     /* what reads see */
    uint8_t *stable;                    /* what survives a power cut */
    uint8_t *dirty;                     /* a byte per block: bytes and stable may differ */
    uint64_t writes_left, flushes_left; /* then they fail with -EIO */
};

void volatile_disk_init(struct volatile_disk *disk, uint64_t block_count);
void volatile_disk_release(struct volatile_disk *disk);
/* Of what was not flushed, some blocks arrive, some do not, some are torn between sectors. */
void volatile_disk_cut_power(struct volatile_disk *disk, struct test_random *random);

/* ---- a log on it ------------------------------------------------------------------ */

#define LOG_FIRST_BLOCK 3u /* of the ring */

struct log_fixture {
    struct volatile_disk disk;
    struct kv_wal_config config;
    struct kv_wal *wal;
    uint64_t epoch; /* of what is appended next */
};

void log_fixture_init(struct log_fixture *f, uint64_t ring_blocks, uint32_t buffer_blocks);
void log_fixture_release(struct log_fixture *f);
/* Anew, from what the disk shows. */
void log_open(struct log_fixture *f);

/* ---- records: a number, and bytes that follow from it -------------------------------- */

#define LOG_BODY_MAX 70000u

struct log_record {
    uint64_t number;
    size_t length;
    uint64_t epoch;
};

void log_fill_body(const struct log_record *record, uint8_t *body);
/* Both return the position behind the record. */
uint64_t log_append(struct log_fixture *f, const struct log_record *record);
uint64_t log_append_synced(struct log_fixture *f, const struct log_record *record);
/* What was appended is no longer needed. */
void log_checkpoint(struct log_fixture *f);

/* What a replay is expected to see, and where it refuses. */
struct log_expectation {
    const struct log_record *records;
    size_t count, seen, known_durable;
    size_t refuse_at; /* SIZE_MAX: nowhere */
};

/* For kv_wal_replay; context: a struct log_expectation. */
int log_visit(void *context, const void *body, size_t length, uint64_t epoch, bool known_durable);
/* Replay must see a prefix of the records; returns what kv_wal_replay does. */
int log_replay(struct log_fixture *f, const struct log_record *records, size_t count,
               struct kv_wal_end *end);
/* Opened anew, the log has these records, all of them, and no other. */
void log_expect(struct log_fixture *f, const struct log_record *records, size_t count);

#endif
