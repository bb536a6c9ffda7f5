#!/usr/bin/env bash
# Everything that CI runs, in steps that say how long they took.
#
#   tools/test.sh test    install what is missing, then everything
#   tools/test.sh check   everything, with what this machine has
set -euo pipefail
cd "$(dirname "$0")/.."
begin=$SECONDS
steps=0
bold='' plain=''
if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi

step() { # step NAME COMMAND...: its output as it comes, then its time; the first failure ends the run.
  local name=$1 start=$SECONDS status=0
  shift
  echo "${bold}==> $name${plain}"
  "$@" || status=$?
  if [ "$status" != 0 ]; then
    echo "${bold}==> FAILED: $name (exit code $status, after $((SECONDS - start)) s)${plain}"
    exit 1
  fi
  steps=$((steps + 1))
  echo "    $name: $((SECONDS - start)) s"
}

tests() { # All tests; which failed and their first words come last, where somebody who sees only the end finds them.
  local log status=0
  log=$(mktemp)
  cargo test --workspace --no-fail-fast 2>&1 | tee "$log" || status=$?
  [ "$status" = 0 ] || awk '
    /^test .* FAILED$/ { print "    failed: " $2 }
    /^---- .* stdout ----$/ { test = $2 }
    / panicked at / && test { place = $NF; getline; print "    " test " at " place " " substr($0, 1, 200) }
    /^ +(left|right): / && test { print "     " substr($0, 1, 200) }
  ' "$log"
  rm -f "$log"
  return "$status"
}

if [ "${1:-test}" = test ]; then
  install() { tools/deps.sh test >/dev/null; }
  step "packages, RocksDB" install
fi
. tools/env.sh
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

step "format" cargo fmt --all --check
step "lints" cargo clippy --workspace --all-targets -- -D warnings
# cargo-deny is used where it is installed; compiling it for each fresh machine is left out. The same three questions are
# asked of deny.toml and `cargo metadata` by proptests/tests/dependencies.rs, everywhere.
if cargo deny --version >/dev/null 2>&1; then
  step "dependencies" cargo deny --log-level error check bans licenses sources
fi
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
# Tests of whole clusters start these from the target folder.
step "binaries" cargo build --workspace --bins
step "clients" tools/clients.sh
step "browser" tools/browser.sh
step "tests" tests
step "simulator" env SEEDS=30 tools/sim.sh
step "simulator, the same twice" env TWICE=1 SEEDS=2 tools/sim.sh

echo "${bold}==> all $steps steps passed in $(((SECONDS - begin) / 60)) min $(((SECONDS - begin) % 60)) s${plain}"
