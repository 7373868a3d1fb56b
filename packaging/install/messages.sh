# shellcheck shell=sh disable=SC2034,SC2153,SC2154 # read by install.sh, which owns the variables
# What install.sh says, asks and reports as failed.

say() { printf '%s\n' "$*"; }

step() {
    STEP=$((STEP + 1))
    say "[$STEP/$STEPS] $*"
}

verdict() {
    if [ "$ACTION" != install ]; then return 0; fi
    if [ -n "$OLD_RELEASE" ]; then printf 'Carillon was not changed: '; else printf 'Carillon was not installed: '; fi
}

fail() { # STATUS TEXT...
    fail_status=$1
    shift
    printf '\n%s%s\n' "$(verdict)" "$*" >&2
    exit "$fail_status"
}

fail_with_log() { # STATUS TEXT...
    fail_status=$1
    shift
    printf '\nThe last lines of the log:\n' >&2
    tail -n 20 "$LOG" | sed 's/^/    /' >&2
    printf '\n%s%s\nThe whole log: %s\n' "$(verdict)" "$*" "$LOG" >&2
    exit "$fail_status"
}

quote() { # TEXT, as a shell reads it back
    case $1 in
        '' | *[!A-Za-z0-9_./:=@%+,-]*) printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")" ;;
        *) printf '%s' "$1" ;;
    esac
}

this_command() { # ARGUMENT..., the pasteable command that repeats this run with these arguments added
    [ -z "${SUDO_USER:-}" ] || printf 'sudo '
    quote "$SELF"
    [ -z "$DATA_GIVEN" ] || printf ' --data %s' "$(quote "$DATA")"
    [ -z "$HOST_GIVEN" ] || printf ' --host %s' "$(quote "$HOST")"
    [ -z "$TRY" ] || printf ' --try'
    [ -z "$NO_SERVICE" ] || printf ' --no-service'
    [ -z "$YES" ] || printf ' --yes'
    for argument; do printf ' %s' "$(quote "$argument")"; done
}

confirm() { # QUESTION; yes without asking when nobody is there to ask
    [ -z "$YES" ] && [ -t 0 ] && [ -t 1 ] || return 0
    printf '%s [Y/n] ' "$1"
    read -r reply || reply=n
    case $reply in '' | y | Y | yes | Yes) return 0 ;; *) return 1 ;; esac
}
