/*
 * fs/prefetch.h: what will be needed soon is read into memory: attributes, and content as far as
 * there is room for it.
 *
 * Wanted are lines of a path or pattern each, from the root of the filesystem, without a slash at
 * either end. In each of its names an asterisk, a question mark and [...] stand for what they do in
 * a shell; a name of two asterisks stands for any number of directories, none included. A directory
 * that matches is listed; what is in it is not wanted by that. Symbolic links are not followed.
 *
 * One thread does the reading, in the order of the lines, until it has read as much as memory
 * has room for.
 *
 * Threads: any, but for new and free.
 */
#ifndef FS_PREFETCH_H
#define FS_PREFETCH_H

#include "fs/volume.h"

struct fs_prefetch;

#define FS_PREFETCH_TEXT_MAX 65536u /* bytes of lines that wait */

/* `volume` is borrowed until fs_prefetch_free. NULL: no memory. */
struct fs_prefetch *fs_prefetch_new(struct fs_volume *volume);
void fs_prefetch_free(struct fs_prefetch *prefetch); /* stops it; NULL is fine */
/* Ask the thread to end, for good; does not wait. */
void fs_prefetch_stop(struct fs_prefetch *prefetch);

/*
 * Add lines. -EINVAL a path that is empty, begins or ends with a slash, or has an empty, "." or
 * ".." component: none of the lines is added; -EAGAIN too many are waiting; -ENOMEM; what
 * starting a thread says.
 */
KV_MUST_CHECK int fs_prefetch_add(struct fs_prefetch *prefetch, const char *text, size_t length);

/*
 * A directory is being listed: where a policy says so (fs/policy.h), its files of up to 64 KiB are
 * read, once in 10 s at most. A hint: with too many waiting, or no thread, nothing happens.
 */
void fs_prefetch_listed(struct fs_prefetch *prefetch, uint64_t directory);

/*
 * How it is getting on, like snprintf: lines of a word, a blank and a value.
 *
 *    state running|idle
 *    waiting 2             lines that are not done
 *    files 130             that were read, since the mount, as all below
 *    bytes 1048576         of their content
 *    directories 12        that were listed
 *    unmatched 1           lines that nothing matched
 *    full 0                lines that ended early, for want of memory to read into
 *    errors 0              files and directories that could not be read
 *    listings 3            directories whose small files a policy wanted to be read
 */
size_t fs_prefetch_text(struct fs_prefetch *prefetch, char *out, size_t cap);

#endif
