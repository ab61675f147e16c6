#!/bin/bash
# tests/faults/plants/plant.sh: do the tests bite? Plant each bug of `bugs` in turn: the program
# that is named there must pass without it and fail with it.
#
#   plant.sh BIN_DIR [BUG...]     BIN_DIR: the programs that were built with KV_PLANTS
#
# A test that a bug brings to a halt does not count as one that catches it. KVFS_PLANT_SEED is
# the seed of all runs (42); PLANT_VERBOSE=1 shows what the failing programs say.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
bin=$(cd "$1" && pwd)
shift
seconds=240
# What fails or hangs leaves its files behind: all of it goes with this directory.
TMPDIR=$(mktemp -d "/tmp/kvfs-plant.XXXXXX")
trap 'rm -rf "$TMPDIR"' EXIT
out=$TMPDIR/out
export TMPDIR KVFS_SEED=${KVFS_PLANT_SEED:-42} KVFS_SOAK_OPS=${KVFS_SOAK_OPS:-20000}
echo "KVFS_SEED=$KVFS_SEED"

# run BUG PROGRAM CASE: what the program ends with; 0 when it can not even be run.
run() {
    local status=0
    [ -x "$bin/$2" ] || { echo "$bin/$2 is not built"; exit 2; }
    env ${1:+"KVFS_PLANT=$1"} ${3:+"CK_RUN_CASE=$3"} timeout -k 5 "$seconds" "$bin/$2" \
        >"$out" 2>&1 </dev/null || status=$?
    return "$status"
}

failures=0
complain() {
    echo "FAIL: $*"
    failures=$((failures + 1))
}

# Every bug of the sources is in the list, and the other way round.
planted=$(grep -hoE 'KV_PLANT\([a-z_]+\)' "$top"/kv/*.c "$top"/fs/*.c | sed 's/.*(//; s/)//' | sort)
listed=$(sed -n 's/^\([a-z_]*\) .*/\1/p' "$here/bugs" | sort)
if [ "$planted" != "$listed" ]; then
    complain "the bugs of the sources and of the list differ:"
    diff <(echo "$planted") <(echo "$listed") || true
fi

declare -A sound
caught=0
while read -r bug program case; do
    case $bug in '' | '#'*) continue ;; esac
    [ $# -eq 0 ] || [[ " $* " == *" $bug "* ]] || continue
    if [ -z "${sound[$program/$case]-}" ]; then
        sound[$program/$case]=1
        run "" "$program" "$case" || { complain "$program $case fails without a bug"; cat "$out"; }
    fi
    status=0
    run "$bug" "$program" "$case" || status=$?
    case $status in
    0) complain "$bug: $program $case passes" ;;
    124 | 137) complain "$bug: $program $case hangs" ;;
    77) complain "$bug: $program $case was skipped" ;;
    *)
        caught=$((caught + 1))
        [ -z "${PLANT_VERBOSE-}" ] || { echo "== $bug"; grep -vE '^(Running|KVFS_SEED)' "$out" | head -5 || true; }
        ;;
    esac
done <"$here/bugs"
echo "plants: $caught bugs caught by ${#sound[@]} tests, $failures failures"
[ "$failures" -eq 0 ]
