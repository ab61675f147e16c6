#!/bin/bash
# tests/programs/policy.sh: what each key of a policy does on a mount, seen from outside: how content
# is stored, what expires, which pages are read from the device. No time is measured.
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

need setfattr attr
need jq jq
size POLICY_MIB 48 400

conf=$tmp/mount.conf
control=$mnt/.kvfs
cat >"$conf" <<'EOF'
[memory]
memory_budget = 16M
extent_percent = 50
pin_percent = 50
[policy "*.log"]
  codec = zstd:9
  ttl = 1d
[policy "**/scratch/*"]
  ttl = 2s
[policy "models/**"]
  pin = yes
  codec = none
  extent_size = 1M
[policy "/small/*.h"]
  prefetch = yes
[policy "models/plain/*"]
  codec = lz4
  extent_size = 32K
EOF

figure() {
    jq -r ".store.$1 // .$1" "$control/stats"
}
info() {
    "$bin/kvfs" info --json "$mnt" "$1" | jq -r "$2"
}
is() {
    [ "$2" = "$3" ] || fail "$1: $2 instead of $3"
}
# until_true WHAT COMMAND...: how long that takes is up to the machine.
until_true() {
    local what=$1 tenths=600
    shift
    until "$@"; do
        [ $((tenths -= 1)) -gt 0 ] || fail "after a minute still not: $what"
        sleep 0.1
    done
}
# Read a file from the daemon, whatever the kernel has of it.
read_direct() {
    dd if="$1" of=/dev/null bs="${2:-1M}" iflag=direct status=none
}
device_reads() {
    echo $(($(figure page_misses) + $(figure blob_reads)))
}

# text BYTES: that packs well, and the same each time.
text() {
    yes "kvfs policy $KVFS_SEED and some words that come again and again" | head -c "$1" || true
}

make_image 1G -c lz4
mount_image -c "$conf"

say "codec and extent size"
mkdir -p "$mnt/models/plain" "$mnt/small" "$mnt/a/scratch"
text 2M | dd of="$mnt/models/m.bin" bs=1M iflag=fullblock status=none
text 2M | dd of="$mnt/models/plain/p.bin" bs=1M iflag=fullblock status=none
text 2M | dd of="$mnt/plain" bs=1M iflag=fullblock status=none
text 2M | dd of="$mnt/app.log" bs=1M iflag=fullblock status=none
is "extents of a model" "$(info models/m.bin '[.extent_count, .extents_none] | join(" ")')" "2 2"
is "the first section that has the key" \
    "$(info models/plain/p.bin '[.extent_count, .extents_none] | join(" ")')" "2 2"
is "extents without a policy" "$(info plain '[.extent_count, .extents_lz4] | join(" ")')" "16 16"
is "extents of a log" "$(info app.log '[.extent_count, .extents_zstd] | join(" ")')" "16 16"
[ "$(info app.log .stored_bytes)" -le "$(info plain .stored_bytes)" ] || fail "zstd:9 takes more"
[ "$(info models/m.bin .stored_bytes)" -eq 2097152 ] || fail "packed in spite of codec = none"
for file in models/m.bin models/plain/p.bin plain app.log; do
    is "blocks of $file" "$(stat -c %b "$mnt/$file")" 4096
    text 2M | cmp - "$mnt/$file"
done

say "after a rename the new name counts, for what is written from then on"
mv "$mnt/plain" "$mnt/models/plain.bin"
is "what is written stays" "$(info models/plain.bin .extents_lz4)" 16
text 2M | dd of="$mnt/models/plain.bin" bs=1M iflag=fullblock conv=notrunc status=none
is "what was written anew" "$(info models/plain.bin '[.extent_count, .extents_none] | join(" ")')" \
    "2 2"
mv "$mnt/models" "$mnt/kept"
text 1M | dd of="$mnt/kept/m.bin" bs=1M iflag=fullblock conv=notrunc status=none
is "a directory of another name" "$(info kept/m.bin '[.extents_none, .extents_lz4] | join(" ")')" \
    "1 8"
mv "$mnt/kept" "$mnt/models"
ln "$mnt/models/plain.bin" "$mnt/second"
is "two names" "$(info models/plain.bin .policy)" "{}"
rm "$mnt/second"

say "kvfs info and config tell"
is "policy" "$(info app.log '.policy | [.codec.value, .codec.pattern, .ttl.value] | join(" ")')" \
    "zstd:9 *.log 1d"
"$bin/kvfs" info "$mnt" models/m.bin >"$tmp/out"
grep -qF 'extent_size 1M, from [policy "models/**"]' "$tmp/out" || fail "info: $(cat "$tmp/out")"
grep -qF '# policy "*.log": codec=zstd:9 ttl=1d' "$control/config" || fail "config hides policies"

say "a remount with the same policies is none, and with others refused"
"$bin/mount.kvfs" "$image" "$mnt" -c "$conf" -o remount,rw || fail "remount: status $?"
sed 's/zstd:9/zstd:8/' "$conf" >"$tmp/other.conf"
status=0
"$bin/mount.kvfs" "$image" "$mnt" -c "$tmp/other.conf" -o remount,rw 2>"$tmp/err" || status=$?
is "status of a remount" "$status" 32
grep -q "policies can not change while it is mounted" "$tmp/err" || fail "remount: $(cat "$tmp/err")"

