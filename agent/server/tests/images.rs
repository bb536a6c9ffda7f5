//! Images through the front door: a real agent, tasks in images of a registry, and what becomes of both when something ends.

mod common;
#[path = "../../images/tests/registry/mod.rs"]
mod registry;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::v1::task_status::Reason;
use api::v1::{self, TaskInfo, TaskState};
use common::{Master, PATIENCE, RealAgent, framework, http, task};
use registry::{Asks, Made, Registry, layer};
use serde_json::{Value, json};

const JSON: &str = "Content-Type: application/json\r\nAccept: application/json\r\n";

/// What one test needs: a master, a registry, a folder for an agent, and control groups that nobody else uses.
struct Bench {
    master: Master,
    registry: Registry,
    dir: tempfile::TempDir,
    groups: String,
    hierarchy: &'static str,
}

impl Bench {
    /// None here is told to who reads the output, not to libtest.
    async fn new(what: &str) -> Option<Bench> {
        Bench::with(what, Registry::start(Asks::Nobody).await).await
    }

    async fn with(what: &str, registry: Registry) -> Option<Bench> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let has = |path: &str| Path::new(path).join("cgroup.procs").exists();
        let hierarchy = match (has("/sys/fs/cgroup/freezer"), has("/sys/fs/cgroup"), has("/sys/fs/cgroup/unified")) {
            (true, ..) | (_, true, _) => Some("/sys/fs/cgroup"),
            (.., true) => Some("/sys/fs/cgroup/unified"),
            _ => None,
        };
        let mounts = agent_server::supervisor::mounts::check_machine();
        let (Some(hierarchy), Ok(()), true) = (hierarchy, &mounts, nix::unistd::geteuid().is_root()) else {
            let _ = writeln!(
                std::io::stderr(),
                "NOT TESTED ({what}): root, control groups and mounts are needed: {mounts:?}"
            );
            return None;
        };
        let groups = format!("meseta-test-images-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Some(Bench { master: Master::start().await, registry, dir, groups, hierarchy })
    }

