/*
 * tests/tools/test_flame.c: what perf script prints becomes a tree and a picture, whatever it is.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/run.h"
#include "tools/flame.h"

static const char canned[] = "# a remark\n"
                             "mount.kvfs  4711  1234.567890:   10101010 cpu-clock: \n"
                             "            55d0c0de kv_get+0x1f (/usr/sbin/mount.kvfs)\n"
                             "            55d0beef fs_lookup+0x88 (/usr/sbin/mount.kvfs)\n"
                             "            55d0aaaa run_worker+0x1 (/usr/sbin/mount.kvfs)\n"
                             "\n"
                             "mount.kvfs  4712 [001] 1234.577890:   10101010 cpu-clock: \n"
                             "    ffffffff81000000 do_syscall_64+0x5 ([kernel.kallsyms])\n"
                             "        7f0000001234 [unknown] (/usr/lib/libfuse3.so.3.14.0)\n"
                             "            55d0aaaa run_worker+0x1 (/usr/sbin/mount.kvfs)\n"
                             "\n"
                             "mount.kvfs  4711  1234.587890:   10101010 cpu-clock: \n"
                             "            55d0c0de kv_get+0x2f (/usr/sbin/mount.kvfs)\n"
                             "            55d0beef fs_lookup+0x88 (/usr/sbin/mount.kvfs)\n"
                             "            55d0aaaa run_worker+0x1 (/usr/sbin/mount.kvfs)\n"
                             "\n"
                             "my program  88/89  1234.597890:   10101010 cpu-clock: \n"
                             "            1 operator<< <char>(std::a&, \"b\") (/x/y)\n"
                             "            2 [unknown] ([unknown])\n";

static struct flame *flame_of(const char *text, size_t length)
{
    struct flame *flame = flame_new();
    FILE *in = fmemopen((void *)(uintptr_t)text, length, "r");
    ck_assert_ptr_nonnull(flame);
    ck_assert_ptr_nonnull(in);
    ck_assert_int_eq(flame_add_perf(flame, in), 0);
    ck_assert_int_eq(fclose(in), 0);
    return flame;
}

static char *folded(const struct flame *flame)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    ck_assert_ptr_nonnull(out);
    flame_write_folded(flame, out);
    ck_assert_int_eq(fclose(out), 0);
    return text;
}

static char *drawn(const struct flame *flame, const char *title)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    ck_assert_ptr_nonnull(out);
    flame_write_svg(flame, title, out);
    ck_assert_int_eq(fclose(out), 0);
    ck_assert_uint_eq(strlen(text), length);
    return text;
}

/* Every tag is closed, in order; every '&' begins one of four names; no byte below a blank. */
static void check_xml(const char *text)
{
    char open[16][16];
    unsigned depth = 0;
    for (const char *at = text; *at; at++) {
        ck_assert_msg((unsigned char)*at >= ' ' || *at == '\n', "byte %d", *at);
        if (*at == '&')
            ck_assert(strncmp(at, "&lt;", 4) == 0 || strncmp(at, "&gt;", 4) == 0 ||
                      strncmp(at, "&amp;", 5) == 0 || strncmp(at, "&quot;", 6) == 0);
        if (*at != '<')
            continue;
        const char *end = strchr(at, '>');
        ck_assert_ptr_nonnull(end);
        const size_t name = strcspn(at + 1, " >/");
        if (at[1] == '/') {
            ck_assert_uint_gt(depth, 0);
            depth--;
            ck_assert_uint_eq(strlen(open[depth]), (size_t)(end - at - 2));
            ck_assert(strncmp(open[depth], at + 2, strlen(open[depth])) == 0);
        } else if (at[1] != '?' && end[-1] != '/') {
            ck_assert_uint_lt(depth, 16);
            (void)snprintf(open[depth++], 16, "%.*s", (int)name, at + 1);
        }
        at = end;
    }
    ck_assert_uint_eq(depth, 0);
}

START_TEST(samples_are_folded_from_the_outside_in)
{
    struct flame *flame = flame_of(canned, sizeof canned - 1);
    char *text = folded(flame);
    ck_assert_str_eq(text, "mount.kvfs;run_worker;[libfuse3.so.3.14.0];do_syscall_64_[k] 1\n"
                           "mount.kvfs;run_worker;fs_lookup;kv_get 2\n"
                           "my program;[unknown];operator<< <char>(std::a&, \"b\") 1\n");
    ck_assert_uint_eq(flame_root(flame)->count, 4);
    free(text);
    flame_free(flame);
}
END_TEST

START_TEST(the_picture_has_each_function_with_its_share)
{
    struct flame *flame = flame_of(canned, sizeof canned - 1);
    char *text = drawn(flame, "a <title> & more");
    check_xml(text);
    ck_assert_ptr_nonnull(strstr(text, "<title>kv_get: 2 samples, 50.00 %</title>"));
    ck_assert_ptr_nonnull(strstr(text, "<title>do_syscall_64 (kernel): 1 samples, 25.00 %"));
    ck_assert_ptr_nonnull(
        strstr(text, "operator&lt;&lt; &lt;char&gt;(std::a&amp;, &quot;b&quot;): 1 samples"));
    ck_assert_ptr_nonnull(strstr(text, ">a &lt;title&gt; &amp; more</text>"));
    ck_assert_ptr_null(strstr(text, "script"));
    /* The whole of it, and a half. */
    ck_assert_ptr_nonnull(strstr(text, "<title>all: 4 samples, 100.00 %</title><rect x=\"10.00\""));
    ck_assert_ptr_nonnull(strstr(text, "width=\"600.00\""));
    free(text);
    flame_free(flame);
}
END_TEST

