/*
 * tests/kv/test_pagemap.c: page id to place, against an array; over epochs, crashes and growth.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "support_devices.h"
#include "support_pages.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

#define DEVICE_BLOCKS 40000u
#define MODEL_IDS     6000u

static uint64_t seed_start;

/* ---- the model: what is at each id, now and in the last checkpoint ---------------- */

struct model {
    struct test_pages pages;
    struct kv_device *device;
    struct test_random random;
    struct kv_disk_ptr now[MODEL_IDS], durable[MODEL_IDS];
    bool taken[MODEL_IDS]; /* ids that were given out */
};

static struct model *model_new(uint64_t salt)
{
    struct model *const model = calloc(1, sizeof *model);
    ck_assert_ptr_nonnull(model);
    model->random.state = seed_start * 1000 + salt;
    model->device = memory_device_new(DEVICE_BLOCKS);
    test_pages_init(&model->pages, model->device, KV_BLOCK_BYTES, 0, KV_CODEC_NONE);
    return model;
}

static void model_free(struct model *model)
{
    test_pages_release(&model->pages);
    kv_device_close(model->device);
    free(model);
}

static size_t below(struct model *model, size_t limit)
{
    return test_random_below(&model->random, limit);
}

static bool is_set(const struct kv_disk_ptr *ptr)
{
    return kv_le64_get(ptr->block) != 0;
}

static uint32_t blocks_of(const struct kv_disk_ptr *ptr)
{
    return (uint32_t)kv_blocks_for(kv_le32_get(ptr->length_bytes));
}

/* As the pager does. */
static void give_up_place(struct model *model, const struct kv_disk_ptr *old)
{
    struct test_pages *const pages = &model->pages;
    int err = 0;
    if (is_set(old) && kv_le64_get(old->birth_epoch) == pages->epoch)
        kv_space_unalloc(pages->space, kv_le64_get(old->block), blocks_of(old));
    else if (is_set(old))
        err = kv_space_free(pages->space, pages->epoch, kv_le64_get(old->block), blocks_of(old));
    KV_ASSERT(err == 0);
}

/* Give a page a new place in the open epoch. */
static void set_place(struct model *model, uint64_t page_id)
{
    struct test_pages *const pages = &model->pages;
    const uint64_t epoch = pages->epoch;
    uint64_t block;
    uint32_t got;
    int err = kv_space_alloc(pages->space, KV_SPACE_PAGE, 1, 1, &block, &got);
    KV_ASSERT(err == 0); /* not check's, which costs a system call each time */
    const struct kv_disk_ptr old = model->now[page_id];
    const struct kv_disk_ptr ptr = {
        .block = kv_le64_of(block),
        .length_bytes = kv_le32_of((uint32_t)(1 + below(model, KV_BLOCK_BYTES))),
        .birth_epoch = kv_le64_of(epoch),
        .digest = kv_le64_of(test_random_next(&model->random)),
    };
    err = kv_pagemap_set(pages->map, epoch, page_id, &ptr);
    KV_ASSERT(err == 0);
    give_up_place(model, &old);
    model->now[page_id] = ptr;
}

static uint64_t take_id(struct model *model)
{
    uint64_t page_id = 0;
    const int err = kv_pagemap_take_id(model->pages.map, &page_id);
    KV_ASSERT(err == 0);
    KV_ASSERT(page_id > 0 && page_id < MODEL_IDS);
    KV_ASSERT(!model->taken[page_id]); /* given twice */
    KV_ASSERT(!is_set(&model->now[page_id]));
    model->taken[page_id] = true;
    return page_id;
}

static void drop_id(struct model *model, uint64_t page_id)
{
    struct test_pages *const pages = &model->pages;
    const struct kv_disk_ptr old = model->now[page_id];
    ck_assert_int_eq(kv_pagemap_drop(pages->map, pages->epoch, page_id, is_set(&old)), 0);
    if (is_set(&old) && kv_le64_get(old.birth_epoch) == pages->epoch)
        kv_space_unalloc(pages->space, kv_le64_get(old.block), blocks_of(&old));
    else if (is_set(&old))
        ck_assert_int_eq(
            kv_space_free(pages->space, pages->epoch, kv_le64_get(old.block), blocks_of(&old)), 0);
    memset(&model->now[page_id], 0, sizeof model->now[page_id]);
    model->taken[page_id] = false;
}

