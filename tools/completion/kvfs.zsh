#compdef kvfs mkfs.kvfs fsck.kvfs mount.kvfs
#
# tools/completion/kvfs.zsh: completion of kvfs, mkfs.kvfs, fsck.kvfs and mount.kvfs for zsh.
#
# Commands, options and settings are what the programs themselves say of them; keys are asked of
# the target.

# _kvfs_offer_options COMMAND...: the options that its --help lists, with their words.
_kvfs_offer_options() {
    local -a options
    options=(${(f)"$("$@" --help 2>/dev/null | sed -nE \
        -e 's/^ {2,8}(-[[:alnum:]], )?(--[a-z][a-z-]*)([ =][^ ]+)?  +(.*)/\2:\4/p' \
        -e 's/^ {2}(-[[:alnum:]]) [^ ]+ +(.*)/\1:\2/p' \
        -e 's/^  -h, --help  -V, --version$/--version:print the version/p')"} '--help:say more')
    _describe -t options option options
}

_kvfs() {
    local command=$words[2] target='' word above=''
    local -i operands=0
    if [[ $service != kvfs ]]; then
        if [[ $service == mount.kvfs && $words[CURRENT-1] == -o ]]; then
            local -a settings
            settings=(${(f)"$(mount.kvfs --help 2>/dev/null | sed -nE \
                's/^ {10,}([a-z_]+)=([^ ]*): (.*)/\1=:\3 (\2)/p; s/^ {10,}([a-z_]+): (.*)/\1:\2/p')"})
            compset -P '*,'
            _describe -t settings setting settings -S ''
        elif [[ $words[CURRENT] == -* ]]; then
            _kvfs_offer_options $service
        else
            _files
        fi
        return
    fi
    if ((CURRENT == 2)); then
        local -a commands
        commands=(${(f)"$(kvfs --help 2>/dev/null | sed -nE 's/^  kvfs ([a-z]+) +(.*)/\1:\2/p')"})
        _describe -t commands command commands
        return
    fi
    if [[ $words[CURRENT] == -* ]]; then
        _kvfs_offer_options kvfs $command
        return
    fi
    if [[ $command == profiles ]]; then
        local -a profiles
        profiles=(${(f)"$(kvfs profiles 2>/dev/null | sed -nE 's/^([a-z-]+) +(.*)/\1:\2/p')"})
        _describe -t profiles profile profiles
        return
    fi
    for word in ${words[3,CURRENT-1]}; do
        [[ $word == -* ]] && continue
        ((operands += 1))
        [[ -n $target ]] || target=$word
    done
    if ((operands == 1)) && [[ $command == (get|put|rm|ls|info|scan) ]]; then
        [[ $words[CURRENT] == */* ]] && above=${words[CURRENT]%/*}
        local -a keys
        keys=(${(f)"$(kvfs ls ${(Q)target} ${above:+$above} 2>/dev/null)"})
        compadd -S '' -- $keys
        return
    fi
    _files
}

_kvfs "$@"
