/*
 * tests/faults/fuzz/fuzz_data.c: the content of one file whose records were made by an enemy
 * (fs/data.h).
 *
 * Input      size(8) blocks(8) inline(1), then records, kind(1) offset(8) and what the kind
 *            takes, until a kind of 0, then operations.
 * Checked    a record that decodes obeys what fs/data.h says of one; operations end, stay
 *            inside their buffers, and say what they may say. Each input has an inode of its
 *            own in one store, whose records are deleted after it.
 */
#include "tests/faults/fuzz/fuzz.h"

#include "fs/data.h"
#include "fs/record.h"
#include "kv/format.h"
#include "tests/kv/support_devices.h"
#include "tests/kv/support_store.h"

#define DEVICE_BLOCKS (KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)
#define INO           5u
#define BLOB_BYTES    8192u
#define FRAMED_BYTES  65536u /* a blob in frames, not packed */
#define IO_BYTES      32768u
#define STEPS_MAX     16u
#define RECORDS_MAX   24u

static struct kv_store *store;
static struct fs_data data;
static struct kv_blob_ref blob, framed; /* held by keys of their own, so that they may be shared */
static uint8_t framed_table[KV_BLOB_TABLE_MAX];
static struct fs_data_change change;

static void open_store(void)
{
    static uint8_t bytes[BLOB_BYTES], framed_bytes[FRAMED_BYTES];
    size_t written;
    struct kv_device *const device = memory_device_new(DEVICE_BLOCKS);
    test_create_on(device, KV_NODE_BYTES_MIN, KV_CODEC_LZ4, KV_LOG_BYTES_MIN);
    store = test_open_on(device);
    fs_data_init(&data, store);
    test_fill(bytes, sizeof bytes, 3);
    struct kv_batch *const batch = kv_batch_new();
    KV_ASSERT(batch);
    KV_ASSERT(kv_blob_write(store, bytes, sizeof bytes, NULL, &blob, &written) == 0);
    KV_ASSERT(kv_batch_put_blob(batch, "blob", 4, "", 0, &blob, KV_BLOB_NEW) == 0);
    struct kv_blob_source source = {
        .bytes = framed_bytes, .length = sizeof framed_bytes, .table = framed_table};
    test_fill(framed_bytes, sizeof framed_bytes, 4);
    KV_ASSERT(kv_blob_write_many(store, &source, 1, NULL) == 0);
    KV_ASSERT(source.table_length == sizeof framed_bytes / 4096 * 8);
    framed = source.ref;
    KV_ASSERT(kv_batch_put_blob(batch, "framed", 6, "", 0, &framed, KV_BLOB_NEW) == 0);
    KV_ASSERT(kv_apply(store, batch, 0, NULL) == 0);
    kv_batch_free(batch);
    KV_ASSERT(fs_data_change_init(&change, store) == 0);
}

/* ---- records ------------------------------------------------------------------- */

static void check_record(const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len)
{
    struct fs_data_record record;
    const int err = fs_data_record_decode(&data, key, key_len, value, value_len, &record);
    KV_ASSERT(err == 0 || err == -EUCLEAN);
    if (err)
        return;
    KV_ASSERT(record.length >= 1);
    KV_ASSERT(record.offset <= FS_SIZE_MAX);
    KV_ASSERT(record.length <= FS_SIZE_MAX - record.offset);
    if (record.kind == FS_DATA_PACKED)
        KV_ASSERT(record.bytes + record.length <= value + value_len);
}

/*
 * A value of any bytes, or (kind 2) one that ends in a reference to a blob that is there: one in
 * frames with 0x20, and with 0x10 as much of its right table before it as the record wants.
 */
static void put_record(struct kv_batch *batch, uint8_t kind, struct fuzz_input *input)
{
    uint8_t key[FS_DATA_KEY_BYTES];
    uint64_t offset = fuzz_u64(input);
    if (kind & 0x80)
        offset %= 65536; /* where they meet */
    fs_data_key(key, INO, offset);
    const struct fuzz_input part = fuzz_part(input, kind & 0x40 ? 256 : 24);
    const struct kv_blob_ref *const ref = kind & 0x20 ? &framed : &blob;
    uint8_t value[256 + KV_BLOB_TABLE_MAX + sizeof blob];
    if (part.left)
        memcpy(value, part.at, part.left);
    size_t length = part.left;
    if ((kind & 0x30) == 0x30 && length >= 12) { /* fs_disk_extent: length at 4, offset at 8 */
        kv_le32 bytes, offset_in_blob;
        size_t at;
        length = 12;
        memcpy(&bytes, value + 4, sizeof bytes);
        memcpy(&offset_in_blob, value + 8, sizeof offset_in_blob);
        const size_t table =
            kv_blob_table_range(ref, kv_le32_get(offset_in_blob), kv_le32_get(bytes), &at);
        if (table)
            memcpy(value + length, framed_table + at, table);
        length += table;
    }
    memcpy(value + length, ref, sizeof *ref);
    check_record(key, sizeof key, value, length);
    check_record(key, sizeof key, value, length + sizeof *ref);
    if (kind & 1)
        kv_ignore(kv_batch_put(batch, key, sizeof key, value, length));
    else
        kv_ignore(kv_batch_put_blob(batch, key, sizeof key, value, length, ref, KV_BLOB_SHARED));
}

