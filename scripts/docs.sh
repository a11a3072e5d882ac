#!/usr/bin/env bash
# Builds the documentation site into docs/_build/html; warnings are errors. Needs no network once .venv-docs is there.
# Arguments go to sphinx-build: -D nb_execution_mode=off leaves the tutorials unexecuted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DIFFRECON_VENV=.venv-docs DIFFRECON_EXTRA=docs source scripts/_setup.sh
exec .venv-docs/bin/python -m sphinx -W --keep-going "$@" docs docs/_build/html
