/*
 * tests/kv/test_store_images.c: what is refused as an image, or to be made one: the right errno,
 * one line of words, and nothing changed; and what an image in order tells.
 */
#include "kv/codec.h"
#include "kv/format.h"
#include "support_image.h"
#include "tests/run.h"

#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- helpers --------------------------------------------------------------------- */

static void expect_open_fails(const struct test_dir *dir, int expected)
{
    struct kv_store *store = NULL;
    struct kv_error error = {{0}};
    const int err = kv_open(dir->image, &image_quiet, &store, &error);
    ck_assert_msg(err == expected, "%s instead of %s: %s", strerror(-err), strerror(-expected),
                  error.text);
    ck_assert_ptr_null(store);
    image_expect_words(&error, dir->image);
}

static uint64_t superblock_offset(const struct test_dir *dir, unsigned copy)
{
    const uint64_t blocks[] = {KV_SUPERBLOCK_A_BLOCK, KV_SUPERBLOCK_B_BLOCK,
                               image_file_bytes(dir->image) / KV_BLOCK_BYTES - 1};
    return blocks[copy] * KV_BLOCK_BYTES;
}

typedef void edit_fn(struct kv_disk_superblock *superblock);

/* Change all three copies, with digests that are right. */
static void edit_superblocks(const struct test_dir *dir, edit_fn *edit)
{
    for (unsigned copy = 0; copy < 3; copy++) {
        struct kv_disk_superblock superblock;
        const uint64_t offset = superblock_offset(dir, copy);
        image_read_file(dir->image, offset, &superblock, sizeof superblock);
        if (memcmp(superblock.magic, KV_SUPERBLOCK_MAGIC, sizeof superblock.magic) != 0)
            continue;
        edit(&superblock);
        superblock.digest =
            kv_le64_of(kv_digest(&superblock, offsetof(struct kv_disk_superblock, digest), 0));
        image_write_file(dir->image, offset, &superblock, sizeof superblock);
    }
}

static void damage_superblock(const struct test_dir *dir, unsigned copy)
{
    struct kv_disk_superblock superblock;
    const uint64_t offset = superblock_offset(dir, copy);
    image_read_file(dir->image, offset, &superblock, sizeof superblock);
    superblock.label[5] ^= 0x40;
    image_write_file(dir->image, offset, &superblock, sizeof superblock);
}

/* ---- images that are none -------------------------------------------------------------- */

