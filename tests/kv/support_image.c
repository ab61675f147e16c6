/*
 * tests/kv/support_image.c: an image in a file, and what is in it, for tests of what is refused.
 */
#include "support_image.h"

#include "kv/codec.h"

#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

const struct kv_open_options image_quiet = {
    .memory_budget_bytes = 8u << 20,
    .log = test_log_nothing,
};

/* The words: one line, that names the image. */
void image_expect_words(const struct kv_error *error, const char *name)
{
    ck_assert_uint_gt(strlen(error->text), 0);
    ck_assert_ptr_null(strchr(error->text, '\n'));
    ck_assert_msg(strstr(error->text, name) != NULL, "'%s' does not name %s", error->text, name);
}

void image_make(const struct test_dir *dir, uint64_t size_bytes)
{
    const struct kv_create_options create = {.size_bytes = size_bytes, .node_bytes = 4096};
    struct kv_error error = {{0}};
    const int err = kv_create(dir->image, &create, &error);
    ck_assert_msg(err == 0, "create: %s: %s", strerror(-err), error.text);
}

struct kv_store *image_open(const struct test_dir *dir)
{
    struct kv_store *store = NULL;
    struct kv_error error = {{0}};
    const int err = kv_open(dir->image, &image_quiet, &store, &error);
    ck_assert_msg(err == 0, "open: %s: %s", strerror(-err), error.text);
    return store;
}

size_t image_number_key(char key[16], unsigned number)
{
    return (size_t)snprintf(key, 16, "key%08u", number);
}

int image_put_number(struct kv_store *store, unsigned number, size_t value_len)
{
    static uint8_t value[1 << 20];
    char key[16];
    const size_t key_len = image_number_key(key, number);
    struct test_random random = {number};
    for (size_t i = 0; i < value_len; i++)
        value[i] = (uint8_t)test_random_next(&random);
    return kv_put(store, key, key_len, value, value_len);
}

/* kv_get's result; a value that is got must be the right one. */
int image_get_number(struct kv_store *store, unsigned number, size_t value_len)
{
    static uint8_t value[1 << 20];
    char key[16];
    size_t got = 0;
    const int err = kv_get(store, key, image_number_key(key, number), value, sizeof value, &got);
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

void image_expect_clean(struct kv_store *store)
{
    struct kv_check_result result;
    ck_assert_uint_eq(test_check(store, &result), 0);
}

void image_read_file(const char *path, uint64_t offset, void *buf, size_t length)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq((int)pread(fd, buf, length, (off_t)offset), (int)length);
    close(fd);
}

void image_write_file(const char *path, uint64_t offset, const void *buf, size_t length)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq((int)pwrite(fd, buf, length, (off_t)offset), (int)length);
    close(fd);
}

uint64_t image_file_bytes(const char *path)
{
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

/* A digest of a whole file, to see that nothing was changed. */
uint64_t image_file_digest(const char *path)
{
    const uint64_t length = image_file_bytes(path);
    uint8_t *const bytes = malloc(length + 1);
    ck_assert_ptr_nonnull(bytes);
    image_read_file(path, 0, bytes, length);
    const uint64_t digest = kv_digest(bytes, length, length);
    free(bytes);
    return digest;
}
