/*
 * tests/faults/fuzz/image_bytes.h: an image in memory that is changed, used, and put back.
 *
 * Putting back costs only what was changed since, so that thousands of hostile images a second
 * can be made of one good one.
 *
 * Threads: one.
 */
#ifndef TESTS_FAULTS_FUZZ_IMAGE_BYTES_H
#define TESTS_FAULTS_FUZZ_IMAGE_BYTES_H

#include "kv/device.h"

struct image_bytes;

/* Blocks of zeros. Ends the program when there is no memory. */
struct image_bytes *image_bytes_new(uint64_t block_count);
void image_bytes_free(struct image_bytes *image);

/* The image as a device; closing it does nothing. */
struct kv_device *image_bytes_device(struct image_bytes *image);
uint64_t image_bytes_count(const struct image_bytes *image);

/* From here on image_bytes_restore comes back to what is there now. */
void image_bytes_keep(struct image_bytes *image);
void image_bytes_restore(struct image_bytes *image);

/* The bytes from a block on; NULL when it, or one of the count, is outside. */
const uint8_t *image_bytes_at(const struct image_bytes *image, uint64_t block, uint64_t count);
/* The bytes of one block, to be changed; NULL as above. */
uint8_t *image_bytes_change(struct image_bytes *image, uint64_t block);
/* Overwrite whole blocks with `length` bytes and zeros behind them; false when outside. */
bool image_bytes_write(struct image_bytes *image, uint64_t block, const void *bytes, size_t length);

#endif
