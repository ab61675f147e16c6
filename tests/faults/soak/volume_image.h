/*
 * tests/faults/soak/volume_image.h: an image with an open volume, to be closed, checked and
 * opened again as often as one likes. What goes wrong ends the program (soak_fail).
 */
#ifndef TESTS_FAULTS_VOLUME_IMAGE_H
#define TESTS_FAULTS_VOLUME_IMAGE_H

#include "fs/volume.h"

struct volume_image {
    char directory[64];
    char path[80];
    struct kv_store *store;
    struct fs_volume *volume;
    uint64_t reopened;
};

/* In a directory of its own under /tmp; node and extent sizes by the generator. */
void volume_image_make(struct volume_image *image, uint64_t size_bytes);
void volume_image_remove(struct volume_image *image);

/* VOLUME_CRASH: the store is left as it is, without a last checkpoint. */
enum volume_end { VOLUME_CLOSE, VOLUME_CRASH };
/* End it, check the whole image, open it again. All inode numbers must be looked up anew. */
void volume_image_reopen(struct volume_image *image, enum volume_end end);

/* Check the image at `path`, which nobody has open: there must be nothing to find. */
void volume_image_check(const char *path);

#endif
