/*
 * tests/fs/test_inode_table.c: the table of what the kernel knows, against a plain array.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/cookie.h"
#include "fs/inode_table.h"
#include "support_mount.h"
#include "tests/run.h"

#define INODE_COUNT 500u

static struct fs_key named(uint64_t directory, const char *name)
{
    struct fs_key key;
    fs_key_entry(&key, directory, name, strlen(name));
    return key;
}

static void expect_key(struct fs_inode_table *table, uint64_t ino, const struct fs_key *want)
{
    struct fs_key key;
    ck_assert_int_eq(fs_inode_table_key(table, ino, &key), 0);
    ck_assert_uint_eq(key.length, want->length);
    ck_assert_int_eq(memcmp(key.bytes, want->bytes, key.length), 0);
}

START_TEST(counts_and_keys_follow_a_model)
{
    uint64_t state = test_seed();
    static struct {
        uint64_t references;
        struct fs_key key;
    } model[INODE_COUNT];
    struct fs_inode_table *table = fs_inode_table_new();
    for (int step = 0; step < 200000; step++) {
        const uint64_t i = test_below(&state, INODE_COUNT), ino = i + 2;
        char name[64];
        struct fs_key key;
        snprintf(name, sizeof name, "name-%llx", (unsigned long long)test_random(&state));
        key = named(1 + test_below(&state, 9), name);
        switch (test_below(&state, 4)) {
        case 0:
        case 1:
            ck_assert_int_eq(fs_inode_table_ref(table, ino, &key), 0);
            if (model[i].references++ == 0)
                model[i].key = key;
            break;
        case 2: {
            const uint64_t count = test_below(&state, model[i].references + 2);
            ck_assert(!fs_inode_table_unref(table, ino, count));
            model[i].references -= count < model[i].references ? count : model[i].references;
            break;
        }
        default: {
            struct fs_inode_move move;
            if (test_below(&state, 3) == 0)
                fs_key_ino(&key, FS_KEY_INODE, ino);
            ck_assert_int_eq(fs_inode_table_reserve(ino, &key, &move), 0);
            if (test_below(&state, 4) == 0) {
                fs_inode_table_cancel(&move);
                break;
            }
            ck_assert_int_eq(fs_inode_table_move(table, &move), model[i].references > 0);
            model[i].key = key;
        }
        }
        ck_assert_uint_eq(fs_inode_table_references(table, ino), model[i].references);
        if (model[i].references)
            expect_key(table, ino, &model[i].key);
        else
            ck_assert_int_eq(fs_inode_table_key(table, ino, &key), -ESTALE);
    }
    uint64_t count, bytes, want = 0;
    fs_inode_table_usage(table, &count, &bytes);
    for (unsigned i = 0; i < INODE_COUNT; i++)
        want += model[i].references > 0;
    ck_assert_uint_eq(count, want);
    fs_inode_table_free(table);
}
END_TEST

START_TEST(an_orphan_stays_until_it_is_dropped)
{
    struct fs_inode_table *table = fs_inode_table_new();
    struct fs_inode_move move;
    struct fs_key key = named(1, "file"), orphan;
    ck_assert_int_eq(fs_inode_table_ref(table, 5, &key), 0);
    ck_assert_int_eq(fs_inode_table_ref(table, 5, &key), 0);
    fs_key_ino(&orphan, FS_KEY_ORPHAN, 5);
    ck_assert_int_eq(fs_inode_table_reserve(5, &orphan, &move), 0);
    ck_assert(fs_inode_table_move(table, &move));
    ck_assert(!fs_inode_table_drop(table, 5));
    ck_assert(!fs_inode_table_unref(table, 5, 1));
    expect_key(table, 5, &orphan);
    ck_assert(fs_inode_table_unref(table, 5, 1));
    ck_assert(!fs_inode_table_unref(table, 5, 1)); /* told once */
    ck_assert_int_eq(fs_inode_table_key(table, 5, &key), -ESTALE);
    ck_assert(fs_inode_table_drop(table, 5));
    ck_assert_int_eq(fs_inode_table_key(table, 5, &key), -ESTALE);
    fs_inode_table_free(table);
}
END_TEST

