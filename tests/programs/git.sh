#!/bin/bash
# Does git work on the mount: clone, fsck, status, commit, gc, and after a new mount?
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

need git git
size GIT_COMMITS 20 500
export HOME=$tmp GIT_CONFIG_NOSYSTEM=1
git config --global user.name Tester
git config --global user.email tester@example.org
git config --global --add safe.directory '*'
git config --global init.defaultBranch main
git config --global gc.auto 0

# A release without its history is a repository of one commit.
repository=$source_tree
if ! git -C "$repository" rev-parse --verify -q HEAD >/dev/null; then
    repository=$tmp/repository
    cp -a "$source_tree" "$repository"
    git -C "$repository" init -q
    git -C "$repository" add -A
    git -C "$repository" commit -q -m all
fi

expect_clean() {
    local status
    git -C "$clone" fsck --full --strict >"$tmp/git.out" 2>&1 || {
        cat "$tmp/git.out" >&2
        fail "git fsck"
    }
    status=$(git -C "$clone" status --porcelain)
    [ -z "$status" ] || fail "git status is not clean: $status"
}

make_image 4G
mount_image
clone=$mnt/clone
say "clone"
git clone -q --no-hardlinks "$repository" "$clone"
expect_clean
[ "$(git -C "$clone" rev-parse HEAD)" = "$(git -C "$repository" rev-parse HEAD)" ] ||
    fail "the clone is of another commit"

say "commit $GIT_COMMITS times"
git -C "$clone" checkout -q -b work
for ((i = 1; i <= GIT_COMMITS; i++)); do
    mkdir -p "$clone/generated/$((i % 7))"
    echo "line $i" >>"$clone/generated/$((i % 7))/file-$((i % 13))"
    git -C "$clone" add generated
    git -C "$clone" commit -q -m "commit $i"
done
expect_clean
head_before=$(git -C "$clone" rev-parse HEAD)
tree_before=$(git -C "$clone" ls-tree -r HEAD | sha256sum)

say "branches, rebase, gc"
git -C "$clone" checkout -q -b side HEAD~$((GIT_COMMITS / 2))
echo side >"$clone/side-file"
git -C "$clone" add side-file
git -C "$clone" commit -q -m side
git -C "$clone" rebase -q work
git -C "$clone" checkout -q work
git -C "$clone" gc -q --aggressive --prune=now
expect_clean

say "again after a new mount"
remount
expect_clean
[ "$(git -C "$clone" rev-parse HEAD)" = "$head_before" ] || fail "another commit after the mount"
[ "$(git -C "$clone" ls-tree -r HEAD | sha256sum)" = "$tree_before" ] || fail "another tree"
git clone -q "$clone" "$mnt/second"
rm -rf "$clone"
clone=$mnt/second
expect_clean
umount_image
fsck_clean
