/*
 * bench/floor/floor_node.c: nodes in memory, and what is in them.
 *
 * Owns       the memory of nodes and contents: malloc's, which gives none back to the system.
 * Locks      see floor_node.h.
 */
#define FUSE_USE_VERSION 314

#include "bench/floor/floor_node.h"

#include <fuse_lowlevel.h>
#include <malloc.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "bench/floor/floor_dir.h"
#include "bench/floor/floor_disk.h"

#define HUGE_PAGE_BYTES   (2u << 20)
#define CHUNK_BYTES_LEAST 256u

/* ---- memory ------------------------------------------------------------------ */

int floor_memory_prepare(size_t bytes)
{
    /* One heap for all threads, grown in large steps, never trimmed, no allocation beside it. */
    if (!mallopt(M_ARENA_MAX, 1) || !mallopt(M_MMAP_MAX, 0) ||
        !mallopt(M_TRIM_THRESHOLD, INT32_MAX) || !mallopt(M_TOP_PAD, 16 << 20))
        return -ENOMEM;
    if (!bytes)
        return 0;
    uint8_t *memory = malloc(bytes);
    if (!memory)
        return -ENOMEM;
    const uintptr_t first =
        ((uintptr_t)memory + HUGE_PAGE_BYTES - 1) & ~(uintptr_t)(HUGE_PAGE_BYTES - 1);
    const uintptr_t end = ((uintptr_t)memory + bytes) & ~(uintptr_t)(HUGE_PAGE_BYTES - 1);
    if (first < end) /* small pages do as well where huge ones are not to be had */
        (void)madvise((void *)first, end - first, MADV_HUGEPAGE);
    memset(memory, 0, bytes);
    __asm__ volatile("" : : "r"(memory) : "memory"); /* or the compiler leaves all three out */
    free(memory);
    return 0;
}

/* ---- nodes --------------------------------------------------------------------- */

static struct timespec now(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_REALTIME_COARSE, &time); /* can not fail for this clock */
    return time;
}

struct floor_node *floor_node_new(mode_t mode, uid_t uid, gid_t gid, dev_t rdev, uint64_t parent)
{
    struct floor_node *node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    if (S_ISDIR(mode) && !(node->dir = floor_dir_new(parent))) {
        free(node);
        return NULL;
    }
    (void)pthread_mutex_init(&node->lock, NULL); /* without attributes it can not fail */
    node->stat = (struct stat){
        .st_ino = (uintptr_t)node,
        .st_mode = mode,
        .st_nlink = S_ISDIR(mode) ? 1 : 0,
        .st_uid = uid,
        .st_gid = gid,
        .st_rdev = rdev,
        .st_blksize = 4096,
        .st_mtim = now(),
    };
    node->stat.st_atim = node->stat.st_ctim = node->stat.st_mtim;
    return node;
}

static void free_chunks(struct floor_node *node, size_t first)
{
    for (size_t i = first; i < node->chunk_count; i++)
        free(node->chunks[i].bytes);
    node->chunk_count = kv_min_u64(first, node->chunk_count);
}

void floor_node_free(struct floor_node *node)
{
    free_chunks(node, 0);
    free(node->chunks);
    floor_disk_close(node->disk);
    free(node->target);
    floor_dir_free(node->dir);
    (void)pthread_mutex_destroy(&node->lock);
    free(node);
}

static void unlock_or_free(struct floor_node *node)
{
    const bool over = !node->lookups && !node->names;
    pthread_mutex_unlock(&node->lock);
    if (over)
        floor_node_free(node);
}

void floor_node_ref(struct floor_node *node, struct stat *stat)
{
    pthread_mutex_lock(&node->lock);
    node->lookups++;
    *stat = node->stat;
    pthread_mutex_unlock(&node->lock);
}

void floor_node_unref(struct floor_node *node, uint64_t count)
{
    pthread_mutex_lock(&node->lock);
    node->lookups -= kv_min_u64(count, node->lookups);
    unlock_or_free(node);
}

