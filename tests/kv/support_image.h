/*
 * tests/kv/support_image.h: an image in a file, and what is in it, for tests of what is refused.
 *
 * Every function fails the test that calls it when it does not work.
 */
#ifndef TESTS_KV_SUPPORT_IMAGE_H
#define TESTS_KV_SUPPORT_IMAGE_H

#include "kv/kv.h"
#include "support_store.h"

#define IMAGE_BYTES (32ull << 20)

/* Little memory, and no line is printed. */
extern const struct kv_open_options image_quiet;

void image_make(const struct test_dir *dir, uint64_t size_bytes);
struct kv_store *image_open(const struct test_dir *dir);
void image_expect_clean(struct kv_store *store);

/* The words: one line, that names the image. */
void image_expect_words(const struct kv_error *error, const char *name);

/* Keys and incompressible values of a number; the value that is got must be the right one. They
 * return what kv_put and kv_get do. */
size_t image_number_key(char key[16], unsigned number);
KV_MUST_CHECK int image_put_number(struct kv_store *store, unsigned number, size_t value_len);
KV_MUST_CHECK int image_get_number(struct kv_store *store, unsigned number, size_t value_len);

/* Of any file. */
void image_read_file(const char *path, uint64_t offset, void *buf, size_t length);
void image_write_file(const char *path, uint64_t offset, const void *buf, size_t length);
uint64_t image_file_bytes(const char *path);
/* A digest of a whole file, to see that nothing was changed. */
uint64_t image_file_digest(const char *path);

#endif
