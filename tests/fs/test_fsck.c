/*
 * tests/fs/test_fsck.c: fs/fsck.c finds each kind of damage, mends it, and is content then.
 *
 * The tree that is damaged, with inode numbers:
 *
 *    / 1    a/ 2    a/b/ 3    a/file 4 (content, attribute)    a/b/link, hard 5    symlink 6
 *    O 7 (no name)
 */
#include "fs/acl.h"
#include "fs/data.h"
#include "fs/expiry.h"
#include "fs/format.h"
#include "fs/fsck.h"
#include "fs/record.h"
#include "fs/xattr.h"
#include "tests/fs/scratch_store.h"
#include "tests/run.h"

#define CONTENT_BYTES 50000u
#define NEXT_INO      100u

struct finding {
    enum kv_check_severity severity;
    char what[32];
    char text[200];
};

struct bench {
    struct scratch_store scratch;
    struct fs_data data;
    struct fs_data_change change;
    struct kv_check_result result;
    struct finding findings[64];
    size_t finding_count;
};

static struct fs_record record_of(uint64_t ino, uint32_t mode, uint32_t nlink)
{
    return (struct fs_record){.file = {.ino = ino, .is_inline = true},
                              .mode = mode,
                              .nlink = nlink,
                              .codec = FS_CODEC_INHERIT};
}

static void put(struct bench *b, const struct fs_key *key, const void *value, size_t length)
{
    ck_assert_int_eq(kv_put(b->scratch.store, key->bytes, key->length, value, length), 0);
}

static void put_record(struct bench *b, const struct fs_key *key, const struct fs_record *record)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    put(b, key, value, fs_record_encode(record, value));
}

static struct fs_key entry_key(uint64_t directory, const char *name)
{
    struct fs_key key;
    fs_key_entry(&key, directory, name, strlen(name));
    return key;
}

static struct fs_key ino_key(enum fs_key_type type, uint64_t ino)
{
    struct fs_key key;
    fs_key_ino(&key, type, ino);
    return key;
}

static void put_entry(struct bench *b, uint64_t directory, const char *name,
                      const struct fs_record *record)
{
    const struct fs_key key = entry_key(directory, name);
    put_record(b, &key, record);
}

static void put_parent(struct bench *b, uint64_t ino, uint64_t parent, const char *name)
{
    uint8_t value[8 + FS_NAME_MAX];
    const struct fs_key key = ino_key(FS_KEY_PARENT, ino);
    put(b, &key, value, fs_parent_encode(parent, name, strlen(name), value));
}

static void put_link(struct bench *b, uint64_t directory, const char *name, uint64_t ino)
{
    struct fs_disk_link link;
    const struct fs_key key = entry_key(directory, name);
    fs_link_encode(ino, S_IFREG, &link);
    put(b, &key, &link, sizeof link);
}

static void del(struct bench *b, const struct fs_key *key)
{
    ck_assert_int_eq(kv_del(b->scratch.store, key->bytes, key->length), 0);
}

static struct fs_record get_record(struct bench *b, const struct fs_key *key)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    struct fs_record record;
    ck_assert_int_eq(
        kv_get(b->scratch.store, key->bytes, key->length, value, sizeof value, &length), 0);
    ck_assert_int_eq(fs_record_decode(value, length, &record), 0);
    return record;
}

static bool has_key(struct bench *b, const struct fs_key *key)
{
    size_t length;
    const int err = kv_get(b->scratch.store, key->bytes, key->length, NULL, 0, &length);
    ck_assert(err == 0 || err == -ENOENT || err == -ERANGE);
    return err != -ENOENT;
}

static void put_volume(struct bench *b, uint64_t next_ino)
{
    struct fs_key key;
    struct fs_disk_volume disk;
    const struct fs_volume_record record = {.next_ino = next_ino};
    fs_key_volume(&key);
    fs_volume_record_encode(&record, &disk);
    put(b, &key, &disk, sizeof disk);
}

static void write_content(struct bench *b, struct fs_record *record, uint64_t offset,
                          const void *bytes, size_t length)
{
    ck_assert_int_eq(
        fs_data_write(&b->data, &record->file, offset, bytes, length, NULL, &b->change), 0);
    ck_assert_int_eq(fs_data_change_apply(&b->change, 0, NULL), 0);
}

static void bench_open(struct bench *b)
{
    static uint8_t content[CONTENT_BYTES];
    memset(b, 0, sizeof *b);
    scratch_open(&b->scratch, 64u << 20, 0, 0);
    fs_data_init(&b->data, b->scratch.store);
    ck_assert_int_eq(fs_data_change_init(&b->change, b->scratch.store), 0);
    ck_assert_int_eq(fs_format(b->scratch.store, 0, 0, 0755), 0);
    put_volume(b, NEXT_INO);

    const struct fs_key root = ino_key(FS_KEY_INODE, FS_ROOT_INO);
    struct fs_record record = get_record(b, &root);
    record.nlink = 3;
    put_record(b, &root, &record);
    record = record_of(2, S_IFDIR | 0755, 3);
    put_entry(b, 1, "a", &record);
    put_parent(b, 2, 1, "a");
    record = record_of(3, S_IFDIR | 0755, 2);
    put_entry(b, 2, "b", &record);
    put_parent(b, 3, 2, "b");

    record = record_of(4, S_IFREG | 0644, 1);
    memset(content, 'c', sizeof content);
    write_content(b, &record, 0, content, sizeof content);
    write_content(b, &record, 70000, content, 100);
    ck_assert_int_eq(
        fs_xattr_set(b->scratch.store, 4, &record.flags, "user.x", "1", 1, 0, b->change.batch), 0);
    ck_assert_int_eq(fs_data_change_apply(&b->change, 0, NULL), 0);
    put_entry(b, 2, "file", &record);

    const struct fs_key hard = ino_key(FS_KEY_INODE, 5);
    record = record_of(5, S_IFREG | 0644, 2);
    put_record(b, &hard, &record);
    put_link(b, 1, "hard", 5);
    put_link(b, 3, "link", 5);

    record = record_of(6, S_IFLNK | 0777, 1);
    write_content(b, &record, 0, "target", 6);
    put_entry(b, 1, "symlink", &record);

    const struct fs_key orphan = ino_key(FS_KEY_ORPHAN, 7);
    record = record_of(7, S_IFREG | 0644, 0);
    write_content(b, &record, 0, content, 1000);
    put_record(b, &orphan, &record);
}

