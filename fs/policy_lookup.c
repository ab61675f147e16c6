/*
 * fs/policy_lookup.c: which policies hold for an inode.
 *
 * Owns       the generation of what is remembered, and the states of some directories.
 * Invariant  what is remembered with the present generation is right: a directory that moves ends
 *            the generation after its P key has changed, and who decides reads the generation
 *            before any P key.
 * Locks      lookup->mutex, a leaf, for the table of states.
 */
#include "fs/policy_lookup.h"

#include <stdatomic.h>

#define MEMO_SLOTS 256u /* a power of two */
#define DEPTH_MAX  16384u
#define CHAIN_MIN  16u

struct memo {
    uint64_t directory;
    uint32_t generation; /* 0: nothing */
    struct fs_policy_state state;
};

struct fs_policy_lookup {
    const struct fs_policies *policies; /* immutable, as the next */
    struct fs_policy_state root;
    _Atomic uint32_t generation; /* never 0 */
    pthread_mutex_t mutex;
    struct memo memos[MEMO_SLOTS]; /* mutex */
};

struct fs_policy_lookup *fs_policy_lookup_new(const struct fs_policies *policies)
{
    struct fs_policy_lookup *lookup = calloc(1, sizeof *lookup);
    if (!lookup)
        return NULL;
    lookup->policies = policies;
    fs_policies_start(policies, &lookup->root);
    atomic_init(&lookup->generation, 1);
    pthread_mutex_init(&lookup->mutex, NULL); /* does not fail on Linux */
    return lookup;
}

void fs_policy_lookup_free(struct fs_policy_lookup *lookup)
{
    if (!lookup)
        return;
    pthread_mutex_destroy(&lookup->mutex);
    free(lookup);
}

const struct fs_policies *fs_volume_policies(const struct fs_volume *volume)
{
    return volume->policies ? volume->policies->policies : NULL;
}

void fs_policy_directory_moved(struct fs_volume *volume)
{
    struct fs_policy_lookup *const lookup = volume->policies;
    if (!lookup || !fs_policies_need_state(lookup->policies) || KV_PLANT(policy_outlives_move))
        return;
    /* Release pairs with the acquire of generation_of: who sees it sees the keys as they are. */
    if (atomic_fetch_add_explicit(&lookup->generation, 1, memory_order_release) == UINT32_MAX)
        (void)atomic_fetch_add_explicit(&lookup->generation, 1, memory_order_release);
}

static uint32_t generation_of(const struct fs_policy_lookup *lookup)
{
    return atomic_load_explicit(&lookup->generation, memory_order_acquire);
}

/* ---- directories --------------------------------------------------------------------------- */

static struct memo *memo_of(struct fs_policy_lookup *lookup, uint64_t directory)
{
    return &lookup->memos[(directory * 0x9e3779b97f4a7c15ull >> 32) % MEMO_SLOTS];
}

static bool recall(struct fs_policy_lookup *lookup, uint64_t directory, uint32_t generation,
                   struct fs_policy_state *state)
{
    if (directory == FS_ROOT_INO) {
        *state = lookup->root;
        return true;
    }
    pthread_mutex_lock(&lookup->mutex);
    const struct memo *const memo = memo_of(lookup, directory);
    const bool found = memo->directory == directory && memo->generation == generation;
    if (found)
        *state = memo->state;
    pthread_mutex_unlock(&lookup->mutex);
    return found;
}

static void remember(struct fs_policy_lookup *lookup, uint64_t directory, uint32_t generation,
                     const struct fs_policy_state *state)
{
    pthread_mutex_lock(&lookup->mutex);
    *memo_of(lookup, directory) =
        (struct memo){.directory = directory, .generation = generation, .state = *state};
    pthread_mutex_unlock(&lookup->mutex);
}

/* A directory on the way up, and its name. */
struct link {
    uint64_t ino;
    char name[FS_NAME_MAX + 1];
};

static int read_link_up(struct fs_volume *volume, struct link *link, uint64_t *parent)
{
    struct fs_key key;
    uint8_t value[8 + FS_NAME_MAX];
    size_t length, name_len;
    const char *name;
    fs_key_ino(&key, FS_KEY_PARENT, link->ino);
    int err = kv_get(volume->store, key.bytes, key.length, value, sizeof value, &length);
    if (!err)
        err = fs_parent_decode(value, length, parent, &name, &name_len);
    if (err)
        return err;
    memcpy(link->name, name, name_len);
    link->name[name_len] = '\0';
    return 0;
}

/* Deeper than DEPTH_MAX, which may be a circle in a damaged image, no pattern with a slash matches.
 */
static int directory_state(struct fs_volume *volume, uint64_t directory, uint32_t generation,
                           struct fs_policy_state *state)
{
    struct fs_policy_lookup *const lookup = volume->policies;
    struct link *chain = NULL;
    size_t count = 0, cap = 0;
    int err = 0;
    while (!err && !recall(lookup, directory, generation, state)) {
        if (count == cap) {
            cap = cap ? 2 * cap : CHAIN_MIN;
            if (cap > DEPTH_MAX) {
                *state = (struct fs_policy_state){.steps = {0}};
                count = 0;
                break;
            }
            struct link *const grown = realloc(chain, cap * sizeof *grown);
            if (!grown) {
                err = -ENOMEM;
                break;
            }
            chain = grown;
        }
        chain[count].ino = directory;
        err = read_link_up(volume, &chain[count++], &directory);
    }
    while (!err && count-- > 0) {
        (void)fs_policies_step(lookup->policies, state, chain[count].name, state);
        remember(lookup, chain[count].ino, generation, state);
    }
    free(chain);
    return err;
}

