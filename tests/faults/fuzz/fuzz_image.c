/*
 * tests/faults/fuzz/fuzz_image.c: a whole image whose checksums are right and whose author is
 * an enemy.
 *
 * Input      base and course(1), then patches (image_hostile.h).
 * Course     one of: open, walk all keys and values, use it as a filesystem (list, read, change),
 *            close; the same without writing; only walk; only put a key; check without repair;
 *            repair, check again; the four large ones of these, one after another. Small ones are
 *            for the number of inputs: each finds in a fraction of the time what opening and
 *            reading meet. Or drawn, a large one now and then.
 * Checked    it ends, and nothing is touched that should not be; keys come in order; what a repair
 *            leaves is sound for the next check.
 */
#include "tests/faults/fuzz/fuzz.h"

#include "fs/fsck.h"
#include "fs/volume.h"
#include "kv/codec.h"
#include "tests/faults/fuzz/image_hostile.h"
#include "tests/faults/fuzz/image_repair.h"
#include "tests/faults/fuzz/volume_tour.h"
#include "tests/kv/support_store.h"

#define KEYS_MAX 8192u /* more than any base image has; a walk that goes on is endless */

/*
 * In the first byte, above two bits of the base: one for checksums only, three for what is done,
 * one that says that this is drawn, one for another base.
 */
#define BASE_MASK    3u
#define RAW          4u
#define DENSE        0x80u
#define COURSE_SHIFT 3
enum course {
    COURSE_USE,
    COURSE_READ,
    COURSE_CHECK,
    COURSE_REPAIR,
    COURSE_ALL,
    COURSE_WALK,
    COURSE_PUT,
    COURSE_WALK_TOO,
    COURSE_COUNT
};

static int open_image(struct image_bytes *image, bool repair, bool read_only,
                      struct kv_store **store)
{
    const struct kv_open_options options = {.memory_budget_bytes = 8u << 20,
                                            .no_background = true,
                                            .repair = repair,
                                            .read_only = read_only,
                                            .log = test_log_nothing,
                                            .device = image_bytes_device(image)};
    struct kv_error error = {""};
    const int err = kv_open("image", &options, store, &error);
    KV_ASSERT(!err || error.text[0]);
    return err;
}

/* ---- walking ------------------------------------------------------------------------- */

struct walk {
    uint8_t key[KV_KEY_MAX];
    size_t key_len, count;
};

/* The key that a cursor is on comes after (before, going back) the one before it. */
static void visit_key(struct kv_store *store, struct kv_cursor *cursor, struct walk *walk,
                      bool forward)
{
    size_t length, value_len, got;
    const void *value;
    const void *const key = kv_cursor_key(cursor, &length);
    KV_ASSERT(length >= 1);
    KV_ASSERT(length <= KV_KEY_MAX);
    if (walk->count++) {
        const int order = kv_key_compare(walk->key, walk->key_len, key, length);
        KV_ASSERT(forward ? order < 0 : order > 0);
    }
    KV_ASSERT(walk->count < KEYS_MAX);
    memcpy(walk->key, key, length);
    walk->key_len = length;
    if (!forward)
        return;
    const int err = kv_cursor_value(cursor, &value, &value_len);
    const int get_err = kv_get(store, walk->key, walk->key_len, NULL, 0, &got);
    /*
     * The two may come by different leaves that both claim the key: a reader does not compare
     * fences with what the parent says, the check does.
     */
    KV_ASSERT(err || get_err == (value_len ? -ERANGE : 0) || get_err == -EUCLEAN ||
              get_err == -EBADMSG || get_err == -ENOENT);
    KV_ASSERT(err || get_err != -ERANGE || got == value_len);
}

static void walk_keys(struct kv_store *store)
{
    struct kv_cursor *cursor;
    struct walk walk = {.count = 0};
    int err;
    KV_ASSERT(kv_cursor_open(store, NULL, 0, NULL, 0, &cursor) == 0);
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor))
        visit_key(store, cursor, &walk, true);
    walk.count = 0;
    for (err = kv_cursor_last(cursor); !err; err = kv_cursor_prev(cursor))
        visit_key(store, cursor, &walk, false);
    kv_cursor_close(cursor);
}

