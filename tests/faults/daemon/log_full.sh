#!/bin/bash
# A mount with the least log and more writers than it has room for: no deadlock, nothing lost.
set -euo pipefail
# shellcheck source=tests/faults/daemon/lib.sh
source "$(dirname "$0")/lib.sh"

size LOG_FULL_SECONDS 4 120
size LOG_FULL_THREADS 8 32
checkpoints=0

figure() {
    getfattr -n system.kvfs.stats --only-values "$mnt" 2>/dev/null | jq ".store.$1"
}

make_image 1G -l 1M
for sync in fsync always; do
    mount_image -o "sync=$sync,threads=16,memory_budget=16M"
    mkdir "$mnt/$sync"
    background timeout -k 5 $((LOG_FULL_SECONDS + 300)) "$bin/bench-smallfiles" --dir "$mnt" \
        --name "many-$sync" --files 3000 --threads 4 --size 300 --fsync
    bench=$job
    "$bin/test-crashload" run "$mnt/$sync" "$tmp/$sync.log" --seconds "$LOG_FULL_SECONDS" \
        --threads "$LOG_FULL_THREADS" --seed "$KVFS_SEED"
    wait "$bench" || fail "small files beside the load: status $?"
    [ "$(figure log_total_bytes)" = 1048576 ] || fail "the log is not the least one"
    checkpoints=$((checkpoints + $(figure checkpoints)))
    kill9
    fsck_clean
    mount_image
    "$bin/test-crashload" check "$mnt/$sync" "$tmp/$sync.log" --threads "$LOG_FULL_THREADS" \
        --seed "$KVFS_SEED"
    umount_image
    fsck_clean
done
say "log_full: $checkpoints checkpoints made room, nothing lost"
