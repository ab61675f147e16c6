/*
 * tools/tune.h: what holds a mount back, from its figures.
 *
 * The rules are pure: what they find depends on what they are shown and on nothing else. Who
 * gathers that is tools/tune_look.h, who acts on it tools/kvfs_tune.c.
 *
 * Threads: any.
 */
#ifndef TOOLS_TUNE_H
#define TOOLS_TUNE_H

#include "fs/mount.h"
#include "kv/kv.h"
#include "tools/live_figures.h"

/* Files of TUNE_LARGE_FILE bytes and more, as far as they were looked at. */
#define TUNE_LARGE_FILE (1u << 20)
#define TUNE_PATH_SHOWN 256u
struct tune_files {
    uint64_t looked_at, fragmented;
    uint64_t bytes, pieces;      /* of all that were looked at; extents, pieces in leaves */
    uint64_t raw_bytes;          /* of extents that a codec was tried on or could have been */
    uint64_t unpackable_bytes;   /* of them, as no codec gained anything */
    char worst[TUNE_PATH_SHOWN]; /* fragmented, in the smallest pieces; "": none */
    uint64_t worst_bytes, worst_pieces;
};

/* What is looked at. */
struct tune_view {
    const struct tool_figures *now;    /* of a mount; NULL: an image that is not mounted */
    const struct tool_figures *before; /* an earlier reading; NULL: since it was mounted */
    bool has_settings;                 /* whether the next are known */
    struct fs_mount_options settings;
    struct kv_image_info image;
    struct tune_files files; /* all zero: not looked at */
    unsigned processors;
};

#define TUNE_EVIDENCE_MAX 6u
struct tune_finding {
    const char *name; /* a stable word */
    double share;     /* of requests, or of their time, that it concerns, about: 0..1 */
    char text[320];   /* what is wrong, with figures, and the limit that was passed */
    char setting[48]; /* what to change */
    char present[48]; /* its value; "": not known */
    char proposed[80];
    char how[320]; /* the command or the file to do it with */
    struct {
        const char *name;
        double value;
    } evidence[TUNE_EVIDENCE_MAX];
    size_t evidence_count;
};

/* Names of all findings, in the order of the rules; NULL past the last. */
const char *tune_name(size_t index);

#define TUNE_FINDINGS_MAX 16u
/* The findings, the most important first. Returns how many. */
size_t tune_find(const struct tune_view *view, struct tune_finding findings[TUNE_FINDINGS_MAX]);

/* What the limits are and why: the index-th; NULL past the last. */
struct tune_limit {
    const char *name;
    double value;
    const char *reason;
};
const struct tune_limit *tune_limit(size_t index);
/* Files in pieces that are shorter on average are fragmented. */
uint64_t tune_piece_bytes(void);

/* Of a figure, between the two readings. */
double tune_more(const struct tune_view *view, const char *path);

/* What the memory for pages does, between the two readings; for rules, and for tools/tune_auto.h.
 */
struct tune_memory {
    double uses;          /* of pages */
    double misses;        /* of them that were read from the device */
    double packed_hits;   /* found packed */
    double back;          /* misses of pages that had left lately */
    double unpacked_back; /* found packed, having left their frame lately */
    double packing;       /* bytes of what was read for each byte of pages; 0: not known */
};
void tune_memory(const struct tune_view *view, struct tune_memory *memory);

#endif
