#!/usr/bin/env bash
# Control groups as this machine does not have them: a kernel of its own for each of their versions, with all controllers, in a
# machine that is emulated, and a disk of XFS with quotas. Masters, agents and the tests of these run there as root. Needs no root and
# no KVM here.
#
# The kernel is Debian's for clouds, unpacked and not installed; the rest is what is here: programs, and their libraries.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { echo "qemu: $*" >&2; exit 1; }

# Programs that tasks and tests start; those that are not here are busybox's.
programs="bash sh cat chmod cp cut date dd env false find grep head id kill ls mkdir mknod mount mv nproc ps rm rmdir sed seq setsid sleep
  sort stat tail touch tr true umount uniq unshare wc"
tests="cgroups controllers linux xfs"

kernel() { # Sets image and modules.
  local cache=$MESETA_CACHE/qemu package version
  mkdir -p "$cache"
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: //p' | head -1)
  # Without lists of packages what is there already will do.
  [ -n "$package" ] || package=$(basename "$(ls -d "$cache"/linux-image-*/ 2>/dev/null | tail -1)")
  [ -n "$package" ] || fail "there is no package linux-image-cloud-amd64 (apt-get update)"
  if [ ! -d "$cache/$package" ]; then
    (cd "$cache" && rm -f ./*.deb && apt-get download "$package" >/dev/null 2>&1) || fail "cannot download $package"
    rm -rf "$cache/new"
    dpkg-deb -x "$cache/$package"_*.deb "$cache/new"
    version=$(basename "$cache"/new/lib/modules/*)
    depmod -b "$cache/new" "$version"
    rm -f "$cache"/*.deb
    mv "$cache/new" "$cache/$package"
  fi
  image=$(ls "$cache/$package"/boot/vmlinuz-*)
  modules=$cache/$package/lib/modules
}

with_libraries() { # FILE TARGET: a program into the root, and what it is linked to.
  local library
  mkdir -p "$root/$(dirname "$2")"
  cp -L "$1" "$root/$2"
  for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*'); do
    [ -e "$root/$library" ] || { mkdir -p "$root/$(dirname "$library")"; cp -L "$library" "$root/$library"; }
  done
}

outside() {
  local program binary
  for program in qemu-system-x86_64 busybox cpio depmod mkfs.xfs; do
    command -v $program >/dev/null || fail "there is no $program here (apt-get install --no-install-recommends qemu-system-x86 busybox-static cpio kmod xfsprogs)"
  done
  cd "$here"
  tools/deps.sh test >/dev/null
  . tools/env.sh
  kernel
  cargo build -p master-server -p agent-server -p cli --bins
  work=$(mktemp -d /var/tmp/meseta-qemu.XXXXXX)
  trap 'rm -rf "$work"' EXIT
  root=$work/root
  mkdir -p "$root"/{bin,dev,etc,proc,root,run,sys,tmp,var/tmp,usr/bin,usr/sbin,sbin,lib/modules}
  cp "$(command -v busybox)" "$root/bin/busybox"
  for program in $(busybox --list | grep -vx busybox); do ln -s busybox "$root/bin/$program"; done
  for program in $programs; do
    binary=$(type -P $program || true)
    [ -z "$binary" ] || { rm -f "$root/bin/$program"; with_libraries "$binary" "bin/$program"; }
  done
  # Where tests expect them, which know the path of the agent.
  for program in meseta meseta-master meseta-agent meseta-executor meseta-default-executor meseta-fetcher; do
    with_libraries "$CARGO_TARGET_DIR/debug/$program" "$CARGO_TARGET_DIR/debug/$program"
    strip "$root/$CARGO_TARGET_DIR/debug/$program"
  done
  for program in $tests; do
    binary=$(cargo test -p agent-server --test "$program" --no-run --message-format=json 2>/dev/null | grep -F '"kind":["test"]' | grep -o '"executable":"[^"]*"' | cut -d'"' -f4 | tail -1)
    with_libraries "$binary" "tests/$program"
    strip "$root/tests/$program"
  done
  # Users are looked up by it.
  for library in /lib/x86_64-linux-gnu/libnss_files.so.2; do [ ! -e $library ] || { mkdir -p "$root/lib/x86_64-linux-gnu"; cp -L $library "$root$library"; }; done
  cp /etc/passwd /etc/group "$root/etc/"
  echo "passwd: files
group: files" >"$root/etc/nsswitch.conf"
  cp -r "$modules"/. "$root/lib/modules/"
  find "$root/lib/modules" -name '*.ko' | grep -vE '/(xfs|overlay|virtio[a-z_]*|libcrc32c|crc32c[a-z_-]*|cls_cgroup|crc32[a-z_-]*|crct10dif[a-z_-]*)\.ko$' | xargs rm -f
  ln -s ../../bin/env "$root/usr/bin/env"
  cp "$here/tools/qemu.sh" "$root/init"
  chmod 755 "$root/init"
  echo "$CARGO_TARGET_DIR/debug" >"$root/etc/programs"
  (cd "$root" && find . | cpio --quiet -o -H newc) >"$work/root.cpio"
  local version failed=0
  for version in ${VERSIONS:-second first}; do
    truncate -s 512M "$work/disk"
    mkfs.xfs -q -f "$work/disk"
    local more=""
    [ $version = first ] || more="cgroup_no_v1=all"
    echo "- a machine with control groups of the $version version"
    timeout --foreground 900 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 3072 -nographic -no-reboot -nodefaults \
      -serial stdio -kernel "$image" -initrd "$work/root.cpio" -drive "file=$work/disk,format=raw,if=virtio" \
      -append "console=ttyS0 quiet loglevel=3 panic=-1 meseta=$version only=${ONLY:-} $more" </dev/null | sed -u 's/\r//; s/20[0-9T:.-]*Z  INFO .*//; /^ *$/d' | tee "$work/out" | sed -u 's/^/    /' || true
    grep -q '^qemu: the machine holds$' "$work/out" || { failed=1; echo "qemu: it does not hold with the $version version" >&2; }
  done
  [ $failed = 0 ] || exit 1
  echo "qemu: both versions hold"
}

inside() { # The first process of the emulated machine.
  export PATH=/bin:/usr/bin HOME=/root
  local version controller
  if [ ! -e /settled ]; then
    # What the kernel unpacked cannot be left for another root, which containers do: so this becomes one that can.
    busybox mkdir /settled
    busybox mount -t tmpfs -o size=2g,mode=755 tmpfs /settled
    for controller in $(ls / | busybox grep -vx settled); do busybox cp -a "/$controller" /settled/; done
    busybox mkdir /settled/settled
    exec busybox switch_root /settled /init
  fi
  mount -t proc proc /proc
  mount -t sysfs sysfs /sys
  mount -t devtmpfs devtmpfs /dev
  mkdir -p /dev/pts /dev/shm
  mount -t devpts devpts /dev/pts
  mount -t tmpfs tmpfs /dev/shm
  mkdir -p /mnt
  mount -t tmpfs tmpfs /run
  exec >/dev/console 2>&1
  version=$(sed -n 's/.*meseta=\([a-z]*\).*/\1/p' /proc/cmdline)
  only=$(sed -n 's/.*only=\([a-z]*\).*/\1/p' /proc/cmdline)
  for module in virtio_pci virtio_blk xfs overlay cls_cgroup; do busybox modprobe $module || echo "no $module"; done
  busybox ip link set lo up
  mount -t xfs -o prjquota /dev/vda /mnt
  if [ "$version" = second ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
  else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    for controller in blkio cpu cpuacct cpuset devices freezer hugetlb memory net_cls net_prio perf_event pids; do
      mkdir /sys/fs/cgroup/$controller
      mount -t cgroup -o $controller cgroup /sys/fs/cgroup/$controller || rmdir /sys/fs/cgroup/$controller
    done
  fi
  export built version
  built=$(cat /etc/programs)
  if bash /init within $only; then echo "qemu: the machine holds"; fi
  sleep 0.5
  busybox poweroff -f
  sleep 100
}

within() {
  local failed=0 one
  for one in ${1:-cluster cgroups controllers linux xfs}; do
    if [ $one = cluster ]; then
      (cluster) || failed=1
    else
      # Each from a folder of its own on a real disk.
      (cd /mnt && TMPDIR=/mnt /tests/$one --test-threads=1) || failed=1
    fi
  done
  return $failed
}

cluster() { # A real master, a real agent and tasks that look at themselves.
  set -euo pipefail
  local master=127.0.0.1:5050
  export PATH=$PATH:$built
  trap 'code=$?; [ $code = 0 ] || { tail -n 5 /mnt/master.log /mnt/agent.log; }; kill $(jobs -p) 2>/dev/null; exit $code' EXIT
  until_true() { for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done; echo "never: $*"; exit 1; }
  meseta-master --ip=127.0.0.1 --port=5050 --work_dir=/mnt/master >/mnt/master.log 2>&1 &
  meseta-agent --master=$master --ip=127.0.0.1 --work_dir=/mnt/agent --resources='cpus:2;mem:1024;disk:256' \
    --isolation=cgroups/all,namespaces/pid,namespaces/ipc,linux/nnp --cgroups_enable_cfs >/mnt/agent.log 2>&1 &
  until_true meseta agents --master=$master
  local look
  if [ "$version" = second ]; then
    look='g=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/..; echo cpu=$(cat $g/cpu.max | cut -d" " -f1) mem=$(cat $g/memory.max) threads=$(cat $g/pids.current)'
  else
    look='g() { echo /sys/fs/cgroup/$1$(sed -n "s/.*:$1:\(.*\)/\1/p" /proc/self/cgroup); }; echo cpu=$(cat $(g cpu)/cpu.cfs_quota_us) mem=$(cat $(g memory)/memory.limit_in_bytes) threads=$(cat $(g pids)/pids.current)'
  fi
  meseta execute --master=$master --name=look --resources='cpus:0.5;mem:64' \
    --command="$look; if head -c1 /dev/vda >/dev/null 2>&1; then echo reads its disk; else echo no disk; fi; echo \$\$"
  local said
  said=$(cat /mnt/agent/slaves/*/frameworks/*/executors/look/runs/latest/stdout)
  echo "$said"
  [[ $said == *"cpu=60000 mem=100663296 threads="* && $said == *"no disk"* ]]
  echo "- a task has what it was given: processors, memory, no disk"
  local code=0
  meseta execute --master=$master --name=bomb --resources='cpus:0.5;mem:64' --command='tail /dev/zero' || code=$?
  [ $code != 0 ]
  echo "- one that takes more memory is ended"
}

case ${1:-} in
  within) shift; within "$@" ;;
  *) if [ $$ = 1 ]; then inside; else outside; fi ;;
esac
