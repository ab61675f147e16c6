/*
 * kv/base.h: the words that every layer of the store shares.
 *
 * Owns       nothing: macros, little-endian types, checked sums, assertions, the clock.
 * Invariant  an on-disk integer is a byte array, so that a raw read does not compile.
 */
#ifndef KV_BASE_H
#define KV_BASE_H

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kv/plant.h"

#ifndef KV_MUST_CHECK
#define KV_MUST_CHECK __attribute__((warn_unused_result))
#endif
#define KV_PRINTF(fmt_index, arg_index) __attribute__((format(printf, fmt_index, arg_index)))

/*
 * Functions that read bytes which another thread may be writing. What they
 * return is worthless until the caller has checked the page's version again,
 * so the thread sanitizer is told not to look inside them.
 */
#if defined(__clang__)
#define KV_RACY __attribute__((no_sanitize("thread"), noinline))
#elif defined(__SANITIZE_THREAD__)
#define KV_RACY __attribute__((no_sanitize_thread, noinline))
#else
#define KV_RACY
#endif

/* The unit of everything on disk, in bytes. */
#define KV_BLOCK_BYTES 4096u

/* On in every build: cheap checks of our own state, never of input. */
#define KV_ASSERT(condition)                                                                       \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0)) {                                                   \
            fprintf(stderr, "kvfs: %s:%d: assertion failed: %s\n", __FILE__, __LINE__,             \
                    #condition);                                                                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Walks whole structures; debug builds only. */
#ifdef KV_DEBUG
#define KV_ASSERT_SLOW(condition) KV_ASSERT(condition)
#else
#define KV_ASSERT_SLOW(condition) ((void)0)
#endif

typedef struct {
    uint8_t b[2];
} kv_le16;
typedef struct {
    uint8_t b[4];
} kv_le32;
typedef struct {
    uint8_t b[8];
} kv_le64;

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the getters below assume a little-endian machine"
#endif

static inline uint16_t kv_le16_get(kv_le16 v)
{
    uint16_t n;
    memcpy(&n, v.b, sizeof n);
    return n;
}

static inline uint32_t kv_le32_get(kv_le32 v)
{
    uint32_t n;
    memcpy(&n, v.b, sizeof n);
    return n;
}

static inline uint64_t kv_le64_get(kv_le64 v)
{
    uint64_t n;
    memcpy(&n, v.b, sizeof n);
    return n;
}

static inline kv_le16 kv_le16_of(uint16_t n)
{
    kv_le16 v;
    memcpy(v.b, &n, sizeof n);
    return v;
}

static inline kv_le32 kv_le32_of(uint32_t n)
{
    kv_le32 v;
    memcpy(v.b, &n, sizeof n);
    return v;
}

static inline kv_le64 kv_le64_of(uint64_t n)
{
    kv_le64 v;
    memcpy(v.b, &n, sizeof n);
    return v;
}

/* Big-endian, for integers inside keys: memcmp order is then numeric order. */
static inline void kv_be64_put(uint8_t out[8], uint64_t n)
{
    const uint64_t swapped = __builtin_bswap64(n);
    memcpy(out, &swapped, sizeof swapped);
}

static inline uint64_t kv_be64_take(const uint8_t in[8])
{
    uint64_t n;
    memcpy(&n, in, sizeof n);
    return __builtin_bswap64(n);
}

/* For a result that is ignored on purpose; the reason stands beside the call. */
static inline void kv_ignore(int result)
{
    (void)result;
}

/* Checked sums and products of untrusted numbers: true on overflow. */
static inline bool kv_add_u64(uint64_t a, uint64_t b, uint64_t *sum)
{
    return __builtin_add_overflow(a, b, sum);
}

static inline bool kv_mul_u64(uint64_t a, uint64_t b, uint64_t *product)
{
    return __builtin_mul_overflow(a, b, product);
}

static inline uint64_t kv_min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t kv_max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/*
 * A lock that is held for microseconds: who finds it taken looks again for a moment before it
 * sleeps, since to be woken on another processor takes longer than that.
 */
static inline void kv_mutex_init_brief(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t brief; /* none of these fails on Linux: they need no memory */
    pthread_mutexattr_init(&brief);
    pthread_mutexattr_settype(&brief, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(mutex, &brief);
    pthread_mutexattr_destroy(&brief);
}

/* Processors that this thread may run on; 1 where that can not be told. */
static inline unsigned kv_cpu_count(void)
{
    cpu_set_t ours;
    return sched_getaffinity(0, sizeof ours, &ours) ? 1 : (unsigned)CPU_COUNT(&ours);
}

/* For loops that wait: let the other thread of the same core go ahead. */
static inline void kv_cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* How many blocks hold `bytes`; bytes <= UINT64_MAX - KV_BLOCK_BYTES. */
static inline uint64_t kv_blocks_for(uint64_t bytes)
{
    return (bytes + KV_BLOCK_BYTES - 1) / KV_BLOCK_BYTES;
}

/*
 * Copy a few bytes, in place: keys, small values, heads. A call of the C library costs more than
 * that; and where its copies use AVX-512, what follows them was seen to wait (bench/README.md).
 */
#define KV_COPY_SHORT_MAX 1024u
static inline void kv_copy_short(void *dst, const void *src, size_t length)
{
    typedef long long pair __attribute__((vector_size(16), may_alias, aligned(1)));
    typedef uint64_t word __attribute__((may_alias, aligned(1)));
    typedef uint32_t half __attribute__((may_alias, aligned(1)));
    uint8_t *const to = (uint8_t *)dst;
    const uint8_t *const from = (const uint8_t *)src;
    if (length > KV_COPY_SHORT_MAX) {
        memcpy(dst, src, length);
    } else if (length >= 16) {
        /* The last sixteen may overlap those before. */
        const pair last = *(const pair *)(from + length - 16);
        for (size_t at = 0; at + 16 < length; at += 16)
            *(pair *)(to + at) = *(const pair *)(from + at);
        *(pair *)(to + length - 16) = last;
    } else if (length >= 8) {
        const word first = *(const word *)from;
        const word last = *(const word *)(from + length - 8);
        *(word *)to = first;
        *(word *)(to + length - 8) = last;
    } else if (length >= 4) {
        const half first = *(const half *)from;
        const half last = *(const half *)(from + length - 4);
        *(half *)to = first;
        *(half *)(to + length - 4) = last;
    } else {
        for (size_t at = 0; at < length; at++)
            ((volatile uint8_t *)to)[at] = from[at];
    }
}

/* The monotonic clock. */
static inline uint64_t kv_clock_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* the arguments are right */
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Byte order of two keys: memcmp, then the shorter first. */
static inline int kv_key_compare(const void *a, size_t a_len, const void *b, size_t b_len)
{
    const size_t shared = a_len < b_len ? a_len : b_len;
    const int order = shared ? memcmp(a, b, shared) : 0;
    if (order)
        return order;
    return (a_len > b_len) - (a_len < b_len);
}

#endif
