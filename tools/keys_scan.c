/*
 * tools/keys_scan.c: the values of a target in byte order of their whole keys.
 *
 * Owns       the path that the scan is at, and for each directory on it what waits there.
 * Invariant  names come in byte order from the backend, but a name is no key: of a directory `d`
 *            and its siblings, what is in it (`d/...`) comes after those that continue its name
 * with a byte below the slash (`d-1`, `d.txt`). Forwards, a directory waits until the next name is
 * behind its slash; those that wait have each the one before as its beginning, so they are a stack.
 * Backwards, each name asks whether a beginning of it is such a directory, which then comes first;
 * what was asked is remembered as long as names begin with it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kv/base.h"
#include "tools/keys_backend.h"
#include "tools/options.h"

struct scan {
    struct tool_keys *keys;
    bool reverse;
    uint64_t left; /* of the limit */
    char *lower;   /* the first key that is visited; "": the first there is. Owned */
    char *upper;   /* the first that is not any more. Owned; NULL: there is none */
    tool_scan_fn *visit;
    void *context;
};

#define SCAN_ENDED 1 /* what is behind here is of no interest */

/* A directory that waits, or a beginning of names that was asked about. */
struct waiting {
    char name[256];
};

/* A directory in progress. */
struct level {
    struct scan *scan;
    const char *path;
    struct waiting *stack; /* owned */
    size_t count, capacity;
};

static int scan_directory(struct scan *scan, const char *path);

/* ---- bounds ---------------------------------------------------------------------- */

/* The least string that is greater than all that begin with `prefix`. NULL: there is none. */
static char *successor(const char *prefix)
{
    char *after = strdup(prefix);
    if (!after)
        return NULL;
    size_t length = strlen(after);
    while (length > 0 && (unsigned char)after[length - 1] == 0xff)
        length--;
    if (length > 0)
        after[length - 1] = (char)((unsigned char)after[length - 1] + 1);
    after[length] = '\0';
    return after;
}

/* Is any key below the directory `path` in the bounds? */
static bool concerns(const struct scan *scan, const char *path)
{
    const size_t length = strlen(path);
    const int low = strncmp(path, scan->lower, length);
    /* Either the lower bound lies in the directory, or it is before its slash. */
    const bool not_before =
        low > 0 ||
        (low == 0 && (scan->lower[length] == '\0' || (unsigned char)scan->lower[length] <= '/'));
    if (!not_before)
        return false;
    if (!scan->upper)
        return true;
    const int high = strncmp(path, scan->upper, length);
    return high < 0 || (high == 0 && (unsigned char)scan->upper[length] > '/') ||
           (high == 0 && scan->upper[length] == '/' && scan->upper[length + 1]);
}

/* What a bound says of the names in a directory: the rest of it, if it lies in there. */
static const char *bound_within(const char *bound, const char *path)
{
    const size_t length = strlen(path);
    if (!bound || strncmp(bound, path, length) != 0)
        return "";
    if (length == 0)
        return bound;
    return bound[length] == '/' ? bound + length + 1 : "";
}

/* ---- what waits --------------------------------------------------------------------- */

static int push(struct level *level, const char *name, size_t length)
{
    if (level->count == level->capacity) {
        const size_t capacity = level->capacity ? level->capacity * 2 : 4;
        struct waiting *stack = reallocarray(level->stack, capacity, sizeof *stack);
        if (!stack)
            return -ENOMEM;
        level->stack = stack;
        level->capacity = capacity;
    }
    struct waiting *waiting = &level->stack[level->count++];
    memcpy(waiting->name, name, length);
    waiting->name[length] = '\0';
    return 0;
}

static int enter(struct level *level, const char *name)
{
    char *below = keys_join(level->path, name);
    if (!below)
        return -ENOMEM;
    int err = concerns(level->scan, below) ? scan_directory(level->scan, below) : 0;
    if (err == -ENOENT) /* removed meanwhile */
        err = 0;
    free(below);
    return err;
}

/* Enter what waits and comes before `name`; NULL: all of it. */
static int enter_waiting(struct level *level, const char *name)
{
    int err = 0;
    while (!err && level->count > 0) {
        struct waiting *last = &level->stack[level->count - 1];
        const size_t length = strlen(last->name);
        if (name && strncmp(name, last->name, length) == 0 && (unsigned char)name[length] < '/')
            break;
        char copy[256]; /* the stack may move meanwhile */
        memcpy(copy, last->name, length + 1);
        level->count--;
        err = enter(level, copy);
    }
    return err;
}

/* Let the directories wait that begin the bound, and so come before it by name only. */
static int wait_for_bound(struct level *level, const char *bound)
{
    struct tool_keys *keys = level->scan->keys;
    int err = 0;
    for (size_t i = 1; !err && bound[i - 1] && bound[i - 1] != '/' && i < 256; i++) {
        struct keys_attributes attributes;
        char name[256];
        if (!bound[i] || (unsigned char)bound[i] > '/')
            continue;
        memcpy(name, bound, i);
        name[i] = '\0';
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        char *path = keys_join(level->path, name);
        if (!path)
            return -ENOMEM;
        err = keys->ops->look(keys->backend, path, &attributes);
        if (!err && S_ISDIR(attributes.mode))
            err = push(level, name, i);
        else if (err == -ENOENT)
            err = 0;
        free(path);
    }
    return err;
}

