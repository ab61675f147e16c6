/*
 * tools/kvfs_apply.c: kvfs apply: changes of many keys, all of them or none.
 *
 * What is given is brought into one form, keys with all their bytes in quotes and values by their
 * length (fs/apply.h), so that a mount and an image get the same, and mistakes are found here.
 */
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/apply.h"
#include "tools/json_read.h"
#include "tools/keys.h"
#include "tools/keys_backend.h"
#include "tools/options.h"

/* All that a descriptor gives; to be freed, with room for one byte more. */
static int read_all(int fd, char **text, size_t *length)
{
    size_t capacity = 65536, got = 1;
    int err = 0;
    *text = malloc(capacity + 1);
    *length = 0;
    while (*text && !err && got > 0 && *length <= FS_APPLY_TEXT_MAX) {
        if (*length == capacity) {
            capacity *= 2;
            char *grown = realloc(*text, capacity + 1);
            if (!grown)
                return -ENOMEM;
            *text = grown;
        }
        err = keys_read_full(fd, *text + *length, capacity - *length, &got);
        *length += got;
    }
    return *text ? err : -ENOMEM;
}

/* ---- JSON lines -------------------------------------------------------------------- */

static bool is_word(const struct tool_json_value *value, const char *word)
{
    return value && strcmp(value->text, word) == 0;
}

static void print_word(FILE *out, const struct tool_json_value *word)
{
    fputc(' ', out);
    tool_print_quoted(out, word->text, word->length);
}

/* One object as a line of text; returns NULL, or what is wrong with it. */
static const char *convert_object(const struct tool_json_value *object, FILE *out)
{
    static const char *const one_key[] = {"delete", "discard", "mkdir"};
    const struct tool_json_value *op = tool_json_member(object, "op", TOOL_JSON_STRING);
    const struct tool_json_value *key = tool_json_member(object, "key", TOOL_JSON_STRING);
    if (!op || !key)
        return "wants \"op\" and \"key\"";
    if (is_word(op, "put")) {
        const struct tool_json_value *value = tool_json_member(object, "value", TOOL_JSON_STRING);
        if (!value)
            return "put wants a \"value\", a string";
        fputs("put", out);
        print_word(out, key);
        print_word(out, value);
        fputc('\n', out);
        return NULL;
    }
    if (is_word(op, "rename") || is_word(op, "link")) {
        const struct tool_json_value *to = tool_json_member(object, "to", TOOL_JSON_STRING);
        if (!to)
            return "rename and link want \"to\", a key";
        fputs(op->text, out);
        print_word(out, key);
        print_word(out, to);
        fputc('\n', out);
        return NULL;
    }
    for (size_t i = 0; i < sizeof one_key / sizeof *one_key; i++) {
        if (is_word(op, one_key[i])) {
            fputs(op->text, out);
            print_word(out, key);
            fputc('\n', out);
            return NULL;
        }
    }
    return "\"op\" is put, delete, discard, rename, link or mkdir";
}

/* JSON lines to text, line by line: what is wrong later is told with the same number. */
static int convert_json(char **text, size_t *length, struct kv_error *error)
{
    char *converted = NULL;
    size_t converted_len = 0;
    FILE *out = open_memstream(&converted, &converted_len);
    if (!out)
        return -errno;
    int err = 0;
    unsigned long long line = 1;
    char *const end = *text + *length;
    for (char *at = *text, *next; !err && at < end; at = next, line++) {
        char *newline = memchr(at, '\n', (size_t)(end - at));
        next = newline ? newline + 1 : end;
        const size_t line_len = (size_t)((newline ? newline : end) - at);
        if (strspn(at, " \t\r") >= line_len) {
            fputc('\n', out);
            continue;
        }
        struct tool_json_document *document = NULL;
        const char *complaint = NULL;
        err = tool_json_read(at, line_len, &document, &complaint);
        if (!err)
            complaint = convert_object(tool_json_root(document), out);
        if (complaint) {
            snprintf(error->text, sizeof error->text, "line %llu: %s", line, complaint);
            err = err ? err : -EINVAL;
        }
        tool_json_document_free(document);
    }
    if (fclose(out) && !err)
        err = -ENOMEM;
    free(*text);
    *text = converted;
    *length = converted_len;
    return err;
}

/* ---- the command ---------------------------------------------------------------------- */

