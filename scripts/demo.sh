#!/usr/bin/env bash
# Sets everything up and reconstructs 1 mm from a simulated 5 mm scan; see scripts/demo.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/_setup.sh
exec .venv/bin/python -W ignore scripts/demo.py "$@"
