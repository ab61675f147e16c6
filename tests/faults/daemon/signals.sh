#!/bin/bash
# SIGTERM under load, and more signals while the daemon ends: exit status 0, all promises kept,
# a clean image that needs no replay.
set -euo pipefail
# shellcheck source=tests/faults/daemon/lib.sh
source "$(dirname "$0")/lib.sh"

size SIGNALS_ROUNDS 4 100
size SIGNALS_THREADS 4 8
KVFS_LOG=$tmp/daemon.log # in the foreground: its status can be had
sent=0

make_image 2G
for ((round = 1; round <= SIGNALS_ROUNDS; round++)); do
    mount_image -o threads=6
    mkdir "$mnt/round-$round"
    sync "$mnt/round-$round"
    background "$bin/test-crashload" run "$mnt/round-$round" "$tmp/log-$round" --seconds 600 \
        --threads "$SIGNALS_THREADS" --seed "$((KVFS_SEED * 1000 + round))"
    sleep 0.2
    random_ms 1200
    kill -0 "$job" 2>/dev/null || fail "the load ended before the signal"
    first=(TERM INT HUP)
    kill -s "${first[round % 3]}" "$daemon"
    # While it unmounts, waits, makes its checkpoint, and exits.
    while { ! grep -q '^State:.Z' "/proc/$daemon/status" &&
        kill -s "${first[RANDOM % 3]}" "$daemon"; } 2>/dev/null; do
        sent=$((sent + 1))
        random_ms 30
    done
    status=0
    wait "$daemon" || status=$?
    [ "$status" = 0 ] || {
        tail "$KVFS_LOG" >&2
        fail "round $round: the daemon's exit status is $status"
    }
    # It sees the directory under the mount point now, where nothing is.
    kill "$job" 2>/dev/null || true
    wait "$job" 2>/dev/null || true
    [ -z "$(ls -A "$mnt")" ] || fail "round $round: something was written beside the mount"
    ! is_mounted || fail "round $round: $mnt is still mounted"
    [ -z "$(find_daemon)" ] || fail "round $round: the image is still in use"
    "$bin/kvfs" info --json "$image" | jq -e '.clean' >/dev/null ||
        fail "round $round: the image is not clean"
    fsck_clean
    mount_image
    "$bin/test-crashload" check "$mnt/round-$round" "$tmp/log-$round" \
        --threads "$SIGNALS_THREADS" --seed "$((KVFS_SEED * 1000 + round))"
    rm -rf "$mnt/round-$round"
    umount_image
done
! grep -q replayed "$KVFS_LOG" || fail "a clean end left something to replay"
[ "$sent" -ge 1 ] || fail "the daemon was gone before a second signal"
say "signals: $SIGNALS_ROUNDS ends, $sent more signals during them, 0 losses"
