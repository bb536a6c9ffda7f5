//! `namespaces/user`, looked at from outside: who tasks of real agents are on the machine, what they try there, and what of theirs the
//! next one finds.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use agent_server::spec::Notice;
use agent_server::supervisor::users::{check_machine, map_of};
use api::v1::{self, ContainerInfo, TaskState};
use common::groups::Place;
use common::{Master, RealAgent, http, task, until, volume};

const ALL: &str = "--isolation=filesystem/linux,namespaces/user,namespaces/pid,namespaces/ipc";
const JSON: &str = "Content-Type: application/json\r\nAccept: application/json\r\n";
/// The first that a container has, by default.
const FIRST: u32 = 1_879_048_192;
const COUNT: u32 = 65_536;

/// A work_dir that everybody may come to, and control groups that nobody else uses.
struct Bench {
    groups: Place,
    master: Master,
    dir: tempfile::TempDir,
}

impl Bench {
    /// None here is told to who reads the output, not to libtest.
    async fn new(what: &str) -> Option<Bench> {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let users = agent_server::supervisor::users::Users { first: FIRST, count: COUNT };
        if let (false, _) | (_, Err(_)) = (nix::unistd::geteuid().is_root(), check_machine(users, dir.path())) {
            eprintln!("NOT TESTED ({what}): root, user namespaces and mounts with owners of their own are needed");
            return None;
        }
        let groups = Place::all(what).into_iter().next()?;
        Some(Bench { groups, master: Master::start().await, dir })
    }

    fn work_dir(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn start(&self, more: &[&str]) -> RealAgent {
        fs::create_dir_all(self.work_dir()).unwrap();
        let launcher = format!("--launcher_dir={}", self.launcher_dir().display());
        self.groups.start(&self.master, &self.work_dir(), &[&[launcher.as_str()], more].concat())
    }

    /// The agent's programs where everybody comes to: who is root in a container is nobody in the folders of root.
    fn launcher_dir(&self) -> PathBuf {
        let (folder, built) = (self.dir.path().join("libexec"), Path::new(env!("CARGO_BIN_EXE_meseta-agent")));
        fs::create_dir_all(&folder).unwrap();
        for name in ["meseta-executor", "meseta-default-executor", "meseta-fetcher", "meseta-docker"] {
            let (from, to) = (built.with_file_name(name), folder.join(name));
            if !to.exists() && fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).unwrap();
            }
        }
        folder
    }

    /// Runs a task to its end, and what it said.
    async fn says(&self, agent: &RealAgent, task: v1::TaskInfo) -> String {
        let id = task.task_id.value.clone();
        self.master.launch(task);
        let over = |status: &v1::TaskStatus| {
            !matches!(status.state(), TaskState::TaskStaging | TaskState::TaskStarting | TaskState::TaskRunning)
        };
        let what = format!("the end of {id}");
        let ended =
            self.master.wait(&what, |known| known.statuses().find(|status| status.task_id.value == id && over(status)));
        let status = ended.await;
        let sandbox = agent.sandbox(&id);
        let said = ["stdout", "stderr"].map(|name| fs::read_to_string(sandbox.join(name)).unwrap_or_default()).concat();
        assert_eq!(status.state(), TaskState::TaskFinished, "{}: {said}", status.message());
        said
    }

    /// The process of a task that runs, and its container.
    async fn runs(&self, task: v1::TaskInfo) -> (u32, String) {
        let id = task.task_id.value.clone();
        self.master.launch(task);
        let status = self.master.update(&id, TaskState::TaskRunning).await;
        let id = status.container_status.unwrap().container_id.unwrap().value;
        (self.pid(&id), id)
    }

    fn pid(&self, container_id: &str) -> u32 {
        let start = agent_server::spec::Files::new(self.work_dir().join("meta/containers"), container_id).start();
        match start.unwrap() {
            Some(Notice::Started(_, _, pid)) => pid,
            other => panic!("it runs: {other:?}"),
        }
    }
}

