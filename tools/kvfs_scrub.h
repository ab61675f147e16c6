/*
 * tools/kvfs_scrub.h: `kvfs scrub`: read all that is in use and verify its checksums.
 */
#ifndef TOOLS_KVFS_SCRUB_H
#define TOOLS_KVFS_SCRUB_H

enum tool_scrub_status {
    TOOL_SCRUB_CLEAN = 0,
    TOOL_SCRUB_FAILED = 1, /* it did not run to its end */
    TOOL_SCRUB_USAGE = 2,
    TOOL_SCRUB_DAMAGED = 4,
};

/*
 * Scrub the mount that `target` lies in, by its daemon, or the image that it is, and print what
 * is found. rate: the text of MiB/s, or NULL for no limit. SIGINT and SIGTERM end the scrub.
 * Complains for itself. Returns the exit status.
 */
int tool_scrub(const char *target, const char *rate);

#endif
