/*
 * kv/check_salvage.c: fill the holes that a walk found in the keys' tree with what kv/salvage.h
 * finds, and tell what could not be had back.
 *
 * Owns       nothing.
 * Invariant  a value is put back only if every blob that it refers to is whole.
 * Locks      the writer lock while keys are put back.
 */
#include "kv/check_salvage.h"

#include "kv/check_repair.h"

#include <stdarg.h>

#define KEY_TEXT 200u /* of a key in a line; more is cut off */

/* ---- telling ------------------------------------------------------------------------- */

struct shown {
    char text[KEY_TEXT];
};

/* Bytes that print stay as they are, others become \xNN. */
static void escape(const uint8_t *key, size_t key_len, char *text, size_t text_cap)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < key_len && used + 8 < text_cap; i++) {
        const bool plain = key[i] >= 0x20 && key[i] < 0x7f && key[i] != '\\' && key[i] != '"';
        used += (size_t)snprintf(text + used, text_cap - used, plain ? "%c" : "\\x%02x", key[i]);
        if (used + 12 >= text_cap && i + 1 < key_len) {
            snprintf(text + used, text_cap - used, "...");
            return;
        }
    }
}

static struct shown show(const struct kv_walk *walk, struct kv_bytes key)
{
    struct shown shown;
    char plain[KEY_TEXT - 8];
    if (walk->show_key &&
        walk->show_key(walk->show_context, key.data, key.length, shown.text, sizeof shown.text))
        return shown;
    escape(key.data, key.length, plain, sizeof plain);
    snprintf(shown.text, sizeof shown.text, "key \"%s\"", plain);
    return shown;
}

static void tell(const struct kv_walk *walk, const char *what, const char *format, ...)
    KV_PRINTF(3, 4);
static void tell(const struct kv_walk *walk, const char *what, const char *format, ...)
{
    char text[768];
    va_list arguments;
    if (!walk->report)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    walk->report(walk->context, KV_CHECK_NOTE, what, text);
}

/* "from A up to B" for a range of keys. */
struct shown_range {
    char text[2 * KEY_TEXT + 32];
};

static struct shown_range show_range(const struct kv_walk *walk,
                                     const struct kv_salvage_piece *piece)
{
    struct shown_range range;
    const char *from = piece->low.length ? "from " : "from the first key";
    const char *to = piece->high.data ? " to before " : " to the last key";
    snprintf(range.text, sizeof range.text, "%s%s%s%s", from,
             piece->low.length ? show(walk, piece->low).text : "", to,
             piece->high.data ? show(walk, piece->high).text : "");
    return range;
}

/* ---- finding ------------------------------------------------------------------------- */

bool kv_check_wants_leaves(const struct kv_walk *walk)
{
    return walk->hole_count && walk->holes[0].tree == KV_TREE_KEYS;
}

/* Visit the pieces of each hole of the keys' tree. */
static int each_piece(const struct kv_walk *walk, const struct kv_salvage *salvage,
                      kv_salvage_visit_fn *visit, void *context)
{
    int err = 0;
    for (size_t i = 0; i < walk->hole_count && !err; i++) {
        const struct kv_walk_hole *hole = &walk->holes[i];
        if (hole->tree == KV_TREE_KEYS)
            err = kv_salvage_each(salvage, kv_walk_hole_low(hole), kv_walk_hole_high(hole), visit,
                                  context);
    }
    return err;
}

/* kv_salvage_visit_fn. */
static int expect_current(void *context, const struct kv_salvage_piece *piece)
{
    (void)context;
    return piece->leaf && piece->leaf->current ? 0 : -ENOENT;
}

int kv_check_find_leaves(const struct kv_walk *walk, struct kv_salvage *salvage)
{
    int err = 0;
    kv_salvage_clear(salvage);
    if (!walk->store->superblocks_lost) {
        for (uint64_t id = 0; !err && kv_walk_next_leaked(walk, &id); id++)
            err = kv_salvage_add_mapped(salvage, id);
        if (!err)
            err = kv_salvage_resolve(salvage);
        if (!err && !each_piece(walk, salvage, expect_current, NULL))
            return 0;
        kv_salvage_clear(salvage);
    }
    if (!err)
        err = kv_salvage_scan(salvage, walk->progress, walk->context);
    return err ? err : kv_salvage_resolve(salvage);
}

int kv_check_protect_leaves(const struct kv_walk *walk, const struct kv_salvage *salvage)
{
    int err = 0;
    for (size_t i = 0; i < walk->hole_count && !err; i++) {
        const struct kv_walk_hole *hole = &walk->holes[i];
        if (hole->tree == KV_TREE_KEYS)
            err = kv_salvage_protect(salvage, kv_walk_hole_low(hole), kv_walk_hole_high(hole));
    }
    return err;
}

/* ---- putting back ----------------------------------------------------------------------- */

struct filling {
    const struct kv_walk *walk;
    const struct kv_salvage *salvage;
    struct kv_salvaged *salvaged;
    bool estimate;
    uint8_t *node;
};

