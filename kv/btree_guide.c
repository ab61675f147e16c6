/*
 * kv/btree_guide.c: guides to inner pages.
 *
 * Owns       the guides, in sets of four by page id; memory for all of them, taken as it is used.
 * Invariant  while a guide bears a version it says what that version of the page says. It bears
 * none while it is being made. All of a guide may be read at any time: who reads looks at the
 *            version before and afterwards, and bounds what he takes from it.
 * Locks      none: `making` is held by the one who makes a guide, and nobody waits for it.
 */
#include "kv/btree_guide.h"

#include <assert.h>
#include <sys/mman.h>

#define SET_GUIDES      4u
#define FRAMES_PER_PAGE 128u  /* an inner page has more children, unless keys are long */
#define MISSES_PER_MAKE 1024u /* of a set: what making one costs is little beside them */
#define PREFIX_MAX      56u
#define HEAD_BYTES      8u
#define LINE_BYTES      64u
#define VERSION_NONE    1u /* pages in view have even ones */

struct entry {
    _Atomic uint64_t head;  /* the first bytes of the key after the prefix, as a number */
    _Atomic uint32_t frame; /* where the child was last; KV_FRAME_NONE */
    _Atomic uint32_t child; /* its page id; pages with greater ones below them have no guide */
};

struct guide {
    _Atomic uint64_t version; /* of the page in the frame, VERSION_NONE: of none */
    _Atomic uint32_t frame;
    _Atomic uint16_t count; /* of the entries, one for each child */
    _Atomic uint8_t level;  /* of the page */
    _Atomic uint8_t prefix_bytes;
    _Atomic uint64_t prefix[PREFIX_MAX / sizeof(uint64_t)]; /* that all keys but the first share */
    _Atomic uint64_t tail_bytes; /* of the longest key, after the prefix */
    struct entry entries[];      /* [0] has no key */
};
static_assert(offsetof(struct guide, entries) % sizeof(struct entry) == 0,
              "each entry is in one line of the processor's cache");

struct set {
    _Atomic uint64_t page_ids[SET_GUIDES]; /* 0: none */
    _Atomic uint32_t misses;
    _Atomic uint32_t oldest; /* of the guides, modulo their number: it gives way to the next */
};

struct kv_btree_guides {
    struct set *sets;
    uint8_t *memory;
    size_t memory_bytes, guide_bytes;
    uint64_t set_mask;
    uint32_t entries_max;
    atomic_flag making;
};

