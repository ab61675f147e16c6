/*
 * bench/floor/floor_disk.h: contents of files on the disk, with nothing between FUSE and it.
 *
 * What a device and its file system take when an engine adds nothing: a file's contents are those
 * of a nameless file of the host, at the same offsets, read and written past the host's cache
 * where the request is aligned to blocks. Nothing is packed, verified or looked up.
 *
 * Owns       the nameless files; the host frees each when it is closed.
 * Locks      none: the host's file system orders what is done to one file.
 */
#ifndef BENCH_FLOOR_DISK_H
#define BENCH_FLOOR_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kv/base.h"

struct floor_disk_file; /* NULL: nothing has been written to it */

/*
 * Contents go to files on the file system of that directory from now on. Once, before anything
 * else. 0; -EOPNOTSUPP it has no nameless files or can not be read past its cache; or what
 * opening it says.
 */
KV_MUST_CHECK int floor_disk_prepare(const char *dir);
/* Has it been prepared? */
bool floor_disk_used(void);

/* An empty one. 0 or a negative errno. */
KV_MUST_CHECK int floor_disk_new(struct floor_disk_file **file);
/* All of it. 0 or a negative errno. */
KV_MUST_CHECK int floor_disk_write(const struct floor_disk_file *file, uint64_t offset,
                                   const uint8_t *bytes, size_t length);
/*
 * How `length` bytes at an offset into `buf` are to be read: a descriptor, and how many bytes to
 * ask for there, at most `cap`, what the buffer holds (whole blocks, of which those behind the
 * contents are not there).
 */
int floor_disk_reader(const struct floor_disk_file *file, uint64_t offset, const void *buf,
                      size_t cap, size_t *length);
/* 0 or a negative errno; of NULL, nothing. */
KV_MUST_CHECK int floor_disk_truncate(const struct floor_disk_file *file, uint64_t size);
KV_MUST_CHECK int floor_disk_sync(const struct floor_disk_file *file);
void floor_disk_close(struct floor_disk_file *file);

#endif
