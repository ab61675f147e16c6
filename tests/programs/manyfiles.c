/*
 * tests/programs/manyfiles.c: is a large directory listed right while it changes?
 *
 * POSIX promises that an entry which is there for the whole of a listing is returned exactly
 * once, and that a position remembered by telldir leads back to the same entry. Both break in
 * file systems whose positions are indices. This program makes a directory of many entries,
 * goes back to remembered positions after others were deleted, then deletes and creates entries
 * during one listing, and counts how often each was returned.
 *
 * Owns       the directory it is given, which must not be there before and is not after.
 * Invariant  an entry `e%09u` is made before the listing, `n%09u` during it.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/measure.h"

#define REMEMBERED_MAX   1000u
#define NAME_BYTES       32u
#define LISTED_MANY      200u /* the count of how often an entry was listed stops here */
#define EXTRA_CHANGE_PER 3u   /* each so many entries, another is deleted and one is made */

struct entry {
    uint8_t listed;  /* how often the listing returned it */
    bool gone;       /* deleted */
    bool gone_early; /* deleted before it was listed: need not be listed */
};

struct directory {
    const char *path;
    int fd;
    uint64_t count;
    struct entry *entries; /* count */
    uint64_t made_count;   /* entries made during the listing */
    uint64_t seed;
};

static int complain(const char *what)
{
    const int err = -errno;
    fprintf(stderr, "test-manyfiles: %s: %s\n", what, strerror(-err));
    return err;
}

static void format_name(char prefix, uint64_t index, char name[NAME_BYTES])
{
    (void)snprintf(name, NAME_BYTES, "%c%09" PRIu64, prefix, index); /* fits: counts are bounded */
}

static bool is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* The index of an entry that we made before the listing. */
static bool parse_name(const struct directory *dir, const char *name, uint64_t *index)
{
    if (name[0] != 'e')
        return false;
    *index = strtoull(name + 1, NULL, 10);
    return *index < dir->count;
}

