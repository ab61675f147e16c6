#!/bin/bash
# Does every operation that changes something say EROFS on a read-only mount, and does such a
# mount leave every byte of the image alone, also when the log must be replayed?
set -euo pipefail
# shellcheck source=tests/faults/daemon/lib.sh
source "$(dirname "$0")/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)
operations=0

# try_all [late]: see try_changes.py
try_all() {
    local refused
    refused=$(python3 "$here/try_changes.py" "$mnt" "$@") || fail "a change was not refused"
    operations=$((operations + refused))
    expect_errno "Read-only file system" cp "$mnt/file" "$mnt/copy"
    [ "$(cat "$mnt/file")" = content ] || fail "reading does not work"
    [ "$(ls "$mnt")" = $'big\ndir\nfile\nlink' ] || fail "listing does not work"
    sync "$mnt/file" || fail "fsync of a file that is open for reading"
}

need python3 python3
make_image 256M
mount_image
echo content >"$mnt/file"
setfattr -n user.x -v y "$mnt/file"
ln -s file "$mnt/link"
mkdir "$mnt/dir"
umount_image
mount_image
head -c 3000000 /dev/urandom >"$mnt/big"
cp "$mnt/big" "$tmp/big"
sync "$mnt/big"
kill9 # leaves the log to be replayed

sum=$(sha256sum <"$image")
say "read-only, with a log to replay"
mount_image -o ro
cmp "$mnt/big" "$tmp/big" || fail "what only the log holds is not there"
try_all
umount_image
[ "$(sha256sum <"$image")" = "$sum" ] || fail "a read-only mount changed the image"
mount_image -o ro
try_all
kill9
[ "$(sha256sum <"$image")" = "$sum" ] || fail "a read-only mount that was killed changed the image"
chmod 400 "$image"
mount_image -o ro
umount_image
[ "$(sha256sum <"$image")" = "$sum" ] || fail "the third read-only mount changed the image"
chmod 600 "$image"

say "writable, then remounted read-only and back"
mount_image
umount_image
mount_image
exec 9>>"$mnt/big"
expect_errno "busy" mount -i -o remount,ro "$mnt"
exec 9>&-
mount -i -o remount,ro "$mnt"
try_all
mount -i -o remount,rw "$mnt"
echo more >"$mnt/more"
"$bin/mount.kvfs" "$image" "$mnt" -o remount,ro
expect_errno "Read-only file system" rm "$mnt/more"
"$bin/mount.kvfs" "$image" "$mnt" -o remount,rw
rm "$mnt/more"
umount_image
fsck_clean

say "mounted read-only, then remounted writable: it can not become so"
sum=$(sha256sum <"$image")
mount_image -o ro
expect_errno "was mounted read-only" "$bin/mount.kvfs" "$image" "$mnt" -o remount,rw
try_all
mount -i -o remount,rw "$mnt" # the kernel does not ask: the daemon refuses by itself
try_all late
umount_image
[ "$(sha256sum <"$image")" = "$sum" ] || fail "a remount made a read-only image change"
fsck_clean
say "read_only: $operations operations refused, 3 replays without a byte written"
