//! Volumes of a plugin that speaks gRPC and mounts: published once, taken back after the last, whatever the plugin does meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_csi::{Asked, Plugins, Settings, Volumes};
use csi_hostpath::{Instead, Plugin};
use tonic::Code;

/// Longer than anything takes on a busy machine; nothing waits for it in vain.
const PATIENCE: Duration = Duration::from_secs(30);

struct Machine {
    dir: tempfile::TempDir,
    patience: Duration,
}

impl Machine {
    /// None is told to who reads the output, not to libtest.
    fn new(what: &str) -> Option<Machine> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("NOT TESTED ({what}): mounts need root");
            return None;
        }
        let machine = Machine { dir: tempfile::tempdir().unwrap(), patience: PATIENCE };
        fs::create_dir_all(machine.path("root/v")).unwrap();
        fs::create_dir_all(machine.path("root/w")).unwrap();
        fs::create_dir_all(machine.path("configs")).unwrap();
        machine.configure("p", "");
        Some(machine)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn configure(&self, kind: &str, more: &str) {
        let socket = self.path(&format!("{kind}.sock"));
        let text = format!(
            r#"{{"type": "{kind}", "endpoints": [{{"csi_service": "NODE_SERVICE", "endpoint": "unix://{}"}}]{more}}}"#,
            socket.display()
        );
        fs::write(self.path(&format!("configs/{kind}.json")), text).unwrap();
    }

    fn plugin(&self, kind: &str, stages: bool) -> Plugin {
        Plugin::start(&self.path(&format!("{kind}.sock")), &self.path("root"), stages).unwrap()
    }

    /// As an agent has them that has just been started, and knows of these containers.
    fn volumes(&self, known: &[&str]) -> Volumes {
        let settings = Settings {
            plugins: Plugins::Folder(self.path("configs")),
            records: self.path("records"),
            mounts: self.path("mounts"),
            patience: self.patience,
        };
        Volumes::check(&settings).unwrap();
        let volumes = Volumes::new(settings);
        volumes.keep(&known.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>());
        volumes
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let found = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        found.filter(|path| path.starts_with(self.dir.path())).collect()
    }

    fn records(&self) -> usize {
        let folders = fs::read_dir(self.path("records")).into_iter().flatten().flatten();
        folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap()).count()
    }

    /// Waits until nothing is left.
    async fn is_empty(&self) {
        until("all is taken back", || self.mounts().is_empty() && self.records() == 0).await;
        let kept = Path::new("mounts/p/default/mounts");
        let left = fs::read_dir(self.dir.path().join(kept)).into_iter().flatten().count();
        assert_eq!(left, 0, "folders");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for path in self.mounts().iter().rev() {
            let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

fn asked(plugin: &str, id: &str, mode: &str, more: &str) -> Asked {
    let text = format!(
        r#"{{"mode": "{mode}", "container_path": "c", "source": {{"type": "CSI_VOLUME", "csi_volume": {{"plugin_name": "{plugin}",
            "static_provisioning": {{"volume_id": "{id}", "volume_capability": {{"mount": {{}}, "access_mode": {{"mode":
            "MULTI_NODE_MULTI_WRITER"}}}}{more}}}}}}}}}"#
    );
    Asked::read(&api::json::from_slice(text.as_bytes()).unwrap()).unwrap().unwrap()
}

