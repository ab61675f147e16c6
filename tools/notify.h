/*
 * tools/notify.h: tell a service manager how the daemon is getting on.
 *
 * The protocol of systemd's Type=notify: datagrams of VARIABLE=VALUE lines, sent to the socket that
 * NOTIFY_SOCKET names: a path, or "@NAME" for a socket in the abstract name space.
 * Reference: sd_notify(3).
 */
#ifndef TOOLS_NOTIFY_H
#define TOOLS_NOTIFY_H

#include "kv/kv.h"

/*
 * Send `state`, such as "READY=1\nSTATUS=serving". Nobody waits for it where NOTIFY_SOCKET is not
 * set: that is no error.
 *
 * Returns 0; -EINVAL NOTIFY_SOCKET names neither a path nor an abstract socket, or one that is too
 * long; or what making the socket and sending say. Threads: any.
 */
KV_MUST_CHECK int tool_notify(const char *state);

#endif
