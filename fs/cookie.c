/*
 * fs/cookie.c: names to 63-bit positions and back.
 *
 * Owns       per directory: the frames, laid end to end in one arena; an open-addressed hash from
 *            number to frame.
 * Invariant  a frame that is known never changes its number; slots are at most two thirds full;
 *            which bytes of a name are its window depends on the name alone.
 * Locks      cookies->mutex guards everything in it.
 */
#include "fs/cookie.h"

#include <pthread.h>

#define SHORT_BIT       (1ull << 62)
#define SHORT_MAX       7u
#define SHORT_LEN_SHIFT 59u
#define WINDOW_BYTES    4u
#define EXTENSION_MAX   8u /* with its dot; what is longer is no extension */
#define FRAME_SHIFT     32u
#define FRAME_FIRST     1u /* number 0 stays free for the fixed positions */
#define FRAME_LIMIT     (1u << 29)
#define FRAMES_MAX      (FRAME_LIMIT / 2) /* so that a free number is not far */

/* A name without its window, as it lies in the arena: as many of the bytes as there are. */
struct frame {
    kv_le32 number;
    uint8_t is_recent; /* asked for since the last ageing */
    uint8_t length;    /* bytes, without the window */
    uint8_t window;    /* where the window is: so many bytes come before it */
    uint8_t bytes[FS_NAME_MAX];
};
#define FRAME_HEADER offsetof(struct frame, bytes)

struct fs_cookies {
    pthread_mutex_t mutex;
    uint8_t *arena;
    size_t arena_len, arena_cap;
    size_t *slots; /* 1 + where a frame lies in the arena, by its number; 0: empty */
    uint32_t count, slot_count;
    bool is_ageing, has_forgotten;
    int64_t aged_ns;
};

struct fs_cookies *fs_cookies_new(void)
{
    struct fs_cookies *cookies = calloc(1, sizeof *cookies);
    if (!cookies)
        return NULL;
    pthread_mutex_init(&cookies->mutex, NULL);
    return cookies;
}

void fs_cookies_free(struct fs_cookies *cookies)
{
    if (!cookies)
        return;
    pthread_mutex_destroy(&cookies->mutex);
    free(cookies->arena);
    free(cookies->slots);
    free(cookies);
}

/* FNV-1a, 32 bits (Fowler, Noll, Vo). */
static uint32_t hash_bytes(const void *bytes, size_t length)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * 16777619u;
    return hash;
}

static struct frame *frame_at(const struct fs_cookies *cookies, size_t offset)
{
    return (struct frame *)(cookies->arena + offset);
}

static size_t frame_bytes(const struct frame *frame)
{
    return FRAME_HEADER + frame->length;
}

static bool is_same_frame(const struct frame *a, const struct frame *b)
{
    return a->length == b->length && a->window == b->window &&
           memcmp(a->bytes, b->bytes, a->length) == 0;
}

/* The slot of a number, or the empty one where it belongs. */
static size_t *find_slot(const struct fs_cookies *cookies, uint32_t number)
{
    const uint32_t mask = cookies->slot_count - 1;
    for (uint32_t at = (number * 2654435769u) >> 3 & mask;; at = (at + 1) & mask) {
        size_t *const slot = &cookies->slots[at];
        if (!*slot || kv_le32_get(frame_at(cookies, *slot - 1)->number) == number)
            return slot;
    }
}

/* Let the slots, which are empty, lead to what is in the arena. */
static void fill_slots(struct fs_cookies *cookies)
{
    for (size_t at = 0; at < cookies->arena_len; at += frame_bytes(frame_at(cookies, at)))
        *find_slot(cookies, kv_le32_get(frame_at(cookies, at)->number)) = at + 1;
}

static int grow_slots(struct fs_cookies *cookies)
{
    const uint32_t count = cookies->slot_count ? cookies->slot_count * 2 : 8;
    size_t *slots = calloc(count, sizeof *slots);
    if (!slots)
        return -ENOMEM;
    free(cookies->slots);
    cookies->slots = slots;
    cookies->slot_count = count;
    fill_slots(cookies);
    return 0;
}

