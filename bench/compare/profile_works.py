"""What each profile of mount.kvfs is named after, as a work, and the figures that it is judged by.

A work prepares (unmeasured), runs (measured), and returns a checksum of what it saw; a Visit is one
work on one new image, mounted with the defaults or with the profile. Costs are figures of which less
is better, so a profile helps when its ratio to the default is below one.
"""

import concurrent.futures
import hashlib
import json
import mmap
import os
import random
import shutil
import threading
import time

from compare import machine
from compare.machine import run

KIB, MIB = 1 << 10, 1 << 20


class Visit:
    """One work with one set of options: a daemon, a directory, and what it cost."""

    def __init__(self, daemon, sizes, material, tools, seed):
        self.daemon, self.sizes, self.material, self.tools = daemon, sizes, material, tools
        self.seed, self.figures, self.peak_rss = seed, {}, 0

    @property
    def path(self):
        return self.daemon.path

    def rng(self, *what):
        return random.Random(f"{self.seed} {what}")

    def store(self):
        """Figures of the daemon, and its requests."""
        stats = json.loads(os.getxattr(self.path, "system.kvfs.stats"))
        return {**stats["store"], "requests": sum(stats["requests"].values())}

    def note_memory(self):
        with open(f"/proc/{self.daemon.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    self.peak_rss = max(self.peak_rss, int(line.split()[1]) * KIB)

    def checkpoint(self):
        os.setxattr(self.path, "system.kvfs.sync", b"1")

    def remount(self):
        self.note_memory()
        self.daemon.remount()

    def measure(self, work):
        """Time and CPU are those of the work; what goes to the device counts until all of it is in
        its place."""
        before, cpu, begun = self.store(), machine.cpu_ns(self.daemon.pid), time.monotonic()
        checksum = work(self)
        seconds = time.monotonic() - begun
        self.checkpoint()
        after = self.store()
        self.note_memory()
        for name in ("device_reads", "device_read_bytes", "device_writes", "device_write_bytes",
                     "device_flushes", "checkpoints", "requests"):
            self.figures[name] = after[name] - before[name]
        self.figures["seconds"] = seconds
        self.figures["cpu_seconds"] = (machine.cpu_ns(self.daemon.pid) - cpu) / 1e9
        self.figures["peak_rss"] = self.peak_rss
        return checksum


# ---- material ----------------------------------------------------------------------------


class Direct:
    """A file open with O_DIRECT, and a buffer that may be used for it; each thread its own."""

    def __init__(self, path, flags, size):
        self.fd = os.open(path, flags | os.O_DIRECT)
        self.buffer = mmap.mmap(-1, size)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)
        self.buffer.close()

    def read(self, offset):
        if os.preadv(self.fd, [self.buffer], offset) != len(self.buffer):
            raise machine.Failed(f"short read at {offset}")
        return self.buffer

    def write(self, offset, content):
        self.buffer[:] = content
        if os.pwritev(self.fd, [self.buffer], offset) != len(self.buffer):
            raise machine.Failed(f"short write at {offset}")


