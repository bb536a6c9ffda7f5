#!/usr/bin/env bash
# The simulator, built with virtual time: no other program is built that way. What to run is said in the environment, see
# docs/simulator.md.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/env.sh
# The order of tokio's select! follows from the seed with this only.
export RUSTFLAGS="${RUSTFLAGS:-} --cfg tokio_unstable"
cargo build --quiet --profile sim -p sim --features run
exec "$CARGO_TARGET_DIR/sim/meseta-sim"
