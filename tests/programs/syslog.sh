#!/bin/bash
# tests/programs/syslog.sh: what a daemon in the background says to syslog, and at which level; in a
# mount namespace with a /dev of its own, where a socket stands for syslog.
#
#   syslog.sh DIR_OF_THE_PROGRAMS
set -euo pipefail
# shellcheck source=tests/programs/lib-root.sh
source "$(dirname "$0")/lib-root.sh"
own_namespace "$0" "$@"
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"
need python3 python3

end_syslog() {
    local status=$1
    trap - ERR
    umount -l /dev 2>/dev/null || true
    cleanup "$status"
}

# heard PATTERN: such a line comes, sooner or later.
heard() {
    local tenths=600
    until grep -Eqs -- "$1" "$tmp/heard"; do
        [ "$tenths" -gt 0 ] || fail "not heard: $1; but: $(cat "$tmp/heard")"
        tenths=$((tenths - 1))
        sleep 0.1
    done
}

trap - ERR
trap 'end_syslog $?' EXIT
mkdir "$tmp/dev"
mount -t tmpfs none "$tmp/dev"
mknod -m 666 "$tmp/dev/fuse" c 10 229
for device in 'null 1 3' 'zero 1 5' 'random 1 8' 'urandom 1 9'; do
    read -r name major minor <<<"$device"
    mknod -m 666 "$tmp/dev/$name" c "$major" "$minor"
done
ln -s /proc/self/fd "$tmp/dev/fd"
mount --bind "$tmp/dev" /dev
cat >"$tmp/syslog.py" <<'END'
import socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind('/dev/log')
with open(sys.argv[1], 'w', buffering=1) as out:
    print('listening', file=out)
    while True:
        print(listener.recv(65536).decode(errors='replace').rstrip('\n\0'), file=out)
END
background python3 "$tmp/syslog.py" "$tmp/heard"
heard '^listening$'

make_image 64M
say "a daemon in the background logs to syslog, facility daemon, with its process"
mount_image
kill -USR1 "$daemon"
heard "^<30>.* mount\.kvfs\[$daemon\]: requests: "
say "what is refused is a warning"
if echo threads=9 2>/dev/null >"$mnt/.kvfs/config"; then
    fail "threads changed while it is mounted"
fi
heard "^<28>.* mount\.kvfs\[$daemon\]: config: threads can not change"
say "what is less important than log_level is not logged"
echo log_level=warning >"$mnt/.kvfs/config"
first=$(grep -c 'requests: ' "$tmp/heard")
kill -USR1 "$daemon"
if echo threads=8 2>/dev/null >"$mnt/.kvfs/config"; then
    fail "threads changed while it is mounted"
fi
heard 'set threads=8'
umount_image
[ "$(grep -c 'requests: ' "$tmp/heard")" = "$first" ] || fail "requests were logged as a warning"
say "before it is a daemon, what is wrong is on standard error"
mount_image
if "$bin/mount.kvfs" "$image" "$tmp/dev" -o nonempty 2>"$tmp/err"; then
    fail "an image is mounted twice"
fi
grep -q 'in use by process' "$tmp/err" || fail "standard error: $(cat "$tmp/err")"
umount_image