static int apply_text(const char *target, const char *text, size_t length, struct kv_error *error,
                      uint64_t *count)
{
    struct fs_apply_batch *batch;
    struct fs_apply_result result;
    const struct fs_apply_change *changes;
    struct tool_keys *keys;
    /* Before the target is opened for writing: a bad line changes nothing at all. */
    int err = fs_apply_parse(text, length, &batch, &result);
    if (err) {
        *error = result.error;
        return err;
    }
    *count = fs_apply_batch_changes(batch, &changes);
    for (size_t i = 0; !err && i < *count; i++) {
        err = tool_check_key(changes[i].path + (*changes[i].path == '/'), error);
        if (!err && changes[i].to)
            err = tool_check_key(changes[i].to + (*changes[i].to == '/'), error);
    }
    if (!err)
        err = tool_keys_open(target, TOOL_KEYS_WRITE, &keys, error);
    if (!err) {
        struct kv_error close_error = {""};
        err = keys->ops->apply(keys->backend, text, length, batch, error);
        const int close_err = tool_keys_close(keys, &close_error);
        if (!err && close_err) {
            *error = close_error;
            err = close_err;
        }
    }
    fs_apply_batch_free(batch);
    return err;
}

static int run_apply(const struct tool_arguments *arguments)
{
    const char *path = arguments->operands[1] ? arguments->operands[1] : "-";
    struct kv_error error = {""};
    char *text = NULL;
    size_t length = 0;
    uint64_t count = 0;
    const bool is_stdin = strcmp(path, "-") == 0;
    const int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    int err = fd < 0 ? -errno : read_all(fd, &text, &length);
    if (fd > STDERR_FILENO)
        close(fd);
    if (err) {
        tool_complain("%s: %s; give a FILE that can be read, or none for standard input", path,
                      tool_error_text(err));
        free(text);
        return TOOL_FAILED;
    }
    if (tool_given(arguments, 'j'))
        err = convert_json(&text, &length, &error);
    if (!err)
        err = apply_text(arguments->operands[0], text, length, &error, &count);
    free(text);
    if (err) {
        const bool of_text = strncmp(error.text, "line ", 5) == 0;
        tool_complain("%s%s%s; nothing was changed",
                      of_text ? is_stdin ? "standard input" : path : "", of_text ? ": " : "",
                      *error.text ? error.text : tool_error_text(err));
        return err == -EINVAL || err == -ENAMETOOLONG ? TOOL_USAGE : TOOL_FAILED;
    }
    if (tool_given(arguments, 'v'))
        printf("%llu changes\n", (unsigned long long)count);
    return tool_finish_output(TOOL_OK);
}

static const struct option apply_options[] = {
    {"json", no_argument, NULL, 'j'},
    {"verbose", no_argument, NULL, 'v'},
    {0},
};

const struct tool_command tool_command_apply = {
    .name = "apply",
    .synopsis = "[--json] [-v] IMAGE|DIR [FILE]",
    .help =
        "Make the changes that FILE or standard input names, a line for each: all of them, or "
        "none\n"
        "if one may not be made or power is lost. Each sees what those before it did. They are\n"
        "durable when kvfs returns.\n"
        "\n"
        "  put KEY VALUE      store a value; directories on the way are made\n"
        "  put KEY @LENGTH    the value is the LENGTH bytes after this line, and a newline\n"
        "  delete KEY         remove a value or an empty directory; it must be there\n"
        "  discard KEY        the same; it need not be there\n"
        "  rename KEY NEW     move, in place of what NEW may name\n"
        "  link KEY FILE      one more name, KEY, for the value FILE\n"
        "  mkdir KEY          make a directory; it may be there\n"
        "  # remark\n"
        "\n"
        "A word with spaces, quotes or backslashes stands in double quotes, where \\\\ \\\" \\n "
        "\\r \\t\n"
        "\\0 and \\xHH are bytes. kvfs scan --puts prints such lines.\n"
        "\n"
        "  -j, --json     lines of JSON: {\"op\":\"put\",\"key\":\"k\",\"value\":\"v\"}, rename "
        "and link\n"
        "                 with \"to\"; \\udc80 to \\udcff are the bytes 80 to ff\n"
        "  -v, --verbose  say how many changes were made\n"
        "\n"
        "Exit status: 0 all changes were made, 1 none was, 2 usage, or a line is not well formed.\n"
        "\n"
        "Example: printf 'put a 1\\nrename b c\\ndelete d\\n' | kvfs apply data.img\n",
    .options = apply_options,
    .operands_least = 1,
    .operands_most = 2,
    .run = run_apply,
};
