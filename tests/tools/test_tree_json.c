/*
 * tests/tools/test_tree_json.c: lines of JSON as a source of trees, up to the end that there is.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/run.h"
#include "tools/tree.h"

/* ---- memory that runs out: getline in place of the C library's, however that is called --------
 */

static unsigned lines_left; /* that fit into memory */

ssize_t __getdelim(char **line, size_t *capacity, int delimiter, FILE *in);

ssize_t __getdelim(char **line, size_t *capacity, int delimiter, FILE *in)
{
    if (lines_left == 0) {
        errno = ENOMEM;
        return -1; /* and neither an end nor an error of the stream */
    }
    lines_left--;
    return getdelim(line, capacity, delimiter, in);
}

ssize_t getline(char **line, size_t *capacity, FILE *in)
{
    return __getdelim(line, capacity, '\n', in);
}

/* ---- a sink that counts ------------------------------------------------------------------------
 */

static int count_item(struct tree_sink *sink, const struct tree_item *item)
{
    (void)sink;
    (void)item;
    return 0;
}

/* Read a text of which so many lines fit. Returns what the source does. */
static int import_lines(const char *text, unsigned lines, struct tree_job *job)
{
    static struct tree_sink sink = {.put = count_item};
    char copy[256];
    strcpy(copy, text);
    *job = (struct tree_job){.sink = &sink};
    FILE *in = fmemopen(copy, strlen(copy), "r");
    ck_assert_ptr_nonnull(in);
    lines_left = lines;
    const int err = tree_from_json(job, in);
    ck_assert_int_eq(fclose(in), 0);
    return err;
}

START_TEST(a_line_that_memory_is_short_for_is_an_error)
{
    struct tree_job job;
    ck_assert_int_eq(import_lines("{\"key\":\"a\"}\n{\"key\":\"b\"}\n", 1, &job), -ENOMEM);
    ck_assert_uint_eq(job.entries, 1);
    ck_assert_str_ne(job.error.text, "");
}
END_TEST

START_TEST(the_last_line_may_end_without_a_line_end)
{
    struct tree_job job;
    ck_assert_int_eq(import_lines("{\"key\":\"a\"}\n{\"key\":\"b\"}", 10, &job), 0);
    ck_assert_uint_eq(job.entries, 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tree_json");
    TCase *cases = tcase_create("tree_json");
    tcase_add_test(cases, a_line_that_memory_is_short_for_is_an_error);
    tcase_add_test(cases, the_last_line_may_end_without_a_line_end);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
