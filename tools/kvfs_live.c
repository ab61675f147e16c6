/*
 * tools/kvfs_live.c: the command lines of kvfs stat, top and health.
 */
#include "tools/kvfs_live.h"

#include <getopt.h>
#include <string.h>

#include "tools/live.h"
#include "tools/live_run.h"
#include "tools/options.h"

struct arguments {
    const char *dir, *interval;
    bool as_json;
};

static int run_stat(const struct arguments *arguments)
{
    return tool_live_stat(arguments->dir, arguments->as_json, arguments->interval);
}

static int run_top(const struct arguments *arguments)
{
    return tool_live_top(arguments->dir, arguments->interval);
}

static int run_health(const struct arguments *arguments)
{
    return tool_live_health(arguments->dir, arguments->as_json);
}

static const struct {
    const char *name, *synopsis, *help;
    const char *options; /* letters that it takes */
    int (*run)(const struct arguments *arguments);
} commands[] = {
    {"stat", "[--json] [--interval S] DIR",
     "Print what a mount has done: requests and their latencies, cache, log, device.\n"
     "\n"
     "  -j, --json        everything, as one JSON object\n"
     "  -i, --interval S  a line every S seconds of what happens, until it is interrupted\n"
     "\n"
     "Exit status: 0 done, 1 failed, 2 usage.\n"
     "\n"
     "Example: kvfs stat --interval 1 /mnt\n",
     "ji", run_stat},
    {"top", "[--interval S] DIR",
     "Show what a mount is doing: rates, latencies, cache, log. q quits. Where the output is no\n"
     "terminal, one screen of the first S seconds is printed.\n"
     "\n"
     "  -i, --interval S  seconds from one screen to the next, 1 by default\n"
     "\n"
     "Exit status: 0 done, 1 failed, 2 usage.\n"
     "\n"
     "Example: kvfs top /mnt\n",
     "i", run_top},
    {"health", "[--json] DIR",
     "Say whether a mount is well: each line is OK, WARN or CRIT, with the figures, what can be\n"
     "done, and the setting (mount.conf, [alerts]) that decides.\n"
     "\n"
     "  -j, --json  an array of objects\n"
     "\n"
     "Exit status: 0 all is well, 1 a warning, 2 critical (or usage), 3 nothing could be read.\n"
     "\n"
     "Example: kvfs health /mnt || mail -s 'kvfs on /mnt' root\n",
     "j", run_health},
};
#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

void tool_live_usage(FILE *out)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  kvfs %-6s %s\n", commands[i].name, commands[i].synopsis);
}

static int parse_and_run(size_t command, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"json", no_argument, NULL, 'j'},
        {"interval", required_argument, NULL, 'i'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct arguments arguments = {.dir = NULL};
    for (int option; (option = getopt_long(argc, argv, "ji:h", long_options, NULL)) != -1;) {
        if (option == 'h') {
            printf("usage: kvfs %s %s\n\n%s", commands[command].name, commands[command].synopsis,
                   commands[command].help);
            return tool_live_finish(TOOL_LIVE_OK);
        }
        if (option == '?')
            return TOOL_LIVE_USAGE; /* getopt_long has complained */
        if (!strchr(commands[command].options, option)) {
            tool_complain("%s: %s: no such option; kvfs %s --help shows all", argv[0],
                          argv[optind - 1], argv[0]);
            return TOOL_LIVE_USAGE;
        }
        if (option == 'j')
            arguments.as_json = true;
        else
            arguments.interval = optarg;
    }
    if (argc - optind != 1) {
        tool_complain("usage: kvfs %s %s", commands[command].name, commands[command].synopsis);
        return TOOL_LIVE_USAGE;
    }
    arguments.dir = argv[optind];
    return commands[command].run(&arguments);
}

bool tool_live_command(int argc, char **argv, int *status)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, argv[0]) != 0)
            continue;
        *status = parse_and_run(i, argc, argv);
        return true;
    }
    return false;
}
