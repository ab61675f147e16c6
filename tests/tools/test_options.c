/*
 * tests/tools/test_options.c: what people write becomes the right numbers, or is refused.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/run.h"
#include "tools/options.h"

START_TEST(sizes_count_in_powers_of_1024)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        {"0", 0},           {"4096", 4096},       {"4096B", 4096},        {"1K", 1024},
        {"16k", 16384},     {"64M", 64ull << 20}, {"64MiB", 64ull << 20}, {"64MB", 64ull << 20},
        {"2G", 2ull << 30}, {"3T", 3ull << 40},   {"1P", 1ull << 50},     {"15E", 15ull << 60},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t bytes = 1;
        ck_assert_int_eq(tool_parse_size(cases[i].text, &bytes), 0);
        ck_assert_uint_eq(bytes, cases[i].bytes);
    }
}
END_TEST

START_TEST(what_is_no_size_is_refused_and_changes_nothing)
{
    static const char *const wrong[] = {"",    " 1",  "-1",  "+1",   "1.5G", "M",
                                        "12X", "1MM", "1 M", "0x10", "1Mi",  "1KiBs"};
    uint64_t bytes = 77;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        ck_assert_int_eq(tool_parse_size(wrong[i], &bytes), -EINVAL);
    ck_assert_int_eq(tool_parse_size("16E", &bytes), -ERANGE);
    ck_assert_int_eq(tool_parse_size("18446744073709551616", &bytes), -ERANGE);
    ck_assert_uint_eq(bytes, 77);
}
END_TEST

START_TEST(times_are_milliseconds)
{
    uint64_t ms = 0;
    ck_assert_int_eq(tool_parse_duration("250ms", &ms), 0);
    ck_assert_uint_eq(ms, 250);
    ck_assert_int_eq(tool_parse_duration("5", &ms), 0);
    ck_assert_uint_eq(ms, 5000);
    ck_assert_int_eq(tool_parse_duration("5s", &ms), 0);
    ck_assert_uint_eq(ms, 5000);
    ck_assert_int_eq(tool_parse_duration("2min", &ms), 0);
    ck_assert_uint_eq(ms, 120000);
    ck_assert_int_eq(tool_parse_duration("1h", &ms), 0);
    ck_assert_uint_eq(ms, 3600000);
    ck_assert_int_eq(tool_parse_duration("1m", &ms), -EINVAL);
    ck_assert_int_eq(tool_parse_duration("fast", &ms), -EINVAL);
    ck_assert_int_eq(tool_parse_duration("99999999999999999h", &ms), -ERANGE);
    ck_assert_uint_eq(ms, 3600000);
}
END_TEST

START_TEST(codecs_have_levels_only_where_zstd_has_them)
{
    struct kv_codec_spec codec;
    char text[TOOL_CODEC_TEXT];
    static const char *const right[] = {"none", "lz4", "zstd", "zstd:1", "zstd:19"};
    for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
        ck_assert_int_eq(tool_parse_codec(right[i], &codec), 0);
        tool_format_codec(&codec, text);
        ck_assert_str_eq(text, right[i]);
    }
    ck_assert_int_eq(tool_parse_codec("zstd:0", &codec), -ERANGE);
    ck_assert_int_eq(tool_parse_codec("zstd:20", &codec), -ERANGE);
    ck_assert_int_eq(tool_parse_codec("zstd:", &codec), -EINVAL);
    ck_assert_int_eq(tool_parse_codec("zstd3", &codec), -EINVAL);
    ck_assert_int_eq(tool_parse_codec("lz4:1", &codec), -EINVAL);
    ck_assert_int_eq(tool_parse_codec("gzip", &codec), -EINVAL);
}
END_TEST

START_TEST(a_uuid_reads_back_as_it_was_written)
{
    uint8_t uuid[16];
    char text[TOOL_UUID_TEXT];
    ck_assert_int_eq(tool_parse_uuid("01234567-89AB-cdef-0123-456789abcdef", uuid), 0);
    tool_format_uuid(uuid, text);
    ck_assert_str_eq(text, "01234567-89ab-cdef-0123-456789abcdef");

    static const char *const wrong[] = {
        "", "0123456789abcdef0123456789abcdef", "01234567-89ab-cdef-0123-456789abcde",
        "01234567-89ab-cdef-0123-456789abcdef0", "01234567-89ab-cdef-0123-456789abcdeg"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        ck_assert_int_eq(tool_parse_uuid(wrong[i], uuid), -EINVAL);
}
END_TEST

START_TEST(sizes_are_shown_in_the_unit_people_would_use)
{
    char text[TOOL_SIZE_TEXT];
    tool_format_size(0, text);
    ck_assert_str_eq(text, "0 bytes");
    tool_format_size(1023, text);
    ck_assert_str_eq(text, "1023 bytes");
    tool_format_size(16384, text);
    ck_assert_str_eq(text, "16 KiB");
    tool_format_size(1536ull << 20, text);
    ck_assert_str_eq(text, "1.5 GiB");
    tool_format_size(UINT64_MAX, text);
    ck_assert_str_eq(text, "16.0 EiB");
}
END_TEST

START_TEST(keys_are_paths_without_surprises)
{
    struct kv_error error;
    char longest[256 + 8];
    memset(longest, 'x', sizeof longest);
    memcpy(longest, "a/b/", 4);
    longest[4 + 255] = '\0';

    ck_assert_int_eq(tool_check_key("a", &error), 0);
    ck_assert_int_eq(tool_check_key("users/42/name", &error), 0);
    ck_assert_int_eq(tool_check_key("...", &error), 0);
    ck_assert_int_eq(tool_check_key(".hidden/..x", &error), 0);
    ck_assert_int_eq(tool_check_key(longest, &error), 0);
}
END_TEST

START_TEST(a_bad_component_is_named)
{
    static const struct {
        const char *key, *named;
    } cases[] = {
        {"", "component 1 is empty"},      {"/a", "component 1 is empty"},
        {"a//b", "component 2 is empty"},  {"a/", "component 2 is empty"},
        {"a/./b", "component 2 is \".\""}, {"a/b/..", "component 3 is \"..\""},
    };
    struct kv_error error;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ck_assert_int_eq(tool_check_key(cases[i].key, &error), -EINVAL);
        ck_assert_ptr_nonnull(strstr(error.text, cases[i].named));
    }

    char over[256 + 1];
    memset(over, 'x', 256);
    over[256] = '\0';
    ck_assert_int_eq(tool_check_key(over, &error), -ENAMETOOLONG);
    ck_assert_ptr_nonnull(strstr(error.text, "256 bytes"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("options");
    TCase *tests = tcase_create("options");
    tcase_add_test(tests, sizes_count_in_powers_of_1024);
    tcase_add_test(tests, what_is_no_size_is_refused_and_changes_nothing);
    tcase_add_test(tests, times_are_milliseconds);
    tcase_add_test(tests, codecs_have_levels_only_where_zstd_has_them);
    tcase_add_test(tests, a_uuid_reads_back_as_it_was_written);
    tcase_add_test(tests, sizes_are_shown_in_the_unit_people_would_use);
    tcase_add_test(tests, keys_are_paths_without_surprises);
    tcase_add_test(tests, a_bad_component_is_named);
    suite_add_tcase(suite, tests);

    return test_run(suite);
}
