/*
 * tools/config.h: the settings of a mount, from mount.conf and from -o options.
 *
 * Each setting has one name, used in both places, and one default, used when neither names it.
 * Threads: any, as long as each has its own fs_mount_options.
 */
#ifndef TOOLS_CONFIG_H
#define TOOLS_CONFIG_H

#include "fs/mount.h"

/* Set every setting to its default; image, dir, extra, policies and the log become NULL. */
void tool_config_defaults(struct fs_mount_options *options);
/* Free what tool_config_read has made: the policies. */
void tool_config_release(struct fs_mount_options *options);

/*
 * The same, but no more for the store than a third of the memory there is, and then what a profile
 * (tools/profiles.h) says: of that name, or if it is NULL, of the one that the INI file at `path`
 * (NULL: none) names. A name that is not known or a file that is not in order counts for nothing
 * here: tool_config_set and tool_config_read tell.
 */
void tool_config_start(const char *profile_name, const char *path,
                       struct fs_mount_options *options);

/*
 * Apply the settings in an INI file. Sections [policy "PATTERN"] become options->policies, which
 * must be NULL before; tool_config_release frees them.
 *
 * Returns 0; -EINVAL a line that is no setting, an unknown section or key, a key given twice,
 * or a bad value: `error` names file, line and key; or what opening and reading the file say.
 * `options` is unspecified after an error, and has no policies.
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

/*
 * Apply what the environment says: KVFS_METRICS, as the setting `metrics`. It wins over the file,
 * and options win over it. Returns 0, or -EINVAL with the words in `error`.
 */
KV_MUST_CHECK int tool_config_environment(struct fs_mount_options *options, struct kv_error *error);

/* "key=value" of the index-th setting, as tool_config_set takes it; false: there are no more. */
bool tool_config_show(size_t index, const struct fs_mount_options *options, char *line, size_t cap);

/* These functions, for a mount that shows and changes its settings. */
extern const struct fs_settings_words tool_config_words;

/* What a setting looks like, for help and tests; NULL past the last one. */
struct tool_setting {
    const char *section;       /* of mount.conf */
    const char *key;           /* in mount.conf and after -o */
    const char *default_value; /* as text */
    const char *form;          /* what a value may be, in words */
};
const struct tool_setting *tool_config_setting(size_t index);

#endif
