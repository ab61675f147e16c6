/*
 * tools/json.h: JSON written to a stream, one value after the other.
 *
 * The caller opens and closes objects and arrays in order; commas are put here. `name` is the
 * member's name inside an object, NULL inside an array and at the top. Write errors stick to
 * the stream; the caller looks once, at the end.
 */
#ifndef TOOLS_JSON_H
#define TOOLS_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define TOOL_JSON_DEPTH 8u

struct tool_json {
    FILE *out;
    unsigned depth;
    bool has_members[TOOL_JSON_DEPTH + 1];
    unsigned char rest[4]; /* of a string in pieces: the beginning of what may be a sequence */
    size_t rest_len;
};

void tool_json_init(struct tool_json *json, FILE *out);

void tool_json_open(struct tool_json *json, const char *name, char bracket); /* '{' or '[' */
void tool_json_close(struct tool_json *json, char bracket);                  /* '}' or ']' */

/*
 * A string of any bytes. What is not UTF-8 is written as a lone surrogate, \udc80 to \udcff for
 * the bytes 80 to ff, the way Python names files: nothing is lost and the output is still JSON.
 */
void tool_json_string(struct tool_json *json, const char *name, const char *value);
/* The same for bytes that may hold zeroes. */
void tool_json_bytes(struct tool_json *json, const char *name, const void *bytes, size_t length);
/* A string that comes in pieces: begin, any number of times add, end. */
void tool_json_begin_text(struct tool_json *json, const char *name);
void tool_json_add_text(struct tool_json *json, const void *bytes, size_t length);
void tool_json_end_text(struct tool_json *json);
void tool_json_signed(struct tool_json *json, const char *name, int64_t value);
void tool_json_number(struct tool_json *json, const char *name, uint64_t value);
/* A finite number; with six digits behind the point, or none of them where it is whole. */
void tool_json_real(struct tool_json *json, const char *name, double value);
void tool_json_bool(struct tool_json *json, const char *name, bool value);

#endif
