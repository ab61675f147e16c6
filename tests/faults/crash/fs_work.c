/*
 * tests/faults/crash/fs_work.c: changes of a volume beside a model.
 *
 * Owns       the versions and the bytes to write.
 * Invariant  between two steps one reference is held to each inode of the model but the root,
 *            and to each orphan.
 */
#include "fs_work.h"

#include <fcntl.h>
#include <linux/falloc.h>

#include "fs/acl.h"
#include "fs/expiry.h"
#include "fs/xattr.h"
#include "fs_walk.h"

#define FILE_BYTES_MAX (128u << 10)
#define INODES_MANY    40u /* from here on, things go rather than come */
#define FOUND_NOTHING  1   /* an operation has nothing to do it to */

const char *const work_op_names[OP_COUNT] = {
    "mknod",        "special",    "mkdir",       "symlink", "link",        "unlink",
    "unlink-open",  "forget",     "rmdir",       "rename",  "rename-over", "noreplace",
    "exchange",     "rename-dir", "write-small", "write",   "write-large", "append",
    "shrink",       "grow",       "punch",       "zero",    "allocate",    "collapse",
    "insert",       "copy",       "chmod",       "chown",   "utimes",      "xattr-set",
    "xattr-remove", "acl",        "default-acl", "ttl",     "tmpfile",     "tmpfile-link",
    "publish",      "apply"};
const char *const work_settle_names[SETTLE_COUNT] = {"nothing", "fsync", "checkpoint", "unmount"};

static const struct fs_caller caller = {.uid = 1000, .gid = 1000, .umask = 022};

/* ---- opening ------------------------------------------------------------------------ */

/* So that what is left until a file expires is the same before a crash and after. */
static int64_t clock_that_stands(void)
{
    return INT64_C(1000000000) * 1000000000;
}

int fs_work_open(struct kv_device *device, enum kv_sync_mode sync, bool read_only,
                 struct kv_store **store, struct fs_volume **volume)
{
    const struct kv_open_options options = {.read_only = read_only,
                                            .sync = sync,
                                            .memory_budget_bytes = 8u << 20,
                                            .blob_percent = 25,
                                            .no_background = true,
                                            .log = test_log_nothing,
                                            .device = device};
    const struct fs_volume_options volume_options = {
        .read_only = read_only, .now = clock_that_stands, .log = test_log_nothing};
    struct kv_error error = {""};
    int err = kv_open("recorded", &options, store, &error);
    if (!err) {
        err = fs_volume_open(*store, &volume_options, volume, &error);
        if (err)
            kv_abandon(*store);
    }
    if (err)
        printf("open: %s: %s\n", strerror(-err), error.text);
    return err;
}

/* Take a reference to each inode: each is found below one that is known. */
static int bind_model(struct fs_work *work)
{
    struct model *model = work->model;
    bool known[MODEL_INODES] = {true}, met[MODEL_ENTRIES] = {false};
    for (bool again = true; again;) {
        again = false;
        for (size_t i = 0; i < MODEL_ENTRIES; i++) {
            const struct model_entry *entry = &model->entries[i];
            struct fs_record record;
            if (!entry->used || met[i] || !known[entry->parent])
                continue;
            const int err = fs_lookup(work->volume, model->inodes[entry->parent].ino, entry->name,
                                      strlen(entry->name), &record);
            if (err)
                return err;
            if (known[entry->inode])
                fs_forget(work->volume, record.file.ino, 1);
            known[entry->inode] = met[i] = again = true;
        }
    }
    return 0;
}

/* The volume must be what the model is; that is a version. */
static int take_version(struct fs_work *work)
{
    uint64_t like_model, all;
    const int err = walk_volume(work->volume, false, &like_model, &all);
    if (err)
        return err;
    if (like_model != model_digest(work->model)) {
        printf("the volume is not what the model is; it is:\n");
        (void)!walk_volume(work->volume, true, &like_model, &all); /* for people */
        return -EUCLEAN;
    }
    if (work->version_count == work->version_capacity) {
        work->version_capacity = work->version_capacity ? work->version_capacity * 2 : 64;
        work->versions = realloc(work->versions, work->version_capacity * sizeof *work->versions);
        KV_ASSERT(work->versions != NULL);
    }
    work->versions[work->version_count++] = all;
    return 0;
}

