/*
 * tests/kv/test_superblock.c: which copy is taken, and what is refused.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/codec.h"
#include "kv/superblock.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

#define IMAGE_BLOCKS (KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)

static uint64_t seed_start;

struct fixture {
    struct kv_device *device;
    struct kv_disk_superblock superblock;
    struct kv_error error;
};

static void fixture_init(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    f->device = memory_device_new(IMAGE_BLOCKS);
    test_create_on(f->device, 4096, KV_CODEC_NONE, KV_LOG_BYTES_MIN);
    enum kv_superblock_twin twin;
    ck_assert_int_eq(
        kv_superblock_read(f->device, "image", false, &f->superblock, &twin, &f->error), 0);
    ck_assert_int_eq((int)twin, KV_TWIN_GOOD);
}

static void fixture_release(struct fixture *f)
{
    kv_device_close(f->device);
}

/* kv_superblock_read's result; the copy that was taken and whether the other one is bad. */
static int take(struct fixture *f, bool with_backup, uint64_t *epoch, bool *damaged)
{
    struct kv_disk_superblock taken;
    enum kv_superblock_twin twin;
    f->error.text[0] = '\0';
    const int err = kv_superblock_read(f->device, "image", with_backup, &taken, &twin, &f->error);
    if (!err)
        *epoch = kv_le64_get(taken.epoch);
    if (!err)
        *damaged = twin != KV_TWIN_GOOD;
    else
        ck_assert_ptr_nonnull(strstr(f->error.text, "image"));
    return err;
}

static void write_epoch(struct fixture *f, uint64_t epoch)
{
    f->superblock.epoch = kv_le64_of(epoch);
    ck_assert_int_eq(kv_superblock_write(f->device, &f->superblock), 0);
}

