/*
 * tools/tree.c: what sources and sinks of trees share.
 *
 * Owns       lists of attributes, of first names and of directories.
 */
#include "tools/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/xattr.h"
#include "tools/options.h"

int tree_failed(struct tree_job *job, const char *path, int err)
{
    static const struct {
        int err;
        const char *words;
    } remedies[] = {
        {-ENOSPC, "no space left; remove something, or take a larger image"},
        {-EISDIR, "there is a directory in its place; remove that first"},
        {-ENOTDIR, "there is no directory in its place, or on the way to it; remove that first"},
        {-EBADMSG, "damaged; see what fsck.kvfs -n says"},
        {-EUCLEAN, "damaged; see what fsck.kvfs -n says"},
    };
    const char *words = tool_error_text(err);
    if (*job->error.text)
        return err;
    for (size_t i = 0; i < sizeof remedies / sizeof remedies[0]; i++)
        if (remedies[i].err == err)
            words = remedies[i].words;
    snprintf(job->error.text, sizeof job->error.text, "%.300s: %s", *path ? path : "the top",
             words);
    return err;
}

/* What a mount would hide, and refuse to mount with. */
static bool is_control(const char *path, const char *name)
{
    const size_t length = strlen(name);
    return strncmp(path, name, length) == 0 && (path[length] == '\0' || path[length] == '/');
}

int tree_put(struct tree_job *job, const struct tree_item *item)
{
    if (job->control && is_control(item->path, job->control)) {
        snprintf(job->error.text, sizeof job->error.text,
                 "%.300s: a mount has its control directory of this name at its top; rename it in "
                 "the source, or import below a key with --into",
                 item->path);
        return -EEXIST;
    }
    const int err = job->sink->put(job->sink, item);
    if (err)
        return tree_failed(job, item->path, err);
    job->entries++;
    if (S_ISREG(item->attributes.mode) && !item->link)
        job->bytes += item->size;
    tool_progress_rate(&job->progress, job->entries, job->bytes);
    tool_progress_step(&job->progress, job->bytes + job->entries * tree_work(0), job->total);
    return 0;
}

/* ---- attributes ------------------------------------------------------------------- */

void tree_xattrs_clear(struct tree_xattrs *xattrs)
{
    xattrs->count = 0;
    xattrs->length = 0;
}

void tree_xattrs_release(struct tree_xattrs *xattrs)
{
    free(xattrs->items);
    free(xattrs->bytes);
    *xattrs = (struct tree_xattrs){0};
}

int tree_xattrs_add(struct tree_job *job, struct tree_xattrs *xattrs, const char *name,
                    const void *value, size_t length)
{
    const size_t name_len = strlen(name) + 1;
    if (fs_xattr_check_name(name)) {
        job->not_kept++;
        return 0;
    }
    if (xattrs->count == xattrs->capacity) {
        const size_t capacity = xattrs->capacity ? xattrs->capacity * 2 : 8;
        struct fs_apply_xattr *items = reallocarray(xattrs->items, capacity, sizeof *items);
        if (!items)
            return -ENOMEM;
        xattrs->items = items;
        xattrs->capacity = capacity;
    }
    if (xattrs->bytes_capacity - xattrs->length < name_len + length) {
        const size_t capacity = (xattrs->length + name_len + length) * 2;
        char *bytes = realloc(xattrs->bytes, capacity);
        if (!bytes)
            return -ENOMEM;
        xattrs->bytes = bytes;
        xattrs->bytes_capacity = capacity;
    }
    memcpy(xattrs->bytes + xattrs->length, name, name_len);
    if (length > 0)
        memcpy(xattrs->bytes + xattrs->length + name_len, value, length);
    xattrs->length += name_len + length;
    xattrs->items[xattrs->count++].length = length;
    return 0;
}

void tree_xattrs_end(struct tree_xattrs *xattrs, struct tree_item *item)
{
    const char *at = xattrs->bytes;
    for (size_t i = 0; i < xattrs->count; i++) {
        struct fs_apply_xattr *xattr = &xattrs->items[i];
        xattr->name = at;
        xattr->value = at + strlen(at) + 1;
        at += strlen(at) + 1 + xattr->length;
    }
    item->attributes.xattrs = xattrs->items;
    item->attributes.xattr_count = xattrs->count;
}

/* ---- several names -------------------------------------------------------------------- */

struct link {
    uint64_t device, ino;
    char *path; /* NULL: the slot is free */
};

struct tree_links {
    struct link *slots;
    size_t slot_count, count;
};

