#!/usr/bin/env bash
# Pin the newest versions that the requirements allow, with hashes, for every platform.
# Needs uv. Run the tests after it: what is locked is what was tested.
set -euo pipefail
cd "$(dirname "$0")/.."

for kind in "" -dev -serve; do
  uv pip compile -q "requirements$kind.txt" --universal --python-version 3.11 \
    --generate-hashes --no-header --no-emit-index-url -o "requirements$kind.lock"
done
