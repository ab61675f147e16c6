/*
 * tests/faults/soak/names.c: make operations up, do them to both sides, compare.
 *
 * What may differ: times that the file systems took from the clock (so times that are set lie in
 * the past, and what is compared is whether a time is still that), sizes of directories, inode
 * numbers, and the time of the last access where the reference has moved it by reading.
 */
#include "names.h"

#include "soak.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_PER_LEVEL 5u
#define LEVELS_MAX      4u
#define PAST            1000000000 /* times before this second were set by an operation */

struct pair {
    const struct names_backend *ours, *reference;
    bool open[NAMES_SLOTS];
    uint64_t compared; /* inodes */
};

static const char *const kind_names[NAME_KINDS] = {
    [NAME_MKNOD] = "mknod",         [NAME_MKDIR] = "mkdir",
    [NAME_SYMLINK] = "symlink",     [NAME_UNLINK] = "unlink",
    [NAME_RMDIR] = "rmdir",         [NAME_RENAME] = "rename",
    [NAME_LINK] = "link",           [NAME_READLINK] = "readlink",
    [NAME_CHMOD] = "chmod",         [NAME_CHOWN] = "chown",
    [NAME_UTIMES] = "utimes",       [NAME_SETXATTR] = "setxattr",
    [NAME_GETXATTR] = "getxattr",   [NAME_REMOVEXATTR] = "removexattr",
    [NAME_LISTXATTR] = "listxattr", [NAME_TRUNCATE] = "truncate",
    [NAME_LIST] = "list",           [NAME_OPEN] = "open",
    [NAME_OPEN_TEMP] = "open_temp", [NAME_LINK_SLOT] = "link_slot",
    [NAME_CLOSE] = "close",         [NAME_PWRITE] = "pwrite",
    [NAME_PREAD] = "pread",         [NAME_FTRUNCATE] = "ftruncate",
};

