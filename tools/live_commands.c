/*
 * tools/live_commands.c: kvfs stat and kvfs health, and what they share with kvfs top.
 */
#include "tools/live.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/mount.h"
#include "kv/base.h"
#include "tools/json.h"
#include "tools/live_run.h"
#include "tools/live_wait.h"
#include "tools/mounts.h"
#include "tools/options.h"

enum { HEALTH_UNKNOWN = 3 };

int tool_live_find(const char *path, struct tool_mount *mount)
{
    const int err = tool_mount_of_path(path, mount);
    if (err)
        tool_complain("%s: %s", path,
                      err == -ENOENT ? "not in a kvfs mount; give the directory of one"
                                     : tool_error_text(err));
    return err;
}

int tool_live_read(const char *dir, struct tool_figures *figures)
{
    const int err = tool_figures_read(dir, figures);
    if (err)
        tool_complain("%s: the figures can not be read: %s", dir, tool_error_text(err));
    return err;
}

bool tool_live_interval(const char *text, unsigned *milliseconds)
{
    *milliseconds = 1000;
    if (!text)
        return true;
    char *end;
    const double seconds = strtod(text, &end);
    if (end == text || *end || !(seconds >= 0.1 && seconds <= 86400)) {
        tool_complain("--interval %s: give seconds, 0.1 to 86400", text);
        return false;
    }
    *milliseconds = (unsigned)(seconds * 1000);
    return true;
}

/* ---- stat ----------------------------------------------------------------------------- */

/* A line for each interval. Its end is the user's, or that of the mount. */
static int print_lines(const char *dir, unsigned interval_ms)
{
    static struct tool_figures readings[2]; /* too large for a stack */
    tool_live_wait_begin();
    unsigned which = 0;
    if (tool_live_read(dir, &readings[0]))
        return TOOL_LIVE_FAILED;
    for (unsigned line = 0; !ferror(stdout); line++) {
        if (line % 20 == 0)
            tool_view_line_head(stdout);
        (void)fflush(stdout); /* asked for at the end */
        if (tool_live_wait(-1, interval_ms) == TOOL_LIVE_INTERRUPTED)
            break;
        struct tool_figures *now = &readings[!which];
        if (tool_live_read(dir, now)) {
            tool_figures_release(&readings[which]);
            return TOOL_LIVE_FAILED;
        }
        tool_view_line(stdout, now, &readings[which]);
        tool_figures_release(&readings[which]);
        which = !which;
    }
    tool_figures_release(&readings[which]);
    return TOOL_LIVE_OK;
}

int tool_live_finish(int status)
{
    if (fflush(stdout) || ferror(stdout)) {
        tool_complain("standard output: %s", tool_error_text(errno));
        return TOOL_LIVE_FAILED;
    }
    return status;
}

int tool_live_stat(const char *path, bool as_json, const char *interval)
{
    static struct tool_figures figures; /* too large for a stack */
    struct tool_mount mount;
    unsigned interval_ms;
    if (!tool_live_interval(interval, &interval_ms))
        return TOOL_LIVE_USAGE;
    if (interval && as_json) {
        tool_complain("--json prints all once; leave out --interval");
        return TOOL_LIVE_USAGE;
    }
    if (tool_live_find(path, &mount))
        return TOOL_LIVE_FAILED;
    if (interval)
        return tool_live_finish(print_lines(mount.dir, interval_ms));
    if (tool_live_read(mount.dir, &figures))
        return TOOL_LIVE_FAILED;
    if (as_json)
        fputs(figures.json, stdout);
    else
        tool_view_totals(stdout, mount.dir, &figures);
    tool_figures_release(&figures);
    return tool_live_finish(TOOL_LIVE_OK);
}

/* ---- health --------------------------------------------------------------------------- */

/* Words of a line of the file: state, subject, the rest. */
static bool split_line(char *line, char *words[3])
{
    for (unsigned i = 0; i < 3; i++) {
        line += strspn(line, " ");
        words[i] = line;
        line += i < 2 ? strcspn(line, " ") : strcspn(line, "\n");
        if (words[i] == line)
            return false;
        if (*line)
            *line++ = '\0';
    }
    return true;
}

static int state_of(const char *word)
{
    static const char *const words[] = {"OK", "WARN", "CRIT"};
    for (int i = 0; i < 3; i++)
        if (strcmp(word, words[i]) == 0)
            return i;
    return HEALTH_UNKNOWN;
}

int tool_live_health(const char *target, bool as_json)
{
    struct tool_mount mount;
    struct kv_error error;
    char path[PATH_MAX], line[512];
    if (tool_live_find(target, &mount))
        return HEALTH_UNKNOWN;
    if (tool_mount_control(mount.dir, "health", path, &error)) {
        tool_complain("%s", error.text);
        return HEALTH_UNKNOWN;
    }
    FILE *file = fopen(path, "re");
    if (!file) {
        tool_complain("%s: %s", path, tool_error_text(errno));
        return HEALTH_UNKNOWN;
    }
    struct tool_json json;
    tool_json_init(&json, stdout);
    int worst = HEALTH_UNKNOWN;
    if (as_json)
        tool_json_open(&json, NULL, '[');
    while (fgets(line, sizeof line, file)) {
        char *words[3];
        if (!as_json)
            fputs(line, stdout);
        if (!split_line(line, words))
            continue;
        const int state = state_of(words[0]);
        worst = worst == HEALTH_UNKNOWN || state > worst ? state : worst;
        if (!as_json)
            continue;
        tool_json_open(&json, NULL, '{');
        tool_json_string(&json, "state", words[0]);
        tool_json_string(&json, "subject", words[1]);
        tool_json_string(&json, "text", words[2]);
        tool_json_close(&json, '}');
    }
    if (as_json)
        tool_json_close(&json, ']');
    const bool is_read = !ferror(file);
    (void)fclose(file); /* only read */
    if (!is_read)
        tool_complain("%s: can not be read", path);
    return is_read && tool_live_finish(TOOL_LIVE_OK) == TOOL_LIVE_OK ? worst : HEALTH_UNKNOWN;
}
