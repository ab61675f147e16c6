/*
 * tests/fs/one_mount.h: the one mount of a test program, as check's fixtures make and end it.
 *
 * Owns       `mount`, an image of 256 MiB (sparse) that is mounted with the defaults.
 */
#ifndef TESTS_FS_ONE_MOUNT_H
#define TESTS_FS_ONE_MOUNT_H

#include "support_mount.h"

static struct test_mount mount;

static inline void setup(void)
{
    test_mount_begin(&mount, NULL, 256);
}

static inline void teardown(void)
{
    test_mount_end(&mount);
}

/* A path in it, as test_path gives it. */
static inline const char *at(const char *name)
{
    return test_path(&mount, "%s", name);
}

#endif
