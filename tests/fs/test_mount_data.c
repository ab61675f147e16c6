/*
 * tests/fs/test_mount_data.c: content, through the kernel, against plain files beside it.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "one_mount.h"
#include "tests/run.h"

static int make(const char *name)
{
    const int fd = open(at(name), O_CREAT | O_TRUNC | O_RDWR, 0644);
    ck_assert_msg(fd >= 0, "%s: %s", name, strerror(errno));
    return fd;
}

static void expect_same(int fd, int model)
{
    static char a[1 << 16], b[1 << 16];
    struct stat sa, sb;
    ck_assert_int_eq(fstat(fd, &sa), 0);
    ck_assert_int_eq(fstat(model, &sb), 0);
    ck_assert_int_eq(sa.st_size, sb.st_size);
    for (off_t offset = 0; offset < sb.st_size; offset += (off_t)sizeof b) {
        const ssize_t want = pread(model, b, sizeof b, offset);
        ck_assert_int_eq(pread(fd, a, sizeof a, offset), want);
        ck_assert_msg(memcmp(a, b, (size_t)want) == 0, "content differs behind %lld",
                      (long long)offset);
    }
}

/* Random writes, truncations and holes on the mount and on a file of the host alike. */
static void compare_with_model(int flags, uint64_t limit, unsigned steps)
{
    uint64_t state = test_seed();
    static char bytes[200000];
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/model", mount.base);
    const int model = open(path, O_CREAT | O_TRUNC | O_RDWR, 0600);
    int fd = make("random");
    ck_assert_int_ge(model, 0);
    for (unsigned step = 0; step < steps; step++) {
        const off_t offset = (off_t)test_below(&state, limit);
        const size_t length = 1 + test_below(&state, test_below(&state, 4) ? 5000 : sizeof bytes);
        switch (test_below(&state, 10)) {
        case 0:
            ck_assert_int_eq(ftruncate(fd, offset), 0);
            ck_assert_int_eq(ftruncate(model, offset), 0);
            break;
        case 1: {
            const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
            ck_assert_int_eq(fallocate(fd, mode, offset, (off_t)length), 0);
            ck_assert_int_eq(fallocate(model, mode, offset, (off_t)length), 0);
            break;
        }
        case 2:
            ck_assert_int_eq(fallocate(fd, 0, offset, (off_t)length), 0);
            ck_assert_int_eq(fallocate(model, 0, offset, (off_t)length), 0);
            break;
        case 3:
            if (flags & O_DIRECT)
                break;
            close(fd);
            fd = open(at("random"), O_RDWR);
            ck_assert_int_ge(fd, 0);
            break;
        default:
            for (size_t i = 0; i < length; i += 8) {
                const uint64_t word = test_random(&state);
                memcpy(bytes + i, &word, length - i < 8 ? length - i : 8);
            }
            ck_assert_int_eq(pwrite(fd, bytes, length, offset), (ssize_t)length);
            ck_assert_int_eq(pwrite(model, bytes, length, offset), (ssize_t)length);
        }
        if (step % 20 == 0)
            expect_same(fd, model);
    }
    expect_same(fd, model);
    ck_assert_int_eq(fsync(fd), 0);
    ck_assert_int_eq(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    expect_same(fd, model);
    close(fd);
    close(model);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(unlink(at("random")), 0);
}

START_TEST(small_files_behave_like_those_of_the_host)
{
    compare_with_model(0, 20000, 300);
}
END_TEST

START_TEST(large_files_behave_like_those_of_the_host)
{
    compare_with_model(0, 4 << 20, 300);
}
END_TEST

START_TEST(mapped_pages_are_the_file)
{
    const size_t length = 100 * 4096 + 123;
    const int fd = make("mapped");
    ck_assert_int_eq(ftruncate(fd, (off_t)length), 0);
    uint8_t *map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(map, MAP_FAILED);
    for (size_t i = 0; i < length; i += 1000)
        map[i] = (uint8_t)(i / 1000);
    ck_assert_int_eq(msync(map, length, MS_SYNC), 0);
    ck_assert_int_eq(munmap(map, length), 0);
    ck_assert_int_eq(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    for (size_t i = 0; i < length; i += 1000) {
        uint8_t byte;
        ck_assert_int_eq(pread(fd, &byte, 1, (off_t)i), 1);
        ck_assert_uint_eq(byte, (uint8_t)(i / 1000));
    }
    uint8_t *own = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    ck_assert_ptr_ne(own, MAP_FAILED);
    own[2000] = 99;
    uint8_t byte;
    ck_assert_int_eq(pread(fd, &byte, 1, 2000), 1);
    ck_assert_uint_eq(byte, 2);
    ck_assert_int_eq(munmap(own, length), 0);
    close(fd);
    ck_assert_int_eq(unlink(at("mapped")), 0);
}
END_TEST

START_TEST(appending_writers_do_not_overwrite_each_other)
{
    char line[16];
    const int a = open(at("log"), O_CREAT | O_WRONLY | O_APPEND, 0644);
    const int b = open(at("log"), O_WRONLY | O_APPEND);
    ck_assert_int_ge(a, 0);
    ck_assert_int_ge(b, 0);
    for (int i = 0; i < 500; i++) {
        snprintf(line, sizeof line, "%07d\n", i);
        ck_assert_int_eq(write(i % 2 ? a : b, line, 8), 8);
    }
    close(a);
    close(b);
    const int fd = open(at("log"), O_RDONLY);
    for (int i = 0; i < 500; i++) {
        char back[9] = "";
        snprintf(line, sizeof line, "%07d\n", i);
        ck_assert_int_eq(read(fd, back, 8), 8);
        ck_assert_str_eq(back, line);
    }
    close(fd);
    ck_assert_int_eq(unlink(at("log")), 0);
}
END_TEST

START_TEST(direct_io_reads_what_buffered_io_wrote_and_the_other_way_round)
{
    char *buf = aligned_alloc(4096, 65536);
    int fd = make("direct");
    memset(buf, 'b', 65536);
    ck_assert_int_eq(pwrite(fd, buf, 65536, 0), 65536);
    close(fd);
    fd = open(at("direct"), O_RDWR | O_DIRECT);
    ck_assert_int_ge(fd, 0);
    memset(buf, 0, 65536);
    ck_assert_int_eq(pread(fd, buf, 65536, 0), 65536);
    ck_assert_int_eq(buf[0], 'b');
    ck_assert_int_eq(buf[65535], 'b');
    memset(buf, 'd', 4096);
    ck_assert_int_eq(pwrite(fd, buf, 4096, 8192), 4096);
    ck_assert_int_eq(pwrite(fd, buf, 100, 65536 + 17), 100); /* alignment is not asked for */
    close(fd);
    fd = open(at("direct"), O_RDONLY);
    ck_assert_int_eq(pread(fd, buf, 65536, 0), 65536);
    ck_assert_int_eq(buf[8191], 'b');
    ck_assert_int_eq(buf[8192], 'd');
    ck_assert_int_eq(buf[12287], 'd');
    ck_assert_int_eq(buf[12288], 'b');
    ck_assert_int_eq(pread(fd, buf, 200, 65536), 117);
    ck_assert_int_eq(buf[16], 0);
    ck_assert_int_eq(buf[17], 'd');
    close(fd);
    free(buf);
    ck_assert_int_eq(unlink(at("direct")), 0);
}
END_TEST

START_TEST(truncation_at_open_empties_the_file)
{
    int fd = make("emptied");
    ck_assert_int_eq(write(fd, "content", 7), 7);
    close(fd);
    fd = open(at("emptied"), O_WRONLY | O_TRUNC);
    ck_assert_int_ge(fd, 0);
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_size, 0);
    ck_assert_int_eq(st.st_blocks, 0);
    close(fd);
    ck_assert_int_eq(unlink(at("emptied")), 0);
}
END_TEST

START_TEST(a_file_may_be_as_large_as_an_offset_can_say)
{
    char buf[8];
    const int fd = make("huge");
    const off_t end = (off_t)(INT64_MAX - 8);
    ck_assert_int_eq(pwrite(fd, "the end", 7, end), 7);
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_size, end + 7);
    ck_assert_int_lt(st.st_blocks, 64);
    ck_assert_int_eq(pread(fd, buf, 8, end), 7);
    ck_assert_int_eq(memcmp(buf, "the end", 7), 0);
    ck_assert_int_eq(pread(fd, buf, 8, (off_t)1 << 40), 8);
    ck_assert_int_eq(memcmp(buf, "\0\0\0\0\0\0\0\0", 8), 0);
    close(fd);
    ck_assert_int_eq(unlink(at("huge")), 0);
}
END_TEST

