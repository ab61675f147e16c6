/*
 * tools/profiles.h: settings for a kind of work or machine, under one name.
 *
 * A profile lies between the defaults and what mount.conf and options say (tools/config.h).
 * bench/profiles shows of each that it helps the work it is named after.
 */
#ifndef TOOLS_PROFILES_H
#define TOOLS_PROFILES_H

#include <stddef.h>

#define TOOL_PROFILE_NONE "none" /* the name for: no profile */
/* All of them, for people; in the order of the table. */
#define TOOL_PROFILE_NAMES                                                                         \
    "read-heavy, write-heavy, mixed, oltp, olap, time-series, cache, ssd, hdd, low-memory, "       \
    "high-memory, dev, prod, ci"

struct tool_profile_setting {
    const char *key, *value; /* as in mount.conf */
    const char *reason;      /* why, in words */
};
#define TOOL_PROFILE_SETTINGS_MAX 8u

struct tool_profile {
    const char *name;
    const char *summary;                                             /* what it is for */
    const char *price;                                               /* what it takes or gives up */
    struct tool_profile_setting settings[TOOL_PROFILE_SETTINGS_MAX]; /* ends with an empty row */
};

const struct tool_profile *tool_profile(size_t index);          /* NULL past the last */
const struct tool_profile *tool_profile_find(const char *name); /* NULL: there is none */

#endif
