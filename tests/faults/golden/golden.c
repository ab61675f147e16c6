/*
 * tests/faults/golden/golden.c: what a golden image holds, as text.
 *
 * Invariant  nothing is changed: the volume is opened read-only, so orphans stay.
 */
#include "golden.h"

#include "fs/record.h"
#include "fs/volume.h"
#include "fs/xattr.h"
#include "kv/codec.h"

#include <inttypes.h>

#define PATH_BYTES 2048u

static void ignore_log(void *context, enum kv_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

/* ---- keys ---------------------------------------------------------------------------- */

static int count_keys(struct kv_store *store, FILE *out)
{
    static const char types[] = "SDIOPFXT";
    for (const char *type = types; *type; type++) {
        struct kv_cursor *cursor;
        uint64_t count = 0;
        int err = kv_cursor_open_prefix(store, type, 1, &cursor);
        if (err)
            return err;
        for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor))
            count++;
        kv_cursor_close(cursor);
        if (err != -ENOENT)
            return err;
        fprintf(out, "keys %c %" PRIu64 "\n", *type, count);
    }
    return 0;
}

/* ---- files --------------------------------------------------------------------------- */

static void print_name(FILE *out, const char *name)
{
    for (; *name; name++)
        if (*name > ' ' && *name != '\\' && *name != 0x7f)
            putc(*name, out);
        else
            fprintf(out, "\\x%02x", (unsigned char)*name);
}

/* Over the bytes as they are read, holes as zeros. */
static int digest_content(struct fs_volume *volume, const struct fs_record *record,
                          uint64_t *digest)
{
    static uint8_t chunk[1u << 20];
    *digest = 0;
    for (uint64_t at = 0; at < record->file.size;) {
        size_t got;
        const size_t step = kv_min_u64(sizeof chunk, record->file.size - at);
        const int err = fs_read(volume, record->file.ino, at, chunk, step, &got);
        if (err)
            return err;
        if (got != step)
            return -EUCLEAN;
        *digest = kv_digest(chunk, got, *digest);
        at += got;
    }
    return 0;
}

static int print_attributes(struct fs_volume *volume, uint64_t ino, FILE *out)
{
    static char names[65536], value[65536];
    size_t length, value_len;
    int err = fs_listxattr(volume, ino, true, names, sizeof names, &length);
    for (size_t at = 0; !err && at < length; at += strlen(names + at) + 1) {
        err = fs_getxattr(volume, ino, names + at, value, sizeof value, &value_len);
        fprintf(out, " %s=%016" PRIx64, names + at, err ? 0 : kv_digest(value, value_len, 0));
    }
    return err;
}

static int print_file(struct fs_volume *volume, const char *path, const struct fs_record *record,
                      FILE *out)
{
    uint64_t digest = 0;
    int err = 0;
    char target[FS_SYMLINK_MAX + 1];
    if (S_ISREG(record->mode))
        err = digest_content(volume, record, &digest);
    if (S_ISLNK(record->mode)) {
        err = fs_readlink(volume, record->file.ino, target);
        if (!err)
            digest = kv_digest(target, strlen(target), 0);
    }
    if (S_ISBLK(record->mode) || S_ISCHR(record->mode))
        digest = record->rdev;
    print_name(out, path);
    fprintf(out,
            " ino %" PRIu64 " mode %o owner %u:%u links %u size %" PRIu64 " blocks %" PRIu64
            " mtime %" PRId64 " digest %016" PRIx64,
            record->file.ino, record->mode, record->uid, record->gid, record->nlink,
            record->file.size, record->file.blocks, record->mtime_ns, digest);
    if (!err)
        err = print_attributes(volume, record->file.ino, out);
    putc('\n', out);
    return err;
}

/* ---- the tree ------------------------------------------------------------------------ */

struct listing {
    struct fs_volume *volume;
    const char *path; /* of the directory */
    FILE *out;
    int err;
};

static int print_directory(struct fs_volume *volume, uint64_t ino, const char *path, FILE *out);

static bool print_entry(void *context, const struct fs_dirent *entry)
{
    struct listing *listing = context;
    char path[PATH_BYTES];
    if (!entry->record) /* . and .. */
        return true;
    const int length =
        snprintf(path, sizeof path, "%s/%.*s", listing->path, (int)entry->name_len, entry->name);
    const struct fs_record record = *entry->record;
    listing->err = length < (int)sizeof path ? 0 : -ENAMETOOLONG;
    if (!listing->err)
        listing->err = print_file(listing->volume, path, &record, listing->out);
    if (!listing->err && S_ISDIR(record.mode))
        listing->err = print_directory(listing->volume, record.file.ino, path, listing->out);
    fs_forget(listing->volume, record.file.ino, 1);
    return !listing->err;
}

/* As deep as the tree, which whoever made the image decided. */
static int print_directory(struct fs_volume *volume, uint64_t ino, const char *path, FILE *out)
{
    struct listing listing = {.volume = volume, .path = path, .out = out};
    const int err = fs_readdir(volume, ino, 0, true, print_entry, &listing);
    return listing.err ? listing.err : err;
}

int golden_manifest(struct kv_store *store, FILE *out)
{
    const struct fs_volume_options options = {.read_only = true, .log = ignore_log};
    struct fs_volume *volume;
    struct fs_record root;
    int err = count_keys(store, out);
    if (!err)
        err = fs_volume_open(store, &options, &volume, NULL);
    if (err)
        return err;
    err = fs_getattr(volume, FS_ROOT_INO, &root);
    if (!err)
        err = print_file(volume, "", &root, out);
    if (!err)
        err = print_directory(volume, FS_ROOT_INO, "", out);
    fs_volume_close(volume);
    return err;
}
