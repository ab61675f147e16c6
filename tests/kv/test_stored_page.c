/*
 * tests/kv/test_stored_page.c: stored pages come back as they were, or, without their slots, with
 * what was in them; they are known without a pointer, and nothing else passes for one.
 */
#include "kv/codec.h"
#include "kv/node.h"
#include "kv/stored_page.h"
#include "tests/run.h"

#include <check.h>

#define PAGE_ID  77u
#define BLOCK    4321u
#define ORDER    5u
#define IMAGE_ID 0x1122334455667788ull
#define EPOCH    9u

static const enum kv_codec codecs[] = {KV_CODEC_NONE, KV_CODEC_LZ4, KV_CODEC_ZSTD};

/*
 * A leaf with so many keys, or until it is full; of each value this many bytes do not pack. The
 * keys come in steps of `step`, which has no factor in common with keys_max.
 */
static void fill_leaf_by(uint8_t *node, size_t node_bytes, size_t noise_bytes, unsigned keys_max,
                         unsigned step)
{
    uint8_t *scratch = malloc(node_bytes);
    uint64_t state = 1;
    kv_node_init(node, node_bytes, PAGE_ID, 0, 0, (struct kv_bytes){"", 0}, (struct kv_bytes){0});
    for (unsigned i = 0; i < keys_max; i++) {
        char key[16];
        uint8_t value[64];
        const int key_len =
            snprintf(key, sizeof key, "key%08u", (unsigned)((uint64_t)i * step % keys_max));
        for (size_t at = 0; at < sizeof value; at++) {
            state = state * 6364136223846793005ull + 1442695040888963407ull;
            value[at] = at < noise_bytes ? (uint8_t)(state >> 56) : (uint8_t)'v';
        }
        bool exact;
        const unsigned slot = kv_node_search(node, node_bytes, key, (size_t)key_len, &exact);
        if (!kv_node_insert(node, node_bytes, slot, key, (size_t)key_len, KV_VALUE_INLINE,
                            (struct kv_bytes){value, sizeof value}, scratch))
            break;
    }
    ((struct kv_disk_node *)node)->epoch = kv_le64_of(EPOCH);
    free(scratch);
}

static void fill_leaf_to(uint8_t *node, size_t node_bytes, size_t noise_bytes, unsigned keys_max)
{
    fill_leaf_by(node, node_bytes, noise_bytes, keys_max, 1);
}

static void fill_leaf(uint8_t *node, size_t node_bytes, size_t noise_bytes)
{
    fill_leaf_to(node, node_bytes, noise_bytes, UINT_MAX);
}

static size_t store_as(const uint8_t *node, size_t node_bytes, struct kv_stored_form form,
                       uint8_t *stored, enum kv_codec *used)
{
    uint8_t *scratch = form.bare ? malloc(node_bytes) : NULL;
    const size_t length = kv_stored_page_pack(node, node_bytes, form, ORDER, scratch, stored, used);
    kv_stored_page_seal(stored, length, IMAGE_ID, BLOCK);
    free(scratch);
    return length;
}

static size_t store_page(const uint8_t *node, size_t node_bytes, struct kv_codec_spec spec,
                         uint8_t *stored, enum kv_codec *used)
{
    const struct kv_stored_form form = {.codec = spec, .dense = true};
    return store_as(node, node_bytes, form, stored, used);
}

static enum kv_stored_shape shape_of(const uint8_t *stored)
{
    return ((const struct kv_disk_node *)stored)->stored_shape;
}

/* The page unpacks to the node; where it is not packed, in place too. `stored` is lost. */
static void expect_back(uint8_t *stored, size_t length, enum kv_codec used, const uint8_t *node,
                        size_t node_bytes)
{
    uint8_t *back = malloc(node_bytes);
    memset(back, 0xee, node_bytes);
    memset(stored + length, 0xee, node_bytes - length);
    ck_assert_uint_eq(kv_stored_page_length(stored, node_bytes), length);
    ck_assert(kv_stored_page_genuine(stored, length, IMAGE_ID, BLOCK));
    uint8_t *const to[] = {back, stored};
    for (unsigned i = 0; i < (used == KV_CODEC_NONE ? 2 : 1); i++) {
        ck_assert_int_eq(
            kv_stored_page_unpack(stored, length, (uint8_t)used, PAGE_ID, EPOCH, to[i], node_bytes),
            0);
        ck_assert_mem_eq(to[i], node, node_bytes);
    }
    free(back);
}

