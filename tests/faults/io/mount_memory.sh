#!/usr/bin/env bash
# Mounting while allocations fail: each in turn, once or from then on, in mount.kvfs and all its
# libraries.
#
#    mount_memory.sh BIN MEMORY_FAULTS_SO
#
# Either the image is mounted, and can be unmounted and mounted again; or mount.kvfs says why not,
# and leaves no mount, no process and no lock. It never crashes, and never calls the image damaged.
#
# Environment: MEMORY_POINTS how many points to try (40, large: all); and that of
# tests/programs/lib.sh.
set -euo pipefail
# shellcheck source=../../programs/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../programs/lib.sh"
faults=$(realpath "$2")
size MEMORY_POINTS 40 1000000
seen=$tmp/seen
ulimit -c 0 # a crash shows in the status

# try_mount AFTER once|lasting [LEAST_BYTES [mount option...]]: until it is mounted ($daemon) or has
# ended ($status, $words).
try_mount() {
    rm -f "$seen"
    KVFS_MEMORY_FAULTS=$1:$2:$seen:${3-0} LD_PRELOAD=$faults \
        "$bin/mount.kvfs" "$image" "$mnt" -f "${@:4}" </dev/null >"$tmp/words" 2>&1 &
    daemon=$!
    await_mount "$1 $2" 12
    words=$(cat "$tmp/words")
}

allocations() {
    od -An -tu8 -N8 "$seen" | tr -d ' '
}

# End what was mounted. The daemon may still be short of memory, so it may end badly, with words,
# or may have ended already.
end_mount() {
    local umount_status=0 ended=0 unmounted=
    in_time "$1" dd of="$mnt/file" conv=nocreat <<<content
    in_time "$1" cat "$mnt/file"
    if is_mounted; then
        unmounted=yes
        timeout -k 5 120 "$bin/kvfs" umount "$mnt" >"$tmp/umount.out" 2>&1 || umount_status=$?
        [ "$umount_status" = 0 ] || grep -q "the log is replayed\|not mounted" "$tmp/umount.out" ||
            fail "$1: kvfs umount: status $umount_status: $(cat "$tmp/umount.out")"
    fi
    wait "$daemon" || ended=$?
    daemon=
    case $ended in
    0) [ -n "$unmounted" ] || fail "$1: the daemon ended by itself, with status 0: $(cat "$tmp/words")" ;;
    2 | 32) # 2: it had mounted, and could not go on
        [ -s "$tmp/words" ] || fail "$1: the daemon ended with status $ended without a word"
        ;;
    *) fail "$1: the daemon ended with status $ended: $(cat "$tmp/words")" ;;
    esac
    ! is_mounted || fail "$1: still mounted"
}

expect_nothing_left() {
    ! is_mounted || fail "$1: status $status, but it is mounted: $words"
    [ -z "$(find_daemon)" ] || fail "$1: status $status, but a process has the image open: $words"
    [ -n "$words" ] || fail "$1: status $status without a word"
    case $words in
    *damage* | *fsck*) fail "$1: a lack of memory is called damage: $words" ;;
    esac
}

make_image 16M
mount_image
: >"$mnt/file" # those that follow make none: the mount may be gone
umount_image
try_mount 1000000000 once
[ -z "$status" ] || fail "mount.kvfs: status $status: $words"
total=$(allocations)
end_mount "no fault"
step=$((2 * total / MEMORY_POINTS))
[ "$step" -ge 1 ] || step=1
say "$total allocations until it is mounted, every ${step}th is tried twice"

mounted=0
refused=0
for ((after = KVFS_SEED % step; after < total; after += step)); do
    for how in once lasting; do
        try_mount "$after" "$how"
        case $status in
        "")
            end_mount "$after $how"
            mounted=$((mounted + 1))
            ;;
        1 | 2 | 32)
            expect_nothing_left "$after $how"
            refused=$((refused + 1))
            ;;
        *) fail "$after $how: status $status: $words" ;;
        esac
    done
done

# A worker that gets no room for the requests that it is to read ends the mount, with a word.
told=0
for transport in auto dev; do
    try_mount 1000000000 once 1000000 -o "transport=$transport"
    end_mount "no fault"
    large=$(allocations)
    for ((after = 0; after < large; after++)); do
        for how in once lasting; do
            try_mount "$after" "$how" 1000000 -o "transport=$transport"
            if [ -z "$status" ]; then
                end_mount "$after $how of the large, $transport"
            else
                expect_nothing_left "$after $how of the large, $transport"
            fi
            ! grep -qF "the mount ends" "$tmp/words" || told=$((told + 1))
        done
    done
done
[ "$told" -gt 0 ] || fail "all workers had room for their requests"
fsck_clean
say "seed $KVFS_SEED: $((mounted + refused)) points of $((2 * total)), $mounted mounted, $refused refused"
