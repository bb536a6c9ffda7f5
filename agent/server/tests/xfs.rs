//! `disk/xfs`: what the kernel denies to containers, on a disk of XFS with quotas of projects. The folder of temporary files is to be
//! on one: `make qemu` has that.

mod common;
#[path = "../../images/tests/registry/mod.rs"]
mod registry;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent_server::supervisor::sys::quota::{self, Quota};
use api::v1::offer::{Operation, operation};
use api::v1::task_status::{Reason, Source};
use api::v1::value::Scalar;
use api::v1::{self, Resource, TaskInfo, TaskState};
use common::groups::Place;
use common::{Master, PATIENCE, RealAgent, create, http, task, volume};
use registry::{Asks, Made, Registry};
use serde_json::Value;

/// A folder for an agent. None here is told to who reads the output, not to libtest.
fn folder(what: &str) -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let state = File::open(dir.path()).and_then(|file| quota::state(&file));
    if !matches!(state, Ok(Some((true, true)))) || !nix::unistd::geteuid().is_root() {
        let at = std::env::temp_dir();
        let _ = writeln!(
            std::io::stderr(),
            "NOT TESTED ({what}): {} is not on XFS with quotas of projects: {state:?}",
            at.display()
        );
        return None;
    }
    Some(dir)
}