START_TEST(a_path_that_leads_nowhere_is_said)
{
    struct test_dir dir;
    test_dir_make(&dir);
    expect_open_fails(&dir, -ENOENT);
    ck_assert_int_eq(kv_image_holder(dir.image), 0);
    struct kv_image_info info;
    struct kv_error error = {{0}};
    ck_assert_int_eq(kv_image_info(dir.image, &info, &error), -ENOENT);
    image_expect_words(&error, dir.image);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(what_is_not_an_image_is_refused_and_left_alone)
{
    struct test_dir dir;
    test_dir_make(&dir);
    uint8_t *const bytes = calloc(1, IMAGE_BYTES);
    ck_assert_ptr_nonnull(bytes);
    for (unsigned kind = 0; kind < 3; kind++) {
        if (kind == 1)
            memset(bytes, 'x', IMAGE_BYTES);
        const uint64_t length = kind == 2 ? 100 : IMAGE_BYTES;
        ck_assert(kind == 0 || unlink(dir.image) == 0);
        image_write_file(dir.image, 0, bytes, length);
        const uint64_t before = image_file_digest(dir.image);
        expect_open_fails(&dir, -EMEDIUMTYPE);
        struct kv_image_info info;
        struct kv_error error = {{0}};
        ck_assert_int_eq(kv_image_info(dir.image, &info, &error), -EMEDIUMTYPE);
        image_expect_words(&error, dir.image);
        ck_assert_uint_eq(image_file_digest(dir.image), before);
    }
    free(bytes);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(a_truncated_image_is_refused_and_left_alone)
{
    struct test_dir dir;
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    ck_assert_int_eq(truncate(dir.image, IMAGE_BYTES / 2), 0);
    const uint64_t before = image_file_digest(dir.image);
    expect_open_fails(&dir, -ENODATA);
    ck_assert_uint_eq(image_file_digest(dir.image), before);
    test_dir_remove(&dir);
}
END_TEST

static void set_version(struct kv_disk_superblock *superblock)
{
    superblock->version = kv_le32_of(KV_FORMAT_VERSION + 1);
}

static void set_incompat(struct kv_disk_superblock *superblock)
{
    superblock->feature_incompat = kv_le64_of(1ull << 40);
}

START_TEST(an_unknown_version_or_incompatible_feature_is_refused)
{
    edit_fn *const edits[] = {set_version, set_incompat};
    struct test_dir dir;
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    edit_superblocks(&dir, edits[_i]);
    const uint64_t before = image_file_digest(dir.image);
    expect_open_fails(&dir, -EPROTONOSUPPORT);
    ck_assert_uint_eq(image_file_digest(dir.image), before);
    test_dir_remove(&dir);
}
END_TEST

static void set_compat(struct kv_disk_superblock *superblock)
{
    superblock->feature_compat = kv_le64_of(1ull << 40);
}

static void set_rocompat(struct kv_disk_superblock *superblock)
{
    superblock->feature_rocompat = kv_le64_of(1ull << 40);
}

START_TEST(an_unknown_compatible_feature_does_no_harm)
{
    struct test_dir dir;
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    edit_superblocks(&dir, set_compat);
    struct kv_store *const store = image_open(&dir);
    ck_assert_int_eq(image_put_number(store, 1, 10), 0);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

static void set_no_features(struct kv_disk_superblock *superblock)
{
    superblock->feature_incompat = kv_le64_of(0);
}

/* What an older program made is not to be written by one once larger cells may be in it. */
START_TEST(an_older_image_says_that_it_may_hold_larger_cells_before_it_does)
{
    struct test_dir dir;
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    edit_superblocks(&dir, set_no_features);
    struct kv_open_options options = image_quiet;
    options.read_only = true;
    struct kv_store *store;
    struct kv_image_info info;
    ck_assert_int_eq(kv_open(dir.image, &options, &store, NULL), 0);
    ck_assert_int_eq(kv_close(store), 0);
    ck_assert_int_eq(kv_image_info(dir.image, &info, NULL), 0);
    ck_assert_uint_eq(info.feature_incompat, 0);

    store = image_open(&dir);
    kv_abandon(store);
    ck_assert_int_eq(kv_image_info(dir.image, &info, NULL), 0);
    ck_assert_uint_eq(info.feature_incompat, KV_FEATURE_INCOMPAT_THIRDS);
    test_dir_remove(&dir);
}
END_TEST

/* How many pages lie in the image, by their shapes. */
static void count_shapes(const struct test_dir *dir, unsigned counts[2])
{
    counts[KV_STORED_NODE] = counts[KV_STORED_BARE] = 0;
    const uint64_t end = image_file_bytes(dir->image);
    for (uint64_t at = 0; at < end; at += KV_BLOCK_BYTES) {
        struct kv_disk_node header;
        image_read_file(dir->image, at, &header, sizeof header);
        if (kv_le32_get(header.magic) != KV_NODE_MAGIC)
            continue;
        ck_assert_uint_le(header.stored_shape, KV_STORED_BARE);
        counts[header.stored_shape]++;
    }
}

/* An older program would not know what to do with a page that has no slots. */
START_TEST(an_older_image_gets_no_pages_without_slots)
{
    for (unsigned older = 0; older < 2; older++) {
        struct test_dir dir;
        unsigned made[2], counts[2];
        test_dir_make(&dir);
        const struct kv_create_options options = {.size_bytes = IMAGE_BYTES,
                                                  .codec.codec = KV_CODEC_LZ4};
        ck_assert_int_eq(kv_create(dir.image, &options, NULL), 0);
        count_shapes(&dir, made); /* the roots */
        if (older)
            edit_superblocks(&dir, set_no_features);
        struct kv_store *store = image_open(&dir);
        for (unsigned key = 0; key < 1000; key++)
            ck_assert_int_eq(image_put_number(store, key, 10), 0);
        ck_assert_int_eq(kv_close(store), 0);
        count_shapes(&dir, counts);
        if (older) {
            ck_assert_uint_le(counts[KV_STORED_BARE], made[KV_STORED_BARE]);
            ck_assert_uint_gt(counts[KV_STORED_NODE], made[KV_STORED_NODE]);
        } else {
            ck_assert_uint_gt(counts[KV_STORED_BARE], made[KV_STORED_BARE]);
        }
        store = image_open(&dir);
        for (unsigned key = 0; key < 1000; key++)
            ck_assert_int_eq(image_get_number(store, key, 10), 0);
        ck_assert_int_eq(kv_close(store), 0);
        test_dir_remove(&dir);
    }
}
END_TEST

START_TEST(an_unknown_read_only_feature_refuses_writing_only)
{
    struct test_dir dir;
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    struct kv_store *store = image_open(&dir);
    ck_assert_int_eq(image_put_number(store, 1, 10), 0);
    ck_assert_int_eq(kv_close(store), 0);
    edit_superblocks(&dir, set_rocompat);
    expect_open_fails(&dir, -EPROTONOSUPPORT);

    struct kv_open_options options = image_quiet;
    options.read_only = true;
    ck_assert_int_eq(kv_open(dir.image, &options, &store, NULL), 0);
    ck_assert_int_eq(image_get_number(store, 1, 10), 0);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(one_damaged_superblock_is_made_good_by_the_other)
{
    struct test_dir dir;
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    struct kv_store *store = image_open(&dir);
    for (unsigned i = 0; i < 500; i++)
        ck_assert_int_eq(image_put_number(store, i, 300), 0);
    ck_assert_int_eq(kv_close(store), 0);

    damage_superblock(&dir, (unsigned)_i);
    struct kv_image_info info;
    ck_assert_int_eq(kv_image_info(dir.image, &info, NULL), 0);
    ck_assert(info.superblock_damaged);
    store = image_open(&dir);
    for (unsigned i = 0; i < 500; i++)
        ck_assert_int_eq(image_get_number(store, i, 300), 0);
    ck_assert_int_eq(image_put_number(store, 1000, 300), 0);
    ck_assert_int_eq(kv_close(store), 0);

    store = image_open(&dir);
    ck_assert_int_eq(image_get_number(store, 1000, 300), 0);
    image_expect_clean(store);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(an_image_without_any_good_superblock_is_damaged)
{
    struct test_dir dir;
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    for (unsigned copy = 0; copy < 3; copy++)
        damage_superblock(&dir, copy);
    const uint64_t before = image_file_digest(dir.image);
    expect_open_fails(&dir, -EBADMSG);
    ck_assert_uint_eq(image_file_digest(dir.image), before);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(an_image_in_use_is_refused_and_its_holder_named)
{
    struct test_dir dir;
    int ready[2];
    int finish[2];
    char byte = 0;
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    ck_assert_int_eq(pipe(ready), 0);
    ck_assert_int_eq(pipe(finish), 0);

    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        struct kv_store *store;
        close(finish[1]);
        const bool held = kv_open(dir.image, &image_quiet, &store, NULL) == 0 &&
                          write(ready[1], "r", 1) == 1 && read(finish[0], &byte, 1) == 0;
        _exit(held && kv_close(store) == 0 ? 0 : 1);
    }
    close(ready[1]);
    close(finish[0]);
    ck_assert_int_eq((int)read(ready[0], &byte, 1), 1);

    char pid_text[16];
    snprintf(pid_text, sizeof pid_text, "%d", (int)child);
    struct kv_store *store = NULL;
    struct kv_error error = {{0}};
    ck_assert_int_eq(kv_open(dir.image, &image_quiet, &store, &error), -EBUSY);
    image_expect_words(&error, dir.image);
    image_expect_words(&error, pid_text);
    ck_assert_int_eq(kv_image_holder(dir.image), (int)child);

    const struct kv_create_options create = {.size_bytes = IMAGE_BYTES, .force = true};
    error.text[0] = 0;
    ck_assert_int_eq(kv_create(dir.image, &create, &error), -EBUSY);
    image_expect_words(&error, dir.image);
    struct kv_image_info info;
    ck_assert_int_eq(kv_image_info(dir.image, &info, NULL), 0);

    int status = 0;
    close(finish[1]);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    close(ready[0]);
    ck_assert_int_eq(kv_image_holder(dir.image), 0);
    ck_assert_int_eq(kv_close(image_open(&dir)), 0);
    test_dir_remove(&dir);
}
END_TEST

/* ---- making images ---------------------------------------------------------------------- */

static void expect_create_fails(const struct test_dir *dir, struct kv_create_options create,
                                int expected)
{
    struct kv_error error = {{0}};
    const int err = kv_create(dir->image, &create, &error);
    ck_assert_msg(err == expected, "%s instead of %s: %s", strerror(-err), strerror(-expected),
                  error.text);
    ck_assert_uint_gt(strlen(error.text), 0);
    ck_assert_ptr_null(strchr(error.text, '\n'));
}

START_TEST(bad_options_make_no_image)
{
    static const char long_label[] =
        "a label that is one byte too long for the sixty-three it can take";
    static const struct {
        struct kv_create_options options;
        int expected;
    } cases[] = {
        {{.size_bytes = KV_IMAGE_BYTES_MIN - 4096}, -ENOSPC},
        {{.size_bytes = 4096}, -ENOSPC},
        {{.size_bytes = KV_IMAGE_BYTES_MAX + 4096}, -EFBIG},
        {{.size_bytes = 1ull << 63}, -EFBIG},
        {{.size_bytes = UINT64_MAX}, -EFBIG},
        {{.size_bytes = IMAGE_BYTES, .node_bytes = 5000}, -EINVAL},
        {{.size_bytes = IMAGE_BYTES, .node_bytes = 2048}, -EINVAL},
        {{.size_bytes = IMAGE_BYTES, .node_bytes = 131072}, -EINVAL},
        {{.size_bytes = IMAGE_BYTES, .extent_bytes = 2048}, -EINVAL},
        {{.size_bytes = IMAGE_BYTES, .extent_bytes = 3 * 4096}, -EINVAL},
        {{.size_bytes = IMAGE_BYTES, .extent_bytes = 2 * KV_BLOB_MAX}, -EINVAL},
        {{.size_bytes = IMAGE_BYTES, .codec = {(enum kv_codec)7, 0}}, -EINVAL},
        {{.size_bytes = IMAGE_BYTES, .codec = {KV_CODEC_ZSTD, 99}}, -EINVAL},
        {{.size_bytes = IMAGE_BYTES, .label = long_label}, -EINVAL},
    };
    struct test_dir dir;
    struct stat st;
    test_dir_make(&dir);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        expect_create_fails(&dir, cases[i].options, cases[i].expected);
        ck_assert_msg(stat(dir.image, &st) != 0, "case %zu left a file", i);
    }
    test_dir_remove(&dir);
}
END_TEST

START_TEST(an_image_is_not_overwritten_without_force)
{
    const struct kv_create_options create = {.size_bytes = IMAGE_BYTES, .label = "first"};
    const struct kv_create_options again = {.label = "second", .force = true};
    struct kv_image_info info;
    struct test_dir dir;
    test_dir_make(&dir);
    ck_assert_int_eq(kv_create(dir.image, &create, NULL), 0);
    const uint64_t before = image_file_digest(dir.image);
    expect_create_fails(&dir, (struct kv_create_options){0}, -EEXIST);
    expect_create_fails(&dir, create, -EEXIST);
    ck_assert_uint_eq(image_file_digest(dir.image), before);

    ck_assert_int_eq(kv_create(dir.image, &again, NULL), 0);
    ck_assert_int_eq(kv_image_info(dir.image, &info, NULL), 0);
    ck_assert_str_eq(info.label, "second");
    ck_assert_uint_eq(info.image_bytes, IMAGE_BYTES);
    ck_assert_int_eq(kv_close(image_open(&dir)), 0);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(an_image_tells_what_it_was_made_with)
{
    struct kv_create_options create = {
        .size_bytes = IMAGE_BYTES,
        .node_bytes = 8192,
        .extent_bytes = 65536,
        .log_bytes = 2u << 20,
        .codec = {KV_CODEC_ZSTD, 7},
        .label = "\xc3\xa4 label",
    };
    struct kv_image_info info;
    struct test_dir dir;
    test_dir_make(&dir);
    memset(create.uuid, 0x5a, sizeof create.uuid);
    ck_assert_int_eq(kv_create(dir.image, &create, NULL), 0);
    ck_assert_int_eq(kv_image_info(dir.image, &info, NULL), 0);
    ck_assert_uint_eq(info.version, KV_FORMAT_VERSION);
    ck_assert_uint_eq(info.node_bytes, 8192);
    ck_assert_uint_eq(info.extent_bytes, 65536);
    ck_assert_uint_eq(info.log_bytes, 2u << 20);
    ck_assert_uint_eq(info.image_bytes, IMAGE_BYTES);
    ck_assert_int_eq(info.codec.codec, KV_CODEC_ZSTD);
    ck_assert_int_eq(info.codec.level, 7);
    ck_assert_str_eq(info.label, create.label);
    ck_assert_mem_eq(info.uuid, create.uuid, sizeof info.uuid);
    ck_assert(!info.superblock_damaged);
    test_dir_remove(&dir);
}
END_TEST

static Suite *store_suite(void)
{
    Suite *const suite = suite_create("store images");
    TCase *const images = tcase_create("images");
    tcase_set_timeout(images, 120);
    tcase_add_test(images, a_path_that_leads_nowhere_is_said);
    tcase_add_test(images, what_is_not_an_image_is_refused_and_left_alone);
    tcase_add_test(images, a_truncated_image_is_refused_and_left_alone);
    tcase_add_loop_test(images, an_unknown_version_or_incompatible_feature_is_refused, 0, 2);
    tcase_add_test(images, an_unknown_compatible_feature_does_no_harm);
    tcase_add_test(images, an_older_image_says_that_it_may_hold_larger_cells_before_it_does);
    tcase_add_test(images, an_older_image_gets_no_pages_without_slots);
    tcase_add_test(images, an_unknown_read_only_feature_refuses_writing_only);
    tcase_add_loop_test(images, one_damaged_superblock_is_made_good_by_the_other, 0, 2);
    tcase_add_test(images, an_image_without_any_good_superblock_is_damaged);
    tcase_add_test(images, an_image_in_use_is_refused_and_its_holder_named);
    suite_add_tcase(suite, images);

    TCase *const making = tcase_create("making");
    tcase_set_timeout(making, 120);
    tcase_add_test(making, bad_options_make_no_image);
    tcase_add_test(making, an_image_is_not_overwritten_without_force);
    tcase_add_test(making, an_image_tells_what_it_was_made_with);
    suite_add_tcase(suite, making);
    return suite;
}

int main(void)
{
    return test_run(store_suite());
}
