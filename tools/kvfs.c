/*
 * tools/kvfs.c: kvfs works with the keys of an image or of a mounted directory.
 *
 * The subcommands are in the files kvfs_GROUP.c; here is their table.
 */
#include <stdio.h>
#include <string.h>

#include "tools/command.h"
#include "tools/options.h"

/* clang-format off */
static const struct tool_command *const commands[] = {
    &tool_command_info, &tool_command_stat, &tool_command_ls, &tool_command_scan, &tool_command_get,
    &tool_command_put, &tool_command_rm, &tool_command_apply,
    &tool_command_import, &tool_command_export, &tool_command_plan, &tool_command_warm,
    &tool_command_stress,
    &tool_command_tune, &tool_command_profile,
    &tool_command_top, &tool_command_health, &tool_command_sync, &tool_command_scrub,
    &tool_command_umount, &tool_command_profiles,
};
/* clang-format on */
#define COMMAND_COUNT (sizeof commands / sizeof *commands)

static void print_usage(FILE *out)
{
    fputs("usage: kvfs COMMAND [OPTION]... IMAGE|DIR [KEY]...\n"
          "\n"
          "Work with the keys of an image that is not mounted, or of a directory in a mount.\n"
          "A key is a path, users/42/name, relative to the image's root or to the directory.\n"
          "\n",
          out);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  kvfs %-7s %s\n", commands[i]->name, commands[i]->synopsis);
    fputs("\n"
          "kvfs COMMAND --help tells more.\n"
          "\n"
          "Exit status: 0 done, 1 failed, 2 usage; some commands have others besides.\n"
          "\n"
          "Example: kvfs put /mnt greeting <<<hello; kvfs get /mnt greeting\n",
          out);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    tool_open_streams();
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_usage(stdout);
        return tool_finish_output(TOOL_OK);
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        puts("kvfs " KVFS_VERSION);
        return tool_finish_output(TOOL_OK);
    }
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return tool_command_run(commands[i], argc - 1, argv + 1);
    if (!*name)
        print_usage(stderr);
    else
        tool_complain("%s: no such command; kvfs --help lists all", name);
    return TOOL_USAGE;
}
