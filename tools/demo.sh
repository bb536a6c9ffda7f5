#!/usr/bin/env bash
# A cluster of three masters and two agents on this machine, a small job, its leader killed in the middle, and the log
# that tells the story. Needs nothing but Rust, a C++ compiler and curl, which tools/deps.sh installs.
#
#   KEEP=1 tools/demo.sh    leaves the cluster up until Ctrl-C
set -euo pipefail
cd "$(dirname "$0")/.."
bold='' plain=''
if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
begin=$SECONDS
say() { printf '%s==> %s%s\n' "$bold" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; "$@" 2>&1 | sed 's/^/    /'; }

say "what is needed: a compiler, RocksDB"
. tools/env.sh
say "building (the first time takes a few minutes)"
# On a terminal cargo draws its own progress; without one it prints a line per package.
PROFILE=demo tools/build.sh
PATH=$CARGO_TARGET_DIR/demo:$PATH

dir=$(mktemp -d "${TMPDIR:-/tmp}/meseta-demo-XXXXXX")
parts=$dir/parts
mkdir "$parts"
cluster='' jobs=()
cleanup() {
  trap - EXIT
  [ "${#jobs[@]}" = 0 ] || kill "${jobs[@]}" 2>/dev/null || true
  if [ -n "$cluster" ]; then
    kill -TERM "$cluster" 2>/dev/null || true
    wait "$cluster" 2>/dev/null || true
  fi
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

fail() {
  say "the demo failed: $*"
  tail -n 5 "$dir"/*.log "$dir"/*.out 2>/dev/null | cut -c1-300 || true
  exit 1
}

say "three masters and two agents: meseta local --masters=3 --agents=2"
meseta local --masters=3 --agents=2 --port=0 --work_dir="$dir" --resources="cpus:4;mem:4096;disk:4096" \
  >"$dir/local.out" 2>&1 &
cluster=$!
until grep -q '^masters' "$dir/local.out"; do
  kill -0 "$cluster" 2>/dev/null || fail "the cluster did not start"
  sleep 0.1
done
sed 's/^/    /' "$dir/local.out"
masters=$(sed -n 's/^masters *//p' "$dir/local.out")
first=${masters%%,*}
show meseta state --master="$first"
show meseta agents --master="$first"

say "a job of 16 tasks, each a framework of its own on the scheduler API: the sum of 1 to 16 million"
total=16 part=1000000
for n in $(seq 0 $((total - 1))); do
  # Appended to, not written: a part that ran twice would count twice.
  command="sleep 2; awk 'BEGIN { for (i = $((n * part + 1)); i <= $(((n + 1) * part)); i++) s += i; printf \"%.0f\\n\", s }' >> $parts/$n"
  meseta execute --master="$masters" --name="sum-$n" --command="$command" --resources="cpus:0.4;mem:32" \
    >"$dir/sum-$n.out" 2>&1 &
  jobs+=($!)
done
running() { cat "$dir"/sum-*.out 2>/dev/null | grep -c TASK_RUNNING || true; }
limit=$((SECONDS + 60))
until [ "$(running)" -ge 4 ]; do
  [ "$SECONDS" -lt "$limit" ] || fail "no task runs after 60 s"
  sleep 0.1
done

leader=$(curl -s -o /dev/null -w '%{redirect_url}' "http://$first/redirect")
leader=${leader#http://} leader=${leader%/}
pid=$(tr '}' '\n' < "$dir/cluster.json" | grep ":${leader##*:}\"" | grep -o '"pid":[0-9]*' | cut -d: -f2)
say "$(running) tasks run; now the leader dies: kill -9 $pid ($leader)"
killed=$(date +%s%N)
kill -9 "$pid"
survivors=$(tr ',' '\n' <<<"$masters" | grep -v ":${leader##*:}$" | paste -sd,)
meseta state --master="$survivors" >/dev/null
say "$((($(date +%s%N) - killed) / 1000000)) ms later the next leader has answered with the whole state"
show meseta state --master="$survivors"

ended=0
for job in "${jobs[@]}"; do
  wait "$job" || fail "a task did not finish: $(cat "$dir"/sum-*.out | grep -v TASK_ | head -n 3)"
  ended=$((ended + 1))
  if [ -t 1 ]; then printf '\r    %d of %d tasks finished' "$ended" "$total"; fi
done
if [ -t 1 ]; then echo; else echo "    $ended of $total tasks finished"; fi
jobs=()
sum=$(cat "$parts"/* | awk '{ s += $1 } END { printf "%.0f", s }')
count=$(cat "$parts"/* | wc -l)
expected=$((total * part * (total * part + 1) / 2))
if [ "$sum" != "$expected" ] || [ "$count" != "$total" ]; then
  fail "the sum is $sum from $count parts instead of $expected from $total"
fi
say "nothing was lost and nothing ran twice: $count parts, sum $sum"
show meseta tasks --master="$survivors" | tail -n 6

say "the log is the truth: each disk, the dead leader's too, is checked and folded again"
for master in "$dir"/master-?; do
  show meseta-log verify "$master"
done
show meseta-log state "$dir/master-0" | sed -n 1,20p

say "done in $((SECONDS - begin)) s. Where to look next:"
cat <<NEXT
    README.md, ARCHITECTURE.md                how it is made
    PATH=$CARGO_TARGET_DIR/demo:\$PATH
    meseta local --masters=3 --agents=2       a cluster to play with; its banner says how
    docs/frameworks.md                        a framework by hand, call by call
    make test                                 everything that CI runs
NEXT
if [ -n "${KEEP:-}" ]; then
  say "the cluster stays up: meseta state --master=$survivors (programs in $CARGO_TARGET_DIR/demo, files in $dir); Ctrl-C ends it"
  wait "$cluster"
fi
