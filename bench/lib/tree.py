"""A source tree that depends on a seed alone: many small text files in nested directories."""

import io
import random
import tarfile

FILES_IN_DIRECTORY = 14
# Sizes as of the source trees that people unpack: half under 4 KiB, few very large.
MEDIAN_BYTES, SPREAD, MOST_BYTES = 3600, 1.2, 400_000
WORDS = ("static int struct return if else for while const char void size_t unsigned include "
         "define error result buffer length offset index value node entry page block table list "
         "lock read write open close init free state flags mode name path size count next").split()


def text_pool(rng, length):
    """Lines of words and numbers, about as compressible as C."""
    lines, total = [], 0
    while total < length:
        words = [rng.choice(WORDS) if rng.random() < 0.8 else f"v{rng.randrange(10000)}"
                 for _ in range(rng.randrange(2, 10))]
        line = "    " * rng.randrange(4) + " ".join(words) + ";\n"
        lines.append(line)
        total += len(line)
    return "".join(lines).encode()


def directory_of(number):
    """Four levels: every directory has files and at most five directories."""
    parts = []
    while number:
        number -= 1
        parts.append(f"dir{number % 5}")
        number //= 5
    return "/".join(["tree", *reversed(parts)])


def make_tar(path, files, seed):
    """Write the tree as a tar file. Returns how many bytes its files have."""
    rng = random.Random(seed)
    pool = text_pool(rng, 4 << 20)
    total, made = 0, set()
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for number in range(files):
            directory = directory_of(number // FILES_IN_DIRECTORY)
            if directory not in made:
                made.add(directory)
                entry = tarfile.TarInfo(directory)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            size = min(int(rng.lognormvariate(0, SPREAD) * MEDIAN_BYTES), MOST_BYTES)
            start = rng.randrange(len(pool) - size)
            entry = tarfile.TarInfo(f"{directory}/source_file_{number}.c")
            entry.size, entry.mode, entry.mtime = size, 0o644, 1_700_000_000 + number
            tar.addfile(entry, io.BytesIO(pool[start:start + size]))
            total += size
    return total
