/*
 * tools/json_read.h: one JSON text (RFC 8259) taken apart, where it lies.
 *
 * Strings may hold any bytes: what tools/json.h writes for bytes that are not UTF-8, \udc80 to
 * \udcff alone, gives the byte back. Other lone surrogates are refused.
 */
#ifndef TOOLS_JSON_READ_H
#define TOOLS_JSON_READ_H

#include "kv/kv.h"

#define TOOL_JSON_READ_DEPTH 16u

enum tool_json_kind {
    TOOL_JSON_NULL,
    TOOL_JSON_BOOL,
    TOOL_JSON_NUMBER,
    TOOL_JSON_STRING,
    TOOL_JSON_ARRAY,
    TOOL_JSON_OBJECT,
};

struct tool_json_value {
    enum tool_json_kind kind;
    const char *name;             /* of a member; terminated */
    const char *text;             /* string; number; "true" or "false"; terminated */
    size_t length;                /* bytes of it */
    struct tool_json_value *next; /* in its array or object */
    struct tool_json_value *first;
};

struct tool_json_document;

/*
 * Take `text` apart, which has room for one byte more than `length` and is changed; it must live
 * as long as the document. complaint: out, on -EINVAL, for people.
 *
 * Returns 0; -EINVAL not JSON; -ENOMEM.
 */
KV_MUST_CHECK int tool_json_read(char *text, size_t length, struct tool_json_document **document,
                                 const char **complaint);
void tool_json_document_free(struct tool_json_document *document);
const struct tool_json_value *tool_json_root(const struct tool_json_document *document);

/* The member of an object, NULL if there is none of that name and kind. */
const struct tool_json_value *tool_json_member(const struct tool_json_value *object,
                                               const char *name, enum tool_json_kind kind);
/* A number that is whole and fits. -EINVAL. */
KV_MUST_CHECK int tool_json_integer(const struct tool_json_value *value, int64_t *number);

#endif
