# tools/completion/kvfs.bash: completion of kvfs, mkfs.kvfs, fsck.kvfs and mount.kvfs for bash.
#
# Commands, options and settings are what the programs themselves say of them; keys are asked of
# the target.

# _kvfs_options COMMAND...: the options that its --help lists.
_kvfs_options() {
    "$@" --help 2>/dev/null | sed -nE 's/^ {2,8}(-[[:alnum:]], )?(--[a-z][a-z-]*).*/\2/p;
        s/^ {2}(-[[:alnum:]]) .*/\1/p; s/^  -h, --help  -V, --version$/--version/p' | sort -u
    echo --help
}

_kvfs() {
    local current=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]-} target='' word
    local -i operands=0 i
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(kvfs --help 2>/dev/null |
            sed -n 's/^  kvfs \([a-z]*\) .*/\1/p')" -- "$current")
        return
    fi
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_kvfs_options kvfs "$command")" -- "$current")
        return
    fi
    if [ "$command" = profiles ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(kvfs profiles 2>/dev/null | cut -d' ' -f1)" \
            -- "$current")
        return
    fi
    for ((i = 2; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $word == -* ]] && continue
        operands+=1
        [ -n "$target" ] || target=$word
    done
    case $command in
    get | put | rm | ls | info | scan)
        if [ "$operands" -eq 1 ]; then
            local above=
            [[ $current == */* ]] && above=${current%/*}
            compopt -o nospace
            # shellcheck disable=SC2086 # no key at the top
            mapfile -t COMPREPLY < <(compgen -W "$(kvfs ls "$target" $above 2>/dev/null)" \
                -- "$current")
            return
        fi
        ;;
    esac
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
}

# mkfs.kvfs, fsck.kvfs and mount.kvfs: options, settings after -o, files.
_kvfs_program() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    if [ "$1" = mount.kvfs ] && [ "$before" = -o ]; then
        local given=''
        [[ $current == *,* ]] && given=${current%,*},
        compopt -o nospace
        mapfile -t COMPREPLY < <(compgen -P "$given" -W "$(mount.kvfs --help 2>/dev/null |
            sed -nE 's/^ {10,}([a-z_]+=).*/\1/p; s/^ {10,}([a-z_]+): .*/\1/p')" \
            -- "${current##*,}")
        return
    fi
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_kvfs_options "$1")" -- "$current")
        return
    fi
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
}

complete -F _kvfs kvfs
complete -F _kvfs_program mkfs.kvfs fsck.kvfs mount.kvfs