static uint64_t pick_taken(struct model *model)
{
    const size_t start = below(model, MODEL_IDS);
    for (size_t i = 0; i < MODEL_IDS; i++)
        if (model->taken[(start + i) % MODEL_IDS])
            return (start + i) % MODEL_IDS;
    return 0;
}

static void expect_place(struct model *model, uint64_t page_id)
{
    struct kv_disk_ptr ptr;
    const int err = kv_pagemap_get(model->pages.map, page_id, &ptr);
    KV_ASSERT(err == 0);
    KV_ASSERT(memcmp(&ptr, &model->now[page_id], sizeof ptr) == 0);
}

static void expect_all(struct model *model)
{
    for (uint64_t page_id = 1; page_id < MODEL_IDS; page_id++)
        expect_place(model, page_id);
}

static size_t count_taken(const struct model *model)
{
    size_t count = 0;
    for (size_t i = 0; i < MODEL_IDS; i++)
        count += model->taken[i];
    return count;
}

/* Each used block is a page of the model, a map block or metadata: nothing leaks. */
struct walked {
    struct model *model;
    uint64_t page_blocks, map_blocks;
};

static int count_walked(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr,
                        int error)
{
    struct walked *const walked = context;
    KV_ASSERT(error == 0);
    if (level >= 0) {
        walked->map_blocks++;
        return 0;
    }
    KV_ASSERT(index < MODEL_IDS);
    KV_ASSERT(memcmp(ptr, &walked->model->durable[index], sizeof *ptr) == 0);
    walked->page_blocks += blocks_of(ptr);
    return 0;
}

static void checkpoint(struct model *model)
{
    test_pages_checkpoint(&model->pages);
    memcpy(model->durable, model->now, sizeof model->now);
    KV_ASSERT(kv_pagemap_used_ids(model->pages.map) == count_taken(model));
    struct walked walked = {.model = model};
    ck_assert_int_eq(kv_pagemap_walk(model->pages.map, count_walked, &walked), 0);
    ck_assert_uint_eq(walked.page_blocks + walked.map_blocks,
                      test_pages_used_blocks(&model->pages));
}

static void reopen(struct model *model)
{
    test_pages_reopen(&model->pages);
    memcpy(model->now, model->durable, sizeof model->now);
    for (size_t i = 0; i < MODEL_IDS; i++)
        model->taken[i] = is_set(&model->now[i]);
}

static void crash(struct model *model)
{
    reopen(model);
    KV_ASSERT(kv_pagemap_used_ids(model->pages.map) == count_taken(model));
}

START_TEST(random_changes_checkpoints_and_crashes_agree_with_an_array)
{
    struct model *const model = model_new((uint64_t)_i);
    bool growing = true;
    for (unsigned step = 0; step < 20000; step++) {
        const size_t dice = below(model, 1000);
        const size_t count = count_taken(model);
        if (count > MODEL_IDS * 3 / 4)
            growing = false;
        if (count < 20)
            growing = true;
        if (dice < (growing ? 500u : 250u))
            set_place(model, take_id(model));
        else if (dice < 750 && count)
            drop_id(model, pick_taken(model));
        else if (dice < 980 && count)
            set_place(model, pick_taken(model));
        else if (dice < 995)
            checkpoint(model);
        else
            crash(model);
        expect_place(model, 1 + below(model, MODEL_IDS - 1));
        if (step % 1000 == 0)
            expect_all(model);
    }
    checkpoint(model);
    expect_all(model);
    crash(model);
    expect_all(model);
    model_free(model);
}
END_TEST