START_TEST(a_page_of_every_size_and_codec_comes_back)
{
    for (size_t node_bytes = KV_NODE_BYTES_MIN; node_bytes <= KV_NODE_BYTES_MAX; node_bytes *= 2)
        for (unsigned i = 0; i < 6; i++) {
            uint8_t *node = malloc(node_bytes), *copy = malloc(node_bytes);
            uint8_t *stored = calloc(1, node_bytes);
            fill_leaf(node, node_bytes, i >= 3 ? 64 : 0);
            memcpy(copy, node, node_bytes);

            enum kv_codec used;
            const struct kv_codec_spec spec = {codecs[i % 3], 0};
            const size_t length = store_page(copy, node_bytes, spec, stored, &used);

            ck_assert_uint_le(length, node_bytes);
            if (node_bytes == KV_BLOCK_BYTES)
                ck_assert_int_eq(used, KV_CODEC_NONE);
            else if (i < 3)
                ck_assert_int_eq(used, spec.codec);
            if (used == KV_CODEC_NONE)
                ck_assert_uint_eq(length, node_bytes);
            else
                ck_assert_uint_lt(kv_blocks_for(length), kv_blocks_for(node_bytes));
            expect_back(stored, length, used, node, node_bytes);
            free(node);
            free(copy);
            free(stored);
        }
}
END_TEST

START_TEST(a_page_stays_plain_when_its_header_takes_what_packing_saves)
{
    const size_t node_bytes = 8192;
    uint8_t *node = malloc(node_bytes), *stored = malloc(node_bytes), *rest = malloc(node_bytes);
    const struct kv_codec_spec spec = {KV_CODEC_LZ4, 0};
    unsigned seen = 0;
    for (size_t noise_bytes = 0; noise_bytes <= 64; noise_bytes++) {
        fill_leaf(node, node_bytes, noise_bytes);
        const size_t header = sizeof(struct kv_disk_node);
        enum kv_codec alone, used;
        const size_t packed = kv_codec_pack(spec, node + header, node_bytes - header, rest,
                                            node_bytes - header, &alone);
        const size_t length = store_page(node, node_bytes, spec, stored, &used);
        const bool saves = alone == KV_CODEC_LZ4 && header + packed <= KV_BLOCK_BYTES;
        seen += alone == KV_CODEC_LZ4 && !saves;
        ck_assert_int_eq(used, saves ? KV_CODEC_LZ4 : KV_CODEC_NONE);
        ck_assert_uint_eq(length, saves ? header + packed : node_bytes);
        ck_assert(kv_stored_page_genuine(stored, length, IMAGE_ID, BLOCK));
        if (!saves)
            ck_assert_mem_eq(stored + header, node + header, node_bytes - header);
    }
    ck_assert_uint_gt(seen, 0);
    free(node);
    free(stored);
    free(rest);
}
END_TEST

/* What stands between its slots and its cells when the page is as full as this. */
START_TEST(a_page_that_is_not_packed_leaves_out_its_free_bytes)
{
    const size_t node_bytes = 16384;
    uint8_t *node = malloc(node_bytes), *stored = malloc(node_bytes), *back = malloc(node_bytes);
    unsigned seen[5] = {0};
    for (unsigned keys = 0; keys < 180; keys++) {
        const struct kv_codec_spec spec = {KV_CODEC_NONE, 0}, lz4 = {KV_CODEC_LZ4, 0};
        fill_leaf_to(node, node_bytes, 64, keys);
        enum kv_codec used;
        const size_t blocks = kv_blocks_for(kv_node_used(node, node_bytes));
        /* A codec has to do better than that. */
        const size_t packed = kv_blocks_for(store_page(node, node_bytes, lz4, stored, &used));
        ck_assert(used == KV_CODEC_LZ4 ? packed < blocks : packed == blocks);
        const size_t length = store_page(node, node_bytes, spec, stored, &used);
        ck_assert_int_eq(used, KV_CODEC_NONE);
        ck_assert_uint_eq(kv_blocks_for(length), blocks);
        ck_assert_uint_eq(length, blocks < 4 ? kv_node_used(node, node_bytes) : node_bytes);
        seen[blocks]++;
        /* A byte more or less than the gap explains is not this page. */
        struct kv_disk_node *const header = (struct kv_disk_node *)stored;
        for (size_t wrong = length - 1; wrong <= length + 1 && length < node_bytes; wrong += 2) {
            header->stored_bytes = kv_le32_of((uint32_t)wrong);
            ck_assert_int_eq(kv_stored_page_unpack(stored, wrong, KV_CODEC_NONE, PAGE_ID, EPOCH,
                                                   back, node_bytes),
                             -EUCLEAN);
        }
        header->stored_bytes = kv_le32_of((uint32_t)length);
        expect_back(stored, length, used, node, node_bytes);
    }
    for (unsigned blocks = 1; blocks <= 4; blocks++)
        ck_assert_uint_gt(seen[blocks], 0);
    free(node);
    free(stored);
    free(back);
}
END_TEST

