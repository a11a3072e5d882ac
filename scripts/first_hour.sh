#!/usr/bin/env bash
# What a new user does, timed: wheels of this checkout are installed into an empty environment outside of it, and
# `diffrecon reconstruct thick.nii.gz` makes 1 mm of a 5 mm scan of the example. Arguments go to
# scripts/check_installation.py, for instance --depth 20 --calls 2. $PYTHON chooses the interpreter, $CONSTRAINTS the
# versions; $TESTS are arguments of pytest, for tests of the checkout there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH DIFFRECON_BUNDLES
python="${PYTHON:-python3}" constraints="$(realpath "${CONSTRAINTS:-constraints.txt}")" root="$PWD"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/build"
"$work/build/bin/python" -m pip install --quiet --disable-pip-version-check build
mkdir "$work/source"
git ls-files -z | tar --create --null --files-from - | tar --extract --directory "$work/source" # no leftovers of builds
for package in . plugins/diffrecon-bundles; do
    "$work/build/bin/python" -m build --outdir "$work" "$work/source/$package" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
done

SECONDS=0
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$constraints" "$work"/*.whl
installed=$SECONDS
mkdir "$work/empty"
(cd "$work/empty" && "$work/venv/bin/python" "$root/scripts/check_installation.py" "$root/examples/colin27_t1.nii.gz" "$@")
echo "$("$python" -V): installed in $installed s, $SECONDS s from an empty environment to the picture"

if [[ -n "${TESTS:-}" ]]; then
    "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$constraints" \
        pytest pytest-timeout hypothesis jsonschema
    read -d "" -ra tests <<<"$TESTS" || true
    "$work/venv/bin/pytest" -q "${tests[@]}"
fi
