#!/bin/bash
# Does nothing stay behind: no daemon after umount(8) in each of its forms, no dead mount after a
# crash with auto_unmount; and is a dead mount called by its name otherwise?
set -euo pipefail
# shellcheck source=tests/faults/daemon/lib.sh
source "$(dirname "$0")/lib.sh"

size ENDS_ROUNDS 2 50
umounts=0
crashes=0

make_image 256M

# What is mounted on a directory belongs to who mounted it last: the end of a daemon whose mount was
# unmounted before leaves it alone.
other=$tmp/other
"$bin/mkfs.kvfs" -q -s 64M "$other"

mount_other() {
    timeout -k 5 300 "$bin/mount.kvfs" "$other" "$mnt" </dev/null || fail "mount.kvfs: status $?"
    echo other >"$mnt/other"
}

expect_other() {
    wait_gone "$daemon" 60 || fail "$1: the daemon, process $daemon, lives on"
    is_mounted || fail "$1: the mount of another daemon is gone"
    [ "$(cat "$mnt/other")" = other ] || fail "$1: the mount of another daemon is harmed"
    umount_image
}

for end in TERM KILL; do
    for options in noatime auto_unmount; do
        mount_image -o "$options"
        helper=$(ps -o pid= --ppid "$daemon" | tr -d " ") || true # without auto_unmount there is none
        exec 9>"$mnt/open"
        umount -l "$mnt"
        mount_other
        kill "-$end" "$daemon"
        [ -z "$helper" ] || wait_gone "$helper" 60 || fail "the helper of auto_unmount lives on"
        expect_other "SIG$end after umount -l, $options"
        exec 9>&- || true # what was written is lost
    done
done

# The device's number of a file system that is gone is free for the next one.
mount_image -o auto_unmount
helper=$(ps -o pid= --ppid "$daemon" | tr -d ' ')
kill -STOP "$helper"
umount "$mnt"
mount_other
kill -CONT "$helper"
wait_gone "$helper" 60 || fail "the helper of auto_unmount lives on"
expect_other "umount with a slow helper"
fsck_clean

for ((round = 1; round <= ENDS_ROUNDS; round++)); do
    mount_image
    echo plain >"$mnt/plain"
    umount "$mnt"
    expect_gone "umount"

    mount_image
    [ "$(cat "$mnt/plain")" = plain ] || fail "what was written before umount is not there"
    exec 9>"$mnt/open"
    expect_errno "busy" umount "$mnt"
    echo busy >&9
    is_mounted || fail "a refused umount unmounted"
    umount -l "$mnt"
    ! is_mounted || fail "umount -l left the mount"
    echo lazy >&9 || fail "a file that is open is lost by umount -l"
    [ "$(find_daemon)" = "$daemon" ] || fail "the daemon ended under an open file"
    exec 9>&-
    expect_gone "umount -l"

    mount_image
    [ "$(cat "$mnt/open")" = $'busy\nlazy' ] || fail "what was written after umount -l is lost"
    "$bin/kvfs" umount "$mnt"
    expect_gone "kvfs umount"
    umounts=$((umounts + 3))

    mount_image -o auto_unmount
    echo auto >"$mnt/auto"
    sync "$mnt/auto"
    helper=$(ps -o pid= --ppid "$daemon" | tr -d ' ')
    [ -n "$helper" ] || fail "no helper waits for the daemon's end"
    kill_daemon
    tenths=600
    while is_mounted; do
        [ $((tenths -= 1)) -gt 0 ] || fail "auto_unmount left a dead mount"
        sleep 0.1
    done
    [ "$(find "$mnt" | wc -l)" = 1 ] || fail "the mount point is not empty"
    wait_gone "$helper" 60 || fail "the helper of auto_unmount lives on"
    mount_image -o auto_unmount
    [ "$(cat "$mnt/auto")" = auto ] || fail "what was durable before the crash is lost"
    helper=$(ps -o pid= --ppid "$daemon" | tr -d ' ')
    umount "$mnt"
    expect_gone "umount with auto_unmount"
    wait_gone "$helper" 60 || fail "the helper of auto_unmount lives on after umount"

    mount_image
    kill_daemon
    status=0
    "$bin/mount.kvfs" "$image" "$mnt" 2>"$tmp/dead.err" || status=$?
    [ "$status" = 32 ] || fail "a mount over a dead one: status $status"
    grep -qF "remove it with: umount $mnt" "$tmp/dead.err" || {
        cat "$tmp/dead.err" >&2
        fail "no remedy for a dead mount"
    }
    umount "$mnt" || fail "the remedy does not work"
    crashes=$((crashes + 2))
    fsck_clean
done
say "ends: $umounts unmounts, $crashes crashes, nothing left"
