#!/bin/bash
# tests/bench/test_gate.sh: bench/gate lets a tree pass that is as it was, and stops a slow one.
#
#   test_gate.sh SLOW_REQUESTS JOBS
#
# SLOW_REQUESTS is the library that makes requests slow. The bounds are far from what noise can do;
# how well gate judges closer ones is for tests/bench/test_interval.py.
set -euo pipefail

slow=$1
jobs=$2
top=$(cd "$(dirname "$0")/../.." && pwd)
gate=$top/bench/gate

skip() {
    echo "SKIP: $*"
    exit 77
}
fail() {
    echo "FAIL: $*" >&2
    exit 1
}
[ "$(id -u)" = 0 ] && [ -e /dev/fuse ] || skip "not root, or no /dev/fuse"
git -C "$top" rev-parse --verify --quiet HEAD >/dev/null || skip "the tree is no git repository"

tmp=$(mktemp -d /tmp/kvfs-gate.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
common=(--sizes tiny --rounds 5 --cache "$tmp/cache" --jobs "$jobs" --dir "$tmp")

# status_of WANTED WORDS COMMAND...
status_of() {
    local wanted=$1 words=$2 status=0
    shift 2
    "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ "$status" = "$wanted" ] ||
        fail "$*: status $status, not $wanted: $(tail -n 20 "$tmp/out" "$tmp/err")"
    grep -q -- "$words" "$tmp/out" "$tmp/err" || fail "$*: does not say \"$words\""
}

echo "== what can not be is said"
status_of 2 "there is no such commit" "$gate" none-of-that-name
status_of 2 "there is no such row" "$gate" HEAD --rows 'nothing/*'
status_of 2 "at least 5" "$gate" HEAD --rounds 4
status_of 2 "mount.kvfs is not there" "$gate" HEAD --build "$tmp"

echo "== the commit against its own programs"
commit=$(git -C "$top" rev-parse HEAD)
mkdir "$tmp/built"
status_of 0 "beyond 99 % of loss and the noise: 0" "$gate" HEAD "${common[@]}" --loss 99 \
    --rows 'fsync/200/1,store/get' --json "$tmp/same.json"
built=$tmp/cache/$commit/build/bin
[ -x "$built/mount.kvfs" ] || fail "the build is not kept in the cache"

echo "== the same, with slow requests"
for program in mkfs.kvfs bench-kv bench-smallfiles; do
    ln -s "$built/$program" "$tmp/built/$program"
done
printf '#!/bin/sh\nLD_PRELOAD=%s exec %s "$@"\n' "$slow" "$built/mount.kvfs" >"$tmp/built/mount.kvfs"
chmod +x "$tmp/built/mount.kvfs"
status_of 1 "create, write, fsync, close; 200 B, 1 thr.: .* slower" "$gate" HEAD "${common[@]}" \
    --loss 30 --rows 'fsync/200/1' --build "$tmp/built" --json "$tmp/slow.json"
grep -q '"suspects": \[' "$tmp/slow.json" || fail "no suspects in the JSON"

echo "== nothing stays"
[ -z "$(find "$tmp" -maxdepth 1 -name 'gate.*')" ] || fail "left: $(ls "$tmp")"
git -C "$top" worktree list | grep -q "$tmp" && fail "a work tree is left"
echo "passed"