static void bench_close(struct bench *b)
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

static uint64_t run(struct bench *b, bool repair)
{
    const struct kv_check_options options = {
        .repair = repair, .report = note_finding, .context = b};
    b->finding_count = 0;
    ck_assert_int_eq(fs_check(b->scratch.store, &options, &b->result), 0);
    return b->result.repairable + b->result.damaged;
}

static bool was_found(const struct bench *b, const char *what)
{
    for (size_t i = 0; i < b->finding_count; i++)
        if (strcmp(b->findings[i].what, what) == 0)
            return true;
    return false;
}

static void print_findings(const struct bench *b)
{
    for (size_t i = 0; i < b->finding_count; i++)
        fprintf(stderr, "  %s: %s\n", b->findings[i].what, b->findings[i].text);
}

/* The damage is seen, looking leaves it alone, a repair ends it. */
static void expect(struct bench *b, const char *what)
{
    const uint64_t first = run(b, false);
    if (!was_found(b, what)) {
        print_findings(b);
        ck_abort_msg("not found: %s", what);
    }
    ck_assert_uint_eq(run(b, false), first);
    ck_assert_uint_eq(run(b, true), first);
    ck_assert_uint_eq(b->result.repaired, first);
    if (run(b, false)) {
        print_findings(b);
        ck_abort_msg("still there after the repair of %s", what);
    }
}

/* A record of a/file reads as what bench_open has written. */
static void expect_content(struct bench *b, const struct fs_record *record)
{
    static uint8_t content[CONTENT_BYTES];
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

static uint64_t lost_found_of(struct bench *b)
{
    const struct fs_key key = entry_key(1, "lost+found");
    return get_record(b, &key).file.ino;
}

START_TEST(a_sound_tree_has_no_findings_but_its_orphan)
{
    struct bench b;
    bench_open(&b);
    ck_assert_uint_eq(run(&b, false), 0);
    ck_assert_uint_eq(b.finding_count, 1);
    ck_assert(was_found(&b, "orphan"));
    ck_assert_uint_gt(b.result.keys, 10);
    ck_assert_uint_eq(run(&b, true), 0);
    bench_close(&b);
}
END_TEST

START_TEST(a_store_without_a_filesystem_is_told_and_no_error)
{
    struct bench b = {0};
    scratch_open(&b.scratch, 64u << 20, 0, 0);
    ck_assert_uint_eq(run(&b, true), 0);
    ck_assert(was_found(&b, "no-filesystem"));
    scratch_close(&b.scratch);
}
END_TEST

static struct fs_volume_record get_volume(struct bench *b)
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

START_TEST(a_wrong_volume_record_is_made_anew_above_all_numbers)
{
    struct bench b;
    struct fs_key key;
    bench_open(&b);
    fs_key_volume(&key);
    put(&b, &key, "nonsense", 8);
    expect(&b, "volume-record");
    ck_assert_uint_eq(get_volume(&b).next_ino, 8);
    put_volume(&b, 4);
    expect(&b, "next-inode");
    bench_close(&b);
}
END_TEST

/* What uses the number stands here: the greatest of all, and others that are as impossible. */
START_TEST(numbers_that_can_not_have_been_given_are_not_taken_over)
{
    static const uint64_t numbers[] = {FS_INO_MAX, FS_INO_MAX - 1, FS_INO_TAKEN_MAX + 1};
    static const uint8_t packed[100] = {FS_DATA_PACKED};
    const uint64_t ino = numbers[_i];
    uint8_t content[FS_DATA_KEY_BYTES];
    struct bench b;
    bench_open(&b);
    const struct fs_key inode = ino_key(FS_KEY_INODE, ino), orphan = ino_key(FS_KEY_ORPHAN, ino);
    const struct fs_record file = record_of(ino, S_IFREG | 0600, 1),
                           child = record_of(20, S_IFREG | 0600, 1);
    put_entry(&b, 2, "named", &file);
    expect(&b, "inode-number");
    put_entry(&b, 2, "na/med", &file);
    expect(&b, "entry-name");
    put_record(&b, &inode, &file);
    put_link(&b, 2, "linked", ino);
    expect(&b, "inode-number");
    put_record(&b, &orphan, &file);
    expect(&b, "inode-number");
    fs_data_key(content, ino, 0);
    ck_assert_int_eq(kv_put(b.scratch.store, content, sizeof content, packed, sizeof packed), 0);
    expect(&b, "data-unused");
    put_entry(&b, ino, "child", &child);
    expect(&b, "directory-none");
    const struct fs_key found = entry_key(lost_found_of(&b), "#20");
    ck_assert(has_key(&b, &found));
    ck_assert_uint_lt(get_volume(&b).next_ino, 1000);
    bench_close(&b);
}
END_TEST

START_TEST(great_numbers_are_taken_over_when_they_have_been_given)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = entry_key(2, "named"), other = entry_key(2, "other");
    struct fs_record record = record_of(FS_INO_TAKEN_MAX, S_IFREG | 0600, 1);
    put_entry(&b, 2, "other", &record);
    expect(&b, "next-inode");
    ck_assert_uint_eq(get_volume(&b).next_ino, FS_INO_TAKEN_MAX + 1);
    put_volume(&b, FS_INO_TAKEN_MAX + 10);
    record = record_of(FS_INO_TAKEN_MAX + 9, S_IFREG | 0600, 1);
    put_entry(&b, 2, "named", &record);
    ck_assert_uint_eq(run(&b, true), 0);
    ck_assert(has_key(&b, &file));
    ck_assert(has_key(&b, &other));
    bench_close(&b);
}
END_TEST

