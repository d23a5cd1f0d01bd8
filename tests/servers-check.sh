#!/usr/bin/env bash
# Checks the scripts that start and stop the test servers: nothing is left running, nothing else is stopped, addresses do not clash.
# A few minutes; `make servers-check`. It works in a folder of its own beside this clone's cache.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

"$ROOT/tests/deps.sh" kafka s3 mlflow
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Two clones: the same scripts in two folders, with one cache.
for clone in one two; do
    mkdir -p "$work/$clone"
    cp -r "$ROOT/tests" "$ROOT/Cargo.toml" "$work/$clone/"
done
export TIDEMILL_CACHE=$CACHE
passed=0 failed=0
check() {
    local title=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "ok      $title"
    else
        failed=$((failed + 1))
        echo "FAILED  $title"
    fi
}
# The servers of this check's clones that live.
servers() {
    local file
    for file in /proc/[0-9]*/cmdline; do
        if tr '\0' ' ' 2>/dev/null <"$file" | grep -q "$work.*/\(server.properties\|s3/data\|mlflow/tables.db\)"; then echo "$file"; fi
    done
}
count_is() { [[ $(servers | wc -l) == "$1" ]]; }
wait_for() {
    local file deadline=$((SECONDS + 240))
    for file in "$@"; do
        until [[ -e $file ]]; do
            ((SECONDS < deadline)) || return 1
            sleep 0.1
        done
    done
}
# The pattern is not to match the grep itself, so its first letter stands in brackets.
no_process_names() { ! grep -qs "[${1:0:1}]${1:1}" /proc/[0-9]*/cmdline; }
with_servers() { "$work/$1/tests/with-servers.sh" "${@:2}"; }
exits_with() { local want=$1 status=0; shift; "$@" 2>/dev/null || status=$?; [[ $status == "$want" ]]; }

# shellcheck disable=SC2016
ask='python3 "$0" "${TIDEMILL_TEST_KAFKA%:*}" "${TIDEMILL_TEST_KAFKA#*:}" && [[ -n $AWS_ACCESS_KEY_ID && -d $TIDEMILL_TEST_S3_DIR/data ]] &&
    python3 -c "import sys, urllib.request as u; u.urlopen(sys.argv[1] + \"/health\")" "$TIDEMILL_TEST_MLFLOW"'
check "the command finds all servers" with_servers one bash -c "$ask" "$work/one/tests/kafka/ready.py"
check "they end with the command" count_is 0
check "the command's exit code is passed on" exits_with 7 with_servers one bash -c 'exit 7'
check "they end with a command that fails" count_is 0

# shellcheck disable=SC2016
note='echo "$TIDEMILL_TEST_KAFKA $TIDEMILL_TEST_S3_ENDPOINT" > "$0.new" && mv "$0.new" "$0" && sleep 600'
"$work/one/tests/with-servers.sh" bash -c "$note" "$work/one.env" & one=$!
"$work/two/tests/with-servers.sh" bash -c "$note" "$work/two.env" & two=$!
check "two clones run side by side" wait_for "$work/one.env" "$work/two.env"
# shellcheck disable=SC2016
check "each has its own addresses" eval '[[ $(tr " " "\n" <"$work/one.env" | cat - <(tr " " "\n" <"$work/two.env") | sort -u | wc -l) == 4 ]]'
kill -TERM "$one"
check "SIGTERM is passed on as exit code 143" exits_with 143 wait "$one"
check "SIGTERM stops the servers of that clone only" count_is 3
check "and the command" no_process_names "$work/one.env"
kill -KILL "$two"
wait "$two" 2>/dev/null || true
check "SIGKILL cannot stop them" count_is 3
check "the next start in that clone does" with_servers two true
check "and nothing is left" count_is 0
check "nor is the command" no_process_names "$work/two.env"

# A pid file whose pid now belongs to another process.
mkdir -p "$work/one/.cache/run/kafka"
sleep 600 & bystander=$!
echo "$bystander 1" >"$work/one/.cache/run/kafka/pid"
echo 20001 >"$work/one/.cache/run/kafka/port"
check "status does not believe a stale pid file" exits_with 3 "$work/one/tests/kafka.sh" status
check "stop accepts a stale pid file" "$work/one/tests/kafka.sh" stop
check "and leaves the process that has the pid now" kill -0 "$bystander"
kill "$bystander"

"$work/one/tests/kafka.sh" start >"$work/start.env" & starter=$!
wait_for "$work/one/.cache/run/kafka/pid"
kill -KILL "$starter"
wait "$starter" 2>/dev/null || true
check "a broker whose starter was killed is found again" "$work/one/tests/kafka.sh" start
check "there is one" count_is 1
check "stop says that it ended" "$work/one/tests/kafka.sh" stop --purge
check "and it did" count_is 0
echo "not a file of settings" >"$work/one/tests/kafka/server.properties"
check "a broker that cannot start is an error" exits_with 1 "$work/one/tests/kafka.sh" start
check "and leaves nothing running" count_is 0

echo "$passed passed, $failed failed"
((failed == 0))
