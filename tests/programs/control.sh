#!/bin/bash
# tests/programs/control.sh: the control directory, metrics, and kvfs stat, top and health.
#
# Every file of `.kvfs` is read and written through the kernel: its size is right, one open reads
# one moment, who may not does not, wrong input is refused and the log says why. promtool looks at
# the metrics, and at the rules and the dashboard of docs/monitoring.
set -euo pipefail

# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

KVFS_LOG=$tmp/log
: >"$KVFS_LOG"
need jq jq
need promtool prometheus
need script bsdutils
need setpriv util-linux
need python3 python3

control=$mnt/.kvfs

# refused STATUS_OF_ERRNO COMMAND...: it fails and says that.
refused() {
    local words=$1
    shift
    if "$@" >"$tmp/out" 2>&1; then
        fail "$*: was not refused"
    fi
    grep -q "$words" "$tmp/out" || fail "$*: not \"$words\" but: $(cat "$tmp/out")"
}
# logged WORDS: within ten seconds the log says so.
logged() {
    local tenths=100
    until grep -q -- "$1" "$KVFS_LOG"; do
        [ "$tenths" -gt 0 ] || fail "the log does not say \"$1\": $(tail -n 5 "$KVFS_LOG")"
        tenths=$((tenths - 1))
        sleep 0.1
    done
}
# What is written at once.
write_to() {
    printf '%s' "$2" | dd of="$control/$1" bs=1M iflag=fullblock oflag=nocache status=none conv=notrunc
}
figure() {
    jq -r "$1" "$control/stats"
}
as_nobody() {
    setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
}

make_image 256M
mount_image -o allow_other,alert_interval=1s

say "the directory is there by name only"
[ -z "$(ls -A "$mnt")" ] || fail "a listing of the root shows $(ls -A "$mnt")"
[ "$(find "$mnt" | wc -l)" = 1 ] || fail "find goes into it"
[ "$(ls "$control" | sort | tr '\n' ' ')" = "apply config health metrics prefetch stats " ] ||
    fail "in it: $(ls "$control")"
[ "$(getfattr -n system.kvfs.control --only-values "$mnt" 2>/dev/null)" = .kvfs ]

say "sizes are right, and an open file is of one moment"
mkdir "$mnt/d"
seq 20000 >"$mnt/d/numbers"
for file in stats metrics health config prefetch apply; do
    exec 7<"$control/$file"
    size=$(stat -L -c %s /proc/self/fd/7)
    cat "$mnt/d/numbers" >/dev/null
    mkdir "$mnt/d/$file"
    cat <&7 >"$tmp/first"
    exec 7<&-
    [ "$size" = "$(stat -c %s "$tmp/first")" ] || fail "$file: $size bytes, but other many are read"
    [ "$size" -gt 0 ] || fail "$file is empty"
done
exec 7<"$control/stats" 8<"$control/stats"
mkdir "$mnt/d/more"
jq -e .store <&7 >/dev/null
jq -e .requests.mkdir <&8 >"$tmp/before"
exec 7<&- 8<&-
[ "$(figure .requests.mkdir)" -gt "$(cat "$tmp/before")" ] || fail "a new open shows nothing new"
head -c 100 "$control/stats" | grep -q '^{"read_only": false'
[ "$(tail -c 2 "$control/stats")" = "}" ]

say "figures: JSON and metrics"
sync -d "$mnt/d/numbers"
jq -e '.latency_ns.write | .count > 0 and .p50 <= .p95 and .p95 <= .p99 and .p99 <= .p999 and
       .p999 <= .max and .sum >= .max' "$control/stats" >/dev/null || fail "latencies of writes"
jq -e '.histograms | .log_flush_ns.count > 0 and .log_group_batches.sum > 0 and
       .device_flush_ns.count > 0' "$control/stats" >/dev/null || fail "histograms"
jq -e '.content.written_bytes >= 108894 and .ratios.write_amplification_ratio > 0' \
    "$control/stats" >/dev/null || fail "content and amplification"
promtool check metrics <"$control/metrics" || fail "promtool does not like the metrics"
for metric in kvfs_requests_total 'kvfs_request_duration_seconds_bucket{op="write",le="+Inf"}' \
    kvfs_page_hits_total kvfs_device_write_bytes_total kvfs_log_flushes_total \
    kvfs_checkpoint_duration_seconds_count kvfs_scattered_free_ratio kvfs_content_written_bytes_total \
    'kvfs_packed_raw_bytes_total{codec="lz4"}' kvfs_build_info; do
    grep -qF "$metric" "$control/metrics" || fail "no $metric"
