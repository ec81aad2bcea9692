#!/usr/bin/env bash
# Set-up and all checks: linters, types, tests. Arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/set_up.sh" test

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/python -m pytest "$@"
