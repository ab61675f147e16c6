/*
 * tests/faults/fuzz/fuzz_memory.c: the memory of a fuzz target.
 *
 * What is linked statically allocates here (--wrap). No allocation may be larger than
 * ALLOCATED_MAX: no input has a right to more. Large ones come from a pool that is mapped once and
 * whose pages are never given back: a target opens a store for each input, and mapping, faulting
 * in and unmapping what a store has took most of its time, under the address sanitizer above all.
 *
 * Owns       the pool.
 * Invariant  under the address sanitizer exactly the bytes that somebody has are addressable: the
 *            rest of a block, a guard behind it, and blocks that are free are poisoned. What was
 *            given back may be given out at once again, so a use after free is seen until then.
 * Locks      `mutex`: the list of blocks.
 */
#include <pthread.h>
#include <sys/mman.h>

#include "kv/base.h"

#if defined __SANITIZE_ADDRESS__
#define HAS_ASAN 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif
#ifdef HAS_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/lsan_interface.h>
#define set_readable(at, bytes)   ASAN_UNPOISON_MEMORY_REGION(at, bytes)
#define set_unreadable(at, bytes) ASAN_POISON_MEMORY_REGION(at, bytes)
#define hold_leaks_of(at, bytes)  __lsan_register_root_region(at, bytes)
#else
#define set_readable(at, bytes)   ((void)(at), (void)(bytes))
#define set_unreadable(at, bytes) ((void)(at), (void)(bytes))
#define hold_leaks_of(at, bytes)  ((void)(at), (void)(bytes))
#endif

#define ALLOCATED_MAX (64u << 20)
#define LARGE_MIN     (64u << 10) /* from here on it comes from the pool */
#define ROOM_UNIT     (64u << 10)
#define GUARD_BYTES   4096u
#define POOL_BYTES    (512ull << 20)
#define BLOCKS_MAX    512u

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
int __real_posix_memalign(void **out, size_t alignment, size_t bytes);
void __real_free(void *memory);
void *__real_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *memory, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes);
void __wrap_free(void *memory);
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *memory, size_t bytes);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint8_t *pool;
static size_t pool_used;
static struct block {
    uint8_t *at;
    size_t room, length; /* length 0: free */
} blocks[BLOCKS_MAX];
static size_t block_count;

static bool pool_is_there(void)
{
    if (pool)
        return true;
    void *const memory = __real_mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return false;
    pool = memory;
    set_unreadable(pool, POOL_BYTES);
    hold_leaks_of(pool, POOL_BYTES);
    return true;
}

static struct block *block_with_room(size_t room)
{
    for (size_t i = 0; i < block_count; i++)
        if (!blocks[i].length && blocks[i].room == room)
            return &blocks[i];
    if (block_count == BLOCKS_MAX || pool_used + room + GUARD_BYTES > POOL_BYTES)
        return NULL;
    struct block *const block = &blocks[block_count++];
    *block = (struct block){.at = pool + pool_used, .room = room};
    pool_used += room + GUARD_BYTES;
    return block;
}

/* Aligned to 4 KiB, and not zeroed. NULL: the pool has no room. */
static void *large_new(size_t bytes)
{
    void *memory = NULL;
    pthread_mutex_lock(&mutex);
    struct block *const block =
        pool_is_there() ? block_with_room((bytes + ROOM_UNIT - 1) / ROOM_UNIT * ROOM_UNIT) : NULL;
    if (block) {
        block->length = bytes;
        set_readable(block->at, bytes);
        memory = block->at;
    }
    pthread_mutex_unlock(&mutex);
    return memory;
}

/* The bytes that a block of the pool was given out with; 0: it is from elsewhere. */
static size_t large_length(void *memory)
{
    size_t length = 0;
    const uint8_t *const at = memory;
    if (!pool || at < pool || at >= pool + POOL_BYTES)
        return 0;
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < block_count; i++)
        if (blocks[i].at == at)
            length = blocks[i].length;
    pthread_mutex_unlock(&mutex);
    KV_ASSERT(length); /* given back twice, or in the middle */
    return length;
}

static void large_free(void *memory)
{
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < block_count; i++)
        if (blocks[i].at == memory) {
            set_unreadable(blocks[i].at, blocks[i].room);
            blocks[i].length = 0;
        }
    pthread_mutex_unlock(&mutex);
}

/* ---- what is wrapped ------------------------------------------------------------- */

void *__wrap_malloc(size_t bytes)
{
    KV_ASSERT(bytes <= ALLOCATED_MAX);
    void *const memory = bytes >= LARGE_MIN ? large_new(bytes) : NULL;
    return memory ? memory : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    size_t product;
    KV_ASSERT(!__builtin_mul_overflow(count, bytes, &product));
    KV_ASSERT(product <= ALLOCATED_MAX);
    void *const memory = product >= LARGE_MIN ? large_new(product) : NULL;
    return memory ? memset(memory, 0, product) : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    KV_ASSERT(bytes <= ALLOCATED_MAX);
    const size_t length = large_length(old);
    if (!length)
        return __real_realloc(old, bytes);
    void *const memory = __wrap_malloc(bytes);
    if (memory) {
        memcpy(memory, old, length < bytes ? length : bytes);
        large_free(old);
    }
    return memory;
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes)
{
    KV_ASSERT(bytes <= ALLOCATED_MAX);
    void *const memory = bytes >= LARGE_MIN && alignment <= GUARD_BYTES ? large_new(bytes) : NULL;
    if (!memory)
        return __real_posix_memalign(out, alignment, bytes);
    *out = memory;
    return 0;
}

void __wrap_free(void *memory)
{
    if (large_length(memory))
        large_free(memory);
    else
        __real_free(memory);
}

/* Memory from the pool is not zeroed: nobody here relies on it, and what relied on it would show.
 */
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    KV_ASSERT(bytes <= ALLOCATED_MAX);
    const bool is_plain = !at && fd < 0 && protection == (PROT_READ | PROT_WRITE);
    void *const memory = is_plain && bytes >= LARGE_MIN ? large_new(bytes) : NULL;
    return memory ? memory : __real_mmap(at, bytes, protection, flags, fd, offset);
}

int __wrap_munmap(void *memory, size_t bytes)
{
    if (!large_length(memory))
        return __real_munmap(memory, bytes);
    large_free(memory);
    return 0;
}
