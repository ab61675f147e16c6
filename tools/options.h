/*
 * tools/options.h: what people write on command lines and in mount.conf, as numbers.
 *
 * Parsers return 0, or -EINVAL (not of that form) or -ERANGE (does not fit), and leave the
 * out-parameter alone then. Threads: any.
 */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include "kv/kv.h"

/* Exit statuses of mount(8). */
enum tool_mount_status {
    TOOL_MOUNT_OK = 0,
    TOOL_MOUNT_USAGE = 1,
    TOOL_MOUNT_SYSTEM = 2,
    TOOL_MOUNT_INTERNAL = 4,
    TOOL_MOUNT_INTERRUPTED = 8,
    TOOL_MOUNT_FAILED = 32,
};

/* Exit statuses of fsck(8). */
enum tool_fsck_status {
    TOOL_FSCK_OK = 0,
    TOOL_FSCK_CORRECTED = 1,
    TOOL_FSCK_UNCORRECTED = 4,
    TOOL_FSCK_ERROR = 8,
    TOOL_FSCK_USAGE = 16,
    TOOL_FSCK_CANCELLED = 32,
};

/*
 * First of all in main: standard streams that are closed are /dev/null from here on. Else what is
 * opened next would be one of them, and what is printed would go into an image.
 */
void tool_open_streams(void);

/* Print "PROGRAM: text" on standard error, one line. */
__attribute__((format(printf, 1, 2))) void tool_complain(const char *format, ...);

/* "4096", "64M", "1GiB": K M G T P E are powers of 1024, "iB" or "B" may follow. */
KV_MUST_CHECK int tool_parse_size(const char *text, uint64_t *bytes);

/* "250ms", "1s", "5min", "1h"; a bare number counts seconds, as in mount options elsewhere. */
KV_MUST_CHECK int tool_parse_duration(const char *text, uint64_t *milliseconds);

/* Decimal digits only. */
KV_MUST_CHECK int tool_parse_number(const char *text, uint64_t *number);

/* yes no on off true false 1 0. */
KV_MUST_CHECK int tool_parse_bool(const char *text, bool *value);

/* "none", "lz4", "zstd", "zstd:1" to "zstd:19". */
KV_MUST_CHECK int tool_parse_codec(const char *text, struct kv_codec_spec *codec);

/* Which of the names it is; they end with NULL. */
KV_MUST_CHECK int tool_parse_choice(const char *text, const char *const *names, uint32_t *index);

/* "8-4-4-4-12" hexadecimal digits. */
KV_MUST_CHECK int tool_parse_uuid(const char *text, uint8_t uuid[16]);

#define TOOL_UUID_TEXT 37u /* bytes, with the terminating zero */
void tool_format_uuid(const uint8_t uuid[16], char text[TOOL_UUID_TEXT]);

#define TOOL_SIZE_TEXT 32u /* bytes, with the terminating zero */
/* "16 KiB", "1.5 GiB": rounded to one decimal, exact when it is whole. */
void tool_format_size(uint64_t bytes, char text[TOOL_SIZE_TEXT]);

/* "none", "lz4", "zstd:3". */
#define TOOL_CODEC_TEXT 16u
void tool_format_codec(const struct kv_codec_spec *codec, char text[TOOL_CODEC_TEXT]);

/*
 * A key of the mount's name space: components of 1 to 255 bytes with single slashes between
 * them, none of them "." or "..".
 *
 * Returns 0; -EINVAL an empty, "." or ".." component; -ENAMETOOLONG one of more than 255
 * bytes; `error` then names it.
 */
KV_MUST_CHECK int tool_check_key(const char *key, struct kv_error *error);

/* The words for errno `err` (positive or negative): "No such file or directory". */
const char *tool_error_text(int err);

#endif