/// Who a process is on this machine: its user and its group, and whether these are its only ones.
fn who(pid: u32) -> (u32, u32) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ids = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(|id| id.parse().unwrap()).collect()
    };
    let (users, groups) = (ids("Uid:"), ids("Gid:"));
    assert!(users.iter().all(|id| *id == users[0]) && groups.iter().all(|id| *id == groups[0]), "{status}");
    (users[0], groups[0])
}

fn with(mut task: v1::TaskInfo, container: &str) -> v1::TaskInfo {
    let info: ContainerInfo = api::json::from_slice(container.as_bytes()).unwrap();
    task.container = Some(info.into());
    task
}

fn of(mut task: v1::TaskInfo, user: &str) -> v1::TaskInfo {
    task.command.as_mut().unwrap().user = Some(user.to_owned());
    task
}

fn host_path(path: &Path, at: &str, mode: &str) -> String {
    let path = path.display();
    format!(
        r#"{{"mode": "{mode}", "container_path": "{at}", "source": {{"type": "HOST_PATH", "host_path": {{"path": "{path}"}}}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn root_of_a_container_is_nobody_on_the_machine() {
    let Some(bench) = Bench::new("users").await else { return };
    let agent = bench.start(&[ALL]);
    let script = "id -u; id -g; id -G; stat -c '%u %g %a' . stdout; touch made; cat /proc/self/uid_map; \
                  while [ ! -e go ]; do sleep 0.02; done";
    let (pid, _) = bench.runs(task("a", script)).await;
    let (other, _) = bench.runs(task("b", "sleep 1000")).await;
    assert_eq!((who(pid), who(other)), ((FIRST, FIRST), (FIRST + COUNT, FIRST + COUNT)));
    let sandbox = fs::canonicalize(agent.sandbox("a")).unwrap();
    until("it has looked", || sandbox.join("made").exists()).await;
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    assert_eq!((owner(&sandbox), owner(&sandbox.join("made"))), (FIRST, FIRST));
    // All of its processes, also that which its world begins with.
    let group = bench.groups.containers().into_iter().find(|group| sandbox.ends_with(group.file_name().unwrap()));
    let all = fs::read_to_string(group.unwrap().join("cgroup.procs")).unwrap_or_default();
    let all: Vec<u32> = all.lines().map(|pid| pid.parse().unwrap()).collect();
    assert!(all.len() >= 2 || bench.groups.is_second(), "{all:?}");
    for pid in all {
        assert_eq!(who(pid), (FIRST, FIRST));
    }
    fs::write(sandbox.join("go"), "").unwrap();
    bench.master.update("a", TaskState::TaskFinished).await;
    let said = fs::read_to_string(sandbox.join("stdout")).unwrap();
    let map = said.lines().last().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.starts_with("0\n0\n0\n0 0 750\n0 0 644\n"), "{said}");
    assert_eq!(map, format!("0 {FIRST} {COUNT}"));
    // Nobody comes in who has the same numbers later. The agent still reads it.
    until("its sandbox is root's", || owner(&sandbox) == 0).await;
    assert_eq!(owner(&sandbox.join("made")), FIRST);
    let path = format!("/files/read?path={}/stdout&offset=0&length=2", sandbox.display());
    let (status, body) = http(&agent.address, "GET", &path, "", "").await;
    assert!(status.contains("200") && body.contains("0\\n"), "{status} {body}");
    // A user of the machine, with the groups that it has here.
    let groups = Command::new("id").args(["-G", "nobody"]).output().unwrap();
    let groups = String::from_utf8(groups.stdout).unwrap();
    let (pid, _) =
        bench.runs(of(task("n", "id -u; id -G; stat -c %u . stdout; touch made; sleep 1000"), "nobody")).await;
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!(who(pid).0, FIRST + 2 * COUNT + nobody.uid.as_raw());
    let sandbox = agent.sandbox("n");
    until("it has looked", || sandbox.join("made").exists()).await;
    let said = fs::read_to_string(sandbox.join("stdout")).unwrap();
    assert_eq!(said, format!("{0}\n{groups}{0}\n{0}\n", nobody.uid));
}

