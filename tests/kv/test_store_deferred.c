/*
 * tests/kv/test_store_deferred.c: puts and deletions that do not wait for their leaves to be read,
 * as everybody else sees them: readers, later changes, checkpoints, power cuts, failing devices.
 */
#include "kv/store.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>

#define IMAGE_BLOCKS (4 * KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)
#define COUNT        4000u /* keys, of which every third is not there at first */
#define VALUE_BYTES  200u

static struct recorder *recorder;
static struct faulty *faulty;
static struct kv_store *store;
static uint64_t deferred_before; /* batches, when the test began */

static bool is_there(uint64_t number)
{
    return number % 3 != 0;
}

static struct kv_stats figures(void)
{
    struct kv_stats stats;
    kv_store_stats(store, &stats);
    return stats;
}

static uint64_t reads(void)
{
    return figures().device_reads;
}

static uint64_t deferred(void)
{
    return figures().batches_deferred - deferred_before;
}

/* Nothing that is on the device is in memory any more. */
static void forget_pages(void)
{
    ck_assert_int_eq(kv_checkpoint(store), 0);
    kv_pager_drop_clean(store->pager);
}

/* Given a store of many leaves, none of which is in memory. */
static void begin(void)
{
    recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
    faulty = faulty_new(recorder_device(recorder));
    test_create_on(faulty_device(faulty), 4096, KV_CODEC_LZ4, 0);
    store = test_open_on(faulty_device(faulty));
    for (uint64_t i = 0; i < COUNT; i++)
        if (is_there(i))
            ck_assert_int_eq(test_put_number(store, i, VALUE_BYTES), 0);
    forget_pages();
    deferred_before = figures().batches_deferred;
}

static void end(void)
{
    if (store)
        kv_abandon(store);
    faulty_free(faulty);
    recorder_free(recorder);
}

static void crash_and_open(void)
{
    kv_abandon(store);
    store = test_open_on(faulty_device(faulty));
}

static void expect_sound(void)
{
    struct kv_check_result result;
    ck_assert_uint_eq(test_check(store, &result), 0);
}

static int put(uint64_t number, const char *value)
{
    char key[24];
    return kv_put(store, key, test_number_key(key, number), value, strlen(value));
}

static int del(uint64_t number)
{
    char key[24];
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    int err = kv_batch_del(batch, key, test_number_key(key, number));
    if (!err)
        err = kv_apply(store, batch, 0, NULL);
    kv_batch_free(batch);
    return err;
}

static void expect(uint64_t number, const char *value)
{
    char key[24], buf[512];
    size_t length = 0;
    const int err = kv_get(store, key, test_number_key(key, number), buf, sizeof buf, &length);
    ck_assert_msg(!err, "key %llu: %s", (unsigned long long)number, strerror(-err));
    ck_assert_uint_eq(length, strlen(value));
    ck_assert_mem_eq(buf, value, length);
}

/* As the test found it. */
static void expect_as_before(uint64_t number)
{
    ck_assert_int_eq(test_get_number(store, number, VALUE_BYTES), is_there(number) ? 0 : -ENOENT);
}

static void expect_none(uint64_t number)
{
    char key[24];
    size_t length;
    ck_assert_int_eq(kv_get(store, key, test_number_key(key, number), NULL, 0, &length), -ENOENT);
}

/* ---- what it is for -------------------------------------------------------------------- */

START_TEST(a_change_whose_leaf_is_on_the_device_reads_nothing)
{
    const uint64_t before = reads();
    ck_assert_int_eq(put(100, "there"), 0);
    ck_assert_int_eq(put(300, "new"), 0);
    ck_assert_int_eq(del(1001), 0);
    ck_assert_uint_eq(reads(), before);
    ck_assert_uint_eq(deferred(), 3);
    expect(100, "there");
    expect(300, "new");
    expect_none(1001);
    ck_assert_uint_eq(reads(), before);
}
END_TEST

