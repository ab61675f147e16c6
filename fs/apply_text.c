/*
 * fs/apply_text.c: changes as people and scripts write them (the form: fs/apply.h).
 *
 * Owns       a batch: its changes, and one arena of the words that had to be written anew.
 * Invariant  the text is input: every length is checked against what is left of it; values given
 *            by length are used where they lie.
 * Locks      none.
 */
#include "fs/apply.h"

#include <stdio.h>

struct fs_apply_batch {
    struct fs_apply_change *changes;
    uint64_t *lines; /* where each begins */
    size_t count, capacity;
    char *arena; /* terminated words */
    size_t arena_len;
};

/* What is left to read. */
struct reader {
    const char *at, *end;
    uint64_t line;
    struct fs_apply_batch *batch;
    struct fs_apply_result *result;
};

/* A word: terminated, in the arena. */
struct word {
    const char *bytes;
    size_t length;
    bool quoted;
};

/* The line, and two halves of what is wrong with it. */
static int refuse(const struct reader *reader, const char *first, const char *second)
{
    reader->result->line = reader->line;
    (void)snprintf(reader->result->error.text, sizeof reader->result->error.text,
                   "line %llu: %.100s%.300s", (unsigned long long)reader->line, first, second);
    return -EINVAL;
}

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

static void skip_blanks(struct reader *reader)
{
    while (reader->at < reader->end && is_blank(*reader->at))
        reader->at++;
}

static bool at_line_end(const struct reader *reader)
{
    return reader->at == reader->end || *reader->at == '\n';
}

