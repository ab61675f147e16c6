/*
 * tests/run.h: run a suite of check, as the last step of a test program's main.
 */
#ifndef TESTS_RUN_H
#define TESTS_RUN_H

#include <check.h>
#include <stdlib.h>

/* What main returns. The environment of check counts: CK_VERBOSITY, CK_RUN_CASE ... */
static inline int test_run(Suite *suite)
{
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
