//! Golden logs: what a release wrote, and what it folded to. They must fold to the same state for ever. One is written when a
//! release has shapes of events that no golden log has, or has left none yet; none is ever written again.
//!
//! ```text
//! testdata/logs/VERSION-NUMBER/log.txt     a record a line, in hexadecimal
//! testdata/logs/VERSION-NUMBER/state.txt   digests on the way, then State as its feature level has it
//! ```

use crate::command::{Caller, Command, Joining, What};
use crate::event::Event;
use crate::ids::{NodeId, SecretHash, TaskKey};
use crate::level::FeatureLevel;
use crate::lost;
use crate::state::{History, Sections, State};
use crate::testing::{
    Cluster, conversion, create_disk, executor, group, master, operation, provider, reserved, stored, task_info, volume,
};
use crate::{decode_record, fold_record, invariants};
use api::internal::{AgentProof, ExecutorExited, FromAgent, NextIdentity, from_agent::Message};
use api::resources::Reservation;
use api::v1::{self, TaskState, scheduler::call::Type};
use event_log::{Gate, Record};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn logs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/logs")
}

/// The golden logs, by the releases that left them.
fn golden() -> Vec<PathBuf> {
    let entries = fs::read_dir(logs()).into_iter().flatten();
    let mut dirs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    dirs
}

fn read(dir: &Path) -> Vec<Record> {
    let text = fs::read_to_string(dir.join("log.txt")).unwrap();
    let bytes = |line: &str| -> Vec<u8> {
        (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect()
    };
    let record = |line: &str| {
        let bytes = bytes(line);
        let record = Record::decode(&bytes).unwrap();
        assert_eq!(record.encode(), bytes, "a record is encoded as it was");
        record
    };
    text.lines().map(record).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// State as text.
struct Text(String);

impl Sections for Text {
    fn section(&mut self, name: &'static str) -> io::Result<()> {
        writeln!(self.0, "\n# {name}").map_err(io::Error::other)
    }

    fn entry<T: Serialize>(&mut self, entry: &T) -> io::Result<()> {
        let entry = ron::to_string(entry).map_err(io::Error::other)?;
        writeln!(self.0, "{entry}").map_err(io::Error::other)
    }
}

/// Folds all of it: the last State, and the text that says what it was on the way.
fn fold_all(records: &[Record]) -> (State, String) {
    let (mut state, mut gate) = (State::default(), Gate::default());
    let mut text = Text("# digest after each record\n".into());
    for record in records {
        assert!(gate.admit(record.header.term, &record.header), "{:?}", record.header);
        let events = decode_record(record).unwrap();
        for (event, raw) in events.iter().zip(&record.events) {
            let stored = event.encode_at(FeatureLevel(record.header.feature_level));
            let same = stored.as_ref().map(|(number, version, payload)| (*number, *version, payload));
            assert_eq!(same, Some((raw.number, raw.version, &raw.payload)), "{event}");
        }
        fold_record(&mut state, &record.header, &events);
        writeln!(text.0, "{}", hex(&state.digest())).unwrap();
    }
    state.visit(&mut text).unwrap();
    (state, text.0)
}

fn shapes(records: &[Record]) -> BTreeSet<(u16, u16)> {
    records.iter().flat_map(|record| &record.events).map(|event| (event.number, event.version)).collect()
}

/// What is written today, and is not in these records.
fn untold(records: &[Record]) -> Vec<&'static str> {
    let told = shapes(records);
    let untold = Event::SHAPES.iter().filter(|shape| !told.contains(&(shape.number, shape.version)));
    untold.map(|shape| shape.name).collect()
}

fn missing() -> Vec<String> {
    let known: BTreeSet<_> = golden().iter().flat_map(|dir| shapes(&read(dir))).collect();
    let missing = Event::SHAPES.iter().filter(|shape| !known.contains(&(shape.number, shape.version)));
    missing.map(|shape| format!("{} version {}", shape.name, shape.version)).collect()
}

/// Something of everything.
fn story() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.start_master(master(2, 1));
    let first = cluster.subscribe_with(|info| info.failover_timeout = Some(100.0));
    cluster.agent("cpus:8;mem:1000;disk:500;ports:[100-200]");
    lives(&mut cluster, first);
    let second = cluster.agent("cpus:2;mem:100");

    let masters = [1, 2].map(|node| (NodeId(node), FeatureLevel::NEWEST)).to_vec();
    let raise = Command::RaiseFeatureLevel { level: FeatureLevel::NEWEST, digest_every: 10, masters };
    cluster.run(raise, &Caller::default()).unwrap();
    cluster.start_master(master(2, 2));
    let digest = cluster.state.digest();
    cluster.run(Command::LogDigest { index: 40, digest, by: NodeId(1) }, &Caller::default()).unwrap();
    cluster.lead(2, 7, "C");
    cluster.lose_master(1);

    let third = cluster.subscribe_as_partition_aware();
    cluster.at_ms += 10_000;
    cluster.resume(second, &[]).unwrap();
    cluster.resume(crate::ids::AgentKey(0), &[]).unwrap();
    let offers = cluster.offer();
    cluster.accept(third, &offers[..1], vec![operation(vec![task_info("t", "cpus:1;mem:1")])]);
    cluster.agent_unreachable(second);
    cluster.mark_gone(second);

    ends_in_steps(&mut cluster);
    drains_and_maintenance(&mut cluster);
    roles_are_configured(&mut cluster);

    let zone = br#"{"role_constraints":{"web":{"groups":[{"attribute_constraints":[{"selector":
        {"attribute_name":"zone"},"predicate":{"not_exists":{}}}]}]}}}"#;
    cluster.constrain(third, Some(api::json::from_slice(zone).unwrap())).unwrap();
    converts(&mut cluster);

    let brake = |release, why: &str| Command::Brake { what: What::Allocation, release, why: why.into() };
    cluster.run(brake(false, "a try"), &Caller::default()).unwrap();
    cluster.run(brake(true, ""), &Caller::default()).unwrap();

    joins(&mut cluster);
    provides(&mut cluster);

    // Something is under way at the end.
    cluster.at_ms += 10_000;
    let task = cluster.launch(third, "live", "cpus:1;mem:1");
    cluster.update(&task, TaskState::TaskRunning);
    cluster.at_ms += 10_000;
    cluster.offer();
    cluster
}

