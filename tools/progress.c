/*
 * tools/progress.c: a line on a terminal that says how far something has come.
 *
 * Owns       nothing.
 * Invariant  nothing is written unless it is enabled.
 * Locks      none.
 */
#include "tools/progress.h"

#include <unistd.h>

#define DRAW_EVERY_NS  100000000ull
#define DRAW_FIRST_NS  500000000ull
#define BAR_CHARACTERS 40u

void tool_progress_init(struct tool_progress *progress, bool wished)
{
    const char *term = getenv("TERM");
    *progress = (struct tool_progress){.stage = ""};
    progress->enabled = wished && isatty(STDERR_FILENO) && (!term || strcmp(term, "dumb") != 0);
}

void tool_progress_stage(struct tool_progress *progress, const char *stage)
{
    progress->stage = stage;
    if (!progress->enabled)
        return;
    progress->started_ns = kv_clock_ns();
    progress->next_ns = progress->started_ns + DRAW_FIRST_NS;
}

void tool_progress_step(struct tool_progress *progress, uint64_t done, uint64_t total)
{
    if (!progress->enabled || (!total && !progress->items))
        return;
    const uint64_t now = kv_clock_ns();
    if (now < progress->next_ns)
        return;
    progress->next_ns = now + DRAW_EVERY_NS;
    const double seconds = (double)(now - progress->started_ns) / 1e9;
    progress->shown = true;
    if (!total) { /* a stream, of which nobody knows how long it is */
        fprintf(stderr, "\r\033[K%-11s %llu, %.1f MiB, %.0f/s %.1f MiB/s", progress->stage,
                (unsigned long long)progress->items, (double)progress->bytes / 1048576.0,
                (double)progress->items / seconds, (double)progress->bytes / seconds / 1048576.0);
        (void)fflush(stderr); /* a line for the eye only */
        return;
    }
    const double part = done < total ? (double)done / (double)total : 1.0;
    const unsigned filled = (unsigned)(part * BAR_CHARACTERS);
    char bar[BAR_CHARACTERS + 1];
    memset(bar, '.', BAR_CHARACTERS);
    memset(bar, '#', filled);
    bar[BAR_CHARACTERS] = '\0';
    fprintf(stderr, "\r\033[K%-11s [%s] %3u%%", progress->stage, bar, (unsigned)(part * 100.0));
    if (progress->items && part > 0)
        fprintf(stderr, " %.0f/s %.1f MiB/s, %.0fs left", (double)progress->items / seconds,
                (double)progress->bytes / seconds / 1048576.0, seconds / part - seconds);
    else
        fprintf(stderr, " %.0fs", seconds);
    (void)fflush(stderr); /* likewise */
}

void tool_progress_rate(struct tool_progress *progress, uint64_t items, uint64_t bytes)
{
    progress->items = items;
    progress->bytes = bytes;
}

void tool_progress_clear(struct tool_progress *progress)
{
    if (!progress->shown)
        return;
    fputs("\r\033[K", stderr);
    (void)fflush(stderr); /* likewise */
    progress->shown = false;
}