START_TEST(holes_can_be_found)
{
    char *block = calloc(1, 65536);
    memset(block, 'x', 65536);
    const int fd = make("sparse");
    ck_assert_int_eq(pwrite(fd, block, 65536, 1 << 20), 65536);
    ck_assert_int_eq(pwrite(fd, block, 65536, 4 << 20), 65536);
    ck_assert_int_eq(lseek(fd, 0, SEEK_DATA), 1 << 20);
    ck_assert_int_eq(lseek(fd, 1 << 20, SEEK_HOLE), (1 << 20) + 65536);
    ck_assert_int_eq(lseek(fd, 2 << 20, SEEK_DATA), 4 << 20);
    ck_assert_int_eq(lseek(fd, 4 << 20, SEEK_HOLE), (4 << 20) + 65536);
    ck_assert_int_eq(lseek(fd, (4 << 20) + 65536, SEEK_DATA), -1);
    ck_assert_int_eq(errno, ENXIO);
    ck_assert_int_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 65536), 0);
    ck_assert_int_eq(lseek(fd, 0, SEEK_DATA), 4 << 20);
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_blocks, 128);
    close(fd);
    free(block);
    ck_assert_int_eq(unlink(at("sparse")), 0);
}
END_TEST

START_TEST(preallocation_keeps_or_grows_the_size)
{
    const int fd = make("prealloc");
    struct stat st;
    ck_assert_int_eq(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 1 << 20), 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_size, 0);
    ck_assert_int_eq(st.st_blocks, 2048);
    ck_assert_int_eq(fallocate(fd, 0, 0, 1 << 21), 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_size, 1 << 21);
    ck_assert_int_eq(fallocate(fd, FALLOC_FL_ZERO_RANGE, 100, 1000), 0);
    close(fd);
    ck_assert_int_eq(unlink(at("prealloc")), 0);
}
END_TEST

