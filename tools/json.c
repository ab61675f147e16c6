/*
 * tools/json.c: JSON written to a stream, one value after the other.
 *
 * Owns       the commas. Nothing is buffered here, so nothing is bounded but the depth.
 */
#include "tools/json.h"

#include <inttypes.h>
#include <string.h>

#include "kv/base.h"

/* Bytes of the well-formed UTF-8 sequence at `at`, which ends with a zero byte; 0: none is there.
 */
static size_t utf8_length(const unsigned char *at)
{
    /* Lead bytes, and the bounds of the byte after them (RFC 3629, section 4). */
    static const struct {
        unsigned char first, last, next_least, next_most, length;
    } forms[] = {
        {0x01, 0x7f, 0, 0xff, 1},    {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t form = 0; form < sizeof forms / sizeof forms[0]; form++) {
        if (at[0] < forms[form].first || at[0] > forms[form].last)
            continue;
        const size_t length = forms[form].length;
        if (at[1] < forms[form].next_least || at[1] > forms[form].next_most)
            return 0;
        for (size_t i = 2; i < length; i++)
            if ((at[i] & 0xc0) != 0x80)
                return 0;
        return length;
    }
    return 0;
}

static void write_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        const size_t length = utf8_length(at);
        if (length == 0)
            fprintf(out, "\\udc%02x", *at);
        else if (*at < 0x20 || *at == 0x7f)
            fprintf(out, "\\u%04x", *at);
        else if (*at == '"' || *at == '\\')
            fprintf(out, "\\%c", *at);
        else
            fwrite(at, 1, length, out);
        at += length ? length : 1;
    }
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

void tool_json_number(struct tool_json *json, const char *name, uint64_t value)
{
    begin_member(json, name);
    fprintf(json->out, "%" PRIu64, value);
}

void tool_json_bool(struct tool_json *json, const char *name, bool value)
{
    begin_member(json, name);
    fputs(value ? "true" : "false", json->out);
}
