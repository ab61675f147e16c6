/*
 * fs/text.h: a text that is put together in a buffer of a given size.
 */
#ifndef FS_TEXT_H
#define FS_TEXT_H

#include "kv/base.h"

struct fs_text {
    char *out;
    size_t cap, length; /* length: what it takes, also beyond cap */
};

/* As printf; what does not fit is counted and left out. */
void fs_text_add(struct fs_text *text, const char *format, ...) KV_PRINTF(2, 3);

#endif
