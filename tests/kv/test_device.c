/*
 * tests/kv/test_device.c: tests kv/device*.c.
 *
 * Files live in a fresh directory under $TMPDIR or /tmp. What is not there everywhere (O_DIRECT,
 * hole punching) is only asked not to do harm.
 */
#include "kv/device.h"
#include "tests/run.h"

#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define IMAGE_BLOCKS 2048u

static char directory[256];
static char image[300];

static void make_image(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%s/kvfs-device-XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(image, sizeof image, "%s/image", directory);
    const int fd = open(image, O_RDWR | O_CREAT | O_EXCL, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)IMAGE_BLOCKS * KV_BLOCK_BYTES), 0);
    close(fd);
}

static void remove_image(void)
{
    (void)unlink(image); /* some tests did it themselves */
    ck_assert_int_eq(rmdir(directory), 0);
}

static struct kv_device *open_image(unsigned flags)
{
    struct kv_device *device = NULL;
    struct kv_error error = {""};
    const int err = kv_device_open(image, flags, &device, &error);
    ck_assert_msg(err == 0, "open: %d %s", err, error.text);
    return device;
}

static uint8_t *alloc_blocks(uint32_t block_count)
{
    uint8_t *bytes = kv_device_alloc((size_t)block_count * KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(bytes);
    return bytes;
}

/* Bytes that say which block they are and who wrote them. */
static void fill(uint8_t *bytes, uint64_t block, uint32_t block_count, uint64_t writer)
{
    for (size_t i = 0; i < (size_t)block_count * KV_BLOCK_BYTES; i += 16) {
        const uint64_t stamp[2] = {block + i / KV_BLOCK_BYTES, writer * 1000003u + i};
        memcpy(bytes + i, stamp, sizeof stamp);
    }
}

static void check_filled(const uint8_t *bytes, uint64_t block, uint32_t block_count,
                         uint64_t writer)
{
    uint8_t *expected = alloc_blocks(block_count);
    fill(expected, block, block_count, writer);
    ck_assert_int_eq(memcmp(bytes, expected, (size_t)block_count * KV_BLOCK_BYTES), 0);
    free(expected);
}

START_TEST(what_is_written_is_read_back_also_after_reopening)
{
    uint8_t *bytes = alloc_blocks(3);
    fill(bytes, 7, 3, 1);
    struct kv_device *device = open_image(0);
    ck_assert_uint_eq(device->block_count, IMAGE_BLOCKS);
    ck_assert_int_eq(kv_device_write(device, 7, 3, bytes), 0);
    ck_assert_int_eq(kv_device_flush(device), 0);
    kv_device_close(device);

    device = open_image(KV_DEVICE_BUFFERED);
    ck_assert(!device->direct_io);
    memset(bytes, 0, 3 * KV_BLOCK_BYTES);
    ck_assert_int_eq(kv_device_read(device, 7, 3, bytes), 0);
    check_filled(bytes, 7, 3, 1);
    kv_device_close(device);
    free(bytes);
}
END_TEST

START_TEST(more_requests_than_a_ring_holds_are_all_done)
{
    enum { COUNT = 300 };
    static struct kv_io ios[COUNT];
    struct kv_device *device = open_image(_i ? KV_DEVICE_BUFFERED : 0);
    uint8_t *bytes = alloc_blocks(COUNT * 2);
    for (uint32_t i = 0; i < COUNT; i++) {
        uint8_t *buf = bytes + (size_t)i * 2 * KV_BLOCK_BYTES;
        fill(buf, i * 5, 2, i);
        ios[i] = (struct kv_io){
            .kind = KV_IO_WRITE, .block = i * 5, .block_count = 2, .buf = buf, .result = 1};
    }
    ck_assert_int_eq(kv_device_submit(device, ios, COUNT, true), 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        ck_assert_int_eq(ios[i].result, 0);
        ios[i].kind = KV_IO_READ;
        ios[i].result = 1;
    }
    memset(bytes, 0, (size_t)COUNT * 2 * KV_BLOCK_BYTES);
    ck_assert_int_eq(kv_device_submit(device, ios, COUNT, false), 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        ck_assert_int_eq(ios[i].result, 0);
        check_filled(ios[i].buf, i * 5, 2, i);
    }
    kv_device_close(device);
    free(bytes);
}
END_TEST

/* One thread, several times as many requests as a ring has entries, twice at the same time. */
START_TEST(requests_are_under_way_until_they_are_waited_for)
{
    enum { COUNT = 150 };
    static struct kv_io ios[2][COUNT];
    struct kv_device *device = open_image(_i ? KV_DEVICE_BUFFERED : 0);
    uint8_t *bytes = alloc_blocks(2 * COUNT);
    struct kv_device_flight *flights[2];
    for (unsigned pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < 2 * COUNT; i++) {
            uint8_t *buf = bytes + (size_t)i * KV_BLOCK_BYTES;
            if (pass == 0)
                fill(buf, i, 1, 3);
            ios[i / COUNT][i % COUNT] = (struct kv_io){.kind = pass == 0 ? KV_IO_WRITE : KV_IO_READ,
                                                       .block = i,
                                                       .block_count = 1,
                                                       .buf = buf,
                                                       .result = 1};
        }
        for (unsigned i = 0; i < 2; i++) {
            flights[i] = kv_device_begin(device, ios[i], COUNT);
            ck_assert_ptr_nonnull(flights[i]);
        }
        for (unsigned i = 0; i < 2; i++)
            ck_assert_int_eq(kv_device_end(device, flights[i]), 0);
        for (uint32_t i = 0; i < 2 * COUNT; i++) {
            ck_assert_int_eq(ios[i / COUNT][i % COUNT].result, 0);
            check_filled(bytes + (size_t)i * KV_BLOCK_BYTES, i, 1, 3);
        }
        memset(bytes, 0, (size_t)2 * COUNT * KV_BLOCK_BYTES);
    }
    ck_assert_uint_eq(device->counts.writes, 2 * COUNT);
    ck_assert_uint_eq(device->counts.reads, 2 * COUNT);

    ck_assert_int_eq(truncate(image, 10 * KV_BLOCK_BYTES), 0);
    flights[0] = kv_device_begin(device, ios[0], COUNT);
    ck_assert_ptr_nonnull(flights[0]);
    ck_assert_int_eq(kv_device_end(device, flights[0]), -EIO);
    ck_assert_int_eq(ios[0][9].result, 0);
    ck_assert_int_eq(ios[0][10].result, -EIO);
    kv_device_close(device);
    free(bytes);
}
END_TEST

