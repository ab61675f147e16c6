/*
 * tests/run.h: run a suite of check, as the last step of a test program's main.
 *
 * Owns       a directory for temporary files, which TMPDIR names while the suite runs and which
 *            goes at its end with all that tests left there that failed. What is still mounted
 *            below it is detached first: check ends the daemon of a failed test before that can
 *            unmount it.
 */
#ifndef TESTS_RUN_H
#define TESTS_RUN_H

#include <check.h>

/* The tag of test cases in which one thread is at work. Where races are looked for they show
 * nothing and take long: CK_EXCLUDE_TAGS leaves them out. */
#define TEST_ONE_THREAD "one_thread"

/* Tests have buffers for paths below it. */
#define TEST_RUN_TMP_MAX 24u

/* What main returns. The environment of check counts: CK_VERBOSITY, CK_RUN_CASE ... */
int test_run(Suite *suite);

#endif
