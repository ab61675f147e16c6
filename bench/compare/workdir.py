"""Directories to work in, and their end."""

import shutil
import sys


def remove(directory):
    """Unless something is mounted below: then it stays, and that is said."""
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        left = [line.split()[4] for line in mounts if line.split()[4].startswith(f"{directory}/")]
    if left:
        print(f"{directory} stays, since this is still mounted: " + ", ".join(left),
              file=sys.stderr)
    else:
        shutil.rmtree(directory, ignore_errors=True)