START_TEST(ids_that_were_freed_are_found_again_after_opening)
{
    struct model *const model = model_new(100);
    for (unsigned i = 0; i < 3000; i++)
        set_place(model, take_id(model));
    checkpoint(model);
    for (unsigned i = 0; i < 1000; i++)
        drop_id(model, pick_taken(model));
    checkpoint(model);
    const uint64_t next = kv_pagemap_next_id(model->pages.map);
    crash(model);
    for (unsigned i = 0; i < 1000; i++)
        set_place(model, take_id(model));
    ck_assert_uint_le(kv_pagemap_next_id(model->pages.map), (next + 127) / 128 * 128);
    checkpoint(model);
    expect_all(model);
    model_free(model);
}
END_TEST

/* The superblock says that there are fewer ids than hold a page. */
START_TEST(an_id_that_holds_a_page_is_not_given_out_whatever_the_root_says)
{
    static const uint64_t said[] = {1, 2, 129, 2000, 2999};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        struct model *const model = model_new(102);
        for (unsigned k = 0; k < 3000; k++)
            set_place(model, take_id(model));
        checkpoint(model);
        model->pages.root.page_id_next = said[i];
        reopen(model);
        for (unsigned k = 0; k < 1000; k++)
            set_place(model, take_id(model)); /* asserts that it is free */
        test_pages_checkpoint(&model->pages);
        expect_all(model);
        model_free(model);
    }
}
END_TEST

/* An id may be freed before the scan for free ids has come to it, or after. */
START_TEST(no_id_is_given_twice_whenever_it_was_freed)
{
    struct model *const model = model_new(101);
    for (unsigned i = 0; i < 2000; i++)
        set_place(model, take_id(model));
    checkpoint(model);
    crash(model);
    for (unsigned round = 0; round < 300; round++) {
        for (unsigned i = 0; i < 10; i++)
            drop_id(model, pick_taken(model));
        for (unsigned i = 0; i < 10; i++) {
            const uint64_t page_id = take_id(model); /* asserts that it is free */
            if (below(model, 2))
                set_place(model, page_id);
        }
    }
    checkpoint(model);
    expect_all(model);
    model_free(model);
}
END_TEST

/* A place that is given up in the epoch that made it takes no space until the checkpoint. */
START_TEST(moving_a_page_often_in_one_epoch_takes_the_space_of_one)
{
    struct model *const model = model_new(102);
    const uint64_t page_id = take_id(model);
    set_place(model, page_id);
    checkpoint(model);
    const uint64_t before = test_pages_used_blocks(&model->pages);
    for (unsigned i = 0; i < 3 * DEVICE_BLOCKS; i++)
        set_place(model, page_id);
    ck_assert_uint_eq(test_pages_used_blocks(&model->pages), before);
    checkpoint(model);
    ck_assert_uint_eq(test_pages_used_blocks(&model->pages), before);
    model_free(model);
}
END_TEST

/* ---- growth ------------------------------------------------------------------------- */

/* The map of a page id far up: every id between is free. */
static void expect_growth(const uint64_t *ids, size_t count)
{
    struct kv_device *const device = memory_device_new(DEVICE_BLOCKS);
    struct test_pages pages;
    struct kv_disk_ptr ptrs[8];
    test_pages_init(&pages, device, KV_BLOCK_BYTES, 0, KV_CODEC_NONE);
    ck_assert_uint_le(count, 8);
    for (size_t i = 0; i < count; i++) {
        uint64_t block;
        uint32_t got;
        ck_assert_int_eq(kv_space_alloc(pages.space, KV_SPACE_PAGE, 1, 1, &block, &got), 0);
        ptrs[i] = (struct kv_disk_ptr){.block = kv_le64_of(block),
                                       .length_bytes = kv_le32_of(KV_BLOCK_BYTES),
                                       .birth_epoch = kv_le64_of(pages.epoch),
                                       .digest = kv_le64_of(i)};
        ck_assert_int_eq(kv_pagemap_set(pages.map, pages.epoch, ids[i], &ptrs[i]), 0);
        test_pages_checkpoint(&pages);
        for (size_t k = 0; k < 2 * (i + 1); k++) { /* from memory, then from the device */
            struct kv_disk_ptr ptr;
            if (k == i + 1) {
                test_pages_reopen(&pages);
                ck_assert_uint_eq(kv_pagemap_used_ids(pages.map), i + 1);
            }
            ck_assert_int_eq(kv_pagemap_get(pages.map, ids[k % (i + 1)], &ptr), 0);
            ck_assert_mem_eq(&ptr, &ptrs[k % (i + 1)], sizeof ptr);
            ck_assert_int_eq(kv_pagemap_get(pages.map, ids[k % (i + 1)] + 2, &ptr), 0);
            ck_assert(!is_set(&ptr));
        }
    }
    test_pages_release(&pages);
    kv_device_close(device);
}

