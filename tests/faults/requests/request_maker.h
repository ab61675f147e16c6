/*
 * tests/faults/requests/request_maker.h: requests as a kernel that is broken, or bought, would
 * send them: most of them whole, with anything in their fields; the others cut or scrambled.
 *
 * Threads: one.
 */
#ifndef TESTS_FAULTS_REQUESTS_MAKER_H
#define TESTS_FAULTS_REQUESTS_MAKER_H

#include <linux/fuse.h>

#include "tests/kv/support_store.h"

#define REQUEST_MAX 65536u /* bytes of one request */
#define INODES_MAX  256u

struct request_maker {
    struct test_random random;
    bool careful;                /* only whole requests, and nothing is forgotten too often */
    uint64_t inodes[INODES_MAX]; /* numbers that were seen in answers, newest over oldest */
    size_t inode_count;
    uint64_t cookies[16]; /* positions in listings */
    size_t cookie_count;
};

struct made_request {
    size_t length;
    uint32_t opcode;
    uint64_t nodeid;
    bool whole; /* it was not cut or scrambled afterwards */
    uint8_t bytes[REQUEST_MAX];
};

/* Note a number or a position that an answer gave, to be used again. */
void request_maker_note_inode(struct request_maker *maker, uint64_t ino);
void request_maker_note_cookie(struct request_maker *maker, uint64_t cookie);

/* The next request; its header's `unique` is the caller's. */
void request_make(struct request_maker *maker, uint64_t unique, struct made_request *request);
/* INIT as Linux sends it; FORGET of a number of references. */
void request_make_init(uint64_t unique, struct made_request *request);
void request_make_forget(uint64_t unique, uint64_t ino, uint64_t count,
                         struct made_request *request);

#endif
