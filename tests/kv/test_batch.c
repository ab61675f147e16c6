/*
 * tests/kv/test_batch.c: batches as they are built, records as they are read from anywhere.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/batch.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

static uint64_t seed_start;

static struct kv_batch *batch_new(void)
{
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    return batch;
}

static void expect_op(const struct kv_batch *batch, size_t index, enum kv_redo_kind kind,
                      const char *key, const void *value, size_t value_len)
{
    ck_assert_uint_lt(index, batch->count);
    const struct kv_batch_op *const op = &batch->ops[index];
    const struct kv_span own_key = kv_batch_key(batch, op);
    const struct kv_span own_value = kv_batch_value(batch, op);
    ck_assert_int_eq((int)op->kind, (int)kind);
    ck_assert_uint_eq(own_key.length, strlen(key));
    ck_assert_int_eq(memcmp(own_key.data, key, own_key.length), 0);
    ck_assert_uint_eq(own_value.length, value_len);
    if (value_len)
        ck_assert_int_eq(memcmp(own_value.data, value, value_len), 0);
}

START_TEST(a_batch_is_the_record_of_its_operations)
{
    struct kv_batch *batch = kv_batch_new();
    struct kv_blob_ref ref;
    memset(&ref, 7, sizeof ref);
    ck_assert_ptr_nonnull(batch);
    ck_assert_int_eq(kv_batch_put(batch, "put", 3, "value", 5), 0);
    ck_assert_int_eq(kv_batch_del(batch, "del", 3), 0);
    ck_assert_int_eq(kv_batch_del_range(batch, "a", 1, "b", 1), 0);
    ck_assert_int_eq(kv_batch_put_blob(batch, "blob", 4, "head", 4, &ref, KV_BLOB_SHARED), 0);
    ck_assert_int_eq(kv_batch_patch(batch, "patch", 5, 1000, "bytes", 5), 0);
    struct kv_redo redo;
    size_t at = 0, count = 0;
    int err;
    while (!(err = kv_record_next(batch->bytes, batch->length, &at, &redo))) {
        const struct kv_batch_op *op = &batch->ops[count++];
        const struct kv_span key = kv_batch_key(batch, op), value = kv_batch_value(batch, op);
        ck_assert_int_eq(redo.kind, op->kind);
        ck_assert_uint_eq(redo.use, op->use);
        ck_assert_uint_eq(redo.argument, op->argument);
        ck_assert_ptr_eq(redo.key.data, key.data);
        ck_assert_uint_eq(redo.key.length, key.length);
        ck_assert_ptr_eq(redo.value.data, value.data);
        ck_assert_uint_eq(redo.value.length, value.length);
    }
    ck_assert_int_eq(err, -ENOENT);
    ck_assert_uint_eq(count, 5);
    kv_batch_free(batch);
}
END_TEST

START_TEST(operations_are_kept_in_order_and_copied)
{
    struct kv_batch *const batch = batch_new();
    char key[] = "key", value[] = "value";
    ck_assert_int_eq(kv_batch_put(batch, key, 3, value, 5), 0);
    memset(key, 'x', 3);
    memset(value, 'x', 5);
    ck_assert_int_eq(kv_batch_del(batch, "gone", 4), 0);
    ck_assert_int_eq(kv_batch_del_range(batch, "a", 1, NULL, 0), 0);
    ck_assert_int_eq(kv_batch_put(batch, "empty", 5, NULL, 0), 0);
    ck_assert_uint_eq(kv_batch_count(batch), 4);
    expect_op(batch, 0, KV_REDO_PUT, "key", "value", 5);
    expect_op(batch, 1, KV_REDO_DEL, "gone", NULL, 0);
    expect_op(batch, 2, KV_REDO_DEL_RANGE, "a", NULL, 0);
    expect_op(batch, 3, KV_REDO_PUT, "empty", NULL, 0);
    kv_batch_clear(batch);
    ck_assert_uint_eq(kv_batch_count(batch), 0);
    ck_assert_int_eq(kv_batch_put(batch, "again", 5, "v", 1), 0);
    expect_op(batch, 0, KV_REDO_PUT, "again", "v", 1);
    kv_batch_free(batch);
    kv_batch_free(NULL);
}
END_TEST

START_TEST(a_batch_grows_to_many_operations)
{
    struct kv_batch *const batch = batch_new();
    char key[16];
    for (unsigned i = 0; i < 20000; i++) {
        const int key_len = snprintf(key, sizeof key, "%u", i);
        const int err = kv_batch_put(batch, key, (size_t)key_len, key, (size_t)key_len);
        KV_ASSERT(err == 0);
    }
    for (unsigned i = 0; i < 20000; i += 999) {
        const int key_len = snprintf(key, sizeof key, "%u", i);
        expect_op(batch, i, KV_REDO_PUT, key, key, (size_t)key_len);
    }
    kv_batch_free(batch);
}
END_TEST

START_TEST(a_patch_joins_what_the_batch_does_to_the_key_before)
{
    struct kv_batch *const batch = batch_new();
    /* after a put: inside, over its end, behind it */
    ck_assert_int_eq(kv_batch_put(batch, "k", 1, "abcdef", 6), 0);
    ck_assert_int_eq(kv_batch_patch(batch, "k", 1, 2, "XY", 2), 0);
    expect_op(batch, 1, KV_REDO_PUT, "k", "abXYef", 6);
    ck_assert_int_eq(kv_batch_patch(batch, "k", 1, 5, "123", 3), 0);
    expect_op(batch, 2, KV_REDO_PUT, "k", "abXYe123", 8);
    ck_assert_int_eq(kv_batch_patch(batch, "k", 1, 10, "Z", 1), 0);
    expect_op(batch, 3, KV_REDO_PUT, "k", "abXYe123\0\0Z", 11);
    /* after a deletion: the key is empty */
    ck_assert_int_eq(kv_batch_del(batch, "k", 1), 0);
    ck_assert_int_eq(kv_batch_patch(batch, "k", 1, 1, "q", 1), 0);
    expect_op(batch, 5, KV_REDO_PUT, "k", "\0q", 2);
    /* after a range that covers it; one that does not is passed over */
    ck_assert_int_eq(kv_batch_del_range(batch, "a", 1, "z", 1), 0);
    ck_assert_int_eq(kv_batch_del_range(batch, "l", 1, "z", 1), 0);
    ck_assert_int_eq(kv_batch_patch(batch, "k", 1, 0, "r", 1), 0);
    expect_op(batch, 8, KV_REDO_PUT, "k", "r", 1);
    ck_assert_int_eq(kv_batch_del_range(batch, "j", 1, "k", 1), 0);
    ck_assert_int_eq(kv_batch_patch(batch, "k", 1, 1, "s", 1), 0);
    expect_op(batch, 10, KV_REDO_PUT, "k", "rs", 2);
    /* a key that the batch does not touch */
    ck_assert_int_eq(kv_batch_patch(batch, "other", 5, 100, "t", 1), 0);
    kv_batch_clear(batch);
    ck_assert_int_eq(kv_batch_patch(batch, "k", 1, 3, "patch", 5), 0);
    expect_op(batch, 0, KV_REDO_PATCH, "k", "patch", 5);
    ck_assert_uint_eq(batch->ops[0].argument, 3);
    kv_batch_free(batch);
}
END_TEST

