#!/bin/sh
# Installs this checkout on pristine Debian machines, as an administrator would, and checks what comes of it.
#
#   packaging/fresh-machine-check.sh [SUITE]...      bookworm and trixie unless named
#
# Each machine is a minimal root file system in which systemd runs as process 1 of namespaces of its own; it is thrown
# away afterwards. The installation downloads its packages through this machine's network. Needs root, mmdebstrap and
# about 1 GB under CARILLON_RIG (default /var/tmp/carillon-rig), where the root file systems are kept for the next run.
set -eu

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
RIG=${CARILLON_RIG:-/var/tmp/carillon-rig}
PORT=${CARILLON_RIG_PORT:-18200}
CA_BUNDLE=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
MACHINE='' CGROUP='' WORK=''

say() { printf '%s\n' "$*"; }

broken() {
    say "BROKEN: $*" >&2
    exit 1
}

make_rootfs() { # SUITE
    if [ -e "$RIG/$1.complete" ]; then return 0; fi
    command -v mmdebstrap >/dev/null || broken 'mmdebstrap is missing: apt-get install -y mmdebstrap'
    say "making a root file system of $1"
    rm -rf "${RIG:?}/$1"
    # Whatever mirror apt uses here; it ends up in the throw-away machine only.
    # shellcheck disable=SC2016 # apt's own placeholder
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
    mmdebstrap --quiet --variant=minbase \
        --include=systemd,systemd-sysv,dbus,ca-certificates,python3,iproute2,procps "$1" "$RIG/$1" "$mirror"
    # These would touch the network and the kernel settings of the machine that this runs on.
    for unit in systemd-networkd.service systemd-networkd.socket networking.service systemd-resolved.service \
        systemd-timesyncd.service systemd-sysctl.service systemd-binfmt.service getty@tty1.service \
        console-getty.service serial-getty@ttyS0.service; do
        ln -sf /dev/null "$RIG/$1/etc/systemd/system/$unit"
    done
    : >"$RIG/$1.complete"
}

boot() { # SUITE; a throw-away copy of its root file system, with a copy of this checkout at /root/carillon
    WORK=$RIG/machine-$1-$$
    mkdir -p "$WORK/up/root/carillon" "$WORK/work" "$WORK/root"
    (cd "$HERE" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - --ignore-failed-read) |
        tar -xf - -C "$WORK/up/root/carillon"
    chmod 700 "$WORK/up/root"
    mount -t overlay overlay -o "lowerdir=$RIG/$1,upperdir=$WORK/up,workdir=$WORK/work" "$WORK/root"
    CGROUP=/sys/fs/cgroup/unified
    [ -d "$CGROUP" ] || CGROUP=/sys/fs/cgroup
    CGROUP=$CGROUP/$(basename "$WORK")
    mkdir -p "$CGROUP"
    export WORK CA_BUNDLE CGROUP
    # shellcheck disable=SC2016 # runs in the new namespaces
    sh -c '
        echo $$ >"$CGROUP/cgroup.procs"
        exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child=SIGKILL sh -eu -c "$1"' sh '
        mount --make-rprivate /
        mount --bind "$WORK/root" "$WORK/root"
        cd "$WORK/root"
        mount -t proc proc proc
        mount --bind proc/sys proc/sys
        mount -o remount,ro,bind proc/sys
        mount -t sysfs -o ro sysfs sys
        mount -t cgroup2 cgroup2 sys/fs/cgroup
        mount -t tmpfs -o mode=755 tmpfs run
        mount -t tmpfs -o mode=1777 tmpfs tmp
        mount -t tmpfs -o mode=755 tmpfs dev
        for node in null zero full random urandom tty; do
            : >dev/$node
            mount --bind /dev/$node dev/$node
        done
        mkdir dev/pts dev/shm
        mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
        mount -t tmpfs tmpfs dev/shm
        ln -s pts/ptmx dev/ptmx
        ln -s /proc/self/fd dev/fd
        ln -s fd/0 dev/stdin
        ln -s fd/1 dev/stdout
        ln -s fd/2 dev/stderr
        mount --bind "$CA_BUNDLE" etc/ssl/certs/ca-certificates.crt
        rm -f etc/resolv.conf
        cp -L /etc/resolv.conf etc/resolv.conf
        hostname fresh
        mkdir -p .old
        pivot_root . .old
        umount -l .old
        rmdir .old
        exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
            /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=0
    ' </dev/null >"$WORK/boot.log" 2>&1 &
    MACHINE=$!
    tries=0
    until inside systemctl is-system-running 2>/dev/null | grep -Eq 'running|degraded'; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ] || broken "the machine did not boot: $(cat "$WORK/boot.log")"
        sleep 0.5
    done
}

