/*
 * tools/daemon_log.h: where the words of a mount's daemon go.
 *
 * To standard error while somebody reads it there, in the journal with a priority; to syslog once
 * the daemon has let go of its terminal. What is important enough is decided before (log_level).
 */
#ifndef TOOLS_DAEMON_LOG_H
#define TOOLS_DAEMON_LOG_H

#include <stdbool.h>

#include "kv/kv.h"

struct tool_daemon_log {
    bool to_stderr, to_syslog; /* both: it is about to become a daemon, stderr gets what is wrong */
    bool in_journal;           /* standard error is the journal */
};

/*
 * Is standard error the journal of systemd? Then "<3>" to "<7>" before a line is its priority.
 * Reference: JOURNAL_STREAM in systemd.exec(5), the prefixes in sd-daemon(3).
 */
bool tool_stderr_is_journal(void);

/* Start a log for a process that stays in the foreground, or for one that will be a daemon. */
void tool_daemon_log_open(struct tool_daemon_log *log, bool foreground);

/* Standard error is about to go away. */
void tool_daemon_log_detach(struct tool_daemon_log *log);

/*
 * Write one line; a kv_log_fn, with a struct tool_daemon_log as context. Bytes that end a line or
 * command a terminal become "?", so what a file is called can not pretend to be a line.
 * Threads: any.
 */
void tool_daemon_log_line(void *context, enum kv_log_level level, const char *line);

#endif
