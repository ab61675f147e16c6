/*
 * tests/fs/test_mount_requests.c: how many requests the kernel sends for what.
 *
 * A request is what an operation costs (some 10 to 25 us); what the kernel answers from its
 * caches costs nothing. The table this prints is kept in fs/README.md.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "one_mount.h"
#include "tests/run.h"

#define ENTRY_COUNT 1000

/* Requests so far but for forgets, which come late and are not waited for. */
static uint64_t requests_now(void)
{
    return test_requests(&mount, NULL) - test_requests(&mount, "forget") -
           test_requests(&mount, "batch_forget");
}

/* Requests that `action` takes; asking for the count takes three itself. */
static unsigned cost(void (*action)(void))
{
    const uint64_t before = requests_now();
    action();
    return (unsigned)(requests_now() - before - 3);
}

/*
 * What it costs again and again. The kernel notes that a read has changed times, which it then
 * asks for once, maybe only after the reader has gone on, and whoever lists all mounts of the
 * machine asks this one, too: what costs something is done once more.
 */
static unsigned lasting_cost(void (*action)(void))
{
    unsigned requests = 1;
    for (unsigned i = 0; requests && i < 5; i++)
        requests = cost(action);
    return requests;
}

static void create_and_write(void)
{
    const int fd = open(at("created"), O_CREAT | O_WRONLY, 0644);
    ck_assert_int_eq(write(fd, "text", 4), 4);
    close(fd);
}

static void create_empty(void)
{
    close(open(at("empty"), O_CREAT | O_WRONLY, 0644));
}

static void append_again(void)
{
    const int fd = open(at("created"), O_WRONLY | O_APPEND);
    ck_assert_int_eq(write(fd, "more", 4), 4);
    close(fd);
}

static void read_file(void)
{
    char buf[16];
    const int fd = open(at("created"), O_RDONLY);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_gt(read(fd, buf, sizeof buf), 0);
    close(fd);
}

static void stat_file(void)
{
    struct stat st;
    ck_assert_int_eq(stat(at("created"), &st), 0);
}

static void stat_absent(void)
{
    struct stat st;
    ck_assert_int_eq(stat(at("absent"), &st), -1);
}

static void sync_file(void)
{
    const int fd = open(at("created"), O_WRONLY);
    ck_assert_int_eq(fsync(fd), 0);
    close(fd);
}

static void rename_file(void)
{
    ck_assert_int_eq(rename(at("empty"), at("renamed")), 0);
}

static void unlink_file(void)
{
    ck_assert_int_eq(unlink(at("renamed")), 0);
}

static void make_directory(void)
{
    ck_assert_int_eq(mkdir(at("made"), 0755), 0);
}

static void list_names(void)
{
    DIR *d = opendir(at("many"));
    unsigned count = 0;
    while (readdir(d))
        count++;
    closedir(d);
    ck_assert_uint_eq(count, ENTRY_COUNT + 2);
}

static void list_attributes(void)
{
    struct stat st;
    DIR *d = opendir(at("many"));
    for (struct dirent *e; (e = readdir(d));)
        ck_assert_int_eq(fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW), 0);
    closedir(d);
}

/*
 * What the kernel asks once in the life of a mount: create, open, opendir and flush are
 * answered by ENOSYS and not sent again.
 */
static void settle(void)
{
    close(open(at("settle"), O_CREAT | O_WRONLY, 0644));
    close(open(at("settle"), O_RDONLY));
    closedir(opendir(mount.dir));
    ck_assert_int_eq(unlink(at("settle")), 0);
}

static void fill_directory(void)
{
    ck_assert_int_eq(mkdir(at("many"), 0755), 0);
    for (unsigned i = 0; i < ENTRY_COUNT; i++)
        close(open(test_path(&mount, "many/entry-%04u", i), O_CREAT | O_WRONLY, 0644));
}

static void remount(void)
{
    ck_assert_int_eq(test_mount_unmount(&mount), 0);
    test_mount_start(&mount);
    settle();
}

static void say(const char *what, unsigned count)
{
    printf("| %-42s | %4u |\n", what, count);
}

