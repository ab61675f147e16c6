/*
 * bench/options.c: a table of options over getopt_long.
 */
#include "bench/options.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

#define KEY_FIRST 256 /* above all characters: the key of the first option of a table */

static void print_usage(FILE *out, const char *program, const char *needed,
                        const struct bench_option *options)
{
    int width = (int)strlen("-v, --verbose");
    for (const struct bench_option *option = options; option->name; option++) {
        const size_t length =
            strlen(option->name) + 2 + (option->value ? strlen(option->value) + 1 : 0);
        width = (int)length > width ? (int)length : width;
    }
    fprintf(out, "usage: %s %s%s[option...]\n", program, needed, *needed ? " " : "");
    for (const struct bench_option *option = options; option->name; option++) {
        const int used = fprintf(out, "  --%s%s%s", option->name, option->value ? " " : "",
                                 option->value ? option->value : "");
        fprintf(out, "%*s%s\n", used < 0 ? 0 : width + 4 - used, "", option->help);
    }
    fprintf(out, "  %-*s  print a table too\n", width, "-v, --verbose");
}

static int set(const struct bench_option *option, char *value)
{
    if (option->parse)
        return option->parse(value, option->target);
    if (option->number)
        return measure_parse_number(value, option->least, option->most, option->number);
    if (option->small)
        return measure_parse_unsigned(value, (unsigned)option->least, (unsigned)option->most,
                                      option->small);
    if (option->text)
        *option->text = value;
    else
        *option->flag = true;
    return 0;
}

static int complain(const char *program, const char *needed, const struct bench_option *options)
{
    print_usage(stderr, program, needed, options);
    return 2;
}

int bench_options_parse(const char *program, const char *needed, const struct bench_option *options,
                        bool *verbose, int argc, char **argv)
{
    struct option list[BENCH_OPTIONS_MAX + 3] = {{"verbose", no_argument, NULL, 'v'},
                                                 {"help", no_argument, NULL, 'h'}};
    size_t count = 0;
    for (; options[count].name; count++) {
        KV_ASSERT(count < BENCH_OPTIONS_MAX);
        list[count + 2] = (struct option){options[count].name,
                                          options[count].value ? required_argument : no_argument,
                                          NULL, KEY_FIRST + (int)count};
    }
    int key;
    while ((key = getopt_long(argc, argv, "vh", list, NULL)) != -1) {
        if (key == 'h') {
            print_usage(stdout, program, needed, options);
            return 0;
        }
        if (key == 'v') {
            *verbose = true;
        } else if (key < KEY_FIRST) { /* getopt has told */
            return complain(program, needed, options);
        } else if (set(&options[key - KEY_FIRST], optarg)) {
            fprintf(stderr, "%s: --%s %s: not a value for this option\n", program,
                    options[key - KEY_FIRST].name, optarg);
            return complain(program, needed, options);
        }
    }
    if (optind < argc) {
        fprintf(stderr, "%s: %s: too many arguments\n", program, argv[optind]);
        return complain(program, needed, options);
    }
    return BENCH_GO_ON;
}
