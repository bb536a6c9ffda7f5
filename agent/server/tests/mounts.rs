//! `filesystem/linux` and volumes: what tasks of real agents find mounted, what is left of it, and what tasks try.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use agent_server::spec::Notice;
use api::v1::{self, ContainerInfo, TaskState};
use common::groups::Place;
use common::{Master, RealAgent, http, task, until, volume};

const ISOLATION: &str = "--isolation=filesystem/linux";

/// Volumes as a framework asks for them, in JSON.
fn with(mut task: v1::TaskInfo, volumes: &str) -> v1::TaskInfo {
    let text = format!(r#"{{"type": "MESOS", "volumes": [{volumes}]}}"#);
    let info: ContainerInfo = api::json::from_slice(text.as_bytes()).unwrap();
    task.container = Some(info.into());
    task
}

fn host_path(path: &Path, at: &str, mode: &str) -> String {
    format!(
        r#"{{"mode": "{mode}", "container_path": "{at}", "source": {{"type": "HOST_PATH", "host_path": {{"path": "{}"}}}}}}"#,
        path.display()
    )
}

fn place(what: &str) -> Option<Place> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED ({what}): mounts need root");
        return None;
    }
    Place::all(what).into_iter().next()
}

/// What is mounted below a folder of this machine, as everybody sees it.
fn mounted(below: &Path) -> Vec<String> {
    let below = fs::canonicalize(below).unwrap().display().to_string();
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|at| at.starts_with(&below))
        .map(str::to_owned)
        .collect()
}

fn said(agent: &RealAgent, id: &str) -> String {
    let sandbox = agent.sandbox(id);
    ["stdout", "stderr"].map(|name| fs::read_to_string(sandbox.join(name)).unwrap_or_default()).concat()
}

impl Master {
    async fn finishes(&self, agent: &RealAgent, task: v1::TaskInfo) -> String {
        let id = task.task_id.value.clone();
        self.launch(task);
        let ended = self.wait("its end", |known| {
            known.statuses().find(|status| {
                status.task_id.value == id
                    && !matches!(status.state(), TaskState::TaskStarting | TaskState::TaskRunning)
            })
        });
        let status = ended.await;
        assert_eq!(status.state(), TaskState::TaskFinished, "{}: {}", status.message(), said(agent, &id));
        said(agent, &id)
    }