/* Whoever waits for a ring with rings in hand would wait for himself. */
START_TEST(no_more_is_begun_than_there_are_rings)
{
    enum { MANY = 100 };
    struct kv_io ios[MANY];
    struct kv_device_flight *flights[MANY];
    struct kv_device *device = open_image(0);
    uint8_t *bytes = alloc_blocks(MANY);
    unsigned count = 0;
    for (; count < MANY; count++) {
        ios[count] = (struct kv_io){.kind = KV_IO_WRITE,
                                    .block = count,
                                    .block_count = 1,
                                    .buf = bytes + (size_t)count * KV_BLOCK_BYTES};
        flights[count] = kv_device_begin(device, &ios[count], 1);
        if (!flights[count])
            break;
    }
    ck_assert_uint_gt(count, 1);
    ck_assert_uint_lt(count, MANY);
    ck_assert_uint_eq(device->counts.writes, count);
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(kv_device_end(device, flights[i]), 0);
    ck_assert_int_eq(kv_device_submit(device, ios, count, false), 0);

    ios[0].block = IMAGE_BLOCKS;
    ck_assert_ptr_null(kv_device_begin(device, ios, 1));
    kv_device_close(device);
    device = open_image(KV_DEVICE_READ_ONLY);
    ios[0].block = 0;
    ck_assert_ptr_null(kv_device_begin(device, ios, 1));
    kv_device_close(device);
    free(bytes);
}
END_TEST

