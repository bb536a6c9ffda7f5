#!/usr/bin/env bash
# The CNI plugins that tests join networks with: Debian's containernetworking-plugins (tools/deps.sh test installs it), or, where it is
# not installed, unpacked once from the archive, outside of the clone. Safe to run again, and offline once made. Prints the folder.
set -euo pipefail
if [ -x /usr/lib/cni/bridge ]; then
  echo /usr/lib/cni
  exit 0
fi
cache=${MESETA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meseta}
mkdir -p "$cache"
made=$cache/cni-plugins
if [ ! -x "$made/bridge" ]; then
  (
    flock 9 # Several tests run this: the others wait.
    [ -x "$made/bridge" ] && exit 0
    work=$(mktemp -d "$cache/cni.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    apt-get download -q containernetworking-plugins >&2
    dpkg-deb -x ./*.deb unpacked
    mkdir -p "$made"
    cp unpacked/usr/lib/cni/* "$made/"
  ) 9>"$cache/cni.lock"
fi
echo "$made"
