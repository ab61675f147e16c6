/*
 * tests/faults/golden/make_golden.c: make the golden image of this version of the format.
 *
 *   make_golden IMAGE MANIFEST [none]
 *
 * IMAGE becomes a file of 16 MiB, to be packed with zstd, that has everything the format knows:
 * files of each kind of content, links, attributes, lists, clones, an orphan, and a log that must
 * be replayed. MANIFEST says what is in it. With "none" pages are not packed. Run once for each
 * version, by hand (README.md).
 */
#include "golden.h"

#include "fs/acl.h"
#include "fs/format.h"
#include "fs/record.h"
#include "fs/volume.h"
#include "fs/xattr.h"
#include "kv/store.h"
#include "tests/kv/support_store.h"

#include <linux/falloc.h>
#include <sys/sysmacros.h>

#define IMAGE_BYTES (16u << 20)

static void must_work(int err, const char *what)
{
    if (!err)
        return;
    fprintf(stderr, "make_golden: %s: %s\n", what, strerror(-err));
    exit(1);
}

/* ---- files --------------------------------------------------------------------------- */

struct maker {
    struct kv_store *store;
    struct fs_volume *volume;
};

static uint64_t make(struct maker *maker, uint64_t parent, const char *name, uint32_t mode,
                     uint64_t rdev, const char *target)
{
    const struct fs_caller caller = {.uid = 1000, .gid = 100, .umask = 0};
    const struct fs_new_node node = {
        .mode = mode, .rdev = rdev, .target = target, .target_len = target ? strlen(target) : 0};
    struct fs_record record;
    must_work(fs_create(maker->volume, &caller, parent, name, strlen(name), &node, &record), name);
    return record.file.ino;
}

static void write_at(struct maker *maker, uint64_t ino, uint64_t offset, uint64_t length,
                     uint64_t identity, bool random)
{
    uint8_t *bytes = malloc(length);
    if (!bytes) {
        must_work(-ENOMEM, "memory");
        return;
    }
    if (random)
        test_fill(bytes, length, identity);
    for (uint64_t i = 0; !random && i < length; i++) /* different everywhere, and packs well */
        bytes[i] = (uint8_t)(i / 64 * (identity + 1));
    must_work(fs_write(maker->volume, ino, offset, bytes, length, false), "write");
    free(bytes);
}

static uint64_t make_file(struct maker *maker, uint64_t parent, const char *name, uint64_t length,
                          uint64_t identity, bool random)
{
    const uint64_t ino = make(maker, parent, name, S_IFREG | 0644, 0, NULL);
    if (length)
        write_at(maker, ino, 0, length, identity, random);
    return ino;
}

static void set(struct maker *maker, uint64_t ino, const char *name, const void *value,
                size_t length)
{
    must_work(fs_setxattr(maker->volume, ino, name, value, length, 0, false), name);
}

/* ---- content of each kind ------------------------------------------------------------ */

static void make_contents(struct maker *maker)
{
    const uint64_t dir = make(maker, FS_ROOT_INO, "content", S_IFDIR | 0755, 0, NULL);
    make_file(maker, dir, "empty", 0, 0, false);
    make_file(maker, dir, "inline", 200, 1, true);
    make_file(maker, dir, "packed", 3000, 2, true);
    maker->store->blobs.codec = (struct kv_codec_spec){.codec = KV_CODEC_NONE};
    const uint64_t plain = make_file(maker, dir, "plain", 30000, 3, true);
    maker->store->blobs.codec = (struct kv_codec_spec){.codec = KV_CODEC_LZ4};
    make_file(maker, dir, "lz4", 300000, 4, false);
    maker->store->blobs.codec = (struct kv_codec_spec){.codec = KV_CODEC_ZSTD, .level = 3};
    make_file(maker, dir, "zstd", 300000, 5, false);
    const uint64_t large = make_file(maker, dir, "large", 1u << 20, 6, false);
    write_at(maker, large, 1u << 20, 1u << 20, 7, false);
    const uint64_t sparse = make_file(maker, dir, "sparse", 100, 8, true);
    write_at(maker, sparse, 1u << 30, 5000, 9, true);
    const uint64_t punched = make_file(maker, dir, "punched", 200000, 10, false);
    must_work(fs_fallocate(maker->volume, punched, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           50000, 70000),
              "punch");
    const uint64_t unwritten = make_file(maker, dir, "unwritten", 10, 11, true);
    must_work(fs_fallocate(maker->volume, unwritten, 0, 0, 500000), "allocate");
    const uint64_t clone = make_file(maker, dir, "clone", 10, 12, true);
    for (uint64_t at = 0, copied; at < 30000; at += copied)
        must_work(fs_copy_range(maker->volume, plain, at, clone, at, 30000 - at, &copied), "clone");
    const uint64_t changed = make_file(maker, dir, "changed clone", 10, 13, true);
    for (uint64_t at = 0, copied; at < 30000; at += copied)
        must_work(fs_copy_range(maker->volume, plain, at, changed, at, 30000 - at, &copied),
                  "clone");
    write_at(maker, changed, 12345, 100, 14, true);
}

