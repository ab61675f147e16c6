/*
 * tools/tune_look.h: what the rules of tools/tune.h look at, of a mount or of an image.
 *
 * Threads: one.
 */
#ifndef TOOLS_TUNE_LOOK_H
#define TOOLS_TUNE_LOOK_H

#include "tools/mounts.h"
#include "tools/tune.h"

/* So many files are looked at, at most. */
#define TUNE_LOOK_FILES 20000u

/*
 * Settings, image and processors; figures are the caller's. Who may not read the settings goes
 * without them (has_settings). Complains, and returns a negative errno, when the image can not be
 * read.
 */
KV_MUST_CHECK int tune_look_at_mount(const struct tool_mount *mount, struct tune_view *view);
KV_MUST_CHECK int tune_look_at_image(const char *image, struct tune_view *view);

/* The large files of a mounted directory or an image. Complains. */
KV_MUST_CHECK int tune_look_at_files(const char *target, struct tune_files *files);

#endif