START_TEST(several_patches_a_key_and_none_of_a_reference)
{
    struct kv_batch *const batch = batch_new();
    struct kv_blob_ref ref = {{0}};
    ck_assert_int_eq(kv_batch_patch(batch, "k", 1, 0, "a", 1), 0);
    ck_assert_int_eq(kv_batch_patch(batch, "k", 1, 5, "b", 1), 0);
    expect_op(batch, 0, KV_REDO_PATCH, "k", "a", 1);
    expect_op(batch, 1, KV_REDO_PATCH, "k", "b", 1);
    ck_assert_int_eq(kv_batch_put_blob(batch, "m", 1, "head", 4, &ref, KV_BLOB_NEW), 0);
    ck_assert_int_eq(kv_batch_patch(batch, "m", 1, 0, "c", 1), -EINVAL);
    ck_assert_uint_eq(kv_batch_count(batch), 3);
    kv_batch_free(batch);
}
END_TEST

/* ---- order ------------------------------------------------------------------------------------
 */

/* Keys of few letters behind what all have in common: many begin alike, many are the same. */
static size_t make_key(struct test_random *random, size_t shared, size_t tail_max, uint8_t *key)
{
    const size_t length = shared + 1 + test_random_below(random, tail_max);
    memset(key, 'k', shared);
    for (size_t i = shared; i < length; i++)
        key[i] = (uint8_t)(test_random_below(random, 3) * 127);
    return length;
}

