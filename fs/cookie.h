/*
 * fs/cookie.h: the positions in a directory that programs hold on to.
 *
 * A listing goes by byte order of names and may be resumed at any position ever handed out,
 * after entries came and went. So a position must mean a name for good, in 63 bits, though a
 * name has up to 255 bytes:
 *
 *    0                          the start
 *    1, 2                       after "." and after ".."
 *    1 length(3) name(56)       after a name of up to 7 bytes: the name itself
 *    0 frame(29) window(32)     after a longer one: 4 of its bytes, and the number of what is
 *                               around them in the directory's dictionary
 *
 * The 4 bytes stand before the extension if there is one, else at the end: that is where
 * names of one directory differ. The dictionary grows by one frame for all names that share it:
 * numbered files cost next to nothing, names that have nothing in common their length and 20 to
 * 30 bytes each. It lives until the kernel forgets the directory. Because a cookie says a name
 * rather than a place, creating and deleting entries has nothing to keep up to date here, and
 * nothing is ever skipped or repeated.
 *
 * Nobody tells us of closedir: the kernel does not send it once opendir is answered by ENOSYS.
 * And the root, or where a program lives, is never forgotten. So what nobody has asked for in an
 * hour is dropped from the dictionary (fs_cookies_age). A program that goes on in a directory after
 * that long is served as ever: the number of a frame follows from its bytes, so the name is found
 * by looking through the directory. Only if it stopped behind a name that was deleted meanwhile is
 * the position lost; and a frame whose number another one had may be taken for that (they are
 * 2^29).
 *
 * Threads: any; a dictionary has its own mutex.
 */
#ifndef FS_COOKIE_H
#define FS_COOKIE_H

#include "fs/record.h"

#define FS_COOKIE_START  0u
#define FS_COOKIE_DOT    1u
#define FS_COOKIE_DOTDOT 2u

#define FS_COOKIES_KEPT_NS (INT64_C(3600) * 1000000000)

struct fs_cookies;

struct fs_cookies *fs_cookies_new(void); /* NULL: no memory */
void fs_cookies_free(struct fs_cookies *cookies);

/*
 * The cookie of the position after `name` (1..FS_NAME_MAX bytes): always the same one while it is
 * not forgotten. 0; -ENOMEM; -EOVERFLOW more than 2^28 frames.
 */
KV_MUST_CHECK int fs_cookie_of(struct fs_cookies *cookies, const char *name, size_t name_len,
                               uint64_t *cookie);

/*
 * The name after which to go on. name: FS_NAME_MAX bytes; *name_len is 0 for the three
 * positions before the first name. -EINVAL: never handed out; -ENOENT: perhaps, but it was
 * forgotten; the name is that of the entry for which fs_cookie_of gives the cookie.
 */
KV_MUST_CHECK int fs_cookie_name(struct fs_cookies *cookies, uint64_t cookie, char *name,
                                 size_t *name_len);

/*
 * Forget what was not asked for since the last time that this was due, FS_COOKIES_KEPT_NS ago or
 * more; to be called now and then. now_ns: of any clock that goes on.
 */
void fs_cookies_age(struct fs_cookies *cookies, int64_t now_ns);

/* Bytes of memory the dictionary takes. */
uint64_t fs_cookies_memory(struct fs_cookies *cookies);

#endif
