#!/bin/bash
# Can the project be built inside the mount, and do its unit tests pass there?
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

need cmake cmake
need ninja ninja-build
size BUILD_TESTS 3 1000
size BUILD_JOBS 2 2

make_image 8G
mount_image
say "copy the sources"
mkdir "$mnt/source" "$mnt/tmp"
(cd "$source_tree" && find . -mindepth 1 -maxdepth 1 ! -name .git ! -name 'build*' -print0) |
    tar -c -f - -C "$source_tree" --null -T - | tar -x -f - -C "$mnt/source"
cd "$mnt/source"

say "configure and build"
cmake -S . -B build -G Ninja -DKVFS_BENCH=OFF >"$tmp/cmake.out" || {
    cat "$tmp/cmake.out" >&2
    fail "cmake"
}
# The smallest tests are enough to see that what was built runs.
mapfile -t tests < <(find tests/kv -name 'test_*.c' -printf '%s %f\n' | sort -n |
    sed -n "1,${BUILD_TESTS}s/.* \(.*\)\.c/\1/p")
[ "${#tests[@]}" -gt 0 ] || fail "no unit tests in tests/kv"
ninja -C build -j "$BUILD_JOBS" kvfs-kv "${tests[@]}" >"$tmp/ninja.out" || {
    tail -n 40 "$tmp/ninja.out" >&2
    fail "ninja"
}

say "run ${tests[*]}"
pattern=$(printf '|%s' "${tests[@]}")
TMPDIR=$mnt/tmp ctest --test-dir build -L kv -R "^kv\.(${pattern:1})\$" --output-on-failure \
    --no-tests=error >"$tmp/ctest.out" 2>&1 || {
    tail -n 60 "$tmp/ctest.out" >&2
    fail "ctest"
}
tail -n 3 "$tmp/ctest.out"

say "nothing is rebuilt after a new mount"
cd /
remount
ninja -C "$mnt/source/build" kvfs-kv "${tests[@]}" >"$tmp/ninja.out"
grep -q 'no work to do' "$tmp/ninja.out" || {
    cat "$tmp/ninja.out" >&2
    fail "ninja sees other times than before the mount"
}
umount_image
fsck_clean
