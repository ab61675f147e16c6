#!/bin/bash
# Does tools/check-layers pass on this tree, and does it see what it is there to see?
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

# expect SENTENCE STATUS FILE INCLUDE: the verdict on a tree whose FILE includes INCLUDE.
expect()
{
    local sentence=$1 wanted=$2 file=$3 include=$4 status=0
    rm -rf "$work/tree"
    mkdir -p "$work/tree/kv" "$work/tree/fs" "$work/tree/tools"
    touch "$work/tree/kv/kv.h"
    echo "#include $include" >"$work/tree/$file"
    "$top/tools/check-layers" "$work/tree" >"$work/out" 2>&1 || status=$?
    if [ "$status" -ne "$wanted" ] || { [ "$wanted" -eq 1 ] && ! grep -q "^$file:" "$work/out"; }; then
        echo "FAILED: $sentence: exit status $status, output:"
        cat "$work/out"
        failures=1
    fi
}

"$top/tools/check-layers" "$top" || failures=1

expect store_may_include_the_log           0 kv/store.c    '"kv/wal.h"'
expect a_row_may_include_itself            0 kv/cache.c    '"kv/pagemap.h"'
expect a_file_may_extend_a_module          0 kv/btree_bulk.c '"kv/node.h"'
expect the_log_may_not_include_the_store   1 kv/wal.c      '"kv/store.h"'
expect the_format_may_not_include_a_node   1 kv/format.h   '"kv/node.h"'
expect kv_may_not_include_fs               1 kv/store.c    '"fs/mount.h"'
expect kv_may_not_include_fuse             1 kv/store.c    '<fuse3/fuse_lowlevel.h>'
expect an_unknown_module_is_named          1 kv/novelty.c  '"kv/base.h"'
expect fs_may_include_the_door             0 fs/mount.c    '"kv/kv.h"'
expect fs_may_not_include_a_row            1 fs/mount.c    '"kv/wal.h"'
expect fs_may_not_include_tools            1 fs/mount.c    '"tools/options.h"'
expect tools_may_include_fs                0 tools/kvfs.c  '"fs/mount.h"'
expect tools_may_not_include_a_row         1 tools/kvfs.c  '"kv/format.h"'
expect a_relative_include_is_refused       1 kv/store.c    '"wal.h"'

exit "$failures"
