"""tests/faults/daemon/try_changes.py: try each call that changes something; all must say EROFS.

usage: try_changes.py DIR [late]
DIR holds file (with user.x), link and dir. `late`: opening for writing may work, as the kernel
does not ask the daemon; then writing must be refused. Prints how many calls were refused.
"""
import ctypes
import errno
import fcntl
import os
import sys

top = sys.argv[1]
late = len(sys.argv) > 2
file, folder, new = (os.path.join(top, name) for name in ("file", "dir", "new"))
libc = ctypes.CDLL(None, use_errno=True)
FICLONE = 0x40049409
RENAME_EXCHANGE = 2


def raw(name, *arguments):
    """A call that Python has no function for."""
    converted = [os.fsencode(a) if isinstance(a, str) else a for a in arguments]
    if getattr(libc, name)(*converted) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write_through(flags):
    fd = os.open(file, flags)
    try:
        if not late:
            return
        os.write(fd, b"x")
    finally:
        os.close(fd)


def on_descriptor(flags, what):
    """Where opening for writing is refused already, that will do."""
    fd = os.open(file, flags)
    try:
        what(fd)
    finally:
        os.close(fd)


calls = {
    "open for writing": lambda: write_through(os.O_WRONLY),
    "open for both": lambda: write_through(os.O_RDWR),
    "open to append": lambda: write_through(os.O_WRONLY | os.O_APPEND),
    "open to truncate": lambda: os.open(file, os.O_WRONLY | os.O_TRUNC),
    "create": lambda: os.open(new, os.O_WRONLY | os.O_CREAT, 0o644),
    "create exclusively": lambda: os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644),
    "unnamed file": lambda: os.open(folder, os.O_WRONLY | os.O_TMPFILE),
    "mkdir": lambda: os.mkdir(new),
    "rmdir": lambda: os.rmdir(folder),
    "unlink": lambda: os.unlink(file),
    "rename": lambda: os.rename(file, new),
    "rename a directory": lambda: os.rename(folder, new),
    "exchange": lambda: raw("renameat2", -100, file, -100, folder, RENAME_EXCHANGE),
    "link": lambda: os.link(file, new),
    "symlink": lambda: os.symlink("x", new),
    "mknod": lambda: os.mknod(new, 0o100644),
    "fifo": lambda: os.mkfifo(new),
    "device": lambda: os.mknod(new, 0o020644, os.makedev(1, 3)),
    "chmod": lambda: os.chmod(file, 0o600),
    "chmod of a directory": lambda: os.chmod(folder, 0o700),
    "chown": lambda: os.chown(file, 1, 1),
    "chown of a link": lambda: os.lchown(os.path.join(top, "link"), 1, 1),
    "utimes": lambda: os.utime(file, (1, 1)),
    "truncate": lambda: os.truncate(file, 0),
    "grow": lambda: os.truncate(file, 1 << 20),
    "setxattr": lambda: os.setxattr(file, "user.a", b"b"),
    "removexattr": lambda: os.removexattr(file, "user.x"),
    "set an ACL": lambda: os.setxattr(file, "system.posix_acl_access",
                                      bytes.fromhex("02000000" "01000600ffffffff"
                                                    "0200040001000000" "04000400ffffffff"
                                                    "10000400ffffffff" "20000400ffffffff")),
    "fallocate": lambda: on_descriptor(os.O_RDWR, lambda fd: os.posix_fallocate(fd, 0, 1 << 20)),
    "punch": lambda: on_descriptor(os.O_RDWR, lambda fd: raw(
        "fallocate", fd, 3, ctypes.c_long(0), ctypes.c_long(4096))),
    "clone": lambda: on_descriptor(os.O_RDWR, lambda fd: fcntl.ioctl(fd, FICLONE, fd)),
}

refused = 0
for name, call in calls.items():
    try:
        call()
    except OSError as error:
        # The kernel refuses to clone before it looks at what the daemon says.
        if error.errno != errno.EROFS and not (name == "clone" and late):
            sys.exit(f"{name}: {error}, not EROFS")
        refused += 1
    else:
        sys.exit(f"{name}: worked")
print(refused)