/// Agents that join by tokens, and one that comes as a principal.
fn joins(cluster: &mut Cluster) {
    cluster.chosen.agent_identities = true;
    let hash = |of: u8| SecretHash([of; 32]);
    let bytes = |of: u8| bytes::Bytes::from(vec![of; 32]);
    let want = |cluster: &mut Cluster, wanted| cluster.run(Command::Join(wanted), &Caller::default()).unwrap();
    let mint = |of, life_ms| {
        let (principal, note) = ("rack1".into(), "a try".into());
        Joining::Mint { hash: hash(of), principal, agent_id: None, uses: 2, life_ms, note }
    };
    want(cluster, mint(1, 1000));
    want(cluster, mint(2, 1000));
    let proof = |token: Option<u8>| AgentProof { join_token: token.map(bytes), identities: vec![bytes(11)] };
    cluster.proof = Some(proof(Some(1)));
    let first = cluster.agent_at("10.9.1.1:5051", "cpus:1;mem:100");
    cluster.agent_disconnected(first);
    cluster.proof = Some(proof(None));
    let agent = cluster.agent_at("10.9.1.1:5051", "cpus:1;mem:100");
    let agent_id = crate::view::agent_id(&cluster.state, agent);
    want(cluster, Joining::Rotate { agent_id: agent_id.clone() });
    let next = Message::NextIdentity(NextIdentity { hash: bytes(12) });
    cluster.agent_says(agent, vec![FromAgent { seq: None, message: Some(next) }]).unwrap();
    want(cluster, Joining::Revoke { agent_id });
    want(cluster, Joining::RevokeToken { token: 1 });
    cluster.proof = None;
    let rack2 = Caller { principal: Some("rack2".into()), ..Caller::default() };
    let bound = cluster.try_agent_as(&rack2, "cpus:1;mem:100").unwrap();
    let agent_id = crate::view::agent_id(&cluster.state, bound);
    want(cluster, Joining::Release { agent_id });
    cluster.at_ms += 10_000;
    cluster.forget();
    cluster.mark_gone(bound);
    cluster.chosen.agent_identities = false;
}

