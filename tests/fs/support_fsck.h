/*
 * tests/fs/support_fsck.h: a tree for tests of the check: it is damaged key by key, and checked.
 *
 * The tree that is damaged, with inode numbers:
 *
 *    / 1    a/ 2    a/b/ 3    a/file 4 (content, attribute)    a/b/link, hard 5    symlink 6
 *    O 7 (no name)
 *
 * Every function fails the test that calls it when it does not work.
 */
#ifndef TESTS_FS_SUPPORT_FSCK_H
#define TESTS_FS_SUPPORT_FSCK_H

#include "fs/data.h"
#include "fs/fsck.h"
#include "fs/record.h"
#include "tests/fs/scratch_store.h"

#define BENCH_CONTENT_BYTES 50000u /* of a/file, from its beginning; more comes behind a hole */
#define BENCH_NEXT_INO      100u

struct finding {
    enum kv_check_severity severity;
    char what[32];
    char text[200];
};

/* A store with the tree, and what the last check found. */
struct bench {
    struct scratch_store scratch;
    struct fs_data data;
    struct fs_data_change change;
    struct kv_check_result result;
    struct finding findings[64];
    size_t finding_count;
};

/* ---- the tree --------------------------------------------------------------------------- */

/* Make the store and the tree, which is sound; close and remove the store. */
void bench_open(struct bench *b);
void bench_close(struct bench *b);

struct fs_key bench_entry_key(uint64_t directory, const char *name);
struct fs_key bench_ino_key(enum fs_key_type type, uint64_t ino);
/* An inode without content. */
struct fs_record bench_record(uint64_t ino, uint32_t mode, uint32_t nlink);

/* ---- its keys, as they are ------------------------------------------------------------------ */

void bench_put(struct bench *b, const struct fs_key *key, const void *value, size_t length);
void bench_del(struct bench *b, const struct fs_key *key);
bool bench_has_key(struct bench *b, const struct fs_key *key);
void bench_put_record(struct bench *b, const struct fs_key *key, const struct fs_record *record);
struct fs_record bench_get_record(struct bench *b, const struct fs_key *key);
void bench_put_entry(struct bench *b, uint64_t directory, const char *name,
                     const struct fs_record *record);
void bench_put_link(struct bench *b, uint64_t directory, const char *name, uint64_t ino);
void bench_put_parent(struct bench *b, uint64_t ino, uint64_t parent, const char *name);
void bench_put_volume(struct bench *b, uint64_t next_ino);
struct fs_volume_record bench_get_volume(struct bench *b);
/* Write content, and change the record, which is not stored. */
void bench_write(struct bench *b, struct fs_record *record, uint64_t offset, const void *bytes,
                 size_t length);
/* An attribute with the value "1"; flags: the record's, which is not stored. */
void bench_set_attribute(struct bench *b, uint64_t ino, const char *name, uint32_t *flags);
bool bench_has_attribute(struct bench *b, const struct fs_record *record, const char *name);
/* The inode number of lost+found, which is there. */
uint64_t bench_lost_found(struct bench *b);

/* ---- the check ------------------------------------------------------------------------------- */

/* Check, and mend if that is wished. Returns how many findings there were, without notes. */
uint64_t bench_run(struct bench *b, bool repair);
bool bench_found(const struct bench *b, const char *what);
void bench_print_findings(const struct bench *b);
/* The damage is seen, looking leaves it alone, a repair ends it. */
void bench_expect(struct bench *b, const char *what);
/* A record of a/file reads as what bench_open has written. */
void bench_expect_content(struct bench *b, const struct fs_record *record);

#endif
