//! The launcher of Linux: a control group for each container, looked at from outside.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use agent_server::spec::start_ticks;
use api::v1::TaskState;
use common::groups::{Place, innermost_first};
use common::{Master, RealAgent, http, number, task, until};

fn is_alive(pid: u32) -> bool {
    start_ticks(pid).is_some()
}

/// Whether a process is in a group or below it, as the kernel says.
fn is_in(pid: u32, group: &Path, place: &Place) -> bool {
    let mount = place.tree.parent().unwrap();
    let group = format!("/{}", group.strip_prefix(mount).unwrap().display());
    let all = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    all.lines().any(|line| line.split(':').nth(2).is_some_and(|path| Path::new(path).starts_with(&group)))
}

/// A task that does all it can to be forgotten: no environment, sessions of its own, no file of the sandbox open, parents that
/// ended, and at last its supervisor is killed.
const HOSTILE: &str = "there=$PWD; supervisor=$PPID; (env -i PATH=$PATH setsid sh -c \"exec </dev/null >/dev/null 2>&1; cd /; \
    (setsid sleep 1001 & echo \\$! > $there/second); echo \\$\\$ > $there/first; exec sleep 1002\" &); \
    while [ ! -s first ] || [ ! -s second ]; do sleep 0.01; done; while [ ! -e go ]; do sleep 0.01; done; \
    [ -e kill ] && kill -9 $supervisor; exec sleep 1003";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_escapes_the_end_of_its_container() {
    for place in Place::all("hostile") {
        for kills in [false, true] {
            let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
            let agent = place.start(&master, dir.path(), &[]);
            master.launch(task("t1", HOSTILE));
            master.update("t1", TaskState::TaskRunning).await;
            let sandbox = agent.sandbox("t1");
            let pids = [number(sandbox.join("first")).await, number(sandbox.join("second")).await];
            let group = place.group();
            assert!(pids.iter().all(|pid| is_alive(*pid) && is_in(*pid, &group, &place)), "{group:?}");
            if kills {
                fs::write(sandbox.join("kill"), "").unwrap();
                fs::write(sandbox.join("go"), "").unwrap();
                master.update("t1", TaskState::TaskFailed).await;
            } else {
                fs::write(sandbox.join("go"), "").unwrap();
                master.kill("t1");
                master.update("t1", TaskState::TaskKilled).await;
            }
            assert_eq!(pids.map(is_alive), [false, false], "kills its supervisor: {kills}");
            until("the group goes", || !group.exists()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_found_again_in_their_groups_and_others_are_ended() {
    for place in Place::all("again") {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = place.start(&master, dir.path(), &[]);
        let sandbox = agent.sandbox("t1");
        master.launch(task("t1", "echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done; exit 7"));
        let pid = number(sandbox.join("pid")).await;
        master.update("t1", TaskState::TaskRunning).await;
        let group = place.group();
        agent.kill();
        // What nobody knows: left by an agent whose log is lost, perhaps.
        let stray = place.tree.join("stray");
        let stray = if group.join("leaf").exists() { stray.join("leaf") } else { stray };
        fs::create_dir_all(&stray).unwrap();
        let script = format!("echo $$ > {}/cgroup.procs; exec sleep 1000", stray.display());
        let mut left = std::process::Command::new("sh").args(["-c", &script]).spawn().unwrap();
        until("it joins", || is_in(left.id(), &stray, &place)).await;
        let agent = place.start(&master, dir.path(), &[]);
        assert_eq!(left.wait().unwrap().code(), None, "killed");
        assert!(is_alive(pid) && is_in(pid, &group, &place));
        assert_eq!(place.group(), group);
        fs::write(sandbox.join("go"), "").unwrap();
        let status = master.update("t1", TaskState::TaskFailed).await;
        assert!(status.message().contains("exited with status 7"), "{}", status.message());
        until("the group goes", || !group.exists()).await;
        drop(agent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_within_another_has_its_group_below_that_ones() {
    for place in Place::all("nested") {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = place.start(&master, dir.path(), &[]);
        master.launch(task("t1", "sleep 1000"));
        master.update("t1", TaskState::TaskRunning).await;
        let group = place.group();
        let parent = group.file_name().unwrap().to_str().unwrap().to_owned();
        let call = format!(
            r#"{{"type": "LAUNCH_CONTAINER", "launch_container": {{"container_id": {{"value": "inner", "parent": {{"value": "{parent}"}}}},
                "command": {{"value": "echo $$ > pid; exec sleep 1000"}}}}}}"#
        );
        let (status, body) = http(&agent.address, "POST", "/api/v1", "Content-Type: application/json\r\n", &call).await;
        assert!(status.contains("200"), "{status} {body}");
        let pid = number(agent.sandbox("t1").join("containers/inner/pid")).await;
        let inner = group.join("mesos/inner");
        assert!(is_in(pid, &inner, &place), "{}", fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap());
        // What it is within ends, and it does.
        master.kill("t1");
        master.update("t1", TaskState::TaskKilled).await;
        assert!(!is_alive(pid));
        until("the groups go", || !group.exists()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_do_not_share_a_root() {
    for place in Place::all("shared") {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let other = tempfile::tempdir().unwrap();
        let _agent = place.start(&master, dir.path(), &[]);
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_meseta-agent"))
            .args(["--master=127.0.0.1:1", "--ip=127.0.0.1", "--port=0", "--launcher=linux"])
            .arg(format!("--work_dir={}", other.path().display()))
            .arg(format!("--cgroups_hierarchy={}", place.hierarchy))
            .arg(format!("--cgroups_root={}", place.root))
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains("another --cgroups_root"), "{stderr}");
    }
}

fn with(mut task: api::v1::TaskInfo, linux_info: api::v1::LinuxInfo) -> api::v1::TaskInfo {
    let kind = api::v1::container_info::Type::Mesos as i32;
    let info = api::v1::ContainerInfo { r#type: kind, linux_info: Some(linux_info), ..Default::default() };
    task.container = Some(info.into());
    task
}

fn namespace(pid: u32, name: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap()
}

/// The first process in the container's group that runs this program.
fn running(group: &Path, program: &str) -> Option<u32> {
    let groups = innermost_first(group);
    let pids = groups.iter().flat_map(|group| {
        let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>()
    });
    pids.into_iter()
        .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == program))
}

/// It sees its own processes alone, is the second of them, and what it leaves is reaped and ends with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_processes_of_its_own() {
    for place in Place::all("pid") {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = place.start(&master, dir.path(), &["--isolation=namespaces/pid,posix/rlimits"]);
        let sandbox = agent.sandbox("t1");
        let script = "(setsid sleep 1001 &); ls /proc | grep -c '^[0-9]' > count; echo $$ $PPID > own; \
                      while [ ! -e go ]; do sleep 0.02; done; exit 9";
        master.launch(task("t1", script));
        master.update("t1", TaskState::TaskRunning).await;
        until("it says who it is", || sandbox.join("own").exists()).await;
        until("it says who it is", || fs::read_to_string(sandbox.join("own")).unwrap().ends_with('\n')).await;
        assert_eq!(fs::read_to_string(sandbox.join("own")).unwrap(), "2 1\n");
        let count: u32 = fs::read_to_string(sandbox.join("count")).unwrap().trim().parse().unwrap();
        assert!(count <= 6, "{count} processes are seen");
        let group = place.group();
        until("what it left runs", || running(&group, "sleep").is_some()).await;
        let (left, own) = (running(&group, "sleep").unwrap(), std::process::id());
        assert_ne!(namespace(left, "pid"), namespace(own, "pid"));
        assert_ne!(namespace(left, "mnt"), namespace(own, "mnt"));
        assert!(fs::read_to_string("/proc/1/comm").is_ok(), "nothing is mounted over this machine's /proc");
        // A session sees what it is within as that sees itself.
        let parent = group.file_name().unwrap().to_str().unwrap();
        let call = format!(
            r#"{{"type": "LAUNCH_NESTED_CONTAINER_SESSION", "launch_nested_container_session": {{"container_id": {{"value": "s",
                "parent": {{"value": "{parent}"}}}}, "command": {{"value": "tr '\\\\0' ' ' < /proc/2/cmdline > session; ls /proc | grep -c '^[0-9]' >> session"}}}}}}"#
        );
        let head = "Content-Type: application/json\r\nAccept: application/json\r\n";
        let (status, body) = http(&agent.address, "POST", "/api/v1", head, &call).await;
        assert!(status.contains("200"), "{status} {body}");
        let seen = || fs::read_to_string(sandbox.join("session")).unwrap_or_default();
        until("the session looks", || seen().lines().count() >= 2 || seen().ends_with("\n")).await;
        assert!(seen().contains("while [ ! -e go ]"), "{}", seen());
        // Found again by another agent, whose orders reach the process itself.
        agent.kill();
        let agent = place.start(&master, dir.path(), &["--isolation=namespaces/pid"]);
        fs::write(sandbox.join("go"), "").unwrap();
        let status = master.update("t1", TaskState::TaskFailed).await;
        assert!(status.message().contains("exited with status 9"), "{}", status.message());
        assert!(!is_alive(left));
        master.launch(task("t2", "kill -9 $$"));
        let status = master.update("t2", TaskState::TaskFailed).await;
        assert!(status.message().contains("signal"), "{}", status.message());
        // Signals are the process's: the first one of its world hears none.
        master.launch(task("t3", "trap 'exit 0' TERM; touch ready; while :; do sleep 0.02; done"));
        master.update("t3", TaskState::TaskRunning).await;
        until("it is ready", || agent.sandbox("t3").join("ready").exists()).await;
        master.kill("t3");
        master.update("t3", TaskState::TaskKilled).await;
        master.launch(with(
            task("t4", "echo $$ > own"),
            api::v1::LinuxInfo { share_pid_namespace: Some(true), ..Default::default() },
        ));
        master.update("t4", TaskState::TaskFinished).await;
        let shared: u32 = fs::read_to_string(agent.sandbox("t4").join("own")).unwrap().trim().parse().unwrap();
        assert!(shared > 2, "{shared}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_shared_memory_of_its_own() {
    for place in Place::all("ipc").into_iter().take(1) {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent =
            place.start(&master, dir.path(), &["--isolation=namespaces/ipc", "--default_container_shm_size=5MB"]);
        let private = |shm_size| api::v1::LinuxInfo {
            ipc_mode: Some(api::v1::linux_info::IpcMode::Private as i32),
            shm_size,
            ..Default::default()
        };
        let look = "df -k /dev/shm | tail -1 | awk '{print $2}' > size; readlink /proc/self/ns/ipc > ipc; touch /dev/shm/meseta-own";
        for (id, task, size) in [
            ("t1", task("t1", &look.replace("touch /dev/shm/meseta-own", "true")), None),
            ("t2", with(task("t2", look), private(None)), Some("5120\n")),
            ("t3", with(task("t3", look), private(Some(3))), Some("3072\n")),
        ] {
            master.launch(task);
            master.update(id, TaskState::TaskFinished).await;
            let own = namespace(std::process::id(), "ipc").display().to_string();
            let found = |name: &str| fs::read_to_string(agent.sandbox(id).join(name)).unwrap();
            assert_ne!(found("ipc").trim(), own);
            assert!(size.is_none_or(|size| found("size") == size), "{id}: {}", found("size"));
        }
        assert!(!Path::new("/dev/shm/meseta-own").exists(), "the machine's is another one");
    }
}

