/*
 * tools/tree_tar.c: tar streams as a source and a sink of trees, by libarchive.
 *
 * Owns       the archive.
 * Invariant  what is written is pax: times to the nanosecond, names of any bytes, extended
 *            attributes, holes. What is read is input: paths that are no keys are refused.
 */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/acl.h"
#include "fs/xattr.h"
#include "kv/base.h"
#include "tools/options.h"
#include "tools/tree.h"

#define READ_BYTES (256u << 10)

/* What libarchive says, with the path; -EIO if it names no errno. */
static int archive_failed(struct tree_job *job, struct archive *archive, const char *path)
{
    const int err = archive_errno(archive) > 0 ? -archive_errno(archive) : -EIO;
    const char *words = archive_error_string(archive);
    if (!*job->error.text)
        snprintf(job->error.text, sizeof job->error.text, "%.200s: %.250s",
                 path && *path ? path : "the tar stream", words ? words : tool_error_text(err));
    return err;
}

/* ---- reading ------------------------------------------------------------------------ */

struct source {
    struct tree_job *job;
    struct archive *archive;
    struct tree_xattrs xattrs;
};

static int read_piece(void *context, struct tree_piece *piece)
{
    struct source *source = context;
    int64_t offset;
    piece->length = 0;
    do {
        const int status =
            archive_read_data_block(source->archive, &piece->bytes, &piece->length, &offset);
        if (status == ARCHIVE_EOF) {
            piece->length = 0;
            return 0;
        }
        if (status < ARCHIVE_WARN)
            return archive_failed(source->job, source->archive, NULL);
    } while (piece->length == 0);
    piece->offset = (uint64_t)offset;
    return offset < 0 ? -EUCLEAN : 0;
}

/* "./a//b/." is the key "a/b"; `path` is changed. NULL: it is none. */
static const char *key_of(char *path)
{
    char *end = path;
    size_t length;
    for (const char *name = path; *name; name += length + (name[length] == '/')) {
        length = strcspn(name, "/");
        if (length == 0 || (length == 1 && *name == '.'))
            continue;
        if (end > path)
            *end++ = '/';
        memmove(end, name, length);
        end += length;
    }
    *end = '\0';
    struct kv_error error;
    return *path && tool_check_key(path, &error) ? NULL : path;
}

/* Whom an entry of an ACL is about: tar --acls gives a name only, which may not be known here. */
static bool find_id(enum fs_acl_tag tag, int given, const char *name, uint32_t *id)
{
    *id = given == -1 ? FS_ACL_NO_ID : (uint32_t)given;
    if (tag != FS_ACL_USER && tag != FS_ACL_GROUP)
        *id = FS_ACL_NO_ID;
    else if (given == -1 && name && tag == FS_ACL_USER) {
        const struct passwd *user = getpwnam(name);
        *id = user ? user->pw_uid : FS_ACL_NO_ID;
    } else if (given == -1 && name) {
        const struct group *group = getgrnam(name);
        *id = group ? group->gr_gid : FS_ACL_NO_ID;
    }
    return *id != FS_ACL_NO_ID || (tag != FS_ACL_USER && tag != FS_ACL_GROUP);
}

static int compare_ids(const void *a, const void *b)
{
    const uint32_t one = kv_le32_get(((const struct fs_disk_acl_entry *)a)->id);
    const uint32_t other = kv_le32_get(((const struct fs_disk_acl_entry *)b)->id);
    return (one > other) - (one < other);
}

/*
 * ACLs as libarchive keeps them, in the form of an attribute. Without those that are about someone
 * unknown, the mask stays: the group may not do more than before.
 */
