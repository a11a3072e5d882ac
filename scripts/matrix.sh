#!/usr/bin/env bash
# scripts/first_hour.sh, in short, with every interpreter from 3.10 to 3.14 that is here (on PATH, or of pyenv or uv), and
# a table of the results. Arguments choose versions. --floors: with the lowest versions that setup.cfg allows, on the
# lowest Python, and a part of the tests.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
logs="$(mktemp -d)"
status=0

interpreter() { # VERSION: print the path of an interpreter that works
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python "$(uv python find "$1" 2>/dev/null)"; do
        "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null || continue
        command -v "$candidate"
        return
    done
    return 1
}

row() { # VERSION: print a row of the table
    local log="$logs/$1.log" result
    if ! PYTHON="$(interpreter "$1")"; then
        echo "| $1 | not on this machine |"
        return
    fi
    if PYTHON="$PYTHON" ./scripts/first_hour.sh --depth 20 --calls 2 >"$log" 2>&1; then
        result="$(grep -E '^[0-9]+ modules' "$log"), $(tail -n 1 "$log" | sed 's/.*: //')"
    else
        result="failed: $log"
        status=1
    fi
    echo "| $1 | $result |"
}

if [[ "${1:-}" == --floors ]]; then
    sed -nE '/^\[options.packages.find\]/q; s/^    ([a-z0-9-]+)>=([0-9.]+)(,<[0-9.]+)?$/\1==\2/p' setup.cfg >"$logs/floors.txt"
    # Old versions call what new ones have deprecated; two files need a plugin.
    export TESTS="-W ignore::DeprecationWarning --ignore tests/operators/test_sparse_projector.py
        --ignore tests/operators/test_hostile_options.py tests/numerics tests/operators tests/io tests/engine/test_inferer.py"
    export CONSTRAINTS="$logs/floors.txt"
    set -- 3.10
elif (($# == 0)); then
    set -- 3.10 3.11 3.12 3.13 3.14
fi
echo "| Python | result |"
echo "|---|---|"
for version in "$@"; do row "$version"; done
exit "$status"
