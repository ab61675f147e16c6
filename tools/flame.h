/*
 * tools/flame.h: stacks that were sampled, folded into a tree, and the tree as a picture.
 *
 * Threads: a flame belongs to one at a time.
 */
#ifndef TOOLS_FLAME_H
#define TOOLS_FLAME_H

#include <stdio.h>

#include "kv/kv.h"

#define FLAME_DEPTH_MAX 256u     /* frames of a stack; what is called beyond is left out */
#define FLAME_NODES_MAX 1000000u /* more than any program has places to be sampled at */

struct flame;

/* A function at one place of the tree: called by its parent. */
struct flame_node {
    const char *name;         /* for people; any bytes */
    bool is_kernel;           /* in the kernel */
    uint64_t count;           /* samples in it or in what it called */
    struct flame_node *first; /* what it called, by name */
    struct flame_node *next;  /* what its caller called besides */
};

struct flame *flame_new(void); /* NULL: no memory */
void flame_free(struct flame *flame);

/* The root, which is not a function: `count` is that of all samples. */
const struct flame_node *flame_root(const struct flame *flame);

/*
 * Add the samples of the text that `perf script` prints. What is not of its form is left out.
 * -EIO reading failed; -ENOMEM; -E2BIG more than FLAME_NODES_MAX.
 */
KV_MUST_CHECK int flame_add_perf(struct flame *flame, FILE *in);

/* One line for each stack, "a;b;c 7": what other programs draw from. */
void flame_write_folded(const struct flame *flame, FILE *out);

/*
 * A picture of its own, SVG 1.1 without scripts: each function is as wide as its share of all
 * samples and lies on who called it; the pointer on it shows its name and numbers. The same flame
 * gives the same bytes. title: one line, any bytes.
 */
void flame_write_svg(const struct flame *flame, const char *title, FILE *out);

#endif
