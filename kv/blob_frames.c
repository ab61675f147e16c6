/*
 * kv/blob_frames.c: the frames of a blob: cutting it, its table, and what a table may say.
 *
 * Owns       nothing.
 * Invariant  frames of a blob lie one behind the other and end with the stored bytes.
 * Locks      none.
 * On disk    not packed:  | frame 0 | frame 1 | ...
 *            packed:      | length 0 (4) | length 1 | ... | frame 0 | frame 1 | ...
 */
#include "kv/blob_frames.h"

#include "kv/codec.h"

#define RAW_FRAME_BYTES    4096u
#define PACKED_FRAME_BYTES 65536u /* shorter ones pack worse: lz4 looks back as far as that */
/* One frame this long takes the device hardly longer than a part of it. */
#define RAW_WHOLE_BYTES 16384u

#define RAW_FRAMES_MAX    (KV_BLOB_TABLE_MAX / (uint32_t)sizeof(struct kv_disk_blob_frame))
#define PACKED_FRAMES_MAX (KV_BLOB_TABLE_MAX / (uint32_t)sizeof(struct kv_disk_packed_blob_frame))
static_assert(RAW_FRAMES_MAX <= KV_BLOB_FRAMES_MAX, "frames of a table");
static_assert(PACKED_FRAMES_MAX <= KV_BLOB_FRAMES_MAX, "frames of a table");

uint32_t kv_blob_frame_bytes(uint8_t codec, uint32_t raw_bytes)
{
    const bool packed = codec != KV_CODEC_NONE;
    const uint32_t most = packed ? PACKED_FRAMES_MAX : RAW_FRAMES_MAX;
    uint32_t frame = packed ? PACKED_FRAME_BYTES : RAW_FRAME_BYTES;
    if (raw_bytes <= (packed ? frame : RAW_WHOLE_BYTES))
        return 0;
    while (kv_blob_frame_count(raw_bytes, frame) > most)
        frame *= 2;
    return frame;
}

size_t kv_blob_frame_entry_bytes(uint8_t codec)
{
    return codec == KV_CODEC_NONE ? sizeof(struct kv_disk_blob_frame)
                                  : sizeof(struct kv_disk_packed_blob_frame);
}

static uint64_t seed_of(const struct kv_disk_blob_ref *ref)
{
    return kv_digest_seed(kv_le64_get(ref->ptr.block), kv_le64_get(ref->ptr.birth_epoch));
}

size_t kv_blob_frames_pack(struct kv_codec_spec spec, const void *src, size_t length, void *dst,
                           size_t dst_cap)
{
    const uint32_t raw = (uint32_t)length;
    const uint32_t frame = kv_blob_frame_bytes((uint8_t)spec.codec, raw);
    const uint32_t count = kv_blob_frame_count(raw, frame);
    const size_t limit = (size_t)(kv_blocks_for(length) - 1) * KV_BLOCK_BYTES;
    uint8_t *const out = dst;
    size_t at = count * sizeof(kv_le32);
    KV_ASSERT(frame);
    KV_ASSERT(dst_cap >= length + KV_BLOCK_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t take = kv_blob_frame_raw(raw, frame, i);
        enum kv_codec used;
        if (take > dst_cap - at)
            return 0;
        const size_t packed = kv_codec_pack(spec, (const uint8_t *)src + (size_t)i * frame, take,
                                            out + at, dst_cap - at, &used);
        const kv_le32 stored = kv_le32_of((uint32_t)packed);
        memcpy(out + i * sizeof stored, &stored, sizeof stored);
        at += packed;
    }
    return at <= limit ? at : 0;
}

/* May frame `index` lie there? */
static bool is_sane(const struct kv_disk_blob_ref *ref, uint32_t frame_bytes, uint32_t index,
                    const struct kv_blob_frame *frame)
{
    const uint32_t raw = kv_le32_get(ref->raw_bytes);
    const uint32_t stored = kv_le32_get(ref->ptr.length_bytes);
    const uint32_t head = kv_blob_frame_count(raw, frame_bytes) * (uint32_t)sizeof(kv_le32);
    return frame->length_bytes &&
           frame->length_bytes <= kv_blob_frame_raw(raw, frame_bytes, index) && frame->at >= head &&
           frame->at <= stored && frame->length_bytes <= stored - frame->at;
}

