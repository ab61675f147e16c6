/*
 * tools/kvfs_live.h: stat, top and health among the subcommands of kvfs.
 */
#ifndef TOOLS_KVFS_LIVE_H
#define TOOLS_KVFS_LIVE_H

#include <stdbool.h>
#include <stdio.h>

/* Is argv[0] one of them? Then it is run, and *status is the exit status. */
bool tool_live_command(int argc, char **argv, int *status);
/* A line for each, as kvfs --help lists subcommands. */
void tool_live_usage(FILE *out);

#endif
