/*
 * tools/kvfs_tune.c: kvfs tune: what holds a mount or an image back, and tiers that find their
 * borders.
 *
 * --auto is a loop here and no thread of the daemon: it uses what every mount offers (figures, and
 * a setting that can change), so it can be begun, watched and ended at any time, and a mistake in
 * it costs no more than a ratio. Its end, even by SIGKILL, leaves ratios within the bounds.
 */
#include "tools/command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/json.h"
#include "tools/live_run.h"
#include "tools/live_wait.h"
#include "tools/options.h"
#include "tools/settings_live.h"
#include "tools/tune_auto.h"
#include "tools/tune_look.h"

enum { STATUS_WELL = 0, STATUS_FINDINGS = 1, STATUS_FAILED = 2 };

#define AUTO_SECONDS 10.0

/* ---- findings --------------------------------------------------------------------------- */

static void print_finding(const struct tune_finding *finding)
{
    printf("%-12s %s\n", finding->name, finding->text);
    if (finding->share > 0)
        printf("  concerns   about %.0f %% of requests, or of their time\n", 100 * finding->share);
    printf("  change     %s%s%s%s%s\n", finding->setting, *finding->present ? ", now " : "",
           finding->present, *finding->proposed ? ", to " : "", finding->proposed);
    printf("  how        %s\n", finding->how);
}

static void print_finding_json(struct tool_json *json, const struct tune_finding *finding)
{
    tool_json_open(json, NULL, '{');
    tool_json_string(json, "name", finding->name);
    tool_json_real(json, "share", finding->share);
    tool_json_string(json, "text", finding->text);
    tool_json_string(json, "setting", finding->setting);
    tool_json_string(json, "present", finding->present);
    tool_json_string(json, "proposed", finding->proposed);
    tool_json_string(json, "how", finding->how);
    tool_json_open(json, "evidence", '{');
    for (size_t i = 0; i < finding->evidence_count; i++)
        tool_json_real(json, finding->evidence[i].name, finding->evidence[i].value);
    tool_json_close(json, '}');
    tool_json_close(json, '}');
}

static int print_findings(const char *target, const struct tune_finding *findings, size_t count,
                          bool as_json)
{
    if (as_json) {
        struct tool_json json;
        tool_json_init(&json, stdout);
        tool_json_open(&json, NULL, '{');
        tool_json_string(&json, "target", target);
        tool_json_open(&json, "findings", '[');
        for (size_t i = 0; i < count; i++)
            print_finding_json(&json, &findings[i]);
        tool_json_close(&json, ']');
        tool_json_close(&json, '}');
    } else if (count) {
        for (size_t i = 0; i < count; i++)
            print_finding(&findings[i]);
    } else {
        printf("%s: nothing that its figures tell holds it back\n", target);
    }
    if (tool_finish_output(TOOL_OK) != TOOL_OK)
        return STATUS_FAILED;
    return count ? STATUS_FINDINGS : STATUS_WELL;
}

static bool is_among(const struct tune_finding *findings, size_t count, const char *name)
{
    size_t i = 0;
    while (i < count && strcmp(findings[i].name, name) != 0)
        i++;
    return i < count;
}

static int tune_image(const char *image, bool as_json)
{
    struct tune_finding findings[TUNE_FINDINGS_MAX];
    struct tune_view *view = calloc(1, sizeof *view);
    int status = STATUS_FAILED;
    if (!view)
        tool_complain("%s", tool_error_text(ENOMEM));
    else if (tune_look_at_image(image, view) == 0)
        status = print_findings(image, findings, tune_find(view, findings), as_json);
    free(view);
    return status;
}

/* seconds: 0, since it was mounted. */
static int tune_mount(const struct tool_mount *mount, double seconds, bool as_json)
{
    static struct tool_figures readings[2]; /* too large for a stack */
    static struct tune_view view;
    struct tune_finding findings[TUNE_FINDINGS_MAX];
    int status = STATUS_FAILED;
    if (tune_look_at_mount(mount, &view))
        return status;
    if (seconds > 0) {
        if (tool_live_read(mount->dir, &readings[0]))
            return status;
        view.before = &readings[0];
        (void)tool_live_wait(-1,
                             (unsigned)(seconds * 1000)); /* a signal may end it: that is meant */
    }
    if (tool_live_read(mount->dir, &readings[1]))
        goto out;
    view.now = &readings[1];
    size_t count = tune_find(&view, findings);
    /* Which files: worth a walk through all of them only if some are. */
    if (is_among(findings, count, "fragments") && tune_look_at_files(mount->dir, &view.files) == 0)
        count = tune_find(&view, findings);
    status = print_findings(mount->dir, findings, count, as_json);
out:
    tool_figures_release(&readings[0]);
    tool_figures_release(&readings[1]);
    return status;
}

