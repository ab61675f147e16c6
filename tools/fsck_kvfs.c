/*
 * tools/fsck_kvfs.c: fsck.kvfs checks an image, and mends what can be mended safely.
 *
 * The store checks itself first (kv_check), then the filesystem in it (fs_check): the second
 * may rely on what the first found whole. Both report findings through one function here.
 *
 * Invariant  with -n nothing is written: the store is open read-only, its log replayed in memory.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/fsck.h"
#include "kv/base.h"
#include "kv/kv.h"
#include "tools/json.h"
#include "tools/mounts.h"
#include "tools/options.h"
#include "tools/progress.h"

static const char usage[] =
    "usage: fsck.kvfs [-n | -p | -y] [-f] [-v] [-j] IMAGE\n"
    "\n"
    "Check IMAGE, which must not be mounted, and mend what can be mended safely. Asks before it\n"
    "mends, unless told what to do:\n"
    "\n"
    "  -n, --no-changes  only look; nothing is written\n"
    "  -p, --preen       mend without asking what can be mended without loss (-a is the same)\n"
    "  -y, --yes         mend everything without asking, also where something is lost\n"
    "  -f, --force       check also when the image was closed cleanly\n"
    "  -v, --verbose     say what is done and what was counted\n"
    "  -j, --json        one JSON object on standard output\n"
    "  -h, --help  -V, --version\n"
    "\n"
    "With -y what is damaged is rebuilt from all pages that are found on the device; what came "
    "back\n"
    "only as an older state had it, or not at all, is told key by key. -n tells what -y would "
    "find.\n"
    "\n"
    "Exit status as of fsck(8): 0 nothing wrong, 1 all mended, 4 something is left, 8 the check\n"
    "could not be done, 16 usage, 32 cancelled.\n"
    "\n"
    "Example: fsck.kvfs -n -f data.img\n";

enum repair_mode { REPAIR_ASK, REPAIR_NEVER, REPAIR_SAFELY, REPAIR_ALWAYS };

struct request {
    const char *image;
    enum repair_mode repair;
    bool force, verbose, json;
};

/* Which pass is running: only what is found first, and what is left in the end, is told. */
enum phase { PHASE_LOOK, PHASE_MEND, PHASE_VERIFY };

/* What the run has come to; findings are printed, or written as JSON, as they come. */
struct outcome {
    const struct request *request;
    struct tool_json json;
    enum phase phase;
    struct tool_progress progress;
    struct kv_store *store;        /* while it is open */
    const char *part;              /* that is being checked: "store" or "filesystem" */
    bool opening;                  /* findings are those of an image that is being opened */
    bool files_unseen;             /* the store was too damaged to look at the filesystem in it */
    uint64_t found, left;          /* worse than a note: at first, and in the end */
    uint64_t damaged;              /* of those found: to be mended only with loss */
    uint64_t found_opening;        /* of those found: mended when the image was opened */
    struct kv_check_result counts; /* of the store */
    struct kv_check_result saved;  /* of the store: what came of its damaged places */
};

static const char *const severity_words[] = {
    [KV_CHECK_NOTE] = "note", [KV_CHECK_REPAIRABLE] = "repairable", [KV_CHECK_DAMAGE] = "damage"};

/* Is a finding of this phase to be told? */
static bool is_told(const struct outcome *outcome, enum kv_check_severity severity, bool salvage)
{
    switch (outcome->phase) {
    case PHASE_LOOK:
        return true;
    case PHASE_MEND: /* what is new in it */
        return salvage || (outcome->files_unseen && strcmp(outcome->part, "filesystem") == 0);
    case PHASE_VERIFY:
        break;
    }
    return severity != KV_CHECK_NOTE;
}

static void report(void *context, enum kv_check_severity severity, const char *what,
                   const char *text)
{
    struct outcome *outcome = context;
    /* What could not be had back is worth a line, whatever was asked for. */
    const bool salvage = strncmp(what, "salvage", strlen("salvage")) == 0;
    if (outcome->opening && severity != KV_CHECK_NOTE)
        outcome->found_opening++;
    if (!is_told(outcome, severity, salvage))
        return;
    tool_progress_clear(&outcome->progress);
    if (outcome->request->json) {
        tool_json_open(&outcome->json, NULL, '{');
        tool_json_string(&outcome->json, "part", outcome->part);
        tool_json_string(&outcome->json, "severity", severity_words[severity]);
        tool_json_bool(&outcome->json, "after_repair", outcome->phase == PHASE_VERIFY);
        tool_json_string(&outcome->json, "what", what);
        tool_json_string(&outcome->json, "text", text);
        tool_json_close(&outcome->json, '}');
    } else if (salvage) {
        printf("%s: salvage: %s\n", outcome->request->image, text);
    } else if (severity != KV_CHECK_NOTE || outcome->request->verbose) {
        printf("%s: %s%s: %s\n", outcome->request->image,
               outcome->phase == PHASE_VERIFY ? "left: " : "", severity_words[severity], text);
    }
}