START_TEST(the_tree_grows_by_one_level_and_by_several)
{
    static const uint64_t step_by_step[] = {5, 127, 128, 16383, 16384, 2097152};
    static const uint64_t jumps[] = {5, 16384, 1ull << 40};
    static const uint64_t far_first[] = {1ull << 30, 5, 77777, KV_PAGE_ID_MAX - 1};
    expect_growth(step_by_step, 6);
    expect_growth(jumps, 3);
    expect_growth(far_first, 4);
}
END_TEST

/* Ids were taken and given back, and no page moved: the root must still make sense. */
START_TEST(an_epoch_that_wrote_no_page_leaves_a_root_that_can_be_opened)
{
    struct model *const model = model_new(105);
    uint64_t ids[300];
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 300; i++)
            ids[i] = take_id(model);
        for (unsigned i = 0; i < 300; i++)
            drop_id(model, ids[i]);
        checkpoint(model);
        crash(model);
        if (round == 0)
            set_place(model, take_id(model));
        checkpoint(model);
        crash(model);
        expect_all(model);
    }
    model_free(model);
}
END_TEST

/* ---- two epochs ----------------------------------------------------------------------- */

START_TEST(while_one_epoch_is_written_the_next_moves_pages_already)
{
    struct model *const model = model_new(103);
    struct test_pages *const pages = &model->pages;
    for (unsigned i = 0; i < 500; i++)
        set_place(model, take_id(model));
    checkpoint(model);
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 100; i++)
            set_place(model, pick_taken(model));
        const uint64_t closed = test_pages_close_epoch(pages);
        memcpy(model->durable, model->now, sizeof model->now);
        for (unsigned i = 0; i < 50; i++)
            set_place(model, pick_taken(model));
        for (unsigned i = 0; i < 10; i++)
            drop_id(model, pick_taken(model));
        expect_all(model);
        ck_assert_int_eq(test_pages_write(pages, closed), 0);
        expect_all(model);
        if (round % 5 == 4) {
            crash(model);
            expect_all(model);
        }
    }
    model_free(model);
}
END_TEST

/* ---- damage and failures ---------------------------------------------------------------- */

/* The second time the superblock says, too, that there are hardly any ids. */
START_TEST(a_damaged_map_block_is_said_and_the_others_can_be_read)
{
    struct model *const model = model_new(104);
    for (unsigned i = 0; i < 1000; i++)
        set_place(model, take_id(model));
    checkpoint(model);

    /* The pointers of the root lead to the leaf blocks: damage the one of ids 128..255. */
    uint8_t *const block = kv_device_alloc(KV_BLOCK_BYTES);
    ck_assert_int_eq(
        kv_device_read(model->device, kv_le64_get(model->pages.root.ptr.block), 1, block), 0);
    const uint64_t leaf = kv_le64_get(((struct kv_disk_ptr *)block)[1].block);
    ck_assert_int_eq(kv_device_read(model->device, leaf, 1, block), 0);
    block[100] ^= 1;
    ck_assert_int_eq(kv_device_write(model->device, leaf, 1, block), 0);
    free(block);

    if (_i)
        model->pages.root.page_id_next = 1;
    test_pages_reopen(&model->pages);
    struct kv_disk_ptr ptr;
    ck_assert_int_eq(kv_pagemap_get(model->pages.map, 200, &ptr), -EBADMSG);
    expect_place(model, 100);
    expect_place(model, 300);
    /* Ids can be had all the same: those below the damage stay unused. */
    for (unsigned i = 0; i < 300; i++) {
        uint64_t page_id;
        ck_assert_int_eq(kv_pagemap_take_id(model->pages.map, &page_id), 0);
        ck_assert(page_id < 128 || page_id >= 256);
        ck_assert(page_id >= MODEL_IDS || !is_set(&model->now[page_id]));
    }
    model_free(model);
}
END_TEST

