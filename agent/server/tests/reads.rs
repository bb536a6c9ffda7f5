//! Whether reads of an agent have every key that Mesos shows, with the same type of value.

mod common;

use std::collections::BTreeMap;

use api::internal::{self, order};
use api::v1::{self, TaskState, framework_info};
use common::{Master, RealAgent, framework, http, task};
use serde_json::{Value, json};

fn recorded(name: &str) -> Value {
    let path = format!("{}/../../api/testdata/mesos-1.11/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))).unwrap()
}

/// Every path with the type of what is there; all items of a list are one, and so are all of what has ids for names.
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
            let named = |name: &str| if name.starts_with('/') { "PATH".to_owned() } else { name.to_owned() };
            fields.iter().for_each(|(name, field)| shape(field, &format!("{path}.{}", named(name)), shapes));
            "object"
        }
    };
    shapes.insert(path.to_owned(), kind);
}

/// Flags of what this agent does not do, the commit that was built, dynamic reservations and volumes.
const NOT_HERE: [&str; 5] = [".flags.", ".git_", ".disk", ".reservation", ".principal"];

fn check(name: &str, ours: &str) {
    let (theirs, ours): (Value, Value) = (recorded(name), serde_json::from_str(ours).unwrap());
    let (mut wanted, mut shown) = (BTreeMap::new(), BTreeMap::new());
    shape(&theirs, "", &mut wanted);
    shape(&ours, "", &mut shown);
    let wrong: Vec<String> = wanted
        .iter()
        .filter(|(path, kind)| shown.get(*path) != Some(kind))
        .filter(|(path, _)| !NOT_HERE.iter().any(|part| path.contains(part) && !path.ends_with("resources.disk")))
        .map(|(path, kind)| format!("{path}: {kind}, not {:?}", shown.get(path)))
        .collect();
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
}

