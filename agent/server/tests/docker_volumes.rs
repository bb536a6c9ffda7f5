//! `docker/volume`: volumes that a program `dvdcli` mounts for tasks of real agents, and unmounts when nobody uses them any more.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use api::v1::{self, ContainerInfo, TaskState};
use common::groups::Place;
use common::{Master, RealAgent, http, task, until};

/// A machine with a `dvdcli` that writes down what it is asked, and has a folder for each volume.
struct Machine {
    groups: Place,
    dir: tempfile::TempDir,
}

impl Machine {
    /// None is told to who reads the output, not to libtest.
    fn new(what: &str) -> Option<Machine> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("NOT TESTED ({what}): mounts need root");
            return None;
        }
        let groups = Place::all(what).into_iter().next()?;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let text = format!(
            "#!/bin/sh\ncd {}\nfor word; do printf '%s ' \"$word\"; case $word in --volumename=*) name=${{word#*=}};; esac; done >> asked\n\
             echo >> asked\n[ ! -e $1-fails ] || {{ echo the plugin says no >&2; exit 1; }}\n\
             [ $1 = unmount ] || {{ mkdir -p of/$name; echo $PWD/of/$name; }}\n",
            dir.path().display()
        );
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("draft"), text).unwrap();
        // By another process: one that is forked meanwhile would hold it open, and it could not be executed.
        let (from, to) = (dir.path().join("draft"), dir.path().join("bin/dvdcli"));
        assert!(Command::new("install").args(["-m", "755"]).arg(from).arg(to).status().unwrap().success());
        Some(Machine { groups, dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, master: &Master, work_dir: &Path, more: &[&str]) -> RealAgent {
        let prelude = format!("export PATH={}:$PATH", self.path("bin").display());
        let own = [
            "--launcher=linux".to_owned(),
            format!("--cgroups_hierarchy={}", self.groups.hierarchy),
            format!("--cgroups_root={}", self.groups.root),
            "--isolation=filesystem/linux,docker/volume".to_owned(),
            format!("--docker_volume_checkpoint_dir={}", self.path("written").display()),
        ];
        let flags: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        RealAgent::start_after(&prelude, &master.address, work_dir, &flags)
    }

    /// What it was asked, in order.
    fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("asked")).unwrap_or_default();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn unmounted(&self, name: &str) -> usize {
        let line = format!("unmount --volumedriver=d --volumename={name}");
        self.asked().iter().filter(|asked| **asked == line).count()
    }

    /// Containers of which it is written down what they use.
    fn written(&self) -> usize {
        fs::read_dir(self.path("written")).unwrap().count()
    }
}

/// A volume `name` of the driver `d`.
fn volume(name: &str, at: &str, mode: &str, more: &str) -> String {
    format!(
        r#"{{"mode": "{mode}", "container_path": "{at}", "source": {{"type": "DOCKER_VOLUME",
            "docker_volume": {{"driver": "d", "name": "{name}"{more}}}}}}}"#
    )
}

