#!/bin/sh
# Writes the lock files from pyproject.toml and packaging/node.in: every package pinned with the hashes of
# all its files, for Python 3.11 and later on every platform, and no address of any registry.
#
#   packaging/lock.sh             keep the versions already locked, add or drop what pyproject.toml changed
#   packaging/lock.sh --upgrade   take the newest versions that pyproject.toml allows
#
# Needs uv on the developer's machine; installing needs only pip.
set -eu

lock() { # OUTPUT ARGUMENT...
    output=$1
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --output-file "packaging/$output" "$@" >/dev/null
    echo "packaging/$output: $(grep -c '==' "packaging/$output") packages"
}

main() {
    cd "$(dirname "$0")/.."
    lock requirements.lock "$@" pyproject.toml
    # The development set holds the runtime set at the very same versions.
    lock dev.lock "$@" --constraints packaging/requirements.lock --group dev pyproject.toml
    lock node.lock "$@" packaging/node.in
    # What builds the one package that has no wheel (http-ece); pip gets it before all others.
    lock build.lock "$@" packaging/build.in
    python3 packaging/check_locks.py
}

main "$@"