int fs_work_begin(struct fs_work *work)
{
    work->bytes = malloc(FILE_BYTES_MAX);
    KV_ASSERT(work->bytes != NULL);
    int err = fs_work_open(work->device, work->sync, false, &work->store, &work->volume);
    if (!err)
        err = bind_model(work);
    return err ? err : take_version(work);
}

void fs_work_end(struct fs_work *work)
{
    fs_volume_close(work->volume);
    kv_abandon(work->store);
    free(work->bytes);
}

void fs_work_release(struct fs_work *work)
{
    free(work->versions);
}

/* ---- choosing --------------------------------------------------------------------------- */

typedef bool accept_fn(struct model *model, size_t entry);

static size_t inode_of(const struct model *model, size_t entry)
{
    return model->entries[entry].inode;
}

static uint32_t type_of(const struct model *model, size_t entry)
{
    return model->inodes[inode_of(model, entry)].mode & S_IFMT;
}

static bool is_any(struct model *model, size_t entry)
{
    (void)model;
    (void)entry;
    return true;
}
static bool is_file(struct model *model, size_t entry)
{
    return type_of(model, entry) == S_IFREG;
}
static bool is_file_with_one_name(struct model *model, size_t entry)
{
    return is_file(model, entry) && model_names(model, inode_of(model, entry)) == 1;
}
static bool is_long_file(struct model *model, size_t entry)
{
    return is_file(model, entry) && model->inodes[inode_of(model, entry)].size > 4 * 4096;
}
static bool is_directory(struct model *model, size_t entry)
{
    return type_of(model, entry) == S_IFDIR;
}
static bool is_empty_directory(struct model *model, size_t entry)
{
    return is_directory(model, entry) && model_is_empty(model, inode_of(model, entry));
}
static bool is_no_directory(struct model *model, size_t entry)
{
    return !is_directory(model, entry);
}
static bool has_xattrs(struct model *model, size_t entry)
{
    return model->inodes[inode_of(model, entry)].xattr_count > 0;
}
/* What expires has one name. */
static bool may_be_linked(struct model *model, size_t entry)
{
    return is_no_directory(model, entry) &&
           !model_xattr_find(&model->inodes[inode_of(model, entry)], FS_XATTR_TTL);
}
/* The mode of a symlink is not to be changed. */
static bool is_no_symlink(struct model *model, size_t entry)
{
    return type_of(model, entry) != S_IFLNK;
}

static size_t choose(struct fs_work *work, accept_fn *accept)
{
    size_t found = MODEL_NONE, seen = 0;
    for (size_t i = 0; i < MODEL_ENTRIES; i++)
        if (work->model->entries[i].used && accept(work->model, i) &&
            test_random_below(work->random, ++seen) == 0)
            found = i;
    return found;
}

/* A directory, the root too; one with a default ACL would pass it on, which no model knows. */
static size_t choose_parent(struct fs_work *work)
{
    const size_t entry =
        test_random_below(work->random, 3) ? choose(work, is_directory) : MODEL_NONE;
    const size_t parent = entry == MODEL_NONE ? 0 : inode_of(work->model, entry);
    return model_xattr_find(&work->model->inodes[parent], FS_XATTR_DEFAULT_ACL) ? 0 : parent;
}

static void new_name(struct fs_work *work, char name[MODEL_NAME_BYTES])
{
    snprintf(name, MODEL_NAME_BYTES, "n%u", work->name_next++);
}

static size_t count_inodes(const struct model *model)
{
    size_t count = 0;
    for (size_t i = 0; i < MODEL_INODES; i++)
        count += model->inodes[i].used;
    return count;
}

