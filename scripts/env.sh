# shellcheck shell=bash
# Sourced by the other scripts: creates .venv/<version> with edgesparse and its dependencies, and sets $python.
# PYTHON chooses the interpreter; by default the first of 3.10 or newer is used.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }
find_python() {
  local name
  for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    if new_enough "$name"; then command -v "$name"; return; fi
  done
  echo "needed Python 3.10 or newer, found ${PYTHON:-$(python3 --version 2>/dev/null || echo none)}: install it, or set PYTHON" >&2
  return 3
}
make_venv() {
  "$base" -m venv "$1" 2>/dev/null && return
  # Debian and Ubuntu ship venv apart from Python.
  rm -rf "$1"
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -qq -y python3-venv >/dev/null && "$base" -m venv "$1" && return
  fi
  echo "this Python cannot create virtual environments: apt install python3-venv" >&2
  return 3
}

base=$(find_python)
venv=.venv/$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
python=$PWD/$venv/bin/python
wanted=$(cat setup.cfg scripts/env.sh | sha256sum | cut -d' ' -f1)
if [ ! -x "$python" ] || [ "$(cat "$venv/.installed" 2>/dev/null)" != "$wanted" ]; then
  echo "installing into $venv" >&2
  [ -x "$python" ] || make_venv "$venv"
  "$python" -m pip install -qq --disable-pip-version-check -e '.[eval,fleet,otel,service,docs,dev]'
  # opencv-python's windows need libGL; if the system has none, the headless build is used instead.
  if ! "$python" -c 'import cv2' 2>/dev/null; then
    "$python" -m pip install -qq --disable-pip-version-check --force-reinstall --no-deps opencv-python-headless
  fi
  echo "$wanted" > "$venv/.installed"
fi
export PATH=$PWD/$venv/bin:$PATH
