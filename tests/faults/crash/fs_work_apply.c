/*
 * tests/faults/crash/fs_work_apply.c: several changes as one (fs/apply.h), beside a model.
 *
 * Owns       nothing. The model is changed with each change that is chosen, so that the next one
 *            is chosen from what it leaves; the volume gets all of them at once.
 */
#include "fs_work.h"

#include "fs/apply.h"
#include "fs/expiry.h"
#include "fs/xattr.h"

#define CHANGES_MAX 6u
#define PATH_BYTES  1024u
#define VALUE_BYTES (40u << 10) /* at most */

static const struct fs_caller caller = {.uid = 1000, .gid = 1000, .umask = 022};

struct gathered {
    struct fs_apply_change changes[CHANGES_MAX];
    size_t count;
    char paths[CHANGES_MAX][2][PATH_BYTES];
    uint64_t lost[CHANGES_MAX]; /* inodes that we hold a reference to and nothing leads to */
    size_t lost_count;
    size_t made[CHANGES_MAX]; /* entries whose inodes have no number in the model yet */
    size_t made_count;
};

static void path_of(const struct model *model, size_t parent, const char *name,
                    char path[PATH_BYTES])
{
    char below[PATH_BYTES];
    snprintf(path, PATH_BYTES, "%s", name);
    while (parent != 0) {
        size_t entry = 0;
        while (!model->entries[entry].used || model->entries[entry].inode != parent)
            entry++;
        memcpy(below, path, PATH_BYTES);
        const int length = snprintf(path, PATH_BYTES, "%s/%s", model->entries[entry].name, below);
        KV_ASSERT(length < (int)PATH_BYTES);
        parent = model->entries[entry].parent;
    }
}

/* An entry with one of these types, or MODEL_NONE. */
static size_t choose(struct fs_work *work, bool want_directory, bool only_files)
{
    size_t found = MODEL_NONE, seen = 0;
    for (size_t i = 0; i < MODEL_ENTRIES; i++) {
        const struct model_entry *entry = &work->model->entries[i];
        if (!entry->used)
            continue;
        const uint32_t mode = work->model->inodes[entry->inode].mode;
        if (S_ISDIR(mode) == want_directory && (!only_files || S_ISREG(mode)) &&
            test_random_below(work->random, ++seen) == 0)
            found = i;
    }
    return found;
}

/* One with a default ACL would pass it on, which no model knows. */
static size_t choose_parent(struct fs_work *work)
{
    const size_t entry =
        test_random_below(work->random, 3) ? choose(work, true, false) : MODEL_NONE;
    const size_t parent = entry == MODEL_NONE ? 0 : work->model->entries[entry].inode;
    return model_xattr_find(&work->model->inodes[parent], FS_XATTR_DEFAULT_ACL) ? 0 : parent;
}

static struct fs_apply_change *add(struct gathered *gathered, enum fs_apply_kind kind)
{
    struct fs_apply_change *change = &gathered->changes[gathered->count];
    *change = (struct fs_apply_change){.kind = kind,
                                       .path = gathered->paths[gathered->count][0],
                                       .to = gathered->paths[gathered->count][1]};
    gathered->count++;
    return change;
}

static void lose_name(struct fs_work *work, struct gathered *gathered, size_t inode)
{
    if (model_names(work->model, inode))
        return;
    if (work->model->inodes[inode].ino) {
        gathered->lost[gathered->lost_count++] = work->model->inodes[inode].ino;
    } else {
        for (size_t i = 0; i < gathered->made_count; i++) /* made and gone again */
            if (gathered->made[i] == inode)
                gathered->made[i] = gathered->made[--gathered->made_count];
    }
    model_drop_inode(work->model, inode);
}

static void give_content(struct fs_work *work, struct fs_apply_change *change,
                         struct model_inode *inode, size_t at)
{
    uint8_t *bytes = work->bytes + at * (VALUE_BYTES / CHANGES_MAX);
    change->length = test_random_below(work->random, 3)
                         ? test_random_below(work->random, 300)
                         : test_random_below(work->random, VALUE_BYTES / CHANGES_MAX);
    test_fill(bytes, change->length, test_random_next(work->random));
    change->bytes = bytes;
    model_resize(inode, 0);
    if (change->length)
        model_write(inode, 0, bytes, change->length);
}

/* As an import stores them. */
static const struct fs_apply_xattr stored_xattr = {"user.stored", "as it was", 9};
static const struct fs_apply_attributes stored = {.mode = S_IFREG | 0640,
                                                  .uid = 7,
                                                  .gid = 9,
                                                  .mtime_ns = 1700000000123456789,
                                                  .xattrs = &stored_xattr,
                                                  .xattr_count = 1,
                                                  .keep_same = true};

static void put_new(struct fs_work *work, struct gathered *gathered)
{
    const bool is_stored = test_random_below(work->random, 3) == 0;
    char name[MODEL_NAME_BYTES];
    const size_t parent = choose_parent(work), at = gathered->count;
    snprintf(name, sizeof name, "n%u", work->name_next++);
    struct fs_apply_change *change = add(gathered, is_stored ? FS_APPLY_STORE : FS_APPLY_PUT);
    path_of(work->model, parent, name, gathered->paths[at][0]);
    const size_t inode = model_add_inode(work->model, 0, is_stored ? stored.mode : S_IFREG | 0644);
    work->model->inodes[inode].uid = is_stored ? stored.uid : caller.uid;
    work->model->inodes[inode].gid = is_stored ? stored.gid : caller.gid;
    if (is_stored) {
        change->attributes = &stored;
        model_xattr_set(&work->model->inodes[inode], stored_xattr.name, stored_xattr.value,
                        stored_xattr.length);
    }
    give_content(work, change, &work->model->inodes[inode], at);
    (void)model_add_entry(work->model, parent, name, inode);
    gathered->made[gathered->made_count++] = inode;
}

