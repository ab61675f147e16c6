/*
 * tests/faults/fuzz/volume_tour.c: a bit of everything that a program does with a filesystem.
 *
 * Invariant  bounded, whatever the filesystem says: in depth, in entries, in bytes.
 */
#include "tests/faults/fuzz/volume_tour.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "fs/xattr.h"

#define DEPTH_MAX   6u
#define ENTRIES_MAX 64u  /* of one directory */
#define VISITS_MAX  256u /* of all */
#define IO_BYTES    32768u

struct tour {
    struct fs_volume *volume;
    unsigned visits;
    uint8_t io[IO_BYTES];
};

struct listing {
    struct entry {
        char name[FS_NAME_MAX];
        size_t name_len;
    } entries[ENTRIES_MAX];
    size_t count;
    uint64_t last_cookie, emitted;
};

/* fs_dirent_fn */
static bool note_entry(void *context, const struct fs_dirent *dirent)
{
    struct listing *const listing = context;
    KV_ASSERT(dirent->name_len >= 1);
    KV_ASSERT(dirent->name_len <= FS_NAME_MAX);
    KV_ASSERT(!memchr(dirent->name, '/', dirent->name_len));
    KV_ASSERT(!memchr(dirent->name, '\0', dirent->name_len));
    if (listing->count == ENTRIES_MAX)
        return false;
    listing->last_cookie = dirent->cookie;
    listing->emitted++;
    const bool dots = dirent->name[0] == '.' &&
                      (dirent->name_len == 1 || (dirent->name_len == 2 && dirent->name[1] == '.'));
    if (dots)
        return true;
    struct entry *const entry = &listing->entries[listing->count++];
    memcpy(entry->name, dirent->name, dirent->name_len);
    entry->name_len = dirent->name_len;
    return true;
}

/* fs_dirent_fn */
static bool count_entry(void *context, const struct fs_dirent *dirent)
{
    unsigned *const left = context;
    KV_ASSERT(dirent->ino > 0);
    return (*left)-- > 0;
}

/* ---- reading --------------------------------------------------------------------- */

static void read_content(struct tour *tour, const struct fs_record *record)
{
    const uint64_t ino = record->file.ino;
    const uint64_t size = record->file.size;
    const uint64_t offsets[] = {0, size / 2, size > 4096 ? size - 4096 : 0, FS_SIZE_MAX};
    size_t got;
    uint64_t found = 0;
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        if (i && offsets[i] <= offsets[i - 1])
            continue;
        got = 0;
        const int err = fs_read(tour->volume, ino, offsets[i], tour->io, IO_BYTES, &got);
        KV_ASSERT(err || got <= IO_BYTES);
    }
    for (unsigned steps = 0; steps < 16; steps++) {
        const int whence = steps % 2 ? SEEK_HOLE : SEEK_DATA;
        const uint64_t from = found;
        if (fs_seek(tour->volume, ino, from, whence, &found))
            break;
        KV_ASSERT(found >= from);
    }
}

static void read_attributes(struct tour *tour, uint64_t ino)
{
    char names[4096];
    size_t length = 0, value_len;
    if (fs_listxattr(tour->volume, ino, true, names, sizeof names, &length))
        return;
    KV_ASSERT(length <= sizeof names);
    for (size_t at = 0; at < length; at += strlen(names + at) + 1) {
        const int err = fs_getxattr(tour->volume, ino, names + at, tour->io, IO_BYTES, &value_len);
        KV_ASSERT(err || value_len <= IO_BYTES);
    }
}

static void visit(struct tour *tour, uint64_t directory, unsigned depth);

static void visit_entry(struct tour *tour, uint64_t directory, const struct entry *entry,
                        unsigned depth)
{
    struct fs_record record, again;
    if (tour->visits >= VISITS_MAX ||
        fs_lookup(tour->volume, directory, entry->name, entry->name_len, &record))
        return;
    tour->visits++;
    const uint64_t ino = record.file.ino;
    KV_ASSERT(ino > 0);
    kv_ignore(fs_getattr(tour->volume, ino, &again));
    read_attributes(tour, ino);
    if (S_ISREG(record.mode))
        read_content(tour, &record);
    if (S_ISLNK(record.mode)) {
        char target[FS_SYMLINK_MAX + 1];
        if (!fs_readlink(tour->volume, ino, target))
            KV_ASSERT(memchr(target, '\0', sizeof target));
    }
    if (S_ISDIR(record.mode) && depth < DEPTH_MAX)
        visit(tour, ino, depth + 1);
    fs_forget(tour->volume, ino, 1);
}

