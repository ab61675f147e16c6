"""Works on targets, round by round, and a place for all of it that is gone at the end.

In a round each work is done on one target after another, before the next work comes.
"""

import contextlib
import os
import pathlib
import sys
import tempfile
import time

from lib import ending, goals, machine, workdir, works

# What a work finds to do.
SIZES = {
    # For results that are to be shown; most of an hour.
    "full": {
        "files": 10000, "fsync_files": 2000, "tree_files": 12000, "commits": 2000,
        "fio_small": "64M", "fio_ops": 50000, "fio_fsync_ops": 3000,
        "fio_large": "1G", "fio_disk_ops": 20000, "raw_ops": 3000, "keys": 1000000,
        "image": "16G", "floor_memory": "512M", "rounds": 3,
        "memory": "384M", "limited_data": "1536M",
    },
    # For a look while working; a few minutes.
    "quick": {
        "files": 2000, "fsync_files": 150, "tree_files": 1200, "commits": 100,
        "fio_small": "32M", "fio_ops": 3000, "fio_fsync_ops": 150,
        "fio_large": "128M", "fio_disk_ops": 600, "raw_ops": 300, "keys": 100000,
        "image": "4G", "floor_memory": "256M", "rounds": 1,
        "memory": "96M", "limited_data": "384M",
    },
    # To see that it works.
    "tiny": {
        "files": 100, "fsync_files": 12, "tree_files": 60, "commits": 5,
        "fio_small": "1M", "fio_ops": 50, "fio_fsync_ops": 5,
        "fio_large": "4M", "fio_disk_ops": 50, "raw_ops": 5, "keys": 2000,
        "image": "1G", "floor_memory": "16M", "rounds": 1,
        "memory": "96M", "limited_data": "8M",
    },
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def what_is_missing():
    """Why nothing can be mounted here, or None."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        return ("it mounts file systems and empties the kernel's caches: run it as root, where "
                "/dev/fuse is")
    return None


class Rounds:
    """A run: its targets, its samples, and what went wrong."""

    def __init__(self, sizes, targets, rows, scratch, tools, seed, these_works=None,
                 memory_group=None):
        self.sizes, self.rows, self.scratch, self.tools = sizes, rows, scratch, tools
        self.memory_group = memory_group  # for works.LIMITED_WORKS
        self.works = these_works or works.WORKS
        self.targets = [target for target in targets if not target.missing]
        self.missing = {target.name: target.missing for target in targets if target.missing}
        self.samples, self.failures, self.raw = {}, [], []
        self.material = works.Material(scratch, sizes["tree_files"], seed)

    def prepare(self):
        for target in list(self.targets):
            try:
                target.prepare(self.scratch)
                target.mount()
                target.umount()
            except machine.Failed as reason:
                self.targets.remove(target)
                self.missing[target.name] = str(reason)
        for name, why in self.missing.items():
            say(f"missing: {name}: {why}")

    def visit(self, round_number, work, target):
        rows, function = self.works[work]

        def record(row, figures):
            self.samples.setdefault(row, {}).setdefault(target.name, []).append(
                {"round": round_number, **figures})

        def fail(what, reason):
            say(f"failed: {target.name}, {what}: {reason}")
            self.failures.append({"target": target.name, "work": what, "round": round_number,
                                  "words": str(reason)})
        begun = time.monotonic()
        with self.memory_of(work):
            try:
                target.mount()
                function(works.Visit(target, self.sizes, self.material, self.tools,
                                     self.rows & set(rows), record, fail))
                target.umount()
            except (machine.Failed, OSError) as reason:
                fail(work, reason)
                self.leave(target)
            except BaseException:
                self.leave(target)  # before what it may use ends
                raise
        say(f"round {round_number}: {work}: {target.name}: {time.monotonic() - begun:.1f} s")

    def memory_of(self, work):
        """What a work may use, with its target."""
        if work not in works.LIMITED_WORKS:
            return contextlib.nullcontext()
        return self.memory_group.entered(works.bytes_of(self.sizes["memory"]))

    def leave(self, target):
        """Away from a target in whatever state it is."""
        try:
            target.umount()
        except (machine.Failed, OSError) as reason:
            say(f"{target.name}: {reason}")

    def measure(self, first=1, by_turns=False, is_of_use=lambda target, rows: True):
        """The rounds from `first` on. by_turns: in every second round the last target comes first."""
        for round_number in range(first, first + self.sizes["rounds"]):
            for work, (rows, _) in self.works.items():
                if not self.rows & set(rows):
                    continue
                if any("bound" in goals.rows()[row].goals
                       for row in self.rows & set(rows) if row in goals.rows()):
                    os.sync()
                    self.raw.append(works.raw_flushes(self.scratch, self.tools,
                                                      self.sizes["raw_ops"]))
                order = self.targets[::-1] if by_turns and round_number % 2 == 0 else self.targets
                for target in order:
                    if is_of_use(target, rows):
                        self.visit(round_number, work, target)

    def end(self):
        for target in self.targets:
            self.leave(target)


# ---- a place for it ------------------------------------------------------------------------


@contextlib.contextmanager
def workplace(name, directory):
    """A new directory, the ring switched on, an end also by signals. What `closing` is given is
    called at the end, before all of it goes, and nothing comes between. Gives (directory, closing)."""
    ending.by_signals()
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}.", dir=directory)).resolve()
    last = []
    try:
        with machine.ring_switched_on() as no_ring:
            if no_ring:
                say(f"no ring: {no_ring}")
            try:
                yield scratch, last.append
            finally:
                with ending.ignored():
                    for function in last:
                        function()
    finally:
        workdir.remove(scratch)