void floor_node_name(struct floor_node *node)
{
    pthread_mutex_lock(&node->lock);
    node->names++;
    node->stat.st_nlink++;
    node->stat.st_ctim = now();
    pthread_mutex_unlock(&node->lock);
}

void floor_node_unname(struct floor_node *node)
{
    pthread_mutex_lock(&node->lock);
    node->names--;
    node->stat.st_nlink = node->dir ? 0 : node->stat.st_nlink - 1;
    node->stat.st_ctim = now();
    unlock_or_free(node);
}

void floor_node_touch(struct floor_node *node, int subdirectories)
{
    pthread_mutex_lock(&node->lock);
    node->stat.st_nlink += (nlink_t)(int64_t)subdirectories;
    node->stat.st_mtim = node->stat.st_ctim = now();
    pthread_mutex_unlock(&node->lock);
}

void floor_node_stat(struct floor_node *node, struct stat *stat)
{
    pthread_mutex_lock(&node->lock);
    *stat = node->stat;
    pthread_mutex_unlock(&node->lock);
}

/* ---- contents -------------------------------------------------------------------- */

/* Have the first `count` pieces in the table; new ones are empty. */
static int reserve_chunks(struct floor_node *node, size_t count)
{
    if (count <= node->chunk_count)
        return 0;
    struct floor_chunk *chunks = reallocarray(node->chunks, count, sizeof *chunks);
    if (!chunks)
        return -ENOMEM;
    memset(chunks + node->chunk_count, 0, (count - node->chunk_count) * sizeof *chunks);
    node->chunks = chunks;
    node->chunk_count = count;
    return 0;
}

/* Have room in a piece for bytes up to `end`; what is new is zero. */
static int grow_chunk(struct floor_chunk *chunk, uint32_t end)
{
    if (end <= chunk->cap)
        return 0;
    uint32_t cap = CHUNK_BYTES_LEAST;
    while (cap < end)
        cap *= 2;
    uint8_t *bytes = realloc(chunk->bytes, cap);
    if (!bytes)
        return -ENOMEM;
    memset(bytes + chunk->cap, 0, cap - chunk->cap);
    *chunk = (struct floor_chunk){.bytes = bytes, .cap = cap};
    return 0;
}

static void set_size(struct floor_node *node, uint64_t size)
{
    node->stat.st_size = (off_t)size;
    node->stat.st_blocks = (blkcnt_t)((size + 511) / 512);
}

static void truncate_to(struct floor_node *node, uint64_t size)
{
    if (size < (uint64_t)node->stat.st_size) {
        const uint32_t rest = (uint32_t)(size % FLOOR_CHUNK_BYTES);
        free_chunks(node, (size + FLOOR_CHUNK_BYTES - 1) / FLOOR_CHUNK_BYTES);
        if (rest && size / FLOOR_CHUNK_BYTES < node->chunk_count) {
            const struct floor_chunk *last = &node->chunks[size / FLOOR_CHUNK_BYTES];
            if (rest < last->cap)
                memset(last->bytes + rest, 0, last->cap - rest);
        }
    }
    set_size(node, size);
}

/* How much of `length` bytes at an offset is in one piece. */
static size_t step_at(uint64_t offset, size_t length)
{
    return kv_min_u64(length, FLOOR_CHUNK_BYTES - offset % FLOOR_CHUNK_BYTES);
}

static void read_chunk(const struct floor_node *node, uint64_t offset, uint8_t *out, size_t length)
{
    const uint64_t index = offset / FLOOR_CHUNK_BYTES;
    const size_t at = offset % FLOOR_CHUNK_BYTES;
    size_t there = 0;
    if (index < node->chunk_count && at < node->chunks[index].cap) {
        there = kv_min_u64(length, node->chunks[index].cap - at);
        memcpy(out, node->chunks[index].bytes + at, there);
    }
    memset(out + there, 0, length - there);
}

