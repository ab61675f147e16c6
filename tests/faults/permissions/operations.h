/*
 * tests/faults/permissions/operations.h: what a program may try on a file in a directory.
 *
 * The current directory holds this scene (support: scene.h):
 *
 *    b/d/       the directory in question      b/d/f    the file in question
 *    b/d/sub/   a directory like f             b/d/l    a symbolic link to f
 *    b/e/       a directory open to all        b/e/x    a file that is the caller's
 */
#ifndef PERMISSIONS_OPERATIONS_H
#define PERMISSIONS_OPERATIONS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A time that no clock shows. */
#define EXPLICIT_SECONDS 1000000000

/* Who tries, as far as an operation must know. */
struct caller {
    uid_t uid;
    gid_t gid;
    gid_t other_gid; /* one more group of his, or one that is not */
};

struct operation {
    const char *name;
    /* 0 or more, or -errno. What was read besides goes into *content. */
    int (*run)(const struct caller *caller, uint64_t *content);
};

extern const struct operation operations[];
extern const size_t operation_count;

/* FNV-1a, to compare what was read. */
uint64_t hash_bytes(const void *bytes, size_t length, uint64_t seed);
/* Of a list of names, without regard to their order. */
uint64_t hash_names(const char *names, size_t length);

#endif
