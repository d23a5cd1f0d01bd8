#!/usr/bin/env bash
# A real S3 server (versitygw over a folder) on loopback, for tests. It is not for production: fixed keys, plain HTTP, no fsync.
#
#   tests/s3.sh start  [--port N] [--dir FOLDER]    starts it (again), waits until it answers, prints KEY=value lines for eval
#   tests/s3.sh status [--dir FOLDER]               the same lines when it runs; exit code 3 when not
#   tests/s3.sh stop   [--dir FOLDER] [--purge]     stops it; the data stay, unless --purge
#
# FOLDER holds data, log and pid file (default: .cache/run/s3 in this clone). A bucket is a folder of $S3_DATA_DIR; one, $S3_BUCKET,
# is made here. Without --port a free port is chosen, and kept for the next start in the same FOLDER.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ready_seconds=20
access_key=tidemill
secret_key=tidemill-test-secret
region=us-east-1
bucket=tidemill-test

print_address() {
    printf 'S3_ENDPOINT=http://127.0.0.1:%s\nS3_BUCKET=%s\nAWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\nAWS_REGION=%s\n' \
        "$(cat "$dir/port")" "$bucket" "$access_key" "$secret_key" "$region"
    printf 'S3_PID=%s\nS3_DIR=%q\nS3_DATA_DIR=%q\n' "$(live_pid "$dir/pid")" "$dir" "$dir/data"
}

answers() {
    # shellcheck disable=SC2016
    timeout 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" && printf "GET /health HTTP/1.0\r\n\r\n" >&3 && read -r line <&3 &&
        [[ $line == "HTTP/1."?" 200 "* ]]' answers "$1" 2>/dev/null
}

# One attempt on one port. 0: it answers; 1: it failed; 2: the port was taken by somebody else.
attempt() {
    local port=$1 deadline
    printf '%s\n' "$port" >"$dir/port"
    # Telling the port's owner apart: a server that answers where ours could not listen must not be taken for ours.
    if answers "$port"; then return 2; fi
    spawn "$dir/pid" "$dir/server.log" "$CACHE/versitygw" --port "127.0.0.1:$port" --access "$access_key" --secret "$secret_key" \
        --region "$region" --health /health --quiet posix "$dir/data"
    deadline=$((SECONDS + ready_seconds))
    until answers "$port"; do
        if ! process_identity "$spawned_pid" >/dev/null; then
            if grep -q 'address already in use' "$dir/server.log"; then return 2; fi
            say "the server ended before it answered; the end of $dir/server.log:"
            tail -n 20 "$dir/server.log" >&2
            return 1
        elif ((SECONDS >= deadline)); then
            say "no answer within $ready_seconds s; the end of $dir/server.log:"
            tail -n 20 "$dir/server.log" >&2
            return 1
        fi
        sleep 0.02
    done
    process_identity "$spawned_pid" >/dev/null || return 2
}

start() {
    local wanted try status
    if live_pid "$dir/pid" >/dev/null; then
        wanted=$(cat "$dir/port")
        [[ -z $port || $port == "$wanted" ]] || die "a server runs in $dir on port $wanted, not $port: stop it first, or give another --dir"
        if answers "$wanted"; then print_address && return; fi
    fi
    terminate "$dir/pid" 2
    "$ROOT/tests/deps.sh" s3 9>&-
    mkdir -p "$dir/data/$bucket"
    trap 'terminate "$dir/pid" 2' EXIT
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
        terminate "$dir/pid" 2
        if [[ -n $port ]]; then die "port $port of 127.0.0.1 is taken: give another --port, or none"; fi
    done
    die "five chosen ports were taken by others before the server could listen"
}

action=${1:-}
(($#)) && shift
dir=$RUN_DIR/s3
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
        # Its own graceful end may take 12 s, and what it acknowledged survives a kill.
        terminate "$dir/pid" 2
        if [[ -n $purge ]]; then rm -rf "$dir"; fi
    fi
    ;;
*) die "expected start, status or stop, found '$action'" ;;
esac