struct floor_disk_file *floor_node_disk(struct floor_node *node, uint64_t *size)
{
    pthread_mutex_lock(&node->lock);
    struct floor_disk_file *disk = node->disk;
    *size = (uint64_t)node->stat.st_size;
    pthread_mutex_unlock(&node->lock);
    return disk;
}

size_t floor_node_read(struct floor_node *node, uint64_t offset, uint8_t *out, size_t length)
{
    pthread_mutex_lock(&node->lock);
    const uint64_t size = (uint64_t)node->stat.st_size;
    const size_t got = offset < size ? kv_min_u64(length, size - offset) : 0;
    for (size_t done = 0; done < got;) {
        const size_t step = step_at(offset + done, got - done);
        read_chunk(node, offset + done, out + done, step);
        done += step;
    }
    pthread_mutex_unlock(&node->lock);
    return got;
}

static int write_chunk(struct floor_node *node, uint64_t offset, const uint8_t *bytes,
                       size_t length)
{
    const size_t at = offset % FLOOR_CHUNK_BYTES;
    int err = reserve_chunks(node, offset / FLOOR_CHUNK_BYTES + 1);
    if (err)
        return err;
    struct floor_chunk *chunk = &node->chunks[offset / FLOOR_CHUNK_BYTES];
    err = grow_chunk(chunk, (uint32_t)(at + length));
    if (!err)
        memcpy(chunk->bytes + at, bytes, length);
    return err;
}

/* Returns how much could be written; *err: why it is not all. */
static size_t write_chunks(struct floor_node *node, uint64_t offset, const uint8_t *bytes,
                           size_t length, int *err)
{
    size_t done = 0;
    while (done < length && !*err) {
        const size_t step = step_at(offset + done, length - done);
        *err = write_chunk(node, offset + done, bytes + done, step);
        if (!*err)
            done += step;
    }
    return done;
}

int floor_node_write(struct floor_node *node, uint64_t offset, const uint8_t *bytes, size_t length)
{
    int err = 0;
    size_t done = 0;
    pthread_mutex_lock(&node->lock);
    if (!floor_disk_used())
        done = write_chunks(node, offset, bytes, length, &err);
    else if (node->disk || !(err = floor_disk_new(&node->disk))) {
        /* Those who write side by side do so on the disk, too. */
        pthread_mutex_unlock(&node->lock);
        err = floor_disk_write(node->disk, offset, bytes, length);
        pthread_mutex_lock(&node->lock);
        done = err ? 0 : length;
    }
    if (offset + done > (uint64_t)node->stat.st_size)
        set_size(node, offset + done);
    node->stat.st_mtim = node->stat.st_ctim = now();
    pthread_mutex_unlock(&node->lock);
    return err;
}

void floor_node_set(struct floor_node *node, const struct stat *from, int to_set, struct stat *stat)
{
    pthread_mutex_lock(&node->lock);
    struct stat *to = &node->stat;
    to->st_ctim = now();
    if (to_set & FUSE_SET_ATTR_MODE)
        to->st_mode = (to->st_mode & S_IFMT) | (from->st_mode & ~(mode_t)S_IFMT);
    if (to_set & FUSE_SET_ATTR_UID)
        to->st_uid = from->st_uid;
    if (to_set & FUSE_SET_ATTR_GID)
        to->st_gid = from->st_gid;
    if (to_set & FUSE_SET_ATTR_SIZE) {
        truncate_to(node, (uint64_t)from->st_size);
        to->st_mtim = to->st_ctim;
    }
    if (to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW))
        to->st_atim = to_set & FUSE_SET_ATTR_ATIME_NOW ? to->st_ctim : from->st_atim;
    if (to_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW))
        to->st_mtim = to_set & FUSE_SET_ATTR_MTIME_NOW ? to->st_ctim : from->st_mtim;
    *stat = *to;
    pthread_mutex_unlock(&node->lock);
}
