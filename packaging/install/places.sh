# shellcheck shell=sh disable=SC2034,SC2153,SC2154 # read by install.sh, which owns the variables
# Which Python, which folders, which user: everything that is found out before anything is made.

# --- this machine --------------------------------------------------------------------------------------------------

is_root() { [ "$(id -u)" -eq 0 ]; }

machine() { "$PYTHON" "$HERE/packaging/install/machine.py" "$@"; }

version_here() { sed -n 's/^version = "\(.*\)"$/\1/p' "$HERE/pyproject.toml" | head -n 1; }

find_python() {
    [ "$(uname -s)" = Linux ] || fail 7 "this is $(uname -s); Carillon runs on Linux."
    for PYTHON in ${CARILLON_PYTHON:+"$CARILLON_PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        PYTHON=$(command -v "$PYTHON" 2>/dev/null) || continue
        # The program itself, not a wrapper that may choose another one tomorrow.
        if PYTHON=$("$PYTHON" -c 'import sys; print(sys.executable); sys.exit(sys.version_info < (3, 11))' 2>/dev/null); then
            "$PYTHON" -c 'import argparse, http.client, json, sqlite3, ssl' >/dev/null 2>&1 ||
                fail 5 "the Python here is a minimal one that lacks parts of its library. This installs the rest:

    $(is_root || printf 'sudo ')apt-get install -y python3 python3-venv"
            answer=$(machine python) || fail 7 "$answer."
            return 0
        fi
    done
    fail 5 "Python 3.11 or later is missing. On Debian and Ubuntu this installs it:

    $(is_root || printf 'sudo ')apt-get install -y python3 python3-venv"
}

require_venv() {
    if "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; then return 0; fi
    package=python3-venv
    case $PYTHON in */python3.*) package=$(basename "$PYTHON")-venv ;; esac
    line="apt-get install -y --no-install-recommends $package"
    if ! is_root || ! command -v apt-get >/dev/null 2>&1; then
        fail 5 "Python's venv module is missing. On Debian and Ubuntu this installs it:

    $(is_root || printf 'sudo ')$line"
    fi
    confirm "Python's venv module is missing. Install the package $package with apt-get?" ||
        fail 5 "Python's venv module is missing: $line"
    say "      installing the package $package with apt-get, because Python's venv module is missing"
    # shellcheck disable=SC2086 # the line is words on purpose
    if ! quietly "package $package" env DEBIAN_FRONTEND=noninteractive $line -o DPkg::Lock::Timeout=120; then
        quietly 'list of packages' apt-get update -o DPkg::Lock::Timeout=120 || true
        # shellcheck disable=SC2086
        quietly "package $package, again" env DEBIAN_FRONTEND=noninteractive $line -o DPkg::Lock::Timeout=120 ||
            fail_with_log 5 "the package $package could not be installed."
    fi
    "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1 || fail_with_log 5 "Python's venv module is still missing."
}

quietly() { # LABEL COMMAND...
    label=$1
    shift
    machine run --log "$LOG" --label "$label" -- "$@"
}

# --- where things go -----------------------------------------------------------------------------------------------

recorded() { # KEY, from the record of the last install
    if [ -r "$RECORD" ]; then sed -n "s/^$1=//p" "$RECORD"; fi
}

choose_places() {
    service_data=''
    if [ -r "$SERVICE_RECORD" ]; then service_data=$(sed -n 's/^DATA=//p' "$SERVICE_RECORD"); fi
    if [ -z "$DATA" ]; then
        if is_root; then
            DATA=${service_data:-/var/lib/carillon}
        else
            DATA=${XDG_DATA_HOME:-${HOME:?has no value}/.local/share}/carillon
        fi
    fi
    case $DATA in *'
'*) fail 2 "the name of the data folder has a line break in it." ;; esac
    DATA=$("$PYTHON" -c 'import os, sys; print(os.path.abspath(sys.argv[1]))' "$DATA")

    SERVICE=''
    if [ -n "$service_data" ] && [ "$DATA" = "$service_data" ]; then
        is_root || fail 3 "the service carillon on this machine uses $DATA. Run this as root (with sudo)."
        [ -z "$NO_SERVICE" ] || fail 2 "$DATA belongs to the service carillon. Leave out --no-service, or name another
folder with --data."
        SERVICE=1
    elif [ -e "$DATA/install.env" ]; then
        : # installed as a plain process before: it stays one
    elif is_root && [ -d /run/systemd/system ] && [ -z "$NO_SERVICE" ]; then
        [ -z "$service_data" ] || [ "$ACTION" != install ] ||
            fail 2 "the service carillon already runs from $service_data. Leave out --data to work on it, or add
--no-service to run a second one from $DATA."
        [ -n "$service_data" ] || SERVICE=1
    fi
    if [ -n "$SERVICE" ]; then
        RECORD=$SERVICE_RECORD ROOT=$SERVICE_ROOT COMMAND=$SERVICE_COMMAND
    else
        RECORD=$DATA/install.env COMMAND=$DATA/carillon ROOT=$HERE/.carillon
        [ -w "$HERE" ] || ROOT=$DATA/runtime
    fi
}

check_data() {
    NEW_CONTENTS=''
    if [ -e "$DATA" ] || [ -L "$DATA" ]; then
        [ -d "$DATA" ] || fail 2 "$DATA is not a folder. Name another one with --data."
        if ! [ -w "$DATA" ] || ! [ -x "$DATA" ]; then
            fail 2 "the folder $DATA cannot be written to by $(id -un). Name another one with --data."
        fi
        if [ -z "$(find "$DATA" -mindepth 1 -maxdepth 1 ! -name lost+found)" ]; then
            NEW_CONTENTS=1
        else
            looks_like_ours || fail 2 "the folder $DATA holds other things. Name an empty or a new one with --data."
        fi
        return 0
    fi
    parent=$(dirname "$DATA")
    NEW_DATA_TOP=$DATA
    while ! [ -e "$parent" ]; do
        NEW_DATA_TOP=$parent
        parent=$(dirname "$parent")
    done
    [ -d "$parent" ] || fail 2 "$parent is not a folder, so $DATA cannot be made. Name another one with --data."
    if ! [ -w "$parent" ] || ! machine writable "$parent"; then
        fail 2 "$DATA cannot be made: $parent cannot be written to by $(id -un). Name another one with --data."
    fi
}

looks_like_ours() {
    for mark in install.env carillon.sqlite carillon.lock .env; do
        [ ! -e "$DATA/$mark" ] || return 0
    done
    return 1
}

as_owner() { # COMMAND..., as the user who owns the data folder
    if [ -n "$SERVICE" ]; then
        (cd / && exec setpriv --reuid="$SERVICE_USER" --regid="$SERVICE_USER" --init-groups --reset-env -- "$@")
    else
        "$@"
    fi
}

base_url() {
    case $HOST in
        0.0.0.0 | ::) printf 'http://%s:%s' "$(machine lan-address)" "$PORT" ;;
        *:*) printf 'http://[%s]:%s' "$HOST" "$PORT" ;;
        *) printf 'http://%s:%s' "$HOST" "$PORT" ;;
    esac
}

ready_url() { # HOST PORT
    case $1 in
        0.0.0.0) printf 'http://127.0.0.1:%s/health/ready' "$2" ;;
        ::) printf 'http://[::1]:%s/health/ready' "$2" ;;
        *:*) printf 'http://[%s]:%s/health/ready' "$1" "$2" ;;
        *) printf 'http://%s:%s/health/ready' "$1" "$2" ;;
    esac
}
