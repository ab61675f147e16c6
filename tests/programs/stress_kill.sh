#!/bin/bash
# tests/programs/stress_kill.sh: kvfs stress --kill, for every way to be durable.
#
# It kills the daemon and mounts again as it was; what it must not do is refused before anything is
# killed. STRESS_SECONDS each.
set -euo pipefail

# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

need jq jq
size STRESS_SECONDS 2 60

options_shown() {
    awk -v dir="$mnt" '$2 == dir { print $4 }' /proc/self/mounts
}

make_image 256M
for options in noatime sync=always sync=checkpoint writeback=yes auto_unmount,buffered_io=yes; do
    say "$options"
    printf '[memory]\nmemory_budget = 24M\n' >"$tmp/mount.conf"
    mount_image -o "$options" -c "$tmp/mount.conf"
    first=$daemon
    shown=$(options_shown)
    (cd "$mnt" && "$bin/kvfs" stress --kill --every 300ms --duration "${STRESS_SECONDS}s" \
        --files 200 --threads 3 --seed "$KVFS_SEED" --json .) >"$tmp/result" ||
        fail "stress: status $?: $(cat "$tmp/result")"
    jq -e '.good and .kills > 0 and .operations > 0 and .threads == 3' "$tmp/result" >/dev/null ||
        fail "the result: $(cat "$tmp/result")"
    say "$(jq -r '"\(.kills) kills, \(.verified) files verified, \(.lost_not_durable) changes lost"' \
        "$tmp/result")"
    if [ "$options" = sync=always ]; then
        jq -e '.lost_not_durable == 0' "$tmp/result" >/dev/null || fail "acknowledged, and lost"
    fi
    daemon=$(find_daemon)
    [ "$daemon" != "$first" ] || fail "the daemon is still the first"
    [ "$(options_shown)" = "$shown" ] || fail "mounted with $shown, and again with $(options_shown)"
    grep -qx memory_budget=24M "$mnt/.kvfs/config" || fail "the file of settings was forgotten"
    grep -qx "${options#*,}" "$mnt/.kvfs/config" || [ "$options" = noatime ] ||
        fail "$options was forgotten"
    [ -z "$(ls -A "$mnt")" ] || fail "left: $(ls -A "$mnt")"
    umount_image
    fsck_clean
done

say "Ctrl-C ends it early and well"
mount_image
background "$bin/kvfs" stress --duration 1h --files 20 --json "$mnt" >"$tmp/result"
stress=$job
until [ -n "$(find "$mnt" -name 'f[0-9]*' -print -quit 2>/dev/null)" ]; do
    sleep 0.1
done
kill -INT "$stress"
wait "$stress" || fail "status $?"
jq -e .good "$tmp/result" >/dev/null
[ -z "$(ls -A "$mnt")" ] || fail "left: $(ls -A "$mnt")"
umount_image

say "what can not be is said before anything is killed"
# refused STATUS WORDS COMMAND...
refused() {
    local wanted=$1 words=$2 status=0
    shift 2
    "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ "$status" = "$wanted" ] || fail "$*: status $status, not $wanted: $(cat "$tmp/err")"
    grep -q -- "$words" "$tmp/err" || fail "$*: not \"$words\" but: $(cat "$tmp/err")"
    [ "$(find_daemon)" = "$daemon" ] || fail "$*: it was killed all the same"
}
mount_image -o control=none
refused 1 "control directory" "$bin/kvfs" stress --kill -d 1s "$mnt"
umount_image
cd "$tmp"
mount_image -c mount.conf
refused 1 "with the whole path" "$bin/kvfs" stress --kill -d 1s "$mnt"
for wrong in "--every 0" "--every soon --kill" "--every 2s" "--duration 0s" "--threads 0"; do
    # shellcheck disable=SC2086 # options and their values
    refused 2 "${wrong%% *}" "$bin/kvfs" stress $wrong "$mnt"
done
umount_image
cd /
