#!/usr/bin/env bash
# Make a virtual environment with the frozen set of packages and this project in editable mode.
#
#   VENV      folder of the environment; default .venv
#   PYTHON3   interpreter to make it with; default: the first of python3, python3.11, ... in range
#   --uv      make an environment with uv alone (for `make lock`)
#
# What is there already and fits the files in requirements/ is kept; an environment that was
# left half-built, or built from other requirements, is built anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UV_VERSION=0.13.9
VENV=${VENV:-.venv}

supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON3:-python3 python3.11 python3.12 python3.10}; do
    if supported "$candidate"; then command -v "$candidate"; return; fi
  done
  echo "error: no Python 3.10 to 3.12 among: ${PYTHON3:-python3 python3.11 python3.12 python3.10}" >&2
  echo "       (python3 is: $(python3 --version 2>&1)). Name one: make install PYTHON3=/path/to/python3.11" >&2
  return 1
}

# Where an environment is active, the interpreter that it was made with: it may be removed here.
PY=$(find_python)
PY=$("$PY" -c 'import sys; print(getattr(sys, "_base_executable", "") or sys.executable)')
frozen_key() {
  { "$PY" -VV; echo "$UV_VERSION"; cat requirements/*.txt requirements/install.sh; } | cksum | tr ' ' -
}
project_key() { { pwd; cat setup.cfg setup.py pyproject.toml fiber_mm/version.py; } | cksum | tr ' ' -; }

new_venv() {
  if [[ -e $VENV && ! -e $VENV/pyvenv.cfg && -n $(ls -A "$VENV") ]]; then
    echo "error: $VENV is there and is no virtual environment; move it away or set FIBER_VENV" >&2
    exit 1
  fi
  # Renamed first: a removal that is interrupted would leave a part of it under the name.
  if [[ -e $VENV ]]; then mv "$VENV" "$VENV.old.$$"; fi
  rm -rf "$VENV".old.*
  if ! "$PY" -m venv "$VENV"; then
    echo "error: $PY cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
  fi
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
}

if [[ ${1:-} == --uv ]]; then
  if [[ $("$VENV/bin/python" -m uv --version 2>/dev/null) != "uv $UV_VERSION"* ]]; then new_venv; fi
  exit
fi

FROZEN=$VENV/.fiber-frozen-$(frozen_key)
PROJECT=$VENV/.fiber-project-$(project_key)
start=$SECONDS

if [[ ! -e $FROZEN || ! -x $VENV/bin/python ]]; then
  echo "[1/3] $VENV: new environment, $("$PY" --version)"
  new_venv
  echo "[2/3] $VENV: the tested set of packages (2.5 GB to download if nothing is cached)"
  # mmcv is built apart from torch, hence without operators: fiber_mm/compat/mmcv_ops.py has them.
  "$VENV/bin/python" -m uv pip install --python "$VENV/bin/python" \
    --requirements requirements/runtime.txt --requirements requirements/tests.txt \
    --constraints requirements/constraints.txt --build-constraints requirements/constraints.txt \
    --overrides requirements/overrides.txt
  touch "$FROZEN"
fi

if [[ ! -e $PROJECT ]]; then
  echo "[3/3] $VENV: fiber_mm, editable"
  rm -f "$VENV"/.fiber-project-*
  "$VENV/bin/python" -m uv pip install --python "$VENV/bin/python" --quiet \
    --no-deps --no-build-isolation --editable .
  # For mmdet's own tools, which import mmdet.models before they read a config.
  "$VENV/bin/python" -c \
    'import runpy; runpy.run_path("fiber_mm/compat/mmcv_ops.py")["enable"]()'
  touch "$PROJECT"
  echo "ready after $((SECONDS - start)) s: $VENV/bin/python"
fi
