/*
 * tests/kv/test_store_errors.c: what bad images, bad arguments, a full image and a failing
 * device get: the right errno, one line of words, and nothing else changed.
 */
#include "kv/codec.h"
#include "kv/device.h"
#include "kv/format.h"
#include "kv/kv.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define IMAGE_BYTES (32ull << 20)

static const struct kv_open_options quiet = {
    .memory_budget_bytes = 8u << 20,
    .log = test_log_nothing,
};
static const struct kv_open_options quiet_alone = {
    .memory_budget_bytes = 8u << 20,
    .no_background = true,
    .log = test_log_nothing,
};

/* ---- helpers --------------------------------------------------------------------- */

/* The words: one line, that names the image. */
static void expect_words(const struct kv_error *error, const char *name)
{
    ck_assert_uint_gt(strlen(error->text), 0);
    ck_assert_ptr_null(strchr(error->text, '\n'));
    ck_assert_msg(strstr(error->text, name) != NULL, "'%s' does not name %s", error->text, name);
}

static void expect_open_fails(const struct test_dir *dir, int expected)
{
    struct kv_store *store = NULL;
    struct kv_error error = {{0}};
    const int err = kv_open(dir->image, &quiet, &store, &error);
    ck_assert_msg(err == expected, "%s instead of %s: %s", strerror(-err), strerror(-expected),
                  error.text);
    ck_assert_ptr_null(store);
    expect_words(&error, dir->image);
}

static void make_image(const struct test_dir *dir, uint64_t size_bytes)
{
    const struct kv_create_options create = {.size_bytes = size_bytes, .node_bytes = 4096};
    struct kv_error error = {{0}};
    const int err = kv_create(dir->image, &create, &error);
    ck_assert_msg(err == 0, "create: %s: %s", strerror(-err), error.text);
}

static struct kv_store *open_image(const struct test_dir *dir)
{
    struct kv_store *store = NULL;
    struct kv_error error = {{0}};
    const int err = kv_open(dir->image, &quiet, &store, &error);
    ck_assert_msg(err == 0, "open: %s: %s", strerror(-err), error.text);
    return store;
}

static size_t number_key(char key[16], unsigned number)
{
    return (size_t)snprintf(key, 16, "key%08u", number);
}

static int put_number(struct kv_store *store, unsigned number, size_t value_len)
{
    static uint8_t value[1 << 20];
    char key[16];
    const size_t key_len = number_key(key, number);
    struct test_random random = {number};
    for (size_t i = 0; i < value_len; i++)
        value[i] = (uint8_t)test_random_next(&random);
    return kv_put(store, key, key_len, value, value_len);
}

/* kv_get's result; a value that is got must be the right one. */
static int get_number(struct kv_store *store, unsigned number, size_t value_len)
{
    static uint8_t value[1 << 20];
    char key[16];
    size_t got = 0;
    const int err = kv_get(store, key, number_key(key, number), value, sizeof value, &got);
    if (err)
        return err;
    ck_assert_uint_eq(got, value_len);
    struct test_random random = {number};
    size_t same = 0;
    while (same < value_len && value[same] == (uint8_t)test_random_next(&random))
        same++;
    ck_assert_uint_eq(same, value_len);
    return 0;
}

static void expect_check_clean(struct kv_store *store)
{
    struct kv_check_result result;
    ck_assert_uint_eq(test_check(store, &result), 0);
}

static void read_file(const char *path, uint64_t offset, void *buf, size_t length)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq((int)pread(fd, buf, length, (off_t)offset), (int)length);
    close(fd);
}

static void write_file(const char *path, uint64_t offset, const void *buf, size_t length)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq((int)pwrite(fd, buf, length, (off_t)offset), (int)length);
    close(fd);
}

