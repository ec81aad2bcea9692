#!/usr/bin/env bash
# Set-up and all checks: linters, types, tests. Arguments go to pytest; without any, slow tests are left out.
set -euo pipefail
source "$(dirname "$0")/set_up.sh" test

# Linters and types on the oldest supported version only: newer ones bring other packages and other findings.
if .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
fi
[ $# -gt 0 ] || set -- -m "not slow"
.venv/bin/python -m pytest "$@"
