#!/usr/bin/env python3
"""tests/bench/test_ending.py: a benchmark that is told to end knows everything that it has started."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "bench"))

from lib import ending, machine, targets  # noqa: E402

real_popen = subprocess.Popen


class Ending(unittest.TestCase):
    def setUp(self):
        before = {number: signal.getsignal(number) for number in ending.SIGNALS}
        self.addCleanup(lambda: [signal.signal(*pair) for pair in before.items()])
        ending.by_signals()
        self.started = []

    def starting_is_told_to_end(self, number):
        """As when the signal comes after the fork, and before Popen has returned."""
        def popen(*words, **options):
            process = real_popen(*words, **options)
            self.started.append(process)
            if len(self.started) == 1:
                os.kill(os.getpid(), number)
            return process
        return mock.patch("subprocess.Popen", popen)

    def test_a_signal_ends_the_program(self):
        with self.assertRaises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        for number in (signal.SIGTERM, signal.SIGHUP):
            with self.assertRaises(SystemExit) as seen:
                signal.raise_signal(number)
            self.assertEqual(seen.exception.code, 128 + number)

    def test_what_is_held_is_done_whole(self):
        done = []
        with self.assertRaises(SystemExit) as seen:
            with ending.held():
                with ending.held():
                    signal.raise_signal(signal.SIGTERM)
                    done.append("inside")
                done.append("outside")
            done.append("never")
        self.assertEqual(seen.exception.code, 128 + signal.SIGTERM)
        self.assertEqual(done, ["inside", "outside"])
        with ending.held():  # and it has come once
            pass

    def test_what_is_ignored_never_comes(self):
        with ending.ignored():
            signal.raise_signal(signal.SIGTERM)
        with self.assertRaises(SystemExit):
            signal.raise_signal(signal.SIGTERM)

    def test_a_daemon_just_started_is_known(self):
        with tempfile.TemporaryDirectory() as directory:
            daemon = targets.Daemon("sleeper", "mounts nothing", "sleep", ["sleep", "1000"])
            daemon.prepare(pathlib.Path(directory))
            with self.starting_is_told_to_end(signal.SIGTERM):
                with self.assertRaises(SystemExit):
                    daemon.mount()
            self.assertEqual(daemon.pid, self.started[0].pid)
            with mock.patch("os.sync"), self.assertRaises(machine.Failed):
                daemon.umount()  # there is no mount
            self.assertIsNone(daemon.process)
            self.assertEqual(self.started[0].poll(), -signal.SIGKILL)

    def test_a_command_just_started_ends_with_us(self):
        for number, end in ((signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)):
            self.started.clear()
            with self.starting_is_told_to_end(number), self.assertRaises(end):
                machine.run(["sleep", 1000])
            self.assertEqual(self.started[0].poll(), -signal.SIGKILL)


if __name__ == "__main__":
    unittest.main()