START_TEST(an_image_without_the_feature_gets_whole_pages)
{
    const size_t node_bytes = 16384;
    uint8_t *node = malloc(node_bytes), *stored = malloc(node_bytes);
    enum kv_codec used;
    fill_leaf_to(node, node_bytes, 64, 10);
    const struct kv_stored_form form = {.codec = {KV_CODEC_NONE, 0}};
    const size_t length = store_as(node, node_bytes, form, stored, &used);
    ck_assert_uint_eq(length, node_bytes);
    ck_assert_int_eq(used, KV_CODEC_NONE);
    ck_assert_int_eq(shape_of(stored), KV_STORED_NODE);
    free(node);
    free(stored);
}
END_TEST

/* ---- without slots ---------------------------------------------------------------- */

/* What a bare page unpacks to has the keys and values of the node, packed together. */
static void expect_same_records(const uint8_t *back, const uint8_t *node, size_t node_bytes)
{
    ck_assert_uint_eq(kv_node_count(back), kv_node_count(node));
    ck_assert_uint_eq(kv_node_used(back, node_bytes), kv_node_used(node, node_bytes));
    for (unsigned slot = 0; slot < kv_node_count(node); slot++) {
        uint8_t key[2][KV_KEY_MAX], kind[2];
        const size_t key_len = kv_node_key(node, node_bytes, slot, key[0]);
        ck_assert_uint_eq(kv_node_key(back, node_bytes, slot, key[1]), key_len);
        ck_assert_mem_eq(key[0], key[1], key_len);
        const struct kv_bytes value = kv_node_value(node, slot, &kind[0]);
        const struct kv_bytes other = kv_node_value(back, slot, &kind[1]);
        ck_assert_uint_eq(kind[0], kind[1]);
        ck_assert_uint_eq(value.length, other.length);
        ck_assert_mem_eq(value.data, other.data, value.length);
    }
}

/* `stored` is lost: it is unpacked where it is, too, if it is not packed. */
static void expect_records_back(uint8_t *stored, size_t length, enum kv_codec used,
                                const uint8_t *node, size_t node_bytes)
{
    uint8_t *back = malloc(node_bytes);
    memset(back, 0xee, node_bytes);
    memset(stored + length, 0xee, node_bytes - length);
    ck_assert_uint_eq(kv_stored_page_length(stored, node_bytes), length);
    ck_assert(kv_stored_page_genuine(stored, length, IMAGE_ID, BLOCK));
    uint8_t *const to[] = {back, stored};
    for (unsigned i = 0; i < (used == KV_CODEC_NONE ? 2 : 1); i++) {
        ck_assert_int_eq(
            kv_stored_page_unpack(stored, length, (uint8_t)used, PAGE_ID, EPOCH, to[i], node_bytes),
            0);
        expect_same_records(to[i], node, node_bytes);
    }
    free(back);
}

START_TEST(a_page_without_slots_of_every_size_codec_and_fill_comes_back)
{
    for (size_t node_bytes = KV_NODE_BYTES_MIN; node_bytes <= KV_NODE_BYTES_MAX; node_bytes *= 2)
        for (unsigned i = 0; i < 45; i++) {
            uint8_t *node = malloc(node_bytes), *stored = calloc(1, node_bytes);
            const size_t noise_bytes[] = {0, 32, 64};
            fill_leaf_to(node, node_bytes, noise_bytes[i / 3 % 3],
                         (unsigned)(node_bytes / 84 * (i / 9) / 4));
            const struct kv_stored_form form = {.codec = {codecs[i % 3], 0}, .bare = true};
            enum kv_codec used;
            const size_t length = store_as(node, node_bytes, form, stored, &used);
            ck_assert_uint_le(length, node_bytes);
            if (used == KV_CODEC_NONE && length == node_bytes)
                expect_back(stored, length, used, node, node_bytes);
            else
                expect_records_back(stored, length, used, node, node_bytes);
            free(node);
            free(stored);
        }
}
END_TEST

