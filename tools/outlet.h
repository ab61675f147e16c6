/*
 * tools/outlet.h: a file that gets its name when it is whole and durable, or standard output.
 *
 * Functions return 0 or a negative errno. One thread.
 */
#ifndef TOOLS_OUTLET_H
#define TOOLS_OUTLET_H

#include <stdio.h>

#include "kv/base.h"

struct tool_outlet {
    int fd;          /* to write to */
    char *path;      /* owned; NULL: standard output */
    char *temporary; /* until it is whole; owned; NULL: it is written under its own name */
    FILE *stream;    /* NULL: nobody has asked for it */
};

/*
 * path  "-" is standard output. What is no regular file, a device or a pipe, is written to as it
 *       is. Any other appears, in place of what may be there, in tool_outlet_close.
 *
 * It may be closed also after an error.
 */
KV_MUST_CHECK int tool_outlet_open(struct tool_outlet *outlet, const char *path);

/* To write by instead of fd; closed with the outlet. NULL: errno tells why. */
FILE *tool_outlet_stream(struct tool_outlet *outlet);

/*
 * Let it appear, durably; or leave no trace of it if `err` says that it is not whole. Returns err,
 * or what went wrong here. Standard output stays open.
 */
KV_MUST_CHECK int tool_outlet_close(struct tool_outlet *outlet, int err);

#endif
