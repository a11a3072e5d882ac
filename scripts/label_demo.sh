#!/usr/bin/env bash
# Runs the tests of plugins/diffrecon-label, starts a MONAI Label server with its app on this machine, and checks what it sends over HTTP
# against `diffrecon reconstruct`, for files and for an Orthanc server as DICOMweb archive; see scripts/label/label_demo.py.
# `--write FILE` writes a page of results. MONAI Label has an environment of its own, .venv-label or $DIFFRECON_VENV: its
# pydicom-seg wants numpy 1. $PYTHON chooses the interpreter, up to 3.12. Orthanc: apt-get install orthanc orthanc-dicomweb
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${DIFFRECON_VENV:-.venv-label}"
pip=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet)
if [[ ! -f "$venv/.label-stamp" ]]; then
    [[ -x "$venv/bin/python" ]] || "${PYTHON:-python3}" -m venv "$venv"
    # MONAI Label's sam2 has no wheel; its setup asks PyTorch for a compiler, which is not needed.
    "${pip[@]}" torch torchvision 'setuptools>=77' wheel
    SAM2_BUILD_CUDA=0 "${pip[@]}" --no-build-isolation -e . -e plugins/diffrecon-bundles -e plugins/diffrecon-label pytest pytest-timeout
    touch "$venv/.label-stamp"
fi
"$venv/bin/python" -m pytest -q plugins/diffrecon-label/tests
exec "$venv/bin/python" -W ignore scripts/label/label_demo.py "$@"