    fn work_dir(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn flags(&self, more: &[&str]) -> Vec<String> {
        let has = |name: &str| more.iter().any(|flag| flag.starts_with(name));
        let registry = format!("--docker_registry={}", self.registry.base());
        let mut flags =
            vec![format!("--cgroups_hierarchy={}", self.hierarchy), format!("--cgroups_root={}", self.groups)];
        flags.extend(
            (!has("--isolation")).then(|| "--isolation=filesystem/linux,docker/runtime,volume/image".to_owned()),
        );
        flags.extend((!has("--image_providers")).then(|| "--image_providers=docker".to_owned()));
        flags.extend((!has("--docker_registry")).then_some(registry));
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        flags
    }

    fn start(&self, more: &[&str]) -> RealAgent {
        let flags = self.flags(more);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        fs::create_dir_all(self.work_dir()).unwrap();
        RealAgent::start(&self.master.address, &self.work_dir(), &flags)
    }

    /// What is mounted, begun or kept of containers of images.
    fn roots(&self) -> usize {
        let below = fs::read_dir(self.work_dir().join("provisioner/containers"));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let work_dir = self.work_dir().display().to_string();
        below.map_or(0, |below| below.count()) + mounts.lines().filter(|line| line.contains(&work_dir)).count()
    }

    fn layers(&self) -> usize {
        fs::read_dir(self.work_dir().join("store/docker/layers")).unwrap().count()
    }

    /// What a task that ended wrote, once it finished.
    async fn says(&self, agent: &RealAgent, task: TaskInfo) -> String {
        let id = task.task_id.value.clone();
        self.master.launch(task);
        let end = self
            .master
            .wait(&format!("the end of {id}"), |known| {
                known.statuses().find(|one| {
                    one.task_id.value == id
                        && matches!(one.state(), TaskState::TaskFinished | TaskState::TaskFailed | TaskState::TaskError)
                })
            })
            .await;
        let read = |name: &str| fs::read_to_string(agent.sandbox(&id).join(name)).unwrap_or_default();
        assert_eq!(end.state(), TaskState::TaskFinished, "{}: {}", end.message(), read("stderr"));
        read("stdout")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Of a test that failed: processes first, then what is mounted for them.
        let trees = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        let trees: Vec<PathBuf> =
            trees.chain([PathBuf::from("/sys/fs/cgroup")]).map(|tree| tree.join(&self.groups)).collect();
        for tree in [Path::new(self.hierarchy).join("freezer"), PathBuf::from(self.hierarchy)] {
            let _ = agent_server::supervisor::cgroup::end(&tree.join(&self.groups), PATIENCE);
        }
        fn innermost_first(group: &Path) {
            let below = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
            below.filter(|path| path.is_dir()).for_each(|path| innermost_first(&path));
            let _ = fs::remove_dir(group);
        }
        trees.iter().for_each(|tree| innermost_first(tree));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for at in below.filter(|at| Path::new(at).starts_with(self.dir.path())) {
            let _ = nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn image(name: &str) -> v1::Image {
    let docker = v1::image::Docker { name: name.into(), ..Default::default() };
    v1::Image { r#type: v1::image::Type::Docker as i32, docker: Some(docker), ..Default::default() }
}

fn info_of(image: v1::Image) -> v1::ContainerInfo {
    v1::ContainerInfo {
        r#type: v1::container_info::Type::Mesos as i32,
        mesos: Some(v1::container_info::MesosInfo { image: Some(image) }),
        ..Default::default()
    }
}

fn in_image(task: TaskInfo, name: &str) -> TaskInfo {
    TaskInfo { container: Some(info_of(image(name)).into()), ..task }
}

/// Without a shell.
fn executing(mut task: TaskInfo, value: Option<&str>, arguments: &[&str]) -> TaskInfo {
    let command = task.command.as_mut().unwrap();
    (command.shell, command.value) = (Some(false), value.map(str::to_owned));
    command.arguments = arguments.iter().map(|one| (*one).to_owned()).collect();
    task
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

/// Status and body of the answer to a call.
async fn call(address: &str, kind: &str, content: Value) -> (String, String) {
    let body = json!({ "type": kind, kind.to_lowercase(): content }).to_string();
    let (head, body) = http(address, "POST", "/api/v1", JSON, &body).await;
    (head.lines().next().unwrap().trim_start_matches("HTTP/1.1 ").to_owned(), body)
}

const PROCESS: &str = r#"{"Entrypoint": ["/bin/echo", "entry"], "Cmd": ["cmd"], "Env": ["A=of-image", "B=of-image", "PATH=/bin:/opt"],
    "WorkingDir": "/srv/app"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_in_images_as_these_say() {
    let Some(bench) = Bench::with("commands", Registry::start(Asks::Token).await).await else { return };
    let config = bench.dir.path().join("config.json");
    let auths = format!(r#"{{"auths": {{"{}": {{"username": "me", "password": "secret"}}}}}}"#, bench.registry.address);
    fs::write(&config, auths).unwrap();
    let config = format!("--docker_config={}", config.display());
    bench.registry.push("eng/app", "1", &Made::busybox(PROCESS));
    let agent = bench.start(&[&config]);
    let at = |id: &str, command: &str| in_image(task(id, command), "eng/app:1");
    let script = "cat /etc/image; pwd; echo $A $B $PATH $MESOS_SANDBOX; ls -A /; echo kept > $MESOS_SANDBOX/kept; echo x > /etc/image";
    let mut first = at("shell", script);
    let b = v1::environment::Variable { name: "B".into(), value: Some("of-task".into()), ..Default::default() };
    first.command.as_mut().unwrap().environment = Some(v1::Environment { variables: vec![b] });
    let said = bench.says(&agent, first).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["busybox", "/srv/app", "of-image of-task /bin:/opt /mnt/mesos/sandbox"], "{said}");
    for name in ["bin", "dev", "etc", "mnt", "proc", "srv", "sys", "tmp"] {
        assert!(lines[3..].contains(&name), "{name} in {said}");
    }
    assert!(!lines.contains(&"home"), "nothing of the machine: {said}");
    assert_eq!(fs::read_to_string(agent.sandbox("shell").join("kept")).unwrap(), "kept\n");
    // What one changed the next does not see.
    assert_eq!(bench.says(&agent, at("again", "cat /etc/image")).await, "busybox\n");
    assert_eq!(bench.says(&agent, executing(at("entry", ""), None, &[])).await, "entry cmd\n");
    assert_eq!(bench.says(&agent, executing(at("args", ""), None, &["mine"])).await, "entry mine\n");
    assert_eq!(bench.says(&agent, executing(at("value", ""), Some("cat"), &["cat", "/etc/image"])).await, "busybox\n");
    until("roots go", || bench.roots() == 0).await;
    assert_eq!(bench.registry.count("manifests"), 2, "once, and once with the token");
    drop(agent);
    // As if images said nothing.
    let agent = bench.start(&[&config, "--docker_ignore_runtime", "--image_provisioner_backend=copy"]);
    assert_eq!(
        bench.says(&agent, at("ignored", "pwd; echo $A; cat /etc/image")).await,
        "/mnt/mesos/sandbox\n\nbusybox\n"
    );
    bench.master.launch(executing(at("none", ""), None, &[]));
    let failed = bench.master.update("none", TaskState::TaskFailed).await;
    assert!(failed.message().contains("No executable is found"), "{}", failed.message());
    until("roots go", || bench.roots() == 0).await;
}

/// `/dev/kmsg` may be read: a file of it is in the container's `/dev`, and its group lets it be opened; what is not allowed may be
/// made and not opened. An agent that was killed and one that takes its place change nothing of that.
#[tokio::test(flavor = "multi_thread")]
async fn devices_that_are_allowed_have_files_in_a_root_of_its_own() {
    let Some(bench) = Bench::new("devices").await else { return };
    bench.registry.push("app", "latest", &Made::busybox("{}"));
    // A folder on the way, and a device that any container has with other permissions.
    let folder = tempfile::Builder::new().prefix("meseta-test-").tempdir_in("/dev").unwrap();
    let deep = folder.path().join("a/kmsg");
    fs::create_dir(deep.parent().unwrap()).unwrap();
    let (mode, device) = (nix::sys::stat::Mode::from_bits_truncate(0o600), nix::sys::stat::makedev(1, 11));
    nix::sys::stat::mknod(&deep, nix::sys::stat::SFlag::S_IFCHR, mode, device).unwrap();
    let allowed = json!({"allowed_devices": [
        {"device": {"path": "/dev/kmsg"}, "access": {"read": true}},
        {"device": {"path": deep}, "access": {"read": true, "mknod": true}},
        {"device": {"path": "/dev/full"}, "access": {"write": true}},
    ]});
    let isolation = "filesystem/linux,docker/runtime,linux/devices,cgroups/devices";
    let isolation = format!("--isolation={isolation}");
    let flags = [isolation.as_str(), &format!("--allowed_devices={allowed}"), "--launcher=linux"];
    let agent = bench.start(&flags);
    let script = r#"
        look() { stat -c "%n %F %t:%T %a" $@; }
        try() { if "$@" < /dev/null > /dev/null 2>&1; then echo yes; else echo no; fi; }
        look /dev/kmsg DEEP /dev/full /dev/null; stat -c %a $(dirname DEEP)
        try dd if=/dev/kmsg of=/dev/null count=0; try dd if=DEEP of=/dev/null count=0
        try dd if=/dev/zero of=/dev/kmsg count=0 conv=notrunc
        mknod /dev/mem c 1 1; try dd if=/dev/mem of=/dev/null count=0
        [ -c /dev/ptmx ] && ls -d /dev/shm /dev/pts/ptmx"#;
    let script = script.replace("DEEP", &deep.display().to_string());
    let deep = deep.display();
    let expected = format!(
        "/dev/kmsg character special file 1:b 644\n{deep} character special file 1:b 644\n/dev/full character special file 1:7 622\n\
         /dev/null character special file 1:3 666\n755\nyes\nyes\nno\nno\n/dev/pts/ptmx\n/dev/shm\n"
    );
    assert_eq!(bench.says(&agent, in_image(task("t", &script), "app")).await, expected);
    // A task without a root of its own sees the machine's.
    let machine = bench.says(&agent, task("machine", "stat -c %a /dev/kmsg; ls -d /dev/meseta-test-*")).await;
    assert!(machine.contains(&folder.path().display().to_string()), "{machine}");
    let script = format!("while [ ! -e $MESOS_SANDBOX/go ]; do sleep 0.02; done; {script}");
    bench.master.launch(in_image(task("long", &script), "app"));
    bench.master.update("long", TaskState::TaskRunning).await;
    agent.kill();
    let agent = bench.start(&flags);
    fs::write(agent.sandbox("long").join("go"), "").unwrap();
    bench.master.update("long", TaskState::TaskFinished).await;
    assert_eq!(fs::read_to_string(agent.sandbox("long").join("stdout")).unwrap(), expected);
    until("roots go", || bench.roots() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_groups_and_containers_by_call_run_in_images() {
    let Some(bench) = Bench::new("kinds").await else { return };
    bench.registry.push("app", "latest", &Made::busybox(PROCESS));
    let agent = bench.start(&[]);
    let at = agent.address.as_str();
    // An executor of a framework: it says what it finds, and ends.
    let executor = v1::ExecutorInfo {
        r#type: Some(v1::executor_info::Type::Custom as i32),
        executor_id: v1::ExecutorId { value: "own".into() },
        framework_id: framework().id,
        command: Some(v1::CommandInfo {
            value: Some(
                "cat /etc/image > $MESOS_SANDBOX/found; echo $A $MESOS_EXECUTOR_ID >> $MESOS_SANDBOX/found".into(),
            ),
            ..Default::default()
        }),
        container: Some(info_of(image("app")).into()),
        ..Default::default()
    };
    bench.master.launch(TaskInfo { command: None, executor: Some(executor), ..task("of-executor", "") });
    bench.master.update("of-executor", TaskState::TaskFailed).await;
    assert_eq!(fs::read_to_string(agent.sandbox("own").join("found")).unwrap(), "busybox\nof-image own\n");
    // Two tasks of a group, one in an image.
    let script = "cat /etc/image; pwd; touch $MESOS_SANDBOX/there; sleep 1000";
    let tasks = vec![in_image(task("with", script), "app"), task("without", "ls -d /usr; sleep 1000")];
    bench.master.launch_group("pod", tasks);
    let status = bench.master.update("with", TaskState::TaskRunning).await;
    bench.master.update("without", TaskState::TaskRunning).await;
    let sandbox = |name: &str| agent.sandbox("pod").join("tasks").join(name);
    until("it writes", || sandbox("with").join("there").exists()).await;
    assert_eq!(fs::read_to_string(sandbox("with").join("stdout")).unwrap(), "busybox\n/srv/app\n");
    until("it writes", || fs::read_to_string(sandbox("without").join("stdout")).is_ok_and(|text| text == "/usr\n"))
        .await;
    // A session sees what the task sees.
    let id = status.container_status.unwrap().container_id.unwrap();
    let parent = json!({ "value": id.value, "parent": { "value": id.parent.unwrap().value } });
    let session = json!({
        "container_id": { "value": "session", "parent": parent },
        "command": { "value": "cat /etc/image > $MESOS_SANDBOX/session; echo $A >> $MESOS_SANDBOX/session" }
    });
    let (status, said) = call(at, "LAUNCH_NESTED_CONTAINER_SESSION", session).await;
    assert!(status.contains("200"), "{status} {said}");
    until("the session writes", || {
        fs::read_to_string(sandbox("with").join("session")).is_ok_and(|text| text == "busybox\nof-image\n")
    })
    .await;
    bench.master.kill("with");
    bench.master.update("with", TaskState::TaskKilled).await;
    // One that stands alone, and one within it.
    let launch = |id: Value, name: &str, script: &str| {
        json!({
            "container_id": id,
            "command": { "value": script },
            "container": { "type": "MESOS", "mesos": { "image": { "type": "DOCKER", "docker": { "name": name } } } }
        })
    };
    let alone = launch(json!({ "value": "alone" }), "app", "cat /etc/image; echo $A; sleep 1000");
    assert_eq!(call(at, "LAUNCH_CONTAINER", alone).await, ("200 OK".to_owned(), String::new()));
    let inner = json!({ "value": "inner", "parent": { "value": "alone" } });
    let within = launch(inner.clone(), "app", "cat /etc/image; exit 3");
    assert_eq!(call(at, "LAUNCH_NESTED_CONTAINER", within).await.0, "200 OK");
    let (_, end) = call(at, "WAIT_NESTED_CONTAINER", json!({ "container_id": inner })).await;
    assert!(end.contains("\"exit_status\":768"), "{end}");
    let stdout = |path: &str| fs::read_to_string(bench.work_dir().join("containers").join(path).join("stdout"));
    until("it writes", || stdout("alone").is_ok_and(|text| text == "busybox\nof-image\n")).await;
    assert_eq!(stdout("alone/containers/inner").unwrap(), "busybox\n");
    let none = launch(json!({ "value": "none" }), "not/there", "true");
    let (status, why) = call(at, "LAUNCH_CONTAINER", none).await;
    assert_eq!(status, "400 Bad Request");
    assert!(why.contains("Failed to pull the image 'not/there': ") && why.contains("does not have it"), "{why}");
    assert_eq!(call(at, "KILL_CONTAINER", json!({ "container_id": { "value": "alone" } })).await.0, "200 OK");
    until("roots go", || bench.roots() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_said_and_what_is_not_waited_for_is_not_had() {
    let Some(bench) = Bench::new("failures").await else { return };
    let busybox = Made::busybox("null");
    bench.registry.push("app", "latest", &busybox);
    bench.registry.push("slow", "latest", &busybox.and(&[("slow", b"slow")], "null"));
    let agent = bench.start(&[]);
    let image_of = |change: &dyn Fn(&mut v1::Image)| {
        let mut image = image("app");
        change(&mut image);
        info_of(image)
    };
    #[expect(deprecated, reason = "who uses it is told")]
    let credential = |image: &mut v1::Image| {
        let credential = v1::Credential { principal: "p".into(), ..Default::default() };
        image.docker.as_mut().unwrap().credential = Some(credential);
    };
    for (id, info, why) in [
        ("missing", info_of(image("none")), "Failed to pull the image 'none': "),
        ("wrong", info_of(image("No Name")), "'No Name' is no name of an image"),
        (
            "appc",
            image_of(&|image| (image.r#type, image.docker) = (v1::image::Type::Appc as i32, None)),
            "images of appc need appc/runtime in this agent's --isolation",
        ),
        ("old", image_of(&credential), "'Image.docker.credential' is not used"),
    ] {
        bench.master.launch(TaskInfo { container: Some(info.into()), ..task(id, "true") });
        let failed = bench.master.update(id, TaskState::TaskFailed).await;
        assert_eq!(failed.reason(), Reason::ContainerLaunchFailed, "{id}");
        assert!(failed.message().contains(why), "{id}: {}", failed.message());
    }
    // Killed while its image is on its way: nothing of it comes.
    bench.registry.hold(true);
    bench.master.launch(in_image(task("slow", "true"), "slow"));
    until("it is pulled", || bench.registry.under_way.load(Ordering::SeqCst) > 0).await;
    bench.master.kill("slow");
    bench.master.update("slow", TaskState::TaskKilled).await;
    let staging = bench.work_dir().join("store/docker/staging");
    until("the pull ends", || fs::read_dir(&staging).unwrap().count() == 0).await;
    // An agent that is killed in the middle leaves nothing half, and the next one begins again.
    bench.master.launch(in_image(task("cut", "cat /slow"), "slow"));
    until("it is pulled", || fs::read_dir(&staging).unwrap().count() > 0).await;
    agent.kill();
    let before = bench.registry.count("manifests");
    let left: Vec<_> = fs::read_dir(&staging).unwrap().flatten().map(|entry| entry.file_name()).collect();
    let agent = bench.start(&[]);
    until("it is pulled again", || bench.registry.count("manifests") > before).await;
    assert!(left.iter().all(|name| !staging.join(name).exists()), "{left:?}");
    assert_eq!((bench.layers(), bench.roots()), (0, 0));
    bench.registry.hold(false);
    bench.master.update("cut", TaskState::TaskFinished).await;
    assert_eq!(fs::read_to_string(agent.sandbox("cut").join("stdout")).unwrap(), "slow");
    let (_, metrics) = http(&agent.address, "GET", "/metrics/snapshot", "", "").await;
    assert!(metrics.contains("docker_store/image_pull_ms/count\":1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_outlives_its_agent_and_images_go_when_nobody_uses_them() {
    let Some(bench) = Bench::new("again").await else { return };
    let busybox = Made::busybox("null");
    bench.registry.push("app", "latest", &busybox.and(&[("app", b"app")], "null"));
    bench.registry.push("kept", "latest", &Made::of(vec![layer(&[("kept", b"x")])], "null"));
    bench.registry.push("other", "latest", &Made::of(vec![layer(&[("other", b"x")])], "null"));
    let agent = bench.start(&[]);
    let script = "touch $MESOS_SANDBOX/begun; while [ ! -e $MESOS_SANDBOX/go ]; do sleep 0.02; done; cat /app; exit 7";
    bench.master.launch(in_image(task("t1", script), "app"));
    bench.master.update("t1", TaskState::TaskRunning).await;
    for name in ["kept", "other"] {
        bench.master.launch(in_image(task(name, "true"), name));
        bench.master.update(name, TaskState::TaskFailed).await;
    }
    let sandbox = agent.sandbox("t1");
    until("it begins", || sandbox.join("begun").exists()).await;
    agent.kill();
    // Left by an agent whose log is lost, perhaps.
    fs::create_dir_all(bench.work_dir().join("provisioner/containers/stray/backends/copy/rootfses/x/etc")).unwrap();
    let agent = bench.start(&[]);
    assert!(!bench.work_dir().join("provisioner/containers/stray").exists());
    assert_eq!(bench.layers(), 4);
    let excluded = json!({ "excluded_images": [{ "type": "DOCKER", "docker": { "name": "kept" } }] });
    assert_eq!(call(&agent.address, "PRUNE_IMAGES", excluded).await, ("200 OK".to_owned(), String::new()));
    assert_eq!(bench.layers(), 3, "of what is used, and of what is to stay");
    let wrong = json!({ "excluded_images": [{ "type": "APPC", "appc": { "name": "X" } }] });
    assert_eq!(call(&agent.address, "PRUNE_IMAGES", wrong).await.0, "400 Bad Request");
    fs::write(sandbox.join("go"), "").unwrap();
    let failed = bench.master.update("t1", TaskState::TaskFailed).await;
    assert!(failed.message().contains("exited with status 7"), "{}", failed.message());
    assert_eq!(fs::read_to_string(sandbox.join("stdout")).unwrap(), "app");
    until("its root goes", || bench.roots() == 0).await;
    assert_eq!(call(&agent.address, "PRUNE_IMAGES", json!({})).await.0, "200 OK");
    assert_eq!(bench.layers(), 0);
    drop(agent);
    // By itself, whenever its disk is fuller than never.
    let collection = json!({
        "image_disk_headroom": 1.0,
        "image_disk_watch_interval": { "nanoseconds": 50_000_000 },
        "excluded_images": [{ "type": "DOCKER", "docker": { "name": "kept" } }]
    });
    let agent = bench.start(&[&format!("--image_gc_config={collection}")]);
    for name in ["kept", "other"] {
        bench.master.launch(in_image(task(&format!("{name}2"), "true"), name));
        bench.master.update(&format!("{name}2"), TaskState::TaskFailed).await;
    }
    until("the other goes", || bench.layers() == 1).await;
    assert_eq!(call(&agent.address, "PRUNE_IMAGES", json!({})).await.0, "200 OK");
    assert_eq!(bench.layers(), 1, "what is always kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_volumes_and_what_containers_are_by_default() {
    let Some(bench) = Bench::new("volumes").await else { return };
    bench.registry.push("app", "latest", &Made::busybox("null"));
    bench.registry.push("data", "latest", &Made::of(vec![layer(&[("inner/x", b"data")])], "null"));
    let default = json!({ "type": "MESOS", "mesos": { "image": { "type": "DOCKER", "docker": { "name": "app" } } } });
    let agent = bench.start(&[&format!("--default_container_info={default}")]);
    let volume = |path: &str, mode| v1::Volume {
        mode: mode as i32,
        container_path: path.into(),
        image: Some(image("data")),
        ..Default::default()
    };
    let volumes = vec![volume("in-sandbox", v1::volume::Mode::Rw), volume("/opt/read-only", v1::volume::Mode::Ro)];
    let script = "cat $MESOS_SANDBOX/in-sandbox/inner/x /opt/read-only/inner/x; echo more > $MESOS_SANDBOX/in-sandbox/y; \
                  cat $MESOS_SANDBOX/in-sandbox/y; echo no > /opt/read-only/y || echo refused";
    let info = v1::ContainerInfo { volumes: volumes.clone(), ..info_of(image("app")) };
    let with = TaskInfo { container: Some(info.into()), ..task("with", script) };
    assert_eq!(bench.says(&agent, with).await, "datadatamore\nrefused\n");
    let info = v1::ContainerInfo { mesos: None, volumes: volumes[..1].to_vec(), ..info_of(image("app")) };
    let without = TaskInfo { container: Some(info.into()), ..task("without", "cat in-sandbox/inner/x; ls -d /usr") };
    assert_eq!(bench.says(&agent, without).await, "data/usr\n");
    // Who says nothing of a container has the default one; a check looks where the task is.
    let mut said_nothing = task("nothing", "cat /etc/image; while [ ! -e /checked ]; do sleep 0.02; done");
    let command = v1::CommandInfo { value: Some("test -e /etc/image && touch /checked".into()), ..Default::default() };
    said_nothing.check = Some(Box::new(v1::CheckInfo {
        r#type: Some(v1::check_info::Type::Command as i32),
        command: Some(v1::check_info::Command { command }),
        delay_seconds: Some(0.0),
        interval_seconds: Some(0.05),
        ..Default::default()
    }));
    assert_eq!(bench.says(&agent, said_nothing).await, "busybox\n");
    until("roots go", || bench.roots() == 0).await;
}

/// Over TLS, of which the agent believes what the machine's authorities vouch for; passwords come with the image, sealed.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_of_another_machine_is_asked_over_tls() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(server));
    let Some(bench) = Bench::with("tls", Registry::start_with(Asks::Token, Some(tls)).await).await else { return };
    bench.registry.push("app", "latest", &Made::busybox("null"));
    let authorities = bench.dir.path().join("ca.pem");
    fs::write(&authorities, certificate.pem()).unwrap();
    fs::create_dir_all(bench.work_dir()).unwrap();
    let host = bench.registry.address.replace("127.0.0.1", "localhost");
    let flags = bench.flags(&[&format!("--docker_registry=https://{host}")]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let prelude = format!("export SSL_CERT_FILE={}", authorities.display());
    let agent = RealAgent::start_after(&prelude, &bench.master.address, &bench.work_dir(), &flags);
    bench.master.launch(in_image(task("nobody", "true"), "app"));
    let failed = bench.master.update("nobody", TaskState::TaskFailed).await;
    assert!(failed.message().contains("gave out no token"), "{}", failed.message());
    let auths = format!(r#"{{"auths": {{"{host}": {{"username": "me", "password": "secret"}}}}}}"#);
    let call = json!({
        "container_id": { "value": "c" },
        "command": { "value": "cat /etc/image" },
        "container": { "type": "MESOS", "mesos": { "image": { "type": "DOCKER", "docker": { "name": "app", "config": {
            "type": "VALUE", "value": { "data": base64(auths.as_bytes()) } } } } } }
    });
    // Without the cluster's secret nothing could be sealed.
    let (status, why) = self::call(&agent.address, "LAUNCH_CONTAINER", call.clone()).await;
    assert!(status.starts_with("400") && why.contains("--cluster_secret"), "{status} {why}");
    drop(agent);
    let secret = bench.dir.path().join("secret");
    fs::write(&secret, "a secret of sufficient length\n").unwrap();
    let with = format!("--cluster_secret=file://{}", secret.display());
    let flags: Vec<&str> = flags.into_iter().chain([with.as_str(), "--insecure"]).collect();
    let agent = RealAgent::start_after(&prelude, &bench.master.address, &bench.work_dir(), &flags);
    assert_eq!(self::call(&agent.address, "LAUNCH_CONTAINER", call).await, ("200 OK".to_owned(), String::new()));
    let stdout = bench.work_dir().join("containers/c/stdout");
    until("it writes", || fs::read_to_string(&stdout).is_ok_and(|text| text == "busybox\n")).await;
    until("its root goes", || bench.roots() == 0).await;
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}

/// An image of appc, of a folder: what it says of its process runs in it.
#[tokio::test(flavor = "multi_thread")]
async fn images_of_appc_are_roots_and_volumes() {
    let Some(bench) = Bench::new("images of appc").await else { return };
    let program = fs::read("/bin/busybox").unwrap();
    let machine = if std::env::consts::ARCH == "x86_64" { "amd64" } else { "arm64" };
    let manifest = json!({
        "acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/box",
        "app": {"exec": ["/bin/sh", "-c", "echo of the image $A; pwd; exit 5"],
                "user": "0", "group": "0", "workingDirectory": "/etc", "environment": [{"name": "A", "value": "b"}]}
    })
    .to_string();
    let mut files: Vec<(&str, &[u8])> = vec![("manifest", manifest.as_bytes()), ("rootfs/bin/busybox", &program)];
    files.extend(["rootfs/bin/sh", "rootfs/bin/sleep", "rootfs/bin/cat"].map(|name| (name, &b"-> busybox"[..])));
    files.extend([("rootfs/etc/image", &b"appc\n"[..]), ("rootfs/tmp/", b"")]);
    let images = bench.dir.path().join("images");
    fs::create_dir_all(images.join("example.com")).unwrap();
    fs::write(images.join(format!("example.com/box-1-linux-{machine}.aci")), registry::gzip(&layer(&files))).unwrap();
    let flags = [
        "--image_providers=appc,docker".to_owned(),
        "--isolation=filesystem/linux,appc/runtime,docker/runtime,volume/image".to_owned(),
        format!("--appc_simple_discovery_uri_prefix={}/", images.display()),
        // Of the others.
        "--docker_ignore_runtime".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let labels = v1::Labels { labels: vec![v1::Label { key: "version".into(), value: Some("1".into()) }] };
    let boxed = |name: &str| {
        let appc = v1::image::Appc { name: name.into(), labels: Some(labels.clone()), ..Default::default() };
        v1::Image { r#type: v1::image::Type::Appc as i32, appc: Some(appc), ..Default::default() }
    };
    let agent = bench.start(&flags);
    let own = executing(task("own", ""), None, &["-c", "echo $0 $1; cat /etc/image; pwd", "zero", "one"]);
    let own = TaskInfo { container: Some(info_of(boxed("example.com/box")).into()), ..own };
    assert_eq!(bench.says(&agent, own).await, "zero one\nappc\n/etc\n");
    bench
        .master
        .launch(TaskInfo { container: Some(info_of(boxed("none")).into()), ..executing(task("none", ""), None, &[]) });
    let failed = bench.master.update("none", TaskState::TaskFailed).await;
    assert!(failed.message().contains("Failed to pull the image 'none,version=1': "), "{}", failed.message());
    // As a volume, in a root of the other kind.
    bench.registry.push("app", "latest", &Made::busybox(r#"{"Env": ["A=of-image"]}"#));
    let volume = v1::Volume {
        container_path: "/box".into(),
        mode: v1::volume::Mode::Ro as i32,
        image: Some(boxed("example.com/box")),
        ..Default::default()
    };
    let mut info = info_of(image("app"));
    info.volumes = vec![volume];
    let both =
        TaskInfo { container: Some(info.into()), ..task("both", "cat /etc/image /box/etc/image; echo \"<$A>\"") };
    assert_eq!(bench.says(&agent, both).await, "busybox\nappc\n<>\n");
    // What the image itself says, where the command says nothing.
    let runs = executing(task("runs", ""), None, &[]);
    bench.master.launch(TaskInfo { container: Some(info_of(boxed("example.com/box")).into()), ..runs });
    let ended = bench.master.update("runs", TaskState::TaskFailed).await;
    assert!(ended.message().contains("exited with status 5"), "{}", ended.message());
    assert_eq!(fs::read_to_string(agent.sandbox("runs").join("stdout")).unwrap(), "of the image b\n/etc\n");
    until("its root goes", || bench.roots() == 0).await;
}

/// With users of its own a container finds the files of its image as the image has them, whatever they are on the disk, and as root
/// changes all of it; what is the machine's stays so, though it has all capabilities among its own.
#[tokio::test(flavor = "multi_thread")]
async fn images_belong_to_users_of_a_containers_own() {
    let Some(bench) = Bench::new("users").await else { return };
    let users = agent_server::supervisor::users::Users { first: 1_879_048_192, count: 65_536 };
    if let Err(why) = agent_server::supervisor::users::check_machine(users, bench.dir.path()) {
        let _ = writeln!(std::io::stderr(), "NOT TESTED (users): {why}");
        return;
    }
    bench.registry.push("app", "latest", &Made::busybox("null"));
    let isolation =
        "--isolation=filesystem/linux,docker/runtime,volume/image,namespaces/user,namespaces/pid,namespaces/ipc";
    for backend in ["overlay", "copy"] {
        let agent = bench.start(&[isolation, &format!("--image_provisioner_backend={backend}")]);
        let script = r#"
            try() { what=$1; shift; if "$@" < /dev/null > /dev/null 2>&1; then echo "$what: done"; else echo "$what: no"; fi; }
            id -u; cd /; for path in / /etc/image /dev /dev/shm /dev/null /proc/self/status /mnt/mesos/sandbox /data /data/etc/image; do echo $path $(stat -c '%u:%g' $path); done
            echo changed > /etc/image; chown 7:8 /etc/image; stat -c '%u:%g' /etc/image; cat /etc/image
            mkdir /made; chmod 4755 /made; echo x > /data/made; rm /data/etc/image
            try null dd if=/dev/zero of=/dev/null count=1
            try shm touch /dev/shm/x
            try memory mount -t tmpfs none /tmp
            try node mknod /n c 1 3
            try uncover umount /proc/sys
            try again mount -o remount,rw /proc/sys
            try sysctl sh -c 'echo x > /proc/sys/kernel/core_pattern'
            try groups sh -c 'for file in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/*/leaf/cgroup.procs; do echo 0 > $file && exit 0; done; exit 1'
            try lift sh -c 'echo 0 0 1 > /proc/self/uid_map'
            touch $MESOS_SANDBOX/ready; while [ ! -e $MESOS_SANDBOX/go ]; do sleep 0.02; done"#;
        let id = format!("t-{backend}");
        let mut task = in_image(task(&id, script), "app");
        let volume = v1::Volume {
            mode: v1::volume::Mode::Rw as i32,
            container_path: "/data".into(),
            image: Some(image("app")),
            ..Default::default()
        };
        task.container.as_mut().unwrap().volumes.push(volume);
        bench.master.launch(task);
        let running = bench.master.update(&id, TaskState::TaskRunning).await;
        let sandbox = agent.sandbox(&id);
        until("it has looked", || sandbox.join("ready").exists()).await;
        let container_id = running.container_status.unwrap().container_id.unwrap().value;
        let start = agent_server::spec::Files::new(bench.work_dir().join("meta/containers"), &container_id).start();
        let Some(agent_server::spec::Notice::Started(_, _, pid)) = start.unwrap() else { panic!("it runs") };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains(&format!("Uid:\t{0}\t{0}\t{0}\t{0}\n", users.first)), "{status}");
        agent.kill();
        let agent = bench.start(&[isolation, &format!("--image_provisioner_backend={backend}")]);
        fs::write(agent.sandbox(&id).join("go"), "").unwrap();
        bench.master.update(&id, TaskState::TaskFinished).await;
        let said = fs::read_to_string(sandbox.join("stdout")).unwrap();
        let owned = [
            "/",
            "/etc/image",
            "/dev",
            "/dev/shm",
            "/dev/null",
            "/proc/self/status",
            "/mnt/mesos/sandbox",
            "/data",
            "/data/etc/image",
        ];
        let owned: String = owned.map(|path| format!("{path} 0:0\n")).concat();
        let done = "null: done\nshm: done\nmemory: done\n";
        let held =
            ["node", "uncover", "again", "sysctl", "groups", "lift"].map(|what| format!("{what}: no\n")).concat();
        assert_eq!(said, format!("0\n{owned}7:8\nchanged\n{done}{held}"), "{backend}");
        until("roots go", || bench.roots() == 0).await;
        // The image is as it was.
        let other = in_image(
            common::task(&format!("other-{backend}"), "cat /etc/image; stat -c %u /etc/image; ls /made"),
            "app",
        );
        bench.master.launch(other);
        let id = format!("other-{backend}");
        bench.master.update(&id, TaskState::TaskFailed).await;
        assert_eq!(fs::read_to_string(agent.sandbox(&id).join("stdout")).unwrap(), "busybox\n0\n");
        until("roots go", || bench.roots() == 0).await;
        drop(agent);
    }
}
