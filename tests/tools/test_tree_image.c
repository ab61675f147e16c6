/*
 * tests/tools/test_tree_image.c: an image as a source of trees while time goes by.
 */
#include <check.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/expiry.h"
#include "fs/format.h"
#include "fs/namespace.h"
#include "tests/fs/scratch_store.h"
#include "tests/run.h"
#include "tools/tree.h"

#define SECOND    INT64_C(1000000000)
#define QUESTIONS 24u /* more than an export of three files has */

static struct scratch_store scratch;
static struct fs_volume *volume;

/* ---- a clock that jumps after so many questions -------------------------------------------- */

static int64_t before_ns = 1000 * SECOND, after_ns = 1000 * SECOND;
static unsigned questions_left = UINT_MAX;

static int64_t tell_time(void)
{
    if (questions_left == 0)
        return after_ns;
    questions_left--;
    return before_ns;
}

static void open_volume(bool read_only)
{
    const struct fs_volume_options options = {.now = tell_time, .read_only = read_only};
    struct kv_error error = {""};
    ck_assert_int_eq(fs_volume_open(scratch.store, &options, &volume, &error), 0);
}

static void setup(void)
{
    static const struct fs_caller root;
    static const char text[] = "put a-short 1\nput a-stay 2\nput d/short 3\nput d/stay 4\n";
    struct fs_apply_result result;
    scratch_open(&scratch, 64u << 20, 0, 0);
    ck_assert_int_eq(fs_format(scratch.store, 0, 0, 0755), 0);
    open_volume(false);
    ck_assert_int_eq(fs_apply_text(volume, &root, text, strlen(text), NULL, &result), 0);
    ck_assert_int_eq(fs_path_setxattr(volume, "a-short", FS_XATTR_TTL, "10", 2), 0);
    ck_assert_int_eq(fs_path_setxattr(volume, "d/short", FS_XATTR_TTL, "10", 2), 0);
    fs_volume_close(volume);
}

static void teardown(void)
{
    scratch_close(&scratch);
}

/* ---- a sink that looks -------------------------------------------------------------------- */

static unsigned stay, expiring; /* files that were seen */

static int take(struct tree_sink *sink, const struct tree_item *item)
{
    (void)sink;
    if (!S_ISREG(item->attributes.mode))
        return 0;
    if (strstr(item->path, "stay")) {
        stay++;
        ck_assert_uint_eq(item->attributes.xattr_count, 0);
        return 0;
    }
    expiring++;
    ck_assert_uint_eq(item->attributes.xattr_count, 1);
    const struct fs_apply_xattr *ttl = &item->attributes.xattrs[0];
    uint64_t seconds;
    ck_assert_str_eq(ttl->name, FS_XATTR_TTL);
    /* What has no time left could not be imported. */
    ck_assert_int_eq(fs_ttl_parse(ttl->value, ttl->length, &seconds), 0);
    ck_assert_uint_eq(seconds, 10);
    return 0;
}

static void export_while_time_jumps(unsigned questions)
{
    struct tree_sink sink = {.put = take};
    struct tree_job job = {.sink = &sink};
    stay = expiring = 0;
    open_volume(true);
    questions_left = questions;
    after_ns = before_ns + 60 * SECOND;
    const int err = tree_from_image(&job, volume, "");
    ck_assert_msg(err == 0, "after %u questions: %s", questions, job.error.text);
    questions_left = UINT_MAX;
    fs_volume_close(volume);
}

START_TEST(what_expires_meanwhile_is_left_out)
{
    bool seen[3] = {false};
    for (unsigned questions = 0; questions < QUESTIONS; questions++) {
        export_while_time_jumps(questions);
        ck_assert_uint_eq(stay, 2);
        ck_assert_uint_le(expiring, 2);
        seen[expiring] = true;
    }
    ck_assert(seen[0] && seen[1] && seen[2]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tree_image");
    TCase *cases = tcase_create("tree_image");
    tcase_set_timeout(cases, 60);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, what_expires_meanwhile_is_left_out);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
