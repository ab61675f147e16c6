/*
 * tests/tools/test_profiles.c: the table of profiles makes sense, row by row.
 */
#include <check.h>
#include <string.h>

#include "tests/run.h"
#include "tools/config.h"
#include "tools/profiles.h"

static const struct tool_setting *find_setting(const char *key)
{
    for (size_t i = 0; tool_config_setting(i); i++)
        if (strcmp(tool_config_setting(i)->key, key) == 0)
            return tool_config_setting(i);
    return NULL;
}

/* All settings as text. */
static const char *shown(const struct fs_mount_options *options, char text[4096])
{
    char line[256];
    text[0] = '\0';
    for (size_t i = 0; tool_config_show(i, options, line, sizeof line); i++)
        strcat(strcat(text, line), "\n");
    return text;
}

START_TEST(every_row_sets_something_to_what_it_may_be_and_was_not)
{
    for (size_t i = 0; tool_profile(i); i++) {
        const struct tool_profile *profile = tool_profile(i);
        ck_assert_ptr_nonnull(profile->settings[0].key);
        for (size_t row = 0; profile->settings[row].key; row++) {
            const struct tool_profile_setting *setting = &profile->settings[row];
            struct fs_mount_options plain, changed;
            struct kv_error error = {""};
            tool_config_defaults(&plain);
            tool_config_defaults(&changed);
            ck_assert_uint_lt(row + 1, TOOL_PROFILE_SETTINGS_MAX);
            ck_assert_ptr_nonnull(find_setting(setting->key));
            ck_assert_str_ne(setting->key, "profile");
            ck_assert_str_ne(setting->key, "ro"); /* nor who may do what */
            ck_assert_str_ne(setting->key, "allow_other");
            ck_assert_str_ne(setting->key, "seccomp");
            ck_assert_msg(tool_config_set(setting->key, setting->value, &changed, &error) == 0,
                          "%s: %s", profile->name, error.text);
            char before[4096], after[4096];
            ck_assert_msg(strcmp(shown(&plain, before), shown(&changed, after)) != 0,
                          "%s: %s is the default", profile->name, setting->key);
            for (size_t other = 0; other < row; other++)
                ck_assert_str_ne(setting->key, profile->settings[other].key);
        }
    }
}
END_TEST

START_TEST(names_are_short_known_and_listed)
{
    char list[512] = "";
    for (size_t i = 0; tool_profile(i); i++) {
        const struct tool_profile *profile = tool_profile(i);
        ck_assert_uint_lt(strlen(profile->name), FS_PROFILE_NAME_MAX);
        ck_assert_str_ne(profile->name, TOOL_PROFILE_NONE);
        ck_assert_uint_eq(strspn(profile->name, "abcdefghijklmnopqrstuvwxyz-"),
                          strlen(profile->name));
        ck_assert_ptr_eq(tool_profile_find(profile->name), profile);
        strcat(strcat(list, i ? ", " : ""), profile->name);
    }
    ck_assert_str_eq(list, TOOL_PROFILE_NAMES);
    ck_assert_ptr_null(tool_profile_find("none"));
    ck_assert_ptr_null(tool_profile_find(""));
    ck_assert_ptr_null(tool_profile_find("oltp "));
}
END_TEST

START_TEST(every_profile_says_what_it_is_for_what_it_takes_and_why)
{
    for (size_t i = 0; tool_profile(i); i++) {
        const struct tool_profile *profile = tool_profile(i);
        ck_assert_uint_gt(strlen(profile->summary), 10);
        ck_assert_uint_gt(strlen(profile->price), 10);
        for (size_t row = 0; profile->settings[row].key; row++)
            ck_assert_uint_gt(strlen(profile->settings[row].reason), 7);
    }
}
END_TEST

START_TEST(all_of_a_profile_is_in_force_at_once)
{
    for (size_t i = 0; tool_profile(i); i++) {
        const struct tool_profile *profile = tool_profile(i);
        struct fs_mount_options started, by_hand;
        struct kv_error error = {""};
        tool_config_start(profile->name, NULL, &started);
        tool_config_defaults(&by_hand);
        for (size_t row = 0; profile->settings[row].key; row++)
            ck_assert_int_eq(tool_config_set(profile->settings[row].key,
                                             profile->settings[row].value, &by_hand, &error),
                             0);
        char found[4096], wanted[4096];
        ck_assert_str_eq(shown(&started, found), shown(&by_hand, wanted));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("profiles");
    TCase *tests = tcase_create("profiles");
    tcase_add_test(tests, every_row_sets_something_to_what_it_may_be_and_was_not);
    tcase_add_test(tests, names_are_short_known_and_listed);
    tcase_add_test(tests, every_profile_says_what_it_is_for_what_it_takes_and_why);
    tcase_add_test(tests, all_of_a_profile_is_in_force_at_once);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