static int make_entry(const struct directory *dir, char prefix, uint64_t index)
{
    char name[NAME_BYTES];
    format_name(prefix, index, name);
    const int fd = openat(dir->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return complain(name);
    return close(fd) ? complain(name) : 0;
}

static int delete_entry(struct directory *dir, uint64_t index)
{
    struct entry *entry = &dir->entries[index];
    if (entry->gone)
        return 0;
    char name[NAME_BYTES];
    format_name('e', index, name);
    if (unlinkat(dir->fd, name, 0))
        return complain(name);
    entry->gone = true;
    entry->gone_early = entry->listed == 0;
    return 0;
}

/* A stream of its own position. */
static DIR *open_stream(const struct directory *dir)
{
    DIR *stream = opendir(dir->path);
    if (!stream)
        (void)complain(dir->path); /* the caller sees NULL */
    return stream;
}

/* ---- positions ------------------------------------------------------------------- */

struct position {
    long cookie;
    uint64_t next; /* the entry that followed */
};

/* Remember positions all over the listing. */
static int remember_positions(const struct directory *dir, DIR *stream, struct position *positions,
                              size_t *position_count)
{
    const uint64_t step = dir->count / REMEMBERED_MAX + 1;
    uint64_t listed = 0;
    for (;;) {
        const long cookie = telldir(stream);
        errno = 0;
        const struct dirent *found = readdir(stream);
        if (!found)
            return errno ? complain("readdir") : 0;
        uint64_t index;
        if (!parse_name(dir, found->d_name, &index) || listed++ % step != 0)
            continue;
        if (*position_count < REMEMBERED_MAX)
            positions[(*position_count)++] = (struct position){cookie, index};
    }
}

/* Delete a third of the entries, but none that a position names. */
static int delete_between(struct directory *dir, const struct position *positions,
                          size_t position_count)
{
    for (size_t i = 0; i < position_count; i++)
        dir->entries[positions[i].next].listed = 1; /* borrowed as a mark */
    int err = 0;
    for (uint64_t i = 0; i < dir->count && !err; i++)
        if (!dir->entries[i].listed && measure_mix(dir->seed + i) % 3 == 0)
            err = delete_entry(dir, i);
    for (size_t i = 0; i < position_count; i++)
        dir->entries[positions[i].next].listed = 0;
    return err;
}

static int check_positions(struct directory *dir)
{
    struct position *positions = calloc(REMEMBERED_MAX, sizeof *positions);
    DIR *stream = open_stream(dir);
    size_t position_count = 0;
    int err = positions && stream ? 0 : -ENOMEM;
    if (!err)
        err = remember_positions(dir, stream, positions, &position_count);
    if (!err)
        err = delete_between(dir, positions, position_count);
    /* From the end to the start, so that nothing lies ready in a buffer. */
    for (size_t i = position_count; i-- > 0 && !err;) {
        seekdir(stream, positions[i].cookie);
        const struct dirent *found = readdir(stream);
        uint64_t index = UINT64_MAX;
        if (!found || !parse_name(dir, found->d_name, &index) || index != positions[i].next) {
            fprintf(stderr,
                    "test-manyfiles: position %zu of %zu led to %s, entry %" PRIu64 " is right\n",
                    i, position_count, found ? found->d_name : "the end", positions[i].next);
            err = -EUCLEAN;
        }
    }
    if (stream)
        (void)closedir(stream); /* only read */
    free(positions);
    if (!err)
        printf("%zu positions lead back to their entries after deletions\n", position_count);
    return err;
}

/* ---- deletion during the listing --------------------------------------------------- */

/* What a program that deletes what it lists does, while others delete and create. */
static int change_during_listing(struct directory *dir, uint64_t index, uint64_t step)
{
    int err = delete_entry(dir, index);
    if (!err && step % EXTRA_CHANGE_PER == 0)
        err = delete_entry(dir, measure_mix(dir->seed ^ (step << 20)) % dir->count);
    if (!err && step % EXTRA_CHANGE_PER == 0)
        err = make_entry(dir, 'n', dir->made_count++);
    return err;
}

static int list_and_change(struct directory *dir, DIR *stream)
{
    for (uint64_t step = 0;;) {
        errno = 0;
        const struct dirent *found = readdir(stream);
        if (!found)
            return errno ? complain("readdir") : 0;
        uint64_t index;
        if (!parse_name(dir, found->d_name, &index))
            continue; /* one that was made meanwhile: may be listed or not */
        struct entry *entry = &dir->entries[index];
        if (entry->listed < LISTED_MANY)
            entry->listed++;
        const int err = change_during_listing(dir, index, step++);
        if (err)
            return err;
    }
}

static int check_counts(const struct directory *dir)
{
    uint64_t skipped = 0, repeated = 0;
    for (uint64_t i = 0; i < dir->count; i++) {
        const struct entry *entry = &dir->entries[i];
        skipped += entry->listed == 0 && !entry->gone_early;
        repeated += entry->listed > 1;
    }
    printf("listing during deletion: %" PRIu64 " skipped, %" PRIu64 " repeated of %" PRIu64 "\n",
           skipped, repeated, dir->count);
    return skipped || repeated ? -EUCLEAN : 0;
}

static int check_listing_during_deletion(struct directory *dir)
{
    DIR *stream = open_stream(dir);
    if (!stream)
        return -EIO;
    int err = list_and_change(dir, stream);
    (void)closedir(stream); /* only read */
    if (!err)
        err = check_counts(dir);
    return err;
}

/* Only what was made during the listing is left, all of it; remove it. */
static int check_rest(struct directory *dir)
{
    DIR *stream = open_stream(dir);
    if (!stream)
        return -EIO;
    int err = 0;
    uint64_t left = 0;
    for (;;) {
        errno = 0;
        const struct dirent *found = readdir(stream);
        if (!found) {
            err = errno ? complain("readdir") : 0;
            break;
        }
        if (is_dot(found->d_name))
            continue;
        if (found->d_name[0] != 'n') {
            fprintf(stderr, "test-manyfiles: %s was deleted and is still listed\n", found->d_name);
            err = -EUCLEAN;
            break;
        }
        left++;
        if (unlinkat(dir->fd, found->d_name, 0)) {
            err = complain(found->d_name);
            break;
        }
    }
    (void)closedir(stream); /* only read */
    if (!err && left != dir->made_count) {
        fprintf(stderr, "test-manyfiles: %" PRIu64 " entries are left, %" PRIu64 " are right\n",
                left, dir->made_count);
        err = -EUCLEAN;
    }
    return err;
}

/* ---- the whole --------------------------------------------------------------------- */

static int make_directory(struct directory *dir)
{
    if (mkdir(dir->path, 0755))
        return complain(dir->path);
    dir->fd = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->fd < 0)
        return complain(dir->path);
    int err = 0;
    for (uint64_t i = 0; i < dir->count && !err; i++)
        err = make_entry(dir, 'e', i);
    return err;
}

int main(int argc, char **argv)
{
    struct directory dir = {.fd = -1, .seed = 1};
    if (argc < 3 || argc > 4 || measure_parse_size(argv[2], &dir.count) || dir.count < 1 ||
        dir.count > 100000000 || (argc == 4 && measure_parse_size(argv[3], &dir.seed))) {
        fputs("usage: test-manyfiles NEW_DIR COUNT [SEED]\n", stderr);
        return 2;
    }
    dir.path = argv[1];
    dir.entries = calloc(dir.count, sizeof *dir.entries);
    int err = dir.entries ? make_directory(&dir) : -ENOMEM;
    if (!err)
        err = check_positions(&dir);
    if (!err)
        err = check_listing_during_deletion(&dir);
    if (!err)
        err = check_rest(&dir);
    if (dir.fd >= 0)
        (void)close(dir.fd); /* a directory: nothing is written through it */
    if (!err && rmdir(dir.path))
        err = complain(dir.path);
    free(dir.entries);
    return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