static int add_acl(struct source *source, struct archive_entry *entry, int type, const char *name)
{
    static const struct {
        int theirs;
        enum fs_acl_tag ours;
    } tags[] = {
        {ARCHIVE_ENTRY_ACL_USER_OBJ, FS_ACL_USER_OBJ},   {ARCHIVE_ENTRY_ACL_USER, FS_ACL_USER},
        {ARCHIVE_ENTRY_ACL_GROUP_OBJ, FS_ACL_GROUP_OBJ}, {ARCHIVE_ENTRY_ACL_GROUP, FS_ACL_GROUP},
        {ARCHIVE_ENTRY_ACL_MASK, FS_ACL_MASK},           {ARCHIVE_ENTRY_ACL_OTHER, FS_ACL_OTHER},
    };
    const int count = archive_entry_acl_reset(entry, type);
    if (count <= 0)
        return 0;
    struct acl {
        struct fs_disk_acl_header header;
        struct fs_disk_acl_entry entries[];
    } *acl = calloc(1, sizeof *acl + (size_t)count * sizeof acl->entries[0]);
    if (!acl)
        return -ENOMEM;
    acl->header.version = kv_le32_of(FS_ACL_VERSION);
    size_t made = 0;
    int found, permissions, tag, given;
    const char *who;
    /* By tag, and within one by number: so the form wants it. */
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
        const size_t first = made;
        (void)archive_entry_acl_reset(entry, type); /* the count is known */
        while (made < (size_t)count && archive_entry_acl_next(entry, type, &found, &permissions,
                                                              &tag, &given, &who) == ARCHIVE_OK) {
            uint32_t id;
            if (tag != tags[i].theirs)
                continue;
            if (!find_id(tags[i].ours, given, who, &id)) {
                source->job->not_kept++;
                continue;
            }
            acl->entries[made++] =
                (struct fs_disk_acl_entry){.tag = kv_le16_of((uint16_t)tags[i].ours),
                                           .perm = kv_le16_of((uint16_t)(permissions & 7)),
                                           .id = kv_le32_of(id)};
        }
        qsort(acl->entries + first, made - first, sizeof acl->entries[0], compare_ids);
    }
    const int err = tree_xattrs_add(source->job, &source->xattrs, name, acl,
                                    sizeof acl->header + made * sizeof acl->entries[0]);
    free(acl);
    return err;
}

static int read_xattrs(struct source *source, struct archive_entry *entry, struct tree_item *item)
{
    const char *name;
    const void *value;
    size_t length;
    int err = 0;
    bool has_access = false, has_default = false;
    tree_xattrs_clear(&source->xattrs);
    (void)archive_entry_xattr_reset(entry); /* the count is of no interest */
    while (!err && archive_entry_xattr_next(entry, &name, &value, &length) == ARCHIVE_OK) {
        has_access |= strcmp(name, FS_XATTR_ACCESS_ACL) == 0;
        has_default |= strcmp(name, FS_XATTR_DEFAULT_ACL) == 0;
        err = tree_xattrs_add(source->job, &source->xattrs, name, value, length);
    }
    if (!err && !has_access)
        err = add_acl(source, entry, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, FS_XATTR_ACCESS_ACL);
    if (!err && !has_default)
        err = add_acl(source, entry, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, FS_XATTR_DEFAULT_ACL);
    tree_xattrs_end(&source->xattrs, item);
    return err;
}

/* libarchive lets an ACL change the mode: to what the group itself may, not to what the mask is. */
static void keep_mode(struct tree_item *item)
{
    uint32_t bits;
    bool minimal;
    for (size_t i = 0; i < item->attributes.xattr_count; i++) {
        const struct fs_apply_xattr *xattr = &item->attributes.xattrs[i];
        if (strcmp(xattr->name, FS_XATTR_ACCESS_ACL) == 0 &&
            fs_acl_to_mode(xattr->value, xattr->length, &bits, &minimal) == 0)
            item->attributes.mode = (item->attributes.mode & ~0777u) | bits;
    }
}

static int64_t time_of(int64_t seconds, long ns)
{
    const struct timespec time = {.tv_sec = seconds, .tv_nsec = ns};
    return fs_time_ns(&time);
}