START_TEST(records_pack_to_a_tenth_less_without_slots)
{
    const size_t node_bytes = 16384;
    uint8_t *node = malloc(node_bytes), *stored = malloc(node_bytes);
    fill_leaf_by(node, node_bytes, 32, 130, 37); /* their cells are not in the order of the keys */
    for (unsigned i = 1; i < 3; i++) {
        const struct kv_codec_spec spec = {codecs[i], 1};
        const struct kv_stored_form bare = {.codec = spec, .bare = true};
        enum kv_codec used;
        const size_t with = store_page(node, node_bytes, spec, stored, &used);
        ck_assert_int_eq(used, spec.codec);
        const size_t without = store_as(node, node_bytes, bare, stored, &used);
        ck_assert_int_eq(used, spec.codec);
        ck_assert_int_eq(shape_of(stored), KV_STORED_BARE);
        ck_assert_uint_lt(without, with - with / 10);
    }
    free(node);
    free(stored);
}
END_TEST

/* In memory bytes count where on the device blocks do. */
START_TEST(a_page_without_slots_is_packed_for_an_eighth_of_its_bytes)
{
    const size_t node_bytes = 16384;
    uint8_t *node = malloc(node_bytes), *bare = malloc(node_bytes), *stored = malloc(node_bytes);
    const struct kv_stored_form form = {.codec = {KV_CODEC_LZ4, 0}, .bare = true};
    unsigned saves_bytes = 0;
    for (unsigned keys = 40; keys < 100; keys++) {
        fill_leaf_to(node, node_bytes, 44, keys);
        const size_t plain = kv_node_strip(node, node_bytes, bare);
        enum kv_codec used;
        const size_t length = store_as(node, node_bytes, form, stored, &used);
        if (used == KV_CODEC_NONE)
            continue;
        ck_assert(length <= plain - plain / 8 || kv_blocks_for(length) < kv_blocks_for(plain));
        saves_bytes += kv_blocks_for(length) == kv_blocks_for(plain);
    }
    ck_assert_uint_gt(saves_bytes, 0);
    free(node);
    free(bare);
    free(stored);
}
END_TEST

/* Slots are made again in vain if that saves nothing. */
START_TEST(a_page_that_is_not_packed_keeps_its_slots_unless_a_block_is_saved)
{
    const size_t node_bytes = 16384;
    uint8_t *node = malloc(node_bytes), *bare = malloc(node_bytes), *stored = malloc(node_bytes);
    const struct kv_stored_form form = {.codec = {KV_CODEC_NONE, 0}, .dense = true, .bare = true};
    unsigned seen[2] = {0};
    for (unsigned keys = 0; keys < 180; keys++) {
        fill_leaf_to(node, node_bytes, 64, keys);
        const size_t plain = kv_node_strip(node, node_bytes, bare);
        enum kv_codec used;
        const size_t length = store_as(node, node_bytes, form, stored, &used);
        const enum kv_stored_shape shape = shape_of(stored);
        ck_assert_int_eq(used, KV_CODEC_NONE);
        ck_assert_int_eq(shape, kv_blocks_for(plain) < kv_blocks_for(node_bytes) ? KV_STORED_BARE
                                                                                 : KV_STORED_NODE);
        ck_assert_uint_eq(length, shape == KV_STORED_BARE ? plain : node_bytes);
        seen[shape]++;
    }
    ck_assert_uint_gt(seen[KV_STORED_NODE], 0);
    ck_assert_uint_gt(seen[KV_STORED_BARE], 0);
    free(node);
    free(bare);
    free(stored);
}
END_TEST