START_TEST(a_root_that_makes_no_sense_is_refused)
{
    struct kv_device *const device = memory_device_new(DEVICE_BLOCKS);
    struct test_pages pages;
    test_pages_init(&pages, device, KV_BLOCK_BYTES, 0, KV_CODEC_NONE);
    struct kv_pagemap *map = NULL;
    const struct kv_pagemap_root too_deep = {
        .ptr = {.block = kv_le64_of(100), .length_bytes = kv_le32_of(KV_BLOCK_BYTES)},
        .depth = KV_MAP_DEPTH_MAX + 1};
    ck_assert_int_eq(kv_pagemap_open(device, pages.space, &too_deep, 64, &map), -EUCLEAN);
    const struct kv_pagemap_root too_many = {.page_id_next = KV_PAGE_ID_MAX + 2};
    ck_assert_int_eq(kv_pagemap_open(device, pages.space, &too_many, 64, &map), -EUCLEAN);
    test_pages_release(&pages);
    kv_device_close(device);
}
END_TEST

START_TEST(after_a_failed_write_every_place_can_still_be_found)
{
    for (uint64_t after = 0; after < 6; after++) {
        struct faulty *const faulty = faulty_new(memory_device_new(DEVICE_BLOCKS));
        struct model *const model = calloc(1, sizeof *model);
        ck_assert_ptr_nonnull(model);
        model->random.state = seed_start + after;
        test_pages_init(&model->pages, faulty_device(faulty), KV_BLOCK_BYTES, 0, KV_CODEC_NONE);
        for (unsigned i = 0; i < 1500; i++)
            set_place(model, take_id(model));
        faulty_arm(faulty,
                   (struct fault){
                       .targets = FAULT_WRITES, .after = after, .lasting = true, .error = -EIO});
        const int err = test_pages_write(&model->pages, test_pages_close_epoch(&model->pages));
        ck_assert_int_eq(err, -EIO);
        expect_all(model);
        test_pages_release(&model->pages);
        faulty_free(faulty);
        free(model);
    }
}
END_TEST

static Suite *pagemap_suite(void)
{
    Suite *const suite = suite_create("pagemap");
    TCase *const map = tcase_create("map");
    tcase_set_timeout(map, 300);
    tcase_add_loop_test(map, random_changes_checkpoints_and_crashes_agree_with_an_array, 0, 3);
    tcase_add_test(map, ids_that_were_freed_are_found_again_after_opening);
    tcase_add_test(map, an_id_that_holds_a_page_is_not_given_out_whatever_the_root_says);
    tcase_add_test(map, no_id_is_given_twice_whenever_it_was_freed);
    tcase_add_test(map, moving_a_page_often_in_one_epoch_takes_the_space_of_one);
    tcase_add_test(map, the_tree_grows_by_one_level_and_by_several);
    tcase_add_test(map, an_epoch_that_wrote_no_page_leaves_a_root_that_can_be_opened);
    tcase_add_test(map, while_one_epoch_is_written_the_next_moves_pages_already);
    tcase_add_loop_test(map, a_damaged_map_block_is_said_and_the_others_can_be_read, 0, 2);
    tcase_add_test(map, a_root_that_makes_no_sense_is_refused);
    tcase_add_test(map, after_a_failed_write_every_place_can_still_be_found);
    suite_add_tcase(suite, map);
    return suite;
}

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    return test_run(pagemap_suite());
}
