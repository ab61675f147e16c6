/*
 * tests/fs/test_cookie.c: positions in a directory mean a name, and always the same one.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/cookie.h"
#include "support_mount.h"
#include "tests/run.h"

static void expect_name(struct fs_cookies *cookies, uint64_t cookie, const char *want,
                        size_t want_len)
{
    char name[FS_NAME_MAX];
    size_t name_len;
    ck_assert_int_eq(fs_cookie_name(cookies, cookie, name, &name_len), 0);
    ck_assert_uint_eq(name_len, want_len);
    ck_assert_int_eq(memcmp(name, want, want_len), 0);
}

START_TEST(every_name_has_a_cookie_of_its_own_that_leads_back)
{
    enum { COUNT = 20000 };
    uint64_t state = test_seed();
    static char names[COUNT][FS_NAME_MAX];
    static size_t lengths[COUNT];
    static uint64_t cookies_of[COUNT];
    struct fs_cookies *cookies = fs_cookies_new();
    for (int i = 0; i < COUNT; i++) {
        lengths[i] = 1 + test_below(&state, test_below(&state, 2) ? 12 : FS_NAME_MAX);
        for (size_t b = 0; b < lengths[i]; b++)
            names[i][b] = (char)test_random(&state);
        ck_assert_int_eq(fs_cookie_of(cookies, names[i], lengths[i], &cookies_of[i]), 0);
        ck_assert_uint_gt(cookies_of[i], FS_COOKIE_DOTDOT);
        ck_assert_uint_le(cookies_of[i], INT64_MAX); /* it passes through a signed offset */
    }
    for (int i = 0; i < COUNT; i++) {
        uint64_t again;
        expect_name(cookies, cookies_of[i], names[i], lengths[i]);
        ck_assert_int_eq(fs_cookie_of(cookies, names[i], lengths[i], &again), 0);
        ck_assert_uint_eq(again, cookies_of[i]);
    }
    fs_cookies_free(cookies);
}
END_TEST

START_TEST(numbered_files_cost_next_to_nothing)
{
    const char *const formats[] = {"picture-%07d", "picture-%07d.jpg"};
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++) {
        struct fs_cookies *cookies = fs_cookies_new();
        char name[32];
        uint64_t cookie;
        for (int i = 10000; i < 1000000; i++) {
            snprintf(name, sizeof name, formats[f], i);
            ck_assert_int_eq(fs_cookie_of(cookies, name, strlen(name), &cookie), 0);
            if (i % 1001 == 0)
                expect_name(cookies, cookie, name, strlen(name));
        }
        ck_assert_uint_lt(fs_cookies_memory(cookies), 100u << 10);
        fs_cookies_free(cookies);
    }
}
END_TEST

START_TEST(the_positions_before_the_first_name_mean_none)
{
    struct fs_cookies *cookies = fs_cookies_new();
    expect_name(cookies, FS_COOKIE_START, "", 0);
    expect_name(cookies, FS_COOKIE_DOT, "", 0);
    expect_name(cookies, FS_COOKIE_DOTDOT, "", 0);
    fs_cookies_free(cookies);
}
END_TEST

START_TEST(a_cookie_never_handed_out_is_refused)
{
    uint64_t state = test_seed();
    struct fs_cookies *cookies = fs_cookies_new();
    char name[FS_NAME_MAX];
    size_t name_len;
    ck_assert_int_eq(fs_cookie_name(cookies, 3, name, &name_len), -EINVAL);
    ck_assert_int_eq(fs_cookie_name(cookies, 1ull << 32, name, &name_len), -EINVAL);
    ck_assert_int_eq(fs_cookie_name(cookies, 1ull << 62, name, &name_len), -EINVAL);
    ck_assert_int_eq(fs_cookie_name(cookies, UINT64_MAX, name, &name_len), -EINVAL);
    for (int i = 0; i < 100000; i++) {
        const int err = fs_cookie_name(cookies, test_random(&state), name, &name_len);
        ck_assert(err == 0 || err == -EINVAL);
        ck_assert(err || name_len <= FS_NAME_MAX);
    }
    fs_cookies_free(cookies);
}
END_TEST

enum { FRAMES = 5000 };

static size_t long_name(char name[64], int number)
{
    return (size_t)snprintf(name, 64, "%d names have nothing in common %d.x", number * 7919,
                            number);
}

START_TEST(what_nobody_asks_for_is_forgotten_and_gets_its_cookie_again)
{
    struct fs_cookies *cookies = fs_cookies_new();
    const uint64_t empty = fs_cookies_memory(cookies);
    static uint64_t cookies_of[FRAMES];
    char name[64], found[FS_NAME_MAX];
    size_t found_len;
    fs_cookies_age(cookies, 0);
    for (int i = 0; i < FRAMES; i++)
        ck_assert_int_eq(fs_cookie_of(cookies, name, long_name(name, i), &cookies_of[i]), 0);
    const uint64_t full = fs_cookies_memory(cookies);
    fs_cookies_age(cookies, FS_COOKIES_KEPT_NS - 1);
    fs_cookies_age(cookies, FS_COOKIES_KEPT_NS); /* all of them are younger */
    ck_assert_uint_eq(fs_cookies_memory(cookies), full);
    fs_cookies_age(cookies, 2 * FS_COOKIES_KEPT_NS - 1);
    ck_assert_uint_eq(fs_cookies_memory(cookies), full);
    /* One in a hundred is still of use, by its name or by its cookie. */
    for (int i = 0; i < FRAMES; i += 200) {
        uint64_t again;
        const size_t length = long_name(name, i);
        ck_assert_int_eq(fs_cookie_of(cookies, name, length, &again), 0);
        expect_name(cookies, cookies_of[i + 100], name, long_name(name, i + 100));
    }
    fs_cookies_age(cookies, 2 * FS_COOKIES_KEPT_NS);
    ck_assert_uint_lt(fs_cookies_memory(cookies), full / 20);
    for (int i = 0; i < FRAMES; i++) {
        const size_t length = long_name(name, i);
        uint64_t again;
        if (i % 100 == 0)
            expect_name(cookies, cookies_of[i], name, length);
        else
            ck_assert_int_eq(fs_cookie_name(cookies, cookies_of[i], found, &found_len), -ENOENT);
        ck_assert_int_eq(fs_cookie_of(cookies, name, length, &again), 0);
        ck_assert_uint_eq(again, cookies_of[i]);
    }
    fs_cookies_age(cookies, 3 * FS_COOKIES_KEPT_NS);
    fs_cookies_age(cookies, 4 * FS_COOKIES_KEPT_NS);
    ck_assert_uint_eq(fs_cookies_memory(cookies), empty);
    ck_assert_int_eq(fs_cookie_name(cookies, 3, found, &found_len), -EINVAL);
    fs_cookies_free(cookies);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cookie");
    TCase *tcase = tcase_create("cookie");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, every_name_has_a_cookie_of_its_own_that_leads_back);
    tcase_add_test(tcase, numbered_files_cost_next_to_nothing);
    tcase_add_test(tcase, the_positions_before_the_first_name_mean_none);
    tcase_add_test(tcase, a_cookie_never_handed_out_is_refused);
    tcase_add_test(tcase, what_nobody_asks_for_is_forgotten_and_gets_its_cookie_again);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
