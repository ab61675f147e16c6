/*
 * tools/command.c: what the subcommands of kvfs share.
 *
 * Owns       nothing.
 */
#include "tools/command.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/options.h"

#define OPTIONS_MAX 24u

int tool_failed(int err, const struct kv_error *error)
{
    tool_complain("%s", *error->text ? error->text : tool_error_text(err));
    return err == -EINVAL || err == -ENAMETOOLONG ? TOOL_USAGE : TOOL_FAILED;
}

int tool_finish_output(int status)
{
    if (fflush(stdout) || ferror(stdout)) {
        tool_complain("standard output: %s", tool_error_text(errno));
        return TOOL_FAILED;
    }
    return status;
}

void tool_print_quoted(FILE *out, const char *bytes, size_t length)
{
    fputc('"', out);
    for (size_t i = 0; i < length; i++) {
        const unsigned char byte = (unsigned char)bytes[i];
        if (byte == '"' || byte == '\\')
            fprintf(out, "\\%c", byte);
        else if (byte < 0x20 || byte == 0x7f)
            fprintf(out, "\\x%02x", byte);
        else
            fputc(byte, out);
    }
    fputc('"', out);
}

/* ---- times ---------------------------------------------------------------------- */

void tool_format_time(int64_t ns, bool with_ns, char text[TOOL_TIME_TEXT])
{
    const int64_t second = 1000000000;
    const time_t seconds = (time_t)(ns / second - (ns % second < 0));
    const int64_t rest = ns - (int64_t)seconds * second;
    struct tm tm;
    char day[TOOL_TIME_TEXT];
    if (!gmtime_r(&seconds, &tm) || !strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm))
        strcpy(day, "?");
    if (with_ns)
        snprintf(text, TOOL_TIME_TEXT, "%.28s.%09dZ", day, (int)rest);
    else
        snprintf(text, TOOL_TIME_TEXT, "%.38sZ", day);
}

int tool_parse_time(const char *text, int64_t *ns)
{
    struct tm tm = {0};
    const char *at = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    int64_t fraction = 0;
    if (!at)
        return -EINVAL;
    if (*at == '.') {
        int64_t unit = 100000000;
        for (at++; isdigit((unsigned char)*at); at++, unit /= 10)
            fraction += (*at - '0') * unit;
    }
    int64_t seconds = (int64_t)timegm(&tm);
    if (strcmp(at, "Z") != 0 || __builtin_mul_overflow(seconds, 1000000000, &seconds) ||
        __builtin_add_overflow(seconds, fraction, ns))
        return -EINVAL;
    return 0;
}

/* ---- options ---------------------------------------------------------------------- */

/* The command's long options with --help, and the short ones of those that have them. */
static void make_options(const struct tool_command *command, struct option *options,
                         char letters[2 * OPTIONS_MAX + 4])
{
    size_t count = 0;
    for (; command->options && command->options[count].name; count++)
        options[count] = command->options[count];
    options[count] = (struct option){"help", no_argument, NULL, 'h'};
    options[count + 1] = (struct option){0};
    for (const struct option *option = options; option->name; option++) {
        if (isgraph(option->val)) {
            *letters++ = (char)option->val;
            if (option->has_arg == required_argument)
                *letters++ = ':';
        }
    }
    *letters = '\0';
}

int tool_command_run(const struct tool_command *command, int argc, char **argv)
{
    struct option options[OPTIONS_MAX + 2];
    char letters[2 * OPTIONS_MAX + 4];
    char shown[64];
    struct tool_arguments arguments = {.operand_count = 0};
    make_options(command, options, letters);
    /* getopt complains with argv[0]: that shall be the command. */
    snprintf(shown, sizeof shown, "kvfs: %s", command->name);
    argv[0] = shown;
    for (int letter; (letter = getopt_long(argc, argv, letters, options, NULL)) != -1;) {
        if (letter == 'h') {
            printf("usage: kvfs %s %s\n\n%s", command->name, command->synopsis, command->help);
            if (!strstr(command->help, "Exit status"))
                puts("\nExit status: 0 done, 1 failed, 2 usage.");
            return tool_finish_output(TOOL_OK);
        }
        if (letter == '?')
            return TOOL_USAGE; /* getopt_long has complained */
        arguments.values[letter] = optarg ? optarg : "";
    }
    arguments.operands = argv + optind;
    arguments.operand_count = argc - optind;
    if (arguments.operand_count < command->operands_least ||
        (command->operands_most >= 0 && arguments.operand_count > command->operands_most)) {
        tool_complain("usage: kvfs %s %s", command->name, command->synopsis);
        return TOOL_USAGE;
    }
    return command->run(&arguments);
}
