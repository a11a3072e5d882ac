#!/usr/bin/env bash
# Shows that the package installs beside MONAI Label and MONAI Deploy App SDK: pip resolves both together in a fresh
# environment (metadata only, nothing is installed), and a table tells the versions of what they share. Prints pip's
# conflict otherwise, and exits 1. Arguments choose other packages, for instance `scripts/resolve_beside.sh
# monailabel==0.8.5`. $PYTHON chooses the interpreter. MONAI Label needs one up to 3.12: its pydicom-seg wants numpy 1.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
(($# > 0)) || set -- monailabel monai-deploy-app-sdk
shared='monai-diffrecon monailabel monai-deploy-app-sdk holoscan-cu13 torch monai numpy scipy scikit-image pydicom
    pydicom-seg jsonschema nibabel itk mlflow pytorch-ignite pydantic h5py matplotlib'
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
# MONAI Label's sam2 has no wheel, and its setup asks PyTorch for a compiler. A stand-in without one is enough for the
# metadata, and spares installing PyTorch to read them.
mkdir -p "$folder/stand-in/torch/utils"
touch "$folder/stand-in/torch/__init__.py" "$folder/stand-in/torch/utils/__init__.py"
echo 'from setuptools import Extension as CUDAExtension
from setuptools.command.build_ext import build_ext as BuildExtension' >"$folder/stand-in/torch/utils/cpp_extension.py"
export PYTHONPATH="$folder/stand-in" SAM2_BUILD_CUDA=0
python="${PYTHON:-python3}"
status=0
for beside in "$@"; do
    rm -rf "$folder/venv"
    "$python" -m venv --without-pip "$folder/venv" || exit
    pip=("$python" -m pip --disable-pip-version-check --python "$folder/venv/bin/python" install --quiet)
    "${pip[@]}" 'setuptools>=77' wheel || exit
    echo "monai-diffrecon beside $beside, $("$folder/venv/bin/python" --version):"
    if "${pip[@]}" --dry-run --no-build-isolation --report "$folder/report.json" . "$beside" 2>"$folder/errors"; then
        "$folder/venv/bin/python" - "$folder/report.json" "$shared" <<'PYTHON'
import json
import sys

report, shared = json.load(open(sys.argv[1])), sys.argv[2].split()
found = {item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"] for item in report["install"]}
print(f"  resolves, {len(found)} packages:", ", ".join(f"{name} {found[name]}" for name in shared if name in found))
PYTHON
    else
        echo "  does not resolve:"
        grep -v "is ignored: it is neither" "$folder/errors" | sed 's/^/    /'
        status=1
    fi
done
exit "$status"