/* Each operation once, keys ascending, the same key in the batch's order. */
static void expect_order(const struct kv_batch *batch, const struct kv_record_order *order)
{
    ck_assert_uint_eq(order->count, batch->count);
    const struct kv_record record = {
        .bytes = batch->bytes, .length = batch->length, .order = *order};
    struct kv_record_walk walk = {.record = &record};
    struct kv_redo redo, before = {0};
    size_t count = 0;
    for (; !kv_record_walk(&walk, &redo); before = redo, count++) {
        const int sign = count ? kv_key_compare(before.key.data, before.key.length, redo.key.data,
                                                redo.key.length)
                               : -1;
        ck_assert_int_le(sign, 0);
        if (!sign)
            ck_assert(before.key.data < redo.key.data);
    }
    ck_assert_uint_eq(count, batch->count);
}

START_TEST(the_order_of_a_batch_is_that_of_its_keys_and_stable)
{
    struct test_random random = {seed_start + 2};
    struct kv_batch *batch = batch_new();
    struct kv_record_order order = {0};
    for (unsigned round = 0; round < 300; round++) {
        const size_t shared = test_random_below(&random, 12);
        const size_t tail_max = 1 + test_random_below(&random, 14);
        const size_t count = 2 + test_random_below(&random, 400);
        kv_batch_clear(batch);
        /* The last one is below the first, so it is never in order by chance. */
        for (size_t i = 0; i < count; i++) {
            uint8_t key[64];
            size_t length = make_key(&random, shared, tail_max, key);
            if (i == 0)
                key[length++] = 'z';
            if (i + 1 == count)
                length = kv_max_u64(shared, 1);
            if (i + 1 == count && !shared)
                key[0] = 0;
            const int err = i % 7 ? kv_batch_put(batch, key, length, key, i % 50)
                                  : kv_batch_del(batch, key, length);
            ck_assert_int_eq(err, 0);
        }
        kv_batch_order(batch, &order);
        expect_order(batch, &order);
    }
    free(order.places);
    kv_batch_free(batch);
}
END_TEST

START_TEST(a_batch_in_order_needs_no_other)
{
    struct kv_batch *batch = batch_new();
    struct kv_record_order order = {0};
    for (unsigned i = 0; i < 100; i++) {
        uint8_t key[8];
        kv_be64_put(key, i / 2);
        ck_assert_int_eq(kv_batch_put(batch, key, sizeof key, "value", 5), 0);
    }
    kv_batch_order(batch, &order);
    ck_assert_uint_eq(order.count, 0);
    ck_assert_ptr_null(order.places);
    kv_batch_free(batch);
}
END_TEST

/* ---- records --------------------------------------------------------------------------------- */

START_TEST(records_give_back_what_was_added)
{
    struct test_random random = {seed_start};
    struct kv_record record = {0};
    struct kv_redo added[200];
    static uint8_t bytes[200][600];
    for (unsigned i = 0; i < 200; i++) {
        const size_t key_len = 1 + test_random_below(&random, KV_KEY_MAX);
        test_fill(bytes[i], sizeof bytes[i], i);
        added[i] = (struct kv_redo){.key = {bytes[i], key_len}, .value = {bytes[i], 0}};
        switch (i % 6) {
        case 0:
            added[i].kind = KV_REDO_PUT;
            added[i].value.length = test_random_below(&random, 600);
            break;
        case 1:
            added[i].kind = KV_REDO_DEL;
            break;
        case 2:
            added[i].kind = KV_REDO_DEL_RANGE;
            added[i].key.length = test_random_below(&random, 10);
            added[i].value.length = test_random_below(&random, KV_KEY_MAX);
            break;
        case 3:
            added[i].kind = KV_REDO_PATCH;
            added[i].value.length = test_random_below(&random, 600);
            added[i].argument = test_random_below(&random, 100000);
            break;
        case 4:
            added[i].kind = KV_REDO_PUT_REF;
            added[i].use = KV_BLOB_SHARED;
            added[i].value.length = 40 + test_random_below(&random, KV_BLOB_HEAD_MAX);
            break;
        default:
            added[i].kind = KV_REDO_PUT_LARGE;
            added[i].value.length = 40 * (1 + test_random_below(&random, 15));
            added[i].argument = test_random_next(&random);
        }
        ck_assert_int_eq(kv_record_add(&record, &added[i]), 0);
    }
    size_t at = 0;
    struct kv_redo redo;
    for (unsigned i = 0; i < 200; i++) {
        ck_assert_int_eq(kv_record_next(record.bytes, record.length, &at, &redo), 0);
        ck_assert_int_eq((int)redo.kind, (int)added[i].kind);
        ck_assert_uint_eq(redo.use, added[i].use);
        ck_assert_uint_eq(redo.argument, added[i].argument);
        ck_assert_uint_eq(redo.key.length, added[i].key.length);
        ck_assert_uint_eq(redo.value.length, added[i].value.length);
        ck_assert_int_eq(memcmp(redo.key.data, added[i].key.data, redo.key.length), 0);
        ck_assert_int_eq(memcmp(redo.value.data, added[i].value.data, redo.value.length), 0);
    }
    ck_assert_int_eq(kv_record_next(record.bytes, record.length, &at, &redo), -ENOENT);
    ck_assert_uint_eq(at, record.length);
    kv_record_release(&record);
}
END_TEST

