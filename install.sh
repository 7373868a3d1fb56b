#!/bin/sh
# Installs Carillon from this folder, starts it and prints the page that sets it up. Running it again is safe:
# it repairs, upgrades or just reports. It needs python3 (3.11 or later) and asks nothing when no terminal is there.
set -eu

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
UNIT=carillon.service
UNIT_FILE=/etc/systemd/system/$UNIT
SERVICE_ROOT=/opt/carillon
SERVICE_RECORD=/etc/carillon/install.env
SERVICE_COMMAND=/usr/local/bin/carillon
SERVICE_USER=carillon
DEFAULT_PORT=8480
READY_WITHIN_S=${CARILLON_READY_WITHIN_S:-60}
STEP=0
SERVICE='' RECORD='' ROOT='' COMMAND=''

# What this run has made so far and takes away again when it fails.
NEW_DATA='' NEW_DATA_TOP='' NEW_VENV='' NEW_WEB='' NEW_RELEASE='' NEW_USER='' NEW_SERVICE='' MAY_EMPTY=''
# What was there before and is brought back when the new version does not start.
OLD_RELEASE='' OLD_HOST='' OLD_PORT='' OLD_UNIT='' STOPPED_OLD='' STARTED_NEW='' LOG='' BEGUN=''

# shellcheck source=packaging/install/messages.sh
. "$HERE/packaging/install/messages.sh"
# shellcheck source=packaging/install/places.sh
. "$HERE/packaging/install/places.sh"
# shellcheck source=packaging/install/build.sh
. "$HERE/packaging/install/build.sh"
# shellcheck source=packaging/install/instance.sh
. "$HERE/packaging/install/instance.sh"

usage() {
    cat <<EOF
Usage: ./install.sh [OPTION]...

Installs Carillon from this folder, starts it in the background and prints the link of its set-up page.

  --data DIR      folder for the database, the keys and the settings
                  (default: /var/lib/carillon as root, else ~/.local/share/carillon)
  --port N        port to listen on (default: $DEFAULT_PORT, or the one used before)
  --host ADDR     address to listen on (default: 0.0.0.0, so that phones can reach it; with --try 127.0.0.1)
  --try           set up a demo at once, without the set-up page, and print commands to try it with
  --no-service    run as a plain background process even where systemd could run it as a service
  --native        install on this machine itself (the default)
  --yes           ask nothing

  --status        say whether it runs (exit status 0) or not (3)
  --stop          stop it
  --setup-url     print a fresh link of the set-up page
  --version       print the version in this folder
  --help          print this

Exit status: 0 done, 2 wrong use or settings, 3 needs root (--status: not running), 4 port in use,
5 something needed is missing, 6 did not become ready, 7 machine not supported, 8 disk full,
9 another install, or another process, uses the folder.
EOF
}

install_carillon() {
    trap finish EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    LOG=$(mktemp "${TMPDIR:-/tmp}/carillon-install-XXXXXX")
    unset PYTHONPATH PYTHONHOME PYTHONSTARTUP PIP_USER PIP_TARGET PIP_PREFIX VIRTUAL_ENV
    STEPS=4
    [ ! -f "$HERE/frontend/package.json" ] || STEPS=5

    step "Looking at this machine for Carillon $VERSION"
    look_at_machine
    if is_already_there; then
        say "Carillon $VERSION is already running on port $PORT, from $DATA."
        if [ -n "$TRY" ]; then show_try "$("$COMMAND" try --base-url "$(base_url)")"; else "$COMMAND" setup-link; fi
        return 0
    fi
    open_data

    step 'Installing the Python packages'
    mkdir -p "$ROOT/releases"
    lock_folder "$ROOT" 8 600
    build_environment
    if [ -f "$HERE/frontend/package.json" ]; then
        step 'Building the web pages'
        build_web
    fi
    make_release

    step "Preparing the data folder $DATA"
    prepare_data

    step "Starting Carillon on port $PORT"
    start_new
    keep_record
    farewell
}

