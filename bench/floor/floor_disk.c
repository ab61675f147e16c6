/*
 * bench/floor/floor_disk.c: nameless files, each opened twice.
 *
 * Invariant  one descriptor goes past the host's cache and is given whole blocks only, the other
 *            takes the rest; the host keeps the two of one mind.
 */
#include "bench/floor/floor_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BLOCK_BYTES 4096u

struct floor_disk_file {
    int buffered, direct;
};

static int directory = -1; /* set before there are threads */

static int open_file(struct floor_disk_file *file)
{
    file->direct = -1;
    file->buffered = openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file->buffered < 0)
        return -errno;
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", file->buffered);
    file->direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (file->direct >= 0)
        return 0;
    const int err = -errno;
    (void)close(file->buffered);
    return err;
}

int floor_disk_prepare(const char *dir)
{
    directory = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return -errno;
    struct floor_disk_file probe;
    const int err = open_file(&probe);
    if (err) /* EISDIR: a kernel that takes the flag for a directory's */
        return err == -EINVAL || err == -EISDIR ? -EOPNOTSUPP : err;
    (void)close(probe.buffered);
    (void)close(probe.direct);
    return 0;
}

bool floor_disk_used(void)
{
    return directory >= 0;
}

static bool whole_blocks(uint64_t offset, const void *bytes, size_t length)
{
    return (offset | (uintptr_t)bytes | length) % BLOCK_BYTES == 0;
}

int floor_disk_new(struct floor_disk_file **file)
{
    struct floor_disk_file *made = malloc(sizeof *made);
    const int err = made ? open_file(made) : -ENOMEM;
    if (err)
        free(made);
    else
        *file = made;
    return err;
}

int floor_disk_write(const struct floor_disk_file *file, uint64_t offset, const uint8_t *bytes,
                     size_t length)
{
    const int fd = whole_blocks(offset, bytes, length) ? file->direct : file->buffered;
    for (size_t done = 0; done < length;) {
        const ssize_t got = pwrite(fd, bytes + done, length - done, (off_t)(offset + done));
        if (got < 0 && errno != EINTR)
            return -errno;
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

int floor_disk_reader(const struct floor_disk_file *file, uint64_t offset, const void *buf,
                      size_t cap, size_t *length)
{
    const size_t whole = (*length + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    if (whole > cap || !whole_blocks(offset, buf, whole))
        return file->buffered;
    *length = whole;
    return file->direct;
}

int floor_disk_truncate(const struct floor_disk_file *file, uint64_t size)
{
    return file && ftruncate(file->buffered, (off_t)size) ? -errno : 0;
}

int floor_disk_sync(const struct floor_disk_file *file)
{
    return file && fdatasync(file->buffered) ? -errno : 0;
}

void floor_disk_close(struct floor_disk_file *file)
{
    if (!file)
        return;
    (void)close(file->direct);
    (void)close(file->buffered);
    free(file);
}
