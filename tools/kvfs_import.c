/*
 * tools/kvfs_import.c: kvfs import and export: whole trees into an image or a mount, and out of it.
 *
 * Here is only which source meets which sink (tools/tree.h).
 */
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/keys.h"
#include "tools/keys_backend.h"
#include "tools/options.h"
#include "tools/outlet.h"
#include "tools/tree.h"

enum form { FORM_DIRECTORY, FORM_TAR, FORM_JSON };

static bool ends_with(const char *path, const char *ending)
{
    const size_t length = strlen(path), ending_len = strlen(ending);
    return length >= ending_len && strcmp(path + length - ending_len, ending) == 0;
}

/* As --format says, or by what the path is, or its name. Returns false after complaining. */
static bool choose_form(const char *path, const char *given, bool is_source, enum form *form)
{
    static const char *const names[] = {"directory", "tar", "json", NULL};
    static const char *const tar[] = {".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".tar.bz2"};
    struct stat status;
    uint32_t index;
    if (given) {
        if (tool_parse_choice(given, names, &index)) {
            tool_complain("--format %s: give directory, tar or json", given);
            return false;
        }
        *form = (enum form)index;
        return true;
    }
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
        *form = FORM_DIRECTORY;
        return true;
    }
    for (size_t i = 0; i < sizeof tar / sizeof *tar; i++) {
        if (ends_with(path, tar[i])) {
            *form = FORM_TAR;
            return true;
        }
    }
    if (ends_with(path, ".json") || ends_with(path, ".jsonl") || ends_with(path, ".ndjson")) {
        *form = FORM_JSON;
        return true;
    }
    if (!is_source && strcmp(path, "-") != 0 && stat(path, &status) != 0) {
        *form = FORM_DIRECTORY; /* that will be made */
        return true;
    }
    tool_complain("%s: no directory, and not named like tar or json; say what it is with --format",
                  path);
    return false;
}

/* The place in a target that --into or --from names. */
struct place {
    struct tool_keys *keys;
    const char *below; /* "" the top */
    char *directory;   /* of a mount: the place itself, owned */
};

static int place_open(struct place *place, const char *target, const char *below,
                      enum tool_keys_access access, struct kv_error *error)
{
    *place = (struct place){.below = below ? below : ""};
    int err = *place->below ? tool_check_key(place->below, error) : 0;
    if (!err)
        err = tool_keys_open(target, access, &place->keys, error);
    if (err)
        return err;
    if (!keys_image_volume(place->keys))
        place->directory = *place->below ? keys_join(target, place->below) : strdup(target);
    return 0;
}

static int place_close(struct place *place, struct kv_error *error)
{
    free(place->directory);
    return tool_keys_close(place->keys, error);
}

static void print_counts(const struct tree_job *job, const char *what)
{
    char size[TOOL_SIZE_TEXT];
    tool_format_size(job->bytes, size);
    printf("%" PRIu64 " entries %s, %s of content\n", job->entries, what, size);
}

/* What is worth knowing though nothing failed. */
static void tell_losses(const struct tree_job *job)
{
    if (job->not_kept)
        tool_complain("%" PRIu64 " attributes or entries were left out: the target has no place "
                      "for them, or this user may not set them",
                      job->not_kept);
}

/* ---- import -------------------------------------------------------------------------- */

static int make_directories(const char *path)
{
    char *copy = strdup(path);
    int err = copy ? 0 : -ENOMEM;
    for (char *slash = copy; !err && slash;) {
        slash = strchr(slash + 1, '/');
        if (slash)
            *slash = '\0';
        if (mkdir(copy, 0777) && errno != EEXIST)
            err = -errno;
        if (slash)
            *slash = '/';
    }
    free(copy);
    return err;
}

static struct tree_sink *import_sink(struct tree_job *job, const struct place *place)
{
    if (keys_image_volume(place->keys))
        return tree_to_image(job, keys_image_volume(place->keys), keys_image_caller(place->keys),
                             place->below);
    const int err = place->directory ? make_directories(place->directory) : -ENOMEM;
    if (err) {
        (void)tree_failed(job, place->below, err); /* the words are all that is wanted */
        return NULL;
    }
    return tree_to_mount(job, place->keys, place->below, place->directory);
}

