/*
 * tests/fs/test_data.c: fs/data.c against a plain byte buffer.
 *
 * Invariant  after each applied change the stored records obey every rule of fs/data.h, their
 *            sum is fs_file.blocks, and reading gives what the buffer has.
 */
#include "fs/data.h"
#include "tests/fs/scratch_store.h"
#include "tests/run.h"

#define MODEL_MAX 400000u
#define STEP_MAX  1000

struct model {
    uint64_t size;
    uint8_t bytes[MODEL_MAX]; /* zero behind size */
};

struct bench {
    struct scratch_store scratch;
    struct fs_data data;
    struct fs_data_change change;
    struct fs_file file[2];
    struct model *model[2];
    uint64_t random;
    uint8_t *buffer;
};

/* forget: features of the image that an older program does not know. */
static void bench_open_as(struct bench *b, uint32_t node_bytes, uint32_t extent_bytes,
                          uint64_t forget)
{
    memset(b, 0, sizeof *b);
    scratch_create(&b->scratch, 64u << 20, node_bytes, extent_bytes);
    if (forget)
        scratch_forget_features(&b->scratch, forget);
    scratch_mount(&b->scratch);
    fs_data_init(&b->data, b->scratch.store);
    ck_assert_int_eq(fs_data_change_init(&b->change, b->scratch.store), 0);
    for (int i = 0; i < 2; i++) {
        b->file[i] = (struct fs_file){.ino = (uint64_t)(i + 5), .is_inline = true};
        b->model[i] = calloc(1, sizeof *b->model[i]);
    }
    b->buffer = malloc(FS_WRITE_MAX);
    ck_assert_ptr_nonnull(b->buffer);
}

static void bench_open(struct bench *b, uint32_t node_bytes, uint32_t extent_bytes)
{
    bench_open_as(b, node_bytes, extent_bytes, 0);
}

static void bench_reopen(struct bench *b)
{
    fs_data_change_release(&b->change);
    scratch_reopen(&b->scratch);
    fs_data_init(&b->data, b->scratch.store);
    ck_assert_int_eq(fs_data_change_init(&b->change, b->scratch.store), 0);
}

static void bench_close(struct bench *b)
{
    fs_data_change_release(&b->change);
    scratch_close(&b->scratch);
    free(b->model[0]);
    free(b->model[1]);
    free(b->buffer);
}

static void apply(struct bench *b)
{
    ck_assert_int_eq(fs_data_change_apply(&b->change, 0, NULL), 0);
}

struct census {
    uint64_t packed, extents, unwritten, units;
    uint64_t least_extent; /* bytes */
};

/* Walk all records of a file and hold them against the rules. */
static struct census take_census(struct bench *b, const struct fs_file *file)
{
    struct census census = {.least_extent = UINT64_MAX};
    uint8_t prefix[FS_DATA_KEY_BYTES];
    struct kv_cursor *cursor;
    uint64_t last_end = 0;
    fs_data_key(prefix, file->ino, 0);
    ck_assert_int_eq(kv_cursor_open_prefix(b->scratch.store, prefix, 9, &cursor), 0);
    int err;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        const void *value;
        size_t key_len, value_len;
        struct fs_data_record r;
        ck_assert_int_eq(kv_cursor_value(cursor, &value, &value_len), 0);
        const void *const key = kv_cursor_key(cursor, &key_len);
        ck_assert_int_eq(fs_data_record_decode(&b->data, key, key_len, value, value_len, &r), 0);
        ck_assert_uint_ge(r.offset, last_end);
        last_end = r.offset + r.length;
        if (r.kind != FS_DATA_UNWRITTEN)
            ck_assert_uint_le(last_end, file->size);
        census.packed += r.kind == FS_DATA_PACKED;
        census.extents += r.kind == FS_DATA_EXTENT;
        census.unwritten += r.kind == FS_DATA_UNWRITTEN;
        if (r.kind == FS_DATA_EXTENT)
            census.least_extent = kv_min_u64(census.least_extent, r.length);
        census.units += fs_data_units(r.length);
    }
    ck_assert_int_eq(err, -ENOENT);
    kv_cursor_close(cursor);
    if (file->is_inline) {
        ck_assert_uint_eq(census.units, 0);
        ck_assert_uint_le(file->inline_len, file->size);
        census.units = fs_data_units(file->inline_len);
    }
    ck_assert_uint_eq(census.units, file->blocks);
    return census;
}

