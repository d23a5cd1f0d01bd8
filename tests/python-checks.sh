#!/usr/bin/env bash
# Runs the checks that need Python's own libraries (LightGBM as an oracle, the difficulty of the generated data): every
# tests/python/check_*.py, which exits with 0 or says what is wrong. They find the program by TIDEMILL_BIN.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

shopt -s nullglob
checks=("$ROOT"/tests/python/check_*.py)
if ! ((${#checks[@]})); then
    say "there is no tests/python/check_*.py: nothing to run"
    exit
fi
"$ROOT/tests/deps.sh" python
target=${CARGO_TARGET_DIR:-$ROOT/target}
export TIDEMILL_BIN=${TIDEMILL_BIN:-$(realpath -m "$target")/debug/tidemill}
[[ -x $TIDEMILL_BIN ]] || die "expected the program at $TIDEMILL_BIN: run 'make build'"
failed=0
for check in "${checks[@]}"; do
    say "running ${check#"$ROOT"/}"
    "$CACHE/python/bin/python" "$check" </dev/null || { failed=$((failed + 1)) && say "failed: ${check#"$ROOT"/}"; }
done
say "$((${#checks[@]} - failed)) of ${#checks[@]} checks passed"
((failed == 0))
