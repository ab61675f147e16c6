/*
 * fs/alerts.h: from where on a mount is not well. Zero: that one is never told.
 */
#ifndef FS_ALERTS_H
#define FS_ALERTS_H

#include <stdint.h>

struct fs_alerts {
    uint32_t space_warning_percent;     /* of all space: so much or less can still be written */
    uint32_t space_critical_percent;    /* likewise */
    uint32_t log_warning_percent;       /* of what the log may hold is in use */
    uint32_t scattered_warning_percent; /* of the free space is in places too small for a page */
    uint32_t hits_warning_percent;      /* fewer pages than that are found in memory */
    uint32_t latency_warning_ms;        /* one request of a hundred takes longer */
    uint32_t latency_critical_ms;       /* likewise */
    uint32_t interval_ms;               /* between two looks; 0: nobody looks by himself */
};

#endif
