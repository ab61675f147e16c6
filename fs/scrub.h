/*
 * fs/scrub.h: a scrub of the store beside a mount's requests, and what it found in words.
 *
 * The scrub runs in a thread of its own, one at a time; requests start and stop it and ask how
 * it is getting on. Findings go to the volume's log too.
 *
 * Threads: any, but for new and free.
 */
#ifndef FS_SCRUB_H
#define FS_SCRUB_H

#include "fs/volume.h"

struct fs_scrub;

/* `volume` is borrowed until fs_scrub_free. NULL: no memory. */
struct fs_scrub *fs_scrub_new(struct fs_volume *volume);
/* Ends a scrub that is running: returns after the block it is at. NULL is fine. */
void fs_scrub_free(struct fs_scrub *scrub);
/* Ask a scrub that is running to end; does not wait. No other can be started afterwards if
 * for_good is set. */
void fs_scrub_stop(struct fs_scrub *scrub, bool for_good);

/*
 * Obey the value of FS_XATTR_SCRUB: "start RATE" (bytes per second, 0: no limit) or "stop".
 * Returns 0; -EINVAL another text; -EBUSY one is running; -ESHUTDOWN; what starting a thread says.
 */
KV_MUST_CHECK int fs_scrub_command(struct fs_scrub *scrub, const void *text, size_t length);

/*
 * The text of FS_XATTR_SCRUB: lines of a word, a blank and a value. Like snprintf: returns the
 * length it has.
 *
 *    state running|idle
 *    run 2                       how many were started
 *    done 1048576                bytes; of this run or the last one, as all below
 *    total 52428800              a guess
 *    error 0                     errno of a run that ended early; ECANCELED: it was stopped
 *    findings 1
 *    finding WORD TEXT           of the first FS_SCRUB_KEPT
 */
size_t fs_scrub_text(struct fs_scrub *scrub, char *out, size_t cap);
#define FS_SCRUB_KEPT 100u

/* A finding in one line, with the inode where a key of the filesystem in `store` names one. */
#define FS_SCRUB_LINE 640u
void fs_scrub_describe(struct kv_store *store, const struct kv_scrub_finding *finding,
                       char line[FS_SCRUB_LINE]);

#endif
