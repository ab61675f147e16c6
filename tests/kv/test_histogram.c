/*
 * tests/kv/test_histogram.c: histograms against the sorted numbers themselves.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kv/base.h"
#include "kv/histogram.h"
#include "support_store.h"
#include "tests/run.h"

#define NUMBER_COUNT 20000u

static int compare(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Numbers of all magnitudes up to 2^bits. */
static uint64_t a_number(struct test_random *random, unsigned bits)
{
    const unsigned magnitude = (unsigned)test_random_below(random, bits) + 1;
    return test_random_next(random) >> (64 - magnitude);
}

static struct test_random test_random_seeded(void)
{
    const uint64_t seed = test_env("KVFS_SEED", 1);
    printf("KVFS_SEED=%llu\n", (unsigned long long)seed);
    return (struct test_random){.state = seed};
}

/* The documented bound: never less than the number, at most 1/32 more. */
static void assert_close(uint64_t told, uint64_t number)
{
    ck_assert_uint_ge(told, number);
    ck_assert_uint_le(told - number, number / KV_HISTOGRAM_STEPS);
}

START_TEST(quantiles_are_those_of_the_sorted_numbers_within_the_bound)
{
    static const unsigned permilles[] = {0, 1, 250, 500, 900, 950, 990, 999, 1000};
    static struct kv_histogram histogram;
    static uint64_t numbers[NUMBER_COUNT];
    struct test_random random = test_random_seeded();
    for (unsigned bits = 4; bits <= 42; bits += 19) {
        memset(&histogram, 0, sizeof histogram);
        uint64_t sum = 0;
        for (size_t i = 0; i < NUMBER_COUNT; i++) {
            numbers[i] = a_number(&random, bits);
            sum += numbers[i];
            kv_histogram_add(&histogram, numbers[i]);
        }
        qsort(numbers, NUMBER_COUNT, sizeof numbers[0], compare);

        ck_assert_uint_eq(histogram.count, NUMBER_COUNT);
        ck_assert_uint_eq(histogram.sum, sum);
        ck_assert_uint_eq(histogram.max, numbers[NUMBER_COUNT - 1]);
        for (size_t i = 0; i < sizeof permilles / sizeof permilles[0]; i++) {
            const size_t index = kv_min_u64(NUMBER_COUNT * permilles[i] / 1000u, NUMBER_COUNT - 1);
            assert_close(kv_histogram_at(&histogram, permilles[i]), numbers[index]);
        }
        for (unsigned bit = 0; bit <= 42; bit++) {
            uint64_t below = 0;
            while (below < NUMBER_COUNT && numbers[below] < (uint64_t)1 << bit)
                below++;
            ck_assert_uint_eq(kv_histogram_below(&histogram, (uint64_t)1 << bit), below);
        }
    }
}
END_TEST

START_TEST(an_empty_histogram_says_zero)
{
    static struct kv_histogram histogram;
    ck_assert_uint_eq(kv_histogram_at(&histogram, 500), 0);
    ck_assert_uint_eq(kv_histogram_below(&histogram, 1024), 0);
}
END_TEST

START_TEST(what_is_beyond_the_last_bucket_keeps_its_greatest_and_its_sum)
{
    static struct kv_histogram histogram;
    const uint64_t huge = (uint64_t)1 << 50;
    kv_histogram_add(&histogram, 7);
    kv_histogram_add(&histogram, huge);
    kv_histogram_add(&histogram, huge + 1);
    ck_assert_uint_eq(histogram.max, huge + 1);
    ck_assert_uint_eq(histogram.sum, 2 * huge + 8);
    ck_assert_uint_eq(kv_histogram_at(&histogram, 0), 7);
    ck_assert_uint_eq(kv_histogram_at(&histogram, 999), huge + 1);
    ck_assert_uint_eq(kv_histogram_below(&histogram, 1024), 1);
}
END_TEST

