#!/bin/bash
# Under each limit on open files there is a mount that answers, or none and a reason: never one on
# which programs wait for rings that could not be made.
set -euo pipefail
# shellcheck source=tests/faults/daemon/lib.sh
source "$(dirname "$0")/lib.sh"

need_ring

# try_mount SOFT:HARD TRANSPORT: until it is mounted ($daemon) or has ended ($status, $words).
try_mount() {
    prlimit "--nofile=$1" "$bin/mount.kvfs" -f "$image" "$mnt" -o "transport=$2" \
        </dev/null >"$tmp/words" 2>&1 &
    daemon=$!
    await_mount "$1 $2" 12
    words=$(cat "$tmp/words")
}

# Requests from all CPUs are answered, or get an error; in time, which is long. Nothing is made: the
# mount may be gone, and the directory below stays empty.
use_mount() {
    local cpu
    for cpu in $(seq 0 "$(($(nproc) - 1))"); do
        in_time "$1" taskset -c "$cpu" \
            dd if="$mnt/file" of="$mnt/file" conv=nocreat,notrunc,fsync bs=1 status=none
    done
}

end_mount() {
    local ended=0
    kill -TERM "$daemon" 2>/dev/null || true # it may have ended by itself
    wait "$daemon" || ended=$?
    words=$(cat "$tmp/words")
    ! is_mounted || fail "$1: still mounted"
    [ "$ended" -eq 0 ] || grep -qv "is mounted on" <<<"$words" ||
        fail "$1: status $ended without a word"
}

make_image 16M
mount_image
echo text >"$mnt/file"
umount_image

# A soft limit is raised as far as needed.
try_mount "32:4096" ring
[ -z "$status" ] || fail "mount.kvfs with a low soft limit: status $status: $words"
use_mount "a low soft limit"
limit=$(awk '/^Max open files/ { print $4 }' "/proc/$daemon/limits")
[ "$limit" -gt 32 ] || fail "the soft limit is $limit still"
[ "$limit" -lt 4096 ] || fail "the soft limit is $limit now"
end_mount "a low soft limit"
grep -qF "requests come over io_uring" <<<"$words" || fail "no ring: $words"

limit_most=$((limit + 2)) # what was enough
rings=0
devices=0
refused=0
for ((limit = 6; limit <= limit_most; limit++)); do
    for transport in auto ring; do
        try_mount "$limit:$limit" "$transport"
        if [ -n "$status" ]; then
            [ "$status" -ne 0 ] || fail "$limit $transport: ended with status 0"
            [ -n "$words" ] || fail "$limit $transport: status $status without a word"
            ! grep -qF "ulimit -n" <<<"$words" || refused=$((refused + 1))
            continue
        fi
        use_mount "$limit $transport"
        end_mount "$limit $transport"
        case $words in
        *"requests come over io_uring"*) rings=$((rings + 1)) ;;
        *"requests come over /dev/fuse: the threads get no rings"*)
            [ "$transport" = auto ] || fail "$limit: transport=ring, and not the ring: $words"
            devices=$((devices + 1))
            ;;
        esac
    done
done
fsck_clean
[ "$rings" -gt 0 ] || fail "the highest limit was too low for the rings"
[ "$devices" -gt 0 ] || fail "the device was never what is left"
[ "$refused" -gt 0 ] || fail "nobody was told of the limit"
say "$rings times the ring, $devices times the device, $refused times refused"
