# shellcheck shell=bash
# tests/programs/lib-sqlite.sh: a bank in SQLite, to see what becomes of its transactions when the
# file system dies under it. Sourced after lib.sh; needs sqlite3 and stdbuf.
#
# Gives: bank_make DB MODE ACCOUNTS       bank_work DB ACCOUNTS START OUT    (endless; OUT.err)
#        bank_committed OUT MODE START    bank_check DB COMMITTED: prints the last step

sql() {
    sqlite3 -bail -cmd '.timeout 5000' "$1" "$2"
}

bank_make() {
    local db=$1 mode=$2 accounts=$3 answer
    rm -f "$db" "$db-journal" "$db-wal" "$db-shm"
    answer=$(sql "$db" "PRAGMA journal_mode=$mode;
        CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
        CREATE TABLE step (n INTEGER PRIMARY KEY, filler BLOB);
        WITH RECURSIVE i(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i
            WHERE n < $accounts - 1) INSERT INTO account SELECT n, 0 FROM i;")
    [ "$answer" = "$mode" ] || fail "journal_mode=$mode gave $answer"
    sync "$db" "$(dirname "$db")"
}

# Endless transactions, each of which moves money and leaves a numbered row. What sqlite3 prints
# comes after the COMMIT before it, so a number that was seen is durable.
bank_transactions() {
    local accounts=$1 n=$2
    echo "PRAGMA synchronous=EXTRA; PRAGMA busy_timeout=5000;"
    while :; do
        n=$((n + 1))
        echo "BEGIN IMMEDIATE;
            UPDATE account SET balance = balance - $((n % 97)) WHERE id = $((n % accounts));
            UPDATE account SET balance = balance + $((n % 97))
                WHERE id = $(((n * 7 + 3) % accounts));
            INSERT INTO step VALUES ($n, randomblob($((n * 37 % 3000))));
            COMMIT;
            SELECT 'committed', $n;" || return 0
    done
}

bank_work() {
    bank_transactions "$2" "$3" 2>/dev/null | stdbuf -oL sqlite3 -bail "$1" >"$4" 2>"$4.err" || true
}

# The last step that is known to be durable; START if none is.
#
# With a rollback journal a commit ends by deleting it and syncing its directory. If the directory
# can not even be opened, because the daemon has just died, SQLite takes that for a system without
# such a thing and says "committed": only the next transaction confirms it.
bank_committed() {
    local out=$1 mode=$2 start=$3 seen
    seen=$(sed -n 's/^committed|//p' "$out" | tail -n 2)
    if [ "$mode" = delete ]; then
        seen=$(head -n 1 <<<"$seen")
        [ -z "$seen" ] || [ "$seen" -gt $((start + 1)) ] || seen=$start
    fi
    echo "${seen:+${seen##*$'\n'}}" | grep . || echo "$start"
}

# Whole, every committed step there, none missing in between, no money made or lost.
bank_check() {
    local db=$1 committed=$2 answer
    answer=$(sql "$db" "PRAGMA integrity_check;
        SELECT coalesce(max(n), 0), count(*), (SELECT sum(balance) FROM account) FROM step;")
    [[ $answer =~ ^ok$'\n'([0-9]+)\|([0-9]+)\|0$ ]] || fail "$db: $answer"
    [ "${BASH_REMATCH[1]}" = "${BASH_REMATCH[2]}" ] || fail "$db: a step is missing"
    [ "${BASH_REMATCH[1]}" -ge "$committed" ] ||
        fail "$db: $committed was committed, ${BASH_REMATCH[1]} is the last one"
    echo "${BASH_REMATCH[1]}"
}
