/*
 * tools/daemon_log.c: where the words of a mount's daemon go.
 *
 * Invariant  a line is one write of stdio, so lines of several threads do not mix.
 * Lifetime   what is in a log changes only while its process has one thread.
 */
#include "tools/daemon_log.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "tools/options.h"

#define LINE_MAX_BYTES 2048u

bool tool_stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat status;
    uint64_t device, inode;
    int end = 0;
    /* The variable is inherited also by who was given another standard error. */
    return stream && sscanf(stream, "%" SCNu64 ":%" SCNu64 "%n", &device, &inode, &end) == 2 &&
           !stream[end] && fstat(STDERR_FILENO, &status) == 0 && status.st_dev == device &&
           status.st_ino == inode;
}

void tool_daemon_log_open(struct tool_daemon_log *log, bool foreground)
{
    *log = (struct tool_daemon_log){
        .to_stderr = true, .to_syslog = !foreground, .in_journal = tool_stderr_is_journal()};
    if (log->to_syslog)
        openlog("mount.kvfs", LOG_PID, LOG_DAEMON);
}

void tool_daemon_log_detach(struct tool_daemon_log *log)
{
    log->to_stderr = false;
}

void tool_daemon_log_line(void *context, enum kv_log_level level, const char *line)
{
    static const int priorities[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};
    static const char *const prefixes[] = {"error: ", "warning: ", "", ""};
    const struct tool_daemon_log *log = context;
    const unsigned index = (unsigned)level <= KV_LOG_DEBUG ? (unsigned)level : KV_LOG_DEBUG;
    char text[LINE_MAX_BYTES];
    size_t length = 0;
    for (; line[length] && length < sizeof text - 1; length++)
        text[length] = iscntrl((unsigned char)line[length]) ? '?' : line[length];
    text[length] = '\0';

    if (log->to_syslog)
        syslog(priorities[index], "%s", text);
    if (!log->to_stderr || (log->to_syslog && index > KV_LOG_WARNING))
        return;
    if (log->in_journal)
        fprintf(stderr, "<%d>%s\n", priorities[index], text);
    else
        fprintf(stderr, "mount.kvfs: %s%s\n", prefixes[index], text);
}
