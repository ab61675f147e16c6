/*
 * tests/fs/scratch_store.h: a store in a directory of its own, and a seeded generator.
 *
 * Owns       a directory made by mkdtemp and the image inside it, both gone after close.
 */
#ifndef TESTS_FS_SCRATCH_STORE_H
#define TESTS_FS_SCRATCH_STORE_H

#include "kv/base.h"
#include "kv/codec.h"
#include "kv/format.h"
#include "kv/kv.h"

#include <check.h>
#include <fcntl.h>
#include <unistd.h>

struct scratch_store {
    char directory[64];
    char path[80];
    struct kv_store *store;
};

static inline void scratch_mount(struct scratch_store *scratch)
{
    const struct kv_open_options options = {
        .memory_budget_bytes = 32u << 20, .buffered_io = true, .no_background = true};
    struct kv_error error = {""};
    const int err = kv_open(scratch->path, &options, &scratch->store, &error);
    ck_assert_msg(err == 0, "kv_open: %d %s", err, error.text);
}

/* Make it. scratch_mount opens it. */
static inline void scratch_create(struct scratch_store *scratch, uint64_t size_bytes,
                                  uint32_t node_bytes, uint32_t extent_bytes)
{
    const char *tmp = getenv("TMPDIR");
    const int length = snprintf(scratch->directory, sizeof scratch->directory,
                                "%s/kvfs-test-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_int_lt(length, sizeof scratch->directory);
    ck_assert_ptr_nonnull(mkdtemp(scratch->directory));
    snprintf(scratch->path, sizeof scratch->path, "%s/image", scratch->directory);
    const struct kv_create_options options = {
        .size_bytes = size_bytes, .node_bytes = node_bytes, .extent_bytes = extent_bytes};
    struct kv_error error = {""};
    const int err = kv_create(scratch->path, &options, &error);
    ck_assert_msg(err == 0, "kv_create: %d %s", err, error.text);
}

static inline void scratch_open(struct scratch_store *scratch, uint64_t size_bytes,
                                uint32_t node_bytes, uint32_t extent_bytes)
{
    scratch_create(scratch, size_bytes, node_bytes, extent_bytes);
    scratch_mount(scratch);
}

/* Let it be as an older program makes it, which knows none of the features `incompat`. */
static inline void scratch_forget_features(struct scratch_store *scratch, uint64_t incompat)
{
    const int fd = open(scratch->path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    const off_t places[] = {(off_t)KV_SUPERBLOCK_A_BLOCK * KV_BLOCK_BYTES,
                            (off_t)KV_SUPERBLOCK_B_BLOCK * KV_BLOCK_BYTES,
                            lseek(fd, 0, SEEK_END) - (off_t)KV_BLOCK_BYTES};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        struct kv_disk_superblock sb;
        ck_assert_int_eq(pread(fd, &sb, sizeof sb, places[i]), sizeof sb);
        ck_assert_int_eq(memcmp(sb.magic, KV_SUPERBLOCK_MAGIC, sizeof sb.magic), 0);
        sb.feature_incompat = kv_le64_of(kv_le64_get(sb.feature_incompat) & ~incompat);
        sb.digest = kv_le64_of(kv_digest(&sb, offsetof(struct kv_disk_superblock, digest), 0));
        ck_assert_int_eq(pwrite(fd, &sb, sizeof sb, places[i]), sizeof sb);
    }
    ck_assert_int_eq(close(fd), 0);
}

static inline void scratch_reopen(struct scratch_store *scratch)
{
    ck_assert_int_eq(kv_close(scratch->store), 0);
    scratch_mount(scratch);
}

static inline void scratch_close(struct scratch_store *scratch)
{
    ck_assert_int_eq(kv_close(scratch->store), 0);
    ck_assert_int_eq(unlink(scratch->path), 0);
    ck_assert_int_eq(rmdir(scratch->directory), 0);
}

static inline uint64_t scratch_seed(void)
{
    const char *const text = getenv("KVFS_SEED");
    const uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)getpid() * 2654435761u;
    printf("KVFS_SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout);
    return seed;
}

/* splitmix64 */
static inline uint64_t scratch_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t scratch_below(uint64_t *state, uint64_t limit)
{
    return scratch_random(state) % limit;
}

#endif
