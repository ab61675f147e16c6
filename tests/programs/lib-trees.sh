# shellcheck shell=bash
# tests/programs/lib-trees.sh: a tree with one of everything, and what makes two trees equal.
#
# Sourced after lib.sh. Gives:
#   make_zoo DIR        everything that a tree in use seldom has
#   describe DIR FILE   what FILE.attributes, .links and .xattrs say of it
#   compare DIR         with $source, which was described as $tmp/source

need getfattr attr
need setfacl acl
need setcap libcap2-bin

# Everything that a tree in use seldom has, each kind at least once.
make_zoo() {
    local zoo=$1 i deep
    mkdir -p "$zoo"
    cd "$zoo"
    : >empty
    printf 'one byte less than a page' >small
    head -c 4095 /dev/urandom >bytes-4095
    head -c 4097 /dev/urandom >bytes-4097
    head -c 300000 /dev/urandom >bytes-300000
    truncate -s 5M sparse
    printf middle | dd of=sparse bs=1 seek=2500000 conv=notrunc status=none
    ln small hard-a
    mkdir links
    ln small links/hard-b
    ln -s small symlink
    ln -s /nowhere/at/all dangling
    ln -s "$(printf '%01000d' 7)" long-symlink
    mkfifo special-fifo
    mknod special-null c 1 3
    mknod special-block b 7 200
    : >"$(printf '%0255d' 1)"
    : >"$(printf 'line\nbreak')"
    : >'-leading dash'
    : >'trailing space '
    : >$'\xff\xfe not utf-8'
    : >'äöü ☃'
    deep=.
    for i in {1..40}; do
        deep=$deep/level-$i
    done
    mkdir -p "$deep"
    echo bottom >"$deep/file"
    cp /bin/true setuid
    chmod 4755 setuid
    cp /bin/true capable
    setcap cap_net_raw+ep capable
    : >setgid
    chmod 2640 setgid
    mkdir -m 1777 sticky
    mkdir -m 0 closed
    : >owned
    chown 1234:4321 owned
    chown -h 77:88 symlink
    : >attributes
    setfattr -n user.text -v 'some text' attributes
    setfattr -n user.empty attributes
    setfattr -n user.binary -v 0x00ff00fe attributes
    setfattr -n trusted.only_root -v secret attributes
    setfattr -n user.large -v "$(printf '%03000d' 5)" attributes
    : >acl
    setfacl -m u:1000:rw,g:1001:r acl
    mkdir acl-default
    setfacl -d -m u:1000:rwx acl-default
    touch -d '1970-01-02 00:00:00.000000001 UTC' time-old
    touch -d '2040-02-03 04:05:06.123456789 UTC' time-new
    touch -h -d '2001-02-03 04:05:06.987654321 UTC' dangling
    cd - >/dev/null
}

# One line for each entry: path, type, mode, owner, size, mtime in ns, target of a link. The
# sizes of directories differ from one file system to another, all else must not.
attributes_of() {
    (
        cd "$1"
        find . -xdev \( -type d -printf '%P\t%y\t%m\t%U:%G\t-\t%T@\0' \) -o \
            -printf '%P\t%y\t%m\t%U:%G\t%s\t%T@\t%l\0' |
            tr '\n\0' '\001\n' | LC_ALL=C sort
        find . -xdev \( -type b -o -type c \) -exec stat -c '%n %t:%T' {} + | LC_ALL=C sort
    )
}

# For each name of a file with several: the first name of that file and how many there are.
hard_links_of() {
    (
        cd "$1"
        find . -xdev ! -type d -links +1 -printf '%i\t%P\0' | tr '\n\0' '\001\n' |
            LC_ALL=C sort -t "$(printf '\t')" -k 2 |
            awk -F '\t' '
                { if (!($1 in first)) first[$1] = $2; count[$1]++; inode[NR] = $1; name[NR] = $2 }
                END {
                    for (i = 1; i <= NR; i++)
                        if (count[inode[i]] > 1)
                            printf "%s\t%s\t%d\n", name[i], first[inode[i]], count[inode[i]]
                }'
    )
}

# The link count itself, where no link can lie outside.
link_counts_of() {
    (cd "$1" && find . -xdev ! -type d -links +1 -printf '%P\t%n\0' | tr '\n\0' '\001\n' |
        LC_ALL=C sort)
}

# One line for each extended attribute; getfattr quotes odd names by itself.
xattrs_of() {
    (
        cd "$1"
        find . -xdev -print0 | LC_ALL=C sort -z |
            xargs -0 -r getfattr -h -d -m - -e hex -- 2>/dev/null |
            awk '/^# file: / { file = substr($0, 9); next } /./ { print file "\t" $0 }' |
            LC_ALL=C sort
    )
}

describe() {
    attributes_of "$1" >"$2.attributes"
    hard_links_of "$1" >"$2.links"
    xattrs_of "$1" >"$2.xattrs"
}

compare() {
    local copy=$1 what
    describe "$copy" "$tmp/copy"
    for what in attributes links xattrs; do
        if ! diff "$tmp/source.$what" "$tmp/copy.$what" >"$tmp/diff.out"; then
            head -n 20 "$tmp/diff.out" >&2
            fail "$copy: $what differ in $(grep -c '^[<>]' "$tmp/diff.out") lines"
        fi
    done
    link_counts_of "$copy" >"$tmp/copy.counts"
    cut -f 1,3 "$tmp/copy.links" | LC_ALL=C sort >"$tmp/copy.groups"
    diff "$tmp/copy.groups" "$tmp/copy.counts" >&2 || fail "$copy: link counts are wrong"
    diff -r --no-dereference --exclude='special-*' "$source" "$copy" >&2 ||
        fail "$copy: contents differ"
}
