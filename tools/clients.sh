#!/usr/bin/env bash
# Makes the two foreign clients that tests run against our masters: a venv with the unmodified pymesos of the package
# index, and a small program on Debian's mesos-go library. Safe to run again, and offline once made.
# Prints the venv's python and the program, one a line.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${MESETA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meseta}
mkdir -p "$cache"
pymesos=0.3.15
addict=2.4.0
six=1.17.0

venv=$cache/pymesos-$pymesos
if [ ! -f "$venv/made" ]; then
  (
    flock 9 # Tests run this too: the second waits.
    [ -f "$venv/made" ] && exit 0
    rm -rf "$venv"
    # Debian's http-parser comes from the system: the one of the package index does not build on Python 3.11.
    /usr/bin/python3 -m venv --system-site-packages "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
      "pymesos==$pymesos" "addict==$addict" "six==$six" >&2
    "$venv/bin/python" -c 'import pymesos' >&2
    touch "$venv/made"
  ) 9>"$cache/pymesos.lock"
fi
echo "$venv/bin/python"

source=proptests/clients/mesos_go
program=$cache/mesos_go-$(cat "$source"/*.go | sha256sum | cut -c1-16)
if [ ! -x "$program" ]; then
  (
    flock 9
    [ -x "$program" ] && exit 0
    GOPATH=/usr/share/gocode GO111MODULE=off GOFLAGS= GOCACHE=$cache/go-build go build -o "$program.tmp" "$source"/*.go >&2
    mv "$program.tmp" "$program"
  ) 9>"$cache/mesos_go.lock"
fi
echo "$program"