/* stored: where it is copied to, or NULL. */
static size_t table_of_raw(const struct kv_disk_blob_ref *ref, const uint8_t *src, uint8_t *stored,
                           uint8_t table[KV_BLOB_TABLE_MAX])
{
    const uint64_t seed = seed_of(ref);
    const uint32_t raw = kv_le32_get(ref->raw_bytes);
    const uint32_t frame_bytes = kv_blob_frame_bytes(ref->ptr.codec, raw);
    KV_ASSERT(frame_bytes);
    const uint32_t count = kv_blob_frame_count(raw, frame_bytes);
    for (uint32_t i = 0; i < count; i++) {
        const size_t at = (size_t)i * frame_bytes;
        const uint32_t length = kv_blob_frame_raw(raw, frame_bytes, i);
        if (stored)
            memcpy(stored + at, src + at, length);
        const struct kv_disk_blob_frame entry = {
            .digest = kv_le64_of(kv_digest(stored ? stored + at : src + at, length, seed))};
        memcpy(table + i * sizeof entry, &entry, sizeof entry);
    }
    return count * sizeof(struct kv_disk_blob_frame);
}

size_t kv_blob_frames_copy(const struct kv_disk_blob_ref *ref, const uint8_t *src, uint8_t *stored,
                           uint8_t table[KV_BLOB_TABLE_MAX])
{
    KV_ASSERT(ref->ptr.codec == KV_CODEC_NONE);
    return table_of_raw(ref, src, stored, table);
}

size_t kv_blob_frames_table(const struct kv_disk_blob_ref *ref, const uint8_t *stored,
                            uint8_t table[KV_BLOB_TABLE_MAX])
{
    if (ref->ptr.codec == KV_CODEC_NONE)
        return table_of_raw(ref, stored, NULL, table);
    const uint64_t seed = seed_of(ref);
    const uint32_t raw = kv_le32_get(ref->raw_bytes);
    const uint32_t frame_bytes = kv_blob_frame_bytes(ref->ptr.codec, raw);
    KV_ASSERT(frame_bytes);
    const uint32_t count = kv_blob_frame_count(raw, frame_bytes);
    struct kv_blob_frame frame = {.at = count * (uint32_t)sizeof(kv_le32)};
    if (frame.at > kv_le32_get(ref->ptr.length_bytes))
        return 0;
    for (uint32_t i = 0; i < count; i++, frame.at += frame.length_bytes) {
        kv_le32 length;
        memcpy(&length, stored + i * sizeof length, sizeof length);
        frame.length_bytes = kv_le32_get(length);
        if (!is_sane(ref, frame_bytes, i, &frame))
            return 0;
        const struct kv_disk_packed_blob_frame entry = {
            .digest = kv_le64_of(kv_digest(stored + frame.at, frame.length_bytes, seed)),
            .at = kv_le32_of(frame.at),
            .length_bytes = length};
        memcpy(table + i * sizeof entry, &entry, sizeof entry);
    }
    return frame.at == kv_le32_get(ref->ptr.length_bytes)
               ? count * sizeof(struct kv_disk_packed_blob_frame)
               : 0;
}

uint64_t kv_blob_frames_root(const struct kv_disk_blob_ref *ref, const uint8_t *table,
                             size_t length)
{
    return kv_digest(table, length, seed_of(ref));
}

int kv_blob_frames_from_table(const struct kv_disk_blob_ref *ref, const uint8_t *table,
                              uint32_t table_first, uint32_t first, uint32_t count,
                              struct kv_blob_frame *frames)
{
    const uint32_t raw = kv_le32_get(ref->raw_bytes);
    const uint32_t frame_bytes = kv_blob_frame_bytes(ref->ptr.codec, raw);
    KV_ASSERT(frame_bytes);
    KV_ASSERT(first >= table_first);
    KV_ASSERT(first + count <= kv_blob_frame_count(raw, frame_bytes));
    for (uint32_t i = 0; i < count; i++) {
        struct kv_blob_frame *const frame = &frames[i];
        const uint32_t index = first + i;
        if (ref->ptr.codec == KV_CODEC_NONE) {
            struct kv_disk_blob_frame entry;
            memcpy(&entry, table + (index - table_first) * sizeof entry, sizeof entry);
            *frame =
                (struct kv_blob_frame){.digest = kv_le64_get(entry.digest),
                                       .at = index * frame_bytes,
                                       .length_bytes = kv_blob_frame_raw(raw, frame_bytes, index)};
            continue;
        }
        struct kv_disk_packed_blob_frame entry;
        memcpy(&entry, table + (index - table_first) * sizeof entry, sizeof entry);
        *frame = (struct kv_blob_frame){.digest = kv_le64_get(entry.digest),
                                        .at = kv_le32_get(entry.at),
                                        .length_bytes = kv_le32_get(entry.length_bytes)};
        if (!is_sane(ref, frame_bytes, index, frame) ||
            (i && frame->at != frame[-1].at + frame[-1].length_bytes))
            return -EUCLEAN;
    }
    return 0;
}

int kv_blob_frame_verify(const struct kv_disk_blob_ref *ref, const struct kv_blob_frame *frame,
                         const uint8_t *stored)
{
    return kv_digest(stored, frame->length_bytes, seed_of(ref)) == frame->digest ||
                   KV_PLANT(frame_checksum_ignored)
               ? 0
               : -EBADMSG;
}
