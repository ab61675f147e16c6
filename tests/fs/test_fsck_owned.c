/*
 * tests/fs/test_fsck_owned.c: fs/fsck_owned.c finds what is wrong with content,
 * attributes and indexes, or whose they are; what may be a file's content is kept.
 */
#include "fs/acl.h"
#include "fs/expiry.h"
#include "fs/xattr.h"
#include "support_fsck.h"
#include "tests/run.h"

START_TEST(who_claims_a_taken_number_keeps_content_that_its_owner_does_not_have)
{
    static const uint32_t types[] = {S_IFREG, S_IFDIR, S_IFIFO};
    struct bench b;
    bench_open(&b);
    const struct fs_key file = bench_entry_key(2, "file"), winner = bench_entry_key(1, "aa");
    struct fs_record record = bench_record(4, types[_i] | 0644, types[_i] == S_IFDIR ? 2 : 1);
    if (types[_i] == S_IFREG)
        bench_write(&b, &record, 0, "winner", 6);
    if (types[_i] == S_IFDIR)
        bench_put_parent(&b, 4, 1, "aa");
    bench_put_record(&b, &winner, &record); /* stands before the other */
    bench_run(&b, false);
    ck_assert(!bench_found(&b, "data-unused"));
    bench_expect(&b, "inode-twice");
    const struct fs_record first = bench_get_record(&b, &winner),
                           other = bench_get_record(&b, &file);
    ck_assert_uint_eq(first.file.ino, 4);
    ck_assert_uint_eq(first.file.inline_len, record.file.inline_len);
    ck_assert_uint_eq(first.flags, 0);
    ck_assert_uint_ne(other.file.ino, 4);
    ck_assert_uint_eq(other.mode, S_IFREG | 0644);
    bench_expect_content(&b, &other);
    ck_assert(bench_has_attribute(&b, &other, "user.x"));
    bench_close(&b);
}
END_TEST

START_TEST(of_several_who_claim_content_beside_its_number_one_gets_it)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = bench_entry_key(2, "file"), winner = bench_entry_key(1, "aa"),
                        again = bench_entry_key(3, "again");
    const struct fs_record claim = bench_get_record(&b, &file);
    struct fs_record record = bench_record(4, S_IFREG | 0644, 1);
    bench_set_attribute(&b, 4, "user.y", &record.flags); /* it has attributes, too */
    bench_put_record(&b, &winner, &record);
    bench_put_record(&b, &again, &claim);
    bench_expect(&b, "inode-twice");
    record = bench_get_record(&b, &file);
    bench_expect_content(&b, &record);
    ck_assert(bench_has_attribute(&b, &record, "user.x"));
    ck_assert(!bench_has_key(&b, &again));
    record = bench_get_record(&b, &winner);
    ck_assert(bench_has_attribute(&b, &record, "user.y"));
    bench_close(&b);
}
END_TEST

START_TEST(who_claims_a_taken_number_keeps_content_that_is_in_its_record)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = bench_entry_key(2, "file"), small = bench_entry_key(3, "small"),
                        linked = bench_entry_key(3, "linked"),
                        hard = bench_ino_key(FS_KEY_INODE, 5);
    struct fs_record record = bench_record(4, S_IFREG | 0644, 1);
    bench_write(&b, &record, 0, "small", 5);
    bench_put_record(&b, &small, &record);
    record.file.ino = 5; /* which stands under its number */
    bench_put_record(&b, &linked, &record);
    record.file.ino = FS_INO_MAX - 1; /* which nobody was given */
    bench_put_entry(&b, 3, "never", &record);
    bench_expect(&b, "inode-twice");
    const struct fs_record first = bench_get_record(&b, &file);
    bench_expect_content(&b, &first);
    ck_assert_uint_eq(bench_get_record(&b, &hard).nlink, 2);
    static const char *const names[] = {"small", "linked", "never"};
    for (size_t i = 0; i < 3; i++) {
        const struct fs_key key = bench_entry_key(3, names[i]);
        record = bench_get_record(&b, &key);
        ck_assert_uint_ge(record.file.ino, BENCH_NEXT_INO);
        ck_assert_uint_lt(record.file.ino, BENCH_NEXT_INO + 3);
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
    const struct fs_key file = bench_entry_key(2, "file"),
                        found_key = bench_entry_key(BENCH_NEXT_INO, "#4");
    const struct fs_record loser = bench_get_record(&b, &file);
    const struct fs_record winner = bench_record(4, S_IFREG | 0644, 1);
    bench_put_record(&b, &file, &winner);
    bench_put_entry(&b, 2, "fi/le", &loser);
    bench_expect(&b, "entry-name");
    const struct fs_record found = bench_get_record(&b, &found_key);
    ck_assert_uint_eq(bench_lost_found(&b), BENCH_NEXT_INO);
    ck_assert_uint_ne(found.file.ino, 4);
    bench_expect_content(&b, &found);
    bench_close(&b);
}
END_TEST

