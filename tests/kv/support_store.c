/*
 * tests/kv/support_store.c: what the tests of the store share.
 */
#include "support_store.h"

#include "kv/store.h"

#include <unistd.h>

uint64_t test_random_next(struct test_random *random)
{
    uint64_t z = (random->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

size_t test_random_below(struct test_random *random, size_t limit)
{
    return (size_t)(test_random_next(random) % limit);
}

uint64_t test_env(const char *name, uint64_t otherwise)
{
    const char *const text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

void test_fill(void *out, size_t length, uint64_t identity)
{
    struct test_random random = {identity};
    uint8_t *const bytes = out;
    const bool repeats = test_random_next(&random) & 1;
    uint64_t word = 0;
    for (size_t i = 0; i < length; i++) {
        if (i % 8 == 0 && (!repeats || i % 512 == 0))
            word = test_random_next(&random);
        bytes[i] = (uint8_t)(word >> (i % 8 * 8));
    }
}

const char *test_tmp(void)
{
    enum { TMP_BYTES_MAX = 40 };
    const char *named = getenv("TMPDIR");
    return named && named[0] == '/' && strlen(named) <= TMP_BYTES_MAX ? named : "/tmp";
}

void test_dir_make(struct test_dir *dir)
{
    snprintf(dir->dir, sizeof dir->dir, "%s/kvfs-test-XXXXXX", test_tmp());
    const char *const made = mkdtemp(dir->dir);
    KV_ASSERT(made);
    snprintf(dir->image, sizeof dir->image, "%s/image", dir->dir);
}

void test_dir_remove(struct test_dir *dir)
{
    (void)unlink(dir->image); /* a test need not have made it */
    const int err = rmdir(dir->dir);
    KV_ASSERT(err == 0);
}

static void print_finding(void *context, enum kv_check_severity severity, const char *what,
                          const char *text)
{
    uint64_t *const findings = context;
    if (severity == KV_CHECK_NOTE)
        return;
    printf("check: %s: %s\n", what, text);
    ++*findings;
}

uint64_t test_check(struct kv_store *store, struct kv_check_result *result)
{
    uint64_t findings = 0;
    const struct kv_check_options options = {
        .read_blobs = true,
        .report = print_finding,
        .context = &findings,
    };
    memset(result, 0, sizeof *result);
    const int err = kv_check(store, &options, result);
    if (err) {
        printf("check: %s\n", strerror(-err));
        findings++;
    }
    return findings + result->repairable + result->damaged;
}

void test_log_nothing(void *context, enum kv_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

void test_create_on(struct kv_device *device, uint32_t node_bytes, enum kv_codec codec,
                    uint64_t log_bytes)
{
    const struct kv_create_options options = {
        .node_bytes = node_bytes, .log_bytes = log_bytes, .codec = {codec, 0}};
    struct kv_error error = {""};
    const int err = kv_create_on_device(device, &options, &error);
    if (err)
        printf("create: %s: %s\n", strerror(-err), error.text);
    KV_ASSERT(err == 0);
}

int test_try_open_on(struct kv_device *device, struct kv_store **store)
{
    const struct kv_open_options options = {
        .memory_budget_bytes = 8u << 20,
        .no_background = true,
        .log = test_log_nothing,
        .device = device,
    };
    return kv_open("test", &options, store, NULL);
}

struct kv_store *test_open_on(struct kv_device *device)
{
    struct kv_store *store = NULL;
    const int err = test_try_open_on(device, &store);
    if (err)
        printf("open: %s\n", strerror(-err));
    KV_ASSERT(err == 0);
    return store;
}

size_t test_number_key(char key[24], uint64_t number)
{
    return (size_t)snprintf(key, 24, "key%08llu", (unsigned long long)number);
}

int test_put_number(struct kv_store *store, uint64_t number, size_t value_len)
{
    char key[24];
    uint8_t *const value = malloc(value_len + 1);
    if (!value)
        return -ENOMEM;
    test_fill(value, value_len, number);
    const int err = kv_put(store, key, test_number_key(key, number), value, value_len);
    free(value);
    return err;
}

int test_get_number(struct kv_store *store, uint64_t number, size_t value_len)
{
    char key[24];
    size_t got = 0;
    uint8_t *const value = malloc(2 * value_len + 2);
    uint8_t *const expected = value + value_len + 1;
    if (!value)
        return -ENOMEM;
    const int err = kv_get(store, key, test_number_key(key, number), value, value_len, &got);
    test_fill(expected, value_len, number);
    KV_ASSERT(err || got == value_len);
    KV_ASSERT(err || memcmp(value, expected, value_len) == 0);
    free(value);
    return err;
}
