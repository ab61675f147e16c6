/*
 * tests/faults/io/test_near_memory.c: small blobs are read together, and each allocation of that
 * fails in turn: who wants a blob gets it, with others or alone, or hears -ENOMEM and gets it the
 * next time; never other bytes.
 */
#include "memory_faults.h"

#include "../../kv/support_devices.h"
#include "../../kv/support_store.h"
#include "kv/kv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOBS      40u
#define BLOB_BYTES 4096u
#define HEAD       "head"

static void expect(bool holds, const char *what, uint64_t point)
{
    if (holds)
        return;
    (void)fprintf(stderr, "test_near_memory: point %llu: %s\n", (unsigned long long)point, what);
    exit(1);
}

static struct kv_store *open_store(struct kv_device *device)
{
    const struct kv_open_options options = {.device = device,
                                            .blob_percent = 25,
                                            .memory_budget_bytes = 8u << 20,
                                            .no_background = true,
                                            .log = test_log_nothing};
    struct kv_store *store = NULL;
    expect(!kv_open(NULL, &options, &store, NULL), "kv_open", 0);
    return store;
}

static void put_blob(struct kv_store *store, uint64_t number)
{
    uint8_t bytes[BLOB_BYTES];
    char key[24];
    struct kv_blob_ref ref;
    size_t written = 0;
    struct kv_batch *const batch = kv_batch_new();
    const size_t key_len = test_number_key(key, number);
    test_fill(bytes, sizeof bytes, number);
    int err = batch ? kv_blob_write(store, bytes, sizeof bytes, NULL, &ref, &written) : -ENOMEM;
    if (!err)
        err = kv_batch_put_blob(batch, key, key_len, HEAD, sizeof HEAD, &ref, KV_BLOB_NEW);
    if (!err)
        err = kv_apply(store, batch, 0, NULL);
    expect(!err && written == sizeof bytes, "writing a blob", number);
    kv_batch_free(batch);
}

static int read_blob(struct kv_store *store, uint64_t number, uint64_t point)
{
    uint8_t value[sizeof HEAD + sizeof(struct kv_blob_ref)], bytes[BLOB_BYTES], right[BLOB_BYTES];
    char key[24];
    size_t length = 0;
    const size_t key_len = test_number_key(key, number);
    int err = kv_get(store, key, key_len, value, sizeof value, &length);
    if (err)
        return err;
    struct kv_blob_part part = {
        .buf = bytes, .length = sizeof bytes, .key = key, .key_len = key_len};
    memcpy(&part.ref, value + sizeof HEAD, sizeof part.ref);
    err = kv_blob_read_many(store, &part, 1);
    test_fill(right, sizeof right, number);
    expect(err || !memcmp(bytes, right, sizeof right), "other bytes", point);
    return err;
}

static uint64_t blob_reads(struct kv_store *store)
{
    struct kv_stats stats;
    kv_store_stats(store, &stats);
    return stats.blob_reads;
}

/* All blobs from a store that was just opened, the allocation after `point` fails. */
static bool try_point(struct kv_device *device, uint64_t point, uint64_t *refused)
{
    struct kv_store *const store = open_store(device);
    memory_fault_order(point, false);
    for (uint64_t i = 0; i < BLOBS; i++) {
        const int err = read_blob(store, i, point);
        expect(!err || err == -ENOMEM, "neither read nor out of memory", point);
        *refused += err != 0;
    }
    const bool hit = memory_fault_hits();
    memory_fault_end();
    for (uint64_t i = 0; i < BLOBS; i++)
        expect(!read_blob(store, i, point), "it is not there once there is memory", point);
    expect(blob_reads(store) < BLOBS, "none came with another", point);
    expect(!kv_close(store), "kv_close", point);
    return hit;
}

int main(void)
{
    struct recorder *const recorder = recorder_new(memory_device_new(16384));
    struct kv_device *const device = recorder_device(recorder);
    uint64_t point = 0, refused = 0;
    test_create_on(device, 16384, KV_CODEC_LZ4, 1u << 20);
    struct kv_store *const store = open_store(device);
    for (uint64_t i = 0; i < BLOBS; i++)
        put_blob(store, i);
    expect(!kv_close(store), "kv_close", 0);
    while (try_point(device, point, &refused))
        point++;
    expect(point > 0, "nothing was allocated", 0);
    printf("points %llu, reads refused %llu\n", (unsigned long long)point,
           (unsigned long long)refused);
    recorder_free(recorder);
    return 0;
}
