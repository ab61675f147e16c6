/*
 * tests/fs/test_fsck.c: fs/fsck.c finds each kind of damage of names, numbers,
 * directories and counts, mends it, and is content then.
 */
#include "fs/xattr.h"
#include "support_fsck.h"
#include "tests/run.h"

START_TEST(a_sound_tree_has_no_findings_but_its_orphan)
{
    struct bench b;
    bench_open(&b);
    ck_assert_uint_eq(bench_run(&b, false), 0);
    ck_assert_uint_eq(b.finding_count, 1);
    ck_assert(bench_found(&b, "orphan"));
    ck_assert_uint_gt(b.result.keys, 10);
    ck_assert_uint_eq(bench_run(&b, true), 0);
    bench_close(&b);
}
END_TEST

START_TEST(a_store_without_a_filesystem_is_told_and_no_error)
{
    struct bench b = {0};
    scratch_open(&b.scratch, 64u << 20, 0, 0);
    ck_assert_uint_eq(bench_run(&b, true), 0);
    ck_assert(bench_found(&b, "no-filesystem"));
    scratch_close(&b.scratch);
}
END_TEST

START_TEST(a_wrong_volume_record_is_made_anew_above_all_numbers)
{
    struct bench b;
    struct fs_key key;
    bench_open(&b);
    fs_key_volume(&key);
    bench_put(&b, &key, "nonsense", 8);
    bench_expect(&b, "volume-record");
    ck_assert_uint_eq(bench_get_volume(&b).next_ino, 8);
    bench_put_volume(&b, 4);
    bench_expect(&b, "next-inode");
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
    const struct fs_key inode = bench_ino_key(FS_KEY_INODE, ino),
                        orphan = bench_ino_key(FS_KEY_ORPHAN, ino);
    const struct fs_record file = bench_record(ino, S_IFREG | 0600, 1),
                           child = bench_record(20, S_IFREG | 0600, 1);
    bench_put_entry(&b, 2, "named", &file);
    bench_expect(&b, "inode-number");
    bench_put_entry(&b, 2, "na/med", &file);
    bench_expect(&b, "entry-name");
    bench_put_record(&b, &inode, &file);
    bench_put_link(&b, 2, "linked", ino);
    bench_expect(&b, "inode-number");
    bench_put_record(&b, &orphan, &file);
    bench_expect(&b, "inode-number");
    fs_data_key(content, ino, 0);
    ck_assert_int_eq(kv_put(b.scratch.store, content, sizeof content, packed, sizeof packed), 0);
    bench_expect(&b, "data-unused");
    bench_put_entry(&b, ino, "child", &child);
    bench_expect(&b, "directory-none");
    const struct fs_key found = bench_entry_key(bench_lost_found(&b), "#20");
    ck_assert(bench_has_key(&b, &found));
    ck_assert_uint_lt(bench_get_volume(&b).next_ino, 1000);
    bench_close(&b);
}
END_TEST

START_TEST(great_numbers_are_taken_over_when_they_have_been_given)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = bench_entry_key(2, "named"), other = bench_entry_key(2, "other");
    struct fs_record record = bench_record(FS_INO_TAKEN_MAX, S_IFREG | 0600, 1);
    bench_put_entry(&b, 2, "other", &record);
    bench_expect(&b, "next-inode");
    ck_assert_uint_eq(bench_get_volume(&b).next_ino, FS_INO_TAKEN_MAX + 1);
    bench_put_volume(&b, FS_INO_TAKEN_MAX + 10);
    record = bench_record(FS_INO_TAKEN_MAX + 9, S_IFREG | 0600, 1);
    bench_put_entry(&b, 2, "named", &record);
    ck_assert_uint_eq(bench_run(&b, true), 0);
    ck_assert(bench_has_key(&b, &file));
    ck_assert(bench_has_key(&b, &other));
    bench_close(&b);
}
END_TEST

START_TEST(entries_that_can_not_be_decoded_go)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key key = bench_entry_key(2, "bad"), other = bench_entry_key(3, "worse");
    bench_put(&b, &key, "\1rubbish", 8);
    bench_put(&b, &other, "", 0);
    bench_expect(&b, "entry-value");
    ck_assert(!bench_has_key(&b, &key));
    ck_assert(!bench_has_key(&b, &other));
    bench_close(&b);
}
END_TEST

