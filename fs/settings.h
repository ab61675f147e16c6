/*
 * fs/settings.h: the settings of a mount, to be shown and, as far as that can be, changed while it
 * is mounted.
 *
 * The names, forms and bounds of settings are those of mount.conf; whoever mounts brings the
 * functions that know them (struct fs_settings_words in fs/mount.h).
 *
 * Threads: any, but for new and free.
 */
#ifndef FS_SETTINGS_H
#define FS_SETTINGS_H

#include "fs/health.h"
#include "fs/mount.h"

struct fs_settings;

/* All borrowed until fs_settings_free. */
struct fs_settings_parts {
    struct fs_volume *volume;
    struct fs_counters *counters;
    struct fs_health *health;
    _Atomic unsigned *log_level; /* enum fs_log_level */
};

/* options: copied; what its strings point to is not kept. NULL: no memory. */
struct fs_settings *fs_settings_new(const struct fs_mount_options *options,
                                    const struct fs_settings_parts *parts);
void fs_settings_free(struct fs_settings *settings); /* NULL is fine */

/* "key=value" lines, like snprintf. */
size_t fs_settings_text(struct fs_settings *settings, char *out, size_t cap);

/*
 * Obey "key=value" lines, all of them or none. -EINVAL: a line that is not of that form, an
 * unknown key, a value that may not be, a setting that can not change while it is mounted. The
 * log says which, why, and the remedy; and what changed.
 */
KV_MUST_CHECK int fs_settings_change(struct fs_settings *settings, const char *text, size_t length);

/*
 * May a mount with the settings `now` change to `to` while it is mounted? Both are copies of one
 * struct, byte by byte, that differ in nothing but settings.
 */
bool fs_settings_can_change(const struct fs_mount_options *now, const struct fs_mount_options *to);

#endif
