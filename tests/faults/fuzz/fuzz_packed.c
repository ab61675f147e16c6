/*
 * tests/faults/fuzz/fuzz_packed.c: packed changes, as they come to a control file
 * (fs/apply_packed.h).
 *
 * Input      the bytes as they are, but for the length, which is made right.
 * Checked    what unpacks points into the bytes, and packs to the same.
 */
#include "tests/faults/fuzz/fuzz.h"

#include "fs/apply_packed.h"

static void check_again(const struct fs_apply_unpacked *unpacked, const uint8_t *bytes,
                        size_t length)
{
    uint64_t size = sizeof(struct fs_disk_packed_header);
    for (size_t i = 0; i < unpacked->count; i++)
        size += fs_apply_packed_size(&unpacked->changes[i]);
    KV_ASSERT(size == length);
    uint8_t *const again = malloc(length);
    KV_ASSERT(again);
    fs_apply_pack(unpacked->changes, unpacked->count, again);
    struct fs_apply_unpacked other;
    struct kv_error error = {""};
    KV_ASSERT(fs_apply_unpack(again, length, &other, &error) == 0);
    KV_ASSERT(other.count == unpacked->count);
    for (size_t i = 0; i < other.count; i++) {
        const struct fs_apply_change *one = &unpacked->changes[i], *two = &other.changes[i];
        KV_ASSERT(one->kind == two->kind);
        KV_ASSERT(strcmp(one->path, two->path) == 0);
        KV_ASSERT(one->length == two->length);
        if (one->kind == FS_APPLY_STORE && one->length > 0) {
            KV_ASSERT((const uint8_t *)one->bytes >= bytes);
            KV_ASSERT((const uint8_t *)one->bytes + one->length <= bytes + length);
            KV_ASSERT(memcmp(one->bytes, two->bytes, one->length) == 0);
        }
    }
    fs_apply_unpacked_release(&other);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    const struct fuzz_input input = {bytes, length};
    struct fs_apply_unpacked unpacked;
    struct kv_error error = {""};
    uint8_t *const copy = fuzz_copy(&input);
    if (length >= sizeof(struct fs_disk_packed_header)) {
        struct fs_disk_packed_header header;
        memcpy(&header, copy, sizeof header);
        header.length = kv_le32_of((uint32_t)length);
        memcpy(copy, &header, sizeof header);
    }
    if (fs_apply_unpack(copy, length, &unpacked, &error) == 0) {
        check_again(&unpacked, copy, length);
        fs_apply_unpacked_release(&unpacked);
    }
    free(copy);
    return 0;
}
