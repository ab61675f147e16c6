/*
 * fs/pattern.h: names and paths against patterns of a shell: the one place that knows how.
 *
 * A pattern is components with single slashes between them; `**` as a whole component stands for
 * any number of directories. In all others `*`, `?` and `[...]` mean what fnmatch(3) says, and a
 * backslash takes that from the character behind it.
 *
 * Threads: any.
 */
#ifndef FS_PATTERN_H
#define FS_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

/* Whether a dot that begins a name must be written out, as in a shell, or is like all others. */
enum fs_pattern_dots { FS_PATTERN_DOTS_WRITTEN, FS_PATTERN_DOTS_PLAIN };

/* Does a name match one component of a pattern? Any name fits; a pattern of over 1 KiB does not. */
bool fs_pattern_matches(const char *pattern, size_t pattern_len, const char *name,
                        enum fs_pattern_dots dots);
/* Is the component `**`? */
bool fs_pattern_is_any_depth(const char *pattern, size_t length);
/*
 * Does a path match a whole pattern? One without a slash is for the last name of the path; a slash
 * that begins it only makes it one for the whole path. What policies match (fs/policy.h), for who
 * has whole paths and few patterns. path: names of 1 to FS_NAME_MAX bytes with single slashes
 * between.
 */
bool fs_pattern_matches_path(const char *pattern, const char *path, enum fs_pattern_dots dots);
/* Components with single slashes between them, of 1 to FS_NAME_MAX bytes, no "." or "..", no NUL?
 */
bool fs_pattern_is_path(const char *pattern, size_t length);
/*
 * What is wrong with a pattern that somebody will rely on: fs_pattern_is_path, brackets that are
 * not closed, a backslash at the end. NULL: nothing.
 */
const char *fs_pattern_fault(const char *pattern, size_t length);

#endif