look_at_machine() {
    find_python
    choose_places
    OLD_RELEASE=$(recorded RELEASE) OLD_HOST=$(recorded HOST) OLD_PORT=$(recorded PORT)
    PORT=${PORT:-${OLD_PORT:-$DEFAULT_PORT}}
    if [ -z "$HOST" ]; then
        HOST=${OLD_HOST:-0.0.0.0}
        [ -n "$OLD_HOST" ] || [ -z "$TRY" ] || HOST=127.0.0.1
    fi
    RELEASE=$ROOT/releases/$VERSION-$(machine fingerprint-code "$HERE")
    check_data
    answer=$(machine port "$HOST" "$PORT" --ours "$(our_pid)") || port_trouble $? "$answer"
    needed=100
    [ -e "$ROOT/venv-$(machine fingerprint-python "$HERE")/.complete" ] || needed=500
    [ "$STEPS" -eq 4 ] || needed=$((needed + 800))
    answer=$(machine space "$ROOT" "$needed") || fail $? "$answer"
    answer=$(machine space "$DATA" 100) || fail $? "$answer"
    say "      Python $("$PYTHON" -c 'import platform; print(platform.python_version())') at $PYTHON"
    if [ -n "$SERVICE" ]; then
        say '      as the systemd service carillon'
    else
        say '      as a background process of its own (not started again when this machine restarts)'
    fi
}

port_trouble() { # STATUS TEXT
    [ "$1" -eq 4 ] || fail "$1" "$2"
    free=$(machine free-port "$HOST" "$PORT")
    [ -n "$free" ] || fail 4 "$2 Choose another one with --port."
    # Only while nothing is made yet; the demo, for one, has the port written down.
    if [ "$STEP" -eq 1 ] && [ -z "$YES" ] && [ -t 0 ] && [ -t 1 ] && confirm "$2 Use port $free instead?"; then
        PORT=$free
        return 0
    fi
    fail 4 "$2 Port $free is free:

    $(this_command --port "$free")"
}

port_was_taken() { # somebody came first between the look at the port and the start
    : >"$LOG" # the reason is known, so nobody needs to look there
    answer=$(machine port "$HOST" "$PORT") || port_trouble $? "$answer"
    fail 4 "Port $PORT was in use by another program when Carillon started. Run this again."
}

is_already_there() {
    [ "$OLD_RELEASE" = "$RELEASE" ] && [ -e "$RELEASE/.complete" ] && [ "$OLD_HOST" = "$HOST" ] &&
        [ "$OLD_PORT" = "$PORT" ] && is_running && machine ready "$DATA" "$(ready_url "$HOST" "$PORT")"
}

open_data() {
    if ! [ -e "$DATA" ]; then
        mkdir -p "$(dirname "$DATA")"
        # Whoever comes second finds the folder there and then its lock taken.
        if mkdir -m 700 "$DATA" 2>/dev/null; then NEW_DATA=$DATA; fi
    fi
    lock_folder "$DATA" 9 0
    MAY_EMPTY=$NEW_CONTENTS
}

lock_folder() { # FOLDER DESCRIPTOR SECONDS; held until this script ends
    case $2 in 8) exec 8<"$1" ;; 9) exec 9<"$1" ;; esac
    if machine lock "$2" 0; then return 0; fi
    if [ "$3" -gt 0 ]; then
        say '      waiting for another install that runs from this folder'
        if machine lock "$2" "$3"; then return 0; fi
    fi
    fail 9 "another install is working on $1. Wait until it is done."
}

prepare_data() {
    [ -z "$SERVICE" ] || prepare_service
    BEGUN=$(date +%s)
    if is_running "$RELEASE/bin/carillon"; then
        say '      stopping what runs now'
        stop_instance "$RELEASE/bin/carillon" >>"$LOG" 2>&1 ||
            fail_with_log 6 'the instance that is running could not be stopped.'
        STOPPED_OLD=1
    fi
    status=0
    as_owner "$RELEASE/bin/carillon" --data "$DATA" prepare >>"$LOG" 2>&1 || status=$?
    case $status in
        0) ;;
        2 | 8 | 9) fail_with_log "$status" 'the data folder could not be prepared.' ;;
        *) fail_with_log 6 'the data folder could not be prepared.' ;;
    esac
    if [ -n "$TRY" ]; then
        TRY_TEXT=$(as_owner env CARILLON_COMMAND="$(shown_command)" "$RELEASE/bin/carillon" --data "$DATA" try \
            --base-url "$(base_url)" 2>>"$LOG") || fail_with_log 6 'the demo could not be set up.'
    fi
}

start_new() {
    [ -z "$SERVICE" ] || write_unit
    status=0
    start_release "$RELEASE" "$HOST" "$PORT" || status=$?
    if [ "$status" -ne 0 ]; then
        if [ -n "$SERVICE" ]; then
            journalctl -u "$UNIT" --since "@$BEGUN" --no-pager -o cat >>"$LOG" 2>&1 || true
            STARTED_NEW=1
        else
            tail -n 50 "$DATA/carillon.log" >>"$LOG" 2>/dev/null || true
        fi
        [ "$status" -ne 4 ] || port_was_taken
        fail_with_log "$status" 'it did not become ready.'
    fi
    STARTED_NEW=1
}

