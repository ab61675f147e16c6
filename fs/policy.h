/*
 * fs/policy.h: settings of a mount for files whose names match patterns.
 *
 * Policies stand in the order of the file that they are from. For each key the first policy counts
 * whose pattern matches and that sets the key. A pattern without a slash is about the last name of
 * a path; one with a slash is about all of it, from the root of the mount, where a leading slash
 * may stand or not; `**` is any number of directories. A dot at the beginning of a name is a
 * character like any other. Policies are about files, not about directories.
 *
 * A path is matched name by name: a directory is in a state, which says how far each pattern has
 * got, and a name leads from its directory's state to its own.
 *
 * Threads: one while policies are added; then any.
 */
#ifndef FS_POLICY_H
#define FS_POLICY_H

#include "kv/base.h"
#include "kv/kv.h"

#define FS_POLICY_MAX         64u
#define FS_POLICY_PATTERN_MAX 160u /* bytes */
#define FS_POLICY_STEPS_MAX   256u /* components of all patterns that have a slash */

enum fs_policy_key {
    FS_POLICY_CODEC,
    FS_POLICY_TTL,
    FS_POLICY_PIN,
    FS_POLICY_PREFETCH,
    FS_POLICY_EXTENT_SIZE,
    FS_POLICY_KEY_COUNT
};

struct fs_policy {
    char pattern[FS_POLICY_PATTERN_MAX + 1];
    unsigned sets;              /* bit of each enum fs_policy_key that it sets */
    bool has_codec;             /* false: the image's */
    struct kv_codec_spec codec; /* of what is written */
    uint64_t ttl_ns;            /* of files that get such a name; 0: they stay */
    bool pin;                   /* what was read stays in memory */
    bool prefetch;              /* small files are read when their directory is listed */
    uint32_t extent_bytes;      /* longest extent that is written; 0: the image's */
};

struct fs_policies;

struct fs_policies *fs_policies_new(void);           /* NULL: no memory */
void fs_policies_free(struct fs_policies *policies); /* NULL is fine */
size_t fs_policies_count(const struct fs_policies *policies);
const struct fs_policy *fs_policies_at(const struct fs_policies *policies, size_t index);

/*
 * Add a policy that sets nothing yet, behind the others; *policy is to be filled in, until the next
 * one is added.
 *
 * Returns 0; -EINVAL the pattern (`fault` says why); -EEXIST it is there already; -ENAMETOOLONG;
 * -E2BIG there are too many policies, or components of patterns.
 */
KV_MUST_CHECK int fs_policies_add(struct fs_policies *policies, const char *pattern,
                                  struct fs_policy **policy, const char **fault);

/* ---- matching ----------------------------------------------------------------------------- */

struct fs_policy_state {
    uint64_t steps[FS_POLICY_STEPS_MAX / 64u];
};

/* The state of the root. */
void fs_policies_start(const struct fs_policies *policies, struct fs_policy_state *state);
/*
 * A name (terminated) in a directory of that state.
 *
 * below  out, may be NULL: its own state, if it is a directory; may be `state`.
 *
 * Returns the policies that it matches, if it is a file: bit i for the i-th.
 */
uint64_t fs_policies_step(const struct fs_policies *policies, const struct fs_policy_state *state,
                          const char *name, struct fs_policy_state *below);
/* Does it matter in which directory a name is? */
bool fs_policies_need_state(const struct fs_policies *policies);

/* Which policies decide, of those that match: for each key its number, from 1; 0: none does. */
struct fs_policy_choice {
    uint8_t by[FS_POLICY_KEY_COUNT];
};
struct fs_policy_choice fs_policies_choose(const struct fs_policies *policies, uint64_t matches);
/* The one that decides on a key; NULL: none. */
const struct fs_policy *fs_policy_for(const struct fs_policies *policies,
                                      const struct fs_policy_choice *choice,
                                      enum fs_policy_key key);
/* Does any policy set the key? */
bool fs_policies_have(const struct fs_policies *policies, enum fs_policy_key key);

/* ---- words ---------------------------------------------------------------------------------- */

const char *fs_policy_key_name(enum fs_policy_key key);
#define FS_POLICY_VALUE_TEXT 32u
/* The value of a key that it sets, as in mount.conf. */
void fs_policy_value_text(const struct fs_policy *policy, enum fs_policy_key key,
                          char text[FS_POLICY_VALUE_TEXT]);
#define FS_POLICY_LINE (FS_POLICY_PATTERN_MAX + 128u)
/* All of it: `"*.log": codec=zstd:9 ttl=30d`. */
void fs_policy_line(const struct fs_policy *policy, char text[FS_POLICY_LINE]);

#endif
