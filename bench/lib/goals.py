"""The rows of the table, and what kvfs is to reach in each, as a ratio to another's rate.

The other is one of
  floor   an engine that costs nothing on the same transport
  bound   the floor's time plus the time of its flushes: each as long as a raw 4 KiB append + fdatasync
  disk    the floor with its contents in plain files on the disk
  fresh, aged   ext4, as the targets are called
  peer    the best FUSE file system whose data is on the disk
  1 thread      kvfs itself with one thread
  without limit   kvfs itself in the same row with as much memory and as little data as ever
What the first three do not reach beside ext4 or a peer, an engine on this transport can not: where
a row itself has none of them, that of floor_row.
A ratio of 1 to the floor is met from 0.97 on: where no request is sent there is nothing to be
faster or slower with, and that is how far two runs of the same differ.
"""

from dataclasses import dataclass, field

SAME = 0.97
LIMITED = "4x/"  # how the rows begin whose data is four times all memory there is
FLOORS = ("floor", "bound", "disk")
OURSELVES = ("1 thread", "without limit")


@dataclass
class Row:
    title: str
    goals: dict = field(default_factory=dict)  # other -> least ratio
    unit: str = "op/s"


def rows():
    """row -> Row, in the order of the table."""
    table = {}
    for label, size in (("4k", "4 KiB"), ("200", "200 B")):
        for threads in (1, 4):
            table[f"create/{label}/{threads}"] = Row(
                f"create, write, close; {size}, {threads} thr.",
                {"floor": 0.85, "aged": 2, "fresh": 0.6, "peer": 3})
        table[f"fsync/{label}/1"] = Row(f"create, write, fsync, close; {size}, 1 thr.",
                                        {"bound": 0.85, "fresh": 1.5, "peer": 1.5})
        table[f"fsync/{label}/4"] = Row(f"create, write, fsync, close; {size}, 4 thr.",
                                        {"1 thread": 2, "fresh": 2, "aged": 4, "peer": 1.5})
        table[f"stat/cold/{label}"] = Row(f"stat, kernel cold; {size}",
                                          {"floor": 0.85, "fresh": 0.6, "peer": 2.5})
        table[f"list/cold/{label}"] = Row(f"list with attributes, kernel cold; {size}",
                                          {"floor": 0.85, "fresh": 2, "peer": 3})
        table[f"list/remounted/{label}"] = Row(f"list with attributes, remounted; {size}",
                                               {"fresh": 1.5, "peer": 3})
        # ls itself, which asks for attributes of each file besides
        table[f"ls/cold/{label}"] = Row(f"ls(1) -lR, kernel cold; {size}",
                                        {"floor": 0.85, "fresh": 2, "peer": 3})
        table[f"ls/remounted/{label}"] = Row(f"ls(1) -lR, remounted; {size}",
                                             {"fresh": 1.5, "peer": 3})
        table[f"read/cold/{label}"] = Row(f"open, read, close, kernel cold; {size}",
                                          {"floor": 0.85, "fresh": 2, "peer": 4})
        table[f"read/remounted/{label}"] = Row(f"open, read, close, remounted; {size}",
                                               {"fresh": 1.3, "peer": 4})
        for work, title in (("stat", "stat"), ("read", "open, read, close"), ("list", "list with attributes")):
            table[f"{work}/warm/{label}"] = Row(f"{title}, warm; {size}",
                                                {"floor": 1, "fresh": 0.85, "peer": 5})
        table[f"rename/{label}"] = Row(f"rename; {size}",
                                       {"floor": 0.85, "fresh": 0.75, "peer": 2.5})
        table[f"unlink/{label}"] = Row(f"unlink; {size}", {"floor": 0.85, "fresh": 1.5, "peer": 2.5})
    table["rm-r"] = Row("rm -r of the source tree", {"floor": 0.85, "fresh": 1.8, "peer": 2.5})
    table["untar"] = Row("untar a source tree", {"floor": 0.85, "fresh": 1.4, "peer": 2})
    table["tar/cold"] = Row("tar it, kernel cold", {"floor": 0.85, "fresh": 1.4, "peer": 2})
    table["git/clone"] = Row("git clone of it", {"floor": 0.85, "fresh": 1.6, "peer": 2.3})
    table["git/status/cold"] = Row("git status, kernel cold", {"floor": 0.85, "peer": 2.3})
    table["sqlite/delete"] = Row("SQLite commits, DELETE, FULL",
                                 {"bound": 0.85, "fresh": 1.3, "peer": 2})
    table["sqlite/wal"] = Row("SQLite commits, WAL, FULL",
                              {"bound": 0.85, "fresh": 1, "peer": 1.3})
    for depth, ratio in ((1, 0.8), (16, 0.9)):
        table[f"fio/read/cached/{depth}"] = Row(f"4 KiB random read, direct, cached; depth {depth}",
                                                {"floor": 0.85, "peer": 2})
        table[f"fio/read/disk/{depth}"] = Row(
            f"4 KiB random read, direct, from disk; depth {depth}",
            {"disk": 0.85, "fresh": ratio, "peer": 2})
    for depth in (1, 16):
        table[f"fio/write/direct/{depth}"] = Row(f"4 KiB random write, direct; depth {depth}",
                                                 {"fresh": 1.2, "peer": 2})
    table["fio/write/buffered"] = Row("4 KiB random write, buffered",
                                      {"floor": 0.85, "fresh": 1.2, "peer": 2})
    table["fio/write/fsync"] = Row("4 KiB random write, fsync each",
                                   {"bound": 0.85, "fresh": 1.5, "peer": 2})
    for work in ("write", "read"):
        for kind, title, ratio in (("random", "incompressible", 0.8), ("half", "2:1", 1)):
            table[f"fio/seq-{work}/{kind}"] = Row(f"1 MiB sequential {work}, direct; {title}",
                                                  {"disk": 0.85, "fresh": ratio, "peer": 1.5},
                                                  "MiB/s")
    for row in limited_rows():
        table[LIMITED + row] = Row(f"{table[row].title}; 4 × memory",
                                   {"without limit": 0.7, "peer": 1}, table[row].unit)
    return table


def floor_row(row):
    """Where the floor that a row is held against was measured. The floor can not be remounted, since all
    it has is in memory; with kernel caches that are cold it answers the same requests, and whoever
    was remounted also has to read from the disk what the answers are made of."""
    return row.replace("/remounted/", "/cold/")


def limited_rows():
    """The rows that are also measured with data of four times all memory."""
    files = ("create/4k/1", "create/4k/4", "stat/cold/4k", "list/cold/4k", "read/cold/4k",
             "list/remounted/4k", "read/remounted/4k", "rename/4k", "unlink/4k")
    large = ("fio/seq-write/random", "fio/seq-read/random", "fio/read/disk/1", "fio/read/disk/16",
             "fio/write/direct/1", "fio/write/direct/16", "fio/write/buffered", "fio/write/fsync")
    return files + large
