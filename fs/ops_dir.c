/*
 * fs/ops_dir.c: listing a directory.
 *
 * Invariant  a listing is resumed by name (fs/cookie.h): what comes and goes meanwhile
 *            neither hides nor repeats what stays.
 * Locks      the directory, shared, over one reply's worth of entries. References to entries
 *            are counted under it.
 */
#include "fs/cookie.h"
#include "fs/expiry.h"
#include "fs/inode.h"

struct listing {
    struct fs_volume *volume;
    uint64_t directory;
    bool with_attributes;
    fs_dirent_fn *emit;
    void *context;
    bool full; /* emit has refused an entry */
};

static int list_dots(struct listing *listing, uint64_t cookie)
{
    struct fs_dirent entry = {.name = "..", .type = S_IFDIR};
    if (cookie < FS_COOKIE_DOT) {
        entry.ino = listing->directory;
        entry.name_len = 1;
        entry.cookie = FS_COOKIE_DOT;
        listing->full = !listing->emit(listing->context, &entry);
    }
    if (listing->full || cookie >= FS_COOKIE_DOTDOT)
        return 0;
    const int err = fs_directory_parent(listing->volume, listing->directory, &entry.ino);
    if (err)
        return err;
    entry.name_len = 2;
    entry.cookie = FS_COOKIE_DOTDOT;
    listing->full = !listing->emit(listing->context, &entry);
    return 0;
}

/* Count a reference for the kernel, hand the entry over, take it back if it was refused. */
static int emit_with_attributes(struct listing *listing, struct fs_dirent *dirent,
                                struct fs_item *item)
{
    struct fs_inode_table *table = listing->volume->table;
    int err =
        KV_PLANT(listing_not_counted) ? 0 : fs_inode_table_ref(table, dirent->ino, &item->key);
    if (err)
        return err;
    dirent->record = &item->record;
    listing->full = !listing->emit(listing->context, dirent);
    if (listing->full && fs_inode_table_unref(table, dirent->ino, 1))
        return -EUCLEAN; /* an orphan with a name */
    return 0;
}

/*
 * One entry. What is damaged is still named, if it has a name, without type and attributes: the
 * rest of the directory stays usable, and whoever looks it up gets the error.
 */
static int list_entry(struct listing *listing, struct fs_cookies *cookies, struct kv_cursor *cursor)
{
    size_t key_len, value_len;
    const void *key = kv_cursor_key(cursor, &key_len), *value;
    uint64_t directory;
    struct fs_dirent dirent = {.ino = FS_INO_MAX};
    struct fs_entry entry = {.is_link = false};
    struct fs_item item;
    int value_err = kv_cursor_value(cursor, &value, &value_len);
    if (!value_err)
        value_err = fs_entry_decode(value, value_len, &entry);
    if (!value_err && fs_entry_is_expired(listing->volume, &entry))
        return 0;
    int err = fs_key_entry_parse(key, key_len, &directory, &dirent.name, &dirent.name_len);
    /* A name that no program could give back: the check moves it. */
    if (kv_error_is_contradiction(err))
        return 0;
    if (!err)
        err = fs_cookie_of(cookies, dirent.name, dirent.name_len, &dirent.cookie);
    if (err)
        return err;

    err = value_err;
    if (!err) {
        dirent.ino = entry.ino;
        dirent.type = entry.type;
    }
    if (!err && listing->with_attributes) {
        fs_key_entry(&item.key, directory, dirent.name, dirent.name_len);
        err = entry.is_link
                  ? fs_item_find(listing->volume, directory, dirent.name, dirent.name_len, &item)
                  : fs_record_decode(value, value_len, &item.record);
        if (!err)
            return emit_with_attributes(listing, &dirent, &item);
    }
    if (err && !kv_error_is_contradiction(err))
        return err;
    listing->full = !listing->emit(listing->context, &dirent);
    return 0;
}

/* To walk the keys of a directory behind a name; all of them when it is empty. */
static int open_behind(struct fs_volume *volume, uint64_t directory, const char *name,
                       size_t name_len, struct kv_cursor **cursor)
{
    struct fs_key last, upper;
    uint8_t lower[sizeof last.bytes + 1];
    fs_key_entry(&last, directory, name, name_len);
    fs_key_entries(&upper, directory + 1);
    memcpy(lower, last.bytes, last.length);
    lower[last.length] = 0; /* the least key behind the name's */
    const int err = kv_cursor_open(volume->store, lower, last.length + (name_len ? 1u : 0u),
                                   upper.bytes, upper.length, cursor);
    if (!err)
        kv_cursor_walk_on(*cursor);
    return err;
}

/* The name of a cookie that was forgotten: the entry that has it. -EINVAL: none. */
static int find_forgotten(struct fs_volume *volume, uint64_t directory, struct fs_cookies *cookies,
                          uint64_t cookie, char name[FS_NAME_MAX], size_t *name_len)
{
    struct kv_cursor *cursor;
    int err = open_behind(volume, directory, "", 0, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        size_t key_len, found_len;
        const void *const key = kv_cursor_key(cursor, &key_len);
        const char *found;
        uint64_t found_in, found_cookie;
        if (fs_key_entry_parse(key, key_len, &found_in, &found, &found_len))
            continue; /* it was not listed, either */
        err = fs_cookie_of(cookies, found, found_len, &found_cookie);
        if (err)
            break;
        if (found_cookie == cookie) {
            memcpy(name, found, found_len);
            *name_len = found_len;
            break;
        }
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? -EINVAL : err;
}

static int list_entries(struct listing *listing, uint64_t cookie)
{
    struct fs_volume *volume = listing->volume;
    struct fs_cookies *cookies = fs_inode_table_cookies(volume->table, listing->directory);
    if (!cookies)
        return -ENOMEM;
    char name[FS_NAME_MAX];
    size_t name_len;
    struct kv_cursor *cursor;
    int err = fs_cookie_name(cookies, cookie, name, &name_len);
    if (err == -ENOENT)
        err = find_forgotten(volume, listing->directory, cookies, cookie, name, &name_len);
    if (!err)
        err = open_behind(volume, listing->directory, name, name_len, &cursor);
    if (err)
        return err;
    err = kv_cursor_first(cursor);
    while (!err && !listing->full) {
        err = list_entry(listing, cookies, cursor);
        if (!err && !listing->full)
            err = kv_cursor_next(cursor);
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

int fs_readdir(struct fs_volume *volume, uint64_t ino, uint64_t cookie, bool with_attributes,
               fs_dirent_fn *emit, void *context)
{
    struct listing listing = {
        .volume = volume,
        .directory = ino,
        .with_attributes = with_attributes,
        .emit = emit,
        .context = context,
    };
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_item item;
    fs_lock_add(&locks, ino, FS_LOCK_SHARED);
    fs_lock_take(volume->locks, &locks);
    int err = fs_directory_load(volume, ino, &item);
    if (!err) /* the last reference would take the cookies along; to forget takes no lock */
        err = fs_inode_table_ref(volume->table, ino, &item.key);
    const bool held = !err;
    if (!err)
        err = list_dots(&listing, cookie);
    if (!err && !listing.full)
        err = list_entries(&listing, cookie);
    fs_lock_drop(volume->locks, &locks);
    if (held)
        fs_forget(volume, ino, 1);
    return err;
}
