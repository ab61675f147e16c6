#!/bin/bash
# What rights has the daemon after mounting, in each of its threads? And does all work with them?
set -euo pipefail
# shellcheck source=tests/faults/daemon/lib.sh
source "$(dirname "$0")/lib.sh"

sys_admin=0000000000200000 # umount2 asks for it
searching=0000000000200004 # and CAP_DAC_READ_SEARCH, on a way that others only may go
none=0000000000000000

# status_of TASK_STATUS FIELD
status_of() {
    awk -v field="$2:" '$1 == field { print $2 }' "$1"
}

threads=0
# expect_confined SECCOMP [CAPABILITIES]
expect_confined() {
    local task file field wanted pair kept=${2-$sys_admin}
    for task in "/proc/$daemon/task/"*; do
        # The kernel's own helpers of io_uring act with the rights of who asks them.
        case $(cat "$task/comm" 2>/dev/null) in iou-*) continue ;; esac
        file=$task/status
        # That which only keeps the image's lock has no rights, so its bounds bound nothing.
        if [ "$(status_of "$file" CapPrm)" = "$none" ]; then
            for pair in "CapEff:$none" "CapInh:$none" "CapAmb:$none" NoNewPrivs:1 "Seccomp:$1"; do
                [ "$(status_of "$file" "${pair%:*}")" = "${pair#*:}" ] || fail "$file: not $pair"
            done
            threads=$((threads + 1))
            continue
        fi
        for pair in "CapEff:$kept" "CapPrm:$kept" CapInh:$none CapBnd:$none CapAmb:$none \
            NoNewPrivs:1 "Seccomp:$1"; do
            field=${pair%:*} wanted=${pair#*:}
            [ "$(status_of "$file" "$field")" = "$wanted" ] ||
                fail "$file: $field is $(status_of "$file" "$field"), not $wanted"
        done
        threads=$((threads + 1))
    done
    [ "$(readlink "/proc/$daemon/cwd")" = / ] || fail "the daemon keeps a directory busy"
    for file in 0 1 2; do
        [ "$(readlink "/proc/$daemon/fd/$file")" = /dev/null ] || fail "descriptor $file is open"
    done
    [ "$(status_of "/proc/$daemon/status" Umask)" = 0077 ] || fail "its umask is another"
}

exercise() {
    "$bin/bench-smallfiles" --dir "$mnt" --files 2000 --threads 4 >/dev/null
    "$bin/test-crashload" run "$mnt" "$tmp/load.log" --seconds 2 --threads 8 --seed "$KVFS_SEED"
    "$bin/test-crashload" check "$mnt" "$tmp/load.log" --threads 8 --seed "$KVFS_SEED"
    rm -rf "${mnt:?}"/t*
    df "$mnt" >/dev/null
    getfattr -n system.kvfs.stats --only-values "$mnt" | jq -e . >/dev/null
    kill -USR1 "$daemon" # writes to the log
    "$bin/kvfs" sync "$mnt"
}

make_image 1G
if [ -n "${KVFS_LOG-}" ]; then
    need_or_skip "the daemon in the foreground keeps its terminal: unset KVFS_LOG"
fi
for seccomp in on off; do
    mount_image -o "seccomp=$seccomp"
    mode=2
    [ "$seccomp" = on ] || mode=0
    expect_confined "$mode"
    exercise
    expect_confined "$mode"
    umount_image
    expect_gone "kvfs umount"
    mount_image -o "seccomp=$seccomp"
    kill -TERM "$daemon" # umount2 by the daemon itself
    expect_gone "SIGTERM"
    fsck_clean
done
mount_image # on by itself
expect_confined 2
umount_image
expect_gone "kvfs umount"

# Below a directory that only somebody else may search, the mount can still be taken away; nothing but
# that needs the right to.
mkdir -p "$tmp/private/mnt"
chown 65534:65534 "$tmp/private"
chmod 700 "$tmp/private"
mnt=$tmp/private/mnt
for seccomp in on off; do
    mount_image -o "seccomp=$seccomp,auto_unmount"
    mode=2
    [ "$seccomp" = on ] || mode=0
    expect_confined "$mode" "$searching"
    kill -TERM "$daemon"
    expect_gone "SIGTERM below a private directory"
    mount_image -o "seccomp=$seccomp,auto_unmount"
    helper=$(ps -o pid= --ppid "$daemon" | tr -d ' ')
    [ "$(status_of "/proc/$helper/status" CapPrm)" = "$searching" ] || fail "the helper's rights"
    kill_daemon
    wait_gone "$helper" 60 || fail "the helper of auto_unmount lives on"
    ! is_mounted || fail "auto_unmount left a dead mount below a private directory"
done

# Where there is no such right to keep, as in most containers, all others are given up nevertheless.
setpriv --bounding-set -dac_read_search "$bin/mount.kvfs" "$image" "$mnt" </dev/null
daemon=$(find_daemon)
expect_confined 2
umount "$mnt"
expect_gone "umount below a private directory"

# One that was made private later: the daemon ends, and says what it leaves behind.
chown 0:0 "$tmp/private"
"$bin/mount.kvfs" -f "$image" "$mnt" </dev/null 2>"$tmp/words" &
daemon=$!
await_mount "mount.kvfs -f" 60
stat "$mnt/." >/dev/null # it answers, so it is as confined as it will be
chown 65534:65534 "$tmp/private"
kill -TERM "$daemon"
wait_gone "$daemon" 60 || fail "the daemon, process $daemon, lives on"
grep -qF "$mnt: can not be unmounted: Permission denied; remove the dead mount with: umount $mnt" \
    "$tmp/words" || fail "says nothing of the mount that it leaves: $(cat "$tmp/words")"
umount "$mnt" || fail "the remedy does not work"
fsck_clean
say "confined: $threads threads looked at"
