"""An end by a signal: it comes as an exception into the main thread, wherever that is, but not where
something has just been started that nothing knows of yet."""

import contextlib
import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_held = 0  # how many `held` the main thread is in
_late = None  # the signal that came meanwhile


def _end(number):
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _on_signal(number, _frame):
    global _late
    if _held:
        _late = number
    else:
        _end(number)


def by_signals():
    """From here on SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP raise SystemExit."""
    for number in SIGNALS:
        signal.signal(number, _on_signal)


@contextlib.contextmanager
def held():
    """What is in it is done whole; a signal that came meanwhile raises at its end."""
    global _held, _late
    if threading.current_thread() is not threading.main_thread():  # none is ever raised there
        yield
        return
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if not _held and _late is not None:
            number, _late = _late, None
            _end(number)


@contextlib.contextmanager
def ignored():
    """What is in it is done whole, and signals that came meanwhile are forgotten."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