START_TEST(leaves_of_many_changes_are_read_together)
{
    /* Given the pages above the leaves in memory, and changes of a few leaves far apart, */
    const unsigned changes = 30;
    ck_assert_int_eq(test_get_number(store, 1, VALUE_BYTES), 0);
    for (uint64_t i = 0; i < COUNT; i += 400)
        ck_assert_int_eq(test_get_number(store, i + 1 + !is_there(i + 1), VALUE_BYTES), 0);
    for (unsigned i = 0; i < changes; i++)
        ck_assert_int_eq(put(37 + (uint64_t)i * 131, "value"), 0);
    ck_assert_uint_gt(deferred(), changes / 2);
    /* when they are settled, then two submissions read all: the leaves, and what is above some. */
    struct kv_histogram readings;
    kv_set_metrics(store, KV_METRIC_IO);
    ck_assert_int_eq(kv_settle(store), 0);
    kv_store_histogram(store, KV_HISTOGRAM_DEVICE_READ, &readings);
    ck_assert_uint_ge(readings.count, 1);
    ck_assert_uint_le(readings.count, 4);
    ck_assert(!kv_deferred_any(store->deferred));
    for (unsigned i = 0; i < changes; i++)
        expect(37 + (uint64_t)i * 131, "value");
}
END_TEST

START_TEST(a_change_whose_leaf_is_in_memory_goes_there)
{
    ck_assert_int_eq(test_get_number(store, 100, VALUE_BYTES), 0);
    ck_assert_int_eq(put(100, "there"), 0);
    ck_assert_uint_eq(deferred(), 0);
    expect(100, "there");
}
END_TEST

START_TEST(more_changes_than_may_wait_are_settled_by_who_brings_them)
{
    char value[24];
    for (uint64_t i = 0; i < COUNT; i += 7) {
        snprintf(value, sizeof value, "value %u", (unsigned)i);
        ck_assert_int_eq(put(i, value), 0);
        if (i % 50 == 0)
            kv_pager_drop_clean(store->pager);
    }
    ck_assert_uint_gt(deferred(), KV_DEFERRED_OPS_MAX);
    for (uint64_t i = 0; i < COUNT; i++) {
        snprintf(value, sizeof value, "value %u", (unsigned)i);
        if (i % 7 == 0)
            expect(i, value);
        else
            expect_as_before(i);
    }
    expect_sound();
}
END_TEST

/* ---- readers ----------------------------------------------------------------------------- */

START_TEST(a_buffer_that_is_too_short_is_said_of_what_waits)
{
    char key[24], buf[2];
    size_t length = 0;
    ck_assert_int_eq(put(100, "value"), 0);
    const size_t key_len = test_number_key(key, 100);
    ck_assert_int_eq(kv_get(store, key, key_len, buf, sizeof buf, &length), -ERANGE);
    ck_assert_uint_eq(length, 5);
    struct kv_lookup lookup = {.key = key, .key_len = key_len, .buf = buf, .buf_cap = sizeof buf};
    ck_assert_int_eq(kv_get_many(store, &lookup, 1), 0);
    ck_assert_int_eq(lookup.result, -ERANGE);
    ck_assert_uint_eq(lookup.value_len, 5);
}
END_TEST

START_TEST(many_keys_together_show_what_waits)
{
    char keys[4][24], bufs[4][512];
    static const uint64_t numbers[4] = {100, 101, 1000, 300};
    struct kv_lookup lookups[4];
    for (unsigned i = 0; i < 4; i++)
        lookups[i] = (struct kv_lookup){.key = keys[i],
                                        .key_len = test_number_key(keys[i], numbers[i]),
                                        .buf = bufs[i],
                                        .buf_cap = sizeof bufs[i]};
    ck_assert_int_eq(put(100, "one"), 0);
    ck_assert_int_eq(del(1000), 0);
    ck_assert_int_eq(put(300, "three"), 0);
    ck_assert_int_eq(kv_get_many(store, lookups, 4), 0);
    ck_assert_int_eq(lookups[0].result, 0);
    ck_assert_uint_eq(lookups[0].value_len, 3);
    ck_assert_mem_eq(bufs[0], "one", 3);
    ck_assert_int_eq(lookups[1].result, 0);
    ck_assert_uint_eq(lookups[1].value_len, VALUE_BYTES);
    ck_assert_int_eq(lookups[2].result, -ENOENT);
    ck_assert_int_eq(lookups[3].result, 0);
    ck_assert_mem_eq(bufs[3], "three", 5);
}
END_TEST

