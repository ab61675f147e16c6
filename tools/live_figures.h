/*
 * tools/live_figures.h: the figures of a mount, read from its JSON into a table of paths and
 * numbers.
 *
 * {"store": {"page_hits": 7}} becomes store.page_hits = 7; true and false become 1 and 0. What is
 * no number (texts, null, lists) is left out.
 *
 * Threads: a table belongs to one at a time.
 */
#ifndef TOOLS_LIVE_FIGURES_H
#define TOOLS_LIVE_FIGURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kv/kv.h"

#define TOOL_FIGURE_PATH 96u
#define TOOL_FIGURES_MAX 1024u

struct tool_figure {
    char path[TOOL_FIGURE_PATH];
    double value;
};

struct tool_figures {
    struct tool_figure rows[TOOL_FIGURES_MAX];
    size_t count;
    uint64_t read_ns; /* when, by the monotonic clock */
    char *json;       /* the text itself; owned */
};

/*
 * Of the mount at `dir`. 0; -EUCLEAN what is read is not JSON of that form; what getxattr(2)
 * says; -ENOMEM. The table must be released if it is 0.
 */
KV_MUST_CHECK int tool_figures_read(const char *dir, struct tool_figures *figures);
void tool_figures_release(struct tool_figures *figures);

/* From a text, for tests. -EUCLEAN. */
KV_MUST_CHECK int tool_figures_parse(const char *json, struct tool_figures *figures);

/* 0 where there is none. */
double tool_figure(const struct tool_figures *figures, const char *path);
bool tool_figure_is_there(const struct tool_figures *figures, const char *path);
/* What it has grown by in a second since `before`; 0 at least. */
double tool_figure_rate(const struct tool_figures *now, const struct tool_figures *before,
                        const char *path);

#endif
