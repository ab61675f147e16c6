/*
 * tools/live_run.h: what the commands of tools/live.h share.
 */
#ifndef TOOLS_LIVE_RUN_H
#define TOOLS_LIVE_RUN_H

#include "tools/live_view.h"
#include "tools/mounts.h"

enum { TOOL_LIVE_OK = 0, TOOL_LIVE_FAILED = 1, TOOL_LIVE_USAGE = 2 };

/* All of them complain. The mount that a path lies in. */
KV_MUST_CHECK int tool_live_find(const char *path, struct tool_mount *mount);
KV_MUST_CHECK int tool_live_read(const char *dir, struct tool_figures *figures);
/* "0.5"; NULL is one second. */
bool tool_live_interval(const char *text, unsigned *milliseconds);
/* The status of a command that printed: output that is lost is a failure too. */
int tool_live_finish(int status);

#endif