START_TEST(one_write_with_a_flush_is_done_and_counted)
{
    struct kv_device *device = open_image(_i ? KV_DEVICE_BUFFERED : 0);
    uint8_t *bytes = alloc_blocks(1);
    for (uint64_t block = 0; block < 20; block++) {
        fill(bytes, block, 1, 4);
        struct kv_io io = {.kind = KV_IO_WRITE, .block = block, .block_count = 1, .buf = bytes};
        ck_assert_int_eq(kv_device_submit(device, &io, 1, true), 0);
        ck_assert_int_eq(io.result, 0);
    }
    for (uint64_t block = 0; block < 20; block++) {
        ck_assert_int_eq(kv_device_read(device, block, 1, bytes), 0);
        check_filled(bytes, block, 1, 4);
    }
    ck_assert_uint_eq(device->counts.writes, 20);
    ck_assert_uint_eq(device->counts.write_bytes, 20 * KV_BLOCK_BYTES);
    ck_assert_uint_eq(device->counts.flushes, 20);
    ck_assert_uint_eq(device->counts.reads, 20);
    kv_device_close(device);
    free(bytes);
}
END_TEST

START_TEST(a_range_outside_the_device_is_refused_and_nothing_is_done)
{
    struct kv_device *device = open_image(0);
    uint8_t *bytes = alloc_blocks(2);
    fill(bytes, 0, 2, 9);
    struct kv_io ios[2] = {
        {.kind = KV_IO_WRITE, .block = 0, .block_count = 1, .buf = bytes},
        {.kind = KV_IO_WRITE, .block = IMAGE_BLOCKS - 1, .block_count = 2, .buf = bytes}};
    ck_assert_int_eq(kv_device_submit(device, ios, 2, false), -EINVAL);
    ck_assert_int_eq(ios[0].result, -ECANCELED);
    ck_assert_int_eq(ios[1].result, -EINVAL);
    ck_assert_int_eq(kv_device_read(device, UINT64_MAX, 2, bytes), -EINVAL);
    ck_assert_int_eq(kv_device_read(device, 3, 0, bytes), -EINVAL);
    ck_assert_int_eq(kv_device_discard(device, IMAGE_BLOCKS, 1), -EINVAL);
    ck_assert_int_eq(kv_device_zero(device, IMAGE_BLOCKS - 1, 2), -EINVAL);
    ck_assert_int_eq(kv_device_reserve(device, UINT64_MAX, 1), -EINVAL);
    ios[1].kind = KV_IO_READ;
    int descriptor;
    ck_assert_int_eq(kv_device_describe_read(device, &ios[1], &descriptor), -EINVAL);
    /* Of what is not there nobody needs to ask the host. */
    ck_assert(kv_device_is_written(device, IMAGE_BLOCKS - 1, 2));

    ck_assert_int_eq(kv_device_read(device, 0, 1, bytes), 0);
    const uint8_t zeros[KV_BLOCK_BYTES] = {0};
    ck_assert_int_eq(memcmp(bytes, zeros, KV_BLOCK_BYTES), 0);
    ck_assert_uint_eq(device->counts.writes, 0);
    kv_device_close(device);
    free(bytes);
}
END_TEST

START_TEST(reading_where_the_file_was_cut_off_is_an_io_error)
{
    struct kv_device *device = open_image(_i ? KV_DEVICE_BUFFERED : 0);
    uint8_t *bytes = alloc_blocks(8);
    /* One end on a block, one inside a sector. */
    const off_t ends[2] = {10 * KV_BLOCK_BYTES, 9 * KV_BLOCK_BYTES + 100};
    for (size_t i = 0; i < 2; i++) {
        ck_assert_int_eq(truncate(image, ends[i]), 0);
        ck_assert_int_eq(kv_device_read(device, 8, 8, bytes), -EIO);
        ck_assert_int_eq(kv_device_read(device, 100, 1, bytes), -EIO);
        ck_assert_int_eq(kv_device_read(device, 8, 1, bytes), 0);
    }
    kv_device_close(device);
    free(bytes);
}
END_TEST

