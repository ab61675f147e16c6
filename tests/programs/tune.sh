#!/bin/bash
# tests/programs/tune.sh: kvfs tune finds what was planted and nothing else; --auto moves the tiers;
# tiers change live.
#
# Each situation is a mount of its own, made so that one thing holds it back. What kvfs tune names
# then must be that thing alone. Counts decide, never times.
set -euo pipefail

# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

need jq jq
need python3 python3
need mount mount
# Some options here are what is planted: a transport or other options from outside would be others.
unset KVFS_MOUNT_OPTIONS
size TUNE_FILES 14000 60000 # of the trees whose leaves do not fit into the least budget

# tuned STATUS NAMES [OPTION...]: what kvfs tune finds on the mount, and that it says so alike to
# people and machines.
tuned() {
    local expected=$1 names=$2 status=0
    shift 2
    "$bin/kvfs" tune --json "$@" "$mnt" >"$tmp/found" || status=$?
    [ "$(jq -r '[.findings[].name] | sort | join(" ")' "$tmp/found")" = "$names" ] ||
        fail "expected \"$names\" but found: $(jq -c .findings "$tmp/found")"
    [ "$status" = "$expected" ] || fail "status $status instead of $expected"
    jq -e '[.findings[] | .share >= 0 and .share <= 1 and (.text | length) > 20 and
            (.setting | length) > 0 and (.how | length) > 20 and (.evidence | length) > 0] | all' \
        "$tmp/found" >/dev/null || fail "a finding is not whole: $(cat "$tmp/found")"
}
found() {
    jq -r ".findings[0].$1" "$tmp/found"
}
figure() {
    "$bin/kvfs" stat --json "$mnt" | jq -r "$1"
}
# The kernel drops the names, the inodes and with them the content that nobody uses.
forget_all() {
    mount -i -o remount,rw "$mnt"
}

# touch_files FILES TOUCHES: make them, keep them open, and touch them at random, so that their
# leaves are used and the kernel asks for no names. Long names: some 25 of them fill a leaf.
touch_files() {
    python3 - "$mnt/tree" "$@" "$KVFS_SEED" <<'EOF'
import os, random, resource, sys
directory, files, touches, seed = sys.argv[1], *map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_NOFILE, (files + 100, files + 100))
rng = random.Random(seed)
os.makedirs(directory, exist_ok=True)
opened = []
for i in range(files):
    name = f"{directory}/{f'a-file-with-a-long-name-{i:06}-'.ljust(250, 'x')}"
    opened.append(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644))
    os.write(opened[-1], b"some text that packs %06d " % i * 9)
for i in range(touches):
    os.utime(opened[rng.randrange(files)], (i, i))
EOF
}

# ask_files FILES QUESTIONS: of those that touch_files made, at random, what the kernel does not keep.
ask_files() {
    python3 - "$mnt/tree" "$@" <<'EOF'
import os, random, resource, sys
directory, files, questions = sys.argv[1], *map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_NOFILE, (files + 100, files + 100))
opened = [os.open(f"{directory}/{name}", os.O_RDONLY) for name in os.listdir(directory)[:files]]
rng = random.Random()
for i in range(questions):
    try:
        os.getxattr(opened[rng.randrange(len(opened))], "user.none")
    except OSError:
        pass
EOF
}

# parallel_syncs WRITERS ROUNDS: each appends to a file of its own and syncs it.
parallel_syncs() {
    python3 - "$mnt" "$@" <<'EOF'
import os, sys, threading
directory, writers, rounds = sys.argv[1], *map(int, sys.argv[2:])
def work(k):
    fd = os.open(f"{directory}/{k}", os.O_RDWR | os.O_CREAT, 0o644)
    for i in range(rounds):
        os.pwrite(fd, b"x" * 100, i * 100)
        os.fsync(fd)
    os.close(fd)
threads = [threading.Thread(target=work, args=(k,)) for k in range(writers)]
[t.start() for t in threads]
[t.join() for t in threads]
EOF
}

# End what `background` began, whose pid is in $worker, and all that it started.
end_worker() {
    { kill_family "$worker"; wait "$worker"; } 2>/dev/null || true
}

# A text in one write; the printf of bash makes one of each line.
write_config() {
    printf '%s' "$1" | dd of="$mnt/.kvfs/config" bs=64k iflag=fullblock conv=notrunc status=none
}

end() {
    umount_image
}

# ---- what is well -------------------------------------------------------------------------