static int read_source(struct tree_job *job, const char *path, enum form form)
{
    if (form == FORM_DIRECTORY)
        return tree_from_directory(job, path);
    const bool is_stdin = strcmp(path, "-") == 0;
    const int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return tree_failed(job, path, -errno);
    int err;
    if (form == FORM_TAR) {
        err = tree_from_tar(job, fd);
        if (!is_stdin)
            close(fd);
        return err;
    }
    FILE *in = is_stdin ? stdin : fdopen(fd, "r");
    if (!in) {
        err = -errno;
        close(fd);
        return tree_failed(job, path, err);
    }
    err = tree_from_json(job, in);
    if (!is_stdin)
        (void)fclose(in); /* only read */
    return err;
}

static int run_import(const struct tool_arguments *arguments)
{
    const char *path = arguments->operands[1] ? arguments->operands[1] : "-";
    struct tree_job job = {.sink = NULL};
    struct place place;
    enum form form;
    if (!choose_form(path, tool_value(arguments, 'F'), true, &form))
        return TOOL_USAGE;
    /* Before the target is opened for writing. */
    if (strcmp(path, "-") != 0 && access(path, R_OK)) {
        tool_complain("%s: %s; give a directory or file that can be read", path,
                      tool_error_text(errno));
        return TOOL_FAILED;
    }
    int err = place_open(&place, arguments->operands[0], tool_value(arguments, 'i'),
                         TOOL_KEYS_IMPORT, &job.error);
    if (err)
        return tool_failed(err, &job.error);
    tool_progress_init(&job.progress, !tool_given(arguments, 'q'));
    tool_progress_stage(&job.progress, "import");
    char control[FS_NAME_MAX + 1];
    if (!*place.below && keys_is_top(place.keys) && keys_control_name(place.keys, control))
        job.control = control;
    job.sink = import_sink(&job, &place);
    err = job.sink ? read_source(&job, path, form) : -EIO;
    if (!err)
        err = job.sink->finish(job.sink);
    if (err)
        (void)tree_failed(&job, "", err); /* the words are all that is wanted */
    if (job.sink)
        job.sink->free(job.sink);
    tool_progress_clear(&job.progress);
    struct kv_error close_error = {""};
    const int close_err = place_close(&place, &close_error);
    if (err)
        tool_complain("%s; what was imported is whole, run the same again to go on",
                      job.error.text);
    else if (close_err)
        return tool_failed(close_err, &close_error);
    tell_losses(&job);
    if (!err && tool_given(arguments, 'v'))
        print_counts(&job, "imported");
    return tool_finish_output(err ? TOOL_FAILED : TOOL_OK);
}

/* ---- export ------------------------------------------------------------------------------ */

/* outlet: out: to be closed, whatever is returned. */
static struct tree_sink *export_sink(struct tree_job *job, const char *path, enum form form,
                                     struct tool_outlet *outlet)
{
    const bool is_stream = form != FORM_DIRECTORY;
    int err = tool_outlet_open(outlet, is_stream ? path : "-");
    if (!err && !is_stream)
        err = make_directories(path);
    if (!err && form == FORM_JSON && !tool_outlet_stream(outlet))
        err = -errno;
    if (err) {
        (void)tree_failed(job, path, err); /* the words are all that is wanted */
        return NULL;
    }
    switch (form) {
    case FORM_DIRECTORY:
        return tree_to_directory(job, path);
    case FORM_TAR:
        return tree_to_tar(job, outlet->fd);
    case FORM_JSON:
        break;
    }
    return tree_to_json(job, tool_outlet_stream(outlet));
}

static int run_export(const struct tool_arguments *arguments)
{
    const char *path = arguments->operands[1] ? arguments->operands[1] : "-";
    const char *format = tool_value(arguments, 'F');
    struct tree_job job = {.sink = NULL};
    struct place place;
    struct tool_outlet outlet;
    enum form form;
    if (!choose_form(path, format, false, &form))
        return TOOL_USAGE;
    int err = place_open(&place, arguments->operands[0], tool_value(arguments, 'f'), TOOL_KEYS_READ,
                         &job.error);
    if (err)
        return tool_failed(err, &job.error);
    tool_progress_init(&job.progress, !tool_given(arguments, 'q'));
    tool_progress_stage(&job.progress, "export");
    job.sink = export_sink(&job, path, form, &outlet);
    err = job.sink ? 0 : -EIO;
    if (!err)
        err = keys_image_volume(place.keys)
                  ? tree_from_image(&job, keys_image_volume(place.keys), place.below)
                  : tree_from_directory(&job, place.directory ? place.directory : "");
    if (!err)
        err = job.sink->finish(job.sink);
    if (job.sink)
        job.sink->free(job.sink);
    err = tool_outlet_close(&outlet, err);
    if (err)
        (void)tree_failed(&job, path, err); /* the words are all that is wanted */
    tool_progress_clear(&job.progress);
    struct kv_error close_error;
    (void)!place_close(&place, &close_error); /* it was only read */
    if (err)
        tool_complain("%s", job.error.text);
    tell_losses(&job);
    if (!err && tool_given(arguments, 'v'))
        print_counts(&job, "exported");
    return tool_finish_output(err ? TOOL_FAILED : TOOL_OK);
}

