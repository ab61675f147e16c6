#!/bin/bash
# Does SQLite keep what it committed over kill -9 of the daemon, with both of its journals?
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

need sqlite3 sqlite3
need stdbuf coreutils
size SQLITE_KILLS 2 20
size SQLITE_SECONDS 2 4
size SQLITE_ACCOUNTS 100 1000

# Endless transactions, each of which moves money and leaves a numbered row. What sqlite3
# prints comes after the COMMIT before it, so a number that was seen is durable.
transactions() {
    local n=$1
    echo "PRAGMA synchronous=EXTRA; PRAGMA busy_timeout=5000;"
    while :; do
        n=$((n + 1))
        echo "BEGIN IMMEDIATE;
            UPDATE account SET balance = balance - $((n % 97)) WHERE id = $((n % SQLITE_ACCOUNTS));
            UPDATE account SET balance = balance + $((n % 97))
                WHERE id = $(((n * 7 + 3) % SQLITE_ACCOUNTS));
            INSERT INTO step VALUES ($n, randomblob($((n * 37 % 3000))));
            COMMIT;
            SELECT 'committed', $n;" || return 0
    done
}

run_transactions() {
    transactions "$1" 2>/dev/null | stdbuf -oL sqlite3 -bail "$2" >"$3" 2>"$3.err" || true
}

sql() {
    sqlite3 -bail -cmd '.timeout 5000' "$1" "$2"
}

# Whole, every committed step there, none missing in between, no money made or lost.
check_database() {
    local db=$1 committed=$2 answer last
    answer=$(sql "$db" 'PRAGMA integrity_check')
    [ "$answer" = ok ] || fail "$db: integrity_check: $answer"
    last=$(sql "$db" 'SELECT coalesce(max(n), 0) FROM step')
    [ "$last" -ge "$committed" ] || fail "$db: $committed was committed, $last is the last one"
    [ "$(sql "$db" 'SELECT count(*) FROM step')" = "$last" ] || fail "$db: a step is missing"
    [ "$(sql "$db" 'SELECT sum(balance) FROM account')" = 0 ] || fail "$db: money made or lost"
    say "$(basename "$db"): $last steps, of which $committed were seen to be committed"
}

make_image 4G
mount_image
for mode in delete wal; do
    db=$mnt/$mode.db
    answer=$(sql "$db" "PRAGMA journal_mode=$mode;")
    [ "$answer" = "$mode" ] || fail "journal_mode=$mode gave $answer"
    sql "$db" "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
        CREATE TABLE step (n INTEGER PRIMARY KEY, filler BLOB);
        WITH RECURSIVE i(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i
            WHERE n < $SQLITE_ACCOUNTS - 1) INSERT INTO account SELECT n, 0 FROM i;"
done

for ((kill = 1; kill <= SQLITE_KILLS; kill++)); do
    for mode in delete wal; do
        start=$(sql "$mnt/$mode.db" 'SELECT coalesce(max(n), 0) FROM step')
        background run_transactions "$start" "$mnt/$mode.db" "$tmp/$mode.out"
        printf -v "${mode}_start" '%s' "$start"
        printf -v "${mode}_job" '%s' "$job"
    done
    sleep "$SQLITE_SECONDS"
    kill_daemon
    # shellcheck disable=SC2154 # set by printf -v
    wait "$delete_job" "$wal_job" || true
    detach_dead
    mount_image
    say "kill $kill of $SQLITE_KILLS"
    for mode in delete wal; do
        start=${mode}_start
        committed=$(sed -n 's/^committed|//p' "$tmp/$mode.out" | tail -n 1)
        [ "${committed:-0}" -gt "${!start}" ] ||
            fail "$mode: nothing was committed: $(cat "$tmp/$mode.out.err")"
        check_database "$mnt/$mode.db" "$committed"
    done
done
umount_image
fsck_clean