static int matches_of_name(struct fs_volume *volume, uint64_t directory, const char *name,
                           size_t name_len, uint32_t generation, uint64_t *matches)
{
    const struct fs_policy_lookup *const lookup = volume->policies;
    struct fs_policy_state state = lookup->root;
    char text[FS_NAME_MAX + 1];
    KV_ASSERT(name_len <= FS_NAME_MAX);
    memcpy(text, name, name_len);
    text[name_len] = '\0';
    const int err = fs_policies_need_state(lookup->policies)
                        ? directory_state(volume, directory, generation, &state)
                        : 0;
    *matches = err ? 0 : fs_policies_step(lookup->policies, &state, text, NULL);
    return err;
}

int fs_policy_choice_of_name(struct fs_volume *volume, uint64_t directory, const char *name,
                             size_t name_len, struct fs_policy_choice *choice)
{
    uint64_t matches;
    *choice = (struct fs_policy_choice){.by = {0}};
    if (!volume->policies)
        return 0;
    const int err = matches_of_name(volume, directory, name, name_len,
                                    generation_of(volume->policies), &matches);
    if (!err)
        *choice = fs_policies_choose(volume->policies->policies, matches);
    return err;
}

int fs_policy_choice_of_key(struct fs_volume *volume, const struct fs_key *key,
                            struct fs_policy_choice *choice)
{
    uint64_t directory;
    const char *name;
    size_t name_len;
    *choice = (struct fs_policy_choice){.by = {0}};
    if (!volume->policies || key->bytes[0] != FS_KEY_ENTRY)
        return 0;
    const int err = fs_key_entry_parse(key->bytes, key->length, &directory, &name, &name_len);
    return err ? err : fs_policy_choice_of_name(volume, directory, name, name_len, choice);
}

/* A choice of what holds for content, in 16 bits, for the inode table. */
static_assert(FS_POLICY_MAX < 127, "numbers from 0 are 7 bits");

static uint16_t pack_choice(const struct fs_policies *policies,
                            const struct fs_policy_choice *choice)
{
    const struct fs_policy *const pin = fs_policy_for(policies, choice, FS_POLICY_PIN);
    return (uint16_t)(choice->by[FS_POLICY_CODEC] | choice->by[FS_POLICY_EXTENT_SIZE] << 7 |
                      (pin && pin->pin) << 14);
}

static uint16_t decide(struct fs_volume *volume, const struct fs_item *item)
{
    struct fs_policy_lookup *const lookup = volume->policies;
    const uint32_t generation = generation_of(lookup);
    uint64_t directory, matches = 0;
    const char *name;
    size_t name_len;
    uint16_t packed;
    if (item->key.bytes[0] != FS_KEY_ENTRY)
        return 0;
    if (fs_inode_table_choice(volume->table, item->record.file.ino, generation, &packed))
        return packed;
    int err = fs_key_entry_parse(item->key.bytes, item->key.length, &directory, &name, &name_len);
    if (!err)
        err = matches_of_name(volume, directory, name, name_len, generation, &matches);
    if (err)
        return 0;
    const struct fs_policy_choice choice = fs_policies_choose(lookup->policies, matches);
    packed = pack_choice(lookup->policies, &choice);
    fs_inode_table_choose(volume->table, item->record.file.ino, generation, packed);
    return packed;
}

/* ---- what follows -------------------------------------------------------------------------- */

static void apply_packed(struct fs_volume *volume, const struct fs_record *record, uint16_t packed,
                         struct fs_policy_effect *effect)
{
    const unsigned codec_by = packed & 127u, extent_by = packed >> 7 & 127u;
    effect->data = volume->data;
    effect->data.retain = packed >> 14 & 1;
    effect->codec = fs_record_codec(record, &effect->spec);
    const struct fs_policies *const policies = packed ? volume->policies->policies : NULL;
    if (!policies)
        return;
    if (codec_by && !effect->codec && fs_policies_at(policies, codec_by - 1)->has_codec) {
        effect->spec = fs_policies_at(policies, codec_by - 1)->codec;
        effect->codec = &effect->spec;
    }
    if (extent_by && fs_policies_at(policies, extent_by - 1)->extent_bytes)
        effect->data.extent_bytes = fs_policies_at(policies, extent_by - 1)->extent_bytes;
}

void fs_policy_apply(struct fs_volume *volume, const struct fs_item *item,
                     struct fs_policy_effect *effect)
{
    apply_packed(volume, &item->record, volume->policies ? decide(volume, item) : 0, effect);
}

void fs_policy_apply_choice(struct fs_volume *volume, const struct fs_record *record,
                            const struct fs_policy_choice *choice, struct fs_policy_effect *effect)
{
    apply_packed(volume, record,
                 volume->policies ? pack_choice(volume->policies->policies, choice) : (uint16_t)0,
                 effect);
}

int fs_policy_ttl_ns(struct fs_volume *volume, const struct fs_key *key, uint64_t *ttl_ns)
{
    struct fs_policy_choice choice;
    *ttl_ns = 0;
    if (!volume->policies || !fs_policies_have(volume->policies->policies, FS_POLICY_TTL))
        return 0;
    const int err = fs_policy_choice_of_key(volume, key, &choice);
    const struct fs_policy *const policy =
        err ? NULL : fs_policy_for(volume->policies->policies, &choice, FS_POLICY_TTL);
    if (policy)
        *ttl_ns = policy->ttl_ns;
    return err;
}
