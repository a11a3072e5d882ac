#!/usr/bin/env bash
# Starts an Orthanc server on this machine, sends it a thick-slice series, and lets the worker return a derived one;
# see scripts/orthanc/demo.py. Needs Orthanc and dcmtk: apt-get install orthanc dcmtk
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for tool in Orthanc storescu; do
    command -v "$tool" >/dev/null || { echo "error: no $tool; apt-get install orthanc dcmtk" >&2; exit 2; }
done
source scripts/_setup.sh
exec .venv/bin/python -W ignore scripts/orthanc/demo.py "$@"