done

say "settings"
grep -qx commit_interval=1s "$control/config"
echo commit_interval=200ms >"$control/config"
grep -qx commit_interval=200ms "$control/config"
logged "config: commit_interval=200ms now, commit_interval=1s before"
write_to config $'# two at once\nlog_level = info\nalert_log_warning=90\n'
grep -qx log_level=info "$control/config"
grep -qx alert_log_warning=90 "$control/config"
for wrong in memory_budget=1G threads=3 control=other sync=always; do
    refused "Invalid argument" write_to config "$wrong"
    logged "config: ${wrong%=*} can not change while it is mounted; set $wrong"
done
echo memory_budget=256M >"$control/config" # as it is
for wrong in colour=red commit_interval=soon commit_interval=1ms metrics=some nonsense =3 \
    "$(head -c 300 /dev/zero | tr '\0' x)"; do
    refused "Invalid argument" write_to config "$wrong"
done
logged "config: colour is no setting"
logged 'config: option commit_interval: "soon" is not a time'
refused "Invalid argument" write_to config $'commit_interval=300ms\ncolour=red\n'
grep -qx commit_interval=200ms "$control/config" || fail "half of a change was made"

echo metrics=io,cache >"$control/config"
grep -q kvfs_page_hits_total "$control/metrics"
if grep -q -e kvfs_requests_total -e kvfs_log_ -e kvfs_packed "$control/metrics"; then
    fail "categories that are off are shown"
fi
writes=$(figure .latency_ns.write.count)
seq 10 >"$mnt/d/ten"
[ "$(figure .latency_ns.write.count)" = "$writes" ] || fail "latencies are taken while they are off"
promtool check metrics <"$control/metrics"
echo metrics=none >"$control/config"
promtool check metrics <"$control/metrics"
echo metrics=all >"$control/config"
seq 10 >"$mnt/d/ten"
[ "$(figure .latency_ns.write.count)" -gt "$writes" ] || fail "latencies are not taken again"

say "who may"
for file in stats metrics health; do
    as_nobody cat "$control/$file" >/dev/null || fail "nobody may not read $file"
    refused "Permission denied\|cannot touch" as_nobody sh -c "echo x >'$control/$file'"
done
for file in config prefetch apply; do
    refused "Permission denied" as_nobody cat "$control/$file"
    refused "Permission denied\|cannot create" as_nobody sh -c "echo x >'$control/$file'"
done
refused "Operation not permitted" sh -c "echo x >'$control/stats'"

say "what nobody may"
refused "File exists" mkdir "$control"
refused "Operation not permitted" rmdir "$control"
refused "Operation not permitted" mkdir "$control/new"
refused "Operation not permitted" touch "$control/new"
refused "Operation not permitted" ln -s x "$control/new"
refused "Operation not permitted" rm "$control/stats"
refused "Operation not permitted" ln "$control/stats" "$mnt/stats"
refused "Operation not permitted" ln "$mnt/d/numbers" "$control/numbers"
refused "Operation not permitted" mv "$mnt/d/numbers" "$control/config"
refused "Operation not permitted" mv "$control/config" "$mnt/config"
refused "Operation not permitted" mv "$control" "$mnt/other"
refused "Operation not permitted" mv -T "$mnt/d" "$control"
refused "Operation not permitted" chmod 777 "$control/config"
refused "Operation not permitted" chown 1:1 "$control"
refused "Operation not permitted" setfattr -n user.x -v 1 "$control/config"
logged "refused: .kvfs is the control directory of the mount"
[ -z "$(getfattr -d "$control/config" 2>/dev/null)" ]
cp "$control/stats" "$mnt/copy" # no copy_file_range, but a copy
jq -e .store "$mnt/copy" >/dev/null
rm "$mnt/copy"

