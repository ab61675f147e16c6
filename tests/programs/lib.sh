# shellcheck shell=bash
# tests/programs/lib.sh: an image, a mount and their end, for tests that use real programs.
#
# Sourced with the directory of the built programs as the first argument. Gives:
#   $bin $tmp $image $mnt $daemon            programs, scratch, image, mount point, pid
#   make_image SIZE [mkfs option...]         mount_image [mount option...]
#   umount_image  remount  fsck_clean        kill_daemon  detach_dead  kill9
#   daemon_bytes FIELD  fits_budget  used_bytes  available_bytes  image_allocated_bytes
#   size NAME SMALL LARGE                    NAME from the environment, or one of the two
#   background COMMAND...                    a job that is ended with the test; its pid: $job
#   await_mount WHAT SECONDS                 of a daemon that the test itself has started: $status
#   in_time WHAT COMMAND...                  whatever COMMAND gets, it does not wait for ever
#   need PROGRAM PACKAGE, need_ring, need_or_skip WHAT, say, fail
# Whatever happens, the file system is unmounted and the daemon that this test started, and no
# other, is gone at the end.
#
# Environment: KVFS_LARGE=1 the large sizes; KVFS_TMP where to work (/tmp); KVFS_KEEP=1 keep what
# a failed test leaves; KVFS_LOG=FILE run the daemon in the foreground with its log there;
# KVFS_REQUIRE=1 fail where a test would be skipped; KVFS_SEED; KVFS_MOUNT_OPTIONS more of -o;
# KVFS_TRANSPORT=dev not the ring: skipped where there is no ring, since it would be no other.

say() {
    echo "== $*"
}

fail() {
    echo "FAIL: $*" >&2
    exit 1
}

need_or_skip() {
    if [ "${KVFS_REQUIRE-}" = 1 ]; then
        fail "$*"
    fi
    echo "SKIP: $*"
    exit 77
}

need() {
    command -v "$1" >/dev/null || fail "$1 is not installed: apt-get install $2"
}

ring_is_offered() {
    grep -q '[Y1]' /sys/module/fuse/parameters/enable_uring 2>/dev/null
}

need_ring() {
    ring_is_offered || need_or_skip "the kernel does not offer the ring"
}

# size NAME SMALL LARGE: the variable NAME, unless the environment has set it already.
size() {
    if [ -z "${!1-}" ]; then
        if [ "${KVFS_LARGE-}" = 1 ]; then
            printf -v "$1" '%s' "$3"
        else
            printf -v "$1" '%s' "$2"
        fi
    fi
    say "$1=${!1}"
}