static uint64_t file_bytes(const char *path)
{
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

/* A digest of a whole file, to see that nothing was changed. */
static uint64_t file_digest(const char *path)
{
    const uint64_t length = file_bytes(path);
    uint8_t *const bytes = malloc(length + 1);
    ck_assert_ptr_nonnull(bytes);
    read_file(path, 0, bytes, length);
    const uint64_t digest = kv_digest(bytes, length, length);
    free(bytes);
    return digest;
}

static uint64_t superblock_offset(const struct test_dir *dir, unsigned copy)
{
    const uint64_t blocks[] = {KV_SUPERBLOCK_A_BLOCK, KV_SUPERBLOCK_B_BLOCK,
                               file_bytes(dir->image) / KV_BLOCK_BYTES - 1};
    return blocks[copy] * KV_BLOCK_BYTES;
}

typedef void edit_fn(struct kv_disk_superblock *superblock);

/* Change all three copies, with digests that are right. */
static void edit_superblocks(const struct test_dir *dir, edit_fn *edit)
{
    for (unsigned copy = 0; copy < 3; copy++) {
        struct kv_disk_superblock superblock;
        const uint64_t offset = superblock_offset(dir, copy);
        read_file(dir->image, offset, &superblock, sizeof superblock);
        if (memcmp(superblock.magic, KV_SUPERBLOCK_MAGIC, sizeof superblock.magic) != 0)
            continue;
        edit(&superblock);
        superblock.digest =
            kv_le64_of(kv_digest(&superblock, offsetof(struct kv_disk_superblock, digest), 0));
        write_file(dir->image, offset, &superblock, sizeof superblock);
    }
}

static void damage_superblock(const struct test_dir *dir, unsigned copy)
{
    struct kv_disk_superblock superblock;
    const uint64_t offset = superblock_offset(dir, copy);
    read_file(dir->image, offset, &superblock, sizeof superblock);
    superblock.label[5] ^= 0x40;
    write_file(dir->image, offset, &superblock, sizeof superblock);
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
    expect_words(&error, dir.image);
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
        write_file(dir.image, 0, bytes, length);
        const uint64_t before = file_digest(dir.image);
        expect_open_fails(&dir, -EMEDIUMTYPE);
        struct kv_image_info info;
        struct kv_error error = {{0}};
        ck_assert_int_eq(kv_image_info(dir.image, &info, &error), -EMEDIUMTYPE);
        expect_words(&error, dir.image);
        ck_assert_uint_eq(file_digest(dir.image), before);
    }
    free(bytes);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(a_truncated_image_is_refused_and_left_alone)
{
    struct test_dir dir;
    test_dir_make(&dir);
    make_image(&dir, IMAGE_BYTES);
    ck_assert_int_eq(truncate(dir.image, IMAGE_BYTES / 2), 0);
    const uint64_t before = file_digest(dir.image);
    expect_open_fails(&dir, -ENODATA);
    ck_assert_uint_eq(file_digest(dir.image), before);
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
    make_image(&dir, IMAGE_BYTES);
    edit_superblocks(&dir, edits[_i]);
    const uint64_t before = file_digest(dir.image);
    expect_open_fails(&dir, -EPROTONOSUPPORT);
    ck_assert_uint_eq(file_digest(dir.image), before);
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
    make_image(&dir, IMAGE_BYTES);
    edit_superblocks(&dir, set_compat);
    struct kv_store *const store = open_image(&dir);
    ck_assert_int_eq(put_number(store, 1, 10), 0);
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
    make_image(&dir, IMAGE_BYTES);
    edit_superblocks(&dir, set_no_features);
    struct kv_open_options options = quiet;
    options.read_only = true;
    struct kv_store *store;
    struct kv_image_info info;
    ck_assert_int_eq(kv_open(dir.image, &options, &store, NULL), 0);
    ck_assert_int_eq(kv_close(store), 0);
    ck_assert_int_eq(kv_image_info(dir.image, &info, NULL), 0);
    ck_assert_uint_eq(info.feature_incompat, 0);

    store = open_image(&dir);
    kv_abandon(store);
    ck_assert_int_eq(kv_image_info(dir.image, &info, NULL), 0);
    ck_assert_uint_eq(info.feature_incompat, KV_FEATURE_INCOMPAT_THIRDS);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(an_unknown_read_only_feature_refuses_writing_only)
{
    struct test_dir dir;
    test_dir_make(&dir);
    make_image(&dir, IMAGE_BYTES);
    struct kv_store *store = open_image(&dir);
    ck_assert_int_eq(put_number(store, 1, 10), 0);
    ck_assert_int_eq(kv_close(store), 0);
    edit_superblocks(&dir, set_rocompat);
    expect_open_fails(&dir, -EPROTONOSUPPORT);

    struct kv_open_options options = quiet;
    options.read_only = true;
    ck_assert_int_eq(kv_open(dir.image, &options, &store, NULL), 0);
    ck_assert_int_eq(get_number(store, 1, 10), 0);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(one_damaged_superblock_is_made_good_by_the_other)
{
    struct test_dir dir;
    test_dir_make(&dir);
    make_image(&dir, IMAGE_BYTES);
    struct kv_store *store = open_image(&dir);
    for (unsigned i = 0; i < 500; i++)
        ck_assert_int_eq(put_number(store, i, 300), 0);
    ck_assert_int_eq(kv_close(store), 0);

    damage_superblock(&dir, (unsigned)_i);
    struct kv_image_info info;
    ck_assert_int_eq(kv_image_info(dir.image, &info, NULL), 0);
    ck_assert(info.superblock_damaged);
    store = open_image(&dir);
    for (unsigned i = 0; i < 500; i++)
        ck_assert_int_eq(get_number(store, i, 300), 0);
    ck_assert_int_eq(put_number(store, 1000, 300), 0);
    ck_assert_int_eq(kv_close(store), 0);

    store = open_image(&dir);
    ck_assert_int_eq(get_number(store, 1000, 300), 0);
    expect_check_clean(store);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(an_image_without_any_good_superblock_is_damaged)
{
    struct test_dir dir;
    test_dir_make(&dir);
    make_image(&dir, IMAGE_BYTES);
    for (unsigned copy = 0; copy < 3; copy++)
        damage_superblock(&dir, copy);
    const uint64_t before = file_digest(dir.image);
    expect_open_fails(&dir, -EBADMSG);
    ck_assert_uint_eq(file_digest(dir.image), before);
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
    make_image(&dir, IMAGE_BYTES);
    ck_assert_int_eq(pipe(ready), 0);
    ck_assert_int_eq(pipe(finish), 0);

    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        struct kv_store *store;
        close(finish[1]);
        const bool held = kv_open(dir.image, &quiet, &store, NULL) == 0 &&
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
    ck_assert_int_eq(kv_open(dir.image, &quiet, &store, &error), -EBUSY);
    expect_words(&error, dir.image);
    expect_words(&error, pid_text);
    ck_assert_int_eq(kv_image_holder(dir.image), (int)child);

    const struct kv_create_options create = {.size_bytes = IMAGE_BYTES, .force = true};
    error.text[0] = 0;
    ck_assert_int_eq(kv_create(dir.image, &create, &error), -EBUSY);
    expect_words(&error, dir.image);
    struct kv_image_info info;
    ck_assert_int_eq(kv_image_info(dir.image, &info, NULL), 0);

    int status = 0;
    close(finish[1]);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    close(ready[0]);
    ck_assert_int_eq(kv_image_holder(dir.image), 0);
    ck_assert_int_eq(kv_close(open_image(&dir)), 0);
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
    const uint64_t before = file_digest(dir.image);
    expect_create_fails(&dir, (struct kv_create_options){0}, -EEXIST);
    expect_create_fails(&dir, create, -EEXIST);
    ck_assert_uint_eq(file_digest(dir.image), before);

    ck_assert_int_eq(kv_create(dir.image, &again, NULL), 0);
    ck_assert_int_eq(kv_image_info(dir.image, &info, NULL), 0);
    ck_assert_str_eq(info.label, "second");
    ck_assert_uint_eq(info.image_bytes, IMAGE_BYTES);
    ck_assert_int_eq(kv_close(open_image(&dir)), 0);
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

/* ---- what may not be asked for
 * ---------------------------------------------------------------------------- */

START_TEST(blobs_are_read_and_shared_within_bounds)
{
    struct test_dir dir;
    struct kv_blob_ref ref;
    struct kv_blob_ref gone;
    size_t written = 0;
    static uint8_t bytes[50000];
    uint8_t byte;
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    test_dir_make(&dir);
    make_image(&dir, IMAGE_BYTES);
    struct kv_store *const store = open_image(&dir);

    test_fill(bytes, sizeof bytes, 3);
    ck_assert_int_eq(kv_blob_write(store, bytes, sizeof bytes, NULL, &ref, &written), 0);
    ck_assert_uint_eq(written, sizeof bytes);
    ck_assert_int_eq(kv_batch_put_blob(batch, "a", 1, "head", 4, &ref, KV_BLOB_NEW), 0);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
    ck_assert_int_eq(kv_blob_read(store, &ref, sizeof bytes, &byte, 1), -ERANGE);
    ck_assert_int_eq(kv_blob_read(store, &ref, SIZE_MAX, &byte, 2), -ERANGE);
    ck_assert_int_eq(kv_blob_read(store, &ref, sizeof bytes - 1, &byte, 1), 0);
    ck_assert_uint_eq(byte, bytes[sizeof bytes - 1]);

    /* Sharing what nothing holds fails, and takes the whole batch with it. */
    ck_assert_int_eq(kv_blob_write(store, bytes, 9000, NULL, &gone, &written), 0);
    kv_blob_discard(store, &gone);
    kv_batch_clear(batch);
    ck_assert_int_eq(kv_batch_put(batch, "b", 1, "v", 1), 0);
    ck_assert_int_eq(kv_batch_put_blob(batch, "c", 1, NULL, 0, &gone, KV_BLOB_SHARED), 0);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), -ENOENT);
    ck_assert_int_eq(kv_get(store, "b", 1, NULL, 0, &written), -ENOENT);
    ck_assert_int_eq(kv_get(store, "c", 1, NULL, 0, &written), -ENOENT);
    ck_assert_int_eq(kv_store_failure(store), 0);

    expect_check_clean(store);
    ck_assert_int_eq(kv_close(store), 0);
    kv_batch_free(batch);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(a_batch_too_big_for_the_log_is_refused_whole)
{
    const struct kv_create_options create = {.size_bytes = 64u << 20, .log_bytes = 1u << 20};
    struct test_dir dir;
    char key[16];
    size_t length = 0;
    static const uint8_t value[900];
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    test_dir_make(&dir);
    ck_assert_int_eq(kv_create(dir.image, &create, NULL), 0);
    struct kv_store *const store = open_image(&dir);
    for (unsigned i = 0; i < 4000; i++)
        ck_assert_int_eq(kv_batch_put(batch, key, number_key(key, i), value, sizeof value), 0);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), -E2BIG);
    ck_assert_int_eq(kv_get(store, key, number_key(key, 0), NULL, 0, &length), -ENOENT);
    ck_assert_int_eq(kv_get(store, key, number_key(key, 3999), NULL, 0, &length), -ENOENT);

    kv_batch_clear(batch);
    ck_assert_int_eq(kv_batch_put(batch, "k", 1, value, sizeof value), 0);
    ck_assert_int_eq(kv_apply(store, batch, KV_APPLY_SYNC, NULL), 0);
    expect_check_clean(store);
    ck_assert_int_eq(kv_close(store), 0);
    kv_batch_free(batch);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(a_read_only_store_changes_nothing)
{
    struct kv_open_options options = quiet;
    struct test_dir dir;
    struct kv_store *store;
    struct kv_blob_ref ref;
    size_t length;
    test_dir_make(&dir);
    make_image(&dir, IMAGE_BYTES);
    store = open_image(&dir);
    for (unsigned i = 0; i < 300; i++)
        ck_assert_int_eq(put_number(store, i, 100), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    kv_abandon(store); /* the log is needed */
    const uint64_t before = file_digest(dir.image);

    options.read_only = true;
    ck_assert_int_eq(kv_open(dir.image, &options, &store, NULL), 0);
    for (unsigned i = 0; i < 300; i++)
        ck_assert_int_eq(get_number(store, i, 100), 0);
    ck_assert_int_eq(put_number(store, 1, 10), -EROFS);
    ck_assert_int_eq(kv_del(store, "k", 1), -EROFS);
    ck_assert_int_eq(kv_blob_write(store, "bytes", 5, NULL, &ref, &length), -EROFS);
    ck_assert_int_eq(kv_close(store), 0);
    ck_assert_uint_eq(file_digest(dir.image), before);
    test_dir_remove(&dir);
}
END_TEST

/* ---- a full image --------------------------------------------------------------------------- */

static unsigned fill_up(struct kv_store *store, size_t value_len)
{
    unsigned count = 0;
    int err;
    while ((err = put_number(store, count, value_len)) == 0)
        count++;
    ck_assert_int_eq(err, -ENOSPC);
    return count;
}

static void delete_numbers(struct kv_store *store, unsigned count)
{
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    for (unsigned i = 0; i < count; i++) {
        char key[16];
        kv_batch_clear(batch);
        ck_assert_int_eq(kv_batch_del(batch, key, number_key(key, i)), 0);
        ck_assert_int_eq(kv_apply(store, batch, KV_APPLY_URGENT, NULL), 0);
    }
    kv_batch_free(batch);
}

START_TEST(a_full_image_takes_deletions_and_gives_the_space_back)
{
    static const size_t sizes[] = {100, 900, 20000, 300000};
    const size_t value_len = sizes[_i];
    struct test_dir dir;
    struct kv_stats at_first;
    struct kv_stats at_last;
    test_dir_make(&dir);
    make_image(&dir, KV_IMAGE_BYTES_MIN);
    struct kv_store *store = open_image(&dir);
    kv_store_stats(store, &at_first);

    const unsigned count = fill_up(store, value_len);
    ck_assert_uint_gt(count * (value_len + 100), at_first.available_bytes / 2);
    ck_assert_int_eq(kv_store_failure(store), 0);
    for (unsigned i = 0; i < count; i += 1 + count / 500)
        ck_assert_int_eq(get_number(store, i, value_len), 0);
    ck_assert_int_eq(get_number(store, count, value_len), -ENOENT);
    ck_assert_int_eq(kv_sync(store), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);

    /* Full as it is, it can be closed and opened. */
    ck_assert_int_eq(kv_close(store), 0);
    store = open_image(&dir);
    ck_assert_int_eq(get_number(store, count - 1, value_len), 0);
    expect_check_clean(store);

    delete_numbers(store, count);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    kv_store_stats(store, &at_last);
    ck_assert_uint_ge(at_last.free_bytes + (256u << 10), at_first.free_bytes);

    const unsigned again = fill_up(store, value_len);
    ck_assert_uint_ge(again + again / 5, count);
    delete_numbers(store, again);
    expect_check_clean(store);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

/* ---- a failing device ------------------------------------------------------------------------ */

/* Passes everything on to the device below until it is told to fail. */
struct faulty {
    struct kv_device base;
    struct kv_device *below;
    bool fail_reads; /* atomic, as the next two */
    bool fail_writes;
    bool fail_flushes;
    int read_error;        /* of one thread: what reads say after so many; 0: they go through */
    unsigned reads_before; /* read_error */
};

/* Is this read one of those that have their own error? */
static bool has_read_error(struct faulty *faulty, const struct kv_io *io)
{
    if (io->kind != KV_IO_READ || !faulty->read_error)
        return false;
    if (!faulty->reads_before)
        return true;
    faulty->reads_before--;
    return false;
}

static int faulty_submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct faulty *const faulty = (struct faulty *)device;
    int first_err = 0;
    for (size_t i = 0; i < io_count; i++) {
        const bool *const fails =
            ios[i].kind == KV_IO_READ ? &faulty->fail_reads : &faulty->fail_writes;
        ios[i].result = has_read_error(faulty, &ios[i]) ? faulty->read_error
                        : __atomic_load_n(fails, __ATOMIC_RELAXED)
                            ? -EIO
                            : kv_device_submit(faulty->below, &ios[i], 1, false);
        if (ios[i].result && !first_err)
            first_err = ios[i].result;
    }
    if (first_err || !flush)
        return first_err;
    if (__atomic_load_n(&faulty->fail_flushes, __ATOMIC_RELAXED))
        return -EIO;
    return kv_device_flush(faulty->below);
}

static int faulty_discard(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct faulty *const faulty = (struct faulty *)device;
    return kv_device_discard(faulty->below, block, block_count);
}

static void faulty_close(struct kv_device *device)
{
    struct faulty *const faulty = (struct faulty *)device;
    kv_device_close(faulty->below);
    free(faulty);
}

static struct faulty *faulty_open(const struct test_dir *dir)
{
    static const struct kv_device_ops ops = {
        .submit = faulty_submit, .discard = faulty_discard, .close = faulty_close};
    struct faulty *const faulty = calloc(1, sizeof *faulty);
    ck_assert_ptr_nonnull(faulty);
    ck_assert_int_eq(kv_device_open(dir->image, 0, &faulty->below, NULL), 0);
    faulty->base.ops = &ops;
    faulty->base.block_count = faulty->below->block_count;
    faulty->base.direct_io = faulty->below->direct_io;
    return faulty;
}

static struct kv_store *open_faulty(const struct test_dir *dir, struct faulty **faulty)
{
    struct kv_open_options options = quiet_alone;
    struct kv_store *store = NULL;
    struct kv_error error = {{0}};
    *faulty = faulty_open(dir);
    options.device = &(*faulty)->base;
    const int err = kv_open(dir->image, &options, &store, &error);
    ck_assert_msg(err == 0, "open: %s: %s", strerror(-err), error.text);
    return store;
}

static void set_fault(bool *which, bool fails)
{
    __atomic_store_n(which, fails, __ATOMIC_RELAXED);
}

/* After a failed write or flush: every promise is refused, what is there can be read. */
static void expect_turned_read_only(struct kv_store *store, unsigned count)
{
    ck_assert_int_eq(kv_store_failure(store), -EIO);
    ck_assert_int_eq(kv_sync(store), -EIO);
    ck_assert_int_eq(put_number(store, 100000, 10), -EROFS);
    ck_assert_int_lt(kv_checkpoint(store), 0);
    for (unsigned i = 0; i < count; i += 7)
        ck_assert_int_eq(get_number(store, i, 500), 0);
}

START_TEST(a_failed_write_or_flush_turns_the_store_read_only)
{
    const bool by_flush = _i % 2;
    const bool in_checkpoint = _i / 2;
    const unsigned count = 400;
    struct test_dir dir;
    struct faulty *faulty;
    test_dir_make(&dir);
    make_image(&dir, IMAGE_BYTES);
    struct kv_store *store = open_faulty(&dir, &faulty);
    bool *const which = by_flush ? &faulty->fail_flushes : &faulty->fail_writes;
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(put_number(store, i, 500), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    ck_assert_int_eq(put_number(store, count, 500), 0);

    set_fault(which, true);
    const int err = in_checkpoint ? kv_checkpoint(store) : kv_sync(store);
    ck_assert_int_eq(err, -EIO);
    expect_turned_read_only(store, count);
    /* The device is well again, but what it lost is lost: nothing is promised any more. */
    set_fault(which, false);
    expect_turned_read_only(store, count);
    ck_assert_int_lt(kv_close(store), 0);

    store = open_image(&dir);
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(get_number(store, i, 500), 0);
    expect_check_clean(store);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(a_failed_read_fails_that_read_only)
{
    const unsigned count = 20000; /* more than the budget holds */
    struct test_dir dir;
    struct faulty *faulty;
    unsigned failed = 0;
    test_dir_make(&dir);
    make_image(&dir, 128u << 20);
    struct kv_store *store = open_image(&dir);
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(put_number(store, i, 700), 0);
    ck_assert_int_eq(kv_close(store), 0);

    store = open_faulty(&dir, &faulty);
    set_fault(&faulty->fail_reads, true);
    for (unsigned i = 0; i < count; i += 50) {
        const int err = get_number(store, i, 700);
        ck_assert(err == 0 || err == -EIO);
        failed += err != 0;
    }
    ck_assert_uint_gt(failed, 0);
    ck_assert_int_eq(kv_store_failure(store), 0);
    set_fault(&faulty->fail_reads, false);
    for (unsigned i = 0; i < count; i += 50)
        ck_assert_int_eq(get_number(store, i, 700), 0);
    ck_assert_int_eq(put_number(store, count, 700), 0);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

/* Words that send nobody to mend what may be whole. */
static void expect_no_word_of_damage(const struct kv_error *error, const char *name)
{
    expect_words(error, name);
    ck_assert_msg(!strstr(error->text, "damage") && !strstr(error->text, "fsck"), "%s",
                  error->text);
}

START_TEST(what_can_not_be_read_is_not_called_damaged)
{
    /* Given a sound image with a log to be replayed, */
    static const int errors[] = {-ENOMEM, -EIO, -EAGAIN};
    const int wanted = errors[_i];
    struct test_dir dir;
    test_dir_make(&dir);
    make_image(&dir, IMAGE_BYTES);
    struct kv_store *store = open_image(&dir);
    for (unsigned i = 0; i < 400; i++)
        ck_assert_int_eq(put_number(store, i, 500), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    for (unsigned i = 0; i < 400; i++)
        ck_assert_int_eq(put_number(store, i, 500), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    kv_abandon(store);

    /* when reads fail from some point on for reasons that are not the image's, */
    unsigned reads = 0;
    for (int err = 1; err; reads++) {
        struct kv_open_options options = quiet_alone;
        struct kv_error error = {{0}};
        struct faulty *faulty = faulty_open(&dir);
        faulty->read_error = wanted;
        faulty->reads_before = reads;
        options.device = &faulty->base;
        options.read_only = true;
        err = kv_open(dir.image, &options, &store, &error);
        if (err) { /* then that is said. */
            ck_assert_msg(err == wanted, "after %u reads: %s", reads, error.text);
            expect_no_word_of_damage(&error, dir.image);
        }
    }
    ck_assert_uint_gt(reads, 5);
    kv_abandon(store);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(a_budget_beyond_all_bounds_is_not_the_images_damage)
{
    struct test_dir dir;
    test_dir_make(&dir);
    make_image(&dir, IMAGE_BYTES);
    struct kv_open_options options = quiet_alone;
    options.memory_budget_bytes = 1ull << 60;
    struct kv_store *store = NULL;
    struct kv_error error = {{0}};
    ck_assert_int_eq(kv_open(dir.image, &options, &store, &error), -EINVAL);
    expect_no_word_of_damage(&error, dir.image);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(damaged_content_is_said_and_the_rest_goes_on)
{
    const size_t length = 200000;
    const struct kv_create_options create = {.size_bytes = IMAGE_BYTES};
    struct test_dir dir;
    test_dir_make(&dir);
    ck_assert_int_eq(kv_create(dir.image, &create, NULL), 0);
    struct kv_store *store = open_image(&dir);
    ck_assert_int_eq(put_number(store, 1, length), 0);
    ck_assert_int_eq(put_number(store, 2, length), 0);
    ck_assert_int_eq(kv_close(store), 0);

    /* Random bytes do not pack, so the value's beginning lies somewhere as it is. */
    const uint64_t image_bytes = file_bytes(dir.image);
    uint8_t *const bytes = malloc(image_bytes);
    ck_assert_ptr_nonnull(bytes);
    read_file(dir.image, 0, bytes, image_bytes);
    struct test_random random = {1};
    uint8_t start[64];
    for (size_t i = 0; i < sizeof start; i++)
        start[i] = (uint8_t)test_random_next(&random);
    const uint8_t *const found = memmem(bytes, image_bytes, start, sizeof start);
    ck_assert_ptr_nonnull(found);
    const uint8_t flipped = (uint8_t)(found[5000] ^ 1);
    write_file(dir.image, (uint64_t)(found - bytes) + 5000, &flipped, 1);
    free(bytes);

    store = open_image(&dir);
    ck_assert_int_eq(get_number(store, 1, length), -EBADMSG);
    ck_assert_int_eq(get_number(store, 2, length), 0);
    ck_assert_int_eq(put_number(store, 3, 100), 0);
    struct kv_check_result result;
    ck_assert_uint_gt(test_check(store, &result), 0);
    ck_assert_uint_gt(result.damaged, 0);
    ck_assert_int_eq(put_number(store, 1, 100), 0);
    ck_assert_int_eq(get_number(store, 1, 100), 0);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

static Suite *store_suite(void)
{
    Suite *const suite = suite_create("store errors");
    TCase *const images = tcase_create("images");
    tcase_set_timeout(images, 120);
    tcase_add_test(images, a_path_that_leads_nowhere_is_said);
    tcase_add_test(images, what_is_not_an_image_is_refused_and_left_alone);
    tcase_add_test(images, a_truncated_image_is_refused_and_left_alone);
    tcase_add_loop_test(images, an_unknown_version_or_incompatible_feature_is_refused, 0, 2);
    tcase_add_test(images, an_unknown_compatible_feature_does_no_harm);
    tcase_add_test(images, an_older_image_says_that_it_may_hold_larger_cells_before_it_does);
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

    TCase *const arguments = tcase_create("arguments");
    tcase_set_timeout(arguments, 120);
    tcase_add_test(arguments, blobs_are_read_and_shared_within_bounds);
    tcase_add_test(arguments, a_batch_too_big_for_the_log_is_refused_whole);
    tcase_add_test(arguments, a_read_only_store_changes_nothing);
    suite_add_tcase(suite, arguments);

    TCase *const space = tcase_create("space");
    tcase_set_timeout(space, 300);
    tcase_add_loop_test(space, a_full_image_takes_deletions_and_gives_the_space_back, 0, 4);
    suite_add_tcase(suite, space);

    TCase *const device = tcase_create("device");
    tcase_set_timeout(device, 120);
    tcase_add_loop_test(device, a_failed_write_or_flush_turns_the_store_read_only, 0, 4);
    tcase_add_test(device, a_failed_read_fails_that_read_only);
    tcase_add_loop_test(device, what_can_not_be_read_is_not_called_damaged, 0, 3);
    tcase_add_test(device, a_budget_beyond_all_bounds_is_not_the_images_damage);
    tcase_add_test(device, damaged_content_is_said_and_the_rest_goes_on);
    suite_add_tcase(suite, device);
    return suite;
}

int main(void)
{
    return test_run(store_suite());
}
