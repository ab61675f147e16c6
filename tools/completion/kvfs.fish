# tools/completion/kvfs.fish: completion of kvfs, mkfs.kvfs, fsck.kvfs and mount.kvfs for fish.
#
# Commands, options and settings are what the programs themselves say of them; keys are asked of
# the target.

function __kvfs_commands
    kvfs --help 2>/dev/null | string replace -rf '^  kvfs ([a-z]+) +(.*)$' '$1\t$2'
end

# The options that --help of a command lists, with their words.
function __kvfs_options
    $argv --help 2>/dev/null | string replace -rf \
        '^ {2,8}(?:-\w, )?(--[a-z][a-z-]*)(?:[ =]\S+)?  +(.*)$|^ {2}(-\w) \S+ +(.*)$' '$1$3\t$2$4'
    printf '%s\t%s\n' --help 'say more'
end

function __kvfs_settings
    set -l given (commandline -ct | string replace -rf '^(.*,).*$' '$1')
    mount.kvfs --help 2>/dev/null |
        string replace -rf '^ {10,}([a-z_]+)(?:(=)(\S*))?: (.*)$' "$given"'$1$2\t$4'
end

function __kvfs_words
    string match -v -- '-*' (commandline -opc)[2..]
end

function __kvfs_no_command
    test (count (__kvfs_words)) -eq 0
end

# A target is there, and the command takes a key after it.
function __kvfs_wants_key
    set -l words (__kvfs_words)
    test (count $words) -eq 2; and contains -- $words[1] get put rm ls info scan
end

function __kvfs_keys
    set -l words (__kvfs_words)
    set -l above (commandline -ct | string replace -rf '^(.*)/.*$' '$1')
    kvfs ls $words[2] $above 2>/dev/null
end

function __kvfs_option_begun
    string match -q -- '-*' (commandline -ct)
end

complete -c kvfs -n __kvfs_no_command -f -a '(__kvfs_commands)'
complete -c kvfs -n __kvfs_wants_key -f -a '(__kvfs_keys)'
complete -c kvfs -n 'test (__kvfs_words)[1] = profiles 2>/dev/null' -f \
    -a '(kvfs profiles 2>/dev/null | string replace -rf "^([a-z-]+) +(.*)\$" "\$1\t\$2")'
complete -c kvfs -n 'not __kvfs_no_command; and __kvfs_option_begun' -f \
    -a '(__kvfs_options kvfs (__kvfs_words)[1])'
for program in mkfs.kvfs fsck.kvfs mount.kvfs
    complete -c $program -n __kvfs_option_begun -f -a "(__kvfs_options $program)"
end
complete -c mount.kvfs -s o -x -a '(__kvfs_settings)'
