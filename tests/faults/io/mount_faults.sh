#!/usr/bin/env bash
# A mounted image whose device fails: real programs on a real mount, the kernel between them.
#
#    mount_faults.sh BIN RING_FAULTS_SO CLIENTS
#
# What fails is ordered from ring-faults.so, which is loaded into mount.kvfs, while clients write
# and fsync. Each client that waits is told EIO, later changes EROFS; reads go on; the log says it
# once; kvfs umount and the daemon end with words and a status; and after the next mount all that
# an fsync has acknowledged is there, though half of what was not flushed was undone.
#
# Environment: FAULT_ROUNDS how many mounts (6, large: 100); and that of tests/programs/lib.sh.
set -euo pipefail
export KVFS_LOG=${KVFS_LOG:-/dev/null} # the daemon stays in the foreground; set below
# shellcheck source=../../programs/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../programs/lib.sh"
faults=$(realpath "$2")
clients=$(realpath "$3")
size FAULT_ROUNDS 6 100

control=$tmp/control
list=$tmp/list
log=$tmp/log
: >"$control"

# Mount with the faults at hand, and none ordered.
mount_with_faults() {
    rm -f "$control"
    : >"$log"
    KVFS_LOG=$log KVFS_RING_FAULTS=$control LD_PRELOAD=$faults mount_image "$@"
}

# expect_bad_end: unmounting says that something is wrong, and so does the daemon.
expect_bad_end() {
    local status=0 daemon_status=0 lines
    timeout -k 5 120 "$bin/kvfs" umount "$mnt" >"$tmp/umount.out" 2>&1 || status=$?
    [ "$status" = 1 ] || fail "kvfs umount: status $status: $(cat "$tmp/umount.out")"
    grep -q "the log is replayed at the next mount" "$tmp/umount.out" ||
        fail "kvfs umount does not say what happened: $(cat "$tmp/umount.out")"
    ! is_mounted || fail "still mounted"
    wait "$daemon" || daemon_status=$?
    daemon=
    [ "$daemon_status" = 32 ] || fail "mount.kvfs -f ended with status $daemon_status"
    lines=$(grep -c "the store is read-only until it is opened anew" "$log" || true)
    [ "$lines" = 1 ] || fail "the log says it $lines times: $(head -c 2000 "$log")"
    [ "$(grep -c 'error:' "$log")" -le 2 ] || fail "more errors than one: $(head -c 2000 "$log")"
}

# Without faults everything acknowledged is there, and nothing else is wrong.
expect_good_again() {
    fsck_clean
    KVFS_LOG=$log mount_image
    "$clients" check "$mnt" "$list"
    umount_image
    wait "$daemon" || fail "mount.kvfs -f: status $?"
    daemon=
}

kinds=(lost EIO@writes lost torn@writes EIO lost)
for ((round = 0; round < FAULT_ROUNDS; round++)); do
    kind=${kinds[round % ${#kinds[@]}]}
    how=once
    [ $((round / 2 % 2)) = 0 ] || how=lasting
    # Before the first fsync of a group, in the middle of one, or many later.
    after=$(((round * 7 + KVFS_SEED) % 40))
    say "$kind $how after $after"
    make_image 64M
    mount_with_faults -o commit_interval=50ms
    "$clients" run "$mnt" "$control" "$list" "$kind" "$how" "$after" "$((KVFS_SEED + round))"
    expect_bad_end
    expect_good_again
done

say "a flush that fails while nobody waits"
make_image 64M
mount_with_faults -o commit_interval=20ms
"$clients" quiet "$mnt" "$control" "$list"
expect_bad_end
expect_good_again

say "the flush of the last checkpoint fails"
make_image 64M
mount_with_faults -o commit_interval=60s
echo durable >"$mnt/file"
sync "$mnt/file"
echo changed >"$mnt/file"
: >"$list"
"$clients" order "$control" lost lasting 0 1
expect_bad_end
KVFS_LOG=$log mount_image
# Of the second write nothing was promised: whole or absent.
grep -qx 'durable\|changed' "$mnt/file" || fail "the file holds: $(cat "$mnt/file")"
umount_image
wait "$daemon" || fail "mount.kvfs -f: status $?"
daemon=
expect_good_again

say "seed $KVFS_SEED: $((FAULT_ROUNDS + 2)) mounts whose device failed; nothing was lost"
