/*
 * tests/run.h: run a suite of check, as the last step of a test program's main.
 *
 * Owns       a directory for temporary files, which TMPDIR names while the suite runs and which
 *            goes at its end with all that tests left there that failed.
 */
#ifndef TESTS_RUN_H
#define TESTS_RUN_H

#include <check.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The tag of test cases in which one thread is at work. Where races are looked for they show
 * nothing and take long: CK_EXCLUDE_TAGS leaves them out. */
#define TEST_ONE_THREAD "one_thread"

/* Tests have buffers for paths below it. */
#define TEST_RUN_TMP_MAX 24u

static inline int test_run_remove(const char *path, const struct stat *stat, int type,
                                  struct FTW *where)
{
    (void)stat;
    (void)type;
    (void)where;
    (void)remove(path); /* what is still mounted stays */
    return 0;
}

/* What main returns. The environment of check counts: CK_VERBOSITY, CK_RUN_CASE ... */
static inline int test_run(Suite *suite)
{
    char directory[TEST_RUN_TMP_MAX + 24];
    const char *const named = getenv("TMPDIR");
    const bool fits = named && named[0] == '/' && strlen(named) <= TEST_RUN_TMP_MAX;
    (void)snprintf(directory, sizeof directory, "%s/kvfs-run-XXXXXX", fits ? named : "/tmp");
    /* Some tests are other users. Without the directory files go where they would. */
    const bool made =
        mkdtemp(directory) && !chmod(directory, 0711) && !setenv("TMPDIR", directory, 1);

    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (made)
        (void)nftw(directory, test_run_remove, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
