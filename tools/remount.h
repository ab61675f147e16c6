/*
 * tools/remount.h: end the daemon of a mount as a crash would, and mount the image again.
 *
 * Owns       nothing between calls but what the caller keeps in a struct tool_remount.
 * Threads: one at a time.
 */
#ifndef TOOLS_REMOUNT_H
#define TOOLS_REMOUNT_H

#include <limits.h>
#include <sys/types.h>

#include "kv/kv.h"
#include "tools/mounts.h"

/* How an image was mounted, and so is to be mounted again. */
struct tool_remount {
    struct tool_mount mount;
    pid_t daemon;
    char program[PATH_MAX]; /* of the daemon */
    char config[PATH_MAX];  /* -c; "": none */
    char *options;          /* -o, comma-separated; owned; NULL: none */
};

/*
 * Learn how a mount was mounted from the daemon that serves it: its program and the options of
 * its command line. What was changed since through the control directory is not seen.
 *
 * Returns 0; otherwise `error` says why: -ESRCH no process that can be seen from here serves it;
 * -EPERM it is somebody else's, also for root; -EINVAL its command line has unknown options, or
 * names the file of settings relative to a directory that is not known; -ENOENT its program is
 * gone; -ENOMEM; what reading /proc says.
 */
KV_MUST_CHECK int tool_remount_learn(const struct tool_mount *mount, struct tool_remount *remount,
                                     struct kv_error *error);
void tool_remount_release(struct tool_remount *remount);

#define TOOL_REMOUNT_SETTINGS 16384u
/* The settings of a mount as its control directory shows them, "key=value\n"... -ENOENT, -EIO, ...
 */
KV_MUST_CHECK int tool_remount_settings(const struct tool_mount *mount,
                                        char settings[TOOL_REMOUNT_SETTINGS]);
/* Are they as "key=value" says? */
bool tool_remount_has(const char *settings, const char *line);

/* SIGKILL to that daemon and to no other process; returns when it is gone. */
KV_MUST_CHECK int tool_remount_kill(struct tool_remount *remount, struct kv_error *error);

/* Take the dead mount away, if it is there, and mount the image anew, in the background. */
KV_MUST_CHECK int tool_remount_again(struct tool_remount *remount, struct kv_error *error);

#endif
