/*
 * fs/streams.h: who reads a file in order, in large pieces, finds what follows in memory.
 *
 * A program that reads past the kernel's cache asks for a piece, waits, and asks for the next: the
 * device waits while bytes are verified, unpacked and copied, and the program waits for the device.
 * So after some pieces in order a thread reads those that follow, on another processor, while the
 * last one is handed out. It is a hint: what it did not read is read by who wants it, who hears of
 * errors, too. What is read ahead lies among the extents in memory (kv_blob_prefetch), under names
 * that no change of the file can make wrong.
 *
 * Threads: fs_streams_read: any. The others: one.
 */
#ifndef FS_STREAMS_H
#define FS_STREAMS_H

#include "fs/volume.h"

struct fs_streams;

/* Pieces shorter than this are not looked at. */
#define FS_STREAM_PIECE_MIN 65536u

/* Without a thread yet: nothing is read ahead. NULL: no memory. The volume outlives it. */
struct fs_streams *fs_streams_new(struct fs_volume *volume);
void fs_streams_free(struct fs_streams *streams); /* it was stopped; NULL is fine */

/* 0 or a negative errno; stopping what was not started is fine, as is NULL. */
KV_MUST_CHECK int fs_streams_start(struct fs_streams *streams);
void fs_streams_stop(struct fs_streams *streams);

/*
 * Before [offset, offset + length) of a file is read: what is just being read of it is waited for,
 * and what follows is asked for. With no lock of the file held.
 */
void fs_streams_read(struct fs_streams *streams, uint64_t ino, uint64_t offset, size_t length);

#endif
