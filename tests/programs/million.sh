#!/bin/bash
# Are a million small files small, on disk and in memory, and one directory of them right?
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

[ -x "$bin/bench-smallfiles" ] || fail "$bin/bench-smallfiles is not there"
size MILLION_FILES 20000 1000000
size MILLION_DIRS 20 1000
size MILLION_ONE_DIR 20000 1000000
size MILLION_BUDGET_MIB 64 64
size MILLION_IMAGE 4G 16G
file_bytes=200
budget=$((MILLION_BUDGET_MIB * 1048576))

# smallfiles PHASES [option...]
smallfiles() {
    local phases=$1
    shift
    "$bin/bench-smallfiles" --dir "$mnt" --name million --files "$MILLION_FILES" \
        --dirs "$MILLION_DIRS" --size "$file_bytes" --seed "$KVFS_SEED" --threads 2 \
        --daemon "$daemon" --phases "$phases" "$@"
}

make_image "$MILLION_IMAGE" -c none
mount_image -o "memory_budget=${MILLION_BUDGET_MIB}M"
used_empty=$(used_bytes)

say "create"
smallfiles create --keep
fits_budget "$budget" $((MILLION_FILES + MILLION_DIRS))
say "list with attributes"
smallfiles list --keep
fits_budget "$budget" $((MILLION_FILES + MILLION_DIRS))

say "on disk"
umount_image
fsck_clean
begun=${EPOCHREALTIME/[.,]/}
mount_image "${mount_options[@]}"
say "mounted in $(((${EPOCHREALTIME/[.,]/} - begun) / 1000)) ms; the aim is under 1000"
# A file is named f and nine digits, a directory d and five.
payload=$((MILLION_FILES * (10 + file_bytes) + MILLION_DIRS * 6))
limit=$((payload * 13 / 10 + 128 * (MILLION_FILES + MILLION_DIRS)))
used=$(($(used_bytes) - used_empty))
say "$used bytes in use, $((used / MILLION_FILES)) for each file; $((limit / MILLION_FILES)) allowed;" \
    "the image takes $(($(image_allocated_bytes) / 1048576)) MiB of the disk, its log included"
[ "$used" -le "$limit" ] || fail "$used bytes in use, $limit are allowed"

say "list and read back, after the mount"
smallfiles stat,list,read --keep
fits_budget "$budget" $((MILLION_FILES + MILLION_DIRS))
say "delete"
smallfiles unlink
[ -z "$(ls -A "$mnt")" ] || fail "something is left"
fits_budget "$budget" $((MILLION_FILES + MILLION_DIRS))

say "one directory of $MILLION_ONE_DIR entries"
"$bin/bench-smallfiles" --dir "$mnt" --files "$MILLION_ONE_DIR" --dirs 1 --size 0 --threads 2 \
    --shuffled --daemon "$daemon"
say "changes during its listing"
"$bin/test-manyfiles" "$mnt/one" "$MILLION_ONE_DIR" "$KVFS_SEED"
fits_budget "$budget" $((2 * MILLION_ONE_DIR + MILLION_FILES + MILLION_DIRS))

say "everything deleted: what is left"
umount_image
fsck_clean
mount_image "${mount_options[@]}"
left=$(($(used_bytes) - used_empty))
say "$left bytes more in use than at the start"
[ "$left" -le $((limit / 20 + 1048576)) ] || fail "deleting did not give the space back"
umount_image
