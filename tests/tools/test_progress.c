/*
 * tests/tools/test_progress.c: what is drawn on a terminal while something goes on, and that
 * nothing is drawn elsewhere.
 */
#include <check.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/run.h"
#include "tools/progress.h"

static int terminal = -1, real_stderr = -1;
static char text[8192];

/* Standard error is a terminal, whose other end is ours. */
static void setup(void)
{
    int end;
    ck_assert_int_eq(openpty(&terminal, &end, NULL, NULL, NULL), 0);
    real_stderr = dup(STDERR_FILENO);
    ck_assert_int_ge(dup2(end, STDERR_FILENO), 0);
    close(end);
    setenv("TERM", "xterm", 1);
}

static void teardown(void)
{
    (void)dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    close(terminal);
}

/* All that has been drawn; a mark ends it, for a terminal has no end. */
static const char *drawn(void)
{
    size_t length = 0;
    (void)!write(STDERR_FILENO, "~", 1);
    do {
        const ssize_t got = read(terminal, text + length, sizeof text - length - 1);
        ck_assert_int_gt(got, 0);
        length += (size_t)got;
    } while (text[length - 1] != '~');
    text[length - 1] = '\0';
    return text;
}

static void wait_until_drawn(struct tool_progress *progress, uint64_t done, uint64_t total)
{
    while (!progress->shown) {
        usleep(20000);
        tool_progress_step(progress, done, total);
    }
}

START_TEST(a_bar_with_rate_and_time_left)
{
    struct tool_progress progress;
    tool_progress_init(&progress, true);
    tool_progress_stage(&progress, "import");
    tool_progress_rate(&progress, 3000, 30 << 20);
    tool_progress_step(&progress, 1, 4); /* too early */
    ck_assert_str_eq(drawn(), "");
    wait_until_drawn(&progress, 1, 4);
    const char *line = drawn();
    ck_assert_msg(strstr(line, "import      [##########....") != NULL, "%s", line);
    ck_assert_ptr_nonnull(strstr(line, " 25% "));
    ck_assert_ptr_nonnull(strstr(line, "/s "));
    ck_assert_ptr_nonnull(strstr(line, "s left"));
    tool_progress_clear(&progress);
    ck_assert_str_eq(drawn(), "\r\033[K");
    tool_progress_clear(&progress); /* once */
    ck_assert_str_eq(drawn(), "");
}
END_TEST

START_TEST(a_stream_has_rates_but_no_end)
{
    struct tool_progress progress;
    tool_progress_init(&progress, true);
    tool_progress_stage(&progress, "import");
    tool_progress_rate(&progress, 3000, 30 << 20);
    wait_until_drawn(&progress, 5, 0);
    const char *line = drawn();
    ck_assert_msg(strstr(line, "import      3000, 30.0 MiB, ") != NULL, "%s", line);
    ck_assert_ptr_nonnull(strstr(line, " MiB/s"));
    ck_assert_ptr_null(strstr(line, "left"));
}
END_TEST

START_TEST(nothing_is_drawn_where_nobody_looks)
{
    struct tool_progress progress;
    tool_progress_init(&progress, false);
    ck_assert(!progress.enabled);
    setenv("TERM", "dumb", 1);
    tool_progress_init(&progress, true);
    ck_assert(!progress.enabled);
    setenv("TERM", "xterm", 1);
    tool_progress_init(&progress, true);
    ck_assert(progress.enabled);
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    const int pty = dup(STDERR_FILENO);
    ck_assert_int_ge(dup2(ends[1], STDERR_FILENO), 0);
    tool_progress_init(&progress, true);
    ck_assert(!progress.enabled);
    ck_assert_int_ge(dup2(pty, STDERR_FILENO), 0);
    close(pty);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("progress");
    TCase *cases = tcase_create("progress");
    tcase_set_timeout(cases, 400);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, a_bar_with_rate_and_time_left);
    tcase_add_test(cases, a_stream_has_rates_but_no_end);
    tcase_add_test(cases, nothing_is_drawn_where_nobody_looks);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
