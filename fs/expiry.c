/*
 * fs/expiry.c: files that end by themselves.
 *
 * Invariant  that of fs/expiry.h. Nothing here trusts the index: before anything is removed, the
 *            record itself says, under its lock, that it has expired.
 * Locks      to remove a name: its directory and its inode, both exclusive, like unlink.
 */
#include "fs/expiry.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/xattr.h>

#include "fs/policy_lookup.h"
#include "fs/reaper.h"

#define TEXT_MAX 32u /* of a duration */

/* ---- durations -------------------------------------------------------------------------- */

static uint64_t unit_seconds(char unit)
{
    switch (unit) {
    case 's':
        return 1;
    case 'm':
        return 60;
    case 'h':
        return 3600;
    case 'd':
        return 86400;
    case 'w':
        return 7 * 86400;
    default:
        return 0;
    }
}

int fs_ttl_parse(const void *text, size_t length, uint64_t *seconds)
{
    const char *const bytes = text;
    uint64_t number = 0, unit = 1;
    size_t digits = 0;
    /* echo(1) and many programs end a value with a line end or a NUL. */
    if (length && (bytes[length - 1] == '\n' || bytes[length - 1] == '\0'))
        length--;
    for (; digits < length && bytes[digits] >= '0' && bytes[digits] <= '9'; digits++) {
        number = number * 10 + (uint64_t)(bytes[digits] - '0');
        if (number > FS_TTL_SECONDS_MAX)
            return -EINVAL;
    }
    if (!digits || length - digits > 1)
        return -EINVAL;
    if (digits < length)
        unit = unit_seconds(bytes[digits]);
    if (!unit || number > FS_TTL_SECONDS_MAX / unit || !number)
        return -EINVAL;
    *seconds = number * unit;
    return 0;
}

int64_t fs_expiry_now(const struct fs_volume *volume)
{
    return volume->now ? volume->now() : fs_time_now();
}

/* ---- records ------------------------------------------------------------------------------ */

static bool is_over(const struct fs_volume *volume, uint64_t expiry_ns)
{
    return expiry_ns && !KV_PLANT(expiry_ignored) &&
           (int64_t)kv_min_u64(expiry_ns, INT64_MAX) <= fs_expiry_now(volume);
}

bool fs_is_expired(const struct fs_volume *volume, const struct fs_record *record)
{
    return !S_ISDIR(record->mode) && is_over(volume, record->expiry_ns);
}

bool fs_entry_is_expired(const struct fs_volume *volume, const struct fs_entry *entry)
{
    return is_over(volume, entry->expiry_ns);
}

void fs_key_expiry(uint8_t key[FS_EXPIRY_KEY_BYTES], uint64_t expiry_ns, uint64_t ino)
{
    key[0] = FS_KEY_EXPIRY;
    kv_be64_put(key + 1, expiry_ns);
    kv_be64_put(key + 9, ino);
}

int fs_change_put_expiry(struct fs_volume *volume, struct fs_data_change *change,
                         const struct fs_item *item)
{
    const struct fs_record *const record = &item->record;
    uint8_t key[FS_EXPIRY_KEY_BYTES], value[FS_EXPIRY_VALUE_BYTES];
    uint64_t directory;
    const char *name;
    size_t name_len;
    if (!record->expiry_ns || S_ISDIR(record->mode))
        return 0;
    int err = fs_key_entry_parse(item->key.bytes, item->key.length, &directory, &name, &name_len);
    if (err)
        return err; /* the record contradicts itself */
    fs_key_expiry(key, record->expiry_ns, record->file.ino);
    const size_t length = fs_parent_encode(directory, name, name_len, value);
    err = kv_batch_put(change->batch, key, sizeof key, value, length);
    if (!err)
        fs_expiry_expect(volume, (int64_t)kv_min_u64(record->expiry_ns, INT64_MAX));
    return err;
}

