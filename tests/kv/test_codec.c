/*
 * tests/kv/test_codec.c: tests kv/codec.c.
 *
 * The seed is taken from KVFS_SEED and printed.
 */
#include "kv/codec.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <pthread.h>

#define LENGTH_MAX (1u << 20)

static struct test_random random_bytes;

static uint64_t next_random(void)
{
    return test_random_next(&random_bytes);
}

static void seed_random(void)
{
    random_bytes.state = test_env("KVFS_SEED", 1);
    printf("KVFS_SEED=%llu\n", (unsigned long long)random_bytes.state);
}

enum kind_of_bytes { BYTES_ZERO, BYTES_WORDS, BYTES_BASE64, BYTES_NOISE };

static uint8_t *make_bytes(enum kind_of_bytes kind, size_t length)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t *bytes = calloc(1, length + 1);
    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < length; i++) {
        if (kind == BYTES_WORDS)
            bytes[i] =
                (uint8_t) "the log and the tree and the page "[(i + (next_random() & 1)) % 34];
        else if (kind == BYTES_BASE64)
            bytes[i] = (uint8_t)alphabet[next_random() % 64];
        else if (kind == BYTES_NOISE)
            bytes[i] = (uint8_t)next_random();
    }
    return bytes;
}

static const struct kv_codec_spec specs[] = {{KV_CODEC_NONE, 0}, {KV_CODEC_LZ4, 0},
                                             {KV_CODEC_ZSTD, 0}, {KV_CODEC_ZSTD, 1},
                                             {KV_CODEC_ZSTD, 9}, {KV_CODEC_ZSTD, 1000}};
#define SPEC_COUNT (sizeof specs / sizeof specs[0])

static void check_round_trip(struct kv_codec_spec spec, const uint8_t *bytes, size_t length)
{
    uint8_t *packed = malloc(length + 1);
    uint8_t *unpacked = malloc(length + 1);
    enum kv_codec used = KV_CODEC_NONE;
    const size_t packed_length = kv_codec_pack(spec, bytes, length, packed, length, &used);

    ck_assert(used == KV_CODEC_NONE || used == spec.codec);
    if (used == KV_CODEC_NONE)
        ck_assert_uint_eq(packed_length, length);
    else
        ck_assert_uint_lt(kv_blocks_for(packed_length), kv_blocks_for(length));
    ck_assert_int_eq(kv_codec_unpack((uint8_t)used, packed, packed_length, unpacked, length), 0);
    ck_assert_int_eq(memcmp(unpacked, bytes, length), 0);
    free(packed);
    free(unpacked);
}

START_TEST(every_codec_gives_back_what_it_was_given)
{
    static const size_t lengths[] = {0,    1,    100,   4095,  4096,   4097,      8191,
                                     8192, 8193, 16384, 16385, 100000, LENGTH_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        for (enum kind_of_bytes kind = BYTES_ZERO; kind <= BYTES_NOISE; kind++) {
            uint8_t *bytes = make_bytes(kind, lengths[i]);
            /* The last level takes long over long inputs. */
            const size_t spec_count = lengths[i] > 20000 ? SPEC_COUNT - 1 : SPEC_COUNT;
            for (size_t s = 0; s < spec_count; s++)
                check_round_trip(specs[s], bytes, lengths[i]);
            free(bytes);
        }
    }
}
END_TEST

static enum kv_codec codec_used(enum kv_codec codec, const uint8_t *bytes, size_t length)
{
    uint8_t *packed = malloc(length);
    enum kv_codec used;
    const struct kv_codec_spec spec = {codec, 0};
    (void)kv_codec_pack(spec, bytes, length, packed, length, &used);
    free(packed);
    return used;
}

