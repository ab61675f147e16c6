/*
 * fs/fsck.h: whether a filesystem's records fit together, for fsck.kvfs.
 *
 * Method: one pass over each type of key, as in "Fsck - The UNIX File System Check Program"
 * (McKusick, Kowalski): inodes, names, connectivity, counts, and what nobody owns.
 */
#ifndef FS_FSCK_H
#define FS_FSCK_H

#include "fs/record.h"
#include "kv/kv.h"

/*
 * The greatest inode number that is believed without the volume record's word for it. Numbers are
 * given in order, so one above has not been reached: it is damage. Were it taken over, none would
 * be left for new files, and after FS_INO_MAX comes none that a volume record can name as the next.
 */
#define FS_INO_TAKEN_MAX (FS_INO_MAX >> 1)

/*
 * Verify every record of the filesystem in `store`: that each decodes; that an inode number
 * stands for one inode and is below the volume's next one; that names, parents, link counts
 * and reachability from the root agree; that file content obeys fs/data.h and counts what the
 * inode says; that no content, attribute or index is without an owner.
 *
 * options  as for kv_check, which should have run before; read_blobs means nothing here.
 *          repair: mend all of it. What has lost its name or its inode goes to the directory
 *          lost+found under `#` and its inode number, as does content that no inode can have;
 *          a file whose number another inode has keeps its content under a new number. What can
 *          not be decoded is deleted.
 * result   out: keys, and the findings: repairable (mended without loss), damaged (something
 *          is lost), repaired (of both).
 *
 * Returns 0 when the check ran to its end, whatever it found, also when there are no records
 * of a filesystem at all; -EPROTONOSUPPORT a version this build does not know; -ENOMEM; what
 * kv/kv.h says of reading and, with repair, of writing.
 * Memory: some bits for each inode, 48 bytes for each directory and each file with links.
 * Nothing else may use the store meanwhile.
 */
KV_MUST_CHECK int fs_check(struct kv_store *store, const struct kv_check_options *options,
                           struct kv_check_result *result);

/*
 * Say what a key of the filesystem holds, and the path that it belongs to as far as the records of
 * directories tell it: for kv_check_options.show_key, the context being known to the caller.
 *
 * store  to look for paths in; NULL: nowhere.
 *
 * Returns false for a key of no known form.
 */
bool fs_check_show_key(struct kv_store *store, const void *key, size_t key_len, char *text,
                       size_t text_cap);

#endif
