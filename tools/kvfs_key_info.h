/*
 * tools/kvfs_key_info.h: kvfs info of one key.
 */
#ifndef TOOLS_KVFS_KEY_INFO_H
#define TOOLS_KVFS_KEY_INFO_H

#include "tools/command.h"

/*
 * Print it. config: of an image, the mount.conf whose policies are told; NULL: none. Complains for
 * itself; returns the exit status.
 */
int tool_key_info(const char *target, const char *key, bool as_json, const char *config);

#endif
