#!/usr/bin/env bash
# A real mount whose commands to the kernel's FUSE queues fail.
#
#    mount_queue.sh BIN QUEUE_FAULTS_SO
#
# What passes (the kernel is short of memory) is not noticed: all that programs asked for is answered.
# What does not ends the mount, and the programs with an error: none waits for ever.
#
# Environment: that of tests/programs/lib.sh.
set -euo pipefail
# shellcheck source=../../programs/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../programs/lib.sh"
faults=$(realpath "$2")
need fio fio
need_ring
registers=1
commits=2
enomem=12
eio=5
eacces=13

# mount_with FAULTS
mount_with() {
    KVFS_QUEUE_FAULTS=$1 LD_PRELOAD=$faults \
        "$bin/mount.kvfs" "$image" "$mnt" -f -o transport=ring,memory_budget=16M \
        </dev/null >"$tmp/words" 2>&1 &
    daemon=$!
    await_mount "$1" 60
    [ -z "$status" ] || fail "$1: not mounted: status $status: $(cat "$tmp/words")"
}

# Many at once, from all CPUs, most of them reads of the image that workers do not wait for.
read_much() {
    timeout -k 5 120 fio --name=read --filename="$mnt/large" --rw=randread --bs=4k --direct=1 \
        --ioengine=psync --numjobs=16 --number_ios=200 --size=64M --readonly >"$tmp/fio" 2>&1
}

make_image 256M
mount_image
head -c 64M /dev/urandom >"$mnt/large"
umount_image

for operation in "$registers" "$commits"; do
    for after in 0 1 10 12 300; do
        for count in 1 20; do
            mount_with "$operation:$after:$count:$enomem"
            read_much || fail "$operation:$after:$count: status $?: $(tail -n 3 "$tmp/fio")"
            kill -TERM "$daemon"
            wait "$daemon" || fail "$operation:$after:$count: status $?: $(cat "$tmp/words")"
            ! is_mounted || fail "$operation:$after:$count: still mounted"
        done
    done
done

for after in 100 1000; do
    mount_with "$commits:$after:1:$eio"
    status=0
    read_much || status=$?
    [ "$status" -ne 0 ] || fail "the mount did not end"
    [ "$status" -lt 124 ] || fail "a program waits on a mount that can not answer it"
    status=0
    wait "$daemon" || status=$?
    [ "$status" -ne 0 ] || fail "the daemon says nothing of it in its status"
    grep -qF "Input/output error; the mount ends" "$tmp/words" || fail "no reason: $(cat "$tmp/words")"
    ! is_mounted || fail "still mounted"
done

# FUSE holds requests back until each queue has registered. It does not know of what a security module
# refuses.
KVFS_QUEUE_FAULTS=$registers:0:1000000:$eacces LD_PRELOAD=$faults \
    "$bin/mount.kvfs" "$image" "$mnt" -f -o transport=ring </dev/null >"$tmp/words" 2>&1 &
daemon=$!
wait_gone "$daemon" 120 || fail "the daemon stays, and programs would wait for it"
! wait "$daemon" || fail "the daemon says nothing of it in its status"
grep -qF "Permission denied; the mount ends" "$tmp/words" || fail "no reason: $(cat "$tmp/words")"
! is_mounted || fail "still mounted"
fsck_clean