/* ---- auto ------------------------------------------------------------------------------- */

static void format_tiers(const struct kv_tiers *tiers, char text[160])
{
    const uint32_t *const ratio = tiers->ratio;
    (void)snprintf(text, 160, "hot_ratio=%u\nwarm_ratio=%u\ncold_ratio=%u\nfrozen_ratio=%u\n",
                   ratio[KV_TIER_HOT], ratio[KV_TIER_WARM], ratio[KV_TIER_COLD],
                   ratio[KV_TIER_FROZEN]);
}

/* Complains. */
static int read_settings(const char *dir, struct fs_mount_options *settings)
{
    struct kv_error error = {""};
    const int err = tool_settings_read(dir, settings, &error);
    if (err)
        tool_complain("%s", *error.text ? error.text : tool_error_text(err));
    return err;
}

/* All together, so one change. Complains. */
static int set_tiers(const char *dir, struct fs_mount_options *settings,
                     const struct kv_tiers *tiers)
{
    struct kv_error error = {""};
    struct fs_mount_options to;
    memcpy(&to, settings, sizeof to); /* compared byte by byte */
    to.tiers = *tiers;
    const int err = tool_settings_change(dir, settings, &to, &error);
    if (err)
        tool_complain("%s", *error.text ? error.text : tool_error_text(err));
    else
        settings->tiers = *tiers;
    return err;
}

/* Look at an interval, and move the border if that is due. */
static int auto_step(const struct tool_mount *mount, struct tune_auto *state,
                     struct tune_view *view)
{
    char reason[TUNE_AUTO_REASON];
    struct tune_memory memory;
    const int err = read_settings(mount->dir, &view->settings);
    if (err)
        return err;
    tune_memory(view, &memory);
    const enum tune_auto_act act = tune_auto_step(state, &memory, reason);
    if (act == TUNE_AUTO_KEEP)
        return 0;
    const struct kv_tiers tiers = tune_auto_tiers(state->percent, &view->settings.tiers);
    printf("%s: %u %% for packed pages (hot %u, warm %u, cold %u, frozen %u): %s\n",
           act == TUNE_AUTO_MOVE ? "moved" : "taken back", state->percent, tiers.ratio[KV_TIER_HOT],
           tiers.ratio[KV_TIER_WARM], tiers.ratio[KV_TIER_COLD], tiers.ratio[KV_TIER_FROZEN],
           reason);
    (void)fflush(stdout); /* asked for at the end */
    return set_tiers(mount->dir, &view->settings, &tiers);
}

/* rounds: 0, until it is interrupted or unmounted. */
static int tune_auto(const struct tool_mount *mount, double seconds, uint64_t rounds)
{
    static struct tool_figures readings[2]; /* too large for a stack */
    static struct tune_view view;
    struct tune_auto state;
    char text[160];
    struct tool_mount still;
    int err = read_settings(mount->dir, &view.settings);
    if (err || tune_look_at_mount(mount, &view) || tool_live_read(mount->dir, &readings[0]))
        return STATUS_FAILED;
    tune_auto_init(&state, &view.settings.tiers);
    tool_live_wait_begin();
    printf("begins: %u %% for packed pages; looked at every %.1f s\n", state.percent, seconds);
    (void)fflush(stdout); /* asked for at the end */
    unsigned which = 0;
    for (uint64_t round = 0; !rounds || round < rounds; round++) {
        /* Unmounted meanwhile: that is its end, and no failure. */
        if (tool_live_wait(-1, (unsigned)(seconds * 1000)) == TOOL_LIVE_INTERRUPTED ||
            tool_mount_of_path(mount->dir, &still) || strcmp(still.source, mount->source) != 0)
            break;
        err = tool_live_read(mount->dir, &readings[!which]);
        if (err)
            break;
        view.now = &readings[!which];
        view.before = &readings[which];
        err = auto_step(mount, &state, &view);
        tool_figures_release(&readings[which]);
        which = !which;
        if (err)
            break;
    }
    tool_figures_release(&readings[which]);
    format_tiers(&view.settings.tiers, text);
    if (!err)
        printf("for mount.conf, [memory]:\n%s", text);
    return tool_finish_output(TOOL_OK) == TOOL_OK && !err ? STATUS_WELL : STATUS_FAILED;
}

/* ---- limits ----------------------------------------------------------------------------- */

