/*
 * tools/kvfs_scrub.c: `kvfs scrub`: read all that is in use and verify its checksums.
 *
 * Of a mount the daemon does it: it is told to by an attribute of the root, and asked by the same
 * attribute how it is getting on. An image that nobody uses is opened here, read-only: nothing
 * in it changes.
 */
#include "tools/command.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs/mount.h"
#include "fs/scrub.h"
#include "kv/base.h"
#include "tools/json.h"
#include "tools/mounts.h"
#include "tools/options.h"

#define SCRUB_DAMAGED 4 /* the exit status beside enum tool_status */

#define REPORT_BYTES 65536u /* the most that an attribute can have */
#define ASK_EVERY_NS 100000000
#define RATE_MAX     1048576.0 /* MiB/s */

static volatile sig_atomic_t cancelled;

static void cancel(int number)
{
    (void)number;
    cancelled = 1;
}

/* ---- a terminal ---------------------------------------------------------------------- */

struct terminal {
    struct tool_json *json; /* standard output is for programs; NULL: for people */
    bool is_one;
    bool has_line; /* a line of progress stands there */
    unsigned tenths_told;
};

static void clear_progress(struct terminal *terminal)
{
    if (terminal->has_line)
        fputs("\r\033[K", stderr);
    terminal->has_line = false;
}

static void show_progress(struct terminal *terminal, uint64_t done, uint64_t total)
{
    if (!terminal->is_one || !total)
        return;
    const unsigned tenths = (unsigned)(1000.0 * (double)done / (double)total);
    if (terminal->has_line && tenths == terminal->tenths_told)
        return;
    terminal->has_line = true;
    terminal->tenths_told = tenths;
    fprintf(stderr, "\rscrub: %5.1f %% of %" PRIu64 " MiB", tenths / 10.0, total >> 20);
}

/* One line on standard output about something that is damaged. */
static void tell_finding(const struct terminal *terminal, const char *line, size_t length)
{
    if (terminal->json)
        tool_json_bytes(terminal->json, NULL, line, length);
    else
        printf("%.*s\n", (int)length, line);
}

/* ---- what both ways begin and end with ----------------------------------------------- */

static void begin(const struct terminal *terminal, const char *target)
{
    if (!terminal->json)
        return;
    tool_json_init(terminal->json, stdout);
    tool_json_open(terminal->json, NULL, '{');
    tool_json_string(terminal->json, "target", target);
    tool_json_open(terminal->json, "findings", '[');
}

static int conclude(const struct terminal *terminal, const char *target, int err, uint64_t bytes,
                    uint64_t findings)
{
    int status = findings ? SCRUB_DAMAGED : TOOL_OK;
    if (err == -ECANCELED)
        tool_complain("%s: stopped after %" PRIu64 " MiB", target, bytes >> 20);
    else if (err)
        tool_complain("%s: the scrub broke off: %s", target, tool_error_text(err));
    if (err && !findings)
        status = TOOL_FAILED;
    if (terminal->json) {
        tool_json_close(terminal->json, ']');
        tool_json_number(terminal->json, "finding_count", findings);
        tool_json_number(terminal->json, "bytes_read", bytes);
        tool_json_bool(terminal->json, "complete", !err);
        tool_json_close(terminal->json, '}');
    } else {
        printf("%s: %" PRIu64 " MiB read, ", target, bytes >> 20);
        if (findings)
            printf("%" PRIu64 " findings; fsck.kvfs says more, and mends\n", findings);
        else
            puts(err ? "nothing wrong so far" : "nothing wrong");
    }
    if (fflush(stdout) || ferror(stdout)) {
        tool_complain("standard output: %s", tool_error_text(errno));
        return status ? status : TOOL_FAILED;
    }
    return status;
}

/* ---- an image ------------------------------------------------------------------------ */

struct image_scrub {
    struct kv_store *store;
    struct terminal terminal;
};

static void print_finding(void *context, const struct kv_scrub_finding *finding)
{
    struct image_scrub *scrub = context;
    char line[FS_SCRUB_LINE];
    clear_progress(&scrub->terminal);
    fs_scrub_describe(scrub->store, finding, line);
    tell_finding(&scrub->terminal, line, strlen(line));
}

