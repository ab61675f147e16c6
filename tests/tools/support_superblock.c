/*
 * tests/tools/support_superblock.c: change a field in every superblock of an image, and seal it
 * again, as a later version of the software would have written it; or damage a copy.
 *
 *   support_superblock IMAGE version|incompat|rocompat|compat VALUE
 *   support_superblock IMAGE damage a|b|backup
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "kv/format.h"

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static void set_field(struct kv_disk_superblock *superblock, const char *field, uint64_t value)
{
    if (strcmp(field, "version") == 0)
        superblock->version = kv_le32_of((uint32_t)value);
    else if (strcmp(field, "incompat") == 0)
        superblock->feature_incompat = kv_le64_of(value);
    else if (strcmp(field, "rocompat") == 0)
        superblock->feature_rocompat = kv_le64_of(value);
    else if (strcmp(field, "compat") == 0)
        superblock->feature_compat = kv_le64_of(value);
    else
        die(field);
    superblock->digest =
        kv_le64_of(XXH3_64bits(superblock, offsetof(struct kv_disk_superblock, digest)));
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("usage: support_superblock IMAGE FIELD VALUE | IMAGE damage a|b|backup\n", stderr);
        return 2;
    }
    const int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    const off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (size < 0)
        die(argv[1]);
    const off_t places[] = {(off_t)KV_SUPERBLOCK_A_BLOCK * KV_BLOCK_BYTES,
                            (off_t)KV_SUPERBLOCK_B_BLOCK * KV_BLOCK_BYTES,
                            size / KV_BLOCK_BYTES * KV_BLOCK_BYTES - KV_BLOCK_BYTES};
    static const char *const names[] = {"a", "b", "backup"};
    const bool damage = strcmp(argv[2], "damage") == 0;

    for (size_t i = 0; i < 3; i++) {
        struct kv_disk_superblock superblock;
        if (damage && strcmp(argv[3], names[i]) != 0)
            continue;
        if (pread(fd, &superblock, sizeof superblock, places[i]) != (ssize_t)sizeof superblock)
            die("pread");
        if (damage)
            superblock.epoch.b[0] ^= 0xff;
        else if (memcmp(superblock.magic, KV_SUPERBLOCK_MAGIC, sizeof superblock.magic) == 0)
            set_field(&superblock, argv[2], strtoull(argv[3], NULL, 0));
        else
            continue; /* a copy that was never written */
        if (pwrite(fd, &superblock, sizeof superblock, places[i]) != (ssize_t)sizeof superblock)
            die("pwrite");
    }
    return close(fd) ? 2 : 0;
}