START_TEST(the_root_is_always_known)
{
    struct fs_inode_table *table = fs_inode_table_new();
    struct fs_key want;
    fs_key_ino(&want, FS_KEY_INODE, FS_ROOT_INO);
    expect_key(table, FS_ROOT_INO, &want);
    ck_assert(!fs_inode_table_unref(table, FS_ROOT_INO, 100));
    expect_key(table, FS_ROOT_INO, &want);
    ck_assert_ptr_nonnull(fs_inode_table_cookies(table, FS_ROOT_INO));
    ck_assert_ptr_null(fs_inode_table_cookies(table, 17));
    fs_inode_table_free(table);
}
END_TEST

START_TEST(a_million_inodes_take_less_than_120_bytes_each)
{
    const uint64_t count = 1000000;
    struct fs_inode_table *table = fs_inode_table_new();
    char name[32];
    for (uint64_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "file-%07llu.txt", (unsigned long long)i);
        const struct fs_key key = named(7, name);
        ck_assert_int_eq(fs_inode_table_ref(table, i + 2, &key), 0);
    }
    uint64_t known, bytes;
    fs_inode_table_usage(table, &known, &bytes);
    ck_assert_uint_eq(known, count);
    ck_assert_uint_lt(bytes, 120 * count);
    for (uint64_t i = 0; i < count; i++)
        (void)fs_inode_table_unref(table, i + 2, 1);
    fs_inode_table_usage(table, &known, &bytes);
    ck_assert_uint_eq(known, 0);
    ck_assert_uint_lt(bytes, 64u << 10); /* the memory goes with the inodes */
    fs_inode_table_free(table);
}
END_TEST

static uint64_t memory_of(struct fs_inode_table *table)
{
    uint64_t known, bytes;
    fs_inode_table_usage(table, &known, &bytes);
    return bytes;
}

/* Names that have nothing in common: each is a frame of its own. */
static void list_names(struct fs_cookies *cookies)
{
    uint64_t state = test_seed();
    char name[64];
    for (int i = 0; i < 1000; i++) {
        uint64_t cookie;
        snprintf(name, sizeof name, "%016llx-%016llx", (unsigned long long)test_random(&state),
                 (unsigned long long)test_random(&state));
        ck_assert_int_eq(fs_cookie_of(cookies, name, strlen(name), &cookie), 0);
    }
}

START_TEST(the_memory_of_listings_is_counted_until_they_go)
{
    struct fs_inode_table *table = fs_inode_table_new();
    const struct fs_key keys[] = {named(1, "one"), named(1, "two")}, other = named(2, "new");
    struct fs_cookies *cookies[2];
    struct fs_inode_move move;
    for (uint64_t i = 0; i < 2; i++)
        ck_assert_int_eq(fs_inode_table_ref(table, 5 + i, &keys[i]), 0);
    const uint64_t before = memory_of(table);
    for (uint64_t i = 0; i < 2; i++) {
        cookies[i] = fs_inode_table_cookies(table, 5 + i);
        list_names(cookies[i]);
    }
    const uint64_t each = fs_cookies_memory(cookies[0]);
    ck_assert_uint_gt(each, 1000 * 30);
    ck_assert_uint_ge(memory_of(table), before + 2 * each);

    /* With its directory one moves, and in the end it goes. */
    ck_assert_int_eq(fs_inode_table_reserve(5, &other, &move), 0);
    ck_assert(fs_inode_table_move(table, &move));
    ck_assert_ptr_eq(fs_inode_table_cookies(table, 5), cookies[0]);
    ck_assert_uint_ge(memory_of(table), before + 2 * each);
    (void)fs_inode_table_unref(table, 5, 1);
    ck_assert_uint_lt(memory_of(table), before + 2 * each);
    ck_assert_uint_ge(memory_of(table), before - 100 + each);
    (void)fs_inode_table_unref(table, 6, 1);
    ck_assert_uint_le(memory_of(table), before);

    struct fs_cookies *const root = fs_inode_table_cookies(table, FS_ROOT_INO);
    const uint64_t without = memory_of(table) - fs_cookies_memory(root);
    list_names(root);
    ck_assert_uint_eq(memory_of(table), without + fs_cookies_memory(root));
    fs_inode_table_free(table);
}
END_TEST

