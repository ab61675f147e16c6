#!/bin/bash
# tests/programs/keys_and_files.sh: docs/keys-and-files.md is true, word for word.
#
# Its commands run in an empty directory, in a network of their own, so that nobody else is at the
# ports that the page names. What it leaves mounted when it fails is unmounted.
set -euo pipefail

# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

need python3 python3
need setfattr attr
command -v prometheus >/dev/null || need_or_skip "no prometheus here: apt-get install prometheus"

page=$source_tree/docs/keys-and-files.md
runner=$programs/console.py
place=$tmp/place
mkdir "$place" "$tmp/path"

leave() {
    local status=$?
    if grep -qF " $place/mnt " /proc/self/mounts; then
        timeout -k 5 60 "$bin/kvfs" umount "$place/mnt" || umount -l "$place/mnt"
    fi
    cleanup "$status"
}
trap leave EXIT

say "the runner sees what is not as the page says"
# is_refused WORDS: the page on standard input is.
is_refused() {
    cat >"$tmp/page.md"
    if (cd "$place" && python3 "$runner" "$tmp/page.md") >"$tmp/out" 2>&1; then
        fail "no complaint: $(cat "$tmp/page.md")"
    fi
    grep -q -- "$1" "$tmp/out" || fail "not \"$1\" but: $(cat "$tmp/out")"
}
is_refused "printed:" < <(printf '```console\n$ echo one\ntwo\n```\n')
is_refused "printed:" < <(printf '```console\n$ echo one\n```\n')
is_refused "printed:" < <(printf '```console\n$ true\none\n```\n')
is_refused "printed:" < <(printf '```console\n$ seq 3\n1\n...\n4\n```\n')
is_refused "status 1" < <(printf '```console\n$ false\n```\n')
is_refused "come to an end" < <(printf '```console\n$ exit 0\n$ true\n```\n')
CONSOLE_SECONDS=1 is_refused "in time" < <(printf '```console\n$ sleep 100\n```\n')
printf '```console\n$ seq 5\n1\n...\n5\n$ cat <<E\n> a b c\n> E\na...c\n$ printf x\nx\n```\n$ false\n' \
    >"$tmp/page.md"
(cd "$place" && python3 "$runner" "$tmp/page.md") >"$tmp/out" 2>&1 || fail "$(cat "$tmp/out")"

say "the page"
# The other transport is not on the page: so mount.kvfs is told of it here.
if [ -n "${KVFS_TRANSPORT-}" ]; then
    printf '#!/bin/sh\nexec %s/mount.kvfs "$@" -o transport=%s\n' "$bin" "$KVFS_TRANSPORT" \
        >"$tmp/path/mount.kvfs"
    chmod +x "$tmp/path/mount.kvfs"
fi
own_network=(unshare --net)
"${own_network[@]}" true 2>/dev/null || own_network=()
cd "$place"
PATH=$tmp/path:$bin:$PATH "${own_network[@]}" bash -c '
    [ "$(readlink /proc/self/ns/net)" = "$1" ] || python3 -c "
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any:  # lo up, as ip link set lo up
    fcntl.ioctl(any, 0x8914, struct.pack(\"16sH14x\", b\"lo\", 1))"
    shift
    exec python3 "$0" "$@"' "$runner" "$(readlink /proc/self/ns/net)" "$page"
cd /
! grep -qF " $place/mnt " /proc/self/mounts || fail "the page leaves its mount"