/* ---- names --------------------------------------------------------------------------- */

static int visit_value(struct level *level, const char *name,
                       const struct keys_attributes *attributes)
{
    struct scan *scan = level->scan;
    char *path = keys_join(level->path, name);
    if (!path)
        return -ENOMEM;
    int err = 0;
    const bool too_low = strcmp(path, scan->lower) < 0;
    const bool too_high = scan->upper && strcmp(path, scan->upper) >= 0;
    if (too_low || too_high) {
        err = too_low == scan->reverse ? SCAN_ENDED : 0;
    } else {
        const struct tool_entry entry = {.key = path,
                                         .mode = attributes->mode,
                                         .size = attributes->size,
                                         .mtime_ns = attributes->mtime_ns};
        err = scan->visit(scan->context, &entry);
        if (!err && --scan->left == 0)
            err = SCAN_ENDED;
    }
    free(path);
    return err;
}

static int take_forwards(void *context, const char *name, const struct keys_attributes *attributes)
{
    struct level *level = context;
    const int err = enter_waiting(level, name);
    if (err)
        return err;
    if (S_ISDIR(attributes->mode))
        return push(level, name, strlen(name));
    return S_ISREG(attributes->mode) ? visit_value(level, name, attributes) : 0;
}

static bool was_asked(const struct level *level, const char *name, size_t length)
{
    for (size_t i = 0; i < level->count; i++)
        if (strlen(level->stack[i].name) == length &&
            memcmp(level->stack[i].name, name, length) == 0)
            return true;
    return false;
}

/* Enter the directories that are a beginning of this name and come before it, backwards. */
static int enter_beginnings(struct level *level, const char *name)
{
    struct tool_keys *keys = level->scan->keys;
    int err = 0;
    while (level->count > 0) {
        const char *last = level->stack[level->count - 1].name;
        if (strncmp(name, last, strlen(last)) == 0)
            break;
        level->count--;
    }
    for (size_t i = 1; !err && name[i]; i++) {
        struct keys_attributes attributes;
        char beginning[256];
        if ((unsigned char)name[i] >= '/' || was_asked(level, name, i))
            continue;
        memcpy(beginning, name, i);
        beginning[i] = '\0';
        if (strcmp(beginning, ".") == 0 || strcmp(beginning, "..") == 0)
            continue;
        err = push(level, beginning, i);
        char *path = err ? NULL : keys_join(level->path, beginning);
        if (!path)
            return -ENOMEM;
        err = keys->ops->look(keys->backend, path, &attributes);
        free(path);
        if (!err && S_ISDIR(attributes.mode))
            err = enter(level, beginning);
        else if (err == -ENOENT)
            err = 0;
    }
    return err;
}

static int take_backwards(void *context, const char *name, const struct keys_attributes *attributes)
{
    struct level *level = context;
    const int err = enter_beginnings(level, name);
    if (err)
        return err;
    if (S_ISDIR(attributes->mode))
        return was_asked(level, name, strlen(name)) ? 0 : enter(level, name);
    return S_ISREG(attributes->mode) ? visit_value(level, name, attributes) : 0;
}

static int scan_directory(struct scan *scan, const char *path)
{
    const struct keys_backend_ops *ops = scan->keys->ops;
    struct level level = {.scan = scan, .path = path};
    char from[512]; /* of a bound, more than a name has is of no interest */
    snprintf(from, sizeof from, "%s",
             bound_within(scan->reverse ? scan->upper : scan->lower, path));
    int err = scan->reverse ? 0 : wait_for_bound(&level, from);
    if (!err)
        err = ops->walk(scan->keys->backend, path, scan->reverse, from,
                        scan->reverse ? take_backwards : take_forwards, &level);
    if (!err && !scan->reverse)
        err = enter_waiting(&level, NULL);
    free(level.stack);
    return err;
}

/* ---- the whole -------------------------------------------------------------------------- */

/* The narrower of what is asked for. */
static int set_bounds(struct scan *scan, const struct tool_scan *wanted)
{
    const char *prefix = wanted->prefix ? wanted->prefix : "";
    const char *from = wanted->from ? wanted->from : "";
    char *after = successor(prefix);
    scan->lower = strdup(strcmp(prefix, from) > 0 ? prefix : from);
    if (!after || !scan->lower) {
        free(after);
        return -ENOMEM;
    }
    const bool has_after = *after, has_to = wanted->to && *wanted->to;
    if (has_to && (!has_after || strcmp(wanted->to, after) < 0)) {
        scan->upper = strdup(wanted->to);
        free(after);
        return scan->upper ? 0 : -ENOMEM;
    }
    scan->upper = has_after ? after : NULL;
    if (!has_after)
        free(after);
    return 0;
}

int tool_keys_scan(struct tool_keys *keys, const struct tool_scan *wanted, tool_scan_fn *visit,
                   void *context, struct kv_error *error)
{
    struct scan scan = {.keys = keys,
                        .reverse = wanted->reverse,
                        .left = wanted->limit ? wanted->limit : UINT64_MAX,
                        .visit = visit,
                        .context = context};
    int err = set_bounds(&scan, wanted);
    if (!err)
        err = scan_directory(&scan, "");
    free(scan.lower);
    free(scan.upper);
    if (err >= 0)
        return 0;
    return *error->text ? err : keys_describe(keys->target, err, error);
}
