//! Isolators of control groups: what they set and what the kernel then does, looked at from outside.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use agent_server::spec::start_ticks;
use api::v1;
use api::v1::TaskState;
use api::v1::task_status::Reason;
use common::groups::innermost_first;
use common::{Master, PATIENCE, RealAgent, http, task, until};

const HIERARCHY: &str = "/sys/fs/cgroup";
const MB: u64 = 1 << 20;

/// A name for control groups that nobody else uses.
struct Root {
    name: String,
    second: bool,
}

impl Root {
    /// None if they cannot be made here, which is told to who reads the output, not to libtest.
    fn new(what: &str) -> Option<Root> {
        let name = format!("meseta-test-{what}-{}", std::process::id());
        let second = Path::new(HIERARCHY).join("cgroup.procs").exists();
        let root = Root { name, second };
        let needed: &[&str] = if second { &["memory", "cpu"] } else { &["memory", "cpu", "cpuacct", "freezer"] };
        let can = needed.iter().all(|controller| {
            let made = root.tree(controller);
            made.is_dir() || (made.parent().unwrap().join("cgroup.procs").exists() && fs::create_dir(&made).is_ok())
        });
        if !can {
            let _ = writeln!(
                std::io::stderr(),
                "NOT TESTED ({what}): there are no control groups that can be limited here"
            );
        }
        can.then_some(root)
    }

    fn tree(&self, controller: &str) -> PathBuf {
        let tree = Path::new(HIERARCHY);
        let tree = if self.second { tree.to_owned() } else { tree.join(controller) };
        tree.join(&self.name)
    }

    /// The group of the only container.
    fn group(&self, controller: &str) -> PathBuf {
        let found: Vec<PathBuf> = fs::read_dir(self.tree(controller))
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }

    /// A number that the kernel has, by its names in the first and the second version.
    fn number(&self, controller: &str, names: [&str; 2]) -> u64 {
        let text = fs::read_to_string(self.group(controller).join(names[usize::from(self.second)])).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn start(&self, master: &Master, work_dir: &Path, isolation: &str, more: &[&str]) -> RealAgent {
        let own = [format!("--isolation={isolation}"), format!("--cgroups_root={}", self.name)];
        let flags: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        RealAgent::start(&master.address, work_dir, &flags)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Of a test that failed.
        let _ = agent_server::supervisor::cgroup::end(&self.tree("freezer"), PATIENCE);
        let trees = fs::read_dir(HIERARCHY).into_iter().flatten().flatten().map(|entry| entry.path());
        for tree in trees.chain([PathBuf::from(HIERARCHY)]) {
            for group in innermost_first(&tree.join(&self.name)) {
                let _ = fs::remove_dir(group);
            }
        }
    }
}

fn sized(id: &str, command: &str, cpus: f64, mem: f64, limits: &[(&str, f64)]) -> v1::TaskInfo {
    let scalar = |value| v1::value::Scalar { value };
    let mut task = task(id, command);
    for resource in &mut task.resources {
        resource.scalar = Some(scalar(if resource.name == "cpus" { cpus } else { mem }));
    }
    task.limits = limits.iter().map(|(name, most)| ((*name).to_owned(), scalar(*most))).collect();
    task
}

/// Takes more and more memory.
const HOG: &str = "tail /dev/zero";

/// The kernel ends one process of it, or all that there is: the container is ended, and its task says why.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_more_memory_than_its_limit_is_ended_for_it() {
    let Some(root) = &Root::new("oom") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let _agent = root.start(&master, dir.path(), "cgroups/cpu,cgroups/mem", &[]);
    for (id, command) in [("first", format!("exec {HOG}")), ("other", format!("{HOG} & sleep 1000"))] {
        master.launch(sized(id, &command, 0.1, 48.0, &[]));
        let status = master.update(id, TaskState::TaskFailed).await;
        assert_eq!(status.reason(), Reason::ContainerLimitationMemory, "{}", status.message());
        assert!(
            status.message().starts_with("Memory limit exceeded: Requested: 80MB Maximum Used: "),
            "{}",
            status.message()
        );
        let limited = &status.limitation.as_ref().unwrap().resources[0];
        assert_eq!(limited.name, "mem");
        let used = limited.scalar.as_ref().unwrap().value;
        assert!((70.0..=81.0).contains(&used), "{used}");
        until("the group goes", || {
            fs::read_dir(root.tree("memory")).unwrap().flatten().all(|one| !one.path().is_dir())
        })
        .await;
    }
}

