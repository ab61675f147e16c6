#!/bin/bash
# tests/tools/test_cli.sh: the programs as people call them: what works, and what bad input gets.
#
#   test_cli.sh BIN SUPPORT_SUPERBLOCK
#
# Each bad input gets one line that names the thing and the remedy, the right exit status, and
# an unchanged image. What needs the kernel is left out, and said, where /dev/fuse can not be
# used. Everything happens in a temporary directory; mounts in it are gone at the end.
set -uo pipefail

bin=$(cd "$1" && pwd)
edit_superblock=$(realpath "$2")
work=$(mktemp -d /tmp/kvfs-cli-XXXXXX)
cd "$work" || exit 1
PATH=$bin:$PATH
failures=0
cases=0

cleanup()
{
    local dir
    cd /
    while read -r dir; do
        umount "$dir" 2>/dev/null || fusermount3 -u "$dir" 2>/dev/null || umount -l "$dir"
    done < <(awk -v work="$work/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo | tac)
    rm -rf "$work"
}
trap cleanup EXIT

problem()
{
    echo "FAILED: $1"
    failures=$((failures + 1))
}

# works SENTENCE COMMAND...: exit status 0. What it printed is in `out` and `err`.
works()
{
    local sentence=$1 status=0
    shift
    cases=$((cases + 1))
    "$@" >out 2>err || status=$?
    [ "$status" -eq 0 ] || problem "$sentence: exit status $status: $* : $(cat err)"
}

# refuses SENTENCE STATUS PATTERN COMMAND...: this exit status, and one line that matches.
refuses()
{
    local sentence=$1 wanted=$2 pattern=$3 status=0
    shift 3
    cases=$((cases + 1))
    "$@" >out 2>err || status=$?
    [ "$status" -eq "$wanted" ] || problem "$sentence: exit status $status, not $wanted: $* : $(cat err)"
    [ "$(wc -l <err)" -eq 1 ] || problem "$sentence: not one line: $(cat err)"
    grep -qE -- "$pattern" err || problem "$sentence: /$pattern/ is not in: $(cat err)"
}

# out_is SENTENCE TEXT: what the last command printed.
out_is()
{
    [ "$(cat out)" = "$2" ] || problem "$1: printed: $(cat out)"
}
out_has()
{
    grep -qE -- "$2" out || problem "$1: /$2/ is not in: $(cat out)"
}

# unchanged SENTENCE FILE COMMAND...: the command leaves the file as it is.
unchanged()
{
    local sentence=$1 file=$2 before after
    shift 2
    before=$(md5sum <"$file")
    "$@"
    after=$(md5sum <"$file")
    [ "$before" = "$after" ] || problem "$sentence: $file was changed"
}

long_name=$(printf 'x%.0s' {1..256})

# ---- mkfs.kvfs ----------------------------------------------------------------

works  mkfs_makes_an_image              mkfs.kvfs -s 64M -L first -U 01234567-89ab-cdef-0123-456789abcdef image
out_has mkfs_prints_what_it_made        '64 MiB.*16 KiB.*lz4'
out_has mkfs_prints_uuid_and_label      'uuid 01234567-89ab-cdef-0123-456789abcdef, label first'
[ "$(stat -c %s image)" -eq $((64 << 20)) ] || problem "mkfs_makes_the_size_it_was_told"
works  mkfs_says_nothing_when_quiet     mkfs.kvfs -q -s 32M quiet
out_is mkfs_says_nothing_when_quiet     ''
works  mkfs_takes_all_options           mkfs.kvfs -q -s 64M -n 8K -l 4M -c zstd:3 options
works  mkfs_takes_an_extent_size         mkfs.kvfs -q -s 64M --extent-size 1M longest
works  mkfs_takes_the_least_extent_size  mkfs.kvfs -q -s 64M -e 4K extents
works  mkfs_puts_it_into_the_image       kvfs info --json extents
out_has mkfs_puts_it_into_the_image      '"extent_bytes": ?4096'
head -c 100000 /dev/urandom >random
works  short_extents_hold_what_is_put    kvfs put extents key random
works  short_extents_are_of_that_size    kvfs info --json extents key
out_has short_extents_are_of_that_size   '"extent_count": ?24'
works  short_extents_are_read            kvfs get extents key
cmp -s random out || problem "short_extents_are_read: not what was put"
works  short_extents_are_sound           fsck.kvfs -n -f extents
works  mkfs_takes_a_file_whole          bash -c 'truncate -s 48M whole && mkfs.kvfs -q whole'
[ "$(stat -c %s whole)" -eq $((48 << 20)) ] || problem "mkfs_takes_a_file_whole: size $(stat -c %s whole)"

unchanged mkfs_leaves_an_image image \
    refuses mkfs_leaves_an_image 1 'image: .*-f' mkfs.kvfs -s 64M image
works  mkfs_overwrites_when_forced      mkfs.kvfs -q -f -s 64M -L first -U 01234567-89ab-cdef-0123-456789abcdef image
refuses mkfs_wants_a_size_for_a_new_file 1 'absent: .*-s'      mkfs.kvfs absent
refuses mkfs_wants_the_least_size       1 'small: .*16'        mkfs.kvfs -s 1M small
refuses mkfs_names_a_size_and_its_limit 1 'of 9223372036854775808 bytes.*the most is [0-9]{19}$' mkfs.kvfs -s 8E small
refuses mkfs_names_the_hosts_limit      1 'a file of 67108864 bytes is beyond the limit of the file system' \
    bash -c "trap '' XFSZ; ulimit -f 1000; mkfs.kvfs -s 64M small"
[ ! -e small ] || problem "mkfs_leaves_no_file_behind_when_it_fails"
refuses mkfs_wants_a_directory_that_is_there 1 'nowhere/image' mkfs.kvfs -s 64M nowhere/image
refuses mkfs_wants_an_image             2 'IMAGE'              mkfs.kvfs -s 64M
refuses mkfs_wants_one_image            2 'IMAGE'              mkfs.kvfs -s 64M a b
refuses mkfs_refuses_a_bad_size         2 '-s 64X'             mkfs.kvfs -s 64X new
refuses mkfs_refuses_a_bad_node_size    2 '-n 5000'            mkfs.kvfs -s 64M -n 5000 new
refuses mkfs_refuses_a_bad_extent_size  2 '-e 5000: not a power of two from 4K to 1M' mkfs.kvfs -s 64M -e 5000 new
refuses mkfs_refuses_a_small_extent_size 2 '-e 2K'             mkfs.kvfs -s 64M --extent-size 2K new
refuses mkfs_refuses_a_large_extent_size 2 '-e 2M'             mkfs.kvfs -s 64M -e 2M new
refuses mkfs_refuses_no_extent_size     2 '-e 0'               mkfs.kvfs -s 64M -e 0 new
refuses mkfs_refuses_a_bad_log_size     2 '-l none'            mkfs.kvfs -s 64M -l none new
refuses mkfs_refuses_a_bad_codec        2 '-c gzip'            mkfs.kvfs -s 64M -c gzip new
refuses mkfs_refuses_a_bad_level        2 '-c zstd:20'         mkfs.kvfs -s 64M -c zstd:20 new
refuses mkfs_refuses_a_bad_uuid         2 '-U 1234'            mkfs.kvfs -s 64M -U 1234 new
refuses mkfs_refuses_a_long_label       2 '-L: .*63'           mkfs.kvfs -s 64M -L "$long_name" new
refuses mkfs_refuses_an_unknown_option  2 'invalid option'     mkfs.kvfs -Z new
[ ! -e new ] || problem "mkfs_makes_nothing_from_bad_options"

# ---- keys of an image ------------------------------------------------------------

put()
{
    kvfs put "$1" "$2" <<<"$3"
}
works  put_stores_a_value               put image users/42/name Ada
works  get_reads_it_back                kvfs get image users/42/name
out_is get_reads_it_back                Ada
works  put_replaces_a_value             put image users/42/name Grace
works  get_reads_the_new_one            kvfs get image users/42/name
out_is get_reads_the_new_one            Grace
seq 1 500000 >large
works  put_takes_a_file                 kvfs put image large large
works  get_reads_a_large_value          kvfs get image large
cmp -s large out || problem "get_reads_a_large_value: not what was put"
works  put_takes_an_empty_value         kvfs put image empty /dev/null
works  get_reads_an_empty_value         kvfs get image empty
out_is get_reads_an_empty_value         ''
works  ls_lists_the_top                 kvfs ls image
out_is ls_lists_the_top                 $'empty\nlarge\nusers/'
works  ls_lists_below_a_key             kvfs ls image users/42
out_is ls_lists_below_a_key             'users/42/name'
works  ls_lists_recursively             kvfs ls -R image
out_is ls_lists_recursively             $'empty\nlarge\nusers/\nusers/42/\nusers/42/name'
works  ls_long_shows_sizes              kvfs ls -l image users/42/name
out_has ls_long_shows_sizes             '^value .* 6 .*Z users/42/name$'
works  ls_prints_json                   kvfs ls --json image users/42
out_has ls_prints_json                  '^\[\{"key":"users/42/name","type":"value","size":6,"mode":"0[0-7]{3}","mtime":"[^"]*"\}\]$'
refuses rm_wants_r_for_a_directory      1 'users: .*-r'          kvfs rm image users
works  rm_removes_a_key                 kvfs rm image empty
refuses get_names_the_missing_key       1 'empty: no such key'   kvfs get image empty
works  rm_removes_a_tree                kvfs rm -r image users
works  ls_no_longer_lists_it            kvfs ls -R image
out_is ls_no_longer_lists_it            large
refuses get_refuses_a_directory         1 'dir: a directory'     bash -c 'kvfs put image dir/a </dev/null; kvfs get image dir'
refuses a_value_has_nothing_below_it    1 'large/a: '            kvfs put image large/a /dev/null
refuses put_names_the_missing_file      1 'no-file'              kvfs put image key no-file

bad_key()
{
    local sentence=$1 pattern=$2 key=$3
    unchanged "$sentence" image refuses "$sentence" 2 "$pattern" kvfs put image "$key" /dev/null
    refuses "$sentence" 2 "$pattern" kvfs get image "$key"
    unchanged "$sentence" image refuses "$sentence" 2 "$pattern" kvfs rm -r image "$key"
    refuses "$sentence" 2 "$pattern" kvfs ls image "$key"
}
bad_key an_empty_key_is_refused                'component 1 is empty' ''
bad_key a_leading_slash_is_refused             'component 1 is empty' /a
bad_key a_double_slash_is_refused              'component 2 is empty' a//b
bad_key a_trailing_slash_is_refused            'component 2 is empty' a/
bad_key a_dot_is_refused                       'component 1 is "\."' ./a
bad_key two_dots_are_refused                   'component 2 is "\.\."' a/..
bad_key a_component_that_is_too_long_is_refused 'component 2, .*256 bytes' "a/$long_name"
refuses an_unknown_command_is_named     2 'frobnicate: no such command' kvfs frobnicate
refuses missing_operands_show_the_usage 2 'usage: kvfs get'      kvfs get image
refuses an_option_of_another_command_is_refused 2 'get: '        kvfs get --json image large

works  info_shows_the_image             kvfs info image
out_has info_shows_the_uuid             '^uuid +01234567-89ab-cdef-0123-456789abcdef$'
out_has info_shows_the_label            '^label +first$'
out_has info_shows_the_size             '^size +64 MiB$'
out_has info_shows_what_is_used         '^used '
out_has info_shows_that_it_is_clean     '^state +clean$'
works  info_prints_json                 kvfs info --json image
out_has info_prints_json                '^\{"image":"image","uuid":"01234567-.*"label":"first",.*"clean":true,.*\}$'

# ---- fsck.kvfs ---------------------------------------------------------------------

works  fsck_skips_a_clean_image         fsck.kvfs image
out_has fsck_skips_a_clean_image        'image: clean'
unchanged fsck_n_writes_nothing image \
    works fsck_finds_nothing_wrong      fsck.kvfs -n -f image
out_has fsck_finds_nothing_wrong        'nothing wrong'
works  fsck_p_finds_nothing_wrong       fsck.kvfs -p -f image
works  fsck_prints_json                 fsck.kvfs -n -f -j image
out_has fsck_prints_json                '^\{"findings":\[\],"image":"image","result":"clean","exit_status":0,.*\}$'
refuses fsck_takes_one_of_n_p_y         16 '-n and -y'           fsck.kvfs -n -y image
refuses fsck_wants_an_image             16 'IMAGE'               fsck.kvfs -n
refuses fsck_names_the_missing_image    8 'absent'               fsck.kvfs -n absent

# ---- what is no image, or no image of ours -------------------------------------------

mkdir dir
# bad_image SENTENCE STATUS_OF_FSCK PATTERN IMAGE: each program says so, and none writes to it.
bad_image()
{
    local sentence=$1 fsck_status=$2 pattern=$3 image=$4
    unchanged "$sentence" "$image" refuses "$sentence" 1 "$pattern" kvfs get "$image" large
    unchanged "$sentence" "$image" refuses "$sentence" 1 "$pattern" kvfs put "$image" new /dev/null
    unchanged "$sentence" "$image" \
        refuses "$sentence" 32 "$pattern" mount.kvfs "$image" dir
    local status=0
    cases=$((cases + 1))
    fsck.kvfs -n -f "$image" >out 2>&1 || status=$?
    [ "$status" -eq "$fsck_status" ] || problem "$sentence: fsck exits with $status: $(cat out)"
    grep -qE -- "$pattern" out || problem "$sentence: fsck says $(cat out)"
}
can_mount=no
[ -r /dev/fuse ] && [ -w /dev/fuse ] && can_mount=yes
if [ "$can_mount" = no ]; then
    echo "left out: everything that mounts, for /dev/fuse can not be used here"
    mount.kvfs() { kvfs get "$1" large || return 32; } # the same opening of the image
fi

seq 1 10000000 | head -c 64M >text
bad_image text_is_no_image              8 'text: '       text
: >nothing
bad_image an_empty_file_is_no_image     8 'nothing: '    nothing
head -c 40M image >truncated
bad_image a_truncated_image_is_named    8 'truncated: '  truncated
cp --sparse=always image future && "$edit_superblock" future version 99
bad_image a_later_version_is_named      8 'future: .*99' future
cp --sparse=always image feature && "$edit_superblock" feature incompat 0x8000000000000000
bad_image an_unknown_feature_is_named   8 'feature: .*feature' feature
cp --sparse=always image both && for copy in a b backup; do "$edit_superblock" both damage "$copy"; done
bad_image damage_of_all_superblocks_is_named 4 'both: '  both

for copy in a b; do
    cp --sparse=always image one && "$edit_superblock" one damage "$copy"
    cases=$((cases + 1))
    kvfs get one large >out 2>err || problem "one_superblock_is_enough: $copy: $(cat err)"
    cmp -s large out || problem "one_superblock_is_enough: $copy: another value"
    grep -q superblock err || problem "one_superblock_is_enough: $copy is damaged and nobody says so"
    works info_tells_of_the_damaged_superblock kvfs info one
    out_has info_tells_of_the_damaged_superblock 'superblock is damaged'
    fsck.kvfs -y one >out 2>&1
    status=$?
    [ "$status" -eq 1 ] || problem "fsck_mends_a_superblock: $copy: exit status $status: $(cat out)"
    works a_mended_image_is_clean       fsck.kvfs -n -f one
done
cp --sparse=always image later && "$edit_superblock" later rocompat 0x8000000000000000
works  a_read_only_feature_can_be_read  kvfs get later large
refuses a_read_only_feature_is_not_written 1 'later: .*feature' kvfs put later key /dev/null

# ---- mount.kvfs: the command line ------------------------------------------------------

refuses mount_wants_image_and_dir       1 'IMAGE and DIR'        mount.kvfs image
if [ "$can_mount" = yes ]; then
    refuses mount_names_the_unknown_option  1 'option colour'    mount.kvfs image dir -o ro,colour=red
    refuses mount_names_the_bad_value       1 'threads: "no"'    mount.kvfs image dir -o threads=no
    printf '[mount]\nthreads = 4\n\n[memory]\nbudget = 1G\n' >bad.conf
    refuses mount_names_file_line_and_key   1 'bad.conf:5: .*"budget"' mount.kvfs image dir -c bad.conf
    refuses mount_names_the_missing_file    1 'absent.conf'      mount.kvfs image dir -c absent.conf
    refuses mount_names_the_missing_image   32 'absent: .*mkfs'  mount.kvfs absent dir
    refuses mount_names_the_missing_dir     32 'nowhere: .*mkdir' mount.kvfs image nowhere
    refuses mount_wants_a_directory         32 'text: .*irectory' mount.kvfs image text
    mkdir full && touch full/file
    refuses mount_wants_an_empty_directory  32 'full: not empty' mount.kvfs image full
    refuses sync_wants_a_mount              1 'dir: not in a kvfs mount' kvfs sync dir
    refuses umount_wants_a_mount            1 'dir: not mounted' kvfs umount dir
    refuses keys_want_a_mount               1 'dir: not in a kvfs mount' kvfs ls dir
    if [ "$(id -u)" -eq 0 ] && unshare -m true 2>/dev/null; then
        refuses mount_wants_dev_fuse        2 '/dev/fuse: .*modprobe fuse' \
            unshare -m bash -c 'mount -t tmpfs none /dev && exec mount.kvfs image dir'
    fi
fi

# ---- a mounted image ----------------------------------------------------------------------

if [ "$can_mount" = yes ]; then
    works  mount_returns_when_it_is_usable  mount.kvfs image dir -o noatime,x-test=1,threads=4
    out_is mount_says_nothing               ''
    mountpoint -q dir || problem "mount_returns_when_it_is_usable: dir is no mount point"
    [ "$(stat -c %s dir/large)" = "$(stat -c %s large)" ] || problem "the_mount_shows_the_keys"
    grep -q " $work/dir .*noatime.* fuse.kvfs $work/image " /proc/self/mountinfo ||
        problem "the_mount_table_shows_image_type_and_options: $(grep "$work/dir" /proc/self/mountinfo)"

    holder="image: in use by process [0-9]+ .*mounted on $work/dir; .*kvfs umount"
    mkdir other
    refuses an_image_in_use_is_not_mounted  32 "$holder" mount.kvfs image other
    refuses an_image_in_use_is_not_made     1  "$holder" mkfs.kvfs -f -s 64M image
    refuses an_image_in_use_is_not_checked  8  "$holder" fsck.kvfs -n -f image
    refuses an_image_in_use_is_not_read     1  "$holder" kvfs get image large
    refuses an_image_in_use_is_not_written  1  "$holder" kvfs put image key /dev/null

    works  put_stores_through_the_mount     put dir users/7/name Alan
    [ "$(cat dir/users/7/name)" = Alan ] || problem "put_stores_through_the_mount: $(cat dir/users/7/name)"
    works  get_reads_through_the_mount      kvfs get dir users/7/name
    out_is get_reads_through_the_mount      Alan
    chmod 600 dir/users/7/name
    works  put_replaces_through_the_mount   put dir users/7/name Kurt
    [ "$(stat -c %a dir/users/7/name)" = 600 ] || problem "put_keeps_the_mode"
    works  a_directory_in_the_mount_will_do kvfs ls dir/users -R
    out_is a_directory_in_the_mount_will_do $'7/\n7/name'
    refuses a_bad_key_is_refused_here_too   2 'component 2 is "\.\."' kvfs get dir users/..
    refuses a_missing_key_is_named_here_too 1 'users/8: no such key' kvfs get dir users/8
    works  rm_removes_through_the_mount     kvfs rm -r dir users
    [ ! -e dir/users ] || problem "rm_removes_through_the_mount"
    works  info_of_a_mount_shows_both       kvfs info dir
    out_has info_of_a_mount_shows_the_image "^image +$work/image$"
    out_has info_of_a_mount_shows_the_dir   "^mounted on +$work/dir$"
    works  info_of_the_image_shows_the_dir  kvfs info --json image
    out_has info_of_the_image_shows_the_dir "\"mounted_on\":\"$work/dir\""
    works  sync_returns                     kvfs sync dir
    works  scrub_of_a_mount_finds_nothing   kvfs scrub dir
    out_has scrub_says_what_it_read         'MiB read, nothing wrong$'
    works  a_scrub_can_be_slow              kvfs scrub --rate 100.5 dir
    refuses a_rate_is_a_number              2 'rate fast: give MiB per second' kvfs scrub --rate fast dir
    refuses scrub_wants_a_mount_or_an_image 1 'not in a kvfs mount' kvfs scrub .
    works  scrub_prints_json                kvfs scrub --json dir
    out_has scrub_prints_json               '^\{"target":"[^"]*","findings":\[\],"finding_count":0,"bytes_read":[0-9]+,"complete":true\}$'
    works  statistics_count_the_scrubs      getfattr -n system.kvfs.stats --only-values dir
    out_has statistics_count_the_scrubs     '"scrubs": 3,'
    if [ "$(id -u)" -eq 0 ]; then
        works  remount_makes_it_read_only   mount.kvfs image dir -o remount,ro,nosuid
        refuses a_mount_that_became_read_only_is_not_written 1 'read-only' kvfs put dir key /dev/null
        works  remount_makes_it_writable    mount.kvfs image dir -o remount,rw
        works  a_mount_that_became_writable_is_written kvfs put dir key /dev/null
        refuses remount_wants_a_mount       32 'other: not mounted' mount.kvfs image other -o remount
    fi
    mkdir dir/below
    refuses umount_wants_the_mount_point    1 'below: lies in the mount' kvfs umount dir/below
    echo last >dir/last
    bash -c 'exec 9<dir/last; kvfs umount dir' >out 2>err &&
        problem "umount_says_who_is_busy: it unmounted"
    grep -q 'busy; .*fuser' err || problem "umount_says_who_is_busy: $(cat err)"
    works  umount_returns                   kvfs umount dir
    mountpoint -q dir && problem "umount_returns: still mounted"
    works  nothing_is_left_to_replay        kvfs info --json image
    out_has nothing_is_left_to_replay       '"clean":true'
    works  what_was_written_last_is_there   kvfs get image last
    out_is what_was_written_last_is_there   last
    works  the_image_is_sound               fsck.kvfs -n -f image
    works  scrub_takes_an_image             kvfs scrub image

    printf '[mount]\nro = yes\n' >ro.conf
    works  a_file_sets_options              mount.kvfs -c ro.conf image dir
    refuses a_read_only_mount_is_not_written 1 'read-only' kvfs put dir key /dev/null
    works  umount_takes_the_image_too       kvfs umount image
    works  an_option_wins_over_the_file     mount.kvfs -c ro.conf -o ro=no image dir
    touch dir/written || problem "an_option_wins_over_the_file: still read-only"
    works  umount_again                     kvfs umount dir

    # umount(8) does not wait for the daemon, which has the rest to write.
    leave_with_work()
    {
        head -c 4000000 /dev/urandom >dir/rest
        umount dir 2>/dev/null || fusermount3 -u dir
    }
    for _ in 1 2 3; do
        works  mount_waits_for_the_daemon_of_before  mount.kvfs image dir
        leave_with_work
        works  get_waits_for_the_daemon_of_before    kvfs get image last
        works  it_is_mounted_again                   mount.kvfs image dir
        leave_with_work
        works  fsck_waits_for_the_daemon_of_before   fsck.kvfs -n -f image
    done

    mount_in_foreground()
    {
        mount.kvfs -f image dir >out 2>err &
        daemon=$!
        for _ in {1..600}; do mountpoint -q dir && break; sleep 0.1; done
    }
    mount_in_foreground
    mountpoint -q dir || problem "f_stays_in_the_foreground: not mounted: $(cat err)"
    kill -INT "$daemon"
    wait "$daemon" || problem "f_ends_when_interrupted: exit status $?"
    mountpoint -q dir && problem "f_ends_when_interrupted: still mounted"

    mount_in_foreground
    kill -KILL "$daemon"
    wait "$daemon" 2>/dev/null
    refuses umount_tells_of_a_dead_daemon   1 'unmounted, but its daemon was not there' kvfs umount dir
    mountpoint -q dir && problem "umount_tells_of_a_dead_daemon: still mounted"
fi

echo "$cases cases, $failures failures"
[ "$failures" -eq 0 ]
