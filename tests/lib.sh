# shellcheck shell=bash disable=SC2034
# What the scripts of this folder share: where things are, messages, free ports, and one long-running server per folder, found again
# by its pid file. Sourced, never run. It installs nothing: that is deps.sh.
#
# TIDEMILL_CACHE  where downloads and built tools are kept, so that clones and CI runs can share them; default: .cache in this clone.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$(realpath -m "${TIDEMILL_CACHE:-$ROOT/.cache}")
# The state of servers is never shared: two clones with one cache still have a broker each.
RUN_DIR=$ROOT/.cache/run

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "error: $*"; exit 1; }

# As one that a reused pid cannot imitate: "pid start-time". Nothing for a process that is gone or a zombie.
process_identity() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The name, in parentheses, may hold blanks; after it come the state (field 3) and, as field 22, the start time.
    # shellcheck disable=SC2086
    set -- "$1" ${stat##*) }
    [[ $2 != Z && $2 != X ]] || return 1
    printf '%s %s\n' "$1" "${21}"
}

# The pid of the live process that a pid file names; fails when there is none.
live_pid() {
    local recorded
    recorded=$(cat "$1" 2>/dev/null) || return 1
    [[ -n $recorded && $(process_identity "${recorded%% *}") == "$recorded" ]] || return 1
    printf '%s\n' "${recorded%% *}"
}

# free_ports N: N neighbouring free ports of the loopback interface, below the range from which outgoing connections take theirs.
free_ports() {
    python3 - "$1" <<'PYTHON'
import random, socket, sys
count = int(sys.argv[1])
for _ in range(200):
    first = random.randrange(20000, 32000)
    sockets = []
    try:
        for port in range(first, first + count):
            sockets.append(socket.socket())
            sockets[-1].bind(("127.0.0.1", port))
    except OSError:
        continue
    finally:
        for s in sockets:
            s.close()
    print(*range(first, first + count))
    break
else:
    sys.exit("no free port found on 127.0.0.1 in 200 tries")
PYTHON
}

# spawn PIDFILE LOG CMD...: starts CMD in a session of its own, so that no signal meant for the caller reaches it. The child writes the
# pid file itself before it becomes CMD: a caller killed at any moment leaves no server that nobody knows. Descriptor 9 is the lock.
spawn() {
    local pidfile=$1 log=$2
    shift 2
    # shellcheck disable=SC2016
    setsid bash -c '. "$1"; process_identity $$ > "$2.new" && mv "$2.new" "$2" && shift 2 && exec "$@"' \
        spawn "$ROOT/tests/lib.sh" "$pidfile" "$@" </dev/null >"$log" 2>&1 9>&- &
    spawned_pid=$!
}

# terminate PIDFILE SECONDS: SIGTERM, SIGKILL after SECONDS; returns when the process is gone.
terminate() {
    local pid deadline=$((SECONDS + $2))
    if pid=$(live_pid "$1"); then
        kill -TERM "$pid" 2>/dev/null || true
        while live_pid "$1" >/dev/null; do
            if ((SECONDS >= deadline)); then
                kill -KILL "$pid" 2>/dev/null || true
            fi
            sleep 0.05
        done
    fi
    rm -f "$1" "$1.new"
}

# Takes the lock of one server's folder for the rest of the script.
lock_folder() {
    mkdir -p "$1"
    exec 9>"$1/lock"
    flock -w 120 9 || die "another start or stop has held $1/lock for 120 s"
}

# parse_options ARGS...: sets port, dir, purge.
parse_options() {
    port='' purge=''
    while (($#)); do
        case $1 in
        --port)
            [[ ${2:-} =~ ^[0-9]+$ ]] || die "--port needs a number, found '${2:-}'"
            port=$2
            shift 2
            ;;
        --dir)
            [[ -n ${2:-} ]] || die "--dir needs a folder"
            dir=$(realpath -m "$2")
            shift 2
            ;;
        --purge) purge=1 && shift ;;
        *) die "unknown option '$1' (valid: --port N, --dir FOLDER, --purge)" ;;
        esac
    done
}
