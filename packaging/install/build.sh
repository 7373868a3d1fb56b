# shellcheck shell=sh disable=SC2034,SC2153,SC2154 # read by install.sh, which owns the variables
# The Python environment, the web pages and the release, each made beside the old one and marked when complete.

build_environment() {
    VENV=$ROOT/venv-$(machine fingerprint-python "$HERE")
    if [ -e "$VENV/.complete" ]; then
        say '      already there'
        return 0
    fi
    require_venv
    rm -rf "$VENV"
    NEW_VENV=$VENV
    quietly 'Python environment' "$PYTHON" -m venv "$VENV" || fail_with_log 5 'the Python environment could not be made.'
    # One package (http-ece, pure Python) has no wheel: what builds it comes first, pinned like all else.
    quietly 'build tools' "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --no-cache-dir \
        --only-binary :all: --require-hashes --no-deps -r "$HERE/packaging/build.lock" ||
        fail_with_log 5 'the build tools could not be installed.'
    lock=$HERE/packaging/requirements.lock
    machine run --log "$LOG" --label packages --count 'Collecting ' --total "$(grep -c '^[a-z].*==' "$lock")" -- \
        "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --no-cache-dir --only-binary :all: \
        --no-binary http-ece --no-build-isolation --require-hashes --no-deps -r "$lock" || fail_with_log 5 'the packages could not be installed.'
    # What installs packages is of no use to the running program.
    quietly 'cleaning up' "$VENV/bin/python" -m pip uninstall -y setuptools pip || true
    : >"$VENV/.complete"
}

build_web() {
    WEB=$ROOT/web-$(machine fingerprint-web "$HERE")
    if [ -e "$WEB/.complete" ]; then
        say '      already there'
        return 0
    fi
    require_venv
    rm -rf "$WEB"
    NEW_WEB=$WEB
    mkdir -p "$WEB"
    machine copy-web "$HERE" "$WEB/build"
    quietly 'environment for Node.js' "$PYTHON" -m venv "$WEB/node" || fail_with_log 5 'Node.js could not be installed.'
    quietly Node.js "$WEB/node/bin/python" -m pip install --disable-pip-version-check --no-input --no-cache-dir \
        --only-binary :all: --require-hashes --no-deps -r "$HERE/packaging/node.lock" ||
        fail_with_log 5 'Node.js could not be installed.'
    in_web npm ci --ignore-scripts || fail_with_log 5 'the packages of the web pages could not be installed.'
    in_web npm run build || fail_with_log 5 'the web pages could not be built.'
    mv "$WEB/build/frontend/dist" "$WEB/dist"
    rm -rf "$WEB/build" "$WEB/node" "$WEB/npm"
    : >"$WEB/.complete"
}

in_web() { # COMMAND...
    # shellcheck disable=SC2016 # expanded by the inner shell
    quietly "$*" env "PATH=$WEB/node/bin:$PATH" "npm_config_cache=$WEB/npm" NODE_USE_SYSTEM_CA=1 \
        sh -c 'cd "$1" && shift && exec "$@"' sh "$WEB/build/frontend" "$@"
}

make_release() {
    if ! [ -e "$RELEASE/.complete" ]; then
        rm -rf "$RELEASE"
        NEW_RELEASE=$RELEASE
        mkdir -p "$RELEASE/bin"
        machine copy-code "$HERE" "$RELEASE"
        ln -s "$VENV" "$RELEASE/venv"
        if [ -n "${WEB:-}" ]; then
            mkdir -p "$RELEASE/frontend"
            ln -s "$WEB/dist" "$RELEASE/frontend/dist"
        fi
        write_program "$RELEASE/bin/carillon" "export PYTHONPATH=$(quote "$RELEASE")
exec $(quote "$RELEASE/venv/bin/python") -P -m appliance.cli \"\$@\""
        : >"$RELEASE/.complete"
    fi
    grep -Fqx "$RECORD" "$RELEASE/used-by" 2>/dev/null || printf '%s\n' "$RECORD" >>"$RELEASE/used-by"
}

write_program() { # FILE BODY
    printf '#!/bin/sh\n%s\n' "$2" >"$1.new"
    chmod 755 "$1.new"
    mv -f "$1.new" "$1"
}

write_command() { # the short command for people
    if [ -n "$SERVICE" ]; then
        write_program "$COMMAND" "# Runs Carillon's command line on its data folder, as the user who owns it.
CARILLON_COMMAND=\"\${SUDO_USER:+sudo }carillon\"
export CARILLON_COMMAND
if [ \"\$(id -u)\" -eq 0 ]; then
    set -- setpriv --reuid=$SERVICE_USER --regid=$SERVICE_USER --init-groups -- $SERVICE_ROOT/current/bin/carillon --data $DATA \"\$@\"
else
    set -- $SERVICE_ROOT/current/bin/carillon --data $DATA \"\$@\"
fi
exec \"\$@\""
    else
        write_program "$COMMAND" "# Runs Carillon's command line on this data folder.
CARILLON_COMMAND=$(quote "$(quote "$COMMAND")")
export CARILLON_COMMAND
exec $(quote "$RELEASE/bin/carillon") --data $(quote "$DATA") \"\$@\""
    fi
}
