#!/bin/bash
# tests/programs/import.sh: kvfs import into a mount: exact, seen at once, from any interruption on.
#
# The daemon makes the files (fs/apply_packed.h), whatever its control directory is called; without
# one, and for users who may not use it, the kernel makes them. Both must give the same tree.
set -euo pipefail
# shellcheck source=tests/programs/lib-root.sh
source "$(dirname "$0")/lib-root.sh"
need_own_root "$0" "$@"
# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/programs/lib-trees.sh
. "$(dirname "$0")/lib-trees.sh"
need setpriv util-linux
need tar tar
need jq jq
size IMPORT_FILES 3000 100000

source=$tmp/source-tree
mkdir "$source"
make_zoo "$source/zoo"
for ((i = 0; i < IMPORT_FILES; i++)); do
    ((i % 100)) || mkdir -p "$source/many/$((i / 1000))/$((i / 100))"
    printf '%s' "${source:0:i%60}$i" >"$source/many/$((i / 1000))/$((i / 100))/file $i"
done
head -c 3000000 /dev/urandom >"$source/many/large"
ln "$source/many/large" "$source/many/large-too"
describe "$source" "$tmp/source"
tar -c -f "$tmp/source.tar" --format=posix --xattrs --xattrs-include='*' --acls --sparse \
    -C "$source" .

requests() {
    getfattr -n system.kvfs.stats --only-values "$mnt" 2>/dev/null | jq ".requests.$1 // 0"
}
# It has a hole where the source has one.
sparse_stays() {
    [ "$(stat -c %b "$1/zoo/sparse")" -lt 2000 ] || fail "$1: the hole was filled"
}
# refused STATUS WORDS COMMAND...
refused() {
    local wanted=$1 words=$2 status=0
    shift 2
    "$@" >"$tmp/out" 2>&1 || status=$?
    [ "$status" = "$wanted" ] || fail "$*: status $status: $(cat "$tmp/out")"
    grep -q -- "$words" "$tmp/out" || fail "$*: not \"$words\" but: $(cat "$tmp/out")"
}

make_image 2G

say "by the daemon, under another name of its control directory"
mount_image -o control=.other
mkdir "$mnt/seen" "$mnt/seen/many"
! stat "$mnt/seen/many/0" 2>/dev/null # now the kernel knows that it is not there
[ -z "$(ls "$mnt/seen/many")" ]
made=$(requests mknod)
"$bin/kvfs" import --into seen "$mnt" "$source"
compare "$mnt/seen"
sparse_stays "$mnt/seen"
[ "$(($(requests mknod) - made))" -lt 50 ] || fail "the kernel was asked to make the files"
(cd "$mnt" && "$bin/kvfs" import --into below/it seen/many "$source")
compare "$mnt/seen/many/below/it"
rm -rf "$mnt/seen/many/below"
printf 'put a 1\nput seen/b 2\n' | "$bin/kvfs" apply "$mnt"
[ "$(cat "$mnt/a" "$mnt/seen/b")" = 12 ]
printf 'put c 3\n' | "$bin/kvfs" apply "$mnt/seen"
[ "$(cat "$mnt/seen/c")" = 3 ]
rm "$mnt/seen/b" "$mnt/seen/c"
"$bin/kvfs" health "$mnt" >/dev/null
refused 1 "nobody" "$bin/kvfs" apply "$mnt" <<<"delete nobody"
mkdir -p "$tmp/control/.other" "$tmp/free/.kvfs"
refused 1 ".other: a mount has its control directory" "$bin/kvfs" import "$mnt" "$tmp/control"
"$bin/kvfs" import "$mnt" "$tmp/free" # of no meaning here
rmdir "$mnt/.kvfs"

say "a tar, JSON lines, and again"
"$bin/kvfs" import --into tar "$mnt" "$tmp/source.tar"
compare "$mnt/tar"
"$bin/kvfs" export --format json "$mnt/tar" "$tmp/source.json"
"$bin/kvfs" import --into json "$mnt" "$tmp/source.json"
compare "$mnt/json"
sparse_stays "$mnt/json"
before=$(stat -c %i "$mnt/seen/many/0/0/file 1")
"$bin/kvfs" import --into seen "$mnt" "$source"
compare "$mnt/seen"
[ "$before" = "$(stat -c %i "$mnt/seen/many/0/0/file 1")" ] || fail "it was made anew"
echo changed >"$mnt/seen/many/0/0/file 1" # and open, and in the kernel's memory
exec 7<"$mnt/seen/many/0/0/file 1"
"$bin/kvfs" import --into seen "$mnt" "$source"
[ "$(cat <&7)" = changed ] || fail "who has it open sees another file"
exec 7<&-
compare "$mnt/seen"