START_TEST(a_copied_range_is_a_copy)
{
    static char bytes[3 << 20], back[3 << 20];
    uint64_t state = test_seed();
    for (size_t i = 0; i < sizeof bytes; i += 8) {
        const uint64_t word = test_random(&state);
        memcpy(bytes + i, &word, 8);
    }
    const int from = make("copy-from"), to = make("copy-to");
    ck_assert_int_eq(write(from, bytes, sizeof bytes), (ssize_t)sizeof bytes);
    size_t done = 0;
    off_t in = 0, out = 0;
    while (done < sizeof bytes) {
        const ssize_t got = copy_file_range(from, &in, to, &out, sizeof bytes - done, 0);
        ck_assert_int_gt(got, 0);
        done += (size_t)got;
    }
    ck_assert_int_eq(pwrite(from, "overwritten", 11, 5000), 11);
    ck_assert_int_eq(pread(to, back, sizeof back, 0), (ssize_t)sizeof back);
    ck_assert_int_eq(memcmp(bytes, back, sizeof back), 0);
    ck_assert_int_eq(ftruncate(from, 0), 0);
    ck_assert_int_eq(posix_fadvise(to, 0, 0, POSIX_FADV_DONTNEED), 0);
    ck_assert_int_eq(pread(to, back, sizeof back, 0), (ssize_t)sizeof back);
    ck_assert_int_eq(memcmp(bytes, back, sizeof back), 0);
    close(from);
    close(to);
    ck_assert_int_eq(unlink(at("copy-from")), 0);
    ck_assert_int_eq(unlink(at("copy-to")), 0);
}
END_TEST