START_TEST(entries_that_can_not_be_decoded_go)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key key = entry_key(2, "bad"), other = entry_key(3, "worse");
    put(&b, &key, "\1rubbish", 8);
    put(&b, &other, "", 0);
    expect(&b, "entry-value");
    ck_assert(!has_key(&b, &key));
    ck_assert(!has_key(&b, &other));
    bench_close(&b);
}
END_TEST

START_TEST(an_inode_under_an_illegal_name_goes_to_lost_found)
{
    struct bench b;
    bench_open(&b);
    const struct fs_record record = record_of(20, S_IFREG | 0600, 1);
    put_entry(&b, 1, "x/y", &record);
    const struct fs_record directory = record_of(21, S_IFDIR | 0700, 2);
    put_entry(&b, 1, "..", &directory);
    expect(&b, "entry-name");
    const struct fs_key file = entry_key(lost_found_of(&b), "#20");
    ck_assert_uint_eq(get_record(&b, &file).file.ino, 20);
    const struct fs_key moved = entry_key(lost_found_of(&b), "#21");
    ck_assert_uint_eq(get_record(&b, &moved).file.ino, 21);
    bench_close(&b);
}
END_TEST

static void expect_owner(const struct fs_record *record, uint32_t mode, int64_t mtime_ns)
{
    ck_assert_uint_eq(record->mode, mode);
    ck_assert_uint_eq(record->uid, 1000);
    ck_assert_uint_eq(record->gid, 100);
    ck_assert_int_eq(record->mtime_ns, mtime_ns);
}

START_TEST(under_an_illegal_name_an_inode_keeps_owner_mode_times_and_what_is_its)
{
    struct bench b;
    size_t length;
    bench_open(&b);
    struct kv_store *const store = b.scratch.store;
    const struct fs_key file = entry_key(2, "file"), directory = entry_key(2, "b");
    struct fs_record record = get_record(&b, &file);
    del(&b, &file);
    record.uid = 1000;
    record.gid = 100;
    record.mtime_ns = 4444;
    put_entry(&b, 2, "fi/le", &record);
    record = get_record(&b, &directory);
    del(&b, &directory);
    record.uid = 1000;
    record.gid = 100;
    record.mtime_ns = 3333;
    put_entry(&b, 2, ".", &record);
    put_parent(&b, 3, 2, ".");

    run(&b, false);
    ck_assert(!was_found(&b, "data-ownerless"));
    ck_assert(!was_found(&b, "directory-missing"));
    ck_assert(!was_found(&b, "attribute-ownerless"));
    expect(&b, "entry-name");
    const uint64_t lost_found = lost_found_of(&b);
    const struct fs_key found_file = entry_key(lost_found, "#4"),
                        found_directory = entry_key(lost_found, "#3"), child = entry_key(3, "link");
    record = get_record(&b, &found_file);
    expect_owner(&record, S_IFREG | 0644, 4444);
    expect_content(&b, &record);
    ck_assert_int_eq(fs_xattr_get(store, 4, record.flags, "user.x", NULL, 0, &length), 0);
    record = get_record(&b, &found_directory);
    expect_owner(&record, S_IFDIR | 0755, 3333);
    ck_assert(has_key(&b, &child));
    bench_close(&b);
}
END_TEST

START_TEST(under_a_name_that_is_too_long_an_inode_goes_to_lost_found)
{
    struct bench b;
    uint8_t value[FS_RECORD_BYTES_MAX], key[KV_KEY_MAX];
    bench_open(&b);
    const struct fs_key file = entry_key(2, "file");
    const struct fs_record before = get_record(&b, &file);
    memset(key, 'n', sizeof key);
    memcpy(key, file.bytes, 9);
    del(&b, &file);
    ck_assert_int_eq(
        kv_put(b.scratch.store, key, sizeof key, value, fs_record_encode(&before, value)), 0);
    expect(&b, "entry-name");
    const struct fs_key found = entry_key(lost_found_of(&b), "#4");
    const struct fs_record record = get_record(&b, &found);
    ck_assert_uint_eq(record.mode, before.mode);
    expect_content(&b, &record);
    bench_close(&b);
}
END_TEST

START_TEST(who_has_a_legal_name_keeps_a_number_that_an_illegal_name_claims_too)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = entry_key(2, "file"), orphan = ino_key(FS_KEY_ORPHAN, 4);
    struct fs_record record = record_of(4, S_IFREG | 0600, 1);
    put_entry(&b, 1, "x/y", &record); /* comes before the other */
    expect(&b, "entry-name");
    record = get_record(&b, &file);
    expect_content(&b, &record);

    /* But an orphan has no name at all, and of illegal ones the first counts. */
    del(&b, &file);
    put_entry(&b, 2, "x/y", &record);
    record = record_of(4, S_IFREG | 0600, 1);
    put_entry(&b, 2, "x/z", &record);
    record = record_of(4, S_IFREG | 0600, 0);
    put_record(&b, &orphan, &record);
    expect(&b, "entry-name");
    const struct fs_key found = entry_key(lost_found_of(&b), "#4");
    record = get_record(&b, &found);
    expect_content(&b, &record);
    bench_close(&b);
}
END_TEST