/// The agent is away when it happens; what came of it is told nevertheless.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_away_knows_what_was_exceeded() {
    let Some(root) = &Root::new("away") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let start = || root.start(&master, dir.path(), "cgroups/mem", &[]);
    let agent = start();
    master.launch(sized("gone", &format!("while [ ! -e go ]; do sleep 0.02; done; exec {HOG}"), 0.1, 32.0, &[]));
    master.update("gone", TaskState::TaskRunning).await;
    let sandbox = agent.sandbox("gone");
    let group = root.group("memory");
    agent.kill();
    fs::write(sandbox.join("go"), "").unwrap();
    let procs =
        || fs::read_to_string(group.join(if root.second { "leaf/cgroup.procs" } else { "cgroup.procs" })).unwrap();
    until("it is ended", || procs().is_empty()).await;
    let _agent = start();
    let status = master.update("gone", TaskState::TaskFailed).await;
    assert_eq!(status.reason(), Reason::ContainerLimitationMemory, "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_are_shared_by_what_was_asked_for_and_bounded_by_limits() {
    let Some(root) = &Root::new("cpu") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = root.start(&master, dir.path(), "cgroups/cpu,cgroups/mem", &[]);
    // What an agent adds for the executor of a command is a tenth of a processor and 32 MB.
    let busy = "while :; do :; done";
    master.launch(sized("t", busy, 0.9, 96.0, &[("cpus", 0.1), ("mem", 224.0)]));
    master.update("t", TaskState::TaskRunning).await;
    assert_eq!(root.number("cpu", ["cpu.shares", "cpu.weight"]), [1024, 100][usize::from(root.second)]);
    assert_eq!(root.number("cpu", ["cpu.cfs_quota_us", "cpu.max"]), 20_000);
    assert_eq!(root.number("memory", ["memory.limit_in_bytes", "memory.max"]), 256 * MB);
    assert_eq!(root.number("memory", ["memory.soft_limit_in_bytes", "memory.low"]), 128 * MB);
    let throttled = || {
        let text = fs::read_to_string(root.group("cpu").join("cpu.stat")).unwrap();
        // Counted when it goes on.
        text.lines().any(|line| line.starts_with("throttled_") && !line.ends_with(" 0"))
    };
    until("it is held back", throttled).await;
    let (_, body) = http(&agent.address, "GET", "/monitor/statistics", "", "").await;
    let statistics = &serde_json::from_str::<serde_json::Value>(&body).unwrap()[0]["statistics"];
    assert_eq!(statistics["cpus_limit"], 0.2, "{body}");
    assert_eq!(statistics["cpus_soft_limit"], 1.0, "{body}");
    assert_eq!(statistics["mem_limit_bytes"], 256 * MB, "{body}");
    assert_eq!(statistics["mem_soft_limit_bytes"], 128 * MB, "{body}");
    for counted in ["cpus_nr_periods", "cpus_nr_throttled", "mem_total_bytes"] {
        assert!(statistics[counted].as_u64().is_some_and(|count| count > 0), "{counted}: {body}");
    }
    for used in ["cpus_user_time_secs", "cpus_throttled_time_secs"] {
        assert!(statistics[used].as_f64().is_some_and(|seconds| seconds > 0.0), "{used}: {body}");
    }
    master.kill("t");
    master.update("t", TaskState::TaskKilled).await;
    until("its groups go", || fs::read_dir(root.tree("cpu")).unwrap().flatten().all(|one| !one.path().is_dir())).await;
}

