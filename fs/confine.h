/*
 * fs/confine.h: what a daemon gives up once it has all it needs.
 */
#ifndef FS_CONFINE_H
#define FS_CONFINE_H

#include "kv/kv.h"

/*
 * Give up what serving a mounted image does not need. For root only, since a plain user has
 * nothing to give up, and unmounts through fusermount3, which gains privileges by being run:
 *
 *   capabilities   all but CAP_SYS_ADMIN, which umount2(2) asks for; also from the bounding set.
 *                  CAP_DAC_READ_SEARCH, too, stays where it takes that to get to `dir`, which is to
 *                  be unmounted in the end.
 *
 *   new privileges none, ever (PR_SET_NO_NEW_PRIVS).
 *
 *   system calls   with `filter`: those on a list; any other is EPERM to whoever makes it, so
 *                  that a list which is too short costs an error and no data.
 *
 * The filter holds for all threads, the rest for the calling one and those that it starts
 * afterwards: no other may be there yet but one that has given up all it had (kv/owner.c). What can
 * not be given up is a line in the log and no reason to stop.
 */
void fs_confine(const char *dir, bool filter, kv_log_fn *log, void *log_context);

#endif
