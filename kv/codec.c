/*
 * kv/codec.c: bytes to packed bytes and back, and the digest over stored bytes.
 *
 * Owns       the zstd contexts, a pair for each thread that ever needed one.
 * Invariant  what is packed takes no more than its caller allows: kv_codec_pack, a block less than
 *            what it was made from.
 * Locks      none: a thread touches only its own contexts.
 * Lifetime   contexts are made at a thread's first use and freed when it ends. They hang
 *            from a pthread key, the one piece of process-wide state in kv/: making a context
 *            costs more than packing a page, and callers come from threads of every kind.
 */
#include "kv/codec.h"

#include <lz4.h>
#include <pthread.h>
#include <xxhash.h>
#include <zstd.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h> /* the same digests, by the widest registers that are there */
#endif

/* Inputs longer than this are sampled before they are packed. */
#define SAMPLE_THRESHOLD_BYTES 16384u
/* The sample is made of pieces spread evenly over the input. */
#define SAMPLE_PIECE_BYTES 1024u
#define SAMPLE_PIECE_COUNT 4u
#define SAMPLE_BYTES       (SAMPLE_PIECE_BYTES * SAMPLE_PIECE_COUNT)
/* A sample that does not shrink to this is taken for noise: 1/32 less. */
#define SAMPLE_PACKED_MAX (SAMPLE_BYTES - SAMPLE_BYTES / 32u)

#define ZSTD_LEVEL_DEFAULT 3
#define ZSTD_LEVEL_SAMPLE  1
#define ZSTD_LEVEL_MAX     19

const char *kv_codec_name(unsigned codec)
{
    static const char *const names[KV_CODEC_COUNT] = {
        [KV_CODEC_NONE] = "none", [KV_CODEC_LZ4] = "lz4", [KV_CODEC_ZSTD] = "zstd"};
    return codec < KV_CODEC_COUNT ? names[codec] : "?";
}

/* ---- digests ------------------------------------------------------------ */

uint64_t kv_digest(const void *bytes, size_t length, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, length, seed);
}

uint64_t kv_digest_seed(uint64_t identity, uint64_t birth_epoch)
{
    const kv_le64 pair[2] = {kv_le64_of(identity), kv_le64_of(birth_epoch)};
    return XXH3_64bits(pair, sizeof pair);
}

/* ---- a thread's contexts ------------------------------------------------- */

struct thread_contexts {
    ZSTD_CCtx *pack;   /* NULL until needed */
    ZSTD_DCtx *unpack; /* NULL until needed */
};

static pthread_once_t contexts_once = PTHREAD_ONCE_INIT;
static pthread_key_t contexts_key;
static bool contexts_key_made; /* written inside the once, read after it */

static void free_contexts(void *value)
{
    struct thread_contexts *contexts = value;
    ZSTD_freeCCtx(contexts->pack);
    ZSTD_freeDCtx(contexts->unpack);
    free(contexts);
}

static void make_contexts_key(void)
{
    contexts_key_made = pthread_key_create(&contexts_key, free_contexts) == 0;
}

/* This thread's contexts, or NULL when there is no memory for them. */
static struct thread_contexts *take_contexts(void)
{
    if (pthread_once(&contexts_once, make_contexts_key) || !contexts_key_made)
        return NULL;

    struct thread_contexts *contexts = pthread_getspecific(contexts_key);
    if (contexts)
        return contexts;
    contexts = calloc(1, sizeof *contexts);
    if (!contexts)
        return NULL;
    if (pthread_setspecific(contexts_key, contexts)) {
        free(contexts);
        return NULL;
    }
    return contexts;
}

static ZSTD_CCtx *take_pack_context(void)
{
    struct thread_contexts *contexts = take_contexts();
    if (!contexts)
        return NULL;
    if (!contexts->pack)
        contexts->pack = ZSTD_createCCtx();
    return contexts->pack;
}

static ZSTD_DCtx *take_unpack_context(void)
{
    struct thread_contexts *contexts = take_contexts();
    if (!contexts)
        return NULL;
    if (!contexts->unpack)
        contexts->unpack = ZSTD_createDCtx();
    return contexts->unpack;
}

/* ---- packing ------------------------------------------------------------ */

/* Each packer returns the packed length, or 0 when it would be more than dst_cap. */