struct kv_btree_guides *kv_btree_guides_new(size_t node_bytes, uint64_t frame_count)
{
    struct kv_btree_guides *guides = calloc(1, sizeof *guides);
    if (!guides)
        return NULL;
    uint64_t set_count = 1;
    while (set_count * SET_GUIDES * FRAMES_PER_PAGE < frame_count)
        set_count *= 2;
    guides->set_mask = set_count - 1;
    guides->entries_max =
        (uint32_t)(node_bytes / (sizeof(struct kv_disk_slot) + sizeof(struct kv_disk_inner_cell)));
    size_t lines =
        (sizeof(struct guide) + guides->entries_max * sizeof(struct entry)) / LINE_BYTES + 1;
    lines |= 1; /* so that guides do not compete for the same sets of the processor's cache */
    guides->guide_bytes = lines * LINE_BYTES;
    guides->memory_bytes = set_count * SET_GUIDES * guides->guide_bytes;
    guides->sets = calloc(set_count, sizeof *guides->sets);
    void *memory = mmap(NULL, guides->memory_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    guides->memory = memory == MAP_FAILED ? NULL : memory;
    atomic_flag_clear(&guides->making);
    if (guides->sets && guides->memory)
        return guides;
    kv_btree_guides_free(guides);
    return NULL;
}

void kv_btree_guides_free(struct kv_btree_guides *guides)
{
    if (!guides)
        return;
    if (guides->memory)
        munmap(guides->memory, guides->memory_bytes);
    free(guides->sets);
    free(guides);
}

static uint64_t set_of(const struct kv_btree_guides *guides, uint64_t page_id)
{
    return (page_id * 0x9e3779b97f4a7c15u) >> 32 & guides->set_mask;
}

static struct guide *guide_at(const struct kv_btree_guides *guides, uint64_t set, unsigned index)
{
    return (struct guide *)(void *)(guides->memory +
                                    (set * SET_GUIDES + index) * guides->guide_bytes);
}

/* The first bytes of a key's end as a number. */
static uint64_t head_of(const uint8_t *suffix, size_t length)
{
    uint64_t head = 0;
    if (length >= HEAD_BYTES)
        memcpy(&head, suffix, HEAD_BYTES);
    else
        for (size_t i = 0; i < length; i++)
            head |= (uint64_t)suffix[i] << 8 * i;
    return __builtin_bswap64(head);
}

/* ---- reading --------------------------------------------------------------------- */

static uint64_t load_head(const struct guide *guide, size_t index)
{
    return atomic_load_explicit(&guide->entries[index].head, memory_order_relaxed);
}

/*
 * The last of `count` entries whose key is not above. UINT32_MAX: one has the same head, and that
 * is not all of its key or may be more than all of the caller's (`whole` is false), so heads can
 * not say.
 */
static uint32_t find_entry(const struct guide *guide, size_t count, uint64_t head, bool whole)
{
    size_t at = 0; /* its head counts as below */
    while (count > 1) {
        const size_t half = count / 2;
        if (count > 2 * LINE_BYTES / sizeof(struct entry)) {
            __builtin_prefetch(&guide->entries[at + half / 2]);
            __builtin_prefetch(&guide->entries[at + half + half / 2]);
        }
        at = load_head(guide, at + half) <= head ? at + half : at;
        count -= half;
    }
    return at && !whole && load_head(guide, at) == head ? UINT32_MAX : (uint32_t)at;
}

/* Does the key begin with what all keys share? */
static bool has_prefix(const struct guide *guide, size_t prefix_bytes, const uint8_t *key,
                       size_t key_len)
{
    if (key_len < prefix_bytes)
        return false;
    for (size_t at = 0; at < prefix_bytes; at += sizeof(uint64_t)) {
        const uint64_t stored =
            atomic_load_explicit(&guide->prefix[at / sizeof(uint64_t)], memory_order_relaxed);
        const size_t left = prefix_bytes - at;
        uint64_t word = 0;
        if (key_len - at >= sizeof word) {
            memcpy(&word, key + at, sizeof word);
            word &= left < sizeof word ? ((uint64_t)1 << 8 * left) - 1 : UINT64_MAX;
        } else {
            memcpy(&word, key + at, left < sizeof word ? left : sizeof word);
        }
        if (word != stored)
            return false;
    }
    return true;
}

/* The guide of a version of a page, or NULL. */
static struct guide *find_guide(const struct kv_btree_guides *guides, uint64_t page_id,
                                uint32_t frame, uint64_t version)
{
    const uint64_t set = set_of(guides, page_id);
    for (unsigned i = 0; i < SET_GUIDES; i++) {
        if (atomic_load_explicit(&guides->sets[set].page_ids[i], memory_order_relaxed) != page_id)
            continue;
        /* Acquire pairs with the release store of make_guide. */
        struct guide *const guide = guide_at(guides, set, i);
        if (atomic_load_explicit(&guide->version, memory_order_acquire) == version &&
            atomic_load_explicit(&guide->frame, memory_order_relaxed) == frame)
            return guide;
    }
    return NULL;
}

/* Is it still the guide of that? */
static bool guide_valid(struct guide *guide, uint32_t frame, uint64_t version)
{
    /* As kv_pager_view_valid: pairs with the release fence of make_guide. */
#if defined(__SANITIZE_THREAD__)
    const uint64_t now = atomic_fetch_add_explicit(&guide->version, 0, memory_order_acq_rel);
#else
    atomic_thread_fence(memory_order_acquire);
    const uint64_t now = atomic_load_explicit(&guide->version, memory_order_relaxed);
#endif
    return now == version && atomic_load_explicit(&guide->frame, memory_order_relaxed) == frame;
}

bool kv_btree_guide_find(struct kv_btree *btree, uint64_t page_id, const struct kv_page_view *inner,
                         const void *key, size_t key_len, struct kv_btree_way *way)
{
    const struct kv_btree_guides *const guides = btree->guides;
    const uint32_t frame = kv_pager_frame_of(btree->pager, inner);
    struct guide *const guide = find_guide(guides, page_id, frame, inner->version);
    if (!guide)
        return false;
    const size_t count = atomic_load_explicit(&guide->count, memory_order_relaxed);
    const size_t prefix = atomic_load_explicit(&guide->prefix_bytes, memory_order_relaxed);
    if (!count || count > guides->entries_max || prefix > PREFIX_MAX ||
        !has_prefix(guide, prefix, key, key_len))
        return false;
    const uint64_t head = head_of((const uint8_t *)key + prefix, key_len - prefix);
    const size_t tail = atomic_load_explicit(&guide->tail_bytes, memory_order_relaxed);
    const bool whole = tail <= HEAD_BYTES && tail <= key_len - prefix;
    const uint32_t index = find_entry(guide, count, head, whole);
    if (index == UINT32_MAX)
        return false;
    struct entry *const entry = &guide->entries[index];
    *way = (struct kv_btree_way){
        .child = atomic_load_explicit(&entry->child, memory_order_relaxed),
        .frame = atomic_load_explicit(&entry->frame, memory_order_relaxed),
        .noted = &entry->frame,
        .level = (uint8_t)(atomic_load_explicit(&guide->level, memory_order_relaxed) - 1)};
    return guide_valid(guide, frame, inner->version) && kv_pager_view_valid(inner);
}

/* ---- making ---------------------------------------------------------------------- */

/* What all keys but the first share, at most PREFIX_MAX bytes; it goes to `prefix`. */
static size_t shared_prefix(const void *node, size_t node_bytes, unsigned count, uint8_t *prefix)
{
    uint8_t first[KV_KEY_MAX], last[KV_KEY_MAX];
    if (count < 2)
        return 0;
    const size_t first_len = kv_node_key(node, node_bytes, 1, first);
    const size_t last_len = kv_node_key(node, node_bytes, count - 1, last);
    size_t shared = 0;
    while (shared < first_len && shared < last_len && shared < PREFIX_MAX &&
           first[shared] == last[shared])
        shared++;
    memcpy(prefix, first, shared);
    return shared;
}

/* Where children were, as far as the guide's last page had the same. */
static void keep_frames(const struct guide *guide, bool same_page, const void *node, unsigned count,
                        uint32_t *frames)
{
    const unsigned before =
        same_page ? atomic_load_explicit(&guide->count, memory_order_relaxed) : 0;
    unsigned at = 0;
    for (unsigned slot = 0; slot < count; slot++) {
        const uint64_t child = kv_node_child(node, slot);
        frames[slot] = KV_FRAME_NONE;
        /* Now and then a child has come or gone. */
        for (unsigned next = at; next < at + 2 && next < before; next++) {
            const struct entry *entry = &guide->entries[next];
            if (atomic_load_explicit(&entry->child, memory_order_relaxed) != child)
                continue;
            frames[slot] = atomic_load_explicit(&entry->frame, memory_order_relaxed);
            at = next + 1;
            break;
        }
    }
}

/* `node` is a copy of the page, of that version; `frames` has room for all children. */
static void make_guide(struct guide *guide, bool same_page, const void *node, size_t node_bytes,
                       uint32_t frame, uint64_t version, uint32_t *frames)
{
    const unsigned count = kv_node_count(node);
    uint64_t words[PREFIX_MAX / sizeof(uint64_t)] = {0};
    const size_t prefix = shared_prefix(node, node_bytes, count, (uint8_t *)words);
    keep_frames(guide, same_page, node, count, frames);
    /* Who sees anything of what follows sees that the guide bears no version. */
    atomic_store_explicit(&guide->version, VERSION_NONE, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&guide->frame, frame, memory_order_relaxed);
    atomic_store_explicit(&guide->count, (uint16_t)count, memory_order_relaxed);
    atomic_store_explicit(&guide->level, kv_node_level(node), memory_order_relaxed);
    atomic_store_explicit(&guide->prefix_bytes, (uint8_t)prefix, memory_order_relaxed);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        atomic_store_explicit(&guide->prefix[i], words[i], memory_order_relaxed);
    size_t tail = 0;
    for (unsigned slot = 0; slot < count; slot++) {
        uint8_t key[KV_KEY_MAX];
        const size_t key_len = slot ? kv_node_key(node, node_bytes, slot, key) : 0;
        const uint64_t head = slot ? head_of(key + prefix, key_len - prefix) : 0;
        tail = slot && key_len - prefix > tail ? key_len - prefix : tail;
        struct entry *entry = &guide->entries[slot];
        atomic_store_explicit(&entry->head, head, memory_order_relaxed);
        atomic_store_explicit(&entry->frame, frames[slot], memory_order_relaxed);
        atomic_store_explicit(&entry->child, (uint32_t)kv_node_child(node, slot),
                              memory_order_relaxed);
    }
    atomic_store_explicit(&guide->tail_bytes, tail, memory_order_relaxed);
    /* Release pairs with the acquire load of find_guide. */
    atomic_store_explicit(&guide->version, version, memory_order_release);
}

static bool can_have_guide(const struct kv_btree_guides *guides, const void *node)
{
    const unsigned count = kv_node_count(node);
    uint64_t greatest = 0;
    if (!kv_node_level(node) || !count || count > guides->entries_max)
        return false;
    for (unsigned slot = 0; slot < count; slot++)
        greatest = kv_max_u64(greatest, kv_node_child(node, slot));
    return greatest <= UINT32_MAX;
}

/* Which guide of the set a page gets: the one that it has, or one that has to give way. */
static unsigned choose_guide(struct set *set, uint64_t page_id)
{
    for (unsigned i = 0; i < SET_GUIDES; i++)
        if (atomic_load_explicit(&set->page_ids[i], memory_order_relaxed) == page_id)
            return i;
    const uint32_t oldest = atomic_load_explicit(&set->oldest, memory_order_relaxed);
    atomic_store_explicit(&set->oldest, oldest + 1, memory_order_relaxed);
    return oldest % SET_GUIDES;
}

void kv_btree_guide_missed(struct kv_btree *btree, uint64_t page_id,
                           const struct kv_page_view *inner)
{
    struct kv_btree_guides *const guides = btree->guides;
    const uint64_t set_index = set_of(guides, page_id);
    struct set *const set = &guides->sets[set_index];
    const uint32_t misses = atomic_load_explicit(&set->misses, memory_order_relaxed) + 1;
    atomic_store_explicit(&set->misses, misses, memory_order_relaxed);
    if (misses % MISSES_PER_MAKE)
        return;
    if (find_guide(guides, page_id, kv_pager_frame_of(btree->pager, inner), inner->version))
        return; /* its heads do not tell some keys apart */
    if (atomic_flag_test_and_set_explicit(&guides->making, memory_order_acquire))
        return;
    /* No memory, no guide. */
    uint8_t *node = malloc(btree->node_bytes);
    uint32_t *frames = malloc(guides->entries_max * sizeof *frames);
    if (node && frames) {
        kv_node_copy_racy(node, inner->bytes, btree->node_bytes);
        if (kv_pager_view_valid(inner) && can_have_guide(guides, node)) {
            const unsigned index = choose_guide(set, page_id);
            const bool same_page =
                atomic_load_explicit(&set->page_ids[index], memory_order_relaxed) == page_id;
            make_guide(guide_at(guides, set_index, index), same_page, node, btree->node_bytes,
                       kv_pager_frame_of(btree->pager, inner), inner->version, frames);
            atomic_store_explicit(&set->page_ids[index], page_id, memory_order_relaxed);
        }
    }
    free(frames);
    free(node);
    atomic_flag_clear_explicit(&guides->making, memory_order_release);
}
