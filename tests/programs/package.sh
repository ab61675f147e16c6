#!/bin/bash
# tests/programs/package.sh: the Debian packages on a fresh Debian: installed, used, upgraded, removed,
# with nothing left behind. By hand, since it takes minutes and a mirror.
#
#   package.sh DIR_OF_THE_PROGRAMS [DIR_OF_THE_PACKAGES]
#
# Without packages, tools/package/make builds them. The fresh Debian is made by debootstrap; skipped
# where that is not installed or reaches no mirror. Where systemd-nspawn can boot it, the unit is tried
# under systemd: readiness, rights, the journal, a stop while it is busy, a crash.
#
# Environment besides that of lib.sh: KVFS_SUITE (bookworm), KVFS_MIRROR (the one
# that debootstrap takes by itself).
set -euo pipefail
# shellcheck source=tests/programs/lib-root.sh
source "$(dirname "$0")/lib-root.sh"
own_namespace "$0" "$@"
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"
command -v debootstrap >/dev/null || need_or_skip "debootstrap is not installed"
need dpkg-shlibdeps dpkg-dev
suite=${KVFS_SUITE:-bookworm}
root=$tmp/root
checks=0

check() {
    "$@" || fail "not so: $*"
    checks=$((checks + 1))
}

# inside COMMAND...: in the fresh Debian, with nothing of our environment.
inside() {
    chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive HOME=/root "$@"
}

lacks() {
    ! [ -e "$root/$1" ] && ! [ -L "$root/$1" ]
}

# Every path, but for what package managers keep of their own work.
list_files() {
    (cd "$root" && find . -xdev \( -path ./var/lib/dpkg -o -path ./var/lib/apt -o -path ./var/cache \
        -o -path ./var/log -o -path ./tmp -o -path ./packages -o -path ./dev -o -path ./proc -o -path ./run \) \
        -prune -o -print) | sort
}

if [ -n "${2-}" ]; then
    packages=$(realpath "$2")
else
    say "build the packages"
    "$source_tree/tools/package/make" "$tmp/build" >/dev/null
    packages=$tmp/build
fi
ls "$packages"/*.deb

if command -v lintian >/dev/null; then
    say "lintian"
    status=0
    lintian --fail-on error "$packages"/*.deb >"$tmp/lintian.log" 2>&1 || status=$?
    cat "$tmp/lintian.log"
    check test "$status" = 0
else
    say "lintian is not installed; left out"
fi

say "a fresh $suite"
debootstrap --variant=minbase --include=fuse3,mount,systemd,systemd-sysv "$suite" "$root" ${KVFS_MIRROR:+"$KVFS_MIRROR"} \
    >"$tmp/debootstrap.log" 2>&1 ||
    { tail -n 3 "$tmp/debootstrap.log" >&2; need_or_skip "debootstrap could not make $suite${KVFS_MIRROR:+ from $KVFS_MIRROR}"; }
mount -t proc proc "$root/proc"
mount -t tmpfs none "$root/dev"
mknod -m 666 "$root/dev/fuse" c 10 229
for device in 'null 1 3' 'zero 1 5' 'random 1 8' 'urandom 1 9'; do
    read -r name major minor <<<"$device"
    mknod -m 666 "$root/dev/$name" c "$major" "$minor"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
mkdir "$root/packages" "$root/dev/shm"
cp "$packages"/*.deb "$root/packages/"
cp -L /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true

say "what the packages depend on, first: it stays"
inside apt-get -qq update >"$tmp/apt.log" 2>&1 || fail "apt-get update: $(tail -n 5 "$tmp/apt.log")"
depends=$(for deb in "$packages"/*.deb; do
    dpkg-deb -f "$deb" Depends | tr , '\n' | sed 's/ *(.*//; s/^ *//' | grep -v '^libkvfs'
done | sort -u)
# shellcheck disable=SC2086 # words
inside apt-get -qq install --no-install-recommends -y $depends gcc libc6-dev pkg-config \
    >"$tmp/apt.log" 2>&1 || fail "apt-get install: $(tail -n 5 "$tmp/apt.log")"