START_TEST(packing_is_used_only_where_it_saves_a_block)
{
    uint8_t *zeros = make_bytes(BYTES_ZERO, 65536);
    uint8_t *noise = make_bytes(BYTES_NOISE, 65536);
    uint8_t *base64 = make_bytes(BYTES_BASE64, 65536);
    ck_assert_int_eq(codec_used(KV_CODEC_NONE, zeros, 65536), KV_CODEC_NONE);
    ck_assert_int_eq(codec_used(KV_CODEC_LZ4, zeros, 65536), KV_CODEC_LZ4);
    ck_assert_int_eq(codec_used(KV_CODEC_ZSTD, zeros, 65536), KV_CODEC_ZSTD);
    ck_assert_int_eq(codec_used(KV_CODEC_LZ4, zeros, 4097), KV_CODEC_LZ4);
    ck_assert_int_eq(codec_used(KV_CODEC_LZ4, zeros, 4096), KV_CODEC_NONE);
    ck_assert_int_eq(codec_used(KV_CODEC_LZ4, noise, 65536), KV_CODEC_NONE);
    ck_assert_int_eq(codec_used(KV_CODEC_ZSTD, noise, 65536), KV_CODEC_NONE);
    ck_assert_int_eq(codec_used(KV_CODEC_ZSTD, noise, 8192), KV_CODEC_NONE);
    /* Only an entropy coder gains on these; the sample must not hide that. */
    ck_assert_int_eq(codec_used(KV_CODEC_ZSTD, base64, 65536), KV_CODEC_ZSTD);
    /* Half noise, half zeros: the pieces of the sample see both. */
    memset(noise + 32768, 0, 32768);
    ck_assert_int_eq(codec_used(KV_CODEC_LZ4, noise, 65536), KV_CODEC_LZ4);
    free(zeros);
    free(noise);
    free(base64);
}
END_TEST

START_TEST(an_unknown_codec_or_a_wrong_length_is_damage)
{
    uint8_t *bytes = make_bytes(BYTES_WORDS, 20000);
    uint8_t packed[20000], unpacked[20001];
    for (unsigned codec = KV_CODEC_ZSTD + 1; codec < 256; codec++)
        ck_assert_int_eq(kv_codec_unpack((uint8_t)codec, bytes, 100, unpacked, 100), -EUCLEAN);
    ck_assert_int_eq(kv_codec_unpack(KV_CODEC_NONE, bytes, 100, unpacked, 101), -EUCLEAN);
    ck_assert_int_eq(kv_codec_unpack(KV_CODEC_NONE, bytes, 101, unpacked, 100), -EUCLEAN);

    for (enum kv_codec codec = KV_CODEC_LZ4; codec <= KV_CODEC_ZSTD; codec++) {
        const struct kv_codec_spec spec = {codec, 0};
        enum kv_codec used;
        const size_t length = kv_codec_pack(spec, bytes, 20000, packed, sizeof packed, &used);
        ck_assert_int_eq(used, codec);
        ck_assert_int_eq(kv_codec_unpack((uint8_t)codec, packed, length, unpacked, 20001),
                         -EUCLEAN);
        ck_assert_int_eq(kv_codec_unpack((uint8_t)codec, packed, length, unpacked, 19999),
                         -EUCLEAN);
        for (size_t cut = 0; cut < length; cut += 97)
            ck_assert_int_eq(kv_codec_unpack((uint8_t)codec, packed, cut, unpacked, 20000),
                             -EUCLEAN);
    }
    free(bytes);
}
END_TEST

