/*
 * tests/kv/support_history.c: a sorted array that remembers every state it ever had.
 *
 * Owns       the arrays of all versions, and the bytes that entries point to.
 * Invariant  an entry's bytes never change, so versions share them; a committed version
 *            never changes at all.
 */
#include "support_history.h"

#include "kv/codec.h"

struct bytes {
    struct bytes *next;
    uint8_t data[];
};

struct history {
    struct history_version *versions; /* the first has number `first` */
    size_t first, count, capacity;
    struct history_version pending; /* entries NULL: none */
    size_t pending_capacity;
    struct bytes *bytes; /* all that was ever given */
};

static void *must(void *memory)
{
    KV_ASSERT(memory != NULL);
    return memory;
}

/* Memory that lives as long as the history. */
static uint8_t *keep_bytes(struct history *history, size_t length)
{
    struct bytes *bytes = must(malloc(sizeof *bytes + length + 1));
    bytes->next = history->bytes;
    history->bytes = bytes;
    return bytes->data;
}

static uint8_t *keep_copy(struct history *history, const void *data, size_t length)
{
    uint8_t *copy = keep_bytes(history, length);
    if (length)
        memcpy(copy, data, length);
    return copy;
}

static uint64_t digest_entry(const void *key, size_t key_len, const void *value, size_t value_len)
{
    return kv_digest(value, value_len, kv_digest(key, key_len, 0));
}

/* ---- versions ----------------------------------------------------------- */

static void copy_version(struct history_version *to, const struct history_version *from,
                         size_t capacity)
{
    *to = *from;
    to->entries = must(malloc((capacity + 1) * sizeof *to->entries));
    if (from->count)
        memcpy(to->entries, from->entries, from->count * sizeof *to->entries);
}

static void add_version(struct history *history, struct history_version version)
{
    if (history->count == history->capacity) {
        history->capacity = history->capacity ? history->capacity * 2 : 64;
        history->versions =
            must(realloc(history->versions, history->capacity * sizeof *history->versions));
    }
    history->versions[history->count++] = version;
}

struct history *history_new(void)
{
    struct history *history = must(calloc(1, sizeof *history));
    struct history_version empty;
    copy_version(&empty, &(struct history_version){NULL, 0, 0}, 0);
    add_version(history, empty);
    return history;
}

struct history *history_fork(const struct history *history, size_t first, size_t last)
{
    KV_ASSERT(first <= last);
    struct history *fork = must(calloc(1, sizeof *fork));
    fork->first = first;
    for (size_t i = first; i <= last; i++) {
        const struct history_version *from = history_version(history, i);
        struct history_version version;
        copy_version(&version, from, from->count);
        add_version(fork, version);
    }
    return fork;
}

void history_free(struct history *history)
{
    if (!history)
        return;
    for (size_t i = 0; i < history->count; i++)
        free(history->versions[i].entries);
    free(history->versions);
    free(history->pending.entries);
    while (history->bytes) {
        struct bytes *next = history->bytes->next;
        free(history->bytes);
        history->bytes = next;
    }
    free(history);
}

size_t history_last(const struct history *history)
{
    return history->first + history->count - 1;
}

const struct history_version *history_version(const struct history *history, size_t index)
{
    KV_ASSERT(index >= history->first && index - history->first < history->count);
    return &history->versions[index - history->first];
}

void history_begin(struct history *history)
{
    KV_ASSERT(!history->pending.entries);
    const struct history_version *last = &history->versions[history->count - 1];
    history->pending_capacity = last->count + 16;
    copy_version(&history->pending, last, history->pending_capacity);
}

size_t history_commit(struct history *history)
{
    KV_ASSERT(history->pending.entries);
    add_version(history, history->pending);
    history->pending = (struct history_version){NULL, 0, 0};
    return history_last(history);
}

void history_drop(struct history *history)
{
    KV_ASSERT(history->count > 1 && !history->pending.entries);
    free(history->versions[--history->count].entries);
}

