/*
 * tools/json.c: JSON written to a stream, one value after the other.
 *
 * Owns       the commas. Nothing is buffered here, so nothing is bounded but the depth.
 */
#include "tools/json.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "kv/base.h"

/* What stands at the beginning of some bytes. */
enum utf8_kind { UTF8_NONE, UTF8_WHOLE, UTF8_CUT };

/* length: out, of a whole sequence. UTF8_CUT: it may be one, but the bytes end. */
static enum utf8_kind utf8_look(const unsigned char *at, size_t left, size_t *length)
{
    /* Lead bytes, and the bounds of the byte after them (RFC 3629, section 4). */
    static const struct {
        unsigned char first, last, next_least, next_most, length;
    } forms[] = {
        {0x00, 0x7f, 0, 0xff, 1},    {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t form = 0; form < sizeof forms / sizeof forms[0]; form++) {
        if (at[0] < forms[form].first || at[0] > forms[form].last)
            continue;
        *length = forms[form].length;
        for (size_t i = 1; i < *length; i++) {
            if (i == left)
                return UTF8_CUT;
            const unsigned char least = i == 1 ? forms[form].next_least : 0x80;
            const unsigned char most = i == 1 ? forms[form].next_most : 0xbf;
            if (at[i] < least || at[i] > most)
                return UTF8_NONE;
        }
        return UTF8_WHOLE;
    }
    return UTF8_NONE;
}

/* Write as much as is decided; at_end: all. Returns how many bytes that was, all but 3 at least. */
static size_t write_escaped(FILE *out, const unsigned char *bytes, size_t length, bool at_end)
{
    size_t at = 0;
    while (at < length) {
        size_t step = 1;
        const enum utf8_kind kind = utf8_look(bytes + at, length - at, &step);
        if (kind == UTF8_CUT && !at_end)
            break;
        if (kind != UTF8_WHOLE) {
            step = 1;
            fprintf(out, "\\udc%02x", bytes[at]);
        } else if (bytes[at] < 0x20 || bytes[at] == 0x7f) {
            fprintf(out, "\\u%04x", bytes[at]);
        } else if (bytes[at] == '"' || bytes[at] == '\\') {
            fprintf(out, "\\%c", bytes[at]);
        } else {
            fwrite(bytes + at, 1, step, out);
        }
        at += step;
    }
    return at;
}

static void write_text(FILE *out, const char *text)
{
    fputc('"', out);
    (void)write_escaped(out, (const unsigned char *)text, strlen(text), true); /* all of it */
    fputc('"', out);
}

/* The comma before a member, and its name. */
static void begin_member(struct tool_json *json, const char *name)
{
    if (json->has_members[json->depth])
        fputc(',', json->out);
    json->has_members[json->depth] = true;
    if (name) {
        write_text(json->out, name);
        fputc(':', json->out);
    }
}

void tool_json_init(struct tool_json *json, FILE *out)
{
    *json = (struct tool_json){.out = out};
}

void tool_json_open(struct tool_json *json, const char *name, char bracket)
{
    KV_ASSERT(json->depth < TOOL_JSON_DEPTH);
    begin_member(json, name);
    fputc(bracket, json->out);
    json->has_members[++json->depth] = false;
}

void tool_json_close(struct tool_json *json, char bracket)
{
    KV_ASSERT(json->depth > 0);
    fputc(bracket, json->out);
    if (--json->depth == 0)
        fputc('\n', json->out);
}

void tool_json_string(struct tool_json *json, const char *name, const char *value)
{
    begin_member(json, name);
    write_text(json->out, value);
}

void tool_json_bytes(struct tool_json *json, const char *name, const void *bytes, size_t length)
{
    tool_json_begin_text(json, name);
    tool_json_add_text(json, bytes, length);
    tool_json_end_text(json);
}

void tool_json_begin_text(struct tool_json *json, const char *name)
{
    begin_member(json, name);
    fputc('"', json->out);
    json->rest_len = 0;
}

void tool_json_add_text(struct tool_json *json, const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    /* What was left is completed byte by byte, until it is decided. */
    while (json->rest_len > 0 && length > 0) {
        json->rest[json->rest_len++] = *at++;
        length--;
        const size_t done = write_escaped(json->out, json->rest, json->rest_len, false);
        json->rest_len -= done;
        memmove(json->rest, json->rest + done, json->rest_len);
    }
    if (length == 0)
        return;
    const size_t done = write_escaped(json->out, at, length, false);
    json->rest_len = length - done;
    memcpy(json->rest, at + done, json->rest_len);
}

void tool_json_end_text(struct tool_json *json)
{
    (void)write_escaped(json->out, json->rest, json->rest_len, true); /* all of it */
    json->rest_len = 0;
    fputc('"', json->out);
}

void tool_json_signed(struct tool_json *json, const char *name, int64_t value)
{
    begin_member(json, name);
    fprintf(json->out, "%" PRId64, value);
}

void tool_json_number(struct tool_json *json, const char *name, uint64_t value)
{
    begin_member(json, name);
    fprintf(json->out, "%" PRIu64, value);
}

void tool_json_real(struct tool_json *json, const char *name, double value)
{
    begin_member(json, name);
    fprintf(json->out, fabs(value) < 9e15 && value == (double)(int64_t)value ? "%.0f" : "%.6f",
            value);
}

void tool_json_bool(struct tool_json *json, const char *name, bool value)
{
    begin_member(json, name);
    fputs(value ? "true" : "false", json->out);
}