static int print_limits(bool as_json)
{
    struct tool_json json;
    tool_json_init(&json, stdout);
    if (as_json)
        tool_json_open(&json, NULL, '[');
    for (size_t i = 0; tune_limit(i); i++) {
        const struct tune_limit *limit = tune_limit(i);
        if (!as_json) {
            printf("%-18s %10g  %s\n", limit->name, limit->value, limit->reason);
            continue;
        }
        tool_json_open(&json, NULL, '{');
        tool_json_string(&json, "name", limit->name);
        tool_json_real(&json, "value", limit->value);
        tool_json_string(&json, "reason", limit->reason);
        tool_json_close(&json, '}');
    }
    if (as_json)
        tool_json_close(&json, ']');
    return tool_finish_output(TOOL_OK) == TOOL_OK ? STATUS_WELL : STATUS_FAILED;
}

/* ---- the command ------------------------------------------------------------------------ */

/* Complains. */
static bool parse_seconds(const char *text, double *seconds)
{
    char *end;
    *seconds = strtod(text, &end);
    if (end != text && !*end && *seconds >= 0.1 && *seconds <= 86400)
        return true;
    tool_complain("--seconds %s: give seconds, 0.1 to 86400", text);
    return false;
}

static int run_tune(const struct tool_arguments *arguments)
{
    const char *target = arguments->operands[0];
    const bool as_json = tool_given(arguments, 'j'), is_auto = tool_given(arguments, 'a');
    double seconds = is_auto ? AUTO_SECONDS : 0;
    uint64_t rounds = 0;
    struct stat status;
    struct tool_mount mount;
    if (tool_given(arguments, 'l') != !target) {
        tool_complain("tune: give an image or a mounted directory, or --limits alone");
        return STATUS_FAILED;
    }
    if (!target)
        return print_limits(as_json);
    if (tool_given(arguments, 's') && !parse_seconds(tool_value(arguments, 's'), &seconds))
        return STATUS_FAILED;
    if (tool_given(arguments, 'r') &&
        (tool_parse_number(tool_value(arguments, 'r'), &rounds) || rounds == 0)) {
        tool_complain("--rounds %s: give a number, at least 1", tool_value(arguments, 'r'));
        return STATUS_FAILED;
    }
    if ((is_auto && as_json) || (!is_auto && tool_given(arguments, 'r'))) {
        tool_complain(is_auto ? "--auto prints its moves as they come; leave out --json"
                              : "--rounds is for --auto");
        return STATUS_FAILED;
    }
    if (stat(target, &status)) {
        tool_complain("%s: %s; give an image or a mounted directory", target,
                      tool_error_text(errno));
        return STATUS_FAILED;
    }
    const bool is_dir = S_ISDIR(status.st_mode);
    if ((is_dir ? tool_mount_of_path(target, &mount) : tool_mount_of_image(target, &mount)) == 0)
        return is_auto ? tune_auto(&mount, seconds, rounds) : tune_mount(&mount, seconds, as_json);
    if (is_dir || is_auto || seconds > 0) {
        tool_complain(is_dir ? "%s: not in a kvfs mount; give an image or a mounted directory"
                             : "%s: nothing happens in an image that is not mounted; --auto and "
                               "--seconds are for mounts",
                      target);
        return STATUS_FAILED;
    }
    return tune_image(target, as_json);
}

static const struct option tune_options[] = {
    {"json", no_argument, NULL, 'j'},   {"seconds", required_argument, NULL, 's'},
    {"auto", no_argument, NULL, 'a'},   {"rounds", required_argument, NULL, 'r'},
    {"limits", no_argument, NULL, 'l'}, {0},
};

const struct tool_command tool_command_tune = {
    .name = "tune",
    .synopsis = "[--json] [--seconds N] [--auto [--rounds N]] IMAGE|DIR | --limits",
    .help =
        "Name what holds a mount back: the figures, the setting to change, what to, and how; the "
        "most\n"
        "important first. Of an image that is not mounted: how its large files lie and pack.\n"
        "\n"
        "  budget, tiers      pages are read again that memory had\n"
        "  log, checkpoints   writers wait for room in the log; pages are written too often\n"
        "  codec              what is packed does not get smaller\n"
        "  threads            requests wait for one\n"
        "  names, reads       the kernel asks again for what it was told\n"
        "  fragments          large files lie in small pieces\n"
        "\n"
        "  -j, --json       one JSON object\n"
        "  -s, --seconds N  what happens in N seconds, instead of all since the mount\n"
        "  -a, --auto       go on until interrupted or unmounted: every N seconds (10) move the\n"
        "                   border between frames and packed pages a little, if pages that had\n"
        "                   left lately say so; take it back where it does not help\n"
        "  -r, --rounds N   of --auto: end after so many intervals\n"
        "  -l, --limits     from where on it is told, and why\n"
        "\n"
        "Example: kvfs tune --seconds 60 /mnt\n"
        "\n"
        "Exit status: 0 nothing found, 1 something was, 2 failed or usage. --auto: 0, 2.\n",
    .options = tune_options,
    .operands_least = 0,
    .operands_most = 1,
    .run = run_tune,
};
