/*
 * fs/cookie.c: names to 63-bit positions and back.
 *
 * Owns       per directory: the frames, laid end to end in one arena; where each starts; an
 *            open-addressed hash from frame to number.
 * Invariant  a frame never changes its number; slots are at most two thirds full; which bytes
 *            of a name are its window depends on the name alone.
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

/* A name without its window. In the arena: length(1) window(1) bytes. */
struct frame {
    uint8_t length; /* bytes, without the window */
    uint8_t window; /* where the window is: so many bytes come before it */
    uint8_t bytes[FS_NAME_MAX];
};
#define FRAME_HEADER offsetof(struct frame, bytes)

struct fs_cookies {
    pthread_mutex_t mutex;
    uint8_t *arena;
    size_t arena_len, arena_cap;
    uint64_t *starts; /* where frame n lies; [0] is unused */
    uint32_t *slots;  /* frame numbers, 0 = empty */
    uint32_t count, start_cap, slot_count;
};

struct fs_cookies *fs_cookies_new(void)
{
    struct fs_cookies *cookies = calloc(1, sizeof *cookies);
    if (!cookies)
        return NULL;
    pthread_mutex_init(&cookies->mutex, NULL);
    cookies->count = FRAME_FIRST;
    return cookies;
}

void fs_cookies_free(struct fs_cookies *cookies)
{
    if (!cookies)
        return;
    pthread_mutex_destroy(&cookies->mutex);
    free(cookies->arena);
    free(cookies->starts);
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

/* The slot that holds the frame, or the empty one where it belongs. */
static uint32_t *find_slot(struct fs_cookies *cookies, const uint8_t *frame)
{
    const size_t length = FRAME_HEADER + frame[0];
    uint32_t at = hash_bytes(frame, length) & (cookies->slot_count - 1);
    for (;; at = (at + 1) & (cookies->slot_count - 1)) {
        const uint32_t number = cookies->slots[at];
        if (!number)
            return &cookies->slots[at];
        const uint8_t *known = cookies->arena + cookies->starts[number];
        if (known[0] == frame[0] && memcmp(known, frame, length) == 0)
            return &cookies->slots[at];
    }
}

static int grow_slots(struct fs_cookies *cookies)
{
    const uint32_t count = cookies->slot_count ? cookies->slot_count * 2 : 8;
    uint32_t *slots = calloc(count, sizeof *slots);
    if (!slots)
        return -ENOMEM;
    free(cookies->slots);
    cookies->slots = slots;
    cookies->slot_count = count;
    for (uint32_t n = FRAME_FIRST; n < cookies->count; n++)
        *find_slot(cookies, cookies->arena + cookies->starts[n]) = n;
    return 0;
}

/* Room for one more frame of `length` bytes with its header, in all three arrays. */
static int reserve_frame(struct fs_cookies *cookies, size_t length)
{
    if (cookies->count >= FRAME_LIMIT)
        return -EOVERFLOW;
    if (cookies->arena_cap - cookies->arena_len < length) {
        const size_t cap = cookies->arena_cap + cookies->arena_cap / 2 + 512;
        uint8_t *arena = realloc(cookies->arena, cap);
        if (!arena)
            return -ENOMEM;
        cookies->arena = arena;
        cookies->arena_cap = cap;
    }
    if (cookies->count >= cookies->start_cap) {
        const uint32_t cap = cookies->start_cap + cookies->start_cap / 2 + 8;
        uint64_t *starts = realloc(cookies->starts, cap * sizeof *starts);
        if (!starts)
            return -ENOMEM;
        cookies->starts = starts;
        cookies->start_cap = cap;
    }
    if ((uint64_t)(cookies->count + 1) * 3 > (uint64_t)cookies->slot_count * 2)
        return grow_slots(cookies);
    return 0;
}

static int intern_frame(struct fs_cookies *cookies, const struct frame *frame, uint32_t *number)
{
    const uint8_t *bytes = &frame->length;
    const size_t length = FRAME_HEADER + frame->length;
    int err = 0;
    pthread_mutex_lock(&cookies->mutex);
    uint32_t *slot = cookies->slot_count ? find_slot(cookies, bytes) : NULL;
    if (slot && *slot) {
        *number = *slot;
        goto out;
    }
    err = reserve_frame(cookies, length);
    if (err)
        goto out;
    *number = cookies->count++ & (KV_PLANT(cookie_reused) ? 7u : ~0u);
    cookies->starts[*number] = cookies->arena_len;
    memcpy(cookies->arena + cookies->arena_len, bytes, length);
    cookies->arena_len += length;
    *find_slot(cookies, bytes) = *number;
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
    int err = -EINVAL;
    pthread_mutex_lock(&cookies->mutex);
    if (number >= FRAME_FIRST && number < cookies->count) {
        const uint8_t *frame = cookies->arena + cookies->starts[number];
        const size_t length = frame[0], window = frame[1];
        memcpy(name, frame + FRAME_HEADER, window);
        unpack_bytes(cookie, WINDOW_BYTES, name + window);
        memcpy(name + window + WINDOW_BYTES, frame + FRAME_HEADER + window, length - window);
        *name_len = length + WINDOW_BYTES;
        err = 0;
    }
    pthread_mutex_unlock(&cookies->mutex);
    return err;
}

uint64_t fs_cookies_memory(struct fs_cookies *cookies)
{
    pthread_mutex_lock(&cookies->mutex);
    const uint64_t bytes = sizeof *cookies + cookies->arena_cap +
                           cookies->start_cap * sizeof *cookies->starts +
                           cookies->slot_count * sizeof *cookies->slots;
    pthread_mutex_unlock(&cookies->mutex);
    return bytes;
}