/// Without a limit all that nobody else wants is theirs, unless that is not wanted.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_is_a_bound_only_if_that_is_wanted() {
    let Some(root) = &Root::new("cfs") else { return };
    for (flags, quota) in [(&[][..], None), (&["--cgroups_enable_cfs"][..], Some(110_000))] {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = root.start(&master, dir.path(), "cgroups/all", flags);
        master.launch(sized("t", "echo $$ > pid; exec sleep 1000", 1.0, 32.0, &[]));
        master.update("t", TaskState::TaskRunning).await;
        let text = fs::read_to_string(root.group("cpu").join(if root.second { "cpu.max" } else { "cpu.cfs_quota_us" }));
        assert_eq!(text.unwrap().split_whitespace().next().unwrap().parse::<u64>().ok(), quota);
        let (_, body) = http(&agent.address, "GET", "/containers", "", "").await;
        let statistics = &serde_json::from_str::<serde_json::Value>(&body).unwrap()[0]["statistics"];
        assert_eq!((&statistics["processes"], &statistics["threads"]), (&1.into(), &1.into()), "{body}");
        let read = || fs::read_to_string(agent.sandbox("t").join("pid")).unwrap_or_default();
        until("it says who it is", || read().ends_with('\n')).await;
        let pid: u32 = read().trim().parse().unwrap();
        master.kill("t");
        master.update("t", TaskState::TaskKilled).await;
        assert_eq!(start_ticks(pid), None);
        let trees = ["memory", "cpu", "cpuacct", "pids", "freezer"].map(|controller| root.tree(controller));
        let is_empty =
            |tree: &PathBuf| fs::read_dir(tree).into_iter().flatten().flatten().all(|one| !one.path().is_dir());
        until("its groups go", || trees.iter().all(is_empty)).await;
    }
}

/// A task that is limited by itself, within what its executor has.
fn apart(mut task: v1::TaskInfo) -> v1::TaskInfo {
    let kind = v1::container_info::Type::Mesos as i32;
    let linux_info = Some(v1::LinuxInfo { share_cgroups: Some(false), ..Default::default() });
    task.container = Some(v1::ContainerInfo { r#type: kind, linux_info, ..Default::default() }.into());
    task
}

/// What an executor may use follows its tasks while it runs; each of them may be limited by itself within that.
#[tokio::test(flavor = "multi_thread")]
async fn an_executor_may_use_what_its_tasks_were_given() {
    let Some(root) = &Root::new("group") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let _agent = root.start(&master, dir.path(), "cgroups/cpu,cgroups/mem", &[]);
    let limit = |group: &Path| -> u64 {
        let name = if root.second { "memory.max" } else { "memory.limit_in_bytes" };
        fs::read_to_string(group.join(name)).unwrap_or_default().trim().parse().unwrap_or(0)
    };
    master.launch_group("e", vec![apart(sized("a", "sleep 1000", 0.1, 64.0, &[]))]);
    master.update("a", TaskState::TaskRunning).await;
    let outer = root.group("memory");
    assert_eq!(limit(&outer), 64 * MB);
    let inner: Vec<PathBuf> = fs::read_dir(outer.join("mesos")).unwrap().flatten().map(|one| one.path()).collect();
    let inner: Vec<&PathBuf> = inner.iter().filter(|path| path.is_dir()).collect();
    assert_eq!((inner.len(), limit(inner[0])), (1, 64 * MB));
    master.launch_group("e", vec![apart(sized("b", &format!("sleep 0.1; exec {HOG}"), 0.1, 96.0, &[]))]);
    until("the executor has more", || limit(&outer) == 160 * MB).await;
    // The task that takes too much is ended for it, and nobody else.
    let status = master.update("b", TaskState::TaskFailed).await;
    assert_eq!(status.reason(), Reason::ContainerLimitationMemory, "{}", status.message());
    assert!(status.message().contains("Requested: 96MB"), "{}", status.message());
    assert_eq!(status.limitation.as_ref().unwrap().resources[0].name, "mem");
    assert_eq!(master.history("a").last(), Some(&"TASK_RUNNING"));
    master.kill("a");
    master.update("a", TaskState::TaskKilled).await;
    until("the groups go", || !outer.exists()).await;
}
