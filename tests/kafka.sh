#!/usr/bin/env bash
# A real Kafka broker (KRaft, one node) on loopback, for tests, benchmarks and the demo: its jars by Maven, no container.
# It is not for production: no authentication, one copy of everything.
#
#   tests/kafka.sh start  [--port N] [--dir FOLDER]    starts it (again), waits until it answers, prints KEY=value lines for eval
#   tests/kafka.sh status [--dir FOLDER]               the same lines when it runs; exit code 3 when not
#   tests/kafka.sh stop   [--dir FOLDER] [--purge]     stops it; the data stay, unless --purge
#
# FOLDER holds data, log and pid file (default: .cache/run/kafka in this clone). Without --port a free port is chosen, and kept for
# the next start in the same FOLDER, so that a restarted broker has its old address. The port after it is the controller's.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A broker that shares its cores with a build may take a minute.
ready_seconds=120

print_address() {
    printf 'KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:%s\nKAFKA_PID=%s\nKAFKA_DIR=%q\n' "$(cat "$dir/port")" "$(live_pid "$dir/pid")" "$dir"
}

answers() { python3 "$ROOT/tests/kafka/ready.py" 127.0.0.1 "$1" 2>"$dir/ready.log"; }

# One attempt on one port. 0: it answers; 1: it failed; 2: the port was taken by somebody else.
attempt() {
    local port=$1 libs=$2 deadline
    sed -e "s|@PORT@|$port|g" -e "s|@CONTROLLER_PORT@|$((port + 1))|g" -e "s|@DATA@|$dir/data|g" \
        "$ROOT/tests/kafka/server.properties" >"$dir/server.properties"
    printf '%s\n' "$port" >"$dir/port"
    local java=("$JAVA" -Xmx768m -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn
        -Dorg.slf4j.simpleLogger.showDateTime=true "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS" -cp "$libs/*")
    if [[ ! -e $dir/data/meta.properties ]]; then
        local id
        id=$(python3 -c 'import base64, uuid; print(base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))')
        # An id that begins with a dash would be taken for an option.
        "${java[@]}" kafka.tools.StorageTool format -t "A${id:1}" -c "$dir/server.properties" >"$dir/format.log" 2>&1 9>&- ||
            { tail -n 20 "$dir/format.log" >&2; return 1; }
    fi
    spawn "$dir/pid" "$dir/broker.log" "${java[@]}" kafka.Kafka "$dir/server.properties"
    deadline=$((SECONDS + ready_seconds))
    until answers "$port"; do
        if ! process_identity "$spawned_pid" >/dev/null; then
            if grep -q 'BindException\|Address already in use' "$dir/broker.log"; then return 2; fi
            say "the broker ended before it answered; the end of $dir/broker.log:"
            tail -n 20 "$dir/broker.log" >&2
            return 1
        elif ((SECONDS >= deadline)); then
            say "no answer within $ready_seconds s ($(cat "$dir/ready.log")); the end of $dir/broker.log:"
            tail -n 20 "$dir/broker.log" >&2
            return 1
        fi
        sleep 0.1
    done
}

start() {
    local wanted libs try status
    # A broker that runs but does not answer yet, or any more, is replaced: its starter may have been killed.
    if live_pid "$dir/pid" >/dev/null; then
        wanted=$(cat "$dir/port")
        [[ -z $port || $port == "$wanted" ]] || die "a broker runs in $dir on port $wanted, not $port: stop it first, or give another --dir"
        if answers "$wanted"; then print_address && return; fi
    fi
    terminate "$dir/pid" 5
    "$ROOT/tests/deps.sh" kafka 9>&-
    libs=$(readlink -f "$CACHE/kafka")
    JAVA=$("$ROOT/tests/deps.sh" java-path)
    trap 'terminate "$dir/pid" 2' EXIT
    for try in 1 2 3 4 5; do
        wanted=$port
        # The port of the last start is taken first, then any.
        if [[ -z $wanted && $try == 1 && -e $dir/port ]]; then wanted=$(cat "$dir/port"); fi
        if [[ -z $wanted ]]; then
            wanted=$(free_ports 2)
            wanted=${wanted%% *}
        fi
        status=0
        attempt "$wanted" "$libs" || status=$?
        case $status in
        0)
            trap - EXIT
            print_address
            return
            ;;
        1) exit 1 ;;
        esac
        terminate "$dir/pid" 2
        if [[ -n $port ]]; then die "port $port or $((port + 1)) of 127.0.0.1 is taken: give another --port, or none"; fi
    done
    die "five chosen ports were taken by others before the broker could listen"
}

action=${1:-}
(($#)) && shift
dir=$RUN_DIR/kafka
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
        terminate "$dir/pid" 10
        if [[ -n $purge ]]; then rm -rf "$dir"; fi
    fi
    ;;
*) die "expected start, status or stop, found '$action'" ;;
esac