START_TEST(unused_content_becomes_a_file_under_a_number_that_nothing_has)
{
    struct bench b;
    uint8_t key[FS_DATA_KEY_BYTES];
    static const uint8_t packed[100] = {FS_DATA_PACKED, 'p'};
    bench_open(&b);
    const struct fs_key file = bench_entry_key(2, "file");
    struct fs_record record = bench_get_record(&b, &file);
    const struct fs_record empty = bench_record(4, S_IFREG | 0644, 1);
    bench_put_record(&b, &file, &empty);
    fs_data_key(key, BENCH_NEXT_INO, 0); /* content that lost its inode has the next number */
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, packed, sizeof packed), 0);
    bench_expect(&b, "data-unused");
    const struct fs_key own = bench_entry_key(bench_lost_found(&b), "#100"),
                        found = bench_entry_key(bench_lost_found(&b), "#101");
    ck_assert_uint_eq(bench_lost_found(&b), 102);
    ck_assert_uint_eq(bench_get_record(&b, &own).file.size, 99);
    record = bench_get_record(&b, &found);
    ck_assert_uint_eq(record.file.ino, 101);
    bench_expect_content(&b, &record);
    bench_close(&b);
}
END_TEST

START_TEST(an_orphan_without_content_takes_none_from_the_file_that_has_a_name)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key orphan = bench_ino_key(FS_KEY_ORPHAN, 4), file = bench_entry_key(2, "file");
    const struct fs_record record = bench_record(4, S_IFREG | 0644, 0);
    bench_put_record(&b, &orphan, &record);
    ck_assert_uint_eq(bench_run(&b, false), 1);
    bench_expect(&b, "orphan-in-use");
    ck_assert(!bench_has_key(&b, &orphan));
    const struct fs_record after = bench_get_record(&b, &file);
    ck_assert_uint_eq(after.flags, FS_RECORD_XATTRS);
    bench_expect_content(&b, &after);
    bench_close(&b);
}
END_TEST