/* The new inode has mode, owner and attributes of the old one. */
static void put_over(struct fs_work *work, struct gathered *gathered, size_t over)
{
    struct model_entry *entry = &work->model->entries[over];
    const size_t old = entry->inode, at = gathered->count;
    struct fs_apply_change *change = add(gathered, FS_APPLY_PUT);
    path_of(work->model, entry->parent, entry->name, gathered->paths[at][0]);
    const size_t inode = model_add_inode(work->model, 0, work->model->inodes[old].mode);
    struct model_inode *new = &work->model->inodes[inode];
    const struct model_inode *from = &work->model->inodes[old];
    new->uid = from->uid;
    new->gid = from->gid;
    for (size_t i = 0; i < from->xattr_count; i++)
        if (strcmp(from->xattrs[i].name, FS_XATTR_TTL) != 0)
            model_xattr_set(new, from->xattrs[i].name, from->xattrs[i].value,
                            from->xattrs[i].length);
    give_content(work, change, new, at);
    entry->inode = inode;
    gathered->made[gathered->made_count++] = inode;
    lose_name(work, gathered, old);
}

static void remove_one(struct fs_work *work, struct gathered *gathered, size_t gone)
{
    struct model_entry *entry = &work->model->entries[gone];
    (void)add(gathered, FS_APPLY_DELETE);
    path_of(work->model, entry->parent, entry->name, gathered->paths[gathered->count - 1][0]);
    entry->used = false;
    lose_name(work, gathered, entry->inode);
}

static void rename_one(struct fs_work *work, struct gathered *gathered, size_t from)
{
    struct model_entry *entry = &work->model->entries[from];
    const size_t parent = choose_parent(work), at = gathered->count;
    char name[MODEL_NAME_BYTES];
    if (model_is_below(work->model, parent, entry->inode))
        return;
    snprintf(name, sizeof name, "n%u", work->name_next++);
    (void)add(gathered, FS_APPLY_RENAME);
    path_of(work->model, entry->parent, entry->name, gathered->paths[at][0]);
    path_of(work->model, parent, name, gathered->paths[at][1]);
    entry->parent = parent;
    memcpy(entry->name, name, sizeof name);
}

static void link_one(struct fs_work *work, struct gathered *gathered, size_t to)
{
    const struct model_entry *entry = &work->model->entries[to];
    const size_t parent = choose_parent(work), at = gathered->count;
    char name[MODEL_NAME_BYTES];
    if (model_xattr_find(&work->model->inodes[entry->inode], FS_XATTR_TTL))
        return; /* what expires has one name */
    snprintf(name, sizeof name, "n%u", work->name_next++);
    (void)add(gathered, FS_APPLY_LINK);
    path_of(work->model, parent, name, gathered->paths[at][0]);
    path_of(work->model, entry->parent, entry->name, gathered->paths[at][1]);
    (void)model_add_entry(work->model, parent, name, entry->inode);
}

static void gather(struct fs_work *work, struct gathered *gathered)
{
    const size_t wanted = 2 + test_random_below(work->random, CHANGES_MAX - 1);
    for (size_t tries = 0; gathered->count < wanted && tries < 20; tries++) {
        const size_t kind = test_random_below(work->random, 6);
        const size_t file = choose(work, false, kind == 2);
        if (kind < 2)
            put_new(work, gathered);
        else if (kind == 5 && test_random_below(work->random, 2) &&
                 choose(work, true, false) != MODEL_NONE)
            rename_one(work, gathered, choose(work, true, false));
        else if (file == MODEL_NONE)
            continue;
        else if (kind == 2)
            put_over(work, gathered, file);
        else if (kind == 3)
            remove_one(work, gathered, file);
        else if (kind == 4)
            link_one(work, gathered, file);
        else
            rename_one(work, gathered, file);
    }
}

/* Find the numbers of what is new, with a reference to each. */
static int bind_made(struct fs_work *work, const struct gathered *gathered)
{
    for (size_t i = 0; i < gathered->made_count; i++) {
        size_t at = 0;
        while (!work->model->entries[at].used ||
               work->model->entries[at].inode != gathered->made[i])
            at++;
        const struct model_entry *entry = &work->model->entries[at];
        struct fs_record record;
        const int err = fs_lookup(work->volume, work->model->inodes[entry->parent].ino, entry->name,
                                  strlen(entry->name), &record);
        if (err)
            return err;
        work->model->inodes[entry->inode].ino = record.file.ino;
    }
    return 0;
}

int fs_work_apply(struct fs_work *work)
{
    struct gathered gathered = {.count = 0};
    struct fs_apply_result result;
    gather(work, &gathered);
    int err = fs_apply(work->volume, &caller, gathered.changes, gathered.count, 0, NULL, &result);
    if (err) {
        printf("apply: change %zu: %s\n", result.failed, result.error.text);
        return err;
    }
    err = bind_made(work, &gathered);
    for (size_t i = 0; i < gathered.lost_count; i++)
        fs_forget(work->volume, gathered.lost[i], 1);
    return err;
}
