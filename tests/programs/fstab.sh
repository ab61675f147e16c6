#!/bin/bash
# tests/programs/fstab.sh: mount(8) and fstab, with mount.kvfs and fsck.kvfs installed where they
# look for helpers, in a mount namespace of its own.
#
#   fstab.sh DIR_OF_THE_PROGRAMS
set -euo pipefail
# shellcheck source=tests/programs/lib-root.sh
source "$(dirname "$0")/lib-root.sh"
own_namespace "$0" "$@"
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"
need mount mount
need fsck util-linux
need findmnt util-linux
checks=0

end_fstab() {
    local status=$1
    trap - ERR
    umount -l "$sbin" 2>/dev/null || true
    cleanup "$status"
}

check() {
    "$@" || fail "not so: $*"
    checks=$((checks + 1))
}

# refused STATUS WORDS COMMAND...: it ends with that status, and says that.
refused() {
    local wanted=$1 words=$2 status=0
    shift 2
    "$@" >"$tmp/out" 2>&1 || status=$?
    [ "$status" = "$wanted" ] || fail "$*: status $status, not $wanted: $(cat "$tmp/out")"
    grep -Eq -- "$words" "$tmp/out" || fail "$*: says $(cat "$tmp/out"), not $words"
    checks=$((checks + 1))
}

has_option() {
    [[ ",$(findmnt -n -o OPTIONS -M "$1")," == *",$2,"* ]]
}

lacks_option() {
    ! has_option "$@"
}

setting() {
    grep -qx "$1" "$mnt/.kvfs/config"
}

# Where mount(8) looks for helpers: a copy of what is there already, and our programs. Only ever is
# a directory of the test bound over one of the system, never the other way: what is in the
# directory of the test is removed at the end.
sbin=$(realpath /sbin)
trap - ERR
trap 'end_fstab $?' EXIT
cp -a "$sbin" "$tmp/sbin"
for program in mkfs.kvfs mount.kvfs fsck.kvfs; do
    ln -sf "$bin/$program" "$tmp/sbin/$program"
done
ln -sf mount.kvfs "$tmp/sbin/mount.fuse.kvfs" # as cmake --install does: the type in the table
mount --bind "$tmp/sbin" "$sbin"
make_image 64M
fstab=$tmp/fstab
transport=transport=${KVFS_TRANSPORT:-auto}

end_mount() {
    check "$bin/kvfs" umount "$mnt"
    check test "$(findmnt -n -M "$mnt" | wc -l)" = 0
}

say "mount -t kvfs"
check mount -t kvfs "$image" "$mnt" -o "noatime,threads=3,$transport"
daemon=$(find_daemon)
check has_option "$mnt" noatime
check setting threads=3
check test "$(findmnt -n -o FSTYPE,SOURCE -M "$mnt" | tr -s ' ')" = "fuse.kvfs $image"
echo hello >"$mnt/greeting"
end_mount

say "fstab: by mount point, by image, options for others"
cat >"$fstab" <<END
# a remark
$image $mnt kvfs noauto,nofail,user,_netdev,x-systemd.automount,x-systemd.requires=dev.mount,x-gvfs-show,comment=mine,defaults,nosuid,nodev,noexec,memory_budget=16M,commit_interval=3s,$transport 0 2
END
check mount -T "$fstab" "$mnt"
daemon=$(find_daemon)
for option in nosuid nodev noexec rw; do
    check has_option "$mnt" "$option"
done
check lacks_option "$mnt" noatime
check setting memory_budget=16M
check setting commit_interval=3s
check grep -qx hello "$mnt/greeting"
end_mount
check mount -T "$fstab" "$image"
daemon=$(find_daemon)
check grep -qx hello "$mnt/greeting"
end_mount
check mount -T "$fstab" -a # noauto: it is left alone
check test "$(findmnt -n -M "$mnt" | wc -l)" = 0

say "fstab: mount -a, twice"
echo "$image $mnt kvfs ro,$transport 0 2" >"$fstab"
check mount -T "$fstab" -a
daemon=$(find_daemon)
check has_option "$mnt" ro
check setting ro=yes
check mount -T "$fstab" -a # what is mounted already is left alone
check test "$(findmnt -n -M "$mnt" | wc -l)" = 1
end_mount

say "fsck by fstab"
check env FSTAB_FILE="$fstab" fsck -T -A -V >"$tmp/out" 2>&1
check grep -q "fsck.kvfs $image" "$tmp/out"
check fsck -T -t kvfs "$image" -- -n -f >"$tmp/out"

say "what is wrong is said by mount(8) too"
echo "$image $mnt kvfs colour=red 0 0" >"$fstab"
refused 1 'option colour is not known' mount -T "$fstab" "$mnt"
echo "$image $mnt kvfs threads=none 0 0" >"$fstab"
refused 1 'threads: "none" is not a number' mount -T "$fstab" "$mnt"
echo "$tmp/absent $mnt kvfs defaults 0 0" >"$fstab"
refused 32 'absent: .*mkfs\.kvfs' mount -T "$fstab" "$mnt"
echo "$image $tmp/nowhere kvfs defaults 0 0" >"$fstab"
refused 32 'nowhere' mount -T "$fstab" "$tmp/nowhere"
check mount -s -t kvfs "$image" "$mnt" -o "colour=red,$transport" # sloppy
daemon=$(find_daemon)

say "remount"
check mount -o remount,ro,nosuid "$mnt"
check has_option "$mnt" ro
check has_option "$mnt" nosuid
refused 1 'Read-only' touch "$mnt/new"
check mount -o remount,rw,suid "$mnt"
check has_option "$mnt" rw
check lacks_option "$mnt" nosuid
check touch "$mnt/new"
check test "$(find_daemon)" = "$daemon"
refused 32 'threads=7 can not change.*threads=10 now.*mount it again' \
    mount -o remount,nosuid,threads=7,commit_interval=8s "$mnt"
check setting threads=10
check setting commit_interval=1s # none of them, and no flag
check lacks_option "$mnt" nosuid
check mount -o remount,commit_interval=7s,log_level=warning "$mnt"
check setting commit_interval=7s
check setting log_level=warning
refused 1 'threads: "no"' mount -o remount,threads=no "$mnt"
end_mount
say "remount with settings in fstab"
echo "$image $mnt kvfs memory_budget=16M,commit_interval=3s,$transport 0 0" >"$fstab"
check mount -T "$fstab" "$mnt"
daemon=$(find_daemon)
check mount -T "$fstab" -o remount,ro "$mnt" # mount(8) hands on what fstab has
check has_option "$mnt" ro
check setting memory_budget=16M
end_mount
check mount -t kvfs "$image" "$mnt" -o "control=none,$transport"
daemon=$(find_daemon)
check mount -t kvfs -o remount,noexec "$mnt"
check has_option "$mnt" noexec
mount -o remount,exec,control=none "$mnt" 2>"$tmp/out"
check grep -q 'control=none.*only flags' "$tmp/out"
check lacks_option "$mnt" noexec
end_mount
check mount -t kvfs "$image" "$mnt" -o "ro,$transport"
daemon=$(find_daemon)
refused 32 'can not become writable' mount -o remount,rw "$mnt"
end_mount
fsck_clean
say "$checks checks"