    async fn fails(&self, task: v1::TaskInfo) -> String {
        let id = task.task_id.value.clone();
        self.launch(task);
        self.update(&id, TaskState::TaskFailed).await.message().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_the_machine_and_of_sandboxes_are_mounted_for_their_container_alone() {
    let Some(groups) = place("volumes") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let given = tempfile::tempdir().unwrap();
    fs::write(given.path().join("file"), "given\n").unwrap();
    fs::create_dir(given.path().join("inner")).unwrap();
    let made = given.path().join("made/for/it");
    let create = format!("--host_path_volume_force_creation=/nowhere:{}", given.path().join("made").display());
    let agent = groups.start(&master, dir.path(), &[ISOLATION, &create]);
    let volumes = [
        host_path(given.path(), "ro/deep", "RO"),
        host_path(given.path(), "rw", "RW"),
        host_path(&given.path().join("file"), "file", "RO"),
        host_path(&made, "made", "RW"),
        // What the machine has there is covered, for this task.
        host_path(given.path(), "/media", "RO"),
        r#"{"mode": "RW", "container_path": "/srv", "host_path": "own/srv"}"#.to_owned(),
    ];
    let script = "set -e; cat ro/deep/file file /media/file; echo x > rw/inner/x; echo y > made/y; echo z > /srv/z; cat own/srv/z; \
                  for path in ro/deep/x ro/deep/inner/x file /media/x; do if (echo x > $path) 2>/dev/null; then echo $path; fi; done";
    let text = master.finishes(&agent, with(task("t", script), &volumes.join(","))).await;
    assert_eq!(text, "given\ngiven\ngiven\nz\n");
    assert_eq!(fs::read_to_string(given.path().join("inner/x")).unwrap(), "x\n");
    assert_eq!(fs::read_to_string(made.join("y")).unwrap(), "y\n");
    assert!(!Path::new("/srv/z").exists() && !Path::new("/media/file").exists(), "for others nothing is there");
    assert_eq!((mounted(dir.path()), mounted(given.path())), (vec![], vec![]));
    assert_eq!(fs::read_dir(agent.sandbox("t").join("rw")).unwrap().count(), 0);
    // Whoever may write where folders are made does not lead to others.
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), given.path().join("made/out")).unwrap();
    let message =
        master.fails(with(task("out", "true"), &host_path(&given.path().join("made/out/x"), "x", "RW"))).await;
    assert!(message.contains("cannot find out/x"), "{message}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    for (n, (volume, why)) in [
        (host_path(&given.path().join("none"), "a", "RW"), "does not exist"),
        (host_path(given.path(), "/no/such/place", "RW"), "It must exist if the container shares the host filesystem"),
        (host_path(given.path(), "../../up", "RW"), "leads upwards"),
        (host_path(&given.path().join("made/../../x"), "a", "RW"), "leads upwards"),
        (r#"{"mode": "RW", "container_path": "/srv", "host_path": "../../x"}"#.to_owned(), "leads upwards"),
        (r#"{"mode": "RW", "container_path": "own", "host_path": "x"}"#.to_owned(), "'container_path' is relative"),
        (
            r#"{"mode": "RW", "container_path": "x", "source": {"type": "SANDBOX_PATH", "sandbox_path": {"type": "PARENT", "path": "x"}}}"#
                .to_owned(),
            "only works for nested container",
        ),
        (
            r#"{"mode": "RW", "container_path": "x", "source": {"type": "DOCKER_VOLUME", "docker_volume": {"name": "v"}}}"#
                .to_owned(),
            "docker/volume in this agent's --isolation",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let message = master.fails(with(task(&format!("no{n}"), "true"), &volume)).await;
        assert!(message.contains(why), "{volume}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_go_both_ways_where_that_is_asked_for_and_no_other_way() {
    let Some(groups) = place("propagation") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = groups.start(&master, dir.path(), &[ISOLATION]);
    let shared = tempfile::tempdir().unwrap();
    let at = |flags| nix::mount::mount(None::<&str>, shared.path(), None::<&str>, flags, None::<&str>).unwrap();
    use nix::mount::MsFlags;
    nix::mount::mount(Some(shared.path()), shared.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    struct Gone(PathBuf);
    impl Drop for Gone {
        fn drop(&mut self) {
            while nix::mount::umount2(&self.0.join("m"), nix::mount::MntFlags::MNT_DETACH).is_ok() {}
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }
    let _gone = Gone(shared.path().to_owned());
    fs::create_dir(shared.path().join("m")).unwrap();
    let both = format!(
        r#"{{"mode": "RW", "container_path": "v", "source": {{"type": "HOST_PATH", "host_path": {{"path": "{}",
            "mount_propagation": {{"mode": "BIDIRECTIONAL"}}}}}}}}"#,
        shared.path().display()
    );
    at(MsFlags::MS_PRIVATE);
    let message = master.fails(with(task("private", "true"), &both)).await;
    assert!(message.contains("it is not under a shared mount"), "{message}");
    at(MsFlags::MS_SHARED);
    master.finishes(&agent, with(task("one", "mount -t tmpfs none v/m"), &host_path(shared.path(), "v", "RW"))).await;
    assert_eq!(mounted(shared.path()).len(), 1, "nothing but itself");
    master.finishes(&agent, with(task("both", "mount -t tmpfs none v/m"), &both)).await;
    assert_eq!(mounted(shared.path()).len(), 2, "{:?}", mounted(shared.path()));
    // What the machine mounts later is seen.
    let script = "touch ready; while [ ! -e go ]; do sleep 0.02; done; [ -e v/m/later ]";
    let reader = with(task("reader", script), &host_path(shared.path(), "v", "RO"));
    nix::mount::umount(&shared.path().join("m")).unwrap();
    master.launch(reader);
    until("it is ready", || agent.sandbox("reader").join("ready").exists()).await;
    nix::mount::mount(Some("none"), &shared.path().join("m"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::write(shared.path().join("m/later"), "").unwrap();
    fs::write(agent.sandbox("reader").join("go"), "").unwrap();
    master.update("reader", TaskState::TaskFinished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn persistent_volumes_are_mounted_and_found_again_and_nothing_is_left() {
    let Some(groups) = place("persistent") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let disk = "disk:1024";
    let flags = [ISOLATION, "--resources=cpus:4;mem:1024;disk:1024", "--gc_delay=0secs", "--disk_watch_interval=50ms"];
    assert!(flags[1].ends_with(disk));
    let agent = groups.start(&master, dir.path(), &flags);
    let made = volume("v");
    let kept = dir.path().join("volumes/roles/eng dev/v");
    master.create(1, &made, std::slice::from_ref(&made));
    let on = |id: &str, script: &str, mode: v1::volume::Mode| {
        let (mut task, mut volume) = (task(id, script), made.clone());
        volume.disk.as_mut().unwrap().volume.as_mut().unwrap().mode = mode as i32;
        task.resources.push(volume);
        task
    };
    let script =
        "[ ! -L data ] && echo kept > data/x && touch ready; while [ ! -e go ]; do sleep 0.02; done; cat data/x";
    master.launch(on("writer", script, v1::volume::Mode::Rw));
    let sandbox = agent.sandbox("writer");
    until("it has written", || kept.join("x").exists() && sandbox.join("ready").exists()).await;
    assert_eq!(mounted(dir.path()), Vec::<String>::new());
    agent.kill();
    let agent = groups.start(&master, dir.path(), &flags);
    fs::write(sandbox.join("go"), "").unwrap();
    let sandbox = fs::canonicalize(&sandbox).unwrap();
    master.update("writer", TaskState::TaskFinished).await;
    until("its sandbox goes", || !sandbox.exists()).await;
    assert_eq!(fs::read_to_string(kept.join("x")).unwrap(), "kept\n", "and no volume with it");
    let reader = on("reader", "cat data/x; ! (echo y > data/y) 2> /dev/null", v1::volume::Mode::Ro);
    master.launch(reader);
    master.update("reader", TaskState::TaskFinished).await;
    // A volume whose place in the sandbox is a way out: of an executor before, perhaps, whose sandbox it is.
    assert!(!kept.join("y").exists());
    assert_eq!(mounted(dir.path()), Vec::<String>::new());
    drop(agent);
}

/// Of an executor that runs already: as they are to be found by the tasks that it has now.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_come_to_an_executor_that_runs_and_go_with_their_tasks() {
    let Some(groups) = place("volumes of one that runs") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let flags = [ISOLATION, "--resources=cpus:4;mem:1024;disk:1024"];
    let agent = groups.start(&master, dir.path(), &flags);
    let made = volume("v");
    let kept = dir.path().join("volumes/roles/eng dev/v");
    master.create(1, &made, std::slice::from_ref(&made));
    until("it is made", || kept.exists()).await;
    fs::write(kept.join("x"), "kept").unwrap();
    let with = |id: &str, mode: v1::volume::Mode| {
        let (mut task, mut volume) = (task(id, "while [ ! -e go ]; do sleep 0.02; done"), made.clone());
        volume.disk.as_mut().unwrap().volume.as_mut().unwrap().mode = mode as i32;
        task.resources.push(volume);
        task
    };
    let within = |running: &v1::TaskStatus| running.container_status.clone().unwrap().container_id.unwrap().value;
    master.launch_group("p", vec![task("first", "sleep 1000")]);
    let first = master.update("first", TaskState::TaskRunning).await;
    let executor = fs::canonicalize(agent.sandbox("p")).unwrap();
    // What its process sees.
    let id = first.container_status.as_ref().unwrap().container_id.clone().unwrap().parent.unwrap().value;
    let started = agent_server::spec::Files::new(dir.path().join("meta/containers"), &id).start().unwrap();
    let Some(Notice::Started(_, _, pid)) = started else { panic!("it runs: {started:?}") };
    let seen =
        Path::new("/proc").join(pid.to_string()).join("root").join(executor.strip_prefix("/").unwrap()).join("data");
    let sees = || fs::read_to_string(seen.join("x")).ok().map(|text| (text, fs::write(seen.join("y"), "").is_ok()));
    let one = |can_write: bool| Some(("kept".to_owned(), can_write));
    assert_eq!(sees(), None);
    for (id, mode, can_write) in [("reads", v1::volume::Mode::Ro, false), ("writes", v1::volume::Mode::Rw, true)] {
        master.launch_group("p", vec![with(id, mode)]);
        let running = master.update(id, TaskState::TaskRunning).await;
        assert_eq!(sees(), one(can_write), "{id}");
        assert_eq!(mounted(dir.path()), Vec::<String>::new());
        fs::write(executor.join("containers").join(within(&running)).join("go"), "").unwrap();
        master.update(id, TaskState::TaskFinished).await;
        until("its volume goes", || sees().is_none() && fs::symlink_metadata(executor.join("data")).is_err()).await;
    }
    // It outlives the agent; the next one takes it away.
    master.launch_group("p", vec![with("third", v1::volume::Mode::Ro)]);
    let running = master.update("third", TaskState::TaskRunning).await;
    // Where its executors look for it.
    let port = format!("--port={}", agent.address.rsplit_once(':').unwrap().1);
    agent.kill();
    let agent = groups.start(&master, dir.path(), &[flags[0], flags[1], &port]);
    assert_eq!(sees(), one(false));
    fs::write(executor.join("containers").join(within(&running)).join("go"), "").unwrap();
    master.update("third", TaskState::TaskFinished).await;
    until("its volume goes", || sees().is_none()).await;
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_within_another_finds_that_ones_folders_and_no_way_out_of_them() {
    let Some(groups) = place("parents") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let outside = tempfile::tempdir().unwrap();
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let agent = groups.start(&master, dir.path(), &[ISOLATION]);
    master.launch(task("t", "mkdir -p shared; touch ready; sleep 1000"));
    let sandbox = agent.sandbox("t");
    until("it is ready", || sandbox.join("ready").exists()).await;
    let parent = groups.group().file_name().unwrap().to_str().unwrap().to_owned();
    let launch = async |id: &str, path: &str, script: &str| {
        let call = format!(
            r#"{{"type": "LAUNCH_CONTAINER", "launch_container": {{"container_id": {{"value": "{id}", "parent": {{"value": "{parent}"}}}},
                "command": {{"value": "{script}"}}, "container": {{"type": "MESOS", "volumes": [{{"mode": "RW", "container_path": "from",
                "source": {{"type": "SANDBOX_PATH", "sandbox_path": {{"type": "PARENT", "path": "{path}"}}}}}}]}}}}}}"#
        );
        http(&agent.address, "POST", "/api/v1", "Content-Type: application/json\r\n", &call).await
    };
    let (status, body) = launch("good", "shared/made", "echo x > from/x").await;
    assert!(status.contains("200"), "{status} {body}");
    until("it has written", || sandbox.join("shared/made/x").exists()).await;
    // The one around it has meanwhile made links of its folders.
    symlink(outside.path(), sandbox.join("out")).unwrap();
    symlink("/", sandbox.join("shared/root")).unwrap();
    for (n, path) in ["out", "out/deep", "shared/root/etc", "shared/../../../x", "/etc"].into_iter().enumerate() {
        let (status, body) = launch(&format!("bad{n}"), path, "echo x > from/x").await;
        assert!(status.contains("400"), "{path}: {status} {body}");
    }
    // As is its own place, made by who is around it.
    let inner = sandbox.join("containers/late");
    fs::create_dir_all(&inner).unwrap();
    symlink(outside.path(), inner.join("from")).unwrap();
    let (status, body) = launch("late", "shared", "echo x > from/x").await;
    assert!(status.contains("400") && body.contains("cannot find from"), "{status} {body}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(mounted(dir.path()), Vec::<String>::new());
}

/// With mounts of its own, too, one within another sees the processes and the shared memory that it shares with that one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_with_the_one_around_it_is_that_ones_and_not_the_machines() {
    let Some(groups) = place("shared") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = groups.start(&master, dir.path(), &["--isolation=filesystem/linux,namespaces/pid,namespaces/ipc"]);
    let mut outer = task("t", "echo of-the-task > /dev/shm/x; touch ready; sleep 1000");
    let text = r#"{"type": "MESOS", "linux_info": {"ipc_mode": "PRIVATE", "shm_size": 1}}"#;
    let info: ContainerInfo = api::json::from_slice(text.as_bytes()).unwrap();
    outer.container = Some(info.into());
    master.launch(outer);
    let sandbox = agent.sandbox("t");
    until("it is ready", || sandbox.join("ready").exists()).await;
    assert!(!Path::new("/dev/shm/x").exists());
    let parent = groups.group().file_name().unwrap().to_str().unwrap().to_owned();
    let call = format!(
        r#"{{"type": "LAUNCH_CONTAINER", "launch_container": {{"container_id": {{"value": "in", "parent": {{"value": "{parent}"}}}},
            "container": {{"type": "MESOS", "linux_info": {{"share_pid_namespace": true, "ipc_mode": "SHARE_PARENT"}}}},
            "command": {{"value": "cat /dev/shm/x > shm; tr '\\0' ' ' < /proc/2/cmdline > seen; ls /proc | grep -c '^[0-9]' >> seen; touch done"}}}}}}"#
    );
    let (status, body) = http(&agent.address, "POST", "/api/v1", "Content-Type: application/json\r\n", &call).await;
    assert!(status.contains("200"), "{status} {body}");
    let within = sandbox.join("containers/in");
    until("it has looked", || within.join("done").exists()).await;
    assert_eq!(fs::read_to_string(within.join("shm")).unwrap(), "of-the-task\n");
    let seen = fs::read_to_string(within.join("seen")).unwrap();
    assert!(seen.contains("of-the-task"), "{seen}");
    let count: u32 = seen.split_whitespace().last().unwrap().parse().unwrap();
    assert!(count < 12, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_files_in_memory_that_their_task_alone_reads() {
    let Some(groups) = place("secrets") else { return };
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    fs::write(&key, "a secret of sufficient length").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let secret = format!("--cluster_secret=file://{}", key.display());
    let work_dir = dir.path().join("work");
    // No master is needed for what is launched by call.
    let root = format!("--cgroups_root={}", groups.root);
    let agent =
        RealAgent::start("127.0.0.1:1", &work_dir, &["--isolation=filesystem/linux,volume/secret", &secret, &root]);
    let value = "aHVudGVyMgo=";
    let volume = |path: &str| {
        format!(
            r#"{{"mode": "RO", "container_path": "{path}", "source": {{"type": "SECRET", "secret": {{"type": "VALUE", "value": {{"data": "{value}"}}}}}}}}"#
        )
    };
    let call = format!(
        r#"{{"type": "LAUNCH_CONTAINER", "launch_container": {{"container_id": {{"value": "alone"}}, "command": {{"value":
            "cat in/it /media > out; stat -fc %T in/it >> out; stat -c %a in/it >> out; (echo x > in/it) || touch done"}},
            "container": {{"type": "MESOS", "volumes": [{}]}}}}}}"#,
        volume("in/it")
    );
    let call = call.replace(" /media", "");
    let (status, body) = http(&agent.address, "POST", "/api/v1", "Content-Type: application/json\r\n", &call).await;
    assert!(status.contains("200"), "{status} {body}");
    let sandbox = work_dir.join("containers/alone");
    until("it has read", || sandbox.join("done").exists()).await;
    assert_eq!(fs::read_to_string(sandbox.join("out")).unwrap(), "hunter2\ntmpfs\n400\n");
    assert_eq!(fs::read(sandbox.join("in/it")).unwrap(), b"", "what is on the disk is a place for it");
    let found =
        std::process::Command::new("grep").args(["-rl", "-e", "hunter2", "-e", value]).arg(&work_dir).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert_eq!(found.trim(), sandbox.join("out").display().to_string(), "nothing but what it wrote itself");
}