START_TEST(what_came_between_two_readings_is_their_difference)
{
    static struct kv_histogram all, before, later;
    struct test_random random = test_random_seeded();
    for (size_t i = 0; i < 2 * NUMBER_COUNT; i++) {
        const uint64_t number = a_number(&random, 30);
        kv_histogram_add(&all, number);
        kv_histogram_add(i < NUMBER_COUNT ? &before : &later, number);
    }
    kv_histogram_subtract(&all, &before);
    ck_assert_uint_eq(all.count, later.count);
    ck_assert_uint_eq(all.sum, later.sum);
    ck_assert_mem_eq(all.buckets, later.buckets, sizeof all.buckets);
    assert_close(all.max, later.max);

    kv_histogram_merge(&before, &later); /* and put together it is the whole again */
    ck_assert_uint_eq(before.count, 2 * NUMBER_COUNT);
    kv_histogram_subtract(&later, &later);
    ck_assert_uint_eq(later.count + later.max, 0);
}
END_TEST

#define THREAD_COUNT 4u

struct adder {
    struct kv_histogram_set *set;
    struct kv_histogram own[2];
    uint64_t seed;
};

static void *add_numbers(void *context)
{
    struct adder *adder = context;
    struct test_random random = {.state = adder->seed};
    for (size_t i = 0; i < NUMBER_COUNT; i++) {
        const uint64_t number = a_number(&random, 36);
        kv_histogram_set_add(adder->set, i % 2, number);
        kv_histogram_add(&adder->own[i % 2], number);
    }
    return NULL;
}

START_TEST(a_set_is_what_its_threads_added)
{
    static struct adder adders[THREAD_COUNT];
    static struct kv_histogram expected, got;
    struct test_random random = test_random_seeded();
    struct kv_histogram_set *set = kv_histogram_set_new(2);
    ck_assert_ptr_nonnull(set);
    pthread_t threads[THREAD_COUNT];
    for (size_t i = 0; i < THREAD_COUNT; i++) {
        adders[i].set = set;
        adders[i].seed = test_random_next(&random);
        ck_assert_int_eq(pthread_create(&threads[i], NULL, add_numbers, &adders[i]), 0);
    }
    for (unsigned i = 0; i < 50; i++) { /* whole at every moment */
        uint64_t count = 0;
        kv_histogram_set_read(set, 0, &got);
        for (size_t bucket = 0; bucket < KV_HISTOGRAM_BUCKETS; bucket++)
            count += got.buckets[bucket];
        ck_assert_uint_eq(count, got.count);
    }
    for (size_t i = 0; i < THREAD_COUNT; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);

    for (unsigned index = 0; index < 2; index++) {
        memset(&expected, 0, sizeof expected);
        for (size_t i = 0; i < THREAD_COUNT; i++)
            kv_histogram_merge(&expected, &adders[i].own[index]);
        kv_histogram_set_read(set, index, &got);
        /* A thread that loses its processor in the middle of an addition may undo others'. */
        ck_assert_uint_le(got.count, expected.count);
        ck_assert_uint_ge(got.count, expected.count / 2);
        ck_assert_uint_le(got.max, expected.max);
    }
    kv_histogram_set_free(set);
}
END_TEST

START_TEST(a_set_of_one_thread_is_exact)
{
    static struct adder adder;
    static struct kv_histogram got;
    adder.set = kv_histogram_set_new(2);
    ck_assert_ptr_nonnull(adder.set);
    (void)add_numbers(&adder);
    for (unsigned index = 0; index < 2; index++) {
        kv_histogram_set_read(adder.set, index, &got);
        ck_assert_mem_eq(&got, &adder.own[index], sizeof got);
    }
    kv_histogram_set_free(adder.set);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("histogram");
    TCase *tcase = tcase_create("histogram");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, quantiles_are_those_of_the_sorted_numbers_within_the_bound);
    tcase_add_test(tcase, an_empty_histogram_says_zero);
    tcase_add_test(tcase, what_is_beyond_the_last_bucket_keeps_its_greatest_and_its_sum);
    tcase_add_test(tcase, what_came_between_two_readings_is_their_difference);
    tcase_add_test(tcase, a_set_is_what_its_threads_added);
    tcase_add_test(tcase, a_set_of_one_thread_is_exact);
    suite_add_tcase(suite, tcase);

    return test_run(suite);
}