static void compare_content(struct bench *b, int i)
{
    const struct model *const m = b->model[i];
    ck_assert_uint_eq(b->file[i].size, m->size);
    size_t got;
    ck_assert_int_eq(fs_data_read(&b->data, &b->file[i], 0, b->buffer, MODEL_MAX, &got), 0);
    ck_assert_uint_eq(got, m->size);
    for (size_t at = 0; at < got; at++)
        if (b->buffer[at] != m->bytes[at])
            ck_abort_msg("byte %zu is %u, not %u", at, b->buffer[at], m->bytes[at]);
}

static void compare_part(struct bench *b, int i)
{
    const struct model *const m = b->model[i];
    const uint64_t offset = scratch_below(&b->random, MODEL_MAX);
    const uint64_t length = scratch_below(&b->random, 30000);
    size_t got;
    ck_assert_int_eq(fs_data_read(&b->data, &b->file[i], offset, b->buffer, length, &got), 0);
    ck_assert_uint_eq(got, offset >= m->size ? 0 : kv_min_u64(length, m->size - offset));
    ck_assert_int_eq(memcmp(b->buffer, m->bytes + offset, got), 0);
}

/* Walk data and holes in turn; everything that is said to be a hole is zero. */
static void compare_holes(struct bench *b, int i)
{
    const struct model *const m = b->model[i];
    uint64_t at = 0, found;
    while (at < m->size) {
        int err = fs_data_seek(&b->data, &b->file[i], at, FS_SEEK_DATA, &found);
        if (err)
            ck_assert_int_eq(err, -ENXIO);
        const uint64_t data_at = err ? m->size : found;
        ck_assert_uint_ge(data_at, at);
        for (uint64_t p = at; p < data_at; p++)
            if (m->bytes[p])
                ck_abort_msg("byte %llu is said to be a hole", (unsigned long long)p);
        if (err)
            break;
        ck_assert_int_eq(fs_data_seek(&b->data, &b->file[i], data_at, FS_SEEK_HOLE, &found), 0);
        ck_assert_uint_gt(found, data_at);
        at = found;
    }
    ck_assert_int_eq(fs_data_seek(&b->data, &b->file[i], m->size, FS_SEEK_HOLE, &found), -ENXIO);
}

static void random_bytes(struct bench *b, uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(scratch_random(&b->random) | 1);
}

static uint64_t random_length(struct bench *b)
{
    static const uint32_t limits[] = {10, 300, 4096, 5000, 20000, 150000};
    const uint64_t length = 1 + scratch_below(&b->random, limits[scratch_below(&b->random, 6)]);
    return scratch_below(&b->random, 3) ? length : (length + 4095) / 4096 * 4096;
}

static uint64_t random_offset(struct bench *b, int i)
{
    const uint64_t size = b->model[i]->size;
    uint64_t offset = scratch_below(&b->random, MODEL_MAX);
    switch (scratch_below(&b->random, 5)) {
    case 0:
    case 1:
        offset = size;
        break;
    case 2:
        offset = size ? scratch_below(&b->random, size) : 0;
        break;
    case 3:
        offset = scratch_below(&b->random, 9000);
        break;
    default:
        break;
    }
    return scratch_below(&b->random, 2) ? offset : offset / 4096 * 4096;
}

static void do_write(struct bench *b, int i, uint64_t offset, uint64_t length)
{
    struct model *const m = b->model[i];
    if (offset + length > MODEL_MAX)
        return;
    random_bytes(b, m->bytes + offset, length);
    m->size = kv_max_u64(m->size, offset + length);
    ck_assert_int_eq(
        fs_data_write(&b->data, &b->file[i], offset, m->bytes + offset, length, NULL, &b->change),
        0);
    apply(b);
}

static void do_truncate(struct bench *b, int i, uint64_t size)
{
    struct model *const m = b->model[i];
    const size_t step = 1 + scratch_below(&b->random, 8);
    bool done = false;
    if (size < m->size)
        memset(m->bytes + size, 0, m->size - size);
    for (int turns = 0; !done; turns++) {
        ck_assert_int_lt(turns, STEP_MAX);
        ck_assert_int_eq(fs_data_truncate(&b->data, &b->file[i], size, step, &b->change, &done), 0);
        apply(b);
        (void)take_census(b, &b->file[i]);
    }
    m->size = size;
}

enum range_kind { PUNCH, ZERO, ALLOCATE };