static struct model_inode *inode_at(struct fs_work *work, size_t entry)
{
    return &work->model->inodes[inode_of(work->model, entry)];
}

static uint64_t parent_ino(const struct fs_work *work, size_t entry)
{
    return work->model->inodes[work->model->entries[entry].parent].ino;
}

/* A name is gone: without any other, nobody needs the inode any more. */
static void lose_name(struct fs_work *work, size_t inode)
{
    if (model_names(work->model, inode))
        return;
    fs_forget(work->volume, work->model->inodes[inode].ino, 1);
    model_drop_inode(work->model, inode);
}

/* ---- names -------------------------------------------------------------------------------- */

static int create(struct fs_work *work, uint32_t mode, uint64_t rdev, const char *target)
{
    char name[MODEL_NAME_BYTES];
    const size_t parent = choose_parent(work);
    struct fs_record record;
    new_name(work, name);
    const struct fs_new_node node = {
        .mode = mode, .rdev = rdev, .target = target, .target_len = target ? strlen(target) : 0};
    const int err = fs_create(work->volume, &caller, work->model->inodes[parent].ino, name,
                              strlen(name), &node, &record);
    if (err)
        return err;
    const uint32_t expected = S_ISLNK(mode) ? mode : mode & ~caller.umask;
    const size_t inode = model_add_inode(work->model, record.file.ino, expected);
    struct model_inode *made = &work->model->inodes[inode];
    made->uid = caller.uid;
    made->gid = caller.gid;
    made->rdev = rdev;
    if (target)
        model_write(made, 0, target, strlen(target));
    (void)model_add_entry(work->model, parent, name, inode);
    return 0;
}

static int create_symlink(struct fs_work *work)
{
    char target[600];
    const size_t length = 1 + test_random_below(work->random, sizeof target - 1);
    memset(target, 't', length);
    target[length] = '\0';
    return create(work, S_IFLNK | 0777, 0, target);
}

static int link_file(struct fs_work *work)
{
    const size_t from = choose(work, may_be_linked);
    const size_t parent = choose_parent(work);
    char name[MODEL_NAME_BYTES];
    struct fs_record record;
    if (from == MODEL_NONE)
        return FOUND_NOTHING;
    new_name(work, name);
    const uint64_t ino = inode_at(work, from)->ino;
    const int err =
        fs_link(work->volume, ino, work->model->inodes[parent].ino, name, strlen(name), &record);
    if (err)
        return err;
    fs_forget(work->volume, ino, 1);
    (void)model_add_entry(work->model, parent, name, inode_of(work->model, from));
    return 0;
}

static int unlink_file(struct fs_work *work)
{
    const size_t entry = choose(work, is_no_directory);
    if (entry == MODEL_NONE)
        return FOUND_NOTHING;
    struct model_entry *const gone = &work->model->entries[entry];
    const int err =
        fs_unlink(work->volume, parent_ino(work, entry), gone->name, strlen(gone->name));
    if (err)
        return err;
    gone->used = false;
    lose_name(work, gone->inode);
    return 0;
}

static int write_orphan(struct fs_work *work, uint64_t ino)
{
    const size_t length = 1 + test_random_below(work->random, 60000);
    test_fill(work->bytes, length, test_random_next(work->random));
    return fs_write(work->volume, ino, 0, work->bytes, length, false);
}

static int keep_orphan(struct fs_work *work, uint64_t ino)
{
    if (work->orphan_count == sizeof work->orphans / sizeof *work->orphans)
        fs_forget(work->volume, work->orphans[--work->orphan_count], 1);
    work->orphans[work->orphan_count++] = ino;
    return write_orphan(work, ino);
}

static int unlink_open(struct fs_work *work)
{
    const size_t entry = choose(work, is_file_with_one_name);
    if (entry == MODEL_NONE)
        return FOUND_NOTHING;
    struct model_entry *const gone = &work->model->entries[entry];
    const uint64_t ino = inode_at(work, entry)->ino;
    const int err =
        fs_unlink(work->volume, parent_ino(work, entry), gone->name, strlen(gone->name));
    if (err)
        return err;
    gone->used = false;
    model_drop_inode(work->model, gone->inode);
    return keep_orphan(work, ino);
}

