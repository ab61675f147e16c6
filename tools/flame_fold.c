/*
 * tools/flame_fold.c: samples of stacks as a tree.
 *
 * Owns       the nodes and their names.
 * Invariant  what a node called stands in order of names (then kernel last), each once.
 *
 * perf script prints for each sample a line about it, the frames of the stack, innermost first and
 * indented, and an empty line:
 *
 *    mount.kvfs  4711 1234.567890:     10101010 cpu-clock:
 *                55d0c0de kv_get+0x1f (/usr/sbin/mount.kvfs)
 *                55d0beef fs_lookup+0x88 (/usr/sbin/mount.kvfs)
 */
#include "tools/flame.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct flame {
    struct flame_node root;
    size_t node_count;
};

struct frame {
    char *name; /* owned */
    bool is_kernel;
};

/* A sample that is being read. */
struct stack {
    char *program; /* owned; NULL: no sample has begun */
    struct frame frames[FLAME_DEPTH_MAX];
    size_t count;
};

/* ---- the tree --------------------------------------------------------------------------- */

struct flame *flame_new(void)
{
    struct flame *flame = calloc(1, sizeof *flame);
    if (flame)
        flame->root.name = "all";
    return flame;
}

/* Without recursion: a node's children are put before what is still to be freed. */
void flame_free(struct flame *flame)
{
    struct flame_node *node = flame ? flame->root.first : NULL;
    while (node) {
        struct flame_node *last = node->first, *next = node->next;
        while (last && last->next)
            last = last->next;
        if (last) {
            last->next = next;
            next = node->first;
        }
        free((char *)(uintptr_t)node->name); /* it was allocated with the node */
        free(node);
        node = next;
    }
    free(flame);
}

const struct flame_node *flame_root(const struct flame *flame)
{
    return &flame->root;
}

/* What `parent` called by that name, found or made. NULL: no memory. */
static struct flame_node *child_of(struct flame *flame, struct flame_node *parent, const char *name,
                                   bool is_kernel)
{
    struct flame_node **link = &parent->first;
    int order = 1;
    for (; *link; link = &(*link)->next) {
        order = strcmp((*link)->name, name);
        if (!order)
            order = (int)(*link)->is_kernel - (int)is_kernel;
        if (order >= 0)
            break;
    }
    if (*link && order == 0)
        return *link;
    struct flame_node *node = calloc(1, sizeof *node);
    char *copy = node ? strdup(name) : NULL;
    if (!copy) {
        free(node);
        return NULL;
    }
    *node = (struct flame_node){.name = copy, .is_kernel = is_kernel, .next = *link};
    *link = node;
    flame->node_count++;
    return node;
}

/* ---- perf script ------------------------------------------------------------------------ */

static void clear_stack(struct stack *stack)
{
    free(stack->program);
    stack->program = NULL;
    while (stack->count)
        free(stack->frames[--stack->count].name);
}

/* The sample is whole: put it into the tree. */
static int add_stack(struct flame *flame, struct stack *stack)
{
    struct flame_node *node = &flame->root;
    if (!stack->program)
        return 0;
    if (flame->node_count + stack->count >= FLAME_NODES_MAX)
        return -E2BIG;
    struct flame_node *path[FLAME_DEPTH_MAX + 2];
    size_t depth = 0;
    path[depth++] = node;
    node = child_of(flame, node, stack->program, false);
    for (size_t i = stack->count; node && i > 0; i--) {
        path[depth++] = node;
        node = child_of(flame, node, stack->frames[i - 1].name, stack->frames[i - 1].is_kernel);
    }
    if (!node)
        return -ENOMEM; /* nothing was counted */
    path[depth++] = node;
    for (size_t i = 0; i < depth; i++)
        path[i]->count++;
    return 0;
}

