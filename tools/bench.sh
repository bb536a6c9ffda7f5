#!/bin/bash
# Builds what is measured (release), measures it, prints the table, writes bench.json. Arguments go to meseta-bench:
# tools/bench.sh --quick --only=commands_per_s
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/deps.sh test >/dev/null
. tools/env.sh
if ! command -v etcd >/dev/null; then
  echo "bench: etcd is not installed (apt-get install etcd-server): rows will stand without a peer" >&2
fi
tools/build.sh -p bench
exec "$CARGO_TARGET_DIR/release/meseta-bench" "$@"
