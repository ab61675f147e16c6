# tools/completion/kvfs.bash: completion of kvfs for bash.
#
# Commands and options are what kvfs itself says of them; keys are asked of the target.

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
        mapfile -t COMPREPLY < <(compgen -W "$(kvfs "$command" --help 2>/dev/null |
            grep -oE -- '--[a-z][a-z-]*' | sort -u)" -- "$current")
        return
    fi
    for ((i = 2; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $word == -* ]] && continue
        [[ $command ${COMP_WORDS[i - 1]} =~ ^(put (-t|--ttl)|info (-c|--config))$ ]] && continue
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
complete -F _kvfs kvfs
