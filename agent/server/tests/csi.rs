//! `volume/csi`: tasks of real agents with volumes of a plugin that speaks gRPC and mounts folders.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use api::v1::{self, ContainerInfo, TaskState};
use common::groups::Place;
use common::{Master, RealAgent, http, task, until};
use csi_hostpath::{Called, Instead, Plugin};

/// A machine with a plugin, `p`, and two volumes, `v` and `w`.
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
        if let Err(why) = agent_server::supervisor::mounts::check_machine() {
            eprintln!("NOT TESTED ({what}): {why}");
            return None;
        }
        let groups = Place::all(what).into_iter().next()?;
        let machine = Machine { groups, dir: tempfile::tempdir().unwrap() };
        for folder in ["root/v", "root/w", "configs", "work"] {
            fs::create_dir_all(machine.path(folder)).unwrap();
        }
        machine.configure("p");
        Some(machine)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn configure(&self, kind: &str) {
        let text = format!(
            r#"{{"type": "{kind}", "endpoints": [{{"csi_service": "NODE_SERVICE", "endpoint": "{}"}}]}}"#,
            self.path(&format!("{kind}.sock")).display()
        );
        fs::write(self.path(&format!("configs/{kind}.json")), text).unwrap();
    }

    fn plugin(&self, kind: &str) -> Plugin {
        Plugin::start(&self.path(&format!("{kind}.sock")), &self.path("root"), true).unwrap()
    }

    fn start(&self, master: &str, more: &[&str]) -> RealAgent {
        let configs = format!("--csi_plugin_config_dir={}", self.path("configs").display());
        let root = format!("--cgroups_root={}", self.groups.root);
        let hierarchy = format!("--cgroups_hierarchy={}", self.groups.hierarchy);
        let own = ["--isolation=filesystem/linux,volume/csi", "--launcher=linux", &configs, &root, &hierarchy];
        RealAgent::start(master, &self.path("work"), &[&own, more].concat())
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let found = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        found.filter(|path| path.starts_with(self.dir.path())).collect()
    }

    /// Waits until nothing is left of volumes.
    async fn is_empty(&self) {
        let records = || fs::read_dir(self.path("work/meta/csi/p")).into_iter().flatten().count();
        until("all is taken back", || self.mounts().is_empty() && records() == 0).await;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for path in self.mounts().iter().rev() {
            let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn volume(id: &str, path: &str, mode: &str) -> String {
    format!(
        r#"{{"mode": "{mode}", "container_path": "{path}", "source": {{"type": "CSI_VOLUME", "csi_volume": {{"plugin_name": "p",
            "static_provisioning": {{"volume_id": "{id}", "volume_capability": {{"mount": {{}}, "access_mode": {{"mode":
            "SINGLE_NODE_WRITER"}}}}}}}}}}}}"#
    )
}