say "a mount as it comes, with a workload: nothing is found"
make_image 512M
mount_image
tuned 0 ""
mkdir "$mnt/doc"
cp -r "$source_tree/fs" "$source_tree/kv" "$source_tree/tools" "$mnt/doc"
seq 3000000 >"$mnt/large"
sync "$mnt/large"
parallel_syncs 4 30
grep -r kv_batch "$mnt/doc" >/dev/null
forget_all
cat "$mnt/large" >/dev/null
find "$mnt" -name '*.c' -size +1k >/dev/null
rm -r "$mnt/doc/tools"
tuned 0 ""
"$bin/kvfs" tune "$mnt" | grep -q "$mnt: nothing that its figures tell holds it back" ||
    fail "it does not say so"
say "an interval in which nothing happens, too"
tuned 0 "" --seconds 0.2
end
"$bin/kvfs" tune "$image" || fail "the image is not well: status $?"

# ---- memory -------------------------------------------------------------------------------

say "budget: pages that do not pack are read again and again"
make_image 512M -c none
mount_image -o memory_budget=8M
touch_files "$TUNE_FILES" 20000
tuned 1 budget
[ "$(found setting) $(found present) $(found proposed)" = "memory_budget 8M 16M" ] ||
    fail "$(cat "$tmp/found")"
jq -e '.findings[0].evidence | .page_misses_back > 1000 and .page_misses >= .page_misses_back' \
    "$tmp/found" >/dev/null || fail "no ghost hits: $(cat "$tmp/found")"
"$bin/kvfs" tune "$mnt" >"$tmp/out" || [ $? = 1 ]
grep -q '^budget  ' "$tmp/out"
grep -q '^  change     memory_budget, now 8M, to 16M$' "$tmp/out"
end

say "tiers: the same of pages that pack; what is proposed can be written as it is told"
make_image 512M
mount_image -o memory_budget=8M,adapt_tiers=no
touch_files "$TUNE_FILES" 20000
tuned 1 tiers
how=$(found how)
[ "$(found proposed)" = 12,3,90,80 ] || fail "$(cat "$tmp/found")"
settings=${how#printf \'}
printf "${settings%%\'*}" >"$mnt/.kvfs/config"
grep -qx cold_ratio=90 "$mnt/.kvfs/config"
grep -qx frozen_ratio=80 "$mnt/.kvfs/config"
touch_files "$TUNE_FILES" 5000
[ "$(figure .store.cold_hits)" -gt 0 ] || fail "nothing is found packed"
end

say "tiers: where nothing is said against it they come by themselves"
make_image 512M
mount_image -o memory_budget=8M
touch_files "$TUNE_FILES" 0
tries=20
until ask_files "$TUNE_FILES" 20000 && [ "$(figure .store.cold_hits)" -gt 0 ]; do
    [ "$tries" -gt 0 ] || fail "nothing is found packed"
    tries=$((tries - 1))
done
grep -qx cold_ratio=0 "$mnt/.kvfs/config"
end

say "tiers change live, all of a text or nothing"
mount_image -o hot_ratio=10,warm_ratio=20,cold_ratio=30,frozen_ratio=40
grep -qx warm_ratio=20 "$mnt/.kvfs/config"
echo hot_ratio=20 >"$mnt/.kvfs/config"
grep -qx hot_ratio=20 "$mnt/.kvfs/config"
grep -qx warm_ratio=20 "$mnt/.kvfs/config"
for wrong in $'hot_ratio=0\nwarm_ratio=0' hot_ratio=10001 hot_ratio=-1 cold_ratio=some \
    $'cold_ratio=5\nmemory_budget=64M'; do
    ! write_config "$wrong" 2>/dev/null || fail "$wrong: was not refused"
done
write_config $'hot_ratio=0\nwarm_ratio=7'
[ "$(grep _ratio "$mnt/.kvfs/config" | tr '\n' ' ')" = \
    "hot_ratio=0 warm_ratio=7 cold_ratio=30 frozen_ratio=40 " ] ||
    fail "$(cat "$mnt/.kvfs/config")"
end

say "--auto gives packed pages room, within bounds, and says what it does"
make_image 512M
mount_image -o memory_budget=8M
background touch_files "$TUNE_FILES" 100000000
worker=$job
until [ "$(figure .store.warm_ghost_hits)" -gt 500 ]; do
    [ -e "/proc/$worker" ] || fail "the workload ended"
    sleep 0.2
done
# As long as it takes on a busy machine, and some intervals more.
"$bin/kvfs" tune --auto --seconds 0.5 "$mnt" >"$tmp/moves" &
auto=$!
until grep -qs '^moved: ' "$tmp/moves"; do
    [ -e "/proc/$auto" ] || fail "--auto ended by itself"
    sleep 0.2
done
sleep 3
kill -TERM $auto
wait $auto || fail "--auto ended with status $? by a signal"
cat "$tmp/moves"
grep -q '^moved: 10 % for packed pages (hot 720, warm 180, cold 52, frozen 48): ' "$tmp/moves" ||
    fail "it did not move"
awk '/ % for packed pages/ { for (i = 1; i <= NF; i++) if ($i == "%") p = $(i - 1)
        if (p < 0 || p > 85 || p - last > 10 || last - p > 10) exit 1; last = p }' "$tmp/moves" ||
    fail "a move is beyond its bounds"
