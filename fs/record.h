/*
 * fs/record.h: how the filesystem lies in the key space. All of its bytes are described here.
 *
 *    key                     value
 *    S                       volume record: version, next inode number
 *    D directory(8) name     entry record: the inode itself, or {LINK, ino}
 *    I ino(8)                inode record of what has no single name: the root directory and
 *                            files with several links
 *    O ino(8)                inode record of what has no name but is still open; deleted at
 *                            its last FORGET or at the next mount
 *    P ino(8)                where a directory (not the root) hangs: parent(8) name
 *    F ino(8) offset(8)      file data, see fs/data.h
 *    X ino(8) name           extended attribute, see fs/xattr.h
 *    T expiry(8) ino(8)      what expires when, see fs/expiry.h
 *
 * Integers in keys are big-endian, so that memcmp is their order; integers in values are
 * little-endian. An inode record stands under exactly one of D, I and O. Inode numbers are
 * never used twice.
 *
 * Inode record, 80 bytes and what its flags announce:
 *
 *    0      1       2      4     8     12      16    24     32       40
 *    | kind | flags | mode | uid | gid | nlink | ino | size | blocks | atime mtime ctime btime
 *    72           76      77      78             80
 *    | generation | codec | level | inline bytes | [rdev 8] [expiry 8] | inline content |
 */
#ifndef FS_RECORD_H
#define FS_RECORD_H

#include <assert.h>
#include <sys/stat.h>
#include <time.h>

#include "fs/data.h"
#include "kv/base.h"
#include "kv/kv.h"

#define FS_VERSION          1u
#define FS_ROOT_INO         1u
#define FS_NAME_MAX         255u  /* bytes of one name */
#define FS_SYMLINK_MAX      4095u /* bytes of a symlink's target */
#define FS_LINK_MAX         0x7fffffffu
#define FS_SECTOR_BYTES     512u /* the unit of st_blocks */
#define FS_CODEC_INHERIT    0xffu
#define FS_INO_MAX          ((uint64_t)INT64_MAX)
#define FS_RECORD_BYTES_MAX (sizeof(struct fs_disk_record) + 16u + FS_INLINE_MAX)

enum fs_key_type {
    FS_KEY_VOLUME = 'S',
    FS_KEY_ENTRY = 'D',
    FS_KEY_INODE = 'I',
    FS_KEY_ORPHAN = 'O',
    FS_KEY_PARENT = 'P',
    FS_KEY_DATA = 'F',
    FS_KEY_XATTR = 'X',
    FS_KEY_EXPIRY = 'T',
};

/* ---- on disk --------------------------------------------------------------- */

enum fs_disk_kind { FS_DISK_INODE = 1, FS_DISK_LINK = 2 };

struct fs_disk_record {
    uint8_t kind;  /* FS_DISK_INODE */
    uint8_t flags; /* FS_DISK_HAS_*, FS_RECORD_* */
    kv_le16 mode;  /* type and permissions, as in st_mode */
    kv_le32 uid;
    kv_le32 gid;
    kv_le32 nlink;
    kv_le64 ino;
    kv_le64 size;
    kv_le64 blocks;                                 /* of 512 bytes, for st_blocks */
    kv_le64 atime_ns, mtime_ns, ctime_ns, btime_ns; /* signed, since 1970 */
    kv_le32 generation;
    uint8_t codec; /* enum kv_codec, or FS_CODEC_INHERIT */
    int8_t codec_level;
    kv_le16 inline_bytes;
    /* then rdev and expiry, 8 bytes each, as far as the flags say; then the inline content */
};
static_assert(sizeof(struct fs_disk_record) == 80, "record size is part of the format");
static_assert(offsetof(struct fs_disk_record, ino) == 16, "record layout is part of the format");
static_assert(offsetof(struct fs_disk_record, atime_ns) == 40,
              "record layout is part of the format");

struct fs_disk_link {
    uint8_t kind; /* FS_DISK_LINK */
    uint8_t reserved[3];
    kv_le32 type; /* the S_IFMT bits, for directory listings */
    kv_le64 ino;
};
static_assert(sizeof(struct fs_disk_link) == 16, "link size is part of the format");

struct fs_disk_volume {
    uint8_t magic[8]; /* FS_VOLUME_MAGIC */
    kv_le32 version;
    kv_le32 reserved;
    kv_le64 feature_compat, feature_rocompat, feature_incompat; /* as in the superblock */
    kv_le64 next_ino; /* no inode number from here on was ever used */
};
static_assert(sizeof(struct fs_disk_volume) == 48, "volume record size is part of the format");
#define FS_VOLUME_MAGIC "kvfs-fs"

/* ---- in memory -------------------------------------------------------------- */

