/*
 * tests/faults/soak/content.c: the operations, the buffers, the comparison.
 *
 * Owns       what the files must hold. Invariant: a buffer is zero behind its file's size.
 */
#include "content.h"

#include "soak.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096u

struct model {
    const struct content_backend *backend;
    uint8_t *bytes[CONTENT_FILES];
    uint64_t size[CONTENT_FILES];
    uint64_t size_max; /* of this cycle: small files live by other rules than large ones */
    uint8_t *scratch;
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Bytes that a seed decides: runs, so that they compress, noise, or zeroes. */
static void fill(uint8_t *out, size_t length, uint64_t seed)
{
    uint64_t state = seed;
    if (seed % 17 == 0) {
        memset(out, 0, length);
        return;
    }
    for (size_t i = 0; i < length; i++) {
        if (i % 8 == 0 && (seed % 2 || i % 64 == 0))
            state = state * 6364136223846793005u + 1442695040888963407u;
        out[i] = (uint8_t)(state >> (8 * (i % 8)));
    }
}

static uint64_t pick_length(uint64_t limit)
{
    static const uint32_t scales[] = {16, 300, 300, 4096, 4096, 9000, 40000, 300000};
    return 1 + soak_below(least(limit, scales[soak_below(sizeof scales / sizeof scales[0])]));
}

/* An offset below or at the size, often a block's edge or the end. */
static uint64_t pick_offset(const struct model *model, unsigned file)
{
    const uint64_t size = model->size[file];
    if (soak_chance(6))
        return size;
    if (soak_chance(8))
        return soak_below(model->size_max);
    const uint64_t at = soak_below(size + 1);
    return soak_chance(4) ? at / BLOCK * BLOCK : at;
}

static void must(int err, const char *what)
{
    if (err)
        soak_fail("%s: %s", what, strerror(-err));
}

static void compare(const struct model *model, unsigned file, uint64_t offset, size_t length,
                    const char *how)
{
    const uint8_t *want = model->bytes[file] + offset;
    if (!memcmp(model->scratch, want, length))
        return;
    size_t at = 0;
    while (model->scratch[at] == want[at])
        at++;
    soak_fail("%s of file %u at %llu + %zu (size %llu): byte %llu is %02x and should be %02x", how,
              file, (unsigned long long)offset, length, (unsigned long long)model->size[file],
              (unsigned long long)offset + at, model->scratch[at], want[at]);
}

/* ---- operations ------------------------------------------------------------------- */

typedef int read_fn(void *context, unsigned file, uint64_t offset, void *buf, size_t length,
                    size_t *got);

static void do_read(struct model *model, unsigned file, read_fn *function, const char *how)
{
    const uint64_t offset = pick_offset(model, file);
    const size_t length = pick_length(CONTENT_BYTES_MAX);
    soak_note("%s %u %llu %zu", how, file, (unsigned long long)offset, length);
    size_t got = 0;
    must(function(model->backend->context, file, offset, model->scratch, length, &got), how);
    const uint64_t want =
        offset < model->size[file] ? least(length, model->size[file] - offset) : 0;
    if (got != want)
        soak_fail("%s gave %zu bytes, not %llu", how, got, (unsigned long long)want);
    compare(model, file, offset, got, how);
}

typedef int write_fn(void *context, unsigned file, uint64_t offset, const void *buf, size_t length);

static void do_write(struct model *model, unsigned file, write_fn *function, const char *how)
{
    const uint64_t offset = pick_offset(model, file);
    if (offset >= model->size_max)
        return;
    const size_t length = pick_length(model->size_max - offset);
    const uint64_t seed = soak_random();
    soak_note("%s %u %llu %zu seed %llu", how, file, (unsigned long long)offset, length,
              (unsigned long long)seed);
    fill(model->bytes[file] + offset, length, seed);
    must(function(model->backend->context, file, offset, model->bytes[file] + offset, length), how);
    if (offset + length > model->size[file])
        model->size[file] = offset + length;
}

static void do_truncate(struct model *model, unsigned file)
{
    const uint64_t size = soak_chance(5)   ? 0
                          : soak_chance(2) ? soak_below(model->size[file] + 1)
                                           : soak_below(model->size_max);
    soak_note("truncate %u %llu", file, (unsigned long long)size);
    must(model->backend->truncate(model->backend->context, file, size), "truncate");
    if (size < model->size[file])
        memset(model->bytes[file] + size, 0, model->size[file] - size);
    model->size[file] = size;
}

static void do_fallocate(struct model *model, unsigned file)
{
    static const int modes[] = {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_ZERO_RANGE,
                                FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                0,
                                FALLOC_FL_KEEP_SIZE};
    const int mode = modes[soak_below(sizeof modes / sizeof modes[0])];
    const uint64_t offset = pick_offset(model, file);
    if (offset >= model->size_max)
        return;
    const uint64_t length = pick_length(model->size_max - offset), end = offset + length;
    soak_note("fallocate %u mode %d %llu %llu", file, mode, (unsigned long long)offset,
              (unsigned long long)length);
    must(model->backend->fallocate(model->backend->context, file, mode, offset, length),
         "fallocate");
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        memset(model->bytes[file] + offset, 0, length);
    if (!(mode & FALLOC_FL_KEEP_SIZE) && end > model->size[file])
        model->size[file] = end;
}

/* Cut a range out or push one in: whole blocks. */
static void do_move(struct model *model, unsigned file)
{
    const bool collapse = soak_chance(2);
    const uint64_t blocks = model->size[file] / BLOCK;
    if (blocks < 2)
        return;
    const uint64_t offset = soak_below(blocks - 1) * BLOCK;
    const uint64_t length = (1 + soak_below(blocks - offset / BLOCK)) * BLOCK;
    uint8_t *at = model->bytes[file] + offset;
    const uint64_t size = model->size[file];
    if (collapse ? offset + length >= size : size + length > model->size_max)
        return;
    soak_note("%s %u %llu %llu", collapse ? "collapse" : "insert", file, (unsigned long long)offset,
              (unsigned long long)length);
    const int mode = collapse ? FALLOC_FL_COLLAPSE_RANGE : FALLOC_FL_INSERT_RANGE;
    must(model->backend->fallocate(model->backend->context, file, mode, offset, length), "move");
    if (collapse) {
        memmove(at, at + length, size - offset - length);
        memset(model->bytes[file] + size - length, 0, length);
        model->size[file] -= length;
    } else {
        memmove(at + length, at, size - offset);
        memset(at, 0, length);
        model->size[file] += length;
    }
}

static void do_copy(struct model *model, unsigned from)
{
    const unsigned to = (unsigned)soak_below(CONTENT_FILES);
    const uint64_t from_offset = pick_offset(model, from), to_offset = pick_offset(model, to);
    if (to_offset >= model->size_max)
        return;
    uint64_t length = pick_length(model->size_max - to_offset);
    if (soak_chance(3) && length > BLOCK)
        length = length / BLOCK * BLOCK;
    const uint64_t size = model->size[from];
    const uint64_t take = from_offset < size ? least(length, size - from_offset) : 0;
    if (from == to) /* else the end would run away from a copy in several steps */
        length = take;
    soak_note("copy %u %llu to %u %llu %llu", from, (unsigned long long)from_offset, to,
              (unsigned long long)to_offset, (unsigned long long)length);
    uint64_t copied = 0;
    const int err = model->backend->copy(model->backend->context, from, from_offset, to, to_offset,
                                         length, &copied);
    /* The kernel looks at the lengths as given, the volume at what there is to copy. */
    const bool overlaps =
        from == to && from_offset < to_offset + length && to_offset < from_offset + length;
    if (err == -EINVAL && overlaps)
        return;
    must(err, "copy");
    if (copied != take ||
        (take && from == to && from_offset < to_offset + take && to_offset < from_offset + take))
        soak_fail("copied %llu bytes, not %llu", (unsigned long long)copied,
                  (unsigned long long)take);
    memmove(model->bytes[to] + to_offset, model->bytes[from] + from_offset, take);
    if (take && to_offset + take > model->size[to])
        model->size[to] = to_offset + take;
}

static bool all_zero(const uint8_t *bytes, uint64_t length)
{
    return length == 0 || (bytes[0] == 0 && !memcmp(bytes, bytes + 1, length - 1));
}

/* What is called a hole must be zero, and what the two calls say must agree. */
static void do_seek(struct model *model, unsigned file)
{
    const struct content_backend *backend = model->backend;
    const uint64_t offset = pick_offset(model, file), size = model->size[file];
    soak_note("seek %u %llu", file, (unsigned long long)offset);
    uint64_t data = 0, hole = 0;
    const int data_err = backend->seek(backend->context, file, offset, SEEK_DATA, &data);
    const int hole_err = backend->seek(backend->context, file, offset, SEEK_HOLE, &hole);
    if (offset >= size) {
        if (data_err != -ENXIO || hole_err != -ENXIO)
            soak_fail("seek beyond the end says %d and %d", data_err, hole_err);
        return;
    }
    must(hole_err, "seek to a hole");
    if (hole < offset || hole > size)
        soak_fail("a hole at %llu", (unsigned long long)hole);
    if (data_err == -ENXIO)
        data = size;
    else
        must(data_err, "seek to data");
    if (data < offset || data > size || (data == size) != (data_err == -ENXIO))
        soak_fail("data at %llu", (unsigned long long)data);
    if (!all_zero(model->bytes[file] + offset, data - offset))
        soak_fail("bytes that are not zero called a hole, up to %llu", (unsigned long long)data);
    if ((hole > offset) != (data == offset))
        soak_fail("at once data (until %llu) and a hole (until %llu)", (unsigned long long)hole,
                  (unsigned long long)data);
    if (backend->all_data && (data != offset || hole != size))
        soak_fail("not all is data");
}

static void do_map(struct model *model, unsigned file)
{
    const struct content_backend *backend = model->backend;
    const uint64_t size = model->size[file];
    if (!size)
        return;
    const uint64_t offset = soak_below(size);
    const size_t length = pick_length(size - offset);
    if (soak_chance(2)) {
        soak_note("map_read %u %llu %zu", file, (unsigned long long)offset, length);
        must(backend->map_read(backend->context, file, offset, model->scratch, length), "mmap");
        compare(model, file, offset, length, "mapped read");
        return;
    }
    const uint64_t seed = soak_random();
    soak_note("map_write %u %llu %zu seed %llu", file, (unsigned long long)offset, length,
              (unsigned long long)seed);
    fill(model->bytes[file] + offset, length, seed);
    must(backend->map_write(backend->context, file, offset, model->bytes[file] + offset, length),
         "mapped write");
}

static void check_whole(struct model *model)
{
    const struct content_backend *backend = model->backend;
    for (unsigned file = 0; file < CONTENT_FILES; file++) {
        uint64_t size = 0;
        size_t got = 0;
        must(backend->size(backend->context, file, &size), "stat");
        if (size != model->size[file])
            soak_fail("file %u has %llu bytes, not %llu", file, (unsigned long long)size,
                      (unsigned long long)model->size[file]);
        must(backend->read(backend->context, file, 0, model->scratch, CONTENT_BYTES_MAX, &got),
             "read");
        if (got != size)
            soak_fail("file %u: %zu bytes read, not %llu", file, got, (unsigned long long)size);
        compare(model, file, 0, got, "whole read");
    }
}

static void step(struct model *model)
{
    const struct content_backend *backend = model->backend;
    const unsigned file = (unsigned)soak_below(CONTENT_FILES);
    switch (soak_below(24)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
        do_read(model, file, backend->read, "read");
        break;
    case 6:
    case 7:
    case 8:
    case 9:
    case 10:
    case 11:
    case 12:
        do_write(model, file, backend->write, "write");
        break;
    case 13:
        do_truncate(model, file);
        break;
    case 14:
    case 15:
        do_fallocate(model, file);
        break;
    case 16:
        do_copy(model, file);
        break;
    case 17:
        do_seek(model, file);
        break;
    case 18:
        if (backend->can_move)
            do_move(model, file);
        break;
    case 19:
        if (soak_chance(8)) {
            soak_note("sync %u", file);
            must(backend->sync(backend->context, file), "fsync");
        }
        break;
    case 20:
        if (backend->map_write)
            do_map(model, file);
        break;
    case 21:
        if (backend->direct_read)
            do_read(model, file, backend->direct_read, "direct_read");
        break;
    case 22:
        if (backend->direct_write)
            do_write(model, file, backend->direct_write, "direct_write");
        break;
    default:
        if (backend->drop && soak_chance(10)) {
            soak_note("drop %u", file);
            backend->drop(backend->context, file);
        }
    }
}

static void begin_cycle(struct model *model)
{
    static const uint32_t sizes[] = {700, 20000, 70000, 200000, CONTENT_BYTES_MAX};
    model->size_max = sizes[soak_below(sizeof sizes / sizeof sizes[0])];
    for (unsigned file = 0; file < CONTENT_FILES; file++)
        if (model->size[file] > model->size_max) {
            soak_note("truncate %u %llu", file, (unsigned long long)model->size_max);
            must(model->backend->truncate(model->backend->context, file, model->size_max),
                 "truncate");
            memset(model->bytes[file] + model->size_max, 0, model->size[file] - model->size_max);
            model->size[file] = model->size_max;
        }
}

void content_run(const struct content_backend *backend, uint64_t count, uint64_t cycle)
{
    struct model model = {.backend = backend, .scratch = malloc(CONTENT_BYTES_MAX)};
    SOAK_MUST(model.scratch != NULL);
    for (unsigned file = 0; file < CONTENT_FILES; file++) {
        model.bytes[file] = calloc(1, CONTENT_BYTES_MAX);
        SOAK_MUST(model.bytes[file] != NULL);
    }
    while (soak_count() < count) {
        begin_cycle(&model);
        const uint64_t end = soak_count() + cycle;
        while (soak_count() < end && soak_count() < count)
            step(&model);
        check_whole(&model);
        const bool synced = soak_chance(2);
        for (unsigned file = 0; synced && file < CONTENT_FILES; file++)
            must(backend->sync(backend->context, file), "fsync");
        soak_note("reopen%s", synced ? " after a crash" : "");
        backend->reopen(backend->context, synced);
        check_whole(&model);
    }
    for (unsigned file = 0; file < CONTENT_FILES; file++)
        free(model.bytes[file]);
    free(model.scratch);
}