/* ---- names, types and attributes ----------------------------------------------------- */

static void make_names(struct maker *maker)
{
    static const char odd[] = "line\nbreak \\ \xff";
    static const char unicode[] = "\xc3\xa9\xe6\xbc\xa2\xf0\x9f\x97\x84";
    struct fs_record record;
    char longest[FS_NAME_MAX + 1], target[FS_SYMLINK_MAX + 1];
    memset(longest, 'n', FS_NAME_MAX);
    longest[FS_NAME_MAX] = '\0';
    memset(target, 't', FS_SYMLINK_MAX);
    target[FS_SYMLINK_MAX] = '\0';
    const uint64_t dir = make(maker, FS_ROOT_INO, "names", S_IFDIR | S_ISVTX | 0777, 0, NULL);
    const uint64_t file = make_file(maker, dir, "file", 20, 20, true);
    make_file(maker, dir, longest, 20, 21, true);
    make_file(maker, dir, odd, 20, 22, true);
    make_file(maker, dir, unicode, 20, 23, true);
    must_work(fs_link(maker->volume, file, FS_ROOT_INO, "second name", 11, &record), "link");
    must_work(fs_link(maker->volume, file, dir, "third name", 10, &record), "link");
    make(maker, dir, "symlink", S_IFLNK | 0777, 0, "file");
    make(maker, dir, "long symlink", S_IFLNK | 0777, 0, target);
    make(maker, dir, "fifo", S_IFIFO | 0600, 0, NULL);
    make(maker, dir, "socket", S_IFSOCK | 0600, 0, NULL);
    make(maker, dir, "null", S_IFCHR | 0666, makedev(1, 3), NULL);
    make(maker, dir, "disk", S_IFBLK | 0660, makedev(259, 70000), NULL);
    make(maker, dir, "setuid", S_IFREG | S_ISUID | S_ISGID | 0755, 0, NULL);
    uint64_t deep = dir;
    for (unsigned i = 0; i < 5; i++)
        deep = make(maker, deep, "deeper", S_IFDIR | 0700, 0, NULL);
    make_file(maker, deep, "deepest", 20, 24, true);
    const uint64_t many = make(maker, FS_ROOT_INO, "many", S_IFDIR | 0755, 0, NULL);
    for (unsigned i = 0; i < 300; i++) { /* so that the trees have inner pages */
        char name[24];
        snprintf(name, sizeof name, "file %04u", i);
        make_file(maker, many, name, 30 + i % 200, 1000 + i, false);
    }
}

static void make_attributes(struct maker *maker)
{
    /* user::rw-, user:1001:r--, group::r--, mask::rw-, other::--- */
    static const struct {
        struct fs_disk_acl_header header;
        struct fs_disk_acl_entry entries[5];
    } list = {{{{FS_ACL_VERSION, 0, 0, 0}}},
              {{{{FS_ACL_USER_OBJ, 0}}, {{6, 0}}, {{255, 255, 255, 255}}},
               {{{FS_ACL_USER, 0}}, {{4, 0}}, {{0xe9, 3, 0, 0}}},
               {{{FS_ACL_GROUP_OBJ, 0}}, {{4, 0}}, {{255, 255, 255, 255}}},
               {{{FS_ACL_MASK, 0}}, {{6, 0}}, {{255, 255, 255, 255}}},
               {{{FS_ACL_OTHER, 0}}, {{0, 0}}, {{255, 255, 255, 255}}}}};
    static const uint8_t capability[20] = {0, 0, 0, 2, 0, 4};
    uint8_t large[5000];
    const uint64_t dir = make(maker, FS_ROOT_INO, "attributes", S_IFDIR | 0755, 0, NULL);
    const uint64_t file = make_file(maker, dir, "user", 20, 30, true);
    set(maker, file, "user.colour", "blue", 4);
    set(maker, file, "user.empty", "", 0);
    test_fill(large, sizeof large, 31);
    set(maker, file, "user.large", large, sizeof large);
    set(maker, file, "trusted.secret", "1", 1);
    set(maker, make_file(maker, dir, "capable", 20, 32, true), FS_XATTR_CAPABILITY, capability,
        sizeof capability);
    set(maker, make_file(maker, dir, "access list", 20, 33, true), FS_XATTR_ACCESS_ACL, &list,
        sizeof list);
    const uint64_t below = make(maker, dir, "default list", S_IFDIR | 0750, 0, NULL);
    set(maker, below, FS_XATTR_DEFAULT_ACL, &list, sizeof list);
    make_file(maker, below, "heir", 20, 34, true);
}

