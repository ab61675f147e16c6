/*
 * tools/mounts.h: which image is mounted where, as the kernel's mount table tells it.
 *
 * Threads: any.
 */
#ifndef TOOLS_MOUNTS_H
#define TOOLS_MOUNTS_H

#include <limits.h>

#include "kv/kv.h"

/* One mounted image. */
struct tool_mount {
    char dir[PATH_MAX];    /* mount point */
    char source[PATH_MAX]; /* the image, as the daemon named it */
    bool read_only;
};

/*
 * The mount that `path` lies in: a mount point or anything below it. Works on the mount
 * point also when its daemon is dead.
 *
 * Returns 0; -ENOENT the path is in no kvfs mount; or what looking at the path says.
 */
KV_MUST_CHECK int tool_mount_of_path(const char *path, struct tool_mount *mount);

/*
 * Where the image at `path` is mounted, seen from here or from the process that holds it.
 *
 * Returns 0; -ENOENT nowhere; or what looking at the path or the mount table says.
 */
KV_MUST_CHECK int tool_mount_of_image(const char *path, struct tool_mount *mount);

/*
 * The name of the control directory in the root of a mount, for which the mount is asked; name:
 * NAME_MAX + 1 bytes. Returns 0; -ENOENT it has none (control=none), or mount_dir is not its root;
 * or what asking says.
 */
KV_MUST_CHECK int tool_mount_control_name(const char *mount_dir, char name[NAME_MAX + 1]);
/*
 * The path of `file` in the control directory of a mount, PATH_MAX bytes. The same errors, with
 * words; error may be NULL.
 */
KV_MUST_CHECK int tool_mount_control(const char *mount_dir, const char *file, char path[PATH_MAX],
                                     struct kv_error *error);

/* Does this errno, of a look at a mount point, say that the daemon of the mount is gone? */
bool tool_mount_is_dead(int error);

/* Is something mounted on exactly this directory? */
bool tool_is_mount_point(const char *dir);

/*
 * Say who has the image at `path` open and what to do, one line:
 * "IMAGE: in use by process 123 (mount.kvfs), mounted on DIR; unmount it with: kvfs umount DIR".
 */
void tool_describe_holder(const char *path, struct kv_error *error);

/*
 * Wait until a daemon whose mount is gone has written the rest to the image and let go of it.
 *
 * holder       its process; 0 or less: there is nothing to wait for.
 * seconds_max  0: as long as it takes. It is said after ten seconds that something is waited for.
 *
 * Returns at once when that process serves a mount: it is not about to end.
 */
void tool_await_release(const char *image, int holder, unsigned seconds_max);

/*
 * The same for who is about to open an image, be it just unmounted: umount(8) does not wait for the
 * daemon. Nothing is waited for when another program than mount.kvfs has it.
 *
 * Returns who has it now, as kv_image_holder tells it; 0: nobody.
 */
int tool_await_daemon(const char *image);

/*
 * Is the block device at `path` used by the kernel, mounted for instance? False for a file.
 */
bool tool_device_in_use(const char *path);

#endif