/// What root of a container tries, with all that a container may have: each line is what came of one attempt.
const HOSTILE: &str = r#"
    try() { what=$1; shift; if "$@" < /dev/null > /dev/null 2>&1; then echo "$what: DONE"; else echo "$what: no"; fi; }
    try secret cat bound/secret
    try append sh -c 'echo x >> bound/secret'
    try list ls bound/closed
    try take chown 0 bound/open
    try neighbour kill -9 NEIGHBOUR
    try supervisor kill -9 SUPERVISOR
    try trace python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL(None).ptrace(16, NEIGHBOUR, 0, 0))'
    try memory cat /proc/NEIGHBOUR/environ
    try root ls /proc/NEIGHBOUR/root/
    try node mknod null c 1 3
    try disk mknod disk b 254 0
    try limits sh -c 'echo 0 > GROUP/cgroup.procs'
    try host mount -t ext4 /dev/vda /mnt
    try bind sh -c 'touch mine && mount --bind bound/secret mine && cat mine'
    try etc touch /etc/meseta-test
    try sysctl sh -c 'echo x > /proc/sys/kernel/core_pattern'
    try trigger sh -c 'echo b > /proc/sysrq-trigger'
    try name hostname meseta-test
    try map sh -c 'echo 0 0 1 > /proc/self/uid_map'
    try again sh -c "echo 0 $(id -u) 1 > /proc/$$/uid_map"
    try below unshare -U sh -c 'echo 0 0 1 > /proc/self/uid_map; [ $(id -u) = 0 ] && cat bound/secret'
    try lift unshare -Ur sh -c 'cat bound/secret'
    try wide unshare -U python3 -c 'import os, time; p = os.getpid()
os.fork() or (time.sleep(0.3), open(f"/proc/{p}/uid_map", "w").write("0 0 4294967295"), os._exit(0))
os.wait(); os.setuid(0); open("bound/secret")'
    try groups setpriv --groups 42 cat bound/group
    try unmount umount /proc
    try suid setpriv --reuid 1000 --clear-groups su -c 'cat bound/secret'
    try module modprobe loop
    try time date -s 2001-01-01
    try load sh -c 'echo 1 > /proc/self/oom_score_adj; echo -1000 > /proc/self/oom_score_adj'
    try agent cat WORK/meta/log/CURRENT
    try volumes ls WORK/volumes
    try other ls OTHER/stdout
