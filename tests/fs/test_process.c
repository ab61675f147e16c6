/*
 * tests/fs/test_process.c: which capabilities of a process that asks count.
 */
#include <check.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/process.h"
#include "tests/run.h"

#define SOMEBODY       1000u
#define CAP_SYS_ADMIN_ 21u

static pid_t child;
static int ready;

/* A process that has become somebody; alone: in a user namespace of his own. Skipped: false. */
static bool make_somebody(bool alone)
{
    int fds[2];
    char word = 0;
    ck_assert_int_eq(pipe(fds), 0);
    child = fork();
    if (child == 0) {
        word = setgid(SOMEBODY) == 0 && setuid(SOMEBODY) == 0 &&
               (!alone || unshare(CLONE_NEWUSER) == 0);
        if (write(fds[1], &word, 1) == 1)
            pause();
        _exit(0);
    }
    ck_assert_int_gt(child, 0);
    close(fds[1]);
    ready = fds[0];
    ck_assert_int_eq(read(ready, &word, 1), 1);
    return word;
}

static void end_somebody(void)
{
    close(ready);
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
}

START_TEST(root_is_capable_and_somebody_is_not)
{
    ck_assert(fs_process_is_capable(getpid(), 0, CAP_SYS_ADMIN_));
    if (make_somebody(false))
        ck_assert(!fs_process_is_capable(child, SOMEBODY, CAP_SYS_ADMIN_));
    end_somebody();
}
END_TEST

/* There he may do everything; here he is who he was. */
START_TEST(who_made_a_user_namespace_is_not_capable_outside_of_it)
{
    if (make_somebody(true))
        ck_assert(!fs_process_is_capable(child, SOMEBODY, CAP_SYS_ADMIN_));
    else
        printf("no user namespace can be made here\n");
    end_somebody();
}
END_TEST

START_TEST(who_can_not_be_looked_at_is_judged_by_his_number)
{
    ck_assert(fs_process_is_capable(0, 0, CAP_SYS_ADMIN_));
    ck_assert(!fs_process_is_capable(0, SOMEBODY, CAP_SYS_ADMIN_));
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("process");
    TCase *const processes = tcase_create("processes");
    if (geteuid() == 0) {
        tcase_add_test(processes, root_is_capable_and_somebody_is_not);
        tcase_add_test(processes, who_made_a_user_namespace_is_not_capable_outside_of_it);
    }
    tcase_add_test(processes, who_can_not_be_looked_at_is_judged_by_his_number);
    suite_add_tcase(suite, processes);
    return test_run(suite);
}
