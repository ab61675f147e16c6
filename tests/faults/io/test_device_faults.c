/*
 * tests/faults/io/test_device_faults.c: what kv/device_ring.c makes of the kernel's answers, one
 * kind at a time.
 */
#include "kv/device.h"
#include "ring_faults.h"
#include "tests/run.h"

#include <check.h>
#include <fcntl.h>
#include <unistd.h>

#define BLOCKS 32u

static char directory[64], image[80];
static struct kv_device *device;
static uint8_t *bytes, *other;

static void setup(void)
{
    strcpy(directory, "/tmp/kvfs-device-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(image, sizeof image, "%s/image", directory);
    const int fd = open(image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)BLOCKS * KV_BLOCK_BYTES), 0);
    close(fd);
    ck_assert_int_eq(kv_device_open(image, 0, &device, NULL), 0);
    bytes = kv_device_alloc(4 * KV_BLOCK_BYTES);
    other = kv_device_alloc(4 * KV_BLOCK_BYTES);
    ck_assert(bytes && other);
    memset(bytes, 'n', 4 * KV_BLOCK_BYTES);
}

static void teardown(void)
{
    ring_fault_order(ring_faults(), (struct ring_fault){.targets = 0});
    kv_device_close(device);
    free(bytes);
    free(other);
    (void)unlink(image);
    (void)rmdir(directory);
}

static void order(uint32_t targets, enum ring_fault_kind kind, bool lasting)
{
    ring_fault_order(ring_faults(),
                     (struct ring_fault){.targets = targets, .kind = kind, .lasting = lasting});
}

/* In one request, which goes without a ring, or in two. */
static int write_and_flush_in(size_t requests)
{
    const uint32_t first = requests == 1 ? 4 : 1;
    struct kv_io ios[2] = {{.kind = KV_IO_WRITE, .block = 3, .block_count = first, .buf = bytes},
                           {.kind = KV_IO_WRITE,
                            .block = 3 + first,
                            .block_count = 3,
                            .buf = bytes + (size_t)first * KV_BLOCK_BYTES}};
    return kv_device_submit(device, ios, requests, true);
}

static int write_and_flush(void)
{
    return write_and_flush_in(1);
}

static void expect_written(void)
{
    ck_assert_int_eq(kv_device_read(device, 3, 4, other), 0);
    ck_assert_int_eq(memcmp(bytes, other, 4 * KV_BLOCK_BYTES), 0);
}

static const enum ring_fault_kind passing[] = {RING_EAGAIN, RING_EINTR, RING_SHORT};
static const uint32_t targets_of[] = {RING_READS, RING_WRITES, RING_FLUSHES, RING_SUBMITS};

START_TEST(what_passes_once_is_not_seen)
{
    const uint32_t target = targets_of[_i / 3 % 4];
    const size_t requests = _i < 12 ? 1 : 2;
    order(target, passing[_i % 3], false);
    ck_assert_int_eq(write_and_flush_in(requests), 0);
    expect_written();
    ck_assert_int_eq(kv_device_flush(device), 0);
    const bool by_ring = requests > 1 || target != RING_SUBMITS;
    const bool makes_sense =
        by_ring && (passing[_i % 3] != RING_SHORT || target == RING_READS || target == RING_WRITES);
    ck_assert_uint_eq(ring_fault_hits(ring_faults()), makes_sense);
}
END_TEST

START_TEST(what_is_always_cut_short_comes_to_its_end)
{
    order(RING_READS | RING_WRITES, RING_SHORT, true);
    ck_assert_int_eq(write_and_flush(), 0);
    expect_written();
    ck_assert_uint_gt(ring_fault_hits(ring_faults()), 2);
}
END_TEST

START_TEST(what_never_passes_ends_as_an_io_error)
{
    const uint32_t targets = targets_of[_i / 2 % 4];
    const size_t requests = _i < 8 && targets != RING_SUBMITS ? 1 : 2;
    order(targets, passing[_i % 2], true);
    if (targets == RING_READS)
        ck_assert_int_eq(kv_device_read(device, 3, 4, other), -EIO);
    else
        ck_assert_int_eq(write_and_flush_in(requests), -EIO);
    ck_assert_uint_gt(ring_fault_hits(ring_faults()), 10);
    ck_assert_uint_lt(ring_fault_hits(ring_faults()), 1000);
}
END_TEST

START_TEST(a_transfer_of_nothing_is_an_io_error)
{
    order(RING_READS | RING_WRITES, RING_ZERO, true);
    ck_assert_int_eq(write_and_flush(), -EIO);
    ck_assert_int_eq(kv_device_read(device, 3, 4, other), -EIO);
}
END_TEST

START_TEST(a_full_host_is_told_of_writes_only)
{
    order(RING_WRITES, RING_ENOSPC, false);
    ck_assert_int_eq(kv_device_write(device, 3, 4, bytes), -ENOSPC);
    order(RING_READS, RING_ENOSPC, false);
    ck_assert_int_eq(kv_device_read(device, 3, 4, other), -EIO);
}
END_TEST

START_TEST(after_a_failed_flush_no_other_succeeds)
{
    const bool behind_writes = _i;
    ck_assert_int_eq(write_and_flush(), 0);
    order(RING_FLUSHES, RING_EIO, false);
    ck_assert_int_eq(behind_writes ? write_and_flush() : kv_device_flush(device), -EIO);
    ck_assert_int_eq(kv_device_flush(device), -EIO);
    ck_assert_int_eq(write_and_flush(), -EIO);
    expect_written();
    ck_assert_int_eq(kv_device_write(device, 1, 1, bytes), 0);
}
END_TEST

START_TEST(what_is_to_be_written_with_a_flush_is_not_after_one_failed)
{
    order(RING_FLUSHES, RING_EIO, false);
    ck_assert_int_eq(kv_device_flush(device), -EIO);
    ck_assert_int_eq(write_and_flush(), -EIO);
    ck_assert_int_eq(kv_device_read(device, 3, 4, other), 0);
    const uint8_t zeros[KV_BLOCK_BYTES] = {0};
    ck_assert_int_eq(memcmp(other, zeros, KV_BLOCK_BYTES), 0);
}
END_TEST

START_TEST(a_failed_write_leaves_flushes_alone)
{
    order(RING_WRITES, _i % 2 ? RING_TORN : RING_EIO, false);
    ck_assert_int_eq(write_and_flush_in(1 + (size_t)_i / 2), -EIO);
    ck_assert_int_eq(write_and_flush_in(1 + (size_t)_i / 2), 0);
    expect_written();
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("device faults");
    TCase *const faults = tcase_create("faults");
    tcase_add_checked_fixture(faults, setup, teardown);
    tcase_add_loop_test(faults, what_passes_once_is_not_seen, 0, 24);
    tcase_add_test(faults, what_is_always_cut_short_comes_to_its_end);
    tcase_add_loop_test(faults, what_never_passes_ends_as_an_io_error, 0, 16);
    tcase_add_test(faults, a_transfer_of_nothing_is_an_io_error);
    tcase_add_test(faults, a_full_host_is_told_of_writes_only);
    tcase_add_loop_test(faults, after_a_failed_flush_no_other_succeeds, 0, 2);
    tcase_add_test(faults, what_is_to_be_written_with_a_flush_is_not_after_one_failed);
    tcase_add_loop_test(faults, a_failed_write_leaves_flushes_alone, 0, 4);
    suite_add_tcase(suite, faults);
    return test_run(suite);
}