START_TEST(an_inode_under_an_illegal_name_goes_to_lost_found)
{
    struct bench b;
    bench_open(&b);
    const struct fs_record record = bench_record(20, S_IFREG | 0600, 1);
    bench_put_entry(&b, 1, "x/y", &record);
    const struct fs_record directory = bench_record(21, S_IFDIR | 0700, 2);
    bench_put_entry(&b, 1, "..", &directory);
    bench_expect(&b, "entry-name");
    const struct fs_key file = bench_entry_key(bench_lost_found(&b), "#20");
    ck_assert_uint_eq(bench_get_record(&b, &file).file.ino, 20);
    const struct fs_key moved = bench_entry_key(bench_lost_found(&b), "#21");
    ck_assert_uint_eq(bench_get_record(&b, &moved).file.ino, 21);
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
    const struct fs_key file = bench_entry_key(2, "file"), directory = bench_entry_key(2, "b");
    struct fs_record record = bench_get_record(&b, &file);
    bench_del(&b, &file);
    record.uid = 1000;
    record.gid = 100;
    record.mtime_ns = 4444;
    bench_put_entry(&b, 2, "fi/le", &record);
    record = bench_get_record(&b, &directory);
    bench_del(&b, &directory);
    record.uid = 1000;
    record.gid = 100;
    record.mtime_ns = 3333;
    bench_put_entry(&b, 2, ".", &record);
    bench_put_parent(&b, 3, 2, ".");

    bench_run(&b, false);
    ck_assert(!bench_found(&b, "data-ownerless"));
    ck_assert(!bench_found(&b, "directory-missing"));
    ck_assert(!bench_found(&b, "attribute-ownerless"));
    bench_expect(&b, "entry-name");
    const uint64_t lost_found = bench_lost_found(&b);
    const struct fs_key found_file = bench_entry_key(lost_found, "#4"),
                        found_directory = bench_entry_key(lost_found, "#3"),
                        child = bench_entry_key(3, "link");
    record = bench_get_record(&b, &found_file);
    expect_owner(&record, S_IFREG | 0644, 4444);
    bench_expect_content(&b, &record);
    ck_assert_int_eq(fs_xattr_get(store, 4, record.flags, "user.x", NULL, 0, &length), 0);
    record = bench_get_record(&b, &found_directory);
    expect_owner(&record, S_IFDIR | 0755, 3333);
    ck_assert(bench_has_key(&b, &child));
    bench_close(&b);
}
END_TEST

START_TEST(under_a_name_that_is_too_long_an_inode_goes_to_lost_found)
{
    struct bench b;
    uint8_t value[FS_RECORD_BYTES_MAX], key[KV_KEY_MAX];
    bench_open(&b);
    const struct fs_key file = bench_entry_key(2, "file");
    const struct fs_record before = bench_get_record(&b, &file);
    memset(key, 'n', sizeof key);
    memcpy(key, file.bytes, 9);
    bench_del(&b, &file);
    ck_assert_int_eq(
        kv_put(b.scratch.store, key, sizeof key, value, fs_record_encode(&before, value)), 0);
    bench_expect(&b, "entry-name");
    const struct fs_key found = bench_entry_key(bench_lost_found(&b), "#4");
    const struct fs_record record = bench_get_record(&b, &found);
    ck_assert_uint_eq(record.mode, before.mode);
    bench_expect_content(&b, &record);
    bench_close(&b);
}
END_TEST

START_TEST(who_has_a_legal_name_keeps_a_number_that_an_illegal_name_claims_too)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = bench_entry_key(2, "file"), orphan = bench_ino_key(FS_KEY_ORPHAN, 4);
    struct fs_record record = bench_record(4, S_IFREG | 0600, 1);
    bench_put_entry(&b, 1, "x/y", &record); /* comes before the other */
    bench_expect(&b, "entry-name");
    record = bench_get_record(&b, &file);
    bench_expect_content(&b, &record);

    /* But an orphan has no name at all, and of illegal ones the first counts. */
    bench_del(&b, &file);
    bench_put_entry(&b, 2, "x/y", &record);
    record = bench_record(4, S_IFREG | 0600, 1);
    bench_put_entry(&b, 2, "x/z", &record);
    record = bench_record(4, S_IFREG | 0600, 0);
    bench_put_record(&b, &orphan, &record);
    bench_expect(&b, "entry-name");
    const struct fs_key found = bench_entry_key(bench_lost_found(&b), "#4");
    record = bench_get_record(&b, &found);
    bench_expect_content(&b, &record);
    bench_close(&b);
}
END_TEST