static int forget_orphans(struct fs_work *work)
{
    while (work->orphan_count)
        fs_forget(work->volume, work->orphans[--work->orphan_count], 1);
    return 0;
}

static int remove_directory(struct fs_work *work)
{
    const size_t entry = choose(work, is_empty_directory);
    if (entry == MODEL_NONE)
        return FOUND_NOTHING;
    struct model_entry *const gone = &work->model->entries[entry];
    const int err = fs_rmdir(work->volume, parent_ino(work, entry), gone->name, strlen(gone->name));
    if (err)
        return err;
    gone->used = false;
    lose_name(work, gone->inode);
    return 0;
}

static int rename_new(struct fs_work *work, accept_fn *accept, unsigned flags)
{
    const size_t from = choose(work, accept);
    const size_t parent = choose_parent(work);
    char name[MODEL_NAME_BYTES];
    if (from == MODEL_NONE || model_is_below(work->model, parent, inode_of(work->model, from)))
        return FOUND_NOTHING;
    struct model_entry *entry = &work->model->entries[from];
    new_name(work, name);
    const int err =
        fs_rename(work->volume, parent_ino(work, from), entry->name, strlen(entry->name),
                  work->model->inodes[parent].ino, name, strlen(name), flags);
    if (err)
        return err;
    entry->parent = parent;
    memcpy(entry->name, name, sizeof name);
    return 0;
}

static int rename_over(struct fs_work *work)
{
    const bool directory = test_random_below(work->random, 4) == 0;
    const size_t from = choose(work, directory ? is_directory : is_no_directory);
    const size_t to = choose(work, directory ? is_empty_directory : is_no_directory);
    if (from == MODEL_NONE || to == MODEL_NONE ||
        inode_of(work->model, from) == inode_of(work->model, to) ||
        model_is_below(work->model, work->model->entries[to].parent, inode_of(work->model, from)))
        return FOUND_NOTHING;
    struct model_entry *source = &work->model->entries[from];
    struct model_entry *target = &work->model->entries[to];
    const int err =
        fs_rename(work->volume, parent_ino(work, from), source->name, strlen(source->name),
                  parent_ino(work, to), target->name, strlen(target->name), 0);
    if (err)
        return err;
    const size_t lost = target->inode;
    target->inode = source->inode;
    source->used = false;
    lose_name(work, lost);
    return 0;
}

static int exchange(struct fs_work *work)
{
    const size_t one = choose(work, is_any), two = choose(work, is_any);
    if (one == MODEL_NONE || one == two)
        return FOUND_NOTHING;
    struct model_entry *a = &work->model->entries[one], *b = &work->model->entries[two];
    if (a->inode == b->inode || model_is_below(work->model, b->parent, a->inode) ||
        model_is_below(work->model, a->parent, b->inode))
        return FOUND_NOTHING;
    const int err = fs_rename(work->volume, parent_ino(work, one), a->name, strlen(a->name),
                              parent_ino(work, two), b->name, strlen(b->name), FS_RENAME_EXCHANGE);
    if (err)
        return err;
    const size_t inode = a->inode;
    a->inode = b->inode;
    b->inode = inode;
    return 0;
}

enum unnamed_end { UNNAMED_STAYS, UNNAMED_LINKED, UNNAMED_PUBLISHED };

