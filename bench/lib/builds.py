"""Builds of a commit, and of the tree as it is."""

import os
import pathlib
import shutil
import subprocess

from lib import machine
from lib.machine import Failed, run

# What older commits may not have is left out.
NEEDED = ("mount.kvfs", "mkfs.kvfs")
WANTED = ("bench-kv", "bench-smallfiles")


def git(tree, *words):
    if not shutil.which("git"):
        raise Failed("git is not installed")
    result = subprocess.run(["git", "-C", str(tree), *words], text=True, check=False,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)
    if result.returncode != 0:
        words = result.stderr.strip().splitlines() or [f"status {result.returncode}"]
        raise Failed(f"git: {words[0]}")
    return result.stdout.strip()


def full_name(tree, commit):
    """The whole name of a commit, however it was named."""
    git(tree, "rev-parse", "--git-dir")
    try:
        return git(tree, "rev-parse", "--verify", "--quiet", "--end-of-options",
                   f"{commit}^{{commit}}")
    except Failed:
        raise Failed(f"{commit}: there is no such commit") from None


def check_out(tree, commit, to):
    """The files of a commit; the repository and its work trees stay as they are."""
    to.mkdir(parents=True)
    archive = to.with_suffix(".tar")
    git(tree, "archive", "-o", str(archive), commit)
    try:
        run(["tar", "-xf", archive, "-C", to])
    finally:
        archive.unlink()


def build(source, to, jobs):
    """Build what is needed of a source tree, as users build it. Returns where the programs are."""
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    log = to.with_suffix(".log")
    to.parent.mkdir(parents=True, exist_ok=True)

    def step(*words, must=True):
        with open(log, "ab") as out:
            process = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL,
                                     stdout=out, stderr=out, check=False)
        if process.returncode != 0 and must:
            last = "\n".join(log.read_text(errors="replace").strip().splitlines()[-15:])
            raise Failed(f"the build of {source} failed:\n{last}")

    step("cmake", "-S", source, "-B", to, *generator, "-DCMAKE_BUILD_TYPE=Release",
         "-DKVFS_TESTS=OFF", "-DKVFS_BENCH=ON")
    step("cmake", "--build", to, "-j", jobs, "--target", *NEEDED)
    for target in WANTED:
        step("cmake", "--build", to, "-j", jobs, "--target", target, must=False)
    return to / "bin"


def build_commit(tree, commit, cache, jobs):
    """Programs of a commit, from `cache` if they are there. Returns their directory."""
    place = cache / commit
    if (place / "complete").exists():
        return place / "build" / "bin"
    if place.exists():
        shutil.rmtree(place)  # of somebody who was interrupted
    check_out(tree, commit, place / "source")
    programs = build(place / "source", place / "build", jobs)
    (place / "complete").touch()
    return programs


def tree_note(tree):
    name = machine.commit(tree)
    return f"this tree, {name}" if name else "this tree"


def jobs_default():
    return len(os.sched_getaffinity(0))


def absolute(path):
    return pathlib.Path(path).resolve()