START_TEST(wrong_link_counts_are_corrected)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key hard = bench_ino_key(FS_KEY_INODE, 5), file = bench_entry_key(2, "file"),
                        directory = bench_entry_key(1, "a"), root = bench_ino_key(FS_KEY_INODE, 1);
    const struct fs_key *const keys[] = {&hard, &file, &directory, &root};
    static const uint32_t right[] = {2, 1, 3, 3};
    for (size_t i = 0; i < 4; i++) {
        struct fs_record record = bench_get_record(&b, keys[i]);
        record.nlink = 9;
        bench_put_record(&b, keys[i], &record);
    }
    ck_assert_uint_eq(bench_run(&b, false), 4);
    bench_expect(&b, "link-count");
    for (size_t i = 0; i < 4; i++)
        ck_assert_uint_eq(bench_get_record(&b, keys[i]).nlink, right[i]);
    bench_close(&b);
}
END_TEST

START_TEST(a_link_to_nothing_goes_and_an_inode_without_links_is_found_again)
{
    struct bench b;
    bench_open(&b);
    bench_put_link(&b, 2, "nowhere", 50);
    bench_expect(&b, "entry-dangling");
    const struct fs_key one = bench_entry_key(1, "hard"), two = bench_entry_key(3, "link");
    bench_del(&b, &one);
    bench_expect(&b, "link-count");
    bench_del(&b, &two);
    bench_expect(&b, "unreferenced");
    const struct fs_key found = bench_entry_key(bench_lost_found(&b), "#5");
    ck_assert_uint_eq(bench_get_record(&b, &found).nlink, 1);
    bench_close(&b);
}
END_TEST

START_TEST(a_link_that_says_another_type_is_corrected)
{
    struct bench b;
    struct fs_disk_link link;
    bench_open(&b);
    const struct fs_key key = bench_entry_key(1, "hard");
    fs_link_encode(5, S_IFIFO, &link);
    bench_put(&b, &key, &link, sizeof link);
    bench_expect(&b, "entry-type");
    bench_close(&b);
}
END_TEST

START_TEST(an_inode_number_claimed_twice_is_settled)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = bench_entry_key(2, "file");
    const struct fs_record record = bench_get_record(&b, &file);
    bench_put_entry(&b, 3, "again", &record);
    bench_expect(&b, "inode-twice");
    ck_assert(bench_has_key(&b, &file));
    const struct fs_record hard = bench_record(5, S_IFREG | 0644, 1);
    bench_put_entry(&b, 3, "record of a linked file", &hard);
    bench_expect(&b, "inode-twice");
    const struct fs_key key = bench_ino_key(FS_KEY_INODE, 5);
    ck_assert_uint_eq(bench_get_record(&b, &key).nlink, 3);
    bench_close(&b);
}
END_TEST

START_TEST(parent_records_follow_the_entries)
{
    struct bench b;
    bench_open(&b);
    bench_put_parent(&b, 3, 1, "b");
    bench_expect(&b, "parent");
    const struct fs_key key = bench_ino_key(FS_KEY_PARENT, 2),
                        stray = bench_ino_key(FS_KEY_PARENT, 4);
    bench_del(&b, &key);
    bench_expect(&b, "parent");
    ck_assert(bench_has_key(&b, &key));
    bench_put_parent(&b, 4, 2, "file");
    bench_expect(&b, "parent-stray");
    ck_assert(!bench_has_key(&b, &stray));
    bench_close(&b);
}
END_TEST

START_TEST(a_directory_that_lost_its_entry_comes_back)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key entry = bench_entry_key(2, "b"), parent = bench_ino_key(FS_KEY_PARENT, 3);
    bench_del(&b, &entry);
    bench_expect(&b, "directory-missing");
    ck_assert_uint_eq(bench_get_record(&b, &entry).file.ino, 3);
    bench_del(&b, &entry);
    bench_del(&b, &parent);
    bench_expect(&b, "directory-missing");
    const struct fs_key found = bench_entry_key(bench_lost_found(&b), "#3");
    ck_assert_uint_eq(bench_get_record(&b, &found).file.ino, 3);
    bench_close(&b);
}
END_TEST

START_TEST(entries_in_what_is_no_directory_go_to_lost_found)
{
    struct bench b;
    bench_open(&b);
    const struct fs_record record = bench_record(30, S_IFREG | 0600, 1);
    bench_put_entry(&b, 4, "inside a file", &record);
    bench_expect(&b, "directory-none");
    const struct fs_key found = bench_entry_key(bench_lost_found(&b), "#30");
    ck_assert(bench_has_key(&b, &found));
    bench_close(&b);
}
END_TEST

