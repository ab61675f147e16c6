/*
 * tools/descent.h: directories in each other, from a top down to where the work is, of which a
 * bounded number is open: so a tree may be deeper than descriptors go around.
 *
 * No symlink is followed. Errors are negative errnos. Threads: one.
 */
#ifndef TOOLS_DESCENT_H
#define TOOLS_DESCENT_H

#include "kv/base.h"

#include <sys/stat.h>

#define DESCENT_OPEN_MAX 32u

struct descent_level {
    int fd; /* -1: closed, since there are many below it */
    dev_t device;
    ino_t inode;
};

/* Begins as zeros. */
struct descent {
    struct descent_level *levels; /* owned */
    size_t count, capacity;
};

/* Go down into the directory `name` of the last one; of `top`, which is borrowed, for the first. */
KV_MUST_CHECK int descent_enter(struct descent *descent, int top, const char *name);

/* The last one; borrowed until the next enter or leave. */
static inline int descent_fd(const struct descent *descent)
{
    KV_ASSERT(descent->count > 0);
    return descent->levels[descent->count - 1].fd;
}

/*
 * Go back up. -ESTALE: the one above was closed meanwhile, and what is above now is another: the
 * last one was moved.
 */
KV_MUST_CHECK int descent_leave(struct descent *descent);
void descent_release(struct descent *descent);

#endif
