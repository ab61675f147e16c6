/*
 * tests/faults/damage/harm.c: the ways in which a medium damages blocks silently.
 *
 * Owns       the bytes of one piece of damage.
 */
#include "harm.h"

#include "kv/format.h"

const char *const harm_names[HARM_COUNT] = {
    [HARM_FIRST_BIT] = "bit of the first byte",
    [HARM_LAST_BIT] = "bit of the last byte",
    [HARM_SOME_BIT] = "some bit",
    [HARM_PADDING] = "bit of the padding",
    [HARM_ZERO] = "zeroed",
    [HARM_GARBAGE] = "garbage",
    [HARM_SWAP] = "swapped",
    [HARM_OLD_CONTENT] = "old content",
    [HARM_OLDER_CONTENT] = "older content",
    [HARM_OLD_VERSION] = "older version",
};

static uint8_t *bytes_of(const struct harm *harm, size_t i)
{
    return harm->bytes + i * KV_BLOCK_BYTES;
}

static void add_block(struct harm *harm, struct kv_device *device, uint64_t block)
{
    KV_ASSERT(harm->count < HARM_BLOCKS_MAX);
    uint8_t *was = harm->was + harm->count * KV_BLOCK_BYTES;
    const int err = kv_device_read(device, block, 1, was);
    KV_ASSERT(err == 0);
    memcpy(bytes_of(harm, harm->count), was, KV_BLOCK_BYTES);
    harm->blocks[harm->count++] = block;
}

static void flip(struct harm *harm, size_t offset, struct test_random *random)
{
    harm->bytes[offset] ^= (uint8_t)(1u << test_random_below(random, 8));
}

/* Another block of the same role, and not of the same page or blob. */
static uint64_t find_fellow(const struct sample *sample, uint64_t block, struct test_random *random)
{
    const struct sample_block *info = &sample->blocks[block];
    uint64_t fellow = 0, seen = 0;
    for (uint64_t i = 0; i < SAMPLE_BLOCKS; i++)
        if (sample->blocks[i].role == info->role && i != block &&
            (sample->blocks[i].first != info->first || info->role == ROLE_BITMAP_BITS) &&
            test_random_below(random, ++seen) == 0)
            fellow = i;
    return fellow;
}

static bool swap(struct harm *harm, const struct sample *sample, struct kv_device *device,
                 struct test_random *random)
{
    const uint64_t block = harm->blocks[0];
    const uint64_t fellow = block == KV_SUPERBLOCK_A_BLOCK   ? KV_SUPERBLOCK_B_BLOCK
                            : block == KV_SUPERBLOCK_B_BLOCK ? KV_SUPERBLOCK_A_BLOCK
                                                             : find_fellow(sample, block, random);
    if (!fellow && block != KV_SUPERBLOCK_B_BLOCK)
        return false;
    add_block(harm, device, fellow);
    memcpy(bytes_of(harm, 0), harm->was + KV_BLOCK_BYTES, KV_BLOCK_BYTES);
    memcpy(bytes_of(harm, 1), harm->was, KV_BLOCK_BYTES);
    return true;
}

static bool put_old_content(struct harm *harm, const struct sample *sample, unsigned back)
{
    const uint8_t *old = sample_older_content(sample, harm->blocks[0], back);
    if (old)
        memcpy(harm->bytes, old, KV_BLOCK_BYTES);
    return old != NULL;
}

/* All of the page becomes its older version; what that has less of stays. */
static bool put_old_version(struct harm *harm, const struct sample *sample,
                            struct kv_device *device)
{
    const uint64_t block = harm->blocks[0];
    const struct sample_block *info = &sample->blocks[block];
    const struct sample_version *version = sample_older_version(sample, block);
    if (!version || block != info->first)
        return false;
    for (uint32_t i = 1; i < info->count; i++)
        add_block(harm, device, block + i);
    memcpy(harm->bytes, version->bytes,
           kv_min_u64(version->count, info->count) * (size_t)KV_BLOCK_BYTES);
    return true;
}

/* Does any byte that means something differ? */
static bool makes_a_change(const struct harm *harm, const struct sample *sample)
{
    for (size_t i = 0; i < harm->count; i++) {
        const struct sample_block *info = &sample->blocks[harm->blocks[i]];
        const size_t at = i * KV_BLOCK_BYTES;
        if (info->role > ROLE_BITMAP_INACTIVE &&
            memcmp(harm->bytes + at, harm->was + at, info->used_bytes) != 0)
            return true;
    }
    return false;
}

static bool fill_in(struct harm *harm, const struct sample *sample, struct kv_device *device,
                    enum harm_kind kind, struct test_random *random)
{
    const uint32_t used = sample->blocks[harm->blocks[0]].used_bytes;
    const uint32_t meaning = used ? used : KV_BLOCK_BYTES; /* of a free block: all of it */
    switch (kind) {
    case HARM_FIRST_BIT:
        flip(harm, 0, random);
        return true;
    case HARM_LAST_BIT:
        flip(harm, meaning - 1, random);
        return true;
    case HARM_SOME_BIT:
        flip(harm, test_random_below(random, meaning), random);
        return true;
    case HARM_PADDING:
        if (meaning < KV_BLOCK_BYTES)
            flip(harm, meaning + test_random_below(random, KV_BLOCK_BYTES - meaning), random);
        return meaning < KV_BLOCK_BYTES;
    case HARM_ZERO:
        memset(harm->bytes, 0, KV_BLOCK_BYTES);
        return true;
    case HARM_GARBAGE:
        for (size_t i = 0; i < KV_BLOCK_BYTES; i++)
            harm->bytes[i] = (uint8_t)test_random_next(random);
        return true;
    case HARM_SWAP:
        return swap(harm, sample, device, random);
    case HARM_OLD_CONTENT:
        return put_old_content(harm, sample, 0);
    case HARM_OLDER_CONTENT:
        return put_old_content(harm, sample, 1);
    case HARM_OLD_VERSION:
        return put_old_version(harm, sample, device);
    case HARM_COUNT:
        break;
    }
    return false;
}

bool harm_make(struct harm *harm, const struct sample *sample, struct kv_device *device,
               uint64_t block, enum harm_kind kind, struct test_random *random)
{
    *harm = (struct harm){.bytes = kv_device_alloc(HARM_BLOCKS_MAX * KV_BLOCK_BYTES),
                          .was = kv_device_alloc(HARM_BLOCKS_MAX * KV_BLOCK_BYTES)};
    KV_ASSERT(harm->bytes);
    KV_ASSERT(harm->was);
    add_block(harm, device, block);
    if (!fill_in(harm, sample, device, kind, random) ||
        !memcmp(harm->bytes, harm->was, harm->count * (size_t)KV_BLOCK_BYTES)) {
        harm_release(harm);
        return false;
    }
    harm->changes = makes_a_change(harm, sample);
    return true;
}

void harm_release(struct harm *harm)
{
    free(harm->bytes);
    free(harm->was);
    *harm = (struct harm){.count = 0};
}

static void write_all(const struct harm *harm, struct kv_device *device, const uint8_t *bytes)
{
    for (size_t i = 0; i < harm->count; i++) {
        const int err =
            kv_device_write(device, harm->blocks[i], 1, bytes + i * (size_t)KV_BLOCK_BYTES);
        KV_ASSERT(err == 0);
    }
}

void harm_apply(const struct harm *harm, struct kv_device *device)
{
    write_all(harm, device, harm->bytes);
}

void harm_undo(const struct harm *harm, struct kv_device *device)
{
    write_all(harm, device, harm->was);
}