static void expect_at(struct kv_cursor *cursor, int err, uint64_t number)
{
    char key[24];
    size_t length = 0;
    ck_assert_int_eq(err, 0);
    const void *const there = kv_cursor_key(cursor, &length);
    ck_assert_uint_eq(length, test_number_key(key, number));
    ck_assert_mem_eq(there, key, length);
}

START_TEST(walks_and_floors_meet_what_waits)
{
    char key[24], found[KV_KEY_MAX], buf[512];
    struct kv_cursor *cursor;
    ck_assert_int_eq(put(300, "new"), 0);
    ck_assert_int_eq(del(302), 0);
    ck_assert_int_eq(kv_cursor_open(store, NULL, 0, NULL, 0, &cursor), 0);
    size_t key_len = test_number_key(key, 299);
    expect_at(cursor, kv_cursor_seek(cursor, key, key_len), 299);
    expect_at(cursor, kv_cursor_next(cursor), 300);
    expect_at(cursor, kv_cursor_next(cursor), 301);
    expect_at(cursor, kv_cursor_next(cursor), 304);
    /* and a change that comes while the walk is under way, in a leaf further on and one behind */
    kv_pager_drop_clean(store->pager);
    ck_assert_int_eq(put(3999, "last"), 0);
    ck_assert_int_eq(put(0, "first"), 0);
    expect_at(cursor, kv_cursor_last(cursor), 3999);
    key_len = test_number_key(key, 1);
    expect_at(cursor, kv_cursor_seek_before(cursor, key, key_len), 0);
    kv_cursor_close(cursor);

    kv_pager_drop_clean(store->pager);
    ck_assert_int_eq(put(600, "floor"), 0);
    size_t found_len = 0, length = 0;
    key_len = test_number_key(key, 600);
    ck_assert_int_eq(kv_get_floor(store, key, key_len, found, &found_len, buf, sizeof buf, &length),
                     0);
    ck_assert_uint_eq(found_len, key_len);
    ck_assert_mem_eq(found, key, key_len);
    ck_assert_uint_eq(length, 5);
}
END_TEST

/* ---- later changes ------------------------------------------------------------------------- */

START_TEST(of_changes_of_one_key_the_last_one_stays)
{
    /* The second finds its leaf in memory, and the first still waiting. */
    ck_assert_int_eq(put(100, "first"), 0);
    ck_assert_int_eq(test_get_number(store, 101, VALUE_BYTES), 0);
    ck_assert_int_eq(put(100, "second"), 0);
    expect(100, "second");
    ck_assert_int_eq(kv_settle(store), 0);
    expect(100, "second");
    ck_assert_int_eq(put(100, "third"), 0);
    expect(100, "third");
    crash_and_open();
    expect_sound();
}
END_TEST

START_TEST(what_can_not_wait_comes_after_what_does)
{
    static uint8_t large[100000];
    char key[24], upper[24];
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    size_t length = 0;

    ck_assert_int_eq(put(300, "gone"), 0); /* a range over it */
    ck_assert_int_eq(kv_batch_del_range(batch, key, test_number_key(key, 299), upper,
                                        test_number_key(upper, 302)),
                     0);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
    expect_none(300);

    forget_pages();
    ck_assert_int_eq(put(600, "patched"), 0); /* a patch of it */
    kv_batch_clear(batch);
    ck_assert_int_eq(kv_batch_patch(batch, key, test_number_key(key, 600), 0, "M", 1), 0);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
    expect(600, "Matched");

    forget_pages();
    ck_assert_int_eq(put(900, "small"), 0); /* a large value over it */
    ck_assert_int_eq(kv_put(store, key, test_number_key(key, 900), large, sizeof large), 0);
    ck_assert_int_eq(kv_get(store, key, test_number_key(key, 900), NULL, 0, &length), -ERANGE);
    ck_assert_uint_eq(length, sizeof large);

    forget_pages();
    ck_assert_int_eq(put(900, "small again"), 0); /* and it over a large value, */
    expect(900, "small again");
    forget_pages();
    ck_assert_int_eq(put(1200, "kept"), 0); /* an urgent deletion */
    ck_assert_int_eq(kv_del(store, key, test_number_key(key, 1200)), 0);
    expect_none(1200);
    kv_batch_free(batch);
    expect_sound(); /* whose blobs are free again */
}
END_TEST