struct tree_links *tree_links_new(void)
{
    struct tree_links *links = calloc(1, sizeof *links);
    if (!links)
        return NULL;
    links->slot_count = 64;
    links->slots = calloc(links->slot_count, sizeof *links->slots);
    if (!links->slots) {
        free(links);
        return NULL;
    }
    return links;
}

void tree_links_free(struct tree_links *links)
{
    if (!links)
        return;
    for (size_t i = 0; i < links->slot_count; i++)
        free(links->slots[i].path);
    free(links->slots);
    free(links);
}

static struct link *find_link(struct link *slots, size_t slot_count, uint64_t device, uint64_t ino)
{
    size_t at = (size_t)(((ino ^ device << 32) * 0x9e3779b97f4a7c15u) >> 20) & (slot_count - 1);
    while (slots[at].path && (slots[at].device != device || slots[at].ino != ino))
        at = (at + 1) & (slot_count - 1);
    return &slots[at];
}

static int grow_links(struct tree_links *links)
{
    const size_t slot_count = links->slot_count * 2;
    struct link *slots = calloc(slot_count, sizeof *slots);
    if (!slots)
        return -ENOMEM;
    for (size_t i = 0; i < links->slot_count; i++) {
        const struct link *old = &links->slots[i];
        if (old->path)
            *find_link(slots, slot_count, old->device, old->ino) = *old;
    }
    free(links->slots);
    links->slots = slots;
    links->slot_count = slot_count;
    return 0;
}

const char *tree_links_meet(struct tree_links *links, uint64_t device, uint64_t ino,
                            const char *path, int *err)
{
    *err = (links->count + 1) * 2 > links->slot_count ? grow_links(links) : 0;
    if (*err)
        return NULL;
    struct link *link = find_link(links->slots, links->slot_count, device, ino);
    if (link->path)
        return link->path;
    *link = (struct link){.device = device, .ino = ino, .path = strdup(path)};
    if (!link->path)
        *err = -ENOMEM;
    else
        links->count++;
    return NULL;
}

/* ---- directories that wait --------------------------------------------------------------- */

struct waiting {
    struct waiting *next;
    struct tree_item item;
    char bytes[]; /* path, attributes' names and values */
};

struct tree_directories {
    struct waiting *last;  /* not taken yet */
    struct waiting *taken; /* the one that was taken last; the others are gone */
};

struct tree_directories *tree_directories_new(void)
{
    return calloc(1, sizeof(struct tree_directories));
}

static void free_waiting(struct waiting *waiting)
{
    if (waiting)
        free((void *)(uintptr_t)waiting->item.attributes.xattrs);
    free(waiting);
}

void tree_directories_free(struct tree_directories *directories)
{
    if (!directories)
        return;
    while (tree_directories_take(directories))
        continue;
    free_waiting(directories->taken);
    free(directories);
}

int tree_directories_add(struct tree_directories *directories, const struct tree_item *item)
{
    const struct fs_apply_attributes *attributes = &item->attributes;
    const size_t path_len = strlen(item->path) + 1;
    size_t length = path_len;
    for (size_t i = 0; i < attributes->xattr_count; i++)
        length += strlen(attributes->xattrs[i].name) + 1 + attributes->xattrs[i].length;
    struct waiting *waiting = calloc(1, sizeof *waiting + length);
    struct fs_apply_xattr *xattrs =
        attributes->xattr_count ? calloc(attributes->xattr_count, sizeof *xattrs) : NULL;
    if (!waiting || (attributes->xattr_count && !xattrs)) {
        free(waiting);
        free(xattrs);
        return -ENOMEM;
    }
    char *at = waiting->bytes;
    waiting->item = *item;
    waiting->item.path = memcpy(at, item->path, path_len);
    waiting->item.read = NULL;
    at += path_len;
    for (size_t i = 0; i < attributes->xattr_count; i++) {
        const struct fs_apply_xattr *from = &attributes->xattrs[i];
        const size_t name_len = strlen(from->name) + 1;
        xattrs[i] =
            (struct fs_apply_xattr){memcpy(at, from->name, name_len), at + name_len, from->length};
        if (from->length > 0)
            memcpy(at + name_len, from->value, from->length);
        at += name_len + from->length;
    }
    waiting->item.attributes.xattrs = xattrs;
    waiting->next = directories->last;
    directories->last = waiting;
    return 0;
}

const struct tree_item *tree_directories_take(struct tree_directories *directories)
{
    struct waiting *waiting = directories->last;
    if (!waiting)
        return NULL;
    free_waiting(directories->taken);
    directories->last = waiting->next;
    directories->taken = waiting;
    return &waiting->item;
}