static bool note_progress(void *context, uint64_t done, uint64_t total)
{
    struct image_scrub *scrub = context;
    show_progress(&scrub->terminal, done, total);
    return !cancelled;
}

static int scrub_image(const char *image, uint64_t bytes_per_second, struct terminal terminal)
{
    struct image_scrub scrub = {.terminal = terminal};
    const struct kv_open_options options = {.read_only = true};
    struct kv_error error = {""};
    int err = kv_open(image, &options, &scrub.store, &error);
    if (err) {
        tool_complain("%s", *error.text ? error.text : tool_error_text(err));
        return kv_error_is_contradiction(err) ? SCRUB_DAMAGED : TOOL_FAILED;
    }
    begin(&terminal, image);
    const struct kv_scrub_options scrub_options = {.bytes_per_second = bytes_per_second,
                                                   .report = print_finding,
                                                   .progress = note_progress,
                                                   .context = &scrub};
    struct kv_scrub_result result;
    err = kv_scrub(scrub.store, &scrub_options, &result);
    clear_progress(&scrub.terminal);
    (void)!kv_close(scrub.store); /* it was only read */
    return conclude(&scrub.terminal, image, err, result.bytes, result.findings);
}

/* ---- a mount ------------------------------------------------------------------------- */

/* What the daemon says of its scrub. */
struct state {
    bool is_running;
    uint64_t run, done, total, findings;
    int error;
};

static uint64_t figure(const char *text, const char *word)
{
    for (const char *line = text; line && *line;) {
        const size_t length = strlen(word);
        if (strncmp(line, word, length) == 0 && line[length] == ' ')
            return strtoull(line + length + 1, NULL, 10);
        line = strchr(line, '\n');
        line += line != NULL;
    }
    return 0;
}

/* `text`: REPORT_BYTES. */
static int ask(const char *dir, char *text, struct state *state)
{
    const ssize_t length = getxattr(dir, FS_XATTR_SCRUB, text, REPORT_BYTES - 1);
    if (length < 0)
        return -errno;
    text[length] = '\0';
    static const char running[] = "state running\n";
    *state = (struct state){.is_running = strncmp(text, running, sizeof running - 1) == 0,
                            .run = figure(text, "run"),
                            .done = figure(text, "done"),
                            .total = figure(text, "total"),
                            .findings = figure(text, "findings"),
                            .error = -(int)figure(text, "error")};
    return 0;
}

/* Print the findings in `text` beyond the first *printed. */
static void print_findings(const struct terminal *terminal, const char *text, uint64_t *printed)
{
    static const char word[] = "finding ";
    uint64_t count = 0;
    for (const char *line = text; *line;) {
        const size_t length = strcspn(line, "\n");
        if (strncmp(line, word, sizeof word - 1) == 0 && ++count > *printed)
            tell_finding(terminal, line + sizeof word - 1, length - (sizeof word - 1));
        line += length + (line[length] == '\n');
    }
    *printed = kv_max_u64(*printed, count);
}

static int tell_daemon(const char *dir, const char *command)
{
    return setxattr(dir, FS_XATTR_SCRUB, command, strlen(command), 0) ? -errno : 0;
}

/* Wait for the daemon's scrub, tell of it, stop it when told to. */
static int follow(const char *dir, char *text, struct terminal *terminal, struct state *state)
{
    const struct timespec pause = {.tv_nsec = ASK_EVERY_NS};
    uint64_t run = 0, printed = 0;
    bool stopped = false;
    for (;;) {
        const int err = ask(dir, text, state);
        if (err)
            return err;
        if (run && state->run != run) /* another was started at once */
            return -ECANCELED;
        run = state->run;
        if (state->findings > printed) {
            clear_progress(terminal);
            print_findings(terminal, text, &printed);
        }
        if (!state->is_running)
            break;
        show_progress(terminal, state->done, state->total);
        if (cancelled && !stopped) {
            const int stop_err = tell_daemon(dir, "stop");
            if (stop_err)
                return stop_err;
            stopped = true;
        }
        (void)nanosleep(&pause, NULL); /* a shorter pause does no harm */
    }
    if (state->findings > printed && !terminal->json) /* there they are counted */
        printf("%" PRIu64 " more; the daemon's log names them\n", state->findings - printed);
    return state->error;
}

