/*
 * fs/mount_point.h: which mount is on a directory, and its way out of the directory tree.
 *
 * Threads: any.
 */
#ifndef FS_MOUNT_POINT_H
#define FS_MOUNT_POINT_H

#include <stdint.h>

#include "kv/kv.h"

/* Tells a mount from every other. */
struct fs_mount_identity {
    uint64_t mount_id; /* never given twice; 0: the kernel does not tell (before Linux 6.8) */
    uint32_t device_major, device_minor; /* of the filesystem; a later one may get the same */
};

/*
 * What is on the directory now? Asks nothing of that filesystem, so it may be one that answers
 * nobody. 0, or what statx says.
 */
KV_MUST_CHECK int fs_mount_identify(const char *dir, struct fs_mount_identity *identity);

/*
 * Is that mount still what is on the directory? 0; -ENODEV no; or what statx says.
 */
KV_MUST_CHECK int fs_mount_find(const char *dir, const struct fs_mount_identity *identity);

/*
 * Take it out of the directory tree, if it is still what is on the directory, an absolute path.
 * Programs that have files open keep them, so this never fails for being busy.
 *
 * 0; what fs_mount_find returns; -EPERM one who may not; or what umount2 says.
 */
KV_MUST_CHECK int fs_mount_detach(const char *dir, const struct fs_mount_identity *identity);

/*
 * As fs_mount_detach, of one whose requests are not answered any more: those that wait get an
 * error, and those that are still to come.
 */
KV_MUST_CHECK int fs_mount_abort(const char *dir, const struct fs_mount_identity *identity);

#endif
