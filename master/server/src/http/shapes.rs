//! Whether what we show has every key that Mesos shows, with the same type of value.

use super::legacy::{lists, state};
use super::operator::get::{self, Read};
use super::scripted;
use master_core::command::Command;
use master_core::view;
use serde_json::Value;
use std::collections::BTreeMap;

fn recorded(name: &str) -> Value {
    let path = format!("{}/../../api/testdata/mesos-1.11/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&text).unwrap()
}

/// Every path with the type of what is there; all items of a list are one.
fn shape(value: &Value, path: &str, shapes: &mut BTreeMap<String, &'static str>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "double",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(items) => {
            items.iter().for_each(|item| shape(item, &format!("{path}[]"), shapes));
            "array"
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| shape(field, &format!("{path}.{name}"), shapes));
            "object"
        }
    };
    shapes.insert(path.to_owned(), kind);
}

/// What is beneath the names of roles and flags is not a matter of shape, and what we never have is left out: dynamic
/// reservations and volumes on them, frameworks without MULTI_ROLE in the script, second subscriptions, gpus.
const NOT_HERE: &[&str] = &[
    ".flags.",
    ".reservation",
    ".disk.persistence",
    ".disk.volume",
    ".disk",
    ".role",
    ".reregistered_time",
    ".principal",
];

fn check(name: &str, ours: &[u8]) {
    let (theirs, ours): (Value, Value) = (recorded(name), serde_json::from_slice(ours).unwrap());
    let (mut wanted, mut shown) = (BTreeMap::new(), BTreeMap::new());
    shape(&theirs, "", &mut wanted);
    shape(&ours, "", &mut shown);
    let wrong: Vec<_> = wanted
        .iter()
        .filter(|(path, kind)| shown.get(*path) != Some(kind))
        .filter(|(path, _)| {
            let last = &path[path.rfind('.').unwrap_or(0)..];
            !NOT_HERE.iter().any(|part| (part.ends_with('.') && path.contains(part)) || last == *part)
                && !path.contains(".reservations[]")
                && !path.contains(".disk.")
                && !path.contains(".reservation.")
        })
        .map(|(path, kind)| format!("{path}: {kind}, not {:?}", shown.get(path)))
        .collect();
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
}

#[test]
fn version_0_shows_what_mesos_shows() {
    let (cluster, about) = (scripted::busy(), scripted::about());
    check("get-state", &state::state(&cluster.state, &about, None));
    check("get-state-completed", &state::state(&cluster.state, &about, None));
    check("get-state-summary", &state::summary(&cluster.state, &about, None));
    check("get-slaves", &lists::agents(&cluster.state, None, None));
    check("get-frameworks", &lists::frameworks(&cluster.state, None));
    check("get-tasks", &lists::tasks(&cluster.state, &lists::TaskQuery { limit: Some(100), ..Default::default() }));
}

#[test]
fn v1_shows_what_mesos_shows() {
    let cluster = scripted::busy();
    check("v1-get-state", &get::json(&cluster.state, Read::State, None));
    check("v1-get-tasks", &get::json(&cluster.state, Read::Tasks, None));
    check("v1-get-agents", &get::json(&cluster.state, Read::Agents, None));
    check("v1-get-frameworks", &get::json(&cluster.state, Read::Frameworks, None));
    check("master-event-subscribed", &get::subscribed_json(&cluster.state, 15.0, 7, None));
}

#[test]
fn protobuf_has_what_json_has() {
    use prost::Message;
    let cluster = scripted::busy();
    for read in [Read::State, Read::Tasks, Read::Executors, Read::Frameworks, Read::Agents] {
        let bytes = get::message(&cluster.state, read, None).encode_to_vec();
        let message: api::v1::master::Response = api::decode_protobuf(bytes).unwrap();
        let json: api::v1::master::Response = api::json::from_slice(&get::json(&cluster.state, read, None)).unwrap();
        // JSON writes defaults down.
        assert_eq!(api::json::to_value(&message), api::json::to_value(&json), "{read:?}");
    }
}