list_files >"$tmp/before"

say "install"
inside sh -c 'dpkg -i /packages/*.deb' >"$tmp/dpkg.log" 2>&1 ||
    fail "dpkg -i: $(cat "$tmp/dpkg.log")"
check inside sh -c 'test "$(dpkg-query -W -f "\${db:Status-Status} " kvfs libkvfs-kv-dev)" = "installed installed "'
check inside dpkg -V kvfs libkvfs-kv-dev
check test "$(inside dpkg-query -W -f '${Conffiles}' kvfs | awk '{ print $1 }')" = /etc/kvfs/mount.conf
check inside systemd-analyze verify --man=no /lib/systemd/system/kvfs@.service
for page in man1/kvfs.1 man5/kvfs-mount.conf.5 man8/mkfs.kvfs.8 man8/mount.kvfs.8 man8/fsck.kvfs.8; do
    # minbase leaves manual pages out where dpkg was told so; the package has them.
    check grep -q "/usr/share/man/$page.gz" "$root/var/lib/dpkg/info/kvfs.list"
done

say "mount, write, unmount, look"
check inside mkfs.kvfs -q -s 64M /srv/data.img
printf '/srv/data.img /mnt kvfs memory_budget=16M,noatime 0 2\n' >"$root/etc/fstab"
check inside mount /mnt
check inside sh -c 'mkdir /mnt/users && echo Ada >/mnt/users/name'
check test "$(cat "$root/mnt/users/name")" = Ada
check inside kvfs stat --json /mnt >"$tmp/stat.json"
check inside mount -o remount,ro /mnt
check inside kvfs umount /mnt
check inside fsck -T -t kvfs /srv/data.img -- -n -f
check test "$(inside kvfs get /srv/data.img users/name)" = Ada
say "with the settings that the unit uses"
check inside mount.kvfs -c /etc/kvfs/mount.conf /srv/data.img /mnt
check inside kvfs umount /mnt
rm "$root/srv/data.img"
: >"$root/etc/fstab"

say "a program with the library"
cat >"$root/packages/store.c" <<'END'
#include <kvfs/kv.h>
#include <stdio.h>
int main(void)
{
    struct kv_image_info info;
    struct kv_error error = {""};
    const int err = kv_image_info("/no/image", &info, &error);
    puts(error.text);
    return err == 0;
}
END
check inside sh -c 'cc -o /packages/store /packages/store.c $(pkg-config --cflags --libs kvfs-kv)'
check inside sh -c '/packages/store | grep -q /no/image'
check inside sh -c 'cc -o /packages/store /packages/store.c $(pkg-config --cflags kvfs-kv) \
    -Wl,-Bstatic $(pkg-config --libs-only-L --libs-only-l kvfs-kv) -Wl,-Bdynamic \
    $(pkg-config --libs --static kvfs-kv | sed s/-lkvfs-kv//)'
check inside sh -c '/packages/store | grep -q /no/image'

say "a changed file of settings survives an upgrade"
echo '# mine' >>"$root/etc/kvfs/mount.conf"
check inside sh -c 'dpkg -i --force-confold /packages/kvfs_*.deb' >"$tmp/dpkg.log" 2>&1
check grep -qx '# mine' "$root/etc/kvfs/mount.conf"

