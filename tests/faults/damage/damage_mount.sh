#!/bin/bash
# tests/faults/damage/damage_mount.sh: a file's content is damaged on the image while it is
# mounted: that file says EIO, scrub and log name it, everything else goes on; a scrub neither
# holds up unmounting nor outlives it.
#
#   damage_mount.sh DIR_OF_THE_PROGRAMS
#
# FILES in the environment: how many files there are (small 20, large 2000).
# shellcheck source=tests/programs/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../programs/lib.sh"

size FILES 20 2000
say "KVFS_SEED=$KVFS_SEED"
KVFS_LOG=${KVFS_LOG:-$tmp/log}
marker="marked-by-the-test-$KVFS_SEED-$$"
damaged=0 reads=0

# expect STATUS COMMAND...: run it; what it prints is in $tmp/out.
expect() {
    local wanted=$1 status=0
    shift
    timeout -k 5 300 "$@" >"$tmp/out" 2>&1 || status=$?
    [ "$status" -eq "$wanted" ] || { cat "$tmp/out" >&2; fail "$*: status $status, not $wanted"; }
}

# The daemon and not the kernel's cache is asked.
read_file() {
    dd if="$1" of="$tmp/content" bs=1M iflag=direct status=none
}

# Every file but the victim has the content it was given.
others_are_whole() {
    local name
    while read -r name; do
        read_file "$mnt/$name"
        cmp -s "$tmp/content" "$tmp/files/$name" || fail "$name has other content"
        reads=$((reads + 1))
    done < <(find "$tmp/files" -type f -printf '%f\n')
}

make_image 512M
mount_image
mkdir "$tmp/files"
for ((i = 0; i < FILES; i++)); do
    head -c $((20000 + i % 17 * 9000)) /dev/urandom >"$tmp/files/file$i"
done
cp "$tmp/files/"* "$mnt"
{ echo "$marker"; head -c 200000 /dev/urandom; } >"$mnt/victim"
inode=$(stat -c %i "$mnt/victim")
expect 0 "$bin/kvfs" sync "$mnt"
expect 0 "$bin/kvfs" scrub "$mnt"
remount # what was written lately, the daemon would read from memory

say "damaging the victim's content on the image"
offset=$(grep -obUaF -m1 "$marker" "$image" | head -n1 | cut -d: -f1)
[ -n "$offset" ] || fail "the victim's content is not on the image"
printf '\377' | dd of="$image" bs=1 seek=$((offset + 5000)) conv=notrunc,fsync status=none
damaged=$((damaged + 1))

expect 1 dd if="$mnt/victim" of=/dev/null bs=1M iflag=direct
grep -q 'Input/output error' "$tmp/out" || fail "reading the victim says: $(cat "$tmp/out")"
grep -Eq "inode $inode\b" "$KVFS_LOG" || fail "the log does not name inode $inode"
others_are_whole
echo more >"$mnt/more"
mkdir "$mnt/directory"
[ "$(cat "$mnt/more")" = more ] || fail "what is written meanwhile is not there"

expect 4 "$bin/kvfs" scrub "$mnt"
grep -q "blob-damaged content of inode $inode " "$tmp/out" ||
    fail "scrub does not name inode $inode: $(cat "$tmp/out")"
grep -q "scrub: blob-damaged content of inode $inode " "$KVFS_LOG" ||
    fail "the log does not tell of the finding"
expect 0 getfattr -n system.kvfs.stats --only-values "$mnt"
grep -q '"scrub_findings": 1,' "$tmp/out" || fail "the statistics do not count the finding"

say "the same from the image, and with fsck"
umount_image
expect 4 "$bin/kvfs" scrub "$image"
expect 4 "$bin/fsck.kvfs" -n -f "$image"
mount_image

say "giving the victim new content"
rm "$mnt/victim"
echo new >"$mnt/victim"
others_are_whole
expect 0 "$bin/kvfs" scrub "$mnt"

await_scrub() {
    local tenths=600
    until getfattr -n system.kvfs.scrub --only-values "$mnt" 2>/dev/null | grep -qx 'state running'; do
        [ $((tenths -= 1)) -gt 0 ] || fail "no scrub begins: $(cat "$tmp/slow")"
        sleep 0.1
    done
}

say "ending scrubs early"
background "$bin/kvfs" scrub --rate 0.1 "$mnt" >"$tmp/slow" 2>&1
await_scrub
expect 1 "$bin/kvfs" scrub "$mnt"
grep -q 'running already' "$tmp/out" || fail "two scrubs at once: $(cat "$tmp/out")"
kill -INT "$job"
status=0
wait "$job" || status=$?
[ "$status" -eq 1 ] || fail "an interrupted scrub: status $status"
grep -q 'stopped after' "$tmp/slow" || fail "an interrupted scrub says: $(cat "$tmp/slow")"
expect 0 "$bin/kvfs" scrub "$mnt"
background "$bin/kvfs" scrub --rate 0.1 "$mnt" >"$tmp/slow" 2>&1
await_scrub
umount_image
status=0
wait "$job" || status=$?
[ "$status" -eq 1 ] || fail "a scrub that was unmounted: status $status: $(cat "$tmp/slow")"
fsck_clean
mount_image
others_are_whole
umount_image
say "damage_mount: $damaged damaged file of $((FILES + 1)), $reads reads of the others right"
