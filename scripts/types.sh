#!/usr/bin/env bash
# mypy over everything. Uses the mypy on the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mypy edgesparse apps benchmarks deploy/provision &
package=$! failed=0

# Tests import helpers by their bare names, from every folder, and patch what modules import.
MYPYPATH=$(find tests -type d -not -name __pycache__ | tr '\n' ':')scripts
export MYPYPATH
mypy_tests() {
  mypy --cache-dir .mypy_cache/tests --scripts-are-modules --implicit-reexport --no-warn-return-any \
    --disable-error-code func-returns-value "$@"
}
# shellcheck disable=SC2046 # no blanks in names
programs=$(grep -lE '^#!.*python' $(find scripts -maxdepth 1 -type f -not -name '*.*'))
# shellcheck disable=SC2086 # words
mypy_tests --exclude '/conftest\.py$' scripts $programs tests || failed=1
# Every conftest.py is the module `conftest`, so each one is checked separately.
while read -r file; do mypy_tests "$file" || failed=1; done < <(find tests -name conftest.py)
wait "$package" || failed=1
exit $failed
