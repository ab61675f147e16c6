#!/bin/bash
# Does data ten times the memory budget stay right, and the daemon within the budget?
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

need fio fio
size BIG_BUDGET_MIB 16 64
size BIG_CHANGE_SECONDS 5 60
data_mib=$((BIG_BUDGET_MIB * 10))
budget=$((BIG_BUDGET_MIB * 1048576))
small_bytes=8000
small_files=$((data_mib * 1048576 / 2 / small_bytes))

# verified JOB [fio option...]: one of the jobs of bench/fio over half of the data.
verified() {
    local name=$1
    shift
    mkdir -p "$mnt/$name"
    if ! (cd "$tmp" && FIO_DIR=$mnt/$name FIO_ENGINE=psync FIO_DIRECT=0 \
        FIO_SIZE=$((data_mib / 2))M FIO_JOBS=1 FIO_SEED=$KVFS_SEED \
        fio "$@" "$source_tree/bench/fio/$name.fio" >"$tmp/fio.out" 2>&1); then
        tail -n 30 "$tmp/fio.out" >&2
        fail "$name $*"
    fi
    fits_budget "$budget" "$small_files"
}

smallfiles() {
    local phases=$1
    shift
    "$bin/bench-smallfiles" --dir "$mnt" --name small --files "$small_files" --dirs 50 \
        --size "$small_bytes" --seed "$KVFS_SEED" --threads 2 --daemon "$daemon" \
        --phases "$phases" "$@"
    fits_budget "$budget" "$small_files"
}

make_image $((data_mib * 8 + 2048))M -c none
mount_image -o "memory_budget=${BIG_BUDGET_MIB}M"
say "write $data_mib MiB, half in one file, half in $small_files files"
verified seq-verify
smallfiles create --keep

say "read in another order, from the disk"
remount
verified seq-verify --verify_only
smallfiles stat,read --shuffled --keep

say "change at random"
rm -r "$mnt/seq-verify"
verified rand-verify
mkdir "$mnt/changes"
"$bin/test-crashload" run "$mnt/changes" "$tmp/changes.log" --seconds "$BIG_CHANGE_SECONDS" \
    --threads 8 --seed "$KVFS_SEED"
fits_budget "$budget" "$small_files"
"$bin/test-crashload" check "$mnt/changes" "$tmp/changes.log" --threads 8 --seed "$KVFS_SEED"

say "all of it again after a new mount"
umount_image
fsck_clean
mount_image "${mount_options[@]}"
verified rand-verify --verify_only
smallfiles list,rename,unlink --shuffled
"$bin/test-crashload" check "$mnt/changes" "$tmp/changes.log" --threads 8 --seed "$KVFS_SEED"
fits_budget "$budget" "$small_files"
umount_image
fsck_clean