fn with(mut task: v1::TaskInfo, volumes: &[String]) -> v1::TaskInfo {
    let text = format!(r#"{{"type": "MESOS", "volumes": [{}]}}"#, volumes.join(","));
    let info: ContainerInfo = api::json::from_slice(text.as_bytes()).unwrap();
    task.container = Some(info.into());
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_mounted_for_those_who_use_them_and_unmounted_behind_the_last() {
    let Some(machine) = Machine::new("dvdcli") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let agent = machine.start(&master, dir.path(), &["--docker_volume_chown"]);
    let options =
        r#", "driver_options": {"parameter": [{"key": "size", "value": "1 GB"}, {"key": "fs", "value": "xfs"}]}"#;
    let volumes =
        [volume("one", "data", "RW", options), volume("two", "deep/ro", "RO", ""), volume("three", "/srv", "RW", "")];
    let script = "set -e; id -un; echo kept > data/kept; echo kept > /srv/kept; if (echo x > deep/ro/x) 2>/dev/null; then echo wrote; fi; \
        touch ready; while [ ! -e go ]; do sleep 0.02; done; cat data/kept";
    let mut first = with(task("first", script), &volumes);
    first.command.as_mut().unwrap().user = Some("nobody".into());
    master.launch(first);
    let sandbox = agent.sandbox("first");
    until("it is ready", || sandbox.join("ready").exists()).await;
    let mounted = ["one --volumeopts=size=1 GB --volumeopts=fs=xfs", "two", "three"];
    assert_eq!(machine.asked(), mounted.map(|rest| format!("mount --volumedriver=d --volumename={rest}")));
    assert_eq!(fs::read_to_string(machine.path("of/one/kept")).unwrap(), "kept\n");
    assert_ne!(fs::metadata(machine.path("of/one")).unwrap().uid(), 0, "its user's");
    assert!(!Path::new("/srv/kept").exists(), "for others nothing is there");
    // Another one uses one of them, and one within it.
    master.launch(with(task("second", "touch ready; sleep 1000"), &[volume("one", "data", "RO", "")]));
    until("it is ready", || agent.sandbox("second").join("ready").exists()).await;
    // Both are found again by the next agent, which unmounts what nobody uses that it knows of.
    agent.kill();
    let stray = machine.path("written/00000000-0000-4000-8000-000000000000");
    fs::create_dir(&stray).unwrap();
    let text = r#"{"volumes": [{"driver": "d", "name": "one"}, {"driver": "d", "name": "stray"}]}"#;
    fs::write(stray.join("volumes"), text).unwrap();
    let agent = machine.start(&master, dir.path(), &["--docker_volume_chown"]);
    until("what is left is unmounted", || machine.unmounted("stray") == 1 && !stray.exists()).await;
    assert_eq!(machine.unmounted("one"), 0);
    fs::write(agent.sandbox("first").join("go"), "").unwrap();
    master.update("first", TaskState::TaskFinished).await;
    assert_eq!(fs::read_to_string(agent.sandbox("first").join("stdout")).unwrap(), "nobody\nkept\n");
    until("two are unmounted", || machine.unmounted("two") + machine.unmounted("three") == 2 && machine.written() == 1)
        .await;
    assert_eq!(machine.unmounted("one"), 0, "it is used");
    master.kill("second");
    master.update("second", TaskState::TaskKilled).await;
    until("the last is unmounted", || machine.unmounted("one") == 1 && machine.written() == 0).await;
    assert_eq!(fs::read_to_string(machine.path("of/one/kept")).unwrap(), "kept\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_refuses_is_told_and_taken_back() {
    let Some(machine) = Machine::new("dvdcli-fails") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = machine.start(&master, dir.path(), &[]);
    let twice = [volume("one", "a", "RW", ""), volume("one", "b", "RW", "")];
    let without = volume("one", "a", "RW", "").replace(r#""driver": "d", "#, "");
    let nowhere = volume("one", "/no/such/place", "RW", "");
    for (n, (volumes, why)) in [
        (twice.to_vec(), "Found duplicate docker volume with driver 'd' and name 'one'"),
        (vec![without], "The volume driver is not specified for volume 'one'"),
        (vec![nowhere], "It must exist if the container shares the host filesystem"),
    ]
    .into_iter()
    .enumerate()
    {
        master.launch(with(task(&format!("no{n}"), "true"), &volumes));
        let failed = master.update(&format!("no{n}"), TaskState::TaskFailed).await;
        assert!(failed.message().contains(why), "{}", failed.message());
    }
    assert_eq!((machine.asked().len(), machine.written()), (0, 0), "nobody was asked");
    fs::write(machine.path("mount-fails"), "").unwrap();
    master.launch(with(task("t", "true"), &[volume("one", "a", "RW", "")]));
    let failed = master.update("t", TaskState::TaskFailed).await;
    let why = "Failed to mount the volume 'one' of the driver 'd': dvdcli ended with 1: the plugin says no";
    assert!(failed.message().contains(why), "{}", failed.message());
    until("it is taken back", || machine.unmounted("one") == 1 && machine.written() == 0).await;
    // What stays mounted is remembered, and the next agent tries again.
    fs::remove_file(machine.path("mount-fails")).unwrap();
    fs::write(machine.path("unmount-fails"), "").unwrap();
    master.launch(with(task("stays", "true"), &[volume("two", "a", "RW", "")]));
    master.update("stays", TaskState::TaskFinished).await;
    until("it is tried", || machine.unmounted("two") == 1).await;
    // A second agent with the same folder would unmount what this one uses.
    let path = format!("{}:{}", machine.path("bin").display(), std::env::var("PATH").unwrap());
    let Some(place) = Place::all("dvdcli-other").into_iter().next() else { return };
    let other = |path: &str, more: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_meseta-agent"))
            .env("PATH", path)
            .args([
                "--master=127.0.0.1:1",
                "--ip=127.0.0.1",
                "--port=0",
                "--isolation=filesystem/linux,docker/volume",
                "--resources=cpus:1",
            ])
            .arg(format!("--work_dir={}", machine.path("other").display()))
            .arg(format!("--cgroups_hierarchy={}", machine.groups.hierarchy))
            .arg(format!("--cgroups_root={}", place.root))
            .arg(more)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let same = format!("--docker_volume_checkpoint_dir={}", machine.path("written").display());
    let said = other(&path, &same);
    assert!(said.contains("Another agent uses --docker_volume_checkpoint_dir="), "{said}");
    let said = other("/nowhere", &same);
    assert!(said.contains("cannot get dvdcli: it is in no folder of PATH"), "{said}");
    agent.kill();
    fs::remove_file(machine.path("unmount-fails")).unwrap();
    let agent = machine.start(&master, dir.path(), &[]);
    until("it is unmounted", || machine.unmounted("two") == 2 && machine.written() == 0).await;
    // A session has no volumes of its own.
    master.launch(task("around", "touch ready; sleep 1000"));
    until("it is ready", || agent.sandbox("around").join("ready").exists()).await;
    let parent = machine.groups.group().file_name().unwrap().to_str().unwrap().to_owned();
    let call = format!(
        r#"{{"type": "LAUNCH_NESTED_CONTAINER", "launch_nested_container": {{"container_id": {{"value": "in", "parent": {{"value": "{parent}"}}}},
            "command": {{"value": "echo x > in/x"}}, "container": {{"type": "MESOS", "volumes": [{}]}}}}}}"#,
        volume("three", "in", "RW", "")
    );
    let (status, body) = http(&agent.address, "POST", "/api/v1", "Content-Type: application/json\r\n", &call).await;
    assert!(status.contains("200"), "{status} {body}");
    until("it writes", || machine.path("of/three/x").exists()).await;
    master.kill("around");
    master.update("around", TaskState::TaskKilled).await;
    until("it is unmounted", || machine.unmounted("three") == 1 && machine.written() == 0).await;
}
