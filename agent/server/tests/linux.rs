//! The launcher of Linux: a control group for each container, looked at from outside.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_server::spec::start_ticks;
use api::v1::TaskState;
use common::{Master, PATIENCE, RealAgent, http, task};

/// A place for control groups of one test: a hierarchy, a name that nobody else uses, and the tree that tells who runs where.
struct Place {
    hierarchy: &'static str,
    root: String,
    tree: PathBuf,
}

impl Place {
    /// One of each version of control groups that can be made here. None here is told to who reads the output, not to libtest.
    fn all(what: &str) -> Vec<Place> {
        let root = format!("meseta-test-{what}-{}", std::process::id());
        let of = |(hierarchy, tree): (&'static str, &str)| {
            let place = Place { hierarchy, tree: Path::new(tree).join(&root), root: root.clone() };
            let can = Path::new(tree).join("cgroup.procs").exists() && fs::create_dir(&place.tree).is_ok();
            can.then_some(place)
        };
        let trees = [
            ("/sys/fs/cgroup", "/sys/fs/cgroup/freezer"),
            ("/sys/fs/cgroup", "/sys/fs/cgroup"),
            ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified"),
        ];
        let found: Vec<Place> = trees.into_iter().filter_map(of).collect();
        if found.is_empty() {
            let _ = writeln!(std::io::stderr(), "NOT TESTED ({what}): no control groups can be made here");
        }
        found
    }

    fn start(&self, master: &Master, work_dir: &Path, more: &[&str]) -> RealAgent {
        let own = [
            "--launcher=linux".to_owned(),
            format!("--cgroups_hierarchy={}", self.hierarchy),
            format!("--cgroups_root={}", self.root),
        ];
        let flags: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        RealAgent::start(&master.address, work_dir, &flags)
    }

    /// The containers that have a group.
    fn containers(&self) -> Vec<PathBuf> {
        let found = fs::read_dir(&self.tree).into_iter().flatten().flatten();
        found.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()).collect()
    }

    /// The group of a container that has no other beside it.
    fn group(&self) -> PathBuf {
        let found = self.containers();
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let trees = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for root in trees.chain([PathBuf::from("/sys/fs/cgroup")]).map(|tree| tree.join(&self.root)) {
            for group in innermost_first(&root) {
                let _ = fs::remove_dir(group);
            }
        }
    }
}

/// A group and all below it, the inner ones first.
fn innermost_first(root: &Path) -> Vec<PathBuf> {
    let below = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let inner = below.filter(|path| path.is_dir()).flat_map(|path| innermost_first(&path));
    inner.collect::<Vec<_>>().into_iter().chain([root.to_owned()]).collect()
}

fn is_alive(pid: u32) -> bool {
    start_ticks(pid).is_some()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

async fn number(path: PathBuf) -> u32 {
    let read = || fs::read_to_string(&path).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
    until(&path.display().to_string(), || read().is_some()).await;
    read().unwrap()
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
