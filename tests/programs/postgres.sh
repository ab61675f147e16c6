#!/bin/bash
# Does PostgreSQL recover, with all it committed, when the daemon is killed under pgbench?
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

size POSTGRES_SECONDS 10 60
size POSTGRES_SCALE 2 10
postgres_bin=${POSTGRES_BIN:-}
if [ -z "$postgres_bin" ]; then
    for dir in /usr/lib/postgresql/*/bin; do
        [ -x "$dir/initdb" ] && [ -x "$dir/pgbench" ] && postgres_bin=$dir
    done
fi
[ -n "$postgres_bin" ] || need_or_skip "PostgreSQL is not installed: apt-get install postgresql"
id postgres >/dev/null 2>&1 || need_or_skip "there is no user postgres"
need runuser util-linux

data=$mnt/data
outside=$tmp/outside # the socket and the logs: not on the file system under test
postmaster=

as_postgres() {
    (cd "$outside" && exec runuser -u postgres -- "$@")
}

start_server() {
    as_postgres "$postgres_bin/pg_ctl" start -w -t 120 -D "$data" -l "$outside/server.log" -s \
        -o "-c listen_addresses= -c unix_socket_directories=$outside -c max_wal_size=256MB" || {
        tail -n 30 "$outside/server.log" >&2
        fail "PostgreSQL does not start"
    }
    postmaster=$(sed -n 1p "$data/postmaster.pid")
}

# End a server whose files are gone; the children that it has, and no other process.
end_server() {
    local children pid
    children=$(ps -o pid= --ppid "$postmaster" || true)
    kill -QUIT "$postmaster" 2>/dev/null || true
    if ! wait_gone "$postmaster" 10; then
        kill -9 "$postmaster" 2>/dev/null || true
        wait_gone "$postmaster" 10 || fail "PostgreSQL, process $postmaster, does not end"
    fi
    for pid in $children; do
        if ! wait_gone "$pid" 5; then
            kill -9 "$pid" 2>/dev/null || true
            wait_gone "$pid" 5 || fail "a process of PostgreSQL, $pid, does not end"
        fi
    done
    postmaster=
}

# The test may end anywhere: no server stays behind.
end_everything() {
    if [ -n "$postmaster" ]; then
        (end_server) || true
    fi
    cleanup "$1"
}
trap 'end_everything $?' EXIT

query() {
    as_postgres "$postgres_bin/psql" -h "$outside" -X -A -t -v ON_ERROR_STOP=1 -d postgres -c "$1"
}

# What pgbench's transactions keep equal, whatever was committed.
check_invariants() {
    local sums
    sums=$(query "SELECT (SELECT sum(abalance) FROM pgbench_accounts)
        || ' ' || (SELECT sum(bbalance) FROM pgbench_branches)
        || ' ' || (SELECT sum(tbalance) FROM pgbench_tellers)
        || ' ' || (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")
    [ "$(tr ' ' '\n' <<<"$sums" | sort -u | wc -l)" = 1 ] || fail "the sums differ: $sums"
    [ "$(query 'SELECT count(*) FROM pgbench_accounts')" = $((POSTGRES_SCALE * 100000)) ] ||
        fail "accounts are missing"
    say "the sums agree: ${sums%% *}"
}

# pgbench logs each transaction after the server confirmed it.
confirmed_transactions() {
    find "$outside" -name "$1.*" -exec cat {} + | wc -l
}

run_pgbench() {
    as_postgres "$postgres_bin/pgbench" -h "$outside" -n -c 4 -j 2 -T "$2" -l \
        --log-prefix="$1" postgres >"$tmp/$1.out" 2>&1
}

mkdir "$outside"
chown postgres: "$outside"
make_image 8G
mount_image -o allow_other
mkdir "$data"
chown postgres: "$data"
chmod 700 "$data"
say "initdb"
as_postgres "$postgres_bin/initdb" -D "$data" -A trust -k --no-locale -E UTF8 >"$tmp/initdb.out" || {
    cat "$tmp/initdb.out" >&2
    fail "initdb"
}
start_server
as_postgres "$postgres_bin/pgbench" -h "$outside" -i -q -s "$POSTGRES_SCALE" postgres \
    >"$tmp/init.out" 2>&1 || {
    cat "$tmp/init.out" >&2
    fail "pgbench -i"
}

say "pgbench, and the daemon killed in the middle of $POSTGRES_SECONDS s"
background run_pgbench first "$POSTGRES_SECONDS"
sleep $((POSTGRES_SECONDS / 2))
kill -0 "$job" 2>/dev/null || {
    cat "$tmp/first.out" >&2
    fail "pgbench ended before the kill"
}
kill_daemon
wait "$job" && fail "pgbench did not notice that the file system was gone"
end_server
detach_dead
confirmed=$(confirmed_transactions first)
[ "$confirmed" -gt 0 ] || fail "no transaction was confirmed before the kill"

say "mount, recover"
mount_image -o allow_other
# The old server is gone, as was seen above, but its parent may not have waited for it yet.
rm -f "$data/postmaster.pid" "$outside"/.s.PGSQL.*
start_server
kept=$(query 'SELECT count(*) FROM pgbench_history')
say "$confirmed transactions were confirmed, $kept are there"
[ "$kept" -ge "$confirmed" ] || fail "confirmed transactions are lost"
check_invariants

say "pgbench again, to its end"
run_pgbench second "$POSTGRES_SECONDS" || {
    cat "$tmp/second.out" >&2
    fail "pgbench after the recovery"
}
grep -E '^(tps|latency average)' "$tmp/second.out"
check_invariants
[ "$(query 'SELECT count(*) FROM pgbench_history')" = $((kept + $(confirmed_transactions second))) ] ||
    fail "the history does not have every transaction"

say "checksums, and indexes against tables"
if [ -x "$postgres_bin/pg_amcheck" ]; then
    as_postgres "$postgres_bin/pg_amcheck" -h "$outside" --install-missing --heapallindexed postgres ||
        fail "pg_amcheck"
fi
as_postgres "$postgres_bin/pg_ctl" stop -w -m fast -D "$data" -s
postmaster=
as_postgres "$postgres_bin/pg_checksums" --check -D "$data" >"$tmp/checksums.out" || {
    cat "$tmp/checksums.out" >&2
    fail "pg_checksums"
}
umount_image
fsck_clean
