/*
 * tools/live_wait.h: waiting between two looks at something, until somebody interrupts.
 */
#ifndef TOOLS_LIVE_WAIT_H
#define TOOLS_LIVE_WAIT_H

/*
 * From now on SIGINT, SIGTERM and SIGHUP end the wait that they come in, or else the next one: none
 * is lost between a look and the wait after it. A system call that they come in fails with EINTR.
 */
void tool_live_wait_begin(void);

enum tool_live_wake { TOOL_LIVE_TIME, TOOL_LIVE_INPUT, TOOL_LIVE_INTERRUPTED };

/*
 * Wait for so many milliseconds, for input of `fd` (-1: none is awaited), for an interrupt, or for
 * another size of the terminal, which is told as the time. An end or an error of fd is an
 * interrupt.
 */
enum tool_live_wake tool_live_wait(int fd, unsigned milliseconds);

#endif
