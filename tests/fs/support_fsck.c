/*
 * tests/fs/support_fsck.c: a tree for tests of the check, made and read key by key.
 */
#include "support_fsck.h"

#include "fs/format.h"
#include "fs/xattr.h"

struct fs_record bench_record(uint64_t ino, uint32_t mode, uint32_t nlink)
{
    return (struct fs_record){.file = {.ino = ino, .is_inline = true},
                              .mode = mode,
                              .nlink = nlink,
                              .codec = FS_CODEC_INHERIT};
}

void bench_put(struct bench *b, const struct fs_key *key, const void *value, size_t length)
{
    ck_assert_int_eq(kv_put(b->scratch.store, key->bytes, key->length, value, length), 0);
}

void bench_put_record(struct bench *b, const struct fs_key *key, const struct fs_record *record)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    bench_put(b, key, value, fs_record_encode(record, value));
}

struct fs_key bench_entry_key(uint64_t directory, const char *name)
{
    struct fs_key key;
    fs_key_entry(&key, directory, name, strlen(name));
    return key;
}

struct fs_key bench_ino_key(enum fs_key_type type, uint64_t ino)
{
    struct fs_key key;
    fs_key_ino(&key, type, ino);
    return key;
}

void bench_put_entry(struct bench *b, uint64_t directory, const char *name,
                     const struct fs_record *record)
{
    const struct fs_key key = bench_entry_key(directory, name);
    bench_put_record(b, &key, record);
}

void bench_put_parent(struct bench *b, uint64_t ino, uint64_t parent, const char *name)
{
    uint8_t value[8 + FS_NAME_MAX];
    const struct fs_key key = bench_ino_key(FS_KEY_PARENT, ino);
    bench_put(b, &key, value, fs_parent_encode(parent, name, strlen(name), value));
}

void bench_put_link(struct bench *b, uint64_t directory, const char *name, uint64_t ino)
{
    struct fs_disk_link link;
    const struct fs_key key = bench_entry_key(directory, name);
    fs_link_encode(ino, S_IFREG, &link);
    bench_put(b, &key, &link, sizeof link);
}

void bench_del(struct bench *b, const struct fs_key *key)
{
    ck_assert_int_eq(kv_del(b->scratch.store, key->bytes, key->length), 0);
}

struct fs_record bench_get_record(struct bench *b, const struct fs_key *key)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    struct fs_record record;
    ck_assert_int_eq(
        kv_get(b->scratch.store, key->bytes, key->length, value, sizeof value, &length), 0);
    ck_assert_int_eq(fs_record_decode(value, length, &record), 0);
    return record;
}

bool bench_has_key(struct bench *b, const struct fs_key *key)
{
    size_t length;
    const int err = kv_get(b->scratch.store, key->bytes, key->length, NULL, 0, &length);
    ck_assert(err == 0 || err == -ENOENT || err == -ERANGE);
    return err != -ENOENT;
}

void bench_put_volume(struct bench *b, uint64_t next_ino)
{
    struct fs_key key;
    struct fs_disk_volume disk;
    const struct fs_volume_record record = {.next_ino = next_ino};
    fs_key_volume(&key);
    fs_volume_record_encode(&record, &disk);
    bench_put(b, &key, &disk, sizeof disk);
}

void bench_write(struct bench *b, struct fs_record *record, uint64_t offset, const void *bytes,
                 size_t length)
{
    ck_assert_int_eq(
        fs_data_write(&b->data, &record->file, offset, bytes, length, NULL, &b->change), 0);
    ck_assert_int_eq(fs_data_change_apply(&b->change, 0, NULL), 0);
}

void bench_open(struct bench *b)
{
    static uint8_t content[BENCH_CONTENT_BYTES];
    memset(b, 0, sizeof *b);
    scratch_open(&b->scratch, 64u << 20, 0, 0);
    fs_data_init(&b->data, b->scratch.store);
    ck_assert_int_eq(fs_data_change_init(&b->change, b->scratch.store), 0);
    ck_assert_int_eq(fs_format(b->scratch.store, 0, 0, 0755), 0);
    bench_put_volume(b, BENCH_NEXT_INO);

    const struct fs_key root = bench_ino_key(FS_KEY_INODE, FS_ROOT_INO);
    struct fs_record record = bench_get_record(b, &root);
    record.nlink = 3;
    bench_put_record(b, &root, &record);
    record = bench_record(2, S_IFDIR | 0755, 3);
    bench_put_entry(b, 1, "a", &record);
    bench_put_parent(b, 2, 1, "a");
    record = bench_record(3, S_IFDIR | 0755, 2);
    bench_put_entry(b, 2, "b", &record);
    bench_put_parent(b, 3, 2, "b");

    record = bench_record(4, S_IFREG | 0644, 1);
    memset(content, 'c', sizeof content);
    bench_write(b, &record, 0, content, sizeof content);
    bench_write(b, &record, 70000, content, 100);
    ck_assert_int_eq(
        fs_xattr_set(b->scratch.store, 4, &record.flags, "user.x", "1", 1, 0, b->change.batch), 0);
    ck_assert_int_eq(fs_data_change_apply(&b->change, 0, NULL), 0);
    bench_put_entry(b, 2, "file", &record);

    const struct fs_key hard = bench_ino_key(FS_KEY_INODE, 5);
    record = bench_record(5, S_IFREG | 0644, 2);
    bench_put_record(b, &hard, &record);
    bench_put_link(b, 1, "hard", 5);
    bench_put_link(b, 3, "link", 5);

    record = bench_record(6, S_IFLNK | 0777, 1);
    bench_write(b, &record, 0, "target", 6);
    bench_put_entry(b, 1, "symlink", &record);

    const struct fs_key orphan = bench_ino_key(FS_KEY_ORPHAN, 7);
    record = bench_record(7, S_IFREG | 0644, 0);
    bench_write(b, &record, 0, content, 1000);
    bench_put_record(b, &orphan, &record);
}

