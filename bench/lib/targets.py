"""The file systems that are compared: how each is made, mounted, unmounted.

Every daemon runs in the foreground as a child of ours, with its own defaults, so its process is
known and nothing outlives us. A target that is not installed says so in `missing`.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time

from lib import ending, machine
from lib.machine import Failed, run

AGED_FILES = 30000


def is_mounted(path):
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        return any(line.split()[4] == str(path) for line in mounts)


class Target:
    """A directory to work in. Between mount and umount, `path` is there, and `pid` if a daemon is."""
    kind = "peer"  # or kvfs, floor, ext4
    package = None
    keeps_data = True  # over a remount
    pid = None

    def __init__(self, name, note):
        self.name, self.note, self.missing, self.path = name, note, None, None

    def prepare(self, scratch):
        """Once, before all rounds."""
        raise NotImplementedError

    def mount(self):
        raise NotImplementedError

    def umount(self):
        raise NotImplementedError

    def remount(self):
        """Everything is on the device, and no cache holds any of it."""
        self.umount()
        machine.drop_caches()
        self.mount()

    def settle(self):
        """What went before is written, and the daemon has nothing left to do."""
        os.sync()
        if self.pid:
            machine.await_quiet(self.pid)

    def drop_kernel_caches(self):
        machine.drop_caches()
        if self.pid:
            machine.await_quiet(self.pid)

    def requests(self):
        """How many requests of each kind the daemon has seen, if it tells."""
        return None


class Ext4(Target):
    """A directory on the host's own file system; with age, many files lived and died in it before."""
    kind = "ext4"

    def __init__(self, name, note, smallfiles=None):
        super().__init__(name, note)
        self.smallfiles = smallfiles
        self.visits = 0

    def prepare(self, scratch):
        self.scratch = scratch / self.name
        self.scratch.mkdir()

    def mount(self):
        self.visits += 1
        self.path = self.scratch / f"{self.visits}"
        self.path.mkdir()
        if self.smallfiles:
            run([self.smallfiles, "--dir", self.path, "--files", AGED_FILES, "--size", 4096,
                 "--phases", "create,unlink"])

    def umount(self):
        if self.path:
            shutil.rmtree(self.path)
            self.path = None

    def remount(self):
        machine.drop_caches()  # the host's own file system can not be unmounted


