/*
 * tools/command.h: what the subcommands of kvfs share: their rows, their options, their endings.
 *
 * A group of subcommands is a file kvfs_GROUP.c with one `const struct tool_command` for each of
 * them, declared here; kvfs.c has the table. A command complains for itself and returns the exit
 * status.
 */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>

#include "kv/kv.h"

enum tool_status { TOOL_OK = 0, TOOL_FAILED = 1, TOOL_USAGE = 2 };

#define TOOL_OPTION_LETTERS 128

struct tool_arguments {
    char **operands; /* NULL behind the last */
    int operand_count;
    const char *values[TOOL_OPTION_LETTERS]; /* by letter: what was given, "" without an argument */
};

struct tool_command {
    const char *name;
    const char *synopsis; /* after "kvfs NAME " */
    const char *help;
    /*
     * val is the letter of an option, '\\1' to '\\37' for one that has no short form. Ends with an
     * empty row; NULL: none.
     */
    const struct option *options;
    int operands_least, operands_most; /* -1: any number */
    int (*run)(const struct tool_arguments *arguments);
};

/* Parse the options of a command and run it. argv[0] is its name. */
int tool_command_run(const struct tool_command *command, int argc, char **argv);

static inline bool tool_given(const struct tool_arguments *arguments, char letter)
{
    return arguments->values[(unsigned char)letter] != NULL;
}
static inline const char *tool_value(const struct tool_arguments *arguments, char letter)
{
    return arguments->values[(unsigned char)letter];
}

/* Complain about what failed; a key that is not well formed is a mistake of usage. */
int tool_failed(int err, const struct kv_error *error);
/* The status of a command that printed: output that is lost is a failure too. */
int tool_finish_output(int status);

/* Bytes in quotes, as kvfs apply reads them. */
void tool_print_quoted(FILE *out, const char *bytes, size_t length);

#define TOOL_TIME_TEXT 40u
/* "2026-01-31T12:00:00Z"; with_ns: "2026-01-31T12:00:00.123456789Z". */
void tool_format_time(int64_t ns, bool with_ns, char text[TOOL_TIME_TEXT]);
/* The same back. -EINVAL. */
KV_MUST_CHECK int tool_parse_time(const char *text, int64_t *ns);

extern const struct tool_command tool_command_info, tool_command_stat;
extern const struct tool_command tool_command_ls, tool_command_get, tool_command_put,
    tool_command_rm;
extern const struct tool_command tool_command_apply;
extern const struct tool_command tool_command_import, tool_command_export;
extern const struct tool_command tool_command_plan, tool_command_warm, tool_command_stress;
extern const struct tool_command tool_command_top, tool_command_health;
extern const struct tool_command tool_command_tune, tool_command_profile;
extern const struct tool_command tool_command_sync, tool_command_umount;
extern const struct tool_command tool_command_scan, tool_command_scrub;
extern const struct tool_command tool_command_profiles;

#endif