int fs_change_end_expiry(struct fs_data_change *change, struct fs_record *record)
{
    uint8_t key[FS_EXPIRY_KEY_BYTES];
    if (!record->expiry_ns || S_ISDIR(record->mode))
        return 0;
    fs_key_expiry(key, record->expiry_ns, record->file.ino);
    record->expiry_ns = 0;
    return KV_PLANT(expiry_index_left) ? 0 : kv_batch_del(change->batch, key, sizeof key);
}

/* In `seconds` from now; later than 64 bits of nanoseconds reach is the end of these. */
static uint64_t moment_in(const struct fs_volume *volume, uint64_t duration_ns)
{
    const int64_t now = fs_expiry_now(volume);
    int64_t moment;
    if (duration_ns > INT64_MAX || __builtin_add_overflow(now, (int64_t)duration_ns, &moment))
        return INT64_MAX;
    return moment > 0 ? (uint64_t)moment : 1; /* 0 means never */
}

uint64_t fs_sooner(uint64_t one_ns, uint64_t other_ns)
{
    return one_ns && other_ns ? kv_min_u64(one_ns, other_ns) : kv_max_u64(one_ns, other_ns);
}

int fs_change_begin_expiry(struct fs_volume *volume, struct fs_data_change *change,
                           struct fs_item *item, uint64_t duration_ns)
{
    if (!duration_ns)
        return 0;
    item->record.expiry_ns =
        S_ISDIR(item->record.mode) ? duration_ns : moment_in(volume, duration_ns);
    return fs_change_put_expiry(volume, change, item);
}

int fs_change_inherit_expiry(struct fs_volume *volume, struct fs_data_change *change,
                             const struct fs_record *parent, struct fs_item *item)
{
    uint64_t by_policy = 0;
    const int err =
        S_ISDIR(item->record.mode) ? 0 : fs_policy_ttl_ns(volume, &item->key, &by_policy);
    return err ? err
               : fs_change_begin_expiry(volume, change, item,
                                        fs_sooner(parent->expiry_ns, by_policy));
}

int fs_expiry_of_new_name(struct fs_volume *volume, struct fs_item *item)
{
    uint64_t duration;
    if (item->record.expiry_ns || S_ISDIR(item->record.mode))
        return 0;
    const int err = fs_policy_ttl_ns(volume, &item->key, &duration);
    if (!err && duration)
        item->record.expiry_ns = moment_in(volume, duration);
    return err;
}

/* ---- the attribute -------------------------------------------------------------------------- */

int fs_ttl_get(const struct fs_volume *volume, const struct fs_record *record, void *value,
               size_t cap, size_t *length)
{
    if (!record->expiry_ns)
        return -ENODATA;
    uint64_t ns = record->expiry_ns;
    if (!S_ISDIR(record->mode)) {
        const int64_t left = (int64_t)kv_min_u64(ns, INT64_MAX) - fs_expiry_now(volume);
        ns = left > 0 ? (uint64_t)left : 0;
    }
    char text[TEXT_MAX];
    *length = (size_t)snprintf(text, sizeof text, "%" PRIu64,
                               ns / FS_NS_PER_SECOND + (ns % FS_NS_PER_SECOND != 0));
    if (cap == 0)
        return 0;
    if (*length > cap)
        return -ERANGE;
    memcpy(value, text, *length);
    return 0;
}

int fs_change_ttl(struct fs_volume *volume, struct fs_data_change *change, struct fs_item *item,
                  const void *value, size_t length, int flags)
{
    struct fs_record *const record = &item->record;
    uint64_t seconds = 0;
    if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    if ((flags & XATTR_CREATE) && record->expiry_ns)
        return -EEXIST;
    if ((!value || (flags & XATTR_REPLACE)) && !record->expiry_ns)
        return -ENODATA;
    if (value && fs_ttl_parse(value, length, &seconds))
        return -EINVAL;
    if (S_ISDIR(record->mode)) {
        record->expiry_ns = seconds * FS_NS_PER_SECOND;
        return 0;
    }
    if (value && item->key.bytes[0] != FS_KEY_ENTRY)
        return -EPERM; /* it has several names, or had, or none */
    const int err = fs_change_end_expiry(change, record);
    if (err || !value)
        return err;
    return fs_change_begin_expiry(volume, change, item, seconds * FS_NS_PER_SECOND);
}