/* kv_check_options.progress. */
static void step(void *context, uint64_t done, uint64_t total)
{
    struct outcome *outcome = context;
    tool_progress_step(&outcome->progress, done, total);
}

/* kv_show_key_fn. */
static bool show_key(void *context, const void *key, size_t key_len, char *text, size_t text_cap)
{
    const struct outcome *outcome = context;
    return fs_check_show_key(outcome->store, key, key_len, text, text_cap);
}

/* What the store says while it opens and closes. */
static void log_line(void *context, enum kv_log_level level, const char *line)
{
    struct outcome *outcome = context;
    tool_progress_clear(&outcome->progress);
    if (level <= KV_LOG_WARNING)
        tool_complain("%s", line);
    else if (outcome->request->verbose && !outcome->request->json)
        printf("%s: %s\n", outcome->request->image, line);
}

static void cancel(int signal_number)
{
    (void)signal_number;
    _exit(TOOL_FSCK_CANCELLED); /* an image takes this like any other crash */
}

/* ---- the command line ------------------------------------------------------- */

/* An exit status, or -1 to go on. */
static int parse(int argc, char **argv, struct request *request)
{
    static const struct option options[] = {
        {"no-changes", no_argument, NULL, 'n'},
        {"preen", no_argument, NULL, 'p'},
        {"yes", no_argument, NULL, 'y'},
        {"force", no_argument, NULL, 'f'},
        {"verbose", no_argument, NULL, 'v'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {0},
    };
    int chosen = 0; /* which of -n, -p and -y */
    for (int option; (option = getopt_long(argc, argv, "npayfvjhV", options, NULL)) != -1;) {
        switch (option) {
        case 'n':
        case 'p':
        case 'a':
        case 'y':
            option = option == 'a' ? 'p' : option;
            if (chosen && chosen != option) {
                tool_complain("-%c and -%c exclude each other; give one", chosen, option);
                return TOOL_FSCK_USAGE;
            }
            chosen = option;
            request->repair = option == 'n'   ? REPAIR_NEVER
                              : option == 'p' ? REPAIR_SAFELY
                                              : REPAIR_ALWAYS;
            break;
        case 'f':
            request->force = true;
            break;
        case 'v':
            request->verbose = true;
            break;
        case 'j':
            request->json = true;
            break;
        case 'h':
            fputs(usage, stdout);
            return TOOL_FSCK_OK;
        case 'V':
            puts("fsck.kvfs " KVFS_VERSION);
            return TOOL_FSCK_OK;
        default: /* getopt_long has complained */
            return TOOL_FSCK_USAGE;
        }
    }
    if (argc - optind != 1) {
        tool_complain("give one IMAGE; fsck.kvfs --help shows how");
        return TOOL_FSCK_USAGE;
    }
    request->image = argv[optind];
    /* Nobody is there to be asked. */
    if (request->repair == REPAIR_ASK && (request->json || !isatty(STDIN_FILENO)))
        request->repair = REPAIR_NEVER;
    return -1;
}

/* ---- checking ----------------------------------------------------------------- */

/* Does this error come of a damaged store? */
static bool is_damage(int err)
{
    return kv_error_is_contradiction(err) || err == -EIO || err == -ESTALE;
}

/* The filesystem of a store that was checked. */
static int check_files(struct kv_store *store, const struct kv_check_options *options,
                       bool store_damaged, struct outcome *outcome, struct kv_check_result *in_fs)
{
    outcome->part = "filesystem";
    const bool looking = outcome->phase == PHASE_LOOK && store_damaged;
    /* It is looked at when the store is mended: what it has lost is known only then. */
    if (looking && outcome->request->repair == REPAIR_ALWAYS) {
        outcome->files_unseen = true;
        return 0;
    }
    const int err = fs_check(store, options, in_fs);
    if (!looking || !is_damage(err))
        return err;
    outcome->files_unseen = true;
    report(outcome, KV_CHECK_NOTE, "not-checked",
           "the store is too damaged to look at the filesystem in it");
    return 0;
}

/*
 * One pass over store and filesystem.
 *
 * found  out: what is worse than a note, mended or not.
 *
 * Returns 0 when it ran to its end, or a negative errno.
 */
static int check_pass(struct kv_store *store, bool repair, struct outcome *outcome, uint64_t *found)
{
    static const char *const stages[] = {
        [PHASE_LOOK] = "checking", [PHASE_MEND] = "mending", [PHASE_VERIFY] = "verifying"};
    const enum repair_mode mode = outcome->request->repair;
    const struct kv_check_options options = {
        .repair = repair,
        .read_blobs = true,
        .estimate = outcome->phase == PHASE_LOOK && (mode == REPAIR_NEVER || mode == REPAIR_ASK),
        .report = report,
        .context = outcome,
        .progress = step,
        .show_key = show_key};
    struct kv_check_result in_store = {0}, in_fs = {0};

    outcome->part = "store";
    tool_progress_stage(&outcome->progress, stages[outcome->phase]);
    int err = kv_check(store, &options, &in_store);
    if (!err) {
        tool_progress_stage(&outcome->progress, "files");
        err = check_files(store, &options, in_store.damaged > 0, outcome, &in_fs);
    }
    tool_progress_clear(&outcome->progress);
    if (err)
        return err;
    outcome->counts = in_store;
    if (outcome->phase != PHASE_VERIFY)
        outcome->saved = in_store;
    if (outcome->phase == PHASE_LOOK)
        outcome->damaged = in_store.damaged + in_fs.damaged;
    if (outcome->phase == PHASE_MEND && outcome->files_unseen) {
        outcome->found += in_fs.repairable + in_fs.damaged;
        outcome->damaged += in_fs.damaged;
    }
    *found = in_store.repairable + in_store.damaged + in_fs.repairable + in_fs.damaged;
    return 0;
}

static bool confirm(const struct outcome *outcome)
{
    const struct request *request = outcome->request;
    if (request->repair == REPAIR_SAFELY)
        return outcome->damaged == 0;
    if (request->repair != REPAIR_ASK)
        return request->repair == REPAIR_ALWAYS;
    char answer[16];
    printf("%s: %llu findings, %llu of them with loss; mend them? (y/N) ", request->image,
           (unsigned long long)outcome->found, (unsigned long long)outcome->damaged);
    (void)fflush(stdout); /* a prompt that is not seen is answered with no */
    return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

/* Look; mend if that is wished; look again at what is left. */
static int check_and_mend(struct kv_store *store, struct outcome *outcome)
{
    int err = check_pass(store, false, outcome, &outcome->found);
    outcome->left = outcome->found;
    if (err || outcome->found == 0 || !confirm(outcome))
        goto out;

    outcome->phase = PHASE_MEND;
    uint64_t ignored;
    err = check_pass(store, true, outcome, &ignored);
    if (!err)
        err = kv_checkpoint(store);
    if (err)
        goto out;
    outcome->phase = PHASE_VERIFY;
    err = check_pass(store, false, outcome, &outcome->left);
out:
    outcome->found += outcome->found_opening;
    if (outcome->request->repair == REPAIR_NEVER) /* mended in memory only */
        outcome->left += outcome->found_opening;
    return err;
}

/* Open, check, close. Returns 0, or a negative errno with the words in `error`. */
static int check_image(struct outcome *outcome, struct kv_error *error)
{
    const struct request *request = outcome->request;
    /* To get in past damage is to decide what is lost: never by itself, and not before asking. */
    const bool past_damage = request->repair == REPAIR_NEVER || request->repair == REPAIR_ALWAYS;
    const struct kv_open_options options = {.read_only = request->repair == REPAIR_NEVER,
                                            .repair = past_damage,
                                            .report = report,
                                            .report_context = outcome,
                                            .show_key = show_key,
                                            .log = log_line,
                                            .log_context = outcome};
    struct kv_store *store;
    outcome->part = "store";
    outcome->opening = true;
    tool_progress_stage(&outcome->progress, "opening");
    int err = kv_open(request->image, &options, &store, error);
    outcome->opening = false;
    if (err)
        return err;
    outcome->store = store;
    err = check_and_mend(store, outcome);
    outcome->store = NULL;
    if (!err && outcome->left && !options.read_only)
        kv_abandon(store); /* what has damage left is not to be called clean: all is durable */
    else if (!err)
        err = kv_close(store);
    else
        kv_abandon(store);
    if (err)
        snprintf(error->text, sizeof error->text, "%.200s: the check broke off: %s", request->image,
                 tool_error_text(err));
    return err;
}

/* The exit status for what check_image returned; complains when it failed. */
static int conclude(int err, struct outcome *outcome, struct kv_error *error)
{
    const char *image = outcome->request->image;
    if (err == -EBUSY)
        tool_describe_holder(image, error);
    else if (err && !*error->text)
        snprintf(error->text, sizeof error->text, "%.200s: %s", image, tool_error_text(err));

    if (kv_error_is_contradiction(err)) {
        /* Too damaged to open or to walk: a finding, and one that is left. */
        outcome->part = "store";
        outcome->found++;
        outcome->left++;
        report(outcome, KV_CHECK_DAMAGE, "unreadable", error->text);
        return TOOL_FSCK_UNCORRECTED;
    }
    if (err) {
        tool_complain("%s", error->text);
        return TOOL_FSCK_ERROR;
    }
    if (outcome->left)
        return TOOL_FSCK_UNCORRECTED;
    return outcome->found ? TOOL_FSCK_CORRECTED : TOOL_FSCK_OK;
}

static void print_summary(const struct outcome *outcome, bool skipped, int status)
{
    const char *image = outcome->request->image;
    const struct kv_check_result *counts = &outcome->counts;
    if (skipped) {
        printf("%s: clean; -f checks all the same\n", image);
        return;
    }
    if (outcome->request->verbose)
        printf("%s: %llu pages, %llu keys, %llu blobs, %llu of them shared\n", image,
               (unsigned long long)counts->pages, (unsigned long long)counts->keys,
               (unsigned long long)counts->blobs, (unsigned long long)counts->shared_blobs);
    if (status == TOOL_FSCK_OK)
        printf("%s: checked, nothing wrong\n", image);
    else if (status == TOOL_FSCK_CORRECTED)
        printf("%s: %llu findings, all mended\n", image, (unsigned long long)outcome->found);
    else if (status == TOOL_FSCK_UNCORRECTED && outcome->phase == PHASE_LOOK)
        printf("%s: %llu findings; fsck.kvfs -y mends what can be mended\n", image,
               (unsigned long long)outcome->left);
    else if (status == TOOL_FSCK_UNCORRECTED)
        printf("%s: %llu findings, %llu left; copy off what is still readable\n", image,
               (unsigned long long)outcome->found, (unsigned long long)outcome->left);
}

static void finish_json(struct outcome *outcome, bool skipped, int status,
                        const struct kv_error *error)
{
    static const char *const words[] = {[TOOL_FSCK_OK] = "clean",
                                        [TOOL_FSCK_CORRECTED] = "corrected",
                                        [TOOL_FSCK_UNCORRECTED] = "uncorrected",
                                        [TOOL_FSCK_ERROR] = "error"};
    struct tool_json *json = &outcome->json;
    tool_json_close(json, ']');
    tool_json_string(json, "image", outcome->request->image);
    tool_json_string(json, "result", words[status]);
    tool_json_number(json, "exit_status", (uint64_t)status);
    tool_json_bool(json, "skipped", skipped);
    tool_json_number(json, "found", outcome->found);
    tool_json_number(json, "left", outcome->left);
    tool_json_number(json, "pages", outcome->counts.pages);
    tool_json_number(json, "keys", outcome->counts.keys);
    tool_json_number(json, "blobs", outcome->counts.blobs);
    tool_json_number(json, "shared_blobs", outcome->counts.shared_blobs);
    tool_json_number(json, "found_with_loss", outcome->damaged);
    tool_json_number(json, "salvaged_keys", outcome->saved.salvaged_keys);
    tool_json_number(json, "stale_keys", outcome->saved.stale_keys);
    tool_json_number(json, "dropped_keys", outcome->saved.dropped_keys);
    tool_json_number(json, "lost_ranges", outcome->saved.lost_ranges);
    if (status == TOOL_FSCK_ERROR)
        tool_json_string(json, "error", error->text);
    tool_json_close(json, '}');
}

int main(int argc, char **argv)
{
    struct request request = {0};
    tool_open_streams();
    int status = parse(argc, argv, &request);
    if (status >= 0)
        return status;

    const struct sigaction action = {.sa_handler = cancel};
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);

    struct outcome outcome = {.request = &request};
    struct kv_error error = {""};
    struct kv_image_info info;
    tool_json_init(&outcome.json, stdout);
    tool_progress_init(&outcome.progress, !request.json);
    if (request.json) {
        tool_json_open(&outcome.json, NULL, '{');
        tool_json_open(&outcome.json, "findings", '[');
    }

    int err = 0;
    bool skipped = false;
    if (tool_await_daemon(request.image)) {
        err = -EBUSY;
    } else {
        err = kv_image_info(request.image, &info, &error);
        skipped = !err && info.clean && !info.superblock_damaged && !request.force;
        /* Without a superblock there may still be the backup; whoever opens looks for it. */
        const bool no_superblock = is_damage(err) || err == -EMEDIUMTYPE;
        if ((!err && !skipped) ||
            (no_superblock && request.repair != REPAIR_ASK && request.repair != REPAIR_SAFELY))
            err = check_image(&outcome, &error);
    }
    status = conclude(err, &outcome, &error);
    if (request.json)
        finish_json(&outcome, skipped, status, &error);
    else
        print_summary(&outcome, skipped, status);
    if (fflush(stdout) || ferror(stdout)) {
        tool_complain("standard output: %s", tool_error_text(errno));
        return TOOL_FSCK_ERROR;
    }
    return status;
}
