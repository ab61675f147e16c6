/*
 * tools/live.h: the subcommands of kvfs that look at a mount while it is used: stat, top, health.
 *
 * Each gets the directory of a mount, or a path in it, complains for itself, and returns the exit
 * status: 0, 1 failed, 2 usage, if nothing else is said.
 */
#ifndef TOOLS_LIVE_H
#define TOOLS_LIVE_H

#include <stdbool.h>

/*
 * The figures of a mount: all once, for people or as JSON; with an interval (seconds, as text;
 * NULL: none) a line for each, until it is interrupted or the mount is gone.
 */
int tool_live_stat(const char *path, bool as_json, const char *interval);

/* A screen of rates, latencies, cache and log, again and again; q ends it. Without a terminal one
 * screen is printed. interval: seconds as text, NULL is 1. */
int tool_live_top(const char *path, const char *interval);

/* Print the control file `health`. Exit status: 0 well, 1 a warning, 2 critical, 3 it is not known,
 * since nothing could be read. */
int tool_live_health(const char *target, bool as_json);

#endif
