#!/bin/bash
# tests/tools/test_completion.sh: what bash, zsh and fish offer is what the programs know: every
# subcommand, every long option, every setting, and keys. A shell that is not installed is left out,
# and said.
#
#   test_completion.sh BIN
set -uo pipefail

bin=$(cd "$1" && pwd)
top=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d /tmp/kvfs-completion-XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
export PATH=$bin:$PATH HOME=$work XDG_CONFIG_HOME=$work XDG_DATA_HOME=$work
failures=0
cases=0

# offers SHELL "PATTERN..." WORD...: what the shell offers after these words, the last one begun, has
# for each pattern a line that is it.
offers()
{
    local shell=$1 patterns=$2 wanted
    shift 2
    "offer_$shell" "$@" >offered 2>errors || true
    for wanted in $patterns; do
        cases=$((cases + 1))
        grep -qxE -- "$wanted" offered || {
            echo "FAILED: $shell: $*: $wanted is not in: $(tr '\n' ' ' <offered) $(head -n 3 errors)"
            failures=$((failures + 1))
        }
    done
}

offer_bash()
{
    bash --norc -c '
        source "$1"; shift
        compopt() { :; } # there is no completion that it could speak of
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        [ "$1" = kvfs ] && _kvfs kvfs || _kvfs_program "$1"
        printf "%s\n" "${COMPREPLY[@]}"' bash "$top/tools/completion/kvfs.bash" "$@"
}

offer_zsh()
{
    zsh -f -c '
        file=$1; shift
        # In place of the completion system: print what is offered, without the words beside it.
        _describe() { print -rl -- ${${(P)4}%%:*} }
        compadd() { print -rl -- ${@:4} }
        compset() { :; }
        _files() { :; }
        words=("$@"); CURRENT=$#; service=$1
        set --
        source $file' zsh "$top/tools/completion/kvfs.zsh" "$@"
}

offer_fish()
{
    fish --no-config -c '
        source $argv[1]
        complete -C (string join " " -- $argv[2..])' "$top/tools/completion/kvfs.fish" "$@" | cut -f 1
}

mkfs.kvfs -q -s 64M image
kvfs put image users/42/name /dev/null
kvfs put image other /dev/null
commands=$(kvfs --help | sed -n 's/^  kvfs \([a-z]*\) .*/\1/p')
[ "$(wc -w <<<"$commands")" -ge 18 ] || { echo "FAILED: kvfs --help: only $commands"; failures=1; }

for shell in bash zsh fish; do
    if ! command -v "$shell" >/dev/null; then
        echo "$shell is not installed; left out"
        continue
    fi
    "$shell" -n "$top/tools/completion/kvfs.$shell" || failures=$((failures + 1))
    offers "$shell" "$commands" kvfs ''
    for command in $commands; do
        options=$(kvfs "$command" --help | grep -oE '^ {2,8}(-., )?--[a-z-]+' | grep -oE -- '--.*')
        offers "$shell" "--help $options" kvfs "$command" --
    done
    offers "$shell" users/ kvfs get image u
    offers "$shell" users/42/ kvfs get image users/4
    offers "$shell" "$(kvfs profiles | cut -d' ' -f1)" kvfs profiles ''
    for program in mkfs.kvfs fsck.kvfs mount.kvfs; do
        options=$($program --help | grep -oE '^ {2}-., --[a-z-]+' | grep -oE -- '--.*')
        offers "$shell" "$options" "$program" --
    done
    settings=$(mount.kvfs --help | sed -nE 's/^ {10,}([a-z_]+=).*/\1/p')
    offers "$shell" "$settings nonempty" mount.kvfs -o ''
    offers "$shell" '(ro,)?memory_budget=' mount.kvfs -o ro,mem
done

echo "$cases cases, $failures failures"
[ "$failures" -eq 0 ]