static void put_records(struct fuzz_input *input)
{
    struct kv_batch *const batch = kv_batch_new();
    KV_ASSERT(batch);
    for (unsigned i = 0; i < RECORDS_MAX; i++) {
        const uint8_t kind = fuzz_u8(input);
        if (!kind)
            break;
        put_record(batch, kind, input);
    }
    KV_ASSERT(kv_apply(store, batch, 0, NULL) == 0);
    kv_batch_free(batch);
}

static void drop_records(void)
{
    uint8_t lower[FS_DATA_KEY_BYTES], upper[FS_DATA_KEY_BYTES];
    fs_data_key(lower, INO, 0);
    fs_data_key(upper, INO + 2, 0);
    struct kv_batch *const batch = kv_batch_new();
    KV_ASSERT(batch);
    KV_ASSERT(kv_batch_del_range(batch, lower, sizeof lower, upper, sizeof upper) == 0);
    KV_ASSERT(kv_apply(store, batch, KV_APPLY_URGENT, NULL) == 0);
    kv_batch_free(batch);
}

/* ---- operations ------------------------------------------------------------------ */

/* Near something that is there, or anywhere. */
static uint64_t choose_offset(struct fuzz_input *input, const struct fs_file *file)
{
    const uint8_t how = fuzz_u8(input);
    switch (how % 4) {
    case 0:
        return fuzz_u16(input);
    case 1:
        return file->size - kv_min_u64(file->size, fuzz_u16(input));
    case 2:
        return fuzz_u32(input);
    default:
        return fuzz_u64(input);
    }
}

static void read_some(struct fuzz_input *input, const struct fs_file *file)
{
    const size_t length = fuzz_u16(input) % (IO_BYTES + 1);
    uint8_t *const buf = malloc(length + 1);
    size_t got = 0;
    KV_ASSERT(buf);
    const int err = fs_data_read(&data, file, choose_offset(input, file), buf, length, &got);
    KV_ASSERT(err || got <= length);
    free(buf);
}

static void seek_some(struct fuzz_input *input, const struct fs_file *file)
{
    const enum fs_data_seek_kind kind = fuzz_u8(input) & 1 ? FS_SEEK_DATA : FS_SEEK_HOLE;
    const uint64_t offset = choose_offset(input, file);
    uint64_t found = 0;
    const int err = fs_data_seek(&data, file, offset, kind, &found);
    KV_ASSERT(err || (found >= offset && found <= file->size));
}

/* One change; `file` is what is stored after it, applied or not. */
static void change_some(uint8_t what, struct fuzz_input *input, struct fs_file *file)
{
    static uint8_t bytes[IO_BYTES];
    struct fs_file after = *file;
    const uint64_t offset = choose_offset(input, file);
    const uint64_t length = choose_offset(input, file);
    const bool keep_size = what & 0x80;
    const size_t most = 1 + (what >> 4) % 8u * 8;
    bool done = true;
    uint64_t cloned;
    int err;
    switch (what % 10) {
    case 0:
        err = fs_data_write(&data, &after, offset, bytes, length % (IO_BYTES + 1), NULL, &change);
        break;
    case 1:
        err = fs_data_truncate(&data, &after, offset, most, &change, &done);
        break;
    case 2:
        err = fs_data_punch(&data, &after, offset, length, most, &change, &done);
        break;
    case 3:
        err = fs_data_zero(&data, &after, offset, length, keep_size, most, &change, &done);
        break;
    case 4:
        err = fs_data_allocate(&data, &after, offset, length, keep_size, most, &change, &done);
        break;
    case 5:
        err = fs_data_collapse(&data, &after, offset & ~4095ull, length & ~4095ull, &change);
        break;
    case 6:
        err = fs_data_insert(&data, &after, offset & ~4095ull, length & ~4095ull, &change);
        break;
    case 7:
        err = fs_data_clone(&data, &after, offset, &after, length, choose_offset(input, file), most,
                            &change, &cloned);
        break;
    case 8: {
        struct fs_file other = {.ino = INO + 1, .is_inline = true};
        err = fs_data_clone(&data, &after, offset, &other, length, choose_offset(input, file), most,
                            &change, &cloned);
        break;
    }
    default:
        err = fs_data_delete_step(&data, INO, most, &change, &done);
        after = (struct fs_file){.ino = INO, .is_inline = true};
        break;
    }
    if (err)
        fs_data_change_abort(&change);
    else
        err = fs_data_change_apply(&change, 0, NULL);
    if (!err) {
        KV_ASSERT(after.size <= FS_SIZE_MAX);
        KV_ASSERT(after.inline_len <= FS_INLINE_MAX);
        *file = after;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (!store)
        open_store();
    struct fuzz_input input = {bytes, length};
    struct fs_file file = {.ino = INO};
    file.size = fuzz_u64(&input) & FS_SIZE_MAX;
    file.blocks = fuzz_u64(&input);
    const uint8_t inline_len = fuzz_u8(&input);
    file.is_inline = inline_len & 1;
    if (file.is_inline)
        file.inline_len = (uint16_t)kv_min_u64(inline_len, file.size);
    else
        put_records(&input);
    for (unsigned steps = 0; steps < STEPS_MAX && input.left; steps++) {
        const uint8_t what = fuzz_u8(&input);
        if (what % 3 == 0)
            read_some(&input, &file);
        else if (what % 16 == 1)
            seek_some(&input, &file);
        else
            change_some(what, &input, &file);
    }
    drop_records();
    struct kv_stats stats;
    kv_store_stats(store, &stats);
    if (stats.log_used_bytes > stats.log_total_bytes / 2)
        KV_ASSERT(kv_checkpoint(store) == 0);
    return 0;
}
