//! Controllers that count what containers do, and that keep devices from them, of each version of control groups that there is here.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use api::v1::TaskState;
use common::groups::Place;
use common::{Master, PATIENCE, RealAgent, http, task, until};

/// What an agent says that does not start.
fn refused(place: &Place, flags: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_meseta-agent"))
        .args(["--master=127.0.0.1:1", "--ip=127.0.0.1", "--port=0"])
        .arg(format!("--work_dir={}", dir.path().display()))
        .args([format!("--cgroups_hierarchy={}", place.hierarchy), format!("--cgroups_root={}", place.root)])
        .args(flags)
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Those of the places whose kernel has a controller; the others are told to who reads the output.
fn with(controller: &str, what: &str) -> Vec<Place> {
    let (with, without): (Vec<Place>, Vec<Place>) = Place::all(what).into_iter().partition(|place| {
        match fs::read_to_string(Path::new(place.hierarchy).join("cgroup.controllers")) {
            Ok(all) => controller == "devices" || all.split_whitespace().any(|one| one == controller),
            Err(_) => Path::new(place.hierarchy).join(controller).join("cgroup.procs").exists(),
        }
    });
    for place in &without {
        let _ = writeln!(std::io::stderr(), "NOT TESTED ({what}): there is no '{controller}' in {}", place.hierarchy);
    }
    with
}

async fn statistics(agent: &RealAgent) -> serde_json::Value {
    let (_, body) = http(&agent.address, "GET", "/containers", "", "").await;
    serde_json::from_str::<serde_json::Value>(&body).unwrap()[0]["statistics"].clone()
}

/// Reads devices, and makes one of its own: what each try came to is in `tries`.
const TRIES: &str = "try() { if \"$@\" </dev/null >/dev/null 2>&1; then echo \"yes $*\"; else echo \"no $*\"; fi >> tries; }; \
    try dd if=/dev/zero of=/dev/null count=1; try dd if=/dev/random of=/dev/full count=0; \
    try dd if=/dev/kmsg of=/dev/null count=0; try mknod mine c 1 11; try dd if=mine of=/dev/null count=0; \
    try dd if=/dev/kmsg of=/dev/null count=0 conv=notrunc; echo done >> tries; exec sleep 1000";

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_not_a_containers_to_use_whatever_files_it_makes() {
    for place in with("devices", "devices") {
        for is_allowed in [false, true] {
            let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
            let allowed = r#"--allowed_devices={"allowed_devices": [{"device": {"path": "/dev/kmsg"}, "access": {"read": true}}]}"#;
            let flags = ["--isolation=cgroups/devices", allowed];
            let flags = if is_allowed { &flags[..] } else { &flags[..1] };
            let agent = place.start(&master, dir.path(), flags);
            master.launch(task("t", TRIES));
            master.update("t", TaskState::TaskRunning).await;
            let sandbox = agent.sandbox("t");
            let tries = || fs::read_to_string(sandbox.join("tries")).unwrap_or_default();
            until("it has tried", || tries().ends_with("done\n")).await;
            let kmsg = if is_allowed { "yes" } else { "no" };
            let expected = format!(
                "yes dd if=/dev/zero of=/dev/null count=1\nyes dd if=/dev/random of=/dev/full count=0\n\
                 {kmsg} dd if=/dev/kmsg of=/dev/null count=0\nyes mknod mine c 1 11\n\
                 {kmsg} dd if=mine of=/dev/null count=0\n{kmsg} dd if=/dev/kmsg of=/dev/null count=0 conv=notrunc\ndone\n"
            );
            assert_eq!(tries(), expected, "{}", place.hierarchy);
            // What an agent before this one prepared holds, and goes.
            agent.kill();
            let _agent = place.start(&master, dir.path(), flags);
            let pid = fs::read_to_string(place.group().join("leaf/cgroup.procs"))
                .or_else(|_| fs::read_to_string(place.group().join("cgroup.procs")))
                .unwrap();
            assert_eq!(pid.lines().count(), 1);
            master.kill("t");
            master.update("t", TaskState::TaskKilled).await;
            until("its groups go", || place.containers().is_empty()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_and_written_is_counted() {
    for place in with(if Path::new("/sys/fs/cgroup/cgroup.procs").exists() { "io" } else { "blkio" }, "blkio") {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = place.start(&master, dir.path(), &["--isolation=cgroups/blkio"]);
        master.launch(task(
            "t",
            "dd if=/dev/zero of=f bs=64k count=16 oflag=direct && dd if=f of=/dev/null bs=64k iflag=direct && touch done; exec sleep 1000",
        ));
        master.update("t", TaskState::TaskRunning).await;
        let (sandbox, stderr) = (agent.sandbox("t"), agent.sandbox("t").join("stderr"));
        until("it has written", || {
            sandbox.join("done").exists() || fs::read_to_string(&stderr).unwrap_or_default().contains("Invalid")
        })
        .await;
        if !sandbox.join("done").exists() {
            let _ = writeln!(std::io::stderr(), "NOT TESTED (blkio): this file system does not write directly");
            continue;
        }
        // What the kernel does not count itself nobody can tell: throttles that hold nothing back, of kernels of today.
        let own = fs::read_to_string(
            Path::new(place.hierarchy).join("blkio").join(&place.root).join("blkio.throttle.io_service_bytes"),
        );
        if own.is_ok_and(|text| text.lines().all(|line| line.ends_with(" 0"))) {
            let _ =
                writeln!(std::io::stderr(), "NOT TESTED (blkio): this kernel counts nothing in {}", place.hierarchy);
            continue;
        }
        let told = statistics(&agent).await["blkio_statistics"]["throttling"].clone();
        let all = told.as_array().unwrap();
        let has = |one: &serde_json::Value, what: &str, op: &str, least: u64| {
            one[what].as_array().is_some_and(|values| {
                values.iter().any(|value| value["op"] == op && value["value"].as_u64().unwrap_or(0) >= least)
            })
        };
        let devices = &all[..all.len() - 1];
        assert!(devices.iter().any(|one| has(one, "io_service_bytes", "WRITE", 1 << 20)), "{told}");
        assert!(devices.iter().any(|one| has(one, "io_service_bytes", "READ", 1 << 20)), "{told}");
        assert!(
            devices.iter().any(|one| has(one, "io_serviced", "WRITE", 2) && one["device"]["major_number"].is_u64())
        );
        assert!(
            all.last().unwrap()["device"].is_null() && has(all.last().unwrap(), "io_service_bytes", "TOTAL", 2 << 20)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_that_nothing_is_set_of_are_joined_and_left() {
    for (controller, name) in
        [("cpuset", "cgroups/cpuset"), ("hugetlb", "cgroups/hugetlb"), ("net_prio", "cgroups/net_prio")]
    {
        for place in with(controller, controller) {
            let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
            let agent = place.start(&master, dir.path(), &[&format!("--isolation={name}")]);
            master.launch(task(
                "t",
                "cat /proc/self/cgroup > groups; grep Cpus_allowed_list /proc/self/status; touch done; exec sleep 1000",
            ));
            master.update("t", TaskState::TaskRunning).await;
            let sandbox = agent.sandbox("t");
            until("it has looked", || sandbox.join("done").exists()).await;
            let groups = fs::read_to_string(sandbox.join("groups")).unwrap();
            let is_second = place.is_second();
            let mut of = groups.lines().filter(|line| is_second || line.split(':').nth(1) == Some(controller));
            assert!(of.any(|line| line.contains(&format!("/{}/", place.root))), "{groups}");
            master.kill("t");
            master.update("t", TaskState::TaskKilled).await;
            let tree = if is_second {
                place.tree.clone()
            } else {
                Path::new(place.hierarchy).join(controller).join(&place.root)
            };
            until("its groups go", || fs::read_dir(&tree).unwrap().flatten().all(|one| !one.path().is_dir())).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_counted_or_it_is_said_that_they_cannot_be() {
    for place in Place::all("perf") {
        let flags = [
            "--isolation=cgroups/perf_event",
            "--perf_events=task-clock,page-faults",
            "--perf_duration=100ms",
            "--perf_interval=200ms",
        ];
        let is_second = place.is_second();
        let has = fs::read_to_string("/proc/cgroups").unwrap().lines().any(|line| line.starts_with("perf_event\t"));
        if !has || !is_second && !Path::new(place.hierarchy).join("perf_event/cgroup.procs").exists() {
            let said = refused(&place, &flags);
            let why = if is_second { "CONFIG_CGROUP_PERF" } else { "needs the controller 'perf_event'" };
            assert!(said.contains(why), "{said}");
            let _ = writeln!(std::io::stderr(), "NOT TESTED (perf_event): it is not in {}", place.hierarchy);
            continue;
        }
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = place.start(&master, dir.path(), &flags);
        master.launch(task("t", "while :; do :; done"));
        master.update("t", TaskState::TaskRunning).await;
        let counting = async {
            loop {
                let perf = statistics(&agent).await["perf"].clone();
                if perf["task_clock"].as_f64().is_some_and(|millis| millis > 10.0) {
                    return perf;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let counted = tokio::time::timeout(PATIENCE, counting).await;
        let Ok(perf) = counted else { panic!("nothing was counted: {}", statistics(&agent).await) };
        assert!(perf["page_faults"].is_u64() && perf["duration"] == 0.1, "{perf}");
    }
}

/// The numbers on what containers send: each its own, that an agent which is started again finds.
#[tokio::test(flavor = "multi_thread")]
async fn what_containers_send_is_numbered() {
    for place in with("net_cls", "net_cls").into_iter().filter(|place| !place.is_second()) {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let flags = [
            "--isolation=cgroups/net_cls",
            "--cgroups_net_cls_primary_handle=0x12",
            "--cgroups_net_cls_secondary_handles=5,6",
        ];
        let agent = place.start(&master, dir.path(), &flags);
        let class = |status: &api::v1::TaskStatus| {
            status.container_status.as_ref().and_then(|one| one.cgroup_info.as_ref()?.net_cls.as_ref()?.classid)
        };
        master.launch(task("a", "exec sleep 1000"));
        assert_eq!(class(&master.update("a", TaskState::TaskRunning).await), Some(0x0012_0005));
        agent.kill();
        let agent = place.start(&master, dir.path(), &flags);
        master.launch(task("b", "exec sleep 1000"));
        assert_eq!(class(&master.update("b", TaskState::TaskRunning).await), Some(0x0012_0006));
        let (_, body) = http(&agent.address, "GET", "/containers", "", "").await;
        assert!(body.contains(&format!("\"classid\":{}", 0x0012_0005)), "{body}");
        master.launch(task("c", "exec sleep 1000"));
        let failed = master.update("c", TaskState::TaskFailed).await;
        assert!(failed.message().contains("5 to 6, are taken"), "{}", failed.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_at_the_start() {
    for place in Place::all("refused") {
        let is_second = place.is_second();
        let version = is_second.then_some(("--isolation=cgroups/net_cls", "needs control groups of the first version"));
        for (flags, why) in [
            (
                &[
                    "--isolation=cgroups/devices",
                    r#"--allowed_devices={"allowed_devices": [{"device": {"path": "/etc/passwd"}, "access": {"read": true}}]}"#,
                ][..],
                "/etc/passwd is no device",
            ),
            (&["--isolation=cgroups/perf_event", "--perf_events=cycles,everything"], "'everything'"),
            (&["--isolation=cgroups/net_cls", "--cgroups_net_cls_primary_handle=70000"], "between 1 and 0xffff"),
        ] {
            let said = refused(&place, flags);
            assert!(said.contains(why), "{said}");
        }
        if let Some((flag, why)) = version {
            let said = refused(&place, &[flag]);
            assert!(said.contains(why), "{said}");
        }
    }
}