static int make_unnamed(struct fs_work *work, enum unnamed_end end)
{
    const size_t parent = choose_parent(work);
    const uint64_t parent_number = work->model->inodes[parent].ino;
    const size_t length = 1 + test_random_below(work->random, 60000);
    struct fs_record record, linked;
    char name[MODEL_NAME_BYTES];
    int err = fs_create_unnamed(work->volume, &caller, parent_number, S_IFREG | 0640, &record);
    if (err)
        return err;
    const uint64_t ino = record.file.ino;
    if (end == UNNAMED_STAYS)
        return keep_orphan(work, ino);
    test_fill(work->bytes, length, test_random_next(work->random));
    err = fs_write(work->volume, ino, 0, work->bytes, length, false);
    if (err)
        return err;

    const size_t over = end == UNNAMED_PUBLISHED ? choose(work, is_file) : MODEL_NONE;
    new_name(work, name);
    if (over != MODEL_NONE) {
        const char *taken = work->model->entries[over].name;
        err = fs_publish(work->volume, ino, parent_ino(work, over), taken, strlen(taken));
    } else {
        err = fs_link(work->volume, ino, parent_number, name, strlen(name), &linked);
        if (!err)
            fs_forget(work->volume, ino, 1);
    }
    if (err)
        return err;
    const size_t inode = model_add_inode(work->model, ino, S_IFREG | 0640);
    work->model->inodes[inode].uid = caller.uid;
    work->model->inodes[inode].gid = caller.gid;
    model_write(&work->model->inodes[inode], 0, work->bytes, length);
    if (over == MODEL_NONE) {
        (void)model_add_entry(work->model, parent, name, inode);
    } else {
        const size_t lost = inode_of(work->model, over);
        work->model->entries[over].inode = inode;
        lose_name(work, lost);
    }
    return 0;
}

/* ---- content -------------------------------------------------------------------------------- */

static int write_file(struct fs_work *work, size_t entry, size_t offset, size_t length)
{
    struct model_inode *inode = inode_at(work, entry);
    test_fill(work->bytes, length, test_random_next(work->random));
    const int err = fs_write(work->volume, inode->ino, offset, work->bytes, length, false);
    if (!err)
        model_write(inode, offset, work->bytes, length);
    return err;
}

static int write_some(struct fs_work *work, enum work_op op)
{
    const size_t entry = choose(work, is_file);
    if (entry == MODEL_NONE)
        return FOUND_NOTHING;
    struct test_random *random = work->random;
    const size_t size = inode_at(work, entry)->size;
    switch (op) {
    case OP_WRITE_SMALL:
        return write_file(work, entry, 0, 1 + test_random_below(random, 200));
    case OP_WRITE:
        return write_file(work, entry, test_random_below(random, FILE_BYTES_MAX / 2),
                          1 + test_random_below(random, 9000));
    case OP_WRITE_LARGE:
        return write_file(work, entry, test_random_below(random, FILE_BYTES_MAX / 2),
                          FILE_BYTES_MAX / 8 + test_random_below(random, FILE_BYTES_MAX * 3 / 8));
    default:
        return write_file(work, entry, size < FILE_BYTES_MAX ? size : 0,
                          1 + test_random_below(random, 3000));
    }
}

static int truncate_file(struct fs_work *work, bool grow)
{
    const size_t entry = choose(work, is_file);
    if (entry == MODEL_NONE)
        return FOUND_NOTHING;
    struct model_inode *inode = inode_at(work, entry);
    const size_t size = grow ? inode->size + test_random_below(work->random, 20000)
                             : test_random_below(work->random, inode->size + 1);
    const struct fs_attr_change change = {.valid = FS_ATTR_SIZE,
                                          .size = kv_min_u64(size, 2 * FILE_BYTES_MAX)};
    struct fs_record record;
    const int err = fs_setattr(work->volume, inode->ino, &change, &record);
    if (!err)
        model_resize(inode, change.size);
    return err;
}

static int change_range(struct fs_work *work, enum work_op op)
{
    const size_t entry = choose(work, is_file);
    if (entry == MODEL_NONE)
        return FOUND_NOTHING;
    struct model_inode *inode = inode_at(work, entry);
    const size_t offset = test_random_below(work->random, FILE_BYTES_MAX / 2);
    const size_t length = 1 + test_random_below(work->random, 30000);
    const size_t end = offset + length;
    const int mode = op == OP_PUNCH  ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
                     : op == OP_ZERO ? FALLOC_FL_ZERO_RANGE
                                     : 0;
    const int err = fs_fallocate(work->volume, inode->ino, mode, offset, length);
    if (err)
        return err;
    if (op != OP_PUNCH && end > inode->size)
        model_resize(inode, end);
    if (op != OP_ALLOCATE && offset < inode->size)
        memset(inode->content + offset, 0, kv_min_u64(end, inode->size) - offset);
    return 0;
}

