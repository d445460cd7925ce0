#!/usr/bin/env bash
# Makes .venv and installs the project into it, with the versions of constraints.txt. `make` calls it when it is due.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "install: error: $*" >&2
    exit 2
}

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

# PyBullet has wheels for 3.10 and 3.11 alone, so 3.12 comes after them.
choose_python() {
    local candidate
    for candidate in python3.11 python3.10 python3.12 python3 python; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.10, 3.11 or 3.12 found; install one (apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python"
}

if [ -n "${PYTHON:-}" ]; then
    supported "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.10, 3.11 or 3.12"
    # Another interpreter than last time: start again.
    if [ -x .venv/bin/python ] && [ "$(.venv/bin/python -V)" != "$("$PYTHON" -V)" ]; then
        rm -rf .venv
    fi
fi

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=${PYTHON:-$(choose_python)}
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python cannot make virtual environments; run: sudo apt-get install python$version-venv"
    rm -rf .venv
    "$python" -m venv .venv
fi

if .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' && ! command -v c++ >/dev/null; then
    fail "PyBullet has no wheel for Python 3.12 and is compiled; run: sudo apt-get install g++ python3.12-dev (or use Python 3.11)"
fi

echo "Installing into .venv ($(.venv/bin/python -V)); this takes a minute or two."
.venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[sim,onnx,bags,docs,dev]'
