#!/usr/bin/env bash
# Makes a venv with schemathesis, which asks servers what their OpenAPI descriptions say and much that they do not. Safe to run
# again, and offline once made. Prints the venv's python.
set -euo pipefail
cache=${MESETA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meseta}
mkdir -p "$cache"
version=4.32.5
venv=$cache/schemathesis-$version
if [ ! -f "$venv/made" ]; then
  (
    flock 9 # Tests run this too: the second waits.
    [ -f "$venv/made" ] && exit 0
    rm -rf "$venv"
    /usr/bin/python3 -m venv "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version" >&2
    "$venv/bin/python" -c 'import schemathesis' >&2
    touch "$venv/made"
  ) 9>"$cache/schemathesis.lock"
fi
echo "$venv/bin/python"
