/*
 * tools/tune_look.c: what the rules look at, of a mount or of an image.
 *
 * Owns       nothing.
 */
#include "tools/tune_look.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "fs/describe.h"
#include "fs/namespace.h"
#include "kv/base.h"
#include "tools/command.h"
#include "tools/keys.h"
#include "tools/keys_backend.h"
#include "tools/options.h"
#include "tools/settings_live.h"

#define TEXT_BYTES  2048u
#define LOOK_ENOUGH 1 /* ends a scan */

/* ---- settings and image ------------------------------------------------------------------ */

int tune_look_at_mount(const struct tool_mount *mount, struct tune_view *view)
{
    struct kv_error error = {""};
    const int err = kv_image_info(mount->source, &view->image, &error);
    if (err) {
        tool_complain("%s", *error.text ? error.text : tool_error_text(err));
        return err;
    }
    view->processors = kv_cpu_count();
    view->has_settings = tool_settings_read(mount->dir, &view->settings, &error) == 0;
    return 0;
}

int tune_look_at_image(const char *image, struct tune_view *view)
{
    struct kv_error error = {""};
    const int err = kv_image_info(image, &view->image, &error);
    if (err) {
        tool_complain("%s", *error.text ? error.text : tool_error_text(err));
        return err;
    }
    view->processors = kv_cpu_count();
    return tune_look_at_files(image, &view->files);
}

/* ---- files ------------------------------------------------------------------------------ */

struct looking {
    struct tool_keys *keys;
    const char *target;
    struct tune_files *files;
    struct tool_figures *figures; /* of one file */
    uint64_t visited;
};

/* What the filesystem says of a file. False: nothing, it may be gone. */
static bool describe(const struct looking *looking, const char *key, char text[TEXT_BYTES])
{
    struct fs_volume *volume = keys_image_volume(looking->keys);
    if (volume) {
        const int length = fs_path_describe_json(volume, key, text, TEXT_BYTES);
        return length > 0 && length < (int)TEXT_BYTES;
    }
    char *path = keys_join(looking->target, key);
    const ssize_t length = path ? lgetxattr(path, FS_XATTR_INFO, text, TEXT_BYTES - 1) : -1;
    free(path);
    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

static void add_file(struct looking *looking, const char *key)
{
    struct tune_files *const files = looking->files;
    const struct tool_figures *const figures = looking->figures;
    const double extents = tool_figure(figures, "extent_count");
    const double extent_bytes = tool_figure(figures, "extent_bytes");
    const double in_vain = tool_figure(figures, "extents_none");
    const uint64_t pieces = (uint64_t)(extents + tool_figure(figures, "packed_count"));
    const uint64_t bytes = (uint64_t)(extent_bytes + tool_figure(figures, "packed_bytes"));
    if (!pieces || bytes < TUNE_LARGE_FILE)
        return; /* most of it is a hole */
    files->looked_at++;
    files->bytes += bytes;
    files->pieces += pieces;
    const bool is_fragmented = bytes / pieces < tune_piece_bytes();
    files->fragmented += is_fragmented;
    if (extents > 0 && !is_fragmented) { /* an extent of a block can not get smaller */
        files->raw_bytes += (uint64_t)extent_bytes;
        files->unpackable_bytes += (uint64_t)(extent_bytes * in_vain / extents);
    }
    if (!is_fragmented ||
        (files->worst_pieces && bytes / pieces >= files->worst_bytes / files->worst_pieces))
        return;
    files->worst_bytes = bytes;
    files->worst_pieces = pieces;
    (void)snprintf(files->worst, sizeof files->worst, "%s", key);
}

static int visit(void *context, const struct tool_entry *entry)
{
    struct looking *looking = context;
    char text[TEXT_BYTES];
    if (++looking->visited > TUNE_LOOK_FILES)
        return LOOK_ENOUGH;
    if (entry->size >= TUNE_LARGE_FILE && describe(looking, entry->key, text) &&
        tool_figures_parse(text, looking->figures) == 0)
        add_file(looking, entry->key);
    return 0;
}

int tune_look_at_files(const char *target, struct tune_files *files)
{
    const struct tool_scan all = {.limit = 0};
    struct kv_error error = {""};
    struct looking looking = {
        .target = target, .files = files, .figures = calloc(1, sizeof *looking.figures)};
    *files = (struct tune_files){.looked_at = 0};
    int err =
        looking.figures ? tool_keys_open(target, TOOL_KEYS_READ, &looking.keys, &error) : -ENOMEM;
    if (!err) {
        err = tool_keys_scan(looking.keys, &all, visit, &looking, &error);
        err = err == LOOK_ENOUGH ? 0 : err;
        struct kv_error close_error;
        (void)!tool_keys_close(looking.keys, &close_error); /* it was only read */
    }
    if (err)
        tool_complain("%s", *error.text ? error.text : tool_error_text(err));
    free(looking.figures);
    return err;
}
