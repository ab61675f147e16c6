#!/bin/bash
# Is what fio writes what it reads, sequential and random, buffered, direct, mapped, and direct with
# many operations under way at once?
set -euo pipefail
# shellcheck source=tests/programs/lib.sh
source "$(dirname "$0")/lib.sh"

need fio fio
size FIO_SIZE 16M 1G
size FIO_JOBS 2 4
size FIO_IMAGE 16G 64G # eight sets of files at once, and room for random overwriting
make_image "$FIO_IMAGE"
mount_image

# run_job JOB IO [fio option...]: a job of bench/fio in a directory that outlives it.
run_job() {
    local name=$1 io=$2 engine=psync direct=0 depth=1
    shift 2
    case $io in
    direct) direct=1 ;;
    mmap) engine=mmap ;;
    many) engine=libaio direct=1 depth=32 ;;
    esac
    mkdir -p "$mnt/$name-$io"
    if ! (cd "$tmp" && FIO_DIR=$mnt/$name-$io FIO_ENGINE=$engine FIO_DIRECT=$direct \
        FIO_SIZE=$FIO_SIZE FIO_JOBS=$FIO_JOBS FIO_SEED=$KVFS_SEED \
        FIO_DEPTH=$depth FIO_OPS=0 FIO_FSYNC=0 FIO_COMPRESSIBLE=0 \
        fio "$@" "$source_tree/bench/fio/$name.fio" >"$tmp/fio.out" 2>&1); then
        tail -n 30 "$tmp/fio.out" >&2
        fail "$name, $io $*"
    fi
}

for name in seq-verify rand-verify; do
    for io in buffered direct mmap many; do
        say "$name $io"
        run_job "$name" "$io"
    done
done
say "read again after a new mount"
umount_image
fsck_clean
mount_image
for name in seq-verify rand-verify; do
    for io in buffered direct mmap many; do
        run_job "$name" "$io" --verify_only
        rm -r "${mnt:?}/$name-$io"
    done
done
say "read and write at random at the same time"
for io in buffered direct mmap many; do
    run_job rand-mixed "$io"
    rm -r "${mnt:?}/rand-mixed-$io"
done
umount_image
fsck_clean