say "health"
"$bin/kvfs" health "$mnt" >"$tmp/health" || fail "status $?: $(cat "$tmp/health")"
cmp -s <(cut -c1-16 "$tmp/health") <(cut -c1-16 "$control/health") || fail "kvfs health differs"
echo alert_space_warning=100 >"$control/config"
status=0
"$bin/kvfs" health "$mnt" >"$tmp/health" || status=$?
[ "$status" = 1 ] || fail "kvfs health: $status instead of 1"
grep -q '^WARN  space .*alert_space_warning=100' "$tmp/health"
logged "health: WARN space"
echo alert_space_critical=100 >"$control/config"
status=0
"$bin/kvfs" health --json "$mnt" >"$tmp/health" || status=$?
[ "$status" = 2 ] || fail "kvfs health: $status instead of 2"
jq -e 'map(select(.state == "CRIT"))[0].subject == "space"' "$tmp/health" >/dev/null
logged "health: CRIT space"
write_to config $'alert_space_warning=10\nalert_space_critical=3\n'
"$bin/kvfs" health "$mnt" >/dev/null || fail "kvfs health: $? after it is well again"
logged "health: OK space"
status=0
"$bin/kvfs" health "$tmp" 2>/dev/null || status=$?
[ "$status" = 3 ] || fail "kvfs health of no mount: $status"

say "stat and top"
"$bin/kvfs" stat "$mnt" >"$tmp/out"
grep -q '^  write  ' "$tmp/out"
grep -q 'can still be written' "$tmp/out"
"$bin/kvfs" stat --json "$mnt/d" | jq -e .store.page_hits >/dev/null
timeout -s INT 3 "$bin/kvfs" stat --interval 0.2 "$mnt" >"$tmp/out" || true
[ "$(wc -l <"$tmp/out")" -ge 3 ] || fail "kvfs stat --interval printed $(cat "$tmp/out")"
"$bin/kvfs" top --interval 0.2 "$mnt" >"$tmp/out"
if grep -q $'\033' "$tmp/out"; then fail "control sequences where no terminal is"; fi
grep -q 'requests/s' "$tmp/out"
{
    sleep 1
    printf 'x'
    sleep 0.5
    printf 'q'
    sleep 5
} | timeout 30 script -qec "stty rows 15 cols 60; '$bin/kvfs' top --interval 0.2 '$mnt' && echo it is over" "$tmp/screen" >/dev/null
grep -q "it is over" "$tmp/screen" || fail "kvfs top did not end by q: $(tail -c 300 "$tmp/screen")"
grep -q "q quits" "$tmp/screen"
grep -qF $'\033[?1049l' "$tmp/screen" || fail "the terminal's own screen did not come back"
for wrong in "stat --interval 0 $mnt" "stat --interval x $mnt" "stat --json --interval 1 $mnt" \
    "top --json $mnt" "stat" "top $mnt $mnt" "health --interval 1 $mnt"; do
    status=0
    # shellcheck disable=SC2086 # words
    "$bin/kvfs" $wrong >/dev/null 2>&1 || status=$?
    [ "$status" = 2 ] || fail "kvfs $wrong: status $status"
done
status=0
"$bin/kvfs" stat "$tmp" >/dev/null 2>&1 || status=$?
[ "$status" = 1 ] || fail "kvfs stat of no mount: status $status"

say "apply"
refused "No such file" cat "$mnt/a" # the kernel knows now that there is none
echo "put a hello" >"$control/apply"
[ "$(cat "$mnt/a")" = hello ] || fail "the kernel was not told"
grep -qx "state done" "$control/apply"
printf 'begin\nput a new\nput e/f @4\nx\ny\n\nrename a e/b\ncommit\n' >"$control/apply"
[ "$(cat "$mnt/e/b")" = new ]
[ "$(cat "$mnt/e/f")" = $'x\ny' ]
[ ! -e "$mnt/a" ] || fail "a is still there"
refused "No such file" write_to apply $'put g 1\ndelete nothing\n'
[ ! -e "$mnt/g" ] || fail "half of a batch was applied"
grep -qx "state refused" "$control/apply"
grep -q "^error line 2" "$control/apply"
logged "apply: line 2"
# Who has it open reads there why it was refused.
python3 - "$control/apply" <<'PYTHON'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    os.write(fd, b"put one 1\ndelete nothing\n")
    sys.exit("it was not refused")
except FileNotFoundError:
    pass
text = os.pread(fd, 512, 0)
if not text.startswith(b"error line 2"):
    sys.exit("the open file says %r" % text)
PYTHON
{
    echo begin
    seq -f 'put many/%g value' 5000
    echo commit
} >"$control/apply"
[ "$(find "$mnt/many" -type f | wc -l)" = 5000 ]
printf '# 12345\n%.0s' {1..1024} >"$tmp/pages"
refused "Invalid argument" dd if="$tmp/pages" of="$control/apply" bs=8192 conv=notrunc status=none
printf 'begin\nput never 1\n' >"$control/apply"
[ ! -e "$mnt/never" ] || fail "a batch without commit was applied"
for wrong in "put .kvfs x" "put .kvfs/stats x" "rename e .kvfs" "mkdir .kvfs/d"; do
    refused "Permission denied" write_to apply "$wrong"