inside() { # COMMAND..., run in the machine as its root
    # unshare waits for its only child: process 1 of the machine.
    nsenter -t "$(pgrep -P "$MACHINE" | head -n 1)" -m -u -i -p -n -C -r -w env -i HOME=/root TERM=dumb \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

shut_down() {
    status=$?
    trap - EXIT
    set +e
    if [ "$status" -ne 0 ] && [ -n "$MACHINE" ]; then
        inside journalctl -u carillon --no-pager -n 30
    fi
    if [ -n "$MACHINE" ]; then kill -KILL "$MACHINE" && wait "$MACHINE"; fi 2>/dev/null
    if [ -n "$WORK" ]; then
        sleep 1
        umount -l "$WORK/root"
        rm -rf "${WORK:?}"
        find "$CGROUP" -depth -type d -exec rmdir {} \;
    fi
    MACHINE='' WORK=''
    [ "$status" -eq 0 ] || exit "$status"
}

expect() { # STATUS COMMAND..., in the machine; what it prints is kept in $printed
    wanted=$1
    shift
    say "  \$ $*"
    got=0
    printed=$(inside sh -c 'cd /root && exec "$@"' sh "$@" 2>&1) || got=$?
    printf '%s\n' "$printed" | sed 's/^/    | /'
    [ "$got" -eq "$wanted" ] || broken "exit status $got, not $wanted"
}

expect_text() { # TEXT, somewhere in what was printed last
    case $printed in *"$1"*) ;; *) broken "'$1' was not printed" ;; esac
}

ask() { # PORT PATH
    inside python3 -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:$1$2', timeout=5).status)"
}

check_service() {
    say '-- as a service'
    expect 0 carillon/install.sh --yes --port "$PORT"
    expect_text '/setup#code='
    [ "$(ask "$PORT" /health/ready)" = 200 ] || broken 'it is not ready'
    expect 0 stat -c '%U %a' /var/lib/carillon
    expect_text 'carillon 700'
    expect 0 systemctl is-enabled carillon
    expect 0 carillon/install.sh --yes
    expect_text 'already running'
    expect 0 carillon/install.sh --status
    expect 0 carillon status # the short command
    expect 0 carillon user list
    expect 0 find /var/lib/carillon ! -user carillon
    [ -z "$printed" ] || broken 'files in the data folder belong to somebody else'
    expect 4 carillon/install.sh --yes --no-service --data /srv/second --port "$PORT"
    expect 2 carillon/install.sh --yes --data /srv/second --port "$((PORT + 1))"
    inside test ! -e /srv/second || broken 'a refused install left its data folder'

    say '-- an upgrade that does not start'
    inside sh -c 'mkdir /root/broken && cp -r /root/carillon/. /root/broken && cd /root/broken &&
        printf "\nraise SystemExit(1)\n" >>appliance/asgi.py'
    expect 6 broken/install.sh --yes
    expect_text 'runs again'
    [ "$(ask "$PORT" /health/ready)" = 200 ] || broken 'the old version does not run again'

    say '-- stop'
    expect 0 carillon/install.sh --stop
    expect 3 carillon/install.sh --status
    expect 0 carillon/install.sh --yes
    [ "$(ask "$PORT" /health/ready)" = 200 ] || broken 'it did not start again'
}

check_try() {
    say '-- the demo, as a plain process'
    data=/root/demo port=$((PORT + 1))
    expect 0 carillon/install.sh --try --yes --no-service --data "$data" --port "$port"
    [ "$(ask "$port" /health/ready)" = 200 ] || broken 'it is not ready'
    expect 0 stat -c '%a' "$data/try.json"
    expect_text 600
    expect 0 carillon/install.sh --try --yes --no-service --data "$data"
    expect_text 'already running'
    send=$(printf '%s\n' "$printed" | sed -n 's/^ *\(.*carillon send .*\)$/\1/p' | head -n 1)
    [ -n "$send" ] || broken 'no command to send with was printed'
    expect 0 sh -c "$send"
    expect 0 sh -c "${send%% send *} explain $printed"
    expect 0 carillon/install.sh --stop --data "$data"
    expect 3 carillon/install.sh --status --data "$data"
}

main() {
    [ "$(id -u)" -eq 0 ] || broken 'this needs root'
    [ $# -gt 0 ] || set -- bookworm trixie
    mkdir -p "$RIG"
    for suite; do
        make_rootfs "$suite"
        say "== $suite"
        trap shut_down EXIT
        begun=$(date +%s)
        boot "$suite"
        check_service
        check_try
        shut_down
        say "== $suite: all well ($(($(date +%s) - begun)) s)"
    done
}

main "$@"
