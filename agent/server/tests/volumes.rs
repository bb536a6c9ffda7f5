//! Operations on the resources of real agents: volumes on the disk and in sandboxes, drains, and starts with other flags.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use api::internal::{self, from_agent, order, to_agent};
use api::v1::offer::{Operation, operation};
use api::v1::{self, OperationState, TaskState, task_status::Reason};
use common::{Master, PATIENCE, RealAgent, create, http, task, volume, volume_on};
use serde_json::Value;

fn destroy(volumes: Vec<v1::Resource>) -> Operation {
    let destroy = Some(operation::Destroy { volumes });
    Operation { r#type: Some(operation::Type::Destroy as i32), destroy, ..Default::default() }
}

impl Master {
    fn launch_on(&self, id: &str, volume: &v1::Resource, command: &str) {
        let mut task = task(id, command);
        task.resources.push(volume.clone());
        self.launch(task);
    }
}

async fn state(agent: &RealAgent) -> Value {
    serde_json::from_str(&http(&agent.address, "GET", "/state", "", "").await.1).unwrap()
}

async fn call(agent: &RealAgent, call: &str) -> Value {
    let head = "Content-Type: application/json\r\nAccept: application/json\r\n";
    let body = format!(r#"{{"type": "{call}"}}"#);
    serde_json::from_str(&http(&agent.address, "POST", "/api/v1", head, &body).await.1).unwrap()
}

/// Starts an agent that is to refuse, and what it says.
fn refused(master: &Master, dir: &Path, flags: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_meseta-agent"))
        .args([format!("--master={}", master.address), format!("--work_dir={}", dir.display())])
        .args(["--ip=127.0.0.1", "--port=0"])
        .args(flags)
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

/// As Mesos's agents list them; what no framework named is over when the masters know its end.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_listed_until_its_framework_has_acknowledged_it() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    master.known.lock().tells = true;
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let made = volume("v");
    let named = |name: &str| Some(v1::OperationId { value: name.into() });
    master.apply(1, Operation { id: named("o"), ..create(vec![made.clone()]) }, vec![made.clone()]);
    master.apply(2, destroy(vec![made.clone()]), vec![]);
    master.apply(3, Operation { id: named("p"), ..create(vec![made.clone()]) }, vec![made]);
    for name in 1..=3 {
        master.operation_ended(name).await;
    }
    let listed = async |agent: &RealAgent, wanted: &[&str]| {
        let wanted: Vec<Value> = wanted.iter().map(|name| Value::from(*name)).collect();
        let until = async {
            loop {
                let answer = call(agent, "GET_OPERATIONS").await;
                let operations = answer["get_operations"]["operations"].as_array().cloned().unwrap_or_default();
                let over = operations.iter().filter(|one| one["latest_status"]["state"] == "OPERATION_FINISHED");
                if over.map(|one| one["info"]["id"]["value"].clone()).collect::<Vec<_>>() == wanted {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, until).await.unwrap();
    };
    listed(&agent, &["o", "p"]).await;
    let over = |name: u8| {
        let operations = vec![vec![name; 16].into()];
        to_agent::Message::OperationsOver(internal::OperationsOver { operations })
    };
    master.send(over(1));
    listed(&agent, &["p"]).await;
    // What became of it while the agent was away is asked for.
    agent.kill();
    master.known.lock().unnumbered.clear();
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let asked = |known: &common::Known| {
        known.unnumbered.iter().find_map(|message| match message {
            from_agent::Message::OperationsKept(kept) => Some(kept.operations.clone()),
            _ => None,
        })
    };
    let kept = master.wait("the question which operations are over", asked).await;
    assert!(kept.iter().any(|name| name[..] == [3; 16]), "{kept:?}");
    // That the first is over may have been heard and not written down.
    master.send(over(1));
    listed(&agent, &["p"]).await;
    master.send(over(3));
    listed(&agent, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_outlives_its_tasks_and_the_agent_until_it_is_destroyed() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let made = volume("v");
    let place = dir.path().join("volumes/roles/eng dev/v");
    master.apply(1, create(vec![made.clone()]), vec![made.clone()]);
    // Ordered at once: it sees the volume.
    master.launch_on("writer", &made, "echo kept > data/x; readlink data; sleep 1000");
    master.update("writer", TaskState::TaskRunning).await;
    assert_eq!(master.operation_ended(1).await.state(), OperationState::OperationFinished);
    let kept = async {
        while !std::fs::read_to_string(place.join("x")).is_ok_and(|text| text == "kept\n") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, kept).await.unwrap();
    let sandbox = std::fs::canonicalize(agent.sandbox("writer")).unwrap();
    assert_eq!(std::fs::read_link(sandbox.join("data")).unwrap(), std::fs::canonicalize(&place).unwrap());
    // What is behind the link is none of the sandbox's files.
    let path = format!("/files/read?path={}/data/x&offset=0", sandbox.display());
    assert!(http(&agent.address, "GET", &path, "", "").await.0.starts_with("HTTP/1.1 404"));
    let shown = state(&agent).await;
    assert_eq!(shown["reserved_resources"]["eng/dev"]["disk"], 64.0);
    assert_eq!(shown["unreserved_resources"]["disk"], 960.0);
    assert_eq!(shown["reserved_resources_full"]["eng/dev"][0]["disk"]["persistence"]["id"], "v");
    agent.kill();

    let flags = ["--gc_delay=0secs", "--disk_watch_interval=50ms", "--resources=cpus:4;mem:1024;disk:1024"];
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    master.kill("writer");
    master.update("writer", TaskState::TaskKilled).await;
    {
        let known = master.known.lock();
        let checkpointed = &known.resumes[0].checkpointed_resources;
        assert_eq!(checkpointed.len(), 1);
        assert_eq!(known.registers[0].capabilities.len(), 7);
    }
    // Its sandbox goes, its volume stays.
    let gone = async {
        while sandbox.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    master.launch_on("reader", &made, "[ $(cat data/x) = kept ]");
    master.update("reader", TaskState::TaskFinished).await;
    master.apply(2, destroy(vec![made.clone()]), Vec::new());
    master.apply(3, create(vec![made.clone()]), vec![made.clone()]);
    master.launch_on("again", &made, "[ ! -e data/x ]");
    master.update("again", TaskState::TaskFinished).await;
    for name in [2, 3] {
        assert_eq!(master.operation_ended(name).await.state(), OperationState::OperationFinished);
    }
    drop(agent);
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    assert_eq!(std::fs::read_dir(dir.path().join("volumes/destroyed")).unwrap().count(), 0);
}

/// A file system of its own, where that is allowed.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path) -> Option<Mounted> {
        std::fs::create_dir(at).unwrap();
        let none: Option<&str> = None;
        nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), nix::mount::MsFlags::empty(), none).ok()?;
        Some(Mounted(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn on_disk(kind: &str, root: &Path) -> v1::resource::disk_info::Source {
    let field = kind.to_lowercase();
    api::json::from_value(&serde_json::json!({ "type": kind, field: { "root": root } })).unwrap()
}

fn flag(disks: &[(u64, &v1::resource::disk_info::Source)]) -> String {
    let scalar =
        |name: &str, value: u64| serde_json::json!({ "name": name, "type": "SCALAR", "scalar": { "value": value } });
    let mut resources = vec![scalar("cpus", 4), scalar("mem", 1024), scalar("disk", 1024)];
    for (value, source) in disks {
        let mut resource = scalar("disk", *value);
        resource["disk"] = serde_json::json!({ "source": api::json::to_value(*source) });
        resources.push(resource);
    }
    format!("--resources={}", serde_json::Value::from(resources))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_below_a_path_is_made_and_one_that_went_away_is_not() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    // Below the work_dir.
    let (source, path) = (on_disk("PATH", Path::new("path")), dir.path().join("path"));
    let _agent = RealAgent::start(&master.address, dir.path(), &[&flag(&[(640, &source)])]);
    let made = volume_on("p", Some(source));
    master.create(1, &made, std::slice::from_ref(&made));
    master.launch_on("p", &made, "touch data/x");
    master.update("p", TaskState::TaskFinished).await;
    assert!(path.join("volumes/roles/eng dev/p/x").exists());
    master.apply(2, destroy(vec![made.clone()]), Vec::new());
    assert_eq!(master.operation_ended(2).await.state(), OperationState::OperationFinished);
    assert!(!path.join("volumes/roles/eng dev/p").exists());
    std::fs::remove_dir_all(&path).unwrap();
    master.create(3, &made, std::slice::from_ref(&made));
    let failed = master.operation_ended(3).await;
    assert_eq!(failed.state(), OperationState::OperationFailed);
    assert!(failed.message().starts_with("Cannot make the volume 'p' at "), "{}", failed.message());
    master.launch_on("late", &made, "true");
    let failed = master.update("late", TaskState::TaskFailed).await;
    assert!(failed.message().contains("cannot link volume 'p'"), "{}", failed.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_disk_is_one_volume() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let plain = dir.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    let sentence = refused(&master, dir.path(), &[&flag(&[(64, &on_disk("MOUNT", &plain))])]);
    assert!(sentence.contains("Nothing is mounted at the root"), "{sentence}");
    let root = dir.path().join("mount");
    let Some(_mounted) = Mounted::new(&root) else { return };
    std::fs::write(root.join("old"), "").unwrap();
    let source = on_disk("MOUNT", &root);
    let _agent = RealAgent::start(&master.address, dir.path(), &[&flag(&[(64, &source)])]);
    let made = volume_on("m", Some(source));
    master.create(1, &made, std::slice::from_ref(&made));
    master.launch_on("m", &made, "touch data/y");
    master.update("m", TaskState::TaskFinished).await;
    assert!(root.join("y").exists());
    master.apply(2, destroy(vec![made]), Vec::new());
    assert_eq!(master.operation_ended(2).await.state(), OperationState::OperationFinished);
    let empty = async {
        // Its root stays, and what was done of it is forgotten behind the answer.
        while std::fs::read_dir(&root).unwrap().count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, empty).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_goes_on_over_a_restart() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let go = dir.path().join("go");
    master.launch(task("soft", "sleep 1000"));
    let stubborn = format!("trap 'touch {}' TERM; while true; do sleep 0.02; done", go.display());
    let mut hard = task("hard", &stubborn);
    hard.kill_policy = Some(v1::KillPolicy { grace_period: Some(v1::DurationInfo { nanoseconds: 3_600_000_000_000 }) });
    master.launch(hard);
    for id in ["soft", "hard"] {
        master.update(id, TaskState::TaskRunning).await;
    }
    let config =
        v1::DrainConfig { max_grace_period: Some(v1::DurationInfo { nanoseconds: 2_000_000_000 }), mark_gone: None };
    master.order(order::Order::Drain(internal::Drain { config }));
    let killing = master.update("hard", TaskState::TaskKilling).await;
    assert_eq!(killing.reason(), Reason::AgentDraining);
    let shown = state(&agent).await;
    let config = serde_json::json!({ "max_grace_period": { "nanoseconds": 2_000_000_000 }, "mark_gone": false });
    assert_eq!(shown["drain_config"], config);
    assert!(shown["estimated_drain_start_time_seconds"].is_u64());
    let shown = call(&agent, "GET_AGENT").await;
    assert_eq!(shown["get_agent"]["drain_config"]["mark_gone"], false);
    assert!(shown["get_agent"]["estimated_drain_start_time"]["nanoseconds"].is_i64());
    agent.kill();

    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    for id in ["soft", "hard"] {
        let killed = master.update(id, TaskState::TaskKilled).await;
        assert_eq!(killed.reason(), Reason::AgentDraining);
    }
    master.launch(task("late", "true"));
    let lost = master.update("late", TaskState::TaskLost).await;
    assert_eq!(
        (lost.reason(), lost.message()),
        (Reason::AgentDraining, "Task was received while agent was already draining")
    );
    assert!(state(&agent).await.get("drain_config").is_none(), "it is empty");
    master.order(order::Order::EndDrain(internal::EndDrain {}));
    master.launch(task("again", "true"));
    master.update("again", TaskState::TaskFinished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_keeps_its_id_with_what_it_was_or_more() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let made = volume("v");
    let agent = RealAgent::start(&master.address, dir.path(), &["--attributes=rack:a"]);
    master.apply(1, create(vec![made.clone()]), vec![made]);
    master.operation_ended(1).await;
    agent.kill();
    let sentence = refused(&master, dir.path(), &["--resources=cpus:4;mem:1024;disk:1024", "--attributes=rack:b"]);
    assert!(sentence.contains("Agent C-S0 cannot go on") && sentence.contains("rack"), "{sentence}");
    let more = "--resources=cpus:8;mem:1024;disk:2048";
    let sentence = refused(&master, dir.path(), &[more, "--attributes=rack:a"]);
    assert!(sentence.contains("resources changed") && sentence.contains("additive"), "{sentence}");
    let additive = "--reconfiguration_policy=additive";
    let sentence =
        refused(&master, dir.path(), &["--resources=cpus:8;mem:1024;disk:32", "--attributes=rack:a", additive]);
    assert!(sentence.contains("[v:data]") && sentence.contains("destroy it at the masters"), "{sentence}");
    let sentence =
        refused(&master, dir.path(), &["--resources=cpus:8;mem:1024;disk:512", "--attributes=rack:a", additive]);
    assert!(sentence.contains("the resource 'disk:1024' became less"), "{sentence}");
    let domain = r#"--domain={"fault_domain":{"region":{"name":"r"},"zone":{"name":"z"}}}"#;
    let agent = RealAgent::start(&master.address, dir.path(), &[more, "--attributes=rack:a;zone:z", additive, domain]);
    let resumed = master.wait("it is back", |known| known.resumes.last().cloned()).await;
    assert_eq!(resumed.agent_info.domain.unwrap().fault_domain.unwrap().zone.name, "z");
    assert_eq!(state(&agent).await["domain"]["fault_domain"]["region"]["name"], "r");
    assert_eq!(resumed.checkpointed_resources.len(), 1);
    // From here on that is what it was.
    let settled = async {
        loop {
            let (_, metrics) = http(&agent.address, "GET", "/metrics/snapshot", "", "").await;
            let metrics: Value = serde_json::from_str(&metrics).unwrap();
            if metrics["slave/registered"] == 1.0 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.unwrap();
    agent.kill();
    let _agent = RealAgent::start(&master.address, dir.path(), &[more, "--attributes=rack:a;zone:z", domain]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_on_spare_resources_gives_way() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let modules = serde_json::json!({ "libraries": [{ "modules": [
        { "name": "org_apache_mesos_FixedResourceEstimator", "parameters": [{ "key": "resources", "value": "cpus:2" }] },
        { "name": "org_apache_mesos_LoadQoSController", "parameters": [{ "key": "load_threshold_15min", "value": "0" }] },
    ]}]});
    let flags = [
        &format!("--modules={modules}"),
        "--resource_estimator=org_apache_mesos_FixedResourceEstimator",
        "--qos_controller=org_apache_mesos_LoadQoSController",
    ];
    let _agent = RealAgent::start(&master.address, dir.path(), &flags);
    let spare = master
        .wait("what it can spare", |known| {
            known.messages.iter().find_map(|message| match &message.message {
                Some(from_agent::Message::Oversubscribed(said)) => Some(said.resources.clone()),
                _ => None,
            })
        })
        .await;
    assert!(spare.len() == 1 && spare[0].revocable.is_some());
    let mut revocable = task("revocable", "sleep 1000");
    revocable.resources[0].revocable = Some(Default::default());
    master.launch(revocable);
    master.launch(task("plain", "sleep 1000"));
    let lost = master.update("revocable", TaskState::TaskLost).await;
    assert_eq!(lost.reason(), Reason::ContainerPreempted);
    assert_eq!(lost.message(), "Container preempted by QoS correction");
    assert_eq!(master.history("plain").last(), Some(&"TASK_RUNNING"));
    master.kill("plain");
    master.update("plain", TaskState::TaskKilled).await;
}

/// The volume itself is its task's; what others left in it is not touched.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_its_tasks_and_what_is_in_it_stays_as_it_is() {
    use std::os::unix::fs::MetadataExt;
    let Ok(Some(nobody)) = nix::unistd::User::from_name("nobody") else { return };
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(dir.path(), passable).unwrap();
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    let made = volume("v");
    master.create(1, &made, std::slice::from_ref(&made));
    master.launch_on("root", &made, "touch data/old");
    master.update("root", TaskState::TaskFinished).await;
    let mut task = task("nobody", "touch data/new && [ ! -w data/old ]");
    task.resources.push(made);
    task.command.as_mut().unwrap().user = Some("nobody".into());
    master.launch(task);
    master.update("nobody", TaskState::TaskFinished).await;
    let owner =
        |name: &str| std::fs::symlink_metadata(dir.path().join("volumes/roles/eng dev/v").join(name)).unwrap().uid();
    assert_eq!(["", "old", "new"].map(owner), [nobody.uid.as_raw(), 0, nobody.uid.as_raw()]);
}

/// Whenever the agent is killed: each volume is made and destroyed once, and none is destroyed that was made since.
#[tokio::test(flavor = "multi_thread")]
async fn operations_are_done_once_whenever_the_agent_is_killed() {
    const ROUNDS: u8 = 12;
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let made = volume("v");
    let mut agent = RealAgent::start(&master.address, dir.path(), &[]);
    for round in 0..ROUNDS {
        master.apply(2 * round, create(vec![made.clone()]), vec![made.clone()]);
        let id = format!("t{round}");
        master.launch_on(
            &id,
            &made,
            &format!("[ -z \"$(ls data)\" ] && touch data/{round} && sleep 0.1 && ls data/{round}"),
        );
        if round % 3 == 0 {
            master.update(&id, TaskState::TaskRunning).await;
            agent.kill();
            agent = RealAgent::start(&master.address, dir.path(), &[]);
        }
        master.update(&id, TaskState::TaskFinished).await;
        master.apply(2 * round + 1, destroy(vec![made.clone()]), Vec::new());
        if round % 3 == 1 {
            agent.kill();
            agent = RealAgent::start(&master.address, dir.path(), &[]);
        }
    }
    for name in 0..2 * ROUNDS {
        assert_eq!(master.operation_ended(name).await.state(), OperationState::OperationFinished);
    }
}

/// What the guide tells operators to write.
#[tokio::test(flavor = "multi_thread")]
async fn the_guide_tells_what_works() {
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/agents.md")).unwrap();
    let block = |nth: usize| guide.split("```json\n").nth(nth).unwrap().split("```").next().unwrap();
    let disks = api::resources::parse(block(1), "*").unwrap().resources;
    assert_eq!(disks.named("disk").iter().filter(|disk| disk.disk.is_some()).count(), 2);
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let modules = dir.path().join("modules.json");
    std::fs::write(&modules, block(2)).unwrap();
    let command = guide.split("## Promised twice").nth(1).unwrap().split("```").nth(1).unwrap();
    let written =
        command.split_whitespace().filter(|word| word.starts_with("--qos") || word.starts_with("--resource_"));
    let domain = guide.split('`').find(|quoted| quoted.starts_with("--domain=")).unwrap();
    let modules = format!("--modules={}", modules.display());
    let flags: Vec<&str> = written.chain([domain, &modules]).collect();
    assert_eq!(flags.len(), 5, "{flags:?}");
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    let spare = master
        .wait("what it can spare", |known| {
            known.messages.iter().find_map(|message| match &message.message {
                Some(from_agent::Message::Oversubscribed(said)) => Some(said.resources.clone()),
                _ => None,
            })
        })
        .await;
    assert_eq!(spare[0].scalar.unwrap().value, 8.0);
    assert_eq!(state(&agent).await["domain"]["fault_domain"]["zone"]["name"], "a");
}