static void tour_volume(struct kv_store *store, bool read_only)
{
    struct fs_volume *volume;
    struct kv_error error = {""};
    const struct fs_volume_options options = {.read_only = read_only, .log = test_log_nothing};
    if (!fs_volume_open(store, &options, &volume, &error)) {
        volume_tour(volume, read_only);
        fs_volume_close(volume);
    } else {
        KV_ASSERT(error.text[0]);
        kv_ignore(kv_put(store, "Znew", 4, "value", 5));
    }
}

enum use { USE_WALK = 1, USE_PUT = 2, USE_TOUR = 4 };

static void use_image(struct image_bytes *image, unsigned uses, bool read_only)
{
    struct kv_store *store;
    if (open_image(image, false, read_only, &store))
        return;
    if (uses & USE_WALK)
        walk_keys(store);
    if (uses & USE_PUT)
        kv_ignore(kv_put(store, "Znew", 4, "value", 5));
    if (uses & USE_TOUR)
        tour_volume(store, read_only);
    kv_ignore(kv_close(store)); /* whatever it finds */
}

/* ---- checking -------------------------------------------------------------------------- */

static void count_finding(void *context, enum kv_check_severity severity, const char *what,
                          const char *text)
{
    uint64_t *const findings = context;
    KV_ASSERT(what[0] && text[0]);
    /* A blob that can not be read is found for ever: nobody else has its bytes. */
    if (severity == KV_CHECK_NOTE || !strcmp(what, "blob-checksum"))
        return;
    ++*findings;
    if (getenv("KVFS_FUZZ_FINDINGS"))
        fprintf(stderr, "%s: %s\n", what, text);
}

/* Both checks. Returns 0 when both ran to their end; *findings says what they found. */
static int check(struct kv_store *store, bool repair, uint64_t *findings)
{
    const struct kv_check_options options = {
        .repair = repair, .read_blobs = true, .report = count_finding, .context = findings};
    struct kv_check_result result;
    *findings = 0;
    int err = kv_check(store, &options, &result);
    if (!err)
        err = fs_check(store, &options, &result);
    return err;
}

static void check_image(struct image_bytes *image)
{
    struct kv_store *store;
    uint64_t findings;
    if (open_image(image, true, true, &store))
        return;
    kv_ignore(check(store, false, &findings));
    kv_abandon(store);
}

static void repair_image(struct image_bytes *image)
{
    struct kv_store *store;
    uint64_t findings;
    if (open_image(image, true, false, &store))
        return;
    int err = check(store, true, &findings);
    const int close_err = kv_close(store);
    if (err || close_err)
        return; /* no room, say */
    KV_ASSERT(open_image(image, false, false, &store) == 0);
    err = check(store, false, &findings);
    KV_ASSERT(err == 0);
    KV_ASSERT(findings == 0);
    kv_abandon(store);
}

static enum hostile_base base_of(uint8_t first)
{
    const enum hostile_base base = (enum hostile_base)(first & BASE_MASK);
    return base == HOSTILE_PACKED && first & DENSE ? HOSTILE_DENSE : base;
}

/* Each course that takes long once in 1,024, and every other time one of the two that do not. */
static enum course course_of(uint8_t first, const uint8_t *bytes, size_t length)
{
    if (!(first & FUZZ_DRAWN))
        return first >> COURSE_SHIFT & (COURSE_COUNT - 1);
    const uint64_t draw = kv_digest(bytes, length, 0) % 1024;
    if (draw <= COURSE_ALL)
        return (enum course)draw;
    return draw % 2 ? COURSE_WALK : COURSE_PUT;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct fuzz_input input = {bytes, length};
    const uint8_t first = fuzz_u8(&input);
    const enum course course = course_of(first, bytes, length);
    struct image_bytes *const image = hostile_image(base_of(first));
    hostile_patch(image, &input);
    image_repair(image, !(first & RAW));
    const bool all = course == COURSE_ALL;
    if (all || course == COURSE_READ)
        use_image(image, USE_WALK | USE_TOUR, true);
    if (all || course == COURSE_CHECK)
        check_image(image);
    if (all || course == COURSE_USE)
        use_image(image, USE_WALK | USE_TOUR, false);
    if (all || course == COURSE_REPAIR)
        repair_image(image);
    if (course == COURSE_WALK || course == COURSE_WALK_TOO)
        use_image(image, USE_WALK, true);
    if (course == COURSE_PUT)
        use_image(image, USE_PUT, false);
    return 0;
}