START_TEST(blocks_and_size_follow_the_content)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key file = bench_entry_key(2, "file");
    struct fs_record record = bench_get_record(&b, &file);
    const struct fs_record right = record;
    record.file.blocks += 3;
    bench_put_record(&b, &file, &record);
    bench_expect(&b, "blocks");
    ck_assert_uint_eq(bench_get_record(&b, &file).file.blocks, right.file.blocks);
    record.file.blocks = right.file.blocks;
    record.file.size = 1000;
    bench_put_record(&b, &file, &record);
    bench_expect(&b, "size");
    ck_assert_uint_eq(bench_get_record(&b, &file).file.size, right.file.size);
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
    bench_expect(&b, "data-record");
    fs_data_key(key, 4, 100); /* inside the extent at 0 */
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, packed, sizeof packed), 0);
    bench_expect(&b, "data-overlap");
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
    bench_expect(b, "data-table");
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
    const struct fs_key name = bench_entry_key(2, "file");
    struct fs_record record = bench_get_record(&b, &name);
    ck_assert_int_eq(fs_data_punch(&b.data, &record.file, 4096, 16384, SIZE_MAX, &b.change, &done),
                     0);
    ck_assert_int_eq(fs_data_change_apply(&b.change, 0, NULL), 0);
    bench_put_record(&b, &name, &record);
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
    const struct fs_key file = bench_entry_key(2, "file");
    const struct fs_record before = bench_get_record(&b, &file);
    bench_del(&b, &file);
    bench_expect(&b, "data-ownerless");
    const struct fs_key found = bench_entry_key(bench_lost_found(&b), "#4");
    const struct fs_record after = bench_get_record(&b, &found);
    ck_assert_uint_eq(after.file.size, before.file.size);
    ck_assert_uint_eq(after.file.blocks, before.file.blocks);

    fs_data_key(key, 5, 0); /* its owner's content is inline */
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, packed, sizeof packed), 0);
    bench_expect(&b, "data-unused");
    fs_data_key(key, UINT64_MAX, 0);
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, packed, sizeof packed), 0);
    bench_expect(&b, "data-unused");
    ck_assert_int_eq(kv_put(b.scratch.store, "Fxy", 3, packed, sizeof packed), 0);
    bench_expect(&b, "data-key");
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
    bench_expect(&b, "attribute-ownerless");

    struct fs_key key = bench_ino_key(FS_KEY_XATTR, 4);
    memcpy(key.bytes + key.length, "bogus.x", 7);
    key.length = (uint16_t)(key.length + 7);
    bench_put(&b, &key, "1", 1);
    bench_expect(&b, "attribute-name");

    flags = 0;
    ck_assert_int_eq(
        fs_xattr_set(store, 4, &flags, FS_XATTR_ACCESS_ACL, "no list", 7, 0, b.change.batch), 0);
    ck_assert_int_eq(fs_data_change_apply(&b.change, 0, NULL), 0);
    bench_expect(&b, "attribute-value");

    flags = 0;
    ck_assert_int_eq(fs_xattr_set(store, 5, &flags, FS_XATTR_CAPABILITY, "c", 1, 0, b.change.batch),
                     0);
    ck_assert_int_eq(fs_data_change_apply(&b.change, 0, NULL), 0);
    bench_expect(&b, "attribute-hidden");
    const struct fs_key hard = bench_ino_key(FS_KEY_INODE, 5);
    const struct fs_record record = bench_get_record(&b, &hard);
    ck_assert_uint_eq(record.flags, FS_RECORD_XATTRS | FS_RECORD_CAPABILITY);

    const struct fs_key entry = bench_entry_key(1, "symlink");
    struct fs_record boastful = bench_get_record(&b, &entry);
    boastful.flags |= FS_RECORD_XATTRS | FS_RECORD_ACCESS_ACL;
    bench_put_record(&b, &entry, &boastful);
    bench_expect(&b, "attribute-missing");
    ck_assert_uint_eq(bench_get_record(&b, &entry).flags, 0);
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
    bench_expect(&b, "expiry-stray");
    const struct fs_key file = bench_entry_key(2, "file");
    struct fs_record record = bench_get_record(&b, &file);
    record.expiry_ns = year_2100;
    bench_put_record(&b, &file, &record);
    bench_expect(&b, "expiry-missing");
    ck_assert_int_eq(kv_get(b.scratch.store, key, sizeof key, place, sizeof place, &length), 0);
    ck_assert_uint_eq(length, fs_parent_encode(2, "file", 4, right));
    ck_assert_mem_eq(place, right, length);
    /* One that names another place is as good as none. */
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, place, length - 1), 0);
    bench_expect(&b, "expiry-missing");
    ck_assert_int_eq(kv_get(b.scratch.store, key, sizeof key, place, sizeof place, &length), 0);
    ck_assert_mem_eq(place, right, length);
    bench_close(&b);
}
END_TEST

START_TEST(a_symlink_whose_target_is_cut_keeps_what_is_there)
{
    struct bench b;
    bench_open(&b);
    const struct fs_key key = bench_entry_key(1, "symlink");
    struct fs_record record = bench_get_record(&b, &key);
    record.file.size = 10;
    bench_put_record(&b, &key, &record);
    bench_expect(&b, "symlink-target");
    ck_assert_uint_eq(bench_get_record(&b, &key).file.size, 6);
    bench_close(&b);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("owned");
    TCase *const tcase = tcase_create("check");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, who_claims_a_taken_number_keeps_content_that_its_owner_does_not_have,
                        0, 3);
    tcase_add_test(tcase, of_several_who_claim_content_beside_its_number_one_gets_it);
    tcase_add_test(tcase, who_claims_a_taken_number_keeps_content_that_is_in_its_record);
    tcase_add_test(tcase, under_an_illegal_name_a_file_keeps_content_that_its_owner_does_not_have);
    tcase_add_test(tcase, unused_content_becomes_a_file_under_a_number_that_nothing_has);
    tcase_add_test(tcase, an_orphan_without_content_takes_none_from_the_file_that_has_a_name);
    tcase_add_test(tcase, blocks_and_size_follow_the_content);
    tcase_add_test(tcase, damaged_content_records_become_holes);
    tcase_add_test(tcase, a_wrong_table_of_an_extent_is_made_anew);
    tcase_add_test(tcase, content_without_an_inode_becomes_a_file);
    tcase_add_test(tcase, attributes_need_an_owner_a_name_and_to_be_announced);
    tcase_add_test(tcase, the_index_of_expiries_follows_the_inodes);
    tcase_add_test(tcase, a_symlink_whose_target_is_cut_keeps_what_is_there);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
