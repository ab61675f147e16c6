/*
 * tests/tools/test_tune_auto.c: the border of the tiers moves where pages come back, a step at a
 * time, within its bounds, and goes back where that does not help.
 */
#include <check.h>
#include <stdlib.h>

#include "tests/run.h"
#include "tools/tune_auto.h"

static struct tune_auto state;
static char reason[TUNE_AUTO_REASON];

static void begin(uint32_t hot, uint32_t warm, uint32_t cold, uint32_t frozen)
{
    const struct kv_tiers tiers = {.ratio = {hot, warm, cold, frozen}};
    tune_auto_init(&state, &tiers);
}

/* Pages that pack are read again: `misses` of 10,000 uses. */
static struct tune_memory reading(double misses)
{
    return (struct tune_memory){
        .uses = 10000, .misses = misses, .back = misses * 0.9, .packing = 0.4};
}

static struct tune_memory unpacking(double packed_hits)
{
    return (struct tune_memory){.uses = 10000,
                                .misses = 10,
                                .packed_hits = packed_hits,
                                .unpacked_back = packed_hits * 0.9,
                                .packing = 0.4};
}

static enum tune_auto_act step(struct tune_memory memory)
{
    const unsigned before = state.percent;
    const enum tune_auto_act act = tune_auto_step(&state, &memory, reason);
    ck_assert_uint_le(state.percent, TUNE_AUTO_MOST);
    ck_assert_uint_le((unsigned)abs((int)state.percent - (int)before), TUNE_AUTO_STEP);
    ck_assert_int_eq(act == TUNE_AUTO_KEEP, state.percent == before);
    ck_assert_int_eq(act == TUNE_AUTO_KEEP, reason[0] == '\0');
    return act;
}

START_TEST(pages_that_come_back_and_pack_get_room_as_long_as_it_helps)
{
    begin(12, 3, 0, 0);
    unsigned moves = 0;
    for (double misses = 2000; misses > 0; misses = misses * 0.8 - 10)
        moves += step(reading(misses)) == TUNE_AUTO_MOVE;
    ck_assert_uint_ge(moves, 4);
    ck_assert_uint_gt(state.percent, 30);
}
END_TEST

START_TEST(it_never_goes_beyond_its_bounds)
{
    begin(12, 3, 0, 0);
    double misses = 1e9;
    for (unsigned i = 0; i < 100; i++, misses *= 0.9)
        (void)step(
            (struct tune_memory){.uses = 1e9, .misses = misses, .back = misses, .packing = 0.4});
    ck_assert_uint_le(state.percent, TUNE_AUTO_MOST);
    begin(1, 1, 10, 10);
    double hits = 9000;
    for (unsigned i = 0; i < 100; i++, hits *= 0.9)
        (void)step(unpacking(hits));
    ck_assert_uint_lt(state.percent, 90);
    begin(1, 1, 49, 49); /* set by hand beyond: it only comes back */
    ck_assert_uint_gt(state.percent, TUNE_AUTO_MOST);
    struct tune_memory memory = reading(2000);
    ck_assert_int_eq(tune_auto_step(&state, &memory, reason), TUNE_AUTO_KEEP);
}
END_TEST

START_TEST(pages_that_are_unpacked_again_and_again_get_frames)
{
    begin(10, 5, 45, 40);
    ck_assert_int_eq(step(unpacking(9000)), TUNE_AUTO_MOVE);
    ck_assert_uint_eq(state.percent, 75);
}
END_TEST

START_TEST(pages_that_do_not_pack_get_no_room_to_be_packed)
{
    struct tune_memory memory = reading(2000);
    memory.packing = 1;
    begin(12, 3, 0, 0);
    ck_assert_int_eq(step(memory), TUNE_AUTO_KEEP);
    begin(12, 3, 45, 40);
    ck_assert_int_eq(step(memory), TUNE_AUTO_MOVE);
    ck_assert_uint_eq(state.percent, 75);
}
END_TEST

