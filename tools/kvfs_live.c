/*
 * tools/kvfs_live.c: kvfs top and health: a mount while it is used.
 */
#include "tools/command.h"
#include "tools/live.h"

static int run_top(const struct tool_arguments *arguments)
{
    return tool_live_top(arguments->operands[0], tool_value(arguments, 'i'));
}

static const struct option top_options[] = {{"interval", required_argument, NULL, 'i'}, {0}};

const struct tool_command tool_command_top = {
    .name = "top",
    .synopsis = "[--interval S] DIR",
    .help = "Show what a mount is doing: rates, latencies, cache, log. q quits. Where the output "
            "is no\n"
            "terminal, one screen of the first S seconds is printed.\n"
            "\n"
            "  -i, --interval S  seconds from one screen to the next, 1 by default\n"
            "\n"
            "Exit status: 0 done, 1 failed, 2 usage.\n"
            "\n"
            "Example: kvfs top /mnt\n",
    .options = top_options,
    .operands_least = 1,
    .operands_most = 1,
    .run = run_top,
};

static int run_health(const struct tool_arguments *arguments)
{
    return tool_live_health(arguments->operands[0], tool_given(arguments, 'j'));
}

static const struct option health_options[] = {{"json", no_argument, NULL, 'j'}, {0}};

const struct tool_command tool_command_health = {
    .name = "health",
    .synopsis = "[--json] DIR",
    .help =
        "Say whether a mount is well: each line is OK, WARN or CRIT, with the figures, what can "
        "be\n"
        "done, and the setting (mount.conf, [alerts]) that decides.\n"
        "\n"
        "  -j, --json  an array of objects\n"
        "\n"
        "Exit status: 0 all is well, 1 a warning, 2 critical (or usage), 3 nothing could be read.\n"
        "\n"
        "Example: kvfs health /mnt || mail -s 'kvfs on /mnt' root\n",
    .options = health_options,
    .operands_least = 1,
    .operands_most = 1,
    .run = run_health,
};