START_TEST(wrong_link_counts_are_corrected)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key hard = ino_key(FS_KEY_INODE, 5), file = entry_key(2, "file"),
                        directory = entry_key(1, "a"), root = ino_key(FS_KEY_INODE, 1);
    const struct fs_key *const keys[] = {&hard, &file, &directory, &root};
    static const uint32_t right[] = {2, 1, 3, 3};
    for (size_t i = 0; i < 4; i++) {
        struct fs_record record = get_record(&b, keys[i]);
        record.nlink = 9;
        put_record(&b, keys[i], &record);
    }
    ck_assert_uint_eq(run(&b, false), 4);
    expect(&b, "link-count");
    for (size_t i = 0; i < 4; i++)
        ck_assert_uint_eq(get_record(&b, keys[i]).nlink, right[i]);
    bench_close(&b);
}
END_TEST

START_TEST(a_link_to_nothing_goes_and_an_inode_without_links_is_found_again)
{
    struct bench b;
    bench_open(&b);
    put_link(&b, 2, "nowhere", 50);
    expect(&b, "entry-dangling");
    const struct fs_key one = entry_key(1, "hard"), two = entry_key(3, "link");
    del(&b, &one);
    expect(&b, "link-count");
    del(&b, &two);
    expect(&b, "unreferenced");
    const struct fs_key found = entry_key(lost_found_of(&b), "#5");
    ck_assert_uint_eq(get_record(&b, &found).nlink, 1);
    bench_close(&b);
}
END_TEST

START_TEST(a_link_that_says_another_type_is_corrected)
{
    struct bench b;
    struct fs_disk_link link;
    bench_open(&b);
    const struct fs_key key = entry_key(1, "hard");
    fs_link_encode(5, S_IFIFO, &link);
    put(&b, &key, &link, sizeof link);
    expect(&b, "entry-type");
    bench_close(&b);
}
END_TEST

START_TEST(an_inode_number_claimed_twice_is_settled)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = entry_key(2, "file");
    const struct fs_record record = get_record(&b, &file);
    put_entry(&b, 3, "again", &record);
    expect(&b, "inode-twice");
    ck_assert(has_key(&b, &file));
    const struct fs_record hard = record_of(5, S_IFREG | 0644, 1);
    put_entry(&b, 3, "record of a linked file", &hard);
    expect(&b, "inode-twice");
    const struct fs_key key = ino_key(FS_KEY_INODE, 5);
    ck_assert_uint_eq(get_record(&b, &key).nlink, 3);
    bench_close(&b);
}
END_TEST

static void set_attribute(struct bench *b, uint64_t ino, const char *name, uint32_t *flags)
{
    ck_assert_int_eq(fs_xattr_set(b->scratch.store, ino, flags, name, "1", 1, 0, b->change.batch),
                     0);
    ck_assert_int_eq(fs_data_change_apply(&b->change, 0, NULL), 0);
}

static bool has_attribute(struct bench *b, const struct fs_record *record, const char *name)
{
    size_t length;
    const int err =
        fs_xattr_get(b->scratch.store, record->file.ino, record->flags, name, NULL, 0, &length);
    ck_assert(err == 0 || err == -ENODATA);
    return err == 0;
}

START_TEST(who_claims_a_taken_number_keeps_content_that_its_owner_does_not_have)
{
    static const uint32_t types[] = {S_IFREG, S_IFDIR, S_IFIFO};
    struct bench b;
    bench_open(&b);
    const struct fs_key file = entry_key(2, "file"), winner = entry_key(1, "aa");
    struct fs_record record = record_of(4, types[_i] | 0644, types[_i] == S_IFDIR ? 2 : 1);
    if (types[_i] == S_IFREG)
        write_content(&b, &record, 0, "winner", 6);
    if (types[_i] == S_IFDIR)
        put_parent(&b, 4, 1, "aa");
    put_record(&b, &winner, &record); /* stands before the other */
    run(&b, false);
    ck_assert(!was_found(&b, "data-unused"));
    expect(&b, "inode-twice");
    const struct fs_record first = get_record(&b, &winner), other = get_record(&b, &file);
    ck_assert_uint_eq(first.file.ino, 4);
    ck_assert_uint_eq(first.file.inline_len, record.file.inline_len);
    ck_assert_uint_eq(first.flags, 0);
    ck_assert_uint_ne(other.file.ino, 4);
    ck_assert_uint_eq(other.mode, S_IFREG | 0644);
    expect_content(&b, &other);
    ck_assert(has_attribute(&b, &other, "user.x"));
    bench_close(&b);
}
END_TEST

START_TEST(of_several_who_claim_content_beside_its_number_one_gets_it)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = entry_key(2, "file"), winner = entry_key(1, "aa"),
                        again = entry_key(3, "again");
    const struct fs_record claim = get_record(&b, &file);
    struct fs_record record = record_of(4, S_IFREG | 0644, 1);
    set_attribute(&b, 4, "user.y", &record.flags); /* it has attributes, too */
    put_record(&b, &winner, &record);
    put_record(&b, &again, &claim);
    expect(&b, "inode-twice");
    record = get_record(&b, &file);
    expect_content(&b, &record);
    ck_assert(has_attribute(&b, &record, "user.x"));
    ck_assert(!has_key(&b, &again));
    record = get_record(&b, &winner);
    ck_assert(has_attribute(&b, &record, "user.y"));
    bench_close(&b);
}
END_TEST

START_TEST(who_claims_a_taken_number_keeps_content_that_is_in_its_record)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = entry_key(2, "file"), small = entry_key(3, "small"),
                        linked = entry_key(3, "linked"), hard = ino_key(FS_KEY_INODE, 5);
    struct fs_record record = record_of(4, S_IFREG | 0644, 1);
    write_content(&b, &record, 0, "small", 5);
    put_record(&b, &small, &record);
    record.file.ino = 5; /* which stands under its number */
    put_record(&b, &linked, &record);
    record.file.ino = FS_INO_MAX - 1; /* which nobody was given */
    put_entry(&b, 3, "never", &record);
    expect(&b, "inode-twice");
    const struct fs_record first = get_record(&b, &file);
    expect_content(&b, &first);
    ck_assert_uint_eq(get_record(&b, &hard).nlink, 2);
    static const char *const names[] = {"small", "linked", "never"};
    for (size_t i = 0; i < 3; i++) {
        const struct fs_key key = entry_key(3, names[i]);
        record = get_record(&b, &key);
        ck_assert_uint_ge(record.file.ino, NEXT_INO);
        ck_assert_uint_lt(record.file.ino, NEXT_INO + 3);
        ck_assert_uint_eq(record.file.inline_len, 5);
        ck_assert_mem_eq(record.file.inline_data, "small", 5);
    }
    bench_close(&b);
}
END_TEST

