/*
 * tests/faults/soak/content.h: random changes of the content of two files, beside two buffers
 * in memory that must always say the same.
 *
 * What the files lie on is a backend: the operations of fs/volume.h, or a mount.
 */
#ifndef TESTS_FAULTS_CONTENT_H
#define TESTS_FAULTS_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTENT_FILES     2u
#define CONTENT_BYTES_MAX (1u << 20) /* of one file */

/* Each returns 0 or a negative errno. A file is named by its number. */
struct content_backend {
    void *context;
    int (*read)(void *context, unsigned file, uint64_t offset, void *buf, size_t length,
                size_t *got);
    int (*write)(void *context, unsigned file, uint64_t offset, const void *buf, size_t length);
    int (*truncate)(void *context, unsigned file, uint64_t size);
    int (*fallocate)(void *context, unsigned file, int mode, uint64_t offset, uint64_t length);
    int (*copy)(void *context, unsigned from, uint64_t from_offset, unsigned to, uint64_t to_offset,
                uint64_t length, uint64_t *copied);
    int (*seek)(void *context, unsigned file, uint64_t offset, int whence, uint64_t *found);
    int (*size)(void *context, unsigned file, uint64_t *size);
    int (*sync)(void *context, unsigned file);
    /* Mapped memory and O_DIRECT; NULL: there is no such thing. */
    int (*map_read)(void *context, unsigned file, uint64_t offset, void *buf, size_t length);
    int (*map_write)(void *context, unsigned file, uint64_t offset, const void *buf, size_t length);
    int (*direct_read)(void *context, unsigned file, uint64_t offset, void *buf, size_t length,
                       size_t *got);
    int (*direct_write)(void *context, unsigned file, uint64_t offset, const void *buf,
                        size_t length);
    /* Forget what is cached of the file; close it and open it again. NULL: nothing to do. */
    void (*drop)(void *context, unsigned file);
    /* Close everything, check the image, open it again. synced: nothing is lost by a crash. */
    void (*reopen)(void *context, bool synced);
    bool can_move; /* FALLOC_FL_COLLAPSE_RANGE and INSERT_RANGE are there */
    bool all_data; /* SEEK_HOLE takes all for data */
};

/* `count` operations; every `cycle` of them the image is closed, checked and opened again. */
void content_run(const struct content_backend *backend, uint64_t count, uint64_t cycle);

#endif
