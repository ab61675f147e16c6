"""How long do so many transactions of one row each take, durable one by one?

usage: sqlite_commits.py DATABASE delete|wal COMMITS     prints seconds
"""

import os
import sqlite3
import sys
import time


def main():
    path, mode, commits = sys.argv[1], sys.argv[2], int(sys.argv[3])
    database = sqlite3.connect(path, isolation_level=None)
    if database.execute(f"PRAGMA journal_mode={mode}").fetchone()[0] != mode:
        sys.exit(f"sqlite: no journal_mode={mode} here")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, value BLOB)")
    value = bytes(range(100))
    begun = time.monotonic()
    for number in range(commits):
        database.execute("INSERT INTO t VALUES (?, ?, ?)", (number, f"row {number}", value))
    seconds = time.monotonic() - begun
    if database.execute("SELECT count(*) FROM t").fetchone()[0] != commits:
        sys.exit("sqlite: rows are missing")
    database.close()
    for name in (path, path + "-wal", path + "-shm"):
        if os.path.exists(name):
            os.unlink(name)
    print(seconds)


if __name__ == "__main__":
    main()
