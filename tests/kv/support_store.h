/*
 * tests/kv/support_store.h: what the tests of the store share: random numbers from one seed,
 * a directory of their own, bytes that can be told again, and a check that must be clean.
 *
 * All of it aborts the test when the machine does not play along.
 */
#ifndef TESTS_KV_SUPPORT_STORE_H
#define TESTS_KV_SUPPORT_STORE_H

#include "kv/base.h"
#include "kv/kv.h"

struct test_random {
    uint64_t state;
};

uint64_t test_random_next(struct test_random *random);
/* 0..limit-1 */
size_t test_random_below(struct test_random *random, size_t limit);

/* A number from the environment, or `otherwise`. */
uint64_t test_env(const char *name, uint64_t otherwise);

/* Bytes that `identity` alone decides; about half of them compress well. */
void test_fill(void *out, size_t length, uint64_t identity);

/* Where temporary files go: TMPDIR, unless it is too long for a test's buffers, or /tmp. */
const char *test_tmp(void);

/* A fresh directory and the path of an image in it. */
struct test_dir {
    char dir[64];
    char image[96];
};
void test_dir_make(struct test_dir *dir);
void test_dir_remove(struct test_dir *dir);

/* Run kv_check with everything on, print what it finds, and return the count of findings. */
uint64_t test_check(struct kv_store *store, struct kv_check_result *result);

/*
 * A store on a device: created with the least image's options where these are zero; opened
 * quietly, with 8 MiB and no threads, so that nothing happens by itself.
 */
void test_create_on(struct kv_device *device, uint32_t node_bytes, enum kv_codec codec,
                    uint64_t log_bytes);
KV_MUST_CHECK int test_try_open_on(struct kv_device *device, struct kv_store **store);
struct kv_store *test_open_on(struct kv_device *device);

/* Keys and values of a number, for stores that are filled by counting. */
size_t test_number_key(char key[24], uint64_t number);
KV_MUST_CHECK int test_put_number(struct kv_store *store, uint64_t number, size_t value_len);
/* kv_get's result; a value that is got must be the right one. */
KV_MUST_CHECK int test_get_number(struct kv_store *store, uint64_t number, size_t value_len);

/* Drops lines; for tests that provoke them. */
void test_log_nothing(void *context, enum kv_log_level level, const char *line);

#endif