def blocks_of(rng, count, size):
    """Contents to be written, half of each compressible."""
    return [rng.randbytes(size // 2) + bytes([rng.randrange(256)]) * (size // 2)
            for _ in range(count)]


def make_large(visit, name="large"):
    pool = blocks_of(visit.rng("large"), 16, MIB)
    with open(visit.path / name, "wb", buffering=0) as file:
        for number in range(visit.sizes["large_mib"]):
            file.write(pool[number % 16])
        os.fsync(file.fileno())


def in_threads(count, function):
    """function(number) in so many threads; their results in order."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, range(count)))


def digest_of(parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


# ---- inside large files ----------------------------------------------------------------------


def random_io(visit, label, operations, threads, read_of_ten=10, size=4 * KIB, fsync_every=0):
    """Reads and writes at random places of the file `large`, past the kernel's cache."""
    places = visit.sizes["large_mib"] * MIB // size
    contents = blocks_of(visit.rng("contents"), 8, size)
    # Each thread writes to places of its own, so that equal work leaves equal files.
    def one(number):
        rng = visit.rng(label, number)
        seen = hashlib.sha256()
        with Direct(visit.path / "large", os.O_RDWR, size) as file:
            for step in range(operations // threads):
                if rng.randrange(10) < read_of_ten:
                    file.read(rng.randrange(places) * size)
                else:
                    place = rng.randrange(places // threads) * threads + number
                    file.write(place * size, contents[step % 8])
                    seen.update(place.to_bytes(8, "big"))
                if fsync_every and step % fsync_every == fsync_every - 1:
                    os.fsync(file.fd)
        return seen.hexdigest()
    return digest_of(in_threads(threads, one))


def digest_file(path):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(MIB):
            digest.update(piece)
    return digest.hexdigest()[:16]


def prepare_random(visit, **options):
    make_large(visit)
    visit.remount()
    random_io(visit, "warm", visit.sizes["random_ops"], 4, **options)


def mixed(visit):
    return random_io(visit, "work", visit.sizes["random_ops"], 4, read_of_ten=7)


def random_reads(visit):
    return random_io(visit, "work", visit.sizes["random_ops"], 4)


def prepare_transactions(visit):
    prepare_random(visit, size=8 * KIB)


def transactions(visit):
    """16 clients; each commits after five reads and two or three writes of 8 KiB."""
    return random_io(visit, "work", visit.sizes["random_ops"] // 2, 16, read_of_ten=7,
                     size=8 * KIB, fsync_every=8)


def prepare_cold_large(visit):
    make_large(visit)
    visit.remount()


def read_in_order(visit):
    return digest_file(visit.path / "large")


# ---- many files ---------------------------------------------------------------------------------


SMALL_BYTES = 8000  # packed, so that pages hold them


def smallfiles(visit, phases, *options):
    files = visit.sizes["files"]
    result = json.loads(run([
        visit.tools["smallfiles"], "--dir", visit.path, "--name", "small", "--files", files,
        "--size", SMALL_BYTES, "--dirs", max(1, files // 500), "--keep", "--phases", phases, *options]))
    return digest_of([phase.get("checksum") for phase in result["phases"].values()])


def prepare_small_reads(visit):
    """What was read before is in the daemon's memory as far as that goes, and not in the kernel's."""
    smallfiles(visit, "create")
    visit.remount()
    smallfiles(visit, "read", "--shuffled")
    visit.daemon.drop_kernel_caches()


def small_reads(visit):
    return smallfiles(visit, "read", "--shuffled")


def small_writes(visit):
    """Records of 100 to 300 bytes into 64 files by turns, each then made durable; then small files
    are replaced at random."""
    rng, pool = visit.rng("records"), blocks_of(visit.rng("pool"), 1, 64 * KIB)[0]
    files = [open(visit.path / f"log{n}", "wb", buffering=0) for n in range(64)]
    for step in range(visit.sizes["small_writes"]):
        start = rng.randrange(60000)
        files[step % 64].write(pool[start:start + rng.randrange(100, 300)])
    for file in files:
        os.fsync(file.fileno())
        file.close()
    count = visit.sizes["files"]
    for _ in range(visit.sizes["small_writes"] // 4):
        number = rng.randrange(count)
        start = rng.randrange(60000)
        path = visit.path / "again" / f"{number % 100}"
        path.mkdir(parents=True, exist_ok=True)
        (path / f"{number}").write_bytes(pool[start:start + rng.randrange(1000, 5000)])
    return digest_of([digest_file(visit.path / f"log{n}") for n in range(64)])


def cached_objects(visit):
    """Objects are written beside their place, renamed into it, some removed: a cache of a compiler."""
    rng, pool = visit.rng("objects"), blocks_of(visit.rng("pool"), 1, 256 * KIB)[0]
    names = visit.sizes["files"] // 10
    for step in range(visit.sizes["objects"]):
        name = visit.path / f"{rng.randrange(names):05x}"
        if rng.randrange(8) == 0:
            name.unlink(missing_ok=True)
            continue
        start = rng.randrange(64 * KIB)
        temporary = visit.path / f"tmp{step % 4}"
        with open(temporary, "wb", buffering=0) as file:
            file.write(pool[start:start + rng.randrange(200, 20000)])
        temporary.rename(name)
    return digest_of(sorted(os.listdir(visit.path)))


def all_of_a_kind(visit):
    """Files made and read, a large one written and read: what memory a daemon comes to."""
    smallfiles(visit, "create,stat,list,read")
    make_large(visit)
    return digest_file(visit.path / "large")


def edited_tree(visit):
    """A source tree as below, after some files of another were saved as an editor does: with an
    fsync each."""
    pool = blocks_of(visit.rng("saved"), 1, 64 * KIB)[0]
    for number in range(visit.sizes["saves"]):
        with open(visit.path / "saved~", "wb", buffering=0) as file:
            file.write(pool[number * 10:number * 10 + 9000])
            os.fsync(file.fileno())
        (visit.path / "saved~").rename(visit.path / f"saved{number % 7}")
    return source_tree(visit)


def tree_for_a_while(visit):
    """A source tree as below that is there for some time before it is removed."""
    return source_tree(visit, visit.sizes["paced_seconds"])


def source_tree(visit, pause_seconds=0):
    """Unpacked, asked of its state, searched, built (an object beside each source), removed."""
    run(["tar", "-xf", visit.material.tar(), "-C", visit.path])
    tree = visit.path / "tree"
    run(["git", "-C", tree, "init", "-q"])
    run(["git", "-C", tree, "-c", "gc.auto=0", "add", "-A"])
    run(["git", "-C", tree, "status", "--porcelain"])
    sources = sorted(tree.rglob("*.c"))
    for number, source in enumerate(sources):
        text = source.read_bytes()
        with open(source.with_suffix(".o"), "wb") as out:  # in pieces of 1 KiB, as of a linker
            for at in range(0, len(text), KIB):
                out.write(text[at:at + KIB])
                if number % 4 == 0:
                    out.flush()
    found = run(["grep", "-rlc", "v123", "--include=*.c", "."], cwd=tree).count("\n")
    time.sleep(pause_seconds)
    for built in tree.rglob("*.o"):
        built.unlink()
    shutil.rmtree(tree)
    return digest_of([len(sources), found])


# ---- little at a time ------------------------------------------------------------------------


def paced(visit, per_second, step):
    """step(number) so many times a second, for the time that works of this kind have."""
    begun = time.monotonic()
    for number in range(int(per_second * visit.sizes["paced_seconds"])):
        step(number)
        ahead = begun + (number + 1) / per_second - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)


def prepare_trickle(visit):
    rng = visit.rng("trickle")
    for number in range(visit.sizes["trickle_files"]):
        path = visit.path / f"d{number % 50}"
        path.mkdir(exist_ok=True)
        (path / f"f{number}").write_bytes(rng.randbytes(rng.randrange(100, 6000)))
    visit.remount()


def trickle(visit):
    """Twenty changes a second among some thousand files: contents replaced, times set."""
    rng, count = visit.rng("changes"), visit.sizes["trickle_files"]

    def step(_):
        number = rng.randrange(count // 20) * 20  # some change often, most never
        path = visit.path / f"d{number % 50}" / f"f{number}"
        if rng.randrange(2):
            os.utime(path, (1_700_000_000, 1_700_000_000 + rng.randrange(1000)))
        else:
            path.write_bytes(rng.randbytes(300))
    paced(visit, 20, step)
    return digest_of([rng.random()])


def series(visit):
    """Records of 60 bytes come at the ends of 100 files, a hundred of them a second in all;
    at the end all is read in order."""
    rng, count = visit.rng("series"), visit.sizes["series"]
    fds = [os.open(visit.path / f"series{n}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
           for n in range(count)]

    def step(number):
        for _ in range(5):
            os.write(fds[rng.randrange(count)], b"%019d %039.9f\n" % (number, rng.random()))
    paced(visit, 20, step)
    for fd in fds:
        os.close(fd)
    return digest_of([digest_file(visit.path / f"series{n}") for n in range(count)])


# ---- what a crash takes -------------------------------------------------------------------------


def lost_by_a_crash(visit):
    """The daemon is killed while files are made one after another. From the first one that is gone
    afterwards to the kill: so long ago is what a crash takes."""
    rng, lost = visit.rng("kills"), []
    for kill in range(visit.sizes["kills"]):
        directory = visit.path / f"kill{kill}"
        directory.mkdir()
        visit.checkpoint()
        made = []

        def write(directory=directory, made=made):
            try:
                while True:
                    os.close(os.open(directory / f"{len(made):06}", os.O_CREAT | os.O_EXCL))
                    made.append(time.monotonic())
                    time.sleep(0.002)
            except OSError:
                pass  # the daemon is gone
        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(1 + rng.random() * 1.5)
        visit.note_memory()
        visit.daemon.process.kill()
        killed = time.monotonic()
        visit.daemon.process.wait()
        writer.join()
        visit.daemon.abandon()
        visit.daemon.mount()
        left = sorted(os.listdir(visit.path / f"kill{kill}"))
        if left != [f"{number:06}" for number in range(len(left))]:
            raise machine.Failed("what a crash left is no prefix of what was done")
        lost.append(max(0.0, killed - made[len(left)]) * 1000 if len(left) < len(made) else 0.0)
    visit.figures["lost_ms"] = sum(lost) / len(lost)
    visit.figures["lost_ms_most"] = max(lost)
    return digest_of([len(lost)])


# ---- which work and which figures ------------------------------------------------------------------


class Work:
    """judged: figures of which at least one must be so far below the default's, median and worst
    round; told: others that are printed beside them."""

    def __init__(self, about, run_it, judged, prepare=None, told=(), measured=True, together=False):
        self.about, self.run_it, self.prepare, self.judged = about, run_it, prepare, judged
        self.told, self.measured, self.together = told, measured, together


HELPS = 0.9  # the median ratio of a judged figure; and no round above one

WORKS = {
    "read-heavy": Work("files of 8,000 bytes read in shuffled order, more than 256 MiB of them, kernel "
                       "cold",
                       small_reads, ["device_read_bytes"], prepare_small_reads,
                       ["cpu_seconds", "seconds"]),
    "write-heavy": Work("records of 100 to 300 bytes into 64 files by turns, then fsync; small files "
                        "replaced", small_writes, ["cpu_seconds"], None,
                        ["requests", "device_write_bytes", "seconds"]),
    "mixed": Work("4 KiB at random places of a large file, 7 of 10 are reads, O_DIRECT", mixed,
                  ["device_read_bytes"], prepare_random,
                  ["device_write_bytes", "cpu_seconds", "seconds"]),
    "oltp": Work("16 clients: 5 reads, 3 writes of 8 KiB, fsync, by turns; O_DIRECT", transactions,
                 ["device_read_bytes"], prepare_transactions,
                 ["device_flushes", "cpu_seconds", "seconds"]),
    "olap": Work("a large file read in order, all cold", read_in_order, ["requests"],
                 prepare_cold_large, ["cpu_seconds", "seconds"]),
    "time-series": Work("100 records of 60 bytes a second at the ends of 100 files", series,
                        ["device_write_bytes"], None, ["cpu_seconds", "requests", "device_flushes"],
                        together=True),
    "cache": Work("objects of up to 20 KB written, renamed into place, replaced, removed",
                  cached_objects, ["device_write_bytes"], None, ["cpu_seconds", "seconds"]),
    "ssd": Work("20 small changes a second among some thousand files", trickle,
                ["device_write_bytes"], prepare_trickle, ["device_writes", "device_flushes"],
                together=True),
    "hdd": Work("20 small changes a second among some thousand files", trickle,
                ["device_writes"], prepare_trickle, ["device_flushes", "device_write_bytes"],
                together=True),
    "low-memory": Work("many small files and a large one, written and read", all_of_a_kind,
                       ["peak_rss"], None, ["cpu_seconds", "device_read_bytes", "seconds"]),
    "high-memory": Work("4 KiB at random places of a large file, O_DIRECT", random_reads,
                        ["device_read_bytes"], prepare_random, ["cpu_seconds", "seconds"]),
    "dev": Work("files saved with fsync, a source tree: unpacked, git add, built, searched, removed",
                edited_tree, ["device_write_bytes"], None, ["cpu_seconds", "requests", "seconds"]),
    "prod": Work("the daemon killed while files are made", lost_by_a_crash, ["lost_ms"], None,
                 ["lost_ms_most"], measured=False, together=True),
    "ci": Work("a source tree: unpacked, git add, built, searched, removed after a minute",
               tree_for_a_while, ["device_write_bytes"], None, ["device_writes", "cpu_seconds"],
               together=True),
}


def visit_once(work, visit):
    """The whole of a visit on a mounted daemon."""
    if work.prepare:
        work.prepare(visit)
        visit.daemon.settle()
    checksum = visit.measure(work.run_it) if work.measured else work.run_it(visit)
    visit.figures["peak_rss"] = visit.peak_rss
    return checksum
