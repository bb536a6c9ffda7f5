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
  packages+=(etcd-server etcd-client golang-go golang-github-mesos-mesos-go-dev python3-http-parser python3-venv iproute2 nftables)
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
flags=""
[ "$(uname -m)" = x86_64 ] && flags="-Ctarget-cpu=x86-64-v2" # SSE 4.2: checksums by one instruction.
key=$( { cat tools/rocksdb/Cargo.toml tools/rocksdb/Cargo.lock; echo "$flags"; g++ --version | head -n 1; } | sha256sum | cut -c1-16)
dir=$cache/rocksdb-$key
if [ ! -f "$dir/librocksdb.a" ]; then
  say "compiling RocksDB once for this machine (about 15 minutes on 2 cores) into $dir"
  mkdir -p "$dir"
  (
    flock 9 # A second run waits for the first instead of compiling beside it.
    [ -f "$dir/librocksdb.a" ] && exit 0
    env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC RUSTFLAGS="$flags" CARGO_TARGET_DIR="$dir/target" \
      cargo build --release --locked --manifest-path tools/rocksdb/Cargo.toml >"$dir/build.log" 2>&1 &
    build=$!
    start=$SECONDS
    total=330 # Until cargo has unpacked the list of files.
    while kill -0 "$build" 2>/dev/null; do
      sleep 5
      list=$( { find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -path '*librocksdb-sys*/rocksdb_lib_sources.txt' 2>/dev/null || true; } | head -n 1)
      if [ -n "$list" ]; then total=$(wc -l < "$list"); fi
      made=$( { find "$dir/target" -path '*librocksdb-sys*' -name '*.o' 2>/dev/null || true; } | wc -l)
      if [ -t 2 ]; then
        printf '\r    %d of about %d files, %d s ' "$made" "$total" $((SECONDS - start)) >&2
      elif [ $(( (SECONDS - start) / 5 % 12 )) = 0 ]; then
        printf '    %d of about %d files, %d s\n' "$made" "$total" $((SECONDS - start)) >&2
      fi
    done
    if [ -t 2 ]; then echo >&2; fi
    wait "$build" || { tail -n 20 "$dir/build.log" >&2; say "RocksDB did not compile; all of it is in $dir/build.log"; exit 1; }
    cp "$(find "$dir/target" -path '*librocksdb-sys*' -name librocksdb.a | head -n 1)" "$dir/librocksdb.a.tmp"
    mv "$dir/librocksdb.a.tmp" "$dir/librocksdb.a"
    rm -rf "$dir/target"
  ) 9>"$dir/lock"
fi
echo "$dir"
