#!/bin/bash
# What a daemon inherits from whoever starts it, and need not be as usual: standard streams that are
# closed, signals that are blocked, a limit on the size of files. And an end that is asked for while
# programs go on reading.
set -euo pipefail
# shellcheck source=tests/faults/daemon/lib.sh
source "$(dirname "$0")/lib.sh"

# serves WHAT: the mount takes a file, gives it back after the next mount, and is clean in the end.
serves() {
    daemon=$(find_daemon)
    [ -n "$daemon" ] || fail "$1: no daemon"
    head -c 3000000 /dev/urandom >"$tmp/content"
    cp "$tmp/content" "$mnt/content"
    sync "$mnt/content"
    kill -TERM "$daemon"
    expect_gone "$1"
    fsck_clean
    mount_image
    cmp "$tmp/content" "$mnt/content" || fail "$1: the content is another"
    umount_image
}

for streams in '<&-' '>&-' '2>&-' '<&- >&-' '>&- 2>&-' '<&- >&- 2>&-'; do
    for program in mount "mount in the foreground"; do
        rm -f "$image"
        eval "'$bin/mkfs.kvfs' '$image' -s 64M $streams" || fail "mkfs.kvfs $streams: status $?"
        if [ "$program" = mount ]; then
            eval "timeout -k 5 300 '$bin/mount.kvfs' '$image' '$mnt' $streams" ||
                fail "mount.kvfs $streams: status $?"
        else
            eval "'$bin/mount.kvfs' -f '$image' '$mnt' $streams &"
            for ((tenths = 600; tenths > 0; tenths--)); do
                ! is_mounted || break
                sleep 0.1
            done
        fi
        is_mounted || fail "$program $streams: nothing is mounted"
        serves "$program $streams"
    done
done

# The daemon wakes its threads by a signal, in the end.
rm -f "$image"
make_image 64M
timeout -k 5 300 env --block-signal=USR2 "$bin/mount.kvfs" "$image" "$mnt" || fail "status $?"
daemon=$(find_daemon)
echo held >"$mnt/held"
exec 9<"$mnt/held"
kill -TERM "$daemon"
expect_gone "SIGUSR2 is blocked"
exec 9<&-
fsck_clean

# Where files may not be as large as the image, it can not be written: that is said, and nothing else
# happens to it.
rm -f "$image"
make_image 256M
mount_image
echo kept >"$mnt/kept"
umount_image
status=0
(
    ulimit -f $((32 * 1024)) # KiB
    exec timeout -k 5 300 "$bin/mount.kvfs" "$image" "$mnt" >"$tmp/limited" 2>&1
) || status=$?
[ "$status" = 32 ] || fail "with a limit on the size of files: status $status"
grep -q "No space left" "$tmp/limited" || fail "does not say why: $(cat "$tmp/limited")"
fsck_clean
mount_image
grep -q kept "$mnt/kept" || fail "a mount that was refused has lost a file"
umount_image

# Programs that have files open go on reading until the daemon ends.
rm -f "$image"
make_image 1G
mount_image -o memory_budget=16M
head -c 200M /dev/urandom >"$mnt/large"
sync "$mnt/large"
background fio --name=read --filename="$mnt/large" --rw=randread --bs=4k --direct=1 --ioengine=psync \
    --numjobs=8 --time_based --runtime=600 >/dev/null 2>&1
sleep 1
kill -TERM "$daemon"
expect_gone "programs read on"
kill "$job" 2>/dev/null || true
wait "$job" 2>/dev/null || true
fsck_clean
say "inherited: streams, a signal and a limit as nobody expects them, an end under reads: all well"
