/*
 * tools/live_top.c: kvfs top, a screen of what a mount is doing.
 *
 * Owns       the terminal's mode and its second screen, from begin_screen to end_screen.
 * Invariant  the terminal is as it was whatever ends the program, but for SIGKILL.
 */
#include "tools/live.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "tools/live_run.h"
#include "tools/live_wait.h"
#include "tools/options.h"

/* Control sequences as of ECMA-48, and the second screen of xterm. */
#define SCREEN_SECOND "\033[?1049h\033[?25l"
#define SCREEN_FIRST  "\033[?25h\033[?1049l"
#define CURSOR_HOME   "\033[H"
#define CLEAR_LINE    "\033[K"
#define CLEAR_REST    "\033[J"
#define BOLD          "\033[1m"
#define PLAIN         "\033[m"

struct screen {
    struct termios before;
    bool has_input; /* keys come from a terminal, whose mode was changed */
};

static void begin_screen(struct screen *screen)
{
    tool_live_wait_begin();
    screen->has_input = tcgetattr(STDIN_FILENO, &screen->before) == 0;
    if (screen->has_input) {
        struct termios raw = screen->before;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        raw.c_cc[VMIN] = 1;
        raw.c_cc[VTIME] = 0;
        screen->has_input = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
    }
    fputs(SCREEN_SECOND, stdout);
}

static void end_screen(const struct screen *screen)
{
    fputs(SCREEN_FIRST, stdout);
    (void)fflush(stdout); /* asked for at the end */
    if (screen->has_input)
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &screen->before); /* nothing better can be done */
}

/* As many lines of the text, and as much of each, as there is room for. */
static void show(const char *text, const char *title)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    (void)ioctl(STDOUT_FILENO, TIOCGWINSZ, &size); /* no size: as it was usual */
    const size_t columns = size.ws_col ? size.ws_col : 80;
    const size_t rows = size.ws_row ? size.ws_row : 24;
    printf(CURSOR_HOME BOLD "%.*s" PLAIN CLEAR_LINE, (int)columns, title);
    for (size_t row = 1; row < rows && *text; row++) {
        const size_t length = strcspn(text, "\n");
        printf("\n%.*s" CLEAR_LINE, (int)(length < columns ? length : columns), text);
        text += length + (text[length] == '\n');
    }
    fputs(CLEAR_REST, stdout);
    (void)fflush(stdout); /* asked for at the end */
}

/* Wait for a key or the time; false: the user wants to end. */
static bool go_on(const struct screen *screen, unsigned interval_ms)
{
    const int fd = screen->has_input ? STDIN_FILENO : -1;
    const enum tool_live_wake wake = tool_live_wait(fd, interval_ms);
    if (wake != TOOL_LIVE_INPUT)
        return wake == TOOL_LIVE_TIME;
    char key;
    return read(STDIN_FILENO, &key, 1) == 1 && key != 'q' && key != 'Q' && key != 4;
}

/* The text of a screen; the caller frees it. NULL: no memory. */
static char *render(const char *dir, const struct tool_figures *now,
                    const struct tool_figures *before)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return NULL;
    tool_view_screen(out, dir, now, before);
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}

/* What happened between two readings, again and again, or once. */
static int run(const char *dir, unsigned interval_ms, const struct screen *screen)
{
    static struct tool_figures readings[2]; /* too large for a stack */
    unsigned which = 0;
    int status = TOOL_LIVE_OK;
    if (tool_live_read(dir, &readings[0]))
        return TOOL_LIVE_FAILED;
    char title[128];
    (void)snprintf(title, sizeof title, "kvfs top - every %.1f s, q quits",
                   (double)interval_ms / 1000);
    for (;;) {
        /* The first screen comes soon; what it shows is of a short time. */
        if (screen ? !go_on(screen, which == 0 && !readings[1].json ? 200 : interval_ms)
                   : tool_live_wait(-1, interval_ms) == TOOL_LIVE_INTERRUPTED)
            break;
        struct tool_figures *now = &readings[!which];
        tool_figures_release(now);
        if (tool_live_read(dir, now)) {
            status = TOOL_LIVE_FAILED;
            break;
        }
        char *text = render(dir, now, &readings[which]);
        if (!text) {
            tool_complain("%s", tool_error_text(ENOMEM));
            status = TOOL_LIVE_FAILED;
            break;
        }
        if (screen)
            show(text, title);
        else
            fputs(text, stdout);
        free(text);
        which = !which;
        if (!screen)
            break;
    }
    tool_figures_release(&readings[0]);
    tool_figures_release(&readings[1]);
    return status;
}

int tool_live_top(const char *path, const char *interval)
{
    struct tool_mount mount;
    unsigned interval_ms;
    if (!tool_live_interval(interval, &interval_ms))
        return TOOL_LIVE_USAGE;
    if (tool_live_find(path, &mount))
        return TOOL_LIVE_FAILED;
    if (!isatty(STDOUT_FILENO))
        return tool_live_finish(run(mount.dir, interval_ms, NULL));
    struct screen screen;
    begin_screen(&screen);
    const int status = run(mount.dir, interval_ms, &screen);
    end_screen(&screen);
    return tool_live_finish(status);
}
