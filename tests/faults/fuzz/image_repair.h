/*
 * tests/faults/fuzz/image_repair.h: makes the checksums of a changed image right again, and
 * knows where in an image what lies.
 *
 * So a hostile author would do: everything reads well, and what it says may be anything. What
 * is not reachable, or out of bounds, is left as it is. All that is known of how things are
 * stored and sealed is in image_repair.c.
 */
#ifndef TESTS_FAULTS_FUZZ_IMAGE_REPAIR_H
#define TESTS_FAULTS_FUZZ_IMAGE_REPAIR_H

#include "kv/format.h"
#include "tests/faults/fuzz/image_bytes.h"

/* The digests of all superblocks that look like one. */
void image_repair_superblocks(struct image_bytes *image);

/* Which superblock counts, as opening has it; false: none. */
bool image_superblock(const struct image_bytes *image, struct kv_disk_superblock *superblock,
                      uint64_t *block);

/*
 * From the bottom up: references to blobs, pages (if `plausible`, also what a page says of its
 * own layout), map blocks, bitmaps, log, superblocks.
 */
void image_repair(struct image_bytes *image, bool plausible);

/* Where a pointer to a map block (level >= 0) or a page (level -1) stands in the image. */
struct image_place {
    int level;
    uint64_t index;     /* page id, or number of the map block within its level */
    uint64_t ptr_block; /* the block that holds the pointer */
    uint32_t ptr_at;    /* offset in it */
    struct kv_disk_ptr ptr;
};
/* All of them that are reachable, parents first, at most `most`. Returns how many. */
size_t image_places(const struct image_bytes *image, struct image_place *places, size_t most);

/* Read a page that a pointer names into node_bytes of memory; false: it can not be had. */
bool image_page_read(const struct image_bytes *image, const struct image_place *place,
                     uint8_t *node, size_t node_bytes);
/*
 * Store a page anew: in its place if it fits, else in blocks that are free. Its pointer in the
 * image follows; digests above it are image_repair's.
 */
void image_page_write(struct image_bytes *image, const struct image_place *place, uint8_t *node,
                      size_t node_bytes);

/* Put a record into the log, behind what it holds; as much as one block takes. */
void image_log_append(struct image_bytes *image, const uint8_t *body, size_t length);

#endif
