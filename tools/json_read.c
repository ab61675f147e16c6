/*
 * tools/json_read.c: one JSON text taken apart, where it lies.
 *
 * Owns       the values, in blocks that do not move.
 * Invariant  a string's bytes take no more room than its text, so they are put in its place.
 */
#include "tools/json_read.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_VALUES 64u

struct block {
    struct block *next;
    size_t count;
    struct tool_json_value values[BLOCK_VALUES];
};

struct tool_json_document {
    struct block *blocks;
    struct tool_json_value *root;
};

struct reader {
    char *at, *end;
    struct tool_json_document *document;
    const char *complaint;
};

static int refuse(struct reader *reader, const char *complaint)
{
    reader->complaint = complaint;
    return -EINVAL;
}

static struct tool_json_value *new_value(struct tool_json_document *document)
{
    if (!document->blocks || document->blocks->count == BLOCK_VALUES) {
        struct block *block = calloc(1, sizeof *block);
        if (!block)
            return NULL;
        block->next = document->blocks;
        document->blocks = block;
    }
    return &document->blocks->values[document->blocks->count++];
}

static void skip_space(struct reader *reader)
{
    while (reader->at < reader->end && *reader->at && strchr(" \t\r\n", *reader->at))
        reader->at++;
}

/* The byte that is next, 0 at the end. */
static char peek(const struct reader *reader)
{
    return reader->at < reader->end ? *reader->at : '\0';
}

/* ---- strings --------------------------------------------------------------------- */

/* Four hexadecimal digits behind \u; -1: they are not. */
static int read_unit(struct reader *reader)
{
    int unit = 0;
    if (reader->end - reader->at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        const char digit = *reader->at++;
        const char lower = (char)(digit | 0x20);
        if (digit >= '0' && digit <= '9')
            unit = unit * 16 + (digit - '0');
        else if (lower >= 'a' && lower <= 'f')
            unit = unit * 16 + (lower - 'a' + 10);
        else
            return -1;
    }
    return unit;
}

static char *put_utf8(char *to, uint32_t point)
{
    if (point < 0x80) {
        *to++ = (char)point;
    } else if (point < 0x800) {
        *to++ = (char)(0xc0 | point >> 6);
        *to++ = (char)(0x80 | (point & 0x3f));
    } else if (point < 0x10000) {
        *to++ = (char)(0xe0 | point >> 12);
        *to++ = (char)(0x80 | (point >> 6 & 0x3f));
        *to++ = (char)(0x80 | (point & 0x3f));
    } else {
        *to++ = (char)(0xf0 | point >> 18);
        *to++ = (char)(0x80 | (point >> 12 & 0x3f));
        *to++ = (char)(0x80 | (point >> 6 & 0x3f));
        *to++ = (char)(0x80 | (point & 0x3f));
    }
    return to;
}

/* What follows \u. */
static int read_unicode(struct reader *reader, char **to)
{
    const int unit = read_unit(reader);
    if (unit < 0)
        return refuse(reader, "\\u wants four hexadecimal digits");
    if (unit >= 0xd800 && unit < 0xdc00) {
        if (reader->end - reader->at < 2 || reader->at[0] != '\\' || reader->at[1] != 'u')
            return refuse(reader, "half of a surrogate pair");
        reader->at += 2;
        const int low = read_unit(reader);
        if (low < 0xdc00 || low > 0xdfff)
            return refuse(reader, "half of a surrogate pair");
        *to =
            put_utf8(*to, 0x10000u + ((uint32_t)(unit - 0xd800) << 10) + (uint32_t)(low - 0xdc00));
    } else if (unit >= 0xdc80 && unit <= 0xdcff) {
        *(*to)++ = (char)(unit - 0xdc00);
    } else if (unit >= 0xdc00 && unit <= 0xdfff) {
        return refuse(reader, "a lone surrogate that stands for no byte");
    } else {
        *to = put_utf8(*to, (uint32_t)unit);
    }
    return 0;
}