/* ---- removing what has expired ----------------------------------------------------------------
 */

/* The record of a directory that has an entry, also of one that the kernel does not know. Under its
 * lock. -EUCLEAN: it has none, or it is none. */
static int load_directory(struct fs_volume *volume, uint64_t directory, struct fs_item *item)
{
    struct fs_key stored;
    uint8_t value[8 + FS_NAME_MAX];
    size_t length, name_len;
    uint64_t parent;
    const char *name;
    int err = fs_directory_load(volume, directory, item);
    if (err != -ESTALE)
        return err == -ENOENT || err == -ENOTDIR ? -EUCLEAN : err;
    fs_key_ino(&stored, FS_KEY_PARENT, directory);
    err = kv_get(volume->store, stored.bytes, stored.length, value, sizeof value, &length);
    if (!err)
        err = fs_parent_decode(value, length, &parent, &name, &name_len);
    if (!err)
        err = fs_item_find_any(volume, parent, name, name_len, item);
    if (err)
        return err == -ENOENT || err == -ERANGE ? -EUCLEAN : err;
    return item->record.file.ino == directory && S_ISDIR(item->record.mode) ? 0 : -EUCLEAN;
}

/* An entry of the index, copied: it is over with this name. */
struct due {
    uint8_t key[FS_EXPIRY_KEY_BYTES];
    uint8_t place[FS_EXPIRY_VALUE_BYTES]; /* as it is stored, unless by_name */
    size_t place_len;
    uint64_t expiry_ns, ino, directory;
    char name[FS_NAME_MAX];
    size_t name_len;
    bool by_name; /* found by its name: the record's word is enough */
};

/* Is the entry in the index as it was copied? 0; -ENOENT; -ESTALE: it names another place now; or
 * another error. */
static int look_again(struct fs_volume *volume, const struct due *due)
{
    uint8_t now[FS_EXPIRY_VALUE_BYTES];
    size_t length;
    const int err = kv_get(volume->store, due->key, sizeof due->key, now, sizeof now, &length);
    if (err)
        return err == -ERANGE ? -EUCLEAN : err;
    return length == due->place_len && !memcmp(now, due->place, length) ? 0 : -ESTALE;
}

/* Does the record that the index names say the same of itself? */
static bool is_meant(const struct due *due, const struct fs_item *item)
{
    return item->record.file.ino == due->ino && item->record.expiry_ns == due->expiry_ns &&
           item->key.bytes[0] == FS_KEY_ENTRY && !S_ISDIR(item->record.mode);
}

/* Add what removes the name. */
static int put_removal(struct fs_volume *volume, struct fs_data_change *change,
                       const struct due *due, struct fs_item *item, struct fs_inode_move *move)
{
    struct fs_item parent;
    struct fs_key entry;
    const int64_t now = fs_time_now();
    int err = load_directory(volume, due->directory, &parent);
    if (err)
        return err;
    fs_key_entry(&entry, due->directory, due->name, due->name_len);
    parent.record.mtime_ns = parent.record.ctime_ns = now;
    err = fs_change_del(change, &entry);
    if (!err)
        err = fs_change_put(change, &parent);
    return err ? err : fs_change_drop_name(change, item, now, move);
}

/*
 * Under the locks of both. Whoever changes the index of an inode holds its lock, so an entry that
 * is still there and does not agree with the record never will: it goes.
 * unused: out: the inode has no name now, and nobody holds it. -ESTALE: it was renamed meanwhile.
 */
static int remove_locked(struct fs_volume *volume, const struct due *due, bool *unused)
{
    struct fs_data_change change;
    struct fs_inode_move move = {NULL};
    struct fs_item item;
    int err = due->by_name ? 0 : look_again(volume, due);
    if (err)
        return err == -ENOENT ? 0 : err;
    err = fs_item_find_any(volume, due->directory, due->name, due->name_len, &item);
    const bool meant = !err && is_meant(due, &item);
    if (err && err != -ENOENT)
        return err;
    if (!meant && due->by_name)
        return 0; /* it has changed meanwhile */
    err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;
    if (meant)
        err = put_removal(volume, &change, due, &item, &move);
    else
        err = kv_batch_del(change.batch, due->key, sizeof due->key);
    if (!err)
        err = fs_change_apply(volume, &change, KV_APPLY_URGENT);
    if (!err && meant)
        *unused = !fs_inode_table_move(volume->table, &move);
    fs_inode_table_cancel(&move);
    fs_data_change_release(&change);
    return err;
}