START_TEST(a_failed_request_keeps_the_flush_from_succeeding_but_not_the_others)
{
    struct kv_device *device = open_image(0);
    uint8_t *bytes = alloc_blocks(2);
    ck_assert_int_eq(truncate(image, 10 * KV_BLOCK_BYTES), 0);
    fill(bytes, 3, 1, 5);
    struct kv_io ios[2] = {
        {.kind = KV_IO_READ, .block = 20, .block_count = 1, .buf = bytes + KV_BLOCK_BYTES},
        {.kind = KV_IO_WRITE, .block = 3, .block_count = 1, .buf = bytes}};
    ck_assert_int_eq(kv_device_submit(device, ios, 2, true), -EIO);
    ck_assert_int_eq(ios[0].result, -EIO);
    ck_assert_int_eq(ios[1].result, 0);
    ck_assert_int_eq(kv_device_read(device, 3, 1, bytes), 0);
    check_filled(bytes, 3, 1, 5);
    kv_device_close(device);
    free(bytes);
}
END_TEST

START_TEST(a_read_only_device_refuses_writes)
{
    struct kv_device *device = open_image(KV_DEVICE_READ_ONLY);
    uint8_t *bytes = alloc_blocks(1);
    ck_assert_int_eq(kv_device_write(device, 0, 1, bytes), -EROFS);
    ck_assert_int_eq(kv_device_discard(device, 0, 1), -EROFS);
    ck_assert_int_eq(kv_device_read(device, 0, 1, bytes), 0);
    kv_device_close(device);
    free(bytes);
}
END_TEST

START_TEST(a_discarded_range_can_be_used_again)
{
    struct kv_device *device = open_image(0);
    uint8_t *bytes = alloc_blocks(4);
    fill(bytes, 40, 4, 6);
    ck_assert_int_eq(kv_device_write(device, 40, 4, bytes), 0);
    const int err = kv_device_discard(device, 41, 2);
    ck_assert(err == 0 || err == -EOPNOTSUPP);
    ck_assert_int_eq(kv_device_read(device, 40, 4, bytes), 0);
    check_filled(bytes, 40, 1, 6);
    if (!err)
        ck_assert_uint_eq(bytes[KV_BLOCK_BYTES], 0);

    struct stat status;
    ck_assert_int_eq(stat(image, &status), 0);
    ck_assert_int_eq(status.st_size, (off_t)IMAGE_BLOCKS * KV_BLOCK_BYTES);
    fill(bytes, 40, 4, 7);
    ck_assert_int_eq(kv_device_write(device, 40, 4, bytes), 0);
    kv_device_close(device);
    free(bytes);
}
END_TEST

/* ---- opening and locking -------------------------------------------------- */

static void check_open_fails(const char *path, unsigned flags, int expected, const char *word)
{
    struct kv_device *device = NULL;
    struct kv_error error = {""};
    ck_assert_int_eq(kv_device_open(path, flags, &device, &error), expected);
    ck_assert_ptr_null(device);
    ck_assert_msg(strstr(error.text, path) != NULL, "'%s' does not name %s", error.text, path);
    ck_assert_msg(strstr(error.text, word) != NULL, "'%s' lacks '%s'", error.text, word);
    ck_assert_int_eq(kv_device_open(path, flags, &device, NULL), expected);
}