static void do_range(struct bench *b, int i, enum range_kind kind, uint64_t offset, uint64_t length)
{
    struct model *const m = b->model[i];
    if (offset + length > MODEL_MAX)
        return;
    const size_t step = 1 + scratch_below(&b->random, 8);
    const bool keep_size = scratch_below(&b->random, 2);
    bool done = false;
    for (int turns = 0; !done; turns++) {
        int err = -EINVAL;
        ck_assert_int_lt(turns, STEP_MAX);
        switch (kind) {
        case PUNCH:
            err = fs_data_punch(&b->data, &b->file[i], offset, length, step, &b->change, &done);
            break;
        case ZERO:
            err = fs_data_zero(&b->data, &b->file[i], offset, length, keep_size, step, &b->change,
                               &done);
            break;
        case ALLOCATE:
            err = fs_data_allocate(&b->data, &b->file[i], offset, length, keep_size, step,
                                   &b->change, &done);
            break;
        }
        ck_assert_int_eq(err, 0);
        apply(b);
        (void)take_census(b, &b->file[i]);
    }
    if (kind != ALLOCATE)
        memset(m->bytes + offset, 0, length);
    if (kind != PUNCH && !keep_size)
        m->size = kv_max_u64(m->size, offset + length);
    uint64_t found;
    if (kind == PUNCH && offset < m->size) {
        ck_assert_int_eq(fs_data_seek(&b->data, &b->file[i], offset, FS_SEEK_HOLE, &found), 0);
        if (!b->file[i].is_inline)
            ck_assert_uint_eq(found, offset);
    }
    if (kind == ALLOCATE)
        ck_assert_uint_ge(b->file[i].blocks + 1, length > FS_INLINE_MAX ? length / 512 : 0);
}

static void do_collapse(struct bench *b, int i)
{
    struct model *const m = b->model[i];
    const uint64_t offset = scratch_below(&b->random, m->size / 4096 + 1) * 4096;
    const uint64_t length = (1 + scratch_below(&b->random, 20)) * 4096;
    const int err = fs_data_collapse(&b->data, &b->file[i], offset, length, &b->change);
    if (offset + length >= m->size) {
        ck_assert_int_eq(err, -EINVAL);
        fs_data_change_abort(&b->change);
        return;
    }
    ck_assert_int_eq(err, 0);
    apply(b);
    memmove(m->bytes + offset, m->bytes + offset + length, m->size - offset - length);
    m->size -= length;
    memset(m->bytes + m->size, 0, length);
}

static void do_insert(struct bench *b, int i)
{
    struct model *const m = b->model[i];
    const uint64_t offset = scratch_below(&b->random, m->size / 4096 + 1) * 4096;
    const uint64_t length = (1 + scratch_below(&b->random, 20)) * 4096;
    if (m->size + length > MODEL_MAX)
        return;
    const int err = fs_data_insert(&b->data, &b->file[i], offset, length, &b->change);
    if (offset >= m->size) {
        ck_assert_int_eq(err, -EINVAL);
        fs_data_change_abort(&b->change);
        return;
    }
    ck_assert_int_eq(err, 0);
    apply(b);
    memmove(m->bytes + offset + length, m->bytes + offset, m->size - offset);
    memset(m->bytes + offset, 0, length);
    m->size += length;
}

static void do_clone(struct bench *b, int i)
{
    const int from_file = (int)scratch_below(&b->random, 2);
    struct model *const source = b->model[from_file], *const target = b->model[i];
    uint64_t from = random_offset(b, from_file), to = random_offset(b, i);
    uint64_t length = random_length(b);
    if (from >= source->size)
        return;
    length = kv_min_u64(length, source->size - from);
    if (to + length > MODEL_MAX)
        return;
    const size_t step = 1 + scratch_below(&b->random, 8);
    for (int turns = 0; length > 0; turns++) {
        uint64_t cloned;
        ck_assert_int_lt(turns, STEP_MAX);
        const int err = fs_data_clone(&b->data, &b->file[from_file], from, &b->file[i], to, length,
                                      step, &b->change, &cloned);
        if (from_file == i && from < to + length && to < from + length) {
            ck_assert_int_eq(err, -EINVAL);
            fs_data_change_abort(&b->change);
            return;
        }
        ck_assert_int_eq(err, 0);
        ck_assert_uint_ge(cloned, 1);
        ck_assert_uint_le(cloned, length);
        apply(b);
        (void)take_census(b, &b->file[i]);
        memcpy(target->bytes + to, source->bytes + from, cloned);
        target->size = kv_max_u64(target->size, to + cloned);
        from += cloned;
        to += cloned;
        length -= cloned;
    }
}

static void do_something(struct bench *b, int i)
{
    const uint64_t offset = random_offset(b, i), length = random_length(b);
    switch (scratch_below(&b->random, 16)) {
    case 0:
        do_truncate(b, i, scratch_below(&b->random, 4) ? offset : 0);
        break;
    case 1:
        do_range(b, i, PUNCH, offset, length);
        break;
    case 2:
        do_range(b, i, ZERO, offset, length);
        break;
    case 3:
        do_range(b, i, ALLOCATE, offset, length);
        break;
    case 4:
        do_collapse(b, i);
        break;
    case 5:
        do_insert(b, i);
        break;
    case 6:
    case 7:
        do_clone(b, i);
        break;
    default:
        do_write(b, i, offset, length);
        break;
    }
}

