/*
 * tests/kv/test_cache.c: which page leaves memory.
 */
#include "kv/cache.h"
#include "tests/run.h"

#include <check.h>

#define FRAME_BYTES 4096u
#define FRAMES      100u

static const struct kv_tiers two_tiers = {.ratio = {33, 67, 0, 0}};

struct fixture {
    struct kv_cache cache;
    uint32_t dirty[FRAMES];
    uint32_t dirty_count;
};

static void fixture_init(struct fixture *f)
{
    const uint64_t per_frame = FRAME_BYTES + KV_CACHE_FRAME_COST;
    ck_assert_int_eq(kv_cache_init(&f->cache, FRAMES * per_frame, FRAME_BYTES, &two_tiers), 0);
    ck_assert_uint_eq(f->cache.frame_count, FRAMES);
}

static uint32_t victim(struct fixture *f)
{
    return kv_cache_victim(&f->cache, f->dirty, FRAMES, &f->dirty_count);
}

static struct kv_frame *frame_of(struct fixture *f, uint64_t page_id)
{
    const uint32_t index = kv_cache_find(&f->cache, page_id);
    return index == KV_FRAME_NONE ? NULL : &f->cache.frames[index];
}

/* Bring a page in as the pager does; loading is no use. */
static void bring_in(struct fixture *f, uint64_t page_id)
{
    uint32_t index = kv_cache_take_free(&f->cache);
    if (index == KV_FRAME_NONE) {
        const uint32_t leaving = victim(f);
        ck_assert_uint_ne(leaving, KV_FRAME_NONE);
        kv_cache_remove(&f->cache, leaving);
        index = kv_cache_take_free(&f->cache);
    }
    kv_cache_insert(&f->cache, index, page_id);
}

/* Use a page; *missed counts when it must be brought in. */
static void use(struct fixture *f, uint64_t page_id, unsigned *missed)
{
    const uint32_t index = kv_cache_find_racy(&f->cache, page_id);
    if (index != KV_FRAME_NONE) {
        ck_assert_uint_eq(index, kv_cache_find(&f->cache, page_id));
        kv_cache_touch_racy(&f->cache.frames[index]);
        return;
    }
    ++*missed;
    bring_in(f, page_id);
}

static uint32_t queue_total(const struct fixture *f)
{
    uint32_t count = 0;
    for (unsigned tier = 0; tier < KV_QUEUE_COUNT; tier++)
        count += f->cache.queues[tier].count;
    return count;
}

START_TEST(pages_are_found_under_their_ids_until_they_leave)
{
    struct fixture f;
    fixture_init(&f);
    for (uint64_t id = 1; id <= 10 * FRAMES; id++) {
        bring_in(&f, id);
        ck_assert_ptr_nonnull(frame_of(&f, id));
        ck_assert_uint_eq(queue_total(&f), FRAMES);
    }
    unsigned found = 0;
    for (uint64_t id = 1; id <= 10 * FRAMES; id++)
        found += frame_of(&f, id) != NULL;
    ck_assert_uint_eq(found, FRAMES);
    kv_cache_release(&f.cache);
}
END_TEST

START_TEST(pages_that_are_used_once_leave_in_the_order_in_which_they_came)
{
    struct fixture f;
    fixture_init(&f);
    for (uint64_t id = 1; id <= FRAMES; id++)
        bring_in(&f, id);
    for (uint64_t id = 1; id <= FRAMES; id++) {
        const uint32_t leaving = victim(&f);
        ck_assert_ptr_eq(&f.cache.frames[leaving], frame_of(&f, id));
        kv_cache_remove(&f.cache, leaving);
    }
    ck_assert_uint_eq(victim(&f), KV_FRAME_NONE);
    ck_assert_uint_eq(f.dirty_count, 0);
    kv_cache_release(&f.cache);
}
END_TEST

START_TEST(a_scan_does_not_evict_the_hot_set)
{
    struct fixture f;
    unsigned missed = 0;
    fixture_init(&f);
    /* Given a set that fits into hot, and is used again and again beside other pages. */
    for (unsigned round = 0; round < 5; round++) {
        for (uint64_t id = 1; id <= 30; id++)
            use(&f, id, &missed);
        for (uint64_t id = 0; id < 40; id++)
            use(&f, 1000 + 40 * round + id, &missed);
    }
    /* When a scan of ten times the memory passes through, */
    for (uint64_t id = 10000; id < 10000 + 10 * FRAMES; id++)
        use(&f, id, &missed);
    /* then the set is still there. */
    missed = 0;
    for (uint64_t id = 1; id <= 30; id++)
        use(&f, id, &missed);
    ck_assert_uint_eq(missed, 0);
    kv_cache_release(&f.cache);
}
END_TEST