static int scrub_mount(const char *dir, uint64_t bytes_per_second, struct terminal terminal)
{
    char command[40];
    char *text = malloc(REPORT_BYTES);
    struct state state = {0};
    snprintf(command, sizeof command, "start %" PRIu64, bytes_per_second);
    int err = text ? tell_daemon(dir, command) : -ENOMEM;
    if (err) {
        tool_complain("%s: %s", dir,
                      err == -EBUSY                     ? "a scrub is running already"
                      : err == -EPERM || err == -EACCES ? "only root and who mounted it may scrub"
                      : err == -EOPNOTSUPP ? "this daemon is too old to scrub; mount it anew"
                                           : tool_error_text(err));
        free(text);
        return TOOL_FAILED;
    }
    begin(&terminal, dir);
    err = follow(dir, text, &terminal, &state);
    clear_progress(&terminal);
    free(text);
    /* The directory is still there, but not the attribute: whoever unmounts ends the scrub. */
    if (err == -EOPNOTSUPP || err == -ENODATA || tool_mount_is_dead(-err))
        err = -ECANCELED;
    return conclude(&terminal, dir, err, state.done, state.findings);
}

/* ---- the command --------------------------------------------------------------------- */

/* MiB/s, as a decimal number. */
static bool parse_rate(const char *text, uint64_t *bytes_per_second)
{
    char *end;
    errno = 0;
    const double rate = strtod(text, &end);
    if (errno || end == text || *end || !(rate > 0 && rate <= RATE_MAX))
        return false;
    *bytes_per_second = (uint64_t)(rate * 1048576.0);
    if (!*bytes_per_second)
        *bytes_per_second = 1;
    return true;
}

static int run_scrub(const struct tool_arguments *arguments)
{
    const char *target = arguments->operands[0], *rate = tool_value(arguments, '\1');
    uint64_t bytes_per_second = 0;
    if (rate && !parse_rate(rate, &bytes_per_second)) {
        tool_complain("--rate %s: give MiB per second, as in --rate 50", rate);
        return TOOL_USAGE;
    }
    const struct sigaction action = {.sa_handler = cancel};
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    struct tool_json json;
    const bool as_json = tool_given(arguments, 'j');
    const struct terminal terminal = {.json = as_json ? &json : NULL,
                                      .is_one = isatty(STDERR_FILENO)};

    struct stat status;
    struct tool_mount mount;
    if (stat(target, &status)) {
        tool_complain("%s: %s", target, tool_error_text(errno));
        return TOOL_FAILED;
    }
    const bool is_dir = S_ISDIR(status.st_mode);
    const int err =
        is_dir ? tool_mount_of_path(target, &mount) : tool_mount_of_image(target, &mount);
    if (!err)
        return scrub_mount(mount.dir, bytes_per_second, terminal);
    if (is_dir || err != -ENOENT) {
        tool_complain("%s: %s", target,
                      err == -ENOENT ? "not in a kvfs mount; give the directory of one, or an image"
                                     : tool_error_text(err));
        return TOOL_FAILED;
    }
    return scrub_image(target, bytes_per_second, terminal);
}

static const struct option scrub_options[] = {
    {"json", no_argument, NULL, 'j'}, {"rate", required_argument, NULL, '\1'}, {0}};

const struct tool_command tool_command_scrub = {
    .name = "scrub",
    .synopsis = "[--rate MiB/s] [--json] DIR|IMAGE",
    .help = "Read everything that is in use and verify its checksums: of a mount, while it is "
            "used, or\n"
            "of an image. What is damaged is named, and left as it is: fsck.kvfs mends.\n"
            "\n"
            "      --rate MiB/s  read no faster\n"
            "  -j, --json        what was read and found, as one JSON object\n"
            "\n"
            "Exit status: 0 nothing wrong, 1 did not run to its end, 2 usage, 4 damage was found.\n"
            "\n"
            "Example: kvfs scrub --rate 50 /mnt\n",
    .options = scrub_options,
    .operands_least = 1,
    .operands_most = 1,
    .run = run_scrub,
};