START_TEST(under_an_illegal_name_a_file_keeps_content_that_its_owner_does_not_have)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = entry_key(2, "file"), found_key = entry_key(NEXT_INO, "#4");
    const struct fs_record loser = get_record(&b, &file);
    const struct fs_record winner = record_of(4, S_IFREG | 0644, 1);
    put_record(&b, &file, &winner);
    put_entry(&b, 2, "fi/le", &loser);
    expect(&b, "entry-name");
    const struct fs_record found = get_record(&b, &found_key);
    ck_assert_uint_eq(lost_found_of(&b), NEXT_INO);
    ck_assert_uint_ne(found.file.ino, 4);
    expect_content(&b, &found);
    bench_close(&b);
}
END_TEST

START_TEST(unused_content_becomes_a_file_under_a_number_that_nothing_has)
{
    struct bench b;
    uint8_t key[FS_DATA_KEY_BYTES];
    static const uint8_t packed[100] = {FS_DATA_PACKED, 'p'};
    bench_open(&b);
    const struct fs_key file = entry_key(2, "file");
    struct fs_record record = get_record(&b, &file);
    const struct fs_record empty = record_of(4, S_IFREG | 0644, 1);
    put_record(&b, &file, &empty);
    fs_data_key(key, NEXT_INO, 0); /* content that lost its inode has the next number */
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, packed, sizeof packed), 0);
    expect(&b, "data-unused");
    const struct fs_key own = entry_key(lost_found_of(&b), "#100"),
                        found = entry_key(lost_found_of(&b), "#101");
    ck_assert_uint_eq(lost_found_of(&b), 102);
    ck_assert_uint_eq(get_record(&b, &own).file.size, 99);
    record = get_record(&b, &found);
    ck_assert_uint_eq(record.file.ino, 101);
    expect_content(&b, &record);
    bench_close(&b);
}
END_TEST

START_TEST(parent_records_follow_the_entries)
{
    struct bench b;
    bench_open(&b);
    put_parent(&b, 3, 1, "b");
    expect(&b, "parent");
    const struct fs_key key = ino_key(FS_KEY_PARENT, 2), stray = ino_key(FS_KEY_PARENT, 4);
    del(&b, &key);
    expect(&b, "parent");
    ck_assert(has_key(&b, &key));
    put_parent(&b, 4, 2, "file");
    expect(&b, "parent-stray");
    ck_assert(!has_key(&b, &stray));
    bench_close(&b);
}
END_TEST

START_TEST(a_directory_that_lost_its_entry_comes_back)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key entry = entry_key(2, "b"), parent = ino_key(FS_KEY_PARENT, 3);
    del(&b, &entry);
    expect(&b, "directory-missing");
    ck_assert_uint_eq(get_record(&b, &entry).file.ino, 3);
    del(&b, &entry);
    del(&b, &parent);
    expect(&b, "directory-missing");
    const struct fs_key found = entry_key(lost_found_of(&b), "#3");
    ck_assert_uint_eq(get_record(&b, &found).file.ino, 3);
    bench_close(&b);
}
END_TEST

START_TEST(entries_in_what_is_no_directory_go_to_lost_found)
{
    struct bench b;
    bench_open(&b);
    const struct fs_record record = record_of(30, S_IFREG | 0600, 1);
    put_entry(&b, 4, "inside a file", &record);
    expect(&b, "directory-none");
    const struct fs_key found = entry_key(lost_found_of(&b), "#30");
    ck_assert(has_key(&b, &found));
    bench_close(&b);
}
END_TEST

START_TEST(a_loop_of_directories_is_cut)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key old = entry_key(1, "a");
    const struct fs_record record = get_record(&b, &old);
    del(&b, &old);
    put_entry(&b, 3, "a", &record);
    put_parent(&b, 2, 3, "a");
    expect(&b, "directory-loop");
    const struct fs_key file = entry_key(2, "file");
    ck_assert(has_key(&b, &file));
    bench_close(&b);
}
END_TEST

START_TEST(a_missing_root_is_replaced_and_keeps_its_entries)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key root = ino_key(FS_KEY_INODE, 1), entry = entry_key(1, "a");
    del(&b, &root);
    expect(&b, "root");
    ck_assert(has_key(&b, &root));
    ck_assert(has_key(&b, &entry));
    bench_close(&b);
}
END_TEST

START_TEST(inode_records_that_are_no_inodes_are_reported)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key key = ino_key(FS_KEY_INODE, 60), orphan = ino_key(FS_KEY_ORPHAN, 61);
    const struct fs_record record = record_of(62, S_IFREG | 0600, 1); /* another number */
    put_record(&b, &key, &record);
    put(&b, &orphan, "zz", 2);
    ck_assert_uint_eq(run(&b, false), 2);
    expect(&b, "inode-record");
    const struct fs_key nameless = ino_key(FS_KEY_INODE, 63);
    const struct fs_record directory = record_of(63, S_IFDIR | 0700, 2);
    put_record(&b, &nameless, &directory);
    expect(&b, "inode-type");
    const struct fs_key found = entry_key(lost_found_of(&b), "#63");
    ck_assert(has_key(&b, &found));
    bench_close(&b);
}
END_TEST