say "time to live"
is "a new log" "$(($(getfattr --absolute-names --only-values -n user.kvfs.ttl "$mnt/app.log") > 80000))" 1
echo x >"$mnt/a/keep"
echo x >"$mnt/a/scratch/one"
mv "$mnt/a/keep" "$mnt/a/scratch/two" # as programs put files in place
ls "$mnt/a/scratch" >/dev/null
is_empty() {
    [ -z "$(ls -A "$1")" ]
}
until_true "scratch is empty" is_empty "$mnt/a/scratch"
[ -e "$mnt/app.log" ] || fail "a log is gone, too"

say "kvfs put --ttl"
echo value | "$bin/kvfs" put --ttl 1h "$mnt" b/short
is "of a mount" "$(($(getfattr --absolute-names --only-values -n user.kvfs.ttl "$mnt/b/short") > 3500))" 1
echo value | "$bin/kvfs" put -t 2h "$mnt" b/short
is "given anew" "$(($(getfattr --absolute-names --only-values -n user.kvfs.ttl "$mnt/b/short") > 7100))" 1
echo value | "$bin/kvfs" put "$mnt" b/short
! getfattr -n user.kvfs.ttl "$mnt/b/short" >/dev/null 2>&1 || fail "a new value has the old time"
text 1M | "$bin/kvfs" put "$mnt" b/put.log
is "its policy holds for what is put" "$(info b/put.log .extents_zstd)" 8
for wrong in 0 soon 1y -1 ''; do
    status=0
    echo x | "$bin/kvfs" put --ttl "$wrong" "$mnt" b/wrong 2>"$tmp/err" || status=$?
    is "status of --ttl '$wrong'" "$status" 2
    grep -q 'not a time such as 90s' "$tmp/err" || fail "--ttl $wrong: $(cat "$tmp/err")"
done
[ ! -e "$mnt/b/wrong" ] || fail "something was stored"

say "pin: $POLICY_MIB MiB of others do not push it out"
mkdir "$mnt/others"
for ((i = 0; i < POLICY_MIB; i++)); do
    dd if=/dev/urandom of="$mnt/others/$i" bs=1M count=1 status=none
    for ((j = 0; j < 20; j++)); do head -c 5000 /dev/urandom >"$mnt/others/$i.$j"; done
done
head -c 6000 /dev/urandom >"$mnt/models/short"
remount
read_others() {
    local file
    for file in "$mnt"/others/*; do
        read_direct "$file" 64K
    done
}
read_direct "$mnt/models/m.bin"
read_direct "$mnt/models/short"
read_direct "$mnt/app.log"
before=$(device_reads)
read_others
[ $(($(device_reads) - before)) -ge $((POLICY_MIB * 8)) ] || fail "the others were in memory"
before=$(device_reads)
read_direct "$mnt/models/m.bin"
read_direct "$mnt/models/short"
is "reads of the device for what is pinned" "$(($(device_reads) - before))" 0
read_direct "$mnt/app.log"
[ "$(device_reads)" -gt "$before" ] || fail "what is not pinned was in memory, too"
[ "$(figure retained_bytes)" -ge $((2 << 20)) ] || fail "pinned: $(figure retained_bytes)"
[ "$(figure retained_bytes)" -le "$(figure retained_max_bytes)" ] || fail "beyond its share"
[ "$(figure retained_max_bytes)" -le $((8 << 20)) ] || fail "half of 16M is more than 8M"

say "prefetch: a listing brings the small files into memory"
for ((i = 0; i < 100; i++)); do
    # At once, so that each is an extent and not pieces in pages, where others lie, too.
    dd if=/dev/urandom of="$mnt/small/$i.h" bs=20000 count=1 iflag=fullblock status=none
    dd if=/dev/urandom of="$mnt/small/$i.c" bs=20000 count=1 iflag=fullblock status=none
done
remount
ls "$mnt/small" >/dev/null
prefetched() {
    [ "$(sed -n 's/^files //p' "$control/prefetch")" -eq 100 ]
}
until_true "files of a listing are read" prefetched
is "listings" "$(sed -n 's/^listings //p' "$control/prefetch")" 1
before=$(figure blob_reads)
for ((i = 0; i < 100; i++)); do read_direct "$mnt/small/$i.h" 64K; done
is "extents read after that" "$(($(figure blob_reads) - before))" 0
read_direct "$mnt/small/0.c" 64K
[ "$(figure blob_reads)" -gt "$before" ] || fail "what no policy names was read, too"

say "on the image: info with the same file; what was stored"
umount_image
fsck_clean
is "image" "$("$bin/kvfs" info --json -c "$conf" "$image" app.log | jq -r .policy.codec.value)" zstd:9
is "image without a file" "$("$bin/kvfs" info --json "$image" app.log | jq -r .policy)" "{}"
echo value | "$bin/kvfs" put --ttl 1h "$image" b/image
fsck_clean
mount_image -c "$conf"
is "of an image" "$(($(getfattr --absolute-names --only-values -n user.kvfs.ttl "$mnt/b/image") > 3500))" 1
for file in models/m.bin app.log; do
    text 2M | cmp - "$mnt/$file"
done
status=0
"$bin/kvfs" info -c "$conf" "$mnt" app.log 2>"$tmp/err" || status=$?
is "-c for a mount" "$status" 2
grep -q "a mount has the policies" "$tmp/err" || fail "-c for a mount: $(cat "$tmp/err")"
umount_image

say "a file with a mistake mounts nothing"
printf '[policy "*.log"]\ncodec = zstd:20\n' >"$conf"
status=0
"$bin/mount.kvfs" "$image" "$mnt" -c "$conf" 2>"$tmp/err" || status=$?
is "status of mount.kvfs" "$status" 1
grep -qF "$conf:2: key \"codec\" of policy \"*.log\": \"zstd:20\" is not" "$tmp/err" ||
    fail "the words: $(cat "$tmp/err")"
fsck_clean