/* ---- durability ---------------------------------------------------------------------------- */

START_TEST(a_checkpoint_leaves_nothing_waiting)
{
    ck_assert_int_eq(put(100, "one"), 0);
    ck_assert_int_eq(put(2999, "two"), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    ck_assert(!kv_deferred_any(store->deferred));
    crash_and_open();
    expect(100, "one");
    expect(2999, "two");
    expect_sound();
}
END_TEST

START_TEST(what_waits_and_was_synced_survives_a_power_cut)
{
    ck_assert_int_eq(put(100, "one"), 0);
    ck_assert_int_eq(del(2000), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    ck_assert(kv_deferred_any(store->deferred));
    crash_and_open();
    expect(100, "one");
    expect_none(2000);
    expect_sound();
}
END_TEST

START_TEST(what_waits_at_the_end_is_in_the_tree)
{
    ck_assert_int_eq(put(100, "one"), 0);
    ck_assert_int_eq(kv_close(store), 0);
    store = test_open_on(faulty_device(faulty));
    expect(100, "one");
    expect_sound();
}
END_TEST

/* A device whose reads bring a change each, as another thread might, until `left` is 0. */
static struct {
    struct kv_device device;
    unsigned left;
    uint64_t next;
} busy;

static int busy_submit(struct kv_device *device, struct kv_io *ios, size_t count, bool flush)
{
    (void)device; /* busy */
    if (busy.left && count && ios[0].kind == KV_IO_READ) {
        busy.left--;
        busy.next += 600;
        ck_assert_int_eq(put(busy.next, "meanwhile"), 0);
    }
    return kv_device_submit(faulty_device(faulty), ios, count, flush);
}

static void busy_close(struct kv_device *device)
{
    (void)device; /* it is static */
}

START_TEST(what_comes_while_a_checkpoint_settles_is_settled_with_the_gate_closed)
{
    static const struct kv_device_ops ops = {.submit = busy_submit, .close = busy_close};
    kv_abandon(store);
    busy.device = (struct kv_device){.ops = &ops, .block_count = IMAGE_BLOCKS};
    store = test_open_on(&busy.device);
    /* Given pages above the leaves in memory, so that each round takes one submission, */
    for (uint64_t i = 100; i < COUNT; i += 600)
        ck_assert_int_eq(test_get_number(store, i + !is_there(i), VALUE_BYTES), 0);
    ck_assert_int_eq(put(301, "first"), 0);
    ck_assert(kv_deferred_any(store->deferred));
    /* when a change comes with each of the two rounds before the gate, then all are written. */
    busy.left = 2;
    busy.next = 301;
    ck_assert_int_eq(kv_checkpoint(store), 0);
    ck_assert_uint_eq(busy.left, 0);
    ck_assert(!kv_deferred_any(store->deferred));
    crash_and_open();
    expect(301, "first");
    expect(901, "meanwhile");
    expect(1501, "meanwhile");
    expect_sound();
}
END_TEST

/* Power cuts at each of some writes while changes wait, are settled and made durable. */
START_TEST(a_power_cut_at_any_moment_leaves_what_was_promised)
{
    const size_t from = recorder_event_count(recorder);
    char value[24];
    size_t synced_at[8], rounds = 0; /* from that event on the value of a round is promised */
    for (; rounds < 8; rounds++) {
        snprintf(value, sizeof value, "round %u", (unsigned)rounds);
        for (uint64_t i = 0; i < COUNT; i += 97)
            ck_assert_int_eq(put(i, value), 0);
        ck_assert_int_eq(kv_sync(store), 0);
        synced_at[rounds] = recorder_event_count(recorder);
        if (rounds % 2)
            forget_pages();
        else
            kv_pager_drop_clean(store->pager);
    }
    ck_assert_uint_gt(deferred(), 8);
    kv_abandon(store);
    store = NULL;
    struct crash_walk walk;
    crash_walk_init(&walk, recorder);
    const size_t end_at = recorder_event_count(recorder);
    for (size_t position = from; position <= end_at; position += 1 + (end_at - from) / 60) {
        crash_walk_advance(&walk, position);
        const struct crash_choice all = {.kept = NULL};
        struct kv_device *const state = crash_walk_state(&walk, &all);
        store = test_open_on(state);
        size_t promised = 0;
        while (promised < rounds && synced_at[promised] <= position)
            promised++;
        for (uint64_t i = 0; promised && i < COUNT; i += 97) {
            char key[24], buf[512] = "";
            size_t length = 0;
            unsigned round = 0;
            ck_assert_int_eq(
                kv_get(store, key, test_number_key(key, i), buf, sizeof buf - 1, &length), 0);
            ck_assert_int_eq(sscanf(buf, "round %u", &round), 1);
            ck_assert_uint_ge(round + 1, promised);
        }
        expect_sound();
        ck_assert_int_eq(kv_close(store), 0);
        store = NULL;
    }
    crash_walk_release(&walk);
}
END_TEST

/* ---- failures ------------------------------------------------------------------------------- */

static void fail_reads(bool fail)
{
    faulty_arm(faulty, fail ? (struct fault){.targets = FAULT_READS, .lasting = true, .error = -EIO}
                            : (struct fault){.targets = 0});
}

START_TEST(a_leaf_that_can_not_be_read_fails_nobody_but_who_asks_for_it)
{
    /* Given one part of the tree in memory, and a device that does not read, */
    ck_assert_int_eq(test_get_number(store, 100, VALUE_BYTES), 0);
    fail_reads(true);
    /* when something is put elsewhere, then it is there, and so is what was in memory. */
    ck_assert_int_eq(put(3001, "waits"), 0);
    expect(3001, "waits");
    ck_assert_int_eq(kv_settle(store), -EIO);
    expect(3001, "waits");
    ck_assert_int_eq(test_get_number(store, 3500, VALUE_BYTES), -EIO);
    ck_assert_int_eq(put(100, "in memory"), 0);
    expect(100, "in memory");
    ck_assert_int_eq(kv_store_failure(store), 0);
    /* When the device reads again, all goes on. */
    fail_reads(false);
    ck_assert_int_eq(put(3500, "more"), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    ck_assert(!kv_deferred_any(store->deferred));
    crash_and_open();
    expect(3001, "waits");
    expect(3500, "more");
    expect(100, "in memory");
    expect_sound();
}
END_TEST

START_TEST(without_the_leaf_there_is_no_checkpoint_and_nothing_is_lost)
{
    const uint64_t checkpoints = figures().checkpoints;
    ck_assert_int_eq(test_get_number(store, 100, VALUE_BYTES), 0);
    fail_reads(true);
    ck_assert_int_eq(put(3001, "waits"), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    ck_assert_int_eq(kv_checkpoint(store), -EIO);
    ck_assert_uint_eq(figures().checkpoints, checkpoints);
    ck_assert_int_eq(kv_store_failure(store), 0);
    ck_assert_int_eq(put(100, "goes on"), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    expect(3001, "waits");
    ck_assert_int_eq(kv_close(store), -EIO);
    fail_reads(false);
    store = test_open_on(faulty_device(faulty));
    expect(3001, "waits");
    expect(100, "goes on");
    expect_sound();
}
END_TEST

START_TEST(batches_that_can_not_wait_pass_a_leaf_that_can_not_be_read_unless_it_is_theirs)
{
    static uint8_t large[50000];
    char lower[24], upper[24];
    ck_assert_int_eq(test_get_number(store, 100, VALUE_BYTES), 0);
    ck_assert_int_eq(test_get_number(store, 101, VALUE_BYTES), 0);
    fail_reads(true);
    ck_assert_int_eq(put(3001, "waits"), 0);
    size_t key_len = test_number_key(lower, 100);
    ck_assert_int_eq(kv_put(store, lower, key_len, large, sizeof large), 0);
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    key_len = test_number_key(lower, 101);
    ck_assert_int_eq(kv_batch_del_range(batch, lower, key_len, upper, test_number_key(upper, 102)),
                     0);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
    kv_batch_clear(batch);
    key_len = test_number_key(lower, 3000);
    ck_assert_int_eq(kv_batch_del_range(batch, lower, key_len, upper, test_number_key(upper, 3002)),
                     0);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), -EIO);
    expect_none(101);
    expect(3001, "waits");
    fail_reads(false);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
    expect_none(3001);
    kv_batch_free(batch);
    expect_sound();
}
END_TEST

START_TEST(when_the_log_is_full_writers_hear_of_the_leaf_until_it_can_be_read)
{
    static uint8_t value[700];
    char key[24];
    const size_t key_len = test_number_key(key, 100);
    int err = test_get_number(store, 100, VALUE_BYTES);
    ck_assert_int_eq(err, 0);
    fail_reads(true);
    ck_assert_int_eq(put(3001, "waits"), 0);
    for (unsigned i = 0; !err && i < 100000; i++)
        err = kv_put(store, key, key_len, value, sizeof value);
    ck_assert_int_eq(err, -EIO);
    ck_assert_int_eq(kv_store_failure(store), 0);
    expect(3001, "waits");
    ck_assert_uint_gt(figures().log_used_bytes * 2, figures().log_total_bytes);
    fail_reads(false);
    ck_assert_int_eq(kv_put(store, key, key_len, value, sizeof value), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    crash_and_open();
    expect(3001, "waits");
    expect_sound();
}
END_TEST

START_TEST(a_damaged_leaf_is_mended_and_what_waited_is_put_there)
{
    char key[24];
    const size_t key_len = test_number_key(key, 3001);
    struct kv_page_view leaf;
    ck_assert_int_eq(kv_btree_fault(&store->trees[KV_TREE_KEYS], key, key_len, 0, &leaf), 0);
    const uint64_t page_id = kv_node_page_id(leaf.bytes);
    struct kv_disk_ptr ptr;
    ck_assert_int_eq(kv_pagemap_get(store->map, page_id, &ptr), 0);
    static _Alignas(KV_BLOCK_BYTES) uint8_t noise[KV_BLOCK_BYTES];
    memset(noise, 0xa5, sizeof noise);
    struct kv_io io = {
        .kind = KV_IO_WRITE, .block = kv_le64_get(ptr.block), .block_count = 1, .buf = noise};
    ck_assert_int_eq(kv_device_submit(faulty_device(faulty), &io, 1, true), 0);
    kv_pager_drop_clean(store->pager);

    ck_assert_int_eq(put(3001, "waits"), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    ck_assert_int_eq(kv_close(store), -EBADMSG);
    const struct kv_open_options options = {.memory_budget_bytes = 8u << 20,
                                            .no_background = true,
                                            .repair = true,
                                            .log = test_log_nothing,
                                            .device = faulty_device(faulty)};
    ck_assert_int_eq(kv_open("test", &options, &store, NULL), 0);
    struct kv_check_result result;
    const struct kv_check_options repair = {.repair = true, .read_blobs = true};
    ck_assert_int_eq(kv_check(store, &repair, &result), 0);
    expect(3001, "waits");
    ck_assert_int_eq(kv_close(store), 0);
    store = test_open_on(faulty_device(faulty));
    expect(3001, "waits");
    expect_sound();
}
END_TEST

START_TEST(an_image_that_is_full_takes_what_was_acknowledged)
{
    /* Given an image that takes no more, */
    static uint8_t filler[3000];
    char key[24];
    uint64_t number = COUNT;
    int err = 0;
    for (; !err; number++) {
        test_fill(filler, sizeof filler, number);
        err = kv_put(store, key, test_number_key(key, number), filler, sizeof filler);
    }
    ck_assert_int_eq(err, -ENOSPC);
    /* when changes all over it wait or are refused, none in memory, */
    unsigned acknowledged[COUNT / 7 + 1] = {0};
    for (unsigned turn = 1; turn < 4; turn++) {
        forget_pages();
        for (uint64_t i = 0; i < COUNT; i += 7) {
            char value[24];
            snprintf(value, sizeof value, "turn %u", turn);
            err = put(i, value);
            ck_assert(!err || err == -ENOSPC);
            if (!err)
                acknowledged[i / 7] = turn;
        }
    }
    /* then those that were acknowledged are there, and the store goes on. */
    ck_assert_int_eq(kv_checkpoint(store), 0);
    ck_assert_int_eq(kv_store_failure(store), 0);
    crash_and_open();
    for (uint64_t i = 0; i < COUNT; i += 7) {
        char value[24];
        snprintf(value, sizeof value, "turn %u", acknowledged[i / 7]);
        if (acknowledged[i / 7])
            expect(i, value);
        else
            expect_as_before(i);
    }
    expect_sound();
}
END_TEST

/* ---- the thread ------------------------------------------------------------------------------ */

START_TEST(what_waits_is_settled_by_itself)
{
    ck_assert_int_eq(kv_start_background(store), 0);
    ck_assert_int_eq(put(100, "one"), 0);
    ck_assert_int_eq(put(2999, "two"), 0);
    for (unsigned ms = 0; kv_deferred_any(store->deferred) && ms < 20000; ms++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    ck_assert(!kv_deferred_any(store->deferred));
    ck_assert_uint_eq(deferred(), 2);
    expect(100, "one");
    expect(2999, "two");
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("store deferred");
    TCase *const tcase = tcase_create("deferred");
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, a_change_whose_leaf_is_on_the_device_reads_nothing);
    tcase_add_test(tcase, leaves_of_many_changes_are_read_together);
    tcase_add_test(tcase, a_change_whose_leaf_is_in_memory_goes_there);
    tcase_add_test(tcase, more_changes_than_may_wait_are_settled_by_who_brings_them);
    tcase_add_test(tcase, a_buffer_that_is_too_short_is_said_of_what_waits);
    tcase_add_test(tcase, many_keys_together_show_what_waits);
    tcase_add_test(tcase, walks_and_floors_meet_what_waits);
    tcase_add_test(tcase, of_changes_of_one_key_the_last_one_stays);
    tcase_add_test(tcase, what_can_not_wait_comes_after_what_does);
    tcase_add_test(tcase, a_checkpoint_leaves_nothing_waiting);
    tcase_add_test(tcase, what_waits_and_was_synced_survives_a_power_cut);
    tcase_add_test(tcase, what_waits_at_the_end_is_in_the_tree);
    tcase_add_test(tcase, what_comes_while_a_checkpoint_settles_is_settled_with_the_gate_closed);
    tcase_add_test(tcase, a_power_cut_at_any_moment_leaves_what_was_promised);
    tcase_add_test(tcase, a_leaf_that_can_not_be_read_fails_nobody_but_who_asks_for_it);
    tcase_add_test(tcase, without_the_leaf_there_is_no_checkpoint_and_nothing_is_lost);
    tcase_add_test(tcase,
                   batches_that_can_not_wait_pass_a_leaf_that_can_not_be_read_unless_it_is_theirs);
    tcase_add_test(tcase, when_the_log_is_full_writers_hear_of_the_leaf_until_it_can_be_read);
    tcase_add_test(tcase, a_damaged_leaf_is_mended_and_what_waited_is_put_there);
    tcase_add_test(tcase, an_image_that_is_full_takes_what_was_acknowledged);
    tcase_add_test(tcase, what_waits_is_settled_by_itself);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
