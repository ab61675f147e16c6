/*
 * tools/config_policy.h: the sections [policy "PATTERN"] of mount.conf.
 *
 * Functions return 0, or -EINVAL with the words in `problem`: what is wrong and what to write.
 */
#ifndef TOOLS_CONFIG_POLICY_H
#define TOOLS_CONFIG_POLICY_H

#include "fs/policy.h"

#define TOOL_POLICY_PROBLEM 320u

/* Is a line, without blanks before it, the beginning of such a section, well-formed or not? */
bool tool_policy_is_header(const char *line);

/*
 * Begin a section: *policies is made if it is NULL; *policy is to be filled by tool_policy_set.
 * Returns also -ENOMEM.
 */
KV_MUST_CHECK int tool_policy_begin(const char *line, struct fs_policies **policies,
                                    struct fs_policy **policy, char problem[TOOL_POLICY_PROBLEM]);

/* One `key = value` line of the section. */
KV_MUST_CHECK int tool_policy_set(struct fs_policy *policy, const char *key, const char *value,
                                  char problem[TOOL_POLICY_PROBLEM]);

#endif
