/*
 * tests/tools/test_tree_tar.c: content with holes goes into a tar stream and comes out of it.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/run.h"
#include "tools/tree.h"

#define SIZE   40000u
#define PART   1000u
#define PARTS  (SIZE / PART)
#define ROUNDS 300

/* A file of which each part is data or a hole. */
struct content {
    char bytes[SIZE];
    bool is_data[PARTS];
    uint64_t at;
};

static int find_data(void *context, uint64_t *offset, uint64_t *end)
{
    const struct content *content = context;
    uint64_t part = *offset / PART;
    while (part < PARTS && !content->is_data[part])
        *offset = ++part * PART;
    while (part < PARTS && content->is_data[part])
        part++;
    *end = part * PART;
    return 0;
}

static int read_piece(void *context, struct tree_piece *piece)
{
    struct content *content = context;
    uint64_t end;
    const int err = find_data(content, &content->at, &end);
    *piece = (struct tree_piece){
        .bytes = content->bytes + content->at,
        .length = content->at < end ? 1 + (end - content->at) / 2 : 0, /* not all at once */
        .offset = content->at,
    };
    content->at += piece->length;
    return err;
}

static void content_make(struct content *content, unsigned data_percent)
{
    *content = (struct content){.at = 0};
    for (size_t i = 0; i < PARTS; i++)
        content->is_data[i] = (unsigned)random() % 100 < data_percent;
    for (size_t i = 0; i < SIZE; i++)
        if (content->is_data[i / PART])
            content->bytes[i] = (char)(1 + random() % 127);
}

static FILE *pack(struct content *content)
{
    FILE *stream = tmpfile();
    ck_assert_ptr_nonnull(stream);
    struct tree_job job = {.total = 0};
    job.sink = tree_to_tar(&job, fileno(stream));
    ck_assert_ptr_nonnull(job.sink);
    const struct tree_item item = {
        .path = "file",
        .attributes = {.mode = S_IFREG | 0644},
        .size = SIZE,
        .may_have_holes = true,
        .read = read_piece,
        .find = find_data,
        .read_context = content,
    };
    ck_assert_int_eq(tree_put(&job, &item), 0);
    ck_assert_int_eq(job.sink->finish(job.sink), 0);
    job.sink->free(job.sink);
    ck_assert_int_eq(lseek(fileno(stream), 0, SEEK_SET), 0);
    return stream;
}

static char found[SIZE];

static int take(struct tree_sink *sink, const struct tree_item *item)
{
    (void)sink;
    struct tree_piece piece;
    int err;
    ck_assert_uint_eq(item->size, SIZE);
    memset(found, 0, sizeof found);
    while (!(err = item->read(item->read_context, &piece)) && piece.length > 0) {
        ck_assert_uint_le(piece.offset + piece.length, SIZE);
        memcpy(found + piece.offset, piece.bytes, piece.length);
    }
    return err;
}

static void survives(unsigned data_percent)
{
    static struct content content;
    struct tree_sink sink = {.put = take};
    struct tree_job job = {.sink = &sink};
    content_make(&content, data_percent);
    FILE *stream = pack(&content);
    const int err = tree_from_tar(&job, fileno(stream));
    ck_assert_msg(err == 0, "%s", job.error.text);
    ck_assert_uint_eq(job.entries, 1);
    ck_assert_mem_eq(found, content.bytes, SIZE);
    ck_assert_int_eq(fclose(stream), 0);
}

START_TEST(what_may_have_holes_and_has_none_is_whole)
{
    survives(100);
}
END_TEST

START_TEST(nothing_but_a_hole_is_one)
{
    survives(0);
}
END_TEST

START_TEST(data_and_holes_are_where_they_were)
{
    const char *text = getenv("KVFS_SEED");
    const unsigned seed = text ? (unsigned)strtoul(text, NULL, 0) : (unsigned)getpid();
    printf("KVFS_SEED=%u\n", seed);
    srandom(seed);
    for (unsigned i = 0; i < ROUNDS; i++)
        survives(1 + (unsigned)random() % 99);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tree_tar");
    TCase *cases = tcase_create("tree_tar");
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, what_may_have_holes_and_has_none_is_whole);
    tcase_add_test(cases, nothing_but_a_hole_is_one);
    tcase_add_test(cases, data_and_holes_are_where_they_were);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
