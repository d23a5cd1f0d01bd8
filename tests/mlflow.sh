#!/usr/bin/env bash
# A real MLflow server (tracking and registry) on loopback, for tests. It keeps its tables in SQLite and its artefacts, which go
# through it, in a bucket of the S3 server that the environment names. It is not for production: no login, one worker.
#
#   tests/mlflow.sh start  [--port N] [--dir FOLDER]    starts it (again), waits until it answers, prints KEY=value lines for eval
#   tests/mlflow.sh status [--dir FOLDER]               the same lines when it runs; exit code 3 when not
#   tests/mlflow.sh stop   [--dir FOLDER] [--purge]     stops it; the data stay, unless --purge
#
# FOLDER holds tables, log and pid file (default: .cache/run/mlflow in this clone). `start` needs S3_ENDPOINT, S3_BUCKET,
# AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, as tests/s3.sh prints them. Without --port a free port is chosen, and kept
# for the next start in the same FOLDER.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Its imports alone take 10 s of a quiet core.
ready_seconds=180

print_address() {
    printf 'MLFLOW_URI=http://127.0.0.1:%s\nMLFLOW_PID=%s\nMLFLOW_DIR=%q\nMLFLOW_PYTHON=%q\n' \
        "$(cat "$dir/port")" "$(live_pid "$dir/pid")" "$dir" "$CACHE/mlflow/bin/python"
}

answers() {
    # shellcheck disable=SC2016
    timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" && printf "GET /health HTTP/1.0\r\nHost: 127.0.0.1:$1\r\n\r\n" >&3 &&
        read -r line <&3 && [[ $line == "HTTP/1."?" 200 "* ]]' answers "$1" 2>/dev/null
}

# The server and its worker, which is a process of its own.
terminate_server() {
    local pid
    pid=$(live_pid "$dir/pid") || pid=''
    terminate "$dir/pid" "$1"
    # It has been given a session of its own, so its group is its alone.
    if [[ -n $pid ]]; then kill -KILL -- "-$pid" 2>/dev/null || true; fi
}

# One attempt on one port. 0: it answers; 1: it failed; 2: the port was taken by somebody else.
attempt() {
    local port=$1 deadline
    printf '%s\n' "$port" >"$dir/port"
    if answers "$port"; then return 2; fi
    # The artefacts' credentials are the server's; its clients have none.
    spawn "$dir/pid" "$dir/server.log" env "PATH=$CACHE/mlflow/bin:$PATH" \
        "MLFLOW_S3_ENDPOINT_URL=$S3_ENDPOINT" "AWS_DEFAULT_REGION=$AWS_REGION" AWS_EC2_METADATA_DISABLED=true \
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1 PYTHONUNBUFFERED=1 \
        "$CACHE/mlflow/bin/mlflow" server --host 127.0.0.1 --port "$port" --workers 1 \
        --backend-store-uri "sqlite:///$dir/tables.db" --artifacts-destination "s3://$S3_BUCKET/mlflow" \
        --allowed-hosts 'localhost:*,127.0.0.1:*'
    deadline=$((SECONDS + ready_seconds))
    until answers "$port"; do
        if ! process_identity "$spawned_pid" >/dev/null; then
            if grep -qi 'address already in use' "$dir/server.log"; then return 2; fi
            say "the server ended before it answered; the end of $dir/server.log:"
            tail -n 20 "$dir/server.log" >&2
            return 1
        elif ((SECONDS >= deadline)); then
            say "no answer within $ready_seconds s; the end of $dir/server.log:"
            tail -n 20 "$dir/server.log" >&2
            return 1
        fi
        sleep 0.2
    done
    process_identity "$spawned_pid" >/dev/null || return 2
}

start() {
    local wanted try status name
    for name in S3_ENDPOINT S3_BUCKET AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION; do
        [[ -n ${!name:-} ]] || die "$name is not set: start tests/s3.sh first, and export what it prints"
    done
    if live_pid "$dir/pid" >/dev/null; then
        wanted=$(cat "$dir/port")
        [[ -z $port || $port == "$wanted" ]] || die "a server runs in $dir on port $wanted, not $port: stop it first, or give another --dir"
        if answers "$wanted"; then print_address && return; fi
    fi
    terminate_server 5
    "$ROOT/tests/deps.sh" mlflow 9>&-
    mkdir -p "$dir"
    trap 'terminate_server 2' EXIT
    for try in 1 2 3 4 5; do
        wanted=$port
        if [[ -z $wanted && $try == 1 && -e $dir/port ]]; then wanted=$(cat "$dir/port"); fi
        if [[ -z $wanted ]]; then wanted=$(free_ports 1); fi
        status=0
        attempt "$wanted" || status=$?
        case $status in
        0)
            trap - EXIT
            print_address
            return
            ;;
        1) exit 1 ;;
        esac
        terminate_server 2
        if [[ -n $port ]]; then die "port $port of 127.0.0.1 is taken: give another --port, or none"; fi
    done
    die "five chosen ports were taken by others before the server could listen"
}

action=${1:-}
(($#)) && shift
dir=$RUN_DIR/mlflow
parse_options "$@"
case $action in
start)
    lock_folder "$dir"
    start
    ;;
status) live_pid "$dir/pid" >/dev/null && answers "$(cat "$dir/port")" && print_address || exit 3 ;;
stop)
    if [[ -d $dir ]]; then
        lock_folder "$dir"
        terminate_server 5
        if [[ -n $purge ]]; then rm -rf "$dir"; fi
    fi
    ;;
*) die "expected start, status or stop, found '$action'" ;;
esac
