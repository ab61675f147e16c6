/*
 * tools/config.h: the settings of a mount, from mount.conf and from -o options.
 *
 * Each setting has one name, used in both places, and one default, used when neither names it.
 * Threads: any, as long as each has its own fs_mount_options.
 */
#ifndef TOOLS_CONFIG_H
#define TOOLS_CONFIG_H

#include "fs/mount.h"

/* Set every setting to its default; image, dir, extra and the log become NULL. */
void tool_config_defaults(struct fs_mount_options *options);

/*
 * Apply the settings in an INI file.
 *
 * Returns 0; -EINVAL a line that is no setting, an unknown section or key, a key given twice,
 * or a bad value: `error` names file, line and key; or what opening and reading the file say.
 * `options` is unspecified after an error.
 */
KV_MUST_CHECK int tool_config_read(const char *path, struct fs_mount_options *options,
                                   struct kv_error *error);

/*
 * Apply one setting, as -o gives it. value NULL: the key stood alone, which means yes.
 *
 * Returns 0; -ENOENT no setting has that name; -EINVAL a bad value: `error` names key and value.
 */
KV_MUST_CHECK int tool_config_set(const char *key, const char *value,
                                  struct fs_mount_options *options, struct kv_error *error);

/* What a setting looks like, for help and tests; NULL past the last one. */
struct tool_setting {
    const char *section;       /* of mount.conf */
    const char *key;           /* in mount.conf and after -o */
    const char *default_value; /* as text */
    const char *form;          /* what a value may be, in words */
};
const struct tool_setting *tool_config_setting(size_t index);

#endif