START_TEST(opening_says_what_is_wrong_and_what_to_do)
{
    char missing[400];
    snprintf(missing, sizeof missing, "%s-missing", image);
    check_open_fails(missing, 0, -ENOENT, "mkfs.kvfs");
    check_open_fails(directory, 0, -EINVAL, "block device");
    check_open_fails("/dev/null", 0, -EINVAL, "block device");
    if (geteuid() != 0) {
        ck_assert_int_eq(chmod(image, 0), 0);
        check_open_fails(image, 0, -EACCES, "permissions");
    }
}
END_TEST

START_TEST(a_second_open_is_refused_and_names_the_holder)
{
    char pid_text[32];
    snprintf(pid_text, sizeof pid_text, "process %d", (int)getpid());
    ck_assert_int_eq(kv_image_holder(image), 0);

    struct kv_device *device = open_image(_i ? KV_DEVICE_READ_ONLY : 0);
    check_open_fails(image, 0, -EBUSY, pid_text);
    check_open_fails(image, KV_DEVICE_READ_ONLY, -EBUSY, pid_text);
    ck_assert_int_eq(kv_image_holder(image), getpid());
    struct kv_device *unlocked = open_image(KV_DEVICE_READ_ONLY | KV_DEVICE_NO_LOCK);
    kv_device_close(unlocked);
    kv_device_close(device);

    ck_assert_int_eq(kv_image_holder(image), 0);
    device = open_image(0);
    kv_device_close(device);
}
END_TEST

START_TEST(the_image_of_a_process_that_was_just_killed_can_be_opened)
{
    /* Much memory, so that the kernel is a while about ending the process. */
    const size_t memory_bytes = 256u << 20;
    int ready[2];
    ck_assert_int_eq(pipe(ready), 0);
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        char *const memory = malloc(memory_bytes);
        const int fd = open(image, O_RDWR);
        if (!memory || fd < 0 || flock(fd, LOCK_EX | LOCK_NB))
            _exit(1);
        memset(memory, 1, memory_bytes);
        if (write(ready[1], "r", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char byte;
    ck_assert_int_eq((int)read(ready[0], &byte, 1), 1);
    check_open_fails(image, 0, -EBUSY, "process");
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    kv_device_close(open_image(0));
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    close(ready[0]);
    close(ready[1]);
}
END_TEST

START_TEST(a_holder_that_inherited_the_lock_is_found)
{
    /* The process that takes the lock ends; its child keeps it. */
    int ready[2];
    ck_assert_int_eq(pipe(ready), 0);
    const pid_t parent = fork();
    ck_assert_int_ge(parent, 0);
    if (parent == 0) {
        const int fd = open(image, O_RDWR);
        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB))
            _exit(1);
        const pid_t child = fork();
        if (child == 0) {
            pause();
            _exit(0);
        }
        _exit(write(ready[1], &child, sizeof child) == sizeof child ? 0 : 1);
    }
    pid_t child = 0;
    ck_assert_int_eq(waitpid(parent, NULL, 0), parent);
    ck_assert_int_eq(read(ready[0], &child, sizeof child), sizeof child);
    ck_assert_int_gt(child, 0);

    const int holder = kv_image_holder(image);
    kill(child, SIGKILL);
    close(ready[0]);
    close(ready[1]);
    ck_assert_int_eq(holder, child);
}
END_TEST

/* ---- many threads --------------------------------------------------------- */

enum { THREAD_COUNT = 24, THREAD_ROUNDS = 40, THREAD_BLOCKS = 32 };

struct worker {
    pthread_t thread;
    struct kv_device *device;
    uint64_t number;
    int result;
};