/// A provider comes, makes a disk, and goes.
fn provides(cluster: &mut Cluster) {
    use v1::resource::disk_info::source::Type::{Mount, Raw};
    cluster.at_ms += 10_000;
    let framework = cluster.subscribe_with(|info| info.roles = vec!["disks".into()]);
    let agent = cluster.agent("cpus:1;mem:100");
    let raw = stored("p", 100, Raw, |source| source.profile = Some("fast".into()));
    cluster.tell_providers(agent, vec![provider("p", 1, Some(&raw)), provider("q", 1, None)]);
    cluster.offer();
    let here =
        |offer: &crate::ids::OfferKey| cluster.state.offers.get(*offer).is_some_and(|offer| offer.agent == agent);
    let offers: Vec<_> = cluster.state.offers.to(framework).filter(here).collect();
    let part = stored("p", 40, Raw, |source| source.profile = Some("fast".into()));
    cluster.accept(framework, &offers, vec![create_disk(&part, None, Some("disk"))]);
    let made = stored("p", 40, Mount, |source| {
        source.profile = Some("fast".into());
        source.id = Some("v1".into());
    });
    cluster.end_operation_with(agent, v1::OperationState::OperationFinished, &made);
    cluster.acknowledge_operation(framework);
    // Something of each is under way at the end.
    cluster.at_ms += 10_000;
    cluster.offer();
    let here =
        |offer: &crate::ids::OfferKey| cluster.state.offers.get(*offer).is_some_and(|offer| offer.agent == agent);
    let offers: Vec<_> = cluster.state.offers.to(framework).filter(here).collect();
    let (dynamic, labels) = (true, Vec::new());
    let mut reserved = stored("p", 10, Raw, |source| source.profile = Some("fast".into()));
    reserved = reserved.push_reservation(&Reservation { dynamic, role: "disks".into(), principal: None, labels });
    let operations =
        vec![create_disk(&part, None, None), conversion(v1::offer::operation::Type::Reserve, &reserved, None)];
    cluster.accept(framework, &offers, operations);
    cluster.tell_providers(agent, vec![provider("p", 1, None)]);
}

/// Every event of an operation on resources.
fn converts(cluster: &mut Cluster) {
    use v1::offer::operation::Type::{Create, Reserve};
    cluster.at_ms += 10_000;
    let framework = cluster.subscribe_with(|info| info.roles = vec!["volumes".into()]);
    let agent = cluster.agent("cpus:1;mem:100;disk:100");
    cluster.offer();
    let here =
        |offer: &crate::ids::OfferKey| cluster.state.offers.get(*offer).is_some_and(|offer| offer.agent == agent);
    let offers: Vec<_> = cluster.state.offers.to(framework).filter(here).collect();
    let disk = reserved("disk:60", &["volumes"]);
    let operations = vec![
        conversion(Reserve, &disk, Some("reserve")),
        conversion(Create, &volume(&disk, "v", false), Some("create")),
        conversion(Create, &volume(&disk, "v", false), Some("again")),
        conversion(Reserve, &reserved("cpus:1", &["volumes"]), None),
    ];
    cluster.accept(framework, &offers, operations);
    for _ in 0..3 {
        cluster.end_operation(agent, v1::OperationState::OperationFinished);
    }
    cluster.acknowledge_operation(framework);
    cluster.mark_gone(agent);
    cluster.run(Command::RemoveFramework { framework }, &Caller::default()).unwrap();
}

/// What is too large for one record, which is hardly anything here; and what is forgotten.
fn ends_in_steps(cluster: &mut Cluster) {
    let usual = std::mem::take(&mut cluster.chosen);
    cluster.chosen = lost::Options { step_events: 1, history: History { frameworks: 40, tasks: 500 }, ..usual.clone() };
    cluster.at_ms += 10_000;
    let framework = cluster.subscribe_with(|info| info.failover_timeout = Some(100.0));
    let agent = cluster.agent("cpus:3;mem:30");
    let mut offers = cluster.offer();
    offers.retain(|offer| cluster.state.offers.get(*offer).is_some_and(|offer| offer.agent == agent));
    let owner = cluster.state.offers.get(offers[0]).unwrap().framework;
    let agent_id = v1::AgentId { value: crate::view::agent_id(&cluster.state, agent) };
    let task = |id: &str| v1::TaskInfo { agent_id: agent_id.clone(), ..task_info(id, "cpus:1;mem:1") };
    cluster.accept(owner, &offers[..1], vec![operation(vec![task("x"), task("y"), task("z")])]);
    cluster.acknowledge_orders(agent, 3);
    cluster.agent_unreachable(agent);
    cluster.at_ms += 10_000;
    cluster.forget();
    let alive = ["x", "y", "z"].map(|id| api::internal::LiveTask {
        framework_id: v1::FrameworkId { value: crate::view::framework_id(&cluster.state, owner) },
        task_id: v1::TaskId { value: id.into() },
    });
    cluster.resume_with(agent, |resume| resume.tasks = alive.to_vec()).unwrap();
    cluster.deadline_passed();
    cluster.mark_gone(agent);
    cluster.deadline_passed();
    let agent = cluster.agent("cpus:3;mem:30");
    cluster.at_ms += 10_000;
    let mut offers = cluster.offer();
    offers.retain(|offer| cluster.state.offers.get(*offer).is_some_and(|offer| offer.agent == agent));
    let owner = cluster.state.offers.get(offers[0]).unwrap().framework;
    let agent_id = v1::AgentId { value: crate::view::agent_id(&cluster.state, agent) };
    let task = |id: &str| v1::TaskInfo { agent_id: agent_id.clone(), ..task_info(id, "cpus:1;mem:1") };
    cluster.accept(owner, &offers[..1], vec![operation(vec![task("x"), task("y")])]);
    if owner == framework {
        cluster.teardown(framework);
    } else {
        cluster.run(Command::RemoveFramework { framework: owner }, &Caller::default()).unwrap();
    }
    cluster.deadline_passed();
    cluster.mark_gone(agent);
    cluster.chosen = usual;
}