static int move_range(struct fs_work *work, bool insert)
{
    const size_t entry = choose(work, is_long_file);
    if (entry == MODEL_NONE)
        return FOUND_NOTHING;
    struct model_inode *inode = inode_at(work, entry);
    const size_t length = 4096 * (1 + test_random_below(work->random, 2));
    const size_t offset = 4096 * test_random_below(work->random, (inode->size - length) / 4096);
    const size_t tail = inode->size - offset;
    if (insert && inode->size > FILE_BYTES_MAX)
        return FOUND_NOTHING;
    const int err =
        fs_fallocate(work->volume, inode->ino,
                     insert ? FALLOC_FL_INSERT_RANGE : FALLOC_FL_COLLAPSE_RANGE, offset, length);
    if (err)
        return err;
    if (insert) {
        model_resize(inode, inode->size + length);
        memmove(inode->content + offset + length, inode->content + offset, tail);
        memset(inode->content + offset, 0, length);
    } else {
        memmove(inode->content + offset, inode->content + offset + length, tail - length);
        model_resize(inode, inode->size - length);
    }
    return 0;
}

static int copy_range(struct fs_work *work)
{
    const size_t from = choose(work, is_long_file), to = choose(work, is_file);
    if (from == MODEL_NONE || inode_of(work->model, from) == inode_of(work->model, to))
        return FOUND_NOTHING;
    struct model_inode *source = inode_at(work, from), *target = inode_at(work, to);
    const bool whole_blocks = test_random_below(work->random, 3);
    size_t offset = test_random_below(work->random, source->size);
    size_t to_offset = test_random_below(work->random, FILE_BYTES_MAX / 2);
    if (whole_blocks) {
        offset &= ~(size_t)4095;
        to_offset &= ~(size_t)4095;
    }
    const size_t length = 1 + test_random_below(work->random, source->size - offset);
    uint64_t copied;
    const int err =
        fs_copy_range(work->volume, source->ino, offset, target->ino, to_offset, length, &copied);
    if (!err && copied)
        model_write(target, to_offset, source->content + offset, copied);
    return err;
}

/* ---- attributes ------------------------------------------------------------------------------ */

static int change_attributes(struct fs_work *work, enum work_op op)
{
    const size_t entry = choose(work, is_no_symlink);
    if (entry == MODEL_NONE)
        return FOUND_NOTHING;
    struct model_inode *inode = inode_at(work, entry);
    struct test_random *random = work->random;
    struct fs_attr_change change = {.mode = (uint32_t)test_random_below(random, 01000),
                                    .uid = (uint32_t)test_random_below(random, 5000),
                                    .gid = (uint32_t)test_random_below(random, 5000),
                                    .atime_ns = (int64_t)(test_random_next(random) >> 4),
                                    .mtime_ns = (int64_t)(test_random_next(random) >> 4)};
    change.valid = op == OP_CHMOD   ? FS_ATTR_MODE
                   : op == OP_CHOWN ? FS_ATTR_UID | FS_ATTR_GID
                                    : FS_ATTR_ATIME | FS_ATTR_MTIME;
    struct fs_record record;
    const int err = fs_setattr(work->volume, inode->ino, &change, &record);
    if (err || op == OP_UTIMES)
        return err;
    if (op == OP_CHOWN) {
        inode->uid = change.uid;
        inode->gid = change.gid;
        return 0;
    }
    inode->mode = (inode->mode & S_IFMT) | change.mode;
    struct model_xattr *acl = model_xattr_find(inode, FS_XATTR_ACCESS_ACL);
    return acl ? fs_acl_set_mode(acl->value, acl->length, change.mode) : 0;
}