/* Write and read back blocks that are this worker's alone. */
static void *work(void *argument)
{
    struct worker *worker = argument;
    const uint64_t first = worker->number * THREAD_BLOCKS;
    uint8_t *bytes = kv_device_alloc(THREAD_BLOCKS * KV_BLOCK_BYTES);
    uint8_t *expected = kv_device_alloc(THREAD_BLOCKS * KV_BLOCK_BYTES);
    for (uint64_t round = 0; round < THREAD_ROUNDS && !worker->result; round++) {
        struct kv_io ios[4];
        fill(expected, first, THREAD_BLOCKS, round * 100 + worker->number);
        memcpy(bytes, expected, THREAD_BLOCKS * KV_BLOCK_BYTES);
        for (size_t i = 0; i < 4; i++)
            ios[i] = (struct kv_io){.kind = KV_IO_WRITE,
                                    .block = first + i * 8,
                                    .block_count = 8,
                                    .buf = bytes + i * 8 * KV_BLOCK_BYTES};
        worker->result = kv_device_submit(worker->device, ios, 4, round % 16 == 0);
        memset(bytes, 0, THREAD_BLOCKS * KV_BLOCK_BYTES);
        if (!worker->result)
            worker->result = kv_device_read(worker->device, first, THREAD_BLOCKS, bytes);
        if (!worker->result && memcmp(bytes, expected, THREAD_BLOCKS * KV_BLOCK_BYTES))
            worker->result = -EBADMSG;
    }
    free(bytes);
    free(expected);
    return NULL;
}

