#!/bin/bash
# tests/programs/profiles.sh: profiles on a mount: what they say is in force, what wins over them,
# what mistakes get; the settings that they brought along; completion.
set -euo pipefail

# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

KVFS_LOG=$tmp/log
: >"$KVFS_LOG"
need jq jq

config=$mnt/.kvfs/config
conf=$tmp/mount.conf

# refused STATUS WORDS COMMAND...: this exit status and one line with the words.
refused() {
    local wanted=$1 words=$2 status=0
    shift 2
    "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ "$status" = "$wanted" ] || fail "$*: status $status instead of $wanted: $(cat "$tmp/err")"
    [ "$(wc -l <"$tmp/err")" = 1 ] || fail "$*: not one line: $(cat "$tmp/err")"
    grep -qF -- "$words" "$tmp/err" || fail "$*: no \"$words\" in: $(cat "$tmp/err")"
}
in_force() {
    local line
    for line in "$@"; do
        grep -qxF -- "$line" "$config" || fail "not \"$line\" but $(grep "^${line%%=*}=" "$config")"
    done
}

# comes_true COMMAND...: within half a minute.
comes_true() {
    local tenths=300
    until "$@"; do
        [ "$tenths" -gt 0 ] || return 1
        tenths=$((tenths - 1))
        sleep 0.1
    done
}

make_image 256M

say "each profile is in force, and nothing but its keys"
mount_image
cp "$config" "$tmp/defaults"
umount_image
in_table=0
while read -r name; do
    mount_image -o "profile=$name"
    in_force "profile=$name"
    "$bin/kvfs" profiles --json "$name" | jq -r '.settings[] | "\(.key)=\(.here)"' >"$tmp/keys"
    mapfile -t lines <"$tmp/keys"
    in_force "${lines[@]}"
    changed=$(comm -13 <(sort "$tmp/defaults") <(sort "$config") | grep -cv ^profile=)
    [ "$changed" = "${#lines[@]}" ] || fail "$name: $changed settings have changed, not ${#lines[@]}"
    echo "$name" >"$mnt/file"
    sync -d "$mnt/file"
    [ "$(cat "$mnt/file")" = "$name" ] || fail "$name: the file does not say what was written"
    umount_image
    in_table=$((in_table + 1))
done < <("$bin/kvfs" profiles | cut -d' ' -f1)
[ "$in_table" -ge 10 ] || fail "only $in_table profiles"
[ "$("$bin/kvfs" profiles --json | jq length)" = "$in_table" ]
fsck_clean

say "default, profile, file, options: what comes later wins"
printf '[durability]\ncommit_interval = 7s\n[mount]\nprofile = hdd\n' >"$conf"
mount_image -c "$conf"
in_force profile=hdd commit_interval=7s checkpoint_interval=300s read_ahead=128K
umount_image
mount_image -c "$conf" -o commit_interval=2s,checkpoint_interval=30s
in_force profile=hdd commit_interval=2s checkpoint_interval=30s read_ahead=128K
umount_image
mount_image -c "$conf" -o checkpoint_interval=30s,profile=cache,read_ahead=1M
in_force profile=cache sync=checkpoint commit_interval=7s checkpoint_interval=30s read_ahead=1M
refused_live=0
for wrong in profile=hdd profile=none profile=such read_ahead=2M checkpoint_interval=1min log_buffer=1M; do
    if printf '%s' "$wrong" >"$config"; then fail "$wrong was taken on a live mount"; fi
    refused_live=$((refused_live + 1))
done 2>/dev/null
[ "$refused_live" = 6 ]
grep -q "config: profile can not change while it is mounted; set profile=hdd" "$KVFS_LOG"
grep -q "config: option profile: \"such\" is not none or one of .*oltp" "$KVFS_LOG"
umount_image
mount_image -c "$conf" -o profile=none
in_force profile=none commit_interval=7s checkpoint_interval=30s read_ahead=128K
umount_image

say "memory is taken ahead of its use, so much as touch_ahead says"
takes() { [ "$(daemon_bytes VmRSS)" -ge "$1" ]; }
mount_image -o touch_ahead=0
sleep 0.5
if takes $((40 << 20)); then fail "an idle daemon takes $(daemon_bytes VmRSS) bytes"; fi
umount_image
mount_image -o memory_budget=128M,touch_ahead=96M
comes_true takes $((96 << 20)) || fail "it takes $(daemon_bytes VmRSS) bytes"
sleep 0.5
if takes $((136 << 20)); then fail "it takes $(daemon_bytes VmRSS) bytes"; fi
umount_image

say "mistakes"
mount=("$bin/mount.kvfs" "$image" "$mnt")
refused 1 'option profile: "fast" is not none or one of read-heavy, ' "${mount[@]}" -o profile=fast
refused 1 'option profile: "" is not none or one of' "${mount[@]}" -o profile=
refused 1 'option profile needs a value' "${mount[@]}" -o profile
refused 1 'option profile is given twice' "${mount[@]}" -o profile=hdd,ro,profile=ssd
refused 1 'option profile is given twice' "${mount[@]}" -o profile=hdd -o profile=hdd
printf '[mount]\nprofile = fast\n' >"$conf"
refused 1 'mount.conf:2: key "profile": "fast" is not none or one of read-heavy, ' \
    "${mount[@]}" -c "$conf"