if [ $# -lt 1 ]; then
    echo "usage: $0 DIR_OF_THE_PROGRAMS" >&2
    exit 2
fi
bin=$(cd "$1" && pwd)
# shellcheck disable=SC2034 # for the tests that source this
programs=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034
source_tree=$(cd "$programs/../.." && pwd)
export KVFS_SEED=${KVFS_SEED:-1}

if [ "$(id -u)" != 0 ]; then
    need_or_skip "these tests mount file systems: run them as root"
fi
if [ ! -e /dev/fuse ]; then
    need_or_skip "/dev/fuse is not there: modprobe fuse"
fi
for program in mkfs.kvfs mount.kvfs fsck.kvfs kvfs; do
    [ -x "$bin/$program" ] || fail "$bin/$program is not there: build it first"
done

if [ "${KVFS_TRANSPORT-}" = dev ] && ! ring_is_offered; then
    need_or_skip "without the ring every test uses /dev/fuse; this one would be no other"
fi

tmp=$(mktemp -d "${KVFS_TMP:-/tmp}/kvfs-test.XXXXXX")
chmod 755 "$tmp"
image=$tmp/image
mnt=$tmp/mnt
mkdir "$mnt"
daemon=
mount_options=()

is_mounted() {
    grep -qF " $mnt " /proc/self/mounts
}

# The mount points below a directory.
mounts_in() {
    awk -v dir="$1/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo
}

# The process that has the image open.
find_daemon() {
    # Processes end while find looks at them: its status says nothing.
    { find /proc/[0-9]*/fd -maxdepth 1 -lname "$image" 2>/dev/null || true; } |
        sed -n '1s|^/proc/\([0-9]*\)/.*|\1|p'
}

background() {
    "$@" &
    # shellcheck disable=SC2034 # for the tests that source this
    job=$!
}

# Wait until a process is gone, up to so many seconds.
wait_gone() {
    local pid=$1 tenths=$(($2 * 10))
    # A killed process may show as a zombie while other threads of it still hold its files.
    while [ -e "/proc/$pid/stat" ] && ! { grep -q '^[0-9]* (.*) Z' "/proc/$pid/stat" &&
        [ "$(find "/proc/$pid/task" -mindepth 1 -maxdepth 1 | wc -l)" -le 1 ]; } 2>/dev/null; do
        [ "$tenths" -gt 0 ] || return 1
        tenths=$((tenths - 1))
        sleep 0.1
    done
}

# A process and all that it started.
kill_family() {
    local child
    for child in $(ps -o pid= --ppid "$1"); do
        kill_family "$child"
    done
    kill -9 "$1" 2>/dev/null
}

# cleanup STATUS: end everything, then the test with that status.
cleanup() {
    local status=$1 pid
    trap - EXIT ERR
    trap '' INT TERM
    set +e
    cd /
    for pid in $(jobs -pr); do
        [ "$pid" = "$daemon" ] || kill_family "$pid"
    done
    if is_mounted && ! timeout -k 5 60 "$bin/kvfs" umount "$mnt"; then
        # It may answer nobody, or be dead already.
        if [ -n "$daemon" ] && [ "$(find_daemon)" = "$daemon" ]; then
            kill -9 "$daemon"
        fi
        ! is_mounted || umount -l "$mnt"
        [ "$status" -ne 0 ] || status=1
    fi
    if [ -n "$daemon" ] && [ "$(find_daemon)" = "$daemon" ] && ! wait_gone "$daemon" 60; then
        echo "the daemon, process $daemon, lived on after its file system" >&2
        kill -9 "$daemon"
        [ "$status" -ne 0 ] || status=1
    fi
    # What a test has bound into its directory is not its own, and rm would not see where it begins:
    # --one-file-system goes by device numbers.
    mounts_in "$tmp" | tac | xargs -r -d '\n' umount -l
    if [ -n "$(mounts_in "$tmp")" ]; then
        echo "kept, something is mounted in it: $tmp" >&2
        [ "$status" -ne 0 ] || status=1
    elif [ "$status" -ne 0 ] && [ "$status" -ne 77 ] && [ "${KVFS_KEEP-}" = 1 ]; then
        echo "kept: $tmp" >&2
    else
        rm -rf --one-file-system "$tmp"
    fi
    if [ "$status" -eq 0 ]; then
        say "passed"
    fi
    exit "$status"
}
trap 'cleanup $?' EXIT
trap 'echo "FAIL: ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND" >&2' ERR
set -o errtrace
trap 'exit 130' INT
trap 'exit 143' TERM

make_image() {
    local bytes=$1
    shift
    "$bin/mkfs.kvfs" -q -f -s "$bytes" "$@" "$image" || fail "mkfs.kvfs: status $?"
}

# Wait until $daemon, a child, has mounted, or has ended with $status; that is empty if it has not.
await_mount() {
    local tries=$(($2 * 50))
    status=
    until is_mounted; do
        if [ ! -e "/proc/$daemon/exe" ]; then
            status=0
            wait "$daemon" || status=$?
            daemon=
            return
        fi
        [ "$tries" -gt 0 ] || fail "$1: neither mounted nor ended"
        tries=$((tries - 1))
        sleep 0.02
    done
}

# Use a mount that may be gone: an error is an answer, too.
in_time() {
    timeout -k 5 120 "${@:2}" >/dev/null 2>&1 || [ $? -lt 124 ] || fail "$1: a program waits"
}

# Mount, and remember the options for remount.
mount_image() {
    mount_options=("$@")
    local extra=()
    if [ -n "${KVFS_MOUNT_OPTIONS-}" ]; then
        extra=(-o "$KVFS_MOUNT_OPTIONS")
    fi
    if [ -n "${KVFS_TRANSPORT-}" ]; then
        extra+=(-o "transport=$KVFS_TRANSPORT")
    fi
    if [ -n "${KVFS_LOG-}" ]; then
        "$bin/mount.kvfs" "$image" "$mnt" -f "$@" "${extra[@]}" >>"$KVFS_LOG" 2>&1 &
        daemon=$!
        local status
        await_mount "mount.kvfs -f: see $KVFS_LOG" 60
        [ -z "$status" ] || fail "mount.kvfs -f: status $status: see $KVFS_LOG"
        return
    fi
    timeout -k 5 300 "$bin/mount.kvfs" "$image" "$mnt" "$@" "${extra[@]}" </dev/null ||
        fail "mount.kvfs: status $?"
    is_mounted || fail "mount.kvfs returned 0, but nothing is mounted"
    daemon=$(find_daemon)
    [ -n "$daemon" ] || fail "no process has the mounted image open"
}

umount_image() {
    timeout -k 5 600 "$bin/kvfs" umount "$mnt" || fail "kvfs umount: status $?"
    ! is_mounted || fail "kvfs umount returned 0, but it is mounted"
}

remount() {
    umount_image
    mount_image "${mount_options[@]}"
}

# The daemon dies; what works on the mount gets errors. Let that end, then detach_dead.
kill_daemon() {
    [ "$(find_daemon)" = "$daemon" ] || fail "the daemon is gone already"
    kill -9 "$daemon"
    wait_gone "$daemon" 60 || fail "process $daemon does not die"
}

detach_dead() {
    umount -l "$mnt"
}

# A crash of the daemon, and the mount point as it was before the mount.
kill9() {
    kill_daemon
    detach_dead
}

# Of an image that is not mounted.
fsck_clean() {
    local status=0
    timeout -k 5 1800 "$bin/fsck.kvfs" -n -f "$image" >"$tmp/fsck.out" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        tail -n 40 "$tmp/fsck.out" >&2
        fail "fsck.kvfs -n -f: status $status"
    fi
}

# VmRSS or VmHWM of the daemon.
daemon_bytes() {
    awk -v field="$1:" '$1 == field { print $2 * 1024 }' "/proc/$daemon/status"
}

# What the image takes of the disk.
image_allocated_bytes() {
    echo $(($(stat -c %b "$image") * 512))
}

# How many inodes of FUSE file systems the kernel holds; at most $1 of them are ours.
inodes_held() {
    local held
    held=$(awk '$1 == "fuse_inode" { print $2 }' /proc/slabinfo 2>/dev/null || true)
    if [ -z "$held" ] || [ "$held" -gt "$1" ]; then
        held=$1
    fi
    echo "$held"
}

# fits_budget BUDGET_BYTES INODES: the daemon's memory against its promise; the kernel has held
# INODES at most.
fits_budget() {
    local rss peak fixed now most
    rss=$(daemon_bytes VmRSS)
    peak=$(daemon_bytes VmHWM)
    fixed=$(($1 + 64 * 1024 * 1024))
    now=$((fixed + 200 * $(inodes_held "$2")))
    most=$((fixed + 200 * $2))
    say "daemon: $((rss / 1048576)) MiB of $((now / 1048576)) now," \
        "$((peak / 1048576)) MiB of $((most / 1048576)) at the peak"
    [ "$rss" -le "$now" ] || fail "the daemon takes $rss bytes, $now are allowed"
    [ "$peak" -le "$most" ] || fail "the daemon took $peak bytes, $most are allowed"
}

# The bytes of the mounted file system that are in use, and those that can be written.
used_bytes() {
    local block total free
    read -r block total free < <(stat -f -c '%S %b %f' "$mnt")
    echo $((block * (total - free)))
}

available_bytes() {
    stat -f -c '%S %a' "$mnt" | awk '{ printf "%.0f\n", $1 * $2 }'
}