START_TEST(what_does_not_help_is_taken_back_and_rests_longer_each_time)
{
    begin(12, 3, 0, 0);
    unsigned rests[8], found = 0, quiet = 0;
    for (unsigned i = 0; i < 1000 && found < 8; i++) {
        const enum tune_auto_act act = step(reading(2000));
        if (act == TUNE_AUTO_UNDO)
            ck_assert_uint_eq(state.percent, 0);
        if (act == TUNE_AUTO_MOVE)
            rests[found++] = quiet;
        quiet = act == TUNE_AUTO_UNDO ? 0 : quiet + 1;
    }
    ck_assert_uint_eq(found, 8);
    ck_assert_uint_lt(rests[1], rests[2]);
    ck_assert_uint_lt(rests[2], rests[3]);
    ck_assert_uint_le(rests[7], TUNE_AUTO_REST_MAX);
    ck_assert_uint_eq(rests[6], rests[7]);
}
END_TEST

START_TEST(a_gain_begins_the_rests_anew)
{
    begin(12, 3, 0, 0);
    while (step(reading(2000)) != TUNE_AUTO_UNDO)
        ;
    ck_assert_uint_gt(state.rest, TUNE_AUTO_REST);
    while (step(reading(2000)) != TUNE_AUTO_MOVE)
        ;
    (void)step(reading(1000));
    (void)step(reading(1000));
    ck_assert_uint_eq(state.rest, TUNE_AUTO_REST);
}
END_TEST

START_TEST(small_gains_and_equal_ones_move_nothing)
{
    begin(12, 3, 5, 5);
    ck_assert_int_eq(step(reading(50)), TUNE_AUTO_KEEP);
    struct tune_memory both = reading(1000);
    both.packed_hits = 10000;
    both.unpacked_back = both.back * (TUNE_AUTO_READ_COST - 1);
    ck_assert_int_eq(step(both), TUNE_AUTO_KEEP);
}
END_TEST

START_TEST(an_interval_in_which_nothing_happens_is_left_out)
{
    const struct tune_memory idle = {.uses = 10};
    begin(12, 3, 0, 0);
    ck_assert_int_eq(step(reading(2000)), TUNE_AUTO_MOVE);
    for (unsigned i = 0; i < 50; i++)
        ck_assert_int_eq(step(idle), TUNE_AUTO_KEEP);
    ck_assert_int_eq(state.phase, TUNE_AUTO_SETTLING);
    ck_assert_uint_eq(state.percent, TUNE_AUTO_STEP);
}
END_TEST

START_TEST(ratios_keep_how_hot_and_warm_divide_theirs)
{
    const struct kv_tiers now = {.ratio = {12, 3, 0, 0}}, none = {.ratio = {0}};
    for (unsigned percent = 0; percent <= TUNE_AUTO_MOST; percent++) {
        const struct kv_tiers tiers = tune_auto_tiers(percent, &now);
        const uint32_t *const ratio = tiers.ratio;
        ck_assert_uint_eq(ratio[0] + ratio[1] + ratio[2] + ratio[3], 1000);
        ck_assert_uint_eq(ratio[2] + ratio[3], 10 * percent);
        ck_assert_uint_eq(ratio[0], (1000 - 10 * percent) * 12 / 15);
        ck_assert_uint_ge(ratio[2], ratio[3]);
        ck_assert_uint_gt(tune_auto_tiers(percent, &none).ratio[0], 0);
        tune_auto_init(&state, &tiers);
        ck_assert_uint_eq(state.percent, percent);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tune_auto");
    TCase *tests = tcase_create("tune_auto");
    tcase_add_test(tests, pages_that_come_back_and_pack_get_room_as_long_as_it_helps);
    tcase_add_test(tests, it_never_goes_beyond_its_bounds);
    tcase_add_test(tests, pages_that_are_unpacked_again_and_again_get_frames);
    tcase_add_test(tests, pages_that_do_not_pack_get_no_room_to_be_packed);
    tcase_add_test(tests, what_does_not_help_is_taken_back_and_rests_longer_each_time);
    tcase_add_test(tests, a_gain_begins_the_rests_anew);
    tcase_add_test(tests, small_gains_and_equal_ones_move_nothing);
    tcase_add_test(tests, an_interval_in_which_nothing_happens_is_left_out);
    tcase_add_test(tests, ratios_keep_how_hot_and_warm_divide_theirs);
    suite_add_tcase(suite, tests);

    return test_run(suite);
}