START_TEST(the_order_of_samples_makes_no_difference)
{
    static const char other[] = "p 1 1.0: 1 c: \n 1 b (/x)\n 1 a (/x)\n\n"
                                "p 1 1.0: 1 c: \n 1 c (/x)\n 1 a (/x)\n\n";
    static const char same[] = "p 1 1.0: 1 c: \n 1 c (/x)\n 1 a (/x)\n\n"
                               "p 1 1.0: 1 c: \n 1 b (/x)\n 1 a (/x)\n\n";
    struct flame *one = flame_of(other, sizeof other - 1), *two = flame_of(same, sizeof same - 1);
    char *a = drawn(one, "t"), *b = drawn(two, "t");
    ck_assert_str_eq(a, b);
    free(a);
    free(b);
    flame_free(one);
    flame_free(two);
}
END_TEST

START_TEST(what_is_no_sample_is_left_out)
{
    static const char *const texts[] = {
        "\n",
        "\n\n\n",
        "perf: error: no such file\n",
        "  1 name (/x)\n",            /* no sample has begun */
        "p 1 1.0: 1 c: \n zz (/x)\n", /* no address */
        "p 1 1.0: 1 c: \n",           /* a sample without a stack counts for its program */
        "1 2\n 3\n",
        "name\n 1 x\n",
        "p 12",
    };
    static const uint64_t counts[] = {0, 0, 0, 0, 1, 1, 0, 0, 0};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct flame *flame = flame_of(texts[i], strlen(texts[i]));
        char *text = drawn(flame, texts[i]);
        ck_assert_msg(flame_root(flame)->count == counts[i], "%zu: %s", i, texts[i]);
        check_xml(text);
        free(text);
        flame_free(flame);
    }
}
END_TEST

START_TEST(names_of_any_bytes_make_a_picture)
{
    char text[512];
    for (unsigned byte = 1; byte < 256; byte++) {
        if (byte == '\n')
            continue;
        const int length = snprintf(text, sizeof text,
                                    "p%c 1 1.0: 1 c: \n 1 x%cy;z+0x1 (/x%c)\n 2 [unknown] (%c)\n\n",
                                    (int)byte, (int)byte, (int)byte, (int)byte);
        struct flame *flame = flame_of(text, (size_t)length);
        char *svg = drawn(flame, text);
        check_xml(svg);
        char *lines = folded(flame);
        free(lines);
        free(svg);
        flame_free(flame);
    }
    /* Two, three and four bytes, right and cut off. */
    static const char utf8[] = "p 1 1.0: 1 c: \n 1 \xc3\xa4\xe2\x82\xac\xf0\x9f\x94\xa5 (/x)\n"
                               " 1 \xe2\x82 \xed\xa0\x80 \xf4\x90\x80\x80 \xc0\x80 (/x)\n";
    struct flame *flame = flame_of(utf8, sizeof utf8 - 1);
    char *svg = drawn(flame, "t");
    ck_assert_ptr_nonnull(strstr(svg, "<title>\xc3\xa4\xe2\x82\xac\xf0\x9f\x94\xa5: 1 samples"));
    ck_assert_ptr_nonnull(strstr(svg, "<title>?? ??? ???? ??: 1 samples"));
    free(svg);
    flame_free(flame);
}
END_TEST

START_TEST(deep_stacks_and_many_functions_are_bounded)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    ck_assert_ptr_nonnull(out);
    fputs("deep 1 1.0: 1 c: \n", out);
    for (unsigned i = 0; i < 3 * FLAME_DEPTH_MAX; i++)
        fprintf(out, " %x f%u (/x)\n", i, i);
    for (unsigned i = 0; i < 3000; i++)
        fprintf(out, "\nwide 1 1.0: 1 c: \n 1 g%u (/x)\n", i);
    ck_assert_int_eq(fclose(out), 0);
    struct flame *flame = flame_of(text, length);
    ck_assert_uint_eq(flame_root(flame)->count, 3001);
    char *svg = drawn(flame, "t");
    check_xml(svg);
    free(svg);
    char *lines = folded(flame);
    unsigned count = 0;
    for (const char *at = lines; (at = strchr(at, '\n')); at++)
        count++;
    ck_assert_uint_eq(count, 3001);
    free(lines);
    flame_free(flame);
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("flame");
    TCase *tests = tcase_create("flame");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, samples_are_folded_from_the_outside_in);
    tcase_add_test(tests, the_picture_has_each_function_with_its_share);
    tcase_add_test(tests, the_order_of_samples_makes_no_difference);
    tcase_add_test(tests, what_is_no_sample_is_left_out);
    tcase_add_test(tests, names_of_any_bytes_make_a_picture);
    tcase_add_test(tests, deep_stacks_and_many_functions_are_bounded);
    suite_add_tcase(suite, tests);

    return test_run(suite);
}
