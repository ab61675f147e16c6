/*
 * tests/fs/test_record.c: keys and records to bytes and back; bytes that are none.
 */
#include <check.h>
#include <stdlib.h>

#include "fs/record.h"
#include "support_mount.h"
#include "tests/run.h"

static struct fs_record sample(uint64_t *state)
{
    struct fs_record record = {
        .file = {.ino = 1 + test_below(state, FS_INO_MAX - 1), .is_inline = true},
        .atime_ns = (int64_t)test_random(state),
        .mtime_ns = (int64_t)test_random(state),
        .ctime_ns = INT64_MIN,
        .btime_ns = INT64_MAX,
        .rdev = test_below(state, 2) ? test_random(state) : 0,
        .expiry_ns = test_below(state, 2) ? test_random(state) : 0,
        .mode = S_IFREG | (uint32_t)test_below(state, 010000),
        .uid = (uint32_t)test_random(state),
        .gid = (uint32_t)test_random(state),
        .nlink = (uint32_t)test_random(state),
        .generation = (uint32_t)test_random(state),
        .flags = (uint32_t)test_below(state, FS_RECORD_FLAGS_KNOWN + 1),
        .codec = test_below(state, 2) ? FS_CODEC_INHERIT : KV_CODEC_ZSTD,
        .codec_level = (int8_t)test_below(state, 20),
    };
    record.file.inline_len = (uint16_t)test_below(state, FS_INLINE_MAX + 1);
    record.file.size = record.file.inline_len + test_below(state, 1000);
    for (size_t i = 0; i < record.file.inline_len; i++)
        record.file.inline_data[i] = (uint8_t)test_random(state);
    if (test_below(state, 2)) {
        record.file.is_inline = false;
        record.file.inline_len = 0;
        record.file.size = test_below(state, FS_SIZE_MAX);
        record.file.blocks = test_random(state);
    }
    return record;
}

static void expect_equal(const struct fs_record *a, const struct fs_record *b)
{
    uint8_t bytes_a[FS_RECORD_BYTES_MAX], bytes_b[FS_RECORD_BYTES_MAX];
    const size_t length = fs_record_encode(a, bytes_a);
    ck_assert_uint_eq(fs_record_encode(b, bytes_b), length);
    ck_assert_int_eq(memcmp(bytes_a, bytes_b, length), 0);
    ck_assert_uint_eq(a->file.ino, b->file.ino);
    ck_assert_uint_eq(a->file.size, b->file.size);
    ck_assert_int_eq(a->file.is_inline, b->file.is_inline);
    ck_assert_uint_eq(a->mode, b->mode);
    ck_assert_int_eq(a->mtime_ns, b->mtime_ns);
    ck_assert_uint_eq(a->rdev, b->rdev);
    ck_assert_uint_eq(a->expiry_ns, b->expiry_ns);
    ck_assert_int_eq(a->codec_level, b->codec_level);
}

START_TEST(a_record_reads_back_as_it_was)
{
    uint64_t state = test_seed();
    for (int i = 0; i < 2000; i++) {
        const struct fs_record record = sample(&state);
        struct fs_record back;
        uint8_t bytes[FS_RECORD_BYTES_MAX];
        const size_t length = fs_record_encode(&record, bytes);
        ck_assert_int_eq(fs_record_decode(bytes, length, &back), 0);
        expect_equal(&record, &back);
        struct fs_entry entry;
        ck_assert_int_eq(fs_entry_decode(bytes, length, &entry), 0);
        ck_assert(!entry.is_link);
        ck_assert_uint_eq(entry.ino, record.file.ino);
        ck_assert_uint_eq(entry.type, S_IFREG);
    }
}
END_TEST

START_TEST(a_record_of_another_length_is_refused)
{
    uint64_t state = test_seed();
    for (int i = 0; i < 200; i++) {
        const struct fs_record record = sample(&state);
        struct fs_record back;
        uint8_t bytes[FS_RECORD_BYTES_MAX + 1] = {0};
        const size_t length = fs_record_encode(&record, bytes);
        for (size_t cut = 0; cut < length; cut++)
            ck_assert_int_eq(fs_record_decode(bytes, cut, &back), -EUCLEAN);
        ck_assert_int_eq(fs_record_decode(bytes, length + 1, &back), -EUCLEAN);
    }
}
END_TEST

START_TEST(random_bytes_are_refused_or_give_a_sound_record)
{
    uint64_t state = test_seed();
    unsigned accepted = 0;
    for (int i = 0; i < 100000; i++) {
        struct fs_record record = sample(&state), back;
        uint8_t bytes[FS_RECORD_BYTES_MAX];
        const size_t length = fs_record_encode(&record, bytes);
        for (uint64_t n = 1 + test_below(&state, 4); n-- > 0;)
            bytes[test_below(&state, length)] = (uint8_t)test_random(&state);
        if (fs_record_decode(bytes, length, &back) != 0)
            continue;
        accepted++;
        ck_assert_uint_le(back.file.inline_len, FS_INLINE_MAX);
        ck_assert_uint_le(back.file.size, FS_SIZE_MAX);
        (void)fs_record_encode(&back, bytes); /* asserts what it is given */
    }
    ck_assert_uint_gt(accepted, 0);
}
END_TEST

