#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu machine lacks to build and test Meseta, and compiles RocksDB's C++ once
# per machine. Safe to run again: what is there is left alone. Prints the folder of the RocksDB library on its last line.
#
#   tools/deps.sh build   what `make demo` needs
#   tools/deps.sh test    that, and the clients and peers which tests and benchmarks talk to
set -euo pipefail
cd "$(dirname "$0")/.."
want=${1:-build}
say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
[ -t 2 ] || say() { printf '==> %s\n' "$*" >&2; }

packages=(g++ make libclang-dev curl ca-certificates)
if [ "$want" = test ]; then
  packages+=(etcd-server etcd-client golang-go golang-github-mesos-mesos-go-dev python3-http-parser python3-venv iproute2 nftables chromium busybox-static zstd docker-registry containernetworking-plugins)
fi
missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
  sudo=""
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { say "these packages are missing and only root can install them: ${missing[*]}"; exit 1; }
    sudo=sudo
  fi
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  if ! { $sudo apt-get update && $sudo apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "apt-get could not install them; its whole output is in $log"
    exit 1
  fi
  rm -f "$log"
fi
command -v cargo >/dev/null || { say "cargo is missing: install Rust from https://rustup.rs and run this again"; exit 1; }

# RocksDB: one optimised library for every profile, outside the clone, keyed by what it was made from.
cache=${MESETA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meseta}
key=$( { cat tools/rocksdb.sh; grep -A1 -E '^name = "(librocksdb|lz4)-sys"' Cargo.lock; g++ --version | head -n 1; uname -m; } | sha256sum | cut -c1-16)
dir=$cache/rocksdb-$key
if [ ! -f "$dir/librocksdb.a" ]; then
  say "compiling RocksDB once for this machine, into $dir"
  mkdir -p "$dir"
  (
    flock 9 # A second run waits for the first instead of compiling beside it.
    [ -f "$dir/librocksdb.a" ] && exit 0
    tools/rocksdb.sh "$dir" >"$dir/build.log" 2>&1 & # Holds the lock as well: whoever comes after an interrupted run waits for it.
    build=$!
    start=$SECONDS
    told=0
    while kill -0 "$build" 2>/dev/null; do
      sleep 1
      # What is left is estimated from what is done, so that a slow or busy machine is told the truth.
      made=$( { find "$dir/work" -name 'unit*.done' 2>/dev/null || true; } | wc -l)
      total=$( { find "$dir/work" -name 'unit??.cc' 2>/dev/null || true; } | wc -l)
      spent=$((SECONDS - start))
      line="$made of $total parts, $spent s"
      if [ "$made" -gt 1 ]; then line="$line, about $((spent * (total - made) / made)) s to go"; fi
      if [ -t 2 ]; then
        printf '\r    %s   \033[K' "$line" >&2
      elif [ $((spent - told)) -ge 15 ]; then
        told=$spent
        printf '    %s\n' "$line" >&2
      fi
    done
    if [ -t 2 ]; then echo >&2; fi
    wait "$build" || { tail -n 20 "$dir/build.log" >&2; say "RocksDB did not compile; all of it is in $dir/build.log"; exit 1; }
    say "RocksDB is compiled ($((SECONDS - start)) s)"
  ) 9>"$dir/lock"
fi
echo "$dir"