fn launch(master: &Master, framework_id: &str, role: &str, id: &str, command: &str) {
    let mut task = task(id, command);
    for resource in &mut task.resources {
        resource.allocation_info = Some(v1::resource::AllocationInfo { role: Some(role.into()) });
    }
    let multi_role = framework_info::capability::Type::MultiRole as i32;
    let label = v1::Label { key: "k".into(), value: Some("v".into()) };
    let framework_info = v1::FrameworkInfo {
        id: Some(v1::FrameworkId { value: framework_id.into() }),
        roles: vec!["web".into(), "db".into()],
        failover_timeout: Some(600.0),
        checkpoint: Some(false),
        labels: Some(v1::Labels { labels: vec![label] }),
        capabilities: vec![framework_info::Capability { r#type: Some(multi_role) }],
        ..framework()
    };
    master.order(order::Order::Launch(internal::Launch { framework_info, task, providers: Vec::new() }));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_show_what_mesos_shows() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &["--resources=cpus:2;mem:2000;disk:2000;mem(ops):100"]);
    launch(&master, "C-0000", "web", "sleeper", "sleep 3600");
    launch(&master, "C-0000", "web", "short", "echo hi");
    launch(&master, "C-0000", "web", "failing", "exit 3");
    launch(&master, "C-0001", "db", "g1", "true");
    master.update("sleeper", TaskState::TaskRunning).await;
    master.update("short", TaskState::TaskFinished).await;
    master.update("failing", TaskState::TaskFailed).await;
    master.update("g1", TaskState::TaskFinished).await;
    for (name, path) in [
        ("agent-running-get-state", "/state"),
        ("agent-running-get-state", "/slave(1)/state"),
        ("agent-running-get-containers", "/containers"),
        ("agent-running-get-monitor-statistics", "/monitor/statistics"),
        ("agent-running-get-files-debug", "/files/debug"),
        ("agent-running-get-metrics-snapshot", "/metrics/snapshot"),
        ("agent-get-flags", "/flags"),
        ("agent-files-browse", "/files/browse?path=/frameworks/C-0000/executors/short/runs/latest"),
    ] {
        let (head, body) = http(&agent.address, "GET", path, "", "").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/json"), "{path}: {head}");
        check(name, &body);
    }
    let path = "/frameworks/C-0000/executors/short/runs/latest";
    for (name, call) in [
        ("agent-running-v1-get-state", json!({"type": "GET_STATE"})),
        ("agent-running-v1-get-containers", json!({"type": "GET_CONTAINERS"})),
        ("agent-running-v1-get-executors", json!({"type": "GET_EXECUTORS"})),
        ("agent-running-v1-get-frameworks", json!({"type": "GET_FRAMEWORKS"})),
        ("agent-running-v1-get-tasks", json!({"type": "GET_TASKS"})),
        ("agent-v1-get-agent", json!({"type": "GET_AGENT"})),
        ("agent-v1-list-files", json!({"type": "LIST_FILES", "list_files": {"path": path}})),
    ] {
        let head = "Content-Type: application/json\r\nAccept: application/json\r\n";
        let (head, body) = http(&agent.address, "POST", "/api/v1", head, &call.to_string()).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{call}: {head}");
        check(name, &body);
    }
    master.kill("sleeper");
    master.update("sleeper", TaskState::TaskKilled).await;
}

/// What an agent has beside its state, as masters have it.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_help_and_the_machine() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let logs = dir.path().join("logs");
    let logged = format!("--log_dir={}", logs.display());
    let agent = RealAgent::start(&master.address, dir.path(), &[&logged, "--log_format=json"]);
    master.wait("the agent", |known| known.registers.first().map(drop)).await;
    let status = |head: &str| head.split(' ').nth(1).unwrap().parse::<u16>().unwrap();
    let get = async |path: &str| {
        let (head, body) = http(&agent.address, "GET", path, "", "").await;
        (status(&head), body)
    };
    let call = async |body: Value| {
        let head = "Content-Type: application/json\r\nAccept: application/json\r\n";
        let (head, body) = http(&agent.address, "POST", "/api/v1", head, &body.to_string()).await;
        (status(&head), body)
    };
    assert_eq!(get("/logging/toggle").await, (200, "0\n".to_owned()));
    assert_eq!(get("/slave(1)/logging/toggle?level=1&duration=1hrs").await, (200, String::new()));
    let level = call(json!({"type": "GET_LOGGING_LEVEL"})).await.1;
    assert_eq!(level, r#"{"type":"GET_LOGGING_LEVEL","get_logging_level":{"level":1}}"#);
    let log = std::fs::read_to_string(logs.join("meseta-agent.log")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["message"] == "the level of this log was set" && line["level"] == "INFO"));
    let read = json!({"type": "READ_FILE", "read_file": {"path": "/slave/log", "offset": 0, "length": 1}});
    assert_eq!(call(read).await.0, 200);
    let set = json!({"level": 0, "duration": {"nanoseconds": 0}});
    assert_eq!(call(json!({"type": "SET_LOGGING_LEVEL", "set_logging_level": set})).await.0, 200);
    assert_eq!(call(json!({"type": "SET_LOGGING_LEVEL"})).await.0, 400);
    assert_eq!(get("/logging/toggle").await.1, "0\n");
    let metrics: BTreeMap<String, f64> = serde_json::from_str(&get("/metrics/snapshot").await.1).unwrap();
    let strange: Vec<&String> = metrics.keys().filter(|name| api_http::metrics::find(name).is_none()).collect();
    assert!(strange.is_empty(), "not in the table: {strange:?}");
    let (status, text) = get("/metrics/prometheus").await;
    assert!(status == 200 && text.contains("\nmeseta_agent_memory_bytes 1073741824\n"), "{text}");
    assert!(get("/help?format=json").await.1.contains("slave(1)"));
    assert_eq!(get("/help/slave(1)/state").await.0, 200);
    assert_eq!(get("/profiler/start").await.0, 400);
    assert_eq!(get("/containerizer/debug").await, (200, r#"{"pending":[]}"#.to_owned()));
    assert!(get("/system/stats.json").await.1.contains("mem_total_bytes"));
}
