/*
 * fs/control_apply.h: batches that are written to the control file `apply` (their text:
 * fs/apply.h), and what became of the last one.
 *
 * Threads: any, but for new and free.
 */
#ifndef FS_CONTROL_APPLY_H
#define FS_CONTROL_APPLY_H

#include "fs/notifier.h"

struct fs_control_apply;

/* Both borrowed until free. NULL: no memory. */
struct fs_control_apply *fs_control_apply_new(struct fs_volume *volume,
                                              struct fs_notifier *notifier);
void fs_control_apply_free(struct fs_control_apply *apply); /* NULL is fine */

/* What one write brings. */
struct fs_control_piece {
    uint64_t offset; /* in the file */
    const char *text;
    size_t length;
};

/* A batch that comes in several writes, as far as it has come. */
struct fs_control_batch;
void fs_control_batch_free(struct fs_control_batch *batch); /* NULL is fine */

/*
 * Take what was written to one open file. Since nobody tells when that is closed:
 *
 *  - packed changes (fs/apply_packed.h) are gathered, write by write, up to their length;
 *  - what does not begin with a line "begin" is a batch by itself, and the only one there;
 *  - what begins so is gathered, write by write, up to a last line "commit".
 *
 * When a batch was applied and 0 is returned, the kernel knows, and all of it is durable unless it
 * was packed.
 *
 * batch  in: what was gathered before, NULL at the first write; out: what is gathered now, NULL:
 *        nothing is to come any more.
 *
 * What fs_apply_text returns, then nothing was changed; -EINVAL also for a batch by itself that may
 * be a piece of a longer one: its length is a multiple of 4096, as programs write that have more
 * to come; -E2BIG more is being gathered than FS_APPLY_TEXT_MAX, in all files. The log says why.
 */
KV_MUST_CHECK int fs_control_apply_write(struct fs_control_apply *apply,
                                         struct fs_control_batch **batch,
                                         const struct fs_caller *caller,
                                         const struct fs_control_piece *piece);
/* A second write where a batch was complete: refused, and the log says so. Returns -EINVAL. */
int fs_control_apply_refuse(struct fs_control_apply *apply);

/*
 * Lines of a word, a blank and a value, like snprintf:
 *
 *    error TEXT                 why, and the remedy; only if it was refused
 *    state never|done|refused   the last batch
 *    changes 3                  that it had
 *    line 2                     of its text, that may not be; 0: it is not about a line
 */
size_t fs_control_apply_text(struct fs_control_apply *apply, char *out, size_t cap);

#endif