keep_record() {
    umask 022
    {
        say "VERSION=$VERSION"
        say "RELEASE=$RELEASE"
        [ "$OLD_RELEASE" = "$RELEASE" ] || [ -z "$OLD_RELEASE" ] || say "PREVIOUS=$OLD_RELEASE"
        say "DATA=$DATA"
        say "HOST=$HOST"
        say "PORT=$PORT"
    } >"$RECORD.new"
    mv -f "$RECORD.new" "$RECORD"
    write_command
    if [ -n "$SERVICE" ]; then
        systemctl enable --quiet "$UNIT" 2>>"$LOG" || true
        cp "$LOG" /var/log/carillon-install.log && chmod 600 /var/log/carillon-install.log
    else
        cp "$LOG" "$DATA/install.log" && chmod 600 "$DATA/install.log"
    fi
    machine prune "$ROOT" || true
    # From here on nothing is taken away again: it runs.
    NEW_DATA='' NEW_VENV='' NEW_WEB='' NEW_RELEASE='' NEW_USER='' NEW_SERVICE='' MAY_EMPTY='' STOPPED_OLD='' STARTED_NEW=''
}

shown_command() {
    if [ -n "$SERVICE" ]; then printf '%scarillon' "${SUDO_USER:+sudo }"; else quote "$COMMAND"; fi
}

farewell() {
    say ''
    say "Carillon $VERSION is running on port $PORT."
    say "  data      $DATA"
    say "  output    $(where_output)"
    say "  command   $(shown_command) --help"
    say "  stop      $(YES='' TRY='' HOST_GIVEN='' NO_SERVICE='' this_command --stop)"
    say ''
    if [ -n "$TRY" ]; then show_try "$TRY_TEXT"; else "$COMMAND" setup-link; fi
}

show_try() { # TEXT
    say "$1"
    say ''
    say "Passwords and tokens of the demo: $DATA/try.json"
}

act_on_instance() {
    find_python
    choose_places
    if ! [ -x "$COMMAND" ]; then
        say "Carillon is not installed in $DATA."
        [ "$ACTION" = stop ] || exit 3
        exit 0
    fi
    case $ACTION in
        status) exec "$COMMAND" status ;;
        setup-url) exec "$COMMAND" setup-link ;;
        stop)
            if [ -n "$SERVICE" ] && is_running; then
                stop_instance
                say 'Carillon is stopped. It starts again when this machine restarts; to end that: systemctl disable carillon'
            else
                exec "$COMMAND" stop
            fi
            ;;
    esac
}

wrong_use() {
    printf '%s\nTry: %s --help\n' "$*" "$(quote "$SELF")" >&2
    exit 2
}

main() {
    SELF=$0 ACTION=install DATA='' DATA_GIVEN='' PORT='' HOST='' HOST_GIVEN='' TRY='' NO_SERVICE='' YES=''
    while [ $# -gt 0 ]; do
        case $1 in
            --data=* | --port=* | --host=*)
                option=${1%%=*} value=${1#*=}
                shift
                set -- "$option" "$value" "$@"
                ;;
            --data | --port | --host)
                [ $# -ge 2 ] && [ -n "$2" ] || wrong_use "$1 needs a value."
                case $1 in --data) DATA=$2 DATA_GIVEN=1 ;; --port) PORT=$2 ;; --host) HOST=$2 HOST_GIVEN=1 ;; esac
                shift 2
                ;;
            --try) TRY=1 && shift ;;
            --no-service) NO_SERVICE=1 && shift ;;
            --native) shift ;;
            --yes | -y) YES=1 && shift ;;
            --status | --stop | --setup-url) ACTION=${1#--} && shift ;;
            --version) say "carillon $(version_here)" && exit 0 ;;
            --help | -h) usage && exit 0 ;;
            *) wrong_use "There is no option $1." ;;
        esac
    done
    case $PORT in '') ;; *[!0-9]* | 0* | ??????*) wrong_use "--port needs a number from 1 to 65535." ;; esac
    [ -z "$PORT" ] || [ "$PORT" -le 65535 ] || wrong_use '--port needs a number from 1 to 65535.'
    case $HOST in *[!0-9A-Za-z.:-]*) wrong_use "--host needs an address of this machine." ;; esac
    VERSION=$(version_here)
    if [ "$ACTION" = install ]; then install_carillon; else act_on_instance; fi
}

main "$@"
