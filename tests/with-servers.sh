#!/usr/bin/env bash
# Runs a command beside a real Kafka broker and a real S3 server, both new and empty, and stops them when it ends, however it ends:
#
#   tests/with-servers.sh CMD ARG...     exit code: the command's; 128 + N after signal N
#
# The command finds them by TIDEMILL_TEST_KAFKA (host:port), TIDEMILL_TEST_S3_ENDPOINT, TIDEMILL_TEST_S3_BUCKET, AWS_ACCESS_KEY_ID,
# AWS_SECRET_ACCESS_KEY and AWS_REGION. A test that has to restart one uses tests/kafka.sh or tests/s3.sh with --dir
# "$TIDEMILL_TEST_KAFKA_DIR" or "$TIDEMILL_TEST_S3_DIR"; the address stays. Killed with SIGKILL, this script cannot stop them: then
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

command_pid='' step_pid=''
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
    if [[ -n $step_pid ]]; then
        kill -TERM "$step_pid" 2>/dev/null || true
        wait "$step_pid" || true
    fi
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

# In the background, since a trap waits for what runs in the foreground.
start() {
    local status=0
    "$tests/$1.sh" start --dir "$run/$1" >"$run/$1.env" &
    step_pid=$!
    wait "$step_pid" || status=$?
    step_pid=''
    if ((status)); then die "the $1 server did not start"; fi
    # shellcheck disable=SC1090
    . "$run/$1.env"
}
start kafka
start s3
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION
export TIDEMILL_TEST_KAFKA=$KAFKA_BOOTSTRAP_SERVERS TIDEMILL_TEST_KAFKA_DIR=$KAFKA_DIR
export TIDEMILL_TEST_S3_ENDPOINT=$S3_ENDPOINT TIDEMILL_TEST_S3_BUCKET=$S3_BUCKET TIDEMILL_TEST_S3_DIR=$S3_DIR

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