START_TEST(everything_is_there_after_a_remount)
{
    static char bytes[300000], back[300000];
    struct test_mount own;
    test_mount_begin(&own, NULL, 64);
    memset(bytes, 'r', sizeof bytes);
    int fd = open(test_path(&own, "big"), O_CREAT | O_WRONLY, 0600);
    ck_assert_int_eq(write(fd, bytes, sizeof bytes), (ssize_t)sizeof bytes);
    close(fd);
    fd = open(test_path(&own, "small"), O_CREAT | O_WRONLY, 0600);
    ck_assert_int_eq(write(fd, "tiny", 4), 4);
    close(fd);
    ck_assert_int_eq(test_mount_unmount(&own), 0);
    test_mount_start(&own);
    fd = open(test_path(&own, "big"), O_RDONLY);
    ck_assert_int_eq(read(fd, back, sizeof back), (ssize_t)sizeof back);
    ck_assert_int_eq(memcmp(bytes, back, sizeof back), 0);
    close(fd);
    fd = open(test_path(&own, "small"), O_RDONLY);
    ck_assert_int_eq(read(fd, back, sizeof back), 4);
    ck_assert_int_eq(memcmp(back, "tiny", 4), 0);
    close(fd);
    test_mount_end(&own);
}
END_TEST

START_TEST(a_write_the_kernel_still_holds_is_no_hole)
{
    struct test_mount own;
    const struct fs_mount_options options = {.writeback = true};
    char back[16] = "";
    test_mount_begin(&own, &options, 64);
    int fd = open(test_path(&own, "gathered"), O_CREAT | O_RDWR, 0644);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, "data", 4, 100000), 4);
    ck_assert_int_le(lseek(fd, 0, SEEK_DATA), 100000);
    ck_assert_int_ge(lseek(fd, 0, SEEK_DATA), 0);
    ck_assert_int_eq(lseek(fd, 100000, SEEK_HOLE), 100004);
    close(fd);
    ck_assert_int_eq(test_mount_unmount(&own), 0);
    test_mount_start(&own);
    fd = open(test_path(&own, "gathered"), O_RDONLY);
    ck_assert_int_eq(pread(fd, back, sizeof back, 100000), 4);
    ck_assert_str_eq(back, "data");
    close(fd);
    test_mount_end(&own);
}
END_TEST

int main(void)
{
    if (!test_mount_possible())
        return 0;
    Suite *suite = suite_create("mount_data");
    TCase *tcase = tcase_create("content");
    tcase_set_timeout(tcase, 120);
    tcase_add_unchecked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, small_files_behave_like_those_of_the_host);
    tcase_add_test(tcase, large_files_behave_like_those_of_the_host);
    tcase_add_test(tcase, mapped_pages_are_the_file);
    tcase_add_test(tcase, appending_writers_do_not_overwrite_each_other);
    tcase_add_test(tcase, direct_io_reads_what_buffered_io_wrote_and_the_other_way_round);
    tcase_add_test(tcase, truncation_at_open_empties_the_file);
    tcase_add_test(tcase, a_file_may_be_as_large_as_an_offset_can_say);
    tcase_add_test(tcase, holes_can_be_found);
    tcase_add_test(tcase, preallocation_keeps_or_grows_the_size);
    tcase_add_test(tcase, a_copied_range_is_a_copy);
    tcase_add_test(tcase, everything_is_there_after_a_remount);
    tcase_add_test(tcase, a_write_the_kernel_still_holds_is_no_hole);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
