/*
 * fs/mount_point.c: which mount is on a directory, and its way out of the directory tree.
 *
 * Owns       nothing.
 * Invariant  a path alone is never unmounted: whoever mounted there may have been unmounted by
 *            somebody else, and somebody else may have mounted since.
 */
#include "fs/mount_point.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>

/* Newer than the header of Debian 12 (Linux 6.1). */
#define FS_STATX_MNT_ID_UNIQUE 0x4000u

int fs_mount_identify(const char *dir, struct fs_mount_identity *identity)
{
    struct statx root;
    if (statx(AT_FDCWD, dir, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
              FS_STATX_MNT_ID_UNIQUE, &root))
        return -errno;
    identity->mount_id = root.stx_mask & FS_STATX_MNT_ID_UNIQUE ? root.stx_mnt_id : 0;
    identity->device_major = root.stx_dev_major;
    identity->device_minor = root.stx_dev_minor;
    return 0;
}

int fs_mount_find(const char *dir, const struct fs_mount_identity *identity)
{
    struct fs_mount_identity found = {0};
    const int err = fs_mount_identify(dir, &found);
    if (err)
        return err;
    return found.mount_id == identity->mount_id && found.device_major == identity->device_major &&
                   found.device_minor == identity->device_minor
               ? 0
               : -ENODEV;
}

static int unmount(const char *dir, const struct fs_mount_identity *identity, int flags)
{
    const int err = fs_mount_find(dir, identity);
    if (err)
        return err;
    return umount2(dir, flags | UMOUNT_NOFOLLOW) == 0 ? 0 : -errno;
}

int fs_mount_detach(const char *dir, const struct fs_mount_identity *identity)
{
    return unmount(dir, identity, MNT_DETACH);
}

int fs_mount_abort(const char *dir, const struct fs_mount_identity *identity)
{
    return unmount(dir, identity, MNT_DETACH | MNT_FORCE);
}
