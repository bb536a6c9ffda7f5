#!/usr/bin/env bash
# Containers of a real Docker Engine: each test has one of its own, in a network of its own, and leaves nothing behind. As root.
#
# What is installed of it is not started as a service, and stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fail() { echo "docker: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "this needs root"
tools/deps.sh build >/dev/null
missing=()
command -v dockerd >/dev/null || missing+=(docker.io)
command -v iptables >/dev/null || missing+=(iptables)
command -v docker-registry >/dev/null || missing+=(docker-registry)
[ -x /usr/bin/busybox ] || [ -x /bin/busybox ] || missing+=(busybox-static)
if [ "${#missing[@]}" -gt 0 ]; then
  echo "docker: installing ${missing[*]}" >&2
  log=$(mktemp)
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then # What is installed asks this before it starts anything.
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "apt-get could not install them"; }
  rm -f "$log"
fi
. tools/env.sh
cargo build -p agent-server --bins
ENGINE_NEEDED=1 cargo test -p agent-server --test docker --test oracle -- --nocapture
