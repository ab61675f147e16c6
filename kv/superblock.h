/*
 * kv/superblock.h: the two superblocks and their backup: read, judge, write.
 *
 * Threads: the caller sees to it that one thread writes at a time.
 */
#ifndef KV_SUPERBLOCK_H
#define KV_SUPERBLOCK_H

#include "kv/device.h"
#include "kv/format.h"

/* What became of the copy that was not chosen. */
enum kv_superblock_twin {
    KV_TWIN_GOOD,
    KV_TWIN_TORN,    /* fails its checks, and a power cut while it was written explains that */
    KV_TWIN_DAMAGED, /* fails its checks or is too old, and was not about to be written */
};

/* Pick the newest valid superblock.
 * with_backup: try the copy at the end of the image when both are damaged (fsck).
 * Returns 0; -EMEDIUMTYPE not an image; -EPROTONOSUPPORT version or feature; -EBADMSG both
 * copies damaged; -ENODATA the image is shorter than it says; -EUCLEAN; -EIO. */
KV_MUST_CHECK int kv_superblock_read(struct kv_device *device, const char *name, bool with_backup,
                                     struct kv_disk_superblock *superblock,
                                     enum kv_superblock_twin *twin, struct kv_error *error);

/*
 * Stamp the next sequence and the digest, write into the slot that it selects, flush; then
 * into the other slot, which the next flush makes durable.
 */
KV_MUST_CHECK int kv_superblock_write(struct kv_device *device,
                                      struct kv_disk_superblock *superblock);
/*
 * Flush, copy the superblock (as last written) to the end of the image, flush. When it is a
 * clean one, the copy says that neither slot is being written.
 */
KV_MUST_CHECK int kv_superblock_write_backup(struct kv_device *device,
                                             const struct kv_disk_superblock *superblock);
/*
 * Take that back before the next superblock is written: the copy says that the image is in
 * use. The flush before that superblock makes it durable.
 */
KV_MUST_CHECK int kv_superblock_mark_used(struct kv_device *device,
                                          const struct kv_disk_superblock *superblock);

/*
 * For scrubbing: does a slot hold exactly `newest`, the superblock as it was last written?
 * -EBADMSG: something else; -EIO. No kv_superblock_write may be under way.
 */
KV_MUST_CHECK int kv_superblock_verify(struct kv_device *device,
                                       const struct kv_disk_superblock *newest, unsigned slot);
/* Is the copy at the end a whole superblock of this image, not newer than `newest`? */
KV_MUST_CHECK int kv_superblock_verify_backup(struct kv_device *device,
                                              const struct kv_disk_superblock *newest);

/* Of an image, for log blocks, bitmaps and pages: those of another image, or of an older one in
 * the same place, do not pass for ours. */
uint64_t kv_superblock_log_id(const struct kv_disk_superblock *superblock);
uint64_t kv_now_ns(void); /* real time since 1970 */

void kv_superblock_info(const struct kv_disk_superblock *superblock, struct kv_image_info *info);

#endif