say "remove: settings stay; purge: nothing does"
check inside dpkg -r kvfs libkvfs-kv-dev >"$tmp/dpkg.log" 2>&1
check lacks usr/sbin/mount.kvfs
check lacks usr/sbin/mount.fuse.kvfs
check test -e "$root/etc/kvfs/mount.conf"
check inside sh -c 'dpkg -P kvfs $(dpkg-query -W -f "\${Package} " "libkvfs*")' >"$tmp/dpkg.log" 2>&1
list_files >"$tmp/after"
check diff "$tmp/before" "$tmp/after"
# The unit, under a systemd that has booted in the fresh Debian; the probe runs there.
boot() {
    cat >"$root/packages/probe" <<'END'
#!/bin/bash
# Each line of the report is a sentence and yes or no.
report() {
    local sentence=$1
    shift
    if "$@" >/dev/null 2>&1; then echo "$sentence yes"; else echo "$sentence no"; fi
}
property() { systemctl show -p "$1" --value "$2"; }
is() { [ "$1" = "$2" ]; }
status_has() { grep -qE "$1" "/proc/$(property MainPID kvfs@data)/status"; }
log_has() { journalctl --no-pager -o json -u "$1" | grep -E "$2"; }
runs_anew() {
    for _ in {1..300}; do
        [ "$(property NRestarts kvfs@data)" = 1 ] && systemctl -q is-active kvfs@data && return
        sleep 0.1
    done
    return 1
}
{
    report active is "$(property ActiveState kvfs@data)" active
    report told is "$(property StatusText kvfs@data)" mounted
    report seen_outside grep -q '^/srv/data.img /mnt fuse.kvfs .*noatime' /proc/mounts
    report written sh -c 'echo hello >/mnt/greeting'
    report one_capability status_has '^CapEff:.*200000$'
    report filtered sh -c '! journalctl --no-pager -u kvfs@data | grep "can not be"'
    report logged log_has kvfs@data '"PRIORITY":"6".*is mounted on|is mounted on.*"PRIORITY":"6"'
    (cd /mnt && exec sleep 600) &
    sleeper=$!
    report stops_while_busy systemctl stop kvfs@data
    report ended_well is "$(property Result kvfs@data)" success
    report unmounted sh -c '! grep fuse.kvfs /proc/mounts'
    kill "$sleeper"
    report kept is "$(kvfs get /srv/data.img greeting)" hello
    report starts_again systemctl start kvfs@data
    kill -9 "$(property MainPID kvfs@data)"
    report runs_anew_after_a_crash runs_anew
    report readable_after_a_crash grep -q hello /mnt/greeting
    printf 'KVFS_IMAGE=/srv/none.img\nKVFS_DIR=/mnt\n' >/etc/kvfs/bad.env
    report bad_is_refused sh -c '! systemctl start kvfs@bad'
    report bad_has_its_status is "$(property ExecMainStatus kvfs@bad)" 32
    report bad_is_an_error log_has kvfs@bad '"PRIORITY":"3".*none.img|none.img.*"PRIORITY":"3"'
    report bad_left_the_other sh -c 'grep -q hello /mnt/greeting'
    echo end
} >/packages/report 2>&1
systemctl --force --no-wall poweroff
END
    chmod 755 "$root/packages/probe"
    printf '[Unit]\nAfter=multi-user.target\n[Service]\nExecStart=/packages/probe\n' \
        >"$root/etc/systemd/system/probe.service"
    printf 'KVFS_IMAGE=/srv/data.img\nKVFS_DIR=/mnt\nKVFS_OPTIONS=noatime\n' \
        >"$root/etc/kvfs/data.env"
    inside mkfs.kvfs -q -s 64M /srv/data.img
    inside systemctl -q enable kvfs@data
    inside systemctl -q add-wants multi-user.target probe
    umount "$root/dev" "$root/proc"
    timeout -k 10 300 systemd-nspawn --quiet --register=no --keep-unit --bind=/dev/fuse \
        --console=pipe -D "$root" --boot </dev/null >"$tmp/boot.log" 2>&1 || true
}

if command -v systemd-nspawn >/dev/null; then
    say "the unit, booted"
    inside sh -c 'dpkg -i /packages/kvfs_*.deb' >"$tmp/dpkg.log" 2>&1
    boot
    if grep -qx end "$root/packages/report" 2>/dev/null; then
        cat "$root/packages/report"
        check test "$(grep -c ' yes$' "$root/packages/report")" = 18
    else
        say "systemd did not boot here; left out: $(tail -n 1 "$tmp/boot.log")"
    fi
else
    say "systemd-nspawn is not installed; the unit was not booted"
fi
say "$checks checks"