"#;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_to_the_machine_and_to_neighbours() {
    let Some(bench) = Bench::new("hostile users").await else { return };
    for isolation in [ALL, "--isolation=filesystem/linux,namespaces/user,cgroups/devices,linux/nnp"] {
        let agent = bench.start(&[isolation]);
        let bound = tempfile::tempdir().unwrap();
        fs::set_permissions(bound.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let file = |name: &str, mode: u32, group: u32| {
            let path = bound.path().join(name);
            fs::write(&path, "of the machine").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(&path, Some(0), Some(group)).unwrap();
        };
        file("secret", 0o600, 0);
        file("open", 0o644, 0);
        file("group", 0o040, 42);
        fs::create_dir(bound.path().join("closed")).unwrap();
        fs::set_permissions(bound.path().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        let (neighbour, _) = bench.runs(task("neighbour", "echo mine > own; exec sleep 1000")).await;
        let stat = fs::read_to_string(format!("/proc/{neighbour}/stat")).unwrap();
        let supervisor: u32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
        let other = fs::canonicalize(agent.sandbox("neighbour")).unwrap();
        let script = HOSTILE
            .replace("NEIGHBOUR", &neighbour.to_string())
            .replace("SUPERVISOR", &supervisor.to_string())
            .replace("GROUP", &bench.groups.tree.display().to_string())
            .replace("OTHER", &other.display().to_string())
            .replace("WORK", &bench.work_dir().display().to_string());
        let volumes = format!(r#"{{"type": "MESOS", "volumes": [{}]}}"#, host_path(bound.path(), "bound", "RO"));
        let said = bench.says(&agent, with(task("hostile", &script), &volumes)).await;
        let done: Vec<&str> = said.lines().filter(|line| !line.ends_with(": no")).collect();
        assert!(done.is_empty() && said.lines().count() > 30, "{isolation}: {said}");
        // What anybody may read, it reads; and what it may do among its own it does.
        let script = "set -e; cat bound/open; echo; touch f; chown 7:8 f; stat -c '%u %g' f; setpriv --reuid 9 --clear-groups id -u; \
                      unshare -m sh -c 'mount -t tmpfs none /mnt && touch /mnt/x && echo mounted'";
        let said = bench.says(&agent, with(task("own", script), &volumes)).await;
        assert_eq!(said, "of the machine\n7 8\n9\nmounted\n");
        assert!(!Path::new("/mnt/x").exists() && !Path::new("/etc/meseta-test").exists());
        assert!(Path::new(&format!("/proc/{neighbour}")).exists());
        assert_eq!(fs::read_to_string(bound.path().join("secret")).unwrap(), "of the machine");
        bench.master.kill("neighbour");
        bench.master.update("neighbour", TaskState::TaskKilled).await;
        agent.kill();
        fs::remove_dir_all(bench.work_dir()).unwrap();
        *bench.master.known.lock() = Default::default();
    }
}

/// What is written in a volume is, on the disk, as any container has it.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_kept_from_one_container_to_the_next() {
    let Some(bench) = Bench::new("volumes of users").await else { return };
    let agent = bench.start(&[ALL]);
    let made = volume("v");
    let kept = bench.work_dir().join("volumes/roles/eng dev/v");
    bench.master.create(1, &made, std::slice::from_ref(&made));
    until("it is made", || kept.exists()).await;
    let on = |id: &str, script: &str| {
        let mut task = task(id, script);
        task.resources.push(made.clone());
        task
    };
    let script = "set -e; stat -c %u data; mkdir data/d; echo one > data/d/x; touch data/n; chown 65534 data/n; cp /bin/true data/s; chmod 4755 data/s";
    assert_eq!(bench.says(&agent, on("one", script)).await, "0\n");
    let owner = |name: &str| fs::metadata(kept.join(name)).unwrap().uid();
    assert_eq!((owner("d/x"), owner("n"), owner("")), (0, 65_534, 0), "and not a number that is given again");
    // A program that makes others root, on the disk: nobody comes to it.
    let mode = fs::metadata(bench.work_dir().join("volumes")).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o700);
    let script = "set -e; stat -c %u data/d/x data/n data/s; cat data/d/x; echo two >> data/d/x; rm data/n";
    assert_eq!(bench.says(&agent, on("two", script)).await, "0\n65534\n0\none\n");
    assert_eq!(fs::read_to_string(kept.join("d/x")).unwrap(), "one\ntwo\n");
    // It becomes the user's; who is within a container finds that one's.
    let other = volume("w");
    bench.master.create(2, &other, std::slice::from_ref(&other));
    let mut own = of(task("own", "set -e; id -u; stat -c %u data; echo x > data/x; stat -c %u data/x"), "nobody");
    own.resources.push(other.clone());
    let said = bench.says(&agent, own).await;
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    assert_eq!(said, format!("{nobody}\n{nobody}\n{nobody}\n"));
    assert_eq!(fs::metadata(bench.work_dir().join("volumes/roles/eng dev/w/x")).unwrap().uid(), nobody);
    // Those that come to an executor that runs, too, and go.
    bench.master.launch_group("p", vec![task("first", "sleep 1000")]);
    bench.master.update("first", TaskState::TaskRunning).await;
    let script = "set -e; stat -c %u data data/d/x; echo three >> data/d/x";
    let mut third = task("third", script);
    third.resources.push(made.clone());
    bench.master.launch_group("p", vec![third]);
    let third = bench.master.update("third", TaskState::TaskFinished).await;
    let executor = fs::canonicalize(agent.sandbox("p")).unwrap();
    let id = third.container_status.unwrap().container_id.unwrap().value;
    let said = fs::read_to_string(executor.join("containers").join(id).join("stdout")).unwrap();
    assert_eq!(said, "0\n0\n");
    assert_eq!(fs::read_to_string(kept.join("d/x")).unwrap(), "one\ntwo\nthree\n");
    // One that an executor begins with, and another task comes to have.
    let volumes = |id: &str, mode: v1::volume::Mode| {
        let (mut task, mut volume) = (task(id, "while [ ! -e go ]; do sleep 0.02; done"), made.clone());
        volume.disk.as_mut().unwrap().volume.as_mut().unwrap().mode = mode as i32;
        task.resources.push(volume);
        task
    };
    let within = |running: &v1::TaskStatus| running.container_status.clone().unwrap().container_id.unwrap();
    bench.master.launch_group("q", vec![volumes("begins", v1::volume::Mode::Rw), task("stays", "sleep 1000")]);
    let begins = bench.master.update("begins", TaskState::TaskRunning).await;
    let executor = fs::canonicalize(agent.sandbox("q")).unwrap();
    let pid = bench.pid(&within(&begins).parent.unwrap().value);
    let seen = Path::new("/proc").join(pid.to_string()).join("root").join(executor.strip_prefix("/").unwrap());
    let sees = || fs::metadata(seen.join("data/d/x")).ok().map(|found| found.uid());
    let first = who(pid).0;
    assert_eq!(sees(), Some(first));
    let go =
        |running: &v1::TaskStatus| fs::write(executor.join("containers").join(within(running).value).join("go"), "");
    go(&begins).unwrap();
    bench.master.update("begins", TaskState::TaskFinished).await;
    until("its volume goes", || sees().is_none()).await;
    for (id, mode, can_write) in [("reads", v1::volume::Mode::Ro, false), ("writes", v1::volume::Mode::Rw, true)] {
        bench.master.launch_group("q", vec![volumes(id, mode)]);
        let running = bench.master.update(id, TaskState::TaskRunning).await;
        let flags = nix::sys::statvfs::statvfs(&seen.join("data")).unwrap().flags();
        let is_read_only = flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY);
        assert_eq!((sees(), !is_read_only), (Some(first), can_write), "{id}");
        go(&running).unwrap();
        bench.master.update(id, TaskState::TaskFinished).await;
        until("its volume goes", || sees().is_none()).await;
    }
    // Without such users volumes are as they were, and may be come to.
    agent.kill();
    let _agent = bench.start(&["--isolation=filesystem/linux"]);
    let mode = fs::metadata(bench.work_dir().join("volumes")).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o711);
}

