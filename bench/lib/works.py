"""What is done on each target. A work does several rows in a row, because one leaves what the next
needs; each is timed by the program that does it, or is a whole program of some length.

A work is a function of a Visit: one target, in one round.
"""

import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import time

from lib import goals, machine
from lib.machine import run

HERE = pathlib.Path(__file__).resolve().parent
# Our own look at a daemon's counts is two requests.
LOOK_REQUESTS = {"getxattr": 2}


def bytes_of(text):
    """"64M" to bytes."""
    return int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]]


class Visit:
    """One work on one target, and where its results go."""

    def __init__(self, target, sizes, material, tools, wanted, record, fail):
        self.target, self.sizes, self.material, self.tools = target, sizes, material, tools
        self.wanted, self.record, self.fail = wanted, record, fail

    def wants(self, *rows):
        return any(row in self.wanted for row in rows)

    @contextlib.contextmanager
    def watched(self):
        """Gives a function that tells what the daemon did for each of so many operations."""
        target, figures = self.target, {}
        requests = target.requests()
        cpu = machine.cpu_ns(target.pid) if target.pid else None

        def per(operations):
            if cpu is not None:
                figures["cpu_us"] = (machine.cpu_ns(target.pid) - cpu) / 1000 / operations
            if requests is not None:
                now = target.requests()
                counts = {name: now[name] - requests.get(name, 0) - LOOK_REQUESTS.get(name, 0)
                          for name in now}
                figures["requests"] = {name: round(count / operations, 3)
                                       for name, count in counts.items()
                                       if count >= 0.005 * operations}
            return figures
        yield per

    def add(self, row, rate, figures=None, checksum=None):
        if row in self.wanted:
            self.record(row, {"rate": rate, **(figures or {}),
                              **({"checksum": checksum} if checksum else {})})

    @contextlib.contextmanager
    def device_bytes(self, row, content_bytes):
        """What the device is given for a content until nothing of it is in memory alone. The target
        is remounted at the end."""
        if not self.target.keeps_data:
            yield
            return
        before = machine.device_written(self.target.scratch)
        yield
        self.target.remount()
        if before is not None and row in self.wanted:
            written = machine.device_written(self.target.scratch) - before
            self.record(row, {"device_bytes_per_byte": written / content_bytes})

    # ---- programs ---------------------------------------------------------------

    def smallfiles(self, row, phase, files, size, name, threads=1, extra=()):
        """One phase of bench-smallfiles, in the directory `name`, which stays. Its time is what its threads spent in system calls, so
        that checking contents, the same for everyone, makes no two targets look alike."""
        command = [self.tools["smallfiles"], "--dir", self.target.path, "--files", files,
                   "--size", size, "--dirs", max(1, files // 1000), "--threads", threads,
                   "--phases", phase, "--name", name, "--keep", *extra]
        with self.watched() as per:
            result = json.loads(run(command))["phases"][phase]
            figures = dict(per(result["operations"]))
        if phase != "list":  # whose latencies are of whole directories
            figures["p50_us"] = result["p50_ns"] / 1000
            figures["p99_us"] = result["p99_ns"] / 1000
        self.add(row, result["operations"] * threads * 1e9 / result["calls_ns"], figures,
                 result["checksum"])

    def program(self, row, operations, *command, **options):
        with self.watched() as per:
            begun = time.monotonic()
            run(command, **options)
            seconds = time.monotonic() - begun
            figures = per(operations)
        self.add(row, operations / seconds, figures)

    def fio(self, row, job, *options, side="write", rate="ops_per_s"):
        """One job of bench/fio. What it can not do on this target is left out, and the rest done."""
        with self.watched() as per:
            try:
                result = json.loads(run([self.tools["run-fio"], job, self.target.path,
                                         "--name", "fio", *options]))
            except machine.Failed as reason:
                self.fail(row or job, reason)
                return
            block = 1 << 20 if rate == "mib_per_s" else 4096
            figures = dict(per(max(1, result[side]["bytes"] // block)))
        if "--fsync" not in options:  # fio's latency is that of the write without its fsync
            figures["p50_us"] = result[side]["p50_ns"] / 1000
            figures["p99_us"] = result[side]["p99_ns"] / 1000
        self.add(row, result[side][rate], figures)


# ---- small files ---------------------------------------------------------------------


def small_files(visit, label, size):
    target, files = visit.target, visit.sizes["files"]

    def phase(row, name, tree, **options):
        visit.smallfiles(f"{row}/{label}", name, files, size, tree, **options)

    def list_all(row):
        visit.program(row, files, "ls", "-lR", target.path / "one", stdout=subprocess.DEVNULL)

    def warm_up():
        # Reading first: it makes the kernel ask a FUSE daemon for the access time at the next stat.
        for name in ("read", "stat", "list"):
            phase("", name, "one")

    if visit.wants(f"create/{label}/4"):
        target.settle()
        visit.smallfiles(f"create/{label}/4", "create", files, size, "four", threads=4)
        shutil.rmtree(target.path / "four")
    target.settle()
    with visit.device_bytes(f"create/{label}/1", files * size):
        visit.smallfiles(f"create/{label}/1", "create", files, size, "one")
    if visit.wants(f"stat/warm/{label}", f"read/warm/{label}", f"list/warm/{label}"):
        warm_up()
        for name in ("stat", "list", "read"):
            phase(f"{name}/warm", name, "one")
    for name in ("stat", "list", "read"):
        if visit.wants(f"{name}/cold/{label}"):
            target.drop_kernel_caches()
            phase(f"{name}/cold", name, "one")
    for name in ("list", "read"):
        if visit.wants(f"{name}/remounted/{label}") and target.keeps_data:
            target.remount()
            phase(f"{name}/remounted", name, "one")
    if visit.wants(f"ls/cold/{label}"):
        target.drop_kernel_caches()
        list_all(f"ls/cold/{label}")
    if visit.wants(f"ls/remounted/{label}") and target.keeps_data:
        target.remount()
        list_all(f"ls/remounted/{label}")
    if visit.wants(f"rename/{label}", f"unlink/{label}"):
        phase("", "stat", "one")
        target.settle()
        phase("rename", "rename", "one")
        target.settle()
        phase("unlink", "unlink", "one", extra=["--renamed"])
    shutil.rmtree(target.path / "one")


def small_files_fsync(visit, label, size):
    files = visit.sizes["fsync_files"]
    for threads in (1, 4):
        if visit.wants(f"fsync/{label}/{threads}"):
            visit.target.settle()
            visit.smallfiles(f"fsync/{label}/{threads}", "create", files, size, "sync",
                             threads=threads, extra=["--fsync"])
            shutil.rmtree(visit.target.path / "sync")


# ---- trees ------------------------------------------------------------------------------


def source_tree(visit):
    target, material = visit.target, visit.material
    tree = target.path / "tree"
    files, archive = material.tree_files, material.tar()
    target.settle()
    # tar reads nothing when it sees that it writes to /dev/null: so through a pipe.
    read_all = ["sh", "-c", 'tar -cf - -C "$0" tree | cat >/dev/null', target.path]
    # Daemons keep what they hold in memory for tar; for rm all have read it once since the remount.
    with visit.device_bytes("untar", material.tree_bytes):
        visit.program("untar", files, "tar", "-xf", archive, "-C", target.path)
        if visit.wants("tar/cold"):
            target.drop_kernel_caches()
            visit.program("tar/cold", files, *read_all)
    if visit.wants("rm-r"):
        run(read_all)
        target.settle()
        visit.program("rm-r", files, "rm", "-r", tree)
    else:
        shutil.rmtree(tree)


def git(visit):
    target, material = visit.target, visit.material
    clone = target.path / "clone"
    repository = material.repository()
    target.settle()
    visit.program("git/clone", material.tree_files, "git", "clone", "-q", "--no-hardlinks",
                  repository, clone)
    if visit.wants("git/status/cold"):
        target.drop_kernel_caches()
        visit.program("git/status/cold", material.tree_files, "git", "-C", clone, "status",
                      "--porcelain")
    shutil.rmtree(clone)


# ---- a database ------------------------------------------------------------------------


def sqlite(visit):
    commits = visit.sizes["commits"]
    for mode in ("delete", "wal"):
        if visit.wants(f"sqlite/{mode}"):
            visit.target.settle()
            with visit.watched() as per:
                seconds = float(run([sys.executable, HERE / "sqlite_commits.py",
                                     visit.target.path / f"{mode}.db", mode, commits]))
                figures = per(commits)
            visit.add(f"sqlite/{mode}", commits / seconds, figures)


# ---- inside large files ------------------------------------------------------------------


def fio_cached(visit):
    """On a file that the daemon's memory holds: written just before, and each block read once by
    direct reads, for buffered ones find what was written in the kernel's memory."""
    target, size, ops = visit.target, visit.sizes["fio_small"], visit.sizes["fio_ops"]
    visit.fio("", "seq-write", "--size", size)
    visit.fio("", "rand-read", "--io", "direct", "--size", size, side="read")
    for depth in (1, 16):
        row = f"fio/read/cached/{depth}"
        if visit.wants(row):
            target.settle()
            visit.fio(row, "rand-read", "--io", "direct", "--depth", depth, "--size", size,
                      "--ops", ops, side="read")
    for depth in (1, 16):
        row = f"fio/write/direct/{depth}"
        if visit.wants(row):
            target.settle()
            visit.fio(row, "rand-write", "--io", "direct", "--depth", depth, "--size", size,
                      "--ops", ops)
    if visit.wants("fio/write/buffered"):
        target.settle()
        visit.fio("fio/write/buffered", "rand-write", "--size", size, "--ops", ops)
    if visit.wants("fio/write/fsync"):
        target.settle()
        visit.fio("fio/write/fsync", "rand-write", "--size", size, "--ops",
                  visit.sizes["fio_fsync_ops"], "--fsync", 1)
    shutil.rmtree(target.path / "fio", ignore_errors=True)


def fio_disk(visit):
    """On a file larger than the daemon's memory, and after a remount."""
    target, size, ops = visit.target, visit.sizes["fio_large"], visit.sizes["fio_disk_ops"]
    if not target.keeps_data:
        return
    for kind, compressible in (("half", 50), ("random", 0)):
        rows = [f"fio/seq-write/{kind}", f"fio/seq-read/{kind}"]
        if kind == "random":
            rows += ["fio/read/disk/1", "fio/read/disk/16"]
        if not visit.wants(*rows):
            continue
        target.settle()
        with visit.device_bytes(rows[0], bytes_of(size)):
            visit.fio(rows[0], "seq-write", "--io", "direct", "--size", size, "--compressible",
                      compressible, rate="mib_per_s")
        if visit.wants(rows[1]):
            visit.fio(rows[1], "seq-read", "--io", "direct", "--size", size, side="read",
                      rate="mib_per_s")
        if kind == "random":
            for depth in (1, 16):
                if visit.wants(f"fio/read/disk/{depth}"):
                    target.remount()
                    visit.fio(f"fio/read/disk/{depth}", "rand-read", "--io", "direct", "--depth",
                              depth, "--size", size, "--ops", ops, side="read")
        shutil.rmtree(target.path / "fio", ignore_errors=True)


def fio_limited(visit):
    """On a file of several times all memory."""
    target, sizes = visit.target, visit.sizes
    direct = ["--io", "direct", "--size", sizes["fio_large"]]
    target.settle()
    visit.fio("fio/seq-write/random", "seq-write", *direct, rate="mib_per_s")
    visit.fio("fio/seq-read/random", "seq-read", *direct, side="read", rate="mib_per_s")
    for depth in (1, 16):
        if visit.wants(f"fio/read/disk/{depth}"):
            target.remount()
            visit.fio(f"fio/read/disk/{depth}", "rand-read", *direct, "--depth", depth, "--ops",
                      sizes["fio_disk_ops"], side="read")
    for row, options in (
            ("fio/write/direct/1", [*direct, "--depth", 1, "--ops", sizes["fio_ops"]]),
            ("fio/write/direct/16", [*direct, "--depth", 16, "--ops", sizes["fio_ops"]]),
            ("fio/write/buffered", ["--size", sizes["fio_large"], "--ops", sizes["fio_ops"]]),
            ("fio/write/fsync", ["--size", sizes["fio_large"], "--ops", sizes["fio_fsync_ops"],
                                 "--fsync", 1])):
        if visit.wants(row):
            target.settle()
            visit.fio(row, "rand-write", *options)
    shutil.rmtree(target.path / "fio", ignore_errors=True)


def limited(function):
    """A work whose data is that of the limited sizes, and whose rows say so."""
    def work(visit):
        data = bytes_of(visit.sizes["limited_data"])
        sizes = {**visit.sizes, "files": data // 4096, "fio_large": visit.sizes["limited_data"]}
        function(Visit(visit.target, sizes, visit.material, visit.tools,
                       {row.removeprefix(goals.LIMITED) for row in visit.wanted},
                       lambda row, figures: visit.record(goals.LIMITED + row, figures), visit.fail))
    return work


def small_file_rows(label):
    return [f"create/{label}/1", f"create/{label}/4", f"stat/cold/{label}", f"list/cold/{label}",
            f"list/remounted/{label}", f"ls/cold/{label}", f"ls/remounted/{label}",
            f"read/cold/{label}", f"read/remounted/{label}",
            f"stat/warm/{label}", f"read/warm/{label}", f"list/warm/{label}", f"rename/{label}",
            f"unlink/{label}"]


SIZE_LABELS = {"4k": 4096, "200": 200}

# name -> (rows, function of a visit)
WORKS = {}
for _label, _size in SIZE_LABELS.items():
    WORKS[f"files of {_size}"] = (
        small_file_rows(_label),
        lambda visit, label=_label, size=_size: small_files(visit, label, size))
    WORKS[f"durable files of {_size}"] = (
        [f"fsync/{_label}/1", f"fsync/{_label}/4"],
        lambda visit, label=_label, size=_size: small_files_fsync(visit, label, size))
WORKS["source tree"] = (["untar", "tar/cold", "rm-r"], source_tree)
WORKS["git"] = (["git/clone", "git/status/cold"], git)
WORKS["SQLite"] = (["sqlite/delete", "sqlite/wal"], sqlite)
WORKS["large file, cached"] = (
    ["fio/read/cached/1", "fio/read/cached/16", "fio/write/direct/1", "fio/write/direct/16",
     "fio/write/buffered", "fio/write/fsync"], fio_cached)
WORKS["large file, from disk"] = (
    ["fio/seq-write/random", "fio/seq-write/half", "fio/seq-read/random", "fio/seq-read/half",
     "fio/read/disk/1", "fio/read/disk/16"], fio_disk)


# The same with four times as much data as all memory, in a control group (lib/memory_group.py).
LIMITED_WORKS = {
    "files of 4096, 4 x memory": (
        [goals.LIMITED + row for row in goals.limited_rows() if not row.startswith("fio/")],
        limited(lambda visit: small_files(visit, "4k", 4096))),
    "large file, 4 x memory": (
        [goals.LIMITED + row for row in goals.limited_rows() if row.startswith("fio/")],
        limited(fio_limited)),
}


# ---- the store without a kernel -------------------------------------------------------------

STORE_PHASES = {"fill-seq": "put in order", "get": "get at random", "scan": "scan",
                "mixed": "4 gets, 1 put", "fill-random": "put at random"}


def store(visit):
    """The programs of the target are those of a build, and so is its store."""
    image = visit.target.scratch / "store"
    wanted = [name for name in STORE_PHASES if visit.wants(f"store/{name}")]
    # What reads reads what was put in order.
    phases = wanted if wanted == ["fill-random"] else ["fill-seq", *wanted]
    try:
        result = json.loads(run([visit.target.bin_dir / "bench-kv", "--image", image, "--keys",
                                 visit.sizes["keys"], "--batch", 100, "--phases",
                                 ",".join(dict.fromkeys(phases))]))
    finally:
        image.unlink(missing_ok=True)
    for name in wanted:
        phase = result["phases"][name]
        visit.add(f"store/{name}", phase["ops_per_s"],
                  {"p50_us": phase["p50_ns"] / 1000, "p99_us": phase["p99_ns"] / 1000},
                  phase["checksum"])


STORE_WORKS = {"the store by itself": ([f"store/{name}" for name in STORE_PHASES], store)}


def raw_flushes(directory, tools, ops):
    """How often a second 4 KiB become durable in a file of the host's file system, one after another:
    at its end, and then again where blocks of the file are already. (append, in place)"""
    work = pathlib.Path(directory) / "raw"
    work.mkdir()
    try:
        results = [json.loads(run([tools["run-fio"], "flush", work, "--name", "fio", "--size",
                                   f"{4 * ops}K"])) for _ in range(2)]
    finally:
        shutil.rmtree(work)
    return [ops * 1000 / max(1, result["runtime_ms"]) for result in results]


class Material:
    """What works need to begin with: made at the first use, the same for all."""

    def __init__(self, scratch, files, seed):
        self.scratch, self.tree_files, self.seed = scratch, files, seed
        self.tree_bytes = 0
        self.tar_path = scratch / "tree.tar"
        self.repository_path = scratch / "repository"

    def tar(self):
        if not self.tar_path.exists():
            from lib import tree
            self.tree_bytes = tree.make_tar(self.tar_path, self.tree_files, self.seed)
        return self.tar_path

    def repository(self):
        if not self.repository_path.exists():
            run(["tar", "-xf", self.tar(), "-C", self.scratch])
            (self.scratch / "tree").rename(self.repository_path)
            git_words = ["git", "-C", self.repository_path, "-c", "user.name=bench",
                         "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]
            run([*git_words, "init", "-q"])
            run([*git_words, "add", "-A"])
            run([*git_words, "commit", "-q", "-m", "all of it"])
            run([*git_words, "repack", "-a", "-d", "-q"])
        return self.repository_path
