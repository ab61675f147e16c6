#!/bin/bash
# A sparse image on a host file system that is full: ENOSPC to writers and to nobody else, nothing
# lost, deleting works, a crash then is a crash like any other, and with room on the host writing
# goes on under the same mount. On tmpfs and on ext4 in a loop device, in a mount namespace.
set -euo pipefail
# shellcheck source=tests/programs/lib-root.sh
source "$(dirname "$0")/../../programs/lib-root.sh"
if [ -z "${HOST_FULL_DIR-}" ]; then
    # The namespace takes its mounts along when it ends, however that comes.
    own_root "$0" "$@" || {
        echo "SKIP: no mount namespace to be had: run it as root"
        exit 77
    }
    HOST_FULL_DIR=$(mktemp -d "${KVFS_TMP:-/tmp}/kvfs-host.XXXXXX")
    export HOST_FULL_DIR
    status=0
    unshare --mount --propagation private bash "$0" "$@" || status=$?
    rm -f "$HOST_FULL_DIR/disk"
    rmdir "$HOST_FULL_DIR/host" "$HOST_FULL_DIR"
    exit "$status"
fi
# shellcheck source=tests/faults/daemon/lib.sh
source "$(dirname "$0")/lib.sh"

size HOST_FULL_MIB 160 2048
host=$HOST_FULL_DIR/host
mkdir "$host"
image=$host/image
KVFS_LOG=$tmp/daemon.log
random=$tmp/random
head -c $((HOST_FULL_MIB * 1048576)) /dev/urandom >"$random"
refusals=0

mount_host() {
    case $1 in
    tmpfs) mount -t tmpfs -o "size=${HOST_FULL_MIB}M" tmpfs "$host" ;;
    ramfs) mount -t ramfs ramfs "$host" ;;
    ext4)
        rm -f "$HOST_FULL_DIR/disk"
        truncate -s "${HOST_FULL_MIB}M" "$HOST_FULL_DIR/disk"
        mkfs.ext4 -q -F -m 0 "$HOST_FULL_DIR/disk" 2>/dev/null &&
            mount -o loop "$HOST_FULL_DIR/disk" "$host" 2>/dev/null
        ;;
    esac
}

# What is left of the host's room goes to somebody else's file.
take_host() {
    head -c $((HOST_FULL_MIB * 1048576)) /dev/zero >"$host/filler" 2>/dev/null || true
    sync "$host/filler"
}

# fill FILE: write until there is no room; what was written, $written bytes, is right.
fill() {
    if dd if="$random" of="$1" bs=64K conv=fsync 2>"$tmp/dd.err"; then
        fail "a host of $HOST_FULL_MIB MiB took more than it has"
    fi
    grep -q 'No space left on device' "$tmp/dd.err" || {
        cat "$tmp/dd.err" >&2
        fail "the error of a full host is not ENOSPC"
    }
    refusals=$((refusals + 1))
    written=$(stat -c %s "$1")
    cmp -n "$written" "$random" "$1" || fail "what was written is damaged"
    say "$(basename "$1"): $written bytes, then ENOSPC; df: $(available_bytes) bytes left," \
        "the host: $(stat -f -c '%f * %S' "$host")"
}

# The kernel says in its own time that nobody has a removed file open any more.
await_room() {
    local tenths=600
    until [ "$(available_bytes)" -ge "$1" ]; do
        [ $((tenths -= 1)) -gt 0 ] || fail "df: $(available_bytes) of $1 bytes after a removal"
        sleep 0.1
    done
}

check_promises() {
    "$bin/test-crashload" check "$mnt" "$tmp/before.log" --threads 3 --seed "$KVFS_SEED"
}

try_host() {
    mount_host "$1" || {
        say "$1: can not be mounted here; left out"
        return 0
    }
    : >"$KVFS_LOG"
    rm -f "$tmp/before.log"
    say "$1: an image of 8 GiB on a host of $HOST_FULL_MIB MiB"
    make_image 8G -c none
    say "$(du -k "$image" | cut -f 1) KiB after mkfs"
    [ "$(image_allocated_bytes)" -le $((24 * 1048576)) ] || fail "an empty image takes too much"
    mount_image
    [ "$(available_bytes)" -le $((HOST_FULL_MIB * 1048576)) ] || fail "df promises more than is there"
    "$bin/test-crashload" run "$mnt" "$tmp/before.log" --seconds 1 --threads 3 --seed "$KVFS_SEED"

    # Somebody else's, too; removed in the end.
    head -c $(($(stat -f -c '%f * %S' "$host") / 4)) /dev/zero >"$host/other"
    fill "$mnt/large"
    local large=$written
    check_promises
    take_host
    expect_errno "No space left on device" dd if="$random" of="$mnt/more" bs=1M count=4 conv=fsync
    echo "x" >"$mnt/tiny" 2>/dev/null || true
    rm -f "$mnt/more" "$mnt/tiny"
    [ "$(available_bytes)" -le $((4 * 1048576)) ] || fail "df: $(available_bytes) bytes on a full host"

    say "deleting works, and what is freed can be written without any room on the host"
    rm "$mnt/large" || fail "nothing can be deleted while the host is full"
    await_room $((large * 9 / 10))
    "$bin/kvfs" sync "$mnt"
    fill "$mnt/again"
    [ "$written" -ge $((large * 9 / 10)) ] ||
        fail "freed space does not come back on a full host"

    say "a crash while the host is full"
    sync "$mnt/again"
    kill9
    fsck_clean
    mount_image
    check_promises
    cmp -n "$(stat -c %s "$mnt/again")" "$random" "$mnt/again" || fail "damaged by the crash"
    truncate -s 1M "$mnt/again" || fail "nothing can be truncated while the host is full"
    mkdir "$mnt/new" || fail "no room for a directory after a truncation"
    umount_image
    fsck_clean
    mount_image

    say "room on the host again: writing goes on"
    fill "$mnt/third"
    rm "$host/filler" "$host/other"
    head -c 8000000 "$random" >"$mnt/goes-on" || fail "writing does not go on with room on the host"
    sync "$mnt/goes-on"
    cmp -n 8000000 "$random" "$mnt/goes-on"
    check_promises
    umount_image
    fsck_clean
    ! grep -q "read-only until" "$KVFS_LOG" || fail "the store turned read-only"
    grep -q "holds the image is full" "$KVFS_LOG" || fail "the log does not say that the host is full"
    grep -q "has room again" "$KVFS_LOG" || fail "the log does not say that it has room again"
    umount "$host"
}

# Where the host has no O_DIRECT, the log says so and all works.
try_buffered() {
    mount_host ramfs || return 0
    : >"$KVFS_LOG"
    make_image 64M
    mount_image
    getfattr -n system.kvfs.stats --only-values "$mnt" 2>/dev/null |
        jq -e '.store.direct_io == false' >/dev/null || fail "ramfs takes O_DIRECT: choose another"
    grep -q "refuses O_DIRECT; using buffered" "$KVFS_LOG" || fail "the log hides buffered I/O"
    head -c 5000000 "$random" >"$mnt/file"
    remount
    cmp -n 5000000 "$random" "$mnt/file"
    umount_image
    fsck_clean
    umount "$host"
}

for kind in tmpfs ext4; do
    try_host "$kind"
done
try_buffered
say "host_full: $refusals times full, nothing lost"
