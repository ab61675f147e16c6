#!/bin/bash
# tests/tools/test_install.sh: cmake --install puts there what it should and nothing else, and a
# program builds against the library by pkg-config, wherever that is.
#
#   test_install.sh BUILD_DIR LIBDIR
set -uo pipefail

build=$(cd "$1" && pwd)
libdir=$2
work=$(mktemp -d /tmp/kvfs-install-XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0
cases=0

check()
{
    local sentence=$1
    shift
    cases=$((cases + 1))
    "$@" >out 2>&1 || {
        echo "FAILED: $sentence: $(tail -n 20 out)"
        failures=$((failures + 1))
    }
}

# The files below a directory, without what the store's version is called.
list()
{
    (cd "$1" && find . ! -type d -printf '%P %l\n') | sed -E 's/ $//;
        s/(libkvfs-kv\.so\.[0-9]+)\.[0-9.]+/\1.VERSION/g' | sort
}

install_to()
{
    DESTDIR=$1 cmake --install "$build" --prefix "$2"
}

wanted()
{
    cat <<END
bin/kvfs
include/kvfs/kv.h
lib/systemd/system/kvfs@.service
$libdir/libkvfs-kv.a
$libdir/libkvfs-kv.so libkvfs-kv.so.0
$libdir/libkvfs-kv.so.0 libkvfs-kv.so.0.VERSION
$libdir/libkvfs-kv.so.0.VERSION
$libdir/pkgconfig/kvfs-kv.pc
sbin/fsck.kvfs
sbin/mkfs.kvfs
sbin/mount.fuse.kvfs mount.kvfs
sbin/mount.kvfs
share/bash-completion/completions/fsck.kvfs kvfs
share/bash-completion/completions/kvfs
share/bash-completion/completions/mkfs.kvfs kvfs
share/bash-completion/completions/mount.kvfs kvfs
share/doc/kvfs/LICENSE
share/doc/kvfs/README.md
share/doc/kvfs/examples/kvfs.env.example
share/doc/kvfs/examples/mount.conf
share/fish/vendor_completions.d/fsck.kvfs.fish kvfs.fish
share/fish/vendor_completions.d/kvfs.fish
share/fish/vendor_completions.d/mkfs.kvfs.fish kvfs.fish
share/fish/vendor_completions.d/mount.kvfs.fish kvfs.fish
share/man/man1/kvfs.1.gz
share/man/man5/kvfs-mount.conf.5.gz
share/man/man8/fsck.kvfs.8.gz
share/man/man8/mkfs.kvfs.8.gz
share/man/man8/mount.fuse.kvfs.8.gz mount.kvfs.8.gz
share/man/man8/mount.kvfs.8.gz
share/zsh/vendor-completions/_kvfs
END
}

check install_into_local         install_to "$work/local" /usr/local
wanted | sort >wanted
list local/usr/local >found
check all_is_there_and_nothing_else  diff wanted found
check nothing_is_outside_of_the_prefix \
    [ "$(find local ! -type d ! -path 'local/usr/local/*' | wc -l)" = 0 ]
check install_into_usr           install_to "$work/system" /usr
list system/usr >found
check all_is_there_in_usr_too    diff wanted found
check the_settings_are_in_etc    cmp system/etc/kvfs/mount.conf \
    system/usr/share/doc/kvfs/examples/mount.conf
echo '# mine' >system/etc/kvfs/mount.conf
check install_again              install_to "$work/system" /usr
check settings_that_are_there_stay grep -qx '# mine' system/etc/kvfs/mount.conf
check pages_are_packed           gzip -t system/usr/share/man/man[158]/*.gz
check programs_run               system/usr/sbin/mkfs.kvfs -q -s 64M image
check links_lead_to_programs     system/usr/sbin/mount.fuse.kvfs --version

# A program that stores and reads a key, against what was installed, from another place.
mv system elsewhere
cat >store.c <<'END'
#include <kvfs/kv.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv)
{
    struct kv_store *store;
    struct kv_error error = {""};
    const struct kv_open_options options = {.sync = KV_SYNC_FSYNC};
    char value[16];
    size_t length;
    if (argc != 2 || kv_open(argv[1], &options, &store, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    if (kv_put(store, "key", 3, "value", 5) ||
        kv_get(store, "key", 3, value, sizeof value, &length))
        return 2;
    if (length != 5 || memcmp(value, "value", 5) != 0)
        return 3;
    return kv_close(store) ? 4 : 0;
}
END
export PKG_CONFIG_PATH=$work/elsewhere/usr/$libdir/pkgconfig
check pkg_config_knows_it        pkg-config --exists --print-errors kvfs-kv
version=$(sed -n 's/^CMAKE_PROJECT_VERSION:STATIC=//p' "$build/CMakeCache.txt")
check it_has_the_version         [ "$(pkg-config --modversion kvfs-kv)" = "$version" ]
# shellcheck disable=SC2046 # words
check a_program_compiles         cc -Wall -Wextra -Werror -o shared store.c \
    $(pkg-config --cflags --libs kvfs-kv)
check it_runs_with_the_shared_library \
    env LD_LIBRARY_PATH="$work/elsewhere/usr/$libdir" ./shared image
check it_uses_the_shared_library bash -c 'readelf -d shared | grep -q "libkvfs-kv\.so\.0"'
rm elsewhere/usr/"$libdir"/libkvfs-kv.so*
# shellcheck disable=SC2046
check a_program_compiles_statically cc -o static store.c \
    $(pkg-config --cflags --libs --static kvfs-kv)
check it_runs_by_itself          ./static image

echo "$cases cases, $failures failures"
[ "$failures" -eq 0 ]
