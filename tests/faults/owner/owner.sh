#!/bin/bash
# One owner of an image: mounts, mkfs, fsck and kvfs against each other, by every way to it.
#
#   owner.sh DIR_OF_THE_PROGRAMS     OWNER_RACES=20 rounds of programs that start together
#
# Who comes second is refused and told who was first; who comes after a kill is not.
set -euo pipefail
# shellcheck source=tests/programs/lib-root.sh
source "$(dirname "$0")/../../programs/lib-root.sh"
own_root "$0" "$@" || true # what can not be had is said below
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/../../programs/lib.sh"

need unshare util-linux
need losetup util-linux
unshare --mount true || need_or_skip "no mount namespace is to be had"
size OWNER_RACES 10 300
size OWNER_PROCESSES 6 8
RANDOM=$KVFS_SEED
echo "KVFS_SEED=$KVFS_SEED"

other_size=32M # than it has: to make it smaller would show
half_made=0 # there is no image yet
loops=()   # to detach
held=()    # mount points of ours
refused=0 won=0 kills=0 races=0

# The process that has the image. A table that changes while it is read may show a lock twice.
find_owner() {
    sed -n "s/.*POSIX .* \([0-9]*\) .*:$(stat -c %i "$image") .*/\1/p" /proc/locks | sort -u
}

end_all() {
    local status=$1 item
    set +e
    for item in "${held[@]}"; do
        mountpoint -q "$item" 2>/dev/null || grep -qF " $item " /proc/self/mounts || continue
        timeout 60 "$bin/kvfs" umount "$item" >/dev/null 2>&1 || umount -l "$item"
    done
    for item in "${loops[@]}"; do
        losetup -d "$item" 2>/dev/null
    done
    cleanup "$status"
}
trap - ERR # what is refused on purpose is no news; fail says the rest
trap 'end_all $?' EXIT

cd "$tmp"
"$bin/mkfs.kvfs" -q -s 64M "$image"
echo value >value
"$bin/kvfs" put "$image" key value
ln -s image symbolic
ln image hard
mkdir m1 m2 bound jail jail/dev jail/proc jail/image-dir jail/mnt

loop_over() {
    loop=$(losetup -f --show "$@")
    loops+=("$loop")
}

drop_loop() {
    losetup -d "$1"
}

mount_at() {
    timeout 90 "$bin/mount.kvfs" "$1" "$2" && held+=("$tmp/$2")
}

umount_from() {
    timeout 90 "$bin/kvfs" umount "$1"
}

# is_refused WORDS COMMAND...: it fails, and says that.
is_refused() {
    local words=$1 status=0
    shift
    timeout 50 "$@" >out 2>&1 || status=$?
    [ "$status" -ne 0 ] || fail "not refused: $*"
    [ "$status" -ne 124 ] || fail "waits instead of refusing: $*"
    grep -Eq "$words" out || fail "$*: says $(cat out), not $words"
    refused=$((refused + 1))
}

# all_refused WORDS WAY...: whatever comes second.
all_refused() {
    local words=$1 way
    shift
    for way in "$@"; do
        is_refused "$words" "$bin/mount.kvfs" "$way" m2
        is_refused "$words" "$bin/mkfs.kvfs" -f -s "$other_size" "$way"
        is_refused "$words" "$bin/fsck.kvfs" -n -f "$way"
        is_refused "$words" "$bin/fsck.kvfs" -y -f "$way"
        is_refused "$words" "$bin/kvfs" put "$way" key value
        is_refused "$words" "$bin/kvfs" get "$way" key
        is_refused "$words" "$bin/kvfs" ls "$way" /
        [ "$half_made" = 1 ] || "$bin/kvfs" info "$way" >out 2>&1 ||
            fail "kvfs info $way, which only looks: $(cat out)"
    done
}

is_whole() {
    [ "$("$bin/kvfs" get "$image" key)" = value ] || fail "the key is not there any more"
    fsck_clean
    won=$((won + 1))
}

say "mounted by each way, wanted by each way"
for first in image symbolic hard loop; do
    before=
    if [ "$first" = loop ]; then
        loop_over image
        before=$loop
        first=$loop
    fi
    mount_at "$first" m1
    loop_over image
    all_refused "in use by process [0-9]+ \(mount.kvfs\), mounted on $tmp/m1" \
        image symbolic hard "$loop" ${before:+"$before"}
    umount_from m1
    drop_loop "$loop"
    [ -z "$before" ] || drop_loop "$before"
    is_whole
done

# A program that is stopped while it owns the image: hold COMMAND...; its pid: $holder.
hold() {
    local try inode
    inode=$(stat -c %i "$image")
    for ((try = 0; try < 400; try++)); do
        "$@" >hold.out 2>&1 &
        holder=$!
        local looks=0
        while [ $((looks++)) -lt 300 ] && ! grep -q "FLOCK .* $holder .*:$inode " /proc/locks; do
            kill -0 "$holder" 2>/dev/null || break
        done
        kill -STOP "$holder" 2>/dev/null || continue
        # It had begun to close, or was stopped before it was the owner: once more.
        if [ "$("$bin/kvfs" info "$image" >/dev/null 2>&1; grep -c "POSIX .* $holder .*:$inode " \
            /proc/locks)" = 1 ]; then
            return 0
        fi
        kill -CONT "$holder"
        wait "$holder" || true
    done
    fail "$*: could not be stopped while it owns the image"
}

