/*
 * bench/kv-compare/json_tree.h: a JSON text as a tree.
 *
 * Numbers are kept as doubles (exact up to 2^53), strings without their escapes but for \", \\,
 * \/ and those of control characters; \u is taken for ASCII only. That is what results hold.
 */
#ifndef BENCH_KV_COMPARE_JSON_TREE_H
#define BENCH_KV_COMPARE_JSON_TREE_H

#include <stdbool.h>
#include <stddef.h>

enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json_node {
    enum json_kind kind;
    char *name;                     /* of a member; NULL: not one */
    char *text;                     /* JSON_STRING */
    double number;                  /* JSON_NUMBER; JSON_BOOL: 0 or 1 */
    struct json_node *first, *next; /* members or elements; what stands behind this one */
};

/* NULL: not JSON, nested too deeply, or no memory. */
struct json_node *json_parse(const char *text);
void json_free(struct json_node *node);

/* NULL: it has none, or is no object (node may be NULL). */
const struct json_node *json_member(const struct json_node *node, const char *name);
const char *json_text(const struct json_node *node, const char *name); /* "" when absent */
double json_number(const struct json_node *node, const char *name);    /* 0 when absent */

#endif