static int hex_digit(char byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* The byte that an escape names; `at` is behind the backslash and moves on. */
static int read_escape(struct reader *reader, char *byte)
{
    static const char letters[] = "\\\"nrt0", bytes[] = "\\\"\n\r\t";
    if (reader->at == reader->end)
        return refuse(reader, "it ends after a backslash", "");
    const char letter = *reader->at++;
    if (letter == 'x') {
        const int high = reader->end - reader->at >= 2 ? hex_digit(reader->at[0]) : -1;
        const int low = high >= 0 ? hex_digit(reader->at[1]) : -1;
        if (low < 0)
            return refuse(reader, "\\x wants two hexadecimal digits", "");
        *byte = (char)(high << 4 | low);
        reader->at += 2;
        return 0;
    }
    const char *found = letter ? strchr(letters, letter) : NULL;
    if (!found)
        return refuse(reader, "no such escape; there are \\\\ \\\" \\n \\r \\t \\0 and \\xHH", "");
    *byte = bytes[found - letters]; /* the terminating zero is the one of \0 */
    return 0;
}

static int read_quoted(struct reader *reader)
{
    struct fs_apply_batch *batch = reader->batch;
    for (reader->at++; !at_line_end(reader);) {
        char byte = *reader->at++;
        if (byte == '"') {
            if (!at_line_end(reader) && !is_blank(*reader->at))
                return refuse(reader, "a closing quote wants a space or the end after it", "");
            return 0;
        }
        if (byte == '\\') {
            const int err = read_escape(reader, &byte);
            if (err)
                return err;
        }
        batch->arena[batch->arena_len++] = byte;
    }
    return refuse(reader, "a quote that is not closed; write a newline as \\n", "");
}

static int read_plain(struct reader *reader)
{
    struct fs_apply_batch *batch = reader->batch;
    while (!at_line_end(reader) && !is_blank(*reader->at)) {
        const char byte = *reader->at++;
        if (byte == '\\' || byte == '"' || byte == '\0')
            return refuse(reader,
                          "a word with a backslash, a quote or a zero byte wants quotes "
                          "around it",
                          "");
        batch->arena[batch->arena_len++] = byte;
    }
    return 0;
}

/* what: what is expected here, for people. */
static int read_word(struct reader *reader, const char *what, struct word *word)
{
    struct fs_apply_batch *batch = reader->batch;
    skip_blanks(reader);
    if (at_line_end(reader))
        return refuse(reader, what, " is missing");
    const size_t start = batch->arena_len;
    word->quoted = *reader->at == '"';
    const int err = word->quoted ? read_quoted(reader) : read_plain(reader);
    if (err)
        return err;
    word->bytes = batch->arena + start;
    word->length = batch->arena_len - start;
    batch->arena[batch->arena_len++] = '\0';
    return 0;
}

static int read_key(struct reader *reader, const char *what, const char **key)
{
    struct word word;
    const int err = read_word(reader, what, &word);
    if (err)
        return err;
    if (!word.quoted && (*word.bytes == '@' || *word.bytes == '#'))
        return refuse(reader, word.bytes, ": a key that begins so wants quotes around it");
    if (memchr(word.bytes, '\0', word.length))
        return refuse(reader, "a key has no zero byte", "");
    *key = word.bytes;
    return 0;
}

static int end_line(struct reader *reader)
{
    skip_blanks(reader);
    if (!at_line_end(reader))
        return refuse(reader, "more than is wanted; a word with spaces wants quotes around it", "");
    if (reader->at < reader->end)
        reader->at++;
    return 0;
}

static int parse_decimal(const char *text, uint64_t *number)
{
    char *end;
    if (*text < '0' || *text > '9')
        return -EINVAL;
    errno = 0;
    const unsigned long long parsed = strtoull(text, &end, 10);
    if (errno || *end)
        return -EINVAL;
    *number = parsed;
    return 0;
}

static int read_value(struct reader *reader, struct fs_apply_change *change)
{
    struct word word;
    uint64_t length;
    int err = read_word(reader, "a value", &word);
    if (err)
        return err;
    if (!word.quoted && *word.bytes == '#')
        return refuse(reader, "a value that begins with # wants quotes around it", "");
    if (word.quoted || *word.bytes != '@') {
        change->bytes = word.bytes;
        change->length = word.length;
        return end_line(reader);
    }
    if (parse_decimal(word.bytes + 1, &length))
        return refuse(reader, word.bytes,
                      ": @ and a number of bytes; a value that begins with @ wants quotes around "
                      "it");
    err = end_line(reader);
    if (err)
        return err;
    const size_t left = (size_t)(reader->end - reader->at);
    if (length > left) {
        char rest[64];
        (void)snprintf(rest, sizeof rest, ": only %zu bytes follow", left);
        return refuse(reader, word.bytes, rest);
    }
    change->bytes = reader->at;
    change->length = (size_t)length;
    if (length < left && reader->at[length] != '\n')
        return refuse(reader, word.bytes, ": no newline after so many bytes of a value");
    for (const char *end = reader->at + length, *at = reader->at;
         at < end && (at = memchr(at, '\n', (size_t)(end - at))); at++)
        reader->line++;
    reader->at += length;
    reader->line++;
    if (reader->at < reader->end)
        reader->at++;
    return 0;
}

static int read_change(struct reader *reader, const char *operation, struct fs_apply_change *change)
{
    static const struct {
        const char *name;
        enum fs_apply_kind kind;
        const char *to; /* what the second key is */
    } operations[] = {
        {"put", FS_APPLY_PUT, NULL},         {"delete", FS_APPLY_DELETE, NULL},
        {"discard", FS_APPLY_DISCARD, NULL}, {"rename", FS_APPLY_RENAME, "the new key"},
        {"link", FS_APPLY_LINK, "the file"}, {"mkdir", FS_APPLY_MKDIR, NULL},
    };
    const size_t operation_count = sizeof operations / sizeof operations[0];
    size_t i = 0;
    while (i < operation_count && strcmp(operations[i].name, operation) != 0)
        i++;
    if (i == operation_count)
        return refuse(reader, operation,
                      ": no such change; there are put, delete, discard, rename, link and mkdir");
    *change = (struct fs_apply_change){.kind = operations[i].kind};
    int err = read_key(reader, "a key", &change->path);
    if (!err && operations[i].to)
        err = read_key(reader, operations[i].to, &change->to);
    if (err)
        return err;
    return change->kind == FS_APPLY_PUT ? read_value(reader, change) : end_line(reader);
}

static int add_change(struct fs_apply_batch *batch, const struct fs_apply_change *change,
                      uint64_t line)
{
    if (batch->count == batch->capacity) {
        const size_t capacity = batch->capacity ? batch->capacity * 2 : 64;
        struct fs_apply_change *changes = reallocarray(batch->changes, capacity, sizeof *changes);
        if (!changes)
            return -ENOMEM;
        batch->changes = changes;
        uint64_t *lines = reallocarray(batch->lines, capacity, sizeof *lines);
        if (!lines)
            return -ENOMEM;
        batch->lines = lines;
        batch->capacity = capacity;
    }
    batch->lines[batch->count] = line;
    batch->changes[batch->count++] = *change;
    return 0;
}

static int read_line(struct reader *reader)
{
    struct fs_apply_change change;
    struct word operation = {NULL, 0, false};
    const uint64_t line = reader->line;
    skip_blanks(reader);
    if (!at_line_end(reader) && *reader->at == '#') {
        const char *end = memchr(reader->at, '\n', (size_t)(reader->end - reader->at));
        reader->at = end ? end : reader->end;
    }
    if (at_line_end(reader)) {
        reader->at += reader->at < reader->end;
        reader->line++;
        return 0;
    }
    int err = read_word(reader, "a change", &operation);
    if (!err)
        err = read_change(reader, operation.bytes, &change);
    if (!err)
        err = add_change(reader->batch, &change, line);
    reader->line++;
    return err;
}

int fs_apply_parse(const void *text, size_t length, struct fs_apply_batch **batch_out,
                   struct fs_apply_result *result)
{
    *result = (struct fs_apply_result){.failed = 0};
    if (length > FS_APPLY_TEXT_MAX) {
        (void)snprintf(result->error.text, sizeof result->error.text,
                       "%zu bytes of changes, %u are the most at once; make several batches of it",
                       length, FS_APPLY_TEXT_MAX);
        return -E2BIG;
    }
    struct fs_apply_batch *batch = calloc(1, sizeof *batch);
    /* A word takes no more than its text and what comes after it; the last has nothing there. */
    if (batch)
        batch->arena = malloc(length + 1);
    struct reader reader = {.at = text,
                            .end = (const char *)text + length,
                            .line = 1,
                            .batch = batch,
                            .result = result};
    int err = batch && batch->arena ? 0 : -ENOMEM;
    while (!err && reader.at < reader.end)
        err = read_line(&reader);
    if (err == -ENOMEM)
        (void)snprintf(result->error.text, sizeof result->error.text, "not enough memory");
    if (err) {
        fs_apply_batch_free(batch);
        return err;
    }
    result->change_count = result->failed = batch->count;
    *batch_out = batch;
    return 0;
}

void fs_apply_batch_free(struct fs_apply_batch *batch)
{
    if (!batch)
        return;
    free(batch->changes);
    free(batch->lines);
    free(batch->arena);
    free(batch);
}

size_t fs_apply_batch_changes(const struct fs_apply_batch *batch,
                              const struct fs_apply_change **changes)
{
    *changes = batch->changes;
    return batch->count;
}

uint64_t fs_apply_batch_line(const struct fs_apply_batch *batch, size_t index)
{
    KV_ASSERT(index < batch->count);
    return batch->lines[index];
}

/* ---- a text and a filesystem ----------------------------------------------------------------- */

/* The number in "inode N", which stands alone; 0: it says something else. */
static uint64_t named_inode(const char *text, size_t length)
{
    static const char word[] = "inode ";
    char number[24];
    uint64_t ino;
    if (length < sizeof word || memcmp(text, word, sizeof word - 1) != 0)
        return 0;
    text += sizeof word - 1;
    length -= sizeof word - 1;
    if (text[length - 1] == '\n')
        length--;
    if (length == 0 || length >= sizeof number)
        return 0;
    memcpy(number, text, length);
    number[length] = '\0';
    return parse_decimal(number, &ino) ? 0 : ino;
}

/* The content of a file of changes; to be freed. */
static int read_file(struct fs_volume *volume, uint64_t ino, char **text, size_t *length,
                     struct fs_apply_result *result)
{
    struct fs_record record;
    size_t got = 0;
    int err = fs_getattr(volume, ino, &record);
    if (!err && !S_ISREG(record.mode))
        err = -EINVAL;
    if (err) {
        (void)snprintf(result->error.text, sizeof result->error.text,
                       "inode %llu: no regular file that a program has open",
                       (unsigned long long)ino);
        return err == -ESTALE ? -EINVAL : err;
    }
    if (record.file.size > FS_APPLY_TEXT_MAX) {
        (void)snprintf(result->error.text, sizeof result->error.text,
                       "%llu bytes of changes, %u are the most at once; make several batches of it",
                       (unsigned long long)record.file.size, FS_APPLY_TEXT_MAX);
        return -E2BIG;
    }
    *text = malloc((size_t)record.file.size + 1);
    if (!*text)
        return -ENOMEM;
    for (*length = 0; !err && *length < record.file.size; *length += got) {
        const size_t left = (size_t)record.file.size - *length;
        got = 0;
        err = fs_read(volume, ino, *length, *text + *length, left, &got);
        if (!err && got == 0)
            break; /* it has become shorter meanwhile */
    }
    return err;
}

int fs_apply_text(struct fs_volume *volume, const struct fs_caller *caller, const void *text,
                  size_t length, const struct fs_apply_observer *observer,
                  struct fs_apply_result *result)
{
    struct fs_apply_batch *batch = NULL;
    char *content = NULL;
    *result = (struct fs_apply_result){.failed = 0};
    const uint64_t ino = named_inode(text, length);
    int err = ino ? read_file(volume, ino, &content, &length, result) : 0;
    if (!err)
        err = fs_apply_parse(ino ? content : text, length, &batch, result);
    if (err)
        goto out;
    err = fs_apply(volume, caller, batch->changes, batch->count, KV_APPLY_SYNC, observer, result);
    if (err && result->failed < batch->count) {
        const struct kv_error plain = result->error;
        result->line = batch->lines[result->failed];
        (void)snprintf(result->error.text, sizeof result->error.text, "line %llu: %.480s",
                       (unsigned long long)result->line, plain.text);
    }
out:
    if (err && !*result->error.text)
        (void)snprintf(result->error.text, sizeof result->error.text, "%s", strerror(-err));
    fs_apply_batch_free(batch);
    free(content);
    return err;
}