/* What only the log has when the image is left. */
static void make_log(struct maker *maker)
{
    const uint64_t dir = make(maker, FS_ROOT_INO, "in the log", S_IFDIR | 0755, 0, NULL);
    make_file(maker, dir, "inline", 100, 40, true);
    make_file(maker, dir, "blob", 50000, 41, false);
    struct fs_record record;
    must_work(fs_sync(maker->volume), "sync");
    must_work(fs_lookup(maker->volume, FS_ROOT_INO, "many", 4, &record), "lookup");
    const uint64_t many = record.file.ino;
    must_work(fs_unlink(maker->volume, many, "file 0007", 9), "unlink");
    must_work(fs_rename(maker->volume, many, "file 0008", 9, dir, "renamed", 7, 0), "rename");
    /* Still open when the power goes: an orphan. */
    make_file(maker, FS_ROOT_INO, "orphan", 40000, 42, false);
    must_work(fs_unlink(maker->volume, FS_ROOT_INO, "orphan", 6), "unlink");
    must_work(fs_sync(maker->volume), "sync");
    make_file(maker, dir, "last", 100, 43, true);
    must_work(fs_sync(maker->volume), "sync");
}

/* ---- the image ----------------------------------------------------------------------- */

static void make_image(const char *path, enum kv_codec codec)
{
    const struct kv_create_options create = {.size_bytes = IMAGE_BYTES,
                                             .node_bytes = 16384,
                                             .log_bytes = 1u << 20,
                                             .codec = {codec, codec ? 3 : 0},
                                             .label = "golden",
                                             .force = true};
    const struct kv_open_options open = {
        .memory_budget_bytes = 8u << 20, .no_background = true, .log = test_log_nothing};
    const struct fs_volume_options quiet = {.log = test_log_nothing};
    struct kv_error why = {""};
    struct maker maker;
    must_work(kv_create(path, &create, &why), path);
    must_work(kv_open(path, &open, &maker.store, &why), path);
    must_work(fs_format(maker.store, 0, 0, 0755), "format");
    must_work(fs_volume_open(maker.store, &quiet, &maker.volume, &why), "volume");
    make_contents(&maker);
    make_names(&maker);
    make_attributes(&maker);
    must_work(fs_checkpoint(maker.volume), "checkpoint");
    make_log(&maker);
    kv_abandon(maker.store); /* the volume goes with the process, as in a crash */
}

int main(int argc, char **argv)
{
    const bool plain = argc == 4 && !strcmp(argv[3], kv_codec_name(KV_CODEC_NONE));
    if (argc != 3 && !plain) {
        fputs("usage: make_golden IMAGE MANIFEST [none]\n", stderr);
        return 2;
    }
    make_image(argv[1], plain ? KV_CODEC_NONE : KV_CODEC_ZSTD);
    const struct kv_open_options read_only = {.read_only = true, .log = test_log_nothing};
    struct kv_store *store;
    struct kv_error why = {""};
    must_work(kv_open(argv[1], &read_only, &store, &why), argv[1]);
    FILE *out = fopen(argv[2], "we");
    must_work(out ? 0 : -errno, argv[2]);
    must_work(golden_manifest(store, out), "manifest");
    must_work(fclose(out) ? -errno : 0, argv[2]);
    must_work(kv_close(store), "close");
    printf("make_golden: version %u of the format\n", KV_FORMAT_VERSION);
    return 0;
}
