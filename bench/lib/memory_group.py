"""A memory control group, of version 1 or 2, to work in: for the daemon, for the programs that work on
it, and for what the kernel keeps in memory for either.
"""

import contextlib
import os
import pathlib
import time

ROOT = pathlib.Path("/sys/fs/cgroup")


def own_groups():
    """The group of this process in each hierarchy: controllers ("" for version 2) -> name."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    return {controllers: name.lstrip("/") for _, controllers, name in lines}


class MemoryGroup:
    """Where groups can be made. `why_not` says why none can, or is None."""

    def __init__(self, root=ROOT):
        self.parent, self.why_not = None, None
        groups = own_groups()
        self.is_v1 = "memory" in groups
        if self.is_v1:
            self.own = root / "memory" / groups["memory"]
            candidates = [self.own]
        else:
            self.own = root / groups.get("", "")
            # Processes can only be in groups that hand out nothing: so beside or above our own.
            candidates = [path for path in (self.own, *self.own.parents)
                          if path.is_relative_to(root) and self.hands_out_memory(path)]
        self.parent = next((path for path in candidates if os.access(path / "cgroup.procs", os.W_OK)),
                           None)
        if not self.parent:
            self.why_not = "there is no control group for memory below which one could be made"

    @staticmethod
    def hands_out_memory(path):
        try:
            return "memory" in (path / "cgroup.subtree_control").read_text().split()
        except OSError:
            return False

    @contextlib.contextmanager
    def entered(self, limit_bytes):
        """This process, and what it starts, is in a new group with so much memory and no swap."""
        group = self.parent / f"kvfs-bench.{os.getpid()}"
        group.mkdir()
        try:
            if self.is_v1:
                (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
                (group / "memory.swappiness").write_text("0")
            else:
                (group / "memory.max").write_text(str(limit_bytes))
                with contextlib.suppress(FileNotFoundError):  # where swap is not accounted for
                    (group / "memory.swap.max").write_text("0")
            (group / "cgroup.procs").write_text(str(os.getpid()))
            try:
                yield
            finally:
                (self.own / "cgroup.procs").write_text(str(os.getpid()))
        finally:
            self.remove(group)

    @staticmethod
    def remove(group):
        """A group is busy until the last that was started in it is gone for good."""
        for attempt in range(200):
            try:
                group.rmdir()
                return
            except OSError:
                if attempt == 199:
                    raise
                time.sleep(0.02)
