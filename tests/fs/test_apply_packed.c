/*
 * tests/fs/test_apply_packed.c: packed changes come out as they went in, whatever is not well
 * formed is refused, and what is well formed leaves a sound filesystem, whatever it says.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/acl.h"
#include "fs/apply_packed.h"
#include "fs/format.h"
#include "fs/fsck.h"
#include "fs/namespace.h"
#include "fs/xattr.h"
#include "scratch_store.h"
#include "tests/run.h"

static const struct fs_caller root = {.uid = 0}, ada = {.uid = 1000, .gid = 100};
static struct scratch_store scratch;
static struct fs_volume *volume;
static struct kv_error error;

static void setup(void)
{
    const struct fs_volume_options options = {.read_only = false};
    scratch_open(&scratch, 64u << 20, 0, 0);
    ck_assert_int_eq(fs_format(scratch.store, 0, 0, 0755), 0);
    ck_assert_int_eq(fs_volume_open(scratch.store, &options, &volume, &error), 0);
    *error.text = '\0';
}

static void take_finding(void *context, enum kv_check_severity severity, const char *what,
                         const char *text)
{
    (void)context;
    ck_assert_msg(severity == KV_CHECK_NOTE, "%s: %s", what, text);
}

static void teardown(void)
{
    const struct kv_check_options options = {.report = take_finding};
    struct kv_check_result result;
    fs_volume_close(volume);
    ck_assert_int_eq(fs_check(scratch.store, &options, &result), 0);
    ck_assert_uint_eq(result.damaged + result.repairable, 0);
    scratch_close(&scratch);
}

/* ---- packing ------------------------------------------------------------------------- */

static const struct fs_apply_xattr two_xattrs[] = {{"user.one", "1", 1}, {"trusted.empty", "", 0}};
static const struct fs_apply_attributes file = {.mode = S_IFREG | 0640,
                                                .uid = 5,
                                                .gid = 6,
                                                .atime_ns = -1,
                                                .mtime_ns = 123456789012345678,
                                                .xattrs = two_xattrs,
                                                .xattr_count = 2,
                                                .keep_same = true};
static const struct fs_apply_attributes directory = {.mode = S_IFDIR | 01777};
static const struct fs_apply_attributes symlink_ = {.mode = S_IFLNK | 0777};
static const struct fs_apply_attributes device = {.mode = S_IFCHR | 0600, .rdev = 259};

static const struct fs_apply_change sample[] = {
    {.kind = FS_APPLY_STORE, .path = "", .bytes = "", .attributes = &directory},
    {.kind = FS_APPLY_STORE, .path = "d", .bytes = "", .attributes = &directory},
    {.kind = FS_APPLY_STORE, .path = "d/f", .bytes = "a\0b", .length = 3, .attributes = &file},
    {.kind = FS_APPLY_LINK, .path = "d/link", .to = "d/f"},
    {.kind = FS_APPLY_STORE, .path = "l", .bytes = "to", .length = 2, .attributes = &symlink_},
    {.kind = FS_APPLY_STORE, .path = "c", .bytes = "", .attributes = &device},
};
#define SAMPLE_COUNT (sizeof sample / sizeof *sample)

static uint8_t *pack(const struct fs_apply_change *changes, size_t count, size_t *length)
{
    *length = sizeof(struct fs_disk_packed_header);
    for (size_t i = 0; i < count; i++)
        *length += fs_apply_packed_size(&changes[i]);
    uint8_t *bytes = malloc(*length);
    ck_assert_ptr_nonnull(bytes);
    fs_apply_pack(changes, count, bytes);
    return bytes;
}

static int unpack_and_apply(const void *bytes, size_t length, const struct fs_caller *caller)
{
    struct fs_apply_unpacked unpacked;
    struct fs_apply_result result;
    *error.text = '\0';
    int err = fs_apply_unpack(bytes, length, &unpacked, &error);
    if (err)
        return err;
    err = fs_apply_confine(&unpacked, caller, &error);
    if (!err) {
        err = fs_apply(volume, caller, unpacked.changes, unpacked.count, 0, NULL, &result);
        error = result.error;
    }
    fs_apply_unpacked_release(&unpacked);
    return err;
}

static int apply_as(const struct fs_apply_change *changes, size_t count,
                    const struct fs_caller *caller)
{
    size_t length;
    uint8_t *bytes = pack(changes, count, &length);
    const int err = unpack_and_apply(bytes, length, caller);
    free(bytes);
    return err;
}

static struct fs_record record_at(const char *path)
{
    struct fs_record record;
    ck_assert_int_eq(fs_path_stat(volume, path, &record), 0);
    return record;
}

