/* Tests of kv/arena.c: memory is faulted in ahead of its use, as far as it is used, within bounds.
 */
#include "kv/arena.h"

#include "tests/run.h"

#include <sys/mman.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static int calls;

static void count_call(void *context)
{
    ck_assert_ptr_eq(context, &calls);
    calls++;
}

static void set_up(struct kv_arena *arena, size_t bytes, size_t bytes_min)
{
    calls = 0;
    ck_assert_int_eq(kv_arena_map(arena, bytes), 0);
    /* Pages of 4 KiB only, so that nothing is there but what was asked for. */
    ck_assert_int_eq(madvise(arena->memory, bytes, MADV_NOHUGEPAGE), 0);
    kv_arena_go_ahead(arena, &(struct kv_arena_ahead){
                                 .bytes_min = bytes_min, .call = count_call, .context = &calls});
}

static unsigned touch_all(struct kv_arena *arena)
{
    unsigned steps = 0;
    while (kv_arena_touch(arena))
        steps++;
    return steps;
}

/* Bytes in memory, which end where memory does. */
static size_t resident(const struct kv_arena *arena)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t pages = arena->bytes / page;
    unsigned char *const there = malloc(pages);
    ck_assert_ptr_nonnull(there);
    ck_assert_int_eq(mincore(arena->memory, arena->bytes, there), 0);
    size_t count = 0;
    while (count < pages && there[count] & 1)
        count++;
    for (size_t i = count; i < pages; i++)
        ck_assert_msg(!(there[i] & 1), "page %zu is there, but %zu is not", i, count);
    free(there);
    return count * page;
}

/* As who gives memory out does, who then writes to it. */
static void use(struct kv_arena *arena, size_t end)
{
    kv_arena_use(arena, end);
    memset(arena->memory, 0x5a, end);
}

START_TEST(an_arena_that_nobody_uses_takes_no_memory)
{
    struct kv_arena arena;
    set_up(&arena, 32 * MIB, 0);
    ck_assert_uint_eq(touch_all(&arena), 0);
    ck_assert_uint_eq(resident(&arena), 0);
    kv_arena_unmap(&arena);
}
END_TEST

START_TEST(little_use_calls_nobody)
{
    struct kv_arena arena;
    set_up(&arena, 32 * MIB, 0);
    use(&arena, MIB / 2);
    ck_assert_int_eq(calls, 0);
    kv_arena_unmap(&arena);
}
END_TEST

START_TEST(as_much_as_is_used_is_faulted_in_behind_it)
{
    struct kv_arena arena;
    set_up(&arena, 64 * MIB, 0);
    for (size_t used = 2 * MIB; used <= 16 * MIB; used *= 2) {
        use(&arena, used);
        (void)touch_all(&arena);
        ck_assert_uint_ge(resident(&arena), 2 * used);
        ck_assert_uint_lt(resident(&arena), 2 * used + 4 * MIB);
    }
    kv_arena_unmap(&arena);
}
END_TEST

START_TEST(so_much_at_least_is_faulted_in_before_any_use)
{
    struct kv_arena arena;
    set_up(&arena, 64 * MIB, 10 * MIB);
    (void)touch_all(&arena);
    ck_assert_uint_ge(resident(&arena), 10 * MIB);
    ck_assert_uint_lt(resident(&arena), 14 * MIB);
    kv_arena_unmap(&arena);
}
END_TEST

START_TEST(no_more_than_64_mib_are_faulted_in_ahead)
{
    struct kv_arena arena;
    set_up(&arena, 256 * MIB, 0);
    kv_arena_use(&arena, 128 * MIB); /* not written: what is there was faulted in */
    (void)touch_all(&arena);
    ck_assert_uint_ge(atomic_load(&arena.touched), 192 * MIB);
    ck_assert_uint_lt(atomic_load(&arena.touched), 196 * MIB);
    kv_arena_unmap(&arena);
}
END_TEST

START_TEST(it_ends_where_the_arena_does)
{
    struct kv_arena arena;
    set_up(&arena, 5 * MIB + 4096, 64 * MIB);
    ck_assert_uint_ge(touch_all(&arena), 2); /* in steps */
    ck_assert_uint_eq(resident(&arena), arena.bytes);
    use(&arena, arena.bytes);
    ck_assert(!kv_arena_touch(&arena));
    kv_arena_unmap(&arena);
}
END_TEST