static size_t pack_lz4(const void *src, size_t length, void *dst, size_t dst_cap)
{
    const int packed = LZ4_compress_default(src, dst, (int)length, (int)dst_cap);
    return packed > 0 ? (size_t)packed : 0;
}

static size_t pack_zstd(const void *src, size_t length, void *dst, size_t dst_cap, int level)
{
    ZSTD_CCtx *context = take_pack_context();
    if (!context)
        return 0;
    const size_t packed = ZSTD_compressCCtx(context, dst, dst_cap, src, length, level);
    return ZSTD_isError(packed) ? 0 : packed;
}

/*
 * Does a sample of a long input shrink? lz4 is asked first because it answers soonest; it sees
 * no gain in text without repetitions (base64, say), where zstd's entropy coding still has one.
 */
static bool sample_shrinks(enum kv_codec codec, const uint8_t *src, size_t length)
{
    uint8_t sample[SAMPLE_BYTES];
    uint8_t packed[SAMPLE_PACKED_MAX];
    const size_t stride = (length - SAMPLE_PIECE_BYTES) / (SAMPLE_PIECE_COUNT - 1);
    for (size_t i = 0; i < SAMPLE_PIECE_COUNT; i++)
        memcpy(sample + i * SAMPLE_PIECE_BYTES, src + i * stride, SAMPLE_PIECE_BYTES);

    if (pack_lz4(sample, sizeof sample, packed, sizeof packed))
        return true;
    return codec == KV_CODEC_ZSTD &&
           pack_zstd(sample, sizeof sample, packed, sizeof packed, ZSTD_LEVEL_SAMPLE);
}

static int zstd_level(int level)
{
    if (level <= 0)
        return ZSTD_LEVEL_DEFAULT;
    return level < ZSTD_LEVEL_MAX ? level : ZSTD_LEVEL_MAX;
}

bool kv_codec_may_shrink(struct kv_codec_spec spec, const void *src, size_t length)
{
    KV_ASSERT(length <= LZ4_MAX_INPUT_SIZE);
    const bool wanted = spec.codec == KV_CODEC_LZ4 || spec.codec == KV_CODEC_ZSTD;
    return wanted && length > KV_BLOCK_BYTES &&
           (length <= SAMPLE_THRESHOLD_BYTES || sample_shrinks(spec.codec, src, length));
}

size_t kv_codec_shrink(struct kv_codec_spec spec, const void *src, size_t length, void *dst,
                       size_t limit)
{
    return spec.codec == KV_CODEC_LZ4 ? pack_lz4(src, length, dst, limit)
                                      : pack_zstd(src, length, dst, limit, zstd_level(spec.level));
}

size_t kv_codec_pack(struct kv_codec_spec spec, const void *src, size_t length, void *dst,
                     size_t dst_cap, enum kv_codec *used)
{
    KV_ASSERT(dst_cap >= length);
    const size_t packed = kv_codec_may_shrink(spec, src, length)
                              ? kv_codec_shrink(spec, src, length, dst, kv_codec_limit(length))
                              : 0;
    if (packed) {
        *used = spec.codec;
        return packed;
    }

    if (length)
        memcpy(dst, src, length);
    *used = KV_CODEC_NONE;
    return length;
}

/* ---- unpacking ---------------------------------------------------------- */

int kv_codec_unpack(uint8_t codec, const void *src, size_t length, void *dst, size_t raw_length)
{
    if (length > LZ4_MAX_INPUT_SIZE || raw_length > LZ4_MAX_INPUT_SIZE)
        return -EUCLEAN;

    switch (codec) {
    case KV_CODEC_NONE:
        if (length != raw_length)
            return -EUCLEAN;
        if (length)
            memcpy(dst, src, length);
        return 0;
    case KV_CODEC_LZ4: {
        const int unpacked = LZ4_decompress_safe(src, dst, (int)length, (int)raw_length);
        return unpacked >= 0 && (size_t)unpacked == raw_length ? 0 : -EUCLEAN;
    }
    case KV_CODEC_ZSTD: {
        ZSTD_DCtx *context = take_unpack_context();
        if (!context)
            return -ENOMEM;
        const size_t unpacked = ZSTD_decompressDCtx(context, dst, raw_length, src, length);
        return !ZSTD_isError(unpacked) && unpacked == raw_length ? 0 : -EUCLEAN;
    }
    default:
        return -EUCLEAN;
    }
}
