/*
 * tests/tools/test_live_figures.c: JSON of a mount as paths and numbers, and what is no such JSON.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/run.h"
#include "tools/live_figures.h"
#include "tools/live_view.h"

static struct tool_figures figures, before;

START_TEST(members_become_paths)
{
    ck_assert_int_eq(tool_figures_parse("{\"a\": {\"b\": 7, \"c\": {\"d\": 1.5}}, \"t\": true, "
                                        "\"f\": false, \"n\": null, \"s\": \"te\\\"xt\", "
                                        "\"e\": {}, \"x\": -3}\n",
                                        &figures),
                     0);
    ck_assert_uint_eq(figures.count, 5);
    ck_assert_double_eq(tool_figure(&figures, "a.b"), 7);
    ck_assert_double_eq(tool_figure(&figures, "a.c.d"), 1.5);
    ck_assert_double_eq(tool_figure(&figures, "t"), 1);
    ck_assert_double_eq(tool_figure(&figures, "x"), -3);
    ck_assert(tool_figure_is_there(&figures, "f"));
    ck_assert(!tool_figure_is_there(&figures, "n"));
    ck_assert(!tool_figure_is_there(&figures, "s"));
    ck_assert_double_eq(tool_figure(&figures, "nothing"), 0);
}
END_TEST

START_TEST(what_is_not_of_that_form_is_refused)
{
    static const char *const texts[] = {
        "",
        "7",
        "{",
        "}",
        "{\"a\"}",
        "{\"a\": }",
        "{\"a\": 1,}",
        "{\"a\": 1} x",
        "{\"a",
        "{\"a\": \"",
        "{\"a\": \"\\",
        "{\"a\": tru}",
        "{\"a\": [1]}",
        "{\"a\": {\"a\": {\"a\": {\"a\": {\"a\": {\"a\": {\"a\": {\"a\": {\"a\": 1}}}}}}}}}",
        "{\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaa"
        "aaaaaaa\": 1}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        ck_assert_msg(tool_figures_parse(texts[i], &figures) == -EUCLEAN, "%s", texts[i]);
}
END_TEST

START_TEST(more_rows_than_there_is_room_for_are_refused)
{
    const size_t cap = 32 * TOOL_FIGURES_MAX;
    char *text = malloc(cap);
    ck_assert_ptr_nonnull(text);
    size_t used = (size_t)snprintf(text, cap, "{\"first\": 0");
    for (unsigned i = 0; i < TOOL_FIGURES_MAX; i++)
        used += (size_t)snprintf(text + used, cap - used, ", \"row%u\": %u", i, i);
    (void)snprintf(text + used, cap - used, "}");
    ck_assert_int_eq(tool_figures_parse(text, &figures), -EUCLEAN);
    free(text);
}
END_TEST

START_TEST(a_rate_is_what_came_in_a_second_and_never_negative)
{
    ck_assert_int_eq(tool_figures_parse("{\"up\": 10, \"down\": 9}", &before), 0);
    ck_assert_int_eq(tool_figures_parse("{\"up\": 40, \"down\": 4}", &figures), 0);
    before.read_ns = 1000000000;
    figures.read_ns = 3000000000;
    ck_assert_double_eq(tool_figure_rate(&figures, &before, "up"), 15);
    ck_assert_double_eq(tool_figure_rate(&figures, &before, "down"), 0);
    figures.read_ns = before.read_ns;
    ck_assert_double_eq(tool_figure_rate(&figures, &before, "up"), 0);
}
END_TEST

START_TEST(durations_are_told_in_the_unit_that_fits)
{
    static const struct {
        double ns;
        const char *text;
    } cases[] = {{0, "0 ns"},           {999, "999 ns"},      {1000, "1.0 us"},
                 {12345, "12.3 us"},    {4560000, "4.56 ms"}, {7890000000, "7.89 s"},
                 {1e15, "1000000.00 s"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[TOOL_DURATION_TEXT];
        tool_view_duration(cases[i].ns, text);
        ck_assert_str_eq(text, cases[i].text);
    }
}
END_TEST

START_TEST(views_of_nothing_and_of_anything_are_texts)
{
    static const char *const texts[] = {
        "{}",
        "{\"requests\": {\"read\": 5}, \"latency_ns\": {\"read\": {\"count\": 5, \"sum\": 50, "
        "\"p50\": 1, \"p99\": 2, \"p999\": 3, \"max\": 4}}, \"store\": {\"page_hits\": 3}}",
    };
    for (size_t i = 0; i < 2; i++) {
        char *text = NULL;
        size_t length = 0;
        ck_assert_int_eq(tool_figures_parse(texts[i], &figures), 0);
        ck_assert_int_eq(tool_figures_parse("{}", &before), 0);
        FILE *out = open_memstream(&text, &length);
        ck_assert_ptr_nonnull(out);
        tool_view_totals(out, "/mnt", &figures);
        tool_view_line_head(out);
        tool_view_line(out, &figures, &before);
        tool_view_screen(out, "/mnt", &figures, &before);
        ck_assert_int_eq(fclose(out), 0);
        ck_assert_ptr_nonnull(strstr(text, "/mnt\n"));
        ck_assert_ptr_null(strstr(text, "nan"));
        ck_assert_ptr_null(strstr(text, "inf"));
        free(text);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("figures");
    TCase *tests = tcase_create("figures");
    tcase_add_test(tests, members_become_paths);
    tcase_add_test(tests, what_is_not_of_that_form_is_refused);
    tcase_add_test(tests, more_rows_than_there_is_room_for_are_refused);
    tcase_add_test(tests, a_rate_is_what_came_in_a_second_and_never_negative);
    tcase_add_test(tests, durations_are_told_in_the_unit_that_fits);
    tcase_add_test(tests, views_of_nothing_and_of_anything_are_texts);
    suite_add_tcase(suite, tests);

    return test_run(suite);
}