/* "mount.kvfs  4711/4712 [001] 12.3: ...": the name, which may have blanks, ends before digits. */
static int begin_stack(struct stack *stack, const char *line)
{
    size_t end = 0;
    for (size_t at = 1; line[at]; at++) {
        const size_t digits = strspn(line + at, "0123456789/");
        if (line[at - 1] == ' ' && isdigit((unsigned char)line[at]) &&
            isspace((unsigned char)line[at + digits])) {
            end = at;
            break;
        }
    }
    while (end && line[end - 1] == ' ')
        end--;
    if (!end)
        return 0; /* not a sample's first line */
    stack->program = strndup(line, end);
    return stack->program ? 0 : -ENOMEM;
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static bool is_of_kernel(const char *object)
{
    const size_t length = strlen(object);
    return strncmp(object, "[kernel", 7) == 0 || strncmp(object, "[guest.kernel", 13) == 0 ||
           strcmp(base_of(object), "vmlinux") == 0 ||
           (length > 3 && strcmp(object + length - 3, ".ko") == 0);
}

/* "     7f00 name+0x1f (/lib/object)", which is cut up. */
static int add_frame(struct stack *stack, char *line)
{
    char *name = line + strspn(line, " \t");
    const size_t digits = strspn(name, "0123456789abcdefABCDEF");
    if (!stack->program || stack->count == FLAME_DEPTH_MAX || !digits ||
        !isspace((unsigned char)name[digits]))
        return 0;
    name += digits;
    name += strspn(name, " \t");
    char *object = NULL;
    for (char *at = strstr(name, " ("); at; at = strstr(at + 1, " ("))
        object = at; /* the last: names may have blanks and brackets */
    if (object) {
        *object = '\0';
        object += 2;
        object[strcspn(object, ")")] = '\0';
    }
    char *offset = strrchr(name, '+');
    if (offset && strncmp(offset, "+0x", 3) == 0)
        *offset = '\0';
    const char *shown = name;
    char unknown[128];
    if (!*name || strcmp(name, "[unknown]") == 0) {
        const char *where = object && *object ? base_of(object) : "unknown";
        (void)snprintf(unknown, sizeof unknown, *where == '[' ? "%.120s" : "[%.120s]", where);
        shown = unknown;
    }
    struct frame *const frame = &stack->frames[stack->count];
    frame->is_kernel = object && is_of_kernel(object);
    frame->name = strdup(shown);
    if (!frame->name)
        return -ENOMEM;
    stack->count++;
    return 0;
}

int flame_add_perf(struct flame *flame, FILE *in)
{
    struct stack *stack = calloc(1, sizeof *stack);
    char *line = NULL;
    size_t capacity = 0;
    int err = stack ? 0 : -ENOMEM;
    while (!err && getline(&line, &capacity, in) >= 0) {
        line[strcspn(line, "\n")] = '\0';
        const bool is_empty = !line[strspn(line, " \t")];
        if (is_empty || !isspace((unsigned char)*line)) {
            err = add_stack(flame, stack);
            clear_stack(stack);
            if (!err && !is_empty && *line != '#')
                err = begin_stack(stack, line);
        } else {
            err = add_frame(stack, line);
        }
    }
    if (!err)
        err = ferror(in) ? -EIO : add_stack(flame, stack);
    if (stack)
        clear_stack(stack);
    free(stack);
    free(line);
    return err;
}

/* ---- folded ----------------------------------------------------------------------------- */

static void write_name(const struct flame_node *node, FILE *out)
{
    for (const char *at = node->name; *at; at++)
        fputc(*at == ';' || (unsigned char)*at < ' ' ? '?' : *at, out);
    if (node->is_kernel)
        fputs("_[k]", out);
}

void flame_write_folded(const struct flame *flame, FILE *out)
{
    const struct flame_node *path[FLAME_DEPTH_MAX + 2];
    size_t depth = 0;
    const struct flame_node *node = flame->root.first;
    while (node) {
        path[depth++] = node;
        uint64_t own = node->count;
        for (const struct flame_node *child = node->first; child; child = child->next)
            own -= child->count;
        for (size_t i = 0; own && i < depth; i++) {
            if (i)
                fputc(';', out);
            write_name(path[i], out);
        }
        if (own)
            fprintf(out, " %llu\n", (unsigned long long)own);
        node = node->first;
        while (!node && depth)
            node = path[--depth]->next;
    }
}