fn with(mut task: v1::TaskInfo, volumes: &[String]) -> v1::TaskInfo {
    let info = format!(r#"{{"type": "MESOS", "volumes": [{}]}}"#, volumes.join(","));
    let info: ContainerInfo = api::json::from_slice(info.as_bytes()).unwrap();
    task.container = Some(info.into());
    task
}

fn is(call: &str) -> impl Fn(&[Called]) -> bool {
    move |calls| calls.iter().any(|called| called.call == call)
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_share_a_volume_that_is_published_once_also_when_the_agent_is_killed() {
    let Some(machine) = Machine::new("csi") else { return };
    let (master, plugin) = (Master::start().await, machine.plugin("p"));
    let agent = machine.start(&master.address, &[]);
    let script = "echo kept > data/x; ! (echo y > only/y) 2> /dev/null && touch ready; while [ ! -e go ]; do sleep 0.02; done; cat data/z";
    master.launch(with(task("writer", script), &[volume("v", "data", "RW"), volume("w", "only", "RO")]));
    let sandbox = agent.sandbox("writer");
    until("it has written", || sandbox.join("ready").exists()).await;
    assert_eq!(fs::read_to_string(machine.path("root/v/x")).unwrap(), "kept\n");
    assert_eq!(fs::read_dir(sandbox.join("data")).unwrap().count(), 0, "others see nothing of it there");
    let published = plugin.calls().into_iter().filter(|called| called.call == "NodePublishVolume");
    assert_eq!(
        published.map(|called| (called.volume_id, called.readonly)).collect::<Vec<_>>(),
        [("v".to_owned(), false), ("w".to_owned(), true)]
    );
    master.launch(with(
        task("reader", "cat /media/x > seen; ! (echo y > /media/y) 2> /dev/null"),
        &[volume("v", "/media", "RO")],
    ));
    master.update("reader", TaskState::TaskFinished).await;
    assert_eq!(fs::read_to_string(agent.sandbox("reader").join("seen")).unwrap(), "kept\n");
    agent.kill();
    let agent = machine.start(&master.address, &[]);
    assert_eq!(plugin.names().len(), 4, "{:?}", plugin.names());
    fs::write(machine.path("root/v/z"), "").unwrap();
    fs::write(sandbox.join("go"), "").unwrap();
    master.update("writer", TaskState::TaskFinished).await;
    machine.is_empty().await;
    assert_eq!(plugin.names().len(), 8, "{:?}", plugin.names());
    // One that ends while there is no agent, and whose plugin is not there when it comes back.
    master.launch(with(task("orphan", "touch ready; sleep 1000"), &[volume("v", "data", "RW")]));
    until("it runs", || agent.sandbox("orphan").join("ready").exists()).await;
    let group = machine.groups.group();
    agent.kill();
    drop(plugin);
    agent_server::supervisor::cgroup::end(&group, common::PATIENCE).unwrap();
    let agent = machine.start(&master.address, &[]);
    master.update("orphan", TaskState::TaskFailed).await;
    assert_eq!(machine.mounts().len(), 2);
    let _plugin = machine.plugin("p");
    machine.is_empty().await;
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_silent_plugin_is_told_and_nobody_else_waits() {
    let Some(machine) = Machine::new("csi-silent") else { return };
    let (master, plugin) = (Master::start().await, machine.plugin("p"));
    let agent = machine.start(&master.address, &["--csi_plugin_timeout=2secs"]);
    plugin.answer("NodePublishVolume", Some(Instead::Hang));
    // More than are launched at once, and than threads are there to wait.
    let waiting: Vec<String> = (0..40).map(|n| format!("w{n}")).collect();
    for id in &waiting {
        let mut waits = with(task(id, "true"), &[volume("v", "data", "RW")]);
        waits.resources.truncate(1);
        master.launch(waits);
    }
    plugin.wait(is("NodePublishVolume")).await;
    master.launch(task("other", "true"));
    master.update("other", TaskState::TaskFinished).await;
    for id in &waiting {
        let status = master.update(id, TaskState::TaskFailed).await;
        assert!(status.message().contains("CSI volume 'v' of plugin 'p'"), "{}", status.message());
        assert!(status.message().contains("(--csi_plugin_timeout)"), "{}", status.message());
    }
    // Those who had their turn were not answered.
    let numbers: serde_json::Value =
        serde_json::from_str(&http(&agent.address, "GET", "/metrics/snapshot", "", "").await.1).unwrap();
    assert!(numbers["csi_plugins/p/csi_plugin/rpcs_cancelled"].as_f64().unwrap() > 0.0, "{numbers}");
    agent.kill();
    // One is killed while its plugin is silent; another one's plugin dies, and comes back.
    plugin.answer("NodePublishVolume", None);
    let agent = machine.start(&master.address, &[]);
    machine.is_empty().await;
    plugin.answer("NodeStageVolume", Some(Instead::Hang));
    let before = plugin.calls().len();
    master.launch(with(task("killed", "true"), &[volume("w", "data", "RW")]));
    plugin.wait(|calls| calls.len() > before).await;
    master.kill("killed");
    master.update("killed", TaskState::TaskKilled).await;
    master.launch(with(task("later", "true"), &[volume("v", "data", "RW")]));
    plugin.wait(|calls| calls[before..].iter().any(|called| called.volume_id == "v")).await;
    drop(plugin);
    let plugin = machine.plugin("p");
    master.update("later", TaskState::TaskFinished).await;
    machine.is_empty().await;
    assert!(is("NodeUnstageVolume")(&plugin.calls()));
    for (volume, why) in [
        (volume("x", "data", "RW"), "NotFound: there is no volume 'x'"),
        (volume("v", "data", "RW").replace("\"p\"", "\"q\""), "has a plugin of this type"),
        (volume("v", "data", "RW").replace("mount\"", "block\""), "as a block device, which is not built"),
        (volume("v", "data", "RW").replace("NODE_WRITER", "NODE_READER_ONLY"), "in read-write mode"),
        (volume("v", "../data", "RW"), "leads upwards"),
    ] {
        let id = format!("no{}", master.states().len());
        master.launch(with(task(&id, "true"), &[volume]));
        let status = master.update(&id, TaskState::TaskFailed).await;
        assert!(status.message().contains(why), "{}", status.message());
    }
    machine.is_empty().await;
    drop(agent);
    let agent = RealAgent::start(&master.address, &machine.path("work"), &["--isolation=posix/cpu"]);
    master.launch(with(task("none", "true"), &[volume("v", "data", "RW")]));
    let status = master.update("none", TaskState::TaskFailed).await;
    assert!(status.message().contains("volume/csi in this agent's --isolation"), "{}", status.message());
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_reach_the_plugin_and_no_disk_and_a_user_has_its_volume() {
    let Some(machine) = Machine::new("csi-secrets") else { return };
    let plugin = machine.plugin("p");
    let key = machine.path("key");
    fs::write(&key, "a secret of sufficient length").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let secret = format!("--cluster_secret=file://{}", key.display());
    // No master is needed for what is launched by call.
    let agent = machine.start("127.0.0.1:1", &[&secret]);
    let secret =
        |name: &str| format!(r#""{name}": {{"key": {{"type": "VALUE", "value": {{"data": "aHVudGVyMgo="}}}}}}, "#);
    let secrets = format!("{}{}\"volume_id\"", secret("node_stage_secrets"), secret("node_publish_secrets"));
    let volume = volume("v", "data", "RW").replace("\"volume_id\"", &secrets);
    let call = format!(
        r#"{{"type": "LAUNCH_CONTAINER", "launch_container": {{"container_id": {{"value": "alone"}}, "command": {{"user": "nobody", "value":
            "echo x > data/x && touch done"}}, "container": {{"type": "MESOS", "volumes": [{volume}]}}}}}}"#
    );
    let (status, body) = http(&agent.address, "POST", "/api/v1", "Content-Type: application/json\r\n", &call).await;
    assert!(status.contains("200"), "{status} {body}");
    until("it has written", || machine.path("work/containers/alone/done").exists()).await;
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    assert_eq!(fs::metadata(machine.path("root/v")).unwrap().uid(), nobody);
    let told: Vec<Option<String>> = plugin.calls().iter().map(|called| called.told.get("key").cloned()).collect();
    assert_eq!(told[..2], [Some("hunter2\n".to_owned()), Some("hunter2\n".to_owned())]);
    machine.is_empty().await;
    for pattern in ["hunter2", "aHVudGVyMgo="] {
        let found = Command::new("grep").args(["-rl", pattern]).arg(machine.path("work")).output().unwrap();
        assert_eq!(String::from_utf8(found.stdout).unwrap(), "", "{pattern}");
    }
    let reference = call.replace(
        "\"type\": \"VALUE\", \"value\": {\"data\": \"aHVudGVyMgo=\"}",
        "\"type\": \"REFERENCE\", \"reference\": {\"name\": \"R\"}",
    );
    let (status, body) =
        http(&agent.address, "POST", "/api/v1", "Content-Type: application/json\r\n", &reference).await;
    assert!(status.contains("400") && body.contains("--secret_resolver"), "{status} {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_works_as_it_stands() {
    let Some(machine) = Machine::new("csi-page") else { return };
    let page = include_str!("../../../docs/csi.md");
    let socket = machine.path("p.sock").display().to_string();
    let page = page.replace("/run/csi/hostpath.sock", &socket);
    let blocks = |kind: &str| -> Vec<String> {
        let start = format!("```{kind}\n");
        page.split(&start).skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
    };
    let json = blocks("json");
    fs::write(machine.path("configs/page.json"), &json[0]).unwrap();
    let commands = blocks("sh").remove(0).replace("/etc/meseta/csi", &machine.path("configs").display().to_string());
    let words: Vec<&str> = commands.split_whitespace().skip_while(|word| *word != "meseta-agent").collect();
    let words = words.into_iter().filter(|word| word.starts_with("--"));
    let flags: Vec<&str> =
        words.filter(|word| !word.starts_with("--master") && !word.starts_with("--work_dir")).collect();
    assert_eq!(flags.len(), 3, "{flags:?}");
    let (master, plugin) = (Master::start().await, machine.plugin("p"));
    let agent = machine.groups.start(&master, &machine.path("work"), &flags);
    let mut writer = task("t", "echo x > data/x");
    let info: ContainerInfo = api::json::from_slice(json[1].as_bytes()).unwrap();
    writer.container = Some(info.into());
    master.launch(writer);
    master.update("t", TaskState::TaskFinished).await;
    assert!(machine.path("root/v/x").exists());
    until("it is taken back", || machine.mounts().is_empty()).await;
    assert_eq!(plugin.calls()[0].told["share"], "x");
    drop(agent);
}

