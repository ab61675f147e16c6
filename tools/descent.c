/*
 * tools/descent.c: directories in each other, of which the last few are open.
 *
 * Owns       the levels and their descriptors.
 * Invariant  the last one is open, and of the others at most DESCENT_OPEN_MAX - 1, all of them
 * right above it; one that was closed is opened again from the one in it, and must be the same.
 */
#include "tools/descent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* Open a directory and learn which one it is. */
static int open_level(int parent, const char *name, struct descent_level *level)
{
    struct stat status;
    const int fd = openat(parent, name, OPEN_DIRECTORY);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &status)) {
        const int err = -errno;
        close(fd);
        return err;
    }
    *level = (struct descent_level){.fd = fd, .device = status.st_dev, .inode = status.st_ino};
    return 0;
}

static void close_level(struct descent_level *level)
{
    if (level->fd >= 0)
        close(level->fd);
    level->fd = -1;
}

int descent_enter(struct descent *descent, int top, const char *name)
{
    if (descent->count == descent->capacity) {
        const size_t capacity = descent->capacity ? descent->capacity * 2 : 16;
        struct descent_level *levels = reallocarray(descent->levels, capacity, sizeof *levels);
        if (!levels)
            return -ENOMEM;
        descent->levels = levels;
        descent->capacity = capacity;
    }
    struct descent_level *const level = &descent->levels[descent->count];
    const int err = open_level(descent->count ? level[-1].fd : top, name, level);
    if (!err && descent->count++ >= DESCENT_OPEN_MAX)
        close_level(level - DESCENT_OPEN_MAX);
    return err;
}

int descent_leave(struct descent *descent)
{
    KV_ASSERT(descent->count > 0);
    struct descent_level *const last = &descent->levels[descent->count - 1];
    if (descent->count > 1 && last[-1].fd < 0) {
        struct descent_level above = {.fd = -1};
        const int err = open_level(last->fd, "..", &above);
        if (err)
            return err;
        if (above.device != last[-1].device || above.inode != last[-1].inode) {
            close_level(&above);
            return -ESTALE;
        }
        last[-1].fd = above.fd;
    }
    close_level(last);
    descent->count--;
    return 0;
}

void descent_release(struct descent *descent)
{
    while (descent->count > 0)
        close_level(&descent->levels[--descent->count]);
    free(descent->levels);
}
