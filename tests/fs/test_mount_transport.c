/*
 * tests/fs/test_mount_transport.c: requests come over the ring, or the device, and none is lost
 * between the two, at the beginning, under load, or at the end.
 */
#include "tests/fs/support_mount.h"
#include "tests/run.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define RING_SWITCH "/sys/module/fuse/parameters/enable_uring"

static bool ring_is_offered(void)
{
    FILE *file = fopen(RING_SWITCH, "re");
    if (!file)
        return false;
    const int value = fgetc(file);
    fclose(file);
    return value == 'Y';
}

static struct fs_mount_options over(enum fs_transport_kind transport)
{
    return (struct fs_mount_options){.transport = transport};
}

static void write_file(const char *path, const void *bytes, size_t length)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, length), (ssize_t)length);
    ck_assert_int_eq(close(fd), 0);
}

/* ---- every size of request and reply ------------------------------------------- */

static void check_sizes(enum fs_transport_kind transport)
{
    static const size_t sizes[] = {1,      100,    4095,    4096,          4097,   65536,
                                   131071, 131072, 1 << 20, (1 << 20) + 1, 3 << 20};
    static uint8_t bytes[3 << 20], found[(3 << 20) + 1];
    uint64_t state = test_seed();
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)test_random(&state);
    const struct fs_mount_options options = over(transport);
    struct test_mount mount;
    test_mount_begin(&mount, &options, 64);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const char *path = test_path(&mount, "file%zu", i);
        write_file(path, bytes, sizes[i]);
    }
    ck_assert_int_eq(test_mount_unmount(&mount), 0);
    test_mount_start(&mount);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int fd = open(test_path(&mount, "file%zu", i), O_RDONLY);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(read(fd, found, sizeof found), (ssize_t)sizes[i]);
        ck_assert_mem_eq(found, bytes, sizes[i]);
        close(fd);
    }
    char name[256];
    memset(name, 'n', 255);
    name[255] = '\0';
    ck_assert_int_eq(mkdir(test_path(&mount, "%s", name), 0755), 0);
    ck_assert_int_eq(rmdir(test_path(&mount, "%s", name)), 0);
    test_mount_end(&mount);
}

START_TEST(requests_and_replies_of_all_sizes_pass_over_the_ring)
{
    if (ring_is_offered())
        check_sizes(FS_TRANSPORT_RING);
}
END_TEST

START_TEST(requests_and_replies_of_all_sizes_pass_over_the_device)
{
    check_sizes(FS_TRANSPORT_DEVICE);
}
END_TEST

/* ---- more waiting requests than there are workers -------------------------------- */

#define WRITERS 48
#define ROUNDS  20

struct writer {
    const struct test_mount *mount;
    unsigned number;
    pthread_t thread;
};

static void *write_and_sync(void *argument)
{
    const struct writer *writer = argument;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/writer%u", writer->mount->dir, writer->number);
    const int fd = open(path, O_RDWR | O_CREAT, 0644);
    if (fd < 0)
        return "open";
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned found;
        if (pwrite(fd, &round, sizeof round, (off_t)(round * 4096)) != sizeof round)
            return "write";
        if (fsync(fd))
            return "fsync";
        if (pread(fd, &found, sizeof found, (off_t)(round * 4096)) != sizeof found ||
            found != round)
            return "read";
    }
    return close(fd) ? "close" : NULL;
}

START_TEST(more_requests_wait_for_the_disk_than_there_are_workers)
{
    const struct fs_mount_options options = over(FS_TRANSPORT_AUTO);
    struct test_mount mount;
    test_mount_begin(&mount, &options, 64);
    struct writer writers[WRITERS];
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.mount = &mount, .number = i};
        ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, write_and_sync, &writers[i]), 0);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        void *failed;
        pthread_join(writers[i].thread, &failed);
        ck_assert_ptr_null(failed);
    }
    test_mount_end(&mount);
}
END_TEST

/* ---- the end, with requests on their way ------------------------------------------- */

/* A child that works on the mount until it fails or is killed. */
static pid_t start_load(const struct test_mount *mount, unsigned number)
{
    const pid_t child = fork();
    if (child)
        return child;
    char path[PATH_MAX], other[PATH_MAX];
    snprintf(path, sizeof path, "%s/load%u", mount->dir, number);
    snprintf(other, sizeof other, "%s/moved%u", mount->dir, number);
    for (;;) {
        const int fd = open(path, O_RDWR | O_CREAT, 0644);
        if (fd < 0 || write(fd, "abc", 3) != 3 || (number % 2 && fsync(fd)) || close(fd) ||
            rename(path, other) || unlink(other))
            _exit(0);
    }
}

