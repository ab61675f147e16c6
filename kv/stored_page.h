/*
 * kv/stored_page.h: a B+tree page as it lies on the device, and telling one from other bytes.
 *
 * A stored page begins with its node header in the clear, also when the rest is packed. The
 * header says how long the stored form is, how the rest is packed, when it was written, and bears
 * a digest of all of it that belongs to this place in this image. So a page is known for what it
 * is, without the pointer that leads to it: a lost page map does not lose the pages. And a copy
 * of one does not pass for it: not an older image in the same place, not a file's content.
 *
 * The rest is a bare node (kv/node.h) where it is packed, or where that saves a block: slots are
 * a tenth to a sixth of what packed records take, and are made again in less time than unpacking
 * them would. Else it is the whole node.
 *
 * In images that do not have bare pages the rest is always the node. Where it is not packed it is
 * stored whole, or dense: without the free bytes between its slots and its cells, where that saves
 * a block. A B+tree filled at random is full to 70 %: stored dense it takes a quarter less. The
 * stored length says which of the two it is.
 *
 * In memory the fields that only the stored form needs are zero.
 *
 * Threads: any.
 */
#ifndef KV_STORED_PAGE_H
#define KV_STORED_PAGE_H

#include "kv/base.h"
#include "kv/format.h"
#include "kv/kv.h"

/* How pages may be stored. */
struct kv_stored_form {
    struct kv_codec_spec codec;
    bool dense; /* the image has KV_FEATURE_INCOMPAT_DENSE */
    bool bare;  /* the image has KV_FEATURE_INCOMPAT_BARE, or the page stays in memory */
};

/*
 * Make the stored form of a page, but for its digest: at most node_bytes, in dst. The node's
 * epoch is set.
 *
 * order    greater than that of every page packed before in the same epoch.
 * scratch  node_bytes of memory, for form.bare.
 *
 * Returns the bytes of the stored form. *used: how the rest is packed; not KV_CODEC_NONE only
 * if that saves a block or, in the bare form, an eighth.
 */
size_t kv_stored_page_pack(const void *node, size_t node_bytes, struct kv_stored_form form,
                           uint64_t order, void *scratch, void *dst, enum kv_codec *used);
/* Add the digest, when it is known where the page will lie. image_id: kv_superblock_log_id. */
void kv_stored_page_seal(void *stored, size_t length, uint64_t image_id, uint64_t block);

/*
 * Unpack a stored page whose digest was verified into `node`, which may be `stored` itself (with
 * room for node_bytes) when nothing is packed. length, codec, page_id and epoch are what led to it;
 * they must be what the page says of itself. The node is validated.
 *
 * Returns 0; -EUCLEAN; -ENOMEM.
 */
KV_MUST_CHECK int kv_stored_page_unpack(const void *stored, size_t length, uint8_t codec,
                                        uint64_t page_id, uint64_t epoch, void *node,
                                        size_t node_bytes);

/*
 * Do these bytes begin like a stored page? `block` is one block. Returns its length in bytes, or
 * 0: no.
 */
size_t kv_stored_page_length(const void *block, size_t node_bytes);

/*
 * Is this, whole, a stored page of that image, in its place? `stored` holds
 * kv_stored_page_length bytes; unchanged on return.
 */
bool kv_stored_page_genuine(void *stored, size_t length, uint64_t image_id, uint64_t block);

#endif
