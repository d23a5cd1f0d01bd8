#!/usr/bin/env bash
# Runs a command beside a real Kafka broker, a real S3 server and a real MLflow server that keeps its artefacts there, all new and
# empty, and stops them when it ends, however it ends:
#
#   tests/with-servers.sh CMD ARG...     exit code: the command's; 128 + N after signal N
#
# The command finds them by TIDEMILL_TEST_KAFKA (host:port), TIDEMILL_TEST_S3_ENDPOINT, TIDEMILL_TEST_S3_BUCKET, AWS_ACCESS_KEY_ID,
# AWS_SECRET_ACCESS_KEY and AWS_REGION, TIDEMILL_TEST_MLFLOW (its address) and TIDEMILL_TEST_MLFLOW_PYTHON (a Python with MLflow and
# LightGBM). A test that has to restart one uses tests/kafka.sh, tests/s3.sh or tests/mlflow.sh with --dir "$TIDEMILL_TEST_KAFKA_DIR",
# "$TIDEMILL_TEST_S3_DIR" or "$TIDEMILL_TEST_MLFLOW_DIR"; the address stays. Killed with SIGKILL, this script cannot stop them: then
# the next start in this clone does.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
(($#)) || die "expected a command to run beside the servers"
tests=$ROOT/tests

stop_servers() {
    local folder=$1 pid
    # Of a run that was killed; in our own the command has ended by now.
    if pid=$(live_pid "$folder/command"); then kill -KILL -- "-$pid" 2>/dev/null || true; fi
    "$tests/mlflow.sh" stop --purge --dir "$folder/mlflow" || true
    "$tests/kafka.sh" stop --purge --dir "$folder/kafka" || true
    "$tests/s3.sh" stop --purge --dir "$folder/s3" || true
    rm -rf "$folder"
}

# What runs of this script left that were killed before they could clean up.
for left in "$RUN_DIR"/with-servers.*; do
    if [[ -d $left ]] && ! live_pid "$left/owner" >/dev/null; then
        say "stopping what a killed run left: $left"
        stop_servers "$left"
    fi
done

mkdir -p "$RUN_DIR"
# The owner is written before the folder has its name, so that no other run takes it for one that was left.
run=$RUN_DIR/with-servers.$$
new=$RUN_DIR/.new.$$
rm -rf "$run" "$new"
mkdir "$new"
process_identity $$ >"$new/owner"
mv "$new" "$run"

command_pid='' step_pids=()
# shellcheck disable=SC2317
finish() {
    local status=$?
    trap '' HUP INT TERM
    stop_servers "$run"
    exit "$status"
}
trap finish EXIT

# The command has a process group of its own, so that what it started ends with it.
# shellcheck disable=SC2317
interrupted() {
    trap '' HUP INT TERM
    local pid
    for pid in "${step_pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" || true
    done
    if [[ -n $command_pid ]]; then
        kill -TERM -- "-$command_pid" 2>/dev/null || true
        local deadline=$((SECONDS + 10))
        while kill -0 -- "-$command_pid" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.1; done
        kill -KILL -- "-$command_pid" 2>/dev/null || true
    fi
    exit $((128 + $1))
}
trap 'interrupted 1' HUP
trap 'interrupted 2' INT
trap 'interrupted 15' TERM

# In the background, since a trap waits for what runs in the foreground; so the slow ones start side by side, too.
start() {
    "$tests/$1.sh" start --dir "$run/$1" >"$run/$1.env" &
    step_pids+=("$!")
    eval "$1_step=$!"
}
started() {
    local step=$1_step status=0
    wait "${!step}" || status=$?
    if ((status)); then die "the $1 server did not start"; fi
    # shellcheck disable=SC1090
    . "$run/$1.env"
}
start kafka
start s3
started s3
export S3_ENDPOINT S3_BUCKET AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION
start mlflow
started kafka
started mlflow
step_pids=()
export TIDEMILL_TEST_KAFKA=$KAFKA_BOOTSTRAP_SERVERS TIDEMILL_TEST_KAFKA_DIR=$KAFKA_DIR
export TIDEMILL_TEST_S3_ENDPOINT=$S3_ENDPOINT TIDEMILL_TEST_S3_BUCKET=$S3_BUCKET TIDEMILL_TEST_S3_DIR=$S3_DIR
export TIDEMILL_TEST_MLFLOW=$MLFLOW_URI TIDEMILL_TEST_MLFLOW_DIR=$MLFLOW_DIR TIDEMILL_TEST_MLFLOW_PYTHON=$MLFLOW_PYTHON

status=0
# Its own process group may not read from a terminal.
if [[ -t 0 ]]; then exec </dev/null; fi
set -m
"$@" <&0 &
command_pid=$!
set +m
process_identity "$command_pid" >"$run/command" || true
wait "$command_pid" || status=$?
command_pid=''
exit "$status"