class Daemon(Target):
    """A FUSE file system: a command that stays in the foreground and serves at self.path."""

    def __init__(self, name, note, program, command, make=None, kind="peer", package=None,
                 keeps_data=True, directories=()):
        super().__init__(name, note)
        self.kind, self.package, self.keeps_data = kind, package, keeps_data
        self.command, self.make, self.directories = command, make, directories
        self.process = None
        if not shutil.which(str(program)):
            self.missing = f"{program} is not installed"

    def words(self, command):
        places = {"mnt": self.mnt, "image": self.scratch / "image", "at": self.scratch}
        return [str(word).format(**places) for word in command]

    def prepare(self, scratch):
        self.scratch = scratch / self.name
        self.mnt = self.scratch / "mnt"
        self.mnt.mkdir(parents=True)
        for name in self.directories:
            (self.scratch / name).mkdir()
        for command in self.make or ():
            run(self.words(command))

    def mount(self):
        log = self.scratch / "log"
        with open(log, "ab") as out:
            with ending.held():
                self.process = subprocess.Popen(self.words(self.command), stdin=subprocess.DEVNULL,
                                                stdout=out, stderr=out, start_new_session=True)
                self.pid = self.process.pid
        end = time.monotonic() + 30
        while not is_mounted(self.mnt):
            if self.process.poll() is not None or time.monotonic() > end:
                words = log.read_text(errors="replace").strip().splitlines()[-2:]
                self.abandon()
                raise Failed(f"{self.name} could not be mounted: " + "; ".join(words))
            time.sleep(0.01)
        os.statvfs(self.mnt)  # answered by the daemon: it serves
        self.path = self.mnt

    def abandon(self):
        """The end of a daemon that does not end by itself."""
        if is_mounted(self.mnt):
            subprocess.run(["umount", "-l", str(self.mnt)], check=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = self.pid = self.path = None

    def umount(self):
        if not self.process:
            return
        os.sync()
        try:
            for attempt in range(50):
                if subprocess.run(["umount", str(self.mnt)], check=False,
                                  stderr=subprocess.DEVNULL).returncode == 0:
                    break
                if attempt == 49:
                    raise Failed(f"{self.name} can not be unmounted: it is busy")
                time.sleep(0.02)
            try:
                self.process.wait(machine.STEP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                raise Failed(f"{self.name}: its daemon does not end") from None
        except BaseException:
            self.abandon()
            raise
        self.process = self.pid = self.path = None

    def requests(self):
        if self.kind not in ("kvfs", "floor"):
            return None
        import json
        return json.loads(os.getxattr(self.mnt, "system.kvfs.stats"))["requests"]


class FloorOnDisk(Daemon):
    """Its names live as long as its mount, its contents are past every cache: nothing to mount anew."""

    def remount(self):
        self.settle()
        machine.drop_caches()


def kvfs_target(name, note, bin_dir, image_size, options):
    """kvfs as those programs are, mounted with those options of mount.kvfs."""
    return Daemon(name, note, bin_dir / "mount.kvfs",
                  [bin_dir / "mount.kvfs", "-f",
                   *(str(word).replace("{", "{{").replace("}", "}}") for word in options),
                   "{image}", "{mnt}"],
                  make=[[bin_dir / "mkfs.kvfs", "-q", "-s", image_size, "{image}"]], kind="kvfs")


def all_targets(bin_dir, sizes):
    """Every target, in the order of the table."""
    bin_dir = pathlib.Path(bin_dir)
    smallfiles = bin_dir / "bench-smallfiles"
    image_size = sizes["image"]

    def kvfs(name, transport, *others):
        words = ",".join([f"transport={transport}", *others])
        return kvfs_target(name, f"kvfs with its defaults, {words}", bin_dir, image_size, ["-o", words])

    def floor(name, transport):
        return Daemon(
            name, f"FUSE with an engine that costs nothing: memory only, transport={transport}",
            bin_dir / "bench-floor",
            [bin_dir / "bench-floor", "--memory", sizes["floor_memory"],
             "-o", f"transport={transport}", "{mnt}"],
            kind="floor", keeps_data=False)

    def floor_disk(name, transport):
        return FloorOnDisk(
            name, f"the same with contents in plain files on the disk, transport={transport}",
            bin_dir / "bench-floor",
            [bin_dir / "bench-floor", "--memory", sizes["floor_memory"], "--contents", "{at}",
             "-o", f"transport={transport}", "{mnt}"], kind="floor")

    def peer(name, note, *command, make=None, directories=()):
        return Daemon(name, note, command[0], command, make=make, package=name,
                      directories=directories)

    return [
        kvfs("kvfs", "ring"),
        kvfs("kvfs-dev", "dev"),
        kvfs("kvfs-noacl", "ring", "acl=no"),
        floor("floor", "ring"),
        floor("floor-dev", "dev"),
        floor_disk("floor-disk", "ring"),
        floor_disk("floor-disk-dev", "dev"),
        Ext4("ext4-fresh", "the host's file system, a new directory for each work"),
        Ext4("ext4-aged", "the same, after %d files were created and deleted in it" % AGED_FILES,
             smallfiles),
        peer("fuse2fs", "ext4 in an image", "fuse2fs", "-f", "{image}", "{mnt}",
             make=[["truncate", "-s", image_size, "{image}"],
                   ["mkfs.ext4", "-q", "-F", "{image}"]]),
        peer("ntfs-3g", "NTFS in an image", "ntfs-3g", "-o", "no_detach", "{image}", "{mnt}",
             make=[["truncate", "-s", image_size, "{image}"],
                   ["mkntfs", "-q", "-Q", "-F", "-s", "512", "-p", "0", "-H", "255", "-S", "63",
                    "{image}"]]),
        peer("bindfs", "another directory of the host's file system", "bindfs", "-f",
             "{at}/below", "{mnt}", directories=["below"]),
        peer("gocryptfs", "another directory of the host's file system, encrypted", "gocryptfs",
             "-fg", "-q", "-passfile", "{at}/password", "{at}/below", "{mnt}",
             directories=["below"],
             make=[["sh", "-c", "echo kvfs > {at}/password"],
                   ["gocryptfs", "-init", "-q", "-scryptn", "10", "-passfile", "{at}/password",
                    "{at}/below"]]),
        peer("mergerfs", "two other directories of the host's file system as one", "mergerfs",
             "-f", "{at}/below:{at}/beside", "{mnt}", directories=["below", "beside"]),
    ]
