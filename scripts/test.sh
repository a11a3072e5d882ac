#!/usr/bin/env bash
# Everything that must hold before a commit: style, types, layers, tests. Arguments go to pytest. The files of the tests are
# shared by as many processes as there are cores, four at most, of 3 GB each; `-n 0` runs them in one. Slow tests are left
# out; `-m ''` runs them too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/_setup.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

ruff check .
ruff format --check .
mypy
lint-imports
cores="$(nproc 2>/dev/null || sysctl -n hw.ncpu)"
exec python -m pytest -n "$((cores < 4 ? cores : 4))" --dist loadfile -m 'not slow' "$@"