static int set_xattr(struct fs_work *work)
{
    const size_t entry = choose(work, is_no_symlink);
    if (entry == MODEL_NONE)
        return FOUND_NOTHING;
    struct model_inode *inode = inode_at(work, entry);
    char name[MODEL_NAME_BYTES];
    snprintf(name, sizeof name, "user.x%zu", test_random_below(work->random, 4));
    const size_t length = test_random_below(work->random, MODEL_VALUE_BYTES);
    test_fill(work->bytes, length, test_random_next(work->random));
    const int err = fs_setxattr(work->volume, inode->ino, name, work->bytes, length, 0, false);
    if (!err)
        model_xattr_set(inode, name, work->bytes, length);
    return err;
}

static int remove_xattr(struct fs_work *work)
{
    const size_t entry = choose(work, has_xattrs);
    if (entry == MODEL_NONE)
        return FOUND_NOTHING;
    struct model_inode *inode = inode_at(work, entry);
    const struct model_xattr *xattr =
        &inode->xattrs[test_random_below(work->random, inode->xattr_count)];
    /* Taking an access ACL away keeps the mode that it stands for. */
    const int err = fs_removexattr(work->volume, inode->ino, xattr->name);
    if (!err)
        model_xattr_remove(inode, xattr->name);
    return err;
}

struct acl {
    struct fs_disk_acl_header header;
    struct fs_disk_acl_entry entries[5];
};

static struct acl make_acl(struct test_random *random)
{
    static const enum fs_acl_tag tags[5] = {FS_ACL_USER_OBJ, FS_ACL_USER, FS_ACL_GROUP_OBJ,
                                            FS_ACL_MASK, FS_ACL_OTHER};
    struct acl acl = {.header = {kv_le32_of(FS_ACL_VERSION)}};
    for (size_t i = 0; i < 5; i++)
        acl.entries[i] = (struct fs_disk_acl_entry){
            .tag = kv_le16_of((uint16_t)tags[i]),
            .perm = kv_le16_of((uint16_t)test_random_below(random, 8)),
            .id = kv_le32_of(tags[i] == FS_ACL_USER ? 1234 : FS_ACL_NO_ID)};
    return acl;
}

static int set_acl(struct fs_work *work, bool by_default)
{
    const size_t entry = choose(work, by_default ? is_directory : is_no_symlink);
    if (entry == MODEL_NONE)
        return FOUND_NOTHING;
    struct model_inode *inode = inode_at(work, entry);
    const struct acl acl = make_acl(work->random);
    const char *name = by_default ? FS_XATTR_DEFAULT_ACL : FS_XATTR_ACCESS_ACL;
    uint32_t bits;
    bool minimal;
    int err = fs_setxattr(work->volume, inode->ino, name, &acl, sizeof acl, 0, false);
    if (!err)
        err = fs_acl_to_mode(&acl, sizeof acl, &bits, &minimal);
    if (err)
        return err;
    model_xattr_set(inode, name, &acl, sizeof acl);
    if (!by_default)
        inode->mode = (inode->mode & ~0777u) | bits;
    return 0;
}

static int set_ttl(struct fs_work *work)
{
    const size_t entry = choose(work, is_file_with_one_name);
    char ttl[16];
    if (entry == MODEL_NONE)
        return FOUND_NOTHING;
    struct model_inode *inode = inode_at(work, entry);
    const int length =
        snprintf(ttl, sizeof ttl, "%zu", 1000000 + test_random_below(work->random, 1000));
    const int err =
        fs_setxattr(work->volume, inode->ino, FS_XATTR_TTL, ttl, (size_t)length, 0, false);
    if (err == -EPERM) /* it had several names */
        return FOUND_NOTHING;
    if (!err)
        model_xattr_set(inode, FS_XATTR_TTL, ttl, (size_t)length);
    return err;
}

/* ---- steps ------------------------------------------------------------------- */