uint64_t names_digest(uint64_t digest, const void *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        digest = (digest ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
    return digest;
}

void names_fill(uint8_t *out, size_t length, uint64_t seed)
{
    for (size_t i = 0; i < length; i++) {
        if (i % 8 == 0)
            seed = seed * 6364136223846793005u + 1442695040888963407u;
        out[i] = (uint8_t)(seed >> (8 * (i % 8)));
    }
}

/* ---- making operations up ------------------------------------------------------------ */

static void pick_path(char *path)
{
    const uint64_t levels = 1 + soak_below(LEVELS_MAX);
    size_t length = 0;
    if (soak_chance(60)) {
        strcpy(path, ".");
        return;
    }
    for (uint64_t level = 0; level < levels; level++) {
        if (level)
            path[length++] = '/';
        path[length++] = 'n';
        path[length++] = (char)('0' + soak_below(NAMES_PER_LEVEL));
        /* Some names are long: one that just fits, one that does not. */
        if (path[length - 1] == '4' && soak_chance(8)) {
            const size_t more = soak_chance(4) ? 254 : 253;
            memset(path + length, 'x', more);
            length += more;
        }
    }
    path[length] = '\0';
}

static uint32_t pick_mode(void)
{
    static const uint32_t modes[] = {0644, 0600, 0755, 0777, 0444, 04755, 02755, 02644, 06777, 0};
    return modes[soak_below(sizeof modes / sizeof modes[0])];
}

static uint32_t pick_type(uint64_t *rdev)
{
    *rdev = 0;
    switch (soak_below(12)) {
    case 0:
        return S_IFIFO;
    case 1:
        return S_IFSOCK;
    case 2:
        *rdev = (soak_below(200) << 8) | soak_below(250);
        return soak_chance(2) ? S_IFCHR : S_IFBLK;
    default:
        return S_IFREG;
    }
}

static uint32_t pick_id(void)
{
    static const uint32_t ids[] = {0, 1, 1000, 65534, 3000000000u};
    return ids[soak_below(sizeof ids / sizeof ids[0])];
}

static size_t put_acl_entry(uint8_t *out, unsigned tag, unsigned perm, uint32_t id)
{
    const uint8_t entry[8] = {
        (uint8_t)tag, (uint8_t)(tag >> 8), (uint8_t)perm,       0,
        (uint8_t)id,  (uint8_t)(id >> 8),  (uint8_t)(id >> 16), (uint8_t)(id >> 24)};
    memcpy(out, entry, sizeof entry);
    return sizeof entry;
}

/* An access control list, mostly a legal one. */
static size_t pick_acl(uint8_t *out)
{
    const uint32_t none = UINT32_MAX;
    const bool named = soak_chance(2), masked = named ? !soak_chance(10) : soak_chance(4);
    size_t length = 4;
    memcpy(out, (const uint8_t[4]){2, 0, 0, 0}, 4);
    length += put_acl_entry(out + length, 1, (unsigned)soak_below(8), none);
    if (named)
        length += put_acl_entry(out + length, 2, (unsigned)soak_below(8), 1000);
    length += put_acl_entry(out + length, 4, (unsigned)soak_below(8), none);
    if (named && soak_chance(2))
        length += put_acl_entry(out + length, 8, (unsigned)soak_below(8), 1000);
    if (masked)
        length += put_acl_entry(out + length, 16, (unsigned)soak_below(8), none);
    return length + put_acl_entry(out + length, 32, (unsigned)soak_below(8), none);
}

static void pick_attribute(struct name_op *op)
{
    static const char *const names[] = {"user.a",
                                        "user.b",
                                        "user.long-name-of-an-attribute",
                                        "trusted.t",
                                        "system.posix_acl_access",
                                        "system.posix_acl_default"};
    op->attribute = names[soak_below(sizeof names / sizeof names[0])];
    if (strstr(op->attribute, "acl")) {
        op->length = pick_acl(op->value);
        return;
    }
    static const int flags[] = {0, 0, 1, 2}; /* XATTR_CREATE, XATTR_REPLACE */
    op->flags = flags[soak_below(4)];
    op->length = soak_below(100);
    names_fill(op->value, op->length, soak_random());
}

static void make_op(struct name_op *op)
{
    static const uint8_t often[] = {
        NAME_MKNOD,  NAME_MKNOD,  NAME_MKNOD,    NAME_MKNOD,    NAME_MKDIR,   NAME_MKDIR,
        NAME_MKDIR,  NAME_MKDIR,  NAME_MKDIR,    NAME_UNLINK,   NAME_UNLINK,  NAME_UNLINK,
        NAME_RMDIR,  NAME_RMDIR,  NAME_RENAME,   NAME_RENAME,   NAME_RENAME,  NAME_RENAME,
        NAME_RENAME, NAME_LINK,   NAME_LINK,     NAME_LINK,     NAME_OPEN,    NAME_OPEN,
        NAME_PWRITE, NAME_PWRITE, NAME_SETXATTR, NAME_SETXATTR, NAME_TRUNCATE};
    const uint64_t dice = soak_below(sizeof often + NAME_KINDS);
    memset(op, 0, offsetof(struct name_op, value));
    op->kind = dice < sizeof often ? often[dice] : (enum name_kind)(dice - sizeof often);
    pick_path(op->path);
    pick_path(op->other);
    op->mode = pick_mode();
    op->uid = pick_id();
    op->gid = pick_id();
    op->slot = (unsigned)soak_below(NAMES_SLOTS);
    op->offset = soak_below(soak_chance(4) ? NAMES_FILE_MAX / 2 : 400);
    op->length = 1 + soak_below(soak_chance(4) ? NAMES_FILE_MAX / 2 : 300);
    op->seed = soak_random();
    op->atime = (int64_t)soak_below(PAST);
    op->mtime = (int64_t)soak_below(PAST);
    if (op->kind == NAME_MKNOD)
        op->mode |= pick_type(&op->rdev);
    if (op->kind == NAME_SYMLINK)
        snprintf(op->other, sizeof op->other, "leads-nowhere-%llu",
                 (unsigned long long)soak_below(1000));
    if (op->kind == NAME_RENAME && soak_chance(3))
        op->flags = soak_chance(2) ? 1 : 2; /* RENAME_NOREPLACE, RENAME_EXCHANGE */
    if (op->kind >= NAME_SETXATTR && op->kind <= NAME_REMOVEXATTR)
        pick_attribute(op);
}

/* ---- comparing ------------------------------------------------------------------------ */

static bool is_past(const struct timespec *time)
{
    return time->tv_sec < PAST;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
    if (!is_past(a) || !is_past(b))
        return is_past(a) == is_past(b);
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static void compare_stat(const char *path, const struct stat *a, const struct stat *b)
{
    const bool sized = !S_ISDIR(b->st_mode);
    if (a->st_mode != b->st_mode || a->st_nlink != b->st_nlink || a->st_uid != b->st_uid ||
        a->st_gid != b->st_gid || a->st_rdev != b->st_rdev || (sized && a->st_size != b->st_size))
        soak_fail("%s: mode %o links %llu owner %u:%u rdev %llx size %lld, should be "
                  "mode %o links %llu owner %u:%u rdev %llx size %lld",
                  path, a->st_mode, (unsigned long long)a->st_nlink, a->st_uid, a->st_gid,
                  (unsigned long long)a->st_rdev, (long long)a->st_size, b->st_mode,
                  (unsigned long long)b->st_nlink, b->st_uid, b->st_gid,
                  (unsigned long long)b->st_rdev, (long long)b->st_size);
    if (!same_time(&a->st_mtim, &b->st_mtim))
        soak_fail("%s: modified at %lld, should be %lld", path, (long long)a->st_mtim.tv_sec,
                  (long long)b->st_mtim.tv_sec);
    if (is_past(&b->st_atim) && !same_time(&a->st_atim, &b->st_atim))
        soak_fail("%s: accessed at %lld, should be %lld", path, (long long)a->st_atim.tv_sec,
                  (long long)b->st_atim.tv_sec);
}

static void compare_content(struct pair *pair, const char *path)
{
    static uint8_t ours[NAMES_FILE_MAX], theirs[NAMES_FILE_MAX];
    size_t our_length = 0, their_length = 0;
    const int err = pair->ours->read(pair->ours->context, path, ours, sizeof ours, &our_length);
    const int their_err =
        pair->reference->read(pair->reference->context, path, theirs, sizeof theirs, &their_length);
    if (err || their_err || our_length != their_length || memcmp(ours, theirs, our_length) != 0)
        soak_fail("%s: the content differs (%s)", path, strerror(-err));
}

static void compare_tree(struct pair *pair, const char *path)
{
    struct stat ours, theirs;
    const int err = pair->ours->stat(pair->ours->context, path, &ours);
    const int their_err = pair->reference->stat(pair->reference->context, path, &theirs);
    if (err || their_err)
        soak_fail("stat of %s: %s, and %s", path, strerror(-err), strerror(-their_err));
    if (strcmp(path, ".") != 0 || pair->compared)
        compare_stat(path, &ours, &theirs);
    pair->compared++;
    if (S_ISREG(theirs.st_mode))
        compare_content(pair, path);
    if (!S_ISDIR(theirs.st_mode))
        return;
    struct name_list *lists = calloc(2, sizeof *lists);
    SOAK_MUST(lists != NULL);
    SOAK_MUST(pair->ours->list(pair->ours->context, path, &lists[0]) == 0);
    SOAK_MUST(pair->reference->list(pair->reference->context, path, &lists[1]) == 0);
    if (lists[0].count != lists[1].count)
        soak_fail("%s: %u names, should be %u", path, lists[0].count, lists[1].count);
    for (unsigned i = 0; i < lists[0].count; i++) {
        const struct name_entry *a = &lists[0].entries[i], *b = &lists[1].entries[i];
        if (strcmp(a->name, b->name) != 0 || a->type != b->type)
            soak_fail("%s: lists %s (%o), should be %s (%o)", path, a->name, a->type, b->name,
                      b->type);
        char below[NAMES_PATH_MAX];
        snprintf(below, sizeof below, "%s%s%s", strcmp(path, ".") != 0 ? path : "",
                 strcmp(path, ".") != 0 ? "/" : "", a->name);
        compare_tree(pair, below);
    }
    free(lists);
}

/* ---- running -------------------------------------------------------------------------- */

/* Is there a sense in doing this, and no harm? */
static bool wanted(const struct pair *pair, const struct name_op *op)
{
    struct stat stat_buf;
    switch (op->kind) {
    case NAME_OPEN: /* a device would be opened as such, a pipe would wait */
        return !pair->open[op->slot] &&
               (pair->reference->stat(pair->reference->context, op->path, &stat_buf) ||
                S_ISREG(stat_buf.st_mode));
    case NAME_OPEN_TEMP:
        return !pair->open[op->slot];
    case NAME_LINK_SLOT:
    case NAME_CLOSE:
    case NAME_PWRITE:
    case NAME_PREAD:
    case NAME_FTRUNCATE:
        return pair->open[op->slot];
    default:
        /* The root's own attributes belong to whoever made the two. */
        return strcmp(op->path, ".") != 0 || op->kind == NAME_LIST || op->kind == NAME_RMDIR ||
               op->kind == NAME_RENAME || op->kind == NAME_MKDIR;
    }
}

static void run_op(struct pair *pair, const struct name_op *op)
{
    struct name_result ours = {0}, theirs = {0};
    soak_note("%s %.60s %.60s mode %o owner %u:%u slot %u flags %d %llu+%llu %s",
              kind_names[op->kind], op->path, op->other, op->mode, op->uid, op->gid, op->slot,
              op->flags, (unsigned long long)op->offset, (unsigned long long)op->length,
              op->attribute ? op->attribute : "");
    pair->reference->run(pair->reference->context, op, &theirs);
    pair->ours->run(pair->ours->context, op, &ours);
    if (ours.err != theirs.err)
        soak_fail("%s says \"%s\", should be \"%s\"", kind_names[op->kind], strerror(-ours.err),
                  strerror(-theirs.err));
    if (ours.length != theirs.length || ours.digest != theirs.digest)
        soak_fail("%s gives %llu bytes, should be %llu, or others", kind_names[op->kind],
                  (unsigned long long)ours.length, (unsigned long long)theirs.length);
    if (!ours.err && (op->kind == NAME_OPEN || op->kind == NAME_OPEN_TEMP))
        pair->open[op->slot] = true;
    if (op->kind == NAME_CLOSE)
        pair->open[op->slot] = false;
    struct stat a, b;
    if (!ours.err && !pair->ours->stat(pair->ours->context, op->path, &a) &&
        !pair->reference->stat(pair->reference->context, op->path, &b) &&
        strcmp(op->path, ".") != 0)
        compare_stat(op->path, &a, &b);
}

/*
 * Renaming directories into each other makes trees that no path reaches the bottom of: what lies
 * deeper than `levels` more goes.
 */
static void prune(struct pair *pair, const char *path, int levels)
{
    struct name_list *list = calloc(1, sizeof *list);
    struct name_op *op = calloc(1, sizeof *op);
    SOAK_MUST(list && op);
    SOAK_MUST(pair->reference->list(pair->reference->context, path, list) == 0);
    for (unsigned i = 0; i < list->count; i++) {
        const struct name_entry *entry = &list->entries[i];
        const int length = snprintf(op->path, sizeof op->path, "%s/%s", path, entry->name);
        SOAK_MUST(length > 0 && (size_t)length < sizeof op->path);
        if (S_ISDIR(entry->type))
            prune(pair, op->path, levels - 1);
        op->kind = S_ISDIR(entry->type) ? NAME_RMDIR : NAME_UNLINK;
        if (levels <= 0)
            run_op(pair, op);
    }
    free(op);
    free(list);
}

static void close_slots(struct pair *pair)
{
    struct name_op op;
    memset(&op, 0, sizeof op);
    op.kind = NAME_CLOSE;
    strcpy(op.path, ".");
    for (op.slot = 0; op.slot < NAMES_SLOTS; op.slot++)
        if (pair->open[op.slot])
            run_op(pair, &op);
}

void names_run(const struct names_backend *ours, const struct names_backend *reference,
               uint64_t count, uint64_t cycle)
{
    struct pair pair = {.ours = ours, .reference = reference};
    static struct name_op op;
    uint64_t cycle_end = cycle;
    while (soak_count() < count) {
        make_op(&op);
        if (wanted(&pair, &op))
            run_op(&pair, &op);
        if (soak_chance(500)) {
            pair.compared = 0;
            compare_tree(&pair, ".");
            prune(&pair, ".", (int)LEVELS_MAX + 2);
        }
        if (soak_count() < cycle_end && soak_count() < count)
            continue;
        close_slots(&pair);
        soak_note("reopen");
        ours->reopen(ours->context);
        pair.compared = 0;
        compare_tree(&pair, ".");
        cycle_end = soak_count() + cycle;
    }
}
