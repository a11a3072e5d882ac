#!/usr/bin/env bash
# Installs the package, diffrecon-deploy and MONAI Deploy App SDK into .venv-deploy of the checkout ($DIFFRECON_VENV chooses
# another folder, $PYTHON the interpreter, 3.11 to 3.13), runs the tests of the operators, and then the application and the
# packager; see scripts/deploy/demo.py, which takes the arguments. Needs the CUDA 13 runtime library, and no GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${DIFFRECON_VENV:-.venv-deploy}"
if [[ ! -f "$venv/.complete" ]]; then
    echo "installing into $venv"
    "${PYTHON:-python3}" -m venv "$venv"
    # The packager left holoscan-cli with 4.2.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt \
        -e . -e plugins/diffrecon-deploy 'holoscan-cli<4.2' pytest pytest-timeout
    touch "$venv/.complete"
fi
export PATH="$PWD/$venv/bin:$PATH" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ulimit -s 32768 2>/dev/null || true # as Holoscan asks for
python -m pytest -q -p no:cacheprovider -W ignore plugins/diffrecon-deploy/tests
exec python -W ignore scripts/deploy/demo.py "$@"