say "owned by mkfs, fsck and kvfs, wanted by all"
hold "$bin/fsck.kvfs" -n -f "$image"
all_refused "in use by process $holder \(fsck.kvfs\)" image hard
kill -CONT "$holder"
wait "$holder" || fail "fsck: $(cat hold.out)"
hold "$bin/kvfs" put "$image" key value
all_refused "in use by process $holder \(kvfs\)" image hard
kill -CONT "$holder"
wait "$holder" || fail "kvfs put: $(cat hold.out)"
is_whole
hold "$bin/mkfs.kvfs" -f -s 64M "$image"
half_made=1
all_refused "in use by process $holder \(mkfs.kvfs\)" image hard
kill -KILL "$holder"
wait "$holder" 2>/dev/null || true
half_made=0
"$bin/mkfs.kvfs" -q -f -s 64M "$image"
"$bin/kvfs" put "$image" key value
is_whole

say "in another mount namespace, under another root, by a bind mount"
mount_at image m1
is_refused "in use by process [0-9]+ \(mount.kvfs\), mounted on" unshare -m \
    sh -c 'mount --bind "$1" "$2" && exec "$3" "$2"/image "$4"' sh "$tmp" "$tmp/bound" \
    "$bin/mount.kvfs" "$tmp/m2"
is_refused "in use by process [0-9]+" unshare -m sh -c '
    for dir in /usr /lib /lib64 /bin; do
        mkdir -p "$1/jail$dir" && mount --rbind "$dir" "$1/jail$dir" || exit 99
    done
    mkdir "$1/jail/b" && mount --bind "$2" "$1/jail/b" && mount --rbind /dev "$1/jail/dev" &&
        mount --bind "$1" "$1/jail/image-dir" && mount -t proc proc "$1/jail/proc" || exit 99
    exec chroot "$1/jail" /b/mount.kvfs /image-dir/image /mnt' sh "$tmp" "$bin"
umount_from m1
is_whole

# Wait until a file is there, or its maker has ended.
await() {
    local tenths=600
    until [ -e "$1" ]; do
        [ $((tenths--)) -gt 0 ] || fail "$1 does not come"
        sleep 0.1
    done
}

# inside FLAGS NAME COMMAND...: a program that owns the image in namespaces of its own.
inside() {
    local flags=$1
    shift
    rm -f ready finish
    mkfifo finish
    # shellcheck disable=SC2086
    unshare $flags sh -c '"$1" "$2" "$3" && : >ready && read -r _ <finish; "$4" umount "$3"' sh \
        "$bin/mount.kvfs" "$image" "$tmp/m1" "$bin/kvfs" &
    insider=$!
    await ready
}

end_inside() {
    echo >finish
    wait "$insider" || fail "the mount in namespaces of its own ended badly"
    is_whole
}

inside "-m"
all_refused "in use by process [0-9]+ \(mount.kvfs\), mounted on $tmp/m1" image hard
end_inside

# The other way round for PID namespaces: the second one does not see the first.
mount_at image m1
loop_over image
for way in image hard "$loop"; do
    words="another PID namespace"
    # In a chroot the kernel names what lies under a loop device by the path outside of it, to
    # who looks from another mount namespace than that in which it was attached.
    [ "$way" != "$loop" ] || [ -z "${KVFS_OWN_ROOT-}" ] || words+="|can not be reached from here"
    is_refused "$words" unshare -mpf --mount-proc "$bin/mount.kvfs" "$way" m2
    is_refused "$words" unshare -mpf --mount-proc "$bin/mkfs.kvfs" -f -s "$other_size" "$way"
    is_refused "$words" unshare -mpf --mount-proc "$bin/fsck.kvfs" -y -f "$way"
    is_refused "$words" unshare -mpf --mount-proc "$bin/kvfs" put "$way" key value
done
umount_from m1
drop_loop "$loop"
is_whole

say "a loop device over a file that can not be reached is left alone"
loop_over image
mkdir over
is_refused "can not be reached" unshare -m sh -c 'mount -t tmpfs none "$1" && mkdir "$1"/m2 &&
    exec "$2" "$3" "$1"/m2' sh "$tmp" "$bin/mount.kvfs" "$loop"
drop_loop "$loop"
cp image gone
loop_over gone
rm gone
is_refused "can not be reached" "$bin/mount.kvfs" "$loop" m2
drop_loop "$loop"

