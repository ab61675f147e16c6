/*
 * tests/tools/test_remount.c: whose program is run to mount again. As root, else it is skipped.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/run.h"
#include "tools/remount.h"

#define SOMEBODY 1000u

static struct tool_mount mount;
static pid_t holder;

static void setup(void)
{
    const char *const tmp = getenv("TMPDIR");
    snprintf(mount.source, sizeof mount.source, "%s/remount-%d.image", tmp ? tmp : "/tmp",
             (int)getpid());
    strcpy(mount.dir, "/mnt");
    const int fd = open(mount.source, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    close(fd);
}

static void teardown(void)
{
    if (holder > 0) {
        (void)kill(holder, SIGKILL);
        (void)waitpid(holder, NULL, 0);
    }
    holder = 0;
    (void)unlink(mount.source);
}

/* A process that has the image locked, with these users; it says so before this returns. */
static void start_holder(uid_t real, uid_t effective)
{
    int ends[2];
    char byte;
    ck_assert_int_eq(pipe(ends), 0);
    holder = fork();
    ck_assert_int_ge(holder, 0);
    if (!holder) {
        const int fd = open(mount.source, O_RDWR | O_CLOEXEC);
        if (fd < 0 || flock(fd, LOCK_EX) || setresuid(real, effective, effective) ||
            write(ends[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    ck_assert_int_eq(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    close(ends[1]);
}

START_TEST(what_root_has_mounted_is_learnt)
{
    struct tool_remount remount;
    struct kv_error error = {""};
    start_holder(0, 0);
    ck_assert_msg(tool_remount_learn(&mount, &remount, &error) == 0, "%s", error.text);
    ck_assert_int_eq(remount.daemon, holder);
    tool_remount_release(&remount);
}
END_TEST

START_TEST(root_runs_no_program_of_somebody_else)
{
    static const uid_t users[][2] = {{SOMEBODY, SOMEBODY}, {SOMEBODY, 0}};
    struct tool_remount remount;
    struct kv_error error = {""};
    start_holder(users[_i][0], users[_i][1]);
    ck_assert_int_eq(tool_remount_learn(&mount, &remount, &error), -EPERM);
    ck_assert_ptr_nonnull(strstr(error.text, "is not run by user 0"));
    ck_assert_str_eq(remount.program, "");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("remount");
    TCase *tcase = tcase_create("remount");
    tcase_add_checked_fixture(tcase, setup, teardown);
    if (geteuid() == 0) {
        tcase_add_test(tcase, what_root_has_mounted_is_learnt);
        tcase_add_loop_test(tcase, root_runs_no_program_of_somebody_else, 0, 2);
    }
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