#[tokio::test]
async fn a_volume_is_published_once_for_all_and_taken_back_after_the_last() {
    let Some(machine) = Machine::new("once") else { return };
    let (plugin, volumes) = (machine.plugin("p", true), machine.volumes(&[]));
    let secret = r#", "volume_context": {"share": "x"}, "node_stage_secrets": {"key": {"type": "VALUE", "value": {"data": "aHVudGVyMg=="}}}"#;
    let first = asked("p", "v", "RW", secret);
    let published = volumes.publish("one", &first).await.unwrap();
    assert!(published.is_first);
    fs::write(published.path.join("x"), "").unwrap();
    assert!(machine.path("root/v/x").exists());
    let again = volumes.publish("two", &asked("p", "v", "RO", r#", "volume_context": {"share": "x"}"#)).await.unwrap();
    assert_eq!((again.path, again.is_first), (published.path, false));
    let calls = plugin.calls();
    assert_eq!(plugin.names(), ["NodeStageVolume", "NodePublishVolume"]);
    assert_eq!((calls[0].told["key"].as_str(), calls[1].told.get("key"), calls[1].readonly), ("hunter2", None, false));
    assert_eq!(calls[1].told["share"], "x");
    let record = fs::read_to_string(machine.path("records/p/v.json")).unwrap();
    assert!(record.contains("one") && record.contains("two") && !record.contains("hunter2"), "{record}");
    let why =
        volumes.publish("three", &asked("p", "v", "RW", r#", "volume_context": {"share": "y"}"#)).await.unwrap_err();
    assert!(why.contains("other containers have it, on other terms"), "{why}");
    volumes.withdraw("three");
    volumes.withdraw("one");
    volumes.withdraw("one");
    // An agent after it knows who has it; a second volume meanwhile does not disturb that.
    drop(volumes);
    let volumes = machine.volumes(&["two", "other"]);
    volumes.publish("four", &asked("p", "w", "RW", "")).await.unwrap();
    assert_eq!(plugin.names().len(), 4, "{:?}", plugin.calls());
    volumes.withdraw("two");
    volumes.withdraw("four");
    machine.is_empty().await;
    let names = plugin.names();
    assert_eq!(names.iter().filter(|name| *name == "NodeUnpublishVolume").count(), 2, "{names:?}");
    assert_eq!(names.iter().filter(|name| *name == "NodeUnstageVolume").count(), 2, "{names:?}");
    // On its own terms it is had now; who only reads it first has it published so.
    let read = volumes.publish("five", &asked("p", "v", "RO", "")).await.unwrap();
    assert!(fs::write(read.path.join("y"), "").is_err());
    let why = volumes.publish("six", &asked("p", "v", "RW", "")).await.unwrap_err();
    assert!(why.contains("on other terms"), "{why}");
    volumes.withdraw("five");
    // At once, perhaps before it is taken back.
    let written = volumes.publish("seven", &asked("p", "v", "RW", "")).await.unwrap();
    fs::write(written.path.join("y"), "").unwrap();
    volumes.withdraw("seven");
    machine.is_empty().await;
}

#[tokio::test]
async fn what_does_not_stage_and_finds_its_folder_is_used_so_and_elsewhere() {
    let Some(machine) = Machine::new("elsewhere") else { return };
    let root = format!(r#", "target_path_root": "{}", "target_path_exists": true"#, machine.path("else").display());
    machine.configure("p", &root);
    let (plugin, volumes) = (machine.plugin("p", false), machine.volumes(&[]));
    let published = volumes.publish("one", &asked("p", "v", "RW", "")).await.unwrap();
    assert_eq!(published.path, machine.path("else/v/target"));
    // After a restart of the machine nothing is mounted, whatever is written down.
    nix::mount::umount(&published.path).unwrap();
    assert_eq!(volumes.publish("two", &asked("p", "v", "RW", "")).await.unwrap().path, published.path);
    assert_eq!(machine.mounts().len(), 1);
    volumes.withdraw("one");
    volumes.withdraw("two");
    machine.is_empty().await;
    assert_eq!(plugin.names(), ["NodePublishVolume", "NodePublishVolume", "NodeUnpublishVolume"]);
    assert!(!machine.path("else/v").exists());
}

#[tokio::test]
async fn a_plugin_that_is_silent_or_refuses_is_named_and_stops_nobody_else() {
    let Some(mut machine) = Machine::new("silent") else { return };
    machine.configure("q", "");
    let (plugin, other) = (machine.plugin("p", true), machine.plugin("q", true));
    machine.patience = Duration::from_millis(400);
    let volumes = machine.volumes(&[]);
    for call in ["Probe", "NodeStageVolume", "NodePublishVolume"] {
        plugin.answer(call, Some(Instead::Hang));
        let why = volumes.publish("one", &asked("p", "v", "RW", "")).await.unwrap_err();
        plugin.answer(call, None);
        assert!(why.starts_with("cannot publish CSI volume 'v' of plugin 'p': "), "{why}");
        assert!(why.contains(&format!("{call}: no answer within ")) && why.contains("(--csi_plugin_timeout)"), "{why}");
    }
    for (call, instead, told) in [
        (
            "NodePublishVolume",
            Instead::Fail(Code::InvalidArgument),
            "NodePublishVolume: InvalidArgument: as it was told to",
        ),
        ("NodePublishVolume", Instead::Nothing, "nothing is mounted at"),
        ("NodeStageVolume", Instead::Fail(Code::Unavailable), "Unavailable: as it was told to; given up after"),
    ] {
        plugin.answer(call, Some(instead));
        let why = volumes.publish("one", &asked("p", "v", "RW", "")).await.unwrap_err();
        plugin.answer(call, None);
        assert!(why.contains(told), "{why}");
    }
    for (plugin, id, told) in
        [("none", "v", "has a plugin of this type"), ("p", "x", "NotFound: there is no volume 'x'")]
    {
        let why = volumes.publish("one", &asked(plugin, id, "RW", "")).await.unwrap_err();
        assert!(why.contains(told), "{why}");
    }
    let calls = volumes.calls()["p"];
    assert!(calls.finished > 0 && calls.failed > 0 && calls.cancelled > 0, "{calls:?}");
    drop(volumes);
    machine.patience = PATIENCE;
    // One that is silent for ever.
    plugin.answer("NodePublishVolume", Some(Instead::Hang));
    let volumes = machine.volumes(&[]);
    machine.is_empty().await;
    let (waiting, before) = (volumes.clone(), plugin.calls().len());
    let waiting = tokio::spawn(async move { waiting.publish("hung", &asked("p", "v", "RW", "")).await });
    plugin.wait(|calls| calls[before..].iter().any(|called| called.call == "NodePublishVolume")).await;
    volumes.publish("two", &asked("q", "w", "RW", "")).await.unwrap();
    volumes.withdraw("two");
    // The agent is killed meanwhile: what was begun is taken back by the next one.
    waiting.abort();
    drop(volumes);
    plugin.answer("NodePublishVolume", None);
    let _volumes = machine.volumes(&[]);
    machine.is_empty().await;
    assert!(
        plugin.names().ends_with(&["NodeUnpublishVolume".into(), "NodeUnstageVolume".into()]),
        "{:?}",
        plugin.names()
    );
    assert!(other.names().contains(&"NodeUnstageVolume".to_owned()));
}

#[tokio::test]
async fn a_plugin_that_comes_later_is_waited_for() {
    let Some(machine) = Machine::new("later") else { return };
    let volumes = machine.volumes(&[]);
    let waiting = tokio::spawn({
        let volumes = volumes.clone();
        async move { volumes.publish("one", &asked("p", "v", "RW", "")).await }
    });
    tokio::task::yield_now().await;
    let plugin = machine.plugin("p", true);
    waiting.await.unwrap().unwrap();
    drop(plugin);
    // It is gone when its volume is to go; so is its configuration.
    volumes.withdraw("one");
    fs::remove_file(machine.path("configs/p.json")).unwrap();
    assert_eq!(machine.mounts().len(), 2);
    let plugin = machine.plugin("p", true);
    plugin.answer("NodeUnpublishVolume", Some(Instead::Fail(Code::Internal)));
    let tries = |calls: &[csi_hostpath::Called]| calls.iter().filter(|one| one.call == "NodeUnpublishVolume").count();
    plugin.wait(|calls| tries(calls) >= 2).await;
    assert_eq!(machine.mounts().len(), 2);
    plugin.answer("NodeUnpublishVolume", None);
    machine.is_empty().await;
}
