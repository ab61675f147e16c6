/*
 * tools/settings_live.h: the settings of a mount that is there, read and changed.
 *
 * Threads: any.
 */
#ifndef TOOLS_SETTINGS_LIVE_H
#define TOOLS_SETTINGS_LIVE_H

#include "fs/mount.h"

/*
 * Read what the daemon of the mount on `dir` has set, all bytes of *now included.
 *
 * Returns 0; -ENODATA it was mounted with control=none, so nobody can tell; -EUCLEAN its words are
 * not understood; or what reading them says. `error` names the file and the reason.
 */
KV_MUST_CHECK int tool_settings_read(const char *dir, struct fs_mount_options *now,
                                     struct kv_error *error);

/*
 * Change the settings of the mount on `dir` from `now`, which was read, to `to`, a copy of it in
 * which some were set. All are changed or none; nothing is asked where none differs.
 *
 * Returns 0; -EINVAL one can not change while it is mounted: `error` names it and the remedy; or
 * what writing says.
 */
KV_MUST_CHECK int tool_settings_change(const char *dir, const struct fs_mount_options *now,
                                       const struct fs_mount_options *to, struct kv_error *error);

#endif
