/*
 * tests/faults/crash/fs_model.c: a small tree of files in memory.
 *
 * Owns       the content of its inodes.
 * Invariant  an entry that is used leads from a directory that is used to an inode that is.
 */
#include "fs_model.h"

#include "kv/codec.h"

static void *must(void *memory)
{
    KV_ASSERT(memory != NULL);
    return memory;
}

struct model *model_new(uint64_t root_ino, uint32_t root_mode)
{
    struct model *model = must(calloc(1, sizeof *model));
    (void)model_add_inode(model, root_ino, root_mode); /* 0 */
    return model;
}

struct model *model_copy(const struct model *from)
{
    struct model *model = must(malloc(sizeof *model));
    *model = *from;
    for (size_t i = 0; i < MODEL_INODES; i++) {
        struct model_inode *inode = &model->inodes[i];
        if (inode->content)
            inode->content = memcpy(must(malloc(inode->size + 1)), inode->content, inode->size);
    }
    return model;
}

void model_free(struct model *model)
{
    for (size_t i = 0; model && i < MODEL_INODES; i++)
        free(model->inodes[i].content);
    free(model);
}

/* ---- inodes and names ----------------------------------------------------------- */

size_t model_add_inode(struct model *model, uint64_t ino, uint32_t mode)
{
    size_t i = 0;
    while (i < MODEL_INODES && model->inodes[i].used)
        i++;
    KV_ASSERT(i < MODEL_INODES);
    model->inodes[i] = (struct model_inode){.used = true, .ino = ino, .mode = mode};
    return i;
}

void model_drop_inode(struct model *model, size_t inode)
{
    free(model->inodes[inode].content);
    model->inodes[inode] = (struct model_inode){.used = false};
}

size_t model_add_entry(struct model *model, size_t parent, const char *name, size_t inode)
{
    size_t i = 0;
    while (i < MODEL_ENTRIES && model->entries[i].used)
        i++;
    KV_ASSERT(i < MODEL_ENTRIES);
    struct model_entry *entry = &model->entries[i];
    *entry = (struct model_entry){.used = true, .parent = parent, .inode = inode};
    snprintf(entry->name, sizeof entry->name, "%s", name);
    return i;
}

size_t model_names(const struct model *model, size_t inode)
{
    size_t count = 0;
    for (size_t i = 0; i < MODEL_ENTRIES; i++)
        count += model->entries[i].used && model->entries[i].inode == inode;
    return count;
}

uint32_t model_nlink(const struct model *model, size_t inode)
{
    if (!S_ISDIR(model->inodes[inode].mode))
        return (uint32_t)model_names(model, inode);
    uint32_t count = 2;
    for (size_t i = 0; i < MODEL_ENTRIES; i++) {
        const struct model_entry *entry = &model->entries[i];
        count += entry->used && entry->parent == inode && S_ISDIR(model->inodes[entry->inode].mode);
    }
    return count;
}

bool model_is_empty(const struct model *model, size_t directory)
{
    for (size_t i = 0; i < MODEL_ENTRIES; i++)
        if (model->entries[i].used && model->entries[i].parent == directory)
            return false;
    return true;
}

bool model_is_below(const struct model *model, size_t inode, size_t above)
{
    while (inode != above && inode != 0) {
        size_t i = 0;
        while (i < MODEL_ENTRIES && !(model->entries[i].used && model->entries[i].inode == inode))
            i++;
        if (i == MODEL_ENTRIES)
            return false;
        inode = model->entries[i].parent;
    }
    return inode == above;
}

/* ---- content and attributes -------------------------------------------------------- */

void model_resize(struct model_inode *inode, size_t size)
{
    inode->content = must(realloc(inode->content, size + 1));
    if (size > inode->size)
        memset(inode->content + inode->size, 0, size - inode->size);
    inode->size = size;
}

void model_write(struct model_inode *inode, size_t offset, const void *bytes, size_t length)
{
    if (offset + length > inode->size)
        model_resize(inode, offset + length);
    memcpy(inode->content + offset, bytes, length);
}

struct model_xattr *model_xattr_find(struct model_inode *inode, const char *name)
{
    for (size_t i = 0; i < inode->xattr_count; i++)
        if (!strcmp(inode->xattrs[i].name, name))
            return &inode->xattrs[i];
    return NULL;
}

void model_xattr_set(struct model_inode *inode, const char *name, const void *value, size_t length)
{
    struct model_xattr *xattr = model_xattr_find(inode, name);
    KV_ASSERT(length <= MODEL_VALUE_BYTES);
    if (!xattr) {
        KV_ASSERT(inode->xattr_count < MODEL_XATTRS);
        xattr = &inode->xattrs[inode->xattr_count++];
        snprintf(xattr->name, sizeof xattr->name, "%s", name);
    }
    memcpy(xattr->value, value, length);
    xattr->length = length;
}

void model_xattr_remove(struct model_inode *inode, const char *name)
{
    struct model_xattr *xattr = model_xattr_find(inode, name);
    if (xattr)
        *xattr = inode->xattrs[--inode->xattr_count];
}

/* ---- digests ------------------------------------------------------------------------- */

uint64_t model_item_digest(const struct model_item *item, const char *name, size_t name_len)
{
    return kv_digest(item, sizeof *item, kv_digest(name, name_len, item->parent_ino));
}

uint64_t model_xattr_digest(const char *name, const void *value, size_t length)
{
    return kv_digest(value, length, kv_digest(name, strlen(name), 1));
}

static uint64_t digest_inode(const struct model *model, size_t index, uint64_t parent_ino,
                             const char *name)
{
    const struct model_inode *inode = &model->inodes[index];
    const bool has_content = S_ISREG(inode->mode) || S_ISLNK(inode->mode);
    struct model_item item = {.parent_ino = parent_ino,
                              .ino = inode->ino,
                              .mode = inode->mode,
                              .uid = inode->uid,
                              .gid = inode->gid,
                              .nlink = model_nlink(model, index),
                              .rdev = inode->rdev,
                              .size = has_content ? inode->size : 0};
    if (has_content && inode->size)
        item.content = kv_digest(inode->content, inode->size, 0);
    for (size_t i = 0; i < inode->xattr_count; i++)
        item.xattrs += model_xattr_digest(inode->xattrs[i].name, inode->xattrs[i].value,
                                          inode->xattrs[i].length);
    return model_item_digest(&item, name, strlen(name));
}

uint64_t model_digest(const struct model *model)
{
    uint64_t digest = digest_inode(model, 0, 0, "");
    for (size_t i = 0; i < MODEL_ENTRIES; i++) {
        const struct model_entry *entry = &model->entries[i];
        if (entry->used)
            digest +=
                digest_inode(model, entry->inode, model->inodes[entry->parent].ino, entry->name);
    }
    return digest;
}