static void delete_all(struct bench *b)
{
    for (int i = 0; i < 2; i++) {
        bool done = false;
        for (int turns = 0; !done; turns++) {
            ck_assert_int_lt(turns, STEP_MAX);
            ck_assert_int_eq(fs_data_delete_step(&b->data, b->file[i].ino, 7, &b->change, &done),
                             0);
            apply(b);
        }
        b->file[i] = (struct fs_file){.ino = b->file[i].ino, .is_inline = true};
        (void)take_census(b, &b->file[i]);
    }
    struct kv_check_result result;
    const struct kv_check_options options = {.read_blobs = true};
    ck_assert_int_eq(kv_check(b->scratch.store, &options, &result), 0);
    ck_assert_uint_eq(result.damaged, 0);
    ck_assert_uint_eq(result.repairable, 0);
    ck_assert_uint_eq(result.keys, 0);
    ck_assert_uint_eq(result.blobs, 0);
}

static const struct geometry {
    uint32_t node_bytes, extent_bytes;
    uint64_t forget;
} geometries[] = {{4096, 16384, 0},     {16384, 131072, 0},
                  {65536, 1u << 20, 0}, {4096, 4096, 0},
                  {4096, 131072, 0},    {16384, 131072, KV_FEATURE_INCOMPAT_FRAMES}};

START_TEST(random_operations_agree_with_a_byte_buffer)
{
    struct bench b;
    bench_open_as(&b, geometries[_i].node_bytes, geometries[_i].extent_bytes,
                  geometries[_i].forget);
    b.random = scratch_seed() + (uint64_t)_i;
    for (int step = 0; step < 600; step++) {
        const int i = (int)scratch_below(&b.random, 2);
        do_something(&b, i);
        (void)take_census(&b, &b.file[i]);
        compare_part(&b, i);
        if (step % 16 == 0) {
            compare_content(&b, i);
            compare_holes(&b, i);
        }
        if (step % 200 == 199)
            bench_reopen(&b);
    }
    compare_content(&b, 0);
    compare_content(&b, 1);
    struct kv_image_info info;
    kv_store_info(b.scratch.store, &info);
    ck_assert_uint_eq(info.feature_incompat & geometries[_i].forget, 0);
    delete_all(&b);
    bench_close(&b);
}
END_TEST

START_TEST(content_of_256_bytes_stays_inline_and_one_more_spills)
{
    struct bench b;
    bench_open(&b, 0, 0);
    do_write(&b, 0, 0, 100);
    do_write(&b, 0, 100, 156);
    ck_assert(b.file[0].is_inline);
    ck_assert_uint_eq(b.file[0].blocks, 1);
    do_write(&b, 0, 256, 1);
    ck_assert(!b.file[0].is_inline);
    ck_assert_uint_eq(take_census(&b, &b.file[0]).packed, 1);
    compare_content(&b, 0);
    do_truncate(&b, 0, 0);
    ck_assert(b.file[0].is_inline);
    ck_assert_uint_eq(b.file[0].blocks, 0);
    bench_close(&b);
}
END_TEST

START_TEST(a_file_of_8_KiB_has_no_extent_and_one_written_at_once_above_has_no_packed_record)
{
    struct bench b;
    bench_open(&b, 0, 0);
    do_write(&b, 0, 0, 8192);
    ck_assert_uint_eq(take_census(&b, &b.file[0]).extents, 0);
    do_write(&b, 1, 0, 10240);
    const struct census census = take_census(&b, &b.file[1]);
    ck_assert_uint_eq(census.extents, 1);
    ck_assert_uint_eq(census.packed, 0);
    bench_close(&b);
}
END_TEST

/* The packed records of a small file are fetched by their keys: one get each, and no walk. */
START_TEST(a_small_file_is_read_by_the_keys_of_its_records)
{
    struct bench b;
    struct kv_stats before, after;
    bench_open(&b, 16384, 0);
    do_write(&b, 0, 0, 5000);
    kv_store_stats(b.scratch.store, &before);
    compare_content(&b, 0);
    kv_store_stats(b.scratch.store, &after);
    ck_assert_uint_eq(after.gets - before.gets,
                      (5000 + b.data.packed_bytes - 1) / b.data.packed_bytes);
    /* A hole in the middle, and pieces that begin inside a window: as they are. */
    do_range(&b, 0, PUNCH, 100, 2500);
    compare_content(&b, 0);
    do_write(&b, 0, 700, 50);
    compare_content(&b, 0);
    delete_all(&b);
    bench_close(&b);
}
END_TEST

