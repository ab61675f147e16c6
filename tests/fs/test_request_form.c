/*
 * tests/fs/test_request_form.c: requests that are cut at any byte are not taken for whole.
 */
#include <check.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>

#include "fs/request_form.h"
#include "tests/run.h"

#define REQUEST_MAX 512u

struct request {
    uint8_t bytes[REQUEST_MAX];
    uint32_t length;
};

static struct request request_of(uint32_t opcode, const void *fixed, size_t fixed_bytes,
                                 const char *names, size_t names_bytes)
{
    struct request request = {.length = sizeof(struct fuse_in_header)};
    memcpy(request.bytes + request.length, fixed, fixed_bytes);
    request.length += (uint32_t)fixed_bytes;
    memcpy(request.bytes + request.length, names, names_bytes);
    request.length += (uint32_t)names_bytes;
    const struct fuse_in_header header = {.len = request.length, .opcode = opcode};
    memcpy(request.bytes, &header, sizeof header);
    return request;
}

/* In memory of just its length: a byte read too far is one for the sanitizer. */
static bool is_whole(const struct request *request, size_t length, bool long_setxattr)
{
    uint8_t *const bytes = malloc(length ? length : 1);
    ck_assert_ptr_nonnull(bytes);
    memcpy(bytes, request->bytes, length);
    const uint32_t said = (uint32_t)length;
    if (length >= sizeof(struct fuse_in_header))
        memcpy(bytes, &said, sizeof said);
    const bool whole = fs_request_is_whole(bytes, length, long_setxattr);
    free(bytes);
    return whole;
}

static void expect_no_shorter(const struct request *request, bool long_setxattr)
{
    ck_assert(is_whole(request, request->length, long_setxattr));
    for (size_t length = 0; length < request->length; length++)
        ck_assert_msg(!is_whole(request, length, long_setxattr), "%zu of %u bytes pass", length,
                      request->length);
}

START_TEST(names_end_within_the_request)
{
    const struct fuse_rename2_in rename = {.newdir = 1};
    const struct request two =
        request_of(FUSE_RENAME2, &rename, sizeof rename, "from\0to", sizeof "from\0to");
    expect_no_shorter(&two, false);
    const struct request one = request_of(FUSE_LOOKUP, "", 0, "name", sizeof "name");
    expect_no_shorter(&one, false);
    const struct request link = request_of(FUSE_SYMLINK, "", 0, "a\0b", sizeof "a\0b");
    expect_no_shorter(&link, false);
}
END_TEST

START_TEST(counts_and_sizes_stay_within_the_request)
{
    const struct fuse_write_in write = {.size = 5};
    const struct request content = request_of(FUSE_WRITE, &write, sizeof write, "12345", 5);
    expect_no_shorter(&content, false);

    const struct fuse_batch_forget_in batch = {.count = 2};
    const struct fuse_forget_one ones[2] = {{.nodeid = 1}, {.nodeid = 2}};
    struct request forget =
        request_of(FUSE_BATCH_FORGET, &batch, sizeof batch, (const char *)ones, sizeof ones);
    expect_no_shorter(&forget, false);
    const struct fuse_batch_forget_in endless = {.count = UINT32_MAX};
    memcpy(forget.bytes + sizeof(struct fuse_in_header), &endless, sizeof endless);
    ck_assert(!is_whole(&forget, forget.length, false));
}
END_TEST

START_TEST(setxattr_has_two_forms)
{
    const struct fuse_setxattr_in in = {.size = 3};
    const struct request longer =
        request_of(FUSE_SETXATTR, &in, sizeof in, "user.a\0abc", sizeof "user.a\0abc" - 1);
    expect_no_shorter(&longer, true);
    const struct request shorter = request_of(FUSE_SETXATTR, &in, FUSE_COMPAT_SETXATTR_IN_SIZE,
                                              "user.a\0abc", sizeof "user.a\0abc" - 1);
    expect_no_shorter(&shorter, false);
}
END_TEST

START_TEST(init_says_how_long_it_is)
{
    const struct fuse_init_in in = {
        .major = FUSE_KERNEL_VERSION, .minor = 36, .flags = FUSE_INIT_EXT};
    const struct request longest = request_of(FUSE_INIT, &in, sizeof in, "", 0);
    expect_no_shorter(&longest, false);
    const struct fuse_init_in old = {.major = FUSE_KERNEL_VERSION, .minor = 31};
    const struct request older =
        request_of(FUSE_INIT, &old, offsetof(struct fuse_init_in, flags2), "", 0);
    expect_no_shorter(&older, false);
    const struct fuse_init_in ancient = {.major = FUSE_KERNEL_VERSION, .minor = 8};
    const struct request refused = request_of(FUSE_INIT, &ancient, sizeof ancient, "", 0);
    ck_assert(!is_whole(&refused, refused.length, false));
}
END_TEST

START_TEST(the_header_does_not_lie_about_the_length)
{
    struct request request = request_of(FUSE_STATFS, "", 0, "", 0);
    ck_assert(fs_request_is_whole(request.bytes, request.length, false));
    request.bytes[0]++;
    ck_assert(!fs_request_is_whole(request.bytes, request.length, false));
    /* What is not known needs no more than a header: libfuse answers ENOSYS. */
    const struct request unknown = request_of(4000, "", 0, "", 0);
    ck_assert(fs_request_is_whole(unknown.bytes, unknown.length, false));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("request_form");
    TCase *tests = tcase_create("request_form");
    tcase_add_test(tests, names_end_within_the_request);
    tcase_add_test(tests, counts_and_sizes_stay_within_the_request);
    tcase_add_test(tests, setxattr_has_two_forms);
    tcase_add_test(tests, init_says_how_long_it_is);
    tcase_add_test(tests, the_header_does_not_lie_about_the_length);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