START_TEST(an_orphan_that_has_a_name_stays)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key orphan = ino_key(FS_KEY_ORPHAN, 4), file = entry_key(2, "file"),
                        last = ino_key(FS_KEY_ORPHAN, 7), revived = ino_key(FS_KEY_INODE, 7);
    struct fs_record record = get_record(&b, &file);
    record.nlink = 0;
    put_record(&b, &orphan, &record);
    expect(&b, "orphan-in-use");
    ck_assert(!has_key(&b, &orphan));
    ck_assert(has_key(&b, &file));
    put_link(&b, 1, "name of an orphan", 7);
    expect(&b, "orphan-in-use");
    ck_assert(!has_key(&b, &last));
    ck_assert_uint_eq(get_record(&b, &revived).nlink, 1);
    bench_close(&b);
}
END_TEST

START_TEST(an_orphan_without_content_takes_none_from_the_file_that_has_a_name)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key orphan = ino_key(FS_KEY_ORPHAN, 4), file = entry_key(2, "file");
    const struct fs_record record = record_of(4, S_IFREG | 0644, 0);
    put_record(&b, &orphan, &record);
    ck_assert_uint_eq(run(&b, false), 1);
    expect(&b, "orphan-in-use");
    ck_assert(!has_key(&b, &orphan));
    const struct fs_record after = get_record(&b, &file);
    ck_assert_uint_eq(after.flags, FS_RECORD_XATTRS);
    expect_content(&b, &after);
    bench_close(&b);
}
END_TEST

START_TEST(orphans_with_links_or_entries_are_mended)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key key = ino_key(FS_KEY_ORPHAN, 7), directory = ino_key(FS_KEY_ORPHAN, 8);
    struct fs_record record = get_record(&b, &key);
    record.nlink = 1;
    put_record(&b, &key, &record);
    expect(&b, "orphan-links");
    ck_assert_uint_eq(get_record(&b, &key).nlink, 0);
    record = record_of(8, S_IFDIR | 0700, 0);
    put_record(&b, &directory, &record);
    record = record_of(9, S_IFREG | 0600, 1);
    put_entry(&b, 8, "child", &record);
    expect(&b, "orphan-entries");
    const struct fs_key child = entry_key(8, "child");
    ck_assert(has_key(&b, &child));
    bench_close(&b);
}
END_TEST

START_TEST(blocks_and_size_follow_the_content)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = entry_key(2, "file");
    struct fs_record record = get_record(&b, &file);
    const struct fs_record right = record;
    record.file.blocks += 3;
    put_record(&b, &file, &record);
    expect(&b, "blocks");
    ck_assert_uint_eq(get_record(&b, &file).file.blocks, right.file.blocks);
    record.file.blocks = right.file.blocks;
    record.file.size = 1000;
    put_record(&b, &file, &record);
    expect(&b, "size");
    ck_assert_uint_eq(get_record(&b, &file).file.size, right.file.size);
    bench_close(&b);
}
END_TEST

START_TEST(damaged_content_records_become_holes)
{
    struct bench b;
    uint8_t key[FS_DATA_KEY_BYTES];
    static const uint8_t packed[100] = {FS_DATA_PACKED};
    bench_open(&b);
    fs_data_key(key, 4, 60000);
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, "\7what", 5), 0);
    expect(&b, "data-record");
    fs_data_key(key, 4, 100); /* inside the extent at 0 */
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, packed, sizeof packed), 0);
    expect(&b, "data-overlap");
    bench_close(&b);
}
END_TEST

/* Digests of frames that are not those of the extent, while that of the leaf is right. */
static void spoil_table(struct bench *b, const uint8_t *key)
{
    uint8_t value[KV_BLOB_HEAD_MAX + KV_BLOB_TABLE_MAX], back[sizeof value];
    struct kv_blob_ref ref;
    struct fs_data_record r;
    size_t length, back_len;
    ck_assert_int_eq(kv_get(b->scratch.store, key, FS_DATA_KEY_BYTES, value, sizeof value, &length),
                     0);
    ck_assert_int_eq(fs_data_record_decode(&b->data, key, FS_DATA_KEY_BYTES, value, length, &r), 0);
    ck_assert_ptr_nonnull(r.table);
    memcpy(back, value, length);
    memcpy(&ref, value + length - sizeof ref, sizeof ref);
    value[r.table - value + 9] ^= 4;
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_int_eq(kv_batch_put_blob(batch, key, FS_DATA_KEY_BYTES, value, length - sizeof ref,
                                       &ref, KV_BLOB_SHARED),
                     0);
    ck_assert_int_eq(kv_apply(b->scratch.store, batch, 0, NULL), 0);
    kv_batch_free(batch);
    expect(b, "data-table");
    ck_assert_int_eq(
        kv_get(b->scratch.store, key, FS_DATA_KEY_BYTES, value, sizeof value, &back_len), 0);
    ck_assert_uint_eq(back_len, length);
    ck_assert_int_eq(memcmp(value, back, length), 0);
}

START_TEST(a_wrong_table_of_an_extent_is_made_anew)
{
    struct bench b;
    uint8_t key[FS_DATA_KEY_BYTES];
    bool done;
    bench_open(&b);
    fs_data_key(key, 4, 0);
    spoil_table(&b, key);
    /* Of an extent of which only a part is left there is only a part of the table. */
    const struct fs_key name = entry_key(2, "file");
    struct fs_record record = get_record(&b, &name);
    ck_assert_int_eq(fs_data_punch(&b.data, &record.file, 4096, 16384, SIZE_MAX, &b.change, &done),
                     0);
    ck_assert_int_eq(fs_data_change_apply(&b.change, 0, NULL), 0);
    put_record(&b, &name, &record);
    fs_data_key(key, 4, 20480);
    spoil_table(&b, key);
    bench_close(&b);
}
END_TEST

