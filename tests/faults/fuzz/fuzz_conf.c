/*
 * tests/faults/fuzz/fuzz_conf.c: mount.conf, -o options (tools/config.h), and what people
 * write on command lines (tools/options.h).
 *
 * Input      the text of a file; each of its lines is also an option, a number, a key.
 */
#include "tests/faults/fuzz/fuzz.h"

#include "tools/config.h"
#include "tools/options.h"

#include <sys/mman.h>
#include <unistd.h>

/* A file in memory that is written anew for each input. */
static const char *conf_path(const struct fuzz_input *text)
{
    static int file = -1;
    static char path[64];
    if (file < 0) {
        file = memfd_create("mount.conf", MFD_CLOEXEC);
        KV_ASSERT(file >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    KV_ASSERT(ftruncate(file, 0) == 0);
    if (text->left)
        KV_ASSERT(pwrite(file, text->at, text->left, 0) == (ssize_t)text->left);
    return path;
}

static bool one_line(const struct kv_error *error)
{
    const void *const end = memchr(error->text, '\0', sizeof error->text);
    return end && error->text[0];
}

static void check_file(const struct fuzz_input *text)
{
    struct fs_mount_options options;
    struct kv_error error = {""};
    tool_config_defaults(&options);
    const int err = tool_config_read(conf_path(text), &options, &error);
    KV_ASSERT(err == 0 || err == -EINVAL || err == -EIO);
    KV_ASSERT(!err || one_line(&error));
    if (!err)
        tool_config_release(&options);
}

static void check_option(const char *key, const char *value)
{
    struct fs_mount_options options;
    struct kv_error error = {""};
    tool_config_defaults(&options);
    const int err = tool_config_set(key, value, &options, &error);
    KV_ASSERT(err == 0 || err == -EINVAL || err == -ENOENT);
    KV_ASSERT(err != -EINVAL || one_line(&error));
}

static void check_word(const char *word)
{
    uint64_t number;
    bool yes;
    struct kv_codec_spec codec;
    static const char *const choices[] = {"fsync", "always", "checkpoint", NULL};
    uint32_t choice;
    uint8_t uuid[16];
    struct kv_error error = {""};
    kv_ignore(tool_parse_duration(word, &number));
    kv_ignore(tool_parse_number(word, &number));
    kv_ignore(tool_parse_bool(word, &yes));
    kv_ignore(tool_parse_choice(word, choices, &choice));
    if (!tool_parse_codec(word, &codec)) {
        char text[TOOL_CODEC_TEXT];
        tool_format_codec(&codec, text);
        KV_ASSERT(tool_parse_codec(text, &codec) == 0);
    }
    if (!tool_parse_size(word, &number)) {
        char text[TOOL_SIZE_TEXT];
        tool_format_size(number, text);
        KV_ASSERT(strlen(text) < sizeof text);
    }
    if (!tool_parse_uuid(word, uuid)) {
        char text[TOOL_UUID_TEXT];
        tool_format_uuid(uuid, text);
        KV_ASSERT(strcasecmp(text, word) == 0);
    }
    if (tool_check_key(word, &error))
        KV_ASSERT(one_line(&error));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    const struct fuzz_input input = {bytes, length};
    check_file(&input);

    char *const text = malloc(length + 1);
    KV_ASSERT(text);
    if (length)
        memcpy(text, bytes, length);
    text[length] = '\0';
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        check_word(line);
        char *value = line;
        const char *const key = strsep(&value, "=");
        check_option(key, value);
        if (value)
            check_word(value);
    }
    free(text);
    return 0;
}