/// What the kernel says of a process that was started with fewer capabilities, as root and as somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_may_do_what_it_was_allowed() {
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "NOT TESTED (capabilities): this is not root");
        return;
    }
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let flags = [
        "--isolation=linux/capabilities,linux/nnp",
        r#"--bounding_capabilities={"capabilities": ["CHOWN", "KILL", "NET_RAW"]}"#,
        r#"--effective_capabilities={"capabilities": ["KILL"]}"#,
    ];
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    let set = |all: &[api::v1::capability_info::Capability]| {
        Some(api::v1::CapabilityInfo { capabilities: all.iter().map(|one| *one as i32).collect() })
    };
    use api::v1::capability_info::Capability::{Chown, NetRaw, SysAdmin};
    let asked = |effective, bounding| api::v1::LinuxInfo {
        effective_capabilities: effective,
        bounding_capabilities: bounding,
        ..Default::default()
    };
    let look = "grep -E 'Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status > caps";
    let nobody = |mut task: api::v1::TaskInfo| {
        task.command.as_mut().unwrap().user = Some("nobody".into());
        task
    };
    let all = |effective: u64, bounding: u64| {
        let line = |name: &str, set: u64| format!("{name}:\t{set:016x}\n");
        let sets =
            [line("CapPrm", effective), line("CapEff", effective), line("CapBnd", bounding), line("CapAmb", effective)];
        format!("{}NoNewPrivs:\t1\n", sets.concat())
    };
    let (chown, kill, raw) = (1_u64, 1 << 5, 1 << 13);
    for (id, task, expected) in [
        ("t1", task("t1", look), all(kill, chown | kill | raw)),
        ("t2", with(task("t2", look), asked(set(&[NetRaw]), None)), all(raw, chown | kill | raw)),
        ("t3", nobody(with(task("t3", look), asked(set(&[Chown]), set(&[Chown, NetRaw])))), all(chown, chown | raw)),
    ] {
        master.launch(task);
        let ended = master.update(id, TaskState::TaskFinished).await;
        assert_eq!(fs::read_to_string(agent.sandbox(id).join("caps")).unwrap(), expected, "{id}: {}", ended.message());
    }
    master.launch(with(task("t4", look), asked(set(&[SysAdmin]), None)));
    let refused = master.update("t4", TaskState::TaskFailed).await;
    assert!(refused.message().contains("Requested capabilities '{SYS_ADMIN}', but only"), "{}", refused.message());
    // Without the isolator it is refused, not passed over.
    agent.kill();
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(with(task("t5", look), asked(set(&[NetRaw]), None)));
    let refused = master.update("t5", TaskState::TaskFailed).await;
    assert!(refused.message().contains("linux/capabilities in this agent's --isolation"), "{}", refused.message());
}