static void end_under_load(void (*end)(struct test_mount *mount))
{
    const struct fs_mount_options options = over(FS_TRANSPORT_AUTO);
    for (unsigned round = 0; round < 5; round++) {
        struct test_mount mount;
        pid_t load[6];
        test_mount_begin(&mount, &options, 64);
        write_file(test_path(&mount, "kept"), "kept", 4);
        const int fd = open(test_path(&mount, "kept"), O_RDONLY);
        ck_assert_int_eq(fsync(fd), 0);
        close(fd);
        for (unsigned i = 0; i < 6; i++)
            load[i] = start_load(&mount, i);
        usleep(20000 * (round + 1));
        end(&mount);
        for (unsigned i = 0; i < 6; i++) {
            kill(load[i], SIGKILL);
            ck_assert_int_eq(waitpid(load[i], NULL, 0), load[i]);
        }
        test_mount_start(&mount);
        struct stat st;
        ck_assert_int_eq(stat(test_path(&mount, "kept"), &st), 0);
        ck_assert_int_eq(st.st_size, 4);
        test_mount_end(&mount);
    }
}

static void end_by_signal(struct test_mount *mount)
{
    int status;
    ck_assert_int_eq(kill(mount->daemon, SIGTERM), 0);
    ck_assert_int_eq(waitpid(mount->daemon, &status, 0), mount->daemon);
    ck_assert_int_eq(status, 0);
    mount->daemon = 0;
}

START_TEST(a_signal_ends_the_daemon_cleanly_while_requests_come)
{
    end_under_load(end_by_signal);
}
END_TEST

START_TEST(a_daemon_that_is_killed_leaves_no_request_waiting)
{
    end_under_load(test_mount_kill);
}
END_TEST

/* ---- forgets -------------------------------------------------------------------------- */

#define FORGOTTEN 3000u

static uint64_t forget_messages(const struct test_mount *mount)
{
    return test_requests(mount, "forget") + test_requests(mount, "batch_forget");
}

/* Each of the two readers takes one in a millisecond at most, and one at once after a pause. */
START_TEST(forgets_that_come_close_together_come_in_few_messages)
{
    if (!ring_is_offered())
        return;
    const struct fs_mount_options options = over(FS_TRANSPORT_RING);
    struct test_mount mount;
    test_mount_begin(&mount, &options, 64);
    if (mount.options.transport != FS_TRANSPORT_RING) { /* the environment wants the other one */
        test_mount_end(&mount);
        return;
    }
    for (unsigned i = 0; i < FORGOTTEN; i++)
        write_file(test_path(&mount, "file%u", i), "", 0);
    const uint64_t before = forget_messages(&mount), begun_ns = kv_clock_ns();
    for (unsigned i = 0; i < FORGOTTEN; i++)
        ck_assert_int_eq(unlink(test_path(&mount, "file%u", i)), 0);
    const uint64_t count = forget_messages(&mount) - before;
    const uint64_t elapsed = (kv_clock_ns() - begun_ns) / 1000000;
    printf("%u files removed in %llu ms, %llu messages\n", FORGOTTEN, (unsigned long long)elapsed,
           (unsigned long long)count);
    ck_assert_uint_le(count, 2 * (elapsed + 1) + 2);
    test_mount_end(&mount);
}
END_TEST

/* ---- choosing ------------------------------------------------------------------------ */

START_TEST(the_ring_asked_for_by_name_is_had_or_refused_with_the_remedy)
{
    if (ring_is_offered())
        return; /* the sizes above show that it is had */
    char dir[] = "/tmp/kvfs-transport.XXXXXX", image[64], mnt[64];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(image, sizeof image, "%s/image", dir);
    snprintf(mnt, sizeof mnt, "%s/mnt", dir);
    ck_assert_int_eq(mkdir(mnt, 0755), 0);
    struct kv_error error = {.text = ""};
    const struct kv_create_options create = {.size_bytes = 16u << 20};
    ck_assert_int_eq(kv_create(image, &create, &error), 0);
    struct fs_mount_options options = over(FS_TRANSPORT_RING);
    options.image = image;
    options.dir = mnt;
    struct fs_mount *mount;
    ck_assert_int_ne(fs_mount_open(&options, &mount, &error), 0);
    unlink(image);
    rmdir(mnt);
    rmdir(dir);
}
END_TEST

int main(void)
{
    if (!test_mount_possible())
        return EXIT_SUCCESS;
    Suite *suite = suite_create("transport");
    TCase *tests = tcase_create("transport");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, requests_and_replies_of_all_sizes_pass_over_the_ring);
    tcase_add_test(tests, requests_and_replies_of_all_sizes_pass_over_the_device);
    tcase_add_test(tests, more_requests_wait_for_the_disk_than_there_are_workers);
    tcase_add_test(tests, a_signal_ends_the_daemon_cleanly_while_requests_come);
    tcase_add_test(tests, a_daemon_that_is_killed_leaves_no_request_waiting);
    tcase_add_test(tests, forgets_that_come_close_together_come_in_few_messages);
    tcase_add_test(tests, the_ring_asked_for_by_name_is_had_or_refused_with_the_remedy);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