/* Room for one more frame of `length` bytes with its header, in both arrays. */
static int reserve_frame(struct fs_cookies *cookies, size_t length)
{
    if (cookies->count >= FRAMES_MAX)
        return -EOVERFLOW;
    if (cookies->arena_cap - cookies->arena_len < length) {
        const size_t cap = cookies->arena_cap + cookies->arena_cap / 2 + 512;
        uint8_t *arena = realloc(cookies->arena, cap);
        if (!arena)
            return -ENOMEM;
        cookies->arena = arena;
        cookies->arena_cap = cap;
    }
    if ((uint64_t)(cookies->count + 1) * 3 > (uint64_t)cookies->slot_count * 2)
        return grow_slots(cookies);
    return 0;
}

/* The number of a frame follows from its bytes, unless another frame has that one. */
static uint32_t first_number(const struct frame *frame)
{
    const uint32_t hash =
        hash_bytes(&frame->length, frame_bytes(frame) - offsetof(struct frame, length));
    return FRAME_FIRST + hash % (FRAME_LIMIT - FRAME_FIRST);
}

static int intern_frame(struct fs_cookies *cookies, struct frame *frame, uint32_t *number)
{
    const bool is_planted = KV_PLANT(cookie_reused);
    *number = is_planted ? FRAME_FIRST : first_number(frame);
    pthread_mutex_lock(&cookies->mutex);
    int err = reserve_frame(cookies, frame_bytes(frame));
    if (err)
        goto out;
    size_t *slot;
    while (*(slot = find_slot(cookies, *number))) {
        struct frame *const known = frame_at(cookies, *slot - 1);
        if (is_planted || is_same_frame(known, frame)) {
            known->is_recent = true;
            goto out;
        }
        *number = *number + 1 < FRAME_LIMIT ? *number + 1 : FRAME_FIRST;
    }
    frame->number = kv_le32_of(*number);
    frame->is_recent = true;
    memcpy(cookies->arena + cookies->arena_len, frame, frame_bytes(frame));
    *slot = cookies->arena_len + 1;
    cookies->arena_len += frame_bytes(frame);
    cookies->count++;
out:
    pthread_mutex_unlock(&cookies->mutex);
    return err;
}

static uint64_t pack_bytes(const char *bytes, size_t length)
{
    uint64_t packed = 0;
    for (size_t i = 0; i < length; i++)
        packed = packed << 8 | (uint8_t)bytes[i];
    return packed;
}

static void unpack_bytes(uint64_t packed, size_t length, char *out)
{
    for (size_t i = 0; i < length; i++)
        out[i] = (char)(packed >> (8 * (length - 1 - i)) & 0xff);
}

/* Where a name's window is: before its extension, if four bytes come before that. */
static size_t window_of(const char *name, size_t name_len)
{
    const size_t end_min = kv_max_u64(WINDOW_BYTES, name_len - EXTENSION_MAX);
    for (size_t at = name_len - 1; at >= end_min; at--) {
        if (name[at] == '.')
            return at - WINDOW_BYTES;
    }
    return name_len - WINDOW_BYTES;
}

int fs_cookie_of(struct fs_cookies *cookies, const char *name, size_t name_len, uint64_t *cookie)
{
    KV_ASSERT(name_len >= 1);
    KV_ASSERT(name_len <= FS_NAME_MAX);
    if (name_len <= SHORT_MAX) {
        *cookie = SHORT_BIT | (uint64_t)name_len << SHORT_LEN_SHIFT | pack_bytes(name, name_len);
        return 0;
    }
    const size_t window = window_of(name, name_len);
    const size_t rest = window + WINDOW_BYTES;
    struct frame frame = {
        .length = (uint8_t)(name_len - WINDOW_BYTES),
        .window = (uint8_t)window,
    };
    memcpy(frame.bytes, name, window);
    memcpy(frame.bytes + window, name + rest, name_len - rest);
    uint32_t number;
    int err = intern_frame(cookies, &frame, &number);
    if (err)
        return err;
    *cookie = (uint64_t)number << FRAME_SHIFT | pack_bytes(name + window, WINDOW_BYTES);
    return 0;
}