enum fs_record_flags {
    FS_RECORD_XATTRS = 1,      /* there are X records */
    FS_RECORD_ACCESS_ACL = 2,  /* system.posix_acl_access is one of them */
    FS_RECORD_DEFAULT_ACL = 4, /* system.posix_acl_default is one of them */
    FS_RECORD_CAPABILITY = 8,  /* security.capability is one of them */
};
#define FS_RECORD_FLAGS_KNOWN 15u
#define FS_RECORD_ACLS        ((uint32_t)FS_RECORD_ACCESS_ACL | FS_RECORD_DEFAULT_ACL)
/* Only on disk: content is in F records; these optional fields follow the fixed part. */
#define FS_DISK_HAS_DATA   16u
#define FS_DISK_HAS_RDEV   64u
#define FS_DISK_HAS_EXPIRY 128u

/* An inode, decoded. */
struct fs_record {
    struct fs_file file; /* number, size, blocks, content (or symlink target) kept here */
    int64_t atime_ns, mtime_ns, ctime_ns, btime_ns;
    uint64_t rdev;
    uint64_t expiry_ns; /* since 1970; 0: never; of a directory: what new files get, from now */
    uint32_t mode, uid, gid, nlink, generation;
    uint32_t flags; /* enum fs_record_flags */
    uint8_t codec;  /* enum kv_codec or FS_CODEC_INHERIT */
    int8_t codec_level;
};

/* What stands under a D key. */
struct fs_entry {
    bool is_link;       /* the inode is under I ino */
    uint64_t ino;       /* both */
    uint32_t type;      /* S_IFMT bits, both */
    uint64_t expiry_ns; /* of a record of its own that is no directory; 0: never */
};

struct fs_volume_record {
    uint64_t feature_compat, feature_rocompat, feature_incompat;
    uint64_t next_ino;
};

struct fs_key {
    uint16_t length;
    uint8_t bytes[1 + 8 + FS_NAME_MAX];
};

/* ---- keys --------------------------------------------------------------------- */

/* name_len <= FS_NAME_MAX for all; the caller has checked it. */
void fs_key_volume(struct fs_key *key);
void fs_key_entry(struct fs_key *key, uint64_t directory, const char *name, size_t name_len);
/* D directory: the prefix of all entries of a directory. */
void fs_key_entries(struct fs_key *key, uint64_t directory);
/* type: FS_KEY_INODE, _ORPHAN, _PARENT; _DATA or _XATTR give the prefix of an inode's keys. */
void fs_key_ino(struct fs_key *key, enum fs_key_type type, uint64_t ino);

/* Take a D key apart: `name` points into `bytes`. -EUCLEAN: it is none, or its name is not legal.
 */
KV_MUST_CHECK int fs_key_entry_parse(const void *bytes, size_t length, uint64_t *directory,
                                     const char **name, size_t *name_len);
/* Take an I, O, P, F or X key's inode number. -EUCLEAN: too short or not of `type`. */
KV_MUST_CHECK int fs_key_ino_parse(const void *bytes, size_t length, enum fs_key_type type,
                                   uint64_t *ino);

/* 0; -ENAMETOOLONG; -EINVAL empty, ".", "..", or with a slash or a NUL in it. */
KV_MUST_CHECK int fs_name_check(const char *name, size_t name_len);

/* Does a mode name a type of file that there is? */
bool fs_mode_is_known(uint32_t mode);

/* ---- values -------------------------------------------------------------------- */

/* Returns the bytes used, at most FS_RECORD_BYTES_MAX. */
size_t fs_record_encode(const struct fs_record *record, uint8_t out[FS_RECORD_BYTES_MAX]);
/* -EUCLEAN: not an inode record, or it contradicts itself. */
KV_MUST_CHECK int fs_record_decode(const void *bytes, size_t length, struct fs_record *record);

void fs_link_encode(uint64_t ino, uint32_t type, struct fs_disk_link *out);
/* What stands under a D key, without decoding all of it. */
KV_MUST_CHECK int fs_entry_decode(const void *bytes, size_t length, struct fs_entry *entry);

/* The value of a P key; returns the bytes used. out: 8 + FS_NAME_MAX bytes. */
size_t fs_parent_encode(uint64_t parent, const char *name, size_t name_len, uint8_t *out);
KV_MUST_CHECK int fs_parent_decode(const void *bytes, size_t length, uint64_t *parent,
                                   const char **name, size_t *name_len);

void fs_volume_record_encode(const struct fs_volume_record *record, struct fs_disk_volume *out);
/* -EMEDIUMTYPE no magic; -EPROTONOSUPPORT another version or an unknown incompatible feature. */
KV_MUST_CHECK int fs_volume_record_decode(const void *bytes, size_t length,
                                          struct fs_volume_record *record);

/* ---- time ----------------------------------------------------------------------- */

/* Nanoseconds since 1970, clamped to what 64 bits hold (years 1677 to 2262). */
int64_t fs_time_ns(const struct timespec *time);
struct timespec fs_timespec(int64_t ns);
/* The wall clock as the kernel stamps files with it: coarse, and cheap. */
int64_t fs_time_now(void);

#endif
