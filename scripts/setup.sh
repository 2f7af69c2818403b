#!/usr/bin/env bash
# Make .venv with the tested versions: bash scripts/setup.sh [dev]
# dev adds what the tests need. Running it again with an unchanged lock file does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=requirements${1:+-$1}.lock
stamp=.venv/$lock

find_python() {
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.11 or newer is needed; set PYTHON to its path" >&2
  exit 2
}

if ! cmp -s "$lock" "$stamp"; then
  python=$(find_python)
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  # uv installs in a minute what takes pip several; it is used where it can be had.
  uv=$(command -v uv || true)
  if [ -z "$uv" ] && .venv/bin/python -m pip install -q uv 2>/dev/null; then
    uv=.venv/bin/uv
  fi
  # Bytecode is compiled here: where PYTHONDONTWRITEBYTECODE is set, every start would do it again.
  if [ -n "$uv" ]; then
    "$uv" pip install -q --python .venv/bin/python --compile-bytecode --require-hashes -r "$lock"
  else
    .venv/bin/python -m pip install -q --require-hashes -r "$lock"
    # Some packages ship files that are no Python of this version; these cannot be compiled.
    .venv/bin/python -m compileall -q -j0 .venv/lib >/dev/null || true
  fi
  cp "$lock" "$stamp"
fi
.venv/bin/python -m compileall -q main.py classifier scripts