START_TEST(changes_come_out_as_they_went_in)
{
    size_t length;
    uint8_t *bytes = pack(sample, SAMPLE_COUNT, &length);
    struct fs_apply_unpacked unpacked;
    ck_assert_int_eq(fs_apply_unpack(bytes, length, &unpacked, &error), 0);
    ck_assert_uint_eq(unpacked.count, SAMPLE_COUNT);
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        const struct fs_apply_change *in = &sample[i], *out = &unpacked.changes[i];
        ck_assert_int_eq(out->kind, in->kind);
        ck_assert_str_eq(out->path, in->path);
        if (in->kind == FS_APPLY_LINK) {
            ck_assert_str_eq(out->to, in->to);
            continue;
        }
        const struct fs_apply_attributes *was = in->attributes, *is = out->attributes;
        ck_assert_uint_eq(out->length, in->length);
        ck_assert_mem_eq(out->bytes, in->bytes, in->length);
        ck_assert(is->mode == was->mode && is->uid == was->uid && is->gid == was->gid);
        ck_assert(is->atime_ns == was->atime_ns && is->mtime_ns == was->mtime_ns);
        ck_assert(is->rdev == was->rdev && is->keep_same == was->keep_same);
        ck_assert_uint_eq(is->xattr_count, was->xattr_count);
        for (size_t x = 0; x < was->xattr_count; x++) {
            ck_assert_str_eq(is->xattrs[x].name, was->xattrs[x].name);
            ck_assert_uint_eq(is->xattrs[x].length, was->xattrs[x].length);
            ck_assert_mem_eq(is->xattrs[x].value, was->xattrs[x].value, was->xattrs[x].length);
        }
    }
    fs_apply_unpacked_release(&unpacked);
    free(bytes);
    ck_assert_int_eq(apply_as(sample, SAMPLE_COUNT, &root), 0);
    ck_assert_uint_eq(record_at("d/link").file.ino, record_at("d/f").file.ino);
    ck_assert_uint_eq(record_at("d/f").uid, 5);
    ck_assert_uint_eq(record_at("c").rdev, 259);
    ck_assert_int_eq(apply_as(sample, 0, &root), 0); /* nothing is fine, too */
}
END_TEST

/* ---- what is wrong ------------------------------------------------------------------------ */

START_TEST(every_truncation_is_refused)
{
    size_t length;
    uint8_t *bytes = pack(sample, SAMPLE_COUNT, &length);
    for (size_t cut = 0; cut < length; cut++) {
        struct fs_apply_unpacked unpacked;
        uint8_t *copy = malloc(cut ? cut : 1); /* ends where its memory ends */
        ck_assert_ptr_nonnull(copy);
        memcpy(copy, bytes, cut);
        ck_assert_int_eq(fs_apply_unpack(copy, cut, &unpacked, &error), -EINVAL);
        if (cut >= sizeof(struct fs_disk_packed_header)) { /* also when it says that it is whole */
            const kv_le32 said = kv_le32_of((uint32_t)cut);
            memcpy(copy + 8, &said, sizeof said);
            ck_assert_int_eq(fs_apply_unpack(copy, cut, &unpacked, &error), -EINVAL);
        }
        free(copy);
    }
    free(bytes);
}
END_TEST

static void refuses(const struct fs_apply_change *change, const struct fs_caller *caller, int err,
                    const char *words)
{
    struct fs_record record;
    const struct fs_apply_change changes[] = {
        {.kind = FS_APPLY_STORE, .path = "before", .bytes = "", .attributes = &directory}, *change};
    ck_assert_int_eq(apply_as(changes, 2, caller), err);
    ck_assert_msg(strstr(error.text, words) != NULL, "%s: %s", words, error.text);
    ck_assert_int_eq(fs_path_stat(volume, "before", &record), -ENOENT); /* nothing was made */
}

START_TEST(bad_names_and_attributes_are_refused_whole)
{
    static const char *const names[] = {"..", "a/../b", ".", "a//b", "a/", "/a/./b", "//"};
    struct fs_apply_attributes attributes = {.mode = S_IFREG | 0644};
    struct fs_apply_change change = {
        .kind = FS_APPLY_STORE, .bytes = "x", .length = 1, .attributes = &attributes};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        change.path = names[i];
        refuses(&change, &root, -EINVAL, "not a key");
    }
    char longest[300];
    memset(longest, 'n', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    change.path = longest;
    refuses(&change, &root, -ENAMETOOLONG, "longer than 255");

    change.path = "f";
    attributes.mode = 0644; /* of no type */
    refuses(&change, &root, -EINVAL, "");
    attributes.mode = S_IFREG | 0x10000;
    refuses(&change, &root, -EINVAL, "not well formed");
    attributes.mode = S_IFDIR | 0755; /* with content */
    refuses(&change, &root, -EINVAL, "not well formed");
    attributes = (struct fs_apply_attributes){.mode = S_IFREG | 0644, .rdev = 1};
    refuses(&change, &root, -EINVAL, "not well formed");
    attributes = (struct fs_apply_attributes){.mode = S_IFLNK | 0777};
    change.length = 0; /* a target of no bytes */
    refuses(&change, &root, -EINVAL, "not well formed");

    static const uint8_t half_acl[6] = {2};
    static const struct fs_apply_xattr bad[] = {
        {"system.other", "", 0},
        {"user.", "", 0},
        {FS_XATTR_ACCESS_ACL, half_acl, 6},
        {FS_XATTR_DEFAULT_ACL, half_acl, 4} /* of a file */};
    attributes = (struct fs_apply_attributes){.mode = S_IFREG | 0644, .xattr_count = 1};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        attributes.xattrs = &bad[i];
        refuses(&change, &root, -EOPNOTSUPP, "can not have");
    }
    change = (struct fs_apply_change){.kind = FS_APPLY_LINK, .path = "x", .to = "nothing"};
    refuses(&change, &root, -ENOENT, "nothing");
}
END_TEST