say "not for everyone"
chmod 755 "$tmp"
umount_image
mount_image -o control=.other,allow_other
mkdir "$mnt/nobody"
chown 65534:65534 "$mnt/nobody"
rm -rf "$tmp/plain" && cp -a "$source/many" "$tmp/plain"
chown -R 65534:65534 "$tmp/plain"
install -m 6755 /bin/true "$tmp/plain/roots"
setpriv --reuid 65534 --regid 65534 --clear-groups \
    "$bin/kvfs" import --into nobody "$mnt" "$tmp/plain"
diff -r "$tmp/plain" "$mnt/nobody"
[ "$(find "$mnt/nobody" -mindepth 1 ! -uid 65534 | wc -l)" = 0 ] || fail "not all is nobody's"
[ "$(stat -c %a "$mnt/nobody/roots")" = 755 ] || fail "setuid is left, and it is another's now"
refused 1 "only root and who mounted it may" setpriv --reuid 65534 --regid 65534 --clear-groups \
    "$bin/kvfs" apply "$mnt/nobody" <<<"put x y"
umount_image
fsck_clean

say "who mounted it need not be root"
# With a device of its own, in a mount namespace that goes with it: whoever may, the host's is left.
mknod -m 666 "$tmp/fuse" c 10 229
make_image 256M
chown 65534:65534 "$image" "$mnt"
mkdir -p "$tmp/small/d"
echo content >"$tmp/small/d/file"
ln "$tmp/small/d/file" "$tmp/small/d/link"
setfattr -n user.x -v y "$tmp/small/d/file"
install -m 6755 /bin/true "$tmp/small/d/roots"
cp -a "$tmp/small" "$tmp/device"
mknod "$tmp/device/null" c 1 3
cat >"$tmp/as-user" <<'EOF'
set -eu
mount --bind "$tmp/fuse" /dev/fuse
as() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
if ! as "$bin/mount.kvfs" "$image" "$mnt"; then
    echo "users can not mount here: left out"
    exit 0
fi
trap 'as "$bin/kvfs" umount "$mnt"' EXIT
as "$bin/kvfs" import "$mnt" "$tmp/small"
[ "$(as cat "$mnt/d/link")" = content ]
[ "$(as stat -c %u:%g:%h "$mnt/d/file")" = 65534:65534:2 ]
[ "$(as getfattr --absolute-names -n user.x --only-values "$mnt/d/file")" = y ]
[ "$(as stat -c %a "$mnt/d/roots")" = 755 ]
grep -qx 'state done' <<<"$(as cat "$mnt/.kvfs/apply")"
! as "$bin/kvfs" import "$mnt" "$tmp/device" 2>"$tmp/out"
grep -q "devices and trusted or security attributes are for root" "$tmp/out"
EOF
export tmp bin mnt image
unshare -m bash "$tmp/as-user" || fail "a user's own mount: status $?: $(cat "$tmp/out")"
fsck_clean
chown 0:0 "$image" "$mnt"

say "without a control directory"
make_image 2G
mount_image -o control=none
"$bin/kvfs" import --into plain "$mnt" "$source"
compare "$mnt/plain"
sparse_stays "$mnt/plain"
refused 1 "control=none" "$bin/kvfs" apply "$mnt" <<<"put x y"
refused 3 "control=none" "$bin/kvfs" health "$mnt"
"$bin/kvfs" import "$mnt" "$tmp/free"
[ -d "$mnt/.kvfs" ]
umount_image
fsck_clean

say "with gathered writes"
make_image 2G
mount_image -o writeback
"$bin/kvfs" import --into seen "$mnt" "$source"
compare "$mnt/seen"
refused 1 "nobody" "$bin/kvfs" apply "$mnt" <<<"delete nobody"
umount_image

say "killed, the import or the daemon, and run again"
make_image 2G
mount_image
for part in 1 2 3 4 5 6; do
    background "$bin/kvfs" import --into seen "$mnt" "$source"
    sleep "0.0$(((KVFS_SEED * 7 + part * 3) % 10))"
    if ((part % 2)); then
        kill -9 "$job" 2>/dev/null || true
        wait "$job" || true
    else
        kill9
        wait "$job" || true
        fsck_clean
        mount_image
    fi
done
"$bin/kvfs" import --into seen "$mnt" "$source"
compare "$mnt/seen"
umount_image
fsck_clean
mount_image
compare "$mnt/seen"
