/*
 * tests/faults/fuzz/fuzz.h: what the fuzz targets share: their entry, and taking input apart.
 *
 * A target is one file with LLVMFuzzerTestOneInput. It is linked twice: with libFuzzer, to
 * search (KVFS_FUZZ), and with replay.c, to repeat what was found, by any compiler. What a
 * target finds wrong it says by KV_ASSERT, like the code under test.
 */
#ifndef TESTS_FAULTS_FUZZ_H
#define TESTS_FAULTS_FUZZ_H

#include "kv/base.h"

/*
 * In the first byte of an input, where courses differ in cost by a hundred: which one is taken is
 * drawn by the digest of the whole input, so that a search does not stay with what takes long.
 */
#define FUZZ_DRAWN 0x40u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

/* What is left of an input. Taking more than there is gives zeros. */
struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

static inline void fuzz_take(struct fuzz_input *input, void *out, size_t length)
{
    const size_t got = input->left < length ? input->left : length;
    memset(out, 0, length);
    if (got)
        memcpy(out, input->at, got);
    input->at += got;
    input->left -= got;
}

static inline uint8_t fuzz_u8(struct fuzz_input *input)
{
    uint8_t n;
    fuzz_take(input, &n, sizeof n);
    return n;
}

static inline uint16_t fuzz_u16(struct fuzz_input *input)
{
    kv_le16 n;
    fuzz_take(input, &n, sizeof n);
    return kv_le16_get(n);
}

static inline uint32_t fuzz_u32(struct fuzz_input *input)
{
    kv_le32 n;
    fuzz_take(input, &n, sizeof n);
    return kv_le32_get(n);
}

static inline uint64_t fuzz_u64(struct fuzz_input *input)
{
    kv_le64 n;
    fuzz_take(input, &n, sizeof n);
    return kv_le64_get(n);
}

/* Up to `most` of the bytes that are left, where they lie. */
static inline struct fuzz_input fuzz_part(struct fuzz_input *input, size_t most)
{
    const struct fuzz_input part = {input->at, input->left < most ? input->left : most};
    input->at += part.left;
    input->left -= part.left;
    return part;
}

/* A copy that ends where its memory ends, so that a byte too far is seen. free() it. */
static inline uint8_t *fuzz_copy(const struct fuzz_input *input)
{
    uint8_t *const copy = malloc(input->left ? input->left : 1);
    KV_ASSERT(copy);
    if (input->left)
        memcpy(copy, input->at, input->left);
    return copy;
}

#endif
