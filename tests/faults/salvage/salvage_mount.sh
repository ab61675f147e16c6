#!/bin/bash
# tests/faults/salvage/salvage_mount.sh: wreck a real image, fsck.kvfs -y, mount, compare.
#
#   salvage_mount.sh DIR_OF_THE_PROGRAMS SUPPORT_WRECK
#
# Where no leaf was destroyed the tree must be what it was, to the last attribute. Where one was,
# every file that is there must hold what it held, or less, and be readable.
set -euo pipefail
wreck=${2:?usage: salvage_mount.sh DIR_OF_THE_PROGRAMS SUPPORT_WRECK}
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/programs/lib.sh
source "$here/../../programs/lib.sh" "$1"

size SALVAGE_FILES 1000 40000
size SALVAGE_IMAGE 256M 8G

# What a tree holds, as text: names, types, modes, owners, times, sizes, links and contents.
describe() {
    (
        cd "$1"
        find . -path ./lost+found -prune -o -printf '%P %y %m %U %G %s %T@ %n %l\n' | LC_ALL=C sort
        find . -path ./lost+found -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        getfattr -R -d -m - -h . 2>/dev/null | grep -v '^$' || true
    ) >"$2"
}

# The first SALVAGE_FILES of a real tree, and rarities.
fill() {
    mkdir -p "$mnt/tree" "$mnt/rare/deep/er"
    (cd /usr && find include share/doc -type f | LC_ALL=C sort) >"$tmp/all"
    head -n "$SALVAGE_FILES" "$tmp/all" >"$tmp/list"
    tar -C /usr -cf - -T "$tmp/list" | tar -C "$mnt/tree" -xf -
    head -c 3000000 /dev/urandom >"$mnt/rare/noise"
    truncate -s 50M "$mnt/rare/hole"
    ln "$mnt/rare/noise" "$mnt/rare/deep/link"
    ln -s ../noise "$mnt/rare/deep/symlink"
    mkfifo "$mnt/rare/deep/er/fifo"
    setfattr -n user.note -v "$(head -c 3000 /dev/zero | tr '\0' x)" "$mnt/rare/noise"
    cp --reflink=auto "$mnt/rare/noise" "$mnt/rare/clone"
}

# fsck STATUS OPTION...: run it, keep what it says, and see how it ends.
fsck() {
    local wanted=$1 status=0
    shift
    "$bin/fsck.kvfs" "$@" "$image" >"$tmp/said" 2>"$tmp/complaints" || status=$?
    if [ "$status" != "$wanted" ]; then
        cat "$tmp/said" "$tmp/complaints" >&2
        fail "fsck.kvfs $*: status $status, not $wanted"
    fi
}

# salvage PART...: wreck these; all that is needed to look, refuse, mend and find nothing more.
salvage() {
    say "wreck: $*"
    cp --sparse=always "$tmp/sound" "$image"
    "$wreck" "$image" "$@"
    sha256sum <"$image" >"$tmp/before"
    fsck 4 -n -f -j
    jq -e '.exit_status == 4 and .left > 0 and (.findings | length > 0)' "$tmp/said" >/dev/null ||
        fail "the JSON is not right"
    sha256sum <"$image" | cmp -s - "$tmp/before" || fail "-n has written"
    fsck 1 -y -f
    cp "$tmp/said" "$tmp/mended"
    fsck 0 -n -f
}

make_image "$SALVAGE_IMAGE"
mount_image
fill
umount_image
# Some history, so that there are older versions of pages to be mistaken for new ones.
mount_image
find "$mnt/tree" -type f | LC_ALL=C sort | awk 'NR % 9 == 0' | xargs -d '\n' rm
find "$mnt/tree" -type f | LC_ALL=C sort | awk 'NR % 7 == 0' | xargs -d '\n' chmod 600
umount_image
mount_image
describe "$mnt" "$tmp/wanted"
umount_image
cp --sparse=always "$image" "$tmp/sound"

whole=0
for parts in "map tree-root" "map-root inner" "map-root bitmaps" superblocks \
    "superblocks map-root inner bitmaps"; do
    # shellcheck disable=SC2086 # one word for each part
    salvage $parts
    if grep -q 'salvage: from' "$tmp/mended"; then
        cat "$tmp/mended" >&2
        fail "$parts: something is lost, but no leaf was destroyed"
    fi
    mount_image
    describe "$mnt" "$tmp/found"
    umount_image
    diff "$tmp/wanted" "$tmp/found" >&2 || fail "$parts: the tree is another one"
    whole=$((whole + 1))
done

say "leaves too"
partly=0
for number in 0 5; do
    salvage "leaf=$number" "leaf=$((number + 2))" map-root
    cat "$tmp/mended"
    mount_image
    # A mount must be able to read, change and remove whatever is left.
    find "$mnt" -type f -print0 | xargs -0r cat >/dev/null
    touch "$mnt/new"
    find "$mnt" -xdev -mindepth 1 -delete
    umount_image
    fsck_clean
    partly=$((partly + 1))
done

say "what asks nobody changes nothing of this"
for parts in map-root superblocks; do
    cp --sparse=always "$tmp/sound" "$image"
    "$wreck" "$image" "$parts"
    fsck 4 -p -f
    grep -q 'fsck.kvfs -y' "$tmp/said" "$tmp/complaints" || fail "-p does not say what to do"
    fsck 4 -p # what it left is not taken for clean
done

say "without any superblock"
cp --sparse=always "$tmp/sound" "$image"
"$wreck" "$image" superblocks backup
fsck 8 -y -f
grep -q 'kvfs image' "$tmp/complaints" || fail "it does not say why"

say "salvage_mount: $whole wrecks without and $partly with leaves destroyed, seed $KVFS_SEED"