static int remove_due(struct fs_volume *volume, const struct due *due)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    bool unused = false;
    fs_lock_add(&locks, due->directory, FS_LOCK_EXCLUSIVE);
    fs_lock_add(&locks, due->ino, FS_LOCK_EXCLUSIVE);
    fs_lock_take(volume->locks, &locks);
    const int err = remove_locked(volume, due, &unused);
    fs_lock_drop(volume->locks, &locks);
    if (!err && unused)
        fs_reaper_add(volume, due->ino);
    return err;
}

/* ---- on demand --------------------------------------------------------------------------------
 */

int fs_expiry_clear_name(struct fs_volume *volume, uint64_t directory, const char *name,
                         size_t name_len)
{
    struct fs_key key;
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    struct fs_entry entry;
    fs_key_entry(&key, directory, name, name_len);
    int err = kv_get(volume->store, key.bytes, key.length, value, sizeof value, &length);
    if (!err)
        err = fs_entry_decode(value, length, &entry);
    if (err)
        return err == -ENOENT ? 0 : err == -ERANGE ? -EUCLEAN : err;
    if (!fs_entry_is_expired(volume, &entry))
        return 0;
    struct due due = {.expiry_ns = entry.expiry_ns,
                      .ino = entry.ino,
                      .directory = directory,
                      .name_len = name_len,
                      .by_name = true};
    fs_key_expiry(due.key, entry.expiry_ns, entry.ino);
    memcpy(due.name, name, name_len);
    return remove_due(volume, &due);
}

