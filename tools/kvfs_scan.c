/*
 * tools/kvfs_scan.c: kvfs scan: keys in order, with or without their values.
 */
#include "tools/command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/json.h"
#include "tools/keys.h"
#include "tools/options.h"

enum scan_form { FORM_KEYS, FORM_JSON, FORM_PUTS };

struct scan_output {
    struct tool_keys *keys;
    struct tool_json json;
    enum scan_form form;
    bool with_values;
    int separator;
    struct kv_error *error;
};

static int write_plain(void *context, const void *bytes, size_t length)
{
    (void)context;
    return fwrite(bytes, 1, length, stdout) == length ? 0 : -EIO;
}

static int write_json(void *context, const void *bytes, size_t length)
{
    struct scan_output *output = context;
    tool_json_add_text(&output->json, bytes, length);
    return ferror(stdout) ? -EIO : 0;
}

static int print_json(struct scan_output *output, const struct tool_entry *entry)
{
    char when[TOOL_TIME_TEXT];
    int err = 0;
    tool_format_time(entry->mtime_ns, false, when);
    tool_json_open(&output->json, NULL, '{');
    tool_json_string(&output->json, "key", entry->key);
    tool_json_number(&output->json, "size", entry->size);
    tool_json_string(&output->json, "mtime", when);
    if (output->with_values) {
        tool_json_begin_text(&output->json, "value");
        err = tool_keys_get(output->keys, entry->key, write_json, output, output->error);
        tool_json_end_text(&output->json);
    }
    tool_json_close(&output->json, '}');
    output->json.has_members[0] = false; /* lines, not a list */
    return err;
}

/* What is counted may change between its two readings: then it is refused. */
struct counted {
    uint64_t left;
};

static int write_counted(void *context, const void *bytes, size_t length)
{
    struct counted *counted = context;
    if (length > counted->left)
        return -EAGAIN;
    counted->left -= length;
    return write_plain(NULL, bytes, length);
}

static int print_put(struct scan_output *output, const struct tool_entry *entry)
{
    struct counted counted = {entry->size};
    fputs("put ", stdout);
    tool_print_quoted(stdout, entry->key, strlen(entry->key));
    printf(" @%" PRIu64 "\n", entry->size);
    int err = tool_keys_get(output->keys, entry->key, write_counted, &counted, output->error);
    if (!err && counted.left > 0)
        err = -EAGAIN;
    putchar('\n');
    return err;
}

static int print_entry(void *context, const struct tool_entry *entry)
{
    struct scan_output *output = context;
    int err = 0;
    if (output->form == FORM_JSON) {
        err = print_json(output, entry);
    } else if (output->form == FORM_PUTS) {
        err = print_put(output, entry);
    } else {
        fputs(entry->key, stdout);
        putchar(output->with_values && output->separator == '\n' ? '\t' : output->separator);
        if (output->with_values) {
            err = tool_keys_get(output->keys, entry->key, write_plain, NULL, output->error);
            putchar(output->separator);
        }
    }
    if (err == -ENOENT) { /* removed between its name and its value */
        *output->error->text = '\0';
        return output->form == FORM_PUTS ? err : 0;
    }
    return !err && ferror(stdout) ? -EIO : err;
}

static int run_scan(const struct tool_arguments *arguments)
{
    struct kv_error error = {""};
    struct tool_keys *keys;
    struct tool_scan scan = {.prefix = arguments->operands[1],
                             .from = tool_value(arguments, 'f'),
                             .to = tool_value(arguments, 't'),
                             .reverse = tool_given(arguments, 'r')};
    const char *limit = tool_value(arguments, 'n');
    if (limit && (tool_parse_number(limit, &scan.limit) || scan.limit == 0)) {
        tool_complain("--limit %s: give a number of keys, at least 1", limit);
        return TOOL_USAGE;
    }
    int err = tool_keys_open(arguments->operands[0], TOOL_KEYS_READ, &keys, &error);
    if (err)
        return tool_failed(err, &error);
    struct scan_output output = {.keys = keys,
                                 .form = tool_given(arguments, 'j')    ? FORM_JSON
                                         : tool_given(arguments, '\1') ? FORM_PUTS
                                                                       : FORM_KEYS,
                                 .with_values = tool_given(arguments, 'v'),
                                 .separator = tool_given(arguments, '0') ? '\0' : '\n',
                                 .error = &error};
    tool_json_init(&output.json, stdout);
    err = tool_keys_scan(keys, &scan, print_entry, &output, &error);
    const int status =
        err && !ferror(stdout) ? tool_failed(err == -EINVAL ? -EIO : err, &error) : TOOL_OK;
    (void)!tool_keys_close(keys, &error); /* it was only read */
    return tool_finish_output(status);
}

static const struct option scan_options[] = {
    {"from", required_argument, NULL, 'f'},
    {"to", required_argument, NULL, 't'},
    {"reverse", no_argument, NULL, 'r'},
    {"limit", required_argument, NULL, 'n'},
    {"values", no_argument, NULL, 'v'},
    {"null", no_argument, NULL, '0'},
    {"json", no_argument, NULL, 'j'},
    {"puts", no_argument, NULL, '\1'},
    {0},
};

const struct tool_command tool_command_scan = {
    .name = "scan",
    .synopsis = "[OPTION]... IMAGE|DIR [PREFIX]",
    .help =
        "Print the keys of all values, or of those that begin with PREFIX, in byte order of whole\n"
        "keys, as they are found: nothing is collected. Directories, links and devices are not\n"
        "values.\n"
        "\n"
        "  -f, --from KEY   none before KEY\n"
        "  -t, --to KEY     none from KEY on\n"
        "  -r, --reverse    from the last to the first\n"
        "  -n, --limit N    no more than N\n"
        "  -v, --values     with values: key, tab, value, newline\n"
        "  -0, --null       a zero byte in place of newline and tab\n"
        "  -j, --json       a line of JSON for each: key, size, mtime, and with -v value\n"
        "      --puts       lines for kvfs apply, with values: exact for any bytes\n"
        "\n"
        "In JSON a byte that is not UTF-8 is written as \\udc80 to \\udcff, as Python does it.\n"
        "\n"
        "Example: kvfs scan -v --from users/100 --limit 10 data.img users/\n",
    .options = scan_options,
    .operands_least = 1,
    .operands_most = 2,
    .run = run_scan,
};