say "parts of a file by loop devices: each has its owner, and the whole has none"
truncate -s 192M disk
loop_over -o 64M --sizelimit 64M disk
part=$loop
loop_over -o 128M --sizelimit 64M disk
"$bin/mkfs.kvfs" -q "$part"
"$bin/mkfs.kvfs" -q "$loop"
mount_at "$part" m1
mount_at "$loop" m2
is_refused "in use" "$bin/mkfs.kvfs" -f disk
umount_from m2
drop_loop "$loop"
loop_over -o 64M --sizelimit 64M disk
is_refused "in use" "$bin/mount.kvfs" "$loop" m2
umount_from m1
drop_loop "$loop"
drop_loop "$part"
rm disk

if command -v mkfs.ext4 >/dev/null; then
    say "a file that the kernel has mounted by a loop device"
    truncate -s 64M foreign
    mkfs.ext4 -q foreign
    loop_over foreign
    mount "$loop" m2
    is_refused "in use" "$bin/mkfs.kvfs" -f foreign
    is_refused "uses this device" "$bin/mkfs.kvfs" -f "$loop"
    umount m2
    drop_loop "$loop"
    rm foreign
fi

say "after a kill there is no lock"
for ((round = 0; round < 5; round++)); do
    for way in image loop; do
        [ "$way" = image ] || { loop_over image && way=$loop; }
        mount_at "$way" m1
        pid=$(find_owner)
        echo "$round" >m1/after
        sync m1/after m1
        kill -9 "$pid"
        # At once, and by the other way: from here, or from where the dead one is not seen.
        umount -l m1
        if ((round % 2)); then
            unshare -pf --mount-proc sh -c '"$1" "$2" "$3" && [ "$(cat "$3"/after)" = "$4" ] &&
                "$5" umount "$3"' sh "$bin/mount.kvfs" "$image" "$tmp/m2" "$round" "$bin/kvfs"
        else
            mount_at image m2
            [ "$(cat m2/after)" = "$round" ] || fail "what was synced is not there"
            umount_from m2
        fi
        [ "$way" = image ] || drop_loop "$way"
        kills=$((kills + 1))
        is_whole
    done
done

say "a dead owner whose last request goes on is waited for, where it is not seen too"
for in_namespace in "" "unshare -mpf --mount-proc"; do
    # What is left of such an owner is its open file with the lock, and nobody alive.
    if [ -n "$in_namespace" ]; then
        (
            flock -x 9
            : >locked
            sleep 2
        ) 9<>"$image" &
    else
        # Also not seen from here: in a PID namespace is who sleeps, and /proc is not of it.
        mkfifo finish.sleeper
        unshare -mpf --mount-proc sh -c \
            'flock -x 9 && : >locked && read -r _ <finish.sleeper' 9<>"$image" &
    fi
    sleeper=$!
    await locked
    rm locked
    if [ -n "$in_namespace" ]; then
        # shellcheck disable=SC2086
        timeout 59 $in_namespace "$bin/kvfs" put "$image" key value ||
            fail "not waited for: the last request of a dead owner"
    else
        is_refused "in use by process" "$bin/kvfs" put "$image" key value
        echo >finish.sleeper
    fi
    wait "$sleeper"
done
is_whole

# race COMMAND...: one for each of OWNER_PROCESSES, N in it is its number. $winners says how many.
race() {
    local n pids=() command
    winners=0
    exec 8>go
    flock -x 8 # the start
    for ((n = 0; n < OWNER_PROCESSES; n++)); do
        command=("${@//@N@/$n}")
        command=("${command[@]//@WAY@/${ways[RANDOM % ${#ways[@]}]}}")
        flock -o -s go timeout 90 "${command[@]}" >"race.$n" 2>&1 8>&- &
        pids+=($!)
    done
    exec 8>&-
    for ((n = 0; n < OWNER_PROCESSES; n++)); do
        if wait "${pids[n]}"; then
            winners=$((winners + 1))
            winner=$n
        else
            grep -q "in use\|is there\|looks like\|overwrite" "race.$n" || fail "race: $(cat "race.$n")"
        fi
    done
    races=$((races + 1))
}

say "$OWNER_RACES races of $OWNER_PROCESSES"
loop_over image
ways=("$image" "$tmp/symbolic" "$tmp/hard" "$loop")
for ((n = 0; n < OWNER_PROCESSES; n++)); do
    mkdir "race-m$n"
    held+=("$tmp/race-m$n")
done
for ((round = 0; round < OWNER_RACES; round++)); do
    race "$bin/mount.kvfs" @WAY@ "$tmp/race-m@N@"
    [ "$winners" -eq 1 ] || fail "round $round: $winners mounts of one image"
    if ((round % 2)); then
        pid=$(find_owner)
        kill -9 "$pid"
        umount -l "race-m$winner"
        kills=$((kills + 1))
    else
        umount_from "race-m$winner"
    fi
    rm -f new
    race "$bin/mkfs.kvfs" -q -s 64M "$tmp/new"
    [ "$winners" -eq 1 ] || fail "round $round: $winners of mkfs.kvfs made the same new image"
    "$bin/fsck.kvfs" -n -f new >/dev/null || fail "round $round: the new image is not whole"
done
drop_loop "$loop"
is_whole
say "$refused refused as they should be, $won times whole, $kills kills without a stale lock," \
    "$races races with one winner each"