START_TEST(content_without_an_inode_becomes_a_file)
{
    struct bench b;
    uint8_t key[FS_DATA_KEY_BYTES];
    static const uint8_t packed[100] = {FS_DATA_PACKED};
    bench_open(&b);
    const struct fs_key file = entry_key(2, "file");
    const struct fs_record before = get_record(&b, &file);
    del(&b, &file);
    expect(&b, "data-ownerless");
    const struct fs_key found = entry_key(lost_found_of(&b), "#4");
    const struct fs_record after = get_record(&b, &found);
    ck_assert_uint_eq(after.file.size, before.file.size);
    ck_assert_uint_eq(after.file.blocks, before.file.blocks);

    fs_data_key(key, 5, 0); /* its owner's content is inline */
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, packed, sizeof packed), 0);
    expect(&b, "data-unused");
    fs_data_key(key, UINT64_MAX, 0);
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, packed, sizeof packed), 0);
    expect(&b, "data-unused");
    ck_assert_int_eq(kv_put(b.scratch.store, "Fxy", 3, packed, sizeof packed), 0);
    expect(&b, "data-key");
    bench_close(&b);
}
END_TEST

START_TEST(attributes_need_an_owner_a_name_and_to_be_announced)
{
    struct bench b;
    uint32_t flags = 0;
    size_t length;
    bench_open(&b);
    struct kv_store *const store = b.scratch.store;
    ck_assert_int_eq(fs_xattr_set(store, 70, &flags, "user.x", "1", 1, 0, b.change.batch), 0);
    ck_assert_int_eq(fs_data_change_apply(&b.change, 0, NULL), 0);
    expect(&b, "attribute-ownerless");

    struct fs_key key = ino_key(FS_KEY_XATTR, 4);
    memcpy(key.bytes + key.length, "bogus.x", 7);
    key.length = (uint16_t)(key.length + 7);
    put(&b, &key, "1", 1);
    expect(&b, "attribute-name");

    flags = 0;
    ck_assert_int_eq(
        fs_xattr_set(store, 4, &flags, FS_XATTR_ACCESS_ACL, "no list", 7, 0, b.change.batch), 0);
    ck_assert_int_eq(fs_data_change_apply(&b.change, 0, NULL), 0);
    expect(&b, "attribute-value");

    flags = 0;
    ck_assert_int_eq(fs_xattr_set(store, 5, &flags, FS_XATTR_CAPABILITY, "c", 1, 0, b.change.batch),
                     0);
    ck_assert_int_eq(fs_data_change_apply(&b.change, 0, NULL), 0);
    expect(&b, "attribute-hidden");
    const struct fs_key hard = ino_key(FS_KEY_INODE, 5);
    const struct fs_record record = get_record(&b, &hard);
    ck_assert_uint_eq(record.flags, FS_RECORD_XATTRS | FS_RECORD_CAPABILITY);

    const struct fs_key entry = entry_key(1, "symlink");
    struct fs_record boastful = get_record(&b, &entry);
    boastful.flags |= FS_RECORD_XATTRS | FS_RECORD_ACCESS_ACL;
    put_record(&b, &entry, &boastful);
    expect(&b, "attribute-missing");
    ck_assert_uint_eq(get_record(&b, &entry).flags, 0);
    ck_assert_int_eq(fs_xattr_get(store, 5, record.flags, FS_XATTR_CAPABILITY, NULL, 0, &length),
                     0);
    bench_close(&b);
}
END_TEST

START_TEST(the_index_of_expiries_follows_the_inodes)
{
    struct bench b;
    const uint64_t year_2100 = UINT64_C(4102444800) * 1000000000;
    uint8_t key[FS_EXPIRY_KEY_BYTES], place[FS_EXPIRY_VALUE_BYTES], right[FS_EXPIRY_VALUE_BYTES];
    size_t length;
    bench_open(&b);
    fs_key_expiry(key, year_2100, 4);
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, NULL, 0), 0);
    expect(&b, "expiry-stray");
    const struct fs_key file = entry_key(2, "file");
    struct fs_record record = get_record(&b, &file);
    record.expiry_ns = year_2100;
    put_record(&b, &file, &record);
    expect(&b, "expiry-missing");
    ck_assert_int_eq(kv_get(b.scratch.store, key, sizeof key, place, sizeof place, &length), 0);
    ck_assert_uint_eq(length, fs_parent_encode(2, "file", 4, right));
    ck_assert_mem_eq(place, right, length);
    /* One that names another place is as good as none. */
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, place, length - 1), 0);
    expect(&b, "expiry-missing");
    ck_assert_int_eq(kv_get(b.scratch.store, key, sizeof key, place, sizeof place, &length), 0);
    ck_assert_mem_eq(place, right, length);
    bench_close(&b);
}
END_TEST

START_TEST(a_symlink_whose_target_is_cut_keeps_what_is_there)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key key = entry_key(1, "symlink");
    struct fs_record record = get_record(&b, &key);
    record.file.size = 10;
    put_record(&b, &key, &record);
    expect(&b, "symlink-target");
    ck_assert_uint_eq(get_record(&b, &key).file.size, 6);
    bench_close(&b);
}
END_TEST

START_TEST(keys_of_unknown_types_are_told_and_left_alone)
{
    struct bench b;
    size_t length;
    bench_open(&b);
    ck_assert_int_eq(kv_put(b.scratch.store, "Zebra", 5, "1", 1), 0);
    ck_assert_int_eq(kv_put(b.scratch.store, "\xff", 1, "1", 1), 0);
    ck_assert_uint_eq(run(&b, true), 0);
    ck_assert(was_found(&b, "key-type"));
    ck_assert_int_eq(kv_get(b.scratch.store, "Zebra", 5, NULL, 0, &length), -ERANGE);
    bench_close(&b);
}
END_TEST