static void change_block(struct fixture *f, uint64_t block, size_t offset, uint8_t bits)
{
    uint8_t *const bytes = kv_device_alloc(KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(bytes);
    ck_assert_int_eq(kv_device_read(f->device, block, 1, bytes), 0);
    bytes[offset] ^= bits;
    ck_assert_int_eq(kv_device_write(f->device, block, 1, bytes), 0);
    free(bytes);
}

static uint64_t slot_of_last(const struct fixture *f)
{
    return kv_le64_get(f->superblock.sequence) & 1 ? KV_SUPERBLOCK_B_BLOCK : KV_SUPERBLOCK_A_BLOCK;
}

START_TEST(slots_are_written_in_turn_and_the_newest_is_taken)
{
    struct fixture f;
    uint64_t slot_before = UINT64_MAX;
    fixture_init(&f);
    for (uint64_t epoch = 100; epoch < 110; epoch++) {
        uint64_t taken = 0;
        bool damaged;
        write_epoch(&f, epoch);
        ck_assert_uint_ne(slot_of_last(&f), slot_before);
        slot_before = slot_of_last(&f);
        ck_assert_int_eq(take(&f, false, &taken, &damaged), 0);
        ck_assert_uint_eq(taken, epoch);
        ck_assert(!damaged);
    }
    fixture_release(&f);
}
END_TEST

START_TEST(a_changed_bit_anywhere_makes_a_copy_unfit)
{
    struct fixture f;
    struct test_random random = {seed_start};
    fixture_init(&f);
    write_epoch(&f, 100);
    write_epoch(&f, 101);
    for (unsigned i = 0; i < 300; i++) {
        const size_t offset = test_random_below(&random, KV_BLOCK_BYTES);
        const uint8_t bits = (uint8_t)(1u << test_random_below(&random, 8));
        const uint64_t block = i % 2 ? KV_SUPERBLOCK_A_BLOCK : KV_SUPERBLOCK_B_BLOCK;
        uint64_t taken = 0;
        bool damaged = false;
        change_block(&f, block, offset, bits);
        ck_assert_int_eq(take(&f, false, &taken, &damaged), 0);
        ck_assert_uint_eq(taken, 101); /* both slots hold it */
        ck_assert(damaged);
        change_block(&f, block, offset, bits);
    }
    fixture_release(&f);
}
END_TEST

/* The power went while a slot was written: the one before is still there. */
START_TEST(a_torn_write_leaves_the_superblock_before)
{
    struct fixture f;
    fixture_init(&f);
    uint8_t *const before = kv_device_alloc(2 * KV_BLOCK_BYTES);
    uint8_t *const torn = kv_device_alloc(KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(before);
    ck_assert_ptr_nonnull(torn);
    for (size_t new_bytes = 512; new_bytes < KV_BLOCK_BYTES; new_bytes += 512) {
        uint64_t taken = 0;
        bool damaged;
        write_epoch(&f, 100);
        ck_assert_int_eq(kv_device_read(f.device, KV_SUPERBLOCK_A_BLOCK, 1, before), 0);
        ck_assert_int_eq(
            kv_device_read(f.device, KV_SUPERBLOCK_B_BLOCK, 1, before + KV_BLOCK_BYTES), 0);
        write_epoch(&f, 101);
        const uint64_t slot = slot_of_last(&f);
        const bool is_b = slot == KV_SUPERBLOCK_B_BLOCK;
        ck_assert_int_eq(kv_device_read(f.device, slot, 1, torn), 0);
        memcpy(torn + new_bytes, before + (is_b ? KV_BLOCK_BYTES : 0) + new_bytes,
               KV_BLOCK_BYTES - new_bytes);
        ck_assert_int_eq(kv_device_write(f.device, slot, 1, torn), 0);
        ck_assert_int_eq(kv_device_write(f.device, KV_SUPERBLOCK_B_BLOCK - slot, 1,
                                         before + (is_b ? 0 : KV_BLOCK_BYTES)),
                         0);
        ck_assert_int_eq(take(&f, false, &taken, &damaged), 0);
        ck_assert_uint_eq(taken, 100);
        ck_assert(damaged);
    }
    free(before);
    free(torn);
    fixture_release(&f);
}
END_TEST

static enum kv_superblock_twin twin_of(struct fixture *f)
{
    struct kv_disk_superblock taken;
    enum kv_superblock_twin twin;
    ck_assert_int_eq(kv_superblock_read(f->device, "image", false, &taken, &twin, &f->error), 0);
    return twin;
}

/* A clean image is opened: the first superblock goes to the slot that the last one ended with. */
START_TEST(the_first_write_after_a_clean_close_may_be_torn)
{
    struct fixture f;
    fixture_init(&f);
    ck_assert_int_eq(f.superblock.clean, 1);
    ck_assert_int_eq(kv_superblock_mark_used(f.device, &f.superblock), 0);
    change_block(&f, KV_SUPERBLOCK_B_BLOCK - slot_of_last(&f), 600, 1);
    ck_assert_int_eq((int)twin_of(&f), KV_TWIN_TORN);
    fixture_release(&f);
}
END_TEST

/* It becomes clean: the second copy and the backup are still on their way. */
START_TEST(the_second_copy_of_a_clean_superblock_may_be_torn)
{
    struct fixture f;
    fixture_init(&f);
    write_epoch(&f, 100);
    change_block(&f, KV_SUPERBLOCK_B_BLOCK - slot_of_last(&f), 600, 1);
    ck_assert_int_eq((int)twin_of(&f), KV_TWIN_TORN);
    fixture_release(&f);
}
END_TEST

START_TEST(a_copy_that_fails_after_a_clean_close_is_damaged)
{
    struct fixture f;
    fixture_init(&f);
    for (uint64_t block = 0; block <= KV_SUPERBLOCK_B_BLOCK; block += KV_SUPERBLOCK_B_BLOCK) {
        change_block(&f, block, 600, 1);
        ck_assert_int_eq((int)twin_of(&f), KV_TWIN_DAMAGED);
        change_block(&f, block, 600, 1);
    }
    fixture_release(&f);
}
END_TEST

START_TEST(with_both_damaged_only_the_backup_helps)
{
    struct fixture f;
    uint64_t taken = 0;
    bool damaged;
    fixture_init(&f);
    write_epoch(&f, 100);
    ck_assert_int_eq(kv_superblock_write_backup(f.device, &f.superblock), 0);
    write_epoch(&f, 101);
    change_block(&f, KV_SUPERBLOCK_A_BLOCK, 50, 1);
    change_block(&f, KV_SUPERBLOCK_B_BLOCK, 4090, 1);
    ck_assert_int_eq(take(&f, false, &taken, &damaged), -EBADMSG);
    ck_assert_int_eq(take(&f, true, &taken, &damaged), 0);
    ck_assert_uint_eq(taken, 100);
    ck_assert(damaged);
    change_block(&f, IMAGE_BLOCKS - 1, 50, 1);
    ck_assert_int_eq(take(&f, true, &taken, &damaged), -EBADMSG);
    fixture_release(&f);
}
END_TEST

/* Else whoever mends the image is told that nothing but a copy of it helps. */
START_TEST(a_backup_that_can_not_be_read_is_not_taken_for_damaged)
{
    struct fixture f;
    uint64_t taken = 0;
    bool damaged;
    fixture_init(&f);
    write_epoch(&f, 100);
    ck_assert_int_eq(kv_superblock_write_backup(f.device, &f.superblock), 0);
    change_block(&f, KV_SUPERBLOCK_A_BLOCK, 50, 1);
    change_block(&f, KV_SUPERBLOCK_B_BLOCK, 50, 1);
    struct faulty *const faulty = faulty_new(f.device);
    f.device = faulty_device(faulty);
    faulty_arm(faulty,
               (struct fault){.targets = FAULT_READS, .after = 2, .lasting = true, .error = -EIO});
    ck_assert_int_eq(take(&f, true, &taken, &damaged), -EIO);
    ck_assert_ptr_nonnull(strstr(f.error.text, "backup"));
    ck_assert_ptr_nonnull(strstr(f.error.text, "check the device"));
    /* One that comes when it is asked for once more is as good. */
    faulty_arm(faulty, (struct fault){.targets = FAULT_READS, .after = 2, .error = -EIO});
    ck_assert_int_eq(take(&f, true, &taken, &damaged), 0);
    ck_assert_uint_eq(taken, 100);
    faulty_free(faulty);
}
END_TEST

START_TEST(what_is_no_image_is_told_from_what_is_damaged)
{
    struct kv_disk_superblock superblock;
    struct kv_error error = {""};
    enum kv_superblock_twin twin;
    for (unsigned blocks = 1; blocks < 3000; blocks = blocks * 7 + 1) {
        struct kv_device *const device = memory_device_new(blocks);
        ck_assert_int_eq(kv_superblock_read(device, "image", true, &superblock, &twin, &error),
                         -EMEDIUMTYPE);
        kv_device_close(device);
    }
}
END_TEST

/* Superblocks whose digest is right and whose numbers are anything. */
START_TEST(no_superblock_passes_with_a_geometry_that_can_not_be)
{
    struct fixture f;
    struct test_random random = {seed_start + 1};
    unsigned passed = 0;
    fixture_init(&f);
    const struct kv_disk_superblock good = f.superblock;
    for (unsigned i = 0; i < 20000; i++) {
        static const size_t fields[] = {
            offsetof(struct kv_disk_superblock, node_bytes),
            offsetof(struct kv_disk_superblock, image_blocks),
            offsetof(struct kv_disk_superblock, log_first_block),
            offsetof(struct kv_disk_superblock, log_block_count),
            offsetof(struct kv_disk_superblock, group_first_block),
            offsetof(struct kv_disk_superblock, group_count),
            offsetof(struct kv_disk_superblock, extent_bytes),
            offsetof(struct kv_disk_superblock, codec),
        };
        f.superblock = good;
        uint8_t *const bytes = (uint8_t *)&f.superblock;
        const size_t field = fields[test_random_below(&random, 8)];
        const size_t width = 1 + test_random_below(&random, 4);
        for (size_t k = 0; k < width; k++)
            bytes[field + k] =
                (uint8_t)(test_random_below(&random, 3) ? test_random_next(&random)
                                                        : test_random_below(&random, 2) * 255);
        for (unsigned copy = 0; copy < 2; copy++) {
            const int written = kv_superblock_write(f.device, &f.superblock);
            KV_ASSERT(written == 0);
        }
        struct kv_disk_superblock taken;
        enum kv_superblock_twin twin;
        const int err = kv_superblock_read(f.device, "image", false, &taken, &twin, &f.error);
        KV_ASSERT(err == 0 || err == -EUCLEAN || err == -ENODATA);
        if (err)
            continue;
        passed++;
        const uint64_t log_first = kv_le64_get(taken.log_first_block);
        const uint64_t log_end = log_first + kv_le64_get(taken.log_block_count);
        const uint64_t group_first = kv_le64_get(taken.group_first_block);
        const uint32_t node = kv_le32_get(taken.node_bytes);
        KV_ASSERT(kv_le64_get(taken.image_blocks) <= IMAGE_BLOCKS);
        KV_ASSERT(log_first >= KV_LOG_FIRST_BLOCK && log_end > log_first);
        KV_ASSERT(log_end <= group_first && group_first < IMAGE_BLOCKS);
        KV_ASSERT(node >= KV_NODE_BYTES_MIN && node <= KV_NODE_BYTES_MAX && !(node & (node - 1)));
        /* Whatever passes must be safe to open: it works or is refused. */
        if (passed % 50)
            continue;
        struct recorder *const recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
        uint8_t *const block = kv_device_alloc(KV_BLOCK_BYTES);
        for (uint64_t at = 0; at < 600; at++) {
            KV_ASSERT(kv_device_read(f.device, at, 1, block) == 0);
            KV_ASSERT(kv_device_write(recorder_device(recorder), at, 1, block) == 0);
        }
        free(block);
        struct kv_store *store = NULL;
        if (!test_try_open_on(recorder_device(recorder), &store))
            kv_abandon(store);
        recorder_free(recorder);
    }
    ck_assert_uint_gt(passed, 0);
    fixture_release(&f);
}
END_TEST

START_TEST(random_blocks_are_refused_quietly)
{
    struct fixture f;
    struct test_random random = {seed_start + 2};
    fixture_init(&f);
    uint8_t *const bytes = kv_device_alloc(KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(bytes);
    for (unsigned i = 0; i < 500; i++) {
        for (size_t k = 0; k < KV_BLOCK_BYTES; k++)
            bytes[k] = (uint8_t)test_random_next(&random);
        if (i % 2)
            memcpy(bytes, KV_SUPERBLOCK_MAGIC, 8);
        KV_ASSERT(kv_device_write(f.device, KV_SUPERBLOCK_A_BLOCK, 1, bytes) == 0);
        KV_ASSERT(kv_device_write(f.device, KV_SUPERBLOCK_B_BLOCK, 1, bytes) == 0);
        uint64_t taken;
        bool damaged;
        const int err = take(&f, false, &taken, &damaged);
        KV_ASSERT(err == -EMEDIUMTYPE || err == -EBADMSG || err == -EPROTONOSUPPORT);
    }
    free(bytes);
    fixture_release(&f);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *const suite = suite_create("superblock");
    TCase *const superblock = tcase_create("superblock");
    tcase_set_timeout(superblock, 120);
    tcase_add_test(superblock, slots_are_written_in_turn_and_the_newest_is_taken);
    tcase_add_test(superblock, a_changed_bit_anywhere_makes_a_copy_unfit);
    tcase_add_test(superblock, a_torn_write_leaves_the_superblock_before);
    tcase_add_test(superblock, the_first_write_after_a_clean_close_may_be_torn);
    tcase_add_test(superblock, the_second_copy_of_a_clean_superblock_may_be_torn);
    tcase_add_test(superblock, a_copy_that_fails_after_a_clean_close_is_damaged);
    tcase_add_test(superblock, with_both_damaged_only_the_backup_helps);
    tcase_add_test(superblock, a_backup_that_can_not_be_read_is_not_taken_for_damaged);
    tcase_add_test(superblock, what_is_no_image_is_told_from_what_is_damaged);
    tcase_add_test(superblock, no_superblock_passes_with_a_geometry_that_can_not_be);
    tcase_add_test(superblock, random_blocks_are_refused_quietly);
    suite_add_tcase(suite, superblock);
    return test_run(suite);
}
