/*
 * fs/reaper.h: what nobody can reach any more is deleted for good, many files at a time.
 *
 * A file loses its last name in one batch, and what it leaves is deleted when the kernel has
 * forgotten it too. It may wait for that in company: its O key tells the next mount what was
 * not done. So the deletions of many small files are one batch, and those of files with
 * consecutive numbers one operation each for their records and their content.
 *
 * What waits is bounded in number and content. It is deleted when there is enough of it, and
 * before anybody looks at how much room there is, or is told that there is none.
 *
 * Threads: any. No lock of fs/lock.h may be held: what is deleted is locked first.
 */
#ifndef FS_REAPER_H
#define FS_REAPER_H

#include "fs/inode.h"

struct fs_reaper *fs_reaper_new(void); /* NULL: no memory */
void fs_reaper_free(struct fs_reaper *reaper);

/*
 * The inode has neither name nor reference. What fails is in the log, and the next mount tries
 * again. Content of more than FS_REAP_UNITS_EACH goes at once.
 */
void fs_reaper_add(struct fs_volume *volume, uint64_t ino);
/* The same; `units` of content are a guess, from when it lost its name. */
void fs_reaper_add_known(struct fs_volume *volume, uint64_t ino, uint64_t units);
#define FS_REAP_FILES      64u   /* wait at most */
#define FS_REAP_UNITS_EACH 256u  /* of 512 bytes of content; no file has more records than units */
#define FS_REAP_UNITS      4096u /* of all that wait */

/* Delete one inode without name and references: content in steps, attributes, record. */
KV_MUST_CHECK int fs_orphan_delete(struct fs_volume *volume, uint64_t ino);

#endif
