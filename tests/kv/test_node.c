/*
 * tests/kv/test_node.c: one level of a tree, as a row of neighbouring nodes, against a sorted
 * array; and nodes that come damaged, or change while they are read.
 *
 * KVFS_SEED chooses the random numbers, KVFS_STEPS how many operations each walk makes.
 */
#include "kv/node.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

#define ROW_MAX   4096u
#define MODEL_MAX 8192u

static uint64_t seed_start;
static unsigned steps_wanted = 4000;

/* ---- random numbers ---------------------------------------------------------- */

static uint64_t random_state;

static uint64_t random_next(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static unsigned random_below(size_t limit)
{
    return (unsigned)(random_next() % limit);
}

static void random_fill(void *out, size_t length)
{
    uint8_t *const bytes = out;
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)random_next();
}

/* ---- the model --------------------------------------------------------------- */

struct pair {
    size_t key_len;
    size_t value_len;
    uint64_t child;
    uint8_t kind;
    uint8_t key[KV_KEY_MAX];
    uint8_t value[KV_NODE_BYTES_MAX / 3];
};

struct model {
    struct pair *pairs[MODEL_MAX];
    unsigned count;
};

static unsigned model_find(const struct model *model, const struct pair *wanted, bool *exact)
{
    unsigned low = 0;
    unsigned high = model->count;
    *exact = false;
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        const struct pair *const pair = model->pairs[middle];
        const int order = kv_key_compare(pair->key, pair->key_len, wanted->key, wanted->key_len);
        *exact = *exact || order == 0;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void model_insert(struct model *model, unsigned at, const struct pair *pair)
{
    ck_assert_uint_lt(model->count, MODEL_MAX);
    struct pair *const copy = malloc(sizeof *copy);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, pair, offsetof(struct pair, value) + pair->value_len);
    memmove(&model->pairs[at + 1], &model->pairs[at], (model->count - at) * sizeof(struct pair *));
    model->pairs[at] = copy;
    model->count++;
}

static void model_remove(struct model *model, unsigned at)
{
    free(model->pairs[at]);
    model->count--;
    memmove(&model->pairs[at], &model->pairs[at + 1], (model->count - at) * sizeof(struct pair *));
}

/* ---- a row of nodes ------------------------------------------------------------ */

struct row {
    size_t node_bytes;
    uint8_t level;
    unsigned count;
    uint64_t page_id_next;
    uint8_t *nodes[ROW_MAX];
    uint64_t page_ids[ROW_MAX];
    uint8_t *scratch;
    struct model model;
};

static struct kv_bytes bytes_of(const void *data, size_t length)
{
    return (struct kv_bytes){data, length};
}

static uint8_t *node_new(size_t node_bytes)
{
    uint8_t *const node = malloc(node_bytes);
    ck_assert_ptr_nonnull(node);
    return node;
}

static struct row *row_new(size_t node_bytes, uint8_t level)
{
    struct row *const row = calloc(1, sizeof *row);
    ck_assert_ptr_nonnull(row);
    row->node_bytes = node_bytes;
    row->level = level;
    row->page_id_next = 2;
    row->count = 1;
    row->nodes[0] = node_new(node_bytes);
    row->page_ids[0] = 1;
    row->scratch = node_new(node_bytes);
    kv_node_init(row->nodes[0], node_bytes, 1, 0, level, bytes_of("", 0), bytes_of(NULL, 0));
    if (level) {
        const struct pair lowest = {.child = 1};
        const bool fits =
            kv_node_insert_child(row->nodes[0], node_bytes, 0, NULL, 0, 1, row->scratch);
        ck_assert(fits);
        model_insert(&row->model, 0, &lowest);
    }
    return row;
}

static void row_free(struct row *row)
{
    while (row->model.count)
        model_remove(&row->model, row->model.count - 1);
    for (unsigned i = 0; i < row->count; i++)
        free(row->nodes[i]);
    free(row->scratch);
    free(row);
}