START_TEST(what_is_cached_costs_no_request)
{
    create_and_write();
    read_file();
    stat_file();
    ck_assert_uint_eq(lasting_cost(stat_file), 0);
    ck_assert_uint_eq(lasting_cost(read_file), 0);
    stat_absent();
    ck_assert_uint_eq(lasting_cost(stat_absent), 0);

    /*
     * A read from the daemon makes the kernel ask once more for the times of what was read,
     * so the second stat or listing is the first that is free.
     */
    fill_directory();
    list_names();
    list_names();
    ck_assert_uint_eq(lasting_cost(list_names), 0);
    list_attributes();
    list_attributes();
    ck_assert_uint_eq(lasting_cost(list_attributes), 0);
}
END_TEST

static unsigned attributes_asked_for_by_ls(void)
{
    char command[4096];
    const uint64_t before = test_requests(&mount, "getxattr");
    snprintf(command, sizeof command, "ls -l '%s' >/dev/null", at("many"));
    ck_assert_int_eq(system(command), 0);
    return (unsigned)(test_requests(&mount, "getxattr") - before -
                      1); /* that asked for the count */
}

/*
 * ls asks for the SELinux label and the access list of each file. Of the list the kernel keeps the
 * answer; that there are no labels, ls itself.
 */
START_TEST(ls_asks_for_one_attribute_of_each_file_and_then_for_none)
{
    fill_directory();
    remount();
    const unsigned cold = attributes_asked_for_by_ls();
    const unsigned warm = attributes_asked_for_by_ls();
    printf("ls -l of 1,000 files asks for %u attributes, again for %u\n", cold, warm);
    ck_assert_uint_le(cold, ENTRY_COUNT + 4);
    ck_assert_uint_le(warm, 2);
}
END_TEST

START_TEST(ls_asks_for_nothing_of_each_file_without_access_lists)
{
    fill_directory();
    mount.options.acl = FS_ACL_OFF;
    remount();
    const unsigned cold = attributes_asked_for_by_ls();
    printf("with acl=no for %u\n", cold);
    ck_assert_uint_le(cold, 4);
}
END_TEST

START_TEST(the_table_of_requests_per_operation)
{
    settle();
    printf("\n| operation                                  | requests |\n|---|---|\n");
    say("stat of a name that is not there, first", cost(stat_absent));
    say("create, close", cost(create_empty));
    say("create, write, close", cost(create_and_write));
    say("stat after a write", cost(stat_file));
    say("open, append, close", cost(append_again));
    say("open, first read, close", cost(read_file));
    const unsigned warm_read = lasting_cost(read_file);
    say("open, read again, close", warm_read);
    stat_file();
    const unsigned warm_stat = lasting_cost(stat_file);
    say("stat again", warm_stat);
    say("open, fsync, close", cost(sync_file));
    say("rename", cost(rename_file));
    say("unlink", cost(unlink_file));
    say("mkdir", cost(make_directory));

    fill_directory();
    remount();
    say("list 1,000 names, cold", cost(list_names));
    list_names();
    const unsigned warm_list = lasting_cost(list_names);
    say("list 1,000 names again", warm_list);
    remount();
    say("list 1,000 with attributes, cold", cost(list_attributes));
    list_attributes();
    const unsigned warm_attributes = lasting_cost(list_attributes);
    say("list 1,000 with attributes again", warm_attributes);

    ck_assert_uint_eq(warm_read, 0);
    ck_assert_uint_eq(warm_stat, 0);
    ck_assert_uint_eq(warm_list, 0);
    ck_assert_uint_eq(warm_attributes, 0);
}
END_TEST

int main(void)
{
    if (!test_mount_possible())
        return 0;
    Suite *suite = suite_create("mount_requests");
    TCase *tcase = tcase_create("requests");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, what_is_cached_costs_no_request);
    tcase_add_test(tcase, ls_asks_for_one_attribute_of_each_file_and_then_for_none);
    tcase_add_test(tcase, ls_asks_for_nothing_of_each_file_without_access_lists);
    tcase_add_test(tcase, the_table_of_requests_per_operation);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
