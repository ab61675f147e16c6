#!/bin/bash
# Does SQLite keep what it committed over kill -9 of the daemon, with both of its journals?
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

# shellcheck source=tests/programs/lib-sqlite.sh
source "$(dirname "$0")/lib-sqlite.sh"
need sqlite3 sqlite3
need stdbuf coreutils
size SQLITE_KILLS 2 20
size SQLITE_SECONDS 2 4
size SQLITE_ACCOUNTS 100 1000

make_image 4G
mount_image
for mode in delete wal; do
    bank_make "$mnt/$mode.db" "$mode" "$SQLITE_ACCOUNTS"
done

# Both have something to lose: however busy the machine is, that comes before the kill.
await_commits() {
    local mode job tenths=3000
    for mode in delete wal; do
        job=${mode}_job
        until [ "$(grep -c '^committed' "$tmp/$mode.out" 2>/dev/null)" -ge 3 ]; do
            kill -0 "${!job}" 2>/dev/null && [ $((tenths -= 1)) -gt 0 ] ||
                fail "$mode: nothing is committed: $(cat "$tmp/$mode.out.err")"
            sleep 0.1
        done
    done
}

for ((kill = 1; kill <= SQLITE_KILLS; kill++)); do
    rm -f "$tmp/delete.out" "$tmp/wal.out"
    for mode in delete wal; do
        start=$(sql "$mnt/$mode.db" 'SELECT coalesce(max(n), 0) FROM step')
        background bank_work "$mnt/$mode.db" "$SQLITE_ACCOUNTS" "$start" "$tmp/$mode.out"
        printf -v "${mode}_start" '%s' "$start"
        printf -v "${mode}_job" '%s' "$job"
    done
    await_commits
    sleep "$SQLITE_SECONDS"
    kill_daemon
    # shellcheck disable=SC2154 # set by printf -v
    wait "$delete_job" "$wal_job" || true
    detach_dead
    mount_image
    say "kill $kill of $SQLITE_KILLS"
    for mode in delete wal; do
        start=${mode}_start
        committed=$(bank_committed "$tmp/$mode.out" "$mode" "${!start}")
        [ "$committed" -gt "${!start}" ] ||
            fail "$mode: nothing was committed: $(cat "$tmp/$mode.out.err")"
        last=$(bank_check "$mnt/$mode.db" "$committed")
        say "$mode: $last steps, of which $committed are known to have been committed"
    done
done
umount_image
fsck_clean