START_TEST(more_threads_than_rings_share_a_device)
{
    struct worker workers[THREAD_COUNT];
    struct kv_device *device = open_image(0);
    if (_i) {
        struct kv_device *overlay = NULL;
        ck_assert_int_eq(kv_device_overlay(device, &overlay), 0);
        device = overlay;
    }
    for (uint64_t i = 0; i < THREAD_COUNT; i++) {
        workers[i] = (struct worker){.device = device, .number = i};
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (size_t i = 0; i < THREAD_COUNT; i++) {
        ck_assert_int_eq(pthread_join(workers[i].thread, NULL), 0);
        ck_assert_int_eq(workers[i].result, 0);
    }
    kv_device_close(device);
}
END_TEST

/* ---- overlay -------------------------------------------------------------- */

START_TEST(an_overlay_reads_as_written_and_leaves_the_image_alone)
{
    uint8_t *bytes = alloc_blocks(IMAGE_BLOCKS);
    struct kv_device *below = open_image(0);
    fill(bytes, 0, IMAGE_BLOCKS, 1);
    ck_assert_int_eq(kv_device_write(below, 0, IMAGE_BLOCKS, bytes), 0);
    ck_assert_int_eq(kv_device_flush(below), 0);
    kv_device_close(below);

    below = open_image(KV_DEVICE_READ_ONLY);
    struct kv_device *overlay = NULL;
    ck_assert_int_eq(kv_device_overlay(below, &overlay), 0);
    ck_assert_uint_eq(overlay->block_count, IMAGE_BLOCKS);
    uint8_t *model = alloc_blocks(IMAGE_BLOCKS);
    memcpy(model, bytes, (size_t)IMAGE_BLOCKS * KV_BLOCK_BYTES);

    /* Enough scattered writes that the table grows, some over others. */
    unsigned seed = 12345;
    for (uint64_t i = 0; i < 600; i++) {
        seed = seed * 1103515245u + 12345u;
        const uint64_t block = (seed >> 8) % (IMAGE_BLOCKS - 4);
        const uint32_t count = 1 + (seed >> 4) % 4;
        fill(bytes, block, count, 1000 + i);
        struct kv_io io = {.kind = KV_IO_WRITE, .block = block, .block_count = count, .buf = bytes};
        ck_assert_int_eq(kv_device_submit(overlay, &io, 1, i % 3 == 0), 0);
        memcpy(model + block * KV_BLOCK_BYTES, bytes, (size_t)count * KV_BLOCK_BYTES);
    }
    ck_assert_int_eq(kv_device_read(overlay, 0, IMAGE_BLOCKS, bytes), 0);
    ck_assert_int_eq(memcmp(bytes, model, (size_t)IMAGE_BLOCKS * KV_BLOCK_BYTES), 0);

    /* Several reads at once: wholly copied, partly, not at all. */
    struct kv_io reads[16];
    memset(bytes, 0, (size_t)IMAGE_BLOCKS * KV_BLOCK_BYTES);
    for (size_t i = 0; i < 16; i++)
        reads[i] = (struct kv_io){.kind = KV_IO_READ,
                                  .block = i * 100,
                                  .block_count = (uint32_t)(1 + i * 6),
                                  .buf = bytes + i * 100 * KV_BLOCK_BYTES};
    ck_assert_int_eq(kv_device_submit(overlay, reads, 16, false), 0);
    for (size_t i = 0; i < 16; i++)
        ck_assert_int_eq(memcmp(reads[i].buf, model + i * 100 * KV_BLOCK_BYTES,
                                (size_t)reads[i].block_count * KV_BLOCK_BYTES),
                         0);
    ck_assert_int_eq(kv_device_discard(overlay, 0, 10), 0);
    ck_assert_int_eq(kv_device_flush(overlay), 0);
    kv_device_close(overlay);

    below = open_image(KV_DEVICE_READ_ONLY);
    ck_assert_int_eq(kv_device_read(below, 0, IMAGE_BLOCKS, bytes), 0);
    check_filled(bytes, 0, IMAGE_BLOCKS, 1);
    kv_device_close(below);
    free(model);
    free(bytes);
}
END_TEST

START_TEST(device_memory_is_aligned_zeroed_and_rounded_up)
{
    for (size_t bytes = 0; bytes < 3 * KV_BLOCK_BYTES; bytes += 1777) {
        uint8_t *memory = kv_device_alloc(bytes);
        ck_assert_ptr_nonnull(memory);
        ck_assert_uint_eq((uintptr_t)memory % KV_BLOCK_BYTES, 0);
        size_t i = 0;
        while (i < kv_blocks_for(bytes) * KV_BLOCK_BYTES && memory[i] == 0)
            i++;
        ck_assert_uint_eq(i, kv_blocks_for(bytes) * KV_BLOCK_BYTES);
        free(memory);
    }
    ck_assert_ptr_null(kv_device_alloc(SIZE_MAX));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device");
    TCase *tcase = tcase_create("device");
    tcase_add_checked_fixture(tcase, make_image, remove_image);
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, what_is_written_is_read_back_also_after_reopening);
    tcase_add_loop_test(tcase, more_requests_than_a_ring_holds_are_all_done, 0, 2);
    tcase_add_loop_test(tcase, requests_are_under_way_until_they_are_waited_for, 0, 2);
    tcase_add_test(tcase, no_more_is_begun_than_there_are_rings);
    tcase_add_loop_test(tcase, one_write_with_a_flush_is_done_and_counted, 0, 2);
    tcase_add_test(tcase, a_range_outside_the_device_is_refused_and_nothing_is_done);
    tcase_add_loop_test(tcase, reading_where_the_file_was_cut_off_is_an_io_error, 0, 2);
    tcase_add_test(tcase, a_failed_request_keeps_the_flush_from_succeeding_but_not_the_others);
    tcase_add_test(tcase, a_read_only_device_refuses_writes);
    tcase_add_test(tcase, a_discarded_range_can_be_used_again);
    tcase_add_test(tcase, opening_says_what_is_wrong_and_what_to_do);
    tcase_add_loop_test(tcase, a_second_open_is_refused_and_names_the_holder, 0, 2);
    tcase_add_test(tcase, the_image_of_a_process_that_was_just_killed_can_be_opened);
    tcase_add_test(tcase, a_holder_that_inherited_the_lock_is_found);
    tcase_add_loop_test(tcase, more_threads_than_rings_share_a_device, 0, 2);
    tcase_add_test(tcase, an_overlay_reads_as_written_and_leaves_the_image_alone);
    tcase_add_test(tcase, device_memory_is_aligned_zeroed_and_rounded_up);
    suite_add_tcase(suite, tcase);

    return test_run(suite);
}