START_TEST(nonsense_about_a_page_without_slots_is_refused)
{
    const size_t node_bytes = 16384;
    uint8_t *node = malloc(node_bytes), *stored = malloc(node_bytes), *back = malloc(node_bytes);
    uint8_t *changed = malloc(node_bytes);
    fill_leaf_to(node, node_bytes, 64, 100);
    for (unsigned i = 0; i < 2; i++) {
        const struct kv_stored_form form = {.codec = {codecs[i], 0}, .bare = true};
        enum kv_codec used;
        const size_t length = store_as(node, node_bytes, form, stored, &used);
        ck_assert_int_eq(shape_of(stored), KV_STORED_BARE);
        struct kv_disk_node *const header = (struct kv_disk_node *)changed;
        for (unsigned what = 0; what < 7; what++) {
            memcpy(changed, stored, length);
            const size_t heap_start = kv_le32_get(header->heap_start);
            size_t said = length;
            if (what == 0)
                header->stored_shape = KV_STORED_BARE + 1;
            else if (what == 1)
                header->stored_shape = KV_STORED_NODE;
            else if (what == 2)
                header->heap_start = kv_le32_of((uint32_t)heap_start - 1);
            else if (what == 3)
                header->heap_start = kv_le32_of((uint32_t)heap_start + 1);
            else if (what == 4)
                header->slot_count = kv_le16_of(99);
            else if (what == 5)
                header->garbage_bytes = kv_le32_of(1);
            else
                header->stored_bytes = kv_le32_of((uint32_t)(said = length - 1));
            ck_assert_int_eq(kv_stored_page_unpack(changed, said, (uint8_t)used, PAGE_ID, EPOCH,
                                                   back, node_bytes),
                             -EUCLEAN);
        }
    }
    free(node);
    free(stored);
    free(back);
    free(changed);
}
END_TEST

/* The header of a hostile page says anything of where its cells begin. */
START_TEST(nonsense_about_the_gap_is_refused)
{
    const size_t node_bytes = 16384;
    uint8_t *node = malloc(node_bytes), *stored = malloc(node_bytes), *back = malloc(node_bytes);
    fill_leaf_to(node, node_bytes, 64, 10);
    enum kv_codec used;
    const struct kv_codec_spec spec = {KV_CODEC_NONE, 0};
    const size_t length = store_page(node, node_bytes, spec, stored, &used);
    struct kv_disk_node *const header = (struct kv_disk_node *)stored;
    const uint32_t starts[] = {0, 63, 64, 143, (uint32_t)node_bytes + 1, UINT32_MAX};
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        header->heap_start = kv_le32_of(starts[i]);
        ck_assert_int_eq(
            kv_stored_page_unpack(stored, length, KV_CODEC_NONE, PAGE_ID, EPOCH, back, node_bytes),
            -EUCLEAN);
    }
    header->heap_start = ((struct kv_disk_node *)node)->heap_start;
    header->slot_count = kv_le16_of(UINT16_MAX);
    ck_assert_int_eq(
        kv_stored_page_unpack(stored, length, KV_CODEC_NONE, PAGE_ID, EPOCH, stored, node_bytes),
        -EUCLEAN);
    free(node);
    free(stored);
    free(back);
}
END_TEST