void bench_close(struct bench *b)
{
    fs_data_change_release(&b->change);
    scratch_close(&b->scratch);
}

static void note_finding(void *context, enum kv_check_severity severity, const char *what,
                         const char *text)
{
    struct bench *const b = context;
    ck_assert_uint_lt(b->finding_count, sizeof b->findings / sizeof *b->findings);
    struct finding *const finding = &b->findings[b->finding_count++];
    finding->severity = severity;
    snprintf(finding->what, sizeof finding->what, "%s", what);
    snprintf(finding->text, sizeof finding->text, "%s", text);
    ck_assert_ptr_null(strchr(text, '\n'));
}

uint64_t bench_run(struct bench *b, bool repair)
{
    const struct kv_check_options options = {
        .repair = repair, .report = note_finding, .context = b};
    b->finding_count = 0;
    ck_assert_int_eq(fs_check(b->scratch.store, &options, &b->result), 0);
    return b->result.repairable + b->result.damaged;
}

bool bench_found(const struct bench *b, const char *what)
{
    for (size_t i = 0; i < b->finding_count; i++)
        if (strcmp(b->findings[i].what, what) == 0)
            return true;
    return false;
}

void bench_print_findings(const struct bench *b)
{
    for (size_t i = 0; i < b->finding_count; i++)
        fprintf(stderr, "  %s: %s\n", b->findings[i].what, b->findings[i].text);
}

/* The damage is seen, looking leaves it alone, a repair ends it. */
void bench_expect(struct bench *b, const char *what)
{
    const uint64_t first = bench_run(b, false);
    if (!bench_found(b, what)) {
        bench_print_findings(b);
        ck_abort_msg("not found: %s", what);
    }
    ck_assert_uint_eq(bench_run(b, false), first);
    ck_assert_uint_eq(bench_run(b, true), first);
    ck_assert_uint_eq(b->result.repaired, first);
    if (bench_run(b, false)) {
        bench_print_findings(b);
        ck_abort_msg("still there after the repair of %s", what);
    }
}

/* A record of a/file reads as what bench_open has written. */
void bench_expect_content(struct bench *b, const struct fs_record *record)
{
    static uint8_t content[BENCH_CONTENT_BYTES];
    size_t length;
    ck_assert_uint_eq(record->file.size, 70100);
    ck_assert_int_eq(fs_data_read(&b->data, &record->file, 0, content, sizeof content, &length), 0);
    ck_assert_uint_eq(length, sizeof content);
    for (size_t i = 0; i < length; i++)
        ck_assert_uint_eq(content[i], 'c');
    ck_assert_int_eq(fs_data_read(&b->data, &record->file, 70000, content, 101, &length), 0);
    ck_assert_uint_eq(length, 100);
    ck_assert_uint_eq(content[99], 'c');
}

uint64_t bench_lost_found(struct bench *b)
{
    const struct fs_key key = bench_entry_key(1, "lost+found");
    return bench_get_record(b, &key).file.ino;
}

struct fs_volume_record bench_get_volume(struct bench *b)
{
    struct fs_key key;
    struct fs_disk_volume disk;
    struct fs_volume_record volume;
    size_t length;
    fs_key_volume(&key);
    ck_assert_int_eq(kv_get(b->scratch.store, key.bytes, key.length, &disk, sizeof disk, &length),
                     0);
    ck_assert_int_eq(fs_volume_record_decode(&disk, length, &volume), 0);
    return volume;
}

void bench_set_attribute(struct bench *b, uint64_t ino, const char *name, uint32_t *flags)
{
    ck_assert_int_eq(fs_xattr_set(b->scratch.store, ino, flags, name, "1", 1, 0, b->change.batch),
                     0);
    ck_assert_int_eq(fs_data_change_apply(&b->change, 0, NULL), 0);
}

bool bench_has_attribute(struct bench *b, const struct fs_record *record, const char *name)
{
    size_t length;
    const int err =
        fs_xattr_get(b->scratch.store, record->file.ino, record->flags, name, NULL, 0, &length);
    ck_assert(err == 0 || err == -ENODATA);
    return err == 0;
}