START_TEST(entries_of_a_directory_are_in_byte_order_of_their_names)
{
    struct fs_key a, b, prefix;
    fs_key_entries(&prefix, 7);
    fs_key_entry(&a, 7, "abc", 3);
    fs_key_entry(&b, 7, "abd", 3);
    ck_assert_int_lt(kv_key_compare(a.bytes, a.length, b.bytes, b.length), 0);
    ck_assert_int_lt(kv_key_compare(prefix.bytes, prefix.length, a.bytes, a.length), 0);
    fs_key_entry(&a, 8, "a", 1);
    ck_assert_int_gt(kv_key_compare(a.bytes, a.length, b.bytes, b.length), 0);
    fs_key_entry(&a, 256, "a", 1);
    fs_key_entry(&b, 255, "z", 1);
    ck_assert_int_gt(kv_key_compare(a.bytes, a.length, b.bytes, b.length), 0);

    uint64_t directory;
    const char *name;
    size_t name_len;
    ck_assert_int_eq(fs_key_entry_parse(a.bytes, a.length, &directory, &name, &name_len), 0);
    ck_assert_uint_eq(directory, 256);
    ck_assert_uint_eq(name_len, 1);
    ck_assert_int_eq(name[0], 'a');
    ck_assert_int_eq(fs_key_entry_parse(prefix.bytes, prefix.length, &directory, &name, &name_len),
                     -EUCLEAN);
}
END_TEST

START_TEST(names_that_are_none_are_refused)
{
    char name[257];
    memset(name, 'n', sizeof name);
    ck_assert_int_eq(fs_name_check("", 0), -EINVAL);
    ck_assert_int_eq(fs_name_check(".", 1), -EINVAL);
    ck_assert_int_eq(fs_name_check("..", 2), -EINVAL);
    ck_assert_int_eq(fs_name_check("...", 3), 0);
    ck_assert_int_eq(fs_name_check(".x", 2), 0);
    ck_assert_int_eq(fs_name_check("a/b", 3), -EINVAL);
    ck_assert_int_eq(fs_name_check("a\0b", 3), -EINVAL);
    ck_assert_int_eq(fs_name_check(name, 255), 0);
    ck_assert_int_eq(fs_name_check(name, 256), -ENAMETOOLONG);
}
END_TEST

START_TEST(links_parents_and_the_volume_read_back)
{
    struct fs_disk_link link;
    struct fs_entry entry;
    fs_link_encode(99, S_IFLNK | 0777, &link);
    ck_assert_int_eq(fs_entry_decode(&link, sizeof link, &entry), 0);
    ck_assert(entry.is_link);
    ck_assert_uint_eq(entry.ino, 99);
    ck_assert_uint_eq(entry.type, S_IFLNK);
    fs_link_encode(99, S_IFDIR, &link);
    ck_assert_int_eq(fs_entry_decode(&link, sizeof link, &entry), -EUCLEAN);

    uint8_t parent[8 + FS_NAME_MAX];
    uint64_t ino;
    const char *name;
    size_t name_len;
    size_t length = fs_parent_encode(5, "dir", 3, parent);
    ck_assert_int_eq(fs_parent_decode(parent, length, &ino, &name, &name_len), 0);
    ck_assert_uint_eq(ino, 5);
    ck_assert_int_eq(memcmp(name, "dir", 3), 0);
    ck_assert_int_eq(fs_parent_decode(parent, 8, &ino, &name, &name_len), -EUCLEAN);

    const struct fs_volume_record volume = {.next_ino = 4098};
    struct fs_volume_record back;
    struct fs_disk_volume disk;
    fs_volume_record_encode(&volume, &disk);
    ck_assert_int_eq(fs_volume_record_decode(&disk, sizeof disk, &back), 0);
    ck_assert_uint_eq(back.next_ino, 4098);
    disk.version = kv_le32_of(FS_VERSION + 1);
    ck_assert_int_eq(fs_volume_record_decode(&disk, sizeof disk, &back), -EPROTONOSUPPORT);
    disk.magic[0]++;
    ck_assert_int_eq(fs_volume_record_decode(&disk, sizeof disk, &back), -EMEDIUMTYPE);
}
END_TEST

START_TEST(times_go_to_nanoseconds_and_back)
{
    uint64_t state = test_seed();
    for (int i = 0; i < 10000; i++) {
        const int64_t ns = (int64_t)test_random(&state);
        const struct timespec time = fs_timespec(ns);
        ck_assert_int_ge(time.tv_nsec, 0);
        ck_assert_int_lt(time.tv_nsec, 1000000000);
        ck_assert_int_eq(fs_time_ns(&time), ns);
    }
    ck_assert_int_eq(fs_time_ns(&(struct timespec){.tv_sec = INT64_MAX}), INT64_MAX);
    ck_assert_int_eq(fs_time_ns(&(struct timespec){.tv_sec = INT64_MIN}), INT64_MIN);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("record");
    TCase *tcase = tcase_create("record");
    tcase_add_test(tcase, a_record_reads_back_as_it_was);
    tcase_add_test(tcase, a_record_of_another_length_is_refused);
    tcase_add_test(tcase, random_bytes_are_refused_or_give_a_sound_record);
    tcase_add_test(tcase, entries_of_a_directory_are_in_byte_order_of_their_names);
    tcase_add_test(tcase, names_that_are_none_are_refused);
    tcase_add_test(tcase, links_parents_and_the_volume_read_back);
    tcase_add_test(tcase, times_go_to_nanoseconds_and_back);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