START_TEST(who_goes_ahead_is_called_once_for_what_is_due)
{
    struct kv_arena arena;
    set_up(&arena, 64 * MIB, 0);
    for (size_t used = 2 * MIB; used <= 6 * MIB; used += MIB)
        use(&arena, used);
    ck_assert_int_eq(calls, 1);
    (void)touch_all(&arena);
    use(&arena, 7 * MIB); /* the end is still a good way off */
    ck_assert_int_le(calls, 2);
    (void)touch_all(&arena);
    const int before = calls;
    use(&arena, 12 * MIB);
    ck_assert_int_eq(calls, before + 1);
    kv_arena_unmap(&arena);
}
END_TEST

START_TEST(while_enough_is_left_it_can_wait_for_a_pause)
{
    struct kv_arena arena;
    set_up(&arena, 128 * MIB, 16 * MIB);
    ck_assert_int_eq(kv_arena_due(&arena), KV_ARENA_DUE_NOW); /* nothing is there */
    (void)touch_all(&arena);
    ck_assert_int_eq(kv_arena_due(&arena), KV_ARENA_DUE_NOTHING);
    use(&arena, 4 * MIB);
    ck_assert_int_eq(calls, 1);
    ck_assert_int_eq(kv_arena_due(&arena), KV_ARENA_DUE_LATER);
    use(&arena, 11 * MIB); /* more than a quarter of 16 MiB is left */
    ck_assert_int_eq(kv_arena_due(&arena), KV_ARENA_DUE_LATER);
    ck_assert_int_eq(calls, 1);
    ck_assert(kv_arena_touch(&arena)); /* as in a pause */
    kv_arena_unmap(&arena);
}
END_TEST

START_TEST(when_little_is_left_there_is_another_call_and_no_waiting_until_half_is_there)
{
    struct kv_arena arena;
    set_up(&arena, 128 * MIB, 16 * MIB);
    (void)touch_all(&arena);
    use(&arena, 4 * MIB);
    ck_assert_int_eq(kv_arena_due(&arena), KV_ARENA_DUE_LATER);
    use(&arena, 14 * MIB);
    ck_assert_int_eq(calls, 2);
    use(&arena, 15 * MIB);
    ck_assert_int_eq(calls, 2); /* it is said once */
    while (kv_arena_due(&arena) == KV_ARENA_DUE_NOW)
        ck_assert(kv_arena_touch(&arena));
    ck_assert_int_eq(kv_arena_due(&arena), KV_ARENA_DUE_LATER);
    ck_assert_uint_ge(resident(&arena), 23 * MIB);
    ck_assert_uint_lt(resident(&arena), 27 * MIB);
    use(&arena, 24 * MIB); /* and when it is little again */
    ck_assert_int_eq(calls, 3);
    ck_assert_int_eq(kv_arena_due(&arena), KV_ARENA_DUE_NOW);
    kv_arena_unmap(&arena);
}
END_TEST

START_TEST(what_was_written_meanwhile_stays)
{
    struct kv_arena arena;
    set_up(&arena, 16 * MIB, 16 * MIB);
    memset(arena.memory + 3 * MIB, 0x77, MIB); /* ahead of any use that it knows of */
    (void)touch_all(&arena);
    size_t wrong = 0;
    for (size_t i = 0; i < 4 * MIB; i++)
        wrong += arena.memory[i] != (i < 3 * MIB ? 0 : 0x77);
    ck_assert_uint_eq(wrong, 0);
    kv_arena_unmap(&arena);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("arena");
    TCase *const tcase = tcase_create("ahead");
    tcase_set_tags(tcase, TEST_ONE_THREAD);
    tcase_add_test(tcase, an_arena_that_nobody_uses_takes_no_memory);
    tcase_add_test(tcase, little_use_calls_nobody);
    tcase_add_test(tcase, as_much_as_is_used_is_faulted_in_behind_it);
    tcase_add_test(tcase, so_much_at_least_is_faulted_in_before_any_use);
    tcase_add_test(tcase, no_more_than_64_mib_are_faulted_in_ahead);
    tcase_add_test(tcase, it_ends_where_the_arena_does);
    tcase_add_test(tcase, who_goes_ahead_is_called_once_for_what_is_due);
    tcase_add_test(tcase, while_enough_is_left_it_can_wait_for_a_pause);
    tcase_add_test(tcase,
                   when_little_is_left_there_is_another_call_and_no_waiting_until_half_is_there);
    tcase_add_test(tcase, what_was_written_meanwhile_stays);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
