# shellcheck shell=bash
# tests/programs/lib-root.sh: for tests that make mount namespaces.
#
# `unshare --mount` keeps what is mounted to itself by making the mount of the root directory
# private. In a chroot whose root is a plain directory there is none, and it refuses.
#
# own_root SCRIPT ARG...: where that is so, run the script again under a root that is a mount, a
# private bind of everything that is here, and end with its status. Returns 0 where all is well as
# it is, in that second run too; 1 where no mount namespace is to be had.

own_root() {
    if [ -n "${KVFS_OWN_ROOT-}" ] || unshare --mount true 2>/dev/null; then
        return 0
    fi
    unshare --mount --propagation unchanged true 2>/dev/null || return 1
    local root status=0
    root=$(mktemp -d "${KVFS_TMP:-/tmp}/kvfs-root.XXXXXX")
    if ! mount --rbind / "$root"; then
        rmdir "$root"
        return 1
    fi
    trap : INT TERM # the script gets them as well, and ends; then the root is taken away
    mount --make-rprivate "$root" &&
        KVFS_OWN_ROOT=$root chroot "$root" bash -c 'cd "$1" && shift && exec bash "$@"' \
            bash "$PWD" "$@" || status=$?
    # Never rm -r: what lies there is everything. What is still busy goes when it ends.
    umount --recursive --lazy "$root" && rmdir "$root" || exit 1
    exit "$status"
}

# need_own_root SCRIPT ARG...: the same for root, and the test is skipped where there is none; others
# go on, and are told by lib.sh.
need_own_root() {
    [ "$(id -u)" = 0 ] || return 0
    own_root "$@" || {
        [ "${KVFS_REQUIRE-}" != 1 ] || exit 1
        echo "SKIP: no mount namespace is to be had"
        exit 77
    }
}

# own_namespace SCRIPT ARG...: run the script once more, in a mount namespace of its own, and end with
# its status. Returns in that second run.
own_namespace() {
    [ -z "${KVFS_OWN_NAMESPACE-}" ] && [ "$(id -u)" = 0 ] || return 0
    need_own_root "$@"
    export KVFS_OWN_NAMESPACE=1
    exec unshare -m --propagation private bash "$@"
}