START_TEST(appending_in_small_pieces_ends_in_long_extents)
{
    static const uint32_t pieces[] = {100, 4096, 5000, 16384, 20000};
    struct bench b;
    bench_open(&b, 0, 0);
    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        do_truncate(&b, 0, 0);
        while (b.model[0]->size + pieces[p] <= 393216)
            do_write(&b, 0, b.model[0]->size, pieces[p]);
        const struct census census = take_census(&b, &b.file[0]);
        ck_assert_uint_le(census.extents, 12);
        compare_content(&b, 0);
    }
    bench_close(&b);
}
END_TEST

START_TEST(a_file_appended_in_4_KiB_pieces_is_written_to_blobs_once)
{
    struct bench b;
    bench_open(&b, 0, 0);
    struct kv_stats before, after;
    kv_store_stats(b.scratch.store, &before);
    while (b.model[0]->size < 393216)
        do_write(&b, 0, b.model[0]->size, 4096);
    kv_store_stats(b.scratch.store, &after);
    const struct census census = take_census(&b, &b.file[0]);
    ck_assert_uint_eq(census.extents, 6);
    ck_assert_uint_eq(census.packed, 0);
    ck_assert_uint_eq(census.least_extent, 65536);
    ck_assert_uint_eq(after.blob_writes - before.blob_writes, 6);
    bench_close(&b);
}
END_TEST

START_TEST(overwriting_in_order_does_not_leave_an_extent_per_write)
{
    struct bench b;
    bench_open(&b, 0, 0);
    do_write(&b, 0, 0, 393216);
    for (uint64_t at = 0; at < 393216; at += 4096) {
        b.change.in_order = at > 0;
        do_write(&b, 0, at, 4096);
    }
    ck_assert_uint_le(take_census(&b, &b.file[0]).extents, 15);
    compare_content(&b, 0);
    bench_close(&b);
}
END_TEST

START_TEST(a_random_overwrite_of_4_KiB_splits_one_extent_into_three)
{
    struct bench b;
    bench_open(&b, 0, 0);
    do_write(&b, 0, 0, 131072);
    do_write(&b, 0, 65536, 4096);
    const struct census census = take_census(&b, &b.file[0]);
    ck_assert_uint_eq(census.extents, 3);
    ck_assert_uint_eq(census.packed, 0);
    ck_assert_uint_eq(b.file[0].blocks, 256);
    bench_close(&b);
}
END_TEST

START_TEST(a_random_overwrite_reads_and_writes_nothing_else)
{
    struct bench b;
    bench_open(&b, 0, 0);
    do_write(&b, 0, 0, 131072);
    struct kv_stats before, after;
    kv_store_stats(b.scratch.store, &before);
    for (uint64_t at = 0; at < 131072; at += 4096)
        do_write(&b, 0, at * 5 % 131072, 4096);
    kv_store_stats(b.scratch.store, &after);
    ck_assert_uint_eq(after.blob_writes - before.blob_writes, 32);
    ck_assert_uint_eq(after.blob_write_bytes - before.blob_write_bytes, 131072);
    ck_assert_uint_eq(after.blob_reads, before.blob_reads);
    ck_assert_uint_eq(take_census(&b, &b.file[0]).extents, 32);
    compare_content(&b, 0);
    bench_close(&b);
}
END_TEST

/* What the records of a file have of tables, in bytes. */
static size_t table_bytes(struct bench *b, const struct fs_file *file)
{
    uint8_t prefix[FS_DATA_KEY_BYTES];
    struct kv_cursor *cursor;
    size_t sum = 0;
    fs_data_key(prefix, file->ino, 0);
    ck_assert_int_eq(kv_cursor_open_prefix(b->scratch.store, prefix, 9, &cursor), 0);
    for (int err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        const void *value;
        size_t key_len, value_len, at;
        struct fs_data_record r;
        ck_assert_int_eq(kv_cursor_value(cursor, &value, &value_len), 0);
        const void *const key = kv_cursor_key(cursor, &key_len);
        ck_assert_int_eq(fs_data_record_decode(&b->data, key, key_len, value, value_len, &r), 0);
        if (r.kind == FS_DATA_EXTENT && r.table)
            sum += kv_blob_table_range(&r.blob, r.blob_offset, r.length, &at);
    }
    kv_cursor_close(cursor);
    return sum;
}

