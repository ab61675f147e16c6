#!/bin/bash
# Is everything that was promised there after kill -9 of the daemon, over and over?
#
#   kill.sh DIR_OF_THE_PROGRAMS      KILL_KILLS=6  KILL_MOST_MS=2000
#                                    KILL_SECONDS=N: no more kills after so many seconds
#
# Four kinds of client at once: a C program that fsyncs, with one thread that renames over files
# (test-crashload), shell tools, and SQLite with both of its journals. The daemon is killed after
# 10 ms to KILL_MOST_MS; fsck.kvfs looks at what is left; the next mount, at once, has it all.
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/../../programs/lib.sh"
# shellcheck source=tests/programs/lib-sqlite.sh
source "$(dirname "$0")/../../programs/lib-sqlite.sh"

need sqlite3 sqlite3
need stdbuf coreutils
size KILL_KILLS 6 1000
size KILL_MOST_MS 2000 2000
size KILL_SECONDS 1000000 1000000
RANDOM=$KVFS_SEED
echo "KVFS_SEED=$KVFS_SEED"
accounts=50
fresh_every=25 # kills after which the databases begin anew
promises=0 committed_all=0 shell_all=0 mount_ms_most=0 mount_ms_all=0

now_ms() {
    echo $(($(date +%s%N) / 1000000))
}

# ---- shell tools -----------------------------------------------------------------------

content() {
    printf 'line %d of file %d\n' 1 "$1" 2 "$1" 3 "$1" 4 "$1"
}

edited() {
    content "$1" | sed 's/^line/LINE/'
}

# Before each change "begin" goes to the log, outside the mount, and after the sync "done".
shell_client() {
    local dir=$1 log=$2 n
    for ((n = 1; ; n++)); do
        echo "begin make $n" >>"$log"
        content "$n" >"$tmp/source"
        cp "$tmp/source" "$dir/new" && sync "$dir/new" && mv "$dir/new" "$dir/f$n" &&
            sync "$dir" || return 0
        echo "done make $n" >>"$log"
        if ((n > 2)); then
            echo "begin edit $((n - 2))" >>"$log"
            sed -i 's/^line/LINE/' "$dir/f$((n - 2))" && sync "$dir/f$((n - 2))" "$dir" || return 0
            echo "done edit $((n - 2))" >>"$log"
        fi
        if ((n > 6)); then
            echo "begin remove $((n - 6))" >>"$log"
            rm "$dir/f$((n - 6))" && sync "$dir" || return 0
            echo "done remove $((n - 6))" >>"$log"
        fi
    done
}

check_shell() {
    local dir=$1 log=$2 word action n found
    local -A state=()
    while read -r word action n; do
        state[$n]="$word $action"
        [ "$word" = begin ] || shell_all=$((shell_all + 1))
    done <"$log"
    for n in "${!state[@]}"; do
        found=absent
        [ ! -e "$dir/f$n" ] || found=$(<"$dir/f$n")
        case "${state[$n]}" in
        "begin make") [[ $found = absent || $found = "$(content "$n")" ]] ;;
        "done make") [ "$found" = "$(content "$n")" ] ;;
        "begin edit") [[ $found = "$(content "$n")" || $found = "$(edited "$n")" ]] ;;
        "done edit") [ "$found" = "$(edited "$n")" ] ;;
        "begin remove") [[ $found = absent || $found = "$(edited "$n")" ]] ;;
        "done remove") [ "$found" = absent ] ;;
        esac || fail "shell: f$n after ${state[$n]}: $found"
    done
}

# ---- SQLite ----------------------------------------------------------------------------

declare -A steps=()

make_databases() {
    local mode
    for mode in delete wal; do
        bank_make "$mnt/$mode.db" "$mode" "$accounts"
        steps[$mode]=0
    done
}

check_database() {
    local mode=$1 committed
    committed=$(bank_committed "$tmp/$mode.out" "$mode" "${steps[$mode]}")
    committed_all=$((committed_all + committed - steps[$mode]))
    steps[$mode]=$(bank_check "$mnt/$mode.db" "$committed")
}

# ---- kills ------------------------------------------------------------------------------

# Mount, and note how long it took.
mount_measured() {
    local begun
    begun=$(now_ms)
    timeout -k 5 300 "$bin/mount.kvfs" "$image" "$mnt" </dev/null || fail "mount.kvfs: status $?"
    mount_ms=$(($(now_ms) - begun))
    mount_ms_all=$((mount_ms_all + mount_ms))
    [ "$mount_ms" -le "$mount_ms_most" ] || mount_ms_most=$mount_ms
    daemon=$(awk -v inode=":$inode\$" '$2 == "POSIX" && $6 ~ inode { print $5 }' /proc/locks)
    [ -n "$daemon" ] || fail "nobody owns the mounted image"
}

start_clients() {
    local kill=$1 dir=$mnt/round-$1 mode
    mkdir "$dir" "$dir/c" "$dir/shell"
    # The directories themselves must be there after the crash, whenever that comes.
    sync "$dir/c" "$dir/shell" "$dir" "$mnt"
    : >"$tmp/log-c"
    : >"$tmp/log-shell"
    background "$bin/test-crashload" run "$dir/c" "$tmp/log-c" --seconds 600 --threads 4 \
        --seed "$((KVFS_SEED * 100000 + kill))" >"$tmp/out-c"
    crashload=$job
    background shell_client "$dir/shell" "$tmp/log-shell" 2>/dev/null
    clients=("$job")
    for mode in delete wal; do
        : >"$tmp/$mode.out"
        background bank_work "$mnt/$mode.db" "$accounts" "${steps[$mode]}" "$tmp/$mode.out"
        clients+=("$job")
    done
}

check_round() {
    local dir=$mnt/round-$1 said
    said=$("$bin/test-crashload" check "$dir/c" "$tmp/log-c" --threads 4 \
        --seed "$((KVFS_SEED * 100000 + $1))") || fail "kill $1: the C program's files"
    said=${said##* of }
    promises=$((promises + ${said%% *}))
    check_shell "$dir/shell" "$tmp/log-shell"
    check_database delete
    check_database wal
    rm -rf "$dir"
}

make_image "${KILL_IMAGE:-8G}"
inode=$(stat -c %i "$image")
begun=$(now_ms)
mount_measured
for ((kill = 1; kill <= KILL_KILLS; kill++)); do
    ((kill % fresh_every != 1)) || make_databases
    start_clients "$kill"
    wait_ms=$((10 + (RANDOM * 32768 + RANDOM) % (KILL_MOST_MS - 9)))
    sleep "$((wait_ms / 1000)).$(printf '%03d' $((wait_ms % 1000)))"
    kill -0 "$crashload" 2>/dev/null || fail "kill $kill: the load ended before the kill"
    kill -9 "$daemon" || fail "kill $kill: the daemon is gone already"
    daemon=
    wait "$crashload" || fail "kill $kill: the load failed, and not because of the kill"
    wait "${clients[@]}" || true
    umount -l "$mnt"
    fsck_clean
    mount_measured
    check_round "$kill"
    if (($(now_ms) - begun > KILL_SECONDS * 1000)); then
        KILL_KILLS=$kill
    fi
    if ((kill % 10 == 0)); then
        say "kill $kill after $wait_ms ms, mounted in $mount_ms ms"
    fi
done
umount_image
fsck_clean
say "$KILL_KILLS kills in $((($(now_ms) - begun) / 1000)) s: nothing lost of $promises records," \
    "$shell_all steps of shell tools, $committed_all transactions; mounted in" \
    "$((mount_ms_all / (KILL_KILLS + 1))) ms, at most $mount_ms_most"