printf '[mount]\nprofile = hdd\nprofile = ssd\n' >"$conf"
refused 1 'mount.conf:3: key "profile" is given twice' "${mount[@]}" -c "$conf"
printf '[memory]\nprofile = hdd\n' >"$conf"
refused 1 'put it under [mount]' "${mount[@]}" -c "$conf"
refused 1 'option memory_budget: "95%"' "${mount[@]}" -o memory_budget=95%
refused 1 'option read_ahead: "17M"' "${mount[@]}" -o read_ahead=17M
refused 1 'option checkpoint_interval: "0"' "${mount[@]}" -o checkpoint_interval=0
refused 1 'option log_buffer: "1K"' "${mount[@]}" -o log_buffer=1K
refused 1 'option touch_ahead: "4G"' "${mount[@]}" -o touch_ahead=4G
if is_mounted; then fail "a mistake was mounted"; fi
kvfs=("$bin/kvfs" profiles)
refused 2 'fast: no such profile; there are read-heavy, ' "${kvfs[@]}" fast
refused 2 'no such profile' "${kvfs[@]}" ''
refused 2 'no such profile' "${kvfs[@]}" --json none
refused 2 'usage: kvfs profiles [--json] [NAME]' "${kvfs[@]}" hdd ssd
refused 2 'profiles: ' "${kvfs[@]}" --colour
if "${kvfs[@]}" >/dev/full 2>"$tmp/err"; then fail "output that is lost is no failure"; fi

say "kvfs profiles tells every key, its default and why"
"${kvfs[@]}" oltp >"$tmp/out"
while IFS=$'\t' read -r key value default reason; do
    grep -qF "$key = $value  (" "$tmp/out" || fail "no $key = $value"
    grep -qF "default $default)" "$tmp/out" || fail "no default $default"
    grep -qF "$reason" "$tmp/out" || fail "no reason: $reason"
    grep -qx "$key = $default" "$source_tree/mount.conf" || fail "the default of $key is another"
done < <("${kvfs[@]}" oltp --json | jq -r '.settings[] | [.key, .value, .default, .reason] | @tsv')
grep -q '^Example: ' <<<"$("${kvfs[@]}" --help)"

say "how far the kernel reads ahead"
read_ahead_kib() {
    local device
    device=$(awk -v dir="$mnt" '$5 == dir { print $3 }' /proc/self/mountinfo)
    cat "/sys/class/bdi/$device/read_ahead_kb"
}
head -c 8M /dev/zero | tr '\0' x >"$tmp/large"
# A daemon that serves has set it, or is just about to.
reads_ahead() { [ "$(read_ahead_kib)" = "$1" ]; }
await_read_ahead() {
    comes_true reads_ahead "$1" || fail "read_ahead=$1K: the kernel says $(read_ahead_kib)"
}
reads_of() { # KIB: READ requests for a file of 8 MiB in order
    mount_image -o "read_ahead=${1}K"
    await_read_ahead "$1"
    cmp "$tmp/large" "$mnt/large"
    jq -r .requests.read "$mnt/.kvfs/stats"
    umount_image
}
mount_image
cp "$tmp/large" "$mnt/large"
[ "$(read_ahead_kib)" = 128 ]
umount_image
for kib in 4 128 1024 16384; do
    mount_image -o "read_ahead=${kib}K"
    await_read_ahead "$kib"
    cmp "$tmp/large" "$mnt/large"
    umount_image
done
few=$(reads_of 4096)
many=$(reads_of 128)
say "8 MiB in order: $few requests with 4M, $many with 128K"
[ "$few" -lt "$((many / 2))" ] || fail "reading further ahead takes no fewer requests"

say "a share of the memory, of the control group's if that is less"
mount_image -o memory_budget=1%
total=$(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo)
budget=$(sed -n 's/^memory_budget=\([0-9]*\)M$/\1/p' "$config")
if [ "$budget" -lt 8 ] || [ "$budget" -gt $((total / 1024 / 100 + 8)) ]; then
    fail "1 % is $budget MiB"
fi
umount_image

say "completion"
completed() {
    PATH=$bin:$PATH bash -c '. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kvfs
        printf "%s\n" "${COMPREPLY[@]}"' "$source_tree/tools/completion/kvfs.bash" "$@"
}
[ "$(completed kvfs profiles ol | tr '\n' ' ')" = "oltp olap " ] ||
    fail "completion of ol: $(completed kvfs profiles ol)"
[ "$(completed kvfs profiles '' | wc -l)" = "$in_table" ]
grep -qx profiles <<<"$(completed kvfs prof)"
grep -qx -- --json <<<"$(completed kvfs profiles --)" || fail "no --json"