/// An agent that was killed; what is within a container, and who looks into it, is whom that one's users are.
#[tokio::test(flavor = "multi_thread")]
async fn containers_are_found_again_with_their_users() {
    let Some(bench) = Bench::new("users again").await else { return };
    let agent = bench.start(&[ALL]);
    let mut checked = task("a", "while [ ! -e go ]; do sleep 0.02; done");
    let command = v1::CommandInfo {
        value: Some("id -u > checked; [ $(id -u) = 0 ] && ! cat SECRET".into()),
        ..Default::default()
    };
    let secret = bench.dir.path().join("secret");
    fs::write(&secret, "of the machine").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let command = v1::CommandInfo {
        value: command.value.map(|value| value.replace("SECRET", secret.to_str().unwrap())),
        ..command
    };
    checked.health_check = Some(Box::new(v1::HealthCheck {
        r#type: Some(v1::health_check::Type::Command as i32),
        command: Some(command),
        delay_seconds: Some(0.0),
        interval_seconds: Some(0.1),
        ..Default::default()
    }));
    let (pid, id) = bench.runs(checked).await;
    bench
        .master
        .wait("its health", |known| {
            known.statuses().find(|status| status.task_id.value == "a" && status.healthy.is_some())
        })
        .await;
    let healthy = bench.master.known.lock().statuses().filter_map(|status| status.healthy).last();
    let sandbox = fs::canonicalize(agent.sandbox("a")).unwrap();
    assert_eq!(healthy, Some(true), "{:?}", fs::read_to_string(sandbox.join("stderr")));
    assert_eq!(fs::metadata(sandbox.join("checked")).unwrap().uid(), FIRST);
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    // As the agent that launched it, and one that takes its place, launch what is within it.
    let within = async |agent: &RealAgent, name: &str| {
        let call = format!(
            r#"{{"type": "LAUNCH_CONTAINER", "launch_container": {{"container_id": {{"value": "{name}", "parent": {{"value": "{id}"}}}},
                "command": {{"value": "id -u > id; touch made; exec sleep 1000"}}}}}}"#
        );
        let (status, body) = http(&agent.address, "POST", "/api/v1", JSON, &call).await;
        assert!(status.contains("200"), "{status} {body}");
        let inner = sandbox.join("containers").join(name);
        until("it has looked", || inner.join("made").exists()).await;
        assert_eq!(fs::read_to_string(inner.join("id")).unwrap(), "0\n");
        let found = bench.pid(&format!("{id}.{name}"));
        assert_eq!((who(found), namespace(found)), ((FIRST, FIRST), namespace(pid)));
        assert_eq!(fs::metadata(inner.join("stdout")).unwrap().uid(), FIRST);
    };
    let session = async |agent: &RealAgent, name: &str| {
        let script = format!(
            "id -u > {name}; readlink /proc/self/ns/user >> {name}; cat {} || echo no >> {name}",
            secret.display()
        );
        let call = format!(
            r#"{{"type": "LAUNCH_NESTED_CONTAINER_SESSION", "launch_nested_container_session": {{"container_id": {{"value": "{name}",
                "parent": {{"value": "{id}"}}}}, "command": {{"value": "{script}"}}}}}}"#
        );
        let (status, body) = http(&agent.address, "POST", "/api/v1", JSON, &call).await;
        assert!(status.contains("200"), "{status} {body}");
        let seen = || fs::read_to_string(sandbox.join(name)).unwrap_or_default();
        until("the session looks", || seen().ends_with("no\n")).await;
        assert_eq!(seen(), format!("0\n{}\nno\n", namespace(pid).display()));
    };
    within(&agent, "in").await;
    session(&agent, "s").await;
    agent.kill();
    let agent = bench.start(&[ALL]);
    within(&agent, "later").await;
    session(&agent, "t").await;
    // Others have others.
    let (other, _) = bench.runs(task("b", "sleep 1000")).await;
    assert_eq!(who(other).0, FIRST + COUNT);
    // Also one that gives no users any more does not bring the machine's root in.
    agent.kill();
    let agent = bench.start(&["--isolation=filesystem/linux,namespaces/pid,namespaces/ipc"]);
    session(&agent, "u").await;
    agent.kill();
    let agent = bench.start(&[ALL]);
    fs::write(sandbox.join("go"), "").unwrap();
    bench.master.update("a", TaskState::TaskFinished).await;
    until("its sandbox is root's", || fs::metadata(&sandbox).unwrap().uid() == 0).await;
    // With other users, those that run keep theirs.
    agent.kill();
    let _agent = bench.start(&[ALL, "--container_user_range=[3000000000-3000199999]", "--container_user_count=100000"]);
    let (third, _) = bench.runs(task("c", "sleep 1000")).await;
    assert_eq!((who(third).0, who(other).0), (3_000_000_000, FIRST + COUNT));
    assert_eq!(map_of(third).unwrap().count, 100_000);
}

