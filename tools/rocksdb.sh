#!/usr/bin/env bash
# Compiles RocksDB's C++ into FOLDER/librocksdb.a: the sources that Cargo.lock names, in a few large units. Most of what a
# compiler does with one of its files is to read the same headers again, so one unit of many files takes a fraction of the time.
#
#   tools/rocksdb.sh FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
unit_bytes=250000 # Of source in a unit: large enough to share headers, small enough that the last one is not long alone.
# Nothing that the C interface or the engine itself refers to.
unused='^(utilities/(blob_db|cassandra|simulator_cache|secondary_index|leveldb_options|copy_engine|sorted_run_builder|convenience|option_change_migration|env_mirror|fault_injection|cache_dump_load)|tools/|test_util/transaction_test_util)'

cargo fetch --locked --quiet
manifest() { cargo metadata --locked --format-version 1 | grep -o "\"manifest_path\":\"[^\"]*/$1-[^\"]*/Cargo.toml\"" | head -n 1 | cut -d'"' -f4; }
sys=$(dirname "$(manifest librocksdb-sys)")
lz4=$(dirname "$(manifest lz4-sys)")
src=$sys/rocksdb

machine=()
case $(uname -m) in
  x86_64) machine=(-march=x86-64-v2) ;; # SSE 4.2: checksums by one instruction.
  aarch64) machine=(-march=armv8-a+crc+crypto) ;;
esac
flags=(-std=c++20 -O2 -fPIC -ffunction-sections -fdata-sections -w "${machine[@]}"
  "-I$src/include" "-I$src" "-I$sys" "-I$lz4/liblz4/lib" -DLZ4=1 -DNDEBUG=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION
  -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT
  -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT)

work=$out/work
rm -rf "$work"
mkdir -p "$work"
# Files of one folder stay together, in their order; a folder's end does not end a unit.
unit=0 size=0
while read -r file; do
  if [ "$file" = util/build_version.cc ]; then path=$sys/build_version.cc; else path=$src/$file; fi
  if [ "$size" -gt "$unit_bytes" ]; then unit=$((unit + 1)) size=0; fi
  echo "#include \"$path\"" >>"$work/unit$(printf %02d "$unit").cc"
  size=$((size + $(stat -c %s "$path")))
done < <(grep -Ev "$unused" "$sys/rocksdb_lib_sources.txt")

compile() { # compile UNIT: as one, or file by file where its files do not get on with each other under this compiler.
  local unit=$1 n=0 line
  if ! g++ "${flags[@]}" -c "$unit" -o "${unit%.cc}.o" 2>"${unit%.cc}.log"; then
    while read -r line; do
      n=$((n + 1))
      echo "$line" >"${unit%.cc}.$n.c++"
      g++ "${flags[@]}" -x c++ -c "${unit%.cc}.$n.c++" -o "${unit%.cc}.$n.o"
    done <"$unit"
  fi
  touch "$unit.done"
}
declare -f compile >"$work/compile.sh"
declare -p flags >>"$work/compile.sh"
# The longest first, so that the processors end together.
find "$work" -name 'unit*.cc' -printf '%f\n' | sort -r |
  xargs -P "$(nproc)" -I{} bash -euo pipefail -c ". '$work/compile.sh'; compile '$work/{}'"
rm -f "$out/librocksdb.a.tmp"
ar crs "$out/librocksdb.a.tmp" "$work"/*.o
mv "$out/librocksdb.a.tmp" "$out/librocksdb.a"
rm -rf "$work"