/* Behind the opening quote, to behind the closing one. */
static int read_string(struct reader *reader, const char **text, size_t *length)
{
    static const char letters[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    char *const start = reader->at, *to = start;
    while (reader->at < reader->end) {
        const char byte = *reader->at++;
        if (byte == '"') {
            *to = '\0';
            *text = start;
            *length = (size_t)(to - start);
            return 0;
        }
        if ((unsigned char)byte < 0x20)
            return refuse(reader, "a control character in a string; write it as \\u00XX");
        if (byte != '\\') {
            *to++ = byte;
            continue;
        }
        const char letter = peek(reader);
        const char *found = letter ? strchr(letters, letter) : NULL;
        reader->at += reader->at < reader->end;
        if (found) {
            *to++ = bytes[found - letters];
        } else if (letter == 'u') {
            const int err = read_unicode(reader, &to);
            if (err)
                return err;
        } else {
            return refuse(reader, "no such escape in a string");
        }
    }
    return refuse(reader, "a string that does not end");
}

/* ---- values ------------------------------------------------------------------------ */

static int read_value(struct reader *reader, unsigned depth, struct tool_json_value **value);

/*
 * Move a number or word out of the way of what follows it: its terminator may fall on a comma. It
 * is moved back by one byte, over the colon, comma, bracket or space before it; at the very
 * beginning of a text there is nothing behind it.
 */
static void keep_text(char *begin, char *start, char *end, struct tool_json_value *value)
{
    value->length = (size_t)(end - start);
    if (start > begin) {
        memmove(start - 1, start, value->length);
        start--;
    }
    start[value->length] = '\0';
    value->text = start;
}

static int read_bare(struct reader *reader, char *begin, struct tool_json_value *value)
{
    char *const start = reader->at;
    while (reader->at < reader->end && *reader->at && !strchr(" \t\r\n,]}:\"[{", *reader->at))
        reader->at++;
    const size_t length = (size_t)(reader->at - start);
    if (length == 4 && memcmp(start, "null", 4) == 0)
        value->kind = TOOL_JSON_NULL;
    else if ((length == 4 && memcmp(start, "true", 4) == 0) ||
             (length == 5 && memcmp(start, "false", 5) == 0))
        value->kind = TOOL_JSON_BOOL;
    else if (length > 0 && strspn(start, "+-0123456789.eE") >= length &&
             (*start == '-' || (*start >= '0' && *start <= '9')))
        value->kind = TOOL_JSON_NUMBER;
    else
        return refuse(reader, "a value is missing, or is none");
    keep_text(begin, start, reader->at, value);
    return 0;
}

static int read_member(struct reader *reader, unsigned depth, bool named,
                       struct tool_json_value **member)
{
    const char *name = NULL;
    size_t length;
    if (named) {
        skip_space(reader);
        if (peek(reader) != '"')
            return refuse(reader, "a member's name in quotes is missing");
        reader->at++;
        const int err = read_string(reader, &name, &length);
        if (err)
            return err;
        skip_space(reader);
        if (peek(reader) != ':')
            return refuse(reader, "a colon is missing behind a member's name");
        reader->at++;
    }
    const int err = read_value(reader, depth, member);
    if (!err)
        (*member)->name = name;
    return err;
}

static int read_members(struct reader *reader, unsigned depth, struct tool_json_value *value)
{
    const bool named = *reader->at++ == '{';
    const char closing = named ? '}' : ']';
    struct tool_json_value **last = &value->first;
    value->kind = named ? TOOL_JSON_OBJECT : TOOL_JSON_ARRAY;
    skip_space(reader);
    if (peek(reader) == closing) {
        reader->at++;
        return 0;
    }
    for (;;) {
        const int err = read_member(reader, depth, named, last);
        if (err)
            return err;
        last = &(*last)->next;
        skip_space(reader);
        const char byte = peek(reader);
        reader->at += reader->at < reader->end;
        if (byte == closing)
            return 0;
        if (byte != ',')
            return refuse(reader, "a comma or a closing bracket is missing");
    }
}

static int read_value(struct reader *reader, unsigned depth, struct tool_json_value **value)
{
    if (depth > TOOL_JSON_READ_DEPTH)
        return refuse(reader, "nested too deeply");
    char *const begin = reader->at;
    *value = new_value(reader->document);
    if (!*value)
        return -ENOMEM;
    skip_space(reader);
    switch (peek(reader)) {
    case '{':
    case '[':
        return read_members(reader, depth + 1, *value);
    case '"':
        reader->at++;
        (*value)->kind = TOOL_JSON_STRING;
        return read_string(reader, &(*value)->text, &(*value)->length);
    default:
        /* Where no space precedes it, a name's colon, a comma or a bracket does. */
        return read_bare(reader, depth > 0 ? begin - 1 : begin, *value);
    }
}

int tool_json_read(char *text, size_t length, struct tool_json_document **document_out,
                   const char **complaint)
{
    struct tool_json_document *document = calloc(1, sizeof *document);
    if (!document)
        return -ENOMEM;
    text[length] = '\0';
    struct reader reader = {.at = text, .end = text + length, .document = document};
    int err = read_value(&reader, 0, &document->root);
    skip_space(&reader);
    if (!err && reader.at < reader.end)
        err = refuse(&reader, "something behind the end");
    if (err) {
        *complaint = reader.complaint ? reader.complaint : "not enough memory";
        tool_json_document_free(document);
        return err;
    }
    *document_out = document;
    return 0;
}

void tool_json_document_free(struct tool_json_document *document)
{
    if (!document)
        return;
    for (struct block *block = document->blocks, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    free(document);
}

const struct tool_json_value *tool_json_root(const struct tool_json_document *document)
{
    return document->root;
}

const struct tool_json_value *tool_json_member(const struct tool_json_value *object,
                                               const char *name, enum tool_json_kind kind)
{
    if (object->kind != TOOL_JSON_OBJECT)
        return NULL;
    for (const struct tool_json_value *member = object->first; member; member = member->next)
        if (member->kind == kind && strcmp(member->name, name) == 0)
            return member;
    return NULL;
}

int tool_json_integer(const struct tool_json_value *value, int64_t *number)
{
    char *end;
    if (!value || value->kind != TOOL_JSON_NUMBER)
        return -EINVAL;
    errno = 0;
    const long long parsed = strtoll(value->text, &end, 10);
    if (errno || *end || end == value->text)
        return -EINVAL;
    *number = parsed;
    return 0;
}
