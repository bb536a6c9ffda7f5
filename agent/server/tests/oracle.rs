//! What a process finds and may do in a container of an image, beside what it finds in one of a Docker Engine (runc) that was asked
//! for the same: the same image, the same words, and the answers side by side.

mod common;
mod engine;
#[path = "engine/run.rs"]
mod run;

use std::collections::BTreeMap;
use std::fs;

use api::v1::{self, TaskInfo, TaskState};
use common::groups::Place;
use common::{Master, task};
use engine::IMAGE;
use run::with_engine;
use serde_json::json;

/// Prints `WHAT: ANSWER` lines.
const SCRIPT: &str = r#"
b=/bin/busybox
for field in CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp; do
  echo "status $field: $($b grep ^$field: /proc/self/status | $b cut -f2)"
done
echo "user: $($b id -u) $($b id -g)"
echo "files: $($b grep '^Max open files' /proc/self/limits | $b tr -s ' ')"
echo "umask: $(umask)"
$b ls -l /dev | $b awk 'NR > 1 {sub(/^[0-9]*,$/, "", $5); print "dev " ($1 ~ /^l/ ? $9 : $NF) ": " $1 " " $3 " " $4}'
for at in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys; do
  echo "mount $at: $($b awk -v at=$at '$5 == at {split($0, half, " - "); split(half[2], kind, " "); n = split($6, all, ","); text = "";
    for (i = 1; i <= n; i++) if (all[i] ~ /^(ro|rw|nosuid|nodev|noexec)$/) text = text "," all[i]; last = kind[1] text} END {print last}' /proc/self/mountinfo)"
done
echo "descriptors: $(cd /proc/self/fd; for fd in 0 1 2 3 4 5 6 7 8 9 10 11 12; do $b readlink $fd > /dev/null 2>&1 && echo -n "$fd "; done)"
echo "first: $($b tr '\0' ' ' < /proc/1/comm)"
for path in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /sys/firmware /proc/acpi /proc/scsi; do
  [ -e $path ] || { echo "masked $path: none"; continue; }
  if [ -d $path ]; then found=$($b ls $path | $b head -1); else found=$($b head -c 1 $path 2> /dev/null | $b od -An -c); fi
  [ -n "$found" ] && echo "masked $path: open" || echo "masked $path: empty"
done
for path in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/irq/0/x /sys/kernel/mm/transparent_hugepage/enabled; do
  ( : >> $path ) 2> /dev/null && echo "writable $path: yes" || echo "writable $path: no"
done
may() { what=$1; shift; "$@" > /dev/null 2>&1 && echo "may $what: yes" || echo "may $what: no"; }
may mount $b mount -t tmpfs none /tmp
may unshare $b unshare -m true
may userns $b unshare -U true
may device $b mknod /tmp/null c 1 3
may chroot $b chroot / /bin/sh -c :
may hostname $b hostname other
may clock $b date -s @1
may nice $b nice -n -5 /bin/sh -c :
may chown $b chown 1:1 /tmp
may passwd $b test -r /etc/passwd
may denied $b ln -s a /tmp/link
may raw $b ping -c 1 -W 1 127.0.0.1
may bind $b timeout 1 $b nc -l -p 81 -w 1
may memory $b dd if=/dev/mem of=/dev/null count=1
may module $b insmod /none
may ptrace $b test -r /proc/1/environ
"#;

fn answers(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines.map(|(what, answer)| (what.to_owned(), answer.trim().to_owned())).collect()
}