/// Agents that are to be empty, and machines that are to be away.
fn drains_and_maintenance(cluster: &mut Cluster) {
    let agent = cluster.agent_at("10.9.0.1:5051", "cpus:3;mem:30");
    let no_drains = |resume: &mut api::internal::Resume| resume.capabilities = vec!["MULTI_ROLE".into()];
    cluster.resume_with(agent, no_drains).unwrap();
    cluster.agent_unreachable(agent);
    cluster.drain(agent).unwrap();
    cluster.resume_with(agent, |resume| resume.capabilities.push("AGENT_DRAINING".into())).unwrap();
    cluster.reactivate(agent).unwrap();
    cluster.oversubscribe(agent, "cpus:1");
    cluster.at_ms += 10_000;
    cluster.schedule(&[("host", "10.9.0.1")], 5_000_000_000).unwrap();
    cluster.offer();
    let (key, asked) = cluster.state.maintenance.inverse_offers.get_min().cloned().unwrap();
    cluster.answer_inverse(asked.framework, &[key], true, Some(1.0));
    cluster.at_ms += 10_000;
    cluster.offer();
    cluster.schedule(&[("host", "10.9.0.1")], 6_000_000_000).unwrap();
    cluster.machines_down(&[("host", "10.9.0.1")]).unwrap();
    cluster.machines_up(&[("host", "10.9.0.1")]).unwrap();
}