START_TEST(a_loop_of_directories_is_cut)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key old = bench_entry_key(1, "a");
    const struct fs_record record = bench_get_record(&b, &old);
    bench_del(&b, &old);
    bench_put_entry(&b, 3, "a", &record);
    bench_put_parent(&b, 2, 3, "a");
    bench_expect(&b, "directory-loop");
    const struct fs_key file = bench_entry_key(2, "file");
    ck_assert(bench_has_key(&b, &file));
    bench_close(&b);
}
END_TEST

START_TEST(a_missing_root_is_replaced_and_keeps_its_entries)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key root = bench_ino_key(FS_KEY_INODE, 1), entry = bench_entry_key(1, "a");
    bench_del(&b, &root);
    bench_expect(&b, "root");
    ck_assert(bench_has_key(&b, &root));
    ck_assert(bench_has_key(&b, &entry));
    bench_close(&b);
}
END_TEST

START_TEST(inode_records_that_are_no_inodes_are_reported)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key key = bench_ino_key(FS_KEY_INODE, 60),
                        orphan = bench_ino_key(FS_KEY_ORPHAN, 61);
    const struct fs_record record = bench_record(62, S_IFREG | 0600, 1); /* another number */
    bench_put_record(&b, &key, &record);
    bench_put(&b, &orphan, "zz", 2);
    ck_assert_uint_eq(bench_run(&b, false), 2);
    bench_expect(&b, "inode-record");
    const struct fs_key nameless = bench_ino_key(FS_KEY_INODE, 63);
    const struct fs_record directory = bench_record(63, S_IFDIR | 0700, 2);
    bench_put_record(&b, &nameless, &directory);
    bench_expect(&b, "inode-type");
    const struct fs_key found = bench_entry_key(bench_lost_found(&b), "#63");
    ck_assert(bench_has_key(&b, &found));
    bench_close(&b);
}
END_TEST

START_TEST(an_orphan_that_has_a_name_stays)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key orphan = bench_ino_key(FS_KEY_ORPHAN, 4), file = bench_entry_key(2, "file"),
                        last = bench_ino_key(FS_KEY_ORPHAN, 7),
                        revived = bench_ino_key(FS_KEY_INODE, 7);
    struct fs_record record = bench_get_record(&b, &file);
    record.nlink = 0;
    bench_put_record(&b, &orphan, &record);
    bench_expect(&b, "orphan-in-use");
    ck_assert(!bench_has_key(&b, &orphan));
    ck_assert(bench_has_key(&b, &file));
    bench_put_link(&b, 1, "name of an orphan", 7);
    bench_expect(&b, "orphan-in-use");
    ck_assert(!bench_has_key(&b, &last));
    ck_assert_uint_eq(bench_get_record(&b, &revived).nlink, 1);
    bench_close(&b);
}
END_TEST

START_TEST(orphans_with_links_or_entries_are_mended)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key key = bench_ino_key(FS_KEY_ORPHAN, 7),
                        directory = bench_ino_key(FS_KEY_ORPHAN, 8);
    struct fs_record record = bench_get_record(&b, &key);
    record.nlink = 1;
    bench_put_record(&b, &key, &record);
    bench_expect(&b, "orphan-links");
    ck_assert_uint_eq(bench_get_record(&b, &key).nlink, 0);
    record = bench_record(8, S_IFDIR | 0700, 0);
    bench_put_record(&b, &directory, &record);
    record = bench_record(9, S_IFREG | 0600, 1);
    bench_put_entry(&b, 8, "child", &record);
    bench_expect(&b, "orphan-entries");
    const struct fs_key child = bench_entry_key(8, "child");
    ck_assert(bench_has_key(&b, &child));
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
    ck_assert_uint_eq(bench_run(&b, true), 0);
    ck_assert(bench_found(&b, "key-type"));
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
        if (bench_run(&b, false)) {
            bench_print_findings(&b);
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
    tcase_add_test(tcase, parent_records_follow_the_entries);
    tcase_add_test(tcase, a_directory_that_lost_its_entry_comes_back);
    tcase_add_test(tcase, entries_in_what_is_no_directory_go_to_lost_found);
    tcase_add_test(tcase, a_loop_of_directories_is_cut);
    tcase_add_test(tcase, a_missing_root_is_replaced_and_keeps_its_entries);
    tcase_add_test(tcase, inode_records_that_are_no_inodes_are_reported);
    tcase_add_test(tcase, an_orphan_that_has_a_name_stays);
    tcase_add_test(tcase, orphans_with_links_or_entries_are_mended);
    tcase_add_test(tcase, keys_of_unknown_types_are_told_and_left_alone);
    tcase_add_loop_test(tcase, whatever_is_damaged_a_repair_ends_in_a_sound_tree, 0, 100);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
