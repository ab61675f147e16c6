#!/bin/bash
# Mounts of plain users: who may enter, and what an image of somebody's own can not do.
#
#   user.sh DIR_OF_THE_PROGRAMS
#
# Works in a mount namespace of its own, with a /dev/fuse for everyone and an /etc of
# its own.
set -euo pipefail
# shellcheck source=tests/programs/lib-root.sh
source "$(dirname "$0")/../../programs/lib-root.sh"
own_namespace "$0" "$@"
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/../../programs/lib.sh"

need fusermount3 fuse3
need setpriv util-linux
[ -u "$(command -v fusermount3)" ] || need_or_skip "fusermount3 is not setuid root"
user=1000 other=1001 checks=0

end_user() {
    local status=$1
    trap - ERR
    umount -l "$tmp/mine" 2>/dev/null || true
    umount -l /etc /dev/fuse "$tmp/dev" 2>/dev/null || true
    cleanup "$status"
}
trap - ERR
trap 'end_user $?' EXIT

as() {
    local id=$1
    shift
    setpriv --reuid "$id" --regid "$id" --clear-groups -- "$@"
}

check() {
    "$@" || fail "not so: $*"
    checks=$((checks + 1))
}

# refused WORDS COMMAND...: it fails, and says that.
refused() {
    local words=$1
    shift
    if "$@" >"$tmp/out" 2>&1; then
        fail "not refused: $*"
    fi
    grep -Eqi "$words" "$tmp/out" || fail "$*: says $(cat "$tmp/out"), not $words"
    checks=$((checks + 1))
}

options_of() {
    awk -v dir="$1" '$2 == dir { print "," $4 "," }' /proc/self/mounts | tail -n 1
}

has_option() {
    [[ "$(options_of "$1")" == *",$2,"* ]]
}

lacks_option() {
    ! has_option "$@"
}

# The programs may lie where a plain user can not go.
mkdir "$tmp/bin" "$tmp/dev" "$tmp/mine"
cp "$bin"/{mkfs.kvfs,mount.kvfs,fsck.kvfs,kvfs} "$tmp/bin"
mount -t tmpfs none "$tmp/dev"
mknod -m 666 "$tmp/dev/fuse" c 10 229
mount --bind "$tmp/dev/fuse" /dev/fuse
cp -a /etc "$tmp/etc"
mount --bind "$tmp/etc" /etc
echo "# empty" >/etc/fuse.conf
# fusermount3 serves only who has a name, and wants a list of mounts.
sed -Ei "/^[^:]*:[^:]*:($user|$other):/d" /etc/passwd
for id in "$user" "$other"; do
    echo "kvfs-test-$id:x:$id:$id::/:/bin/sh" >>/etc/passwd
done
[ -e /etc/mtab ] || ln -s ../proc/self/mounts /etc/mtab
chown "$user:$user" "$tmp/mine"

say "mounted by root: for others only when asked for"
make_image 64M
mount_image
check has_option "$mnt" default_permissions
refused "permission denied" as "$user" ls "$mnt"
refused "permission denied" as "$user" stat "$mnt/."
umount_image
mount_image -o allow_other
check has_option "$mnt" allow_other
check has_option "$mnt" default_permissions
check as "$user" ls "$mnt"
refused "permission denied" as "$user" mkdir "$mnt/d"

# What an image can hold that its owner must not be able to use.
cp "$(command -v id)" "$mnt/id"
chmod 4755 "$mnt/id"
mknod -m 666 "$mnt/zero" c 1 5
echo secret >"$mnt/secret"
chmod 600 "$mnt/secret"
mkdir -m 700 "$mnt/closed"
chmod 755 "$mnt"
check test "$(as "$user" "$mnt/id" -u)" = 0
umount_image
mount_image -o allow_other,nosuid,nodev
check test "$(as "$user" "$mnt/id" -u)" = "$user"
refused "permission denied" head -c 1 "$mnt/zero"
umount_image

say "mounted by a plain user: nosuid, nodev, for nobody else"
chown "$user:$user" "$image"
refused "permission denied|read-only" as "$other" "$tmp/bin/mount.kvfs" "$image" "$tmp/mine"
mine=$tmp/mine
start() {
    as "$user" timeout 90 "$tmp/bin/mount.kvfs" "$image" "$mine" "$@"
}
stop() {
    check as "$user" timeout 90 "$tmp/bin/kvfs" umount "$mine"
}
check start
for option in nosuid nodev default_permissions "user_id=$user" "group_id=$user"; do
    check has_option "$mine" "$option"
done
check lacks_option "$mine" allow_other
refused "permission denied" ls "$mine"
refused "permission denied" as "$other" ls "$mine"
check test "$(as "$user" "$mine/id" -u)" = "$user"
refused "permission denied" as "$user" head -c 1 "$mine/zero"
refused "permission denied" as "$user" cat "$mine/secret"
refused "permission denied" as "$user" ls "$mine/closed"
refused "permission denied" as "$user" touch "$mine/new"
refused "not permitted" as "$user" chown "$user" "$mine/secret"
refused "not permitted" as "$user" chmod 666 "$mine/secret"
refused "not permitted|permission denied" as "$user" mknod "$mine/dev" c 1 3
refused "permission denied" as "$user" rm -f "$mine/secret"
stop

say "and what a plain user can not ask for"
refused "allow_other" start -o allow_other
check test -z "$(options_of "$mine")"
for option in suid dev; do
    if start -o "$option" >"$tmp/out" 2>&1; then
        check has_option "$mine" "no$option"
        stop
    fi
    check test -z "$(options_of "$mine")"
done
echo user_allow_other >/etc/fuse.conf
check start -o allow_other
check has_option "$mine" nosuid
check has_option "$mine" nodev
check has_option "$mine" default_permissions
check as "$other" ls "$mine"
check ls "$mine"
refused "permission denied" as "$other" cat "$mine/secret"
refused "permission denied" as "$other" touch "$mine/new"
stop
refused "permission denied|not permitted" as "$other" "$tmp/bin/mount.kvfs" "$image" "$mine"
fsck_clean
say "$checks checks"