int fs_cookie_name(struct fs_cookies *cookies, uint64_t cookie, char *name, size_t *name_len)
{
    if (cookie <= FS_COOKIE_DOTDOT) {
        *name_len = 0;
        return 0;
    }
    if (cookie & SHORT_BIT) {
        const size_t length = (cookie >> SHORT_LEN_SHIFT) & 7u;
        const uint64_t packed = cookie & ((1ull << 56) - 1);
        if (length == 0 || cookie >> 63 || packed >> (8 * length))
            return -EINVAL;
        unpack_bytes(packed, length, name);
        *name_len = length;
        return 0;
    }
    const uint64_t number = cookie >> FRAME_SHIFT;
    if (number < FRAME_FIRST || number >= FRAME_LIMIT)
        return -EINVAL;
    int err = 0;
    pthread_mutex_lock(&cookies->mutex);
    const size_t at = cookies->slot_count ? *find_slot(cookies, (uint32_t)number) : 0;
    if (at) {
        struct frame *const frame = frame_at(cookies, at - 1);
        const size_t length = frame->length, window = frame->window;
        frame->is_recent = true;
        memcpy(name, frame->bytes, window);
        unpack_bytes(cookie, WINDOW_BYTES, name + window);
        memcpy(name + window + WINDOW_BYTES, frame->bytes + window, length - window);
        *name_len = length + WINDOW_BYTES;
    } else {
        err = cookies->has_forgotten ? -ENOENT : -EINVAL;
    }
    pthread_mutex_unlock(&cookies->mutex);
    return err;
}

/* ---- forgetting ------------------------------------------------------------------ */

/* Keep the frames that were asked for since this was done last. Returns how many. */
static uint32_t keep_recent(struct fs_cookies *cookies)
{
    uint32_t count = 0;
    size_t kept = 0, bytes;
    for (size_t at = 0; at < cookies->arena_len; at += bytes) {
        struct frame *const frame = frame_at(cookies, at);
        bytes = frame_bytes(frame);
        if (!frame->is_recent)
            continue;
        frame->is_recent = false;
        memmove(cookies->arena + kept, frame, bytes);
        kept += bytes;
        count++;
    }
    cookies->arena_len = kept;
    return count;
}

/* Give memory back after some frames went. Where there is none to move to, it stays as it is. */
static void shrink(struct fs_cookies *cookies)
{
    uint32_t slot_count = 8;
    while ((uint64_t)(cookies->count + 1) * 3 > (uint64_t)slot_count * 2)
        slot_count *= 2;
    size_t *const slots = cookies->count ? calloc(slot_count, sizeof *slots) : NULL;
    if (slots || !cookies->count) {
        free(cookies->slots);
        cookies->slots = slots;
        cookies->slot_count = slots ? slot_count : 0;
    } else {
        memset(cookies->slots, 0, cookies->slot_count * sizeof *cookies->slots);
    }
    if (!cookies->count) {
        free(cookies->arena);
        cookies->arena = NULL;
        cookies->arena_cap = 0;
        return;
    }
    uint8_t *const arena = realloc(cookies->arena, cookies->arena_len);
    if (arena) {
        cookies->arena = arena;
        cookies->arena_cap = cookies->arena_len;
    }
    fill_slots(cookies);
}

void fs_cookies_age(struct fs_cookies *cookies, int64_t now_ns)
{
    pthread_mutex_lock(&cookies->mutex);
    const bool is_due = cookies->is_ageing && now_ns - cookies->aged_ns >= FS_COOKIES_KEPT_NS;
    if (is_due) {
        const uint32_t before = cookies->count;
        cookies->count = keep_recent(cookies);
        if (cookies->count < before) {
            cookies->has_forgotten = true;
            shrink(cookies);
        }
    }
    if (is_due || !cookies->is_ageing)
        cookies->aged_ns = now_ns;
    cookies->is_ageing = true;
    pthread_mutex_unlock(&cookies->mutex);
}

uint64_t fs_cookies_memory(struct fs_cookies *cookies)
{
    pthread_mutex_lock(&cookies->mutex);
    const uint64_t bytes =
        sizeof *cookies + cookies->arena_cap + cookies->slot_count * sizeof *cookies->slots;
    pthread_mutex_unlock(&cookies->mutex);
    return bytes;
}
