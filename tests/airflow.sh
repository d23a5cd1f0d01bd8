#!/usr/bin/env bash
# Runs the DAGs of docker/airflow in a real Airflow: the version that requirements.txt there pins, in an environment of the cache, with a
# database and logs of its own, which it deletes. Nothing reaches beyond the loopback interface.
#
#   tests/airflow.sh [MODULE...]    modules of tests/airflow, such as test_dags; all when none is named. They find the program by
#                                   TIDEMILL_BIN, or take the one that was built. test_real needs the MLflow server of
#                                   tests/with-servers.sh.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

target=${CARGO_TARGET_DIR:-$ROOT/target}
export TIDEMILL_TEST_BIN=${TIDEMILL_BIN:-$(realpath -m "$target")/debug/tidemill}
[[ -x $TIDEMILL_TEST_BIN ]] || die "expected the program at $TIDEMILL_TEST_BIN: run 'make build'"
"$ROOT/tests/deps.sh" airflow
python=$CACHE/airflow/bin/python

mkdir -p "$RUN_DIR"
home=$(mktemp -d "$RUN_DIR/airflow.XXXXXX")
trap 'rm -rf "$home"' EXIT
# Of the caller's Airflow, if there is one, nothing.
for name in $(compgen -e AIRFLOW_ || true); do unset "$name"; done
export AIRFLOW_HOME=$home TMPDIR=$home
export AIRFLOW__CORE__DAGS_FOLDER=$ROOT/docker/airflow/dags
export AIRFLOW__CORE__LOAD_EXAMPLES=False
export AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False SCARF_ANALYTICS=false DO_NOT_TRACK=1
export PYTHONPATH=$ROOT/tests/airflow PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore

modules=("$@")
if ! ((${#modules[@]})); then
    for file in "$ROOT"/tests/airflow/test_*.py; do
        modules+=("$(basename "$file" .py)")
    done
fi
run() {
    "$@" </dev/null >"$home/output" 2>&1 || {
        tail -n 200 "$home/output" >&2
        return 1
    }
}
say "preparing Airflow's database"
run "$CACHE/airflow/bin/airflow" db migrate || die "Airflow's database could not be made"
cp "$home/airflow.db" "$home/empty.db"
export AIRFLOW_EMPTY_DATABASE=$home/empty.db
failed=()
for module in "${modules[@]}"; do
    say "running $module"
    # Airflow logs much; what matters of it when all is well is the number of tests.
    run "$python" -m unittest "$module" || failed+=("$module")
    grep -E '^Ran [0-9]+ tests?' "$home/output" >&2 || true
done
((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