/* Does each blob of the value lie there whole? -ENOMEM, or what is wrong. */
static int verify_value(struct kv_store *store, uint8_t kind, struct kv_bytes value)
{
    struct kv_blob_ref ref;
    int err = 0;
    for (size_t at = 0; !err && kv_value_next_ref(kind, value, &at, &ref);)
        err = kv_blobs_verify(&store->blobs, &ref);
    return err;
}

/* *put: the key is in the tree now. */
static int put_cell(const struct filling *filling, const uint8_t *key, size_t key_len, uint8_t kind,
                    struct kv_bytes value, bool *put)
{
    struct kv_store *store = filling->walk->store;
    *put = false;
    if (sizeof(struct kv_disk_slot) + sizeof(struct kv_disk_leaf_cell) + key_len + value.length >
        kv_node_cell_limit(store->node_bytes))
        return 0; /* no store writes such a cell */
    const int bad = filling->estimate ? 0 : verify_value(store, kind, value);
    if (bad == -ENOMEM)
        return bad;
    if (bad) {
        filling->salvaged->dropped++;
        tell(filling->walk, "salvage-dropped", "%s: its value can not be had back: %s",
             show(filling->walk, (struct kv_bytes){key, key_len}).text, strerror(-bad));
        return 0;
    }
    *put = true;
    if (filling->estimate)
        return 0;
    return kv_check_put(store, KV_TREE_KEYS, (struct kv_bytes){key, key_len}, kind, value);
}

static int put_piece(const struct filling *filling, const struct kv_salvage_piece *piece,
                     uint64_t *count)
{
    unsigned slot;
    const unsigned end = kv_salvage_slots(filling->salvage, piece, filling->node, &slot);
    int err = 0;
    for (*count = 0; slot < end && !err; slot++) {
        uint8_t key[KV_KEY_MAX], kind;
        bool put;
        const size_t key_len =
            kv_node_key(filling->node, filling->walk->store->node_bytes, slot, key);
        const struct kv_bytes value = kv_node_value(filling->node, slot, &kind);
        err = put_cell(filling, key, key_len, kind, value, &put);
        *count += !err && put;
    }
    return err;
}

/* kv_salvage_visit_fn. */
static int fill_piece(void *context, const struct kv_salvage_piece *piece)
{
    struct filling *filling = context;
    const struct kv_walk *walk = filling->walk;
    struct kv_salvaged *salvaged = filling->salvaged;
    const struct kv_salvage_leaf *leaf = piece->leaf;
    int err = leaf ? kv_salvage_read(filling->salvage, leaf, filling->node) : -ENOENT;
    if (err == -ENOMEM)
        return err;
    if (err) {
        salvaged->lost_ranges++;
        tell(walk, "salvage-lost", "%s: nothing was found", show_range(walk, piece).text);
        return 0;
    }
    uint64_t count;
    err = put_piece(filling, piece, &count);
    if (leaf->current || !kv_salvage_tells_age(walk->store)) {
        salvaged->keys += count;
    } else {
        salvaged->stale_keys += count;
        tell(walk, "salvage-stale",
             "%s: only an older state was found, of epoch %llu with %llu keys; some may be "
             "out of date, deleted since, or missing",
             show_range(walk, piece).text, (unsigned long long)leaf->epoch,
             (unsigned long long)count);
    }
    return err;
}

static int fill(const struct kv_walk *walk, const struct kv_salvage *salvage,
                struct kv_salvaged *salvaged, bool estimate)
{
    struct filling filling = {
        .walk = walk, .salvage = salvage, .salvaged = salvaged, .estimate = estimate};
    *salvaged = (struct kv_salvaged){0};
    filling.node = kv_device_alloc(walk->store->node_bytes);
    if (!filling.node)
        return -ENOMEM;
    const int err = each_piece(walk, salvage, fill_piece, &filling);
    free(filling.node);
    if (err)
        return err;
    if (salvage->unreadable_blocks)
        tell(walk, "salvage-unreadable", "%llu blocks of the image can not be read",
             (unsigned long long)salvage->unreadable_blocks);
    tell(walk, "salvaged",
         "of the damaged places %llu keys %s, %llu more as an older state had them; %llu keys %s "
         "damaged values, %llu ranges of keys are lost%s",
         (unsigned long long)salvaged->keys, estimate ? "can be put back" : "were put back",
         (unsigned long long)salvaged->stale_keys, (unsigned long long)salvaged->dropped,
         estimate ? "are known to have" : "were dropped for",
         (unsigned long long)salvaged->lost_ranges,
         kv_salvage_tells_age(walk->store)
             ? ""
             : "; with the bitmaps or superblocks lost, nothing tells which are out of date");
    return 0;
}

int kv_check_estimate(const struct kv_walk *walk, const struct kv_salvage *salvage,
                      struct kv_salvaged *salvaged)
{
    return fill(walk, salvage, salvaged, true);
}

int kv_check_put_back(const struct kv_walk *walk, const struct kv_salvage *salvage,
                      struct kv_salvaged *salvaged)
{
    return fill(walk, salvage, salvaged, false);
}