static int change(struct fs_work *work, enum work_op op)
{
    switch (op) {
    case OP_MKNOD:
        return create(work, S_IFREG | 0644, 0, NULL);
    case OP_SPECIAL:
        return test_random_below(work->random, 2) ? create(work, S_IFIFO | 0600, 0, NULL)
                                                  : create(work, S_IFBLK | 0600, 0x701, NULL);
    case OP_MKDIR:
        return create(work, S_IFDIR | 0755, 0, NULL);
    case OP_SYMLINK:
        return create_symlink(work);
    case OP_LINK:
        return link_file(work);
    case OP_UNLINK:
        return unlink_file(work);
    case OP_UNLINK_OPEN:
        return unlink_open(work);
    case OP_FORGET:
        return forget_orphans(work);
    case OP_RMDIR:
        return remove_directory(work);
    case OP_RENAME:
        return rename_new(work, is_no_directory, 0);
    case OP_RENAME_OVER:
        return rename_over(work);
    case OP_RENAME_NOREPLACE:
        return rename_new(work, is_any, FS_RENAME_NOREPLACE);
    case OP_RENAME_EXCHANGE:
        return exchange(work);
    case OP_RENAME_DIR:
        return rename_new(work, is_directory, 0);
    case OP_WRITE_SMALL:
    case OP_WRITE:
    case OP_WRITE_LARGE:
    case OP_APPEND:
        return write_some(work, op);
    case OP_SHRINK:
        return truncate_file(work, false);
    case OP_GROW:
        return truncate_file(work, true);
    case OP_PUNCH:
    case OP_ZERO:
    case OP_ALLOCATE:
        return change_range(work, op);
    case OP_COLLAPSE:
        return move_range(work, false);
    case OP_INSERT:
        return move_range(work, true);
    case OP_COPY:
        return copy_range(work);
    case OP_CHMOD:
    case OP_CHOWN:
    case OP_UTIMES:
        return change_attributes(work, op);
    case OP_XATTR_SET:
        return set_xattr(work);
    case OP_XATTR_REMOVE:
        return remove_xattr(work);
    case OP_ACL:
        return set_acl(work, false);
    case OP_DEFAULT_ACL:
        return set_acl(work, true);
    case OP_TTL:
        return set_ttl(work);
    case OP_TMPFILE:
        return make_unnamed(work, UNNAMED_STAYS);
    case OP_TMPFILE_LINK:
        return make_unnamed(work, UNNAMED_LINKED);
    case OP_PUBLISH:
        return make_unnamed(work, UNNAMED_PUBLISHED);
    case OP_APPLY:
        return fs_work_apply(work);
    default:
        return -EINVAL;
    }
}

static int unmount(struct fs_work *work)
{
    fs_volume_close(work->volume);
    work->orphan_count = 0;
    int err = kv_close(work->store);
    if (!err)
        promise_durable(work->promises, work->version_count - 1);
    if (!err)
        err = fs_work_open(work->device, work->sync, false, &work->store, &work->volume);
    return err ? err : bind_model(work);
}

int fs_work_step(struct fs_work *work, enum work_op op, enum work_settle settle)
{
    promise_started(work->promises, work->version_count);
    if (count_inodes(work->model) > INODES_MANY)
        op = OP_UNLINK;
    int err = change(work, op);
    if (err == FOUND_NOTHING)
        err = change(work, OP_MKNOD);
    if (!err)
        err = take_version(work);
    if (err) {
        printf("%s: %s\n", work_op_names[op], strerror(-err));
        return err;
    }
    const size_t version = work->version_count - 1;
    if (work->sync == KV_SYNC_ALWAYS)
        promise_durable(work->promises, version);
    if (settle == SETTLE_UNMOUNT)
        return unmount(work);
    if (settle == SETTLE_FSYNC)
        err = fs_sync(work->volume);
    else if (settle == SETTLE_CHECKPOINT)
        err = fs_checkpoint(work->volume);
    if (!err && settle != SETTLE_NOT)
        promise_durable(work->promises, version);
    return err;
}
