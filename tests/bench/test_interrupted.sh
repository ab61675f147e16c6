#!/bin/sh
# tests/bench/test_interrupted.sh: what fs-compare measured until it was told to end is told and
# written, and nothing stays mounted.
#
#   test_interrupted.sh DIR-OF-PROGRAMS
set -eu

bench=$(cd "$(dirname "$0")/../../bench" && pwd)
scratch=$(mktemp -d)
clean_up() {
    while read -r _ place _; do
        case $place in "$scratch"/*) umount -l "$place" ;; esac
    done </proc/self/mounts
    rm -rf "$scratch"
}
trap clean_up EXIT

mkdir "$scratch/work"
"$bench/fs-compare" --tiny --rounds 10000 --rows 'unlink/4k' --targets kvfs --bin "$1" \
    --dir "$scratch/work" --json "$scratch/result.json" >"$scratch/tables" 2>"$scratch/words" &
pid=$!
until grep -q '^round 2:' "$scratch/words"; do
    if ! kill -0 "$pid" 2>/dev/null; then
        status=0
        wait "$pid" || status=$?
        cat "$scratch/words" >&2
        exit "$status" # 77: it can not be run here
    fi
    sleep 0.1
done
kill -TERM "$pid"
status=0
wait "$pid" || status=$?

fail() {
    echo "$1" >&2
    cat "$scratch/words" >&2
    exit 1
}
[ "$status" -eq 1 ] || fail "status $status"
[ -z "$(ls -A "$scratch/work")" ] || fail "left behind: $(ls -A "$scratch/work")"
! grep -q "$scratch" /proc/self/mounts || fail "left mounted"
grep -q Interrupted "$scratch/tables" || fail "the tables do not say that they are of a part"
jq -e '.interrupted and (.rows."unlink/4k".targets.kvfs.rates | length >= 2)' \
    "$scratch/result.json" >/dev/null || fail "what was measured is not there"