START_TEST(who_is_not_root_gets_what_is_his)
{
    struct fs_apply_attributes attributes = {.mode = S_IFREG | 04755, .uid = 0, .gid = 0};
    struct fs_apply_change change = {.kind = FS_APPLY_STORE,
                                     .path = "mine",
                                     .bytes = "x",
                                     .length = 1,
                                     .attributes = &attributes};
    ck_assert_int_eq(apply_as(&change, 1, &ada), 0);
    ck_assert_uint_eq(record_at("mine").uid, 1000);
    ck_assert_uint_eq(record_at("mine").gid, 100);
    static const struct fs_apply_xattr privileged[] = {{"trusted.x", "", 0}, {"security.x", "", 0}};
    attributes.xattr_count = 1;
    for (size_t i = 0; i < 2; i++) {
        attributes.xattrs = &privileged[i];
        refuses(&change, &ada, -EPERM, "for root");
    }
    change.attributes = &device;
    change.length = 0;
    refuses(&change, &ada, -EPERM, "for root");
}
END_TEST

START_TEST(an_access_list_goes_by_the_mode)
{
    const struct fs_disk_acl_header header = {kv_le32_of(FS_ACL_VERSION)};
    const uint16_t entries[][3] = {{FS_ACL_USER_OBJ, 7, 0},
                                   {FS_ACL_USER, 7, 42},
                                   {FS_ACL_GROUP_OBJ, 7, 0},
                                   {FS_ACL_MASK, 7, 0},
                                   {FS_ACL_OTHER, 7, 0}};
    uint8_t acl[sizeof header + 5 * sizeof(struct fs_disk_acl_entry)];
    memcpy(acl, &header, sizeof header);
    for (size_t i = 0; i < 5; i++) {
        const struct fs_disk_acl_entry entry = {
            kv_le16_of(entries[i][0]), kv_le16_of(entries[i][1]),
            kv_le32_of(entries[i][2] ? entries[i][2] : FS_ACL_NO_ID)};
        memcpy(acl + sizeof header + i * sizeof entry, &entry, sizeof entry);
    }
    const struct fs_apply_xattr xattr = {FS_XATTR_ACCESS_ACL, acl, sizeof acl};
    const struct fs_apply_attributes attributes = {
        .mode = S_IFREG | 0640, .xattrs = &xattr, .xattr_count = 1};
    const struct fs_apply_change change = {
        .kind = FS_APPLY_STORE, .path = "f", .bytes = "", .attributes = &attributes};
    ck_assert_int_eq(apply_as(&change, 1, &root), 0);
    uint8_t stored[sizeof acl];
    size_t length;
    uint32_t bits;
    bool minimal;
    struct fs_record record;
    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, "f", 1, &record), 0);
    ck_assert_int_eq(
        fs_getxattr(volume, record.file.ino, FS_XATTR_ACCESS_ACL, stored, sizeof stored, &length),
        0);
    fs_forget(volume, record.file.ino, 1);
    ck_assert_int_eq(fs_acl_to_mode(stored, length, &bits, &minimal), 0);
    ck_assert_uint_eq(bits, 0640);
    ck_assert_uint_eq(record.mode & 07777u, 0640);
}
END_TEST

/* ---- any bytes ------------------------------------------------------------------------- */

START_TEST(whatever_unpacks_leaves_a_sound_filesystem)
{
    uint64_t random = scratch_seed();
    size_t length, taken = 0;
    uint8_t *bytes = pack(sample, SAMPLE_COUNT, &length);
    uint8_t *copy = malloc(length);
    ck_assert_ptr_nonnull(copy);
    const size_t rounds = 4000;
    for (size_t round = 0; round < rounds; round++) {
        memcpy(copy, bytes, length);
        for (unsigned i = 0; i < 1 + round % 3; i++) {
            const size_t first = sizeof(struct fs_disk_packed_header);
            copy[first + scratch_below(&random, length - first)] = (uint8_t)scratch_random(&random);
        }
        taken += unpack_and_apply(copy, length, round % 2 ? &root : &ada) == 0;
    }
    printf("%zu of %zu changed messages were obeyed\n", taken, rounds);
    free(copy);
    free(bytes);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("apply_packed");
    TCase *cases = tcase_create("apply_packed");
    tcase_set_timeout(cases, 400);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, changes_come_out_as_they_went_in);
    tcase_add_test(cases, every_truncation_is_refused);
    tcase_add_test(cases, bad_names_and_attributes_are_refused_whole);
    tcase_add_test(cases, who_is_not_root_gets_what_is_his);
    tcase_add_test(cases, an_access_list_goes_by_the_mode);
    tcase_add_test(cases, whatever_unpacks_leaves_a_sound_filesystem);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