/* Flip, cut and swap values and keys at random; a repair always ends in a sound tree. */
START_TEST(whatever_is_damaged_a_repair_ends_in_a_sound_tree)
{
    static const char types[] = "DIOPFXTS";
    uint64_t random = scratch_seed() + (uint64_t)_i;
    struct bench b;
    bench_open(&b);
    for (int damage = 0; damage < 6; damage++) {
        struct kv_cursor *cursor;
        uint8_t key[KV_KEY_MAX], value[4096];
        size_t key_len, value_len = 0;
        const char type = types[scratch_below(&random, 8)];
        ck_assert_int_eq(kv_cursor_open_prefix(b.scratch.store, &type, 1, &cursor), 0);
        int err = kv_cursor_first(cursor);
        for (uint64_t skip = scratch_below(&random, 6); !err && skip > 0; skip--)
            err = kv_cursor_next(cursor);
        if (err)
            err = kv_cursor_first(cursor);
        if (!err) {
            const void *const found = kv_cursor_key(cursor, &key_len);
            const void *stored;
            memcpy(key, found, key_len);
            ck_assert_int_eq(kv_cursor_value(cursor, &stored, &value_len), 0);
            value_len = kv_min_u64(value_len, sizeof value);
            memcpy(value, stored, value_len);
        }
        kv_cursor_close(cursor);
        if (err)
            continue;
        switch (scratch_below(&random, 4)) {
        case 0:
            ck_assert_int_eq(kv_del(b.scratch.store, key, key_len), 0);
            continue;
        case 1:
            value_len = scratch_below(&random, value_len + 1);
            break;
        case 2:
            if (key_len > 1)
                key[1 + scratch_below(&random, key_len - 1)] ^=
                    (uint8_t)(1 + scratch_below(&random, 255));
            break;
        default:
            if (value_len)
                value[scratch_below(&random, value_len)] ^=
                    (uint8_t)(1u << scratch_below(&random, 8));
            break;
        }
        if (type == 'S' && value_len == sizeof(struct fs_disk_volume))
            value[8] = FS_VERSION; /* another one would be refused */
        ck_assert_int_eq(kv_put(b.scratch.store, key, key_len, value, value_len), 0);
    }
    const struct kv_check_options look = {.repair = false}, mend = {.repair = true};
    const int err = fs_check(b.scratch.store, &look, &b.result);
    if (err == 0) {
        ck_assert_int_eq(fs_check(b.scratch.store, &mend, &b.result), 0);
        if (run(&b, false)) {
            print_findings(&b);
            ck_abort_msg("left after a repair");
        }
    } else {
        ck_assert_int_eq(err, -EPROTONOSUPPORT);
    }
    bench_close(&b);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("check");
    TCase *const tcase = tcase_create("check");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, a_sound_tree_has_no_findings_but_its_orphan);
    tcase_add_test(tcase, a_store_without_a_filesystem_is_told_and_no_error);
    tcase_add_test(tcase, a_wrong_volume_record_is_made_anew_above_all_numbers);
    tcase_add_loop_test(tcase, numbers_that_can_not_have_been_given_are_not_taken_over, 0, 3);
    tcase_add_test(tcase, great_numbers_are_taken_over_when_they_have_been_given);
    tcase_add_test(tcase, entries_that_can_not_be_decoded_go);
    tcase_add_test(tcase, an_inode_under_an_illegal_name_goes_to_lost_found);
    tcase_add_test(tcase, under_an_illegal_name_an_inode_keeps_owner_mode_times_and_what_is_its);
    tcase_add_test(tcase, under_a_name_that_is_too_long_an_inode_goes_to_lost_found);
    tcase_add_test(tcase, who_has_a_legal_name_keeps_a_number_that_an_illegal_name_claims_too);
    tcase_add_test(tcase, wrong_link_counts_are_corrected);
    tcase_add_test(tcase, a_link_to_nothing_goes_and_an_inode_without_links_is_found_again);
    tcase_add_test(tcase, a_link_that_says_another_type_is_corrected);
    tcase_add_test(tcase, an_inode_number_claimed_twice_is_settled);
    tcase_add_loop_test(tcase, who_claims_a_taken_number_keeps_content_that_its_owner_does_not_have,
                        0, 3);
    tcase_add_test(tcase, of_several_who_claim_content_beside_its_number_one_gets_it);
    tcase_add_test(tcase, who_claims_a_taken_number_keeps_content_that_is_in_its_record);
    tcase_add_test(tcase, under_an_illegal_name_a_file_keeps_content_that_its_owner_does_not_have);
    tcase_add_test(tcase, unused_content_becomes_a_file_under_a_number_that_nothing_has);
    tcase_add_test(tcase, parent_records_follow_the_entries);
    tcase_add_test(tcase, a_directory_that_lost_its_entry_comes_back);
    tcase_add_test(tcase, entries_in_what_is_no_directory_go_to_lost_found);
    tcase_add_test(tcase, a_loop_of_directories_is_cut);
    tcase_add_test(tcase, a_missing_root_is_replaced_and_keeps_its_entries);
    tcase_add_test(tcase, inode_records_that_are_no_inodes_are_reported);
    tcase_add_test(tcase, an_orphan_that_has_a_name_stays);
    tcase_add_test(tcase, an_orphan_without_content_takes_none_from_the_file_that_has_a_name);
    tcase_add_test(tcase, orphans_with_links_or_entries_are_mended);
    tcase_add_test(tcase, blocks_and_size_follow_the_content);
    tcase_add_test(tcase, damaged_content_records_become_holes);
    tcase_add_test(tcase, a_wrong_table_of_an_extent_is_made_anew);
    tcase_add_test(tcase, content_without_an_inode_becomes_a_file);
    tcase_add_test(tcase, attributes_need_an_owner_a_name_and_to_be_announced);
    tcase_add_test(tcase, the_index_of_expiries_follows_the_inodes);
    tcase_add_test(tcase, a_symlink_whose_target_is_cut_keeps_what_is_there);
    tcase_add_test(tcase, keys_of_unknown_types_are_told_and_left_alone);
    tcase_add_loop_test(tcase, whatever_is_damaged_a_repair_ends_in_a_sound_tree, 0, 100);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
