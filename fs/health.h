/*
 * fs/health.h: is a mount well? Its figures against what fs/alerts.h says, in words, on request
 * and, from time to time, in the log.
 *
 * Each row of the text is OK, WARN or CRIT, what it is about, the figures, and where it is not
 * OK what can be done and the setting that decides:
 *
 *    OK    space      41.2 % can still be written (12.1 GiB of 29.4 GiB)
 *    WARN  log        96.0 % of its bound is in use; ... (alert_log_warning=95)
 *
 * Latencies and hits are those of the last minute or so (of two to three intervals), not of all
 * times: a mount recovers.
 *
 * Threads: any, but for new and free; start and stop by one.
 */
#ifndef FS_HEALTH_H
#define FS_HEALTH_H

#include "fs/alerts.h"
#include "fs/figures.h"

struct fs_health;

enum fs_health_state { FS_HEALTH_OK, FS_HEALTH_WARNING, FS_HEALTH_CRITICAL };

/* All borrowed until fs_health_free; alerts are copied. NULL: no memory. */
struct fs_health *fs_health_new(struct fs_volume *volume, const struct fs_counters *counters,
                                bool read_only, const struct fs_alerts *alerts);
void fs_health_free(struct fs_health *health); /* stopped; NULL is fine */

/* A thread looks every interval and says in the log what has become better or worse. */
KV_MUST_CHECK int fs_health_start(struct fs_health *health);
void fs_health_stop(struct fs_health *health); /* waits for it */

/* From now on these count. */
void fs_health_set_alerts(struct fs_health *health, const struct fs_alerts *alerts);

/* The text, like snprintf. state: the worst of its rows. */
size_t fs_health_text(struct fs_health *health, char *out, size_t cap, enum fs_health_state *state);
/* What the thread does when it is time, for tests. */
void fs_health_look(struct fs_health *health);

#endif