START_TEST(a_new_hot_set_takes_the_place_of_the_old)
{
    struct fixture f;
    unsigned missed = 0;
    fixture_init(&f);
    for (unsigned set = 0; set < 4; set++) {
        for (unsigned round = 0; round < 40; round++)
            for (uint64_t id = 0; id < 80; id++)
                use(&f, 1 + 100 * set + id, &missed);
        missed = 0;
        for (uint64_t id = 0; id < 80; id++)
            use(&f, 1 + 100 * set + id, &missed);
        ck_assert_uint_le(missed, 8);
        ck_assert_uint_le(f.cache.queues[KV_TIER_HOT].count, 33);
    }
    kv_cache_release(&f.cache);
}
END_TEST

START_TEST(pinned_and_busy_pages_stay_and_dirty_ones_are_named)
{
    struct fixture f;
    fixture_init(&f);
    for (uint64_t id = 1; id <= FRAMES; id++)
        bring_in(&f, id);
    for (uint64_t id = 1; id <= FRAMES; id++) {
        struct kv_frame *const frame = frame_of(&f, id);
        switch (id % 5) {
        case 0:
            frame->pins = 1;
            break;
        case 1:
            frame->flags = KV_FRAME_LOADING;
            break;
        case 2:
            frame->flags = KV_FRAME_DIRTY | KV_FRAME_WRITING;
            break;
        case 3:
            frame->flags = KV_FRAME_DIRTY;
            break;
        default:
            frame->flags = KV_FRAME_SHADOWED;
        }
    }
    ck_assert_uint_eq(victim(&f), KV_FRAME_NONE);
    ck_assert_uint_ge(f.dirty_count, FRAMES / 5);
    for (uint32_t i = 0; i < f.dirty_count; i++)
        ck_assert_uint_eq(f.cache.frames[f.dirty[i]].flags, KV_FRAME_DIRTY);

    /* No more are named than there is room for. */
    uint32_t few[3];
    uint32_t few_count = 0;
    ck_assert_uint_eq(kv_cache_victim(&f.cache, few, 3, &few_count), KV_FRAME_NONE);
    ck_assert_uint_eq(few_count, 3);

    /* None is named, and a clean page is found behind them. */
    frame_of(&f, 4)->flags = 0;
    const uint32_t clean = kv_cache_victim(&f.cache, NULL, 0, &few_count);
    ck_assert_ptr_eq(&f.cache.frames[clean], frame_of(&f, 4));
    ck_assert_uint_eq(few_count, 0);
    kv_cache_release(&f.cache);
}
END_TEST

/* Readers mark pages faster than the clock clears them: some page must leave all the same. */
START_TEST(a_page_leaves_even_when_every_page_is_in_use)
{
    struct fixture f;
    unsigned missed = 0;
    fixture_init(&f);
    for (uint64_t id = 1; id <= FRAMES; id++)
        bring_in(&f, id);
    for (uint64_t round = 0; round < 1000; round++) {
        for (unsigned mark = 0; mark < 3; mark++)
            for (uint32_t i = 0; i < FRAMES; i++)
                kv_cache_touch_racy(&f.cache.frames[i]);
        use(&f, 1000 + round, &missed);
    }
    ck_assert_uint_eq(missed, 1000);

    /* Also the last one that can, when it is hot and marked. */
    for (uint32_t i = 0; i < FRAMES; i++) {
        f.cache.frames[i].pins = i != 7;
        atomic_store(&f.cache.frames[i].referenced, 3);
    }
    ck_assert_uint_eq(victim(&f), 7);
    kv_cache_release(&f.cache);
}
END_TEST

START_TEST(a_budget_for_too_few_frames_is_refused)
{
    struct kv_cache cache;
    ck_assert_int_eq(kv_cache_init(&cache, 63 * FRAME_BYTES, FRAME_BYTES, &two_tiers), -EINVAL);
    kv_cache_release(&cache);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("cache");
    TCase *const cache = tcase_create("cache");
    tcase_set_timeout(cache, 120);
    tcase_add_test(cache, pages_are_found_under_their_ids_until_they_leave);
    tcase_add_test(cache, pages_that_are_used_once_leave_in_the_order_in_which_they_came);
    tcase_add_test(cache, a_scan_does_not_evict_the_hot_set);
    tcase_add_test(cache, a_new_hot_set_takes_the_place_of_the_old);
    tcase_add_test(cache, pinned_and_busy_pages_stay_and_dirty_ones_are_named);
    tcase_add_test(cache, a_page_leaves_even_when_every_page_is_in_use);
    tcase_add_test(cache, a_budget_for_too_few_frames_is_refused);
    suite_add_tcase(suite, cache);
    return test_run(suite);
}