/// Quota and weights, which take offers back.
fn roles_are_configured(cluster: &mut Cluster) {
    let of = |kind: v1::master::call::Type| v1::master::Call { r#type: Some(kind as i32), ..Default::default() };
    cluster.at_ms += 10_000;
    cluster.offer();
    let scalars = |cpus| [("cpus".into(), v1::value::Scalar { value: cpus })].into();
    let config = |role: &str, least, most| v1::quota::QuotaConfig {
        role: role.into(),
        guarantees: scalars(least),
        limits: scalars(most),
    };
    let quota_configs = vec![config("web", 0.0, 50.0), config("db", 0.5, 1.0)];
    let update_quota = Some(v1::master::call::UpdateQuota { force: Some(true), quota_configs });
    cluster.operator(v1::master::Call { update_quota, ..of(v1::master::call::Type::UpdateQuota) }).unwrap();
    cluster.at_ms += 10_000;
    cluster.offer();
    let weight_infos = vec![v1::WeightInfo { role: Some("web".into()), weight: 2.5 }];
    let update_weights = Some(v1::master::call::UpdateWeights { weight_infos });
    cluster.operator(v1::master::Call { update_weights, ..of(v1::master::call::Type::UpdateWeights) }).unwrap();
}

/// A framework with tasks and executors on agent C-S0, up to its end.
fn lives(cluster: &mut Cluster, framework: crate::ids::FrameworkKey) {
    let agent = crate::ids::AgentKey(0);
    let task: TaskKey = cluster.launch(framework, "one", "cpus:1;mem:10;ports:[100-110]");
    cluster.acknowledge_orders(agent, 1);
    cluster.update(&task, TaskState::TaskRunning);
    cluster.acknowledge(&task);
    cluster.kill(framework, "one");
    cluster.update(&task, TaskState::TaskKilled);
    cluster.acknowledge(&task);

    cluster.at_ms += 10_000;
    let offers = cluster.offer();
    let bad = v1::TaskInfo { resources: Vec::new(), ..task_info("none", "cpus:1") };
    let (bad, group) = (operation(vec![bad]), group(executor("e")));
    cluster.accept(framework, &offers[..1], vec![bad, group]);
    cluster.acknowledge_orders(agent, 3);
    let agent_id = v1::AgentId { value: "C-S0".into() };
    let executor_id = v1::ExecutorId { value: "e".into() };
    let shutdown = v1::scheduler::call::Shutdown { executor_id: executor_id.clone(), agent_id: agent_id.clone() };
    let call = v1::scheduler::Call { shutdown: Some(shutdown), ..cluster.call_of(framework, Type::Shutdown) };
    let stream = cluster.stream_id(framework);
    cluster.try_call(&call, Some(&stream), &Caller::default()).unwrap();
    for id in ["a", "b"] {
        cluster.update(&(framework, id.into()), TaskState::TaskFailed);
    }
    let framework_id = call.framework_id.clone().unwrap();
    let exited = Message::ExecutorExited(ExecutorExited { framework_id, executor_id, status: Some(9) });
    let seq = cluster.state.agents.get(agent).map(|agent| agent.messages_received + 1);
    cluster.agent_says(agent, vec![FromAgent { seq, message: Some(exited) }]).unwrap();

    cluster.at_ms += 10_000;
    let offers = cluster.offer();
    cluster.decline(framework, &offers, Some(60.0));
    cluster.suppress(framework, &["web"]);
    cluster.revive(framework, &["web"]);
    cluster.launch(framework, "two", "cpus:1;mem:10");
    cluster.update_framework(framework, |info| info.name = "another".into()).unwrap();
    let of = |kind: v1::master::call::Type| v1::master::Call { r#type: Some(kind as i32), ..Default::default() };
    cluster.at_ms += 10_000;
    cluster.offer();
    let deactivate = v1::master::call::DeactivateAgent { agent_id: agent_id.clone() };
    let off = of(v1::master::call::Type::DeactivateAgent);
    cluster.operator(v1::master::Call { deactivate_agent: Some(deactivate), ..off }).unwrap();
    let reactivate = v1::master::call::ReactivateAgent { agent_id, ..Default::default() };
    let on = of(v1::master::call::Type::ReactivateAgent);
    cluster.operator(v1::master::Call { reactivate_agent: Some(reactivate), ..on }).unwrap();
    cluster.agent_disconnected(agent);
    cluster.resume(agent, &["two"]).unwrap();
    cluster.disconnect(framework);
    cluster.resubscribe(framework, |info| info.failover_timeout = Some(5.0)).unwrap();
    cluster.teardown(framework);
}

/// Leaves a new golden log if one is needed and it is allowed to (`make bless`).
fn bless() {
    let release = env!("CARGO_PKG_VERSION");
    let of_release = |dir: &PathBuf| {
        let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.rsplit_once('-').is_some_and(|(version, _)| version == release)
    };
    let left = golden().iter().filter(|dir| of_release(dir)).count();
    if env::var_os("UPDATE_EXPECT").is_none() || (left > 0 && missing().is_empty()) {
        return;
    }
    let records = story().log;
    assert_eq!(untold(&records), [""; 0], "the story of golden logs lacks these");
    let dir = logs().join(format!("{release}-{}", left + 1));
    // Not over one that is there, whatever it is.
    fs::create_dir_all(logs()).and_then(|()| fs::create_dir(&dir)).unwrap();
    let lines: String = records.iter().map(|record| hex(&record.encode()) + "\n").collect();
    fs::write(dir.join("log.txt"), lines).unwrap();
    fs::write(dir.join("state.txt"), fold_all(&records).1).unwrap();
}

#[test]
fn golden_logs_fold_to_the_same_state_for_ever() {
    bless();
    for dir in golden() {
        let name = dir.display();
        let (state, text) = fold_all(&read(&dir));
        let expected = fs::read_to_string(dir.join("state.txt")).unwrap();
        assert!(text == expected, "{name} folds to another state than it did:\n{text}");
        assert_eq!(invariants::check(&state), [], "{name}");
        let mut snapshot = Vec::new();
        state.write_snapshot(&mut snapshot).unwrap();
        assert_eq!(State::read_snapshot(&mut snapshot.as_slice()).unwrap(), state, "{name}");
    }
    let release = env!("CARGO_PKG_VERSION");
    assert_eq!(missing(), [""; 0], "no golden log has these: `make bless` leaves a new one");
    let names: Vec<String> = golden().iter().map(|dir| dir.file_name().unwrap().to_string_lossy().into()).collect();
    let left = names.iter().any(|name| name.rsplit_once('-').is_some_and(|(version, _)| version == release));
    assert!(left, "release {release} has left no golden log: `make bless` leaves one");
}

#[test]
fn the_story_of_golden_logs_has_every_shape_that_is_written_today() {
    assert_eq!(untold(&story().log), [""; 0]);
}
