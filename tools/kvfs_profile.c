/*
 * tools/kvfs_profile.c: kvfs profile: where the daemon of a mount spends its time, as a picture.
 *
 * perf takes the samples and names the functions; folding and drawing are tools/flame.h.
 */
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/flame.h"
#include "tools/mounts.h"
#include "tools/options.h"

enum { STATUS_NO_PERF = 3, STATUS_NOT_PERMITTED = 4 };

#define SECONDS_DEFAULT   10.0
#define FREQUENCY_DEFAULT 199u /* of samples in a second: in step with nothing */
#define FREQUENCY_MOST    10000u
#define WORDS_BYTES       2048u
#define STATUS_NOT_FOUND  127 /* of a child: there is no such program */

struct profile {
    const char *target; /* as it was given */
    struct tool_mount mount;
    int daemon;
    const char *output; /* "-": standard output */
    FILE *out;          /* NULL: that, or it was closed */
    bool is_new;        /* the file was not there before */
    double seconds;
    uint64_t frequency;
    bool by_frames; /* stacks by frame pointers */
    bool folded;
    char scratch[PATH_MAX];    /* a directory of our own; "": none yet */
    char data[PATH_MAX + 16];  /* in it: perf's samples ... */
    char words[PATH_MAX + 16]; /* ... and what it said */
};

/* ---- running perf ----------------------------------------------------------------------- */

/* perf gets an interrupt, too, and ends its recording; we go on and draw. */
static void ignore_interrupt(int number)
{
    (void)number;
}

/* Start a program with standard output and error where they are to go; -1 as they are. */
static pid_t start(char *const arguments[], int out_fd, int error_fd)
{
    const pid_t child = fork();
    if (child != 0)
        return child;
    if ((out_fd >= 0 && dup2(out_fd, STDOUT_FILENO) < 0) ||
        (error_fd >= 0 && dup2(error_fd, STDERR_FILENO) < 0))
        _exit(1);
    (void)setenv("LC_ALL", "C", 1); /* its words are looked at; if not, they are shown */
    execvp(arguments[0], arguments);
    _exit(errno == ENOENT ? STATUS_NOT_FOUND : 126);
}

/* The exit status of a child, or 128 and more. */
static int await(pid_t child)
{
    int how = 0;
    while (waitpid(child, &how, 0) < 0)
        if (errno != EINTR)
            return 128;
    return WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
}

