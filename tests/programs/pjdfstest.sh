#!/bin/bash
# Does every system call behave as POSIX says? By pjdfstest, of which PJDFSTEST_DIR names a
# built checkout (https://github.com/pjd/pjdfstest); how to build it: tests/README.md.
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

[ -n "${PJDFSTEST_DIR-}" ] ||
    need_or_skip "set PJDFSTEST_DIR to a checkout of pjdfstest that is built (tests/README.md)"
[ -x "$PJDFSTEST_DIR/pjdfstest" ] || fail "$PJDFSTEST_DIR/pjdfstest is not there: build it"
need prove perl
need openssl openssl
suite=$(cd "$PJDFSTEST_DIR" && pwd)

# All of the suite, or what PJDFSTEST_ONLY names: "rename unlink/00.t".
paths=()
for name in ${PJDFSTEST_ONLY:-.}; do
    [ -e "$suite/tests/$name" ] || fail "PJDFSTEST_ONLY: $suite/tests/$name is not there"
    paths+=("$suite/tests/$name")
done

make_image 4G
# Other users, device nodes and set-user-ID bits are part of what is tested.
mount_image -o allow_other,dev,suid
mkdir "$mnt/work"
chmod 755 "$mnt/work"
status=0
(cd "$mnt/work" && prove -r --nocolor "${paths[@]}") >"$tmp/prove.out" 2>&1 || status=$?
grep -v '\.\. ok$' "$tmp/prove.out" || true
if [ -n "${PJDFSTEST_LOG-}" ]; then
    cp "$tmp/prove.out" "$PJDFSTEST_LOG"
fi
umount_image
fsck_clean
[ "$status" = 0 ] || fail "pjdfstest: status $status"