START_TEST(a_block_of_a_large_file_is_read_without_the_rest_of_its_extent)
{
    struct bench b;
    bench_open(&b, 0, 0);
    do_write(&b, 0, 0, 393216);
    ck_assert_uint_eq(table_bytes(&b, &b.file[0]), 3u * 256u);
    /* Also where extents were cut; a cut extent takes its table with it, in pieces. */
    do_write(&b, 0, 65536, 4096);
    do_write(&b, 0, 143360, 4096);
    ck_assert_uint_eq(table_bytes(&b, &b.file[0]), 3u * 256u - 2u * 8u);
    do_range(&b, 0, PUNCH, 300000, 5000);
    bench_reopen(&b);
    for (uint64_t at = 0; at < 262144; at += 4096) {
        struct kv_stats before, after;
        size_t got;
        kv_store_stats(b.scratch.store, &before);
        ck_assert_int_eq(fs_data_read(&b.data, &b.file[0], at, b.buffer, 4096, &got), 0);
        kv_store_stats(b.scratch.store, &after);
        ck_assert_int_eq(memcmp(b.buffer, b.model[0]->bytes + at, 4096), 0);
        ck_assert_uint_eq(after.blob_reads - before.blob_reads, 1);
        ck_assert_uint_eq(after.blob_read_bytes - before.blob_read_bytes, 4096);
    }
    compare_content(&b, 0);
    bench_close(&b);
}
END_TEST

/* Where the image of a closed store has `length` bytes; they are there once. */
static off_t find_in_image(const char *path, const uint8_t *bytes, size_t length)
{
    uint8_t *const block = malloc(length);
    const int fd = open(path, O_RDONLY);
    ck_assert_int_ge(fd, 0);
    ck_assert_ptr_nonnull(block);
    off_t at = 0;
    while (pread(fd, block, length, at) == (ssize_t)length && memcmp(block, bytes, length) != 0)
        at += (off_t)KV_BLOCK_BYTES;
    ck_assert_int_eq(pread(fd, block, length, at), (ssize_t)length);
    free(block);
    ck_assert_int_eq(close(fd), 0);
    return at;
}

START_TEST(a_damaged_block_of_a_large_file_is_an_error_for_itself_alone)
{
    enum { BAD = 37 };
    struct bench b;
    size_t got;
    bench_open(&b, 0, 0);
    do_write(&b, 0, 0, 393216);
    fs_data_change_release(&b.change);
    ck_assert_int_eq(kv_close(b.scratch.store), 0);
    const off_t at = find_in_image(b.scratch.path, b.model[0]->bytes + BAD * 4096, 4096);
    const uint8_t wrong = (uint8_t)~b.model[0]->bytes[BAD * 4096 + 100];
    const int fd = open(b.scratch.path, O_WRONLY);
    ck_assert_int_eq(pwrite(fd, &wrong, 1, at + 100), 1);
    ck_assert_int_eq(close(fd), 0);
    scratch_mount(&b.scratch);
    fs_data_init(&b.data, b.scratch.store);
    ck_assert_int_eq(fs_data_change_init(&b.change, b.scratch.store), 0);
    for (uint64_t block = 0; block < 96; block++) {
        const int err = fs_data_read(&b.data, &b.file[0], block * 4096 + 1, b.buffer, 4000, &got);
        ck_assert_int_eq(err, block == BAD ? -EBADMSG : 0);
        if (!err)
            ck_assert_int_eq(memcmp(b.buffer, b.model[0]->bytes + block * 4096 + 1, 4000), 0);
    }
    /* Its extent as a whole is not to be had; the others are, and what is cut off around it is. */
    ck_assert_int_eq(fs_data_read(&b.data, &b.file[0], 0, b.buffer, 262144, &got), -EBADMSG);
    ck_assert_int_eq(fs_data_read(&b.data, &b.file[0], 262144, b.buffer, 131072, &got), 0);
    do_write(&b, 0, BAD * 4096, 4096);
    compare_content(&b, 0);
    bench_close(&b);
}
END_TEST

START_TEST(a_clone_shares_blobs_and_outlives_its_source)
{
    struct bench b;
    bench_open(&b, 0, 0);
    do_write(&b, 0, 0, 393216);
    struct kv_stats before, after;
    kv_store_stats(b.scratch.store, &before);
    uint64_t cloned;
    ck_assert_int_eq(
        fs_data_clone(&b.data, &b.file[0], 0, &b.file[1], 0, 393216, SIZE_MAX, &b.change, &cloned),
        0);
    ck_assert_uint_eq(cloned, 393216);
    apply(&b);
    kv_store_stats(b.scratch.store, &after);
    ck_assert_uint_eq(after.blob_writes, before.blob_writes);
    *b.model[1] = *b.model[0];
    do_truncate(&b, 0, 0);
    compare_content(&b, 1);
    ck_assert_uint_eq(take_census(&b, &b.file[1]).extents, 3);
    delete_all(&b);
    bench_close(&b);
}
END_TEST

