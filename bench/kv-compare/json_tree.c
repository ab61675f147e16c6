/* bench/kv-compare/json_tree.c: see json_tree.h. */
#include "bench/kv-compare/json_tree.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 32u

static struct json_node *parse_value(const char **at, unsigned depth);

static void skip_space(const char **at)
{
    while (isspace((unsigned char)**at))
        (*at)++;
}

static bool skip(const char **at, char wanted)
{
    skip_space(at);
    if (**at != wanted)
        return false;
    (*at)++;
    return true;
}

/* One character behind a backslash; -1: not one that is known. */
static int take_escape(const char **at)
{
    const char what = *(*at)++;
    switch (what) {
    case '"':
    case '\\':
    case '/':
        return what;
    case 'n':
        return '\n';
    case 't':
        return '\t';
    case 'r':
        return '\r';
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'u': {
        char digits[5] = {0};
        for (unsigned i = 0; i < 4; i++) {
            if (!isxdigit((unsigned char)**at))
                return -1;
            digits[i] = *(*at)++;
        }
        const long code = strtol(digits, NULL, 16);
        return code > 0 && code < 128 ? (int)code : '?';
    }
    default:
        return -1;
    }
}

/* The caller frees. */
static char *parse_text(const char **at)
{
    if (!skip(at, '"'))
        return NULL;
    char *const text = malloc(strlen(*at) + 1);
    if (!text)
        return NULL;
    char *out = text;
    while (**at && **at != '"') {
        int c = (unsigned char)*(*at)++;
        if (c == '\\')
            c = take_escape(at);
        if (c < 0)
            break;
        *out++ = (char)c;
    }
    *out = '\0';
    if (**at == '"') {
        (*at)++;
        return text;
    }
    free(text);
    return NULL;
}

/* Members or elements up to `end`. */
static bool parse_inside(const char **at, struct json_node *node, char end, unsigned depth)
{
    struct json_node **last = &node->first;
    if (skip(at, end))
        return true;
    do {
        char *name = NULL;
        if (node->kind == JSON_OBJECT) {
            name = parse_text(at);
            if (!name || !skip(at, ':')) {
                free(name);
                return false;
            }
        }
        *last = parse_value(at, depth + 1);
        if (!*last) {
            free(name);
            return false;
        }
        (*last)->name = name;
        last = &(*last)->next;
    } while (skip(at, ','));
    return skip(at, end);
}

static bool parse_word(const char **at, struct json_node *node)
{
    static const struct {
        const char *word;
        enum json_kind kind;
        double number;
    } words[] = {{"null", JSON_NULL, 0}, {"true", JSON_BOOL, 1}, {"false", JSON_BOOL, 0}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const size_t length = strlen(words[i].word);
        if (strncmp(*at, words[i].word, length) == 0) {
            *at += length;
            node->kind = words[i].kind;
            node->number = words[i].number;
            return true;
        }
    }
    char *end;
    node->kind = JSON_NUMBER;
    node->number = strtod(*at, &end);
    const bool any = end != *at;
    *at = end;
    return any;
}

static bool fill_value(const char **at, struct json_node *node, unsigned depth)
{
    skip_space(at);
    switch (**at) {
    case '{':
        (*at)++;
        node->kind = JSON_OBJECT;
        return parse_inside(at, node, '}', depth);
    case '[':
        (*at)++;
        node->kind = JSON_ARRAY;
        return parse_inside(at, node, ']', depth);
    case '"':
        node->kind = JSON_STRING;
        node->text = parse_text(at);
        return node->text != NULL;
    default:
        return parse_word(at, node);
    }
}

static struct json_node *parse_value(const char **at, unsigned depth)
{
    struct json_node *node = depth < DEPTH_MAX ? calloc(1, sizeof *node) : NULL;
    if (node && !fill_value(at, node, depth)) {
        json_free(node);
        return NULL;
    }
    return node;
}

struct json_node *json_parse(const char *text)
{
    struct json_node *node = parse_value(&text, 0);
    skip_space(&text);
    if (node && *text) {
        json_free(node);
        return NULL;
    }
    return node;
}

void json_free(struct json_node *node)
{
    while (node) {
        struct json_node *next = node->next;
        json_free(node->first);
        free(node->name);
        free(node->text);
        free(node);
        node = next;
    }
}

const struct json_node *json_member(const struct json_node *node, const char *name)
{
    if (!node || node->kind != JSON_OBJECT)
        return NULL;
    for (const struct json_node *at = node->first; at; at = at->next)
        if (strcmp(at->name, name) == 0)
            return at;
    return NULL;
}

const char *json_text(const struct json_node *node, const char *name)
{
    const struct json_node *member = json_member(node, name);
    return member && member->kind == JSON_STRING ? member->text : "";
}

double json_number(const struct json_node *node, const char *name)
{
    const struct json_node *member = json_member(node, name);
    return member && member->kind == JSON_NUMBER ? member->number : 0;
}