#[test]
fn it_is_used_with_a_folder_of_plugins_and_mounts() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meseta-agent"));
        command.args([
            "--master=127.0.0.1:1",
            &format!("--work_dir={}", dir.path().display()),
            "--ip=127.0.0.1",
            "--port=0",
        ]);
        let output = command.args(words).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let folder = format!("--csi_plugin_config_dir={}", dir.path().display());
    let both = "--isolation=filesystem/linux,volume/csi";
    assert!(refused(&[both]).contains("Missing required '--csi_plugin_config_dir' flag"));
    assert!(
        refused(&["--isolation=volume/csi", &folder])
            .contains("volume/csi in --isolation needs filesystem/linux there")
    );
    assert!(refused(&[both, &folder, "--csi_plugin_timeout=0secs"]).contains("'--csi_plugin_timeout' must be longer"));
    // Groups of its own: other agents may have the usual ones.
    for place in Place::all("csi-flags").iter().take(1) {
        let groups = [format!("--cgroups_root={}", place.root), format!("--cgroups_hierarchy={}", place.hierarchy)];
        let why = refused(&[both, "--csi_plugin_config_dir=/none", &groups[0], &groups[1]]);
        assert!(why.contains("Cannot read --csi_plugin_config_dir=/none"), "{why}");
    }
}
