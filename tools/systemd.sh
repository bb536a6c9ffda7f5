#!/usr/bin/env bash
# The units of packaging/systemd under a real systemd: a task outlives the agent's restart and its death, and the master's restart. As root.
#
# systemd gets a namespace of everything and a throw-away layer over this machine's root: what it changes is gone with it. It never
# sees the machine's own /tmp, /run or /var.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
here=$PWD

fail() { echo "systemd: $*" >&2; exit 1; }

outside() {
  [ "$(id -u)" = 0 ] || fail "this needs root"
  command -v /usr/lib/systemd/systemd >/dev/null || fail "there is no systemd here (apt-get install systemd)"
  tools/deps.sh test >/dev/null
  . tools/env.sh
  cargo build --workspace --bins
  local status=0
  share=$(mktemp -d)
  trap 'rm -rf "$share"' EXIT
  mkdir "$share/layer" "$share/bin"
  cp "$CARGO_TARGET_DIR"/debug/{meseta,meseta-master,meseta-agent,meseta-executor,meseta-default-executor,meseta-fetcher,meseta-docker,meseta-log} "$share/bin/"
  # The first process of a namespace takes all others along.
  timeout --signal=KILL 120 unshare --mount --pid --fork --kill-child --ipc --uts --net "$here/tools/systemd.sh" inside "$share" </dev/null &
  local systemd=$!
  for _ in $(seq 1100); do
    [ -f "$share/code" ] && break
    kill -0 $systemd 2>/dev/null || break
    sleep 0.1
  done
  pkill -KILL -P $systemd || true
  { wait $systemd || true; } 2>/dev/null
  sed 's/^/    /' "$share/out" 2>/dev/null || true
  status=$(cat "$share/code" 2>/dev/null || echo "none: systemd did not come so far")
  [ "$status" = 0 ] || fail "the trial ended with code $status"
  echo "systemd: the units hold"
}

inside() { # The first process of the namespaces: makes a root of its own and becomes systemd there.
  local share=$1 root=$1/root layer=$1/layer
  mount --make-rprivate /
  mount -t tmpfs tmpfs "$layer"
  mkdir "$layer/upper" "$layer/work" "$root"
  mount -t overlay overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" "$root"
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  if [ -d /sys/fs/cgroup/systemd ]; then
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd"
    mount -t cgroup -o none,name=systemd,xattr cgroup "$root/sys/fs/cgroup/systemd"
  else
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  fi
  for at in dev run tmp var/tmp; do mount -t tmpfs -o mode=1777 tmpfs "$root/$at"; done
  mkdir "$root/dev/pts" "$root/dev/shm" "$root/tmp/share"
  for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  ln -s /proc/self/fd "$root/dev/fd"
  mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  mount --bind "$share" "$root/tmp/share"
  local units=$root/etc/systemd/system unit
  for unit in remount-fs sysctl modules-load udevd udev-trigger tmpfiles-setup tmpfiles-clean random-seed logind; do
    ln -sf /dev/null "$units/systemd-$unit.service"
  done
  cp "$share"/bin/* "$root/usr/local/bin/"
  cp "$here"/packaging/systemd/*.service "$here"/packaging/systemd/*.socket "$units/"
  cp "$here/packaging/systemd/meseta.sysusers.conf" "$root/usr/lib/sysusers.d/meseta.conf"
  cp "$here/tools/systemd.sh" "$root/usr/local/bin/trial"
  printf '[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nExecStart=/bin/bash /usr/local/bin/trial within\n' >"$units/trial.service"
  printf '[Unit]\nRequires=basic.target trial.service\nAfter=basic.target\n' >"$units/trial.target"
  cd "$root"
  mkdir -p old
  pivot_root . old
  umount -l /old
  container=other exec /usr/lib/systemd/systemd --system --unit=trial.target --log-level=warning --show-status=0 >/dev/null
}

within() { # A service of that systemd.
  exec >/tmp/share/out 2>&1
  trap 'code=$?; [ $code = 0 ] || journalctl --no-pager --output=cat | tail -20; echo $code >/tmp/share/code' EXIT
  local master=127.0.0.1:5050 task main
  until_true() { for _ in $(seq 200); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; echo "never: $*"; exit 1; }
  says() { meseta tasks --master=$master | grep -q "$1"; }
  other() { [ "$(systemctl show --value -p MainPID meseta-agent)" != "$main" ] && systemctl is-active -q meseta-agent; }
  systemd-sysusers
  mkdir -p /etc/meseta
  ip link set lo up
  printf 'MESETA_IP=127.0.0.1\nMESETA_LOG_FORMAT=journald\n' >/etc/meseta/master.env
  printf 'MESETA_IP=127.0.0.1\nMESETA_MASTER=%s\nMESETA_LOG_FORMAT=journald\n' $master >/etc/meseta/agent.env
  systemctl start meseta-master meseta-agent
  until_true meseta agents --master=$master
  meseta execute --master=$master --name=long --command='until [ -f go ]; do sleep 0.1; done; exit 7' --resources='cpus:0.1;mem:32' &
  task=$!
  until_true says TASK_RUNNING
  echo "- the task runs in the agent's service"
  systemctl show --value -p ControlGroup meseta-agent
  main=$(systemctl show --value -p MainPID meseta-agent)
  systemctl restart meseta-agent
  until_true other
  says TASK_RUNNING
  echo "- it outlived systemctl restart meseta-agent"
  main=$(systemctl show --value -p MainPID meseta-agent)
  systemctl kill --signal=KILL --kill-whom=main meseta-agent
  until_true other
  says TASK_RUNNING
  echo "- it outlived kill -9 of the agent, which systemd started again"
  systemctl restart meseta-master
  until_true says TASK_RUNNING
  echo "- it outlived systemctl restart meseta-master"
  touch "$(find /var/lib/meseta/agent -type d -path '*/executors/long/runs/*' -not -name latest | head -1)/go"
  local code=0
  wait $task || code=$?
  echo "- the client heard code $code"
  [ $code = 7 ]
  systemctl stop meseta-agent meseta-master
  [ "$(systemctl show --value -p Result meseta-master)" = success ]
  [ "$(systemctl show --value -p Result meseta-agent)" = success ]
  echo "- both stopped cleanly"
  # What they said, by the fields of the journal's entries.
  noted() { local unit=$1 of=$2; shift 2; journalctl --no-pager --output=json -u "$unit" "$@" | grep -q "$of"; }
  until_true noted meseta-master '"MESSAGE":"this master leads"' MESETA_TERM=1 PRIORITY=5 TARGET=master_server::sequencer
  until_true noted meseta-agent '"MESSAGE":"welcome"' MESETA_MASTER=$master TARGET=agent_server::masters
  echo "- the journal has what they said, with its fields"
}

case ${1:-outside} in
  outside) outside ;;
  inside) inside "$2" ;;
  within) within ;;
esac
