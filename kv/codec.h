/*
 * kv/codec.h: bytes to packed bytes and back, and the digest over stored bytes.
 *
 * Threads: any; contexts are kept per thread.
 */
#ifndef KV_CODEC_H
#define KV_CODEC_H

#include "kv/base.h"
#include "kv/kv.h"

/* XXH3-64 (xxHash, Y. Collet). */
uint64_t kv_digest(const void *bytes, size_t length, uint64_t seed);
/* The seed that ties stored bytes to what they are and when they were born. */
uint64_t kv_digest_seed(uint64_t identity, uint64_t birth_epoch);

/*
 * Pack `length` bytes into dst (dst_cap >= length). When packing does not save at least one
 * whole block, or the sampled data does not look compressible, the bytes are copied as they
 * are and *used is KV_CODEC_NONE. Never fails.
 */
size_t kv_codec_pack(struct kv_codec_spec spec, const void *src, size_t length, void *dst,
                     size_t dst_cap, enum kv_codec *used);

/* The two halves of it, for who need not copy what does not shrink: is it worth trying? */
bool kv_codec_may_shrink(struct kv_codec_spec spec, const void *src, size_t length);
/* The most that packed bytes may take to save a block. */
static inline size_t kv_codec_limit(size_t length)
{
    return (size_t)(kv_blocks_for(length) - 1) * KV_BLOCK_BYTES;
}
/* Then the packed length, or 0: it does not shrink to `limit` bytes, which dst has. */
size_t kv_codec_shrink(struct kv_codec_spec spec, const void *src, size_t length, void *dst,
                       size_t limit);

/*
 * Unpack exactly raw_length bytes. `codec` comes from disk and may be any number.
 * Returns 0; -EUCLEAN unknown codec, or the bytes do not unpack to that length.
 */
KV_MUST_CHECK int kv_codec_unpack(uint8_t codec, const void *src, size_t length, void *dst,
                                  size_t raw_length);

#endif
