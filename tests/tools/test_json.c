/*
 * tests/tools/test_json.c: what is written is JSON, whatever the bytes.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/run.h"
#include "tools/json.h"

/* What `value` looks like as a string of JSON; to be freed. */
static char *written(const char *value)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    ck_assert_ptr_nonnull(out);
    struct tool_json json;
    tool_json_init(&json, out);
    tool_json_string(&json, NULL, value);
    ck_assert_int_eq(fclose(out), 0);
    return text;
}

START_TEST(strings_are_escaped_and_nothing_is_lost)
{
    static const struct {
        const char *value, *json;
    } cases[] = {
        {"", "\"\""},
        {"plain", "\"plain\""},
        {"a\"b\\c", "\"a\\\"b\\\\c\""},
        {"a\nb\x01\x7f", "\"a\\u000ab\\u0001\\u007f\""},
        {"\xc3\xa9", "\"\xc3\xa9\""},                             /* two bytes */
        {"\xe2\x82\xac", "\"\xe2\x82\xac\""},                     /* three */
        {"\xf0\x9f\x98\x80", "\"\xf0\x9f\x98\x80\""},             /* four */
        {"\xff", "\"\\udcff\""},                                  /* never a lead byte */
        {"\xc3", "\"\\udcc3\""},                                  /* cut off */
        {"\xe2\x82", "\"\\udce2\\udc82\""},                       /* cut off */
        {"\xc0\xaf", "\"\\udcc0\\udcaf\""},                       /* overlong */
        {"\xe0\x80\xaf", "\"\\udce0\\udc80\\udcaf\""},            /* overlong */
        {"\xed\xa0\x80", "\"\\udced\\udca0\\udc80\""},            /* a surrogate */
        {"\xf4\x90\x80\x80", "\"\\udcf4\\udc90\\udc80\\udc80\""}, /* past the last one */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text = written(cases[i].value);
        ck_assert_str_eq(text, cases[i].json);
        free(text);
    }
}
END_TEST

START_TEST(commas_stand_between_members_only)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    struct tool_json json;
    tool_json_init(&json, out);
    tool_json_open(&json, NULL, '{');
    tool_json_open(&json, "empty", '[');
    tool_json_close(&json, ']');
    tool_json_open(&json, "list", '[');
    tool_json_number(&json, NULL, UINT64_MAX);
    tool_json_open(&json, NULL, '{');
    tool_json_bool(&json, "yes", true);
    tool_json_close(&json, '}');
    tool_json_bool(&json, NULL, false);
    tool_json_close(&json, ']');
    tool_json_string(&json, "last", "x");
    tool_json_close(&json, '}');
    ck_assert_int_eq(fclose(out), 0);

    ck_assert_str_eq(text, "{\"empty\":[],\"list\":[18446744073709551615,{\"yes\":true},false],"
                           "\"last\":\"x\"}\n");
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("json");
    TCase *tests = tcase_create("json");
    tcase_add_test(tests, strings_are_escaped_and_nothing_is_lost);
    tcase_add_test(tests, commas_stand_between_members_only);
    suite_add_tcase(suite, tests);

    return test_run(suite);
}