START_TEST(preallocation_counts_blocks_and_reads_as_a_hole)
{
    struct bench b;
    bench_open(&b, 0, 0);
    bool done;
    uint64_t found;
    ck_assert_int_eq(
        fs_data_allocate(&b.data, &b.file[0], 0, 1u << 20, true, 100, &b.change, &done), 0);
    apply(&b);
    ck_assert(done);
    ck_assert_uint_eq(b.file[0].size, 0);
    ck_assert_uint_eq(b.file[0].blocks, 2048);
    do_write(&b, 0, 100000, 10);
    ck_assert_int_eq(fs_data_seek(&b.data, &b.file[0], 0, FS_SEEK_DATA, &found), 0);
    ck_assert_uint_le(found, 100000);
    ck_assert_uint_gt(found, 90000);
    (void)take_census(&b, &b.file[0]);
    ck_assert_int_eq(
        fs_data_allocate(&b.data, &b.file[0], 0, UINT64_C(1) << 50, true, 100, &b.change, &done),
        -ENOSPC);
    fs_data_change_abort(&b.change);
    bench_close(&b);
}
END_TEST

START_TEST(offsets_up_to_the_greatest_work_and_behind_it_are_too_big)
{
    struct bench b;
    bench_open(&b, 0, 0);
    struct fs_file *const file = &b.file[0];
    size_t got;
    bool done;
    uint8_t byte = 7;
    ck_assert_int_eq(fs_data_write(&b.data, file, FS_SIZE_MAX - 1, &byte, 1, NULL, &b.change), 0);
    apply(&b);
    ck_assert_uint_eq(file->size, FS_SIZE_MAX);
    ck_assert_int_eq(fs_data_read(&b.data, file, FS_SIZE_MAX - 2, b.buffer, 10, &got), 0);
    ck_assert_uint_eq(got, 2);
    ck_assert_uint_eq(b.buffer[1], 7);
    ck_assert_int_eq(fs_data_write(&b.data, file, FS_SIZE_MAX, &byte, 1, NULL, &b.change), -EFBIG);
    ck_assert_int_eq(fs_data_truncate(&b.data, file, FS_SIZE_MAX + 1, 10, &b.change, &done),
                     -EFBIG);
    ck_assert_int_eq(fs_data_insert(&b.data, file, 0, 4096, &b.change), -EFBIG);
    ck_assert_int_eq(fs_data_punch(&b.data, file, 1, FS_SIZE_MAX, 10, &b.change, &done), -EFBIG);
    ck_assert_int_eq(fs_data_punch(&b.data, file, 0, FS_SIZE_MAX, 10, &b.change, &done), 0);
    apply(&b);
    ck_assert_uint_eq(file->blocks, 0);
    bench_close(&b);
}
END_TEST

START_TEST(an_aborted_change_leaves_content_and_no_blob)
{
    struct bench b;
    bench_open(&b, 0, 0);
    do_write(&b, 0, 0, 100000);
    const struct fs_file saved = b.file[0];
    memset(b.buffer, 'x', 300000);
    ck_assert_int_eq(fs_data_write(&b.data, &b.file[0], 50000, b.buffer, 300000, NULL, &b.change),
                     0);
    fs_data_change_abort(&b.change);
    b.file[0] = saved;
    compare_content(&b, 0);
    delete_all(&b);
    bench_close(&b);
}
END_TEST

START_TEST(a_full_store_refuses_a_write_and_keeps_the_content)
{
    struct bench b;
    memset(&b, 0, sizeof b);
    scratch_open(&b.scratch, 16u << 20, 0, 0);
    fs_data_init(&b.data, b.scratch.store);
    ck_assert_int_eq(fs_data_change_init(&b.change, b.scratch.store), 0);
    struct fs_file file = {.ino = 5, .is_inline = true}, saved = file;
    uint8_t *const bytes = malloc(FS_WRITE_MAX), *const back = malloc(FS_WRITE_MAX);
    int err = 0;
    while (!err) {
        saved = file;
        ck_assert_uint_lt(file.size, 64u << 20);
        b.random = file.size; /* what a piece holds follows from where it lies */
        random_bytes(&b, bytes, 1u << 18);
        err = fs_data_write(&b.data, &file, file.size, bytes, 1u << 18, NULL, &b.change);
        if (!err)
            err = fs_data_change_apply(&b.change, 0, NULL);
    }
    ck_assert_int_eq(err, -ENOSPC);
    fs_data_change_abort(&b.change);
    file = saved;
    ck_assert_uint_gt(file.size, 1u << 20);
    (void)take_census(&b, &file);
    for (uint64_t at = 0; at < file.size; at += 1u << 18) {
        size_t got;
        b.random = at;
        random_bytes(&b, bytes, 1u << 18);
        ck_assert_int_eq(fs_data_read(&b.data, &file, at, back, 1u << 18, &got), 0);
        ck_assert_int_eq(memcmp(bytes, back, 1u << 18), 0);
    }
    bool done;
    ck_assert_int_eq(fs_data_truncate(&b.data, &file, 0, SIZE_MAX, &b.change, &done), 0);
    ck_assert_int_eq(fs_data_change_apply(&b.change, KV_APPLY_URGENT, NULL), 0);
    ck_assert_int_eq(kv_checkpoint(b.scratch.store), 0);
    ck_assert_int_eq(fs_data_write(&b.data, &file, 0, bytes, 1u << 18, NULL, &b.change), 0);
    apply(&b);
    free(bytes);
    free(back);
    fs_data_change_release(&b.change);
    scratch_close(&b.scratch);
}
END_TEST

