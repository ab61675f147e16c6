/*
 * kv/crew.h: threads that help with work which divides into items.
 *
 * Threads: any may have something done at the same time; free is for the last one.
 */
#ifndef KV_CREW_H
#define KV_CREW_H

#include "kv/base.h"

struct kv_crew;

/* As many helpers as there are processors besides the caller's, KV_CREW_MAX at most; maybe none. */
#define KV_CREW_MAX 3u
KV_MUST_CHECK int kv_crew_new(struct kv_crew **crew);
void kv_crew_free(struct kv_crew *crew); /* nobody may use it any more; NULL is fine */

/*
 * Call work(context, i) for each i below `count`, at the same time where helpers are idle, and
 * return when all have returned. The caller works, too; crew NULL: alone.
 */
void kv_crew_do(struct kv_crew *crew, void (*work)(void *context, size_t item), void *context,
                size_t count);

#endif
