#!/bin/bash
# What happens when the image is full: ENOSPC, nothing lost, and the space comes back?
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

size FULL_MIB 256 2048
size FULL_SMALL_BYTES 4000 1000
random=$tmp/random

# Nothing here may hang: whatever takes longer than this has failed.
limited() {
    local status=0
    timeout -k 5 "${FULL_TIMEOUT:-600}" "$@" || status=$?
    case $status in
    124 | 137) fail "hangs: $*" ;;
    esac
    return "$status"
}

# within_percent A B PERCENT OF
within_percent() {
    local difference=$(($1 > $2 ? $1 - $2 : $2 - $1))
    [ $((difference * 100)) -le $(($4 * $3)) ]
}

# The space of a deleted file is back when the kernel has let go of it, which may take a moment.
expect_available() {
    local tries=600 now
    until now=$(available_bytes) && within_percent "$now" "$1" 2 "$1"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$1 bytes were free, after the deletion only $now"
        sleep 0.1
    done
}

expect_full() {
    grep -q 'No space left on device' "$1" || {
        cat "$1" >&2
        fail "the error is not ENOSPC"
    }
}

make_image "${FULL_MIB}M" -c none
mount_image
limited "$bin/test-crashload" run "$mnt" "$tmp/before.log" --seconds 1 --threads 4 --seed "$KVFS_SEED"
check_old_files() {
    limited "$bin/test-crashload" check "$mnt" "$tmp/before.log" --threads 4 --seed "$KVFS_SEED"
}
head -c $((FULL_MIB * 1048576)) /dev/urandom >"$random"

for round in 1 2 3; do
    available=$(available_bytes)
    say "round $round: one large file; df: $available bytes can be written"
    if limited dd if="$random" of="$mnt/large" bs=1M conv=fsync 2>"$tmp/dd.err"; then
        fail "the image of $FULL_MIB MiB took $FULL_MIB MiB of data"
    fi
    expect_full "$tmp/dd.err"
    written=$(stat -c %s "$mnt/large")
    say "$written bytes were written"
    # More than was promised may be there; what was promised has to be.
    if [ "$written" -lt $((available - available / 100)) ] ||
        ! within_percent "$written" "$available" 2 "$available"; then
        fail "df: $available could be written, $written could"
    fi
    limited cmp -n "$written" "$random" "$mnt/large" || fail "what was written is damaged"
    check_old_files

    say "a full image: reading, renaming, deleting"
    [ "$(available_bytes)" -le $((available / 50)) ] || fail "df says there is room, but there is not"
    limited mv "$mnt/large" "$mnt/renamed" 2>"$tmp/mv.err" || {
        expect_full "$tmp/mv.err"
        say "no room for a rename"
        [ -e "$mnt/large" ] || fail "a rename that failed lost the file"
        ln -s large "$mnt/renamed" 2>/dev/null || true
    }
    if [ "$round" = 2 ]; then
        say "the same after a new mount of the full image"
        umount_image
        fsck_clean
        mount_image
        check_old_files
    fi
    if [ "$round" = 3 ]; then
        say "truncation gives space back, too"
        for name in large renamed; do
            [ ! -f "$mnt/$name" ] || limited truncate -s 0 "$mnt/$name"
        done
    fi
    limited rm -f "$mnt/large" "$mnt/renamed" || fail "nothing can be deleted on a full image"
    expect_available "$available"
done

say "many small files"
many=(--dir "$mnt" --name many --dirs 1 --size "$FULL_SMALL_BYTES" --seed "$KVFS_SEED")
available=$(available_bytes)
if limited "$bin/bench-smallfiles" "${many[@]}" --files 90000000 --phases create --keep \
    2>"$tmp/many.err" >/dev/null; then
    fail "small files never fill it"
fi
expect_full "$tmp/many.err"
# The last one may be there in part.
last=$(find "$mnt/many" -type f -printf '%f\n' | LC_ALL=C sort | tail -n 1)
count=$((10#${last#f}))
[ "$(find "$mnt/many" -type f | wc -l)" = $((count + 1)) ] || fail "small files are missing"
say "$count files of $FULL_SMALL_BYTES bytes fit, $((count * FULL_SMALL_BYTES * 100 / available)) %" \
    "of what df said"
limited rm "$mnt/many/d00000/$last"
limited "$bin/bench-smallfiles" "${many[@]}" --files "$count" --phases list,read --keep >/dev/null ||
    fail "small files are damaged"
check_old_files
umount_image
fsck_clean
mount_image
limited "$bin/bench-smallfiles" "${many[@]}" --files "$count" --phases read,unlink >/dev/null ||
    fail "small files are damaged after the mount"
expect_available "$available"
check_old_files
umount_image
fsck_clean
