# Create .venv in the project folder and install the project into it, unless it is up to date.
# Sourced by quickstart.sh and test.sh; the first argument names an extra besides train, such as test.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
EXTRA="[train${1:+,$1}]"
PYTHON="${PYTHON:-python3}"

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "animals_pl needs Python 3.11 or later; choose one with PYTHON=/path/to/python3.11 $0" >&2
    exit 2
}
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv || {
    echo "could not create a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2
    exit 2
}
STAMP=".venv/installed${EXTRA}"
if [ ! -f "$STAMP" ] || [ setup.cfg -nt "$STAMP" ] || [ pyproject.toml -nt "$STAMP" ]; then
    echo "installing into .venv (first time: a few minutes, about 6 GB)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${EXTRA}"
    touch "$STAMP"
fi
