/*
 * kv/blob_frames.h: the frames of a blob: pieces that can be read, verified and unpacked alone.
 *
 * A blob that is longer than one frame may be stored in frames (KV_BLOB_FORM_FRAMES). What is not
 * packed is cut into frames of 4 KiB, or of so much more that there are 32 at most; what is packed,
 * into frames of 64 KiB that are packed one by one. Where they lie and what their digests are says
 * the blob's table, one entry a frame. The reference's digest is that of the table, so two steps
 * lead from it to each byte, whoever has the table; and whoever has all of the blob can make it.
 *
 * Threads: any; nothing here has a state.
 */
#ifndef KV_BLOB_FRAMES_H
#define KV_BLOB_FRAMES_H

#include "kv/format.h"
#include "kv/kv.h"

#define KV_BLOB_FRAMES_MAX 32u

/* A frame as it is stored. */
struct kv_blob_frame {
    uint64_t digest;
    uint32_t at;           /* in the stored bytes of the blob */
    uint32_t length_bytes; /* stored */
};

/* Content of all frames but the last of a blob of `raw_bytes`; 0: it is not worth cutting. */
uint32_t kv_blob_frame_bytes(uint8_t codec, uint32_t raw_bytes);
/* How many frames that makes; raw_bytes and frame_bytes are not 0. */
static inline uint32_t kv_blob_frame_count(uint32_t raw_bytes, uint32_t frame_bytes)
{
    return (raw_bytes - 1) / frame_bytes + 1;
}
/* Content of one frame. */
static inline uint32_t kv_blob_frame_raw(uint32_t raw_bytes, uint32_t frame_bytes, uint32_t index)
{
    return (uint32_t)kv_min_u64(frame_bytes, raw_bytes - (uint64_t)index * frame_bytes);
}
/* Bytes of an entry of the table. */
size_t kv_blob_frame_entry_bytes(uint8_t codec);

/*
 * Pack frame by frame into dst, dst_cap bytes: lengths, then frames, as it is stored. Returns the
 * length, or 0: it does not get a block shorter. dst_cap: `length` and a block, at least.
 */
size_t kv_blob_frames_pack(struct kv_codec_spec spec, const void *src, size_t length, void *dst,
                           size_t dst_cap);

/*
 * Make the table from the stored bytes, which are input. Returns its length; 0: the lengths in
 * them make no sense. The reference's form, codec and lengths were checked.
 */
size_t kv_blob_frames_table(const struct kv_disk_blob_ref *ref, const uint8_t *stored,
                            uint8_t table[KV_BLOB_TABLE_MAX]);
/* The same for one that is not packed and lies in `src`: it is copied to `stored` on the way, frame
 * by frame, as long as each is in the processor's nearest memory. */
size_t kv_blob_frames_copy(const struct kv_disk_blob_ref *ref, const uint8_t *src, uint8_t *stored,
                           uint8_t table[KV_BLOB_TABLE_MAX]);
/* What the reference's digest has to be. */
uint64_t kv_blob_frames_root(const struct kv_disk_blob_ref *ref, const uint8_t *table,
                             size_t length);

/*
 * Frames [first, first + count) from a table whose first entry is that of frame `table_first`.
 * -EUCLEAN: they are not where frames can be.
 */
KV_MUST_CHECK int kv_blob_frames_from_table(const struct kv_disk_blob_ref *ref,
                                            const uint8_t *table, uint32_t table_first,
                                            uint32_t first, uint32_t count,
                                            struct kv_blob_frame *frames);
/* Are these the bytes of the frame? 0 or -EBADMSG. */
KV_MUST_CHECK int kv_blob_frame_verify(const struct kv_disk_blob_ref *ref,
                                       const struct kv_blob_frame *frame, const uint8_t *stored);

#endif