static void visit(struct tour *tour, uint64_t directory, unsigned depth)
{
    struct listing *const listing = calloc(1, sizeof *listing);
    KV_ASSERT(listing);
    kv_ignore(fs_readdir(tour->volume, directory, 0, false, note_entry, listing));
    for (size_t i = 0; i < listing->count; i++)
        visit_entry(tour, directory, &listing->entries[i], depth);
    unsigned left = VISITS_MAX;
    if (listing->emitted) /* goes on where it was */
        kv_ignore(
            fs_readdir(tour->volume, directory, listing->last_cookie, false, count_entry, &left));
    free(listing);
}

/* ---- changing --------------------------------------------------------------------- */

static const struct fs_caller caller = {.uid = 1000, .gid = 1000, .umask = 022};

static void change_file(struct tour *tour, uint64_t ino)
{
    struct fs_volume *const volume = tour->volume;
    struct fs_record record;
    struct fs_attr_change change = {.valid = FS_ATTR_MODE | FS_ATTR_UID, .mode = 0640, .uid = 7};
    uint64_t copied;
    kv_ignore(fs_write(volume, ino, 3000, tour->io, 30000, true));
    kv_ignore(fs_write(volume, ino, 10, tour->io, 5, false));
    kv_ignore(fs_fallocate(volume, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5000, 9000));
    kv_ignore(fs_copy_range(volume, ino, 0, ino, 131072, 65536, &copied));
    kv_ignore(fs_setattr(volume, ino, &change, &record));
    change = (struct fs_attr_change){.valid = FS_ATTR_SIZE, .size = 20000};
    kv_ignore(fs_setattr(volume, ino, &change, &record));
    kv_ignore(fs_setxattr(volume, ino, "user.tour", "v", 1, 0, false));
    kv_ignore(fs_removexattr(volume, ino, "user.name"));
}

static void change_names(struct tour *tour)
{
    struct fs_volume *const volume = tour->volume;
    struct fs_record record;
    const struct fs_new_node file = {.mode = S_IFREG | 0666};
    const struct fs_new_node directory = {.mode = S_IFDIR | 0777};
    uint64_t found[4] = {0};
    static const char *const names[4] = {"packed", "extents", "directory", "symlink"};
    for (unsigned i = 0; i < 4; i++)
        if (!fs_lookup(volume, FS_ROOT_INO, names[i], strlen(names[i]), &record))
            found[i] = record.file.ino;
    for (unsigned i = 0; i < 2; i++)
        if (found[i])
            change_file(tour, found[i]);
    if (!fs_create(volume, &caller, FS_ROOT_INO, "tour", 4, &directory, &record)) {
        const uint64_t made = record.file.ino;
        if (!fs_create(volume, &caller, made, "file", 4, &file, &record)) {
            change_file(tour, record.file.ino);
            fs_forget(volume, record.file.ino, 1);
        }
        kv_ignore(fs_rename(volume, FS_ROOT_INO, "extents", 7, made, "moved", 5, 0));
        fs_forget(volume, made, 1);
    }
    if (found[2]) {
        kv_ignore(fs_unlink(volume, found[2], "clone", 5));
        if (!fs_lookup(volume, found[2], "below", 5, &record)) {
            const uint64_t below = record.file.ino;
            for (unsigned i = 0; i < 20; i++) {
                char name[32];
                const int length = snprintf(name, sizeof name, "file with number %02u", i);
                kv_ignore(fs_unlink(volume, below, name, (size_t)length));
            }
            if (found[0] && !fs_link(volume, found[0], below, "again", 5, &record))
                fs_forget(volume, record.file.ino, 1);
            fs_forget(volume, below, 1);
        }
        kv_ignore(fs_rename(volume, FS_ROOT_INO, "directory", 9, FS_ROOT_INO, "packed", 6,
                            FS_RENAME_EXCHANGE));
        kv_ignore(fs_rmdir(volume, FS_ROOT_INO, "directory", 9));
    }
    kv_ignore(fs_unlink(volume, FS_ROOT_INO, "symlink", 7));
    kv_ignore(fs_unlink(volume, FS_ROOT_INO, "device", 6));
    if (!fs_create_unnamed(volume, &caller, FS_ROOT_INO, 0600, &record))
        fs_forget(volume, record.file.ino, 1);
    for (unsigned i = 0; i < 4; i++)
        if (found[i])
            fs_forget(volume, found[i], 1);
}

void volume_tour(struct fs_volume *volume, bool read_only)
{
    struct tour *const tour = calloc(1, sizeof *tour);
    struct statvfs stat;
    uint64_t inode_count = 0, memory = 0;
    KV_ASSERT(tour);
    tour->volume = volume;
    visit(tour, FS_ROOT_INO, 0);
    change_names(tour);
    if (!read_only) {
        tour->visits = 0;
        visit(tour, FS_ROOT_INO, 0);
    }
    kv_ignore(fs_sync(volume));
    fs_statfs(volume, &stat);
    fs_volume_usage(volume, &inode_count, &memory);
    free(tour);
}
