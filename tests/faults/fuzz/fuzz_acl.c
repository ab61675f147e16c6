/*
 * tests/faults/fuzz/fuzz_acl.c: the bytes of an access control list (fs/acl.h), and the names
 * under which attributes are stored (fs/xattr.h).
 *
 * Input      mode(4) umask(4), then the list, or the key, as long as the input is.
 */
#include "tests/faults/fuzz/fuzz.h"

#include "fs/acl.h"
#include "fs/xattr.h"

/* All of fs/acl.h has one opinion on a list. */
static void check_list(const struct fuzz_input *input, uint32_t mode, uint32_t umask)
{
    uint8_t *const list = fuzz_copy(input);
    uint8_t *const access = fuzz_copy(input);
    uint32_t bits = 0, new_mode = mode;
    bool minimal = false, keep = false;
    const int valid = fs_acl_validate(list, input->left);
    KV_ASSERT(fs_acl_to_mode(list, input->left, &bits, &minimal) == valid);
    KV_ASSERT(valid || bits <= 0777);

    const int inherited = fs_acl_inherit(list, input->left, umask, &new_mode, access, &keep);
    KV_ASSERT(input->left ? inherited == valid : inherited == 0);
    KV_ASSERT((new_mode | mode) == mode); /* only takes away */
    KV_ASSERT((new_mode & ~0777u) == (mode & ~0777u));
    if (!valid)
        KV_ASSERT(fs_acl_validate(access, input->left) == 0);

    KV_ASSERT(fs_acl_set_mode(list, input->left, mode) == valid);
    if (!valid) {
        KV_ASSERT(fs_acl_to_mode(list, input->left, &bits, &minimal) == 0);
        KV_ASSERT(bits == (mode & 0777u));
    }
    free(access);
    free(list);
}

static void check_key(const struct fuzz_input *input)
{
    uint8_t *const key = fuzz_copy(input);
    uint64_t ino = 0;
    const char *name = NULL;
    size_t name_len = 0;
    if (!fs_xattr_key_parse(key, input->left, &ino, &name, &name_len)) {
        KV_ASSERT(name_len > 0);
        KV_ASSERT(name_len <= FS_XATTR_NAME_MAX);
        KV_ASSERT((const uint8_t *)name + name_len == key + input->left);
        KV_ASSERT(!memchr(name, '\0', name_len));
    }
    free(key);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct fuzz_input input = {bytes, length};
    const uint32_t mode = fuzz_u32(&input);
    const uint32_t umask = fuzz_u32(&input);
    check_list(&input, mode, umask);
    check_key(&input);
    return 0;
}