/* The node whose fences enclose the key. */
static unsigned row_find(const struct row *row, const struct pair *pair)
{
    unsigned low = 0;
    unsigned high = row->count - 1;
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        const struct kv_bytes fence = kv_node_high(row->nodes[middle], row->node_bytes);
        if (kv_key_compare(pair->key, pair->key_len, fence.data, fence.length) < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static bool insert_into(struct row *row, unsigned index, const struct pair *pair)
{
    uint8_t *const node = row->nodes[index];
    bool exact;
    const unsigned slot = kv_node_search(node, row->node_bytes, pair->key, pair->key_len, &exact);
    ck_assert(!exact);
    if (row->level)
        return kv_node_insert_child(node, row->node_bytes, slot, pair->key, pair->key_len,
                                    pair->child, row->scratch);
    return kv_node_insert(node, row->node_bytes, slot, pair->key, pair->key_len, pair->kind,
                          bytes_of(pair->value, pair->value_len), row->scratch);
}

static size_t cell_bytes(const struct row *row, const struct pair *pair)
{
    return row->level ? sizeof(struct kv_disk_inner_cell) + pair->key_len
                      : sizeof(struct kv_disk_leaf_cell) + pair->key_len + pair->value_len;
}

/* Split node `index` so that `pair` can go in. */
static void row_split(struct row *row, unsigned index, const struct pair *pair)
{
    uint8_t *const node = row->nodes[index];
    const unsigned count = kv_node_count(node);
    bool exact;
    const unsigned slot = kv_node_search(node, row->node_bytes, pair->key, pair->key_len, &exact);
    const unsigned at = kv_node_split_point(node, row->node_bytes, slot, cell_bytes(row, pair));
    ck_assert_uint_le(at, count);
    ck_assert(at > 0 || (slot == 0 && !row->level));
    ck_assert(at < count || (slot == count && !row->level));

    uint8_t separator[KV_KEY_MAX];
    const size_t separator_len = kv_node_separator(
        node, row->node_bytes, at, bytes_of(pair->key, pair->key_len), slot, separator);
    const bool goes_left = kv_key_compare(pair->key, pair->key_len, separator, separator_len) < 0;
    ck_assert(slot == at || goes_left == (slot < at));

    ck_assert_uint_lt(row->count, ROW_MAX);
    const unsigned behind = row->count - index - 1;
    memmove(&row->nodes[index + 2], &row->nodes[index + 1], behind * sizeof row->nodes[0]);
    memmove(&row->page_ids[index + 2], &row->page_ids[index + 1], behind * sizeof row->page_ids[0]);
    row->count++;
    row->nodes[index + 1] = node_new(row->node_bytes);
    row->page_ids[index + 1] = row->page_id_next++;
    kv_node_split(node, row->node_bytes, at, bytes_of(separator, separator_len),
                  row->nodes[index + 1], row->page_ids[index + 1], row->scratch);
    ck_assert_uint_eq(kv_node_count(node), at);
    ck_assert_uint_eq(kv_node_count(row->nodes[index + 1]), count - at);
}

static void row_merge(struct row *row, unsigned index)
{
    kv_node_merge(row->nodes[index], row->nodes[index + 1], row->node_bytes, row->scratch);
    free(row->nodes[index + 1]);
    row->count--;
    const unsigned behind = row->count - index - 1;
    memmove(&row->nodes[index + 1], &row->nodes[index + 2], behind * sizeof row->nodes[0]);
    memmove(&row->page_ids[index + 1], &row->page_ids[index + 2], behind * sizeof row->page_ids[0]);
}

static void row_validate(const struct row *row, unsigned index)
{
    const uint8_t *const node = row->nodes[index];
    ck_assert_int_eq(kv_node_validate(node, row->node_bytes, row->page_ids[index]), 0);
    ck_assert_uint_le(kv_node_used(node, row->node_bytes), row->node_bytes);
    if (index + 1 < row->count) {
        const struct kv_bytes high = kv_node_high(node, row->node_bytes);
        const struct kv_bytes low = kv_node_low(row->nodes[index + 1], row->node_bytes);
        ck_assert_int_eq(kv_key_compare(high.data, high.length, low.data, low.length), 0);
    }
}

static void compare_inner_slot(const uint8_t *node, size_t node_bytes, unsigned slot,
                               const struct pair *pair)
{
    unsigned found = UINT32_MAX;
    ck_assert_uint_eq(kv_node_child(node, slot), pair->child);
    ck_assert_uint_eq(kv_node_child_slot(node, node_bytes, pair->key, pair->key_len), slot);
    ck_assert_uint_eq(kv_node_child_racy(node, node_bytes, pair->key, pair->key_len, &found),
                      pair->child);
    ck_assert_uint_eq(found, slot);
}

static void compare_leaf_slot(const uint8_t *node, size_t node_bytes, unsigned slot,
                              const struct pair *pair, uint8_t *buf)
{
    uint8_t kind = 255;
    bool exact;
    size_t value_len = 0;
    const struct kv_bytes value = kv_node_value(node, slot, &kind);
    ck_assert_uint_eq(kind, pair->kind);
    ck_assert_uint_eq(value.length, pair->value_len);
    ck_assert_int_eq(memcmp(value.data, pair->value, value.length), 0);
    ck_assert_uint_eq(kv_node_search(node, node_bytes, pair->key, pair->key_len, &exact), slot);
    ck_assert(exact);

    const size_t cap = random_below(2) ? node_bytes : random_below(64);
    const int err =
        kv_node_value_racy(node, node_bytes, pair->key, pair->key_len, buf, cap, &value_len, &kind);
    ck_assert_int_eq(err, 0);
    ck_assert_uint_eq(value_len, pair->value_len);
    ck_assert_uint_eq(kind, pair->kind);
    ck_assert_int_eq(memcmp(buf, pair->value, cap < value_len ? cap : value_len), 0);
}

/* Everything in the row, by every way of reading it, against the model. */
static void row_compare(const struct row *row)
{
    uint8_t *const buf = node_new(row->node_bytes);
    unsigned next = 0;
    for (unsigned i = 0; i < row->count; i++) {
        const uint8_t *const node = row->nodes[i];
        row_validate(row, i);
        kv_node_copy_racy(buf, node, row->node_bytes);
        ck_assert_mem_eq(buf, node, row->node_bytes);
        ck_assert_uint_eq(kv_node_level_racy(node), row->level);
        for (unsigned slot = 0; slot < kv_node_count(node); slot++) {
            ck_assert_uint_lt(next, row->model.count);
            const struct pair *const pair = row->model.pairs[next++];
            uint8_t key[KV_KEY_MAX];
            const size_t key_len = kv_node_key(node, row->node_bytes, slot, key);
            ck_assert_uint_eq(key_len, pair->key_len);
            ck_assert_int_eq(memcmp(key, pair->key, key_len), 0);
            if (row->level)
                compare_inner_slot(node, row->node_bytes, slot, pair);
            else
                compare_leaf_slot(node, row->node_bytes, slot, pair, buf);
        }
    }
    ck_assert_uint_eq(next, row->model.count);
    free(buf);
}

/* Search some nodes for a key that may lie outside their fences. */
static void row_compare_search(const struct row *row, const struct pair *probe)
{
    for (unsigned i = random_below(4); i < row->count; i += 1 + random_below(8)) {
        const uint8_t *const node = row->nodes[i];
        const unsigned count = kv_node_count(node);
        unsigned expected = row->level ? 1 : 0;
        int order = -1;
        while (expected < count) {
            uint8_t key[KV_KEY_MAX];
            const size_t key_len = kv_node_key(node, row->node_bytes, expected, key);
            order = kv_key_compare(key, key_len, probe->key, probe->key_len);
            if (order >= 0)
                break;
            expected++;
        }
        bool exact;
        const unsigned slot =
            kv_node_search(node, row->node_bytes, probe->key, probe->key_len, &exact);
        ck_assert_uint_eq(slot, expected);
        ck_assert(exact == (expected < count && order == 0));
    }
}

/* ---- operations ------------------------------------------------------------------ */

enum key_style {
    KEYS_TINY,    /* few short keys of few bytes, zero among them */
    KEYS_PATHS,   /* long shared beginnings */
    KEYS_LONGEST, /* 490 bytes and more, differing only at the end */
    KEYS_MIXED,
    KEY_STYLES
};

static void make_key(struct pair *pair, enum key_style style)
{
    static const uint8_t letters[] = {0, 0, 1, 'a', 'b', 0xff};
    if (style == KEYS_MIXED)
        style = random_below(KEYS_MIXED);
    size_t shared = 0;
    size_t length = 0;
    if (style == KEYS_PATHS) {
        shared = (size_t)snprintf((char *)pair->key, sizeof pair->key, "%s/%03u/%05u",
                                  random_below(3) ? "directory/of/some/length" : "d",
                                  random_below(8), random_below(3000));
        length = shared + random_below(3);
    } else if (style == KEYS_LONGEST && random_below(16)) {
        memset(pair->key, 'x', sizeof pair->key);
        shared = 480;
        length = 490 + random_below(KV_KEY_MAX - 490 + 1);
    } else {
        length = 1 + random_below(8);
    }
    for (size_t i = shared; i < length; i++)
        pair->key[i] = letters[random_below(sizeof letters)];
    pair->key_len = length;
}

static void make_value(struct pair *pair, size_t node_bytes)
{
    static const uint8_t kinds[] = {KV_VALUE_INLINE, KV_VALUE_INLINE, KV_VALUE_INLINE, KV_VALUE_REF,
                                    KV_VALUE_LARGE};
    const size_t inline_max = kv_node_inline_max(node_bytes, pair->key_len);
    pair->kind = kinds[random_below(sizeof kinds)];
    switch (pair->kind) {
    case KV_VALUE_REF:
        pair->value_len = 40 + random_below(KV_BLOB_HEAD_MAX + 1);
        break;
    case KV_VALUE_LARGE:
        pair->value_len = 40 * (1 + random_below(16));
        break;
    default:
        pair->value_len = random_below(8) ? random_below(60) : random_below(inline_max + 1);
    }
    random_fill(pair->value, pair->value_len);
}

static void put_absent(struct row *row, const struct pair *pair)
{
    unsigned index = row_find(row, pair);
    if (!insert_into(row, index, pair)) {
        row_split(row, index, pair);
        row_validate(row, index);
        row_validate(row, index + 1);
        index = row_find(row, pair);
        const bool fits = insert_into(row, index, pair);
        ck_assert_msg(fits, "a cell must fit after one split");
    }
    row_validate(row, index);
}

static void step_insert(struct row *row, const struct pair *pair)
{
    bool exact;
    const unsigned at = model_find(&row->model, pair, &exact);
    if (exact)
        return;
    put_absent(row, pair);
    model_insert(&row->model, at, pair);
}

/* Where a key that is there stands; its node's low fence counts as slot 0 of an inner node. */
static unsigned locate(const struct row *row, const struct pair *pair, unsigned *index)
{
    *index = row_find(row, pair);
    const uint8_t *const node = row->nodes[*index];
    if (row->level)
        return kv_node_child_slot(node, row->node_bytes, pair->key, pair->key_len);
    bool exact;
    const unsigned slot = kv_node_search(node, row->node_bytes, pair->key, pair->key_len, &exact);
    ck_assert(exact);
    return slot;
}

/* Give the model's pair `at` the value and child of `from`. */
static void step_replace(struct row *row, unsigned at, const struct pair *from)
{
    struct pair *const pair = malloc(sizeof *pair);
    ck_assert_ptr_nonnull(pair);
    memcpy(pair, from, offsetof(struct pair, value) + from->value_len);
    pair->key_len = row->model.pairs[at]->key_len;
    memcpy(pair->key, row->model.pairs[at]->key, pair->key_len);
    if (pair->kind == KV_VALUE_INLINE)
        pair->value_len =
            kv_min_u64(pair->value_len, kv_node_inline_max(row->node_bytes, pair->key_len));

    unsigned index;
    const unsigned slot = locate(row, pair, &index);
    uint8_t *const node = row->nodes[index];
    if (row->level) {
        kv_node_set_child(node, slot, pair->child);
    } else {
        uint8_t *const before = node_new(row->node_bytes);
        memcpy(before, node, row->node_bytes);
        const bool fits = kv_node_replace(node, row->node_bytes, slot, pair->kind,
                                          bytes_of(pair->value, pair->value_len), row->scratch);
        if (!fits) {
            ck_assert_mem_eq(node, before, row->node_bytes);
            kv_node_remove(node, row->node_bytes, slot);
            put_absent(row, pair);
        }
        free(before);
    }
    row_validate(row, index);
    model_remove(&row->model, at);
    model_insert(&row->model, at, pair);
    free(pair);
}

static void step_overwrite(struct row *row, unsigned at)
{
    struct pair *const pair = row->model.pairs[at];
    unsigned index;
    const unsigned slot = locate(row, pair, &index);
    const size_t offset = random_below(pair->value_len + 1);
    const size_t length = random_below(pair->value_len - offset + 1);
    random_fill(pair->value + offset, length);
    kv_node_overwrite(row->nodes[index], slot, offset, pair->value + offset, length);
    row_validate(row, index);
}

/* false: the key is an inner node's low fence, which goes away only by a merge. */
static bool step_remove(struct row *row, unsigned at)
{
    unsigned index;
    const unsigned slot = locate(row, row->model.pairs[at], &index);
    uint8_t *const node = row->nodes[index];
    const bool is_fence = row->level && slot == 0;
    if (!is_fence) {
        if (row->level)
            kv_node_remove_child(node, row->node_bytes, slot);
        else
            kv_node_remove(node, row->node_bytes, slot);
        model_remove(&row->model, at);
        row_validate(row, index);
    }

    const unsigned percent = 30 + random_below(71);
    if (index > 0 && (index + 1 == row->count || random_below(2)))
        index--;
    if (index + 1 < row->count &&
        kv_node_can_merge(row->nodes[index], row->nodes[index + 1], row->node_bytes, percent)) {
        row_merge(row, index);
        ck_assert_uint_le(kv_node_used(row->nodes[index], row->node_bytes),
                          row->node_bytes * percent / 100);
        row_validate(row, index);
    }
    return !is_fence;
}

/* The header of a bare node, and what follows it, to where kv_node_restore wants them. */
static void place_bare(const uint8_t *bare, size_t bare_bytes, uint8_t *node, size_t node_bytes)
{
    const size_t rest = bare_bytes - sizeof(struct kv_disk_node);
    memset(node, 0xee, node_bytes);
    memcpy(node, bare, sizeof(struct kv_disk_node));
    memcpy(node + node_bytes - rest, bare + sizeof(struct kv_disk_node), rest);
}

/* Put a node in the place of one, by way of its bare form. */
static void step_strip(const struct row *row, unsigned index)
{
    const size_t node_bytes = row->node_bytes;
    uint8_t *const node = row->nodes[index], *const bare = node_new(node_bytes);
    const size_t used = kv_node_used(node, node_bytes);
    const unsigned count = kv_node_count(node);
    const size_t bare_bytes = kv_node_strip(node, node_bytes, bare);
    ck_assert_uint_eq(bare_bytes, used - count * (sizeof(struct kv_disk_slot) - sizeof(kv_le16)));
    ck_assert_uint_eq(kv_node_bare_bytes(bare, node_bytes), bare_bytes);
    place_bare(bare, bare_bytes, node, node_bytes);
    ck_assert_int_eq(kv_node_restore(node, node_bytes), 0);

    row_validate(row, index);
    ck_assert_uint_eq(kv_node_used(node, node_bytes), used);
    const struct kv_node_gap gap = kv_node_gap(node, node_bytes);
    ck_assert_uint_eq(gap.end - gap.begin, node_bytes - used);
    memset(bare, 0, node_bytes);
    ck_assert_mem_eq(node + gap.begin, bare, gap.end - gap.begin);
    free(bare);
}

static void walk(size_t node_bytes, uint8_t level, enum key_style style, unsigned steps)
{
    struct row *const row = row_new(node_bytes, level);
    struct pair *const pair = calloc(1, sizeof *pair);
    ck_assert_ptr_nonnull(pair);
    const unsigned wanted = 100 + random_below(steps / 2 + 1);

    for (unsigned step = 0; step < steps; step++) {
        const unsigned count = row->model.count;
        const unsigned dice = random_below(100);
        make_key(pair, style);
        make_value(pair, node_bytes);
        pair->child = 1 + random_next() % KV_PAGE_ID_MAX;

        if (count == 0 || dice < (count < wanted ? 70u : 30u))
            step_insert(row, pair);
        else if (dice < 80)
            step_replace(row, random_below(count), pair);
        else if (dice < 85 && !level)
            step_overwrite(row, random_below(count));
        else
            (void)step_remove(row, random_below(count)); /* a fence may stay */
        if (step % 32 == 0)
            step_strip(row, random_below(row->count));
        if (step % 32 == 0)
            row_compare_search(row, pair);
        if (step % 512 == 0)
            row_compare(row);
    }
    row_compare(row);
    for (unsigned kept = 0; row->model.count > level && kept < 1000;)
        kept += step_remove(row, random_below(row->model.count)) ? 0 : 1;
    row_compare(row);
    free(pair);
    row_free(row);
}

START_TEST(random_operations_agree_with_a_sorted_array)
{
    const size_t node_bytes = (size_t)KV_NODE_BYTES_MIN << _i;
    random_state = seed_start ^ node_bytes;
    for (unsigned style = 0; style < KEY_STYLES; style++) {
        walk(node_bytes, 0, style, steps_wanted);
        walk(node_bytes, (uint8_t)(1 + random_below(KV_TREE_DEPTH_MAX - 1)), style, steps_wanted);
    }
}
END_TEST

/* ---- splits ----------------------------------------------------------------------- */

static void largest_cells_fit(size_t node_bytes)
{
    struct row *const row = row_new(node_bytes, 0);
    struct pair *const pair = calloc(1, sizeof *pair);
    ck_assert_ptr_nonnull(pair);
    for (unsigned step = 0; step < 1500; step++) {
        make_key(pair, KEYS_LONGEST);
        make_value(pair, node_bytes);
        switch (random_below(3)) {
        case 0:
            pair->kind = KV_VALUE_LARGE;
            pair->value_len = KV_VALUE_MAX / KV_BLOB_MAX * sizeof(struct kv_disk_blob_ref);
            break;
        case 1:
            pair->kind = KV_VALUE_INLINE;
            pair->value_len = kv_node_inline_max(node_bytes, pair->key_len);
            break;
        default:
            break;
        }
        step_insert(row, pair);
    }
    row_compare(row);
    free(pair);
    row_free(row);
}

START_TEST(the_largest_cells_fit_after_one_split)
{
    random_state = seed_start ^ 77;
    for (size_t node_bytes = KV_NODE_BYTES_MIN; node_bytes <= KV_NODE_BYTES_MAX; node_bytes *= 2)
        largest_cells_fit(node_bytes);
}
END_TEST

/* Keys in ascending order, between keys that are there already. */
static void run_leaves_full_pages(uint8_t level, size_t node_bytes)
{
    struct row *const row = row_new(node_bytes, level);
    struct pair *const pair = calloc(1, sizeof *pair);
    ck_assert_ptr_nonnull(pair);
    pair->value_len = 20;
    pair->child = 7;

    for (unsigned i = 0; i < 2000; i++) {
        pair->key_len = (size_t)snprintf((char *)pair->key, sizeof pair->key, "%c%08" PRIx64,
                                         i % 2 ? 'a' : 'z', random_next() >> 32);
        step_insert(row, pair);
    }
    const unsigned pages_before = row->count;
    size_t run_bytes = 0;
    for (unsigned i = 0; i < 4000; i++) {
        pair->key_len = (size_t)snprintf((char *)pair->key, sizeof pair->key, "m%08u", i);
        step_insert(row, pair);
        run_bytes += cell_bytes(row, pair) + sizeof(struct kv_disk_slot);
    }
    row_compare(row);
    const size_t pages = row->count - pages_before;
    /* Splits in the middle would leave twice as many as full pages. An inner page that keeps the
     * last key to the right is less than full. */
    const size_t percent = level ? 120 : 104;
    ck_assert_uint_le(pages, run_bytes * percent / 100 / (node_bytes - 128) + 2);
    free(pair);
    row_free(row);
}

START_TEST(ascending_runs_in_the_middle_leave_full_pages_behind)
{
    random_state = seed_start ^ 78;
    run_leaves_full_pages(0, 4096);
    run_leaves_full_pages(0, 16384);
    run_leaves_full_pages(1, 4096);
    run_leaves_full_pages(1, 16384);
}
END_TEST

/* ---- damage ------------------------------------------------------------------------- */

/* A node out of a row of four, with page id 1. */
static uint8_t *random_node(size_t node_bytes, uint8_t level, enum key_style style)
{
    struct row *const row = row_new(node_bytes, level);
    struct pair *const pair = calloc(1, sizeof *pair);
    ck_assert_ptr_nonnull(pair);
    for (unsigned i = 0; row->count < 4 && i < 4000; i++) {
        make_key(pair, style);
        make_value(pair, node_bytes);
        pair->child = 1 + random_next() % KV_PAGE_ID_MAX;
        step_insert(row, pair);
    }
    const unsigned index = random_below(row->count);
    uint8_t *const node = node_new(node_bytes);
    memcpy(node, row->nodes[index], node_bytes);
    ((struct kv_disk_node *)node)->page_id = kv_le64_of(1);
    free(pair);
    row_free(row);
    return node;
}

/* Read all that can be read while others write; the sanitizers watch. */
static void read_racy(const uint8_t *node, size_t node_bytes)
{
    struct pair *const probe = calloc(1, sizeof *probe);
    ck_assert_ptr_nonnull(probe);
    uint8_t *const buf = node_new(node_bytes);
    (void)kv_node_level_racy(node);
    for (unsigned i = 0; i < 8; i++) {
        unsigned slot;
        size_t value_len = 0;
        uint8_t kind;
        make_key(probe, KEYS_MIXED);
        const uint64_t child =
            kv_node_child_racy(node, node_bytes, probe->key, probe->key_len, &slot);
        ck_assert(child == UINT64_MAX || (child > 0 && child <= KV_PAGE_ID_MAX));
        const int err = kv_node_value_racy(node, node_bytes, probe->key, probe->key_len, buf,
                                           random_below(node_bytes), &value_len, &kind);
        ck_assert(err == 0 || err == -ENOENT || err == -EAGAIN);
        ck_assert_uint_le(value_len, node_bytes);
        uint8_t found[KV_KEY_MAX];
        size_t found_len = 0;
        value_len = 0;
        const int floor_err =
            kv_node_floor_racy(node, node_bytes, probe->key, probe->key_len, found, &found_len, buf,
                               random_below(node_bytes), &value_len, &kind);
        ck_assert(floor_err == 0 || floor_err == -ENOENT || floor_err == -EAGAIN);
        ck_assert_uint_le(found_len, KV_KEY_MAX);
        ck_assert_uint_le(value_len, node_bytes);
    }
    kv_node_copy_racy(buf, node, node_bytes);
    ck_assert_mem_eq(buf, node, node_bytes);
    free(buf);
    free(probe);
}

/* A node that passes validation can be read by everything. */
static void read_held(const uint8_t *node, size_t node_bytes)
{
    uint64_t sum = kv_node_used(node, node_bytes);
    for (unsigned slot = 0; slot < kv_node_count(node); slot++) {
        uint8_t key[KV_KEY_MAX];
        uint8_t kind;
        bool exact;
        const size_t key_len = kv_node_key(node, node_bytes, slot, key);
        const unsigned found = kv_node_search(node, node_bytes, key, key_len, &exact);
        if (kv_node_level(node)) {
            ck_assert_uint_eq(kv_node_child_slot(node, node_bytes, key, key_len), slot);
            sum += kv_node_child(node, slot);
            continue;
        }
        ck_assert_uint_eq(found, slot);
        const struct kv_bytes value = kv_node_value(node, slot, &kind);
        for (size_t i = 0; i < value.length; i++)
            sum += ((const uint8_t *)value.data)[i];
    }
    ck_assert_uint_ne(sum, 0);
}

static void damage(uint8_t *node, size_t node_bytes)
{
    const size_t slots_end =
        sizeof(struct kv_disk_node) + sizeof(struct kv_disk_slot) * kv_node_count(node);
    const size_t reach[] = {sizeof(struct kv_disk_node), slots_end, node_bytes};
    const unsigned times = 1 + random_below(3);
    for (unsigned i = 0; i < times; i++) {
        const size_t at = random_below(reach[random_below(3)]);
        const uint8_t flipped = (uint8_t)(node[at] ^ (1u << random_below(8)));
        node[at] = random_below(2) ? (uint8_t)random_next() : flipped;
    }
}

START_TEST(damaged_nodes_are_refused_or_harmless)
{
    random_state = seed_start ^ 79;
    unsigned refused = 0;
    for (unsigned i = 0; i < 60; i++) {
        const size_t node_bytes = (size_t)KV_NODE_BYTES_MIN << random_below(i % 8 ? 1 : 5);
        uint8_t *const node =
            random_node(node_bytes, (uint8_t)random_below(2), random_below(KEY_STYLES));
        ck_assert_int_eq(kv_node_validate(node, node_bytes, 1), 0);
        ck_assert_int_eq(kv_node_validate(node, node_bytes, 2), -EUCLEAN);
        uint8_t *const copy = node_new(node_bytes);
        for (unsigned trial = 0; trial < 100; trial++) {
            memcpy(copy, node, node_bytes);
            damage(copy, node_bytes);
            const int err = kv_node_validate(copy, node_bytes, 1);
            ck_assert(err == 0 || err == -EUCLEAN);
            if (err)
                refused++;
            else
                read_held(copy, node_bytes);
            if (trial % 8 == 0)
                read_racy(copy, node_bytes);
        }
        free(copy);
        free(node);
    }
    ck_assert_uint_gt(refused, 0);
}
END_TEST

/* What comes of a damaged bare node is refused, or for kv_node_validate to refuse, or harmless. */
START_TEST(damaged_bare_nodes_are_refused_or_harmless)
{
    random_state = seed_start ^ 81;
    unsigned refused = 0, invalid = 0;
    for (unsigned i = 0; i < 60; i++) {
        const size_t node_bytes = (size_t)KV_NODE_BYTES_MIN << random_below(i % 8 ? 1 : 5);
        uint8_t *const node =
            random_node(node_bytes, (uint8_t)random_below(2), random_below(KEY_STYLES));
        uint8_t *const bare = node_new(node_bytes), *const copy = node_new(node_bytes);
        const size_t bare_bytes = kv_node_strip(node, node_bytes, bare);
        for (unsigned trial = 0; trial < 200; trial++) {
            place_bare(bare, bare_bytes, copy, node_bytes);
            const size_t lengths = node_bytes - (bare_bytes - sizeof(struct kv_disk_node));
            const size_t from[] = {0, lengths, lengths + sizeof(kv_le16) * kv_node_count(bare)};
            const size_t to[] = {sizeof(struct kv_disk_node), from[2], node_bytes};
            for (unsigned times = 1 + random_below(3); times; times--) {
                const unsigned where = random_below(3);
                if (from[where] == to[where])
                    continue;
                const size_t at = from[where] + random_below(to[where] - from[where]);
                const uint8_t flipped = (uint8_t)(copy[at] ^ (1u << random_below(8)));
                copy[at] = random_below(2) ? (uint8_t)random_next() : flipped;
            }
            int err = kv_node_restore(copy, node_bytes);
            ck_assert(err == 0 || err == -EUCLEAN);
            refused += err != 0;
            if (err)
                continue;
            err = kv_node_validate(copy, node_bytes, 1);
            invalid += err != 0;
            if (!err)
                read_held(copy, node_bytes);
        }
        free(copy);
        free(bare);
        free(node);
    }
    ck_assert_uint_gt(refused, 0);
    ck_assert_uint_gt(invalid, 0);
}
END_TEST

START_TEST(bare_nodes_of_nothing_but_slots_come_back)
{
    /* The lengths are where the last slots will be: nothing is between slots and cells. */
    const size_t node_bytes = KV_NODE_BYTES_MIN;
    uint8_t *const node = node_new(node_bytes), *const bare = node_new(node_bytes);
    const struct kv_bytes none = {0};
    kv_node_init(node, node_bytes, 1, 0, 0, (struct kv_bytes){"", 0}, none);
    unsigned count = 0;
    for (; count < 1000; count++) {
        const uint8_t key[2] = {(uint8_t)(count >> 8), (uint8_t)count};
        if (!kv_node_insert(node, node_bytes, count, key, sizeof key, KV_VALUE_INLINE, none, bare))
            break;
    }
    const struct kv_node_gap gap = kv_node_gap(node, node_bytes);
    ck_assert_uint_lt(gap.end - gap.begin, sizeof(kv_le16) * count);

    const size_t bare_bytes = kv_node_strip(node, node_bytes, bare);
    uint8_t *const back = node_new(node_bytes);
    place_bare(bare, bare_bytes, back, node_bytes);
    ck_assert_int_eq(kv_node_restore(back, node_bytes), 0);
    ck_assert_int_eq(kv_node_validate(back, node_bytes, 1), 0);
    ck_assert_uint_eq(kv_node_count(back), count);
    for (unsigned slot = 0; slot < count; slot++) {
        uint8_t key[KV_KEY_MAX];
        ck_assert_uint_eq(kv_node_key(back, node_bytes, slot, key), 2);
        ck_assert_uint_eq(key[0] * 256u + key[1], slot);
    }
    free(back);
    free(bare);
    free(node);
}
END_TEST

/* A header that does not add up says nothing of how long the rest is. */
START_TEST(a_header_that_no_bare_node_has_gives_no_length)
{
    const size_t node_bytes = 16384;
    struct kv_disk_node good;
    memset(&good, 0, sizeof good);
    good.slot_count = kv_le16_of(10);
    good.heap_start = kv_le32_of(16000);
    good.low_bytes = good.high_bytes = kv_le16_of(20);
    ck_assert_uint_eq(kv_node_bare_bytes(&good, node_bytes), sizeof good + 10 * 2 + 384);
    for (unsigned i = 0; i < 6; i++) {
        struct kv_disk_node bad = good;
        if (i == 0)
            bad.garbage_bytes = kv_le32_of(1);
        else if (i == 1)
            bad.heap_start = kv_le32_of((uint32_t)node_bytes + 1);
        else if (i == 2)
            bad.heap_start = kv_le32_of(UINT32_MAX);
        else if (i == 3)
            bad.heap_start = kv_le32_of(64 + 10 * 8 - 1);
        else if (i == 4)
            bad.slot_count = kv_le16_of(UINT16_MAX);
        else
            bad.low_bytes = kv_le16_of(365);
        ck_assert_uint_eq(kv_node_bare_bytes(&bad, node_bytes), 0);
        uint8_t *const node = node_new(node_bytes);
        memcpy(node, &bad, sizeof bad);
        ck_assert_int_eq(kv_node_restore(node, node_bytes), -EUCLEAN);
        free(node);
    }
}
END_TEST

START_TEST(garbage_is_refused_and_racy_reads_of_it_end)
{
    random_state = seed_start ^ 80;
    for (unsigned i = 0; i < 1000; i++) {
        const size_t node_bytes = (size_t)KV_NODE_BYTES_MIN << random_below(i % 16 ? 1 : 5);
        uint8_t *const node = node_new(node_bytes);
        random_fill(node, node_bytes);
        if (i % 2) {
            /* A header that lets the search begin. */
            struct kv_disk_node *const header = (struct kv_disk_node *)node;
            header->level = (uint8_t)random_below(2);
            header->slot_count = kv_le16_of((uint16_t)random_below(500));
            header->low_bytes = kv_le16_of((uint16_t)random_below(20));
            header->high_bytes = kv_le16_of((uint16_t)random_below(20));
            header->prefix_bytes = kv_le16_of(0);
        }
        if (i % 4 == 1) {
            /* Equal heads: whole keys are compared, wherever they are said to be. */
            for (unsigned slot = 0; slot < 500; slot++)
                memset(node + 64 + (size_t)slot * 8 + 4, 'x', 4);
        }
        ck_assert_int_eq(kv_node_validate(node, node_bytes, 1), -EUCLEAN);
        read_racy(node, node_bytes);
        free(node);
    }
}
END_TEST

/* Each single thing that the format forbids, made in a good node. */
START_TEST(each_broken_rule_is_seen)
{
    const size_t node_bytes = KV_NODE_BYTES_MIN;
    uint8_t *const scratch = node_new(node_bytes);
    uint8_t *const good = node_new(node_bytes);
    uint8_t *const node = node_new(node_bytes);
    struct kv_disk_node *const header = (struct kv_disk_node *)node;
    struct kv_disk_slot *const slots = (struct kv_disk_slot *)(node + sizeof *header);

#define BREAK(statement)                                                                           \
    do {                                                                                           \
        memcpy(node, good, node_bytes);                                                            \
        ck_assert_int_eq(kv_node_validate(node, node_bytes, 9), 0);                                \
        statement;                                                                                 \
        ck_assert_msg(kv_node_validate(node, node_bytes, 9) == -EUCLEAN, "%s", #statement);        \
    } while (0)

    kv_node_init(good, node_bytes, 9, 0, 0, bytes_of("prefix-a", 8), bytes_of("prefix-x", 8));
    const bool leaf_made = kv_node_insert(good, node_bytes, 0, "prefix-b", 8, KV_VALUE_INLINE,
                                          bytes_of("one", 3), scratch) &&
                           kv_node_insert(good, node_bytes, 1, "prefix-d", 8, KV_VALUE_INLINE,
                                          bytes_of("two", 3), scratch);
    ck_assert(leaf_made);
    const struct kv_disk_slot first = *(struct kv_disk_slot *)(good + sizeof *header);
    struct kv_disk_leaf_cell *const cell = (void *)(node + kv_le16_get(first.offset));
    BREAK(header->magic.b[0] ^= 1);
    BREAK(header->level = KV_TREE_DEPTH_MAX);
    BREAK(header->level = 1);
    BREAK(header->flags = 2);
    BREAK(header->flags = KV_NODE_HIGH_INF);
    BREAK(header->tree = 2);
    BREAK(header->reserved = 1);
    BREAK(header->stored_shape = KV_STORED_BARE);
    BREAK(header->stored_order.b[0] = 1);
    BREAK(header->stored_codec = 1);
    BREAK(header->stored_bytes.b[0] = 1);
    BREAK(header->stored_digest.b[0] = 1);
    BREAK(header->last_insert = kv_le16_of(3));
    BREAK(header->slot_count = kv_le16_of(1));
    BREAK(header->slot_count = kv_le16_of(3));
    BREAK(header->garbage_bytes = kv_le32_of(1));
    BREAK(header->heap_start = kv_le32_of(UINT32_MAX));
    BREAK(header->heap_start = kv_le32_of(64));
    BREAK(header->prefix_bytes = kv_le16_of(6));
    BREAK(header->low_bytes = kv_le16_of(513));
    BREAK(header->high_bytes = kv_le16_of(7));
    BREAK(node[node_bytes - 1] = 'a'); /* high = low */
    BREAK(node[node_bytes - 1] = 'd'); /* high = last key */
    BREAK(node[node_bytes - 9] = 'c'); /* low above the first key */
    BREAK(slots[1] = slots[0]);
    BREAK(slots[0] = slots[1]; slots[1] = first);
    BREAK(slots[0].head.b[0] ^= 1);
    BREAK(slots[0].offset = kv_le16_of(64));
    BREAK(slots[0].key_bytes = kv_le16_of(600));
    BREAK(cell->kind = 3);
    BREAK(cell->kind = KV_VALUE_REF);
    BREAK(cell->kind = KV_VALUE_LARGE);
    BREAK(cell->reserved = 1);
    BREAK(cell->value_bytes = kv_le16_of(4));
    BREAK(cell->value_bytes = kv_le16_of(UINT16_MAX));

    kv_node_init(good, node_bytes, 9, 1, 1, bytes_of("b", 1), bytes_of(NULL, 0));
    const bool inner_made = kv_node_insert_child(good, node_bytes, 0, "b", 1, 5, scratch) &&
                            kv_node_insert_child(good, node_bytes, 1, "c", 1, 6, scratch);
    ck_assert(inner_made);
    BREAK(kv_node_set_child(node, 0, 0));
    BREAK(kv_node_set_child(node, 1, KV_PAGE_ID_MAX + 1));
    BREAK(header->slot_count = kv_le16_of(0));
    BREAK(slots[0].head.b[3] = 1);
    BREAK(node[kv_le16_get(slots[1].offset) + 8] = 'b'; slots[1].head.b[3] = 'b');
#undef BREAK
    free(node);
    free(good);
    free(scratch);
}
END_TEST

/* Whatever the keys and the fences; and a block with a header before it is such a value. */
START_TEST(three_largest_values_fit_into_one_leaf)
{
    ck_assert_uint_ge(kv_node_inline_max(16384, 64), 4096 + 64);
    for (size_t node_bytes = 8192; node_bytes <= KV_NODE_BYTES_MAX; node_bytes *= 2) {
        uint8_t *const scratch = node_new(node_bytes);
        uint8_t *const node = node_new(node_bytes);
        uint8_t low[KV_KEY_MAX] = "a", high[KV_KEY_MAX] = "b", key[KV_KEY_MAX] = "ab";
        kv_node_init(node, node_bytes, 9, 0, 0, bytes_of(low, sizeof low),
                     bytes_of(high, sizeof high));
        const struct kv_bytes value = bytes_of(scratch, kv_node_inline_max(node_bytes, sizeof key));
        for (unsigned slot = 0; slot < 3; slot++) {
            key[2] = (uint8_t)('0' + slot);
            ck_assert(kv_node_insert(node, node_bytes, slot, key, sizeof key, KV_VALUE_INLINE,
                                     value, scratch));
        }
        ck_assert_int_eq(kv_node_validate(node, node_bytes, 9), 0);
        free(node);
        free(scratch);
    }
}
END_TEST

/* A leaf that holds more in one cell than is ever put into one could not be split around it. */
START_TEST(a_cell_larger_than_any_that_is_stored_is_refused)
{
    const size_t node_bytes = KV_NODE_BYTES_MIN;
    const size_t fixed = sizeof(struct kv_disk_slot) + sizeof(struct kv_disk_leaf_cell) + 1;
    const size_t most = kv_node_cell_limit(node_bytes) - fixed;
    uint8_t *const scratch = node_new(node_bytes);
    uint8_t *const node = node_new(node_bytes);
    for (unsigned more = 0; more < 2; more++) {
        kv_node_init(node, node_bytes, 9, 0, 0, bytes_of("", 0), bytes_of(NULL, 0));
        ck_assert(kv_node_insert(node, node_bytes, 0, "k", 1, KV_VALUE_INLINE,
                                 bytes_of(scratch, most + more), scratch));
        ck_assert_int_eq(kv_node_validate(node, node_bytes, 9), more ? -EUCLEAN : 0);
    }
    free(node);
    free(scratch);
}
END_TEST

/* Pages that are valid by themselves do not belong together for that. */
START_TEST(a_child_is_what_its_parent_says)
{
    const size_t node_bytes = KV_NODE_BYTES_MIN;
    uint8_t *const scratch = node_new(node_bytes);
    uint8_t *const parent = node_new(node_bytes);
    uint8_t *const child = node_new(node_bytes);
    const struct kv_bytes none = bytes_of(NULL, 0), empty = bytes_of("", 0);
    const struct kv_bytes b = bytes_of("b", 1), c = bytes_of("c", 1), z = bytes_of("z", 1);

    kv_node_init(parent, node_bytes, 1, 0, 1, empty, none);
    ck_assert(kv_node_insert_child(parent, node_bytes, 0, "", 0, 5, scratch));
    ck_assert(kv_node_insert_child(parent, node_bytes, 1, "b", 1, 6, scratch));
    ck_assert(kv_node_insert_child(parent, node_bytes, 2, "c", 1, 7, scratch));
    ck_assert(kv_node_is_root(parent, node_bytes, 0));
    ck_assert(!kv_node_is_root(parent, node_bytes, 1));

    const struct {
        uint8_t tree, level;
        struct kv_bytes low, high;
        int slot; /* the only one that it belongs to; -1: none */
    } cases[] = {{0, 0, empty, b, 0}, {0, 0, b, c, 1},      {0, 0, c, none, 2}, {0, 0, b, none, -1},
                 {0, 0, c, z, -1},    {0, 0, empty, c, -1}, {1, 0, b, c, -1},   {0, 1, b, c, -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kv_node_init(child, node_bytes, 5, cases[i].tree, cases[i].level, cases[i].low,
                     cases[i].high);
        for (int slot = 0; slot < 3; slot++)
            ck_assert_int_eq(kv_node_is_child(parent, node_bytes, (unsigned)slot, child),
                             slot == cases[i].slot);
    }
    kv_node_init(child, node_bytes, 5, 0, 0, b, c);
    ck_assert(!kv_node_is_root(child, node_bytes, 0));
    ck_assert(kv_node_covers_racy(child, node_bytes, "b", 1));
    ck_assert(kv_node_covers_racy(child, node_bytes, "bz", 2));
    ck_assert(!kv_node_covers_racy(child, node_bytes, "c", 1));
    ck_assert(!kv_node_covers_racy(child, node_bytes, "a", 1));
    ck_assert(kv_node_covers_before(child, node_bytes, c));
    ck_assert(!kv_node_covers_before(child, node_bytes, b));
    ck_assert(!kv_node_covers_before(child, node_bytes, none));
    free(child);
    free(parent);
    free(scratch);
}
END_TEST

static Suite *node_suite(void)
{
    Suite *const suite = suite_create("node");
    TCase *const model = tcase_create("model");
    tcase_set_timeout(model, 300);
    tcase_add_loop_test(model, random_operations_agree_with_a_sorted_array, 0, 5);
    tcase_add_test(model, the_largest_cells_fit_after_one_split);
    tcase_add_test(model, ascending_runs_in_the_middle_leave_full_pages_behind);
    suite_add_tcase(suite, model);

    TCase *const damaged = tcase_create("damage");
    tcase_set_timeout(damaged, 300);
    tcase_add_test(damaged, damaged_nodes_are_refused_or_harmless);
    tcase_add_test(damaged, damaged_bare_nodes_are_refused_or_harmless);
    tcase_add_test(damaged, bare_nodes_of_nothing_but_slots_come_back);
    tcase_add_test(damaged, a_header_that_no_bare_node_has_gives_no_length);
    tcase_add_test(damaged, garbage_is_refused_and_racy_reads_of_it_end);
    tcase_add_test(damaged, each_broken_rule_is_seen);
    tcase_add_test(damaged, three_largest_values_fit_into_one_leaf);
    tcase_add_test(damaged, a_cell_larger_than_any_that_is_stored_is_refused);
    tcase_add_test(damaged, a_child_is_what_its_parent_says);
    suite_add_tcase(suite, damaged);
    return suite;
}

int main(void)
{
    const char *const seed = getenv("KVFS_SEED");
    const char *const steps = getenv("KVFS_STEPS");
    seed_start = seed ? strtoull(seed, NULL, 0) : 1;
    if (steps)
        steps_wanted = (unsigned)strtoul(steps, NULL, 0);
    printf("seed: %" PRIu64 " (KVFS_SEED), steps: %u (KVFS_STEPS)\n", seed_start, steps_wanted);

    return test_run(node_suite());
}
