/*
 * fs/format.h: what mkfs writes into a fresh store.
 */
#ifndef FS_FORMAT_H
#define FS_FORMAT_H

#include "kv/kv.h"

/*
 * Make an empty filesystem in an open store: the volume record and the root directory, which
 * belongs to uid and gid and has the permission bits `mode`. One batch.
 *
 * Returns 0; -EEXIST there is a filesystem already; or what kv_apply returns.
 */
KV_MUST_CHECK int fs_format(struct kv_store *store, uint32_t uid, uint32_t gid, uint32_t mode);

#endif
