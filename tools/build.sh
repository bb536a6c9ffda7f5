#!/usr/bin/env bash
# Builds the programs as users have them, into $CARGO_TARGET_DIR/release. Arguments are packages to build beside the masters'.
#
#   [PROFILE=demo] tools/build.sh [-p bench ...]
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/env.sh
profile=${PROFILE:-release}
cargo build --profile "$profile" -p cli -p master-server -p replay-tools -p same-features "$@" --bins
# By itself: built together with masters, what stands beside every task would carry their storage engine.
cargo build --profile "$profile" -p agent-server -p same-features --bins
