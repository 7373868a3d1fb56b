# shellcheck shell=sh disable=SC2034,SC2153,SC2154 # read by install.sh, which owns the variables
# The instance that runs, the service that runs it, and the way back when a new version does not start.

# --- the running instance ------------------------------------------------------------------------------------------

is_running() { # [COMMAND OF A RELEASE]
    if [ -n "$SERVICE" ]; then
        systemctl is-active --quiet "$UNIT"
    elif [ -n "${1:-}" ]; then
        "$1" --data "$DATA" status >/dev/null 2>&1
    else
        [ -x "$COMMAND" ] && "$COMMAND" status >/dev/null 2>&1
    fi
}

our_pid() {
    if [ -n "$SERVICE" ]; then
        pid=$(systemctl show --property=MainPID --value "$UNIT" 2>/dev/null || true)
    else
        pid=$(machine pid-file "$DATA/carillon.pid" pid)
    fi
    printf '%s' "${pid:-0}"
}

stop_instance() { # [COMMAND OF A RELEASE]
    if [ -n "$SERVICE" ]; then
        systemctl stop "$UNIT"
    elif [ -n "${1:-}" ]; then
        "$1" --data "$DATA" stop
    else
        "$COMMAND" stop
    fi
}

start_release() { # RELEASE HOST PORT
    if [ -n "$SERVICE" ]; then
        switch_current "$1"
        systemctl reset-failed "$UNIT" >/dev/null 2>&1 || true
        systemctl start "$UNIT" || return 6
        machine wait-unit --data "$DATA" --url "$(ready_url "$2" "$3")" --timeout "$READY_WITHIN_S" "$UNIT"
    else
        rotate_output
        machine start --output "$DATA/carillon.log" --data "$DATA" --url "$(ready_url "$2" "$3")" \
            --timeout "$READY_WITHIN_S" -- "$1/bin/carillon" --data "$DATA" serve --host "$2" --port "$3"
    fi
}

rotate_output() {
    size=$(wc -c 2>/dev/null <"$DATA/carillon.log" || echo 0)
    [ "$size" -lt 5000000 ] || mv -f "$DATA/carillon.log" "$DATA/carillon.log.1"
}

switch_current() { # RELEASE; the link is replaced in one step
    ln -sfn "$1" "$ROOT/current.new"
    mv -T "$ROOT/current.new" "$ROOT/current"
}

# --- the service ---------------------------------------------------------------------------------------------------

prepare_service() {
    case $DATA in *[!A-Za-z0-9_./-]*)
        fail 2 "a service needs a data folder named with letters, digits, dots, dashes and underscores only." ;;
    esac
    if ! id -u "$SERVICE_USER" >/dev/null 2>&1; then
        useradd --system --user-group --home-dir "$DATA" --no-create-home --shell /usr/sbin/nologin "$SERVICE_USER" ||
            fail 5 "the user $SERVICE_USER could not be made."
        NEW_USER=1
    fi
    mkdir -p "$(dirname "$SERVICE_RECORD")"
    [ "$(stat -c %U "$DATA")" = "$SERVICE_USER" ] || chown -R -h "$SERVICE_USER:$SERVICE_USER" "$DATA"
    as_owner test -w "$DATA" ||
        fail 2 "the user $SERVICE_USER cannot reach $DATA. Name a folder such as /var/lib/carillon, or add --no-service."
}

write_unit() {
    protect_home=yes private_users=yes capabilities=''
    case $(readlink -f "$DATA") in /home/* | /root/* | /run/user/*) protect_home=no ;; esac
    if [ "$PORT" -lt 1024 ]; then private_users=no capabilities=CAP_NET_BIND_SERVICE; fi
    if [ -e "$UNIT_FILE" ]; then OLD_UNIT=$(cat "$UNIT_FILE"); else NEW_SERVICE=1; fi
    sed -e "s|@DATA@|$DATA|g" -e "s|@HOST@|$HOST|g" -e "s|@PORT@|$PORT|g" -e "s|@PROTECT_HOME@|$protect_home|" \
        -e "s|@PRIVATE_USERS@|$private_users|" -e "s|@CAPABILITIES@|$capabilities|" \
        "$HERE/packaging/carillon.service" >"$UNIT_FILE.new"
    mv -f "$UNIT_FILE.new" "$UNIT_FILE"
    systemctl daemon-reload
}

# --- undoing -------------------------------------------------------------------------------------------------------

finish() {
    status=$?
    trap - EXIT HUP INT TERM
    set +e
    if [ "$status" -ne 0 ]; then undo; fi
    if [ "$status" -eq 0 ] || ! [ -s "$LOG" ]; then rm -f "$LOG"; fi
    exit "$status"
}

undo() {
    if [ -n "$STARTED_NEW" ]; then stop_instance "$RELEASE/bin/carillon" >/dev/null 2>&1; fi
    if [ -n "$NEW_SERVICE" ]; then
        systemctl disable --now "$UNIT" >/dev/null 2>&1
        rm -f "$UNIT_FILE" "$ROOT/current"
        systemctl daemon-reload
        systemctl reset-failed "$UNIT" >/dev/null 2>&1
    fi
    if [ -n "$STOPPED_OLD" ]; then bring_back_old; fi
    for made in "$NEW_RELEASE" "$NEW_WEB" "$NEW_VENV" "$NEW_DATA"; do
        [ -z "$made" ] || rm -rf "$made"
    done
    if [ -n "$MAY_EMPTY" ]; then
        find "$DATA" -mindepth 1 -maxdepth 1 ! -name lost+found -exec rm -rf {} +
    elif [ -n "$NEW_DATA" ]; then
        made=$NEW_DATA
        while [ "$made" != "$NEW_DATA_TOP" ]; do
            made=$(dirname "$made")
            rmdir "$made" 2>/dev/null || break
        done
    fi
    [ -z "$NEW_USER" ] || userdel "$SERVICE_USER" >/dev/null 2>&1
    if [ -n "$NEW_SERVICE$NEW_USER" ]; then rm -rf "$SERVICE_RECORD" && rmdir "$(dirname "$SERVICE_RECORD")" 2>/dev/null; fi
    [ -z "$ROOT" ] || rmdir "$ROOT/releases" "$ROOT" 2>/dev/null
}

bring_back_old() {
    if ! [ -x "$OLD_RELEASE/bin/carillon" ]; then
        say 'The version that ran before is not there any more; nothing runs now.' >&2
        return
    fi
    say 'Starting the version that ran before again.' >&2
    # Read from here, because the owner of the data may not be allowed to read this folder.
    as_owner "$PYTHON" - "$DATA" "$BEGUN" <"$HERE/packaging/install/put_back.py" >&2
    if [ -n "$OLD_UNIT" ]; then
        printf '%s\n' "$OLD_UNIT" >"$UNIT_FILE"
        systemctl daemon-reload
    fi
    if start_release "$OLD_RELEASE" "$OLD_HOST" "$OLD_PORT" >&2; then
        say 'The version that ran before runs again.' >&2
    else
        say "The version that ran before did not start either. Its output: $(where_output)" >&2
    fi
}

where_output() {
    if [ -n "$SERVICE" ]; then printf 'journalctl -u carillon'; else printf '%s' "$DATA/carillon.log"; fi
}
