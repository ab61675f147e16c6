/*
 * tools/keys_directory.h: directories by descriptors: what is in one, and removing it.
 *
 * No symlink is followed. Errors are negative errnos. Threads: any.
 */
#ifndef TOOLS_KEYS_DIRECTORY_H
#define TOOLS_KEYS_DIRECTORY_H

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>

#include "kv/base.h"

#define KEYS_OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* Open the directory `name` in `dir` for reading. NULL: errno says why not. */
DIR *keys_open_stream(int dir, const char *name);

/* The next entry but "." and ".."; NULL at the end or with *err set. Borrowed until the next call.
 */
const char *keys_next_name(DIR *stream, int *err);

/*
 * Remove what is named in `dir`. A directory only if recursive, with all that is in it, however
 * deep that is: a bounded number of descriptors is open; else -EISDIR. -ESTALE: a directory that is
 * being emptied was moved somewhere else meanwhile.
 */
KV_MUST_CHECK int keys_remove_at(int dir, const char *name, bool recursive);

#endif