#[test]
fn empty_lists_are_there() {
    let cluster = scripted::Cluster::new();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert_eq!(
        text(get::json(&cluster.state, Read::Agents, None)),
        r#"{"type":"GET_AGENTS","get_agents":{"agents":[],"recovered_agents":[]}}"#
    );
    assert_eq!(
        text(get::json(&cluster.state, Read::Executors, None)),
        r#"{"type":"GET_EXECUTORS","get_executors":{"executors":[]}}"#
    );
    assert_eq!(text(lists::agents(&cluster.state, Some("nosuch"), None)), r#"{"slaves":[],"recovered_slaves":[]}"#);
    assert_eq!(
        text(lists::frameworks(&cluster.state, Some("nosuch"))),
        r#"{"frameworks":[],"completed_frameworks":[],"unregistered_frameworks":[]}"#
    );
    assert_eq!(text(crate::http::roles::roles_json(&cluster.state, &None, None)), r#"{"roles":[]}"#);
}

/// An agent that was away when a leadership began, and a framework: nobody has seen them since.
#[test]
fn who_has_not_come_back_is_recovered() {
    let mut cluster = scripted::busy();
    let agent = cluster.state.agents.live.values().next().unwrap().clone();
    let connection = agent.connection().unwrap();
    cluster.run(Command::AgentDisconnected { agent_id: view::agent_id(&cluster.state, agent.key), connection });
    let (cluster_id, version) = (cluster.state.cluster_id.to_string(), "0.1.0".into());
    cluster.run(Command::BecomeLeader { leader: cluster.me, term: 2, cluster_id, version });
    let shown: Value = serde_json::from_slice(&get::json(&cluster.state, Read::Agents, None)).unwrap();
    let (agents, recovered) = (&shown["get_agents"]["agents"], &shown["get_agents"]["recovered_agents"]);
    let id = view::agent_id(&cluster.state, agent.key);
    assert!(recovered.as_array().unwrap().iter().any(|one| one["id"]["value"] == *id), "{shown}");
    assert!(!agents.as_array().unwrap().iter().any(|one| one["agent_info"]["id"]["value"] == *id), "{shown}");
    let message = get::message(&cluster.state, Read::Agents, None);
    assert_eq!(message.get_agents.unwrap().recovered_agents.len(), recovered.as_array().unwrap().len());
    let shown: Value = serde_json::from_slice(&lists::agents(&cluster.state, Some(&id), None)).unwrap();
    assert_eq!(shown["slaves"], serde_json::json!([]));
    assert_eq!(shown["recovered_slaves"][0]["id"], *id);
}

/// Client demands 31, 32 and 36.
#[test]
fn clients_find_what_they_need() {
    let (cluster, about) = (scripted::busy(), scripted::about());
    let shown: Value = serde_json::from_slice(&state::state(&cluster.state, &about, None)).unwrap();
    assert_eq!(shown["version"], "1.11.0");
    assert_eq!(shown["leader"], "master@127.0.0.1:5050");
    assert_eq!(shown["leader_info"]["port"], 5050);
    assert_eq!(shown["slaves"][0]["version"], "1.11.0");
    assert_eq!(shown["slaves"][0]["meseta_version"], "0.1.0");
    let agents: Value = serde_json::from_slice(&get::json(&cluster.state, Read::Agents, None)).unwrap();
    assert_eq!(agents["get_agents"]["agents"][0]["version"], "1.11.0");
    assert_eq!(shown["slaves"][0]["pid"], "slave(1)@127.0.0.1:5051");
    assert_eq!(shown["slaves"][0]["resources"]["ports"], "[31000-32000]");
    assert_eq!(shown["slaves"][0]["reserved_resources"]["ops"]["mem"], 100.0);
    let framework = &shown["frameworks"][0];
    assert!(framework.get("pid").is_none());
    assert_eq!(framework["tasks"][0]["id"], "sleeper");
    let status = &framework["tasks"][0]["statuses"][1];
    assert_eq!(status["state"], "TASK_RUNNING");
    let address = &status["container_status"]["network_infos"][0]["ip_addresses"][0]["ip_address"];
    assert_eq!(address, "127.0.0.1");
    assert_eq!(framework["completed_tasks"][0]["id"], "short");
    assert_eq!(shown["completed_frameworks"][0]["completed_tasks"][0]["state"], "TASK_KILLED");
    let version: Value = serde_json::from_slice(&lists::version(&about)).unwrap();
    assert!(version["version"].as_str().unwrap().split('.').all(|part| part.parse::<u32>().is_ok()));
    assert_eq!(version["meseta_version"], env!("CARGO_PKG_VERSION"));
}

/// Client demand 34.
#[test]
fn tasks_are_filtered_and_paged() {
    let cluster = scripted::busy();
    let ids = |query: lists::TaskQuery| -> Vec<String> {
        let shown: Value = serde_json::from_slice(&lists::tasks(&cluster.state, &query)).unwrap();
        shown["tasks"].as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = || lists::TaskQuery::default();
    assert_eq!(ids(all()), ["short", "sleeper", "g1"], "the newest first");
    assert_eq!(ids(lists::TaskQuery { ascending: true, ..all() }), ["g1", "sleeper", "short"]);
    assert_eq!(ids(lists::TaskQuery { offset: 1, limit: Some(1), ..all() }), ["sleeper"]);
    assert_eq!(ids(lists::TaskQuery { task_id: Some("g1".into()), ..all() }), ["g1"]);
    assert!(ids(lists::TaskQuery { framework_id: Some("nosuch".into()), ..all() }).is_empty());
}

#[test]
fn metrics_are_numbers_with_mesos_s_names() {
    use super::metrics::{Counters, Moment, json, snapshot};
    let cluster = scripted::busy();
    let counters = Counters::default();
    for (_, effect) in &cluster.effects {
        if let master_core::Effect::Announce(announcement) = effect {
            counters.count_announcement(announcement);
        }
    }
    let connections = &*api_http::Connections::new(api_http::Bounds::of_files(1024));
    let uptime = std::time::Duration::from_secs(5);
    let (term, opened, work_dir) = (3, uptime, None);
    let (waiting, streams, agents) = (0, 1, 1);
    let moment = Moment {
        elected: true,
        uptime,
        watchers: 2,
        shared: 1,
        connections,
        of_frameworks: true,
        work_dir,
        term,
        opened,
        waiting,
        streams,
        agents,
    };
    let mut metrics = snapshot(&cluster.state, &counters, moment);
    assert!(metrics.keys().any(|name| name.starts_with("master/frameworks/") && name.ends_with("/operations/launch")));
    let allocations = crate::allocations::Allocations::default();
    (1..=2).for_each(|took| allocations.ran(std::time::Duration::from_millis(took), Default::default()));
    metrics.append(&mut allocations.metrics(&cluster.state, &Default::default()));
    for (name, value) in [
        ("master/elected", 1.0),
        ("master/uptime_secs", 5.0),
        ("master/slaves_active", 1.0),
        ("master/frameworks_connected", 1.0),
        ("master/tasks_running", 1.0),
        ("master/tasks_finished", 1.0),
        ("master/cpus_total", 2.0),
        ("master/cpus_used", 0.1),
        ("master/cpus_percent", 0.05),
        ("master/operator_event_stream_subscribers", 2.0),
        ("allocator/mesos/resources/cpus/total", 2.0),
        ("allocator/mesos/allocation_runs", 2.0),
        ("allocator/mesos/allocation_run_ms/p50", 1.5),
    ] {
        assert_eq!(metrics.get(name), Some(&value), "{name}");
    }
    let unknown: Vec<_> = metrics.keys().filter(|name| api_http::metrics::find(name).is_none()).collect();
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");
    let known = recorded("get-metrics-snapshot");
    let known = known.as_object().unwrap();
    let strange: Vec<_> = metrics
        .keys()
        .filter(|name| !name.starts_with("master/frameworks/") && !name.starts_with("master/task_"))
        // Ours.
        .filter(|name| !name.starts_with("master/meseta/"))
        // Of roles by other names.
        .filter(|name| !name.starts_with("allocator/mesos/quota/roles/"))
        .filter(|name| !known.contains_key(*name))
        .collect();
    assert!(strange.is_empty(), "names that Mesos does not have: {strange:?}");
    let text: Value = serde_json::from_slice(&json(&metrics)).unwrap();
    assert!(text.as_object().unwrap().values().all(Value::is_f64));
}
