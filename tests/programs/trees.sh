#!/bin/bash
# Do cp -a, rsync and tar make exact copies of a real tree, also after a new mount?
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

need rsync rsync
size TREE_FILES 3000 0
size TREE_IMAGE 4G 64G
tree=${KVFS_TREE-}
if [ -z "$tree" ] && [ "${KVFS_LARGE-}" = 1 ]; then
    tree=/usr
fi

# shellcheck source=tests/programs/lib-trees.sh
source "$(dirname "$0")/lib-trees.sh"

if [ -n "$tree" ]; then
    [ -d "$tree" ] || fail "KVFS_TREE=$tree: not a directory"
    source=$tree
    make_zoo "$tmp/zoo"
else
    source=$tmp/source-tree
    mkdir "$source"
    (cd / && find usr/include usr/share/doc -xdev) | sed -n "1,${TREE_FILES}p" |
        tar -c -f - -C / --no-recursion -T - | tar -x -p -f - -C "$source"
    make_zoo "$source/zoo"
fi
say "source: $source, $(find "$source" -xdev | wc -l) entries"

make_image "$TREE_IMAGE"
mount_image

copy_all() {
    local from=$1 to=$2
    mkdir -p "$to"
    say "cp -a"
    cp -a -x "$from" "$to/cp"
    say "rsync -aHAX"
    # -1: times that differ by less than a second differ, too
    rsync -aHAX -x --numeric-ids --modify-window=-1 "$from/" "$to/rsync/"
    say "tar"
    mkdir "$to/tar"
    tar -c -f - --format=posix --one-file-system --xattrs --xattrs-include='*' --acls \
        --numeric-owner -C "$from" . 2>"$tmp/tar.err" |
        tar -x -p -f - --xattrs --xattrs-include='*' --acls --same-owner --numeric-owner \
            -C "$to/tar"
}

compare_all() {
    local how
    describe "$source" "$tmp/source"
    for how in cp rsync tar; do
        say "compare $how"
        compare "$1/$how"
    done
}

check_all() {
    source=$1
    compare_all "$2"
}

copy_all "$source" "$mnt/copies"
if [ -n "$tree" ]; then
    copy_all "$tmp/zoo" "$mnt/zoo"
fi
for round in before after; do
    check_all "$source" "$mnt/copies"
    if [ -n "$tree" ]; then
        check_all "$tmp/zoo" "$mnt/zoo"
        source=$tree
    fi
    if [ "$round" = before ]; then
        say "unmount, fsck, mount again"
        umount_image
        fsck_clean
        mount_image
    fi
done
say "remove everything"
rm -rf "${mnt:?}"/copies "${mnt:?}"/zoo
[ -z "$(ls -A "$mnt")" ] || fail "something is left"
umount_image
fsck_clean
