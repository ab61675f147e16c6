/*
 * fs/policy_lookup.h: which policies hold for an inode of a volume.
 *
 * It is the present name of a file that counts: after a rename what is written next goes by the new
 * one. A file with several names, or none, is under no policy: there is not one name to go by. What
 * is decided for an inode is remembered in the inode table; how far patterns have got in a
 * directory, in a small table here. Both are out of date once a directory has moved.
 *
 * Functions that take an item need its lock, shared at least; the volume's policies never change.
 * Those that return an error: what reading the way up from a name says; -ENOMEM.
 */
#ifndef FS_POLICY_LOOKUP_H
#define FS_POLICY_LOOKUP_H

#include "fs/inode.h"
#include "fs/policy.h"

struct fs_policy_lookup;

/* policies: borrowed until fs_policy_lookup_free. NULL: no memory. */
struct fs_policy_lookup *fs_policy_lookup_new(const struct fs_policies *policies);
void fs_policy_lookup_free(struct fs_policy_lookup *lookup); /* NULL is fine */

/*
 * How content of a file goes to the store, and comes from it. Where the way up can not be read, as
 * if there were no policies: what holds is about speed and room only.
 */
struct fs_policy_effect {
    struct fs_data data; /* the volume's, with the file's extent size; retain: it is pinned */
    struct kv_codec_spec spec;
    const struct kv_codec_spec *codec; /* &spec, or NULL: as the image says */
};
void fs_policy_apply(struct fs_volume *volume, const struct fs_item *item,
                     struct fs_policy_effect *effect);
/* The same for who knows the choice. */
void fs_policy_apply_choice(struct fs_volume *volume, const struct fs_record *record,
                            const struct fs_policy_choice *choice, struct fs_policy_effect *effect);

/* What holds for a file of that name; nothing, where the volume has no policies. */
KV_MUST_CHECK int fs_policy_choice_of_name(struct fs_volume *volume, uint64_t directory,
                                           const char *name, size_t name_len,
                                           struct fs_policy_choice *choice);
/* The same for a key; nothing, if it is no D key. */
KV_MUST_CHECK int fs_policy_choice_of_key(struct fs_volume *volume, const struct fs_key *key,
                                          struct fs_policy_choice *choice);
/* How long what gets a key shall live; 0: nothing is said. */
KV_MUST_CHECK int fs_policy_ttl_ns(struct fs_volume *volume, const struct fs_key *key,
                                   uint64_t *ttl_ns);

/* A directory hangs elsewhere now; after that was applied. */
void fs_policy_directory_moved(struct fs_volume *volume);

/* NULL: the volume has none. */
const struct fs_policies *fs_volume_policies(const struct fs_volume *volume);

#endif