static int put_entry(struct source *source, struct archive_entry *entry)
{
    struct tree_job *job = source->job;
    const char *given = archive_entry_pathname(entry), *given_link = archive_entry_hardlink(entry);
    char *path = strdup(given ? given : ""), *link = given_link ? strdup(given_link) : NULL;
    const char *key = path ? key_of(path) : NULL;
    const char *to = link ? key_of(link) : NULL;
    const int64_t mtime_ns =
        archive_entry_mtime_is_set(entry)
            ? time_of(archive_entry_mtime(entry), archive_entry_mtime_nsec(entry))
            : fs_time_now();
    int err = 0;
    if (!given || !key || (given_link && (!to || !*to))) {
        snprintf(job->error.text, sizeof job->error.text,
                 "%.300s: not a key; names in a tar stream must not lead out of it",
                 given ? given : "?");
        err = -EINVAL;
        goto out;
    }
    struct tree_item item = {
        .path = key,
        .attributes = {.mode = archive_entry_mode(entry),
                       .uid = (uint32_t)archive_entry_uid(entry),
                       .gid = (uint32_t)archive_entry_gid(entry),
                       .rdev = archive_entry_rdev(entry),
                       .atime_ns = archive_entry_atime_is_set(entry)
                                       ? time_of(archive_entry_atime(entry),
                                                 archive_entry_atime_nsec(entry))
                                       : mtime_ns,
                       .mtime_ns = mtime_ns},
        .size = archive_entry_size(entry) > 0 ? (uint64_t)archive_entry_size(entry) : 0,
        .may_have_holes = archive_entry_sparse_count(entry) > 0,
        .target = archive_entry_symlink(entry),
        .link = to,
        .read = read_piece,
        .read_context = source,
    };
    if (!*key && !S_ISDIR(item.attributes.mode))
        goto out; /* the top is the target's own */
    if (!S_ISCHR(item.attributes.mode) && !S_ISBLK(item.attributes.mode))
        item.attributes.rdev = 0;
    if (!fs_mode_is_known(item.attributes.mode) && !to) {
        job->not_kept++;
        goto out;
    }
    err = read_xattrs(source, entry, &item);
    keep_mode(&item);
    if (!err)
        err = tree_put(job, &item);
out:
    free(path);
    free(link);
    return err;
}

int tree_from_tar(struct tree_job *job, int fd)
{
    struct source source = {.job = job, .archive = archive_read_new()};
    struct archive_entry *entry;
    struct stat status;
    const bool is_file = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    if (!source.archive)
        return tree_failed(job, "", -ENOMEM);
    int err = 0;
    if (archive_read_support_filter_all(source.archive) < ARCHIVE_WARN ||
        archive_read_support_format_all(source.archive) < ARCHIVE_WARN ||
        archive_read_open_fd(source.archive, fd, READ_BYTES) != ARCHIVE_OK)
        err = archive_failed(job, source.archive, NULL);
    while (!err) {
        const int found = archive_read_next_header(source.archive, &entry);
        if (found == ARCHIVE_EOF)
            break;
        if (found < ARCHIVE_WARN) {
            err = archive_failed(job, source.archive, NULL);
            break;
        }
        err = put_entry(&source, entry);
        if (is_file) {
            tool_progress_rate(&job->progress, job->entries, job->bytes);
            tool_progress_step(&job->progress, (uint64_t)archive_filter_bytes(source.archive, -1),
                               (uint64_t)status.st_size);
        }
    }
    tree_xattrs_release(&source.xattrs);
    (void)archive_read_free(source.archive); /* only read */
    return err ? tree_failed(job, "", err) : 0;
}

/* ---- writing ---------------------------------------------------------------------------- */

struct sink {
    struct tree_sink base;
    struct tree_job *job;
    struct archive *archive;
    struct archive_entry *entry;
    uint8_t *zeroes; /* READ_BYTES */
};

static int write_bytes(struct sink *sink, const void *bytes, size_t length, const char *path)
{
    while (length > 0) {
        const la_ssize_t written = archive_write_data(sink->archive, bytes, length);
        if (written <= 0)
            return archive_failed(sink->job, sink->archive, path);
        bytes = (const char *)bytes + written;
        length -= (size_t)written;
    }
    return 0;
}

static int write_zeroes(struct sink *sink, uint64_t length, const char *path)
{
    int err = 0;
    while (!err && length > 0) {
        const size_t step = (size_t)kv_min_u64(length, READ_BYTES);
        err = write_bytes(sink, sink->zeroes, step, path);
        length -= step;
    }
    return err;
}

static int write_header(struct sink *sink, const char *path)
{
    return archive_write_header(sink->archive, sink->entry) < ARCHIVE_WARN
               ? archive_failed(sink->job, sink->archive, path)
               : 0;
}

static int write_plain(struct sink *sink, const struct tree_item *item)
{
    struct tree_piece piece;
    uint64_t at = 0;
    int err = write_header(sink, item->path);
    while (!err && !(err = item->read(item->read_context, &piece)) && piece.length > 0) {
        err = write_zeroes(sink, piece.offset - at, item->path);
        if (!err)
            err = write_bytes(sink, piece.bytes, piece.length, item->path);
        at = piece.offset + piece.length;
    }
    return err ? err : write_zeroes(sink, item->size - kv_min_u64(at, item->size), item->path);
}

