/*
 * tools/live_figures.c: JSON of a mount as a table of paths and numbers.
 *
 * Owns       the text.
 * Invariant  nothing is read beyond the text's end, whatever it holds; nesting is bounded.
 */
#include "tools/live_figures.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>

#include "fs/mount.h"

#define TEXT_MAX  65536u /* as long as an attribute can be */
#define DEPTH_MAX 8u

struct parser {
    const char *at;
    struct tool_figures *figures;
    char path[TOOL_FIGURE_PATH];
    size_t path_len;
};

static void skip_blanks(struct parser *parser)
{
    parser->at += strspn(parser->at, " \t\r\n");
}

static bool take(struct parser *parser, char wanted)
{
    skip_blanks(parser);
    if (*parser->at != wanted)
        return false;
    parser->at++;
    return true;
}

/* A string without its quotes, escapes as they stand. */
static int take_string(struct parser *parser, const char **text, size_t *length)
{
    if (!take(parser, '"'))
        return -EUCLEAN;
    *text = parser->at;
    while (*parser->at && *parser->at != '"')
        parser->at += parser->at[0] == '\\' && parser->at[1] ? 2 : 1;
    if (!*parser->at)
        return -EUCLEAN;
    *length = (size_t)(parser->at++ - *text);
    return 0;
}

static int add_row(struct parser *parser, double value)
{
    struct tool_figures *figures = parser->figures;
    if (figures->count == TOOL_FIGURES_MAX)
        return -EUCLEAN;
    struct tool_figure *row = &figures->rows[figures->count++];
    memcpy(row->path, parser->path, parser->path_len + 1);
    row->value = value;
    return 0;
}

static int take_word(struct parser *parser)
{
    static const struct {
        const char *word;
        double value; /* below 0: it is no number */
    } words[] = {{"true", 1}, {"false", 0}, {"null", -1}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        const size_t length = strlen(words[i].word);
        if (strncmp(parser->at, words[i].word, length) != 0)
            continue;
        parser->at += length;
        return words[i].value < 0 ? 0 : add_row(parser, words[i].value);
    }
    char *end;
    const double value = strtod(parser->at, &end);
    if (end == parser->at)
        return -EUCLEAN;
    parser->at = end;
    return add_row(parser, value);
}

static int take_value(struct parser *parser, unsigned depth);

/* A member's name goes to the end of the path, for its value. */
static int take_member(struct parser *parser, unsigned depth)
{
    const char *name;
    size_t length;
    const size_t path_len = parser->path_len;
    int err = take_string(parser, &name, &length);
    if (!err && (!take(parser, ':') || path_len + length + 2 > sizeof parser->path))
        err = -EUCLEAN;
    if (err)
        return err;
    if (path_len)
        parser->path[parser->path_len++] = '.';
    memcpy(parser->path + parser->path_len, name, length);
    parser->path_len += length;
    parser->path[parser->path_len] = '\0';
    err = take_value(parser, depth);
    parser->path_len = path_len;
    parser->path[path_len] = '\0';
    return err;
}

static int take_object(struct parser *parser, unsigned depth)
{
    if (depth == DEPTH_MAX)
        return -EUCLEAN;
    if (take(parser, '}'))
        return 0;
    do {
        const int err = take_member(parser, depth + 1);
        if (err)
            return err;
    } while (take(parser, ','));
    return take(parser, '}') ? 0 : -EUCLEAN;
}

static int take_value(struct parser *parser, unsigned depth)
{
    const char *text;
    size_t length;
    if (take(parser, '{'))
        return take_object(parser, depth);
    if (*parser->at == '"')
        return take_string(parser, &text, &length);
    return take_word(parser);
}

int tool_figures_parse(const char *json, struct tool_figures *figures)
{
    struct parser parser = {.at = json, .figures = figures};
    figures->count = 0;
    const int err = take(&parser, '{') ? take_object(&parser, 0) : -EUCLEAN;
    skip_blanks(&parser);
    return !err && *parser.at ? -EUCLEAN : err;
}

int tool_figures_read(const char *dir, struct tool_figures *figures)
{
    struct timespec now;
    figures->json = malloc(TEXT_MAX + 1);
    if (!figures->json)
        return -ENOMEM;
    const ssize_t length = getxattr(dir, FS_XATTR_STATS, figures->json, TEXT_MAX);
    int err = length < 0 ? -errno : 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* the arguments are right */
    figures->read_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    if (!err) {
        figures->json[length] = '\0';
        err = tool_figures_parse(figures->json, figures);
    }
    if (err)
        tool_figures_release(figures);
    return err;
}

void tool_figures_release(struct tool_figures *figures)
{
    free(figures->json);
    figures->json = NULL;
}

static const struct tool_figure *find(const struct tool_figures *figures, const char *path)
{
    for (size_t i = 0; i < figures->count; i++)
        if (strcmp(figures->rows[i].path, path) == 0)
            return &figures->rows[i];
    return NULL;
}

double tool_figure(const struct tool_figures *figures, const char *path)
{
    const struct tool_figure *row = find(figures, path);
    return row ? row->value : 0;
}

bool tool_figure_is_there(const struct tool_figures *figures, const char *path)
{
    return find(figures, path) != NULL;
}

double tool_figure_rate(const struct tool_figures *now, const struct tool_figures *before,
                        const char *path)
{
    const double more = tool_figure(now, path) - tool_figure(before, path);
    const double seconds = (double)(now->read_ns - before->read_ns) / 1e9;
    return seconds > 0 && more > 0 ? more / seconds : 0;
}
