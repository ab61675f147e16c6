/* fs/pattern.c: see pattern.h. Owns nothing. */
#include "fs/pattern.h"

#include <fnmatch.h>
#include <string.h>

#include "fs/record.h"

#define COMPONENT_MAX (4u * FS_NAME_MAX) /* of a pattern: all of it in brackets, say */

bool fs_pattern_matches(const char *pattern, size_t pattern_len, const char *name,
                        enum fs_pattern_dots dots)
{
    char text[COMPONENT_MAX + 1];
    if (pattern_len > COMPONENT_MAX)
        return false;
    memcpy(text, pattern, pattern_len);
    text[pattern_len] = '\0';
    return fnmatch(text, name, dots == FS_PATTERN_DOTS_WRITTEN ? FNM_PERIOD : 0) == 0;
}

bool fs_pattern_is_any_depth(const char *pattern, size_t length)
{
    return length == 2 && pattern[0] == '*' && pattern[1] == '*';
}

/* The component behind this one; NULL: this is the last. */
static const char *behind(const char *component)
{
    const char *const slash = strchr(component, '/');
    return slash ? slash + 1 : NULL;
}

static bool matches_component(const char *pattern, const char *path, enum fs_pattern_dots dots)
{
    char name[FS_NAME_MAX + 1];
    const size_t length = strcspn(path, "/");
    if (length > FS_NAME_MAX)
        return false;
    memcpy(name, path, length);
    name[length] = '\0';
    return fs_pattern_matches(pattern, strcspn(pattern, "/"), name, dots);
}

/*
 * From the left; where that fails the last `**` takes one name more. No earlier one need, since the
 * last can take whatever an earlier one would leave it.
 */
bool fs_pattern_matches_path(const char *pattern, const char *path, enum fs_pattern_dots dots)
{
    const char *pattern_again = NULL, *path_again = NULL;
    if (!strchr(pattern, '/')) {
        const char *const slash = strrchr(path, '/');
        return matches_component(pattern, slash ? slash + 1 : path, dots);
    }
    pattern += *pattern == '/';
    while (path) {
        if (pattern && fs_pattern_is_any_depth(pattern, strcspn(pattern, "/"))) {
            pattern = pattern_again = behind(pattern);
            path_again = path;
            if (!pattern) /* the last component takes all names there are */
                return true;
        } else if (pattern && matches_component(pattern, path, dots)) {
            pattern = behind(pattern);
            path = behind(path);
        } else if (pattern_again) {
            pattern = pattern_again;
            path = path_again = behind(path_again);
        } else {
            return false;
        }
    }
    return !pattern;
}

bool fs_pattern_is_path(const char *pattern, size_t length)
{
    if (!length || memchr(pattern, '\0', length))
        return false;
    for (size_t at = 0; at <= length;) {
        const char *slash = memchr(pattern + at, '/', length - at);
        const size_t end = slash ? (size_t)(slash - pattern) : length;
        const size_t part = end - at;
        if (!part || part > FS_NAME_MAX || (part == 1 && pattern[at] == '.') ||
            (part == 2 && pattern[at] == '.' && pattern[at + 1] == '.'))
            return false;
        at = end + 1;
    }
    return true;
}

/* Where the bracket expression that begins at `at` ends; `length`: nowhere before a slash. */
static size_t end_of_brackets(const char *pattern, size_t length, size_t at)
{
    size_t in = at + 1;
    in += in < length && (pattern[in] == '!' || pattern[in] == '^');
    in += in < length && pattern[in] == ']'; /* the first one is a character like any other */
    while (in < length && pattern[in] != ']' && pattern[in] != '/')
        in += pattern[in] == '\\' ? 2 : 1;
    return in < length && pattern[in] == ']' ? in : length;
}

const char *fs_pattern_fault(const char *pattern, size_t length)
{
    if (!fs_pattern_is_path(pattern, length))
        return "it is no name or path: single slashes between names, none at the end, no . or ..";
    for (size_t at = 0; at < length; at++) {
        if (pattern[at] == '\\' && (at + 1 == length || pattern[at + 1] == '/'))
            return "nothing follows a backslash";
        if (pattern[at] == '\\')
            at++;
        else if (pattern[at] == '[')
            at = end_of_brackets(pattern, length, at);
        if (at == length)
            return "a [ is not closed; close it, or write \\[ for the character";
    }
    return NULL;
}
