/*
 * tools/options.c: what people write on command lines and in mount.conf, as numbers.
 *
 * Owns       nothing; no state.
 * Invariant  an out-parameter changes only when 0 is returned.
 */
#include "tools/options.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kv/base.h"
#include "tools/daemon_log.h"

#define COMPONENT_MAX 255u /* bytes of one name, as in every filesystem of Linux */

void tool_open_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

void tool_complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s%s: ", tool_stderr_is_journal() ? "<3>" : "", /* an error's priority */
            program_invocation_short_name);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

const char *tool_error_text(int err)
{
    const char *words = strerrordesc_np(err < 0 ? -err : err);
    return words ? words : "Unknown error";
}

/* The digits at the front of `text`; *rest is what follows them. */
static int take_digits(const char *text, uint64_t *number, const char **rest)
{
    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    uint64_t sum = 0;
    for (; isdigit((unsigned char)*text); text++)
        if (kv_mul_u64(sum, 10, &sum) || kv_add_u64(sum, (uint64_t)(*text - '0'), &sum))
            return -ERANGE;
    *number = sum;
    *rest = text;
    return 0;
}

int tool_parse_number(const char *text, uint64_t *number)
{
    const char *rest;
    uint64_t value;
    const int err = take_digits(text, &value, &rest);
    if (err)
        return err;
    if (*rest)
        return -EINVAL;
    *number = value;
    return 0;
}

int tool_parse_size(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGTPE";
    const char *rest;
    uint64_t value;
    const int err = take_digits(text, &value, &rest);
    if (err)
        return err;

    const char *unit = *rest ? strchr(units, toupper((unsigned char)*rest)) : NULL;
    if (unit) {
        rest++;
        if (rest[0] == 'i' && rest[1] == 'B')
            rest++;
    }
    if (*rest == 'B')
        rest++;
    if (*rest)
        return -EINVAL;
    if (unit && kv_mul_u64(value, 1ull << (10 * (unit - units + 1)), &value))
        return -ERANGE;
    *bytes = value;
    return 0;
}

int tool_parse_duration(const char *text, uint64_t *milliseconds)
{
    static const struct {
        const char *unit;
        uint64_t milliseconds;
    } units[] = {
        {"", 1000}, {"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000},
    };
    const char *rest;
    uint64_t value;
    const int err = take_digits(text, &value, &rest);
    if (err)
        return err;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(rest, units[i].unit) != 0)
            continue;
        if (kv_mul_u64(value, units[i].milliseconds, &value))
            return -ERANGE;
        *milliseconds = value;
        return 0;
    }
    return -EINVAL;
}

int tool_parse_bool(const char *text, bool *value)
{
    static const char *const words[][2] = {
        {"no", "yes"}, {"off", "on"}, {"false", "true"}, {"0", "1"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        for (int truth = 0; truth < 2; truth++)
            if (strcasecmp(text, words[i][truth]) == 0) {
                *value = truth;
                return 0;
            }
    return -EINVAL;
}

int tool_parse_codec(const char *text, struct kv_codec_spec *codec)
{
    const char *const level_text = strchrnul(text, ':');
    const size_t length = (size_t)(level_text - text);
    unsigned id = 0;
    while (id < KV_CODEC_COUNT &&
           (strlen(kv_codec_name(id)) != length || strncmp(kv_codec_name(id), text, length) != 0))
        id++;
    uint64_t level = 0;
    if (id == KV_CODEC_COUNT ||
        (*level_text && (id != KV_CODEC_ZSTD || tool_parse_number(level_text + 1, &level))))
        return -EINVAL;
    if (*level_text && (level < 1 || level > 19))
        return -ERANGE;
    *codec = (struct kv_codec_spec){.codec = (enum kv_codec)id, .level = (int)level};
    return 0;
}

int tool_parse_choice(const char *text, const char *const *names, uint32_t *index)
{
    for (uint32_t i = 0; names[i]; i++)
        if (strcmp(text, names[i]) == 0) {
            *index = i;
            return 0;
        }
    return -EINVAL;
}

/* The value of a hexadecimal digit, or -1. */
static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    const int lower = tolower((unsigned char)c);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* Is there a dash before byte `i` of a UUID? */
static bool uuid_dash_before(size_t i)
{
    return i == 4 || i == 6 || i == 8 || i == 10;
}

int tool_parse_uuid(const char *text, uint8_t uuid[16])
{
    uint8_t bytes[16];
    for (size_t i = 0; i < sizeof bytes; i++) {
        if (uuid_dash_before(i) && *text++ != '-')
            return -EINVAL;
        const int high = hex_value(text[0]);
        const int low = high < 0 ? -1 : hex_value(text[1]);
        if (low < 0)
            return -EINVAL;
        bytes[i] = (uint8_t)(high << 4 | low);
        text += 2;
    }
    if (*text)
        return -EINVAL;
    memcpy(uuid, bytes, sizeof bytes);
    return 0;
}

void tool_format_uuid(const uint8_t uuid[16], char text[TOOL_UUID_TEXT])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < 16; i++) {
        if (uuid_dash_before(i))
            *text++ = '-';
        *text++ = digits[uuid[i] >> 4];
        *text++ = digits[uuid[i] & 15];
    }
    *text = '\0';
}

void tool_format_size(uint64_t bytes, char text[TOOL_SIZE_TEXT])
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    uint64_t scale = 1;
    while (unit + 1 < sizeof units / sizeof units[0] && bytes / scale >= 1024) {
        scale *= 1024;
        unit++;
    }
    if (bytes % scale == 0)
        snprintf(text, TOOL_SIZE_TEXT, "%llu %s", (unsigned long long)(bytes / scale), units[unit]);
    else
        snprintf(text, TOOL_SIZE_TEXT, "%.1f %s", (double)bytes / (double)scale, units[unit]);
}

void tool_format_codec(const struct kv_codec_spec *codec, char text[TOOL_CODEC_TEXT])
{
    const char *const name = kv_codec_name((unsigned)codec->codec);
    if (codec->codec == KV_CODEC_ZSTD && codec->level)
        snprintf(text, TOOL_CODEC_TEXT, "%s:%d", name, codec->level);
    else
        snprintf(text, TOOL_CODEC_TEXT, "%s", name);
}

/* Complain about one component; the first bytes of a long one are enough to find it. */
static int refuse_component(const char *key, const char *component, size_t length, size_t index,
                            struct kv_error *error)
{
    if (length == 0) {
        snprintf(error->text, sizeof error->text,
                 "key \"%.100s\": component %zu is empty; write names with single slashes between "
                 "them, none first or last",
                 key, index);
        return -EINVAL;
    }
    if (length > COMPONENT_MAX) {
        snprintf(error->text, sizeof error->text,
                 "key component %zu, \"%.40s...\", has %zu bytes; shorten it to %u", index,
                 component, length, COMPONENT_MAX);
        return -ENAMETOOLONG;
    }
    snprintf(error->text, sizeof error->text,
             "key \"%.100s\": component %zu is \"%.*s\"; write the path without it", key, index,
             (int)length, component);
    return -EINVAL;
}

int tool_check_key(const char *key, struct kv_error *error)
{
    const char *component = key;
    for (size_t index = 1;; index++) {
        const size_t length = strcspn(component, "/");
        const bool dots = (length == 1 && component[0] == '.') ||
                          (length == 2 && component[0] == '.' && component[1] == '.');
        if (length == 0 || length > COMPONENT_MAX || dots)
            return refuse_component(key, component, length, index, error);
        if (!component[length])
            return 0;
        component += length + 1;
    }
}