START_TEST(damaged_records_are_errors_and_never_believed)
{
    struct bench b;
    bench_open(&b, 0, 0);
    struct fs_file file = {.ino = 9, .size = 100000};
    uint8_t key[FS_DATA_KEY_BYTES], value[64] = {0};
    size_t got;
    static const struct {
        uint8_t kind, fill;
        uint8_t length;
    } cases[] = {{0, 0, 10},
                 {9, 0, 10},
                 {FS_DATA_PACKED, 0, 1},
                 {FS_DATA_EXTENT, 255, 52},
                 {3, 0, 9},
                 {3, 255, 9},
                 {3, 1, 8},
                 {FS_DATA_EXTENT, 0, 52},
                 {2, 17, 12},
                 {255, 255, 64}};
    fs_data_key(key, file.ino, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memset(value, cases[i].fill, sizeof value);
        value[0] = cases[i].kind;
        ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, value, cases[i].length), 0);
        ck_assert_int_eq(fs_data_read(&b.data, &file, 0, b.buffer, 5000, &got), -EUCLEAN);
        ck_assert_int_eq(fs_data_write(&b.data, &file, 0, b.buffer, 5000, NULL, &b.change),
                         -EUCLEAN);
        fs_data_change_abort(&b.change);
        file = (struct fs_file){.ino = 9, .size = 100000};
    }
    /* Two records that overlap. */
    memset(value, 1, sizeof value);
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, value, 60), 0);
    fs_data_key(key, file.ino, 30);
    ck_assert_int_eq(kv_put(b.scratch.store, key, sizeof key, value, 60), 0);
    ck_assert_int_eq(fs_data_read(&b.data, &file, 0, b.buffer, 5000, &got), -EUCLEAN);
    bench_close(&b);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("data");
    TCase *const tcase = tcase_create("data");
    tcase_set_timeout(tcase, 300);
    tcase_add_loop_test(tcase, random_operations_agree_with_a_byte_buffer, 0,
                        (int)(sizeof geometries / sizeof *geometries));
    tcase_add_test(tcase, content_of_256_bytes_stays_inline_and_one_more_spills);
    tcase_add_test(
        tcase, a_file_of_8_KiB_has_no_extent_and_one_written_at_once_above_has_no_packed_record);
    tcase_add_test(tcase, a_small_file_is_read_by_the_keys_of_its_records);
    tcase_add_test(tcase, appending_in_small_pieces_ends_in_long_extents);
    tcase_add_test(tcase, a_file_appended_in_4_KiB_pieces_is_written_to_blobs_once);
    tcase_add_test(tcase, a_random_overwrite_reads_and_writes_nothing_else);
    tcase_add_test(tcase, overwriting_in_order_does_not_leave_an_extent_per_write);
    tcase_add_test(tcase, a_random_overwrite_of_4_KiB_splits_one_extent_into_three);
    tcase_add_test(tcase, a_block_of_a_large_file_is_read_without_the_rest_of_its_extent);
    tcase_add_test(tcase, a_damaged_block_of_a_large_file_is_an_error_for_itself_alone);
    tcase_add_test(tcase, a_clone_shares_blobs_and_outlives_its_source);
    tcase_add_test(tcase, preallocation_counts_blocks_and_reads_as_a_hole);
    tcase_add_test(tcase, offsets_up_to_the_greatest_work_and_behind_it_are_too_big);
    tcase_add_test(tcase, an_aborted_change_leaves_content_and_no_blob);
    tcase_add_test(tcase, a_full_store_refuses_a_write_and_keeps_the_content);
    tcase_add_test(tcase, damaged_records_are_errors_and_never_believed);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