/// What a task brings along is fetched as its user, and is its user's.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_is_the_containers() {
    let Some(bench) = Bench::new("fetches of users").await else { return };
    let agent = bench.start(&[ALL]);
    let there = bench.dir.path().join("there");
    fs::write(&there, "public").unwrap();
    let secret = bench.dir.path().join("secret");
    fs::write(&secret, "of the machine").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let fetching = |id: &str, path: &Path, cache| {
        let mut task = task(id, "cat there; stat -c %u there");
        let value = path.display().to_string();
        task.command.as_mut().unwrap().uris =
            vec![v1::command_info::Uri { value, cache: Some(cache), ..Default::default() }];
        task
    };
    for cache in [false, true] {
        let said = bench.says(&agent, fetching(&format!("public{cache}"), &there, cache)).await;
        assert!(said.contains("public0\n"), "{said}");
        let id = format!("secret{cache}");
        bench.master.launch(fetching(&id, &secret, cache));
        let failed = bench.master.update(&id, TaskState::TaskFailed).await;
        assert!(failed.message().contains("Failed to fetch"), "{}", failed.message());
        assert!(!agent.sandbox(&id).join("secret").exists());
    }
}

/// Whoever is around a container may make links of all that it will have.
#[tokio::test(flavor = "multi_thread")]
async fn folders_of_what_is_within_lead_nowhere() {
    let Some(bench) = Bench::new("links of users").await else { return };
    let agent = bench.start(&[ALL]);
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("there")).unwrap();
    let (_, id) = bench.runs(task("a", "sleep 1000")).await;
    let sandbox = agent.sandbox("a");
    let launch = async |name: &str| {
        let call = format!(
            r#"{{"type": "LAUNCH_CONTAINER", "launch_container": {{"container_id": {{"value": "{name}", "parent": {{"value": "{id}"}}}},
                "command": {{"value": "true"}}}}}}"#
        );
        http(&agent.address, "POST", "/api/v1", JSON, &call).await
    };
    symlink(outside.path(), sandbox.join("containers")).unwrap();
    let (status, body) = launch("there").await;
    assert!(status.contains("400") && body.contains("cannot make the sandbox"), "{status} {body}");
    fs::remove_file(sandbox.join("containers")).unwrap();
    fs::create_dir(sandbox.join("containers")).unwrap();
    symlink(outside.path().join("there"), sandbox.join("containers/link")).unwrap();
    let (status, body) = launch("link").await;
    assert!(status.contains("400") && body.contains("cannot make the sandbox"), "{status} {body}");
    // What it is to write is opened as itself.
    let file = outside.path().join("there/file");
    fs::write(&file, "").unwrap();
    fs::create_dir(sandbox.join("containers/in")).unwrap();
    fs::hard_link(&file, sandbox.join("containers/in/stdout")).unwrap();
    let (status, body) = launch("in").await;
    assert!(status.contains("400") && body.contains("cannot open 'stdout'"), "{status} {body}");
    let there = fs::metadata(outside.path().join("there")).unwrap();
    assert_eq!((there.uid(), fs::metadata(&file).unwrap().uid()), (0, 0));
    assert_eq!(fs::read_dir(outside.path().join("there")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_go_together_is_refused() {
    let Some(bench) = Bench::new("refused users").await else { return };
    let refused = |flags: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_meseta-agent"))
            .args(["--master=127.0.0.1:1", "--ip=127.0.0.1", "--port=0"])
            .arg(format!("--work_dir={}", bench.dir.path().join("none").display()))
            .arg(format!("--cgroups_hierarchy={}", bench.groups.hierarchy))
            .arg(format!("--cgroups_root={}", bench.groups.root))
            .args(flags)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for (flags, why) in [
        (&["--isolation=namespaces/user"][..], "namespaces/user in --isolation needs filesystem/linux there"),
        (&[ALL, "--launcher=posix"], "--launcher"),
        (&[ALL, "--container_user_range=[1000-70000]"], "they are between 65536 and 4294967294"),
        (&[ALL, "--container_user_range=[70000-80000]"], "fewer than the --container_user_count"),
        (&[ALL, "--container_user_range=[70000-80000,90000-200000]"], "is one range of users"),
        (&[ALL, "--container_user_count=0"], "is a number of users, 1 or more"),
    ] {
        let said = refused(flags);
        assert!(said.contains(why), "{flags:?}: {said}");
    }
    let agent = bench.start(&[ALL, "--container_user_range=[100000-101999]", "--container_user_count=1000"]);
    let fails = async |task: v1::TaskInfo, why: &str| {
        let id = task.task_id.value.clone();
        bench.master.launch(task);
        let status = bench.master.update(&id, TaskState::TaskFailed).await;
        assert!(status.message().contains(why), "{}", status.message());
    };
    fails(of(task("high", "true"), "nobody"), "containers have 1000 (--container_user_count)").await;
    let volumes = host_path(bench.dir.path(), "v", "RW")
        .replace("\"}}}", "\", \"mount_propagation\": {\"mode\": \"BIDIRECTIONAL\"}}}}");
    let volumes = format!(r#"{{"type": "MESOS", "volumes": [{volumes}]}}"#);
    let shared = bench.dir.path();
    let at = |flags| nix::mount::mount(None::<&str>, shared, None::<&str>, flags, None::<&str>);
    use nix::mount::MsFlags;
    let _ = nix::mount::mount(Some(shared), shared, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    let _ = at(MsFlags::MS_SHARED);
    fails(with(task("both", "true"), &volumes), "mount_propagation BIDIRECTIONAL is for the machine's root").await;
    let _ = nix::mount::umount2(shared, nix::mount::MntFlags::MNT_DETACH);
    // Two have all that there are; what is left is given again.
    bench.runs(task("one", "sleep 1000")).await;
    bench.runs(task("two", "sleep 1000")).await;
    fails(task("three", "true"), "all users for containers are taken: 2 containers").await;
    bench.master.kill("one");
    bench.master.update("one", TaskState::TaskKilled).await;
    until("its sandbox is root's", || fs::metadata(agent.sandbox("one")).unwrap().uid() == 0).await;
    bench.says(&agent, task("four", "true")).await;
}

/// What confines a container besides, and its devices, processes and memory: of root and of somebody else, with and without that
/// nothing gives privileges.
#[tokio::test(flavor = "multi_thread")]
async fn what_else_confines_a_container_does_so() {
    let Some(bench) = Bench::new("confined users").await else { return };
    let profiles = bench.dir.path().join("profiles");
    fs::create_dir(&profiles).unwrap();
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"architecture": "SCMP_ARCH_X86_64"}, {"architecture": "SCMP_ARCH_AARCH64"}],
        "syscalls": [{"names": ["uname"], "action": "SCMP_ACT_ERRNO"}]}"#;
    fs::write(profiles.join("default.json"), profile).unwrap();
    let profiles =
        [format!("--seccomp_config_dir={}", profiles.display()), "--seccomp_profile_name=default.json".into()];
    let script = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\n\\t' '  '; id -u; uname || echo denied; \
                  touch f; (chown 7 f 2> /dev/null && echo gave) || echo kept; ls /proc | grep -c '^[0-9]'; \
                  df -k /dev/shm | tail -1 | awk '{print $2}'; stat -c %u /dev/shm; touch /dev/shm/x && echo shared";
    let private = r#"{"type": "MESOS", "linux_info": {"ipc_mode": "PRIVATE", "shm_size": 3}}"#;
    for (n, nnp) in [("", 0), (",linux/nnp", 1)] {
        let isolation = format!("{ALL},linux/capabilities,linux/seccomp,cgroups/devices{n}");
        let capabilities = r#"--effective_capabilities={"capabilities": ["CHOWN"]}"#;
        let agent = bench.start(&[&isolation, capabilities, &profiles[0], &profiles[1]]);
        for user in ["root", "nobody"] {
            let id = format!("{user}{nnp}");
            let said = bench.says(&agent, with(of(task(&id, script), user), private)).await;
            let uid = nix::unistd::User::from_name(user).unwrap().unwrap().uid;
            let count: u32 = said.lines().nth(3).and_then(|count| count.parse().ok()).unwrap_or_default();
            assert!((2..9).contains(&count), "{said}");
            let expected = format!(
                "CapEff: 0000000000000001 CapBnd: 0000000000000001 NoNewPrivs: {nnp} Seccomp: 2 {uid}\ndenied\ngave\n{count}\n3072\n0\nshared\n"
            );
            assert_eq!(said.replace("uname: cannot get system name: Operation not permitted\n", ""), expected, "{id}");
        }
        agent.kill();
        fs::remove_dir_all(bench.work_dir()).unwrap();
        *bench.master.known.lock() = Default::default();
    }
}