/* Walk a body that may be anything; the sanitizer sees a wrong access, we that it ends. */
static void walk_body(const uint8_t *body, size_t length)
{
    uint8_t *const exact = malloc(length ? length : 1); /* so that one byte more is seen */
    struct kv_redo redo;
    size_t at = 0;
    int err;
    KV_ASSERT(exact);
    memcpy(exact, body, length);
    while (!(err = kv_record_next(exact, length, &at, &redo))) {
        KV_ASSERT(at <= length);
        KV_ASSERT(redo.key.length <= KV_KEY_MAX);
        KV_ASSERT(redo.key.data >= exact && redo.key.data + redo.key.length <= exact + length);
        KV_ASSERT(redo.value.data >= exact &&
                  redo.value.data + redo.value.length <= exact + length);
    }
    KV_ASSERT(err == -ENOENT || err == -EUCLEAN);
    free(exact);
}

START_TEST(no_bytes_make_the_decoder_stray)
{
    struct test_random random = {seed_start + 1};
    struct kv_record record = {0};
    static uint8_t body[2000];
    for (unsigned i = 0; i < 30; i++) {
        test_fill(body, 300, i);
        const struct kv_redo redo = {.kind = (enum kv_redo_kind)(1 + i % 4),
                                     .key = {body, 1 + i},
                                     .value = {body, i % 4 == 1 ? 0 : 2 * i}};
        ck_assert_int_eq(kv_record_add(&record, &redo), 0);
    }
    ck_assert_uint_le(record.length, sizeof body);
    for (unsigned round = 0; round < 100000; round++) {
        size_t length = record.length;
        memcpy(body, record.bytes, length);
        const size_t changes = test_random_below(&random, 4);
        for (size_t i = 0; i < changes; i++)
            body[test_random_below(&random, length)] = (uint8_t)test_random_next(&random);
        if (round % 3 == 0)
            length = test_random_below(&random, length + 1);
        if (round % 5 == 0) {
            length = test_random_below(&random, 200);
            for (size_t i = 0; i < length; i++)
                body[i] = (uint8_t)test_random_next(&random);
            body[0] = (uint8_t)(1 + round % 6);
        }
        walk_body(body, length);
    }
    kv_record_release(&record);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *const suite = suite_create("batch");
    TCase *const batch = tcase_create("batch");
    tcase_set_timeout(batch, 120);
    tcase_add_test(batch, a_batch_is_the_record_of_its_operations);
    tcase_add_test(batch, operations_are_kept_in_order_and_copied);
    tcase_add_test(batch, a_batch_grows_to_many_operations);
    tcase_add_test(batch, a_patch_joins_what_the_batch_does_to_the_key_before);
    tcase_add_test(batch, several_patches_a_key_and_none_of_a_reference);
    tcase_add_test(batch, the_order_of_a_batch_is_that_of_its_keys_and_stable);
    tcase_add_test(batch, a_batch_in_order_needs_no_other);
    tcase_add_test(batch, records_give_back_what_was_added);
    tcase_add_test(batch, no_bytes_make_the_decoder_stray);
    suite_add_tcase(suite, batch);
    return test_run(suite);
}
