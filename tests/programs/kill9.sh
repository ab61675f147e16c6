#!/bin/bash
# Is everything that was promised there after kill -9 of the daemon, over and over?
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

size KILL9_KILLS 5 100
size KILL9_THREADS 5 10
size KILL9_MOST_MS 1500 3000
kept_rounds=10
RANDOM=$KVFS_SEED

seed_of() {
    echo $((KVFS_SEED * 100000 + $1))
}

check_round() {
    "$bin/test-crashload" check "$mnt/round-$1" "$tmp/log-$1" --threads "$KILL9_THREADS" \
        --seed "$(seed_of "$1")"
}

check_all_rounds() {
    local first=$(($1 - kept_rounds + 1)) round
    for ((round = first > 1 ? first : 1; round <= $1; round++)); do
        check_round "$round"
    done
}

make_image "${KILL9_IMAGE:-8G}"
mount_image
for ((kill = 1; kill <= KILL9_KILLS; kill++)); do
    mkdir "$mnt/round-$kill"
    # The directory itself must be there after the crash, whenever that comes.
    sync "$mnt/round-$kill"
    background "$bin/test-crashload" run "$mnt/round-$kill" "$tmp/log-$kill" --seconds 600 \
        --threads "$KILL9_THREADS" --seed "$(seed_of "$kill")"
    if [ "$kill" -gt "$kept_rounds" ]; then
        rm -rf "$mnt/round-$((kill - kept_rounds))"
    fi
    wait_ms=$((100 + RANDOM % KILL9_MOST_MS))
    sleep "$((wait_ms / 1000)).$(printf '%03d' $((wait_ms % 1000)))"
    kill -0 "$job" 2>/dev/null || fail "kill $kill: the load ended before the kill"
    kill_daemon
    wait "$job" || fail "kill $kill: the load failed, and not because of the kill"
    detach_dead
    say "kill $kill of $KILL9_KILLS after $wait_ms ms"

    # Every other time the check sees what the crash left, before a mount mends it.
    if ((kill % 2)); then
        fsck_clean
    fi
    mount_image
    check_round "$kill"
    umount_image
    fsck_clean
    mount_image
    if ((kill % 5 == 0 || kill == KILL9_KILLS)); then
        check_all_rounds "$kill"
    fi
done
umount_image
fsck_clean
