#!/bin/bash
# Is a file gone for everyone at its moment: with warm kernel caches, after a new mount, after a
# kill, in listings; and is its space given back?
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

need setfattr attr
size EXPIRY_FILES 3000 200000

ttl() {
    setfattr -n user.kvfs.ttl -v "$1" "$2"
}

# until WHAT COMMAND...: COMMAND must come true. How long that takes is up to the machine.
until_true() {
    local what=$1 tenths=600
    shift
    until "$@"; do
        [ $((tenths -= 1)) -gt 0 ] || fail "after a minute still not: $what"
        sleep 0.1
    done
}
is_empty() {
    [ -z "$(ls -A "$1")" ]
}
none_expires() {
    [ "$(find "$mnt" -name 'file*' | wc -l)" = 0 ] && [ "$(used_bytes)" -le "$1" ]
}

make_image 2G
mount_image

say "one file, seen before it had its time and listed"
echo content >"$mnt/one"
cat "$mnt/one" >/dev/null
ls "$mnt" >/dev/null
exec 5<"$mnt/one"
before=$(date +%s%N)
ttl 3 "$mnt/one"
[ "$(getfattr --only-values -n user.kvfs.ttl "$mnt/one")" -le 3 ] || fail "more time than given"
# Is it there until then? Only if the machine was not busy elsewhere is that a question.
seen=$(cat "$mnt/one" 2>/dev/null || true)
if [ $(($(date +%s%N) - before)) -lt 2900000000 ] && [ "$seen" != content ]; then
    fail "gone before its time"
fi
sleep 3.1
[ ! -e "$mnt/one" ] || fail "stat finds it after its moment"
! cat "$mnt/one" 2>/dev/null || fail "it is read after its moment"
until_true "the listing is without it" is_empty "$mnt"
[ "$(cat <&5)" = content ] || fail "who has it open can not read it any more"
exec 5<&-
echo again >"$mnt/one" || fail "its name can not be used again"
[ "$(cat "$mnt/one")" = again ] || fail "the new file is not what was written"
rm "$mnt/one"

say "a directory's default, $EXPIRY_FILES files"
free=$(used_bytes)
mkdir "$mnt/cache"
ttl 4s "$mnt/cache"
(cd "$mnt/cache" && for ((i = 0; i < EXPIRY_FILES; i++)); do echo "$i" >"file$i"; done)
until_true "the directory is empty" is_empty "$mnt/cache"
until_true "their space is given back" none_expires $((free + (2 << 20)))
rmdir "$mnt/cache"

say "the clock runs on while nothing is mounted, and over a kill"
mkdir "$mnt/a" "$mnt/b"
echo x >"$mnt/a/file1"
echo x >"$mnt/b/file2"
echo x >"$mnt/b/stays"
ttl 1 "$mnt/a/file1"
ttl 1 "$mnt/b/file2"
umount_image
sleep 1.1
mount_image
[ ! -e "$mnt/a/file1" ] || fail "it is there again after a new mount"
until_true "what expired meanwhile is removed" is_empty "$mnt/a"
for name in file3 file4; do
    echo x >"$mnt/a/$name"
    ttl 1 "$mnt/a/$name"
done
sync "$mnt/a"
kill_daemon
detach_dead
sleep 1.1
mount_image
[ ! -e "$mnt/a/file3" ] || fail "it is there again after a kill"
until_true "what expired meanwhile is removed" is_empty "$mnt/a"
[ "$(ls "$mnt/b")" = stays ] || fail "what has no time has gone too: $(ls "$mnt/b")"

say "refused: several names, nonsense"
echo x >"$mnt/plain"
ttl 1h "$mnt/plain"
! ln "$mnt/plain" "$mnt/second" 2>/dev/null || fail "what expires got a second name"
! ttl soon "$mnt/plain" 2>/dev/null || fail "nonsense is taken for a time"
setfattr -x user.kvfs.ttl "$mnt/plain"
ln "$mnt/plain" "$mnt/second"
! ttl 1h "$mnt/plain" 2>/dev/null || fail "what has two names got a time"

umount_image
fsck_clean
