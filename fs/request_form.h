/*
 * fs/request_form.h: does a request have the bytes that its operation says it has?
 *
 * libfuse takes a request apart without asking how long it is: a name without an end, a count
 * larger than what follows it, and it reads what is not there. So each request is looked at
 * first, and what is malformed is answered without libfuse.
 *
 * Threads: any: no state.
 */
#ifndef FS_REQUEST_FORM_H
#define FS_REQUEST_FORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An operation newer than the header of Debian 12 (Linux 6.1). */
#define FS_FUSE_STATX 52u

/*
 * Is the request whole: as long as its header says, its fixed part there, its names ended, its
 * counts and sizes within it? What is longer than needed is; so is an operation that is not
 * known, which needs no more than its header.
 *
 * long_setxattr  SETXATTR comes in its longer form (FUSE_SETXATTR_EXT).
 */
bool fs_request_is_whole(const void *bytes, size_t length, bool long_setxattr);

/* Does the kernel wait for an answer to this operation? */
bool fs_request_is_answered(uint32_t opcode);

#endif