/// Keys of whoever started the agent are not found by tasks, and theirs not by each other.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_a_containers_own() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/usr/bin/python3").exists() {
        let _ = writeln!(std::io::stderr(), "NOT TESTED (keys): this is not root, or there is no python3");
        return;
    }
    for place in Place::all("keys").into_iter().take(1) {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = place.start(&master, dir.path(), &[]);
        let keyring = "python3 -c 'import ctypes; print(ctypes.CDLL(None).syscall(250, 0, -3, 0))' > keyring";
        for (id, user) in [("a", "root"), ("b", "nobody")] {
            let mut task = task(id, &format!("{keyring}; exec sleep 1000"));
            task.command.as_mut().unwrap().user = Some(user.to_owned());
            master.launch(task);
            master.update(id, TaskState::TaskRunning).await;
        }
        let own = std::process::Command::new("sh").args(["-c", &keyring.replace("> keyring", "")]).output().unwrap();
        let own = String::from_utf8_lossy(&own.stdout).trim().to_owned();
        let (a, b) =
            (number(agent.sandbox("a").join("keyring")).await, number(agent.sandbox("b").join("keyring")).await);
        assert!(a > 0 && b > 0 && a != b && a.to_string() != own && b.to_string() != own, "{a} {b} {own}");
    }
}
