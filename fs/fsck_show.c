/*
 * fs/fsck_show.c: what a key is, for people who read what was lost.
 *
 * Owns       nothing.
 * Invariant  reads only; records that are damaged or missing cut a path short, no more.
 * Locks      none.
 */
#include <stdio.h>

#include "fs/data.h"
#include "fs/fsck_run.h"
#include "fs/xattr.h"

#define PATH_DEPTH_MAX 64 /* directories; a loop ends here too */
#define PATH_BYTES     140u

/* Put "name/" in front of what is in the buffer from *at on. false: no room. */
static bool prepend(char *path, size_t *at, const char *name, size_t name_len)
{
    const struct fs_fsck_shown shown = fs_fsck_show(name, name_len);
    const size_t length = strlen(shown.text);
    if (length + 1 > *at)
        return false;
    path[--*at] = '/';
    *at -= length;
    memcpy(path + *at, shown.text, length);
    return true;
}

/*
 * The path of a directory, with a slash at its end, in front of the zero at path[PATH_BYTES]:
 * returns where it begins. A part that is not known is shown as an inode number.
 */
static size_t directory_path(struct kv_store *store, uint64_t ino, char path[PATH_BYTES + 1])
{
    size_t at = PATH_BYTES;
    path[at] = '\0';
    for (int depth = 0; ino != FS_ROOT_INO && depth < PATH_DEPTH_MAX; depth++) {
        struct fs_key key;
        uint8_t value[8 + FS_NAME_MAX];
        size_t length, name_len;
        const char *name;
        uint64_t parent;
        fs_key_ino(&key, FS_KEY_PARENT, ino);
        if (!store || kv_get(store, key.bytes, key.length, value, sizeof value, &length) ||
            fs_parent_decode(value, length, &parent, &name, &name_len) ||
            !prepend(path, &at, name, name_len)) {
            char number[32];
            const int digits = snprintf(number, sizeof number, "(%llu)", fs_fsck_ull(ino));
            kv_ignore(prepend(path, &at, number, (size_t)digits)); /* no room: cut off here */
            return at;
        }
        ino = parent;
    }
    if (at > 0)
        path[--at] = '/';
    return at;
}

static bool show_entry(struct kv_store *store, const void *key, size_t key_len, char *text,
                       size_t text_cap)
{
    char path[PATH_BYTES + 1];
    uint64_t directory;
    const char *name;
    size_t name_len;
    if (fs_key_entry_parse(key, key_len, &directory, &name, &name_len))
        return false;
    const size_t at = directory_path(store, directory, path);
    snprintf(text, text_cap, "%s%s", path + at, fs_fsck_show(name, name_len).text);
    return true;
}

bool fs_check_show_key(struct kv_store *store, const void *key, size_t key_len, char *text,
                       size_t text_cap)
{
    static const struct {
        enum fs_key_type type;
        const char *what;
    } numbered[] = {{FS_KEY_INODE, "the record of inode"},
                    {FS_KEY_ORPHAN, "the deleted inode"},
                    {FS_KEY_PARENT, "the parent of directory"},
                    {FS_KEY_DATA, "the content of inode"},
                    {FS_KEY_XATTR, "an attribute of inode"}};
    uint64_t ino;
    if (!key_len)
        return false;
    if (*(const uint8_t *)key == FS_KEY_ENTRY)
        return show_entry(store, key, key_len, text, text_cap);
    for (size_t i = 0; i < sizeof numbered / sizeof numbered[0]; i++) {
        if (*(const uint8_t *)key != numbered[i].type ||
            fs_key_ino_parse(key, key_len, numbered[i].type, &ino))
            continue;
        if (numbered[i].type == FS_KEY_DATA && key_len == FS_DATA_KEY_BYTES) {
            const uint64_t offset = kv_be64_take((const uint8_t *)key + 9);
            snprintf(text, text_cap, "%s %llu at offset %llu", numbered[i].what, fs_fsck_ull(ino),
                     fs_fsck_ull(offset));
        } else {
            snprintf(text, text_cap, "%s %llu", numbered[i].what, fs_fsck_ull(ino));
        }
        return true;
    }
    return false;
}
