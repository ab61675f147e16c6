/*
 * tools/progress.h: a line on a terminal that says how far something has come.
 *
 * One thread.
 */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include "kv/base.h"

struct tool_progress {
    bool enabled;
    bool shown;            /* there is a line to be wiped */
    uint64_t next_ns;      /* not drawn before; monotonic */
    uint64_t started_ns;   /* of this stage */
    const char *stage;     /* borrowed */
    uint64_t items, bytes; /* of tool_progress_rate; 0: no rate is shown */
};

/* Enabled only when standard error is a terminal, `wished`, and TERM is not "dumb". */
void tool_progress_init(struct tool_progress *progress, bool wished);
/* Something else begins. `stage` is borrowed until the next one. */
void tool_progress_stage(struct tool_progress *progress, const char *stage);
/* At most ten lines a second are drawn, and none in the first half of a second. total 0: it is not
 * known; only rates are shown. */
void tool_progress_step(struct tool_progress *progress, uint64_t done, uint64_t total);
/* How many things, and bytes of them, are done so far: then rates and the time left are shown. */
void tool_progress_rate(struct tool_progress *progress, uint64_t items, uint64_t bytes);
/* Wipe the line: before anything else is printed, and in the end. */
void tool_progress_clear(struct tool_progress *progress);

#endif
