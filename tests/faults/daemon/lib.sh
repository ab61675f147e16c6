# shellcheck shell=bash
# tests/faults/daemon/lib.sh: what these tests add to tests/programs/lib.sh, which it sources.
#
#   expect_gone            the daemon ends by itself, and the mount point is free
#   expect_errno TEXT COMMAND...   COMMAND fails, and says so
#   random_ms MOST         sleep up to so many milliseconds
# shellcheck source=tests/programs/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../programs/lib.sh"
RANDOM=$KVFS_SEED
say "KVFS_SEED=$KVFS_SEED"

expect_gone() {
    wait_gone "$daemon" 60 || fail "$1: the daemon, process $daemon, lives on"
    ! is_mounted || fail "$1: $mnt is still mounted"
    [ -z "$(find_daemon)" ] || fail "$1: process $(find_daemon) has the image open"
}

expect_errno() {
    local text=$1 status=0
    shift
    LC_ALL=C "$@" >"$tmp/errno.out" 2>&1 || status=$?
    [ "$status" -ne 0 ] || fail "worked: $*"
    grep -qF "$text" "$tmp/errno.out" || {
        cat "$tmp/errno.out" >&2
        fail "does not say \"$text\": $*"
    }
}

random_ms() {
    local ms=$((RANDOM % $1))
    sleep "$((ms / 1000)).$(printf '%03d' $((ms % 1000)))"
}
