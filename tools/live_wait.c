/*
 * tools/live_wait.c: waiting that an interrupt ends, whenever it came.
 *
 * Owns       an eventfd that is readable once there was an interrupt: the wait polls it, so one
 *            that comes just before is seen too. Without it (no file descriptors left) such a one
 *            is seen when the time is over.
 */
#include "tools/live_wait.h"

#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/eventfd.h>

static volatile sig_atomic_t interrupted;
static int interrupt_fd = -1;

static void note_interrupt(int number)
{
    (void)number;
    interrupted = 1;
    if (interrupt_fd >= 0)
        (void)eventfd_write(interrupt_fd, 1); /* as a write(2): safe in a handler */
}

static void note_resize(int number)
{
    (void)number; /* the wait ends, and the next screen asks for the size */
}

void tool_live_wait_begin(void)
{
    static const int interrupts[] = {SIGINT, SIGTERM, SIGHUP};
    const struct sigaction interrupt = {.sa_handler = note_interrupt};
    const struct sigaction resize = {.sa_handler = note_resize};
    interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    (void)sigaction(SIGWINCH, &resize, NULL); /* does not fail: the arguments are right */
    for (size_t i = 0; i < sizeof interrupts / sizeof interrupts[0]; i++)
        (void)sigaction(interrupts[i], &interrupt, NULL);
}

enum tool_live_wake tool_live_wait(int fd, unsigned milliseconds)
{
    struct pollfd events[] = {{.fd = fd, .events = POLLIN}, {.fd = interrupt_fd, .events = POLLIN}};
    const int ready = interrupted ? 0 : poll(events, 2, (int)milliseconds);
    if (interrupted)
        return TOOL_LIVE_INTERRUPTED;
    if (ready <= 0 || !events[0].revents)
        return TOOL_LIVE_TIME;
    return events[0].revents & POLLIN ? TOOL_LIVE_INPUT : TOOL_LIVE_INTERRUPTED;
}
