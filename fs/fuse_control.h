/*
 * fs/fuse_control.h: requests about the control directory; fs/fuse_ops.c asks here first.
 *
 * Each function answers the request and returns true, if it is about the control directory or
 * something in it. false: it is about the image, and has not been answered.
 *
 * Threads: any.
 */
#ifndef FS_FUSE_CONTROL_H
#define FS_FUSE_CONTROL_H

#include <fuse_lowlevel.h>

#include "fs/fuse_ops.h"

bool fs_fuse_control_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
bool fs_fuse_control_getattr(fuse_req_t req, fuse_ino_t ino);
bool fs_fuse_control_setattr(fuse_req_t req, fuse_ino_t ino, const struct stat *attr, int to_set);
bool fs_fuse_control_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset);
bool fs_fuse_control_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size,
                           off_t offset, bool by_kernel);
bool fs_fuse_control_list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t cookie,
                          bool with_attributes);
bool fs_fuse_control_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence);
bool fs_fuse_control_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count); /* answers nothing */

/* A change of an entry, which nobody may make there. */
bool fs_fuse_control_refuse(fuse_req_t req, const char *what, fuse_ino_t parent, const char *name);
/* What a node can not do or has not: answered with `err`, 0 or a negative errno. */
bool fs_fuse_control_answer(fuse_req_t req, fuse_ino_t ino, int err);

/* What concerns the image as a whole is for root and for who mounted it. */
bool fs_fuse_is_operator(fuse_req_t req);

#endif
