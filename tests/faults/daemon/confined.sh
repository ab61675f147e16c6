#!/bin/bash
# What rights has the daemon after mounting, in each of its threads? And does all work with them?
set -euo pipefail
# shellcheck source=tests/faults/daemon/lib.sh
source "$(dirname "$0")/lib.sh"

sys_admin=0000000000200000 # umount2 asks for it
none=0000000000000000

# status_of TASK_STATUS FIELD
status_of() {
    awk -v field="$2:" '$1 == field { print $2 }' "$1"
}

threads=0
# expect_confined SECCOMP
expect_confined() {
    local task file field wanted pair
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
        for pair in CapEff:$sys_admin CapPrm:$sys_admin CapInh:$none CapBnd:$none CapAmb:$none \
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
say "confined: $threads threads looked at"