/* Forgetting is told by the kernel of all directories but these: the root, and where programs are.
 */
START_TEST(the_memory_of_listings_comes_back_though_the_directory_stays)
{
    struct fs_inode_table *table = fs_inode_table_new();
    const struct fs_key key = named(1, "held");
    struct timespec clock;
    ck_assert_int_eq(fs_inode_table_ref(table, 5, &key), 0);
    list_names(fs_inode_table_cookies(table, FS_ROOT_INO));
    list_names(fs_inode_table_cookies(table, 5));
    const uint64_t listed = memory_of(table);
    ck_assert_int_eq(clock_gettime(CLOCK_MONOTONIC, &clock), 0);
    const int64_t now = fs_time_ns(&clock);
    fs_inode_table_age(table, now + FS_COOKIES_KEPT_NS);
    ck_assert_uint_eq(memory_of(table), listed);
    fs_inode_table_age(table, now + 2 * FS_COOKIES_KEPT_NS);
    struct fs_inode_table *fresh = fs_inode_table_new();
    ck_assert_int_eq(fs_inode_table_ref(fresh, 5, &key), 0);
    (void)fs_inode_table_cookies(fresh, 5);
    ck_assert_uint_eq(memory_of(table), memory_of(fresh));
    fs_inode_table_free(fresh);
    fs_inode_table_free(table);
}
END_TEST

static void *ref_and_unref(void *argument)
{
    struct fs_inode_table *table = argument;
    const struct fs_key key = named(1, "shared");
    for (int i = 0; i < 20000; i++) {
        const uint64_t ino = 2 + (uint64_t)(i % 50);
        struct fs_key found;
        uint64_t cookie;
        if (fs_inode_table_ref(table, ino, &key) || fs_inode_table_key(table, ino, &found) ||
            fs_cookie_of(fs_inode_table_cookies(table, ino), "some-long-name", 14, &cookie) ||
            fs_inode_table_unref(table, ino, 1))
            return argument;
        if (i % 100 == 0)
            (void)memory_of(table);
    }
    return NULL;
}

START_TEST(threads_share_the_table)
{
    struct fs_inode_table *table = fs_inode_table_new();
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, ref_and_unref, table), 0);
    for (int i = 0; i < 4; i++) {
        void *failed;
        ck_assert_int_eq(pthread_join(threads[i], &failed), 0);
        ck_assert_ptr_null(failed);
    }
    uint64_t known, bytes;
    fs_inode_table_usage(table, &known, &bytes);
    ck_assert_uint_eq(known, 0);
    ck_assert_uint_lt(bytes, 64u << 10);
    fs_inode_table_free(table);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("inode_table");
    TCase *tcase = tcase_create("inode_table");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, counts_and_keys_follow_a_model);
    tcase_add_test(tcase, an_orphan_stays_until_it_is_dropped);
    tcase_add_test(tcase, the_root_is_always_known);
    tcase_add_test(tcase, a_million_inodes_take_less_than_120_bytes_each);
    tcase_add_test(tcase, the_memory_of_listings_is_counted_until_they_go);
    tcase_add_test(tcase, the_memory_of_listings_comes_back_though_the_directory_stays);
    tcase_add_test(tcase, threads_share_the_table);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