sed -n '/^for mount.conf/,$p' "$tmp/moves" | tail -n +2 >"$tmp/ratios"
grep _ratio "$mnt/.kvfs/config" | diff - "$tmp/ratios" || fail "it does not tell how it ended"
# begun FILE: wait until --auto, $auto, says there that it has begun.
begun() {
    until grep -qs '^begins: ' "$1"; do
        [ -e "/proc/$auto" ] || fail "--auto ended too early"
        sleep 0.1
    done
}
say "--auto ends after its rounds, by a signal while it waits, and when the mount does"
end_worker
"$bin/kvfs" tune --auto --seconds 0.1 --rounds 2 "$mnt" >"$tmp/moves"
"$bin/kvfs" tune --auto --seconds 600 "$mnt" >"$tmp/moves.600" &
auto=$!
begun "$tmp/moves.600"
kill -TERM $auto
wait $auto || fail "--auto ended with status $?"
"$bin/kvfs" tune --auto --seconds 0.3 "$mnt" >"$tmp/moves.end" &
auto=$!
begun "$tmp/moves.end"
end
wait $auto || fail "--auto ended with status $? when the mount did"

# ---- log and checkpoints ------------------------------------------------------------------

say "log: writers wait for room in it"
make_image 512M -l 1M
mount_image
python3 - "$mnt" <<'EOF'
import os, sys, threading
def work(k):
    os.mkdir(f"{sys.argv[1]}/{k}")
    for i in range(2000):
        with open(f"{sys.argv[1]}/{k}/{i}", "wb") as file:
            file.write(b"some text %d " % i * 200)
threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
EOF
waits=$(figure .store.log_waits)
if [ "$waits" -ge 16 ]; then
    tuned 1 log
    [ "$(found present) $(found proposed)" = "1 MiB 4 MiB" ] || fail "$(cat "$tmp/found")"
    found how | grep -q 'mkfs.kvfs -l 4M'
else
    # In memory (/dev/shm), say, checkpoints end before the log is full: it is not too small there.
    say "only $waits batches waited: the device is too fast for this one"
    tuned 0 ""
fi
end

say "checkpoints: each fsync makes one"
make_image 256M
mount_image -o sync=checkpoint
for ((i = 0; i < 24; i++)); do
    echo "$i" >"$mnt/file"
    sync "$mnt/file"
done
tuned 1 checkpoints
[ "$(found setting) $(found present) $(found proposed)" = "sync checkpoint fsync" ] ||
    fail "$(cat "$tmp/found")"
end
say "checkpoints: somebody asks for them"
mount_image
for ((i = 0; i < 24; i++)); do
    echo "$i" >"$mnt/file"
    "$bin/kvfs" sync "$mnt"
done
tuned 1 checkpoints
[ "$(found setting)" = "who asks" ] || fail "$(cat "$tmp/found")"
end

# ---- packing, threads ---------------------------------------------------------------------

say "codec: what can not get smaller is packed"
make_image 256M
mount_image
head -c 32M /dev/urandom >"$mnt/noise"
sync "$mnt/noise"
tuned 1 codec
[ "$(found setting) $(found present) $(found proposed)" = "codec lz4 none" ] ||
    fail "$(cat "$tmp/found")"
end
"$bin/kvfs" tune --json "$image" >"$tmp/found" || [ $? = 1 ]
[ "$(jq -r '[.findings[].name] | join(" ")' "$tmp/found")" = codec ] ||
    fail "of the image: $(cat "$tmp/found")"
make_image 256M -c none
mount_image
head -c 32M /dev/urandom >"$mnt/noise"
tuned 0 ""
end

say "threads: requests wait for the only one"
make_image 256M
KVFS_TRANSPORT='' mount_image -o threads=1,transport=dev
parallel_syncs 24 60
tuned 1 threads
[ "$(found setting) $(found present)" = "threads 1" ] || fail "$(cat "$tmp/found")"
[ "$(found proposed)" -ge 8 ] || fail "$(cat "$tmp/found")"
end

# ---- the kernel's caches ------------------------------------------------------------------

say "names: the kernel asks again"
make_image 256M
mount_image
mkdir "$mnt/d"
(cd "$mnt/d" && seq 400 | xargs touch)
for _ in 1 2 3 4; do
    (cd "$mnt/d" && seq 400 | xargs stat -c %s >/dev/null)
    forget_all
