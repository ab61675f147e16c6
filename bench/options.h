/*
 * bench/options.h: the command line of a benchmark, as a table.
 *
 * -v, --verbose and -h, --help belong to all of them; the usage is made from the table.
 */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include "bench/measure.h"

/* 0, or a negative errno: not a value for this option. May cut up the text. */
typedef int bench_option_parse_fn(char *text, void *target);

/* One long option. Make it by one of the macros; the last of a table is BENCH_OPTION_END. */
struct bench_option {
    const char *name;
    const char *value; /* what it takes, for the usage; NULL: nothing */
    const char *help;
    bench_option_parse_fn *parse; /* NULL: as the first target that is not NULL */
    void *target;                 /* for parse */
    bool *flag;
    char **text;
    uint64_t *number;
    unsigned *small;
    uint64_t least, most; /* of number and small */
};

#define BENCH_FLAG(name_, help_, flag_)                                                            \
    {                                                                                              \
        .name = name_, .help = help_, .flag = flag_                                                \
    }
#define BENCH_TEXT(name_, value_, help_, text_)                                                    \
    {                                                                                              \
        .name = name_, .value = value_, .help = help_, .text = text_                               \
    }
#define BENCH_NUMBER(name_, value_, help_, number_, least_, most_)                                 \
    {                                                                                              \
        .name = name_, .value = value_, .help = help_, .number = number_, .least = least_,         \
        .most = most_                                                                              \
    }
#define BENCH_SMALL(name_, value_, help_, small_, least_, most_)                                   \
    {                                                                                              \
        .name = name_, .value = value_, .help = help_, .small = small_, .least = least_,           \
        .most = most_                                                                              \
    }
#define BENCH_PARSED(name_, value_, help_, parse_, target_)                                        \
    {                                                                                              \
        .name = name_, .value = value_, .help = help_, .parse = parse_, .target = target_          \
    }
#define BENCH_OPTION_END                                                                           \
    {                                                                                              \
        .name = NULL                                                                               \
    }

#define BENCH_OPTIONS_MAX 32u /* in a table */
#define BENCH_GO_ON       (-1)

/*
 * Set what the options of the command line say. `needed`: options that must be given, for the
 * usage; "" none.
 *
 * Returns BENCH_GO_ON, or with what status to exit: 0 after --help, 2 after a mistake, which it
 * tells.
 */
KV_MUST_CHECK int bench_options_parse(const char *program, const char *needed,
                                      const struct bench_option *options, bool *verbose, int argc,
                                      char **argv);

#endif
