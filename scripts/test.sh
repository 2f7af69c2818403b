#!/usr/bin/env bash
# Style, types and the whole test suite: bash scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# The whole suite on all cores; what is chosen by hand as it is.
[ $# -gt 0 ] || set -- -n auto --dist worksteal
exec .venv/bin/python -m pytest "$@"
