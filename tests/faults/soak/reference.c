/*
 * tests/faults/soak/reference.c: where the other side lies.
 */
#include "reference.h"

#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

bool reference_open(struct names_posix *reference)
{
    const char *above = getenv("KVFS_SOAK_REFERENCE");
    char directory[NAMES_PATH_MAX];
    struct statfs about;
    snprintf(directory, sizeof directory, "%s/kvfs-reference-XXXXXX", above ? above : "/tmp");
    if (geteuid() != 0 || !mkdtemp(directory) || statfs(directory, &about)) {
        printf("skipped: no directory for the reference as root\n");
        return false;
    }
    if (about.f_type != EXT4_SUPER_MAGIC && about.f_type != TMPFS_MAGIC &&
        about.f_type != XFS_SUPER_MAGIC) {
        printf("skipped: %s is neither ext4, xfs nor tmpfs: set KVFS_SOAK_REFERENCE\n", directory);
        rmdir(directory);
        return false;
    }
    names_posix_open(reference, directory);
    return true;
}