int fs_expiry_clear_directory(struct fs_volume *volume, uint64_t directory)
{
    struct fs_key prefix;
    struct kv_cursor *cursor;
    fs_key_entries(&prefix, directory);
    int err = kv_cursor_open_prefix(volume->store, prefix.bytes, prefix.length, &cursor);
    if (err)
        return err;
    err = kv_cursor_first(cursor);
    while (!err) {
        size_t key_len, name_len;
        uint64_t parent;
        const char *name;
        const void *const key = kv_cursor_key(cursor, &key_len);
        err = fs_key_entry_parse(key, key_len, &parent, &name, &name_len);
        if (!err)
            err = fs_expiry_clear_name(volume, directory, name, name_len);
        if (err)
            break; /* also what says that there is no such entry: it is no end of the walk */
        err = kv_cursor_next(cursor);
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

/* ---- as time goes by ---------------------------------------------------------------------------
 */

void fs_expiry_init(struct fs_volume *volume)
{
    pthread_condattr_t monotonic; /* whoever sets the clock must not make anyone wait for ever */
    volume->expiry_next_ns = INT64_MAX;
    pthread_mutex_init(&volume->expiry_mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&volume->expiry_nearer, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void fs_expiry_release(struct fs_volume *volume)
{
    pthread_mutex_destroy(&volume->expiry_mutex);
    pthread_cond_destroy(&volume->expiry_nearer);
}

void fs_expiry_expect(struct fs_volume *volume, int64_t moment_ns)
{
    pthread_mutex_lock(&volume->expiry_mutex);
    if (moment_ns < volume->expiry_next_ns) {
        volume->expiry_next_ns = moment_ns;
        pthread_cond_signal(&volume->expiry_nearer);
    }
    pthread_mutex_unlock(&volume->expiry_mutex);
}

/* Copy what the cursor is on, a key of the right length. sound: out: it names a place. */
static int read_due(struct kv_cursor *cursor, struct due *due, bool *sound)
{
    size_t key_len, length;
    const void *value;
    const char *name;
    const uint8_t *const key = kv_cursor_key(cursor, &key_len);
    due->by_name = false;
    memcpy(due->key, key, sizeof due->key);
    due->expiry_ns = kv_be64_take(key + 1);
    due->ino = kv_be64_take(key + 9);
    const int err = kv_cursor_value(cursor, &value, &length);
    if (err)
        return err;
    *sound = due->ino && due->ino <= FS_INO_MAX && length <= sizeof due->place &&
             fs_parent_decode(value, length, &due->directory, &name, &due->name_len) == 0;
    if (*sound) {
        memcpy(due->name, name, due->name_len);
        memcpy(due->place, value, length);
        due->place_len = length;
    }
    return 0;
}

static int drop_key(struct fs_volume *volume, const void *key, size_t key_len)
{
    struct fs_data_change change;
    int err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;
    err = kv_batch_del(change.batch, key, key_len);
    if (!err)
        err = fs_change_apply(volume, &change, KV_APPLY_URGENT);
    fs_data_change_release(&change);
    return err;
}

/* Nothing is to be had of this entry; what it stood for stays out of sight until the check. */
static int drop_entry(struct fs_volume *volume, const struct due *due, int why)
{
    fs_volume_log(volume, KV_LOG_ERROR,
                  "inode %" PRIu64 " has expired but could not be removed (%s); run fsck.kvfs",
                  due->ino, strerror(-why));
    return drop_key(volume, due->key, sizeof due->key);
}

/* Step to the next key that has the length of an index entry; others are nobody's and go. */
static int skip_strangers(struct fs_volume *volume, struct kv_cursor *cursor)
{
    int err = 0;
    while (!err) {
        uint8_t copy[KV_KEY_MAX];
        size_t key_len;
        const void *const key = kv_cursor_key(cursor, &key_len);
        if (key_len == FS_EXPIRY_KEY_BYTES)
            return 0;
        memcpy(copy, key, key_len);
        fs_volume_log(volume, KV_LOG_ERROR,
                      "the index of what expires had a key of %zu bytes; run fsck.kvfs", key_len);
        err = drop_key(volume, copy, key_len);
        if (!err)
            err = kv_cursor_next(cursor);
    }
    return err;
}

static int expire_one(struct fs_volume *volume, const struct due *due, bool sound,
                      fs_expired_fn *expired, void *context)
{
    if (!sound)
        return drop_entry(volume, due, -EUCLEAN);
    if (expired)
        expired(context, due->directory, due->name, due->name_len);
    const int err = remove_due(volume, due);
    return kv_error_is_contradiction(err) || err == -ENOENT ? drop_entry(volume, due, err) : err;
}

int fs_expire(struct fs_volume *volume, uint64_t most, fs_expired_fn *expired, void *context,
              uint64_t *count, int64_t *next_ns)
{
    static const uint8_t prefix[] = {FS_KEY_EXPIRY};
    struct kv_cursor *cursor;
    *count = 0;
    *next_ns = INT64_MAX;
    int err = kv_cursor_open_prefix(volume->store, prefix, sizeof prefix, &cursor);
    if (err)
        return err;
    int64_t again_ns = INT64_MAX;
    err = kv_cursor_first(cursor);
    while (!err && !(err = skip_strangers(volume, cursor))) {
        struct due due;
        bool sound;
        err = read_due(cursor, &due, &sound);
        if (err)
            break;
        const int64_t due_ns = (int64_t)kv_min_u64(due.expiry_ns, INT64_MAX);
        if (!is_over(volume, due.expiry_ns) || *count == most) {
            *next_ns = due_ns;
            break;
        }
        err = expire_one(volume, &due, sound, expired, context);
        if (err == -ESTALE) { /* renamed since it was read: its turn comes again */
            again_ns = due_ns < again_ns ? due_ns : again_ns;
            err = 0;
        } else if (!err) {
            ++*count;
        }
        if (!err)
            err = kv_cursor_next(cursor);
    }
    kv_cursor_close(cursor);
    *next_ns = again_ns < *next_ns ? again_ns : *next_ns;
    return err == -ENOENT ? 0 : err;
}