/*
 * The header wants the holes before the content comes, and the archive then leaves out what lies in
 * them. In a mount both may change meanwhile: then what is written is as torn as of any file that
 * changes while it is read, but well formed.
 */
static int write_sparse(struct sink *sink, const struct tree_item *item)
{
    uint64_t offset = 0, end = 0;
    bool has_data = false; /* not by archive_entry_sparse_count: that drops a part that is all */
    int err = 0;
    while (!err && offset < item->size) {
        err = item->find(item->read_context, &offset, &end);
        if (!err && offset < end) {
            archive_entry_sparse_add_entry(sink->entry, (int64_t)offset, (int64_t)(end - offset));
            has_data = true;
        }
        offset = end;
    }
    if (!err && !has_data) /* nothing but a hole */
        archive_entry_sparse_add_entry(sink->entry, (int64_t)item->size, 0);
    return err ? err : write_plain(sink, item);
}

static void describe(struct archive_entry *entry, const struct tree_item *item)
{
    const struct fs_apply_attributes *from = &item->attributes;
    const struct timespec atime = fs_timespec(from->atime_ns), mtime = fs_timespec(from->mtime_ns);
    archive_entry_clear(entry);
    archive_entry_set_pathname(entry, *item->path ? item->path : ".");
    archive_entry_set_mode(entry, from->mode);
    archive_entry_set_uid(entry, from->uid);
    archive_entry_set_gid(entry, from->gid);
    archive_entry_set_mtime(entry, mtime.tv_sec, mtime.tv_nsec);
    archive_entry_set_atime(entry, atime.tv_sec, atime.tv_nsec);
    archive_entry_set_size(entry, S_ISREG(from->mode) && !item->link ? (int64_t)item->size : 0);
    if (S_ISCHR(from->mode) || S_ISBLK(from->mode))
        archive_entry_set_rdev(entry, from->rdev);
    if (item->link) {
        archive_entry_set_hardlink(entry, item->link);
        return;
    }
    if (S_ISLNK(from->mode))
        archive_entry_set_symlink(entry, item->target);
    for (size_t i = 0; i < from->xattr_count; i++)
        archive_entry_xattr_add_entry(entry, from->xattrs[i].name, from->xattrs[i].value,
                                      from->xattrs[i].length);
}

static int put(struct tree_sink *base, const struct tree_item *item)
{
    struct sink *sink = (struct sink *)base;
    if (S_ISSOCK(item->attributes.mode)) { /* tar has no place for it */
        sink->job->not_kept++;
        return 0;
    }
    describe(sink->entry, item);
    if (item->link || !S_ISREG(item->attributes.mode))
        return write_header(sink, item->path);
    return item->may_have_holes && item->find ? write_sparse(sink, item) : write_plain(sink, item);
}

static int finish(struct tree_sink *base)
{
    struct sink *sink = (struct sink *)base;
    return archive_write_close(sink->archive) < ARCHIVE_WARN
               ? archive_failed(sink->job, sink->archive, NULL)
               : 0;
}

static void release(struct tree_sink *base)
{
    struct sink *sink = (struct sink *)base;
    archive_entry_free(sink->entry);
    if (sink->archive)
        (void)archive_write_free(sink->archive); /* finish has told whether all is there */
    free(sink->zeroes);
    free(sink);
}

struct tree_sink *tree_to_tar(struct tree_job *job, int fd)
{
    struct sink *sink = calloc(1, sizeof *sink);
    if (!sink) {
        (void)tree_failed(job, "", -ENOMEM); /* the words are all that is wanted */
        return NULL;
    }
    sink->base = (struct tree_sink){.put = put, .finish = finish, .free = release};
    sink->job = job;
    sink->archive = archive_write_new();
    sink->entry = archive_entry_new();
    sink->zeroes = calloc(1, READ_BYTES);
    if (!sink->archive || !sink->entry || !sink->zeroes) {
        (void)tree_failed(job, "", -ENOMEM); /* likewise */
        release(&sink->base);
        return NULL;
    }
    if (archive_write_set_format_pax(sink->archive) < ARCHIVE_WARN ||
        archive_write_set_options(sink->archive, "hdrcharset=BINARY") < ARCHIVE_WARN ||
        archive_write_open_fd(sink->archive, fd) < ARCHIVE_WARN) {
        (void)archive_failed(job, sink->archive, NULL); /* likewise */
        release(&sink->base);
        return NULL;
    }
    return &sink->base;
}