done
printf 'put long 1\n' >"$mnt/batch"
exec 7<"$mnt/batch"
echo "inode $(stat -c %i "$mnt/batch")" >"$control/apply"
exec 7<&-
[ "$(cat "$mnt/long")" = 1 ]

say "prefetch"
mkdir -p "$mnt/src/deep/er"
for i in $(seq 30); do
    head -c 20000 /dev/urandom >"$mnt/src/$i.bin"
    head -c 3000 /dev/urandom >"$mnt/src/deep/er/$i.c"
done
for wrong in /src src/ src//x ../x .; do
    refused "Invalid argument" write_to prefetch "$wrong"
done
logged "prefetch: a line is no path"
remount
printf 'src/**/*.c\nsrc/*.bin\nno/such/thing\n' >"$control/prefetch"
tenths=300
until grep -qx "state idle" "$control/prefetch"; do
    [ "$tenths" -gt 0 ] || fail "prefetch does not end: $(cat "$control/prefetch")"
    tenths=$((tenths - 1))
    sleep 0.1
done
grep -qx "files 60" "$control/prefetch" || fail "prefetch: $(cat "$control/prefetch")"
grep -qx "unmatched 1" "$control/prefetch"
grep -qx "errors 0" "$control/prefetch"
before=$(figure .store.device_reads)
cat "$mnt"/src/*.bin "$mnt"/src/deep/er/*.c >/dev/null
after=$(figure .store.device_reads)
[ "$before" = "$after" ] || fail "reading what was prefetched took $((after - before)) transfers"

say "an image with an entry of that name, and other names"
umount_image
mount_image -o control=none
[ ! -e "$control" ] || fail "control=none, but it is there"
mkdir "$control"
"$bin/kvfs" stat "$mnt" >/dev/null
status=0
"$bin/kvfs" health "$mnt" 2>"$tmp/out" || status=$?
[ "$status" = 3 ] || fail "kvfs health without a control directory: $status"
umount_image
if "$bin/mount.kvfs" "$image" "$mnt" 2>"$tmp/out"; then fail "mounted over an entry of its own"; fi
grep -q 'has an entry ".kvfs" of its own.*control=NAME' "$tmp/out" || fail "$(cat "$tmp/out")"
mount_image -o control=@ctl
[ -d "$control" ] || fail "its own .kvfs is not there"
jq -e .store "$mnt/@ctl/stats" >/dev/null
"$bin/kvfs" health "$mnt" >/dev/null
rmdir "$control"
umount_image
for wrong in control=a/b control=.. "control=$(head -c 100 /dev/zero | tr '\0' x)" metrics=some \
    alert_log_warning=101; do
    if "$bin/mount.kvfs" "$image" "$mnt" -o "$wrong" 2>"$tmp/out"; then fail "-o $wrong is taken"; fi
    grep -q "option ${wrong%=*}" "$tmp/out" || fail "-o $wrong: $(cat "$tmp/out")"
done

say "KVFS_METRICS"
export KVFS_METRICS=wal,space
mount_image
grep -qx metrics=wal,space "$control/config"
umount_image
KVFS_METRICS=wal mount_image -o metrics=all
grep -qx metrics=all "$control/config"
umount_image
if KVFS_METRICS=much "$bin/mount.kvfs" "$image" "$mnt" 2>"$tmp/out"; then fail "KVFS_METRICS=much"; fi
grep -q KVFS_METRICS "$tmp/out"
unset KVFS_METRICS

say "read-only"
mount_image -o ro
jq -e .read_only "$control/stats" >/dev/null
refused "Read-only file system" sh -c "echo metrics=io >'$control/config'"
umount_image

say "rules and dashboard"
monitoring=$source_tree/docs/monitoring
promtool check rules "$monitoring/kvfs.rules.yml"
jq -e '.panels | length > 0' "$monitoring/kvfs-dashboard.json" >/dev/null
mount_image
seq 1000 >"$mnt/numbers"
sync -d "$mnt/numbers"
cat "$control/metrics" >"$tmp/metrics"
for metric in $(grep -oh 'kvfs_[a-z0-9_]*' "$monitoring/kvfs.rules.yml" "$monitoring/kvfs-dashboard.json" | sort -u); do
    grep -q "^$metric[{ ]" "$tmp/metrics" || fail "docs/monitoring knows $metric, the mount does not"
done
umount_image
fsck_clean
