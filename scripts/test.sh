#!/usr/bin/env bash
# Install, then run linters, type checker and tests. Arguments go to pytest; without any, slow tests are left out.
set -euo pipefail
source "$(dirname "$0")/set_up.sh" test

# Linters and types are checked on the oldest supported version only: on newer ones, pip installs other package
# versions, for which mypy reports other errors.
if .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
fi
[ $# -gt 0 ] || set -- -m "not slow"
.venv/bin/python -m pytest "$@"
