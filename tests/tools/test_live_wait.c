/*
 * tests/tools/test_live_wait.c: a wait ends for an interrupt, whenever it came.
 */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/run.h"
#include "tools/live_wait.h"

#define FOR_EVER 3600000u /* milliseconds; the test would end by its own limit */

START_TEST(an_interrupt_just_before_the_wait_ends_it)
{
    static const int interrupts[] = {SIGINT, SIGTERM, SIGHUP};
    tool_live_wait_begin();
    ck_assert_int_eq(raise(interrupts[_i]), 0);
    ck_assert_int_eq(tool_live_wait(-1, FOR_EVER), TOOL_LIVE_INTERRUPTED);
    ck_assert_int_eq(tool_live_wait(-1, FOR_EVER), TOOL_LIVE_INTERRUPTED); /* for good */
}
END_TEST

START_TEST(an_interrupt_during_the_wait_ends_it)
{
    tool_live_wait_begin();
    const pid_t waiting = getpid(), child = fork();
    ck_assert_int_ge(child, 0);
    if (!child) {
        while (getppid() == waiting) { /* whenever it waits, one comes */
            (void)kill(waiting, SIGTERM);
            usleep(10000);
        }
        _exit(0);
    }
    ck_assert_int_eq(tool_live_wait(-1, FOR_EVER), TOOL_LIVE_INTERRUPTED);
}
END_TEST

START_TEST(input_and_its_end_are_told_apart)
{
    int ends[2];
    char byte = 'q';
    tool_live_wait_begin();
    ck_assert_int_eq(pipe(ends), 0);
    ck_assert_int_eq(tool_live_wait(ends[0], 1), TOOL_LIVE_TIME);
    ck_assert_int_eq(write(ends[1], &byte, 1), 1);
    ck_assert_int_eq(tool_live_wait(ends[0], FOR_EVER), TOOL_LIVE_INPUT);
    ck_assert_int_eq(read(ends[0], &byte, 1), 1);
    ck_assert_int_eq(close(ends[1]), 0);
    ck_assert_int_eq(tool_live_wait(ends[0], FOR_EVER), TOOL_LIVE_INTERRUPTED);
    ck_assert_int_eq(close(ends[0]), 0);
}
END_TEST

START_TEST(another_size_of_the_terminal_does_not_end_it)
{
    tool_live_wait_begin();
    ck_assert_int_eq(raise(SIGWINCH), 0);
    ck_assert_int_eq(tool_live_wait(-1, 1), TOOL_LIVE_TIME);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("live_wait");
    TCase *tests = tcase_create("live_wait");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, an_interrupt_just_before_the_wait_ends_it, 0, 3);
    tcase_add_test(tests, an_interrupt_during_the_wait_ends_it);
    tcase_add_test(tests, input_and_its_end_are_told_apart);
    tcase_add_test(tests, another_size_of_the_terminal_does_not_end_it);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