#[test]
fn processes_find_what_they_find_under_runc() {
    with_engine("beside runc", &[], async |engine| {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let Some(place) = Place::all("oracle").into_iter().next() else { return };
        let at = |name: &str| dir.path().join(name).display().to_string();
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO"}]});
        fs::create_dir_all(at("profiles")).unwrap();
        fs::write(at("profiles/own.json"), profile.to_string()).unwrap();
        let (seccomp, script) = (format!("seccomp={}", at("profiles/own.json")), SCRIPT);
        let run = ["run", "--rm", "--network=host", "--ipc=private", "--shm-size=64m", "--memory=64m"];
        let more = ["--cap-drop=ALL", "--cap-add=NET_BIND_SERVICE", "--ulimit=nofile=1000:1000"];
        let options = ["--security-opt=no-new-privileges", "--security-opt", &seccomp, IMAGE, "/bin/sh", "-c", script];
        let runc = answers(&engine.docker(&[&run[..], &more, &options].concat()));

        fs::create_dir_all(at("images")).unwrap();
        engine.docker(&["save", "-o", &at(&format!("images/{IMAGE}.tar")), IMAGE]);
        let capabilities = r#"{"capabilities": ["NET_BIND_SERVICE"]}"#;
        let flags = [
            "--isolation=filesystem/linux,docker/runtime,namespaces/pid,namespaces/ipc,linux/nnp,linux/capabilities,linux/seccomp,\
             posix/rlimits,cgroups/devices,cgroups/mem"
                .to_owned(),
            "--image_providers=docker".to_owned(),
            format!("--docker_registry={}", at("images")),
            format!("--seccomp_config_dir={}", at("profiles")),
            "--seccomp_profile_name=own.json".to_owned(),
            format!("--effective_capabilities={capabilities}"),
            format!("--bounding_capabilities={capabilities}"),
            format!("--cgroups_hierarchy={}", place.hierarchy),
            format!("--cgroups_root={}", place.root),
            "--containerizers=mesos".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let agent = engine.agent(&master, &dir.path().join("work"), &flags);
        let docker = v1::image::Docker { name: IMAGE.into(), ..Default::default() };
        let image = v1::Image { r#type: v1::image::Type::Docker as i32, docker: Some(docker), ..Default::default() };
        let files = v1::r_limit_info::RLimit {
            r#type: Some(v1::r_limit_info::r_limit::Type::RlmtNofile as i32),
            soft: Some(1000),
            hard: Some(1000),
        };
        let linux = v1::LinuxInfo {
            ipc_mode: Some(v1::linux_info::IpcMode::Private as i32),
            shm_size: Some(64),
            ..Default::default()
        };
        let info = v1::ContainerInfo {
            r#type: v1::container_info::Type::Mesos as i32,
            mesos: Some(v1::container_info::MesosInfo { image: Some(image) }),
            rlimit_info: Some(v1::RLimitInfo { rlimits: vec![files] }),
            linux_info: Some(linux),
            ..Default::default()
        };
        master.launch(TaskInfo { container: Some(info.into()), ..task("oracle", SCRIPT) });
        let ended = master
            .wait("the end", |known| {
                known.statuses().find(|one| !matches!(one.state(), TaskState::TaskStarting | TaskState::TaskRunning))
            })
            .await;
        let own = fs::read_to_string(agent.sandbox("oracle").join("stdout")).unwrap_or_default();
        assert_eq!(ended.state(), TaskState::TaskFinished, "{}: {own}", ended.message());
        let own = answers(&own);
        // What is another one's there, and why.
        let known: BTreeMap<&str, &str> = BTreeMap::from([
            ("first", "meseta-executor"),                // It reaps, and is no part of the task.
            ("mount /dev", "tmpfs,rw,nosuid,noexec"),    // Nothing is executed there.
            ("mount /dev/shm", "tmpfs,rw,nosuid,nodev"), // Programs of others may be made there: as Mesos has it.
            ("status CapAmb", "0000000000000400"),       // So that who is not root keeps them, too: as Mesos has it.
            ("status CapInh", "0000000000000400"),
        ]);
        let mut differs = Vec::new();
        for what in runc.keys().chain(own.keys().filter(|what| !runc.contains_key(*what))) {
            let (theirs, ours) = (runc.get(what), own.get(what));
            if theirs != ours && known.get(what.as_str()).copied() != ours.map(String::as_str) {
                differs.push(format!("{what}: {ours:?}, and {theirs:?} under runc"));
            }
        }
        assert!(differs.is_empty(), "{differs:#?}");
    });
}