fn disk(mebibytes: f64) -> Resource {
    let scalar = Some(Scalar { value: mebibytes });
    Resource { name: "disk".into(), r#type: v1::value::Type::Scalar as i32, scalar, ..Resource::default() }
}

fn with(mut task: TaskInfo, more: &[Resource]) -> TaskInfo {
    task.resources.extend_from_slice(more);
    task
}

/// The project of a folder, and what the kernel says of it.
fn look(folder: &Path) -> (u32, Quota) {
    let file = File::open(folder).unwrap();
    let project = quota::project(&file).unwrap();
    (project, quota::quota(&file, project).unwrap())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

/// Waits until the statistics of an executor have something.
async fn statistics(agent: &RealAgent, executor_id: &str, has: impl Fn(&Value) -> bool) -> Value {
    let waiting = async {
        loop {
            let (_, body) = http(&agent.address, "GET", "/monitor/statistics", "", "").await;
            let all: Value = serde_json::from_str(&body).unwrap();
            let found = all.as_array().unwrap().iter().find(|one| one["executor_id"] == executor_id);
            let found = found.map_or(Value::Null, |one| one["statistics"].clone());
            if has(&found) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("statistics")
}

fn said(agent: &RealAgent, id: &str) -> String {
    fs::read_to_string(agent.sandbox(id).join("said")).unwrap_or_default()
}

/// `fill FILE MEBIBYTES`: says whether all of it could be written, and leaves nothing of what could not.
const FILL: &str = "fill() { if dd if=/dev/zero of=$1 bs=1M count=$2 conv=fsync 2>/dev/null; then w=all; else w=denied; rm $1; fi; \
    echo $1 $w >> said; }; awaits() { while [ ! -e $1 ]; do sleep 0.05; done; }; echo begun > said; ";

const ISOLATION: &str = "--isolation=posix/cpu,posix/mem,disk/xfs";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_is_all_that_can_be_written() {
    let Some(dir) = folder("denied") else { return };
    let master = Master::start().await;
    let flags = [ISOLATION, "--enforce_container_disk_quota", "--xfs_project_range=[7000-7009]"];
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    let script = format!("{FILL} fill a 2; fill b 8; awaits go; fill c 8; fill d 1; exec sleep 1000");
    master.launch(with(task("t", &script), &[disk(4.0)]));
    master.launch(task("free", &format!("{FILL} fill a 8; exec sleep 1000")));
    until("it has tried", || said(&agent, "t") == "begun\na all\nb denied\n").await;
    until("who was given none is free", || said(&agent, "free") == "begun\na all\n").await;
    let (project, found) = look(&agent.sandbox("t"));
    assert!((7000..=7009).contains(&project) && found.hard_bytes == 4 << 20, "{project} {found:?}");
    assert!((2 << 20..=4 << 20).contains(&found.used_bytes), "{found:?}");
    let (other, free) = look(&agent.sandbox("free"));
    assert!(other != project && free.hard_bytes == 0 && free.used_bytes >= 8 << 20, "{other} {free:?}");
    for name in ["a", "said", "stdout"] {
        assert_eq!(quota::project(&File::open(agent.sandbox("t").join(name)).unwrap()).unwrap(), project, "{name}");
    }
    // An agent that was killed, and another one: what the kernel was told holds meanwhile.
    agent.kill();
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    fs::write(agent.sandbox("t").join("go"), "").unwrap();
    until("it has tried again", || said(&agent, "t").ends_with("c denied\nd all\n")).await;
    let told =
        statistics(&agent, "t", |told| told["disk_used_bytes"].as_u64().is_some_and(|used| used >= 3 << 20)).await;
    assert!(told["disk_limit_bytes"] == 4 << 20 && told["disk_used_bytes"].as_u64().unwrap() <= 4 << 20, "{told}");
    assert_eq!(look(&agent.sandbox("t")).0, project);
    // What an agent of other terms finds is counted and not denied.
    agent.kill();
    let agent = RealAgent::start(&master.address, dir.path(), &[ISOLATION, "--xfs_project_range=[7000-7009]"]);
    until("the limit goes", || look(&agent.sandbox("t")).1.hard_bytes == 0).await;
    for id in ["t", "free"] {
        assert_eq!(master.history(id), ["TASK_STARTING", "TASK_RUNNING"], "{id}");
        master.kill(id);
        master.update(id, TaskState::TaskKilled).await;
    }
}

/// The limit of an executor is what it and its tasks have together, and follows that.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_follows_the_tasks_of_an_executor() {
    let Some(dir) = folder("follows") else { return };
    let master = Master::start().await;
    let flags = [ISOLATION, "--enforce_container_disk_quota", "--xfs_project_range=[7010-7019]"];
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    let executor = v1::ExecutorInfo {
        resources: task("", "").resources.into_iter().chain([disk(16.0)]).collect(),
        ..common::default_executor("pod")
    };
    let tasks = ["a", "b"].map(|id| with(task(id, "sleep 1000"), &[disk(8.0)]));
    master.launch_group_on(executor, tasks.to_vec());
    for id in ["a", "b"] {
        master.update(id, TaskState::TaskRunning).await;
    }
    let sandbox = agent.sandbox("pod");
    assert_eq!(look(&sandbox).1.hard_bytes, 32 << 20);
    // What is within it is in its project.
    let inner = fs::read_dir(sandbox.join("containers")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(look(&inner).0, look(&sandbox).0);
    master.kill("a");
    master.update("a", TaskState::TaskKilled).await;
    until("the limit follows", || look(&sandbox).1.hard_bytes == 24 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_are_given_back_with_the_files() {
    let Some(dir) = folder("given back") else { return };
    let master = Master::start().await;
    let flags = [ISOLATION, "--enforce_container_disk_quota", "--xfs_project_range=[7020-7021]"];
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    for id in ["one", "two"] {
        master.launch(with(task(id, "echo x > x"), &[disk(8.0)]));
        master.update(id, TaskState::TaskFinished).await;
    }
    let projects = ["one", "two"].map(|id| look(&agent.sandbox(id)).0);
    assert_eq!(projects, [7020, 7021]);
    master.launch(task("three", "true"));
    let failed = master.update("three", TaskState::TaskFailed).await;
    assert!(failed.message().contains("all projects of --xfs_project_range=[7020-7021] have files"), "{failed:?}");
    agent.kill();
    // One sandbox goes while no agent runs, the other one by the agent.
    let executor = dir.path().join("slaves/C-S0/frameworks/C-0000/executors/one");
    fs::remove_dir_all(executor).unwrap();
    let more = ["--gc_delay=0secs", "--disk_watch_interval=50ms"];
    let agent = RealAgent::start(&master.address, dir.path(), &[&flags[..], &more[..]].concat());
    let files = || {
        let file = File::open(dir.path()).unwrap();
        projects.map(|project| quota::quota(&file, project).unwrap().files)
    };
    until("the files go", || files() == [0, 0]).await;
    master.launch(task("four", "sleep 1000"));
    master.update("four", TaskState::TaskRunning).await;
    let (project, found) = look(&agent.sandbox("four"));
    assert!(projects.contains(&project) && found.hard_bytes == 0, "no limit of before: {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_more_is_ended_where_that_is_wanted() {
    let Some(dir) = folder("ended") else { return };
    let master = Master::start().await;
    let flags = [
        ISOLATION,
        "--enforce_container_disk_quota",
        "--xfs_kill_containers",
        "--container_disk_watch_interval=200ms",
        "--xfs_project_range=[7030-7039]",
    ];
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    master.launch(with(task("good", &format!("{FILL} fill a 1; exec sleep 1000")), &[disk(4.0)]));
    master.launch(with(task("greedy", &format!("{FILL} fill a 6; exec sleep 1000")), &[disk(2.0)]));
    let failed = master.update("greedy", TaskState::TaskFailed).await;
    assert_eq!((failed.source(), failed.reason()), (Source::Agent, Reason::ContainerLimitationDisk));
    let message = failed.message();
    assert!(message.starts_with("Disk usage (") && message.ends_with(") exceeded quota (2MB)"), "{message}");
    assert_eq!(failed.limitation.unwrap().resources, [disk(2.0)]);
    // So far, and no further.
    let (_, found) = look(&agent.sandbox("greedy"));
    assert_eq!((found.soft_bytes, found.hard_bytes), (2 << 20, 12 << 20));
    master.launch(with(task("later", &format!("{FILL} awaits go; fill a 6; exec sleep 1000")), &[disk(2.0)]));
    master.update("later", TaskState::TaskRunning).await;
    agent.kill();
    fs::write(dir.path().join("slaves/C-S0/frameworks/C-0000/executors/later/runs/latest/go"), "").unwrap();
    let _agent = RealAgent::start(&master.address, dir.path(), &flags);
    let failed = master.update("later", TaskState::TaskFailed).await;
    assert_eq!((failed.source(), failed.reason()), (Source::Agent, Reason::ContainerLimitationDisk));
    assert_eq!(master.history("good"), ["TASK_STARTING", "TASK_RUNNING"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_has_a_project_of_its_own() {
    let Some(dir) = folder("volumes") else { return };
    let master = Master::start().await;
    let flags = [ISOLATION, "--enforce_container_disk_quota", "--xfs_project_range=[7040-7049]"];
    // What was there before, of an agent that had no quotas.
    let agent = RealAgent::start(&master.address, dir.path(), &["--isolation=posix/cpu"]);
    let made = Resource { scalar: Some(Scalar { value: 4.0 }), ..volume("v") };
    master.apply(1, create(vec![made.clone()]), vec![made.clone()]);
    let script =
        "mkdir -p data/deep/er; dd if=/dev/zero of=data/deep/er/old bs=1M count=2 2>/dev/null; ln -s / data/all";
    master.launch(with(task("before", script), std::slice::from_ref(&made)));
    master.update("before", TaskState::TaskFinished).await;
    agent.kill();
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    let script = format!("{FILL} fill data/b 8; fill data/c 1; fill d 3; exec sleep 1000");
    master.launch(with(task("t", &script), &[disk(4.0), made.clone()]));
    until("it has tried", || said(&agent, "t") == "begun\ndata/b denied\ndata/c all\nd all\n").await;
    let place = dir.path().join("volumes/roles/eng dev/v");
    let ((project, found), (of_sandbox, _)) = (look(&place), look(&agent.sandbox("t")));
    assert!(project != of_sandbox && found.hard_bytes == 4 << 20, "{project} {of_sandbox} {found:?}");
    assert_eq!(quota::project(&File::open(place.join("deep/er/old")).unwrap()).unwrap(), project);
    assert!((3 << 20..=4 << 20).contains(&found.used_bytes), "what was there counts: {found:?}");
    let told = statistics(&agent, "t", |told| told["disk_statistics"][0]["used_bytes"].is_u64()).await;
    let of_volume = &told["disk_statistics"][0];
    assert!(of_volume["persistence"]["id"] == "v" && of_volume["limit_bytes"] == 4 << 20, "{told}");
    assert!(told["disk_used_bytes"].as_u64().unwrap() < 4 << 20, "{told}");
    master.kill("t");
    master.update("t", TaskState::TaskKilled).await;
    // Another task, another agent: the same project, until the volume is destroyed.
    agent.kill();
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    master.launch(with(task("again", &format!("{FILL} fill data/b 8")), std::slice::from_ref(&made)));
    master.update("again", TaskState::TaskFinished).await;
    assert_eq!((said(&agent, "again"), look(&place).0), ("begun\ndata/b denied\n".to_owned(), project));
    let destroy = Some(operation::Destroy { volumes: vec![made] });
    let destroy = Operation { r#type: Some(operation::Type::Destroy as i32), destroy, ..Default::default() };
    master.apply(2, destroy, Vec::new());
    until("its project is free", || quota::quota(&File::open(dir.path()).unwrap(), project).unwrap().files == 0).await;
}

/// What a container writes to its root, beside what the image has, is its sandbox's.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_to_a_root_of_its_own_counts() {
    let Some(dir) = folder("roots") else { return };
    let Some(place) = Place::all("xfs-roots").into_iter().next() else { return };
    if let Err(why) = agent_server::supervisor::mounts::check_machine() {
        let _ = writeln!(std::io::stderr(), "NOT TESTED (roots): {why}");
        return;
    }
    let (master, registry) = (Master::start().await, Registry::start(Asks::Nobody).await);
    registry.push("app", "latest", &Made::busybox("{}"));
    let base = format!("--docker_registry={}", registry.base());
    let flags = [
        "--isolation=filesystem/linux,docker/runtime,disk/xfs",
        "--enforce_container_disk_quota",
        "--xfs_project_range=[7050-7059]",
        "--image_providers=docker",
        "--image_provisioner_backend=overlay",
        &base,
    ];
    let agent = place.start(&master, dir.path(), &flags);
    let docker = v1::image::Docker { name: "app".into(), ..Default::default() };
    let image = v1::Image { r#type: v1::image::Type::Docker as i32, docker: Some(docker), ..Default::default() };
    let info = v1::ContainerInfo {
        r#type: v1::container_info::Type::Mesos as i32,
        mesos: Some(v1::container_info::MesosInfo { image: Some(image) }),
        ..Default::default()
    };
    let script =
        format!("cd $MESOS_SANDBOX; {FILL} fill /a 2; fill /b 8; fill c 8; awaits go; fill /d 8; exec sleep 1000");
    let task = with(task("t", &script), &[disk(4.0)]);
    master.launch(TaskInfo { container: Some(info.into()), ..task });
    until("it has tried", || said(&agent, "t") == "begun\n/a all\n/b denied\nc denied\n").await;
    let (project, found) = look(&agent.sandbox("t"));
    assert!((2 << 20..=4 << 20).contains(&found.used_bytes), "{found:?}");
    agent.kill();
    let agent = place.start(&master, dir.path(), &flags);
    fs::write(agent.sandbox("t").join("go"), "").unwrap();
    until("it has tried again", || said(&agent, "t").ends_with("/d denied\n")).await;
    master.kill("t");
    master.update("t", TaskState::TaskKilled).await;
    until("its root goes", || look(&agent.sandbox("t")).1.used_bytes < 1 << 20).await;
    assert_eq!(look(&agent.sandbox("t")).0, project);
}

#[test]
fn what_cannot_be_is_refused_at_the_start() {
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    for (flags, why) in [
        (&[][..], if nix::unistd::geteuid().is_root() { "is not on XFS" } else { "needs root" }),
        (&["--xfs_project_range=[0-7]"], "0 is no project"),
        (&["--xfs_project_range=[5-4294967296]"], "no more than 4294967295"),
        (&["--xfs_project_range=[1-2000000]"], "there can be 1 to 1000000"),
        (&["--xfs_project_range=5"], "'--xfs_project_range' names no projects"),
        (&["--isolation=disk/xfs,disk/du"], "count the same: give one of them"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_meseta-agent"))
            .args(["--master=127.0.0.1:1", "--ip=127.0.0.1", "--port=0"])
            .args((!flags.iter().any(|flag| flag.starts_with("--isolation"))).then_some(ISOLATION))
            .arg(format!("--work_dir={}", memory.path().display()))
            .args(flags)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains(why), "{flags:?}: {stderr}");
    }
}