/* ---- rows ----------------------------------------------------------------------------------- */

static const struct option import_options[] = {
    {"format", required_argument, NULL, 'F'},
    {"into", required_argument, NULL, 'i'},
    {"quiet", no_argument, NULL, 'q'},
    {"verbose", no_argument, NULL, 'v'},
    {0},
};

const struct tool_command tool_command_import = {
    .name = "import",
    .synopsis = "[--format FORM] [--into KEY] [-q] [-v] IMAGE|DIR [SOURCE]",
    .help =
        "Store all that SOURCE has: a directory, a tar stream, packed or not, or lines of JSON; "
        "or\n"
        "standard input. Contents, modes, owners, times, attributes, ACLs, links, devices and "
        "holes\n"
        "are as they are there. In a mount, who is not root owns what he imports, without setuid "
        "and\n"
        "setgid of files that were another's. What the target has already, by type, size, time, "
        "mode\n"
        "and owner, is left alone, and a file is there only when it is whole: an import that was\n"
        "interrupted is completed by running it again. In a mount the daemon makes the files, if "
        "this\n"
        "user may use its control directory; else the kernel does, which takes several times as "
        "long.\n"
        "\n"
        "  -F, --format FORM  directory, tar or json, where SOURCE does not show it\n"
        "  -i, --into KEY     below KEY, not at the top\n"
        "  -q, --quiet        no progress on a terminal\n"
        "  -v, --verbose      say how much it was\n"
        "\n"
        "A line of JSON: {\"key\":\"a/b\",\"value\":\"bytes\"}, and if wanted \"type\" (value, "
        "directory,\n"
        "symlink with \"target\", fifo, socket, block and character with \"rdev\":[major,minor]),\n"
        "\"mode\":\"0644\", \"uid\", \"gid\", \"mtime\", \"atime\":\"2026-01-31T12:00:00.5Z\", "
        "\"xattrs\":{},\n"
        "\"link\" to a key before it, \"size\" and \"extents\":[{\"offset\":0,\"value\":\"\"}] for "
        "holes.\n"
        "\\udc80 to \\udcff are the bytes 80 to ff.\n"
        "\n"
        "Exit status: 0 all is there and durable, 1 failed, 2 usage.\n"
        "\n"
        "Example: kvfs import data.img /usr/share/doc\n",
    .options = import_options,
    .operands_least = 1,
    .operands_most = 2,
    .run = run_import,
};

static const struct option export_options[] = {
    {"format", required_argument, NULL, 'F'},
    {"from", required_argument, NULL, 'f'},
    {"quiet", no_argument, NULL, 'q'},
    {"verbose", no_argument, NULL, 'v'},
    {0},
};

const struct tool_command tool_command_export = {
    .name = "export",
    .synopsis = "[--format FORM] [--from KEY] [-q] [-v] IMAGE|DIR [TARGET]",
    .help =
        "Write all that is stored to TARGET: a directory, which is made, a tar stream (pax) or "
        "lines\n"
        "of JSON, as kvfs import reads them; or to standard output. In a directory, what is there\n"
        "already is left alone, so an export that was interrupted is completed by running it "
        "again;\n"
        "a file gets its name when it is whole. Who is not root owns what he exports there, "
        "without\n"
        "setuid and setgid of files that were another's.\n"
        "\n"
        "  -F, --format FORM  directory, tar or json, where TARGET does not show it\n"
        "  -f, --from KEY     what is below KEY, not all\n"
        "  -q, --quiet        no progress on a terminal\n"
        "  -v, --verbose      say how much it was\n"
        "\n"
        "Exit status: 0 all is there and durable, 1 failed, 2 usage.\n"
        "\n"
        "Example: kvfs export --format tar data.img | zstd >data.tar.zst\n",
    .options = export_options,
    .operands_least = 1,
    .operands_most = 2,
    .run = run_export,
};
