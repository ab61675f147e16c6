"""The machine: what it is, its caches, what its processes and disk have done, and commands on it."""

import contextlib
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import time

from lib import ending

RING_SWITCH = pathlib.Path("/sys/module/fuse/parameters/enable_uring")
STEP_SECONDS_MAX = 1800


class Failed(Exception):
    """A command or a mount did not do what it was to do; the text says which."""


@contextlib.contextmanager
def started(command, **options):
    """A process with a session of its own, which does not outlive what goes wrong meanwhile."""
    process = None
    try:
        with ending.held():
            process = subprocess.Popen([str(word) for word in command], start_new_session=True,
                                       **{"stdin": subprocess.DEVNULL, **options})
        yield process
    except BaseException:
        if process:
            with contextlib.suppress(ProcessLookupError):  # it may just have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        raise


def run(command, timeout=STEP_SECONDS_MAX, **options):
    """Run a command; return what it printed. Failed with its own words when it fails."""
    try:
        with started(command, **{"stdout": subprocess.PIPE, **options}, stderr=subprocess.PIPE,
                     text=True) as process:
            out, words = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]}: not done after {timeout} s") from None
    if process.returncode != 0:
        first = words.strip().splitlines()[:3] or [f"status {process.returncode}"]
        raise Failed(f"{pathlib.Path(command[0]).name}: " + "; ".join(first))
    return out


# ---- caches ---------------------------------------------------------------------


def drop_caches():
    """Pages, names and inodes of the kernel, for every file system; dirty ones are written first."""
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")


def cpu_ns(pid):
    """CPU that a process has used, with the threads of it that have ended."""
    return time.clock_gettime_ns((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it


def await_quiet(pid, seconds=3.0):
    """Until a process has nothing to do any more, such as the forgets that follow drop_caches."""
    end = time.monotonic() + seconds
    quiet, before = 0, cpu_ns(pid)
    while quiet < 2 and time.monotonic() < end:
        time.sleep(0.015)
        now = cpu_ns(pid)
        quiet = quiet + 1 if now - before < 500_000 else 0
        before = now


def device_written(directory):
    """Bytes written to the device below a directory, by whomever; None: it has no such device."""
    number = os.stat(directory).st_dev
    try:
        stat = pathlib.Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text()
    except OSError:
        return None
    return int(stat.split()[6]) * 512


@contextlib.contextmanager
def ring_switched_on():
    """FUSE over io_uring, switched back at the end. Gives the reason why it is not there, or None."""
    try:
        before = RING_SWITCH.read_text().strip()
    except OSError:
        yield "the kernel has no FUSE over io_uring (Linux 6.14)"
        return
    if before == "N":
        try:
            RING_SWITCH.write_text("Y\n")
        except OSError as reason:
            yield f"{RING_SWITCH}: {reason.strerror}"
            return
    try:
        yield None
    finally:
        if before == "N":
            RING_SWITCH.write_text("N\n")


# ---- what it is -----------------------------------------------------------------


def first_line(command):
    """What a program says first about its version; None: it is not there."""
    if not shutil.which(command[0]):
        return None
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, check=False)
    lines = result.stdout.strip().splitlines()
    return lines[0] if lines else None


def tool_versions():
    """Of the programs that works are made of."""
    return {name: first_line([name, option]) for name, option in
            (("fio", "--version"), ("git", "--version"), ("tar", "--version"),
             ("sqlite3", "--version"), ("python3", "--version"))}


def package_version(name):
    """Of a Debian package; None: not installed, or no Debian."""
    if not shutil.which("dpkg-query"):
        return None
    result = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", name], text=True, check=False,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return result.stdout.strip() or None


def commit(tree):
    """The commit a source tree is at, with a mark when files differ from it."""
    def git(*words):
        result = subprocess.run(["git", "-C", str(tree), *words], text=True, check=False,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return result.stdout.strip()
    name = git("rev-parse", "HEAD")
    return name + ("+changes" if git("status", "--porcelain", "-uno") else "") if name else None


def mount_of(directory):
    """The file system that a directory is on: device, type and options; in a chroot its type."""
    try:
        text = run(["findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", "--target", directory])
    except Failed:
        text = run(["stat", "-f", "-c", "%T", directory])
    return " ".join(text.split())


def describe(directory):
    """The machine in a few words, for the results."""
    cpu = next((line.split(":", 1)[1].strip()
                for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "system": next((line.split("=", 1)[1].strip('"')
                        for line in pathlib.Path("/etc/os-release").read_text().splitlines()
                        if line.startswith("PRETTY_NAME=")), platform.system()),
        "host_file_system": mount_of(directory),
        "load_before": os.getloadavg()[0],
    }
