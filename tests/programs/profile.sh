#!/bin/bash
# tests/programs/profile.sh: kvfs profile draws the daemon of a mount at work, and says what is
# missing where it can not.
#
# What perf says when it may not, or fails, is played by programs of that name; the picture is made
# by the real one, where it is there and permitted.
set -euo pipefail

# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

need python3 python3

# refused STATUS WORDS COMMAND...: it ends so and says that.
refused() {
    local expected=$1 words=$2 status=0
    shift 2
    "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ "$status" = "$expected" ] || fail "$*: status $status instead of $expected: $(cat "$tmp/err")"
    grep -q -- "$words" "$tmp/err" || fail "$*: not \"$words\" but: $(cat "$tmp/err")"
}
# End what `background` began, whose pid is in $worker, and all that it started.
end_worker() {
    { kill_family "$worker"; wait "$worker"; } 2>/dev/null || true
}

make_image 256M

say "wrong input"
mount_image
mkdir "$tmp/scratch"
export TMPDIR=$tmp/scratch
refused 1 'not in a kvfs mount' "$bin/kvfs" profile "$tmp"
refused 1 'not in a kvfs mount' "$bin/kvfs" profile "$tmp/nothing"
refused 2 'usage' "$bin/kvfs" profile
for wrong in 0 -1 x 1x '' 100000 nan; do
    refused 2 'give seconds' "$bin/kvfs" profile --seconds "$wrong" "$mnt"
done
"$bin/kvfs" profile --help >"$tmp/out"
grep -q '^Example: ' "$tmp/out" || fail "--help has no example"
grep -q '^Exit status: ' "$tmp/out" || fail "--help tells no exit status"
for wrong in 0 x 20000; do
    refused 2 'give samples in a second' "$bin/kvfs" profile --frequency "$wrong" "$mnt"
done
say "no perf, and what it says when perf may not"
mkdir "$tmp/empty" "$tmp/denied"
refused 3 'apt-get install linux-perf' env PATH="$tmp/empty" "$bin/kvfs" profile --seconds 0.1 "$mnt"
printf '#!/bin/sh\necho "Error: No permission to enable cycles event: perf_event_paranoid" >&2\nexit 255\n' \
    >"$tmp/denied/perf"
printf '#!/bin/sh\necho "out of cheese" >&2\nexit 9\n' >"$tmp/empty/perf"
chmod +x "$tmp/denied/perf" "$tmp/empty/perf"
refused 4 'kernel.perf_event_paranoid=1' env PATH="$tmp/denied:$PATH" "$bin/kvfs" profile \
    --seconds 0.1 "$mnt"
refused 1 'perf failed (status 9): out of cheese' env PATH="$tmp/empty:$PATH" "$bin/kvfs" profile \
    --seconds 0.1 "$mnt"
printf '#!/bin/sh\n' >"$tmp/empty/perf"
refused 1 'did nothing in 0.1 s' env PATH="$tmp/empty:$PATH" "$bin/kvfs" profile \
    --seconds 0.1 -o "$tmp/new.svg" "$mnt"
[ ! -e "$tmp/new.svg" ] || fail "a picture of nothing"
if ! command -v perf >/dev/null || ! perf record -q -e cpu-clock -o "$tmp/try" -- true 2>/dev/null; then
    umount_image
    need_or_skip "perf is not there or not permitted: all but the picture was tested"
fi
say "the daemon at work"
cat >"$tmp/work.py" <<'EOF'
import os, sys
while True:
    for i in range(100):
        with open(f"{sys.argv[1]}/{i}", "wb") as file:
            file.write(b"content " * 1000)
    for i in range(100):
        os.unlink(f"{sys.argv[1]}/{i}")
EOF
background python3 "$tmp/work.py" "$mnt"
worker=$job
echo "an older picture, $(head -c 100000 /dev/zero | tr '\0' x)" >"$tmp/busy.svg"
(cd "$tmp" && "$bin/kvfs" profile "$mnt" --seconds 1 --frequency 499 -o busy.svg) ||
    fail "no picture: status $?"
"$bin/kvfs" profile "$mnt" --seconds 1 --frequency 499 -p --folded -o "$tmp/busy.folded"
"$bin/kvfs" profile "$mnt" --seconds 1 --frequency 499 -o - >"$tmp/shown.svg"
refused 1 'give -o a file' "$bin/kvfs" profile "$mnt" --seconds 600 -o "$tmp/nothing/x.svg"
end_worker
for svg in "$tmp/busy.svg" "$tmp/shown.svg"; do
    python3 - "$svg" <<'EOF'
import sys, xml.etree.ElementTree as tree
top = tree.parse(sys.argv[1]).getroot()
titles = [t.text for t in top.iter("{http://www.w3.org/2000/svg}title")]
assert titles[0].startswith("all: "), titles[:3]
assert any(t.startswith("mount.kvfs: ") for t in titles), titles[:5]
assert len(titles) > 5, titles
EOF
done
grep -q '^mount.kvfs;.* [0-9]*$' "$tmp/busy.folded" || fail "not folded: $(cat "$tmp/busy.folded")"
[ -z "$(ls -A "$tmp/scratch")" ] || fail "profile leaves files behind: $(ls -R "$tmp/scratch")"
umount_image
fsck_clean