START_TEST(hostile_bytes_never_write_outside_the_buffer)
{
    seed_random();
    enum { RAW = 9000, GUARD = 64 };
    uint8_t *bytes = make_bytes(BYTES_WORDS, RAW);
    uint8_t packed[RAW], broken[RAW], unpacked[RAW + GUARD];
    for (unsigned round = 0; round < 3000; round++) {
        const enum kv_codec codec = round % 2 ? KV_CODEC_LZ4 : KV_CODEC_ZSTD;
        const struct kv_codec_spec spec = {codec, 0};
        enum kv_codec used;
        size_t length = kv_codec_pack(spec, bytes, RAW, packed, sizeof packed, &used);
        memcpy(broken, packed, length);
        for (uint64_t flips = 1 + next_random() % 8; flips > 0; flips--)
            broken[next_random() % length] = (uint8_t)next_random();
        if (next_random() % 4 == 0)
            length = next_random() % (length + 1);
        const size_t raw_length = next_random() % 2 ? RAW : next_random() % (RAW + 1);
        memset(unpacked + raw_length, 0xa5, sizeof unpacked - raw_length);
        const int err = kv_codec_unpack((uint8_t)codec, broken, length, unpacked, raw_length);
        ck_assert(err == 0 || err == -EUCLEAN);
        size_t i = raw_length;
        while (i < sizeof unpacked && unpacked[i] == 0xa5)
            i++;
        ck_assert_uint_eq(i, sizeof unpacked);
    }
    free(bytes);
}
END_TEST

START_TEST(a_digest_depends_on_bytes_identity_and_epoch)
{
    const char bytes[] = "a page's bytes";
    const uint64_t digest = kv_digest(bytes, sizeof bytes, kv_digest_seed(7, 9));
    ck_assert_uint_eq(digest, kv_digest(bytes, sizeof bytes, kv_digest_seed(7, 9)));
    ck_assert_uint_ne(digest, kv_digest(bytes, sizeof bytes, kv_digest_seed(9, 7)));
    ck_assert_uint_ne(digest, kv_digest(bytes, sizeof bytes, kv_digest_seed(7, 10)));
    ck_assert_uint_ne(digest, kv_digest(bytes, sizeof bytes - 1, kv_digest_seed(7, 9)));
    /* The format's own numbers: these may never change. */
    ck_assert_uint_eq(kv_digest("", 0, 0), 0x2d06800538d394c2u);
    ck_assert_uint_eq(kv_digest_seed(1, 2), 0x07ee86c281446befu);
}
END_TEST

static void *pack_in_thread(void *argument)
{
    (void)argument;
    uint8_t bytes[20000], packed[20000], unpacked[20000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i / 100);
    for (unsigned round = 0; round < 50; round++) {
        const struct kv_codec_spec spec = {KV_CODEC_ZSTD, 1 + (int)(round % 5)};
        enum kv_codec used;
        const size_t length =
            kv_codec_pack(spec, bytes, sizeof bytes, packed, sizeof packed, &used);
        if (used != KV_CODEC_ZSTD ||
            kv_codec_unpack(KV_CODEC_ZSTD, packed, length, unpacked, sizeof unpacked) ||
            memcmp(unpacked, bytes, sizeof bytes))
            return "failed";
    }
    return NULL;
}

START_TEST(threads_come_and_go_with_their_own_contexts)
{
    for (unsigned round = 0; round < 5; round++) {
        pthread_t threads[4];
        for (size_t i = 0; i < 4; i++)
            ck_assert_int_eq(pthread_create(&threads[i], NULL, pack_in_thread, NULL), 0);
        for (size_t i = 0; i < 4; i++) {
            void *result = NULL;
            ck_assert_int_eq(pthread_join(threads[i], &result), 0);
            ck_assert_ptr_null(result);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("codec");
    TCase *tcase = tcase_create("codec");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, every_codec_gives_back_what_it_was_given);
    tcase_add_test(tcase, packing_is_used_only_where_it_saves_a_block);
    tcase_add_test(tcase, an_unknown_codec_or_a_wrong_length_is_damage);
    tcase_add_test(tcase, hostile_bytes_never_write_outside_the_buffer);
    tcase_add_test(tcase, a_digest_depends_on_bytes_identity_and_epoch);
    tcase_add_test(tcase, threads_come_and_go_with_their_own_contexts);
    suite_add_tcase(suite, tcase);

    return test_run(suite);
}