done
tuned 1 names
end

say "reads: programs read past the kernel's cache"
make_image 256M
mount_image
seq 3000000 >"$mnt/file"
for _ in 1 2 3 4; do
    dd if="$mnt/file" of=/dev/null iflag=direct bs=64K status=none
done
tuned 1 reads
[ "$(found setting) $(found present) $(found proposed)" = "extent_percent 25 75" ] ||
    fail "$(cat "$tmp/found")"
end

# ---- fragments ----------------------------------------------------------------------------

say "fragments: a large file was written at random"
make_image 512M
mount_image
mkdir "$mnt/some where"
python3 - "$mnt/some where/fi le" "$KVFS_SEED" <<'EOF'
import os, random, sys
order = list(range((16 << 20) // 4096))
random.Random(int(sys.argv[2])).shuffle(order)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
for i in order:
    os.pwrite(fd, b"%08d" % i * 512, i * 4096)
os.fsync(fd)
EOF
seq 500000 >"$mnt/other"
forget_all
cat "$mnt/some where/fi le" "$mnt/other" >/dev/null
tuned 1 fragments
found how | grep -q 'first of all some where/fi le$' || fail "$(cat "$tmp/found")"
end
"$bin/kvfs" tune --json "$image" >"$tmp/found" || [ $? = 1 ]
jq -e '.findings | length == 1 and .[0].name == "fragments" and
       .[0].evidence.files_fragmented == 1 and .[0].evidence.files == 2' "$tmp/found" >/dev/null ||
    fail "of the image: $(cat "$tmp/found")"
say "what is proposed helps"
mount_image
cp --reflink=never "$mnt/some where/fi le" "$mnt/new"
mv "$mnt/new" "$mnt/some where/fi le"
remount # the copy has read the pieces once more
cat "$mnt/some where/fi le" >/dev/null
tuned 0 ""
end
"$bin/kvfs" tune "$image" >/dev/null || fail "the image still is not well: status $?"

# ---- wrong input of tune ------------------------------------------------------------------

# refused STATUS WORDS COMMAND...: it ends so and says that.
refused() {
    local expected=$1 words=$2 status=0
    shift 2
    "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ "$status" = "$expected" ] || fail "$*: status $status instead of $expected: $(cat "$tmp/err")"
    grep -q -- "$words" "$tmp/err" || fail "$*: not \"$words\" but: $(cat "$tmp/err")"
}

say "wrong input"
mount_image
refused 2 'give an image or a mounted directory' "$bin/kvfs" tune
refused 2 'No such file' "$bin/kvfs" tune "$tmp/nothing"
refused 2 'not in a kvfs mount' "$bin/kvfs" tune "$tmp"
echo text >"$tmp/text"
refused 2 'text' "$bin/kvfs" tune "$tmp/text"
for wrong in 0 -1 x 1x '' 100000 nan; do
    refused 2 'give seconds' "$bin/kvfs" tune --seconds "$wrong" "$mnt"
done
refused 2 'give a number' "$bin/kvfs" tune --auto --rounds 0 "$mnt"
refused 2 '--rounds is for --auto' "$bin/kvfs" tune --rounds 2 "$mnt"
refused 2 'leave out --json' "$bin/kvfs" tune --auto --json "$mnt"
refused 2 'or --limits alone' "$bin/kvfs" tune --limits "$mnt"
refused 2 'usage' "$bin/kvfs" tune "$mnt" "$mnt"
refused 2 'unrecognized option' "$bin/kvfs" tune --colour "$mnt"
grep -q '^page_back_share ' <<<"$("$bin/kvfs" tune --limits)" || fail "no limits"
"$bin/kvfs" tune --limits --json | jq -e 'length > 10 and all(.[]; .value > 0)' >/dev/null
"$bin/kvfs" tune --help >"$tmp/out"
grep -q '^Example: ' "$tmp/out" || fail "--help has no example"
grep -q '^Exit status: ' "$tmp/out" || fail "--help tells no exit status"
refused 2 'Permission denied\|only root' setpriv --reuid 65534 --regid 65534 --clear-groups \
    "$bin/kvfs" tune --auto "$mnt"
if (exec 7>/dev/full) 2>/dev/null; then
    status=0
    "$bin/kvfs" tune "$mnt" >/dev/full 2>/dev/null || status=$?
    [ "$status" = 2 ] || fail "lost output: status $status"
fi
end
mount_image -o control=none
refused 2 'control=none' "$bin/kvfs" tune --auto "$mnt"
tuned 0 ""
end
refused 2 'for mounts' "$bin/kvfs" tune --auto "$image"
refused 2 'for mounts' "$bin/kvfs" tune --seconds 1 "$image"

fsck_clean