/* Run perf; its words go into the file for them. Returns its status, or -errno. */
static int run_perf(const struct profile *profile, char *const arguments[])
{
    const int fd = open(profile->words, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    const pid_t child = start(arguments, fd, fd);
    const int err = child < 0 ? -errno : 0;
    (void)close(fd); /* only the child writes to it */
    return err ? err : await(child);
}

/* What perf said, in one line. */
static void read_words(const struct profile *profile, char words[WORDS_BYTES])
{
    const int fd = open(profile->words, O_RDONLY | O_CLOEXEC);
    const ssize_t length = fd >= 0 ? read(fd, words, WORDS_BYTES - 1) : -1;
    if (fd >= 0)
        (void)close(fd); /* only read */
    words[length > 0 ? length : 0] = '\0';
    for (char *at = words; *at; at++)
        if ((unsigned char)*at < ' ')
            *at = ' ';
}

static int explain_failure(const struct profile *profile, int status)
{
    char words[WORDS_BYTES], paranoid[16] = "?";
    if (status == STATUS_NOT_FOUND) {
        tool_complain("perf is not installed; on Debian: apt-get install linux-perf");
        return STATUS_NO_PERF;
    }
    if (status < 0) {
        tool_complain("perf: %s", tool_error_text(status));
        return TOOL_FAILED;
    }
    read_words(profile, words);
    if (strstr(words, "perf_event_paranoid") || strstr(words, "ermission") ||
        strstr(words, "not permitted")) {
        FILE *file = fopen("/proc/sys/kernel/perf_event_paranoid", "re");
        if (file) {
            if (fscanf(file, "%15s", paranoid) != 1)
                strcpy(paranoid, "?");
            (void)fclose(file); /* only read */
        }
        tool_complain("perf may not look at process %d: run this as root, or as who mounted with "
                      "sysctl kernel.perf_event_paranoid=1 (it is %s)",
                      profile->daemon, paranoid);
        return STATUS_NOT_PERMITTED;
    }
    tool_complain("perf failed (status %d): %.300s", status, words);
    return TOOL_FAILED;
}

/* event: NULL, perf's own choice. Returns as run_perf. */
static int record(const struct profile *profile, const char *event)
{
    char daemon[16], seconds[32], frequency[24];
    char *arguments[24];
    size_t count = 0;
    (void)snprintf(daemon, sizeof daemon, "%d", profile->daemon);
    (void)snprintf(seconds, sizeof seconds, "%.3f", profile->seconds);
    (void)snprintf(frequency, sizeof frequency, "%" PRIu64, profile->frequency);
    const char *const fixed[] = {
        "perf",    "record", "-q",           "-F",
        frequency, "-g",     "--call-graph", profile->by_frames ? "fp" : "dwarf",
        "-p",      daemon,   "-o",           profile->data};
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        arguments[count++] = (char *)(uintptr_t)fixed[i]; /* exec changes none */
    if (event) {
        arguments[count++] = (char *)(uintptr_t) "-e";
        arguments[count++] = (char *)(uintptr_t)event;
    }
    arguments[count++] = (char *)(uintptr_t) "--";
    arguments[count++] = (char *)(uintptr_t) "sleep";
    arguments[count++] = seconds;
    arguments[count] = NULL;
    return run_perf(profile, arguments);
}

/* Have perf take samples. Returns the exit status; complains. */
static int take_samples(const struct profile *profile)
{
    struct stat data;
    int status = record(profile, NULL);
    /* Without counters in the processor, as in many virtual machines, a clock will do. */
    if (status > 0 && status != STATUS_NOT_FOUND && status < 126)
        status = record(profile, "cpu-clock");
    /* Interrupted, it has written what there was. */
    if (status > 128 && stat(profile->data, &data) == 0 && data.st_size > 0)
        status = 0;
    return status ? explain_failure(profile, status) : TOOL_OK;
}

/* Have perf tell the samples, and fold them. Returns the exit status; complains. */
static int fold_samples(const struct profile *profile, struct flame *flame)
{
    char *const arguments[] = {(char *)(uintptr_t) "perf", (char *)(uintptr_t) "script",
                               (char *)(uintptr_t) "-i", (char *)(uintptr_t)profile->data, NULL};
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) {
        tool_complain("perf: %s", tool_error_text(errno));
        return TOOL_FAILED;
    }
    const int words = open(profile->words, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const pid_t child = start(arguments, ends[1], words);
    (void)close(ends[1]);
    if (words >= 0)
        (void)close(words); /* only the child writes to it */
    FILE *in = child < 0 ? NULL : fdopen(ends[0], "r");
    int err = child < 0 || !in ? -errno : flame_add_perf(flame, in);
    if (in)
        (void)fclose(in); /* only read; a child that still writes ends by that */
    else
        (void)close(ends[0]);
    const int status = child < 0 ? 0 : await(child);
    if (!err && status)
        return explain_failure(profile, status);
    if (err)
        tool_complain("what perf recorded can not be folded: %s", tool_error_text(err));
    return err ? TOOL_FAILED : TOOL_OK;
}

/* ---- the picture ------------------------------------------------------------------------ */

static void draw(const struct profile *profile, const struct flame *flame, FILE *out)
{
    char title[PATH_MAX + 128];
    (void)snprintf(title, sizeof title, "kvfs profile %s: process %d, %.1f s, %" PRIu64 " samples",
                   profile->mount.dir, profile->daemon, profile->seconds, flame_root(flame)->count);
    if (profile->folded)
        flame_write_folded(flame, out);
    else
        flame_write_svg(flame, title, out);
}

static int fail_output(const struct profile *profile, int err)
{
    tool_complain("%s: %s; give -o a file that can be written", profile->output,
                  tool_error_text(err));
    return TOOL_FAILED;
}

/* Before the samples are taken: nobody shall wait in vain. What a file holds stays until then. */
static int open_output(struct profile *profile)
{
    if (strcmp(profile->output, "-") == 0)
        return TOOL_OK;
    profile->is_new = access(profile->output, F_OK) != 0;
    const int fd = open(profile->output, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    profile->out = fd < 0 ? NULL : fdopen(fd, "w");
    if (profile->out)
        return TOOL_OK;
    const int err = errno;
    if (fd >= 0)
        (void)close(fd); /* nothing was written */
    return fail_output(profile, err);
}

/* Whatever happened: a file that was made for nothing goes. */
static void drop_output(struct profile *profile)
{
    if (!profile->out)
        return;
    (void)fclose(profile->out); /* nothing was written */
    profile->out = NULL;
    if (profile->is_new)
        (void)unlink(profile->output);
}

static int write_output(struct profile *profile, const struct flame *flame)
{
    if (!flame_root(flame)->count) {
        tool_complain("%s: its daemon, process %d, did nothing in %.1f s; look while it is at work",
                      profile->target, profile->daemon, profile->seconds);
        return TOOL_FAILED;
    }
    if (!profile->out) {
        draw(profile, flame, stdout);
        return tool_finish_output(TOOL_OK);
    }
    errno = 0;
    /* A device or a pipe has no length to be cut. */
    bool failed = ftruncate(fileno(profile->out), 0) && errno != EINVAL;
    if (!failed)
        draw(profile, flame, profile->out);
    failed = failed || ferror(profile->out);
    failed = fclose(profile->out) || failed;
    profile->out = NULL;
    if (failed) {
        const int err = errno ? errno : EIO;
        if (profile->is_new)
            (void)unlink(profile->output); /* half a picture is none */
        return fail_output(profile, err);
    }
    fprintf(stderr, "%s: %" PRIu64 " samples of process %d\n", profile->output,
            flame_root(flame)->count, profile->daemon);
    return TOOL_OK;
}

static int make_scratch(struct profile *profile)
{
    const char *const above = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    const int length =
        snprintf(profile->scratch, sizeof profile->scratch, "%s/kvfs-profile.XXXXXX", above);
    errno = ENAMETOOLONG;
    if (length < 0 || (size_t)length >= sizeof profile->scratch || !mkdtemp(profile->scratch)) {
        tool_complain("%s: %s; set TMPDIR to a directory that can be written", above,
                      tool_error_text(errno));
        profile->scratch[0] = '\0';
        return TOOL_FAILED;
    }
    (void)snprintf(profile->data, sizeof profile->data, "%s/data", profile->scratch);
    (void)snprintf(profile->words, sizeof profile->words, "%s/words", profile->scratch);
    return TOOL_OK;
}

static void remove_scratch(const struct profile *profile)
{
    char old[PATH_MAX + 24];
    if (!*profile->scratch)
        return;
    (void)snprintf(old, sizeof old, "%s.old", profile->data); /* of a first try */
    (void)unlink(old);
    (void)unlink(profile->data);
    (void)unlink(profile->words);
    (void)rmdir(profile->scratch);
}

/* ---- the command ------------------------------------------------------------------------ */

/* Complains. */
static bool parse(const struct tool_arguments *arguments, struct profile *profile)
{
    const char *seconds = tool_value(arguments, 's'), *frequency = tool_value(arguments, 'F');
    char *end = NULL;
    *profile = (struct profile){.target = arguments->operands[0],
                                .output = tool_value(arguments, 'o'),
                                .seconds = SECONDS_DEFAULT,
                                .frequency = FREQUENCY_DEFAULT,
                                .by_frames = tool_given(arguments, 'p'),
                                .folded = tool_given(arguments, 'f')};
    if (!profile->output)
        profile->output = profile->folded ? "kvfs-profile.folded" : "kvfs-profile.svg";
    if (seconds)
        profile->seconds = strtod(seconds, &end);
    if (seconds &&
        (end == seconds || *end || !(profile->seconds >= 0.1) || profile->seconds > 3600)) {
        tool_complain("--seconds %s: give seconds, 0.1 to 3600", seconds);
        return false;
    }
    if (frequency && (tool_parse_number(frequency, &profile->frequency) ||
                      profile->frequency == 0 || profile->frequency > FREQUENCY_MOST)) {
        tool_complain("--frequency %s: give samples in a second, 1 to %u", frequency,
                      FREQUENCY_MOST);
        return false;
    }
    return true;
}

static int run_profile(const struct tool_arguments *arguments)
{
    struct profile *profile = calloc(1, sizeof *profile);
    struct flame *flame = flame_new();
    int status = TOOL_FAILED;
    if (!profile || !flame) {
        tool_complain("%s", tool_error_text(ENOMEM));
        goto out;
    }
    if (!parse(arguments, profile)) {
        status = TOOL_USAGE;
        goto out;
    }
    const int err = tool_mount_of_path(profile->target, &profile->mount);
    if (err) {
        tool_complain("%s: %s", profile->target,
                      err == -ENOENT ? "not in a kvfs mount; give the directory of one"
                                     : tool_error_text(err));
        goto out;
    }
    profile->daemon = kv_image_holder(profile->mount.source);
    if (profile->daemon <= 0) {
        tool_complain("%s: its daemon can not be seen from here; run this where it was mounted",
                      profile->mount.dir);
        goto out;
    }
    const struct sigaction action = {.sa_handler = ignore_interrupt};
    (void)sigaction(SIGINT, &action, NULL);
    status = open_output(profile);
    if (status == TOOL_OK)
        status = make_scratch(profile);
    if (status == TOOL_OK)
        status = take_samples(profile);
    if (status == TOOL_OK)
        status = fold_samples(profile, flame);
    if (status == TOOL_OK)
        status = write_output(profile, flame);
    drop_output(profile);
    remove_scratch(profile);
out:
    flame_free(flame);
    free(profile);
    return status;
}

static const struct option profile_options[] = {
    {"seconds", required_argument, NULL, 's'},   {"output", required_argument, NULL, 'o'},
    {"frequency", required_argument, NULL, 'F'}, {"frame-pointers", no_argument, NULL, 'p'},
    {"folded", no_argument, NULL, 'f'},          {0},
};

const struct tool_command tool_command_profile = {
    .name = "profile",
    .synopsis = "[--seconds N] [-o FILE.svg] [--frequency N] [--frame-pointers] [--folded] DIR",
    .help =
        "Draw where the daemon of a mount spends its time, as a flame graph: the wider a "
        "function,\n"
        "the more time, on top of who called it. perf takes the samples, so the package "
        "linux-perf\n"
        "must be installed.\n"
        "\n"
        "  -s, --seconds N       for how long (10); an interrupt ends it earlier\n"
        "  -o, --output FILE     where to (kvfs-profile.svg); - is standard output\n"
        "  -F, --frequency N     samples in a second, for each processor (199)\n"
        "  -p, --frame-pointers  follow stacks by frame pointers: cheaper, for builds that have "
        "them\n"
        "  -f, --folded          no picture but one line for each stack and its samples\n"
        "\n"
        "Example: kvfs profile /mnt --seconds 10 -o busy.svg\n"
        "\n"
        "Exit status: 0 done, 1 failed or no samples, 2 usage, 3 perf is not installed, 4 perf is\n"
        "not permitted.\n",
    .options = profile_options,
    .operands_least = 1,
    .operands_most = 1,
    .run = run_profile,
};
