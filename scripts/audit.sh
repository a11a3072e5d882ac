#!/usr/bin/env bash
# Looks up the pinned dependencies (constraints.txt) in a database of known vulnerabilities; needs the network.
# A package that cannot be looked up counts as a failure, not as a pass. Arguments go to pip-audit, for instance
# `scripts/audit.sh --vulnerability-service osv`. $PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# pip-audit has dependencies of its own, which have no business in the environment that is audited.
tools="$(mktemp -d)"
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3}" -m venv "$tools"
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit
"$tools/bin/pip-audit" --requirement constraints.txt --no-deps --disable-pip --strict "$@"