START_TEST(only_what_led_to_a_page_unpacks_it)
{
    const size_t node_bytes = 16384;
    uint8_t *node = malloc(node_bytes), *stored = malloc(node_bytes), *back = malloc(node_bytes);
    fill_leaf(node, node_bytes, 0);
    enum kv_codec used;
    const struct kv_codec_spec spec = {KV_CODEC_LZ4, 0};
    const size_t length = store_page(node, node_bytes, spec, stored, &used);
    ck_assert_int_eq(used, KV_CODEC_LZ4);
    const struct {
        size_t length;
        uint8_t codec;
        uint64_t page_id, epoch;
    } wrong[] = {
        {length - 1, KV_CODEC_LZ4, PAGE_ID, EPOCH},  {10, KV_CODEC_LZ4, PAGE_ID, EPOCH},
        {length, KV_CODEC_NONE, PAGE_ID, EPOCH},     {length, KV_CODEC_ZSTD, PAGE_ID, EPOCH},
        {length, KV_CODEC_LZ4, PAGE_ID + 1, EPOCH},  {length, KV_CODEC_LZ4, PAGE_ID, EPOCH + 1},
        {node_bytes, KV_CODEC_NONE, PAGE_ID, EPOCH},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        ck_assert_int_eq(kv_stored_page_unpack(stored, wrong[i].length, wrong[i].codec,
                                               wrong[i].page_id, wrong[i].epoch, back, node_bytes),
                         -EUCLEAN);
    /* A packed page can not be its own unpacked form. */
    ck_assert_int_eq(
        kv_stored_page_unpack(stored, length, KV_CODEC_LZ4, PAGE_ID, EPOCH, stored, node_bytes),
        -EUCLEAN);
    free(node);
    free(stored);
    free(back);
}
END_TEST

START_TEST(a_page_with_any_bit_changed_or_out_of_place_is_not_genuine)
{
    const size_t node_bytes = 8192;
    for (unsigned i = 0; i < 3; i++) {
        uint8_t *node = malloc(node_bytes), *stored = malloc(node_bytes);
        fill_leaf(node, node_bytes, 0);
        enum kv_codec used;
        const struct kv_codec_spec spec = {codecs[i], 0};
        const size_t length = store_page(node, node_bytes, spec, stored, &used);
        ck_assert(kv_stored_page_genuine(stored, length, IMAGE_ID, BLOCK));
        ck_assert(!kv_stored_page_genuine(stored, length, IMAGE_ID + 1, BLOCK));
        ck_assert(!kv_stored_page_genuine(stored, length, IMAGE_ID, BLOCK + 1));
        for (size_t at = 0; at < length; at++) {
            stored[at] ^= (uint8_t)(1u << at % 8);
            ck_assert(!kv_stored_page_genuine(stored, length, IMAGE_ID, BLOCK));
            stored[at] ^= (uint8_t)(1u << at % 8);
        }
        ck_assert(kv_stored_page_genuine(stored, length, IMAGE_ID, BLOCK));
        free(node);
        free(stored);
    }
}
END_TEST

START_TEST(what_begins_otherwise_has_no_length)
{
    const size_t node_bytes = 4096;
    uint8_t node[4096], stored[4096], changed[4096];
    fill_leaf(node, node_bytes, 0);
    enum kv_codec used;
    const struct kv_codec_spec spec = {KV_CODEC_NONE, 0};
    (void)store_page(node, node_bytes, spec, stored, &used);
    ck_assert_uint_eq(kv_stored_page_length(stored, node_bytes), node_bytes);

    struct kv_disk_node *const header = (struct kv_disk_node *)changed;
    memcpy(changed, stored, sizeof changed);
    header->magic = kv_le32_of(KV_NODE_MAGIC + 1);
    ck_assert_uint_eq(kv_stored_page_length(changed, node_bytes), 0);
    memcpy(changed, stored, sizeof changed);
    header->page_id = kv_le64_of(KV_PAGE_ID_MAX + 1);
    ck_assert_uint_eq(kv_stored_page_length(changed, node_bytes), 0);
    memcpy(changed, stored, sizeof changed);
    header->level = KV_TREE_DEPTH_MAX;
    ck_assert_uint_eq(kv_stored_page_length(changed, node_bytes), 0);
    memcpy(changed, stored, sizeof changed);
    header->stored_bytes = kv_le32_of((uint32_t)node_bytes + 1);
    ck_assert_uint_eq(kv_stored_page_length(changed, node_bytes), 0);
    header->stored_bytes = kv_le32_of(sizeof *header - 1);
    ck_assert_uint_eq(kv_stored_page_length(changed, node_bytes), 0);
    memset(changed, 0, sizeof changed);
    ck_assert_uint_eq(kv_stored_page_length(changed, node_bytes), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stored_page");
    TCase *tests = tcase_create("stored_page");
    tcase_add_test(tests, a_page_of_every_size_and_codec_comes_back);
    tcase_add_test(tests, a_page_stays_plain_when_its_header_takes_what_packing_saves);
    tcase_add_test(tests, a_page_that_is_not_packed_leaves_out_its_free_bytes);
    tcase_add_test(tests, an_image_without_the_feature_gets_whole_pages);
    tcase_add_test(tests, a_page_without_slots_of_every_size_codec_and_fill_comes_back);
    tcase_add_test(tests, records_pack_to_a_tenth_less_without_slots);
    tcase_add_test(tests, a_page_without_slots_is_packed_for_an_eighth_of_its_bytes);
    tcase_add_test(tests, a_page_that_is_not_packed_keeps_its_slots_unless_a_block_is_saved);
    tcase_add_test(tests, nonsense_about_a_page_without_slots_is_refused);
    tcase_add_test(tests, nonsense_about_the_gap_is_refused);
    tcase_add_test(tests, only_what_led_to_a_page_unpacks_it);
    tcase_add_test(tests, a_page_with_any_bit_changed_or_out_of_place_is_not_genuine);
    tcase_add_test(tests, what_begins_otherwise_has_no_length);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
