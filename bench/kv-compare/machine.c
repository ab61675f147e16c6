/* bench/kv-compare/machine.c: see machine.h. */
#include "bench/kv-compare/machine.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static void describe_processor(struct report *report)
{
    report->processor_count = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
    report->memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    FILE *in = fopen("/proc/cpuinfo", "re");
    if (!in)
        return;
    char line[512];
    while (fgets(line, sizeof line, in)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            line[strcspn(line, "\n")] = '\0';
            (void)snprintf(report->processor, REPORT_TEXT, "%s", colon + 2); /* enough of it */
            break;
        }
    }
    (void)fclose(in); /* only read */
}

/* The type of the file system with this device number. */
static void describe_file_system(struct report *report, const char *directory)
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
        (void)snprintf(report->file_system, REPORT_TEXT, "%s on %s", type, source); /* fits */
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

static void describe_commit(struct report *report)
{
    char commit[64], change[64];
    first_word("git -C '" KV_COMPARE_SOURCE "' rev-parse --short=12 HEAD 2>/dev/null", commit,
               sizeof commit);
    first_word("git -C '" KV_COMPARE_SOURCE "' diff --name-only HEAD 2>/dev/null", change,
               sizeof change);
    (void)snprintf(report->commit, REPORT_TEXT, "%s%s", commit[0] ? commit : "unknown",
                   change[0] ? ", changed" : ""); /* fits */
}

void machine_describe(struct report *report, const char *directory)
{
    describe_processor(report);
    describe_file_system(report, directory);
    describe_commit(report);
    struct utsname system;
    if (!uname(&system))
        (void)snprintf(report->kernel, REPORT_TEXT, "%s", system.release); /* fits */
    const time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc))
        (void)strftime(report->time, REPORT_TEXT, "%Y-%m-%dT%H:%M:%SZ", &utc); /* fits */
}
