#!/bin/bash
# Does the tree configure with nothing but what the programs need?
#
#    test_configure.sh CMAKE
#
# pkg-config is one that does not know check, as on a fresh machine.
set -euo pipefail

cmake=$1
top=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

cat >"$work/pkg-config" <<'EOF'
#!/bin/bash
for word; do
    case $word in check | check[\>\<=\ ]*) exit 1 ;; esac
done
exec pkg-config "$@"
EOF
chmod +x "$work/pkg-config"

# configure SENTENCE STATUS PATTERN ARGUMENT...: the exit status, and what is said.
configure()
{
    local sentence=$1 wanted=$2 pattern=$3 status=0
    shift 3
    rm -rf "$work/build"
    "$cmake" --preset release -S "$top" -B "$work/build" \
        -DPKG_CONFIG_EXECUTABLE="$work/pkg-config" "$@" >"$work/out" 2>&1 || status=$?
    if [ "$status" -ne "$wanted" ] || ! grep -qE "$pattern" "$work/out"; then
        echo "FAILED: $sentence: exit status $status, not $wanted, or no /$pattern/:"
        cat "$work/out"
        failures=1
    fi
}

configure programs_need_no_check 0 'apt-get install check'
[ ! -e "$work/build/tests" ] || { echo "FAILED: the tests are not left out"; failures=1; }
configure who_wants_tests_hears_what_is_missing 1 'check' -DKVFS_TESTS=ON
configure who_wants_none_is_told_nothing 0 'Configuring done' -DKVFS_TESTS=OFF
! grep -q 'apt-get install check' "$work/out" || { echo "FAILED: it was told"; failures=1; }
exit "$failures"
