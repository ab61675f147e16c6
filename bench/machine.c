/* bench/machine.c: see machine.h. */
#include "bench/machine.h"

#include "bench/measure.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static void describe_processor(struct machine *machine)
{
    machine->processor_count = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
    machine->memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    FILE *in = fopen("/proc/cpuinfo", "re");
    if (!in)
        return;
    char line[512];
    while (fgets(line, sizeof line, in)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            line[strcspn(line, "\n")] = '\0';
            (void)snprintf(machine->processor, MACHINE_TEXT, "%s", colon + 2); /* enough of it */
            break;
        }
    }
    (void)fclose(in); /* only read */
}

/* The type of the file system with this device number. */
static void describe_file_system(struct machine *machine, const char *directory)
{
    struct stat info;
    FILE *in = stat(directory, &info) ? NULL : fopen("/proc/self/mountinfo", "re");
    if (!in)
        return;
    char line[2048];
    while (fgets(line, sizeof line, in)) {
        unsigned device_major, device_minor;
        char type[64], source[128];
        const char *rest = strstr(line, " - ");
        if (!rest || sscanf(line, "%*d %*d %u:%u", &device_major, &device_minor) != 2 ||
            device_major != major(info.st_dev) || device_minor != minor(info.st_dev) ||
            sscanf(rest, " - %63s %127s", type, source) != 2)
            continue;
        (void)snprintf(machine->file_system, MACHINE_TEXT, "%s on %s", type, source); /* fits */
        break;
    }
    (void)fclose(in); /* only read */
}

/* The first word that a command prints; "" when it fails. */
static void first_word(const char *command, char *word, size_t word_cap)
{
    word[0] = '\0';
    FILE *in = popen(command, "re"); /* a constant of this build, nothing that a user gave */
    if (!in)
        return;
    if (fgets(word, (int)word_cap, in))
        word[strcspn(word, " \n")] = '\0';
    char rest[256];
    while (fgets(rest, sizeof rest, in)) /* so that it does not die of a broken pipe */
        ;
    if (pclose(in))
        word[0] = '\0';
}

static void describe_commit(struct machine *machine)
{
    char commit[64], change[64];
    first_word("git -C '" BENCH_SOURCE "' rev-parse --short=12 HEAD 2>/dev/null", commit,
               sizeof commit);
    first_word("git -C '" BENCH_SOURCE "' diff --name-only HEAD 2>/dev/null", change,
               sizeof change);
    (void)snprintf(machine->commit, MACHINE_TEXT, "%s%s", commit[0] ? commit : "unknown",
                   change[0] ? ", changed" : ""); /* fits */
}

void machine_describe(struct machine *machine, const char *directory)
{
    describe_processor(machine);
    describe_file_system(machine, directory);
    describe_commit(machine);
    struct utsname system;
    if (!uname(&system))
        (void)snprintf(machine->kernel, MACHINE_TEXT, "%s", system.release); /* fits */
    const time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc))
        (void)strftime(machine->time, MACHINE_TEXT, "%Y-%m-%dT%H:%M:%SZ", &utc); /* fits */
}

void machine_print_json(FILE *out, const struct machine *machine)
{
    const struct {
        const char *name, *text;
    } texts[] = {{"time", machine->time},
                 {"commit", machine->commit},
                 {"kernel", machine->kernel},
                 {"file_system", machine->file_system},
                 {"processor", machine->processor}};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        (void)fprintf(out, "\"%s\":", texts[i].name);
        measure_print_json_string(out, texts[i].text);
        (void)fputc(',', out);
    }
    (void)fprintf(out, "\"processors\":%llu,\"memory_bytes\":%llu",
                  (unsigned long long)machine->processor_count,
                  (unsigned long long)machine->memory_bytes);
}
