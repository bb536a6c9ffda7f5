# To be sourced: what every cargo command needs. RocksDB is linked from one library per machine, in every profile.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${MESETA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meseta}/target}
if [ -z "${ROCKSDB_LIB_DIR:-}" ]; then
  ROCKSDB_LIB_DIR=$("$(dirname "${BASH_SOURCE[0]}")/deps.sh" build | tail -n 1)
fi
export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1