const struct history_version *history_pending(const struct history *history)
{
    KV_ASSERT(history->pending.entries);
    return &history->pending;
}

/* ---- changes ------------------------------------------------------------ */

/* Index of the first entry whose key is not below `key`. */
static size_t lower_bound(const struct history_version *version, const void *key, size_t key_len)
{
    size_t low = 0, high = version->count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        const struct history_entry *entry = &version->entries[middle];
        if (kv_key_compare(entry->key, entry->key_len, key, key_len) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool holds_key(const struct history_version *version, size_t index, const void *key,
                      size_t key_len)
{
    return index < version->count && !kv_key_compare(version->entries[index].key,
                                                     version->entries[index].key_len, key, key_len);
}

static void remove_entries(struct history_version *version, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        version->digest -= version->entries[i].digest;
    memmove(version->entries + from, version->entries + to,
            (version->count - to) * sizeof *version->entries);
    version->count -= to - from;
}

/* Put an entry whose value is kept already. */
static void put_entry(struct history *history, const void *key, size_t key_len,
                      struct history_entry entry)
{
    struct history_version *version = &history->pending;
    KV_ASSERT(version->entries);
    const size_t at = lower_bound(version, key, key_len);
    if (holds_key(version, at, key, key_len))
        remove_entries(version, at, at + 1);
    if (version->count == history->pending_capacity) {
        history->pending_capacity *= 2;
        version->entries =
            must(realloc(version->entries, history->pending_capacity * sizeof *version->entries));
    }
    entry.key = keep_copy(history, key, key_len);
    entry.key_len = key_len;
    entry.digest = digest_entry(key, key_len, entry.value, entry.value_len);
    memmove(version->entries + at + 1, version->entries + at,
            (version->count - at) * sizeof *version->entries);
    version->entries[at] = entry;
    version->digest += entry.digest;
    version->count++;
}

void history_put(struct history *history, const void *key, size_t key_len, const void *value,
                 size_t value_len)
{
    put_entry(history, key, key_len,
              (struct history_entry){.value = keep_copy(history, value, value_len),
                                     .value_len = value_len});
}

void history_put_blob(struct history *history, const void *key, size_t key_len, const void *head,
                      size_t head_len, const void *content, size_t content_len,
                      const struct kv_blob_ref *ref)
{
    uint8_t *value = keep_bytes(history, head_len + content_len);
    if (head_len)
        memcpy(value, head, head_len);
    memcpy(value + head_len, content, content_len);
    put_entry(history, key, key_len,
              (struct history_entry){.value = value,
                                     .value_len = head_len + content_len,
                                     .head_len = head_len,
                                     .ref = *ref});
}

void history_del(struct history *history, const void *key, size_t key_len)
{
    const size_t at = lower_bound(&history->pending, key, key_len);
    if (holds_key(&history->pending, at, key, key_len))
        remove_entries(&history->pending, at, at + 1);
}

void history_del_range(struct history *history, const void *lower, size_t lower_len,
                       const void *upper, size_t upper_len)
{
    const size_t from = lower_bound(&history->pending, lower, lower_len);
    const size_t to = lower_bound(&history->pending, upper, upper_len);
    if (from < to)
        remove_entries(&history->pending, from, to);
}

void history_patch(struct history *history, const void *key, size_t key_len, size_t offset,
                   const void *bytes, size_t length)
{
    const struct history_version *version = &history->pending;
    const size_t at = lower_bound(version, key, key_len);
    const bool present = holds_key(version, at, key, key_len);
    const size_t old_len = present ? version->entries[at].value_len : 0;
    const size_t value_len = (size_t)kv_max_u64(old_len, offset + length);

    uint8_t *value = keep_bytes(history, value_len);
    memset(value, 0, value_len);
    if (old_len)
        memcpy(value, version->entries[at].value, old_len);
    memcpy(value + offset, bytes, length);
    put_entry(history, key, key_len,
              (struct history_entry){.value = value, .value_len = value_len});
}

/* ---- comparing with a store ----------------------------------------------- */

/* Read what the cursor is on into fresh memory, a blob's content in place of its reference. */
/*
 * Read the content of a blob whose value's head is `head`. Where that is the blob's table, half of
 * it is read by the table.
 */
static int read_blob(struct kv_store *store, const struct kv_blob_ref *ref, const void *head,
                     size_t head_len, uint8_t *content)
{
    size_t at;
    const size_t length = kv_blob_length(ref), half = length / 2;
    if (!head_len || head_len != kv_blob_table_range(ref, 0, length, &at) ||
        !kv_blob_table_agrees(ref, 0, length, head))
        return kv_blob_read(store, ref, 0, content, length);
    const struct kv_blob_part parts[] = {
        {.ref = *ref, .buf = content, .length = half, .table = head, .table_to = length},
        {.ref = *ref, .buf = content + half, .offset = half, .length = length - half}};
    return kv_blob_read_many(store, parts, 2);
}

static int read_entry(struct kv_store *store, struct kv_cursor *cursor, struct history *into)
{
    struct history_entry entry = {0};
    const void *stored;
    size_t stored_len, key_len;
    const int err = kv_cursor_value(cursor, &stored, &stored_len);
    if (err)
        return err;
    const uint8_t *key = kv_cursor_key(cursor, &key_len);
    if (key[0] != HISTORY_BLOB_KEY) {
        history_put(into, key, key_len, stored, stored_len);
        return 0;
    }

    if (stored_len < sizeof entry.ref)
        return -EUCLEAN;
    entry.head_len = stored_len - sizeof entry.ref;
    memcpy(&entry.ref, (const uint8_t *)stored + entry.head_len, sizeof entry.ref);
    const size_t content_len = kv_blob_length(&entry.ref);
    uint8_t *content = must(malloc(content_len + 1));
    const int read_err = read_blob(store, &entry.ref, stored, entry.head_len, content);
    if (!read_err)
        history_put_blob(into, key, key_len, stored, entry.head_len, content, content_len,
                         &entry.ref);
    free(content);
    return read_err;
}

/* Read a store into the pending version of an empty history. */
static int read_store(struct kv_store *store, struct history *into)
{
    struct kv_cursor *cursor = NULL;
    int err = kv_cursor_open(store, NULL, 0, NULL, 0, &cursor);
    if (err)
        return err;
    history_begin(into);
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        err = read_entry(store, cursor, into);
        if (err)
            break;
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

/* The digest of what the cursor is on, as put_entry makes it. `room` grows as needed. */
static int digest_stored(struct kv_store *store, struct kv_cursor *cursor, uint8_t **room,
                         size_t *room_bytes, uint64_t *digest)
{
    struct kv_blob_ref ref;
    const void *stored;
    size_t stored_len, key_len;
    int err = kv_cursor_value(cursor, &stored, &stored_len);
    if (err)
        return err;
    const uint8_t *key = kv_cursor_key(cursor, &key_len);
    if (key[0] != HISTORY_BLOB_KEY) {
        *digest = digest_entry(key, key_len, stored, stored_len);
        return 0;
    }
    if (stored_len < sizeof ref)
        return -EUCLEAN;
    const size_t head_len = stored_len - sizeof ref;
    memcpy(&ref, (const uint8_t *)stored + head_len, sizeof ref);
    const size_t value_len = head_len + kv_blob_length(&ref);
    if (value_len > *room_bytes) {
        *room = must(realloc(*room, value_len));
        *room_bytes = value_len;
    }
    if (head_len)
        memcpy(*room, stored, head_len);
    err = read_blob(store, &ref, stored, head_len, *room + head_len);
    *digest = digest_entry(key, key_len, *room, value_len);
    return err;
}

int history_digest(struct kv_store *store, uint64_t *digest)
{
    struct kv_cursor *cursor = NULL;
    int err = kv_cursor_open(store, NULL, 0, NULL, 0, &cursor);
    if (err)
        return err;
    uint8_t *room = NULL;
    size_t room_bytes = 0;
    *digest = 0;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        uint64_t entry = 0;
        err = digest_stored(store, cursor, &room, &room_bytes, &entry);
        if (err)
            break;
        *digest += entry;
    }
    free(room);
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

static bool same_entry(const struct history_entry *a, const struct history_entry *b)
{
    return a->value_len == b->value_len && a->head_len == b->head_len &&
           !memcmp(a->value, b->value, a->value_len);
}

static bool same_version(const struct history_version *a, const struct history_version *b)
{
    if (a->digest != b->digest || a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        if (kv_key_compare(a->entries[i].key, a->entries[i].key_len, b->entries[i].key,
                           b->entries[i].key_len) ||
            !same_entry(&a->entries[i], &b->entries[i]))
            return false;
    }
    return true;
}

/* Count the keys in which two versions differ, and print them when there is a label. */
static size_t count_differences(const struct history_version *found,
                                const struct history_version *expected, const char *label)
{
    size_t differences = 0, f = 0, e = 0;
    while (f < found->count || e < expected->count) {
        const struct history_entry *have = f < found->count ? &found->entries[f] : NULL;
        const struct history_entry *want = e < expected->count ? &expected->entries[e] : NULL;
        const int order = !have ? 1
                          : !want
                              ? -1
                              : kv_key_compare(have->key, have->key_len, want->key, want->key_len);
        f += order <= 0;
        e += order >= 0;
        if (order == 0 && same_entry(have, want))
            continue;
        differences++;
        if (!label || differences > 12)
            continue;
        const struct history_entry *named = order <= 0 ? have : want;
        printf("%s: key %.*s (%zu bytes): ", label, (int)kv_min_u64(named->key_len, 12),
               (const char *)named->key, named->key_len);
        if (order < 0)
            printf("in the store (%zu bytes), not expected\n", have->value_len);
        else if (order > 0)
            printf("missing (%zu bytes)\n", want->value_len);
        else
            printf("%zu bytes instead of %zu, or other bytes\n", have->value_len, want->value_len);
    }
    return differences;
}

static void print_differences(const struct history *history, const struct history_version *found,
                              size_t first, size_t last)
{
    const size_t end = history_last(history);
    size_t nearest = end, least = SIZE_MAX;
    for (size_t i = history->first; i <= end; i++) {
        const size_t differences = count_differences(found, history_version(history, i), NULL);
        if (differences < least || (differences == least && i <= last)) {
            least = differences;
            nearest = i;
        }
    }
    char label[64];
    printf("the store holds %zu keys, which is no version in [%zu, %zu]; the nearest is %zu of "
           "%zu (%zu differences)\n",
           found->count, first, last, nearest, end, least);
    snprintf(label, sizeof label, "to version %zu", nearest);
    (void)count_differences(found, history_version(history, nearest), label);
    if (nearest == last)
        return;
    snprintf(label, sizeof label, "to version %zu", last);
    (void)count_differences(found, history_version(history, last), label);
}

int history_find(const struct history *history, struct kv_store *store, size_t first, size_t last,
                 size_t *index)
{
    KV_ASSERT(first <= last && last <= history_last(history));
    struct history *found = history_new();
    const int err = read_store(store, found);
    *index = HISTORY_NONE;
    if (err)
        goto out;

    for (size_t i = last + 1; i > first && *index == HISTORY_NONE; i--) {
        if (same_version(&found->pending, history_version(history, i - 1)))
            *index = i - 1;
    }
    if (*index == HISTORY_NONE)
        print_differences(history, &found->pending, first, last);
out:
    history_free(found);
    return err;
}
