/* bench/machine.h: what figures were measured on, for the reports. */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <stdint.h>
#include <stdio.h>

#define MACHINE_TEXT 200u /* bytes of a text, with its zero */

struct machine {
    char processor[MACHINE_TEXT], kernel[MACHINE_TEXT], file_system[MACHINE_TEXT];
    char commit[MACHINE_TEXT]; /* of the source; it says when that was changed since */
    char time[MACHINE_TEXT];   /* UTC */
    uint64_t processor_count, memory_bytes;
};

/* Fill in what is known; `directory` says which file system. */
void machine_describe(struct machine *machine, const char *directory);
/* Its members as JSON, without braces around them. */
void machine_print_json(FILE *out, const struct machine *machine);

#endif
