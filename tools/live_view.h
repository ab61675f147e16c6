/*
 * tools/live_view.h: figures of a mount as text for people: tables and screens.
 *
 * Threads: any; each writes to its own stream.
 */
#ifndef TOOLS_LIVE_VIEW_H
#define TOOLS_LIVE_VIEW_H

#include <stdio.h>

#include "tools/live_figures.h"

/* All that was counted since the mount. */
void tool_view_totals(FILE *out, const char *dir, const struct tool_figures *now);

/* One line of what happened between the two; tool_view_line_head: what its columns are. */
void tool_view_line_head(FILE *out);
void tool_view_line(FILE *out, const struct tool_figures *now, const struct tool_figures *before);

/* A screen of what happens: rates and latencies between the two, cache, log, device. */
void tool_view_screen(FILE *out, const char *dir, const struct tool_figures *now,
                      const struct tool_figures *before);

#define TOOL_DURATION_TEXT 16u
/* "850 ns", "12.3 us", "4.56 ms", "7.89 s". */
void tool_view_duration(double ns, char text[TOOL_DURATION_TEXT]);

#endif
